# SPDX-License-Identifier: Apache-2.0
"""Mailboxes over HTTP, every row of the table and every guarantee, over both carriers of the workers' hops."""
import json
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import httpx
import pytest
import requests
from support.errors import check_problem
from support.fleet import Fleet
from support.mail import Box, new
from support.wait import secs, wait_until

pytestmark = pytest.mark.channel


# ---- sending and receiving ----

@pytest.mark.asan_ok
def test_a_message_has_the_agreed_names(hop):
    b = Box(hop)
    a = b.post({"n": 1}, source="planner", kind="task", correlation_id="c-1", reply_to="planner", group="g", priority=3,
               ttl=60)
    assert a.status == 202 and set(a.json()) == {"message_id", "queued_for"}, a
    assert a.json()["queued_for"] == ["t"]
    (m,) = b.receive()
    assert m.pop("message_id") == a.json()["message_id"]
    for name in ("created_at", "expires_at"):
        assert m.pop(name).endswith("Z")
    assert m == {"source_agent": "planner", "target_agent": "t", "message_type": "task", "payload": {"n": 1},
                 "attempt": 1, "correlation_id": "c-1", "reply_to": "planner", "group": "g", "priority": 3}


def test_what_was_not_given_is_not_there(hop):
    b = Box(hop)
    b.send(None)
    (m,) = b.receive()
    assert set(m) - {"expires_at"} == {"message_id", "source_agent", "target_agent", "message_type", "payload",
                                       "created_at", "attempt"}


PAYLOADS = [
    b'{ "b" : 1e400 ,\t"a":[ 1.0, -0 ],"b":"\\u00e9\\/" }', b"12345678901234567890123456789", b"-0.0", b"1E+2", b'""',
    b"null", b"false", b"[ ]", b"{\n}", b'"\\ud800"', '"ü日本𝄞"'.encode(), b'"\x7f\\u0000"', b"[[[[1]]]]",
    b'{"payload":{"payload":"}"}}', b'"' + b"x" * 300_000 + b'"', b"[" + b",".join(b"%d" % i for i in range(9000)) + b"]"]


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda p: p[:24].decode("utf-8", "replace"))
def test_a_payload_comes_back_byte_for_byte(hop, payload):
    b = Box(hop)
    a = hop.post(b.sends, b' {"source_agent" :"s","target_agent":"t",\n"payload": ' + payload + b' , "message_type":"m"} ')
    assert a.status == 202, a
    body = b.get().body
    assert body.endswith(b',"payload":' + payload + b'}],"next":null}'), body[:300]


def json_random(rng, depth=0):
    """JSON text as nobody would print it."""
    space = rng.choice(["", "", " ", "\n", "\t ", "\r\n"])
    kind = rng.randrange(7 if depth < 4 else 4)
    if kind == 0:
        text = rng.choice(["0", "-0", "1e5", "1.50", "-7E-3", "9" * rng.randrange(1, 60), "0.000"])
    elif kind in (1, 2):
        text = '"' + "".join(rng.choice(["a", "ü", "\\n", "\\u0000", "\\\"", "日", "\\/", "𝄞", "{", "]", ","])
                             for _ in range(rng.randrange(30))) + '"'
    elif kind == 3:
        text = rng.choice(["true", "false", "null"])
    elif kind < 6:
        text = "[" + ",".join(json_random(rng, depth + 1) for _ in range(rng.randrange(4))) + "]"
    else:
        text = "{" + ",".join(f'{space}"k{rng.randrange(3)}"{space}:{json_random(rng, depth + 1)}'
                              for _ in range(rng.randrange(4))) + "}"
    return space + text + space


@pytest.mark.parametrize("seed", range(5))
def test_any_json_passes_unchanged(hop, seed):
    """Sent one by one and in bulk; each comes back as the bytes that it was, without the white space around it."""
    rng = random.Random(seed)
    b = Box(hop)
    texts = [json_random(rng) for _ in range(40)]
    bodies = ['{"source_agent":"s","target_agent":"t","message_type":"m","payload":' + t + "}" for t in texts]
    for body in bodies[:20]:
        assert hop.post(b.sends, body.encode()).status == 202, body
    a = hop.post(b.sends, ('{"messages":[' + ",".join(bodies[20:]) + "]}").encode())
    assert a.status == 202 and all("message_id" in x for x in a.json()["results"]), a
    body = b.get("?max=100").body.decode()
    at = 0
    for t in texts:
        want = ',"payload":' + t.strip(" \t\r\n") + "}"
        at = body.find(want, at)
        assert at >= 0, (seed, want)
        at += len(want)


