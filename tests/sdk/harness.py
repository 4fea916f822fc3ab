"""A guard in front of the fake OpenAI, as processes, for tests of real clients.

Run by itself it starts both, makes keys, and runs a command with their places in
the environment: harness.py COMMAND ARGUMENT...
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BINARY = os.environ.get("SPENDGUARD_BIN", str(ROOT / "target" / "debug" / "spendguard"))
TOKEN = "sdk-test-admin-token-0123456789"
CONFIG = """
[server]
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
[[project]]
id = "empty"
name = "Empty"
[[project]]
id = "small"
name = "Small"
[[project]]
id = "fast"
name = "Fast"
[[limit]]
name = "organization-month"
window = "month"
hard = 100
[[limit]]
name = "empty"
per = "project"
only = { project = ["empty"] }
window = "month"
hard = 0
[[limit]]
name = "small"
per = "project"
only = { project = ["small"] }
window = "month"
hard = 0.000001
[[limit]]
name = "fast"
per = "key"
only = { project = ["fast"] }
unit = "requests"
window = "minute"
hard = 600
[[fuse]]
name = "runaway"
only = { key = ["looping"] }
usd = 0.000001
within = "10m"
"""


def start(arguments, environment, prefix, binary=BINARY):
    """Starts a program and returns the process and the lines up to PREFIX."""
    process = subprocess.Popen(
        [binary, *arguments], env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if prefix in line:
            return process, lines
    raise SystemExit(f"{arguments} ended before it was ready: {lines}")


def address(lines, prefix):
    return next(line.split()[-1] for line in lines if line.startswith(prefix))


class House:
    """The fake, the guard, and a key in each project."""

    def __init__(self, config="", environment=None):
        """Adds to the configuration and to the guard's environment."""
        self.config, self.environment = CONFIG + config, environment or {}

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        self.start_upstream()
        self.start_guard()
        self.furnish()
        return self

    def start_upstream(self):
        self.fake_process, lines = start(["demo", "--upstream-only"], {}, "listening")
        self.fake = address(lines, "fake OpenAI")

    def furnish(self):
        """Makes a key in each project."""
        self.keys = {p: self.make_key(name=p, project_id=p)["value"] for p in ("default", "empty", "small", "fast")}
        self.keys["narrow"] = self.make_key(name="narrow", models=["gpt-5*"])["value"]

    def start_guard(self):
        config = Path(self.folder.name) / "spendguard.toml"
        config.write_text(self.config)
        environment = {
            "OPENAI_API_KEY": "sk-upstream-of-the-test",
            "SPENDGUARD_ADMIN_TOKEN": TOKEN,
            "SPENDGUARD_STORAGE__PATH": str(Path(self.folder.name) / "data"),
            "SPENDGUARD_UPSTREAM__BASE_URL": self.fake + "/v1",
            "SPENDGUARD_UPSTREAM__FORWARD_HEADERS": "x-fake-*",
        } | self.environment
        self.guard_process, lines = start(["serve", "--config", str(config)], environment, "OPENAI_BASE_URL")
        self.proxy, self.admin = address(lines, "proxy listening"), address(lines, "admin listening")

    def kill_and_restart(self):
        """As kill -9 does, with nothing said before."""
        self.guard_process.kill()
        self.guard_process.wait()
        self.start_guard()

    def cli(self, *arguments):
        """Runs a command against the guard: its exit code and what it printed."""
        environment = os.environ | {"SPENDGUARD_ADMIN_URL": self.admin, "SPENDGUARD_ADMIN_TOKEN": TOKEN}
        done = subprocess.run([BINARY, *arguments], env=environment, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr

    def __exit__(self, *_):
        for process in (self.guard_process, self.fake_process):
            process.terminate()
            process.wait(30)
        self.folder.cleanup()

    def run(self, command):
        """Runs a command with the places of this house in its environment; its exit code."""
        places = {"PROXY": self.proxy + "/v1", "DIRECT": self.fake + "/v1", "ADMIN": self.admin, "ADMIN_TOKEN": TOKEN}
        places |= {f"KEY_{name.upper()}": key for name, key in self.keys.items()}
        return subprocess.run(command, env={**os.environ, **places}, timeout=300).returncode

    def api(self, method, path, body=None):
        data = json.dumps(body).encode() if body is not None else None
        headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
        request = urllib.request.Request(self.admin + path, data=data, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            text = answer.read().decode()
        return json.loads(text) if text.startswith("{") else text

    def make_key(self, **fields):
        return self.api("POST", "/guard/v1/keys", fields)

    def blown(self):
        """A key whose fuse has blown at its first request."""
        key = self.make_key(name="looping")
        ask = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
        headers = {"authorization": f"Bearer {key['value']}", "content-type": "application/json"}
        request = urllib.request.Request(self.proxy + "/v1/chat/completions", json.dumps(ask).encode(), headers)
        urllib.request.urlopen(request, timeout=20).read()
        deadline = time.monotonic() + 10
        while all(stop["subject"] != key["id"] for stop in self.api("GET", "/guard/v1/stops")["data"]):
            assert time.monotonic() < deadline, "the fuse has not blown"
            time.sleep(0.05)
        return key

    def refusals(self):
        """How many requests the guard has refused."""
        lines = self.api("GET", "/metrics").splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("spendguard_rejections_total{"))


def run(name, tests):
    """Runs each test against one house, says how it went, and ends."""
    with House() as house:
        failed = count_failures(tests, house)
    end(name, tests, failed)


def count_failures(tests, *given):
    failed = 0
    for test in tests:
        try:
            test(*given)
            print(f"ok      {test.__name__}")
        except Exception:
            failed += 1
            print(f"FAILED  {test.__name__}")
            traceback.print_exc()
    return failed


def end(name, tests, failed):
    print(f"{name}: {len(tests) - failed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    with House() as house:
        sys.exit(house.run(sys.argv[1:]))
