# SPDX-License-Identifier: Apache-2.0
"""What becomes of mail when clients break off and processes die."""
import signal
import time

import pytest
from support.errors import check_problem
from support.fleet import Fleet
from support.mail import Box, new
from support.wait import secs, wait_until

pytestmark = pytest.mark.channel


# ---- completion-acknowledged answers ----

@pytest.mark.asan_ok
@pytest.mark.parametrize("reset", [True, False], ids=["reset", "close"])
def test_a_client_that_breaks_off_in_one_big_message_gets_it_again(hop, reset):
    """The kernel would take all of it at once; what counts is that the client's side has it."""
    b = Box(hop)
    big = "x" * 1_000_000
    b.send(big)
    with hop.client(rcvbuf=4096) as c:
        c.request("GET", f"{b.path}/messages")
        head = c.read_head()
        assert head.status == 200 and int(head.header("content-length")) > len(big)
        b.wait_figure("unsettled", 1)
        assert b.receive() == []
        c.reset() if reset else c.close()
    (m,) = b.receive("?wait=20")
    assert m["attempt"] == 2 and m["payload"] == big
    b.wait_figure("unsettled", 0)
    assert b.figures()["depth"] == 0


@pytest.mark.asan_ok
def test_a_client_that_reads_all_of_it_and_closes_has_it(hop):
    b = Box(hop)
    for n in (10, 20_000, 1_000_000):
        b.send("x" * n)
        with hop.client() as c:
            c.request("GET", f"{b.path}/messages")
            assert len(c.read_answer().json()["messages"]) == 1
        b.wait_figure("unsettled", 0)
        assert b.receive() == []


def test_a_slow_client_that_reads_all_of_it_in_the_end_has_it(hop):
    b = Box(hop)
    b.send("x" * 1_000_000)
    with hop.client(rcvbuf=4096) as c:
        c.request("GET", f"{b.path}/messages")
        head = c.read_head()
        b.wait_figure("unsettled", 1)
        c.read_body(head)
        b.wait_figure("unsettled", 0)
        c.request("GET", f"{b.path}/messages")  # on the same connection
        assert c.read_answer().json()["messages"] == []


def test_a_client_that_never_reads_loses_its_turn():
    with Fleet(engines=0, workers=1, gateway={"write_timeout_ms": 500}) as f:
        b = Box(f)
        b.send("x" * 1_000_000)
        with f.client(rcvbuf=4096) as c:
            c.request("GET", f"{b.path}/messages")
            c.read_head()
            assert [m["attempt"] for m in b.receive("?wait=20")] == [2]


def test_pipelined_receives_are_answered_in_order(hop):
    b = Box(hop)
    for i in range(4):
        b.send(i)
    with hop.client() as c:
        request = f"GET {b.path}/messages?max=2 HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        c.send(request * 3)
        got = [[m["payload"] for m in c.read_answer().json()["messages"]] for _ in range(3)]
    assert got == [[0, 1], [2, 3], []]


def test_http_1_0_receives(hop):
    b = Box(hop)
    b.send("x" * 100_000)
    with hop.client() as c:
        c.request("GET", f"{b.path}/messages", version="HTTP/1.0")
        assert len(c.read_answer().json()["messages"]) == 1
    b.wait_figure("unsettled", 0)
    assert b.receive() == []


# ---- processes that die ----

@pytest.mark.asan_ok
def test_a_worker_that_dies_holds_nothing():
    """Its polls vanish, what it was writing comes back, what was leased through it stays leased."""
    with Fleet(engines=0, workers=1) as f:
        polled, written, leased = Box(f), Box(f), Box(f)
        leased.send("leased")
        (m,) = leased.receive("?lease=60")
        written.send("x" * 1_000_000)
        with f.client(rcvbuf=4096) as c, f.client() as p, polled.stream():
            c.request("GET", f"{written.path}/messages")
            c.read_head()
            p.request("GET", f"{polled.path}/messages?wait=60")
            polled.wait_figure("waiting", 2)
            written.wait_figure("unsettled", 1)
            f.workers[0].kill9()
            f.workers[0].restart()
        wait_until("it has its mailbox again", 10, lambda: polled.get("?peek=true").status == 200)
        polled.wait_figure("waiting", 0)
        assert [x["attempt"] for x in written.receive("?wait=20")] == [2]
        polled.send(1)
        assert polled.payloads() == [1]
        assert leased.receive() == []
        assert leased.settle("ack", m).status == 200


