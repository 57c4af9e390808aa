# SPDX-License-Identifier: Apache-2.0
"""The official Node SDKs (openai, @anthropic-ai/sdk), driven through tests/system/node/clients.mjs."""
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from support import raw_engine as re_
from support.wait import secs, wait_until

HERE = Path(__file__).resolve().parent / "node"

pytestmark = pytest.mark.skipif(shutil.which("node") is None or not (HERE / "node_modules" / "openai").exists(),
                                reason="needs node and `npm ci` in tests/system/node")


def node(fleet, case):
    r = subprocess.run(["node", "clients.mjs", case, f"http://127.0.0.1:{fleet.port}"], cwd=HERE, capture_output=True,
                       text=True, timeout=secs(30))
    assert r.returncode == 0, r.stderr[-2000:]
    return json.loads(r.stdout)


def test_chat(sim):
    a = node(sim, "chat")
    assert len(a["text"]) == 32 and a["usage"]["completion_tokens"] == 8


def test_stream(sim):
    a = node(sim, "stream")
    assert len(a["text"]) == 32 and a["events"] > 2


def test_tools(sim):
    a = node(sim, "tools")
    assert a["name"] == "get_weather" and isinstance(a["arguments"]["city"], str)


def test_errors(sim):
    a = node(sim, "unknown_model")
    assert (a["class"], a["status"], a["code"], a["param"]) == ("NotFoundError", 404, "model_not_found", "model")
    assert a["requestID"]
    b = node(sim, "bad_metadata")
    assert (b["class"], b["code"], b["param"]) == ("BadRequestError", "invalid_type", "workflow_metadata.workflow_id")


def test_headers(sim):
    a = node(sim, "headers")
    assert a["engine"] in {e.id for e in sim.engines}
    assert a["receipt"].startswith("policy=workflow; ") and a["id"]


def test_embeddings_and_models(sim):
    a = node(sim, "embeddings")
    assert len(set(a["lengths"])) == 1 and a["lengths"][0] > 0
    assert node(sim, "models") == {"ids": ["sim"]}


def test_abort_cancels_at_the_engine(sim):
    def cancelled():
        return sum(e.metric("slipstream_engine_cancelled_total") for e in sim.engines)

    before = cancelled()
    assert node(sim, "abort")["events"] >= 3
    wait_until("the engine has cancelled", 5, lambda: cancelled() == before + 1)


def test_retry(raw):
    raw.script(re_.answer({"error": {"message": "x", "type": "x", "code": 503}}, "503 Service Unavailable",
                          "Retry-After: 0"))
    assert node(raw, "retry") == {"text": "fine"}
    assert raw.count() == 2


def test_engine_that_dies_in_the_stream(raw):
    raw.script(re_.token_then("reset"))
    a = node(raw, "dies_in_stream")
    assert a["events"] == 1 and a["error"], "taken as a success"


def test_anthropic_message(sim):
    a = node(sim, "message")
    assert len(a["text"]) == 32 and a["usage"]["output_tokens"] == 8


def test_anthropic_stream(sim):
    assert len(node(sim, "message_stream")["text"]) == 32


def test_anthropic_error(sim):
    a = node(sim, "message_unknown_model")
    assert (a["class"], a["status"], a["body"]["type"]) == ("NotFoundError", 404, "error")
