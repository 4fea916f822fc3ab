// The official Node package, unchanged, on WebSockets of /v1/responses.
import assert from "node:assert/strict";
import { ResponsesWS } from "openai/resources/responses/ws";
import { run } from "./run.mjs";
import { client, entries, held } from "./support.mjs";

const ASK = { type: "response.create", model: "gpt-4o-mini", input: "hello" };

/** The events of `count` responses on a socket, or the error that ends the first. */
function answered(socket, requests) {
  return new Promise((resolve) => {
    const events = [];
    let left = requests.length;
    const listen = (event) => {
      events.push(event);
      if (["response.completed", "response.failed", "error"].includes(event.type)) left -= 1;
      if (left === 0) {
        socket.off("event", listen);
        resolve(events);
      }
    };
    socket.on("event", listen);
    for (const request of requests) socket.send({ ...ASK, ...request });
  });
}

const tests = {
  async turns_on_a_socket_are_booked_each_and_go_on_from_the_one_before() {
    const [socket, before] = [new ResponsesWS(client("DEFAULT")), await held()];
    let previous_response_id;
    for (let turn = 0; turn < 3; turn += 1) {
      const events = await answered(socket, [{ store: false, previous_response_id }]);
      const done = events.at(-1);
      assert.deepEqual([events[0].type, done.type], ["response.created", "response.completed"]);
      previous_response_id = done.response.id;
      const [entry, ...more] = await entries(previous_response_id);
      assert.deepEqual([entry.basis, entry.endpoint, more], ["reported", "/v1/responses", []]);
      assert.equal(entry.usage.output_tokens, done.response.usage.output_tokens);
    }
    socket.close();
    assert.equal(await held(), before);
  },

  async lanes_of_a_socket_run_beside_each_other() {
    const socket = new ResponsesWS(client("DEFAULT"));
    const events = await answered(socket, [{ stream_id: "a" }, { stream_id: "b" }]);
    socket.close();
    const done = events.filter((event) => event.type === "response.completed");
    assert.deepEqual(done.map((event) => event.stream_id).sort(), ["a", "b"]);
    for (const { response } of done) assert.equal((await entries(response.id)).length, 1);
  },

  async a_refusal_is_an_event_with_the_limit_and_the_socket_stays_open() {
    const socket = new ResponsesWS(client("EMPTY"));
    const errors = [];
    socket.on("error", (error) => errors.push(error));
    for (let time = 0; time < 2; time += 1) {
      const [event] = await answered(socket, [{}]);
      assert.deepEqual([event.type, event.status], ["error", 429]);
      assert.deepEqual([event.error.type, event.error.code], ["insufficient_quota", "project_spend_limit_exceeded"]);
      assert.match(event.error.message, /Limit "empty"/);
    }
    socket.close();
    assert.equal(errors.length, 2);
  },

  async a_wrong_key_opens_no_socket() {
    const socket = new ResponsesWS(client("sk-guard-wrong"), { maxRetries: 0 });
    const error = await new Promise((resolve) => socket.on("error", resolve));
    assert.match(error.message, /401/);
    socket.close();
  },
};

await run("sockets, openai", tests);
