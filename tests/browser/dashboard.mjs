// The dashboard in a real browser: scripts, downloads, widths and the keyboard.
//
// Run by tests/sdk/harness.py, which starts the guard and says where it is.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { chromium } from "playwright-core";

const { ADMIN, ADMIN_TOKEN, PROXY, KEY_DEFAULT, KEY_EMPTY, CHROMIUM = "/usr/bin/chromium" } = process.env;
const PAGES = [
  "/", "/keys", "/keys/new", "/projects", "/projects/new", "/usage", "/limits", "/limits/new", "/billing",
  "/billing/add", "/activity", "/activity/sockets", "/activity/audit", "/settings",
];
const PHONE = { width: 360, height: 740 };

const browser = await chromium.launch({
  executablePath: CHROMIUM,
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"],
});

/** A browser that is signed in; whatever its console complains of fails the test. */
async function visitor(options = {}) {
  const context = await browser.newContext({ locale: "en-US", timezoneId: "Asia/Tokyo", baseURL: ADMIN, ...options });
  const page = await context.newPage();
  page.complaints = [];
  page.on("pageerror", (error) => page.complaints.push(String(error)));
  page.on("console", (line) => line.type() === "error" && page.complaints.push(line.text()));
  page.on("request", (request) => request.url().startsWith(ADMIN) || page.complaints.push(`went to ${request.url()}`));
  await page.goto("/usage");
  assert.equal(new URL(page.url()).pathname, "/login");
  await page.fill("#token", ADMIN_TOKEN);
  await page.press("#token", "Enter");
  await page.waitForURL("**/usage");
  return page;
}

async function chat(key) {
  const body = { model: "gpt-4o-mini", messages: [{ role: "user", content: "hello" }] };
  const headers = { authorization: `Bearer ${key}`, "content-type": "application/json" };
  return fetch(`${PROXY}/chat/completions`, { method: "POST", headers, body: JSON.stringify(body) });
}

