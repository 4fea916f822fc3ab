"""The official Python package, unchanged, in realtime sessions."""

import base64

import openai

from harness import run
from support import client, entries, held, nano, refused, settled

MODEL = "gpt-realtime"
# Samples of 24 kHz: a tenth of a second, loud and silent.
LOUD, SILENT = (base64.b64encode(bytes([level]) * 4800).decode() for level in (1, 0))


def until(connection, kind):
    """The next event of a type."""
    for event in connection:
        if event.type == kind:
            return event
        assert event.type != "error", event
    raise AssertionError("the session was closed")


def by_hand(connection):
    """Has the client decide when there is a response."""
    until(connection, "session.created")
    connection.session.update(session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})
    until(connection, "session.updated")


def booked(house, done):
    """The entry of a response, which has the usage that the client was shown."""
    (entry,) = entries(house, done.response.id)
    usage = done.response.usage
    assert (entry["basis"], entry["endpoint"], entry["model"]) == ("reported", "/v1/realtime", MODEL), entry
    assert entry["usage"]["output_tokens"] == usage.output_tokens, entry
    assert entry["usage"]["audio_output_tokens"] == usage.output_token_details.audio_tokens, entry
    return entry


def turns_that_are_asked_for_are_booked_each(house):
    sdk, before = client(house, "default"), held(house)
    with sdk.realtime.connect(model=MODEL) as connection:
        by_hand(connection)
        for text in ("hello", "and again"):
            content = [{"type": "input_text", "text": text}]
            connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})
            connection.response.create()
            booked(house, until(connection, "response.done"))
    assert held(house) == before


def speech_is_answered_and_booked_without_being_asked_for(house):
    sdk, before = client(house, "default"), held(house)
    with sdk.realtime.connect(model=MODEL) as connection:
        until(connection, "session.created")
        for part in [LOUD] * 4 + [SILENT] * 5:
            connection.input_audio_buffer.append(audio=part)
        until(connection, "input_audio_buffer.speech_started")
        booked(house, until(connection, "response.done"))
        spent = settled(house)
        connection.input_audio_buffer.append(audio=LOUD)
        until(connection, "input_audio_buffer.speech_started")
        assert held(house) > before, "the next answer is held before it begins"
    assert settled(house) == spent


def a_session_transcribes_at_the_price_of_its_model(house):
    sdk, before = client(house, "default"), settled(house)
    with sdk.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        until(connection, "session.created")
        audio = {"input": {"transcription": {"model": "whisper-1"}}}
        connection.session.update(session={"type": "transcription", "audio": audio})
        until(connection, "session.updated")
        for part in [LOUD] * 20 + [SILENT] * 5:
            connection.input_audio_buffer.append(audio=part)
        done = until(connection, "conversation.item.input_audio_transcription.completed")
    # 0.006 dollars a minute.
    assert settled(house) - before == int(done.usage.seconds) * 100_000, (settled(house), before, done)


def a_refusal_is_an_event_with_the_limit_and_the_session_stays_open(house):
    sdk = client(house, "empty")
    with sdk.realtime.connect(model=MODEL) as connection:
        until(connection, "session.created")
        for number in range(2):
            connection.response.create(event_id=f"mine_{number}")
            error = next(event for event in connection if event.type == "error")
            assert (error.error.type, error.error.code) == ("insufficient_quota", "project_spend_limit_exceeded"), error
            assert (error.error.event_id, error.to_dict()["status"]) == (f"mine_{number}", 429), error
            assert 'Limit "empty"' in error.error.message, error


def a_client_secret_opens_its_session_and_no_more(house):
    sdk = client(house, "default")
    made = sdk.realtime.client_secrets.create(session={"type": "realtime", "model": MODEL, "instructions": "Be brief."})
    assert made.value.startswith("ek_guard_") and made.session.model == MODEL, made
    other = openai.OpenAI(api_key=made.value)
    with other.realtime.connect() as connection:
        until(connection, "session.created")
        assert until(connection, "session.updated").session.instructions == "Be brief."
        connection.response.create()
        entry = booked(house, until(connection, "response.done"))
        assert nano(entry["cost_usd"]) > 0, entry
    refused(house, openai.AuthenticationError, "invalid_api_key", 1, lambda: other.models.list())


def main():
    tests = [
        turns_that_are_asked_for_are_booked_each,
        speech_is_answered_and_booked_without_being_asked_for,
        a_session_transcribes_at_the_price_of_its_model,
        a_refusal_is_an_event_with_the_limit_and_the_session_stays_open,
        a_client_secret_opens_its_session_and_no_more,
    ]
    run(f"realtime, openai {openai.__version__} for Python", tests)


if __name__ == "__main__":
    main()
