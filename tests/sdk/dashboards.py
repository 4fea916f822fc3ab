"""Every query of every Grafana dashboard returns series from a real Prometheus, beside a guard that has seen it all.

Grafana's part is played here: its variables are filled in as it does, and queries go to the endpoints that it asks.
"""

import json
import math
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

from harness import ROOT, House
from prometheus import OUTSIDE_LOOPBACK, Prometheus, chat, free_port
from support import client

FOLDER = ROOT / "deploy" / "grafana"
ALL = ".*"
# Grafana's own variables, for a minute of scrapes each second.
BUILT_IN = {"__range": "1m", "__interval": "15s", "__rate_interval": "15s"}
# Series that are not the guard's: Prometheus makes them.
NOT_OURS = {"up", "ALERTS", "scrape_duration_seconds"}

CONFIG = """
[upstream]
response_timeout = "1s"
[guard]
hold_wait = "10ms"
open_requests_max = 4
[[limit]]
name = "key-month"
per = "key"
window = "month"
soft = ["1%"]
hard = 0.00001
mode = "shadow"
[[limit]]
name = "tokens-month"
per = "project"
unit = "tokens"
window = "month"
soft = ["10%"]
hard = 20
mode = "shadow"
[[limit]]
name = "roomy"
per = "key"
window = "month"
soft = [0.00001]
hard = 1
[[limit]]
name = "day"
unit = "requests"
window = "day"
soft = [12]
[[limit]]
name = "roomier"
per = "project"
window = "month"
soft = ["80%"]
hard = 50
[[alerts.slack]]
url = { env = "NOBODY_LISTENS" }
"""


def yesterday():
    """What makes a program believe that it is the day before."""
    shown = subprocess.run(["faketime", "-f", "-1d", "env"], capture_output=True, text=True, check=True).stdout
    return dict(line.split("=", 1) for line in shown.splitlines() if line.startswith(("LD_PRELOAD=", "FAKETIME=")))


def stream(house, chunks, delay_ms):
    fields = {"stream": True, "max_completion_tokens": 50}
    return chat(house, headers={"x-fake-chunks": str(chunks), "x-fake-chunk-delay-ms": str(delay_ms)}, **fields)


def turn_on_a_socket(house):
    with client(house, "default").responses.connect() as connection:
        connection.response.create(model="gpt-4o-mini", input="hello")
        assert any(event.type == "response.completed" for event in connection)


def begin_job(house):
    """A background response that does not end."""
    body = json.dumps({"model": "gpt-4o-mini", "input": "hi", "background": True, "max_output_tokens": 50}).encode()
    headers = {"authorization": f"Bearer {house.keys['default']}", "content-type": "application/json",
               "x-fake-background-reads": "1000000"}
    with urllib.request.urlopen(urllib.request.Request(house.proxy + "/v1/responses", body, headers), timeout=20):
        pass


def everything(house):
    """One of each: what is well, refused, cut, counted, assumed, held, and too much at once."""
    house.api("POST", "/guard/v1/credits", {"amount_usd": "25"})
    assert chat(house) == 200
    assert stream(house, 5, 10) == 200
    turn_on_a_socket(house)
    assert chat(house, headers={"x-fake-no-usage": "1"}) == 200
    assert chat(house, headers={"x-fake-status": "500"}) == 500
    assert chat(house, headers={"x-fake-hang": "1"}) == 504
    begin_job(house)
    assert chat(house, "empty") == 429
    assert chat(house, model="gpt-nobody-knows") == 403
    held = [threading.Thread(target=stream, args=(house, 40, 100)) for _ in range(4)]
    for thread in held:
        thread.start()
    time.sleep(0.5)
    status = chat(house)
    assert status == 503, status
    for thread in held:
        thread.join()