const tests = {
  // Before anything else, since they end with the first call.
  async "the first steps lead to a name, a key, a limit and a call"() {
    const page = await visitor();
    await page.goto("/");
    const steps = page.getByRole("region", { name: "Set up your guard" });
    await steps.getByRole("link", { name: "Name your organization" }).click();
    await page.getByLabel("Name").fill("Browsers & Co");
    await page.getByRole("button", { name: "Save" }).click();
    await page.getByText("Saved.").waitFor();
    await page.getByText("Browsers & Co").first().waitFor();
    await page.goto("/");
    await steps.getByRole("button", { name: "Hide these steps" }).click();
    await page.getByRole("heading", { level: 1, name: "Overview" }).waitFor();
    assert.equal(await steps.count(), 0);
    return page;
  },

  async "a new key is copied, works, and is gone after a reload"() {
    const page = await visitor({ permissions: ["clipboard-read", "clipboard-write"] });
    await page.goto("/keys");
    await page.getByRole("link", { name: "Create new secret key" }).click();
    await page.getByLabel("Name").fill("from a browser");
    await page.getByRole("button", { name: "Create new secret key" }).click();
    const secret = await page.locator("#secret").inputValue();
    assert.match(secret, /^sk-guard-\w{46}$/);
    await page.getByRole("button", { name: "Copy" }).click();
    await page.getByText("Copied").waitFor();
    assert.equal(await page.evaluate(() => navigator.clipboard.readText()), secret);
    assert.equal((await chat(secret)).status, 200);
    await page.reload();
    assert.equal(new URL(page.url()).pathname, "/keys");
    await page.goBack();
    assert.ok(!(await page.content()).includes(secret), "going back shows it no more");
    await page.goto("/keys");
    const row = page.getByRole("row", { name: "from a browser" });
    await row.getByRole("link", { name: "Revoke" }).click();
    await page.getByRole("button", { name: "Revoke" }).click();
    await row.getByText("Revoked").waitFor();
    assert.equal((await chat(secret)).status, 401);
    return page;
  },

  async "a limit that is set refuses, and one that is removed does not"() {
    const page = await visitor();
    assert.equal((await chat(KEY_DEFAULT)).status, 200);
    await page.goto("/limits/new");
    await page.getByLabel("Name").fill("from-a-browser");
    await page.getByLabel("Hard limit", { exact: true }).fill("0");
    await page.getByLabel("Soft limit", { exact: true }).fill("");
    await page.getByRole("button", { name: "Save limit" }).click();
    await page.getByRole("heading", { name: "from-a-browser" }).waitFor();
    assert.equal((await chat(KEY_DEFAULT)).status, 429);
    await page.getByRole("link", { name: "Remove from-a-browser" }).click();
    await page.getByRole("button", { name: "Remove" }).click();
    await page.waitForURL("**/limits");
    assert.equal((await chat(KEY_DEFAULT)).status, 200);
    return page;
  },

  async "credit that is added pays for what is asked then"() {
    const page = await visitor();
    await page.goto("/billing");
    await page.getByText("No prepaid credit").waitFor();
    await page.getByRole("link", { name: "Add credit" }).first().click();
    await page.getByLabel("Amount").fill("25");
    await page.getByLabel("Note").fill("from a browser");
    await page.getByRole("button", { name: "Add credit" }).click();
    await page.waitForURL("**/billing");
    await page.getByRole("row", { name: "from a browser" }).getByText("Active").waitFor();
    assert.equal((await chat(KEY_DEFAULT)).status, 200);
    await page.reload();
    const tile = (name) => page.locator("#tiles > div", { hasText: name }).locator("dd").first().textContent();
    assert.equal(await tile("Granted"), "$25.00");
    assert.match(await tile("Spent"), /^\$0\.0*[1-9]/);
    return page;
  },

  async "a project has keys of its own until it is archived"() {
    const page = await visitor();
    await page.goto("/projects");
    await page.getByRole("link", { name: "Create project" }).click();
    await page.getByLabel("Name").fill("made here");
    await page.getByRole("button", { name: "Create project" }).click();
    const row = page.getByRole("row", { name: "made here" });
    await row.getByRole("link", { name: "Key" }).click();
    assert.equal(await page.locator("#project option:checked").textContent(), "made here");
    await page.getByLabel("Name").fill("of the project");
    await page.getByRole("button", { name: "Create new secret key" }).click();
    const secret = await page.locator("#secret").inputValue();
    assert.equal((await chat(secret)).status, 200);
    await page.goto("/projects");
    await row.getByRole("link", { name: "Archive" }).click();
    await page.getByRole("button", { name: "Archive" }).click();
    await row.getByText("Archived").waitFor();
    assert.equal((await chat(secret)).status, 401);
    await page.goto("/activity/audit");
    await page.getByRole("row", { name: "Archived Project made here" }).waitFor();
    return page;
  },

  async "what is spent and refused appears by itself, unless it is paused"() {
    const page = await visitor();
    await page.goto("/activity");
    const newest = () => page.locator("#entries tbody tr").first().getAttribute("id");
    const first = await newest();
    await chat(KEY_DEFAULT);
    await page.waitForFunction((id) => document.querySelector("#entries tbody tr").id !== id, first);
    assert.equal(await page.locator("#entries tr.new").count(), 1, "it is marked as new");
    assert.doesNotMatch(await page.locator("#entries time").first().textContent(), /UTC/);
    const refused = await page.locator("#refusals tbody tr").count();
    assert.equal((await chat(KEY_EMPTY)).status, 429);
    await page.locator("#refusals").getByText("empty").first().waitFor();
    assert.ok((await page.locator("#refusals tbody tr").count()) >= refused);
    await page.getByRole("button", { name: "Live" }).click();
    const before = await newest();
    await chat(KEY_DEFAULT);
    await page.waitForTimeout(7_000);
    assert.equal(await newest(), before, "paused");
    await page.getByRole("button", { name: "Paused" }).click();
    await page.waitForFunction((id) => document.querySelector("#entries tbody tr").id !== id, before);
    return page;
  },

  async "an open socket is listed from the page of its key until it is closed"() {
    const page = await visitor();
    const protocols = ["realtime", `openai-insecure-api-key.${KEY_DEFAULT}`];
    const socket = new WebSocket(`${PROXY.replace("http", "ws")}/realtime?model=gpt-realtime`, protocols);
    await new Promise((opened, failed) => Object.assign(socket, { onopen: opened, onerror: failed }));
    await page.goto("/keys");
    await page.getByRole("link", { name: "1 open WebSocket" }).click();
    await page.getByRole("row", { name: "/v1/realtime" }).waitFor();
    socket.close();
    await page.getByText("No open WebSockets").waitFor();
    return page;
  },

  async "the bars of limits move by themselves"() {
    const page = await visitor();
    const headers = { authorization: `Bearer ${ADMIN_TOKEN}`, "content-type": "application/json" };
    const body = JSON.stringify({ unit: "requests", window: "day", hard: "1000" });
    assert.equal((await fetch(`${ADMIN}/guard/v1/limits/narrow`, { method: "PUT", headers, body })).status, 200);
    for (const [path, part] of [["/", "#gauges"], ["/limits", "#meters-narrow"]]) {
      await page.goto(path);
      const said = page.locator(part);
      const before = await said.textContent();
      await chat(KEY_DEFAULT);
      await page.waitForFunction(([id, text]) => document.getElementById(id).textContent !== text, [await said.getAttribute("id"), before]);
    }
    return page;
  },

  async "usage has its values on hover, in a table and in a file, in the order that is chosen"() {
    const page = await visitor();
    await chat(KEY_DEFAULT);
    await page.goto("/usage");
    await page.getByRole("navigation", { name: "Group by" }).getByRole("link", { name: "Key" }).click();
    await page.waitForURL(/by=key/);
    const today = await page.locator(".plot .bar title").last().textContent();
    assert.match(today, /^\w+ \d+, \d{4}\n\$[\d.]+ · \d+ requests?\n/);
    await page.getByText("Values per day").click();
    const cells = await page.locator("#days tbody tr").last().locator("th, td").allTextContents();
    assert.ok(today.includes(`\n${cells[2]} · ${cells[1]} request`), `${cells} in ${today}`);
    for (const order of ["descending", "ascending"]) {
      await page.locator("#groups").getByRole("link", { name: "Requests" }).click();
      await page.locator(`#groups th[aria-sort="${order}"]`, { hasText: "Requests" }).waitFor();
    }
    const names = await page.locator("#groups tbody th").allTextContents();
    const started = page.waitForEvent("download");
    await page.locator("#groups").getByRole("link", { name: "Download CSV" }).click();
    const download = await started;
    assert.match(download.suggestedFilename(), /^spendguard-usage-key-\d{4}-\d\d-\d\d-to-\d{4}-\d\d-\d\d\.csv$/);
    const lines = (await readFile(await download.path(), "utf8")).split("\r\n");
    assert.equal(lines[0], "\ufeffKey,Requests,Input tokens,Output tokens,Spend (USD),Share");
    assert.deepEqual(lines.slice(1, -1).map((line) => line.split(",")[0]), names);
    return page;
  },

  async "usage is grouped and sorted without scripts, also on a phone"() {
    const page = await visitor({ javaScriptEnabled: false, viewport: PHONE });
    await page.goto("/usage?by=model");
    await page.getByRole("link", { name: "Project", exact: true }).click();
    await page.locator("#groups").getByRole("link", { name: "Input tokens" }).click();
    await page.locator('#groups th[aria-sort="descending"]', { hasText: "Input tokens" }).waitFor();
    assert.match(page.url(), /by=project&.*sort=input&dir=desc/);
    return page;
  },

  async "a page whose session is over leads to the log-in"() {
    const page = await visitor();
    await page.goto("/limits");
    await page.context().clearCookies();
    await page.waitForURL("**/login?next=/limits");
    return page;
  },

  async "a language that is chosen stays chosen"() {
    const page = await visitor();
    await page.goto("/");
    for (const [name, heading] of [["ქართული", "მიმოხილვა"], ["日本語", "概要"], ["Polski", "Przegląd"], ["English", "Overview"]]) {
      await page.getByRole("link", { name }).first().click();
      await page.getByRole("heading", { level: 1, name: heading }).waitFor();
      await page.reload();
      await page.getByRole("heading", { level: 1, name: heading }).waitFor();
    }
    return page;
  },

  async "times are the viewer's own"() {
    const page = await visitor();
    await page.goto("/activity");
    const time = page.locator("td time, th time").first();
    const hour = new Date(await time.getAttribute("datetime")).getUTCHours();
    const shown = await time.textContent();
    assert.match(shown, /^\d\d:\d\d:\d\d$/);
    assert.equal(Number(shown.split(":")[0]), (hour + 9) % 24, shown);
    return page;
  },

  async "no page is wider than a phone, in any language or scheme"() {
    const page = await visitor({ viewport: PHONE, colorScheme: "dark" });
    for (const language of ["en", "ka", "ja", "pl"]) {
      await page.goto(`/language/${language}?next=/`);
      for (const path of PAGES) {
        await page.goto(path);
        const beyond = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
        assert.ok(beyond <= 0, `${language} ${path} is ${beyond} too wide`);
      }
    }
    return page;
  },

  async "all can be read, and signed in to, without scripts"() {
    const page = await visitor({ javaScriptEnabled: false });
    for (const path of PAGES) {
      await page.goto(path);
      assert.equal(await page.locator("h1").count(), 1, path);
    }
    await page.goto("/activity");
    assert.match(await page.locator("time").first().textContent(), /UTC$/);
    return page;
  },

  async "a keyboard reaches the content, the pages, and what can be pressed"() {
    const page = await visitor();
    await page.goto("/keys");
    const reached = [];
    for (let press = 0; press < 20; press += 1) {
      await page.keyboard.press("Tab");
      reached.push(await page.evaluate(() => document.activeElement.textContent.trim()));
    }
    for (const name of ["Skip to content", "Overview", "Settings", "Polski", "Sign out", "+ Create new secret key"]) {
      assert.ok(reached.includes(name), `${name} in ${reached}`);
    }
    return page;
  },
};

let failed = 0;
for (const [name, test] of Object.entries(tests)) {
  try {
    const page = await test();
    assert.deepEqual(page.complaints, []);
    await page.context().close();
    console.log(`ok      ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${name}\n${error.stack}`);
  }
}
await browser.close();
process.exitCode = failed > 0 ? 1 : 0;
