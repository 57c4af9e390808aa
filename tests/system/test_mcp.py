# SPDX-License-Identifier: Apache-2.0
"""POST /mcp: the protocol's conformance tool, the official clients (Python, Node old and new), and what none of them would send."""
import itertools
import json
import re
import subprocess
import threading
from pathlib import Path

import pytest
import yaml
from support import rawhttp
from support.fleet import Fleet
from support.metrics import parse_metrics
from support.wait import secs, wait_until

HERE = Path(__file__).resolve().parent / "node" / "mcp"
NODE = HERE / "node_modules" / ".bin" / "node"
pytestmark = pytest.mark.asan_ok
needs_node = pytest.mark.skipif(not NODE.exists(), reason="needs `npm ci` in tests/system/node/mcp")

MODERN = "2026-07-28"
META = "io.modelcontextprotocol/"
TOOLS = ["send_message", "receive_messages", "ack_message", "list_agents", "workflow_status"]
counter = itertools.count()


def new_workflow():
    return f"mcp-{next(counter)}"


def pairs(headers):
    return [(name, value.strip()) for name, _, value in (h.partition(":") for h in headers)]


class Agent:
    """A client that says exactly what it is told to, in the handshake era unless modern."""

    def __init__(self, fleet, workflow=None, agent=None, version="2025-11-25", headers=(), path="/mcp"):
        self.fleet, self.version, self.path = fleet, version, path
        self.headers = list(headers)
        if workflow:
            self.headers.append(f"X-Workflow-ID: {workflow}")
        if agent:
            self.headers.append(f"X-Agent-ID: {agent}")

    def post(self, body, headers=(), version="", timeout=20):
        version = self.version if version == "" else version
        own = ["Content-Type: application/json", "Accept: application/json, text/event-stream", *self.headers, *headers]
        if version:
            own.append(f"MCP-Protocol-Version: {version}")
        if not isinstance(body, (bytes, str)):
            body = json.dumps(body)
        return self.fleet.fetch("POST", self.path, body.encode() if isinstance(body, str) else body, pairs(own), timeout=timeout)

    def request(self, method, params=None, rid=1, headers=(), **kw):
        body = {"jsonrpc": "2.0", "id": rid, "method": method}
        if self.version == MODERN:
            params = {**(params or {}), "_meta": {META + "protocolVersion": MODERN, META + "clientCapabilities": {}}}
            headers = [f"Mcp-Method: {method}", *headers]
            if "name" in params:
                headers = [f"Mcp-Name: {params['name']}", *headers]
        if params is not None:
            body["params"] = params
        return self.post(body, headers, **kw)

    def tool(self, name, args=None, **kw):
        a = self.request("tools/call", {"name": name, "arguments": args or {}}, **kw)
        assert a.status == 200, a
        return a.json()["result"]

    def ok(self, name, args=None, **kw):
        r = self.tool(name, args, **kw)
        assert r["isError"] is False, r
        assert json.loads(r["content"][0]["text"]) == r["structuredContent"]
        return r["structuredContent"]

    def fails(self, name, args=None, **kw):
        r = self.tool(name, args, **kw)
        assert r["isError"] is True and "structuredContent" not in r, r
        return json.loads(r["content"][0]["text"])["error"]


def error_of(answer, status):
    assert answer.status == status, answer
    assert answer.header("content-type") == "application/json"
    e = answer.json()
    assert e["jsonrpc"] == "2.0"
    return e["error"]


def box(fleet, workflow, agent):
    a = fleet.get(f"/v1/workflows/{workflow}/agents/{agent}/mailbox")
    return a.json() if a.status == 200 else {}


def wait_parked(fleet, workflow, agent, count=1):
    wait_until(f"{agent} waits", 10, lambda: box(fleet, workflow, agent).get("waiting") == count)


@pytest.fixture(params=["2025-03-26", "2025-06-18", "2025-11-25", MODERN])
def version(request):
    return request.param


@pytest.fixture(scope="module")
def solo():
    """One worker: what one call has told the scheduler or the worker, the next one finds."""
    with Fleet(engines=0) as f:
        yield f


# -- conformance --

def run_conformance(package, fleet, tmp_path, *args):
    """{scenario: {check: worst status}}"""
    r = subprocess.run([NODE, HERE / "node_modules" / "@modelcontextprotocol" / package / "dist" / "index.js", "server", "--url",
                        f"http://127.0.0.1:{fleet.port}/mcp", "-o", tmp_path, *args],
                       cwd=tmp_path, capture_output=True, text=True, timeout=secs(120))
    assert "=== SUMMARY ===" in r.stdout, r.stdout[-3000:] + r.stderr[-3000:]
    found = {}
    for path in tmp_path.glob("server-*/checks.json"):
        scenario = re.fullmatch(r"server-(.+)-\d{4}-\d\d-\d\dT[\d-]+Z", path.parent.name).group(1)
        for c in json.loads(path.read_text()):
            checks = found.setdefault(scenario, {})
            if checks.get(c["id"]) != "FAILURE":
                checks[c["id"]] = c["status"]
    return found


CONFORMANCE = [("conformance", (), 28), ("conformance-next", ("--requirements", "2025-11-25"), 30),
               ("conformance-next", ("--requirements", MODERN), 45)]


