"""Dashboards count nothing twice where several guards share a ledger.

A real Prometheus scrapes three guards, which are played here: each counts requests of its own, and shows the limits of
all. Then every query of every dashboard is asked for one guard and for all of them.
"""

import json
import math
import re
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from balancer import free_port
from dashboards import boards, filled, queries
from harness import ROOT, count_failures, end

DOCS = ROOT / "docs"
# How many times the first guard's traffic each guard has.
WEIGHTS = {"a": 1, "b": 2, "c": 4}
BUILT_IN = {"__range": "10s", "__interval": "5s", "__rate_interval": "10s"}
# Prometheus interpolates.
TOLERANCE = 0.1


def documented(path):
    """The metrics that a page names between backticks."""
    return set(re.findall(r"`(spendguard_\w+)[`{]", path))


def of_the_whole_ledger():
    """The metrics that are the same on each guard, as docs/many-guards.md says."""
    rows = [row for row in (DOCS / "many-guards.md").read_text().splitlines() if row.startswith("| the whole ledger |")]
    assert len(rows) == 1, rows
    return documented(rows[0])


def samples(guard, elapsed):
    """The guard's own: its traffic, at so many a second."""
    weight = WEIGHTS[guard]
    grown = weight * elapsed
    for key in ("key_1", "key_2"):
        client = f'project="p",key="{key}"'
        for outcome in ("ok", "refused"):
            yield f'spendguard_requests_total{{{client},endpoint="/chat/completions",outcome="{outcome}"}}', grown
        for basis in ("reported", "assumed"):
            yield f'spendguard_spend_usd_total{{{client},model="gpt-4o",basis="{basis}"}}', grown
        for kind in ("input", "cached_input", "output"):
            yield f'spendguard_tokens_total{{{client},model="gpt-4o",class="{kind}"}}', 1e4 * grown
        yield f'spendguard_key_info{{key="{key}",name="name of {key}"}}', 1
    for reason in ("spend_limit_exceeded", "ledger_unavailable", "overloaded"):
        yield f'spendguard_rejections_total{{limit="{"month" if "spend" in reason else ""}",reason="{reason}"}}', grown
    yield 'spendguard_would_reject_total{limit="month"}', grown
    yield 'spendguard_soft_crossings_total{limit="month"}', grown
    yield 'spendguard_output_bound_hits_total{model="gpt-4o"}', grown
    for state in ("sent", "failed"):
        yield f'spendguard_alerts_total{{channel="email",state="{state}"}}', grown
    for name in ("overrun_usd", "unpriced_requests", "storage_pruned_entries", "config_reload_failures"):
        yield f"spendguard_{name}_total", grown
    histograms = {
        "spendguard_overhead_seconds": ['phase="admission"'],
        "spendguard_upstream_seconds": [f'endpoint="/chat/completions",status="{status}"' for status in ("2xx", "5xx")],
        "spendguard_time_to_first_token_seconds": [""],
        "spendguard_ledger_commit_seconds": [""],
    }
    for name, sets in histograms.items():
        for labels in sets:
            for le, share in (("0.01", 0.5), ("1", 1), ("+Inf", 1)):
                yield f'{name}_bucket{{{labels}{"," if labels else ""}le="{le}"}}', share * grown
            yield f"{name}_count{{{labels}}}", grown
            yield f"{name}_sum{{{labels}}}", grown / 100
    for name in ("inflight_requests", "waiting_requests", "streams_open", "sockets_open", "ledger_queue_entries"):
        yield f"spendguard_{name}", weight
    yield 'spendguard_build_info{version="0.1.0"}', 1
    yield "spendguard_price_sheet_age_seconds", 1000 * weight


def ledger():
    """The same on each guard."""
    meters = {("month", "org", "usd"): (30, 12, 40), ("key", "key_1", "usd"): (9, 5, 8), ("tokens", "p", "tokens"): (700, 600, 900)}
    for (limit, subject, unit), (settled, soft, hard) in meters.items():
        labels = f'{{limit="{limit}",subject="{subject}",unit="{unit}"}}'
        values = {"settled": settled, "held": 1, "soft": soft, "hard": hard, "remaining": max(hard - settled - 1, 0)}
        values |= {"reset_timestamp_seconds": 2e9, "reached_timestamp_seconds": 1.9e9}
        yield from ((f"spendguard_limit_{name}{labels}", value) for name, value in values.items())
    yield "spendguard_in_doubt_usd", 3
    yield "spendguard_credit_balance_usd", 25
    yield from ((f'spendguard_forecast_usd{{bound="{bound}"}}', 40) for bound in ("low", "expected", "high"))
    yield "spendguard_storage_bytes", 5e6
    yield "spendguard_storage_free_bytes", 5e9


