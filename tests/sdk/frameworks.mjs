// Vercel's AI SDK, unchanged, against the guard; run by scripted.py, which compares the ledger. It repeats every 429, so
// the guard answers a used-up limit with 400, as docs/clients.md recommends.
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { createOpenAI } from "@ai-sdk/openai";
import { APICallError, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { run } from "./run.mjs";
import { api, refusals } from "./support.mjs";

const SENTENCE = "It is sunny in Paris.";
const LIMIT = /^Your project reached its enforced spend limit. Limit "empty"/;
const FUSE = /^Fuse "runaway" has blown for this key/;
const TURNS = 10;
const MANY = stepCountIs(5);
let called = [];
const weather = tool({
  description: "The weather.",
  inputSchema: z.object({ city: z.string() }),
  execute: ({ city }) => {
    called.push(city);
    return `sunny in ${city}`;
  },
});
const tools = { weather };

/** The model, at each of the two APIs. */
function models(key) {
  const provider = createOpenAI({ baseURL: process.env.PROXY, apiKey: process.env[`KEY_${key}`] ?? key });
  return [provider.responses("gpt-4o-mini"), provider.chat("gpt-4o-mini")];
}

/** What a stream says; its error is thrown. */
async function streamed(ask) {
  let error;
  const { textStream } = streamText({ ...ask, onError: (event) => { error = event.error; } });
  let text = "";
  for await (const part of textStream) text += part;
  if (error) throw error;
  return text;
}

/** Both ways to ask end with an error that says it, after one request each. */
async function stopped(key, message) {
  for (const model of models(key)) {
    for (const ask of [generateText, streamed]) {
      const before = await refusals();
      const error = await ask({ model, prompt: "hello" }).then(() => assert.fail("nothing was thrown"), (error) => error);
      assert.ok(APICallError.isInstance(error), String(error));
      assert.match(error.message, message);
      assert.equal((await refusals()) - before, 1, "one request");
    }
  }
}

const tests = {
  async it_answers_whole_and_streamed() {
    for (const model of models("DEFAULT")) {
      const { text } = await generateText({ model, prompt: "hello" });
      assert.deepEqual([text, await streamed({ model, prompt: "hello" })], [SENTENCE, SENTENCE]);
    }
  },
  async it_calls_a_function_for_ten_turns() {
    for (const model of models("DEFAULT")) {
      const messages = [];
      called = [];
      for (let turn = 0; turn < TURNS; turn += 1) {
        messages.push({ role: "user", content: "What is the weather?" });
        const { text, responseMessages } = await generateText({ model, messages, tools, stopWhen: MANY });
        assert.equal(text, SENTENCE);
        messages.push(...responseMessages);
      }
      assert.equal(await streamed({ model, prompt: "What is the weather?", tools, stopWhen: MANY }), SENTENCE);
      assert.deepEqual(called, Array(TURNS + 1).fill("Paris"));
    }
  },
  async it_shows_the_limit_after_one_request() {
    await stopped("EMPTY", LIMIT);
  },
  async it_shows_a_blown_fuse_after_one_request() {
    const { id, value } = await api("/guard/v1/keys", { name: "looping" });
    await generateText({ model: models(value)[0], prompt: "hello" });
    while (!(await api("/guard/v1/stops")).data.some(({ subject }) => subject === id)) await sleep(50);
    await stopped(value, FUSE);
  },
  async it_shows_a_revoked_key_after_one_request() {
    const key = await api("/guard/v1/keys", { name: "short-lived" });
    const headers = { authorization: `Bearer ${process.env.ADMIN_TOKEN}` };
    await fetch(`${process.env.ADMIN}/guard/v1/keys/${key.id}`, { method: "DELETE", headers });
    await stopped(key.value, /^Incorrect API key provided/);
  },
};

await run("Vercel's AI SDK", tests);