@needs_node
@pytest.mark.parametrize("package, args, least", CONFORMANCE, ids=["0.1", "0.2-2025-11-25", f"0.2-{MODERN}"])
def test_conformance(sim, tmp_path, package, args, least):
    expected = yaml.safe_load((HERE / "expected_failures.yaml").read_text())["server"]
    found = run_conformance(package, sim, tmp_path, *args)
    assert len(found) >= least, sorted(found)
    failed = {(s, c) for s, checks in found.items() for c, status in checks.items() if status == "FAILURE"}
    unexpected = {(s, c) for s, c in failed if c == "wire-schema-valid" or (s not in expected and f"{s}:{c}" not in expected)}
    assert not unexpected
    for entry in expected:
        scenario, _, check = entry.partition(":")
        if scenario in found:
            assert any(s == scenario and check in ("", c) for s, c in failed), f"{entry} passes: take it off the list"


@needs_node
def test_every_expected_failure_is_of_some_scenario():
    listed = ""
    for package in ("conformance", "conformance-next"):
        listed += subprocess.run([NODE, HERE / "node_modules" / "@modelcontextprotocol" / package / "dist" / "index.js", "list",
                                  "--server"], capture_output=True, text=True, timeout=secs(60)).stdout
    names = {line.split()[1] for line in listed.splitlines() if line.startswith("  - ")}
    for entry in yaml.safe_load((HERE / "expected_failures.yaml").read_text())["server"]:
        assert entry.partition(":")[0] in names, entry


# -- the official clients --

def check_exchange(a):
    assert a["server"]["name"] == "slipstream"
    assert a["tools"] == TOOLS
    assert a["sent"]["queued_for"] == ["b"] and a["sent"]["replayed"] is False
    m = a["got"]["messages"][0]
    assert (m["message_id"], m["source_agent"], m["target_agent"]) == (a["sent"]["message_id"], "a", "b")
    assert m["payload"] == {"question": "π?", "digits": [3, 1, 4]} and a["text"] == a["got"]
    assert a["answer"]["payload"] == "3.14" and a["answer"]["correlation_id"] == m["message_id"]
    assert a["agents"] == ["a", "b"]
    assert a["status"]["workflow_id"] == a["workflow"] and a["status"]["messages"]["queued"] == 0
    assert a["failed"]["isError"] is True and a["failed"]["param"] == "payload"


