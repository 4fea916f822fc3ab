"""The official Python package, unchanged, on containers and vector stores, which OpenAI bills by time."""

import itertools
import time

import openai

from harness import run
from support import client, direct, entries, gone, held, nano, refused, sent, settled

# In nano-dollars: a minute of a container by its memory, the storage of a file for a day at its most, a mebibyte for a
# day, rounded up, and a search.
MINUTE = {"1g": 1_500_000, "4g": 6_000_000}
FILE_DAY = 6_250_000
MEBIBYTE_DAY = 97_657
SEARCH = 2_500_000


def newest(page, count=2):
    """The ids of the first objects of a list, through its pages."""
    return [item.id for item in itertools.islice(page, count)]


def files(sdk, *texts):
    """The ids of new files with these texts."""
    return [sdk.files.create(file=("note.txt", text), purpose="user_data").id for text in texts]


def a_container_is_held_while_it_lives_and_its_minutes_are_booked(house):
    sdk, stranger, before = client(house, "default"), client(house, "fast"), held(house)
    expiry = {"anchor": "last_active_at", "minutes": 10}
    box = sdk.containers.create(name="box", memory_limit="4g", expires_after=expiry)
    assert (box.status, box.memory_limit, box.expires_after.minutes) == ("running", "4g", 10)
    # The minutes that it may be idle, and three to see its end.
    assert held(house) - before == 13 * MINUTE["4g"] and not entries(house, box.id)
    other = sdk.containers.create(name="other")
    assert (other.memory_limit, other.expires_after.minutes) == ("1g", 20)
    assert sdk.containers.retrieve(box.id).name == "box"
    assert newest(sdk.containers.list(limit=1)) == [other.id, box.id]
    assert [listed.id for listed in sdk.containers.list(name="box")] == [box.id]
    gone(lambda: stranger.containers.retrieve(box.id))
    gone(lambda: stranger.containers.delete(box.id))
    assert not stranger.containers.list().data
    for container in (box, other):
        sdk.containers.delete(container.id)
        gone(lambda: sdk.containers.retrieve(container.id))
        gone(lambda: direct(house).containers.retrieve(container.id))
        (entry,) = entries(house, container.id)
        assert (entry["endpoint"], entry["basis"]) == ("/v1/containers", "counted"), entry
        assert entry["usage"]["container_minutes"] == 5, entry
        assert nano(entry["cost_usd"]) == 5 * MINUTE[container.memory_limit], entry
    assert held(house) == before


def a_container_that_is_seen_to_be_expired_is_booked_once(house):
    sdk, before = client(house, "default"), held(house)
    box = sdk.containers.create(name="box", extra_headers={"x-fake-idle-s": "1300"})
    assert [sdk.containers.retrieve(box.id).status for _ in range(2)] == ["expired", "expired"]
    (entry,) = entries(house, box.id)
    assert nano(entry["cost_usd"]) == 5 * MINUTE["1g"] and held(house) == before, entry


def files_of_a_container_are_sent_listed_read_and_deleted(house):
    sdk, content = client(house, "default"), b"\r\n--\r\n" + bytes(range(256)) * 1_000
    (kept,), (foreign,) = files(sdk, b"text"), files(client(house, "fast"), b"another's")
    box, before = sdk.containers.create(name="box", file_ids=[kept]), settled(house)
    (first,) = sdk.containers.files.list(box.id)
    assert first.bytes == 4
    file = sdk.containers.files.create(box.id, file=("data.bin", content))
    assert (file.bytes, file.container_id, file.source) == (len(content), box.id, "user")
    assert file.path.startswith("/mnt/data/")
    copy = sdk.containers.files.create(box.id, file_id=kept)
    assert copy.bytes == 4
    assert newest(sdk.containers.files.list(box.id, limit=1), 4) == [copy.id, file.id, first.id]
    assert sdk.containers.files.retrieve(file.id, container_id=box.id).path == file.path
    assert sdk.containers.files.content.retrieve(file.id, container_id=box.id).read() == content
    sdk.containers.files.delete(file.id, container_id=box.id)
    gone(lambda: sdk.containers.files.retrieve(file.id, container_id=box.id))
    gone(lambda: sdk.containers.files.create(box.id, file_id=foreign))
    gone(lambda: sdk.containers.create(name="box", file_ids=[foreign]))
    assert newest(sdk.containers.files.list(box.id), 3) == [copy.id, first.id]
    assert settled(house) == before, "what is done with it costs nothing but its minutes"
    sdk.containers.delete(box.id)