def test_ids_may_be_anything_that_is_text(hop):
    b = Box(hop, workflow=quote("ünï – 日本", safe=""), agent=quote('a"b\\c{x}', safe=""))
    a = hop.post(b.sends, {"source_agent": "s:ack", "target_agent": 'a"b\\c{x}', "message_type": "m", "payload": 1})
    assert a.status == 202 and a.json()["queued_for"] == ['a"b\\c{x}'], a
    (m,) = b.receive("?lease=60")
    assert (m["source_agent"], m["target_agent"]) == ("s:ack", 'a"b\\c{x}')
    assert b.settle("ack", m).status == 200


@pytest.mark.asan_ok
def test_bulk_answers_one_result_for_each_in_order(hop):
    b = Box(hop)
    limit = b.figures()["limits"]["payload_bytes"]
    rows = [{"source_agent": "s", "target_agent": f"t{i % 3}", "message_type": "m", "payload": i} for i in range(20)]
    rows[7]["payload"] = "x" * limit
    a = hop.post(b.sends, {"messages": rows})
    assert a.status == 202, a
    results = a.json()["results"]
    assert len(results) == 20
    assert results[7]["error"]["code"] == "request_too_large"
    for i, r in enumerate(results):
        assert i == 7 or r["queued_for"] == [f"t{i % 3}"]
    for k in range(3):
        assert b.other(f"t{k}").payloads("?max=50") == [i for i in range(20) if i % 3 == k and i != 7]


def test_higher_priorities_come_first_and_equals_in_order(hop):
    b = Box(hop)
    for i, p in enumerate([0, 5, 9, 5, 0, 9, 1]):
        b.send(i, priority=p)
    assert b.payloads() == [2, 5, 1, 3, 6, 0, 4]


def test_order_of_each_source_holds_whoever_else_sends(hop):
    b = Box(hop)

    def run(source):
        with hop.client() as c:
            for i in range(60):
                c.request("POST", b.sends, {"source_agent": source, "target_agent": "t", "message_type": "m",
                                            "payload": [source, i]})
                assert c.read_answer("POST").status == 202

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, "abcd"))
    got = b.payloads("?max=1000")
    assert len(got) == 240
    for source in "abcd":
        assert [i for s, i in got if s == source] == list(range(60))


def test_a_delayed_message_comes_when_it_is_due(hop):
    b = Box(hop)
    b.send("later", delay=0.4)
    b.send("now")
    assert b.payloads() == ["now"]
    assert b.figures()["delayed"] == 1
    t0 = time.monotonic()
    assert b.payloads("?wait=20") == ["later"]
    assert time.monotonic() - t0 < secs(3)


def test_types_choose(hop):
    b = Box(hop)
    for kind in ("a", "b", "c", "a"):
        b.send(kind, kind=kind)
    assert b.payloads("?types=a,c") == ["a", "c", "a"]
    assert b.payloads() == ["b"]


def test_next_says_that_there_is_more(hop):
    b = Box(hop)
    for i in range(3):
        b.send(i)
    assert b.get("?max=2").json()["next"] is True
    assert b.get("?max=2").json()["next"] is None


def test_prefer_wait_is_a_long_poll_that_says_so(hop):
    b = Box(hop)
    with hop.client() as c:
        c.request("GET", f"{b.path}/messages", headers=[("Prefer", "respond-async, wait=30")])
        b.wait_figure("waiting", 1)
        b.send("news")
        a = c.read_answer()
    assert a.header("preference-applied") == "wait=30"
    assert [m["payload"] for m in a.json()["messages"]] == ["news"]


@pytest.mark.asan_ok
def test_a_look_takes_nothing_and_counts_nothing(hop):
    b = Box(hop)
    for i in range(3):
        b.send(i)
    assert b.payloads("?peek=true") == b.payloads("?peek=true") == [0, 1, 2]
    assert [m["attempt"] for m in b.receive()] == [1, 1, 1]


