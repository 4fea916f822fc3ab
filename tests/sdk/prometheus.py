"""A real Prometheus scrapes the guard, finds its metrics sound, and evaluates the rules that are shipped."""

import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from harness import ROOT, House

RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"

CONFIG = """
global:
  scrape_interval: 1s
  evaluation_interval: 1s
rule_files: [{rules}]
scrape_configs:
  - job_name: spendguard
    static_configs:
      - targets: ["{target}"]
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def chat(house):
    body = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}).encode()
    headers = {"authorization": f"Bearer {house.keys['default']}", "content-type": "application/json"}
    request = urllib.request.Request(house.proxy + "/v1/chat/completions", data=body, headers=headers)
    urllib.request.urlopen(request, timeout=20).read()


def value(base, query):
    with urllib.request.urlopen(f"{base}/api/v1/query?query={query}", timeout=5) as answer:
        result = json.load(answer)["data"]["result"]
    return float(result[0]["value"][1]) if result else None


def promtool(*arguments, **options):
    checked = subprocess.run(["promtool", *arguments], text=True, capture_output=True, **options)
    print(checked.stdout, checked.stderr)
    if checked.returncode != 0:
        sys.exit(f"promtool {arguments[0]} {arguments[1]} finds fault")


def evaluated(base):
    """The rules that have been evaluated: names, and of those which fire."""
    with urllib.request.urlopen(f"{base}/api/v1/rules", timeout=5) as answer:
        rules = [rule for group in json.load(answer)["data"]["groups"] for rule in group["rules"]]
    bad = [rule for rule in rules if rule["health"] == "err"]
    assert not bad, bad
    known = {rule["name"] for rule in rules if rule["health"] == "ok"}
    return known, {rule["name"] for rule in rules if rule["state"] == "firing"}


def refused(house):
    headers = {"authorization": f"Bearer {house.keys['empty']}", "content-type": "application/json"}
    body = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}).encode()
    request = urllib.request.Request(house.proxy + "/v1/chat/completions", data=body, headers=headers)
    try:
        urllib.request.urlopen(request, timeout=20)
    except urllib.error.HTTPError as error:
        assert error.code == 429, error


def main():
    promtool("check", "rules", str(RULES))
    promtool("test", "rules", str(ROOT / "tests" / "prometheus" / "alerts_test.yml"))
    with House() as house, tempfile.TemporaryDirectory() as folder:
        chat(house)
        text = house.api("GET", "/metrics")
        promtool("check", "metrics", input=text)
        config = Path(folder) / "prometheus.yml"
        config.write_text(CONFIG.format(rules=RULES, target=house.admin.removeprefix("http://")))
        base = f"127.0.0.1:{free_port()}"
        arguments = ["--config.file", str(config), "--storage.tsdb.path", folder, "--web.listen-address", base]
        server = subprocess.Popen(["prometheus", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            for _ in range(60):
                time.sleep(0.5)
                try:
                    up, spend = value(f"http://{base}", "up"), value(f"http://{base}", "spendguard_spend_usd_total")
                except OSError:
                    continue
                if not (up == 1 and spend):
                    continue
                # A counter grows only after it has been scraped once.
                refused(house)
                known, firing = evaluated(f"http://{base}")
                if len(known) == RULES.read_text().count("- alert:") and "SpendguardHardLimitRefuses" in firing:
                    print(f"scraped: up, {spend} USD spent; {len(known)} rules evaluated, firing: {sorted(firing)}")
                    return
            sys.exit("prometheus did not get the guard's metrics, or not all rules, within 30 seconds")
        finally:
            server.terminate()
            server.wait(20)


if __name__ == "__main__":
    main()
