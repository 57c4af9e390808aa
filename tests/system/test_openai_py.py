# SPDX-License-Identifier: Apache-2.0
"""The official Python SDK, unchanged, with nothing but a base URL."""
import asyncio
import json
import threading
import time
import uuid

import openai
import pytest
from support import raw_engine as re_
from support.fleet import Fleet
from support.wait import secs, wait_until

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "Weather of a city", "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city", "days"]}}}
FORCED = {"type": "function", "function": {"name": "get_weather"}}
HELLO = [{"role": "user", "content": "hello"}]


def client_of(fleet, **kw):
    return openai.OpenAI(**{"base_url": fleet.base_url, "api_key": "sk-test", "max_retries": 0,
                            "timeout": secs(20), **kw})


@pytest.fixture(scope="module")
def client(sim):
    with client_of(sim) as c:
        yield c


def new(name="sdk"):
    return f"{name}-{uuid.uuid4().hex[:8]}"


@pytest.mark.asan_ok
def test_chat(client):
    a = client.chat.completions.create(model="sim", messages=HELLO, max_tokens=8)
    assert a.object == "chat.completion" and a.model == "sim"
    assert len(a.choices[0].message.content) == 32, "four bytes a token"
    assert a.choices[0].message.role == "assistant"
    assert a.choices[0].finish_reason in ("length", "stop")
    assert a.usage.completion_tokens == 8
    assert a.usage.total_tokens == a.usage.prompt_tokens + 8
    assert a.usage.prompt_tokens_details.cached_tokens >= 0


@pytest.mark.asan_ok
def test_stream(client):
    whole = client.chat.completions.create(model="sim", messages=HELLO, max_tokens=16)
    pieces = list(client.chat.completions.create(model="sim", messages=HELLO, max_tokens=16, stream=True))
    text = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
    assert len(text) == 64
    assert text == whole.choices[0].message.content, "streamed or not, the answer is the same"
    assert pieces[0].choices[0].delta.role == "assistant"
    assert [p.choices[0].finish_reason for p in pieces if p.choices][-1] in ("length", "stop")
    assert all(p.usage is None for p in pieces)


@pytest.mark.asan_ok
def test_stream_with_usage(client):
    pieces = list(client.chat.completions.create(model="sim", messages=HELLO, max_tokens=4, stream=True,
                                                 stream_options={"include_usage": True}))
    assert pieces[-1].choices == [] and pieces[-1].usage.completion_tokens == 4


def test_stream_of_a_workflow_shows_no_usage(client):
    pieces = list(client.chat.completions.create(model="sim", messages=HELLO, max_tokens=4, stream=True,
                                                 extra_headers={"X-Workflow-ID": new()}))
    assert all(p.choices and p.usage is None for p in pieces)


def test_stream_helper(client):
    with client.chat.completions.stream(model="sim", messages=HELLO, max_tokens=4) as stream:
        for _ in stream:
            pass
        assert len(stream.current_completion_snapshot.choices[0].message.content) == 16


def test_tools(client):
    a = client.chat.completions.create(model="sim", messages=HELLO, tools=[WEATHER], tool_choice=FORCED)
    (call,) = a.choices[0].message.tool_calls
    assert call.function.name == "get_weather" and call.id
    arguments = json.loads(call.function.arguments)
    assert isinstance(arguments["city"], str) and isinstance(arguments["days"], int)
    follow = client.chat.completions.create(
        model="sim", max_tokens=4, tools=[WEATHER], messages=[
            *HELLO, a.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}])
    assert follow.choices[0].message.content


def test_streamed_tools(client):
    pieces = list(client.chat.completions.create(model="sim", messages=HELLO, tools=[WEATHER], tool_choice=FORCED,
                                                 stream=True))
    calls = [c for p in pieces if p.choices for c in (p.choices[0].delta.tool_calls or [])]
    assert calls[0].function.name == "get_weather"
    assert set(json.loads("".join(c.function.arguments or "" for c in calls))) == {"city", "days"}


