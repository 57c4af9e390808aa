# SPDX-License-Identifier: Apache-2.0
"""Workflows, their mailboxes and their figures, over both carriers of the scheduler hop."""
import json
import signal
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import rawhttp
from support.errors import check_problem
from support.fleet import Fleet, slipctl, slipctl_run
from support.rawhttp import chat
from support.wait import secs, wait_until

pytestmark = pytest.mark.channel


def new(name="wf"):
    return f"{name}-{uuid.uuid4().hex[:10]}"


def wf(workflow, agent=None):
    return [("X-Workflow-ID", workflow)] + ([("X-Agent-ID", agent)] if agent else [])


def settled(fleet, workflow, requests):
    return fleet.settled(workflow, requests)


# ---- homes ----

@pytest.mark.asan_ok
def test_all_calls_of_one_workflow_go_to_one_engine(hop):
    for _ in range(3):
        w = new("home")
        engines = {hop.chat(f"turn {i}", wf(w, f"agent-{i % 3}")).header("x-slipstream-engine") for i in range(8)}
        assert len(engines) == 1, engines
        assert settled(hop, w, 8)["assigned_instance"] == engines.pop()


def test_workflows_spread_over_the_engines(hop):
    homes = [hop.chat("x", wf(new("spread"))).header("x-slipstream-engine") for _ in range(60)]
    assert set(homes) == {e.id for e in hop.engines}


def test_both_workers_agree_on_homes(hop):
    """Connections land on either worker; the home is the scheduler's word."""
    w = new("agree")
    with ThreadPoolExecutor(8) as pool:
        engines = set(pool.map(lambda i: hop.chat(f"{i}", wf(w)).header("x-slipstream-engine"), range(40)))
    assert len(engines) == 1


def test_a_workflow_meets_its_cache(hop):
    w = new("cache")
    text = "shared beginning " * 200
    first = hop.chat(text, wf(w)).json()["usage"]
    second = hop.chat(text, wf(w)).json()["usage"]
    assert first["prompt_tokens_details"]["cached_tokens"] == 0
    assert second["prompt_tokens_details"]["cached_tokens"] > 0.9 * second["prompt_tokens"]
    s = settled(hop, w, 2)
    cached = second["prompt_tokens_details"]["cached_tokens"]
    assert s["cache_hit_rate"] == pytest.approx(cached / (first["prompt_tokens"] + second["prompt_tokens"]), abs=0.01)


@pytest.mark.asan_ok
def test_receipt(hop):
    w = new("receipt")
    first = hop.chat("x", wf(w))
    second = hop.chat("x", wf(w))
    for a in (first, second):
        fields = dict(p.strip().split("=", 1) for p in a.header("x-slipstream-decision").split(";"))
        assert {"policy", "reason", "engine", "hit", "waited_ms"} <= set(fields), fields
        assert fields["policy"] == "workflow"
        assert fields["engine"] == a.header("x-slipstream-engine")
        assert 0 <= float(fields["hit"]) <= 1
        assert int(float(fields["waited_ms"])) >= 0
    assert "reason=home" in second.header("x-slipstream-decision")
    assert "reason=home" not in first.header("x-slipstream-decision")
    assert "queue" in (first.header("server-timing") or "") or "ttfb" in (first.header("server-timing") or "")


def test_requests_without_a_workflow_use_the_default_policy(hop):
    engines = {hop.chat(f"plain {i}").header("x-slipstream-engine") for i in range(12)}
    assert len(engines) >= 2
    receipt = hop.chat("plain").header("x-slipstream-decision")
    assert "policy=least" in receipt, receipt


# ---- identity ----

def body_with(workflow, agent="from-body"):
    return chat("sim", "who", max_tokens=1, workflow_metadata={"workflow_id": workflow, "agent_id": agent})


