// The pictures of the README, in the folder that is given.
//
// Run by showcase.py, which starts a guard that has something to show.

import { mkdirSync, statSync } from "node:fs";
import { chromium } from "playwright-core";

const { ADMIN, ADMIN_TOKEN, CHROMIUM = "/usr/bin/chromium" } = process.env;
const [folder] = process.argv.slice(2);
const DESK = { width: 1180, height: 760 };
const PHONE = { width: 390, height: 800 };
const PICTURES = [
  { name: "overview", path: "/", viewport: DESK, colorScheme: "light" },
  { name: "usage", path: "/usage", viewport: DESK, colorScheme: "dark" },
  { name: "limits", path: "/limits", viewport: DESK, colorScheme: "light" },
  { name: "keys", path: "/keys", viewport: DESK, colorScheme: "light" },
  { name: "activity", path: "/activity", viewport: DESK, colorScheme: "dark" },
  { name: "phone", path: "/", viewport: PHONE, colorScheme: "light" },
];
const BYTES_MAX = 150_000;

mkdirSync(folder, { recursive: true });
const browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox", "--disable-gpu"] });
for (const { name, path, viewport, colorScheme } of PICTURES) {
  const context = await browser.newContext({ baseURL: ADMIN, viewport, colorScheme, locale: "en-US", timezoneId: "Europe/Warsaw" });
  const page = await context.newPage();
  await page.goto("/login");
  await page.fill("#token", ADMIN_TOKEN);
  await page.press("#token", "Enter");
  await page.waitForURL("**/");
  await page.goto(path);
  const file = `${folder}/${name}.png`;
  await page.screenshot({ path: file });
  const bytes = statSync(file).size;
  console.log(`${file}: ${bytes} bytes`);
  if (bytes > BYTES_MAX) process.exitCode = 1;
  await context.close();
}
await browser.close();
