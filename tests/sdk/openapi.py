"""Schemathesis, unchanged, against the admin API as its own document describes it.

It makes requests that fit the document and requests that don't, and holds every
answer against it. What it finds it prints with a curl command that shows it again.
"""

import json
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import openai
import schemathesis

from harness import TOKEN, run

EMAIL = {"type": "email", "recipients": ["finance@example.com"]}
MONTH = {"currency": "USD", "interval": "month"}
# So many of each: some get lost on the way, for deleting them is tried out too.
MANY = 12
CONFIG = """
[cache]
enabled = false
[reports]
directory = "{folder}"
[generation]
database = "none"
deterministic = true
max-examples = {examples}
[phases.stateful]
enabled = false
[checks]
# It wants a second user who must not see what is the first one's. An organization has one set of books.
object_level_authorization.enabled = false
# What fits the document may still name what is not there (400, 404) or stand in the way of something
# (409). A body of the right shape is never one of the wrong shape, though: no 422, and no 415.
positive_data_acceptance.expected-statuses = ["2xx", 400, 404, 409]
[parameters]
{bindings}
[[operations]]
include-path-regex = "/admin_api_keys/"
[operations.parameters]
"path.key" = {{ dictionary = "admin_key", probability = 0.7 }}
[[operations]]
include-path-regex = "/archive$"
[operations.parameters]
"path.project" = {{ dictionary = "spare", probability = 0.5 }}
"""
# Whole numbers may be written 12.0 as far as JSON Schema is concerned, but not where the guard reads cents.
HOOKS = """
import schemathesis


def whole(value):
    if isinstance(value, dict):
        return {name: whole(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [whole(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@schemathesis.hook
def map_body(context, body):
    return whole(body)
"""


def furnish(house):
    """Makes some of everything, and returns its ids by their names in paths."""
    organization = "/v1/organization"
    post = lambda path, **fields: house.api("POST", organization + path, fields)
    project = post("/projects", name="Fuzzed")["id"]
    of = f"/projects/{project}"
    alert = lambda root: post(root + "/spend_alerts", threshold_amount=100, notification_channel=EMAIL, **MONTH)["id"]
    accounts = [post(of + "/service_accounts", name="bot") for _ in range(MANY)]
    post(of + "/rate_limits/rl-gpt-4o-mini", max_requests_per_1_minute=100)
    limits = [f"limit-{n}" for n in range(MANY)]
    for name in limits:
        house.api("PUT", f"/guard/v1/limits/{name}", {"window": "month", "hard": "5", "soft": ["50%"]})
    return {
        "project": [project, "default", "small"],
        "spare": [post("/projects", name="Spare")["id"] for _ in range(MANY)],
        "key": [account["api_key"]["id"] for account in accounts],
        "account": [account["id"] for account in accounts],
        "admin_key": [post("/admin_api_keys", name="spare")["id"] for _ in range(MANY)],
        "alert": [alert(root) for root in ("", of) for _ in range(MANY)],
        "limit": limits,
        "rate": ["rl-gpt-4o-mini"],
        "entry": [entry["id"] for entry in house.api("GET", "/guard/v1/ledger")["data"]],
    }


def without_a_token_no_operation_answers(house):
    operations = [(path, method) for path, item in house.api("GET", "/openapi.json")["paths"].items() for method in item]
    assert len(operations) > 60, operations
    for path, method in operations:
        request = urllib.request.Request(house.admin + path.replace("{", "").replace("}", ""), method=method.upper())
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                raise AssertionError(f"{method} {path} answers {answer.status}")
        except urllib.error.HTTPError as error:
            assert error.code == 401, (method, path, error.code)


def what_is_said_of_the_admin_api_is_so(house):
    client = openai.OpenAI(base_url=house.proxy + "/v1", api_key=house.keys["default"])
    for _ in range(3):
        client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "hello"}])
    ids = furnish(house)
    ids["cursor"] = sorted(sum(ids.values(), []))
    dictionaries = "\n".join(f"[dictionaries.{name}]\nvalues = {json.dumps(values)}" for name, values in ids.items())
    bind = lambda where, name: f'"{where}" = {{ dictionary = "{name}", probability = 0.7 }}'
    bindings = [bind(f"path.{name}", name) for name in ids] + [bind(f"query.{name}", "cursor") for name in ("after", "before")]
    with tempfile.TemporaryDirectory() as folder:
        config, hooks = Path(folder) / "schemathesis.toml", Path(folder) / "hooks.py"
        hooks.write_text(HOOKS)
        text = CONFIG.format(folder=folder, examples=6, bindings="\n".join(bindings))
        config.write_text(f"hooks = {json.dumps(str(hooks))}\nseed = 1\n" + text + dictionaries + "\n")
        command = [Path(sys.executable).parent / "schemathesis", "--config-file", config, "run", house.admin + "/openapi.json"]
        command += ["--checks=all", "--no-color", "--continue-on-failure", "--warnings=off", "--request-timeout=20"]
        # It takes nothing but 401 for a wrong token, and they are paced: 429 after ten in a minute. The test above has each
        # operation without one.
        command += ["--exclude-checks=ignored_auth"]
        command += ["--header", f"Authorization: Bearer {TOKEN}"]
        found = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    print(*found.stdout.splitlines()[-20:], sep="\n")
    assert found.returncode == 0, found.stdout + found.stderr
    assert house.api("GET", "/guard/v1/ledger/verify")["ok"], "the books agree after all that"


if __name__ == "__main__":
    run(f"schemathesis {schemathesis.__version__}", [without_a_token_no_operation_answers, what_is_said_of_the_admin_api_is_so])
