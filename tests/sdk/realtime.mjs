// The official Node package, unchanged, in realtime sessions, over TLS.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { OpenAIRealtimeWS } from "openai/realtime/ws";
import { run } from "./run.mjs";
import { client, entries } from "./support.mjs";

const MODEL = "gpt-realtime";

/** The next event of a type, an error too. */
function until(socket, ...kinds) {
  return new Promise((resolve, reject) => {
    const listen = (event) => {
      if (!kinds.includes(event.type)) return;
      socket.off("event", listen);
      resolve(event);
    };
    socket.on("event", listen);
    socket.on("error", reject);
  });
}

async function answered(socket) {
  const done = until(socket, "response.done");
  socket.send({ type: "response.create" });
  return done;
}

const tests = {
  async a_session_is_opened_over_tls_and_its_responses_are_booked() {
    const socket = new OpenAIRealtimeWS({ model: MODEL }, client("DEFAULT"));
    await until(socket, "session.created");
    for (let turn = 0; turn < 2; turn += 1) {
      const { response } = await answered(socket);
      const [entry, ...more] = await entries(response.id);
      assert.deepEqual([entry.basis, entry.endpoint, more], ["reported", "/v1/realtime", []]);
      assert.equal(entry.usage.output_tokens, response.usage.output_tokens);
    }
    socket.close();
  },

  async a_client_secret_opens_a_session() {
    const made = await client("DEFAULT").realtime.clientSecrets.create({ session: { type: "realtime", model: MODEL } });
    assert.match(made.value, /^ek_guard_/);
    const socket = new OpenAIRealtimeWS({ model: MODEL }, new OpenAI({ apiKey: made.value }));
    await until(socket, "session.updated");
    const { response } = await answered(socket);
    assert.equal((await entries(response.id)).length, 1);
    socket.close();
  },

  async a_refusal_is_an_error_with_the_limit() {
    const socket = new OpenAIRealtimeWS({ model: MODEL }, client("EMPTY"));
    await until(socket, "session.created");
    const refused = new Promise((resolve) => socket.once("error", resolve));
    socket.send({ type: "response.create" });
    const error = await refused;
    assert.equal(error.error.code, "project_spend_limit_exceeded");
    assert.match(error.message, /Limit "empty"/);
    socket.close();
  },
};

await run("realtime over TLS, openai", tests);
