#!/usr/bin/env python3
"""How long the dashboard's pages and the admin API's reads take with a large ledger.

Makes, as large.py does, a ledger of ten million entries of the last 20 days, here of a thousand keys, with 200 limits, in the
given folder; starts the release binary on it ($SPENDGUARD names another), waits until days are summed up, and asks for each page a
few times, one at a time. Prints for each the milliseconds it took, the median and the longest, the processor's time, which other work on the
machine changes less, and at last the guard's memory.

    apt-get install nginx && cargo build --release && python3 benches/pages.py FOLDER
"""

import http.client
import pathlib
import re
import statistics
import sys
import tempfile
import time
import urllib.parse

import large
from round_trip import ADMIN, TOKEN, answering, cpu, guard, nginx

ROUNDS = 5
# Nothing is written meanwhile, so there is nothing else to wait for.
QUIET_MAX_S = 600
large.KEYS, large.MORE_LIMITS = large.ACTIVE, 197


class Browser:
    """Asks for pages as one who has signed in, or for the API with the token."""

    def __init__(self):
        self.connection = http.client.HTTPConnection("127.0.0.1", ADMIN, timeout=300)
        self.cookies = {}
        form = self.get("/login")[1]
        tie = re.search(r'name="csrf" value="([^"]+)"', form).group(1)
        fields = urllib.parse.urlencode({"token": TOKEN, "csrf": tie, "next": "/"})
        status, _ = self.ask("POST", "/login", fields, {"content-type": "application/x-www-form-urlencoded"})
        assert status == 303, status

    def get(self, path):
        return self.ask("GET", path, None, {})

    def ask(self, method, path, body, headers):
        headers["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        headers["authorization"] = f"Bearer {TOKEN}"
        self.connection.request(method, path, body, headers)
        answer = self.connection.getresponse()
        for name, value in answer.getheaders():
            if name.lower() == "set-cookie":
                name, value = value.split(";")[0].split("=", 1)
                self.cookies[name] = value
        return answer.status, answer.read().decode()


def paths():
    """Every page, and every read of both APIs that looks at the ledger."""
    now = int(time.time())
    day = 86_400
    yield from ["/", "/keys", "/limits", "/activity", "/settings"]
    yield from (f"/usage?by={by}" for by in ("model", "key", "project", "user", "day"))
    yield from ["/usage?by=model&key=key_00000000000000000007", "/activity?key=key_00000000000000000007"]
    yield from ["/guard/v1/limits", "/guard/v1/keys?limit=100", "/guard/v1/ledger?limit=100", "/guard/v1/forecast", "/guard/v1/alerts"]
    yield from (f"/guard/v1/usage?group_by={by}" for by in ("key", "model", "user", "day", "endpoint", "tag"))
    usage = "/v1/organization/usage/completions"
    yield f"{usage}?start_time={now - 31 * day}&limit=31&group_by=model&group_by=project_id"
    yield f"{usage}?start_time={now - 7 * day}&bucket_width=1h&limit=24&group_by=model"
    yield f"{usage}?start_time={now - 7 * day}&bucket_width=1h&limit=168"
    yield f"{usage}?start_time={now - 3_600}&bucket_width=1m"
    yield f"/v1/organization/costs?start_time={now - 180 * day}&limit=180&group_by=line_item"
    yield f"/v1/organization/costs?start_time={now - 7 * day}&group_by=api_key_id"
    yield from ["/v1/organization/projects", "/v1/organization/spend_alerts", "/v1/organization/audit_logs"]
    yield from ["/guard/v1/limits/org-month/explain", "/metrics"]


def settle(process):
    """Waits until the guard does nothing by itself any more."""
    began = time.monotonic()
    while time.monotonic() - began < QUIET_MAX_S:
        before = cpu(process.pid)
        time.sleep(3)
        if cpu(process.pid) - before < 0.1:
            break
    return time.monotonic() - began


def main():
    folder = pathlib.Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as temporary:
        upstream = nginx(pathlib.Path(temporary), "upstream", answering(), 1)
        try:
            time.sleep(1)
            if not (folder / "data").exists():
                folder.mkdir(parents=True, exist_ok=True)
                large.fill(folder)
                large.stop(guard(folder, large.many_limits()))
            began = time.monotonic()
            process = guard(folder, large.many_limits())
            try:
                print(f"ready after {time.monotonic() - began:.1f} s, at rest after {settle(process):.0f} s more\n")
                print("| read | median ms | longest ms | CPU ms | kB |\n|---|---|---|---|---|")
                browser = Browser()
                for path in paths():
                    took, used = [], cpu(process.pid)
                    for _ in range(ROUNDS):
                        began = time.monotonic()
                        status, text = browser.get(path)
                        took.append((time.monotonic() - began) * 1_000)
                        if status != 200:
                            print(f"{path} was answered with {status}: {text[:300]}", file=sys.stderr)
                        if took[-1] > 5_000:
                            break
                    shown = re.sub(r"start_time=\d+&", "", path)
                    used = (cpu(process.pid) - used) / len(took) * 1_000
                    print(f"| `{shown}` | {statistics.median(took):.0f} | {max(took):.0f} | {used:.0f} | {len(text) // 1_000} |", flush=True)
                status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
                print(f"\nmemory {int(status.split('VmRSS:')[1].split()[0]) / 1024:.0f} MiB")
            finally:
                large.stop(process)
        finally:
            upstream.terminate()
            upstream.wait()


if __name__ == "__main__":
    main()
