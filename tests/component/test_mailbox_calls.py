# SPDX-License-Identifier: Apache-2.0
"""Every call of the mailbox as a foreign client says it: strictness, leases, fairness, peers that die, metrics."""
import threading

import pytest

from support.fleet import Fleet, have
from support.mailbox_client import Lost, MailboxClient, Refused, errors, message, method
from support.wait import secs, wait_until

pytestmark = [pytest.mark.asan_ok,
              pytest.mark.skipif(not have("slipstream-mailbox"), reason="not built")]


def start(**kw):
    return Fleet(engines=0, workers=0, with_scheduler=kw.pop("with_scheduler", False), **kw)


@pytest.fixture
def fleet():
    with start() as f:
        yield f


@pytest.fixture
def box(fleet):
    with MailboxClient(fleet) as c:
        c.fleet = fleet
        yield c


# ---- the door ----

LETTER = {"source_agent": "me", "target_agent": "a", "message_type": "t", "payload": b"1"}


def post(c, **fields):
    """Name of the result of one message."""
    reply = c.call("Send", workflow_id="w", messages=[message("Message")(**{**LETTER, **fields})])
    return errors()[reply.results[0].status]


def refused(c, name, **fields):
    with pytest.raises(Refused) as e:
        c.call(name, **fields)
    return e.value.name


def test_each_part_of_a_message_has_its_bounds(box):
    for want, fields in (("ID", {"source_agent": ""}), ("ID", {"source_agent": "*"}), ("ID", {"target_agent": "x" * 257}),
                         ("ID", {"message_type": "a\tb"}), ("ID", {"group": "a\n"}), ("ID", {"correlation_id": "x" * 257}),
                         ("VALUE", {"priority": 10}), ("VALUE", {"ttl_ms": 2592000001}), ("VALUE", {"delay_ms": 2592000001}),
                         ("VALUE", {"delay_ms": 3600000}), ("VALUE", {"ttl_ms": 500, "delay_ms": 500}),  # dies unseen
                         ("OK", {"ttl_ms": 500, "delay_ms": 499}), ("JSON", {"payload": b""}), ("JSON", {"payload": b"{"}), ("JSON", {"payload": b'"\xff"'}),
                         ("JSON", {"payload": b"1 2"}), ("TOO_LARGE", {"payload": b'"' + b"x" * (1 << 20) + b'"'}),
                         ("OK", {"priority": 9, "ttl_ms": 1000, "delay_ms": 0, "group": "g", "target_agent": "é" * 128})):
        assert post(box, **fields) == want, (want, fields)


def test_each_request_has_its_bounds(box):
    w = {"workflow_id": "w"}
    a = {**w, "agent_id": "a"}
    ack = message("Ack")
    for want, name, fields in (
            ("INVALID", "Send", w), ("ID", "Send", {"workflow_id": "", "messages": [message("Message")(**LETTER)]}),
            ("INVALID", "Send", {**w, "messages": [message("Message")(**LETTER)] * 1001}),
            ("ID", "Send", {**w, "messages": [message("Message")(**LETTER)], "idempotency_key": "k\x7f"}),
            ("ID", "Receive", {**w, "agent_id": "*"}), ("INVALID", "Receive", {**a, "wait_ms": 1}),
            ("INVALID", "Receive", {**a, "types": ["t"] * 33}), ("VALUE", "Receive", {**a, "lease_ms": 43200001}),
            ("INVALID", "Receive", {**a, "lease_ms": 1, "peek": True}),
            ("INVALID", "Receive", {**a, "resume_after": "m", "peek": True}),
            ("INVALID", "Ack", a), ("INVALID", "Ack", {**a, "acks": [ack(message_id="m", receipt="r")] * 1001}),
            ("INVALID", "Hold", a), ("ID", "Hold", {**a, "message_ids": ["", "b"]}),
            ("ID", "ListDead", {**a, "after": "\n"}), ("ID", "Redrive", {**a, "message_ids": [""]}),
            ("INVALID", "Settle", {"delivery": 1, "keep_ms": 1}), ("NOT_FOUND", "Settle", {"delivery": 1}),
            ("NOT_FOUND", "Unpark", {"poll": 1}), ("WORKFLOW", "CloseWorkflow", {"workflow_id": "unknown"})):
        assert refused(box, name, **fields) == want, (want, name)
    reply = box.call("Ack", **a, acks=[ack(message_id="m", receipt="a b"), ack(message_id="m", receipt="r" * 64),
                                       ack(message_id="", receipt="r"), ack(message_id="m", receipt="r", delay_ms=1),
                                       ack(message_id="m", receipt="r", kind=2, lease_ms=43200001),
                                       ack(message_id="m", receipt="abc")])
    assert [errors()[r.status] for r in reply.results[:5]] == ["INVALID", "INVALID", "ID", "INVALID", "VALUE"]
    assert errors()[reply.results[5].status] in ("RECEIPT", "INVALID")


