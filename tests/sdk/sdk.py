"""The official Python package, unchanged, against the guard."""

import base64
import hashlib
import json

import openai

from harness import run
from support import ASK, client, entries, fetched, gone, nano, refused, settled


def a_chat_answers_and_its_cost_is_in_the_ledger(house):
    raw = client(house, "default").chat.completions.with_raw_response.create(**ASK)
    answer = raw.parse()
    assert answer.choices[0].message.content
    entry = house.api("GET", "/guard/v1/ledger?limit=1")["data"][0]
    assert entry["cost_usd"] == raw.headers["x-spendguard-cost-usd"], entry
    assert entry["usage"]["input_tokens"] == answer.usage.prompt_tokens
    assert entry["object_id"] == answer.id


def a_stream_without_usage_has_only_chunks_with_choices(house):
    chunks = list(client(house, "default").chat.completions.create(**ASK, stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    whole = client(house, "default").chat.completions.create(**ASK)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.choices[0].message.content


def a_stream_that_asks_for_usage_gets_it(house):
    options = {"include_usage": True}
    chunks = list(client(house, "default").chat.completions.create(**ASK, stream=True, stream_options=options))
    assert chunks[-1].usage.completion_tokens == 20 and not chunks[-1].choices


def responses_answer_whole_and_streamed(house):
    answer = client(house, "default").responses.create(model="gpt-5", input="hello")
    events = list(client(house, "default").responses.create(model="gpt-5", input="hello", stream=True))
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == answer.output_text


def a_stream_that_asks_for_its_cost_gets_what_is_booked(house):
    sdk, asked = client(house, "default"), {"x-spendguard-cost": "true"}
    response = lambda **options: list(sdk.responses.create(model="gpt-5", input="hello", stream=True, **options))
    chat = lambda **options: list(
        sdk.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True}, **options)
    )
    for usage in (lambda **options: response(**options)[-1].response.usage, lambda **options: chat(**options)[-1].usage):
        cost = usage(extra_headers=asked).cost
        entry = house.api("GET", "/guard/v1/ledger?limit=1")["data"][0]
        assert nano(cost) == nano(entry["cost_usd"]) > 0 and entry["stream"], (cost, entry)
        assert not hasattr(usage(), "cost")


def the_stream_helpers_gather_what_was_said(house):
    sdk = client(house, "default")
    with sdk.responses.stream(model="gpt-5", input="hello") as stream:
        said = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        assert stream.get_final_response().output_text == said != ""
    with sdk.chat.completions.stream(**ASK) as stream:
        said = "".join(event.delta for event in stream if event.type == "content.delta")
        assert stream.get_final_completion().choices[0].message.content == said != ""


def embeddings_models_and_moderations_answer(house):
    sdk = client(house, "default")
    assert sdk.embeddings.create(model="text-embedding-3-small", input="x").data[0].embedding
    assert len(sdk.models.list().data) == 3
    assert sdk.moderations.create(input="x").results[0].flagged is False


def decisions_are_charged_for_their_input_alone(house):
    questions = [{"type": "predicate", "name": "cat", "instructions": "It is a cat."}]
    sdk = client(house, "default")
    raw = sdk.decisions.with_raw_response.create(model="gpt-6-luna", input="It purrs.", questions=questions)
    decision = raw.parse()
    assert decision.answers[0].type == "predicate" and 0 <= decision.answers[0].probability <= 1
    entry = house.api("GET", "/guard/v1/ledger?limit=1")["data"][0]
    assert (entry["endpoint"], entry["service_tier"], entry["basis"]) == ("/v1/decisions", "decisions", "reported"), entry
    # 0.1, 0.01 and 0 dollars a million.
    usage, cached = decision.usage, decision.usage.input_tokens_details.cached_tokens
    assert nano(entry["cost_usd"]) == (usage.input_tokens - cached) * 100 + cached * 10 and usage.output_tokens > 0, entry
    assert entry["cost_usd"] == raw.headers["x-spendguard-cost-usd"]


