# SPDX-License-Identifier: Apache-2.0
"""The odd ends of the gateway's door: keys that contradict each other, forms of targets, connections that half close."""
import json
import socket

import pytest
from support.errors import check_openai, check_problem
from support.fleet import Fleet
from support.mail import Box
from support.rawhttp import chat, fetch, request_bytes

RED, BLUE = ("Authorization", "Bearer key-red"), ("Authorization", "Bearer key-blue")
X_RED, X_BLUE, X_NONE = ("x-api-key", "key-red"), ("x-api-key", "key-blue"), ("x-api-key", "")


# ---- two keys ----

@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")

    def file(name):
        (folder / name).write_text(f"key-{name}\n")
        (folder / name).chmod(0o600)
        return str(folder / name)

    with Fleet(engines=1, workers=1, gateway={"admin_key_file": file("admin")},
               sections={"keys": [{"file": file(t), "tenant": t} for t in ("red", "blue")]}) as f:
        yield f


CONFLICTS = {"two bearers": [RED, BLUE], "bearer and x-api-key": [RED, X_BLUE], "x-api-key and bearer": [X_RED, BLUE],
             "two x-api-keys": [X_RED, X_BLUE], "one of them nobody's": [RED, ("x-api-key", "key-of-nobody")],
             "the third one": [RED, X_RED, BLUE], "in another case": [RED, ("AUTHORIZATION", "bearer key-blue")]}


@pytest.mark.asan_ok
@pytest.mark.parametrize("how", CONFLICTS)
def test_two_keys_are_refused_in_the_words_of_the_route(keyed, how):
    headers = CONFLICTS[how]
    code = "conflicting_api_keys"
    check_openai(keyed.post("/v1/chat/completions", chat(), headers), code, status=400)
    check_openai(keyed.get("/v1/models", headers=headers), code, status=400)
    a = keyed.post("/v1/messages", chat(max_tokens=1), headers)
    assert (a.status, a.json()["type"], a.json()["error"]["type"]) == (400, "error", "invalid_request_error"), a
    check_problem(keyed.get("/v1/workflows", headers=headers), code, 400)
    check_problem(Box(keyed, "w", headers=headers).get(), code, 400)
    check_problem(Box(keyed, "w", headers=headers).post(1), code, 400)
    a = keyed.post("/mcp", {"jsonrpc": "2.0", "id": 1, "method": "ping"}, [*headers, ("Accept", "application/json")])
    assert (a.status, a.json()["jsonrpc"], a.json()["error"]["data"]["code"]) == (400, "2.0", code), a


@pytest.mark.parametrize("headers", [[RED, RED], [RED, X_RED], [X_RED, X_RED], [X_NONE, RED], [RED, ("Authorization", "Basic dTpw")]])
def test_one_key_shown_twice_is_one_key(keyed, headers):
    box = Box(keyed, headers=headers)
    box.send("mine")
    assert Box(keyed, box.workflow, headers=[RED]).payloads() == ["mine"]
    assert keyed.chat(headers=headers).status == 200


def test_two_keys_are_refused_on_the_admin_listener(keyed):
    admin = ("Authorization", "Bearer key-admin")

    def end(*headers):
        return fetch(keyed.admin_port, "DELETE", "/v1/workflows/w-admin", headers=headers)

    assert keyed.chat(headers=[RED, ("X-Workflow-ID", "w-admin")]).status == 200
    check_problem(end(admin, X_RED), "conflicting_api_keys", 400)
    check_problem(end(X_RED, admin), "conflicting_api_keys", 400)
    check_problem(end(), "invalid_api_key", 401)
    assert end(admin, ("x-api-key", "key-admin")).status in (200, 404)


def test_two_keys_are_counted_and_logged(keyed):
    before = keyed.metrics().sum("slipstream_gateway_errors_total", code="conflicting_api_keys")
    keyed.get("/v1/models", headers=[RED, BLUE])
    assert keyed.metrics().sum("slipstream_gateway_errors_total", code="conflicting_api_keys") == before + 1
    assert "reason=\"The request shows two different API keys" in keyed.workers[0].log()


# ---- faults are named, whoever finds them ----

@pytest.mark.parametrize("query, code, param", [
    ("?lease=43201", "invalid_value", "lease"), ("?types=a,b%01", "invalid_id", "types"), ("?types=" + "x" * 257, "invalid_id", "types"),
    ("?types=%ff", "invalid_id", "types")])
def test_what_receive_refuses_has_a_name(hop, query, code, param):
    assert check_problem(Box(hop).get(query), code, 400)["param"] == param


