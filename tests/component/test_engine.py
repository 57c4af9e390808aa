# SPDX-License-Identifier: Apache-2.0
"""The simulated engine by itself: what tests and figures that use it rely on."""
import json

import openai
import pytest
from support.fleet import Engine
from support.rawhttp import Broken, RawClient, chat, get, post
from support.wait import wait_until

PATH = "/v1/chat/completions"
VLLM_METRICS = {
    "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
    "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total", "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total", "vllm:time_to_first_token_seconds_count", "vllm:e2e_request_latency_seconds_count"}


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    e = Engine("engine", tmp_path_factory.mktemp("engine"), extra=("--keepalive-ms", 300))
    e.start().wait_ready()
    yield e
    e.stop()
    e.check_log()


def say(engine, text="hello", **more):
    return post(engine.port, PATH, chat("sim", text, **{"max_tokens": 4, **more}))


@pytest.mark.asan_ok
def test_sdk_gets_text_of_four_bytes_a_token(engine):
    with openai.OpenAI(base_url=f"{engine.url}/v1", api_key="x", max_retries=0) as c:
        a = c.chat.completions.create(model="sim", messages=[{"role": "user", "content": "hi"}], max_tokens=10)
        assert len(a.choices[0].message.content) == 40 and a.usage.completion_tokens == 10
        pieces = c.chat.completions.create(model="sim", messages=[{"role": "user", "content": "hi"}], max_tokens=10,
                                           stream=True)
        assert "".join(p.choices[0].delta.content or "" for p in pieces) == a.choices[0].message.content


def test_a_repeated_prompt_is_cached_but_for_its_tail(engine):
    text = "cache me " * 300
    first = say(engine, text).json()["usage"]
    second = say(engine, text).json()["usage"]
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    cached = second["prompt_tokens_details"]["cached_tokens"]
    assert cached % 16 == 0 and second["prompt_tokens"] - 32 <= cached < second["prompt_tokens"]


def test_the_answer_is_cached_for_the_next_turn(engine):
    prompt = [{"role": "user", "content": "turn " * 200}]
    a = post(engine.port, PATH, {"model": "sim", "messages": prompt, "max_tokens": 64}).json()
    b = post(engine.port, PATH, {"model": "sim", "max_tokens": 4, "messages": [
        *prompt, a["choices"][0]["message"], {"role": "user", "content": "next"}]}).json()
    assert b["usage"]["prompt_tokens_details"]["cached_tokens"] >= a["usage"]["total_tokens"] - 32


@pytest.mark.asan_ok
def test_it_is_as_strict_as_a_strict_engine(engine):
    for more in ({"workflow_metadata": {"workflow_id": "w"}}, {"max_tokens": -1}, {"max_tokens": "4"}, {"priority": 1}):
        a = say(engine, **more)
        assert a.status == 400 and a.json()["error"]["message"], (more, a)
    assert post(engine.port, PATH, chat("other")).status == 404
    assert post(engine.port, PATH, b"{").status == 400
    assert get(engine.port, "/nothing").status == 404


@pytest.mark.asan_ok
def test_metrics_have_the_names_of_vllm(engine):
    say(engine)
    assert VLLM_METRICS <= engine.metrics().names(), VLLM_METRICS - engine.metrics().names()


def test_idle_connections_are_closed(engine):
    with RawClient(engine.port) as c:
        c.request("GET", "/health")
        assert c.read_answer().status == 200
        assert c.is_closed(seconds=3)


@pytest.mark.asan_ok
def test_a_client_that_leaves_cancels(engine):
    before = engine.metric("slipstream_engine_cancelled_total")
    with RawClient(engine.port) as c:
        c.request("POST", PATH, chat("sim", max_tokens=20000, stream=True, ignore_eos=True))
        c.read_head()
        c.read_chunk()
    wait_until("cancelled", 5, lambda: engine.metric("slipstream_engine_cancelled_total") == before + 1)


BROKEN = {"garbage": {}, "bad_te": {}, "te_cl": {}, "dup_cl": {}, "reset": {}, "truncate": {"after_events": 1}}


@pytest.mark.asan_ok
@pytest.mark.parametrize("mode", BROKEN)
def test_faults_are_what_they_say(engine, mode):
    engine.fault(mode, 1, **BROKEN[mode])
    with pytest.raises(Broken):
        say(engine, stream=True, max_tokens=500)
    assert say(engine).status == 200


def test_error_fault_has_the_shape_of_vllm(engine):
    engine.fault("error", 1, status=503)
    a = say(engine)
    assert a.status == 503 and {"message", "type", "code"} <= set(a.json()["error"])
    engine.fault("stream_error", 1, after_events=1)
    events = say(engine, stream=True, max_tokens=500).events()
    assert events[-1] == "[DONE]" and "error" in json.loads(events[-2])


def test_hang_holds_until_the_client_goes(engine):
    engine.fault("hang", 1)
    with RawClient(engine.port) as c:
        c.request("POST", PATH, chat("sim"))
        assert c.is_open(0.3)
    assert say(engine).status == 200
