// The official Node package, unchanged, on containers and vector stores, which OpenAI bills by time.
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import OpenAI, { toFile } from "openai";
import { run } from "./run.mjs";
import { api, client, direct, entries, gone, held, nano, refused, sent, settled } from "./support.mjs";

// In nano-dollars: a minute of a container by its memory, the storage of a file for a day at its most, a mebibyte for a
// day, rounded up, and a search.
const MINUTE = { "1g": 1_500_000, "4g": 6_000_000 };
const FILE_DAY = 6_250_000;
const MEBIBYTE_DAY = 97_657;
const SEARCH = 2_500_000;

/** The ids of the first objects of a list, through its pages. */
async function newest(page, count = 2) {
  const ids = [];
  for await (const item of page) {
    ids.push(item.id);
    if (ids.length === count) break;
  }
  return ids;
}

const note = (text) => toFile(Buffer.from(text), "note.txt");

/** The ids of new files with these texts. */
async function files(sdk, ...texts) {
  const ids = [];
  for (const text of texts) ids.push((await sdk.files.create({ file: await note(text), purpose: "user_data" })).id);
  return ids;
}

const tests = {
  async a_container_is_held_while_it_lives_and_its_minutes_are_booked() {
    const [sdk, stranger, before] = [client("DEFAULT"), client("FAST"), await held()];
    const expires_after = { anchor: "last_active_at", minutes: 10 };
    const box = await sdk.containers.create({ name: "box", memory_limit: "4g", expires_after });
    assert.deepEqual([box.status, box.memory_limit, box.expires_after.minutes], ["running", "4g", 10]);
    // The minutes that it may be idle, and three to see its end.
    assert.equal((await held()) - before, 13 * MINUTE["4g"]);
    assert.deepEqual(await entries(box.id), []);
    const other = await sdk.containers.create({ name: "other" });
    assert.deepEqual([other.memory_limit, other.expires_after.minutes], ["1g", 20]);
    assert.equal((await sdk.containers.retrieve(box.id)).name, "box");
    assert.deepEqual(await newest(sdk.containers.list({ limit: 1 })), [other.id, box.id]);
    assert.deepEqual(await newest(sdk.containers.list({ name: "box" })), [box.id]);
    await gone(() => stranger.containers.retrieve(box.id));
    await gone(() => stranger.containers.delete(box.id));
    assert.deepEqual((await stranger.containers.list()).data, []);
    for (const container of [box, other]) {
      await sdk.containers.delete(container.id);
      await gone(() => sdk.containers.retrieve(container.id));
      await gone(() => direct().containers.retrieve(container.id));
      const [entry, ...others] = await entries(container.id);
      assert.deepEqual([entry.endpoint, entry.basis, others.length], ["/v1/containers", "counted", 0]);
      assert.equal(entry.usage.container_minutes, 5);
      assert.equal(nano(entry.cost_usd), 5 * MINUTE[container.memory_limit]);
    }
    assert.equal(await held(), before);
  },
  async a_container_that_is_seen_to_be_expired_is_booked_once() {
    const [sdk, before] = [client("DEFAULT"), await held()];
    const box = await sdk.containers.create({ name: "box" }, { headers: { "x-fake-idle-s": "1300" } });
    for (const _ of [1, 2]) assert.equal((await sdk.containers.retrieve(box.id)).status, "expired");
    assert.deepEqual((await entries(box.id)).map((entry) => nano(entry.cost_usd)), [5 * MINUTE["1g"]]);
    assert.equal(await held(), before);
  },
  async files_of_a_container_are_sent_listed_read_and_deleted() {
    const [sdk, content] = [client("DEFAULT"), Buffer.alloc(200_000, "\r\n--\r\n\0\xff", "latin1")];
    const [[kept], [foreign]] = [await files(sdk, "text"), await files(client("FAST"), "another's")];
    const box = await sdk.containers.create({ name: "box", file_ids: [kept] });
    const before = await settled();
    const [first] = (await sdk.containers.files.list(box.id)).data;
    assert.equal(first.bytes, 4);
    const file = await sdk.containers.files.create(box.id, { file: await toFile(content, "data.bin") });
    assert.deepEqual([file.bytes, file.container_id, file.source], [content.length, box.id, "user"]);
    assert.ok(file.path.startsWith("/mnt/data/"));
    const copy = await sdk.containers.files.create(box.id, { file_id: kept });
    assert.equal(copy.bytes, 4);
    assert.deepEqual(await newest(sdk.containers.files.list(box.id, { limit: 1 }), 4), [copy.id, file.id, first.id]);
    const of = { container_id: box.id };
    assert.equal((await sdk.containers.files.retrieve(file.id, of)).path, file.path);
    const read = await sdk.containers.files.content.retrieve(file.id, of);
    assert.deepEqual(Buffer.from(await read.arrayBuffer()), content);
    await sdk.containers.files.delete(file.id, of);
    await gone(() => sdk.containers.files.retrieve(file.id, of));
    await gone(() => sdk.containers.files.create(box.id, { file_id: foreign }));
    await gone(() => sdk.containers.create({ name: "box", file_ids: [foreign] }));
    assert.deepEqual(await newest(sdk.containers.files.list(box.id), 3), [copy.id, first.id]);
    assert.equal(await settled(), before, "what is done with it costs nothing but its minutes");
    await sdk.containers.delete(box.id);
  },
  async a_vector_store_is_made_changed_listed_and_its_storage_is_booked() {
    const [sdk, stranger, before] = [client("DEFAULT"), client("FAST"), await held()];
    const empty = await sdk.vectorStores.create({ name: "empty", metadata: { team: "search" } });
    assert.deepEqual([empty.file_counts.total, empty.metadata], [0, { team: "search" }]);
    assert.equal(await held(), before);
    const [file_ids, expires_after] = [await files(sdk, "to be", "or not"), { anchor: "last_active_at", days: 3 }];
    let full = await sdk.vectorStores.create({ name: "full", file_ids, expires_after });
    assert.equal(full.expires_after.days, 3);
    assert.equal((await held()) - before, 2 * FILE_DAY);
    while (full.status === "in_progress") full = await sdk.vectorStores.retrieve(full.id);
    assert.deepEqual([full.status, full.file_counts.completed], ["completed", 2]);
    assert.ok(full.usage_bytes > 0);
    const changed = await sdk.vectorStores.update(empty.id, { name: "other", metadata: { team: "chat" } });
    assert.deepEqual([changed.name, changed.metadata], ["other", { team: "chat" }]);
    assert.deepEqual(await newest(sdk.vectorStores.list({ limit: 1 })), [full.id, empty.id]);
    await gone(() => stranger.vectorStores.retrieve(full.id));
    await gone(() => stranger.vectorStores.delete(full.id));
    await gone(() => stranger.vectorStores.search(full.id, { query: "to be" }));
    assert.deepEqual((await stranger.vectorStores.list()).data, []);
    // Times are of whole seconds, and a period of none costs nothing.
    await sleep(1_000);
    for (const [store, mebibyteDays] of [[full, 1], [empty, 0]]) {
      assert.equal((await sdk.vectorStores.delete(store.id)).deleted, true);
      await gone(() => sdk.vectorStores.retrieve(store.id));
      await gone(() => direct().vectorStores.retrieve(store.id));
      const [entry, ...others] = await entries(store.id);
      assert.deepEqual([entry.endpoint, entry.basis, others.length], ["/v1/vector_stores", "counted", 0]);
      assert.equal(entry.usage.vector_storage_mib_days ?? 0, mebibyteDays);
      assert.equal(nano(entry.cost_usd), mebibyteDays * MEBIBYTE_DAY);
    }
    assert.equal(await held(), before);
  },
  async a_search_in_a_vector_store_costs_a_call_for_each_query() {
    const sdk = client("DEFAULT");
    const [store, [file_id]] = [(await sdk.vectorStores.create({ name: "shelf" })).id, await files(sdk, "to be")];
    await sdk.vectorStores.files.createAndPoll(store, { file_id }, { pollIntervalMs: 10 });
    const before = await settled();
    const ask = { query: "to be?", max_num_results: 1, rewrite_query: true };
    const [found, ...others] = (await sdk.vectorStores.search(store, ask)).data;
    assert.deepEqual([found.file_id, found.content[0].text, others.length], [file_id, "to be", 0]);
    await sdk.vectorStores.search(store, { query: ["to be?", "or not?"] });
    const [pair, single] = (await api("/guard/v1/ledger?limit=2")).data;
    assert.deepEqual([single, pair].map((entry) => entry.usage.file_search_calls), [1, 2]);
    assert.deepEqual([single, pair].map((entry) => nano(entry.cost_usd)), [SEARCH, 2 * SEARCH]);
    assert.equal((await settled()) - before, 3 * SEARCH);
    await sdk.vectorStores.delete(store);
  },
  async files_are_added_to_a_vector_store_read_and_removed() {
    const [sdk, before, polled] = [client("DEFAULT"), await held(), { pollIntervalMs: 10 }];
    const [store, [one, lasting]] = [(await sdk.vectorStores.create({ name: "shelf" })).id, await files(sdk, "one", "lasting")];
    const { files: ofStore, fileBatches } = sdk.vectorStores;
    const of = { vector_store_id: store };
    const added = await ofStore.createAndPoll(store, { file_id: one, attributes: { part: 1 } }, polled);
    assert.deepEqual([added.id, added.status, added.attributes], [one, "completed", { part: 1 }]);
    assert.ok(added.usage_bytes > 0);
    assert.equal((await ofStore.uploadAndPoll(store, await note("two"), polled)).status, "completed");
    assert.equal((await held()) - before, 2 * FILE_DAY);
    const batch = await fileBatches.createAndPoll(store, { file_ids: await files(sdk, "three", "four") }, polled);
    assert.deepEqual([batch.status, batch.file_counts.completed], ["completed", 2]);
    assert.equal((await held()) - before, 4 * FILE_DAY);
    const uploaded = await fileBatches.uploadAndPoll(store, { files: [await note("five")] }, polled);
    assert.deepEqual([uploaded.status, uploaded.file_counts.total], ["completed", 1]);
    const begun = await fileBatches.create(store, { files: [{ file_id: lasting, attributes: { part: 2 } }] });
    assert.equal(begun.status, "in_progress");
    assert.equal((await held()) - before, 6 * FILE_DAY);
    assert.equal((await fileBatches.cancel(begun.id, of)).status, "cancelled");
    assert.equal((await fileBatches.retrieve(begun.id, of)).file_counts.cancelled, 1);
    assert.deepEqual(await newest(fileBatches.listFiles(begun.id, of)), [lasting]);
    assert.equal((await newest(ofStore.list(store, { limit: 2 }), 7)).length, 6);
    const changed = await ofStore.update(one, { ...of, attributes: { part: 3 } });
    assert.deepEqual([changed.attributes, (await ofStore.retrieve(one, of)).attributes], [{ part: 3 }, { part: 3 }]);
    assert.deepEqual((await ofStore.content(one, of)).data.map((part) => part.text), ["one"]);
    assert.equal((await ofStore.delete(one, of)).deleted, true);
    await gone(() => ofStore.retrieve(one, of));
    assert.equal((await sdk.files.retrieve(one)).id, one, "it is removed from the store, and not deleted");
    await sdk.vectorStores.delete(store);
    assert.equal(await held(), before);
  },
  async what_is_beyond_a_limit_is_refused_once_and_not_sent() {
    const [small, empty, sdk] = [client("SMALL"), client("EMPTY"), client("DEFAULT")];
    const [store, [file]] = [(await small.vectorStores.create({ name: "shelf" })).id, await files(small, "text")];
    const [before, large] = [await sent(), { name: "large", memory_limit: "64g" }];
    for (const tooDear of [
      () => small.containers.create(large),
      () => sdk.containers.create(large, { headers: { "x-spendguard-max-cost-usd": "2.20" } }),
      () => small.vectorStores.create({ name: "full", file_ids: [file] }),
      () => small.vectorStores.files.create(store, { file_id: file }),
      () => small.vectorStores.fileBatches.create(store, { file_ids: [file] }),
      () => small.vectorStores.search(store, { query: "to be?" }),
    ]) {
      await refused(OpenAI.BadRequestError, "request_cost_exceeds_limit", tooDear);
    }
    for (const spent of [() => empty.containers.create({ name: "box" }), () => empty.vectorStores.create({ name: "shelf" })]) {
      await refused(OpenAI.RateLimitError, "project_spend_limit_exceeded", spent);
    }
    assert.equal(await sent(), before);
  },
};

await run("containers and vector stores, openai", tests);
