// The official Node package, unchanged, against the guard.
import assert from "node:assert/strict";
import OpenAI, { toFile } from "openai";
import { run } from "./run.mjs";
import { api, ask, client, nano, refused } from "./support.mjs";

// Of the connection, of the key, and of what the guard writes into a body.
const NOT_COMPARED = ["authorization", "accept-encoding", "connection", "content-length", "host"];

/** The last request that the fake was asked when `call` is made there. */
async function arrives(baseURL, apiKey, call) {
  const sdk = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 60_000, defaultHeaders: { "x-client-request-id": "1" } });
  await call(sdk).catch((error) => assert.ok(error instanceof OpenAI.NotFoundError, String(error)));
  const { method, uri, headers } = await (await fetch(process.env.DIRECT.replace("/v1", "/__last"))).json();
  return { method, uri, headers: Object.fromEntries(Object.entries(headers).filter(([name]) => !NOT_COMPARED.includes(name))) };
}

/** The last event of a stream. */
async function last(stream) {
  let end;
  for await (const event of await stream) end = event;
  return end;
}

const tests = {
  async requests_arrive_as_they_would_directly() {
    const calls = [
      (sdk) => sdk.chat.completions.create(ask),
      (sdk) => sdk.chat.completions.create(ask, { idempotencyKey: "k", headers: { traceparent: "00-1-2-01" } }),
      (sdk) => sdk.chat.completions.list({ limit: 3, after: "chatcmpl-1", metadata: { team: "search" } }),
      (sdk) => sdk.responses.create({ model: "gpt-5", input: "hello" }),
      (sdk) => sdk.responses.retrieve("resp_1", { include: ["file_search_call.results"], starting_after: 4, stream: true }),
      (sdk) => sdk.embeddings.create({ model: "text-embedding-3-small", input: "x" }),
      (sdk) => sdk.files.list({ purpose: "batch", limit: 5, order: "asc" }),
      (sdk) => sdk.vectorStores.files.list("vs_1", { filter: "completed", before: "file-1" }),
      (sdk) => sdk.models.list(),
      (sdk) => sdk.containers.list({ name: "box", limit: 2 }),
      (sdk) => sdk.containers.create({ name: "box" }),
      (sdk) => sdk.vectorStores.create({ name: "shelf" }),
      (sdk) => sdk.vectorStores.list({ before: "vs_1", order: "asc" }),
      (sdk) => sdk.decisions.create({ model: "gpt-6-luna", input: "x", questions: [] }),
    ];
    for (const call of calls) {
      const directly = await arrives(process.env.DIRECT, "sk-direct-0123456789", call);
      assert.deepEqual(await arrives(process.env.PROXY, process.env.KEY_DEFAULT, call), directly);
    }
  },
  async a_chat_answers_with_its_cost() {
    const { data, response } = await client("DEFAULT").chat.completions.create(ask).withResponse();
    assert.ok(data.choices[0].message.content);
    assert.ok(Number(response.headers.get("x-spendguard-cost-usd")) > 0);
  },
  async a_stream_without_usage_has_only_chunks_with_choices() {
    const whole = await client("DEFAULT").chat.completions.create(ask);
    let text = "";
    for await (const chunk of await client("DEFAULT").chat.completions.create({ ...ask, stream: true })) {
      text += chunk.choices[0].delta.content ?? "";
    }
    assert.equal(text, whole.choices[0].message.content);
  },
  async a_stream_that_asks_for_usage_gets_it() {
    const options = { stream: true, stream_options: { include_usage: true } };
    assert.equal((await last(client("DEFAULT").chat.completions.create({ ...ask, ...options }))).usage.completion_tokens, 20);
  },
  async responses_answer_whole_and_streamed() {
    const whole = await client("DEFAULT").responses.create({ model: "gpt-5", input: "hello" });
    const end = await last(client("DEFAULT").responses.create({ model: "gpt-5", input: "hello", stream: true }));
    assert.equal(end.type, "response.completed");
    assert.equal(end.response.output[0].content[0].text, whole.output_text);
  },
  async a_stream_that_asks_for_its_cost_gets_what_is_booked() {
    const sdk = client("DEFAULT");
    const streams = [
      async (options) => (await last(sdk.responses.create({ model: "gpt-5", input: "hello", stream: true }, options))).response.usage,
      async (options) => (await last(sdk.chat.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } }, options))).usage,
    ];
    for (const usage of streams) {
      const { cost } = await usage({ headers: { "x-spendguard-cost": "true" } });
      const [entry] = (await api("/guard/v1/ledger?limit=1")).data;
      assert.equal(nano(cost), nano(entry.cost_usd));
      assert.ok(nano(cost) > 0 && entry.stream);
      assert.equal((await usage()).cost, undefined);
    }
  },
  async the_stream_helpers_gather_what_was_said() {
    const response = await client("DEFAULT").responses.stream({ model: "gpt-5", input: "hello" }).finalResponse();
    const completion = await client("DEFAULT").chat.completions.stream(ask).finalChatCompletion();
    assert.equal(completion.choices[0].message.content, response.output_text);
  },
  async embeddings_and_models_answer() {
    assert.ok((await client("DEFAULT").embeddings.create({ model: "text-embedding-3-small", input: "x" })).data.length);
    assert.equal((await client("DEFAULT").models.list()).data.length, 3);
  },
  async decisions_are_charged_for_their_input_alone() {
    const questions = [{ type: "predicate", name: "cat", instructions: "It is a cat." }];
    const asked = client("DEFAULT").decisions.create({ model: "gpt-6-luna", input: "It purrs.", questions });
    const { data, response } = await asked.withResponse();
    assert.equal(data.answers[0].type, "predicate");
    const [entry] = (await api("/guard/v1/ledger?limit=1")).data;
    assert.deepEqual([entry.endpoint, entry.service_tier, entry.basis], ["/v1/decisions", "decisions", "reported"]);
    // 0.1, 0.01 and 0 dollars a million.
    const cached = data.usage.input_tokens_details.cached_tokens;
    assert.equal(nano(entry.cost_usd), (data.usage.input_tokens - cached) * 100 + cached * 10);
    assert.ok(data.usage.output_tokens > 0);
    assert.equal(entry.cost_usd, response.headers.get("x-spendguard-cost-usd"));
  },
  async images_are_made_and_edited() {
    const made = await client("DEFAULT").images.generate({ model: "gpt-image-2", prompt: "a cat", n: 2 });
    assert.equal(made.data.length, 2);
    const types = [];
    const ask = { model: "gpt-image-2", prompt: "a cat", stream: true, partial_images: 1 };
    for await (const event of await client("DEFAULT").images.generate(ask)) types.push(event.type);
    assert.deepEqual(types, ["image_generation.partial_image", "image_generation.completed"]);
    const picture = () => toFile(Buffer.from(made.data[0].b64_json, "base64"), "cat.png", { type: "image/png" });
    const edited = await client("DEFAULT").images.edit({ model: "gpt-image-2", prompt: "a hat", image: [await picture(), await picture()] });
    assert.equal(edited.usage.input_tokens_details.image_tokens, 200);
    assert.ok((await client("DEFAULT").images.edit({ model: "gpt-image-2", prompt: "a hat", image: await picture() })).data.length);
  },
  async a_text_is_spoken_and_a_recording_written_down() {
    const ask = { model: "gpt-4o-mini-tts", voice: "alloy", input: "To be, or not to be.", response_format: "wav" };
    const parts = [];
    for await (const part of (await client("DEFAULT").audio.speech.create(ask)).body) parts.push(part);
    const sound = Buffer.concat(parts);
    assert.equal(sound.length, 44 + 20 * 60 * 48);
    const file = () => toFile(sound, "spoken.wav", { type: "audio/wav" });
    const heard = await client("DEFAULT").audio.transcriptions.create({ model: "gpt-4o-transcribe", file: await file() });
    assert.equal(heard.usage.input_token_details.audio_tokens, 20);
    const types = new Set();
    const stream = { model: "gpt-4o-transcribe", file: await file(), stream: true, chunking_strategy: { type: "server_vad" } };
    for await (const event of await client("DEFAULT").audio.transcriptions.create(stream)) types.add(event.type);
    assert.deepEqual([...types], ["transcript.text.delta", "transcript.text.done"]);
    assert.ok((await client("DEFAULT").audio.translations.create({ model: "whisper-1", file: await file() })).text);
  },
  async a_background_response_is_polled_streamed_and_cancelled() {
    const sdk = client("DEFAULT");
    const ask = { model: "gpt-5", input: "hello", background: true, max_output_tokens: 100 };
    let polled = await sdk.responses.create(ask);
    assert.equal(polled.status, "queued");
    while (["queued", "in_progress"].includes(polled.status)) polled = await sdk.responses.retrieve(polled.id);
    assert.equal(polled.status, "completed");
    assert.ok(polled.output_text);
    const events = [];
    const slow = { headers: { "x-fake-chunk-delay-ms": "20" } };
    for await (const event of await sdk.responses.create({ ...ask, stream: true }, slow)) {
      events.push(event);
      if (event.type === "response.output_text.delta") break;
    }
    const place = { stream: true, starting_after: events.at(-1).sequence_number };
    for await (const event of await sdk.responses.retrieve(events[0].response.id, place)) events.push(event);
    assert.deepEqual(events.map((event) => event.sequence_number), [...events.keys()]);
    assert.equal(events.at(-1).type, "response.completed");
    const lasting = await sdk.responses.create(ask, { headers: { "x-fake-background-reads": "1000000" } });
    assert.equal((await sdk.responses.cancel(lasting.id)).status, "cancelled");
  },
  async files_are_sent_in_either_order_listed_read_and_deleted() {
    const sdk = client("DEFAULT");
    const content = Buffer.alloc(1_000_000, "\r\n--\r\nabc");
    const file = () => toFile(content, "note.bin");
    for (const sent of [{ purpose: "user_data", file: await file() }, { file: await file(), purpose: "user_data" }]) {
      const made = await sdk.files.create(sent);
      assert.deepEqual([made.bytes, made.filename, made.purpose], [content.length, "note.bin", "user_data"]);
      assert.deepEqual(Buffer.from(await (await sdk.files.content(made.id)).arrayBuffer()), content);
      const ids = [];
      for await (const listed of sdk.files.list({ purpose: "user_data", limit: 1 })) ids.push(listed.id);
      assert.ok(ids.includes(made.id));
      assert.equal((await sdk.files.delete(made.id)).deleted, true);
      await assert.rejects(sdk.files.retrieve(made.id), OpenAI.NotFoundError);
    }
  },
  async a_batch_is_made_read_and_cancelled() {
    const sdk = client("DEFAULT");
    const body = { model: "gpt-6.1-sol", messages: ask.messages, max_completion_tokens: 50 };
    const line = (at) => JSON.stringify({ custom_id: `r${at}`, method: "POST", url: "/v1/chat/completions", body }) + "\n";
    const lines = Buffer.from([0, 1, 2].map(line).join(""));
    const upload = await sdk.uploads.create({ bytes: lines.length, filename: "in.jsonl", mime_type: "application/jsonl", purpose: "batch" });
    const part_ids = [];
    for (const part of [lines.subarray(0, 100), lines.subarray(100)]) {
      part_ids.push((await sdk.uploads.parts.create(upload.id, { data: await toFile(part, "part") })).id);
    }
    const parts = (await sdk.uploads.complete(upload.id, { part_ids })).file.id;
    const whole = (await sdk.files.create({ file: await toFile(lines, "in.jsonl"), purpose: "batch" })).id;
    for (const input_file_id of [parts, whole]) {
      const create = { input_file_id, endpoint: "/v1/chat/completions", completion_window: "24h" };
      let batch = await sdk.batches.create(create);
      while (batch.status !== "completed") batch = await sdk.batches.retrieve(batch.id);
      const answers = (await (await sdk.files.content(batch.output_file_id)).text()).trim().split("\n").map(JSON.parse);
      assert.deepEqual(answers.map((answer) => answer.custom_id).sort(), ["r0", "r1", "r2"]);
      const lasting = await sdk.batches.create(create, { headers: { "x-fake-batch-reads": "1000000" } });
      assert.equal((await sdk.batches.list({ limit: 1 })).data[0].id, lasting.id);
      assert.equal((await sdk.batches.cancel(lasting.id)).status, "cancelling");
      assert.equal((await sdk.batches.retrieve(lasting.id)).status, "cancelled");
    }
  },
  async a_key_sees_what_it_has_used_by_day_and_model() {
    const made = await api("/guard/v1/keys", { name: "user" });
    const sdk = client(made.value);
    const headers = { authorization: `Bearer ${made.value}` };
    const usage = async (query = "") => (await fetch(`${process.env.PROXY}/spendguard/usage${query}`, { headers })).json();
    assert.deepEqual((await usage()).data, []);
    const chats = [await sdk.chat.completions.create(ask), await sdk.chat.completions.create(ask)];
    await sdk.embeddings.create({ model: "text-embedding-3-small", input: "x" });
    const used = await usage();
    const booked = (await api(`/guard/v1/ledger?key_id=${made.id}`)).data;
    assert.deepEqual([used.object, used.key.id, used.requests, booked.length], ["guard.usage", made.id, 3, 3]);
    assert.equal(nano(used.cost_usd), booked.reduce((sum, entry) => sum + nano(entry.cost_usd), 0));
    assert.ok(nano(used.cost_usd) > 0);
    const byModel = Object.fromEntries(used.data.map((row) => [row.model, row]));
    assert.deepEqual(Object.keys(byModel).sort(), [ask.model, "text-embedding-3-small"]);
    assert.equal(byModel[ask.model].usage.output_tokens, chats[0].usage.completion_tokens + chats[1].usage.completion_tokens);
    assert.equal((await usage("?since=2026-01-01&until=2026-02-01")).requests, 0);
    assert.equal((await sdk.get("/spendguard/usage")).requests, 3);
  },
  async a_hard_limit_is_one_rate_limit_error_and_one_request() {
    const error = await refused(OpenAI.RateLimitError, "project_spend_limit_exceeded", () => client("EMPTY").chat.completions.create(ask));
    assert.equal(error.type, "insufficient_quota");
  },
  async a_blown_fuse_and_a_kill_switch_are_one_rate_limit_error_and_one_request_each() {
    const key = await api("/guard/v1/keys", { name: "looping" });
    const asks = () => client(key.value).chat.completions.create(ask);
    assert.ok((await asks()).choices.length);
    while (!(await api("/guard/v1/stops")).data.length) await new Promise((done) => setTimeout(done, 50));
    const error = await refused(OpenAI.RateLimitError, "fuse_blown", asks);
    assert.equal(error.type, "insufficient_quota");
    await api("/guard/v1/fuses/runaway/reset", { subject: key.id });
    await api(`/guard/v1/kill-switches/${key.id}`, {}, "PUT");
    await refused(OpenAI.RateLimitError, "kill_switch", asks);
    await api(`/guard/v1/kill-switches/${key.id}`, undefined, "DELETE");
    assert.ok((await asks()).choices.length);
  },
  async a_request_too_large_for_any_budget_is_a_bad_request() {
    await refused(OpenAI.BadRequestError, "request_cost_exceeds_limit", () => client("SMALL").chat.completions.create(ask));
  },
  async an_unknown_key_is_an_authentication_error() {
    await refused(OpenAI.AuthenticationError, "invalid_api_key", () => client("sk-guard-nobody-at-all-has").chat.completions.create(ask));
  },
  async what_is_not_allowed_is_a_permission_error() {
    await refused(OpenAI.PermissionDeniedError, "model_not_found", () => client("NARROW").chat.completions.create(ask));
    await refused(OpenAI.PermissionDeniedError, "endpoint_not_allowed", () => client("DEFAULT").videos.create({ model: "sora-2", prompt: "x" }));
  },
};

await run("openai", tests);
