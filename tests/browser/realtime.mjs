// Pages in a real browser that talk in realtime sessions, with a client secret that their own server has made.
//
// Run by tests/sdk/harness.py, which starts the guard and says where it is.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { chromium } from "playwright-core";

const { ADMIN, ADMIN_TOKEN, PROXY, CHROMIUM = "/usr/bin/chromium" } = process.env;
const MODEL = "gpt-realtime";
const AT = PROXY.replace("http:", "ws:") + "/realtime";

async function api(method, path, body) {
  const headers = { authorization: `Bearer ${ADMIN_TOKEN}`, "content-type": "application/json" };
  const answer = await fetch(`${ADMIN}/guard/v1${path}`, { method, headers, body: body && JSON.stringify(body) });
  assert.ok(answer.ok, `${method} ${path}: ${answer.status}`);
  return answer.json();
}

/** The server that has the key and makes secrets, and the pages that come from it. */
async function site(key) {
  const server = createServer(async (request, response) => {
    if (request.url !== "/secret") return response.setHeader("content-type", "text/html").end("<!doctype html><title>Talk</title>");
    const headers = { authorization: `Bearer ${key}`, "content-type": "application/json" };
    const body = JSON.stringify({ session: { type: "realtime", model: MODEL, instructions: "Be brief." } });
    const made = await fetch(`${PROXY}/realtime/client_secrets`, { method: "POST", headers, body });
    return response.writeHead(made.status, { "content-type": "application/json" }).end(await made.text());
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { server, address: `http://127.0.0.1:${server.address().port}` };
}

/** Runs in a page: says something in a session of its own and waits for the response; how the socket was opened and closed. */
function talk({ at, credential }) {
  return new Promise((resolve) => {
    const socket = new WebSocket(at, ["realtime", `openai-insecure-api-key.${credential}`]);
    const seen = { events: [] };
    const content = [{ type: "input_text", text: "Hello" }];
    socket.onopen = () => { seen.protocol = socket.protocol; };
    socket.onclose = ({ code }) => resolve({ ...seen, code });
    socket.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      seen.events.push(event.type);
      if (event.type === "session.created") {
        socket.send(JSON.stringify({ type: "conversation.item.create", item: { type: "message", role: "user", content } }));
        socket.send(JSON.stringify({ type: "response.create" }));
      }
      if (event.type === "response.done") seen.response = event.response;
      if (event.type === "response.done" || event.type === "error") socket.close(1000);
    };
  });
}

/** The page has had its response, which is booked once, on its key. */
async function answered(seen, key) {
  assert.deepEqual([seen.protocol, seen.response?.status, seen.code], ["realtime", "completed", 1000], JSON.stringify(seen));
  const entries = (await api("GET", "/ledger?limit=100")).data.filter((entry) => entry.object_id === seen.response.id);
  const booked = entries.map((entry) => [entry.key_id, entry.basis, entry.endpoint, entry.usage.output_tokens]);
  assert.deepEqual(booked, [[key.id, "reported", "/v1/realtime", seen.response.usage.output_tokens]]);
  assert.ok(Number(entries[0].cost_usd) > 0);
}

/** The handshake has failed; a page is told no more than that. */
const refused = (seen) => assert.deepEqual([seen.protocol, seen.events, seen.code], [undefined, [], 1006], JSON.stringify(seen));

const browser = await chromium.launch({
  executablePath: CHROMIUM,
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"],
});
const key = await api("POST", "/keys", { name: "pages" });
const { server, address } = await site(key.value);
const page = await browser.newPage();
await page.goto(address);
const made = await page.evaluate(async () => (await fetch("/secret")).json());
const withSecret = { at: AT, credential: made.value };

const tests = {
  async "a client secret opens a session, and its response is booked on the key that made it"() {
    await answered(await page.evaluate(talk, withSecret), key);
  },

  async "a key opens a session as well"() {
    await answered(await page.evaluate(talk, { at: `${AT}?model=${MODEL}`, credential: key.value }), key);
  },

  async "a secret that was changed opens none"() {
    refused(await page.evaluate(talk, { at: AT, credential: `${made.value.slice(0, -1)}!` }));
  },

  async "a secret ends with its key"() {
    await api("DELETE", `/keys/${key.id}`);
    refused(await page.evaluate(talk, withSecret));
  },
};

let failed = 0;
for (const [name, test] of Object.entries(tests)) {
  try {
    await test();
    console.log(`ok      ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${name}\n${error.stack}`);
  }
}
await browser.close();
server.close();
console.log(`realtime, ${MODEL} in Chromium ${browser.version()}: ${Object.keys(tests).length - failed} passed, ${failed} failed`);
process.exitCode = failed > 0 ? 1 : 0;