def images_are_made_and_edited(house):
    sdk = client(house, "default")
    made = sdk.images.generate(model="gpt-image-2", prompt="a cat", n=2, quality="low")
    assert len(made.data) == 2 and made.usage.output_tokens == 544
    events = list(sdk.images.generate(model="gpt-image-2", prompt="a cat", stream=True, partial_images=2))
    assert [event.type.split(".")[1] for event in events] == ["partial_image", "partial_image", "completed"]
    picture = ("cat.png", base64.b64decode(made.data[0].b64_json), "image/png")
    raw = sdk.images.with_raw_response.edit(model="gpt-image-2", prompt="a hat", image=[picture, picture], mask=picture)
    assert raw.parse().usage.input_tokens_details.image_tokens == 300
    entry = house.api("GET", "/guard/v1/ledger?limit=1")["data"][0]
    assert entry["cost_usd"] == raw.headers["x-spendguard-cost-usd"] and entry["usage"]["images"] == 1, entry
    assert sdk.images.edit(model="gpt-image-2", prompt="a hat", image=picture).data


def a_text_is_spoken_and_a_recording_written_down(house):
    sdk = client(house, "default")
    ask = dict(model="gpt-4o-mini-tts", voice="alloy", input="To be, or not to be.")
    with sdk.audio.speech.with_streaming_response.create(response_format="wav", **ask) as spoken:
        sound = b"".join(spoken.iter_bytes())
    assert sound.startswith(b"RIFF") and len(sound) == 44 + 20 * 60 * 48
    file = ("spoken.wav", sound, "audio/wav")
    heard = sdk.audio.transcriptions.with_raw_response.create(model="gpt-4o-transcribe", file=file, prompt="Hamlet")
    assert heard.parse().text.startswith("To be") and heard.parse().usage.input_token_details.audio_tokens == 20
    entry = house.api("GET", "/guard/v1/ledger?limit=1")["data"][0]
    assert entry["cost_usd"] == heard.headers["x-spendguard-cost-usd"] and entry["usage"]["audio_seconds"] == 2, entry
    events = list(sdk.audio.transcriptions.create(model="gpt-4o-transcribe", file=file, stream=True))
    assert events[0].type == "transcript.text.delta" and events[-1].usage.output_tokens == 12
    whole = sdk.audio.transcriptions.create(model="whisper-1", file=file, response_format="verbose_json")
    assert whole.usage.seconds == 2 and whole.segments[0].end == 2
    assert "-->" in sdk.audio.transcriptions.create(model="whisper-1", file=file, response_format="srt")
    assert sdk.audio.translations.create(model="whisper-1", file=file).text


def a_background_response_is_polled_streamed_and_cancelled(house):
    sdk = client(house, "default")
    ask = dict(model="gpt-5", input="hello", background=True, max_output_tokens=100)
    polled = begun = sdk.responses.create(**ask)
    assert begun.status == "queued" and begun.usage is None
    while polled.status in ("queued", "in_progress"):
        assert not entries(house, begun.id)
        polled = sdk.responses.retrieve(begun.id)
    assert polled.status == "completed" and polled.output_text
    (entry,) = entries(house, begun.id)
    assert entry["basis"] == "reported" and entry["usage"]["input_tokens"] == polled.usage.input_tokens, entry

    first = []
    with sdk.responses.create(**ask, stream=True, extra_headers={"x-fake-chunk-delay-ms": "20"}) as stream:
        for event in stream:
            first.append(event)
            if event.type == "response.output_text.delta":
                break
    id, seen = first[0].response.id, first[-1].sequence_number
    rest = list(sdk.responses.retrieve(id, stream=True, starting_after=seen))
    numbers = [event.sequence_number for event in first + rest]
    assert numbers == list(range(len(numbers))) and rest[-1].type == "response.completed", numbers
    text = "".join(event.delta for event in first + rest if event.type == "response.output_text.delta")
    assert text == rest[-1].response.output_text == sdk.responses.retrieve(id).output_text
    (entry,) = entries(house, id)
    assert entry["usage"]["output_tokens"] == rest[-1].response.usage.output_tokens, entry

    lasting = sdk.responses.create(**ask, extra_headers={"x-fake-background-reads": "1000000"})
    assert sdk.responses.retrieve(lasting.id).status == "in_progress"
    assert sdk.responses.cancel(lasting.id).status == "cancelled"
    assert [entry["basis"] for entry in entries(house, lasting.id)] == ["assumed"]


def digests(house):
    """SHA-256 of each file that upstream has."""
    return {file["id"]: file["sha256"] for file in fetched(house.fake + "/__files")}


