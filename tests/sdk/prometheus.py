"""A real Prometheus scrapes the guard, and finds its metrics sound."""

import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from harness import House

CONFIG = """
global:
  scrape_interval: 1s
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


def main():
    with House() as house, tempfile.TemporaryDirectory() as folder:
        chat(house)
        text = house.api("GET", "/metrics")
        checked = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, capture_output=True)
        print(checked.stdout, checked.stderr)
        if checked.returncode != 0:
            sys.exit("promtool finds fault with the metrics")
        config = Path(folder) / "prometheus.yml"
        config.write_text(CONFIG.format(target=house.admin.removeprefix("http://")))
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
                if up == 1 and spend:
                    print(f"scraped: up, {spend} USD spent")
                    return
            sys.exit("prometheus did not get the guard's metrics within 30 seconds")
        finally:
            server.terminate()
            server.wait(20)


if __name__ == "__main__":
    main()