@pytest.mark.asan_ok
def test_identity_sources_and_their_precedence(hop):
    names = {k: new(k) for k in ("body", "header", "path")}
    path = f"/wf/{names['path']}/agents/from-path/v1/chat/completions"
    headers = wf(names["header"], "from-header")
    assert hop.post(path, chat("sim", "x", max_tokens=1)).status == 200
    assert settled(hop, names["path"], 1)["agents"][0]["agent_id"] == "from-path"
    assert hop.post(path, chat("sim", "x", max_tokens=1), headers).status == 200
    assert settled(hop, names["header"], 1)["agents"][0]["agent_id"] == "from-header"
    assert hop.post(path, body_with(names["body"]), headers).status == 200
    assert settled(hop, names["body"], 1)["agents"][0]["agent_id"] == "from-body"
    assert hop.status(names["path"]).json()["total_requests"] == 1
    assert hop.status(names["header"]).json()["total_requests"] == 1


def test_ids_are_compared_whole(hop):
    w = new("prefix")
    for name in (w, w + "2", w.upper()):
        assert hop.chat("x", wf(name)).status == 200
    for name in (w, w + "2", w.upper()):
        settled(hop, name, 1)


def test_strange_ids_survive(hop):
    for raw_id, quoted in (("ünï – 日本", "%C3%BCn%C3%AF%20%E2%80%93%20%E6%97%A5%E6%9C%AC"),
                           ('quote"back\\slash', "quote%22back%5Cslash"), ("percent%2f", "percent%252f"),
                           ("{brace}", "%7Bbrace%7D"), ("x" * 256, "x" * 256)):
        assert hop.post("/v1/chat/completions", body_with(raw_id)).status == 200
        assert hop.get(f"/v1/workflows/{quoted}/status").json()["workflow_id"] == raw_id
    hop.metrics()  # parses


# ---- status, list, end ----

@pytest.mark.asan_ok
def test_status_has_exactly_the_agreed_names(hop):
    w = new("status")
    for i in range(3):
        assert hop.chat("status " * 50, wf(w, f"agent-{i % 2}")).status == 200
    s = settled(hop, w, 3)
    assert s["workflow_id"] == w
    assert s["active_agents"] == 2 and isinstance(s["active_agents"], int)
    assert s["total_requests"] == 3
    assert isinstance(s["cache_hit_rate"], (int, float)) and 0 <= s["cache_hit_rate"] <= 1
    assert s["assigned_instance"] in {e.id for e in hop.engines}
    assert {"state", "created", "last_activity", "ttl", "agents", "tokens", "messages", "latency", "waits"} <= set(s)
    assert {"prompt", "cached", "completion", "recomputed"} <= set(s["tokens"])
    assert {"queued", "delivered"} <= set(s["messages"])
    assert {"mean", "p50", "p99"} <= set(s["latency"])
    assert s["tokens"]["completion"] == 12
    assert {a["agent_id"] for a in s["agents"]} == {"agent-0", "agent-1"}
    assert s["latency"]["mean"] > 0


def test_unknown_workflow_is_404_problem(hop):
    for method, path in (("GET", "/v1/workflows/{}/status"), ("DELETE", "/v1/workflows/{}")):
        a = hop.fetch(method, path.format(new("unknown")))
        check_problem(a, "workflow_not_found", 404)


@pytest.mark.parametrize("method, path, code", [
    ("POST", "/v1/workflows", "method_not_allowed"), ("POST", "/v1/workflows/w/unknown", "path_not_found"),
    ("GET", "/v1/workflows/w/unknown", "path_not_found"), ("PATCH", "/v1/workflows/w", "method_not_allowed")])
def test_everything_under_workflows_is_ours_and_errs_as_a_problem(hop, method, path, code):
    check_problem(hop.fetch(method, path, chat("sim", "for no engine")), code)


def test_delete_ends_a_workflow(hop):
    w = new("ends")
    hop.chat("x", wf(w))
    settled(hop, w, 1)
    assert hop.fetch("DELETE", f"/v1/workflows/{w}").status in (200, 204)
    check_problem(hop.status(w), "workflow_not_found", 404)
    check_problem(hop.fetch("DELETE", f"/v1/workflows/{w}"), "workflow_not_found", 404)
    assert hop.chat("x", wf(w)).status == 200
    assert settled(hop, w, 1)["total_requests"] == 1