def test_what_does_not_unpack_is_refused_and_harms_nobody(box):
    number, _, _ = method("Send")
    call = message("Call")
    for body in (b"\xff", b"\x1a\x7f", b"\x1a\x02\x08", b"\x22\x01a" * 60000, b"\x0a\x01\xff"):
        (answer,), _ = box._exchange([call(id=7, method=number, body=body)])
        assert errors()[answer.status] in ("PROTO", "INVALID", "ID"), body[:10]
    (answer,), _ = box._exchange([call(id=8, method=METHOD_UNKNOWN, body=b"")])
    assert errors()[answer.status] == "UNIMPLEMENTED"
    assert post(box) == "OK"


METHOD_UNKNOWN = 16 + 63


def test_a_broadcast_whose_answer_cannot_be_sent_is_refused_before_it_is_queued(box):
    agents = [f"agent-{i}" for i in range(1000)]
    everybody = message("Message")(**{**LETTER, "target_agent": "*"})
    assert refused(box, "Send", workflow_id="w", messages=[everybody] * 13, agents=agents) == "TOO_LARGE"
    assert box.status().messages == 0
    reply = box.call("Send", workflow_id="w", messages=[everybody] * 2, agents=agents)
    assert [len(r.queued_for) for r in reply.results] == [1000, 1000]


def test_an_answer_full_of_long_ids_still_fits(box):
    long = {k: "é" * 128 for k in ("source_agent", "message_type", "correlation_id", "reply_to", "group")}
    letters = [message("Message")(**{**LETTER, **long, "payload": b'"' + b"x" * 3000 + b'"', "message_id": f"{i:0256}"})
               for i in range(1000)]
    for part in (letters[:500], letters[500:]):
        assert {r.status for r in box.call("Send", workflow_id="w", messages=part).results} == {0}
    got = []
    while reply := box.receive("w", "a", max=1000):
        if not reply.messages:
            break
        got += [m.message_id for m in reply.messages]
    assert got == [m.message_id for m in letters]


# ---- leases over the wire ----

def test_a_lease_is_extended_returned_and_ended(box):
    for n in range(3):
        box.send("w", "a", n)
    reply = box.receive("w", "a", lease_ms=60000)
    m = reply.messages
    assert len({x.receipt for x in m}) == 3 and all(x.receipt.isalnum() for x in m)
    assert 59000 < m[0].lease_expires_ms - m[0].created_ms < 62000
    extended = box.call("Ack", workflow_id="w", agent_id="a",
                        acks=[message("Ack")(message_id=m[0].message_id, receipt=m[0].receipt, kind=2, lease_ms=600000)])
    assert extended.results[0].lease_expires_ms - m[0].lease_expires_ms > 500000
    assert box.ack("w", "a", m[1], kind=1) == "OK"
    again, = box.receive("w", "a", lease_ms=200).messages
    assert (again.payload, again.attempt) == (b"1", 2)
    assert box.ack("w", "a", m[1]) == "RECEIPT"  # another has it
    poll = box.park("w", "a")
    back = box.end_of(poll).messages  # its lease ends
    assert [(x.payload, x.attempt, x.receipt) for x in back] == [(b"1", 3, "")]
    assert [box.ack("w", "a", x) for x in (m[0], m[2])] == ["OK", "OK"]
    b = box.box("w", "a")
    assert (b.depth, b.leased, b.delivered, b.redelivered) == (0, 0, 3, 2)


def test_kept_messages_come_again_for_a_stream_that_resumes(box):
    ids = [box.send("w", "a", n) for n in range(3)]
    reply = box.receive("w", "a", settle=True)
    box.call("Settle", delivery=reply.delivery, done=True, keep_ms=30000)
    assert box.box("w", "a").kept == 3
    assert box.take("w", "a") == []
    assert box.take("w", "a", resume_after=ids[0]) == [1, 2]
    assert box.box("w", "a").kept == 1


