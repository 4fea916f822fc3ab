#!/usr/bin/env python3
"""How much memory a guard takes with many WebSockets: idle ones, and after each has had a response.

Starts a fake OpenAI and a guard of the release binary ($SPENDGUARD names another), opens the sockets, asks for a response on
each, and prints the guard's resident memory, in KiB, at each step. It needs the Python package `websockets`.

    cargo build --release && python3 benches/sockets.py [SOCKETS]
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

import websockets

BINARY = os.environ.get("SPENDGUARD", "target/release/spendguard")
SOCKETS = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
TOKEN = "sockets-admin-token-0123456789abcdef"
AT_ONCE = 50


def started(arguments, environment, wanted):
    """A process of the binary, and what it prints behind each of these beginnings."""
    process = subprocess.Popen(
        [BINARY, *arguments], env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    found = {}
    for line in process.stdout:
        found |= {name: line.split("://")[-1].strip() for name in wanted if line.startswith(name)}
        if len(found) == len(wanted):
            return process, found
    raise SystemExit(f"{arguments} has ended")


def new_key(admin):
    headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
    request = urllib.request.Request(f"http://{admin}/guard/v1/keys", b'{"name": "sockets"}', headers)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["value"]


def resident_kib(process):
    with open(f"/proc/{process.pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1])


async def answered(socket):
    await socket.send(json.dumps({"type": "response.create", "model": "gpt-4o-mini", "input": "hello"}))
    async for message in socket:
        kind = json.loads(message)["type"]
        if kind in ("response.completed", "error"):
            assert kind == "response.completed", message
            return


async def measure(guard, proxy, key):
    def opened():
        return websockets.connect(f"ws://{proxy}/v1/responses", additional_headers={"Authorization": f"Bearer {key}"})

    async with opened() as first:
        await answered(first)
    await asyncio.sleep(1)
    none = resident_kib(guard)
    sockets = []
    while len(sockets) < SOCKETS:
        sockets += await asyncio.gather(*[opened() for _ in range(AT_ONCE)])
    await asyncio.sleep(2)
    idle = resident_kib(guard)
    print(f"none {none} KiB, {len(sockets)} idle {idle} KiB: {(idle - none) / len(sockets):.1f} each")
    began = time.monotonic()
    await asyncio.gather(*[answered(socket) for socket in sockets])
    took = time.monotonic() - began
    used = resident_kib(guard)
    print(f"after a response on each, in {took:.1f} s, {used} KiB: {(used - none) / len(sockets):.1f} each")
    await asyncio.gather(*[socket.close() for socket in sockets])


def main():
    fake, places = started(["demo", "--upstream-only"], {}, ["fake OpenAI listening"])
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            "OPENAI_API_KEY": "sk-upstream",
            "SPENDGUARD_ADMIN_TOKEN": TOKEN,
            "SPENDGUARD_SERVER__LISTEN": "127.0.0.1:0",
            "SPENDGUARD_ADMIN__LISTEN": "127.0.0.1:0",
            "SPENDGUARD_STORAGE__PATH": f"{folder}/data",
            "SPENDGUARD_UPSTREAM__BASE_URL": f"http://{places['fake OpenAI listening']}/v1",
        }
        guard, places = started(["serve"], environment, ["proxy listening", "admin listening"])
        try:
            asyncio.run(measure(guard, places["proxy listening"], new_key(places["admin listening"])))
        finally:
            for process in (guard, fake):
                process.terminate()
                process.wait()


if __name__ == "__main__":
    main()