def test_final_ends_a_workflow(hop):
    w = new("final")
    hop.chat("x", wf(w))
    settled(hop, w, 1)
    assert hop.chat("x", [*wf(w), ("X-Workflow-Final", "true")]).status == 200
    wait_until("the workflow is gone", 5, lambda: hop.status(w).status == 404)


def test_list_is_newest_first_and_pages(hop):
    names = [new("list") for _ in range(5)]
    for n in names:
        hop.chat("x", wf(n))
    a = hop.get("/v1/workflows?limit=200")
    assert a.status == 200
    listed = [x["workflow_id"] for x in a.json()["workflows"]]
    assert [x for x in listed if x in names] == names[::-1]
    page = hop.get("/v1/workflows?limit=2").json()
    assert [x["workflow_id"] for x in page["workflows"]] == listed[:2]
    following = hop.get(f"/v1/workflows?limit=2&cursor={page['next_cursor']}").json()
    assert [x["workflow_id"] for x in following["workflows"]] == listed[2:4]
    check_problem(hop.get("/v1/workflows?bogus=1"), "unknown_query_parameter", 400)


def test_bad_ids_in_workflow_paths_are_problems(hop):
    for bad in ("a%2fb", "a%00", "%2e%2e", "x" * 257, "%ff"):
        a = hop.get(f"/v1/workflows/{bad}/status")
        assert a.status in (400, 404), a
        assert a.header("content-type").startswith("application/problem+json")


# ---- mailboxes ----

def send(fleet, w, target, payload, source="planner", kind="note", **more):
    return fleet.post(f"/v1/workflows/{w}/messages", {"source_agent": source, "target_agent": target,
                                                      "message_type": kind, "payload": payload, **more})


def receive(fleet, w, agent, query="", **kw):
    a = fleet.get(f"/v1/workflows/{w}/agents/{agent}/messages{query}", **kw)
    assert a.status == 200, a
    return a.json()["messages"]


@pytest.mark.asan_ok
def test_message_goes_through_a_mailbox(hop):
    w = new("mail")
    a = send(hop, w, "coder", {"n": [1, 2.50, "ü\u0000"], "deep": {"x": None}}, kind="task")
    assert a.status == 202, a
    assert a.json()["queued_for"] == ["coder"] and a.json()["message_id"]
    (m,) = receive(hop, w, "coder")
    assert m["message_id"] == a.json()["message_id"]
    assert (m["source_agent"], m["target_agent"], m["message_type"], m["attempt"]) == ("planner", "coder", "task", 1)
    assert m["payload"] == {"n": [1, 2.50, "ü\u0000"], "deep": {"x": None}}
    assert m["created_at"].endswith("Z") and "T" in m["created_at"]
    assert receive(hop, w, "coder") == []


def test_payload_comes_back_byte_for_byte(hop):
    w = new("bytes")
    odd = b'{ "b" : 1e400 ,\t"a":[ 1.0, -0 ],"b":"\\u00e9\\/" }'
    a = hop.post(f"/v1/workflows/{w}/messages",
                 b'{"source_agent":"s","target_agent":"t","message_type":"m","payload":' + odd + b"}")
    assert a.status == 202, a
    assert odd in hop.get(f"/v1/workflows/{w}/agents/t/messages").body


def test_messages_are_first_in_first_out(hop):
    w = new("fifo")
    for i in range(25):
        assert send(hop, w, "t", i).status == 202
    got = [m["payload"] for _ in range(3) for m in receive(hop, w, "t", "?max=10")]
    assert got == list(range(25))


@pytest.mark.asan_ok
def test_long_poll_is_answered_by_the_post(hop):
    w = new("poll")
    with hop.client() as c:
        c.request("GET", f"/v1/workflows/{w}/agents/t/messages?wait=30")
        wait_until("the poll is parked", 5,
                   lambda: hop.get(f"/v1/workflows/{w}/agents/t/mailbox").json().get("waiting") == 1)
        t0 = time.monotonic()
        assert send(hop, w, "t", "news").status == 202
        a = c.read_answer()
        assert time.monotonic() - t0 < secs(1)
        assert [m["payload"] for m in a.json()["messages"]] == ["news"]