def mailbox_replace(f):
    f.mailbox.kill9()
    wait_until("the worker knows", 5, lambda: Box(f).post(1).status == 503)
    f.mailbox.restart()


@pytest.mark.asan_ok
def test_what_was_acknowledged_outlives_the_mailbox_process():
    with Fleet(engines=0, workers=1) as f:
        b = Box(f)
        for i in range(50):
            b.send(i, priority=i % 2)
        (m,) = b.receive("?lease=600&max=1")
        assert m["payload"] == 1
        a = b.post("once", headers=[("Idempotency-Key", "k")])
        mailbox_replace(f)
        wait_until("the mailbox is there", 10, lambda: b.get("?peek=true").status == 200)
        again = b.post("once", headers=[("Idempotency-Key", "k")])
        assert again.json() == a.json() and again.header("idempotent-replayed") == "true"
        assert b.settle("ack", m).status == 200  # nobody took it meanwhile
        assert b.payloads("?max=100") == [*range(3, 50, 2), *range(0, 50, 2), "once"]


@pytest.mark.asan_ok
def test_polls_go_on_with_the_next_mailbox_process():
    with Fleet(engines=0, workers=1) as f:
        b = Box(f)
        with f.client() as c:
            c.request("GET", f"{b.path}/messages?wait=60")
            b.wait_figure("waiting", 1)
            mailbox_replace(f)
            wait_until("the mailbox is there", 10, lambda: b.get("?peek=true").status == 200)
            b.wait_figure("waiting", 1)
            b.send("news")
            assert [m["payload"] for m in c.read_answer().json()["messages"]] == ["news"]


@pytest.mark.asan_ok
def test_an_answer_that_is_being_written_is_held_over_a_restart():
    """Its messages are not handed to others, and are gone when their reader has them."""
    with Fleet(engines=0, workers=1) as f:
        b = Box(f)
        b.send("x" * 1_000_000)
        with f.client(rcvbuf=4096) as c:
            c.request("GET", f"{b.path}/messages")
            head = c.read_head()
            b.wait_figure("unsettled", 1)
            mailbox_replace(f)
            wait_until("the mailbox is there", 10, lambda: b.get("?peek=true").status == 200)
            b.wait_figure("unsettled", 1)
            assert b.receive() == []
            c.read_body(head)
            b.wait_figure("unsettled", 0)
            assert b.figures()["depth"] == 0
            c.close()
        assert b.receive() == []


@pytest.mark.asan_ok
def test_an_answer_over_mcp_is_held_over_a_restart_as_well():
    with Fleet(engines=0, workers=1) as f:
        b = Box(f)
        b.send("x" * 1_000_000)
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call",
                "params": {"name": "receive_messages", "arguments": {"workflow_id": b.workflow, "agent_id": b.agent}}}
        with f.client(rcvbuf=4096) as c:
            c.request("POST", "/mcp", call, headers=[("Content-Type", "application/json")])
            head = c.read_head()
            b.wait_figure("unsettled", 1)
            mailbox_replace(f)
            wait_until("the mailbox is there", 10, lambda: b.get("?peek=true").status == 200)
            b.wait_figure("unsettled", 1)
            c.read_body(head)
            b.wait_figure("unsettled", 0)
            assert b.figures()["depth"] == 0
            c.close()


