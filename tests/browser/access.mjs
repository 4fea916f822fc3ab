// Whether the dashboard can be used by everyone: axe-core looks at every page, in
// light and dark, on a phone and on a desk.
//
// Run by tests/sdk/harness.py, which starts the guard and says where it is.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const { ADMIN, ADMIN_TOKEN, CHROMIUM = "/usr/bin/chromium" } = process.env;
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const PAGES = [
  "/", "/keys", "/keys/new", "/projects", "/projects/new", "/usage", "/usage?by=key", "/limits", "/limits/new",
  "/billing", "/billing/add", "/activity", "/activity/sockets", "/activity/audit", "/settings", "/limits/edit?name=nothing",
];
/** Pages that links of others lead to, each by how its path begins. */
const LED_TO = ["/keys/revoke?", "/projects/rename?", "/projects/archive?", "/limits/edit?", "/limits/remove?", "/limits/stop?"];
const SIZES = { phone: { width: 360, height: 740 }, desk: { width: 1280, height: 800 } };

const browser = await chromium.launch({
  executablePath: CHROMIUM,
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"],
});

/** What is seriously wrong with the page that is open. */
async function wrong(page) {
  await page.evaluate(AXE);
  const found = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  const serious = found.violations.filter(({ impact }) => impact === "serious" || impact === "critical");
  return serious.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.slice(0, 3).map((node) => node.html).join(" … ")}`);
}

let [looked, failed] = [0, 0];

async function look(page, where) {
  looked += 1;
  for (const problem of await wrong(page)) {
    failed += 1;
    console.log(`FAILED  ${where}: ${problem}`);
  }
}

for (const colorScheme of ["light", "dark"]) {
  for (const [size, viewport] of Object.entries(SIZES)) {
    const context = await browser.newContext({ baseURL: ADMIN, colorScheme, viewport, locale: "en-US" });
    const page = await context.newPage();
    await page.goto("/login");
    await look(page, `/login ${colorScheme} ${size}`);
    await page.fill("#token", ADMIN_TOKEN);
    await page.press("#token", "Enter");
    await page.waitForURL("**/");
    const paths = [...PAGES];
    for (const path of paths) {
      await page.goto(path);
      await look(page, `${path} ${colorScheme} ${size}`);
      for (const start of LED_TO) {
        const link = page.locator(`a[href^="${start}"]`).first();
        const isNew = !paths.some((known) => known.startsWith(start) && known !== "/limits/edit?name=nothing");
        if (isNew && (await link.count()) > 0) paths.push(await link.getAttribute("href"));
      }
    }
    await context.close();
  }
}

// A page that is surely bad shows that bad pages are seen.
const page = await browser.newPage();
await page.setContent('<html lang="en"><title>x</title><main><h1>x</h1><input><p style="color:#ccc;background:#fff">hard to read</p></main></html>');
const seen = (await wrong(page)).map((problem) => problem.split(":")[0]).sort();
if (seen.join() !== "color-contrast,label") {
  failed += 1;
  console.log(`FAILED  a bad page is not seen to be bad: ${seen}`);
}
await browser.close();
console.log(`access: ${looked} pages, ${failed} serious violations`);
process.exitCode = failed > 0 ? 1 : 0;
