# SPDX-License-Identifier: Apache-2.0
"""The mailbox over both carriers: large payloads, faults, and processes that are killed."""
import json
import threading

import pytest
from support.fleet import BUILD, Fleet
from support.wait import wait_until

pytestmark = [pytest.mark.channel, pytest.mark.asan_ok]

BOX = "/v1/workflows/mail/agents/b"
MESSAGES = "/v1/workflows/mail/messages"


def message(payload):
    return {"source_agent": "a", "target_agent": "b", "message_type": "m", "payload": payload}


def mail(channel, **settings):
    return Fleet(engines=0, workers=1, channel=channel, with_scheduler=False,
                 gateway={"max_body_bytes": 8 << 20, "body_budget_bytes": 256 << 20}, **settings)


def drain(f, count, path=f"{BOX}/messages?max=100&wait=2"):
    """Payloads that came until there were so many."""
    got = []
    while len(got) < count:
        a = f.get(path, timeout=30)
        assert a.status in (200, 503), a
        batch = [m["payload"] for m in a.json()["messages"]] if a.status == 200 else []
        if not batch and len(got) > 0 and a.status == 200:
            break
        got += batch
    return got


def test_carrier_is_the_one_that_was_asked_for(channel):
    with mail(channel) as f:
        assert f" ring={int(channel == 'shm')}" in [x for x in f.workers[0].log().splitlines() if " mailbox_up " in x][0]
        assert f.post(MESSAGES, message(1)).status == 202
        assert drain(f, 1) == [1]


def test_payloads_of_three_mebibytes_go_and_come_many_at_once(channel):
    limits = {"max_payload_bytes": 3 << 20, "box_bytes": 64 << 20, "total_bytes": 256 << 20}
    texts = [chr(ord("a") + i) * ((3 << 20) - 2) for i in range(8)]
    with mail(channel, mailbox=limits) as f:
        statuses = []
        threads = [threading.Thread(target=lambda t=t: statuses.append(f.post(MESSAGES, message(t), timeout=60).status))
                   for t in texts]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert statuses == [202] * len(texts)
        assert sorted(drain(f, len(texts), f"{BOX}/messages?max=1&wait=5")) == texts
        assert f.get(f"{BOX}/mailbox").json()["depth"] == 0


def test_poll_of_a_killed_worker_is_over(channel):
    with mail(channel) as f, f.client() as c:
        c.request("GET", f"{BOX}/messages?wait=30")
        wait_until("parked", 5, lambda: f.get(f"{BOX}/mailbox").json().get("waiting") == 1)
        f.workers[0].kill9()
        f.workers[0].restart()
        wait_until("nobody waits", 5, lambda: f.get(f"{BOX}/mailbox").json().get("waiting") == 0)
        assert f.post(MESSAGES, message("next")).status == 202
        assert drain(f, 1) == ["next"]


def test_mailbox_killed_while_messages_pour_in(channel):
    with mail(channel) as f:
        end = threading.Event()
        statuses = []

        def pour():
            while not end.is_set():
                statuses.append(f.post(MESSAGES, message("x" * 1000)).status)

        threads = [threading.Thread(target=pour) for _ in range(4)]
        for t in threads:
            t.start()
        try:
            for _ in range(3):
                seen = statuses.count(202)
                wait_until("posts are taken", 10, lambda seen=seen: statuses.count(202) > seen + 20)
                f.mailbox.kill9()
                f.mailbox.restart()
        finally:
            end.set()
            for t in threads:
                t.join()
        assert set(statuses) <= {202, 429, 503}, set(statuses)
        wait_until("posts are taken again", 10, lambda: f.post("/v1/workflows/new/messages", message("y")).status == 202)


@pytest.mark.skipif(not any(word in BUILD.name for word in ("asan", "debug")), reason="faults are compiled out of this build")
@pytest.mark.parametrize("who,fault", [("gateway", "ring_full=3"), ("gateway", "rpc_send_fails=2"), ("mailbox", "ring_full=3"),
                                       ("mailbox", "rpc_answer_lost=2")])
def test_armed_fault_loses_no_message_that_was_taken(channel, who, fault):
    f = mail(channel)
    victim = f.mailbox if who == "mailbox" else f.workers[0]
    victim.env["SLIPSTREAM_FAULTS"] = fault
    with f:
        taken = []
        for i in range(12):
            a = f.post(MESSAGES, message(i), timeout=20)
            assert a.status in (202, 503, 504), a
            if a.status == 202:
                taken.append(i)
        assert len(taken) >= 9, taken
        got = drain(f, len(taken))
        assert set(taken) <= set(got), (taken, got)
        assert json.dumps(got) == json.dumps(sorted(got)), "in the order in which they were sent"