def test_broadcast_is_one_copy_for_each_other_agent(hop):
    b = Box(hop)
    for agent in ("a", "b", "c"):
        b.other(agent).receive()
    a = b.post("all", source="a", target="*")
    assert sorted(a.json()["queued_for"]) == ["b", "c"]
    assert b.other("b").payloads() == b.other("c").payloads() == ["all"]
    assert b.other("a").payloads() == []


def test_well_known_clients_work(hop):
    w = new()
    url = f"http://127.0.0.1:{hop.port}/v1/workflows/{w}"
    body = {"source_agent": "s", "target_agent": "t", "message_type": "m", "payload": {"x": [1, 2]}}
    assert requests.post(f"{url}/messages", json=body, timeout=20).status_code == 202
    with httpx.Client(timeout=20) as c:
        m = c.get(f"{url}/agents/t/messages", params={"lease": 30, "wait": 5}).json()["messages"][0]
        assert m["payload"] == {"x": [1, 2]}
        r = c.post(f"{url}/agents/t/messages/{m['message_id']}:ack", json={"receipt": m["receipt"]})
        assert r.status_code == 200, r.text
        assert c.get(f"{url}/agents/t/mailbox").json()["depth"] == 0


# ---- leases ----

@pytest.mark.asan_ok
def test_a_leased_message_waits_for_its_ack(hop):
    b = Box(hop)
    b.send(1)
    (m,) = b.receive("?lease=60")
    assert m["receipt"] and m["lease_expires_at"].endswith("Z")
    assert b.receive() == []
    b.wait_figure("leased", 1)
    a = b.settle("ack", m)
    assert a.status == 200 and a.json() == {"message_id": m["message_id"]}
    assert b.figures()["leased"] == 0
    check_problem(b.settle("ack", m), "stale_receipt", 409)


@pytest.mark.asan_ok
def test_a_lease_that_ends_brings_the_message_back(hop):
    b = Box(hop)
    b.send(1)
    (first,) = b.receive("?lease=0.2")
    (second,) = b.receive("?lease=60&wait=20")
    assert (first["attempt"], second["attempt"]) == (1, 2)
    assert first["message_id"] == second["message_id"] and first["receipt"] != second["receipt"]
    for verb in ("ack", "nack", "extend"):
        check_problem(b.settle(verb, first), "stale_receipt", 409)
    assert b.settle("ack", second).status == 200
    assert b.receive() == []


def test_nack_brings_it_back_at_once_or_after_a_while(hop):
    b = Box(hop)
    b.send("x")
    b.send("y")
    m, _ = b.receive("?lease=60&max=2")
    assert b.settle("nack", m).status == 200
    (again,) = b.receive("?lease=60")
    assert (again["payload"], again["attempt"]) == ("x", 2)
    assert b.settle("nack", again, "?delay=0.3").status == 200
    assert b.receive() == []
    assert b.figures()["delayed"] == 1
    assert b.payloads("?wait=20") == ["x"]


def test_extend_moves_the_end(hop):
    b = Box(hop)
    b.send(1)
    (m,) = b.receive("?lease=1")
    a = b.settle("extend", m, "?lease=60")
    assert a.status == 200 and a.json()["lease_expires_at"] > m["lease_expires_at"], a
    again = b.settle("extend", m)  # as long as it was given
    assert again.status == 200
    a = b.settle("extend", m, "?lease=0.2")
    assert a.status == 200
    assert [x["attempt"] for x in b.receive("?wait=20")] == [2]


def test_a_lease_over_the_mailboxes_limit_is_named(hop):
    b = Box(hop)
    b.send(1)
    refused = [b.get("?lease=43201")]
    (m,) = b.receive("?lease=43200")
    refused.append(b.settle("extend", m, "?lease=43201"))
    assert [(a.status, a.json()["code"], a.json()["param"]) for a in refused] == [(400, "invalid_value", "lease")] * 2


@pytest.mark.asan_ok
def test_many_are_settled_at_once(hop):
    b = Box(hop)
    for i in range(4):
        b.send(i)
    ms = b.receive("?lease=60")
    acks = [{"message_id": m["message_id"], "receipt": m["receipt"], "action": action}
            for m, action in zip(ms, ["ack", "nack", "extend", "ack"])]
    acks[2]["lease"] = 120
    acks[3]["receipt"] = ms[0]["receipt"]
    a = hop.post(f"{b.path}/messages:settle", {"acks": acks})
    assert a.status == 200, a
    results = a.json()["results"]
    assert [r["message_id"] for r in results] == [m["message_id"] for m in ms]
    assert results[0] == {"message_id": ms[0]["message_id"]}
    assert "error" not in results[1] and "lease_expires_at" in results[2]
    assert results[3]["error"]["status"] == 409 and results[3]["error"]["code"] == "stale_receipt"
    assert b.payloads() == [1]