# ---- peers that die ----

def test_what_a_dead_peer_held_goes_to_others(box):
    other = MailboxClient(box.fleet)
    for n in range(3):
        box.send("w", "a", n)
    assert len(other.receive("w", "a", settle=True, max=1).messages) == 1
    leased = other.receive("w", "a", lease_ms=600000, settle=True, max=1)
    assert leased.messages[0].receipt
    other.park("w", "b")
    assert box.box("w", "b").waiting == 1
    other.close()
    wait_until("its poll is gone and its messages are back", 10,
               lambda: box.box("w", "b").waiting == 0 and box.box("w", "a").depth == 3)
    box.send("w", "b", "for nobody yet")
    assert box.take("w", "a") == [0, 1, 2]
    assert box.take("w", "b") == ["for nobody yet"]


def test_polls_of_a_peer_that_hears_nothing_use_up_no_attempts():
    """Events wait up to 16 MiB for a peer; what found no room there has not been delivered."""
    big = "x" * ((3 << 20) - 64)
    with start(mailbox={"max_payload_bytes": "3M", "box_bytes": "64M"}) as fleet:
        with MailboxClient(fleet, events=False) as deaf, MailboxClient(fleet) as c:
            for _ in range(30):
                deaf.park("w", "a", max=1)
            for n in range(8):
                c.send("w", "a", [n, big])
            wait_until("nobody waits any more", 10, lambda: c.box("w", "a").waiting == 0)
            b = c.box("w", "a")
            assert (b.dead, b.redelivered) == (0, 0)
            left = [c.receive("w", "a").messages[0] for _ in range(b.depth)]  # one fills an answer
            assert left and left[-1].payload.startswith(b"[7,")
            assert {m.attempt for m in left} == {1}


def test_polls_end_whose_messages_found_no_room():
    """Their peer believes that they wait, so it must hear that they do not."""
    big = "x" * ((3 << 20) - 64)
    with start(mailbox={"max_payload_bytes": "3M", "box_bytes": "64M"}) as fleet:
        with MailboxClient(fleet, events=False) as slow, MailboxClient(fleet) as c:
            polls = [slow.park("w", "a", max=1) for _ in range(30)]
            for n in range(8):
                c.send("w", "a", [n, big])
            slow.listen()
            ends = [slow.end_of(p) for p in polls]
            taken = [e.messages[0].message_id for e in ends if e.messages]
            assert len(taken) == len(set(taken)) < 8 and all(e.more for e in ends if not e.messages)
            assert c.box("w", "a").depth == 8 - len(taken)


def test_a_settled_lease_outlives_its_peer(box):
    box.send("w", "a", 1)
    with MailboxClient(box.fleet) as other:
        reply = other.receive("w", "a", lease_ms=600000, settle=True)
        other.call("Settle", delivery=reply.delivery, done=True)
    wait_until("the peer is gone", 10, lambda: " peer_gone " in box.fleet.mailbox.log())
    assert box.box("w", "a").leased == 1 and box.take("w", "a") == []
    assert box.ack("w", "a", reply.messages[0]) == "OK"


# ---- fairness ----

class Flood(threading.Thread):
    """A client that says nothing but full frames for a workflow of its own."""

    def __init__(self, fleet, n, frames):
        super().__init__(daemon=True)
        self.client = MailboxClient(fleet, name=f"flood-{n}", events=False)
        self.frames = frames  # all floods together: [count]
        self.stop = False
        letter = message("Message")(**{**LETTER, "payload": b'"' + b"x" * 500 + b'"'})
        self.request = ("Send", method("Send")[1](workflow_id="flood", messages=[letter] * 50))

    def run(self):
        try:
            while not self.stop:
                self.client.calls([self.request] * 4)
                self.frames[0] += 1
        except Lost:
            pass
        self.client.close()