def boards():
    return {path.name: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def filled(text, values):
    """As Grafana does it: $name and ${name}, and what is no variable stays."""
    return re.sub(r"\$\{?(\w+)\}?", lambda found: values.get(found[1], found[0]), text)


def options(prometheus, variable, values):
    """The values that a variable offers."""
    query = filled(variable["query"]["query"], values)
    if labelled := re.fullmatch(r"label_values\((.+), *(\w+)\)", query):
        return prometheus.ask(f"label/{labelled[2]}/values", **{"match[]": labelled[1]})
    asked = re.fullmatch(r"query_result\((.+)\)", query)[1]
    lines = []
    for series in prometheus.ask("query", query=asked)["result"]:
        labels = dict(series["metric"])
        pairs = ",".join(f'{name}="{value}"' for name, value in labels.items() if name != "__name__")
        lines.append(f"{labels.get('__name__', '')}{{{pairs}}} {series['value'][1]} {series['value'][0] * 1000}")
    pattern = variable["regex"].strip("/").replace("(?<", "(?P<")
    found = [re.search(pattern, line) for line in lines]
    assert all(found), (variable["name"], lines)
    assert all(one["text"] for one in found), lines
    return [one["value"] for one in found]


def queries(board):
    """Every query: what it is for, its text, and whether it asks for one instant."""
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield f"{panel['title']} {target['refId']}", target["expr"], target["instant"]
    for annotation in board["annotations"]["list"]:
        yield annotation["name"], annotation["expr"], False


def series(prometheus, expression, instant):
    """The series that have a number somewhere."""
    if instant:
        result = prometheus.ask("query", query=expression)["result"]
        return [one for one in result if not math.isnan(float(one["value"][1]))]
    now = time.time()
    result = prometheus.ask("query_range", query=expression, start=now - 60, end=now, step=1)["result"]
    return [one for one in result if any(not math.isnan(float(value)) for _, value in one["values"])]


def silent(prometheus, name, board, values):
    """The queries of a board that return nothing. What falls back to zero must not need to."""
    for what, text, instant in queries(board):
        expression = filled(text, values | BUILT_IN)
        assert "$" not in expression.replace('"$1"', ""), expression
        if not series(prometheus, expression.replace(" or vector(0)", ""), instant):
            yield f"{name}: {what}: {expression}"


def unknown(board, exported):
    """Series that are asked for, but that the guard has not."""
    text = "\n".join(expression for _, expression, _ in queries(board))
    named = set(re.findall(r"\b([a-zA-Z_]\w*)\{", text))
    bare = {re.sub(r"_(bucket|count|sum)$", "", name) for name in named}
    return {name for name in bare if name not in exported} - NOT_OURS


def chosen(prometheus, board, house):
    """Each variable with a value of its own, found as Grafana finds it."""
    key = next(key for key in house.api("GET", "/guard/v1/keys")["data"] if key["name"] == "default")
    wanted = {"project": "default", "key": key["id"]}
    values = {variable["name"]: ALL for variable in board["templating"]["list"]}
    for variable in board["templating"]["list"]:
        name = variable["name"]
        if variable["type"] == "datasource":
            continue
        offered = options(prometheus, variable, values)
        assert offered, f"{board['title']}: nothing to choose for {name}"
        # A limit of its own would leave out what only others have.
        values[name] = ALL if name == "limit" else wanted.get(name, offered[0])
        assert values[name] in (ALL, *offered), (name, offered)
        values[name] = values[name] if values[name] == ALL else re.escape(values[name]).replace("\\", "\\\\")
    return values


def close_to_the_ledger(prometheus, house, board, since):
    """What was spent since the start, first requests included, but for what Prometheus extrapolates."""
    text = next(expression for what, expression, _ in queries(board) if what == "Spent A")
    values = {variable["name"]: ALL for variable in board["templating"]["list"]}
    shown = prometheus.value(filled(text, values | BUILT_IN))
    entries = house.api("GET", f"/guard/v1/ledger?limit=1000&since={since}")["data"]
    settled = sum(float(entry["cost_usd"]) for entry in entries)
    assert abs(shown / settled - 1) < 0.1, f"Grafana would show {shown} USD of {settled}"


def main():
    environment = OUTSIDE_LOOPBACK | {"NOBODY_LISTENS": f"http://127.0.0.1:{free_port()}/"}
    with House(CONFIG, environment | yesterday()) as house:
        everything(house)
        time.sleep(0.5)
        house.environment = environment
        house.kill_and_restart()
        # Forecasts are made at the start, and then every five minutes, for those who have spent in the present
        # window: on the first day of a month, no key has yet.
        assert chat(house) == 200
        time.sleep(1.1)
        house.kill_and_restart()
        since = int(time.time())
        with Prometheus(house) as prometheus:
            everything(house)
            spent = lambda: (prometheus.value("sum(spendguard_spend_usd_total)") or 0) > 0
            prometheus.until(30, "what was spent", spent)
            # A counter grows only after it has been scraped once.
            everything(house)
            exported = set(re.findall(r"^# TYPE (\w+)", house.api("GET", "/metrics"), re.MULTILINE))
            found = boards()
            missing = []

            def all_there():
                missing[:] = [name for board in found.values() for name in unknown(board, exported)]
                for name, board in found.items():
                    everywhere = {variable["name"]: ALL for variable in board["templating"]["list"]}
                    missing.extend(silent(prometheus, name, board, everywhere))
                    missing.extend(silent(prometheus, name, board, chosen(prometheus, board, house)))
                return not missing

            try:
                prometheus.until(20, "series for every query", all_there)
            except SystemExit:
                sys.exit("no series for:\n" + "\n".join(missing))
            close_to_the_ledger(prometheus, house, found["spend.json"], since)
            count = sum(len(list(queries(board))) for board in found.values())
            print(f"{count} queries of {len(found)} dashboards return series, with everything chosen and with one of each")


if __name__ == "__main__":
    main()
