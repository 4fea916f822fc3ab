// Agents of the official Node package, run by agent.py, which compares what they cost.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { run } from "./run.mjs";

const TURNS = 30;
const model = "gpt-5-mini";
const look = { name: "look", description: "Looks at a place.", parameters: { type: "object", properties: { place: { type: "string" } } } };
const hosted = [{ type: "function", ...look }, { type: "web_search" }, { type: "code_interpreter", container: { type: "auto" } }];
const sdk = new OpenAI({ baseURL: process.env.PROXY, apiKey: process.env.KEY_DEFAULT, maxRetries: 0 });

/** The last response of a stream, and the items that were done by then. */
async function streamed(events) {
  const items = [];
  let last;
  for await (const event of events) {
    if (event.type === "response.output_item.done") items.push(event.item);
    last = event;
  }
  assert.equal(last.type, "response.completed");
  return [last.response, items];
}

/** The message of a streamed chat completion. */
async function gathered(chunks) {
  const message = { role: "assistant", content: "", tool_calls: [] };
  for await (const { choices } of chunks) {
    const { delta } = choices[0];
    message.content += delta.content ?? "";
    for (const { index, id, function: part } of delta.tool_calls ?? []) {
      message.tool_calls[index] ??= { id, type: "function", function: { name: part.name, arguments: "" } };
      message.tool_calls[index].function.arguments += part.arguments ?? "";
    }
  }
  return message;
}

const tests = {
  async an_agent_that_continues_each_answer_finishes() {
    let [previous, input, called] = [undefined, "Look around.", 0];
    for (let turn = 0; turn < TURNS; turn += 1) {
      const ask = { model, tools: hosted, input, ...(previous && { previous_response_id: previous }) };
      const whole = turn % 2 ? undefined : await sdk.responses.create(ask);
      const [answer, items] = whole ? [whole, whole.output] : await streamed(await sdk.responses.create({ ...ask, stream: true }));
      const calls = items.filter((item) => item.type === "function_call");
      called += calls.length;
      const outputs = calls.map(({ call_id }) => ({ type: "function_call_output", call_id, output: "It is sunny." }));
      [previous, input] = [answer.id, outputs.length ? outputs : "Go on."];
    }
    assert.ok(called > 5, `the function was called ${called} times`);
  },
  async an_agent_that_sends_its_whole_history_finishes() {
    const messages = [{ role: "user", content: "Look around." }];
    let called = 0;
    for (let turn = 0; turn < TURNS; turn += 1) {
      const ask = { model, messages, tools: [{ type: "function", function: look }] };
      const message = turn % 2
        ? await gathered(await sdk.chat.completions.create({ ...ask, stream: true }))
        : (await sdk.chat.completions.create(ask)).choices[0].message;
      const calls = message.tool_calls ?? [];
      called += calls.length;
      messages.push({ role: "assistant", content: message.content ?? "", ...(calls.length && { tool_calls: calls }) });
      for (const { id } of calls) messages.push({ role: "tool", tool_call_id: id, content: "It is sunny." });
      if (!calls.length) messages.push({ role: "user", content: "Go on." });
    }
    assert.ok(called > 5, `the function was called ${called} times`);
  },
};

await run("openai agents", tests);
