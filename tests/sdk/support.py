"""What the tests of the official Python package share: clients, the refusals that they see, and what is booked."""

import decimal
import json
import os
import urllib.request

import openai

ASK = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}


def client(house, key):
    os.environ["OPENAI_BASE_URL"] = house.proxy + "/v1"
    os.environ["OPENAI_API_KEY"] = house.keys.get(key, key)
    return openai.OpenAI()


def direct(house):
    """A client of upstream itself."""
    return openai.OpenAI(base_url=house.fake + "/v1", api_key="sk-direct-0123456789")


def refused(house, kind, code, requests, call):
    """The call raises that exception with that code, after so many requests."""
    before = house.refusals()
    try:
        call()
    except kind as error:
        assert type(error) is kind, type(error)
        assert error.code == code, error.body
        assert house.refusals() - before == requests, house.refusals() - before
        return error
    raise AssertionError("nothing was raised")


def gone(call):
    """There is no such object, as far as a client sees."""
    try:
        call()
    except openai.NotFoundError:
        return
    raise AssertionError("it is there")


def entries(house, id):
    """The entries of an object."""
    return [entry for entry in house.api("GET", "/guard/v1/ledger?limit=100")["data"] if entry["object_id"] == id]


def nano(usd):
    """An amount in nano-dollars."""
    return int(decimal.Decimal(str(usd)) * 10**9)


def meter(house):
    """The meter of the limit of all."""
    return house.api("GET", "/guard/v1/limits/organization-month")["meters"][0]


def settled(house):
    """What is settled on the limit of all, in nano-dollars."""
    return nano(meter(house)["settled"])


def held(house):
    """What is held on the limit of all, in nano-dollars."""
    return nano(meter(house)["held"])


def fetched(url, key=""):
    """What an address answers as JSON."""
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def sent(house):
    """How many requests upstream has had."""
    return fetched(house.fake + "/__stats")["requests"]
