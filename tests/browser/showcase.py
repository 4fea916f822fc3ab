"""A guard with a month of history behind it, for pictures of the dashboard.

    showcase.py COMMAND ARGUMENT...

runs a command with the guard's places in the environment, as harness.py does. The
history is written into the ledger's tables while no guard runs; the next one makes
its sums from it.
"""

import contextlib
import os
import random
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from websockets.sync.client import connect

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "sdk"))
import harness

CONFIG = """
[server]
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
[organization]
name = "Northwind Robotics"
[time]
zone = "Europe/Warsaw"
[[limit]]
name = "monthly-budget"
window = "month"
soft = ["50%", "80%"]
hard = 500
[[limit]]
name = "requests-per-minute"
per = "key"
unit = "requests"
window = "minute"
hard = 600
[[alerts.webhook]]
url = "https://hooks.northwind.example/spendguard"
secret = { env = "SHOWCASE_WEBHOOK_SECRET" }
"""
PROJECTS = {"assistant": "Support assistant", "search": "Search", "research": "Research"}
# Key, its project, its model, requests on a working day, and the dearest of them in USD.
KEYS = [
    ("support-bot", "assistant", "gpt-5", 34, 0.38),
    ("mobile app", "assistant", "gpt-5-mini", 40, 0.09),
    ("indexer", "search", "text-embedding-3-small", 22, 0.012),
    ("query rewriter", "search", "gpt-4o-mini", 30, 0.04),
    ("Ada’s notebook", "research", "gpt-5", 9, 0.92),
]
DAYS = 31
LIMITS = {
    "assistant-day": {"per": "project", "only": {"project": ["assistant"]}, "window": "day", "soft": ["80%"], "hard": "8"},
    "research-month": {"per": "project", "only": {"project": ["research"]}, "window": "month", "soft": ["75%"], "hard": "120"},
    "each-key-week": {"per": "key", "window": "week", "hard": "60", "mode": "shadow"},
}


class Showcase(harness.House):
    """A house with the projects, keys and limits of a small company."""

    def __init__(self):
        super().__init__(environment={"SHOWCASE_WEBHOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"})
        self.config = CONFIG

    def furnish(self):
        for project, name in PROJECTS.items():
            self.api("POST", "/guard/v1/projects", {"id": project, "name": name})
        made = {name: self.make_key(name=name, project_id=project) for name, project, *_ in KEYS}
        self.keys = {name: key["value"] for name, key in made.items()}
        self.guard_process.terminate()
        self.guard_process.wait(30)
        self.write_history({name: key["id"] for name, key in made.items()})
        self.start_guard()
        self.api("POST", "/guard/v1/credits", {"amount_usd": "400", "note": "the winter's purchase"})
        for name, rule in LIMITS.items():
            self.api("PUT", f"/guard/v1/limits/{name}", {"unit": "usd", **rule})

    def write_history(self, ids):
        chance, now = random.Random(7), time.time()
        rows = []
        for day in range(DAYS):
            noon = now - (DAYS - 1 - day) * 86_400
            rest = 0.3 if time.gmtime(noon).tm_wday >= 5 else 1
            for name, project, model, count, dear in KEYS:
                for _ in range(int(count * rest * chance.uniform(0.7, 1.2))):
                    at = noon - chance.uniform(0, 20_000)
                    rows.append((at, project, ids[name], model, int(dear * chance.uniform(0.2, 1) * 1e9), chance))
        rows.sort(key=lambda row: row[0])
        database = sqlite3.connect(Path(self.folder.name) / "data" / "spendguard.db")
        columns = [column[1] for column in database.execute("PRAGMA table_info(entry)")]
        nullable = {"ttft_ms", "corrects", "note", "upstream_request_id", "object_id", "other_quantities"}
        texts = {"kind", "project", "api_key", "end_user", "tags", "endpoint", "model", "priced_as", "served_model"}
        texts |= {"tier", "basis", "price_version"}
        for number, (at, project, key, model, cost, chance) in enumerate(rows, 1):
            entry = {column: None if column in nullable else "" if column in texts else 0 for column in columns}
            path = "/v1/embeddings" if "embedding" in model else "/v1/chat/completions"
            tokens = {"input": chance.randint(400, 9_000), "output": 0 if "embedding" in model else chance.randint(80, 2_400)}
            entry |= {"id": number, "kind": "settle", "created_ms": int(at * 1000), "admitted_ms": int(at * 1000), "project": project}
            entry |= {"api_key": key, "endpoint": path, "model": model, "priced_as": model, "served_model": model}
            entry |= {"tier": "default", "basis": "reported", "cost_nano": cost, "status": 200, "duration_ms": 900, **tokens}
            marks = ", ".join("?" * len(columns))
            database.execute(f"INSERT INTO entry ({', '.join(columns)}) VALUES ({marks})", [entry[c] for c in columns])
        database.execute("DROP TABLE rollup")
        database.commit()
        database.close()

    def chat(self, key, model="gpt-4o-mini"):
        body = '{"model": "%s", "max_completion_tokens": 400, "messages": [{"role": "user", "content": "Where is my order?"}]}' % model
        headers = {"authorization": f"Bearer {self.keys[key]}", "content-type": "application/json"}
        request = urllib.request.Request(self.proxy + "/v1/chat/completions", data=body.encode(), headers=headers)
        # Refusals belong to what the pages show.
        with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=20) as answer:
            answer.read()

    def call(self):
        """A realtime session that stays open."""
        headers = {"authorization": f"Bearer {self.keys['support-bot']}", "x-spendguard-tags": "run=call-17,team=support"}
        return connect(self.proxy.replace("http", "ws") + "/v1/realtime?model=gpt-realtime", additional_headers=headers)


if __name__ == "__main__":
    with Showcase() as house:
        for _ in range(3):
            for key in ("support-bot", "mobile app", "query rewriter"):
                house.chat(key)
        # One project is over its limit for a while.
        rule = LIMITS["assistant-day"] | {"unit": "usd", "hard": "0.00001"}
        house.api("PUT", "/guard/v1/limits/assistant-day", rule)
        for _ in range(4):
            house.chat("support-bot")
        house.chat("indexer", "gpt-4o-mini")
        house.api("PUT", "/guard/v1/limits/assistant-day", LIMITS["assistant-day"] | {"unit": "usd", "hard": "14"})
        places = {"ADMIN": house.admin, "ADMIN_TOKEN": harness.TOKEN, "PROXY": house.proxy + "/v1"}
        with house.call():
            sys.exit(subprocess.run(sys.argv[1:], env={**os.environ, **places}, timeout=300).returncode)