def a_vector_store_is_made_changed_listed_and_its_storage_is_booked(house):
    sdk, stranger, before = client(house, "default"), client(house, "fast"), held(house)
    empty = sdk.vector_stores.create(name="empty", metadata={"team": "search"})
    assert (empty.file_counts.total, empty.metadata) == (0, {"team": "search"}) and held(house) == before
    expiry = {"anchor": "last_active_at", "days": 3}
    full = sdk.vector_stores.create(name="full", file_ids=files(sdk, b"to be", b"or not"), expires_after=expiry)
    assert full.expires_after.days == 3 and held(house) - before == 2 * FILE_DAY
    while full.status == "in_progress":
        full = sdk.vector_stores.retrieve(full.id)
    assert full.status == "completed" and full.file_counts.completed == 2 and full.usage_bytes > 0
    changed = sdk.vector_stores.update(empty.id, name="other", metadata={"team": "chat"})
    assert (changed.name, changed.metadata) == ("other", {"team": "chat"})
    assert newest(sdk.vector_stores.list(limit=1)) == [full.id, empty.id]
    gone(lambda: stranger.vector_stores.retrieve(full.id))
    gone(lambda: stranger.vector_stores.delete(full.id))
    gone(lambda: stranger.vector_stores.search(full.id, query="to be"))
    assert not stranger.vector_stores.list().data
    # Times are of whole seconds, and a period of none costs nothing.
    time.sleep(1)
    for store, mebibyte_days in ((full, 1), (empty, 0)):
        assert sdk.vector_stores.delete(store.id).deleted
        gone(lambda: sdk.vector_stores.retrieve(store.id))
        gone(lambda: direct(house).vector_stores.retrieve(store.id))
        (entry,) = entries(house, store.id)
        assert (entry["endpoint"], entry["basis"]) == ("/v1/vector_stores", "counted"), entry
        assert entry["usage"].get("vector_storage_mib_days", 0) == mebibyte_days, entry
        assert nano(entry["cost_usd"]) == mebibyte_days * MEBIBYTE_DAY, entry
    assert held(house) == before


def a_search_in_a_vector_store_costs_a_call_for_each_query(house):
    sdk = client(house, "default")
    store = sdk.vector_stores.create(name="shelf")
    added = sdk.vector_stores.files.create_and_poll(*files(sdk, b"to be"), vector_store_id=store.id, poll_interval_ms=10)
    before = settled(house)
    (found,) = sdk.vector_stores.search(store.id, query="to be?", max_num_results=1, rewrite_query=True)
    assert (found.file_id, found.content[0].text) == (added.id, "to be")
    sdk.vector_stores.search(store.id, query=["to be?", "or not?"])
    pair, single = house.api("GET", "/guard/v1/ledger?limit=2")["data"]
    assert [entry["usage"]["file_search_calls"] for entry in (single, pair)] == [1, 2], (single, pair)
    assert [nano(entry["cost_usd"]) for entry in (single, pair)] == [SEARCH, 2 * SEARCH], (single, pair)
    assert settled(house) - before == 3 * SEARCH
    sdk.vector_stores.delete(store.id)