def test_ids_and_colons_may_be_percent_encoded(hop):
    b = Box(hop)
    b.send(1)
    (m,) = b.receive("?lease=60")
    spelled = "".join(f"%{ord(c):02x}" for c in m["message_id"])
    assert b.settle("extend", m, quoted=spelled).status == 200
    a = hop.post(f"{b.path}/messages/{spelled}%3Aack", {"receipt": m["receipt"]})
    assert a.status == 200, a


def test_a_group_is_handed_out_in_strict_order(hop):
    b = Box(hop)
    for i in range(3):
        b.send(f"g{i}", group="g")
    b.send("free")
    (g0,) = b.receive("?lease=60&max=1")
    assert g0["payload"] == "g0"
    assert b.payloads() == ["free"]  # the rest of the group waits
    assert b.settle("ack", g0).status == 200
    assert b.payloads() == ["g1", "g2"]


def test_a_lease_is_not_ended_by_the_readers_leaving(hop):
    b = Box(hop)
    b.send(1)
    with hop.client() as c:
        c.request("GET", f"{b.path}/messages?lease=60")
        (m,) = c.read_answer().json()["messages"]
    b.wait_figure("leased", 1)
    assert b.receive() == []
    assert b.settle("ack", m).status == 200


# ---- dead letters ----

@pytest.mark.asan_ok
def test_what_expired_is_a_dead_letter_and_can_be_driven_back(hop):
    b = Box(hop)
    mid = b.send("short", ttl=0.2)
    b.wait_figure("dead", 1)
    assert b.receive() == [] and b.figures()["expired"] == 1
    (m,) = b.dead()["messages"]
    assert (m["message_id"], m["payload"], m["dead_reason"]) == (mid, "short", "expired")
    assert m["dead_at"].endswith("Z")
    assert b.redrive() == {"redriven": 1, "left": 0}
    assert [(m["message_id"], m["attempt"]) for m in b.receive()] == [(mid, 1)]
    assert b.dead() == {"messages": [], "next": None}


def test_what_was_delivered_too_often_is_a_dead_letter():
    with Fleet(engines=0, workers=1, mailbox={"max_deliveries": 2}) as f:
        b = Box(f)
        b.send(1)
        for attempt in (1, 2):
            (m,) = b.receive("?lease=60")
            assert m["attempt"] == attempt
            assert b.settle("nack", m).status == 200
        assert b.receive() == []
        assert [m["dead_reason"] for m in b.dead()["messages"]] == ["attempts"]
        assert b.figures()["limits"]["max_deliveries"] == 2


def test_dead_letters_come_in_pages_and_are_chosen_by_id(hop):
    b = Box(hop)
    ids = [b.send(i, ttl=0.1) for i in range(5)]
    b.wait_figure("dead", 5)
    first = b.dead("?max=2")
    assert [m["message_id"] for m in first["messages"]] == ids[:2] and first["next"] == ids[1]
    rest = b.dead(f"?max=10&after={first['next']}")
    assert [m["message_id"] for m in rest["messages"]] == ids[2:] and rest["next"] is None
    assert b.redrive([ids[3], ids[0]]) == {"redriven": 2, "left": 3}
    a = hop.fetch("DELETE", f"{b.path}/dead-letters", {"message_ids": [ids[1]]})
    assert (a.status, a.json()) == (200, {"dropped": 1, "left": 2})
    for call in (("DELETE", "dead-letters"), ("POST", "dead-letters:redrive")):
        a = hop.fetch(call[0], f"{b.path}/{call[1]}", {"message_ids": []})
        assert check_problem(a, "invalid_value", 400)["param"] == "message_ids"
    assert b.figures()["dead"] == 2
    a = hop.fetch("DELETE", f"{b.path}/dead-letters")
    assert a.json() == {"dropped": 2, "left": 0}
    assert b.dead()["messages"] == []


