// Adds to pages that can be read without it: times in the viewer's own zone,
// buttons that copy, and parts that are kept up to date.
"use strict";

// Not every browser knows every language, so the page says how a day is written.
const { months, day: form } = document.documentElement.dataset;
const names = months.split(" ");
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;

function day(at) {
  return form.replace("{d}", at.getDate()).replace("{m}", names[at.getMonth()]).replace("{y}", at.getFullYear());
}

function clock(...parts) {
  return parts.map((part) => String(part).padStart(2, "0")).join(":");
}

function localize(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    const minutes = clock(at.getHours(), at.getMinutes());
    const seconds = clock(at.getHours(), at.getMinutes(), at.getSeconds());
    if ("clock" in time.dataset) time.textContent = seconds;
    else time.textContent = "day" in time.dataset ? day(at) : `${day(at)}, ${minutes}`;
    time.title = `${day(at)}, ${seconds} ${zone}`;
  }
}

localize(document);

for (const button of document.querySelectorAll("button[data-copy]")) {
  const from = document.getElementById(button.dataset.copy);
  const status = document.querySelector("[data-status]");
  button.hidden = false;
  button.addEventListener("click", async () => {
    getSelection().selectAllChildren(from);
    from.select?.();
    try {
      await navigator.clipboard.writeText(from.value ?? from.textContent);
    } catch {
      // Without TLS a browser may keep its clipboard shut; the older way works.
      if (!document.execCommand("copy")) return;
    }
    status.textContent = button.dataset.done;
  });
}

for (const field of document.querySelectorAll("input[data-select]")) {
  field.addEventListener("focus", () => field.select());
}

// Live parts: the page is fetched again, and the parts that changed are replaced.
// One fetch at a time, only while the page is visible, and never for more than a
// twentieth of the time, so that many open pages don't keep a guard busy.
const LOOK_EVERY_MS = 3_000;
const LOOK_EVERY_MS_MAX = 60_000;
const ANSWER_MS_MAX = 20_000;
const parts = [...document.querySelectorAll("[data-live]")];
const liveSwitch = document.querySelector("[data-live-switch]");
const seen = new Map();
let wait = LOOK_EVERY_MS;
let timer;
let paused = false;

/** Whether the viewer has focus or a selection in a part: a renewal would take it away. */
function isInUse(part) {
  const selection = getSelection();
  const at = document.activeElement;
  return (at !== part && part.contains(at)) || (!selection.isCollapsed && part.contains(selection.anchorNode));
}

function renew(part, fresh) {
  if (!fresh || seen.get(part) === fresh.innerHTML || isInUse(part)) return;
  const known = new Set([...part.querySelectorAll("tr[id]")].map((row) => row.id));
  seen.set(part, fresh.innerHTML);
  part.replaceChildren(...document.importNode(fresh, true).childNodes);
  for (const row of part.querySelectorAll("tr[id]")) {
    row.classList.toggle("new", known.size > 0 && !known.has(row.id));
  }
  localize(part);
}

async function look() {
  const began = performance.now();
  try {
    const answer = await fetch(location.href, { signal: AbortSignal.timeout(ANSWER_MS_MAX) });
    // The session is over: the page itself leads to the log-in.
    if (answer.redirected) return location.reload();
    if (!answer.ok) throw new Error(answer.status);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (!paused) for (const part of parts) renew(part, fresh.getElementById(part.id));
    wait = Math.min(Math.max(LOOK_EVERY_MS, 20 * (performance.now() - began)), LOOK_EVERY_MS_MAX);
  } catch {
    wait = Math.min(2 * wait, LOOK_EVERY_MS_MAX);
  }
  later();
}

function later() {
  clearTimeout(timer);
  if (!paused && !document.hidden) timer = setTimeout(look, wait);
}

if (liveSwitch && parts.length > 0) {
  const live = liveSwitch.textContent;
  liveSwitch.hidden = false;
  liveSwitch.addEventListener("click", () => {
    paused = !paused;
    liveSwitch.classList.toggle("paused", paused);
    liveSwitch.textContent = paused ? liveSwitch.dataset.paused : live;
    later();
  });
  document.addEventListener("visibilitychange", later);
  later();
}