def test_a_flood_of_one_workflow_does_not_delay_another(fleet):
    """Counted, not timed: between a quiet client's call and its answer, each flooding client gets few frames in."""
    frames, floods = [0], []
    try:
        floods = [Flood(fleet, n, frames) for n in range(8)]
        for f in floods:
            f.start()
        wait_until("the flood runs", 20, lambda: frames[0] > 50)
        between = []
        with MailboxClient(fleet, name="quiet") as quiet:
            for n in range(60):
                before = frames[0]
                assert quiet.send("quiet", "a", n)
                assert quiet.take("quiet", "a") == [n]
                between.append(frames[0] - before)
        between.sort()
        assert between[len(between) // 2] <= 4 * len(floods), between  # two calls, each behind one frame of everybody
        assert between[-1] <= 20 * len(floods), between
    finally:
        for f in floods:
            f.stop = True
        for f in floods:
            f.join(secs(20))


# ---- metrics, and the scheduler ----

def test_metrics_say_who_writes_to_whom_until_the_workflow_is_gone():
    if not have("slipstream-gateway"):
        pytest.skip("no gateway to ask")
    with start(mailbox={"metrics_boxes": 2, "max_deliveries": 1}) as fleet:
        gateway = fleet.worker(1, with_scheduler=False)
        gateway.start().wait_ready()
        try:
            with MailboxClient(fleet) as c:
                for target, count in (("a", 3), ("b", 2), ("c", 1)):
                    for n in range(count):
                        c.send("w", target, n)
                flow = "slipstream_agent_flow_total"
                fleet.wait_metric(flow, 3, workflow_id="w", source="me", target="a")
                fleet.wait_metric(flow, 2, workflow_id="w", source="me", target="b")
                fleet.wait_metric(flow, 1, workflow_id="_other", source="_other", target="_other")
                m = c.receive("w", "a", lease_ms=60000, max=2).messages
                fleet.wait_metric("slipstream_mailbox_leased", 2)
                assert c.ack("w", "a", m[0]) == "OK" and c.ack("w", "a", m[1], kind=1) == "OK"
                fleet.wait_metric("slipstream_mailbox_dead", 1)
                c.call("Redrive", workflow_id="w", agent_id="a")
                c.send("w", "a", "later", delay_ms=600000, key="k")
                fleet.wait_metric("slipstream_mailbox_delayed", 1)
                fleet.wait_metric("slipstream_mailbox_keys", 1)
                c.send("w", "a", "later", delay_ms=600000, key="k")
                fleet.wait_metric("slipstream_mailbox_replayed_total", 1)
                for event, count in (("sent", 7), ("delivered", 1), ("dead", 1), ("redriven", 1)):
                    fleet.wait_metric("slipstream_mailbox_messages_total", count, event=event)
                fleet.wait_metric("slipstream_mailbox_store_failing", 0)
                metrics = fleet.metrics()
                assert metrics.sum("slipstream_mailbox_store_bytes") > 0
                assert metrics.sum("slipstream_mailbox_commits_total", result="ok") >= 8
                assert metrics.sum("slipstream_mailbox_commit_seconds_count") >= 8
                c.call("CloseWorkflow", workflow_id="w", purge=True)
                wait_until("the series of the pairs are gone", 5, lambda: not fleet.metrics().has(flow, workflow_id="w"))
                assert fleet.metrics().has(flow, workflow_id="_other")
        finally:
            gateway.stop()


@pytest.mark.skipif(not have("slipstream-scheduler", "slipstream-gateway"), reason="not built")
def test_the_scheduler_hears_of_messages_and_the_mailbox_never_waits_for_it():
    with start(with_scheduler=True) as fleet:
        gateway = fleet.worker(1, with_scheduler=False)
        gateway.start().wait_ready()
        try:
            wait_until("the mailbox knows the scheduler", 10, lambda: " scheduler_up " in fleet.mailbox.log())
            told = "slipstream_scheduler_mail_total"
            with MailboxClient(fleet) as c:
                letter = message("Message")(**LETTER)
                c.call("Send", workflow_id="w", messages=[letter] * 500)
                c.call("Send", workflow_id="w", messages=[message("Message")(**{**LETTER, "target_agent": "*"})],
                       agents=[f"b{i}" for i in range(200)])
                c.send("w", "soon", 1, delay_ms=200)
                fleet.wait_metric(told, 500 + 201 + 1)
                fleet.scheduler.stop()
                wait_until("the link is down", 10, lambda: " scheduler_down " in fleet.mailbox.log())
                for n in range(50):
                    c.send("w", f"x{n}", n)
                fleet.wait_metric("slipstream_mailbox_notes_total", 50, result="dropped")
                fleet.scheduler.restart()
                wait_until("the link is up", 10, lambda: fleet.mailbox.log().count(" scheduler_up ") == 2)
                c.send("w", "x", 1)
                fleet.wait_metric("slipstream_mailbox_notes_total", 703, result="told")
        finally:
            gateway.stop()
