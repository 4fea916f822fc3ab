// What a browser adds to pages that can be read without it: times in the
// viewer's own zone, and a button that copies a new key.
"use strict";

// Not every browser knows every language, so the page says how a day is written.
const { months, day: form } = document.documentElement.dataset;
const names = months.split(" ");
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;

function day(at) {
  return form.replace("{d}", at.getDate()).replace("{m}", names[at.getMonth()]).replace("{y}", at.getFullYear());
}

function clock(at) {
  return [at.getHours(), at.getMinutes()].map((part) => String(part).padStart(2, "0")).join(":");
}

for (const time of document.querySelectorAll("time[datetime]")) {
  const at = new Date(time.dateTime);
  if (Number.isNaN(at.getTime())) continue;
  time.textContent = "day" in time.dataset ? day(at) : `${day(at)}, ${clock(at)}`;
  time.title = `${day(at)}, ${clock(at)} ${zone}`;
}

for (const button of document.querySelectorAll("button[data-copy]")) {
  const field = document.getElementById(button.dataset.copy);
  const status = document.querySelector("[data-status]");
  button.hidden = false;
  button.addEventListener("click", async () => {
    field.select();
    try {
      await navigator.clipboard.writeText(field.value);
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