def test_structured_output(client):
    a = client.chat.completions.create(model="sim", messages=HELLO, response_format={"type": "json_schema", "json_schema": {
        "name": "x", "schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}})
    assert isinstance(json.loads(a.choices[0].message.content)["n"], int)


def test_completions(client):
    a = client.completions.create(model="sim", prompt="Once upon a time", max_tokens=5)
    assert len(a.choices[0].text) == 20
    text = "".join(p.choices[0].text for p in client.completions.create(
        model="sim", prompt="Once upon a time", max_tokens=5, stream=True) if p.choices)
    assert text == a.choices[0].text


def test_embeddings(client):
    a = client.embeddings.create(model="sim", input=["one", "two"])
    assert [d.index for d in a.data] == [0, 1] and len(a.data[0].embedding) == len(a.data[1].embedding) > 0
    assert all(isinstance(x, float) for x in a.data[0].embedding)


def test_models(client):
    assert [m.id for m in client.models.list()] == ["sim"]


@pytest.mark.asan_ok
def test_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as e:
        client.chat.completions.create(model="nobody", messages=HELLO)
    assert e.value.code == "model_not_found"
    assert e.value.type == "invalid_request_error"
    assert e.value.param == "model"
    assert e.value.request_id


def test_errors_of_ours_and_of_the_engine_are_bad_requests(client):
    with pytest.raises(openai.BadRequestError) as e:
        client.chat.completions.create(model="sim", messages=HELLO, extra_body={"workflow_metadata": {"workflow_id": 7}})
    assert (e.value.code, e.value.param) == ("invalid_type", "workflow_metadata.workflow_id")
    with pytest.raises(openai.BadRequestError) as e:
        client.chat.completions.create(model="sim", messages=HELLO, max_tokens=-1)
    assert e.value.message and e.value.request_id


def test_request_headers_and_raw_response(client, sim):
    r = client.chat.completions.with_raw_response.create(model="sim", messages=HELLO, max_tokens=4,
                                                         extra_headers={"X-Workflow-ID": new(), "X-Request-Id": "mine"})
    assert r.headers["x-request-id"] == "mine"
    assert r.headers["x-slipstream-engine"] in {e.id for e in sim.engines}
    assert r.headers["x-slipstream-decision"].startswith("policy=workflow; ")
    assert r.http_response.headers["content-type"].startswith("application/json")
    assert r.parse().choices


@pytest.mark.asan_ok
def test_workflow_in_the_base_url(sim):
    w = new()
    with client_of(sim, base_url=f"http://127.0.0.1:{sim.port}/wf/{w}/agents/planner/v1") as c:
        assert c.chat.completions.create(model="sim", messages=HELLO, max_tokens=4).choices
        assert [m.id for m in c.models.list()] == ["sim"]
    sim.settled(w, 1)
    assert [a["agent_id"] for a in sim.status(w).json()["agents"]] == ["planner"]


@pytest.mark.asan_ok
def test_workflow_metadata_in_the_body(client, sim):
    """The simulated engine refuses unknown members, as strict engines do: the metadata must be gone."""
    w = new()
    for agent in ("planner", "coder"):
        client.chat.completions.create(model="sim", messages=HELLO, max_tokens=4, extra_body={
            "workflow_metadata": {"workflow_id": w, "agent_id": agent, "context_sharing_strategy": "auto"}})
    sim.settled(w, 2)
    assert {a["agent_id"] for a in sim.status(w).json()["agents"]} == {"planner", "coder"}


@pytest.mark.asan_ok
def test_abort_in_the_stream_cancels_at_the_engine(sim):
    cancelled = sum(e.metric("slipstream_engine_cancelled_total") for e in sim.engines)
    with client_of(sim) as c:
        stream = c.chat.completions.create(model="sim", messages=HELLO, max_tokens=20000, stream=True,
                                           extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
    wait_until("the engine has cancelled", 5,
               lambda: sum(e.metric("slipstream_engine_cancelled_total") for e in sim.engines) == cancelled + 1)


def test_timeout_of_the_client_cancels_at_the_engine(raw):
    raw.engine.default = re_.hang
    with client_of(raw, timeout=secs(0.5)) as c:
        with pytest.raises(openai.APITimeoutError):
            c.chat.completions.create(model="raw", messages=HELLO)
    assert raw.engine.requests[0].gone.wait(secs(3))


def test_sdk_retries_an_engine_error_and_succeeds(raw):
    raw.script(re_.answer({"error": {"message": "boom", "type": "InternalServerError", "code": 500}},
                          "500 Internal Server Error", "Retry-After: 0"))
    with client_of(raw, max_retries=2) as c:
        assert c.chat.completions.create(model="raw", messages=HELLO).choices[0].message.content == "fine"
    assert [r.header("x-stainless-retry-count") for r in raw.engine.requests] == ["0", "1"]


def test_sdk_waits_for_a_dead_fleet_to_come_back():
    """503 with Retry-After while the only engine is dead; the SDK's own retries carry the call over it."""
    with re_.RawEngine("raw") as engine, Fleet(engines=[engine], workers=1, with_mailbox=False) as f:
        engine.refuse()
        f.wait_engines([])
        result = []

        def call():
            with client_of(f, max_retries=5) as c:
                result.append(c.chat.completions.create(model="raw", messages=HELLO))

        t = threading.Thread(target=call)
        t0 = time.monotonic()
        t.start()
        f.wait_metric("slipstream_gateway_errors_total", 1, code="no_engine_available")
        engine.open()
        t.join(secs(15))
        assert result and result[0].choices[0].message.content == "fine"
        assert time.monotonic() - t0 >= 1, "Retry-After was not there or not obeyed"


def test_error_event_in_a_stream_is_raised(raw):
    def step(conn, request):
        conn.read_body(request)
        conn.stream_head()
        conn.event(re_.delta("one"))
        conn.event({"error": {"message": "cuda went away", "type": "InternalServerError", "param": None, "code": 500}})
        conn.event("[DONE]")
        conn.send("0\r\n\r\n")

    raw.script(step)
    with client_of(raw) as c, pytest.raises(openai.APIError, match="cuda went away"):
        list(c.chat.completions.create(model="raw", messages=HELLO, stream=True))


def test_many_at_once(sim):
    async def one(c, i):
        w = f"async-{i % 4}"
        if i % 2:
            a = await c.chat.completions.create(model="sim", messages=HELLO, max_tokens=8,
                                                extra_headers={"X-Workflow-ID": w})
            return len(a.choices[0].message.content)
        n = 0
        stream = await c.chat.completions.create(model="sim", messages=HELLO, max_tokens=8, stream=True,
                                                 extra_headers={"X-Workflow-ID": w})
        async for p in stream:
            n += len(p.choices[0].delta.content or "")
        return n

    async def everything():
        async with openai.AsyncOpenAI(base_url=sim.base_url, api_key="x", max_retries=0, timeout=secs(20)) as c:
            return await asyncio.gather(*(one(c, i) for i in range(40)))

    assert asyncio.run(everything()) == [32] * 40