def test_drop_oldest_makes_room_and_dead_letters():
    with Fleet(engines=0, workers=1, mailbox={"box_messages": 3, "overflow": "drop_oldest"}) as f:
        b = Box(f)
        for i in range(5):
            b.send(i)
        assert b.figures()["limits"] == {"messages": 3, "bytes": 16 << 20, "payload_bytes": 1 << 20,
                                         "max_deliveries": 10, "overflow": "drop_oldest"}
        assert [(m["payload"], m["dead_reason"]) for m in b.dead()["messages"]] == [(0, "overflow"), (1, "overflow")]
        assert b.payloads() == [2, 3, 4]


# ---- idempotency ----

def keyed(key):
    return [("Idempotency-Key", key)]


@pytest.mark.asan_ok
def test_a_repeated_request_is_answered_again_and_does_nothing(hop):
    b = Box(hop)
    first = b.post({"x": 1}, headers=keyed("k1"))
    again = b.post({"x": 1}, headers=keyed("k1"))
    assert first.status == again.status == 202 and first.json() == again.json()
    assert first.header("idempotent-replayed") is None
    assert again.header("idempotent-replayed") == "true"
    assert b.payloads() == [{"x": 1}]
    check_problem(b.post({"x": 2}, headers=keyed("k1")), "idempotency_key_reused", 422)
    assert b.post({"x": 2}, headers=keyed("k2")).status == 202
    assert Box(hop).post({"x": 3}, headers=keyed("k1")).status == 202  # another workflow, another key


def test_a_bulk_has_one_key(hop):
    b = Box(hop)
    body = {"messages": [{"source_agent": "s", "target_agent": "t", "message_type": "m", "payload": i} for i in range(3)]}
    first, again = (hop.post(b.sends, body, keyed("bulk")) for _ in range(2))
    assert first.json() == again.json() and again.header("idempotent-replayed") == "true"
    assert b.payloads() == [0, 1, 2]


@pytest.mark.parametrize("key", ["", "x" * 257, "\xff\xfe"])
def test_a_key_that_cannot_be_is_refused(hop, key):
    b = Box(hop)
    assert check_problem(b.post(1, headers=keyed(key)), "invalid_id", 400)["param"] == "idempotency-key"


def test_two_keys_are_none(hop):
    check_problem(Box(hop).post(1, headers=[*keyed("a"), *keyed("b")]), "invalid_id", 400)


# ---- limits and wrong requests ----

def test_a_full_mailbox_says_when_to_come_back():
    with Fleet(engines=0, workers=1, mailbox={"box_messages": 2}) as f:
        b = Box(f)
        b.send(0)
        b.send(1)
        a = b.post(2)
        check_problem(a, "mailbox_full", 429)
        assert int(a.header("retry-after")) >= 1
        a = f.post(b.sends, {"messages": [{"source_agent": "s", "target_agent": t, "message_type": "m", "payload": 3}
                                              for t in ("t", "u")]})
        assert a.status == 202 and int(a.header("retry-after")) >= 1
        assert [r.get("error", {}).get("code") for r in a.json()["results"]] == ["mailbox_full", None]
        assert b.figures()["rejected"] == 2
        assert b.payloads() == [0, 1]


def test_the_payload_limit_is_the_mailboxes_own():
    with Fleet(engines=0, workers=1, mailbox={"max_payload_bytes": 1000}) as f:
        b = Box(f)
        assert b.post("x" * 998).status == 202
        assert check_problem(b.post("x" * 999), "request_too_large", 413)["param"] == "payload"
        check_problem(f.post(b.sends, b'{"messages":[' + b" " * (4 << 20) + b"]}"), "request_too_large", 413)


GOOD = {"source_agent": "s", "target_agent": "t", "message_type": "m", "payload": 1}