class Guard:
    def __init__(self, name, began):
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                lines = [*samples(name, time.monotonic() - began), *ledger()]
                self.send_response(200)
                self.send_header("content-type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write("".join(f"{series} {value}\n" for series, value in lines).encode())

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Prometheus:
    """It scrapes three guards, each under its name."""

    def __enter__(self):
        began = time.monotonic()
        self.guards = {name: Guard(name, began) for name in WEIGHTS}
        self.folder = tempfile.TemporaryDirectory()
        targets = [{"targets": [guard.address], "labels": {"instance": name}} for name, guard in self.guards.items()]
        config = {"global": {"scrape_interval": "1s"}, "scrape_configs": [{"job_name": "spendguard", "static_configs": targets}]}
        path = Path(self.folder.name) / "prometheus.yml"
        path.write_text(json.dumps(config))
        address = f"127.0.0.1:{free_port()}"
        self.base = f"http://{address}/api/v1/query"
        arguments = ["--config.file", str(path), "--storage.tsdb.path", self.folder.name, "--web.listen-address", address]
        self.server = subprocess.Popen(["prometheus", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # Longer than twice the range that is asked for.
        time.sleep(25)
        self.now = time.time() - 1
        return self

    def __exit__(self, *_):
        self.server.terminate()
        self.server.wait(20)
        for guard in self.guards.values():
            guard.server.shutdown()
        self.folder.cleanup()

    def ask(self, query):
        """The values by their labels, all as of one instant."""
        parameters = urllib.parse.urlencode({"query": query, "time": self.now})
        try:
            with urllib.request.urlopen(f"{self.base}?{parameters}", timeout=10) as answer:
                result = json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{query}: {error.read().decode()}") from error
        values = {tuple(sorted(one["metric"].items())): float(one["value"][1]) for one in result}
        return {labels: value for labels, value in values.items() if not math.isnan(value)}


def close(one, other):
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=1e-9)


def expected(query, used, whole, each):
    """Whether a value of all guards fits to the values of each, and how it should."""
    if used <= whole:
        return "the same", lambda value: all(value == one for one in each)
    if "/" in query or "histogram_quantile" in query:
        return "between", lambda value: min(each) * (1 - TOLERANCE) <= value <= max(each) * (1 + TOLERANCE)
    if query.startswith("max(") or query.startswith("max by"):
        return "the most", lambda value: close(value, max(each))
    return "the sum", lambda value: close(value, sum(each))


def compared(prometheus, whole):
    """What is shown wrongly, and how many queries were compared in which way."""
    wrong, counts = [], {}
    for name, board in boards().items():
        variables = {variable["name"]: ".*" for variable in board["templating"]["list"]}
        for what, expression, _ in queries(board):
            used = set(re.findall(r"\bspendguard_\w+", expression))
            used = {re.sub(r"_(bucket|count|sum)$", "", one) if "_seconds_" in one else one for one in used}
            if not used:
                continue
            shown = prometheus.ask(filled(expression, variables | BUILT_IN))
            each = {guard: prometheus.ask(filled(expression, variables | BUILT_IN | {"instance": guard})) for guard in WEIGHTS}
            for labels in {labels for values in (shown, *each.values()) for labels in values}:
                values = [of[labels] for of in each.values() if labels in of]
                how, fits = expected(expression, used, whole, values)
                counts[how] = counts.get(how, 0) + 1
                if labels not in shown or not fits(shown[labels]):
                    wrong.append(f"{name}: {what} {dict(labels)}: {shown.get(labels)} is not {how} of {values}")
    return wrong, counts


def each_metric_is_of_a_guard_or_of_the_whole_ledger():
    every = documented((DOCS / "metrics.md").read_text())
    text = (DOCS / "many-guards.md").read_text()
    rows = [row for row in text.splitlines() if row.startswith(("| the whole ledger |", "| its guard |"))]
    named = [name for row in rows for name in documented(row)]
    assert len(named) == len(set(named)) and set(named) == every, set(named) ^ every


def panels_count_nothing_twice():
    whole = of_the_whole_ledger()
    with Prometheus() as prometheus:
        wrong, counts = compared(prometheus, whole)
    assert not wrong, "\n".join(wrong)
    assert counts.keys() == {"the same", "between", "the most", "the sum"}, counts
    print(f"values for all guards: {counts}")


def main():
    tests = [each_metric_is_of_a_guard_or_of_the_whole_ledger, panels_count_nothing_twice]
    end("guards", tests, count_failures(tests))


if __name__ == "__main__":
    main()
