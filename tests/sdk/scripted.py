"""An upstream with a scripted model, in OpenAI's wire format: chat completions and responses, whole and streamed.

Where functions are offered, the model calls the first one for "Paris", and answers once it has been given the output;
else it answers at once. Run by itself it starts a guard in front of that, runs a command as harness.py does, and
compares the ledger with what was reported: scripted.py COMMAND ARGUMENT...
"""

import contextlib
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from harness import House

SENTENCE = "It is sunny in Paris."
ARGUMENTS = '{"city": "Paris"}'


def pieces(text):
    """The deltas of a text."""
    return [text[at : at + 4] for at in range(0, len(text), 4)]


class Answer:
    """What the model says to a request: a call of a function, or the sentence."""

    def __init__(self, number, ask, is_chat):
        self.number, self.ask = number, ask
        self.id = f"chatcmpl-{number}" if is_chat else f"resp_{number}"
        functions = [tool.get("function", tool)["name"] for tool in ask.get("tools") or [] if tool["type"] == "function"]
        given = ask.get("messages") or ask.get("input")
        last = given[-1] if isinstance(given, list) else {}
        is_answered = last.get("role") == "tool" or last.get("type") == "function_call_output"
        self.function = functions[0] if functions and not is_answered else None
        self.text = ARGUMENTS if self.function else SENTENCE
        self.call = f"call_{number}"
        # Any figures will do, as long as each request has others.
        self.input, self.cached, self.output = 100 + number, 10 + number, 20 + number

    def chat(self, **more):
        kind = "chat.completion.chunk" if self.ask.get("stream") else "chat.completion"
        head = {"id": self.id, "object": kind, "created": 1_795_000_000, "model": self.ask["model"]}
        return head | {"service_tier": "default", "system_fingerprint": "fp_scripted"} | more

    def choice(self, is_end=True, **more):
        finish = ("tool_calls" if self.function else "stop") if is_end else None
        return [{"index": 0, "logprobs": None, "finish_reason": finish} | more]

    def chat_usage(self):
        return {
            "prompt_tokens": self.input,
            "completion_tokens": self.output,
            "total_tokens": self.input + self.output,
            "prompt_tokens_details": {"cached_tokens": self.cached, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    def tool_call(self, arguments):
        return {"id": self.call, "type": "function", "function": {"name": self.function, "arguments": arguments}}

    def completion(self):
        message = {"role": "assistant", "content": self.text, "refusal": None, "annotations": []}
        if self.function:
            message |= {"content": None, "tool_calls": [self.tool_call(self.text)]}
        return self.chat(choices=self.choice(message=message), usage=self.chat_usage())

    def chunks(self):
        first = {"role": "assistant", "content": "", "refusal": None}
        delta = lambda piece: {"content": piece}
        if self.function:
            first |= {"content": None, "tool_calls": [{"index": 0} | self.tool_call("")]}
            delta = lambda piece: {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}
        deltas = [first, *map(delta, pieces(self.text))]
        with_usage = (self.ask.get("stream_options") or {}).get("include_usage")
        more = {"usage": None} if with_usage else {}
        for each in deltas:
            yield None, self.chat(choices=self.choice(is_end=False, delta=each), **more)
        yield None, self.chat(choices=self.choice(delta={}), **more)
        if with_usage:
            yield None, self.chat(choices=[], usage=self.chat_usage())

    def item(self, is_done=True):
        """The one item of a response's output."""
        status = "completed" if is_done else "in_progress"
        if self.function:
            arguments = self.text if is_done else ""
            call = {"id": f"fc_{self.number}", "type": "function_call", "status": status, "call_id": self.call}
            return call | {"name": self.function, "arguments": arguments}
        content = [self.part(self.text)] if is_done else []
        return {"id": f"msg_{self.number}", "type": "message", "status": status, "role": "assistant", "content": content}

    def part(self, text):
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def response(self, is_done=True):
        usage = {
            "input_tokens": self.input,
            "input_tokens_details": {"cached_tokens": self.cached, "cache_write_tokens": 0},
            "output_tokens": self.output,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.input + self.output,
        }
        echoed = ("instructions", "max_output_tokens", "previous_response_id", "temperature", "top_p")
        return {name: self.ask.get(name) for name in echoed} | {
            "id": self.id,
            "object": "response",
            "created_at": 1_795_000_000,
            "status": "completed" if is_done else "in_progress",
            "error": None,
            "incomplete_details": None,
            "model": self.ask["model"],
            "output": [self.item()] if is_done else [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": self.ask.get("tools") or [],
            "metadata": {},
            "service_tier": "default",
            "usage": usage if is_done else None,
        }

    def events(self):
        at = {"item_id": self.item()["id"], "output_index": 0}
        part = at | {"content_index": 0}
        events = [
            ("response.created", {"response": self.response(is_done=False)}),
            ("response.output_item.added", {"output_index": 0, "item": self.item(is_done=False)}),
        ]
        if self.function:
            events += [("response.function_call_arguments.delta", at | {"delta": piece}) for piece in pieces(self.text)]
            events += [("response.function_call_arguments.done", at | {"name": self.function, "arguments": self.text})]
        else:
            events += [("response.content_part.added", part | {"part": self.part("")})]
            text = part | {"logprobs": []}
            events += [("response.output_text.delta", text | {"delta": piece}) for piece in pieces(self.text)]
            events += [("response.output_text.done", text | {"text": self.text})]
            events += [("response.content_part.done", part | {"part": self.part(self.text)})]
        events += [
            ("response.output_item.done", {"output_index": 0, "item": self.item()}),
            ("response.completed", {"response": self.response()}),
        ]
        for number, (kind, event) in enumerate(events):
            yield kind, {"type": kind, "sequence_number": number} | event


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        ask = json.loads(self.rfile.read(int(self.headers["content-length"])))
        is_chat = self.path == "/v1/chat/completions"
        if not is_chat and self.path != "/v1/responses":
            self.reply(404, {"error": {"message": "no", "type": "invalid_request_error", "param": None, "code": None}})
            return
        answer = self.server.upstream.answer(ask, is_chat)
        if ask.get("stream"):
            self.stream(answer.chunks() if is_chat else answer.events(), is_chat)
        else:
            self.reply(200, answer.completion() if is_chat else answer.response())

    def reply(self, status, value):
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def stream(self, events, is_chat):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for kind, event in events:
            name = f"event: {kind}\n" if kind else ""
            self.chunk(f"{name}data: {json.dumps(event)}\n\n")
        if is_chat:
            self.chunk("data: [DONE]\n\n")
        self.chunk("")

    def chunk(self, text):
        data = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def log_message(self, *_):
        pass


class Scripted(House):
    """A guard in front of the scripted model."""

    def start_upstream(self):
        self.answers = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.upstream = self
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.fake = f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *_):
        self.guard_process.terminate()
        self.guard_process.wait(30)
        self.server.shutdown()
        self.folder.cleanup()

    def answer(self, ask, is_chat):
        self.answers.append(Answer(len(self.answers) + 1, ask, is_chat))
        return self.answers[-1]

    def given(self):
        """The messages, or the items, of the last request that arrived."""
        ask = self.answers[-1].ask
        return ask.get("messages") or ask["input"]

    def assert_all_booked(self):
        """Once nothing is held, each answer is in the ledger once, with the usage that it reported."""
        deadline = time.monotonic() + 10
        while float(self.api("GET", "/guard/v1/limits/organization-month")["meters"][0]["held"]):
            assert time.monotonic() < deadline, "requests are still held"
            time.sleep(0.05)
        usage = ("input_tokens", "cached_input_tokens", "output_tokens")
        entries = [e for e in self.api("GET", "/guard/v1/ledger?limit=1000")["data"] if e["kind"] != "threshold"]
        booked = sorted((str(e["object_id"]), e["basis"], *(e["usage"][name] for name in usage)) for e in entries)
        reported = sorted((a.id, "reported", a.input, a.cached, a.output) for a in self.answers)
        assert booked == reported, f"booked {booked}, reported {reported}"

    @contextlib.contextmanager
    def requests(self, count):
        """So many requests arrive."""
        before = len(self.answers)
        yield
        assert len(self.answers) - before == count, len(self.answers) - before

    def stopped(self, text, call):
        """The call fails with a message that has this text, after one request that goes no further."""
        before = self.refusals()
        with self.requests(0):
            try:
                call()
            except Exception as error:
                assert text in str(error), error
            else:
                raise AssertionError("nothing was raised")
        assert self.refusals() - before == 1, self.refusals() - before


if __name__ == "__main__":
    with Scripted() as house:
        failed = house.run(sys.argv[1:])
        house.assert_all_booked()
        sys.exit(failed)
