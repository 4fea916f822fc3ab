"""Agents and tools, unchanged, against the guard: openai-agents, LangChain and llm.

Each is pointed at the guard by its own settings. At a limit, at a blown fuse and with a revoked key, a person sees the
guard's sentence after one request.
"""

import asyncio
import importlib.metadata
import logging
import os
import subprocess
import sys
from pathlib import Path

import agents
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from harness import count_failures, end
from scripted import SENTENCE, Scripted

MODEL = "gpt-4o-mini"
TURNS = 10
# Of all turns: the question, the call, its output and the answer, but for the last answer.
GIVEN = TURNS * 4 - 1
LIMIT = 'Your project reached its enforced spend limit. Limit "empty"'
FUSE = 'Fuse "runaway" has blown for this key'
REVOKED = "Incorrect API key provided"
LLM = Path(sys.executable).parent / "llm"
FUNCTION = 'def weather(city: str) -> str:\n    "The weather."\n    return f"sunny in {city}"\n'

agents.set_tracing_disabled(True)
# It reports each refusal that is expected here.
logging.getLogger("openai.agents").disabled = True
loop = asyncio.Runner()
called = []


def weather(city: str) -> str:
    """The weather."""
    called.append(city)
    return f"sunny in {city}"


def settings(house, key):
    """The variables that all three read."""
    return {"OPENAI_BASE_URL": house.proxy + "/v1", "OPENAI_API_KEY": house.keys.get(key, key)}


def revoked(house):
    key = house.make_key(name="short-lived")
    house.api("DELETE", f"/guard/v1/keys/{key['id']}")
    return key["value"]


def reasons(house):
    """A key for each reason to stop a person, and the sentence that this person is to read."""
    return [("empty", LIMIT), (house.blown()["value"], FUSE), (revoked(house), REVOKED)]


def agent_for(house, key, tools=()):
    os.environ.update(settings(house, key))
    return agents.Agent(name="agent", model=MODEL, tools=list(tools))


def agent_runs(agent, **more):
    return loop.run(agents.Runner.run(agent, "hello", **more)).final_output


def agent_streams(agent):
    async def deltas():
        events = agents.Runner.run_streamed(agent, "hello").stream_events()
        raw = [event.data async for event in events if event.type == "raw_response_event"]
        return "".join(event.delta for event in raw if event.type == "response.output_text.delta")

    return loop.run(deltas())


def openai_agents_answer_stream_and_call_for_ten_turns(house):
    weather_tool = agents.function_tool(weather)
    for api in ("responses", "chat_completions"):
        agents.set_default_openai_api(api)
        plain, able = agent_for(house, "default"), agent_for(house, "default", [weather_tool])
        with house.requests(2):
            assert agent_runs(plain) == agent_streams(plain) == SENTENCE
        with house.requests(2):
            assert agent_streams(able) == SENTENCE
        called.clear()
        session = agents.SQLiteSession(api)
        with house.requests(2 * TURNS):
            for _ in range(TURNS):
                assert agent_runs(able, session=session) == SENTENCE
        assert called == ["Paris"] * TURNS and len(house.given()) == GIVEN, (called, house.given())


def openai_agents_show_the_reason_after_one_request(house):
    for key, reason in reasons(house):
        for api in ("responses", "chat_completions"):
            agents.set_default_openai_api(api)
            for ask in (agent_runs, agent_streams):
                house.stopped(reason, lambda: ask(agent_for(house, key)))


def chains(house, key):
    """LangChain's model, for each of the two APIs."""
    os.environ.update(settings(house, key))
    return [ChatOpenAI(model=MODEL, use_responses_api=is_responses) for is_responses in (False, True)]


def streamed(chain, given="hello"):
    return "".join(chunk.text for chunk in chain.stream(given))


def langchain_answers_streams_and_calls_for_ten_turns(house):
    weather_tool = tool(weather)
    for chain in chains(house, "default"):
        with house.requests(2):
            assert chain.invoke("hello").text == streamed(chain) == SENTENCE
        called.clear()
        able, messages = chain.bind_tools([weather_tool]), []
        with house.requests(2 * TURNS):
            for _ in range(TURNS):
                messages.append(HumanMessage("What is the weather?"))
                # A streamed message that is added up is a whole one.
                first, *rest = able.stream(messages)
                call = sum(rest, first)
                messages += [call, *map(weather_tool.invoke, call.tool_calls)]
                messages.append(able.invoke(messages))
                assert messages[-1].text == SENTENCE
        assert called == ["Paris"] * TURNS and len(house.given()) == GIVEN, (called, house.given())


def langchain_shows_the_reason_after_one_request(house):
    for key, reason in reasons(house):
        for chain in chains(house, key):
            house.stopped(reason, lambda: chain.invoke("hello"))
            house.stopped(reason, lambda: streamed(chain))


def llm(house, key, *arguments, given=None):
    """What the program prints; an error has what it says."""
    environment = os.environ | settings(house, key) | {"LLM_USER_PATH": str(Path(house.folder.name) / "llm")}
    done = subprocess.run([LLM, *arguments], env=environment, input=given, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise ChildProcessError(done.stderr)
    return done.stdout


def llm_answers_streams_and_calls_for_ten_turns(house):
    with house.requests(1):
        assert llm(house, "default", "-m", MODEL, "--no-stream", "hello").strip() == SENTENCE
    lines = "hello\n" * TURNS + "quit\n"
    with house.requests(2 * TURNS):
        said = llm(house, "default", "chat", "-m", MODEL, "--functions", FUNCTION, given=lines)
    assert said.count(SENTENCE) == TURNS and len(house.given()) == GIVEN, (said, house.given())
    assert house.answers[-1].ask["stream"]


def llm_shows_the_reason_after_one_request(house):
    for key, reason in reasons(house):
        house.stopped(reason, lambda: llm(house, key, "-m", MODEL, "hello"))


def every_answer_is_booked_with_the_usage_that_it_reported(house):
    house.assert_all_booked()


def main():
    tests = [
        openai_agents_answer_stream_and_call_for_ten_turns,
        openai_agents_show_the_reason_after_one_request,
        langchain_answers_streams_and_calls_for_ten_turns,
        langchain_shows_the_reason_after_one_request,
        llm_answers_streams_and_calls_for_ten_turns,
        llm_shows_the_reason_after_one_request,
        every_answer_is_booked_with_the_usage_that_it_reported,
    ]
    with Scripted() as house:
        failed = count_failures(tests, house)
    loop.close()
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("openai-agents", "langchain-openai", "llm")]
    end(", ".join(versions), tests, failed)


if __name__ == "__main__":
    main()
