# SPDX-License-Identifier: Apache-2.0
"""A gateway worker without anybody: it says so, at once, and works as soon as the others come."""
import time

import pytest
from support.errors import check_openai, check_problem
from support.fleet import Fleet
from support.rawhttp import chat, get
from support.wait import secs, wait_until


@pytest.fixture
def alone():
    with Fleet(engines=1, workers=1, with_scheduler=False, with_mailbox=False) as f:
        yield f


@pytest.mark.asan_ok
def test_it_answers_everything_and_promises_nothing(alone):
    assert alone.get("/health").status == 200
    ready = get(alone.admin_port, "/ready")
    assert ready.status == 503 and ready.json()["reason"]
    t0 = time.monotonic()
    a = alone.chat()
    assert time.monotonic() - t0 < secs(3)
    check_openai(a, ("no_engine_available", "scheduler_unavailable", "scheduler_timeout", "model_not_found"))
    assert a.status == 503 or a.json()["error"]["code"] == "model_not_found"
    check_problem(alone.status("w"), "scheduler_unavailable", 503)
    check_problem(alone.post("/v1/workflows/w/messages", {"source_agent": "a", "target_agent": "b", "message_type": "m",
                                                          "payload": 1}), "mailbox_unavailable", 503)
    assert alone.get("/v1/models").status in (200, 503)


@pytest.mark.asan_ok
def test_it_finds_a_scheduler_that_comes_later(alone):
    p = alone.process("slipstream-scheduler")
    alone.scheduler = p
    p.start()
    wait_until("ready", 10, lambda: get(alone.admin_port, "/ready").status == 200)
    assert alone.post("/v1/chat/completions", chat("sim", max_tokens=1)).status == 200
