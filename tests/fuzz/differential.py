#!/usr/bin/env python3
"""Holds what the guard understands of a request against what Python does.

    differential.py TARGET FOLDER...

TARGET is the built fuzz target `request`, the folders hold its inputs; asked
to, it prints what the guard understands of each. Whatever the guard lets through, Python's `json` must either refuse
or read as the same request: where the two differ, a limit could be passed by.
"""

import json
import os
import subprocess
import sys

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RESPONSES = ("/v1/responses", "/v1/responses/compact")
EMBEDDINGS = "/v1/embeddings"
PICTURES = {"image_url", "input_image", "computer_screenshot", "image", "image_generation_call"}
PLAIN_TOOLS = {
    "function", "custom", "computer", "computer_use", "computer_use_preview",
    "local_shell", "apply_patch",
}


def inner(value, name):
    """A member of what may not be an object."""
    return value.get(name) if isinstance(value, dict) else None


def parts(node):
    """Every message, item and part of a content."""
    if isinstance(node, list):
        for element in node:
            yield from parts(element)
    elif isinstance(node, dict):
        yield node
        for name in ("content", "output", "outputs"):
            yield from parts(node.get(name))


def first(*values):
    """The first that is given."""
    return next((value for value in values if value is not None), None)


def output_max(endpoint, body):
    if endpoint == CHAT:
        return first(body.get("max_completion_tokens"), body.get("max_tokens"))
    if endpoint == COMPLETIONS:
        return first(body.get("max_tokens"), 16)
    if endpoint == RESPONSES[1]:
        return None
    return body.get("max_output_tokens") if endpoint == RESPONSES[0] else 0


def prompts(prompt):
    """How many prompts there are: one list of tokens is one."""
    if not isinstance(prompt, list) or not prompt:
        return 1
    tokens = [element for element in prompt if isinstance(element, (int, float)) and not isinstance(element, bool)]
    return len(prompt) - len(tokens) + (1 if tokens else 0)


def choices(endpoint, body):
    if endpoint == CHAT:
        return first(body.get("n"), 1)
    if endpoint == COMPLETIONS:
        return max(first(body.get("n"), 1), first(body.get("best_of"), 1)) * prompts(body.get("prompt"))
    return 1


def tier(body):
    name = body.get("service_tier")
    return {"auto": None, "standard": "default", "fast": "priority"}.get(name, name)


def exact(endpoint, body):
    """What must be the same to the letter, types included."""
    options = body.get("stream_options")
    return {
        "model": first(body.get("model"), ""),
        "stream": first(body.get("stream"), False),
        "usage_asked": first(inner(options, "include_usage"), False),
        "output_max": output_max(endpoint, body),
        "service_tier": tier(body),
        "end_user": first(body.get("safety_identifier"), body.get("user")),
        "tool_calls_max": body.get("max_tool_calls"),
    }


def offered(tools):
    """Every tool, those inside of namespaces too."""
    for tool in tools:
        if tool.get("type") != "namespace":
            yield tool
        yield from offered(tool.get("tools") or [])


def at_least(endpoint, body):
    """What the guard may only overrate."""
    content = parts(body.get("messages" if endpoint == CHAT else "input"))
    content = list(content) if endpoint in (CHAT, *RESPONSES) else []
    kinds = [part.get("type") for part in content]
    tools = list(offered(body.get("tools") or []))
    local = lambda tool: tool.get("type") == "shell" and inner(tool.get("environment"), "type") == "local"
    refers = any(body.get(name) is not None for name in ("previous_response_id", "conversation", "prompt"))
    ttl = inner(body.get("prompt_cache_options"), "ttl")
    return {
        "choices": choices(endpoint, body),
        "loops": any(tool.get("type") not in PLAIN_TOOLS and not local(tool) for tool in tools),
        "server_context": endpoint in RESPONSES and (refers or "item_reference" in kinds),
        "audio_output": "audio" in (body.get("modalities") or []),
        "echo": endpoint == COMPLETIONS and first(body.get("echo"), False),
        "cache_12h": ttl not in (None, "30m"),
        "media": sum(isinstance(kind, str) and kind in PICTURES for kind in kinds),
    }


def same(one, other):
    """Equal and of one type: to Python, 1 is True and 1.0."""
    return type(one) is type(other) and one == other


def differences(line, body):
    endpoint = line["endpoint"]
    for name, value in exact(endpoint, body).items():
        if not same(line[name], value):
            yield f"{name}: the guard has {line[name]!r}, Python has {value!r}"
    for name, value in at_least(endpoint, body).items():
        if line[name] < value:
            yield f"{name}: the guard has {line[name]!r}, Python has more: {value!r}"
    if body.get("background") and (endpoint != "/v1/responses" or body.get("store") is False or body.get("conversation")):
        yield "background: it is let through"


def lines(target, folders):
    """What the guard understands of every input."""
    environment = {**os.environ, "SPENDGUARD_UNDERSTOOD": "1"}
    # No run beside the inputs themselves.
    done = subprocess.run([target, "-runs=0", *folders], check=True, capture_output=True, env=environment)
    return map(json.loads, done.stdout.splitlines())


def main(target, folders):
    counts, found = {"same": 0, "refused by the guard": 0, "refused by Python": 0}, 0
    for line in lines(target, folders):
        if not line["accepted"]:
            counts["refused by the guard"] += 1
            continue
        forwarded = bytes.fromhex(line["forwarded"])
        try:
            body = json.loads(forwarded)
        except (ValueError, RecursionError):
            counts["refused by Python"] += 1
            continue
        wrong = list(differences(line, body)) if isinstance(body, dict) else ["it is no object"]
        counts["same"] += not wrong
        found += bool(wrong)
        for why in wrong:
            print(f"{line['endpoint']}: {why}\n  forwarded: {forwarded!r}")
    print("differential: " + ", ".join(f"{count} {name}" for name, count in counts.items()) + f", {found} differ")
    return 1 if found or not counts["same"] else 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2:]))
