// What the tests of the official Node package share: clients, the refusals that they see, and what is booked.
import assert from "node:assert/strict";
import OpenAI from "openai";

process.env.OPENAI_BASE_URL = process.env.PROXY;

export const ask = { model: "gpt-4o-mini", messages: [{ role: "user", content: "hello" }] };
export const client = (key) => new OpenAI({ apiKey: process.env[`KEY_${key}`] ?? key });

/** A client of upstream itself. */
export const direct = () => new OpenAI({ baseURL: process.env.DIRECT, apiKey: "sk-direct-0123456789" });

/** What the admin API answers; a body is posted, unless by another method. */
export async function api(path, body, method = body ? "POST" : "GET") {
  const headers = { authorization: `Bearer ${process.env.ADMIN_TOKEN}`, "content-type": "application/json" };
  const options = { method, body: body && JSON.stringify(body) };
  const text = await (await fetch(process.env.ADMIN + path, { headers, ...options })).text();
  return text.startsWith("{") ? JSON.parse(text) : text;
}

/** How many requests the guard has refused. */
export async function refusals() {
  const lines = (await api("/metrics")).split("\n").filter((line) => line.startsWith("spendguard_rejections_total{"));
  return lines.reduce((sum, line) => sum + Number(line.split(" ").pop()), 0);
}

/** The call throws that error with that code, after one request. */
export async function refused(kind, code, call) {
  const before = await refusals();
  const error = await call().then(() => assert.fail("nothing was thrown"), (error) => error);
  assert.equal(error.constructor, kind, String(error));
  assert.equal(error.code, code);
  assert.equal((await refusals()) - before, 1, "one request");
  return error;
}

/** There is no such object, as far as a client sees. */
export const gone = (call) => assert.rejects(call, OpenAI.NotFoundError);

/** The entries of an object. */
export async function entries(id) {
  return (await api("/guard/v1/ledger?limit=100")).data.filter((entry) => entry.object_id === id);
}

/** An amount in nano-dollars. */
export const nano = (usd) => Math.round(Number(usd) * 1e9);

const onAll = async (amount) => nano((await api("/guard/v1/limits/organization-month")).meters[0][amount]);

/** What is settled on the limit of all, and what is held, in nano-dollars. */
export const settled = () => onAll("settled");
export const held = () => onAll("held");

/** How many requests upstream has had. */
export const sent = async () => (await (await fetch(process.env.DIRECT.replace("/v1", "/__stats"))).json()).requests;
