# SPDX-License-Identifier: Apache-2.0
"""The official Anthropic SDK: /v1/messages goes through to engines that serve it."""
import json
import uuid

import anthropic
import pytest
from support import raw_engine as re_
from support.wait import secs

HELLO = [{"role": "user", "content": "hello"}]


def client_of(fleet, **kw):
    return anthropic.Anthropic(**{"base_url": f"http://127.0.0.1:{fleet.port}", "api_key": "sk-test", "max_retries": 0,
                                  "timeout": secs(20), **kw})


@pytest.fixture(scope="module")
def client(sim):
    with client_of(sim) as c:
        yield c


@pytest.mark.asan_ok
def test_message(client):
    m = client.messages.create(model="sim", max_tokens=8, messages=HELLO, system="You are brief.")
    assert m.type == "message" and m.role == "assistant"
    assert len(m.content[0].text) == 32
    assert m.usage.output_tokens == 8 and m.usage.input_tokens > 0


@pytest.mark.asan_ok
def test_stream(client):
    with client.messages.stream(model="sim", max_tokens=8, messages=HELLO) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert len(text) == 32 and final.content[0].text == text
    assert final.usage.output_tokens == 8


def test_tools(client):
    m = client.messages.create(model="sim", max_tokens=64, messages=HELLO, tool_choice={"type": "tool", "name": "look"},
                               tools=[{"name": "look", "description": "Looks", "input_schema": {
                                   "type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]}}])
    call = [c for c in m.content if c.type == "tool_use"][0]
    assert call.name == "look" and isinstance(call.input["at"], str)


def test_count_tokens(client):
    assert client.messages.count_tokens(model="sim", messages=HELLO).input_tokens > 0


@pytest.mark.asan_ok
def test_unknown_model_has_the_dialects_shape(client):
    with pytest.raises(anthropic.NotFoundError) as e:
        client.messages.create(model="nobody", max_tokens=8, messages=HELLO)
    assert e.value.body["type"] == "error"
    assert e.value.body["error"]["type"] and e.value.body["error"]["message"]


def test_workflow_of_an_agent(client, sim):
    w = f"claude-{uuid.uuid4().hex[:8]}"
    for _ in range(2):
        client.messages.create(model="sim", max_tokens=8, messages=[{"role": "user", "content": "long " * 400}],
                               extra_headers={"X-Workflow-ID": w, "X-Agent-ID": "main"})
    sim.settled(w, 2)
    s = sim.status(w).json()
    assert s["cache_hit_rate"] > 0.3, "cache_read_input_tokens are not understood"


def test_body_passes_unchanged(raw):
    answer = {"id": "msg_1", "type": "message", "role": "assistant", "model": "raw", "stop_reason": "end_turn",
              "stop_sequence": None, "content": [{"type": "text", "text": "hi"}],
              "usage": {"input_tokens": 3, "output_tokens": 1}}
    raw.script(re_.answer(answer))
    with client_of(raw) as c:
        m = c.messages.create(model="raw", max_tokens=8, system=[{"type": "text", "text": "s",
                                                                  "cache_control": {"type": "ephemeral"}}],
                              messages=HELLO, extra_headers={"anthropic-beta": "x-1"})
    assert m.content[0].text == "hi"
    r = raw.engine.requests[0]
    assert r.target == "/v1/messages"
    assert r.header("anthropic-beta") == "x-1" and r.header("anthropic-version")
    assert json.loads(r.body)["system"][0]["cache_control"] == {"type": "ephemeral"}


def test_engine_that_dies_in_the_stream_is_an_error(raw):
    def step(conn, request):
        conn.read_body(request)
        conn.stream_head()
        conn.chunk('event: message_start\ndata: {"type":"message_start","message":{"id":"m","type":"message",'
                   '"role":"assistant","model":"raw","content":[],"stop_reason":null,"stop_sequence":null,'
                   '"usage":{"input_tokens":1,"output_tokens":0}}}\n\n')
        conn.reset()

    raw.script(step)
    with client_of(raw) as c, pytest.raises(anthropic.APIError):
        list(c.messages.create(model="raw", max_tokens=8, messages=HELLO, stream=True))
