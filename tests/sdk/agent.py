"""Agents of many turns on 5 USD of prepaid credit, before an upstream whose bill is the oracle's.

They must finish, and what is left of the credit must be what the oracle's bill leaves, to the nano-dollar.
Alone it runs the agents of the official Python package; agent.py COMMAND ARGUMENT... runs another program's.
"""

import json
import os
import sys
import time
import urllib.request
from decimal import Decimal
from pathlib import Path

import openai

from harness import BINARY, House, address, start

UPSTREAM = os.environ.get("ORACLE_UPSTREAM_BIN", str(Path(BINARY).parent / "oracle-upstream"))
CREDIT = Decimal(5)
TURNS = 30
MODEL = "gpt-5-mini"
LOOK = {"name": "look", "description": "Looks at a place.", "parameters": {"type": "object", "properties": {"place": {"type": "string"}}}}
TOOLS = [
    {"type": "function", **LOOK},
    {"type": "web_search"},
    {"type": "code_interpreter", "container": {"type": "auto"}},
]


class Prepaid(House):
    """A guard before the oracle's upstream, whose organization has prepaid."""

    def start_upstream(self):
        self.fake_process, lines = start([], {}, "listening", UPSTREAM)
        self.fake = address(lines, "oracle")

    def furnish(self):
        super().furnish()
        self.api("POST", "/guard/v1/credits", {"amount_usd": str(CREDIT), "note": "for agents"})

    def charges_nano(self):
        """What each request cost by the oracle; an entry is rounded up once."""
        with urllib.request.urlopen(self.fake + "/bill", timeout=20) as answer:
            return [-(-bill["charge_pico"] // 1000) for bill in json.load(answer)]

    def balance(self):
        """What is left of the credit, once nothing is held any more."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if float(self.metric("spendguard_in_doubt_usd")) == 0:
                break
            time.sleep(0.05)
        return Decimal(self.api("GET", "/guard/v1/credits")["balance_usd"])

    def metric(self, name):
        lines = self.api("GET", "/metrics").splitlines()
        return next(line.split()[-1] for line in lines if line.startswith(name + " "))


def streamed(events):
    """The last response of a stream, and the items that were done by then."""
    items = []
    for event in events:
        if event.type == "response.output_item.done":
            items.append(event.item)
    assert event.type == "response.completed", event
    return event.response, items


def continuing(sdk):
    """Each turn continues the answer before by its id; the hosted tools run upstream, the function here."""
    previous, given, called = None, "Look around.", 0
    for turn in range(TURNS):
        ask = {"model": MODEL, "tools": TOOLS, "input": given}
        if previous:
            ask["previous_response_id"] = previous
        if turn % 2:
            answer, items = streamed(sdk.responses.create(**ask, stream=True))
        else:
            answer = sdk.responses.create(**ask)
            items = answer.output
        calls = [item for item in items if item.type == "function_call"]
        called += len(calls)
        outputs = [{"type": "function_call_output", "call_id": call.call_id, "output": "It is sunny."} for call in calls]
        previous, given = answer.id, outputs or "Go on."
    return called


def remembering(sdk):
    """Each turn sends the whole conversation again."""
    messages, called = [{"role": "user", "content": "Look around."}], 0
    for turn in range(TURNS):
        ask = {"model": MODEL, "messages": messages, "tools": [{"type": "function", "function": LOOK}]}
        content, calls = "", {}
        if turn % 2:
            for chunk in sdk.chat.completions.create(**ask, stream=True):
                delta = chunk.choices[0].delta
                content += delta.content or ""
                for part in delta.tool_calls or ():
                    call = calls.setdefault(part.index, {"id": part.id, "name": part.function.name, "arguments": ""})
                    call["arguments"] += part.function.arguments or ""
        else:
            message = sdk.chat.completions.create(**ask).choices[0].message
            content = message.content or ""
            for at, call in enumerate(message.tool_calls or ()):
                calls[at] = {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}
        called += len(calls)
        message = {"role": "assistant", "content": content}
        if calls:
            message["tool_calls"] = [
                {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}
                for call in calls.values()
            ]
        messages.append(message)
        messages += [{"role": "tool", "tool_call_id": call["id"], "content": "It is sunny."} for call in calls.values()]
        if not calls:
            messages.append({"role": "user", "content": "Go on."})
    return called


def python_agents(house):
    sdk = openai.OpenAI(base_url=house.proxy + "/v1", api_key=house.keys["default"], max_retries=0)
    for agent in (continuing, remembering):
        called = agent(sdk)
        assert called > 5, f"{agent.__name__}: the function was called {called} times"
        print(f"ok      {agent.__name__}: {TURNS} turns, {called} calls of the function")
    return 0


def main():
    with Prepaid() as house:
        failed = house.run(sys.argv[1:]) if sys.argv[1:] else python_agents(house)
        if failed:
            sys.exit(failed)
        charges, balance = house.charges_nano(), house.balance()
        assert len(charges) >= 2 * TURNS, charges
        entries = house.api("GET", "/guard/v1/ledger?limit=1000")["data"]
        bases = {entry["basis"] for entry in entries if entry["kind"] == "settle"}
        assert bases == {"reported"}, bases
        left = CREDIT - Decimal(sum(charges)) / 10**9
        assert balance == left, f"{balance} USD of credit are left, by the oracle's bill {left}"
        print(f"{len(charges)} requests cost {CREDIT - left} USD by the oracle's bill; {balance} USD of credit are left")


if __name__ == "__main__":
    main()
