# SPDX-License-Identifier: Apache-2.0
"""Mail as a stream of server-sent events."""
import signal
import socket

import pytest
from support.errors import check_problem
from support.fleet import Fleet
from support.mail import Box
from support.wait import secs, wait_until

pytestmark = pytest.mark.channel


@pytest.mark.asan_ok
def test_messages_are_pushed_as_they_come(hop):
    b = Box(hop)
    b.send("before")
    with b.stream() as s:
        assert s.head.status == 200
        assert s.head.header("content-type") == "text/event-stream"
        assert s.head.header("cache-control") == "no-store"
        assert s.head.header("x-accel-buffering") == "no"
        assert s.payloads(1) == ["before"]
        assert any("retry:" in c for c in s.comments)
        for i in range(30):
            b.send(i)
        assert s.payloads(30) == list(range(30))
        b.wait_figure("unsettled", 0)
        assert b.figures()["depth"] == 0
        assert b.receive() == []


def test_data_is_one_line_and_the_same_json(hop):
    b = Box(hop)
    payload = b'{ "a" :\r\n [1.50,\n\t2e0],"b":\r"\\r\\n" }'
    with b.stream() as s:
        assert hop.post(b.sends, b'{"source_agent":"s","target_agent":"t","message_type":"m","payload":' + payload +
                        b"}").status == 202
        e = s.event()
    assert e["raw"].endswith(',"payload":{ "a" : [1.50,\t2e0],"b":"\\r\\n" }}'), e["raw"]


@pytest.mark.asan_ok
def test_last_event_id_brings_back_what_came_after_it(hop):
    b = Box(hop)
    for i in range(6):
        b.send(i)
    with b.stream() as s:
        events = s.events(6)
        b.wait_figure("unsettled", 0)
    assert b.figures()["kept"] == 6
    with b.stream(last=events[2]["message_id"]) as s:
        again = s.events(3)
        assert [(e["payload"], e["attempt"]) for e in again] == [(3, 2), (4, 2), (5, 2)]
        b.send(6)
        assert s.payloads(1) == [6]


def test_an_id_that_nobody_knows_changes_nothing(hop):
    b = Box(hop)
    b.send(1)
    with b.stream(last="no-such-message") as s:
        assert s.payloads(1) == [1]


def test_streams_and_queries_that_do_not_go_together_are_refused(hop):
    b = Box(hop)
    accept = [("Accept", "text/event-stream")]
    for query, param in (("?wait=1", "wait"), ("?peek=true", "peek"), ("?max=0", "max")):
        assert check_problem(b.get(query, headers=accept), "invalid_value", 400)["param"] == param
    a = b.get(headers=[*accept, ("Last-Event-ID", "x" * 257)])
    assert check_problem(a, "invalid_id", 400)["param"] == "last-event-id"
    check_problem(b.get("?bogus=1", headers=accept), "unknown_query_parameter", 400)
    a = b.get(headers=[("Accept", "application/json, text/event-stream")])
    assert a.json() == {"messages": [], "next": None}


def test_types_choose_what_is_pushed(hop):
    b = Box(hop)
    with b.stream(query="?types=a") as s:
        for kind in ("b", "a", "b", "a"):
            b.send(kind, kind=kind)
        assert s.payloads(2) == ["a", "a"]
    assert b.payloads() == ["b", "b"]


def test_pushed_under_a_lease_waits_for_its_ack(hop):
    b = Box(hop)
    b.send(1)
    with b.stream(query="?lease=60") as s:
        m = s.event()
        assert m["receipt"] and m["lease_expires_at"]
        assert b.settle("ack", m).status == 200
        b.send(2)
        (n,) = s.events(1)
        assert b.settle("nack", n).status == 200
        assert s.event()["attempt"] == 2


@pytest.mark.asan_ok
def test_unwritten_messages_go_back_at_once_when_the_reader_leaves(hop):
    b = Box(hop)
    big = "x" * 900_000
    for i in range(9):
        b.send(f"{i}{big}")
    s = b.stream(rcvbuf=4096)
    wait_until("a batch is stuck", 5, lambda: b.figures()["unsettled"] == 3)
    s.client.reset()
    b.wait_figure("unsettled", 0)
    got = [m for _ in range(3) for m in b.receive("?max=9")]
    assert [m["payload"][0] for m in got] == list("012345678")
    assert [m["attempt"] for m in got] == [2, 2, 2, 1, 1, 1, 1, 1, 1]


def test_a_slow_reader_leaves_its_messages_in_the_mailbox(hop):
    """One batch under way, whatever waits behind it."""
    b = Box(hop)
    big = "x" * 500_000
    for i in range(20):
        b.send(f"{i:02}{big}")
    with b.stream(query="?max=2", rcvbuf=4096) as s:
        wait_until("a batch is stuck", 5, lambda: b.figures()["unsettled"] == 2)
        assert b.figures()["depth"] >= 6
        assert [p[:2] for p in s.payloads(20)] == [f"{i:02}" for i in range(20)]