def files_are_added_to_a_vector_store_read_and_removed(house):
    sdk, before = client(house, "default"), held(house)
    store, (one, lasting) = sdk.vector_stores.create(name="shelf").id, files(sdk, b"one", b"lasting")
    of, polled = {"vector_store_id": store}, {"poll_interval_ms": 10}
    added = sdk.vector_stores.files.create_and_poll(one, **of, **polled, attributes={"part": 1.0}, max_wait_seconds=20)
    assert (added.id, added.status, added.attributes) == (one, "completed", {"part": 1.0}) and added.usage_bytes > 0
    uploaded = sdk.vector_stores.files.upload_and_poll(file=("two.txt", b"two"), **of, **polled)
    assert uploaded.status == "completed" and held(house) - before == 2 * FILE_DAY
    batch = sdk.vector_stores.file_batches.create_and_poll(store, file_ids=files(sdk, b"three", b"four"), **polled)
    assert (batch.status, batch.file_counts.completed) == ("completed", 2) and held(house) - before == 4 * FILE_DAY
    uploaded = sdk.vector_stores.file_batches.upload_and_poll(store, files=[("five.txt", b"five")], **polled)
    assert (uploaded.status, uploaded.file_counts.total) == ("completed", 1)
    begun = sdk.vector_stores.file_batches.create(store, files=[{"file_id": lasting, "attributes": {"part": 2.0}}])
    assert begun.status == "in_progress" and held(house) - before == 6 * FILE_DAY
    assert sdk.vector_stores.file_batches.cancel(begun.id, **of).status == "cancelled"
    assert sdk.vector_stores.file_batches.retrieve(begun.id, **of).file_counts.cancelled == 1
    assert newest(sdk.vector_stores.file_batches.list_files(begun.id, **of)) == [lasting]
    assert len(newest(sdk.vector_stores.files.list(store, limit=2), 7)) == 6
    changed = sdk.vector_stores.files.update(one, **of, attributes={"part": 3.0})
    assert changed.attributes == sdk.vector_stores.files.retrieve(one, **of).attributes == {"part": 3.0}
    assert [part.text for part in sdk.vector_stores.files.content(one, **of)] == ["one"]
    assert sdk.vector_stores.files.delete(one, **of).deleted
    gone(lambda: sdk.vector_stores.files.retrieve(one, **of))
    assert sdk.files.retrieve(one).id == one, "it is removed from the store, and not deleted"
    sdk.vector_stores.delete(store)
    assert held(house) == before


def what_is_beyond_a_limit_is_refused_once_and_not_sent(house):
    small, empty, sdk = client(house, "small"), client(house, "empty"), client(house, "default")
    store, (file,) = small.vector_stores.create(name="shelf").id, files(small, b"text")
    before, large = sent(house), {"name": "large", "memory_limit": "64g"}
    for too_dear in (
        lambda: small.containers.create(**large),
        lambda: sdk.containers.create(**large, extra_headers={"x-spendguard-max-cost-usd": "2.20"}),
        lambda: small.vector_stores.create(name="full", file_ids=[file]),
        lambda: small.vector_stores.files.create(store, file_id=file),
        lambda: small.vector_stores.file_batches.create(store, file_ids=[file]),
        lambda: small.vector_stores.search(store, query="to be?"),
    ):
        refused(house, openai.BadRequestError, "request_cost_exceeds_limit", 1, too_dear)
    for spent in (lambda: empty.containers.create(name="box"), lambda: empty.vector_stores.create(name="shelf")):
        refused(house, openai.RateLimitError, "project_spend_limit_exceeded", 1, spent)
    assert sent(house) == before


def main():
    tests = [
        a_container_is_held_while_it_lives_and_its_minutes_are_booked,
        a_container_that_is_seen_to_be_expired_is_booked_once,
        files_of_a_container_are_sent_listed_read_and_deleted,
        a_vector_store_is_made_changed_listed_and_its_storage_is_booked,
        a_search_in_a_vector_store_costs_a_call_for_each_query,
        files_are_added_to_a_vector_store_read_and_removed,
        what_is_beyond_a_limit_is_refused_once_and_not_sent,
    ]
    run(f"containers and vector stores, openai {openai.__version__} for Python", tests)


if __name__ == "__main__":
    main()