def test_long_poll_ends_empty_at_its_time(hop):
    t0 = time.monotonic()
    assert receive(hop, new("empty"), "t", "?wait=0.3") == []
    assert 0.25 < time.monotonic() - t0 < secs(2)


def test_long_poll_that_leaves_takes_no_message_with_it(hop):
    w = new("left")
    c = hop.client()
    c.request("GET", f"/v1/workflows/{w}/agents/t/messages?wait=30")
    box = f"/v1/workflows/{w}/agents/t/mailbox"
    wait_until("the poll is parked", 5, lambda: hop.get(box).json().get("waiting") == 1)
    c.close()
    wait_until("the poll is gone", 5, lambda: hop.get(box).json().get("waiting") == 0)
    send(hop, w, "t", "kept")
    assert [m["payload"] for m in receive(hop, w, "t")] == ["kept"]


@pytest.mark.asan_ok
def test_messages_of_a_reader_that_left_before_the_answer_come_back_at_once():
    """Also when the answer meets nobody: the mailbox had not got to the call when its reader left."""
    with Fleet(engines=1, workers=1) as f:
        box = "/v1/workflows/w/agents/b/messages"
        assert f.post("/v1/workflows/w/messages", {"source_agent": "a", "target_agent": "b", "message_type": "t",
                                                   "payload": 1}).status == 202
        f.mailbox.signal(signal.SIGSTOP)
        try:
            with f.client() as c:
                c.request("GET", box)
                f.wait_metric("slipstream_gateway_active_requests", 1, state="ASKING")
            f.wait_metric("slipstream_gateway_active_requests", 0, state="ASKING")
        finally:
            f.mailbox.signal(signal.SIGCONT)
        wait_until("the message is back", 5, lambda: f.get(box).json()["messages"])


@pytest.mark.asan_ok
def test_messages_come_back_when_their_reader_breaks_off_in_the_answer(hop):
    w = new("broken-off")
    box = f"/v1/workflows/{w}/agents/b/messages"
    big = "x" * 250_000
    for i in range(12):
        assert hop.post(f"/v1/workflows/{w}/messages", {"source_agent": "a", "target_agent": "b", "message_type": "t",
                                                        "payload": f"{i}{big}"}).status == 202
    with hop.client(rcvbuf=2048) as c:
        c.request("GET", f"{box}?max=12")
        c.read_head()
        c.reset()
    got = []

    def all_back():
        got.extend(m["payload"][:-len(big)] for m in hop.get(f"{box}?max=12").json()["messages"])
        return len(got) >= 12

    wait_until("all messages are back", 5, all_back)
    assert sorted(map(int, got)) == list(range(12))


@pytest.mark.asan_ok
def test_poll_ends_at_its_time_though_the_mailbox_is_gone():
    with Fleet(engines=1, workers=1) as f:
        with f.client() as c:
            c.request("GET", "/v1/workflows/w/agents/b/messages?wait=1")
            f.wait_metric("slipstream_mailbox_waiting", 1)
            f.mailbox.kill9()
            check_problem(c.read_answer(), "mailbox_unavailable", 503)


def test_many_polls_share_many_messages(hop):
    w = new("share")
    with ThreadPoolExecutor(8) as pool:
        polls = [pool.submit(receive, hop, w, "t", "?wait=20&max=1") for _ in range(8)]
        for i in range(8):
            send(hop, w, "t", i)
        got = sorted(m["payload"] for p in polls for m in p.result())
    assert got == list(range(8))


def test_broadcast_reaches_every_agent_but_the_sender(hop):
    w = new("cast")
    for agent in ("planner", "coder", "tester"):
        hop.chat("x", wf(w, agent))
    receive(hop, w, "reader")  # an agent that only reads is known too
    a = send(hop, w, "*", "all", source="planner")
    assert a.status == 202
    assert sorted(a.json()["queued_for"]) == ["coder", "reader", "tester"]
    for agent in ("coder", "tester", "reader"):
        assert [m["payload"] for m in receive(hop, w, agent)] == ["all"]
    assert receive(hop, w, "planner") == []