@pytest.mark.parametrize("body, code, param", [
    (b"", "invalid_json", None), (b"{", "invalid_json", None), (b"[]", "invalid_type", None),
    (b'{"source_agent":"s","target_agent":"t","payload":"\xff"}', "invalid_json", None),
    (b'{"source_agent":"s","target_agent":"t","payload":nul}', "invalid_json", None),
    (b'{"source_agent":"s","target_agent":"t","payload":' + b"[" * 200 + b"]" * 200 + b"}", "json_too_deep", None),
    (b'{"source_agent":"s","target_agent":"t","payload":1,"ttl":1,"ttl":1}', "duplicate_key", "ttl"),
    ({**GOOD, "bogus": 1}, "invalid_value", "bogus"), ({**GOOD, "priority": 10}, "invalid_value", "priority"),
    ({**GOOD, "ttl": -1}, "invalid_type", "ttl"), ({**GOOD, "ttl": 0}, "invalid_value", "ttl"),
    ({**GOOD, "delay": "1"}, "invalid_type", "delay"), ({**GOOD, "target_agent": "x" * 257}, "invalid_id", "target_agent"),
    ({"source_agent": "s", "target_agent": "t", "message_type": "m"}, "invalid_value", "payload"),
    ({"source_agent": "s", "target_agent": "t", "payload": 1}, "invalid_value", "message_type"),
    ({"messages": [GOOD, {**GOOD, "ttl": "x"}]}, "invalid_type", "messages[1].ttl"),
    ({"messages": []}, "invalid_value", "messages"), ({"messages": [GOOD] * 257}, "request_too_large", "messages"),
])
def test_wrong_bodies_are_named(hop, body, code, param):
    b = Box(hop)
    problem = check_problem(hop.post(b.sends, body), code)
    assert problem.get("param") == param
    assert b.figures()["sent"] == 0


@pytest.mark.parametrize("query, code, param", [
    ("?bogus=1", "unknown_query_parameter", "bogus"), ("?max=0", "invalid_value", "max"), ("?max=1001", "invalid_value", "max"),
    ("?max=x", "invalid_value", "max"), ("?wait=61", "invalid_value", "wait"), ("?wait=-1", "invalid_value", "wait"),
    ("?lease=0", "invalid_value", "lease"), ("?lease=86401", "invalid_value", "lease"), ("?peek=1", "invalid_value", "peek"),
    ("?peek=true&lease=1", "invalid_value", "peek"), ("?max=1&max=2", "unknown_query_parameter", "max"),
    ("?types=" + ",".join("abcdefghijklmnopq"), "invalid_value", "types")])
def test_wrong_queries_are_named(hop, query, code, param):
    assert check_problem(Box(hop).get(query), code, 400)["param"] == param


def test_wrong_settlements_are_named(hop):
    b = Box(hop)
    b.send(1)
    (m,) = b.receive("?lease=60")
    path = f"{b.path}/messages/{m['message_id']}"
    for verb, body, code in (("ack", b"", "invalid_json"), ("ack", {}, "invalid_value"), ("ack", {"receipt": 1}, "invalid_type"),
                             ("ack?x=1", {"receipt": "r"}, "unknown_query_parameter"),
                             ("nack?delay=x", {"receipt": "r"}, "invalid_value"),
                             ("extend?lease=-1", {"receipt": "r"}, "invalid_value"),
                             ("ack", {"receipt": "r", "more": 1}, "invalid_value")):
        check_problem(hop.post(f"{path}:{verb}", body), code, 400)
    assert b.settle("ack", m, receipt="!").status in (400, 409)
    assert b.settle("ack", {"message_id": "nobody", "receipt": m["receipt"]}).status == 409
    check_problem(hop.post(f"{path}:frobnicate", {}), "path_not_found", 404)
    check_problem(hop.post(path, {}), "path_not_found", 404)
    assert b.settle("ack", m).status == 200


@pytest.mark.parametrize("method, path, allow", [
    ("GET", "/v1/workflows/w/messages", "POST"), ("POST", "/v1/workflows/w/agents/a/messages", "GET"),
    ("HEAD", "/v1/workflows/w/agents/a/messages", "GET"), ("GET", "/v1/workflows/w/agents/a/messages/m:ack", "POST"),
    ("GET", "/v1/workflows/w/agents/a/messages:settle", "POST"), ("PUT", "/v1/workflows/w/agents/a/dead-letters", "GET, DELETE"),
    ("DELETE", "/v1/workflows/w/agents/a/mailbox", "GET"), ("GET", "/v1/workflows/w/agents/a/dead-letters:redrive", "POST")])
def test_methods_that_are_not_there_are_405(hop, method, path, allow):
    a = hop.fetch(method, path)
    assert a.status == 405 and a.header("allow") == allow, a


def test_a_head_takes_nothing(hop):
    b = Box(hop)
    b.send(1)
    assert hop.fetch("HEAD", f"{b.path}/messages").status == 405
    assert b.payloads() == [1]


# ---- the end of a workflow ----

