#!/usr/bin/env python3
"""A guard whose ledger is large: how soon it serves, and whether it serves as fast as with an empty one.

Makes a database of a million keys and ten million entries of the last 20 days, and a thousand limits, and
keeps it in the given folder. Then starts the release binary on it and on an empty folder, by turns, and puts the
same load on both with wrk. Prints seconds until it is ready, CPU seconds per 1,000 requests, and memory.

    apt-get install nginx wrk && cargo build --release && python3 benches/large.py FOLDER
"""

import hashlib
import pathlib
import random
import sqlite3
import statistics
import sys
import tempfile
import time
import urllib.request

from round_trip import BODY, GUARD, KEY, LIMITS, answering, cpu, guard, load, make_key, nginx, posting

KEYS, ACTIVE, ENTRIES, MORE_LIMITS, ROUNDS = 1_000_000, 1_000, 10_000_000, 997, 3
MODELS = ["gpt-4o", "gpt-4o-mini", "gpt-4.1-nano"]
DAYS = 20


def stop(process):
    process.terminate()
    process.wait()


def fill(folder):
    """Fills a database that a guard has made; the rollups are left for it to rebuild."""
    process = guard(folder, "")
    make_key()
    urllib.request.urlopen(urllib.request.Request(
        f"http://127.0.0.1:{GUARD}/v1/chat/completions", BODY.encode(),
        {"authorization": f"Bearer {KEY}", "content-type": "application/json"},
    )).read()
    stop(process)
    db = sqlite3.connect(folder / "data/spendguard.db", isolation_level=None)
    db.execute("PRAGMA journal_mode = OFF")
    db.execute("PRAGMA synchronous = OFF")
    db.execute("BEGIN")
    names = [column[1] for column in db.execute("PRAGMA table_info(api_key)")]
    key = dict(zip(names, db.execute("SELECT * FROM api_key").fetchone()))
    marks = ", ".join("?" * len(names))

    def keys():
        for number in range(KEYS - 1):
            secret = f"sk-large-{number}".encode()
            row = key | {"id": f"key_{number:020}", "hash": hashlib.sha256(secret).digest(), "name": f"program {number}"}
            yield tuple(row.values())

    db.executemany(f"INSERT INTO api_key VALUES ({marks})", keys())
    names = [column[1] for column in db.execute("PRAGMA table_info(entry)")]
    sample = dict(zip(names, db.execute("SELECT * FROM entry").fetchone()))
    now_ms, chance = sample["admitted_ms"], random.Random(1)
    last_id = sample["id"]
    db.execute("DELETE FROM entry")
    marks = ", ".join("?" * len(names))
    places = {name: at for at, name in enumerate(names)}

    def entries():
        row = list(sample.values())
        span_ms = DAYS * 86_400_000
        for number in range(ENTRIES):
            row[places["id"]] = last_id + number
            row[places["admitted_ms"]] = now_ms - span_ms + number * span_ms // ENTRIES
            row[places["created_ms"]] = row[places["admitted_ms"]] + 900
            # A few keys do most of the work.
            row[places["api_key"]] = f"key_{int(ACTIVE ** chance.random()):020}"
            row[places["model"]] = row[places["priced_as"]] = MODELS[number % 3]
            row[places["object_id"]] = f"chatcmpl-{number}"
            yield row

    db.executemany(f"INSERT INTO entry VALUES ({marks})", entries())
    db.execute("DROP TABLE rollup")
    db.execute("COMMIT")
    db.close()


def many_limits():
    """As many limits as there is likely to be: one for each of the busiest keys."""
    one = '[[limit]]\nname = "own-{0}"\nwindow = "month"\nsoft = ["80%"]\nhard = 1000000\nonly = {{ key = ["key_{0:020}"] }}\n'
    return LIMITS + "".join(one.format(number) for number in range(MORE_LIMITS))


def main():
    large = pathlib.Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as temporary:
        temporary = pathlib.Path(temporary)
        (temporary / "empty").mkdir()
        upstream = nginx(temporary, "upstream", answering(), 1)
        try:
            time.sleep(1)
            if not (large / "data").exists():
                large.mkdir(parents=True, exist_ok=True)
                fill(large)
                began = time.monotonic()
                stop(guard(large, many_limits()))
                print(f"rollups of {ENTRIES:,} entries were rebuilt in {time.monotonic() - began:.1f} s")
            script = posting(temporary)
            rows = {"empty, 3 limits": [], f"{KEYS:,} keys, {ENTRIES:,} entries, {MORE_LIMITS + 3:,} limits": []}
            for number in range(ROUNDS):
                for name, folder, limits in zip(rows, (temporary / "empty", large), (LIMITS, many_limits())):
                    began = time.monotonic()
                    process = guard(folder, limits)
                    ready = time.monotonic() - began
                    try:
                        if number == 0 and folder != large:
                            make_key()
                        load(GUARD, script, 64)
                        before = cpu(process.pid)
                        requests, _, _ = load(GUARD, script, 64)
                        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
                        mib = int(status.split("VmRSS:")[1].split()[0]) / 1024
                        rows[name].append((ready, (cpu(process.pid) - before) / requests * 1000, load(GUARD, script, 1)[2], mib))
                    finally:
                        stop(process)
        finally:
            upstream.terminate()
            upstream.wait()
    print("| ledger | ready after | CPU-s per 1,000, 64 connections | p50, 1 connection | memory |\n|---|---|---|---|---|")
    for name, runs in rows.items():
        ready, seconds, latency, mib = (statistics.median(column) for column in zip(*runs))
        print(f"| {name} | {ready:.2f} s | {seconds:.4f} | {latency:.0f} µs | {mib:.0f} MiB |")


if __name__ == "__main__":
    main()