def test_types_filter(hop):
    w = new("types")
    for kind in ("a", "b", "a", "c"):
        send(hop, w, "t", kind, kind=kind)
    assert [m["payload"] for m in receive(hop, w, "t", "?types=a")] == ["a", "a"]
    assert [m["payload"] for m in receive(hop, w, "t")] == ["b", "c"]


def test_peek_takes_nothing(hop):
    w = new("peek")
    send(hop, w, "t", 1)
    assert [m["payload"] for m in receive(hop, w, "t", "?peek=true")] == [1]
    assert [m["payload"] for m in receive(hop, w, "t")] == [1]


def test_expired_messages_are_not_delivered(hop):
    w = new("ttl")
    send(hop, w, "t", "short", ttl=0.2)
    send(hop, w, "t", "long", ttl=600)
    wait_until("one message has expired", 5, lambda: len(receive(hop, w, "t", "?peek=true")) == 1)
    assert [m["payload"] for m in receive(hop, w, "t")] == ["long"]


def test_wrong_messages_are_problems(hop):
    w = new("wrong")
    path = f"/v1/workflows/{w}/messages"
    for data in (b"", b"{", b"[]", b'{"source_agent":"s"}', {"source_agent": "s", "target_agent": "t", "payload": 1,
                 "message_type": 7}, {"source_agent": "s", "target_agent": "x" * 257, "message_type": "m", "payload": 1},
                 {"source_agent": "", "target_agent": "t", "message_type": "m", "payload": 1}):
        a = hop.post(path, data)
        assert a.status == 400, (data, a)
        assert a.header("content-type").startswith("application/problem+json")
    a = hop.post(path, {"source_agent": "s", "target_agent": "t", "message_type": "m", "payload": "x" * (1 << 20)})
    assert a.status == 413, a
    a = hop.get(f"/v1/workflows/{w}/agents/t/messages?wait=zero")
    assert a.status == 400
    check_problem(hop.get(f"/v1/workflows/{w}/agents/t/messages?bogus=1"), "unknown_query_parameter", 400)


def test_big_payload_is_compressed_and_whole(hop):
    w = new("big")
    payload = "compress me " * 40000
    assert send(hop, w, "t", payload).status == 202
    assert receive(hop, w, "t")[0]["payload"] == payload


def test_delete_of_a_workflow_can_purge_its_mail(hop):
    w = new("purge")
    hop.chat("x", wf(w, "t"))
    send(hop, w, "t", 1)
    assert hop.fetch("DELETE", f"/v1/workflows/{w}?purge=true").status in (200, 204)
    assert receive(hop, w, "t") == []


def test_slipctl_sends_and_receives(hop):
    w = new("ctl")
    r = slipctl_run(hop, "send", w, "t", '{"from":"slipctl"}', "--source", "operator", "--type", "note")
    assert r.returncode == 0, r.stderr
    (m,) = receive(hop, w, "t")
    assert (m["payload"], m["source_agent"], m["message_type"]) == ({"from": "slipctl"}, "operator", "note")
    send(hop, w, "t", "back")
    r = slipctl_run(hop, "receive", w, "t", "--json")
    assert r.returncode == 0, r.stderr
    assert "back" in r.stdout


@pytest.mark.parametrize("channel_name", ["auto"])
def test_full_mailbox_is_429_and_loses_nothing(channel_name):
    with Fleet(engines=0, workers=1, channel=channel_name, mailbox={"box_messages": 5}) as f:
        for i in range(5):
            assert send(f, "full", "t", i).status == 202
        a = send(f, "full", "t", 5)
        check_problem(a, "mailbox_full", 429)
        assert int(a.header("retry-after")) >= 1
        assert send(f, "full", "other", 0).status == 202
        assert [m["payload"] for m in receive(f, "full", "t", "?max=1")] == [0]
        assert send(f, "full", "t", 6).status == 202
        assert [m["payload"] for m in receive(f, "full", "t")] == [1, 2, 3, 4, 6]


# ---- figures ----

