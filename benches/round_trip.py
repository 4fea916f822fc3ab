#!/usr/bin/env python3
"""Whole processes side by side: nginx as a plain proxy, and spendguard with everything on.

Both stand in front of the same upstream, an nginx that answers a chat completion of 400 bytes, and get the
same load from wrk: 64 connections as fast as they can, then one connection for the latency. Prints a table of medians;
CPU is user and system time of the proxy's processes. Everything runs on loopback.

    apt-get install nginx wrk && cargo build --release && python3 benches/round_trip.py
"""

import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROUNDS, SECONDS = 3, 4
ROOT = pathlib.Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")
UPSTREAM, PLAIN, GUARD, ADMIN = 9810, 9811, 9812, 9813
TOKEN, KEY = "round-trip-admin-token-0123456789", "sk-round-trip-key"
ANSWER = json.dumps({
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1795000000, "model": "gpt-4o-mini",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello to all the world."}}],
    "usage": {"prompt_tokens": 120, "completion_tokens": 20, "total_tokens": 140},
})
BODY = json.dumps({
    "model": "gpt-4o-mini", "max_tokens": 100,
    "messages": [{"role": "user", "content": "Answer in plain words, and say so when you do not know. " * 12}],
})
LIMITS = """
[[limit]]
name = "org-month"
window = "month"
soft = ["50%"]
hard = 1000000
[[limit]]
name = "project-day"
per = "project"
window = "day"
hard = 1000000
[[limit]]
name = "key-tokens-hour"
per = "key"
unit = "tokens"
window = "hour"
hard = 1000000000000
"""


def nginx(folder, name, server, workers):
    """Starts an nginx of its own; returns its process."""
    home = folder / name
    home.mkdir()
    paths = "".join(f"{kind}_temp_path {home}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    conf = home / "nginx.conf"
    conf.write_text(
        f"worker_processes {workers}; daemon off; pid {home}/pid; error_log {home}/error.log;"
        f"events {{ worker_connections 4096; }} http {{ access_log off; keepalive_requests 100000000; {paths} {server} }}"
    )
    return subprocess.Popen(["nginx", "-c", conf], stderr=subprocess.DEVNULL)


def cpu(pid):
    """CPU seconds of a process and its children."""
    total = 0
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(stat.parent.name) == pid or int(fields[1]) == pid:
            total += int(fields[11]) + int(fields[12])
    return total / TICKS


def load(port, script, connections):
    """One run of wrk: requests, requests a second, and the median latency in µs."""
    out = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--latency", "-s", script, f"http://127.0.0.1:{port}/v1/chat/completions"],
        capture_output=True, text=True, check=True,
    ).stdout
    if "Non-2xx" in out or "Socket errors" in out:
        sys.exit(f"not all was answered with 200:\n{out}")
    value, unit = re.search(r"50%\s+([\d.]+)(us|ms)", out).groups()
    requests = int(re.search(r"(\d+) requests in", out).group(1))
    return requests, float(re.search(r"Requests/sec:\s+([\d.]+)", out).group(1)), float(value) * (1000 if unit == "ms" else 1)


def answering():
    """The server block of an nginx that stands for the API."""
    return f"server {{ listen 127.0.0.1:{UPSTREAM}; default_type application/json; location / {{ return 200 '{ANSWER}'; }} }}"


def posting(folder):
    """Writes the script by which wrk sends chat completions; returns its path."""
    script = folder / "post.lua"
    script.write_text(
        f'wrk.method = "POST"\nwrk.body = [==[{BODY}]==]\n'
        f'wrk.headers["authorization"] = "Bearer {KEY}"\nwrk.headers["content-type"] = "application/json"\n'
    )
    return script


def guard(folder, limits):
    """Starts spendguard on a folder; returns its process once it serves."""
    config = folder / "spendguard.toml"
    config.write_text(limits)
    environment = os.environ | {
        "OPENAI_API_KEY": "sk-upstream", "SPENDGUARD_ADMIN_TOKEN": TOKEN,
        "SPENDGUARD_SERVER__LISTEN": f"127.0.0.1:{GUARD}", "SPENDGUARD_ADMIN__LISTEN": f"127.0.0.1:{ADMIN}",
        "SPENDGUARD_UPSTREAM__BASE_URL": f"http://127.0.0.1:{UPSTREAM}/v1", "SPENDGUARD_STORAGE__PATH": str(folder / "data"),
    }
    binary = os.environ.get("SPENDGUARD", ROOT / "target/release/spendguard")
    process = subprocess.Popen([binary, "serve", "--config", config], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    for line in process.stdout:
        if b"OPENAI_BASE_URL" in line:
            return process
    sys.exit("spendguard did not start")


def make_key():
    """Makes the key that the script sends."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{ADMIN}/guard/v1/keys", json.dumps({"name": "bench", "secret": KEY}).encode(),
        {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"},
    )
    urllib.request.urlopen(request).read()


def main():
    for program in ("nginx", "wrk"):
        if not shutil.which(program):
            sys.exit(f"{program} is missing: apt-get install nginx wrk")
    rows = {name: [] for name in ("upstream alone", "nginx", "spendguard")}
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        script = posting(folder)
        proxy = (
            f"upstream u {{ server 127.0.0.1:{UPSTREAM}; keepalive 128; keepalive_requests 100000000; }} server {{ listen 127.0.0.1:{PLAIN};"
            'location / { proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ""; } }'
        )
        running = [nginx(folder, "upstream", answering(), 1), nginx(folder, "plain", proxy, 2), guard(folder, LIMITS)]
        try:
            make_key()
            time.sleep(1)
            for _ in range(ROUNDS):
                for name, port, process in zip(rows, (UPSTREAM, PLAIN, GUARD), running):
                    before = cpu(process.pid)
                    requests, rate, _ = load(port, script, 64)
                    seconds = cpu(process.pid) - before
                    rows[name].append((rate, seconds / requests * 1000, load(port, script, 1)[2]))
        finally:
            for process in running:
                process.terminate()
                process.wait()
    direct = statistics.median(row[2] for row in rows["upstream alone"])
    print("| | requests/s, 64 connections | CPU-s per 1,000 | added latency, 1 connection, p50 |\n|---|---|---|---|")
    for name in ("nginx", "spendguard"):
        rate, seconds, latency = (statistics.median(column) for column in zip(*rows[name]))
        rates, spread = zip(*((row[0], row[1]) for row in rows[name]))
        print(
            f"| {name} | {rate:,.0f} ({min(rates):,.0f}–{max(rates):,.0f}) | {seconds:.4f} ({min(spread):.4f}–{max(spread):.4f}) "
            f"| {latency - direct:.0f} µs |"
        )


if __name__ == "__main__":
    main()