def files_are_sent_listed_read_and_deleted(house):
    sdk = client(house, "default")
    content = b"\r\n--\r\n" + bytes(range(256)) * 20_000
    expiry = {"anchor": "created_at", "seconds": 7_200}
    file = sdk.files.create(file=("note.bin", content), purpose="user_data", expires_after=expiry)
    assert (file.bytes, file.filename) == (len(content), "note.bin") and file.expires_at - file.created_at == 7_200
    assert digests(house)[file.id] == hashlib.sha256(content).hexdigest()
    assert sdk.files.retrieve(file.id) == file and sdk.files.content(file.id).read() == content
    other = sdk.files.create(file=("other.txt", b"text"), purpose="assistants")
    assert {file.id, other.id} <= {listed.id for listed in sdk.files.list(limit=1)}
    assert other.id not in {listed.id for listed in sdk.files.list(purpose="user_data")}
    assert sdk.files.delete(file.id).deleted
    gone(lambda: sdk.files.retrieve(file.id))


def batch_lines(count):
    body = {"model": "gpt-6.1-sol", "messages": ASK["messages"], "max_completion_tokens": 50}
    line = lambda at: {"custom_id": f"r{at}", "method": "POST", "url": "/v1/chat/completions", "body": body}
    return "".join(json.dumps(line(at)) + "\n" for at in range(count)).encode()