@pytest.mark.asan_ok
def test_a_reader_that_does_not_read_is_cut_off_and_its_mail_is_free():
    with Fleet(engines=0, workers=1, gateway={"write_timeout_ms": 500}) as f:
        b = Box(f)
        big = "x" * 900_000
        for i in range(12):
            b.send(f"{i}{big}")
        with b.stream(query="?max=3", rcvbuf=4096):
            f.wait_metric("slipstream_gateway_ended_total", 1, seconds=20, reason="client_too_slow")
            b.wait_figure("unsettled", 0)
        got = [m for _ in range(4) for m in b.receive("?max=12")]
        assert [(m["payload"][:-len(big)], m["attempt"]) for m in got[:4]] == [("0", 2), ("1", 2), ("2", 2), ("3", 1)]
        assert len(got) == 12


@pytest.mark.asan_ok
def test_silence_is_broken_by_comments():
    with Fleet(engines=0, workers=1, gateway={"push_beat_ms": 100}) as f:
        b = Box(f)
        with b.stream() as s:
            def two_more():
                s._block_comment = s._block()
                s.comments.append(s._block_comment)
                return sum("keep-alive" in c for c in s.comments) >= 2

            wait_until("two signs of life", 10, two_more)
            b.send("news")
            assert s.payloads(1) == ["news"]


@pytest.mark.asan_ok
def test_a_worker_that_shuts_down_ends_streams_and_polls_well():
    with Fleet(engines=0, workers=1) as f:
        b, p = Box(f), Box(f)
        b.send("last")
        with b.stream() as s, f.client() as c:
            assert s.payloads(1) == ["last"]
            c.request("GET", f"{p.path}/messages?wait=60")
            p.wait_figure("waiting", 1)
            b.wait_figure("waiting", 1)
            f.workers[0].signal(signal.SIGTERM)
            assert s.event() is None and s.ended
            assert c.read_answer().json() == {"messages": [], "next": None}
            assert f.workers[0].wait_end(10) == 0
        f.workers[0].restart()


@pytest.mark.asan_ok
def test_a_stream_goes_on_when_the_mailbox_process_is_another():
    with Fleet(engines=0, workers=1) as f:
        b = Box(f)
        with b.stream() as s:
            b.send("before")
            assert s.payloads(1) == ["before"]
            b.wait_figure("waiting", 1)
            f.mailbox.kill9()
            wait_until("a send is refused", 5, lambda: b.post("x").status == 503)
            f.mailbox.restart()
            wait_until("the link is there again", 10, lambda: b.post("after").status == 202)
            events = s.events(1)
            if events[0]["payload"] == "before":  # it was still kept, and comes again
                events = s.events(1)
            assert events[0]["payload"] == "after"
        b.wait_figure("waiting", 0)


@pytest.mark.asan_ok
def test_a_stream_that_comes_again_after_a_crash_of_the_mailbox_gets_what_it_missed():
    with Fleet(engines=0, workers=1) as f:
        b, other = Box(f), Box(f)
        for n in range(3):
            b.send(n)
        with b.stream() as s:
            seen = s.events(3)
        b.wait_figure("kept", 3)
        other.send("a commit that the settlements go with")
        f.mailbox.kill9()
        f.mailbox.restart()
        wait_until("the link is there again", 10, lambda: other.post("x").status == 202)
        b.wait_figure("kept", 3)
        with b.stream(last=seen[0]["message_id"]) as s:
            assert [(e["payload"], e["attempt"]) for e in s.events(2)] == [(1, 2), (2, 2)]


def test_the_stream_is_refused_where_there_is_no_mailbox_process():
    with Fleet(engines=0, workers=1, with_mailbox=False) as f:
        check_problem(Box(f).get(headers=[("Accept", "text/event-stream")]), "mailbox_unavailable", 503)


def test_http_1_0_gets_its_events_until_the_connection_ends():
    with Fleet(engines=0, workers=1) as f:
        b = Box(f)
        b.send("old")
        with f.client() as c:
            c.request("GET", f"{b.path}/messages", headers=[("Accept", "text/event-stream")], version="HTTP/1.0")
            head = c.read_head()
            assert head.status == 200 and head.header("transfer-encoding") is None
            c.read_until(b'"payload":"old"}\n\n')
            c.sock.shutdown(socket.SHUT_RDWR)
        b.wait_figure("waiting", 0)


def test_a_stream_ends_cleanly_at_the_longest_life_of_a_request():
    with Fleet(engines=0, workers=1, gateway={"total_timeout_ms": 700}) as f:
        b = Box(f)
        with b.stream() as s:
            assert s.event() is None and s.ended
            b.wait_figure("waiting", 0)
            s.client.request("GET", f"{b.path}/mailbox")
            assert s.client.read_answer().status == 200


@pytest.mark.asan_ok
def test_streams_count_against_their_key(tmp_path):
    (tmp_path / "key").write_text("secret\n")
    (tmp_path / "key").chmod(0o600)
    rows = [{"file": str(tmp_path / "key"), "tenant": "x", "max_requests": 2}]
    with Fleet(engines=0, workers=1, sections={"keys": rows}) as f:
        b = Box(f, headers=[("x-api-key", "secret")])
        with b.stream(), b.stream():
            check_problem(b.get(), "too_many_requests", 429)
        wait_until("their places are free", secs(5), lambda: b.get().status == 200)