def node_start(fleet, case):
    return subprocess.Popen([NODE, "clients.mjs", case, f"http://127.0.0.1:{fleet.port}/mcp"], cwd=HERE, text=True,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def node_end(p):
    out, err = p.communicate(timeout=secs(60))
    assert p.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


@needs_node
@pytest.mark.parametrize("case, version", [("sdk", "2025-11-25"), ("legacy", "2025-11-25"), ("auto", MODERN), ("modern", MODERN)])
def test_node_client(solo, case, version):
    a = node_end(node_start(solo, case))
    check_exchange(a)
    assert a.get("version", version) == version


@needs_node
@pytest.mark.parametrize("case", ["cancel_sdk", "cancel_modern"])
def test_node_client_gives_up_and_loses_nothing(solo, case):
    sim, p = solo, node_start(solo, case)
    workflow = f"node-{case}-{p.pid}"
    try:
        assert p.stdout.readline() == "parked\n", p.stderr.read()
        wait_parked(sim, workflow, "b")
        p.stdin.write("go\n")
        p.stdin.flush()
        assert p.stdout.readline() == "stopped\n"
        wait_parked(sim, workflow, "b", 0)
        sent = Agent(sim, workflow, "a").ok("send_message", {"target_agent": "b", "payload": 1})
        p.stdin.write("go\n")
        p.stdin.flush()
        a = node_end(p)
    finally:
        p.kill()
        p.wait()
    assert a["end"] != "answered"
    assert [m["message_id"] for m in a["got"]["messages"]] == [sent["message_id"]]


@pytest.mark.parametrize("mode", ["legacy", "auto", MODERN])
def test_python_client(solo, mode):
    anyio = pytest.importorskip("anyio")
    pytest.importorskip("mcp")
    from mcp.client.client import Client
    from mcp.client.streamable_http import streamable_http_client
    from mcp.shared._httpx_utils import create_mcp_http_client

    workflow, out = new_workflow(), {}
    out["workflow"] = workflow

    def connect(agent):
        http = create_mcp_http_client(headers={"X-Workflow-ID": workflow, "X-Agent-ID": agent})
        return Client(streamable_http_client(f"http://127.0.0.1:{solo.port}/mcp", http_client=http), mode=mode)

    async def talk():
        async with connect("a") as a, connect("b") as b:
            async def receive():
                out["got_raw"] = await b.call_tool("receive_messages", {"wait": 20})

            async with anyio.create_task_group() as group:
                group.start_soon(receive)
                out["sent"] = (await a.call_tool("send_message", {"target_agent": "b", "payload": {
                    "question": "π?", "digits": [3, 1, 4]}})).structured_content
            out["got"] = out["got_raw"].structured_content
            out["text"] = json.loads(out["got_raw"].content[0].text)
            m = out["got"]["messages"][0]
            await b.call_tool("send_message", {"target_agent": "a", "payload": "3.14", "correlation_id": m["message_id"]})
            out["answer"] = (await a.call_tool("receive_messages", {"wait": 20})).structured_content["messages"][0]
            out["agents"] = sorted(x["agent_id"] for x in (await a.call_tool("list_agents", {})).structured_content["agents"])
            out["status"] = (await a.call_tool("workflow_status", {})).structured_content
            failed = await a.call_tool("send_message", {"target_agent": "b"})
            out["failed"] = {"isError": failed.is_error, **json.loads(failed.content[0].text)["error"]}
            out["tools"] = [t.name for t in (await a.list_tools()).tools]
            out["server"] = {"name": a.server_info.name if a.server_info else "slipstream"}  # pinned: never asked
            out["version"] = a.protocol_version

    anyio.run(talk)
    check_exchange(out)
    assert out["version"] == ("2025-11-25" if mode == "legacy" else MODERN)


# -- the handshake era --

@pytest.mark.parametrize("asked, answered", [("2025-03-26", "2025-03-26"), ("2025-06-18", "2025-06-18"), ("2025-11-25", "2025-11-25"),
                                             ("2024-11-05", "2025-11-25"), ("2099-01-01", "2025-11-25"), (MODERN, "2025-11-25")])
def test_initialize(sim, asked, answered):
    a = Agent(sim, version=None).request("initialize", {"protocolVersion": asked, "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}})
    r = a.json()["result"]
    assert (a.status, r["protocolVersion"], list(r["capabilities"])) == (200, answered, ["tools"])
    assert a.header("mcp-session-id") is None and r["serverInfo"]["name"] == "slipstream" and r["instructions"]


def test_initialize_without_a_version(sim):
    assert error_of(Agent(sim, version=None).request("initialize", {}), 200)["code"] == -32602


@pytest.mark.parametrize("body", [{"jsonrpc": "2.0", "method": "notifications/initialized"},
                                  {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}},
                                  {"jsonrpc": "2.0", "id": 3, "result": {}}, {"jsonrpc": "2.0", "id": 3, "error": {"code": 1, "message": "x"}}])
def test_what_needs_no_answer_is_202(sim, body):
    a = Agent(sim).post(body)
    assert (a.status, a.body) == (202, b"")


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
def test_only_post(sim, method):
    a = sim.fetch(method, "/mcp", None, pairs(["Accept: text/event-stream"]))
    assert error_of(a, 405)["data"]["code"] == "method_not_allowed"
    assert a.header("allow").startswith("POST")


def test_unknown_header_version(sim):
    e = error_of(Agent(sim, version="2020-01-01").request("tools/list"), 400)
    assert (e["code"], e["data"]) == (-32022, {"supported": [MODERN], "requested": "2020-01-01"})


def test_unknown_method_and_tool(sim):
    a = Agent(sim)
    assert error_of(a.request("prompts/list"), 200)["code"] == -32601
    assert error_of(a.request("server/discover"), 200)["code"] == -32601
    assert error_of(a.request("tools/call", {"name": "rm"}), 200)["code"] == -32602
    assert error_of(a.request("tools/call", {}), 200)["code"] == -32602
    assert error_of(a.request("tools/call", {"name": "list_agents", "arguments": []}), 200)["code"] == -32602
    assert error_of(a.request("tools/list", {"cursor": "x"}), 200)["code"] == -32602


def test_structure_where_the_revision_has_it(sim, version):
    workflow = new_workflow()
    a = Agent(sim, workflow, "a", version=version)
    tools = a.request("tools/list").json()["result"]
    assert [t["name"] for t in tools["tools"]] == TOOLS
    assert a.request("tools/list").body == a.request("tools/list").body
    r = a.tool("receive_messages")
    structured = version != "2025-03-26"
    assert ("structuredContent" in r) == structured
    assert all(("outputSchema" in t) == structured for t in tools["tools"])
    assert (r.get("resultType"), tools.get("ttlMs"), tools.get("cacheScope")) == (
        ("complete", 300000, "public") if version == MODERN else (None, None, None))
    assert (META + "serverInfo" in r.get("_meta", {})) == (version == MODERN)


def test_schemas_hold_what_the_tools_answer(solo):
    jsonschema = pytest.importorskip("jsonschema")
    workflow = new_workflow()
    a = Agent(solo, workflow, "a")
    tools = {t["name"]: t for t in a.request("tools/list").json()["result"]["tools"]}
    for t in tools.values():
        jsonschema.Draft202012Validator.check_schema(t["inputSchema"])
        jsonschema.Draft202012Validator.check_schema(t["outputSchema"])
        assert all(p.get("description") for p in t["inputSchema"]["properties"].values())
    for name, args in (("send_message", {"target_agent": "a", "payload": None}), ("receive_messages", {"max": 2}), ("list_agents", {}),
                       ("workflow_status", {})):
        jsonschema.validate(args, tools[name]["inputSchema"])
        jsonschema.validate(a.ok(name, args), tools[name]["outputSchema"])


# -- batches --

def test_batch(sim):
    workflow = new_workflow()
    a = Agent(sim, workflow, "a", version="2025-03-26")
    batch = [{"jsonrpc": "2.0", "id": "s", "method": "tools/call", "params": {"name": "send_message", "arguments": {
        "target_agent": "a", "payload": 1}}},
        {"jsonrpc": "2.0", "method": "notifications/progress", "params": {}},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "receive_messages", "arguments": {}}},
        {"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {"name": "receive_messages", "arguments": {}}},
        {"jsonrpc": "2.0", "id": 4, "method": "nope"}, {"id": 5}, 7, {"jsonrpc": "2.0", "id": 6, "method": "ping"}]
    answers = a.post(batch).json()
    assert [x.get("id") for x in answers] == ["s", 2, 3, 4, 5, None, 6]
    assert json.loads(answers[1]["result"]["content"][0]["text"])["messages"][0]["payload"] == 1
    assert answers[2]["result"]["isError"] is True
    assert [answers[i]["error"]["code"] for i in (3, 4, 5)] == [-32601, -32600, -32600]
    assert answers[6]["result"] == {}
    assert a.post(batch, version=None).status == 200, "no header means 2025-03-26"


def test_batch_of_notifications(sim):
    a = Agent(sim, version="2025-03-26").post([{"jsonrpc": "2.0", "method": "notifications/initialized"}] * 3)
    assert (a.status, a.body) == (202, b"")


@pytest.mark.parametrize("version, batch", [
    ("2025-06-18", [{"jsonrpc": "2.0", "id": 1, "method": "ping"}]), ("2025-11-25", [{"jsonrpc": "2.0", "id": 1, "method": "ping"}]),
    (MODERN, [{"jsonrpc": "2.0", "id": 1, "method": "ping"}]), ("2025-03-26", []),
    ("2025-03-26", [{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-03-26"}}]),
    (None, [{"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": {META + "protocolVersion": MODERN}}}])])
def test_batch_refused(sim, version, batch):
    assert error_of(Agent(sim, version=version).post(batch), 400)["code"] == -32600


def test_batch_too_long(sim):
    a = Agent(sim, version="2025-03-26").post([{"jsonrpc": "2.0", "id": i, "method": "ping"} for i in range(33)])
    assert error_of(a, 413)["data"]["code"] == "request_too_large"


# -- JSON-RPC --

@pytest.mark.parametrize("body, code", [
    (b"", -32700), (b"{", -32700), (b"{'a':1}", -32700), (b'{"jsonrpc":"2.0","id":1,"method":"\xff"}', -32700), (b"nul", -32700),
    (b"[" * 200 + b"]" * 200, -32700), (b"7", -32600), (b'"x"', -32600), (b"{}", -32600), (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', -32600),
    (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600), (b'{"jsonrpc":"2.0","id":{},"method":"ping"}', -32600),
    (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', -32600), (b'{"jsonrpc":"2.0","id":1}', -32600),
    (b'{"jsonrpc":"2.0","id":1,"method":7}', -32600), (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}', -32600),
    (b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}', -32600), (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":1,"a":2}}', -32600),
    (b'{"jsonrpc":"2.0","id":1,"method":"ping","\\u006dethod":"tools/list"}', -32600)])
def test_bad_json_rpc(sim, body, code):
    assert error_of(Agent(sim).post(body), 400)["code"] == code


@pytest.mark.parametrize("rid", ['"a\\u00e9\\"b"', "0", "-1", "1.50", "1e3", "12345678901234567890123", '""', '"π"'])
def test_ids_come_back_byte_for_byte(sim, rid):
    a = Agent(sim).post('{"method" : "ping", "id" :  %s , "jsonrpc":"2.0"}' % rid)
    assert a.body.decode() == '{"jsonrpc":"2.0","id":%s,"result":{}}' % rid


def test_content_type_and_accept(sim):
    ping = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'

    def status(*headers):
        return sim.fetch("POST", "/mcp", ping, pairs(headers)).status

    json_type = "Content-Type: application/json"
    assert status("Content-Type: text/plain") == 415
    assert status("Content-Type: application/jsonp") == 415
    assert status("Content-Type: application/json; charset=utf-8") == 200
    assert status(json_type) == 200
    assert [status(json_type, f"Accept: {a}") for a in ("*/*", "application/*", "text/event-stream, application/json;q=0.5", "text/event-stream",
                                                        "text/html", "application/json;q=0", "application/json; q=0.000")] == [
        200, 200, 200, 406, 406, 406, 406]


# -- tools --

def test_arguments_are_checked(sim):
    workflow = new_workflow()
    a = Agent(sim, workflow, "a")
    good = {"target_agent": "b", "payload": 1}
    for args, code, param in [({}, "invalid_value", "target_agent"), ({**good, "ttl": "x"}, "invalid_type", "ttl"),
                              ({**good, "ttl": 0}, "invalid_value", "ttl"), ({**good, "priority": 10}, "invalid_value", "priority"),
                              ({**good, "priority": 1.5}, "invalid_value", "priority"), ({**good, "target_agent": 7}, "invalid_type", "target_agent"),
                              ({**good, "target_agent": "a\nb"}, "invalid_id", "target_agent"),
                              ({**good, "target_agent": "x" * 257}, "invalid_id", "target_agent"), ({**good, "to": 1}, "invalid_value", None)]:
        e = a.fails("send_message", args)
        assert (e["code"], e.get("param")) == (code, param), (args, e)
        assert "retry_after" not in e
    for args, param in [({"max": 0}, "max"), ({"max": 1001}, "max"), ({"wait": 61}, "wait"), ({"types": "x"}, "types"),
                        ({"types": ["x"] * 17}, "types"), ({"types": [1]}, "types"), ({"peek": 1}, "peek")]:
        assert a.fails("receive_messages", args)["param"] == param
    e = a.fails("ack_message", {"message_id": "m", "receipt": "r", "action": "burn"})
    assert e["param"] == "action" and "ack nack extend" in e["message"]
    e = Agent(sim).fails("receive_messages", {"agent_id": "b"})
    assert e["param"] == "workflow_id" and "X-Workflow-ID" in e["message"]
    e = Agent(sim, workflow).fails("receive_messages")
    assert e["param"] == "agent_id" and "X-Agent-ID" in e["message"]
    assert a.ok("receive_messages", {"max": None, "types": None, "wait": 0.0})["messages"] == []


def test_who_i_am_by_argument_header_or_path(solo):
    w = new_workflow()
    assert Agent(solo, "other", "x").ok("send_message", {"workflow_id": w, "source_agent": "a", "target_agent": "b", "payload": 1})
    by_path = Agent(solo, path=f"/wf/{w}/agents/b/mcp")
    assert [m["source_agent"] for m in by_path.ok("receive_messages")["messages"]] == ["a"]
    assert by_path.ok("workflow_status")["workflow_id"] == w
    assert error_of(Agent(solo, "x" * 257).request("ping"), 400)["data"] == {"code": "invalid_id", "param": "X-Workflow-ID"}


def test_payload_comes_back_byte_for_byte(sim):
    a = Agent(sim, new_workflow(), "a")
    payload = '{"z":1.50,  "a":[1e2, "\\u00e9\\/", null], "a":{}}'
    a.post('{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"send_message","arguments":{"target_agent":"a","payload":%s}}}'
           % payload)
    got = a.request("tools/call", {"name": "receive_messages"})
    assert f'"payload":{payload}'.encode() in got.body
    assert payload in got.json()["result"]["content"][0]["text"]


def test_broadcast_and_types(solo):
    w = new_workflow()
    a, b, c = (Agent(solo, w, x) for x in "abc")
    b.ok("receive_messages")
    c.ok("receive_messages")
    assert sorted(a.ok("send_message", {"target_agent": "*", "payload": 1, "message_type": "news"})["queued_for"]) == ["b", "c"]
    assert b.ok("receive_messages", {"types": ["other"]})["messages"] == []
    assert b.ok("receive_messages", {"types": ["other", "news"], "peek": True})["messages"][0]["message_type"] == "news"
    assert len(b.ok("receive_messages", {"types": ["news"]})["messages"]) == 1


def test_unknown_workflow(sim):
    for tool in ("list_agents", "workflow_status"):
        assert Agent(sim, new_workflow()).fails(tool)["code"] == "workflow_not_found"


def test_full_mailbox_says_when_to_try_again():
    with Fleet(engines=0, mailbox={"box_messages": 1}) as f:
        a = Agent(f, "w", "a")
        a.ok("send_message", {"target_agent": "b", "payload": 1})
        e = a.fails("send_message", {"target_agent": "b", "payload": 1})
        assert e["code"] == "mailbox_full" and e["retry_after"] > 0


def test_without_mailbox_and_scheduler():
    with Fleet(engines=0, with_scheduler=False, with_mailbox=False) as f:
        a = Agent(f, "w", "a")
        for name, args, code in (("send_message", {"target_agent": "b", "payload": 1}, "mailbox_unavailable"),
                                 ("receive_messages", {}, "mailbox_unavailable"), ("list_agents", {}, "scheduler_unavailable"),
                                 ("ack_message", {"message_id": "m", "receipt": "r"}, "mailbox_unavailable")):
            e = a.fails(name, args)
            assert e["code"] == code and e["retry_after"] > 0
        batch = [{"jsonrpc": "2.0", "id": i, "method": "tools/call", "params": {"name": "list_agents"}} for i in range(32)]
        assert len(a.post(batch, version="2025-03-26").json()) == 32


def test_client_that_leaves_takes_no_message_with_it(sim, version):
    w = new_workflow()
    b = Agent(sim, w, "b", version=version)
    params = {"name": "receive_messages", "arguments": {"wait": 60}}
    headers = ["Content-Type: application/json", *b.headers, f"MCP-Protocol-Version: {version}"]
    if version == MODERN:
        params["_meta"] = {META + "protocolVersion": MODERN, META + "clientCapabilities": {}}
        headers += ["Mcp-Method: tools/call", "Mcp-Name: receive_messages"]
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
    with rawhttp.RawClient(sim.port) as c:
        c.request("POST", "/mcp", body, pairs(headers))
        wait_parked(sim, w, "b")
    wait_parked(sim, w, "b", 0)
    sent = Agent(sim, w, "a").ok("send_message", {"target_agent": "b", "payload": 1})
    got = b.tool("receive_messages", {"wait": 20})
    assert json.loads(got["content"][0]["text"])["messages"][0]["message_id"] == sent["message_id"]


def test_cancelled_notice_is_for_one_call_of_one_agent(solo):
    w, answers = new_workflow(), {}

    def wait(name, who, rid):
        a = who.request("tools/call", {"name": "receive_messages", "arguments": {"wait": 20, "workflow_id": w, "agent_id": name}}, rid)
        answers[name] = a.status, a.json()

    b, nobody = Agent(solo, w, "b"), Agent(solo)
    threads = [threading.Thread(target=wait, args=x) for x in (("b", b, 7), ("b2", b, 8), ("c", Agent(solo, w, "c"), 7), ("d", nobody, 7))]
    for t in threads:
        t.start()
    for name in ("b", "b2", "c", "d"):
        wait_parked(solo, w, name)
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}
    assert [x.post(cancel).status for x in (b, nobody)] == [202, 202]
    threads[0].join(secs(10))
    assert answers["b"][0] == 499 and answers["b"][1]["id"] == 7 and answers["b"][1]["error"]["data"]["code"] == "cancelled"
    assert [box(solo, w, name)["waiting"] for name in ("b", "b2", "c", "d")] == [0, 1, 1, 1]
    for name in ("b2", "c", "d"):
        Agent(solo, w, "a").ok("send_message", {"target_agent": name, "payload": name})
    for t in threads:
        t.join(secs(20))
    assert [answers[n][1]["result"]["structuredContent"]["messages"][0]["payload"] for n in ("b2", "c", "d")] == ["b2", "c", "d"]


def test_wait_ends_empty(sim):
    assert Agent(sim, new_workflow(), "b").ok("receive_messages", {"wait": 0.05}) == {"messages": [], "more": 0}


def test_many_wait_at_once(sim):
    w, got = new_workflow(), {}

    def wait(i):
        got[i] = Agent(sim, w, f"b{i}").ok("receive_messages", {"wait": 20}, timeout=30)

    threads = [threading.Thread(target=wait, args=(i,)) for i in range(20)]
    for t in threads:
        t.start()
    for i in range(20):
        wait_parked(sim, w, f"b{i}")
    for i in range(20):
        Agent(sim, w, "a").ok("send_message", {"target_agent": f"b{i}", "payload": i})
    for t in threads:
        t.join(secs(20))
    assert {i: g["messages"][0]["payload"] for i, g in got.items()} == {i: i for i in range(20)}


# -- 2026-07-28 --

def test_discover(sim):
    r = Agent(sim, version=MODERN).request("server/discover").json()["result"]
    assert (r["supportedVersions"], r["capabilities"], r["resultType"]) == ([MODERN], {"tools": {}}, "complete")
    assert r["_meta"][META + "serverInfo"]["name"] == "slipstream" and r["ttlMs"] > 0 and r["cacheScope"] == "public"


def modern_body(method="tools/call", meta=None, **params):
    meta = {META + "protocolVersion": MODERN, META + "clientCapabilities": {}} if meta is None else meta
    return {"jsonrpc": "2.0", "id": 9, "method": method, "params": {**params, "_meta": meta}}


@pytest.mark.parametrize("headers, code", [
    (["MCP-Protocol-Version: 2026-07-28"], -32020), (["Mcp-Method: tools/call", "Mcp-Name: list_agents"], -32020),
    (["MCP-Protocol-Version: 2025-11-25", "Mcp-Method: tools/call", "Mcp-Name: list_agents"], -32020),
    (["MCP-Protocol-Version: 2026-07-28", "Mcp-Method: tools/list", "Mcp-Name: list_agents"], -32020),
    (["MCP-Protocol-Version: 2026-07-28", "Mcp-Method: tools/call"], -32020),
    (["MCP-Protocol-Version: 2026-07-28", "Mcp-Method: tools/call", "Mcp-Name: send_message"], -32020),
    (["MCP-Protocol-Version: 2026-07-28", "Mcp-Method: tools/call", "Mcp-Name: =?base64?bGlzd?="], -32020),
    (["MCP-Protocol-Version: 2026-07-28", "Mcp-Method: tools/call", "Mcp-Name: =?base64?bGlzdF9hZ2VudHM=?="], None),
    (["mcp-protocol-version:   2026-07-28  ", "MCP-METHOD: tools/call ", "Mcp-Name:  list_agents"], None)])
def test_headers_must_say_what_the_body_says(sim, headers, code):
    a = Agent(sim, new_workflow(), version=None).post(modern_body(name="list_agents"), headers)
    if code is None:
        assert a.status == 200 and a.json()["result"]["isError"] is True
    else:
        assert error_of(a, 400)["code"] == code and a.json()["id"] == 9


@pytest.mark.parametrize("meta, code", [
    ({}, -32602), ({META + "protocolVersion": 7, META + "clientCapabilities": {}}, -32602), ({META + "protocolVersion": MODERN}, -32602),
    ({META + "protocolVersion": MODERN, META + "clientCapabilities": []}, -32602),
    ({META + "protocolVersion": MODERN, META + "clientCapabilities": {}, META + "clientInfo": "x"}, -32602)])
def test_meta_must_be_whole(sim, meta, code):
    headers = [f"MCP-Protocol-Version: {MODERN}", "Mcp-Method: server/discover"]
    assert error_of(Agent(sim, version=None).post(modern_body("server/discover", meta), headers), 400)["code"] == code


@pytest.mark.parametrize("asked", ["2025-11-25", "2099-01-01"])
def test_other_versions_need_their_own_way(sim, asked):
    body = modern_body("tools/list", {META + "protocolVersion": asked, META + "clientCapabilities": {}})
    e = error_of(Agent(sim, version=None).post(body, [f"MCP-Protocol-Version: {asked}", "Mcp-Method: tools/list"]), 400)
    assert (e["code"], e["data"]) == (-32022, {"supported": [MODERN], "requested": asked})


@pytest.mark.parametrize("method", ["initialize", "ping", "prompts/list", "nope", "x" * 100])
def test_unknown_method_is_404(sim, method):
    a = Agent(sim, version=MODERN).request(method)
    if len(method) > 64:
        assert a.status == 400
    else:
        assert error_of(a, 404)["code"] == -32601


def test_modern_notification(sim):
    a = Agent(sim, version=None)
    note = {"jsonrpc": "2.0", "method": "notifications/x", "params": {"_meta": {META + "protocolVersion": MODERN}}}
    assert a.post(note, [f"MCP-Protocol-Version: {MODERN}", "Mcp-Method: notifications/x"]).status == 202
    assert error_of(a.post(note, [f"MCP-Protocol-Version: {MODERN}", "Mcp-Method: other"]), 400)["code"] == -32020
    assert error_of(a.post(note, ["MCP-Protocol-Version: 2025-11-25"]), 400)["code"] == -32020


# -- who may --

@pytest.mark.parametrize("origin, host, allowed", [
    ("http://localhost", None, True), ("http://localhost:3000", None, True), ("http://127.0.0.1:9", None, True), ("http://[::1]:9", None, True),
    ("https://app.example", None, True), ("HTTPS://APP.EXAMPLE", None, True), ("https://app.example:444", None, False),
    ("http://evil.example", None, False), ("http://evil.example", "evil.example", False), ("http://192.0.2.7:80", "192.0.2.7:80", True),
    ("http://192.0.2.7:81", "192.0.2.7:80", False), ("null", None, False), ("", None, False), ("http://localhost.evil.example", None, False),
    ("http://localhost@evil.example", None, False), ("http://127.0.0.1.evil.example", None, False), ("file://localhost", None, False)])
def test_origin(origins, origin, host, allowed):
    with rawhttp.RawClient(origins.port) as c:
        c.request("POST", "/mcp", '{"jsonrpc":"2.0","id":1,"method":"ping"}', [("Origin", origin)], host=host or "127.0.0.1")
        a = c.read_answer()
    assert a.header("vary") == "Origin"
    if allowed:
        assert a.status == 200 and a.header("access-control-allow-origin") == origin
    else:
        assert a.header("access-control-allow-origin") is None
        assert error_of(a, 403)["data"]["code"] == "origin_not_allowed" and "id" not in a.json()


def test_pages_may_ask_first(origins):
    def ask(origin, *more):
        return origins.fetch("OPTIONS", "/mcp", None, pairs([f"Origin: {origin}", "Access-Control-Request-Method: POST", *more]))

    a = ask("https://app.example", "Access-Control-Request-Private-Network: true")
    assert (a.status, a.body, a.header("access-control-allow-origin"), a.header("access-control-allow-methods")) == (
        200, b"", "https://app.example", "POST")
    assert "authorization" in a.header("access-control-allow-headers") and a.header("access-control-allow-private-network") == "true"
    assert ask("http://localhost:1").header("access-control-allow-private-network") is None
    b = ask("http://evil.example")
    assert b.status == 403 and b.header("access-control-allow-origin") is None


@pytest.fixture(scope="module")
def origins():
    with Fleet(engines=0, with_scheduler=False, with_mailbox=False, gateway={"mcp_origins": ["https://app.example"]}) as f:
        yield f


def test_tenants(tmp_path):
    keys = []
    for tenant in ("red", "blue"):
        path = tmp_path / tenant
        path.write_text(f"key-{tenant}\n")
        path.chmod(0o600)
        keys.append({"file": str(path), "tenant": tenant})
    with Fleet(engines=0, sections={"keys": keys}) as f:
        red, blue = (Agent(f, "w", "a", headers=[f"Authorization: Bearer key-{t}"]) for t in ("red", "blue"))
        red.ok("send_message", {"target_agent": "a", "payload": "red"})
        assert blue.fails("workflow_status")["code"] == "workflow_not_found"
        assert blue.ok("receive_messages")["messages"] == []
        assert [m["payload"] for m in red.ok("receive_messages")["messages"]] == ["red"]
        a = Agent(f, "w", "a").request("ping")
        assert error_of(a, 401)["data"]["code"] == "invalid_api_key" and a.header("www-authenticate") == "Bearer"
        assert Agent(f, "w", "a", headers=["x-api-key: key-red"]).request("ping").status == 200


def test_body_too_large(sim):
    a = Agent(sim, "w", "a").post(b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":"' + b"x" * (4 << 20) + b'"}}')
    assert error_of(a, 413)["data"]["code"] == "request_too_large"


def test_payload_over_the_limit(sim):
    a = Agent(sim, new_workflow(), "a")
    assert a.fails("send_message", {"target_agent": "a", "payload": "x" * (1 << 20)})["code"] == "request_too_large"
    big = "x" * ((1 << 20) - 2)
    a.ok("send_message", {"target_agent": "a", "payload": big})
    assert a.ok("receive_messages")["messages"][0]["payload"] == big


def test_worker_that_shuts_down_ends_waiting_calls():
    with Fleet(engines=0) as f:
        got = {}
        t = threading.Thread(target=lambda: got.update(Agent(f, "w", "b").ok("receive_messages", {"wait": 60}, timeout=70)))
        t.start()
        wait_parked(f, "w", "b")
        f.workers[0].stop()
        t.join(secs(10))
        assert got == {"messages": [], "more": 0}
        f.workers[0].restart()


def test_mailbox_that_comes_back_finds_who_waited():
    with Fleet(engines=0) as f:
        got = {}
        t = threading.Thread(target=lambda: got.update(Agent(f, "w", "b").ok("receive_messages", {"wait": 60}, timeout=70)))
        t.start()
        wait_parked(f, "w", "b")
        f.mailbox.kill9()
        f.mailbox.restart()
        wait_parked(f, "w", "b")
        sent = Agent(f, "w", "a").ok("send_message", {"target_agent": "b", "payload": 1})
        t.join(secs(20))
        assert [m["message_id"] for m in got["messages"]] == [sent["message_id"]]


def test_calls_are_counted(sim):
    def count():
        return parse_metrics(sim.get("/metrics").body.decode()).sum("slipstream_gateway_mcp_calls_total", tool="list_agents")

    before = count()
    Agent(sim, new_workflow()).fails("list_agents")
    assert count() == before + 1


# -- leases, keys, order --

def test_leased_message_is_settled_in_every_way(sim):
    w = new_workflow()
    a, b = Agent(sim, w, "a"), Agent(sim, w, "b")
    sent = a.ok("send_message", {"target_agent": "b", "payload": 1})
    m = b.ok("receive_messages", {"lease": 30})["messages"][0]
    assert m["message_id"] == sent["message_id"] and m["attempt"] == 1 and m["receipt"] and m["lease_expires_at"]
    assert b.ok("receive_messages")["messages"] == []
    this = {"message_id": m["message_id"], "receipt": m["receipt"]}
    longer = b.ok("ack_message", {**this, "action": "extend", "lease": 600})
    assert longer["action"] == "extend" and longer["lease_expires_at"] > m["lease_expires_at"]
    assert b.ok("ack_message", {**this, "action": "nack"}) == {"message_id": m["message_id"], "action": "nack"}
    again = b.ok("receive_messages", {"lease": 30, "wait": 10})["messages"][0]
    assert again["attempt"] == 2 and again["receipt"] != m["receipt"]
    e = b.fails("ack_message", this)
    assert e["code"] == "stale_receipt" and "retry_after" not in e
    assert b.ok("ack_message", {**this, "receipt": again["receipt"]}) == {"message_id": m["message_id"], "action": "ack"}
    assert box(sim, w, "b")["depth"] == 0
    assert b.fails("ack_message", {**this, "receipt": "nonsense!"})["code"] == "invalid_request"


def test_lease_that_ends_gives_the_message_to_who_waits(sim):
    w = new_workflow()
    b = Agent(sim, w, "b")
    Agent(sim, w, "a").ok("send_message", {"target_agent": "b", "payload": 1})
    assert b.ok("receive_messages", {"lease": 0.1})["messages"][0]["attempt"] == 1
    assert b.ok("receive_messages", {"wait": 20})["messages"][0]["attempt"] == 2


def test_nack_with_delay_comes_later(sim):
    w = new_workflow()
    b = Agent(sim, w, "b")
    Agent(sim, w, "a").ok("send_message", {"target_agent": "b", "payload": 1})
    m = b.ok("receive_messages", {"lease": 30})["messages"][0]
    b.ok("ack_message", {"message_id": m["message_id"], "receipt": m["receipt"], "action": "nack", "delay": 0.2})
    assert b.ok("receive_messages")["messages"] == []
    assert b.ok("receive_messages", {"wait": 20})["messages"][0]["attempt"] == 2


def test_idempotency_key_sends_once(sim):
    w = new_workflow()
    a, b = Agent(sim, w, "a"), Agent(sim, w, "b")
    args = {"target_agent": "b", "payload": {"n": 1}, "idempotency_key": "k"}
    first, second = a.ok("send_message", args), a.ok("send_message", args)
    assert second == {**first, "replayed": True} and first["replayed"] is False
    assert a.fails("send_message", {**args, "payload": {"n": 2}})["code"] == "idempotency_key_reused"
    assert len(b.ok("receive_messages")["messages"]) == 1


def test_priority_and_delay(sim):
    w = new_workflow()
    a, b = Agent(sim, w, "a"), Agent(sim, w, "b")
    a.ok("send_message", {"target_agent": "b", "payload": "late", "delay": 0.3, "priority": 9})
    a.ok("send_message", {"target_agent": "b", "payload": "plain"})
    a.ok("send_message", {"target_agent": "b", "payload": "urgent", "priority": 5})
    assert [m["payload"] for m in b.ok("receive_messages")["messages"]] == ["urgent", "plain"]
    assert [m["payload"] for m in b.ok("receive_messages", {"wait": 20})["messages"]] == ["late"]


def test_leased_messages_survive_a_client_that_dies(sim):
    """The answer was written, nobody settles: they come back. A client gone before it: at once."""
    w = new_workflow()
    b = Agent(sim, w, "b")
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "receive_messages", "arguments": {"lease": 600, "wait": 60}}}
    with rawhttp.RawClient(sim.port) as c:
        c.request("POST", "/mcp", body, pairs(b.headers))
        wait_parked(sim, w, "b")
    wait_parked(sim, w, "b", 0)
    Agent(sim, w, "a").ok("send_message", {"target_agent": "b", "payload": 1})
    assert len(b.ok("receive_messages", {"lease": 30, "wait": 20})["messages"]) == 1
