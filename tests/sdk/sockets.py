"""The official Python package, unchanged, on WebSockets of /v1/responses."""

import openai

from harness import run
from support import client, entries, held, nano

ASK = {"model": "gpt-4o-mini", "input": "hello"}


def answered(connection, **more):
    """The events of a response on a socket."""
    connection.response.create(**ASK, **more)
    events = []
    for event in connection:
        events.append(event)
        if event.type in ("response.completed", "response.failed", "error"):
            return events
    raise AssertionError("the socket was closed")


def turns_on_a_socket_are_booked_each_and_go_on_from_the_one_before(house):
    sdk, before = client(house, "default"), held(house)
    with sdk.responses.connect() as connection:
        last = None
        for _ in range(3):
            events = answered(connection, store=False, **({"previous_response_id": last} if last else {}))
            done = events[-1]
            assert (events[0].type, done.type) == ("response.created", "response.completed"), events
            last = done.response.id
            (entry,) = entries(house, last)
            assert (entry["basis"], entry["endpoint"], entry["stream"]) == ("reported", "/v1/responses", True), entry
            assert entry["usage"]["output_tokens"] == done.response.usage.output_tokens, entry
    assert held(house) == before


def lanes_of_a_socket_run_beside_each_other(house):
    sdk = client(house, "default")
    with sdk.responses.connect() as connection:
        for lane in ("a", "b"):
            connection.response.create(**ASK, stream_id=lane)
        done = {}
        for event in connection:
            if event.type == "response.completed":
                done[event.stream_id] = event.response.id
            if len(done) == 2:
                break
    assert all(len(entries(house, id)) == 1 for id in done.values()), done


def a_refusal_is_an_event_with_the_limit_and_the_socket_stays_open(house):
    sdk = client(house, "empty")
    with sdk.responses.connect() as connection:
        for _ in range(2):
            (error,) = answered(connection)
            assert (error.type, error.status) == ("error", 429), error
            assert (error.error.type, error.error.code) == ("insufficient_quota", "project_spend_limit_exceeded"), error
            assert error.error.headers["x-should-retry"] == "false", error
            assert 'Limit "empty"' in error.error.message, error


def a_wrong_key_opens_no_socket(house):
    sdk = client(house, "sk-guard-wrong")
    try:
        with sdk.responses.connect():
            raise AssertionError("it is open")
    except openai.APIError as error:
        assert "401" in str(error), error
    except Exception as error:  # The library that opens sockets has an exception of its own.
        assert "401" in str(error), error


def the_cost_is_in_the_last_usage_where_it_is_asked_for(house):
    sdk = client(house, "default")
    with sdk.responses.connect(extra_headers={"x-spendguard-cost": "true"}) as connection:
        done = answered(connection)[-1]
    (entry,) = entries(house, done.response.id)
    assert nano(done.response.usage.to_dict()["cost"]) == nano(entry["cost_usd"]), done


def main():
    tests = [
        turns_on_a_socket_are_booked_each_and_go_on_from_the_one_before,
        lanes_of_a_socket_run_beside_each_other,
        a_refusal_is_an_event_with_the_limit_and_the_socket_stays_open,
        a_wrong_key_opens_no_socket,
        the_cost_is_in_the_last_usage_where_it_is_asked_for,
    ]
    run(f"sockets, openai {openai.__version__} for Python", tests)


if __name__ == "__main__":
    main()