def test_an_answer_that_ends_while_there_is_no_mailbox_process_is_settled_with_the_next():
    with Fleet(engines=0, workers=1) as f:
        b = Box(f)
        b.send("x" * 1_000_000)
        b.send("second")
        with f.client(rcvbuf=4096) as c:
            c.request("GET", f"{b.path}/messages?max=1")
            head = c.read_head()
            b.wait_figure("unsettled", 1)
            f.mailbox.kill9()
            wait_until("the worker knows", 5, lambda: Box(f).post(1).status == 503)
            c.read_body(head)
            c.request("GET", "/health")
            assert c.read_answer().status == 200  # so the answer before it has ended
        f.mailbox.restart()
        wait_until("the mailbox is there", 10, lambda: b.get("?peek=true").status == 200)
        wait_until("only the second is left", 5, lambda: b.figures()["depth"] == 1)
        assert b.payloads() == ["second"]


def test_a_stopped_mailbox_process_delays_and_loses_nothing():
    with Fleet(engines=0, workers=1) as f:
        b = Box(f)
        f.mailbox.signal(signal.SIGSTOP)
        try:
            with f.client() as c:
                c.request("POST", b.sends, {"source_agent": "s", "target_agent": "t", "message_type": "m", "payload": 1})
                f.wait_metric("slipstream_gateway_active_requests", 1, state="ASKING")
                f.mailbox.signal(signal.SIGCONT)
                assert c.read_answer("POST").status == 202
        finally:
            f.mailbox.signal(signal.SIGCONT)
        assert b.payloads() == [1]


def test_without_a_mailbox_process_everything_says_so():
    with Fleet(engines=0, workers=1, with_mailbox=False) as f:
        b = Box(f)
        for a in (b.post(1), b.get(), b.get("?wait=30"), f.get(f"{b.path}/mailbox"), f.get(f"{b.path}/dead-letters"),
                  f.post(f"{b.path}/dead-letters:redrive", b""), f.post(f"{b.path}/messages/m:ack", {"receipt": "r"})):
            check_problem(a, "mailbox_unavailable", 503)


# ---- many ----

@pytest.mark.asan_ok
def test_thousands_of_polls_are_parked_registered_anew_and_answered():
    count = 1500
    with Fleet(engines=0, workers=1) as f:
        w = new()
        clients = []
        try:
            for i in range(count):
                c = f.client(timeout=60)
                c.request("GET", f"/v1/workflows/{w}/agents/a{i % 50}/messages?wait=60&max=1")
                clients.append(c)
            f.wait_metric("slipstream_mailbox_waiting", count, seconds=20)
            mailbox_replace(f)
            wait_until("the mailbox is there", 10, lambda: Box(f).get("?peek=true").status == 200)
            f.wait_metric("slipstream_mailbox_waiting", count, seconds=20)
            with f.client() as c:
                for i in range(0, count, 100):
                    c.request("POST", f"/v1/workflows/{w}/messages", {"messages": [
                        {"source_agent": "s", "target_agent": f"a{k % 50}", "message_type": "m", "payload": k}
                        for k in range(i, i + 100)]})
                    assert c.read_answer("POST").status == 202
            got = sorted(m["payload"] for c in clients for m in c.read_answer().json()["messages"])
            assert got == list(range(count))
        finally:
            for c in clients:
                c.close()


def test_a_flood_of_one_workflow_does_not_hold_up_another():
    """One that writes as fast as it can meets its limits; the other's messages take no seconds."""
    with Fleet(engines=0, workers=1, mailbox={"workflow_messages": 500}) as f:
        noisy, quiet = Box(f), Box(f)
        rows = [{"source_agent": "s", "target_agent": f"t{i}", "message_type": "m", "payload": "x" * 1000} for i in range(100)]
        codes = set()
        for _ in range(12):
            a = f.post(noisy.sends, {"messages": rows})
            codes |= {r.get("error", {}).get("code") for r in a.json()["results"]}
        assert codes == {None, "mailbox_full"}
        t0 = time.monotonic()
        for i in range(20):
            quiet.send(i)
        assert quiet.payloads("?max=20") == list(range(20))
        assert time.monotonic() - t0 < secs(3)
