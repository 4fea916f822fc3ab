// What a browser adds to pages that can be read without it: times in the
// viewer's own zone, and a button that copies a new key.
"use strict";

const language = document.documentElement.lang;
const moment = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" });
const precise = new Intl.DateTimeFormat(language, { dateStyle: "full", timeStyle: "long" });

for (const time of document.querySelectorAll("time[datetime]")) {
  const at = new Date(time.dateTime);
  if (Number.isNaN(at.getTime())) continue;
  time.textContent = moment.format(at);
  time.title = precise.format(at);
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
