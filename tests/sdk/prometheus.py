"""A real Prometheus scrapes the guard, finds its metrics sound, and evaluates the rules that are shipped."""

import json
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from harness import ROOT, House

FOLDER = ROOT / "deploy" / "prometheus"
RULES = FOLDER / "alerts.yml"
# As the shipped configuration wants it, so that /metrics asks for a token.
OUTSIDE_LOOPBACK = {"SPENDGUARD_ADMIN__LISTEN": "0.0.0.0:0"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def chat(house, key="default", headers=None, **fields):
    """Asks and gives the status; reads the answer to its end."""
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]} | fields
    headers = {"authorization": f"Bearer {house.keys[key]}", "content-type": "application/json"} | (headers or {})
    request = urllib.request.Request(house.proxy + "/v1/chat/completions", data=json.dumps(body).encode(), headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            answer.read()
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def promtool(*arguments, **options):
    checked = subprocess.run(["promtool", *arguments], text=True, capture_output=True, **options)
    print(checked.stdout, checked.stderr)
    if checked.returncode != 0:
        sys.exit(f"promtool {arguments[0]} {arguments[1]} finds fault")


class Prometheus:
    """The shipped configuration, pointed at a guard and in a hurry."""

    def __init__(self, house):
        self.house = house

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        folder = Path(self.folder.name)
        key = self.house.api("POST", "/v1/organization/admin_api_keys", {"name": "prometheus", "role": "read_only"})
        (folder / "token").write_text(key["value"])
        config = folder / "prometheus.yml"
        config.write_text(self.pointed((FOLDER / "prometheus.yml").read_text()))
        promtool("check", "config", str(config))
        address = f"127.0.0.1:{free_port()}"
        arguments = ["--config.file", str(config), "--storage.tsdb.path", str(folder), "--web.listen-address", address]
        self.base = f"http://{address}"
        self.server = subprocess.Popen(["prometheus", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return self

    def pointed(self, text):
        for place, other in {
            "guard:8081": self.house.admin.removeprefix("http://"),
            "/run/secrets/metrics-token": str(Path(self.folder.name) / "token"),
            "[alerts.yml]": f"[{RULES}]",
            "15s": "1s",
        }.items():
            assert place in text, place
            text = text.replace(place, other)
        return text

    def __exit__(self, *_):
        self.server.terminate()
        self.server.wait(20)
        self.folder.cleanup()

    def ask(self, path, **parameters):
        query = urllib.parse.urlencode(parameters, doseq=True)
        try:
            with urllib.request.urlopen(f"{self.base}/api/v1/{path}?{query}", timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:  # It is still starting.
                raise
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def value(self, query):
        result = self.ask("query", query=query)["result"]
        return float(result[0]["value"][1]) if result else None

    def until(self, seconds, what, is_so):
        """Waits for it; before the server is up, too."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if is_so():
                    return
            except OSError:
                pass
            time.sleep(0.5)
        sys.exit(f"within {seconds} seconds Prometheus has not seen: {what}")

    def evaluated(self):
        """The rules that have been evaluated: names, and of those which fire."""
        rules = [rule for group in self.ask("rules")["groups"] for rule in group["rules"]]
        bad = [rule for rule in rules if rule["health"] == "err"]
        assert not bad, bad
        known = {rule["name"] for rule in rules if rule["health"] == "ok"}
        return known, {rule["name"] for rule in rules if rule["state"] == "firing"}


def the_health_check_tells_a_living_guard_from_none(house):
    """The container's own, at the place of this guard."""
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    command = json.loads(re.search(r"^HEALTHCHECK .*\\\n +CMD (.+)$", text, re.MULTILINE)[1])
    port = house.admin.rsplit(":", 1)[1]
    for at, expected in ((port, 0), (str(free_port()), 1)):
        said = subprocess.run([word.replace("8081", at) for word in command], stderr=subprocess.DEVNULL)
        assert said.returncode == expected, said


def main():
    promtool("check", "rules", str(RULES))
    promtool("check", "config", str(FOLDER / "scrape.yml"))
    promtool("test", "rules", str(ROOT / "tests" / "prometheus" / "alerts_test.yml"))
    with House(environment=OUTSIDE_LOOPBACK) as house, Prometheus(house) as prometheus:
        the_health_check_tells_a_living_guard_from_none(house)
        assert chat(house) == 200
        promtool("check", "metrics", input=house.api("GET", "/metrics"))
        prometheus.until(30, "what was spent", lambda: prometheus.value("up") == 1 and prometheus.value("spendguard_spend_usd_total"))
        spend = prometheus.value("spendguard_spend_usd_total")

        # Once must be enough.
        assert chat(house, "empty") == 429

        def all_evaluated():
            known, firing = prometheus.evaluated()
            return len(known) == len(re.findall("- alert:", RULES.read_text())) and "SpendguardHardLimitRefuses" in firing

        prometheus.until(30, "all rules evaluated, and a limit that refuses", all_evaluated)
        known, firing = prometheus.evaluated()
        print(f"scraped: up, {spend} USD spent; {len(known)} rules evaluated, firing: {sorted(firing)}")


if __name__ == "__main__":
    main()