def a_batch_of(house, file, **headers):
    sdk = client(house, "default")
    ask = dict(input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h", metadata={"team": "search"})
    headers = {f"x-fake-batch-{name}": value for name, value in headers.items()}
    batch = sdk.batches.create(**ask, extra_headers=headers)
    assert batch.status == "validating" and batch.metadata == {"team": "search"}
    return batch


def a_batch_is_made_read_listed_and_cancelled(house):
    sdk, before = client(house, "default"), settled(house)
    file = sdk.files.create(file=("in.jsonl", batch_lines(4)), purpose="batch")
    batch, statuses = a_batch_of(house, file.id), []
    while batch.status != "completed":
        batch = sdk.batches.retrieve(batch.id)
        statuses.append(batch.status)
    assert statuses == ["in_progress", "finalizing", "completed"] and batch.request_counts.completed == 4
    answers = [json.loads(line) for line in sdk.files.content(batch.output_file_id).text.splitlines()]
    assert {answer["custom_id"] for answer in answers} == {"r0", "r1", "r2", "r3"}
    usage = batch.usage
    assert usage.output_tokens == sum(answer["response"]["body"]["usage"]["completion_tokens"] for answer in answers)
    # 1, 0.05 and 5 dollars a million.
    cached = usage.input_tokens_details.cached_tokens
    cost = (usage.input_tokens - cached) * 1_000 + cached * 50 + usage.output_tokens * 5_000
    assert settled(house) - before == cost, (settled(house) - before, cost)
    assert sdk.files.retrieve(batch.output_file_id).purpose == "batch_output"
    lasting = a_batch_of(house, file.id, reads="1000000")
    assert [listed.id for listed in sdk.batches.list(limit=1)][:2] == [lasting.id, batch.id]
    assert sdk.batches.cancel(lasting.id).status == "cancelling"
    assert sdk.batches.retrieve(lasting.id).status == "cancelled"
    assert settled(house) - before == cost


def a_file_that_is_sent_in_parts_becomes_a_batch(house):
    sdk, lines = client(house, "default"), batch_lines(40)
    sent = dict(bytes=len(lines), mime_type="application/jsonl", purpose="batch", part_size=1_000)
    upload = sdk.uploads.upload_file_chunked(file=lines, filename="in.jsonl", md5=hashlib.md5(lines).hexdigest(), **sent)
    assert upload.status == "completed" and upload.file.bytes == len(lines)
    assert digests(house)[upload.file.id] == hashlib.sha256(lines).hexdigest()
    batch = a_batch_of(house, upload.file.id, reads="0")
    assert sdk.batches.retrieve(batch.id).request_counts.completed == 40


def a_batch_beyond_a_limit_is_refused_once(house):
    def make(key):
        sdk = client(house, key)
        file = sdk.files.create(file=("in.jsonl", batch_lines(1)), purpose="batch")
        return sdk.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")

    refused(house, openai.RateLimitError, "project_spend_limit_exceeded", 1, lambda: make("empty"))
    refused(house, openai.BadRequestError, "request_cost_exceeds_limit", 1, lambda: make("small"))


def a_key_sees_what_it_has_used_by_day_and_model(house):
    made = house.make_key(name="user")
    key, sdk = made["value"], client(house, made["value"])
    usage = lambda query="": fetched(f"{house.proxy}/v1/spendguard/usage{query}", key)
    assert (usage()["requests"], usage()["cost_usd"], usage()["data"]) == (0, "0", [])
    chats = [sdk.chat.completions.create(**ASK) for _ in range(2)]
    sdk.embeddings.create(model="text-embedding-3-small", input="x")
    used, booked = usage(), house.api("GET", f"/guard/v1/ledger?key_id={made['id']}")["data"]
    assert used["object"] == "guard.usage" and used["key"] == {"id": made["id"], "name": "user", "project_id": "default"}
    assert used["requests"] == len(booked) == 3, used
    assert nano(used["cost_usd"]) == sum(nano(entry["cost_usd"]) for entry in booked) > 0, used
    by_model = {row["model"]: row for row in used["data"]}
    assert set(by_model) == {ASK["model"], "text-embedding-3-small"} and by_model[ASK["model"]]["requests"] == 2, used
    assert by_model[ASK["model"]]["usage"]["output_tokens"] == sum(chat.usage.completion_tokens for chat in chats)
    assert usage("?since=2026-01-01&until=2026-02-01")["requests"] == 0
    # The packages can ask for it as well, and each key sees only its own.
    assert sdk.get("/spendguard/usage", cast_to=object)["requests"] == 3
    other = house.make_key(name="other")["value"]
    assert fetched(f"{house.proxy}/v1/spendguard/usage", other)["requests"] == 0


def a_hard_limit_is_one_rate_limit_error_and_one_request(house):
    ask = lambda: client(house, "empty").chat.completions.create(**ASK)
    error = refused(house, openai.RateLimitError, "project_spend_limit_exceeded", 1, ask)
    assert error.type == "insufficient_quota" and error.request_id


def a_blown_fuse_and_a_kill_switch_are_one_rate_limit_error_and_one_request_each(house):
    key = house.blown()
    ask = lambda: client(house, key["value"]).chat.completions.create(**ASK)
    error = refused(house, openai.RateLimitError, "fuse_blown", 1, ask)
    assert error.type == "insufficient_quota" and "runaway" in error.message, error
    house.api("POST", "/guard/v1/fuses/runaway/reset", {"subject": key["id"]})
    house.api("PUT", f"/guard/v1/kill-switches/{key['id']}", {"note": "a test"})
    refused(house, openai.RateLimitError, "kill_switch", 1, ask)
    house.api("DELETE", f"/guard/v1/kill-switches/{key['id']}")
    assert ask().choices


def a_request_too_large_for_any_budget_is_a_bad_request(house):
    ask = lambda: client(house, "small").chat.completions.create(**ASK)
    refused(house, openai.BadRequestError, "request_cost_exceeds_limit", 1, ask)


def an_unknown_key_is_an_authentication_error(house):
    ask = lambda: client(house, "sk-guard-nobodys-key-at-all").chat.completions.create(**ASK)
    refused(house, openai.AuthenticationError, "invalid_api_key", 1, ask)


def what_is_not_allowed_is_a_permission_error(house):
    ask = lambda: client(house, "narrow").chat.completions.create(**ASK)
    refused(house, openai.PermissionDeniedError, "model_not_found", 1, ask)
    film = lambda: client(house, "default").videos.create(model="sora-2", prompt="x")
    refused(house, openai.PermissionDeniedError, "endpoint_not_allowed", 1, film)


def a_revoked_key_is_refused_at_once(house):
    key = house.make_key(name="short-lived")
    assert client(house, key["value"]).models.list().data
    house.api("DELETE", f"/guard/v1/keys/{key['id']}")
    refused(house, openai.AuthenticationError, "invalid_api_key", 1, lambda: client(house, key["value"]).models.list())


def upstreams_own_errors_pass_through(house):
    ask = lambda: client(house, "default").with_options(max_retries=0).chat.completions.create(
        **ASK, extra_headers={"x-fake-status": "500"}
    )
    refused(house, openai.InternalServerError, "injected", 0, ask)


def azures_client_is_served_by_its_deployment(house):
    azure = openai.AzureOpenAI(azure_endpoint=house.proxy, api_key=house.keys["default"], api_version="2024-10-21")
    assert azure.chat.completions.create(**ASK).choices[0].message.content
    named = openai.AzureOpenAI(
        azure_endpoint=house.proxy, azure_deployment="gpt-4o-mini", api_key=house.keys["default"], api_version="2024-10-21"
    )
    assert named.chat.completions.create(**ASK).choices
    assert azure.responses.create(model="gpt-5", input="hello").output_text


# Of the connection, of the key, and of what the guard writes into a body.
NOT_COMPARED = {"authorization", "accept-encoding", "connection", "content-length", "host"}


def arrives(house, base_url, key, call):
    """The last request that the fake was asked when `call` is made there."""
    sdk = openai.OpenAI(base_url=base_url, api_key=key, max_retries=0, default_headers={"x-client-request-id": "1"})
    try:
        for _ in call(sdk) or ():
            pass
    except (openai.NotFoundError, TypeError):
        pass  # The fake has no such object, or the answer is no list.
    last = fetched(house.fake + "/__last")
    headers = {name: value for name, value in last["headers"].items() if name not in NOT_COMPARED}
    return last["method"], last["uri"], headers


def requests_arrive_as_they_would_directly(house):
    metadata = {"team": "search"}
    calls = [
        lambda sdk: sdk.chat.completions.create(**ASK),
        lambda sdk: sdk.chat.completions.create(**ASK, stream=True),
        lambda sdk: sdk.chat.completions.create(**ASK, extra_headers={"idempotency-key": "k", "traceparent": "00-1-2-01"}),
        lambda sdk: sdk.chat.completions.list(limit=3, after="chatcmpl-1", order="asc", metadata=metadata, model="gpt-4o"),
        lambda sdk: sdk.responses.create(model="gpt-5", input="hello"),
        lambda sdk: sdk.beta.responses.create(model="gpt-5", input="hello"),
        lambda sdk: sdk.responses.retrieve("resp_1", include=["file_search_call.results", "reasoning.encrypted_content"]),
        lambda sdk: sdk.responses.retrieve("resp_1", stream=True, starting_after=4, include_obfuscation=False),
        lambda sdk: sdk.responses.input_items.list("resp_1", limit=2, order="desc", after="msg_1"),
        lambda sdk: sdk.embeddings.create(model="text-embedding-3-small", input="x"),
        lambda sdk: sdk.images.generate(model="gpt-image-2", prompt="x"),
        lambda sdk: sdk.audio.speech.create(model="tts-1", voice="alloy", input="x"),
        lambda sdk: sdk.moderations.create(input="x"),
        lambda sdk: sdk.models.list(),
        lambda sdk: sdk.files.list(purpose="batch", limit=5, after="file-1", order="asc"),
        lambda sdk: sdk.batches.list(limit=5, after="batch_1"),
        lambda sdk: sdk.vector_stores.files.list("vs_1", filter="completed", before="file-1"),
        lambda sdk: sdk.conversations.items.list("conv_1", include=["message.input_image.image_url"], limit=1),
        lambda sdk: sdk.containers.list(name="box", limit=2),
        lambda sdk: sdk.containers.create(name="box"),
        lambda sdk: sdk.vector_stores.create(name="shelf"),
        lambda sdk: sdk.vector_stores.list(before="vs_1", order="asc"),
        lambda sdk: sdk.decisions.create(model="gpt-6-luna", input="x", questions=[]),
    ]
    for number, call in enumerate(calls):
        directly = arrives(house, house.fake + "/v1", "sk-direct-0123456789", call)
        through = arrives(house, house.proxy + "/v1", house.keys["default"], call)
        assert through == directly, f"call {number}: {through} is not {directly}"


def main():
    tests = [
        requests_arrive_as_they_would_directly,
        azures_client_is_served_by_its_deployment,
        a_chat_answers_and_its_cost_is_in_the_ledger,
        a_stream_without_usage_has_only_chunks_with_choices,
        a_stream_that_asks_for_usage_gets_it,
        responses_answer_whole_and_streamed,
        a_stream_that_asks_for_its_cost_gets_what_is_booked,
        the_stream_helpers_gather_what_was_said,
        embeddings_models_and_moderations_answer,
        decisions_are_charged_for_their_input_alone,
        images_are_made_and_edited,
        a_text_is_spoken_and_a_recording_written_down,
        a_background_response_is_polled_streamed_and_cancelled,
        files_are_sent_listed_read_and_deleted,
        a_batch_is_made_read_listed_and_cancelled,
        a_file_that_is_sent_in_parts_becomes_a_batch,
        a_batch_beyond_a_limit_is_refused_once,
        a_key_sees_what_it_has_used_by_day_and_model,
        a_hard_limit_is_one_rate_limit_error_and_one_request,
        a_blown_fuse_and_a_kill_switch_are_one_rate_limit_error_and_one_request_each,
        a_request_too_large_for_any_budget_is_a_bad_request,
        an_unknown_key_is_an_authentication_error,
        what_is_not_allowed_is_a_permission_error,
        a_revoked_key_is_refused_at_once,
        upstreams_own_errors_pass_through,
    ]
    run(f"openai {openai.__version__} for Python", tests)


if __name__ == "__main__":
    main()