def test_delete_closes_after_delivery_or_purges(hop):
    for query, left in (("", ["kept"]), ("?purge=true", [])):
        b = Box(hop)
        b.send("kept")
        wait_until("the scheduler knows it", 5, lambda b=b: hop.status(b.workflow).status == 200)
        assert hop.fetch("DELETE", f"/v1/workflows/{b.workflow}{query}").status == 200
        wait_until("the mailbox has heard of it", 5, lambda b=b, left=left: b.payloads("?peek=true") == left)
        assert b.payloads() == left


@pytest.mark.parametrize("how", ["header", "member"])
def test_the_final_request_closes_the_mailboxes(hop, how):
    """Dead letters and what is kept of a closed mailbox are forgotten: that is what shows."""
    b = Box(hop)
    headers = [("X-Workflow-ID", b.workflow)]
    assert hop.chat("x", headers).status == 200
    b.send("dies", ttl=0.1)
    b.wait_figure("dead", 1)
    b.send("stays")
    if how == "header":
        a = hop.chat("x", [*headers, ("X-Workflow-Final", "true")])
    else:
        a = hop.chat("x", workflow_metadata={"workflow_id": b.workflow, "final": True})
    assert a.status == 200
    wait_until("the mailbox has heard of it", 5, lambda: b.figures()["dead"] == 0)
    assert b.payloads() == ["stays"]


# ---- tenants ----

def test_tenants_do_not_see_each_others_mail(tmp_path):
    rows = []
    for tenant in ("red", "blue"):
        (tmp_path / tenant).write_text(f"key-{tenant}\n")
        (tmp_path / tenant).chmod(0o600)
        rows.append({"file": str(tmp_path / tenant), "tenant": tenant})
    with Fleet(engines=0, workers=1, sections={"keys": rows}) as f:
        red = Box(f, "shared", headers=[("Authorization", "Bearer key-red")])
        blue = Box(f, "shared", headers=[("x-api-key", "key-blue")])
        assert red.post("secret", headers=keyed("k")).status == 202
        assert blue.receive() == []
        assert blue.figures()["depth"] == 0 and blue.figures()["sent"] == 0
        assert blue.post("other", headers=keyed("k")).header("idempotent-replayed") is None
        (m,) = red.receive("?lease=60")
        assert blue.settle("ack", m).status in (404, 409)
        assert blue.payloads() == ["other"]
        assert red.settle("ack", m).status == 200
        check_problem(f.get(red.path + "/messages"), "invalid_api_key", 401)


# ---- many at once ----

def test_random_traffic_loses_and_invents_nothing(hop):
    """Senders, readers that acknowledge, forget or give back; in the end each message was acknowledged once."""
    b = Box(hop)
    sent, done, lock = [], [], threading.Lock()
    stop = threading.Event()

    def sender(k):
        rng = random.Random(k)
        with hop.client() as c:
            for i in range(50):
                c.request("POST", b.sends, {"source_agent": f"s{k}", "target_agent": "t", "message_type": "m", "payload": [k, i],
                                            "priority": rng.randrange(3), "delay": rng.choice([0, 0, 0.05])})
                a = c.read_answer("POST")
                assert a.status == 202, a
                with lock:
                    sent.append(a.json()["message_id"])

    def reader(k):
        rng = random.Random(100 + k)
        with hop.client() as c:
            while not stop.is_set():
                c.request("GET", f"{b.path}/messages?wait=0.2&max=5&lease=1")
                a = c.read_answer()
                assert a.status == 200, a
                for m in a.json()["messages"]:
                    verb = rng.choice(["ack", "ack", "ack", "nack", None])
                    if verb is None:
                        continue
                    c.request("POST", f"{b.path}/messages/{m['message_id']}:{verb}", {"receipt": m["receipt"]})
                    a = c.read_answer("POST")
                    assert a.status in (200, 409), a
                    if verb == "ack" and a.status == 200:
                        with lock:
                            done.append(m["message_id"])

    with ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(reader, k) for k in range(3)]
        for s in [pool.submit(sender, k) for k in range(4)]:
            s.result()
        try:
            wait_until("all is acknowledged or dead", 60, lambda: (len(done) + b.figures()["dead"]) >= 200)
        finally:
            stop.set()
        for r in readers:
            r.result()
    dead = [m["message_id"] for m in b.dead("?max=1000")["messages"]]
    assert sorted(done + dead) == sorted(sent)