@pytest.mark.parametrize("path, param", [
    ("/v1/workflows/%01/agents/a/messages", "workflow_id"), ("/v1/workflows/w/agents/*/messages", "agent_id"),
    ("/v1/workflows/w/agents/%ff/mailbox", "agent_id"), ("/v1/workflows/w/agents/a/dead-letters?after=%01", "after"),
    ("/v1/workflows/w/agents/" + "a" * 257 + "/messages?wait=1", "agent_id")])
def test_ids_that_cannot_be_are_named(hop, path, param):
    assert check_problem(hop.get(path), "invalid_id", 400)["param"] == param


def test_settlements_of_a_list_name_their_faults(hop):
    box = Box(hop)
    box.send(1)
    (m,) = box.receive("?lease=60")
    rows = [{"message_id": m["message_id"], "receipt": m["receipt"], "action": "extend", "lease": 43201},
            {"message_id": m["message_id"], "receipt": "c0", "action": "ack"}]
    a = hop.post(f"{box.path}/messages:settle", {"acks": rows})
    assert [r["error"]["param"] for r in a.json()["results"]] == ["lease", "receipt"], a
    a = hop.post("/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
        "name": "receive_messages", "arguments": {"workflow_id": box.workflow, "agent_id": "t", "lease": 43201}}},
        [("Accept", "application/json, text/event-stream")])
    assert json.loads(a.json()["result"]["content"][0]["text"])["error"]["param"] == "lease", a


# ---- clients that close their half ----

def half_closed(fleet, *requests):
    """Answers to requests of a client that says at once that nothing more will come from it, as nc -N does."""
    with fleet.client() as c:
        c.send(b"".join(requests))
        c.sock.shutdown(socket.SHUT_WR)
        answers = [c.read_answer() for _ in requests]
        assert c.is_closed()
        return answers


@pytest.mark.asan_ok
def test_a_short_call_is_answered_though_its_client_has_closed_its_half(hop):
    box = Box(hop)
    letter = {"source_agent": "s", "target_agent": "t", "message_type": "m", "payload": 1}
    (a,) = half_closed(hop, request_bytes("POST", box.sends, letter))
    assert a.status == 202, a
    (m,) = box.receive("?lease=60")
    (a,) = half_closed(hop, request_bytes("POST", f"{box.path}/messages/{m['message_id']}:ack", {"receipt": m["receipt"]}))
    assert a.status == 200, a
    calls = [request_bytes("GET", p) for p in (f"{box.path}/mailbox", "/v1/workflows", f"{box.path}/dead-letters", "/health", "/v1/models")]
    assert [a.status for a in half_closed(hop, *calls)] == [200] * len(calls)
    ping = request_bytes("POST", "/mcp", {"jsonrpc": "2.0", "id": 1, "method": "ping"}, [("Accept", "application/json")])
    assert half_closed(hop, ping)[0].status == 200


def test_who_closes_a_half_while_receiving_takes_nothing(hop):
    """Nobody can tell it from one who has left, and what he took would be lost."""
    box = Box(hop)
    with hop.client() as c:
        c.request("GET", f"{box.path}/messages?wait=60")
        box.wait_figure("waiting", 1)
        c.sock.shutdown(socket.SHUT_WR)
        box.wait_figure("waiting", 0)
    box.send("kept")
    assert [(m["payload"], m["attempt"]) for m in box.receive()] == [("kept", 1)]


# ---- what answers repeat ----

@pytest.mark.parametrize("name, shown", [
    (b"\xff", None), (b"a\xc3", None), (b"bogus", "bogus"), (b"\xc3\xbc" * 40, "\u00fc" * 32), (b"x" + b"\xc3\xbc" * 40, "x" + "\u00fc" * 31)])
def test_a_parameter_that_is_no_text_is_not_repeated_as_if_it_were(hop, name, shown):
    with hop.client() as c:
        c.send(b"GET /v1/workflows/w/agents/a/messages?" + name + b"=1 HTTP/1.1\r\nHost: test\r\n\r\n")
        problem = check_problem(c.read_answer(), "unknown_query_parameter", 400)
    assert problem.get("param") == shown


@pytest.mark.parametrize("query, param", [("cursor=%01", "cursor"), ("limit=+1", "limit"), ("limit=%2b1", "limit"), ("limit=", "limit")])
def test_list_of_workflows_names_what_is_wrong(hop, query, param):
    assert check_problem(hop.get("/v1/workflows?" + query), "invalid_value", 400)["param"] == param
