// The official Node package, unchanged, against the guard.
import assert from "node:assert/strict";
import OpenAI, { toFile } from "openai";
import { run } from "./run.mjs";

const ask = { model: "gpt-4o-mini", messages: [{ role: "user", content: "hello" }] };
const client = (key) => new OpenAI({ apiKey: process.env[`KEY_${key}`] ?? key });
process.env.OPENAI_BASE_URL = process.env.PROXY;

async function refusals() {
  const headers = { authorization: `Bearer ${process.env.ADMIN_TOKEN}` };
  const text = await (await fetch(`${process.env.ADMIN}/metrics`, { headers })).text();
  const lines = text.split("\n").filter((line) => line.startsWith("spendguard_rejections_total{"));
  return lines.reduce((sum, line) => sum + Number(line.split(" ").pop()), 0);
}

async function refused(kind, code, call) {
  const before = await refusals();
  const error = await call().then(() => assert.fail("nothing was thrown"), (error) => error);
  assert.equal(error.constructor, kind, String(error));
  assert.equal(error.code, code);
  assert.equal((await refusals()) - before, 1, "one request");
  return error;
}

// Of the connection, of the key, and of what the guard writes into a body.
const NOT_COMPARED = ["authorization", "accept-encoding", "connection", "content-length", "host"];

/** The last request that the fake was asked when `call` is made there. */
async function arrives(baseURL, apiKey, call) {
  const sdk = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 60_000, defaultHeaders: { "x-client-request-id": "1" } });
  await call(sdk).catch((error) => assert.ok(error instanceof OpenAI.NotFoundError, String(error)));
  const { method, uri, headers } = await (await fetch(process.env.DIRECT.replace("/v1", "/__last"))).json();
  return { method, uri, headers: Object.fromEntries(Object.entries(headers).filter(([name]) => !NOT_COMPARED.includes(name))) };
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
    let last;
    for await (const chunk of await client("DEFAULT").chat.completions.create({ ...ask, ...options })) last = chunk;
    assert.equal(last.usage.completion_tokens, 20);
  },
  async responses_answer_whole_and_streamed() {
    const whole = await client("DEFAULT").responses.create({ model: "gpt-5", input: "hello" });
    let last;
    for await (const event of await client("DEFAULT").responses.create({ model: "gpt-5", input: "hello", stream: true })) last = event;
    assert.equal(last.type, "response.completed");
    assert.equal(last.response.output[0].content[0].text, whole.output_text);
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
  async a_hard_limit_is_one_rate_limit_error_and_one_request() {
    const error = await refused(OpenAI.RateLimitError, "project_spend_limit_exceeded", () => client("EMPTY").chat.completions.create(ask));
    assert.equal(error.type, "insufficient_quota");
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
