// The official Node package's client.admin, unchanged, against the guard.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { run } from "./run.mjs";

const ask = { model: "gpt-4o-mini", messages: [{ role: "user", content: "hello" }] };
const month = { currency: "USD", interval: "month" };
const email = { type: "email", recipients: ["finance@example.com"], subject_prefix: "[spend]" };
const adminWith = (adminAPIKey) =>
  new OpenAI({ baseURL: `${process.env.ADMIN}/v1`, adminAPIKey, apiKey: "unused", maxRetries: 0 }).admin.organization;
const org = adminWith(process.env.ADMIN_TOKEN);
const client = (apiKey) => new OpenAI({ baseURL: process.env.PROXY, apiKey, maxRetries: 0 });

async function refused(kind, call) {
  const error = await call().then(() => assert.fail("nothing was thrown"), (error) => error);
  assert.equal(error.constructor, kind, String(error));
  assert.ok(error.code && error.error.message, String(error));
  return error;
}

async function all(pages) {
  const found = [];
  for await (const one of pages) found.push(one);
  return found;
}

async function projectWithKey(name) {
  const project = await org.projects.create({ name });
  const account = await org.projects.serviceAccounts.create(project.id, { name: "bot" });
  return { project, account, key: account.api_key.value };
}

const tests = {
  async a_spend_limit_is_set_read_and_removed_and_refuses() {
    await refused(OpenAI.NotFoundError, () => org.spendLimit.retrieve());
    const made = await org.spendLimit.update({ threshold_amount: 10_000, ...month });
    assert.equal(made.object, "organization.spend_limit");
    assert.deepEqual(await org.spendLimit.retrieve(), made);
    assert.ok((await org.spendLimit.delete()).deleted);
    const { project, key } = await projectWithKey("Bounded");
    const limit = await org.projects.spendLimit.update(project.id, { threshold_amount: 1, ...month });
    assert.deepEqual(await org.projects.spendLimit.retrieve(project.id), limit);
    const dear = { ...ask, model: "o1-pro", max_completion_tokens: 1_000 };
    const error = await refused(OpenAI.BadRequestError, () => client(key).chat.completions.create(dear));
    assert.equal(error.code, "request_cost_exceeds_limit");
    assert.ok((await org.projects.spendLimit.delete(project.id)).deleted);
  },
  async spend_alerts_are_made_changed_listed_over_pages_and_removed() {
    const made = [];
    for (const threshold_amount of [1, 2, 3]) {
      made.push(await org.spendAlerts.create({ threshold_amount, notification_channel: email, ...month }));
    }
    assert.deepEqual((await all(org.spendAlerts.list({ limit: 2 }))).map((alert) => alert.id), made.map((alert) => alert.id));
    const changed = await org.spendAlerts.update(made[0].id, { threshold_amount: 777, notification_channel: email, ...month });
    assert.deepEqual(await org.spendAlerts.retrieve(made[0].id), changed);
    assert.equal(changed.threshold_amount, 777);
    for (const alert of made) assert.ok((await org.spendAlerts.delete(alert.id)).deleted);
    assert.deepEqual(await all(org.spendAlerts.list()), []);
  },
  async projects_keys_and_service_accounts_are_objects_of_the_package() {
    const { project, account, key } = await projectWithKey("Chatbot");
    assert.equal((await org.projects.update(project.id, { name: "Chat" })).name, "Chat");
    assert.equal((await org.projects.retrieve(project.id)).name, "Chat");
    assert.ok((await all(org.projects.list({ limit: 2 }))).some((one) => one.id === project.id));
    assert.ok((await client(key).chat.completions.create(ask)).choices.length);
    const [listed] = await all(org.projects.apiKeys.list(project.id));
    assert.ok(listed.redacted_value.endsWith(key.slice(-4)) && !("value" in listed));
    assert.deepEqual(await org.projects.apiKeys.retrieve(listed.id, { project_id: project.id }), listed);
    assert.ok((await org.projects.apiKeys.update(listed.id, { project_id: project.id, expires_in_seconds: 90 })).expires_at);
    assert.ok((await org.projects.apiKeys.delete(listed.id, { project_id: project.id })).deleted);
    await refused(OpenAI.AuthenticationError, () => client(key).models.list());
    assert.ok((await org.projects.serviceAccounts.delete(account.id, { project_id: project.id })).deleted);
    assert.equal((await org.projects.archive(project.id)).status, "archived");
  },
  async rate_limits_and_model_permissions_hold() {
    const { project, key } = await projectWithKey("Paced");
    const call = () => client(key).chat.completions.create(ask);
    await org.projects.rateLimits.updateRateLimit("rl-gpt-4o-mini", { project_id: project.id, max_requests_per_1_minute: 1 });
    assert.deepEqual((await all(org.projects.rateLimits.listRateLimits(project.id))).map((rate) => rate.model), ["gpt-4o-mini"]);
    await call();
    await refused(OpenAI.RateLimitError, call);
    const denied = await org.projects.modelPermissions.update(project.id, { mode: "deny_list", model_ids: ["gpt-4o-mini"] });
    assert.deepEqual(await org.projects.modelPermissions.retrieve(project.id), denied);
    await refused(OpenAI.PermissionDeniedError, call);
    assert.ok((await org.projects.modelPermissions.delete(project.id)).deleted);
  },
  async admin_keys_open_the_api_and_a_read_only_one_changes_nothing() {
    const made = await org.adminAPIKeys.create({ name: "ci", expires_in_seconds: 600 });
    assert.ok((await adminWith(made.value).projects.list()).data.length);
    const looking = await org.adminAPIKeys.create({ name: "auditor", role: "read_only" });
    assert.ok((await adminWith(looking.value).projects.list()).data.length);
    await refused(OpenAI.PermissionDeniedError, () => adminWith(looking.value).projects.create({ name: "x" }));
    assert.deepEqual((await all(org.adminAPIKeys.list({ limit: 1 }))).map((key) => key.id), [made.id, looking.id]);
    for (const key of [made, looking]) assert.ok((await org.adminAPIKeys.delete(key.id)).deleted);
    await refused(OpenAI.AuthenticationError, () => adminWith(made.value).projects.list());
  },
  async usage_and_costs_are_those_of_the_ledger() {
    const { project, key } = await projectWithKey("Counted");
    const answer = await client(key).chat.completions.create(ask);
    const of = { start_time: Math.floor(Date.now() / 86_400_000) * 86_400, project_ids: [project.id] };
    const [result] = (await org.usage.completions({ ...of, group_by: ["project_id", "model"] })).data[0].results;
    assert.deepEqual([result.project_id, result.num_model_requests], [project.id, 1]);
    assert.deepEqual([result.input_tokens, result.output_tokens], [answer.usage.prompt_tokens, answer.usage.completion_tokens]);
    const [cost] = (await org.usage.costs(of)).data[0].results;
    assert.ok(cost.amount.value > 0 && cost.amount.currency === "usd");
    const [grouped] = (await org.usage.completions({ ...of, group_by: ["user_id", "service_tier"] })).data[0].results;
    assert.deepEqual([grouped.user_id, grouped.service_tier, grouped.num_model_requests], [null, null, 1]);
  },
  async audit_logs_tell_of_all_that() {
    const project = await org.projects.create({ name: "Watched" });
    await org.projects.update(project.id, { name: "Seen" });
    const logs = await all(org.auditLogs.list({ project_ids: [project.id], limit: 1 }));
    assert.deepEqual(logs.map((log) => log.type), ["project.updated", "project.created"]);
    assert.deepEqual(logs[0]["project.updated"].changes_requested, { name: "Seen" });
  },
  async what_the_guard_has_not_is_an_error() {
    await refused(OpenAI.NotFoundError, () => org.users.list());
    await refused(OpenAI.NotFoundError, () => org.projects.retrieve("nobody"));
    await refused(OpenAI.AuthenticationError, () => adminWith("sk-admin-wrong").projects.list());
  },
};

await run("client.admin of openai", tests);