@pytest.mark.asan_ok
def test_metrics_of_any_worker_sum_all_of_them(hop):
    w = new("metrics")
    with ThreadPoolExecutor(8) as pool:
        assert all(a.status == 200 for a in pool.map(lambda i: hop.chat("m " * 200, wf(w, f"a{i % 4}")), range(40)))
    settled(hop, w, 40)
    send(hop, w, "a1", "one")
    send(hop, w, "a1", "two")
    served = []
    for worker in (1, 2):
        hop.wait_metric("vllm_workflow_requests_total", 40, worker=worker, workflow_id=w)
        hop.wait_metric("vllm_agent_message_queue_size", 2, worker=worker, workflow_id=w, agent_id="a1")
        m = hop.metrics(worker)
        assert 0.3 < m.sum("vllm_workflow_cache_hit_rate", workflow_id=w) <= 1
        assert m.sum("vllm_workflow_latency_seconds_count", workflow_id=w) == 40
        assert m.sum("vllm_workflow_latency_seconds_bucket", workflow_id=w, le="+Inf") == 40
        assert m.types["vllm_workflow_latency_seconds"] == "histogram"
        assert m.types["vllm_workflow_requests_total"] == "counter"
        assert m.has("vllm_workflow_batch_efficiency", workflow_id=w)
        served.append(m.sum("slipstream_gateway_requests_total", status="200"))
    assert served[0] >= 40 and served[1] >= 40


def test_data_plane_metrics_carry_no_workflow_labels(hop):
    w = new("private")
    hop.chat("x", wf(w))
    text = hop.get("/metrics").body.decode()
    assert "slipstream_gateway_requests_total" in text
    assert "workflow_id=" not in text and w not in text


def test_labels_are_bounded():
    with Fleet(engines=1, workers=1, scheduler={"metrics_workflows": 5}, gateway={"metrics_workflows": 5},
               with_mailbox=False) as f:
        for i in range(30):
            assert f.chat("x", wf(f"label-{i}"), max_tokens=1).status == 200
        f.wait_metric("vllm_workflow_requests_total", 30)
        labels = f.metrics().labels("vllm_workflow_requests_total", "workflow_id")
        assert len(labels) <= 6 and "_other" in labels, labels


def test_ended_workflow_leaves_the_metrics(hop):
    w = new("gone")
    hop.chat("x", wf(w))
    hop.wait_metric("vllm_workflow_requests_total", 1, workflow_id=w)
    hop.fetch("DELETE", f"/v1/workflows/{w}")
    wait_until("the series is gone", 5, lambda: not hop.metrics().has("vllm_workflow_requests_total", workflow_id=w))


# ---- the rest of the surface ----

def test_models_are_the_union_of_healthy_engines(hop):
    a = hop.get("/v1/models")
    assert a.json()["object"] == "list"
    assert [m["id"] for m in a.json()["data"]] == ["sim"]


def test_probes_and_version(hop):
    assert hop.get("/health").status == 200
    assert hop.get("/version").json()["version"]
    ready = rawhttp.get(hop.admin_port, "/ready")
    assert ready.status == 200


def test_admin_listener_checks_host(hop):
    a = rawhttp.get(hop.admin_port, "/config", host="evil.example")
    assert a.status in (400, 403, 421), a
    assert rawhttp.get(hop.admin_port, "/config", host="localhost").status == 200


def test_tokenize_and_detokenize(hop):
    tokens = hop.post("/tokenize", {"model": "sim", "prompt": "hello there"}).json()
    assert tokens["count"] == len(tokens["tokens"]) > 0
    assert hop.post("/detokenize", {"model": "sim", "tokens": tokens["tokens"]}).status == 200


def test_slipctl_sees_what_the_gateway_says(hop):
    w = new("seen")
    hop.chat("x", wf(w, "agent"))
    settled(hop, w, 1)
    status = slipctl(hop, "status", "--json")
    assert status["scheduler"]["engines_healthy"] == 3
    assert w in json.dumps(slipctl(hop, "workflows", "--json"))
    r = slipctl_run(hop, "check")
    assert r.returncode == 0, r.stderr + r.stdout


def test_many_workflows_at_once(hop):
    done = []

    def one(i):
        w = new("many")
        for turn in range(3):
            a = hop.chat(f"turn {turn}", wf(w))
            assert a.status == 200, a
        done.append(w)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(24)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(done) == 24
    for w in done[:3]:
        settled(hop, w, 3)
