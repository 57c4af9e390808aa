# SPDX-License-Identifier: Apache-2.0
"""slipctl and the client library over the real mailbox: leases, dead letters, bulk, restarts."""
import json
import os
import signal
import subprocess
import time

import pytest

from support.fleet import Fleet, _env, binary, slipctl, slipctl_run
from support.wait import secs, wait_until

pytestmark = pytest.mark.asan_ok


def start(**mailbox):
    return Fleet(engines=0, workers=0, with_scheduler=False, mailbox=mailbox)


@pytest.fixture(params=["memory", "sqlite"])
def box(request):
    with start(store=request.param) as fleet:
        yield fleet


def send(fleet, agent, payload, *more):
    return slipctl(fleet, "send", "w", agent, json.dumps(payload), "--json", *more)


def receive(fleet, agent, *more):
    return slipctl(fleet, "receive", "w", agent, "--json", *more)["messages"]


def payloads(fleet, agent, *more):
    return [m["payload"] for m in receive(fleet, agent, *more)]


def settle(fleet, verb, agent, messages, *more):
    pairs = [word for m in messages for word in (m["message_id"], m["receipt"])]
    return slipctl_run(fleet, verb, "w", agent, *pairs, *more, "--json")


def info(fleet, agent):
    return slipctl(fleet, "messages", "box", "w", agent, "--json")


def piped(fleet, text, *args):
    return subprocess.run([binary("slipctl"), "--config", fleet.config, *args], input=text, text=True,
                          capture_output=True, timeout=secs(20), env=_env())


def test_a_leased_message_is_gone_when_it_is_acknowledged(box):
    for i in range(3):
        send(box, "a", i)
    m = receive(box, "a", "--lease", "60")
    assert [x["payload"] for x in m] == [0, 1, 2] and all(x["receipt"] for x in m)
    assert m[0]["lease_expires_ms"] > m[0]["created_ms"]
    assert info(box, "a")["leased"] == 3
    assert receive(box, "a") == []
    r = settle(box, "ack", "a", m[:2])
    assert r.returncode == 0, r.stderr
    assert json.loads(r.stdout) == {"results": [{"message_id": x["message_id"]} for x in m[:2]]}
    r = settle(box, "ack", "a", m)  # two are done already
    assert r.returncode == 1
    assert [x.get("error") for x in json.loads(r.stdout)["results"]] == ["stale_receipt", "stale_receipt", None]
    assert r.stderr.count("(stale_receipt)") == 2
    after = info(box, "a")
    assert (after["leased"], after["depth"], after["delivered"]) == (0, 0, 3)


def test_receipts_are_read_from_standard_input(box):
    for i in range(20):
        send(box, "a", i)
    m = receive(box, "a", "--lease", "60", "--count", "20")
    lines = "".join(f"{x['message_id']} {x['receipt']}\n" for x in m)
    assert piped(box, lines, "ack", "w", "a", "-").returncode == 0
    assert info(box, "a")["delivered"] == 20
    assert piped(box, "one", "ack", "w", "a", "-").returncode == 64
    assert slipctl_run(box, "ack", "w", "a").returncode == 64


def test_a_message_that_is_given_back_is_in_its_old_place(box):
    for i in range(3):
        send(box, "a", i)
    first = receive(box, "a", "--lease", "60", "--max", "1")
    assert settle(box, "nack", "a", first).returncode == 0
    again = receive(box, "a", "--lease", "60")
    assert [(x["payload"], x["attempt"]) for x in again] == [(0, 2), (1, 1), (2, 1)]
    assert settle(box, "ack", "a", first).returncode == 1, "an old receipt"
    assert settle(box, "nack", "a", again[:1], "--delay", "0.3").returncode == 0
    assert info(box, "a")["delayed"] == 1
    assert [(x["payload"], x["attempt"]) for x in receive(box, "a", "--wait", "10")] == [(0, 3)]


def test_a_lease_that_ends_brings_the_message_back_unless_it_was_extended(box):
    send(box, "a", "short")
    send(box, "b", "long")
    short = receive(box, "a", "--lease", "0.2")
    long = receive(box, "b", "--lease", "0.2")
    r = settle(box, "extend", "b", long, "--lease", "60")
    assert r.returncode == 0, r.stderr
    assert json.loads(r.stdout)["results"][0]["lease_expires_ms"] > long[0]["lease_expires_ms"] + 50000
    again = receive(box, "a", "--wait", "20", "--lease", "60")
    assert (again[0]["message_id"], again[0]["attempt"]) == (short[0]["message_id"], 2)
    assert settle(box, "ack", "a", short).returncode == 1
    assert settle(box, "ack", "a", again).returncode == 0
    assert info(box, "b")["leased"] == 1
    assert settle(box, "ack", "b", long).returncode == 0, "the receipt stays the same"


def test_priorities_delays_and_groups(box):
    send(box, "a", "tomorrow", "--delay", "80000", "--ttl", "90000")
    send(box, "a", "soon", "--delay", "0.2")
    assert payloads(box, "a", "--wait", "10") == ["soon"]
    for p in (0, 9, 5):
        send(box, "a", p, "--priority", str(p))
    assert payloads(box, "a") == [9, 5, 0]
    assert (info(box, "a")["delayed"], info(box, "a")["depth"]) == (1, 0)
    for g, n in (("g", 1), ("g", 2), ("h", 3)):
        send(box, "a", n, "--group", g)
    first = receive(box, "a", "--lease", "60", "--max", "1")
    assert [x["payload"] for x in receive(box, "a", "--lease", "60")] == [3], "2 waits for 1"
    assert settle(box, "ack", "a", first).returncode == 0
    assert payloads(box, "a") == [2]
    assert slipctl_run(box, "send", "w", "a", "1", "--priority", "10").returncode == 64


def test_a_send_that_is_repeated_with_its_key_is_there_once(box):
    one = send(box, "a", {"n": 1}, "--idempotency-key", "k")
    two = send(box, "a", {"n": 1}, "--idempotency-key", "k")
    assert two == {**one, "replayed": True}
    r = slipctl_run(box, "send", "w", "a", "2", "--idempotency-key", "k")
    assert r.returncode == 1 and "(idempotency_key_reused)" in r.stderr
    assert payloads(box, "a") == [{"n": 1}]


def test_what_expires_is_a_dead_letter_that_can_be_driven_back_or_dropped(box):
    ids = [send(box, "a", i, "--ttl", "0.2")["message_id"] for i in range(5)]
    wait_until("all have expired", 10, lambda: info(box, "a")["dead"] == 5)
    page = slipctl(box, "dead", "w", "a", "--json", "--count", "2")
    assert [(m["message_id"], m["dead_reason"], m["payload"]) for m in page["messages"]] == \
        [(ids[0], "expired", 0), (ids[1], "expired", 1)]
    assert page["more"] == 3 and page["messages"][0]["dead_ms"] > 0
    page = slipctl(box, "dead", "w", "a", "--json", "--after", ids[1])
    assert [m["message_id"] for m in page["messages"]] == ids[2:] and page["more"] == 0
    assert slipctl(box, "redrive", "w", "a", ids[3], "--json") == {"moved": 1, "left": 4}
    m = receive(box, "a")
    assert [(x["message_id"], x["attempt"]) for x in m] == [(ids[3], 1)]
    assert slipctl(box, "drop", "w", "a", ids[0], "--json") == {"dropped": 1, "left": 3}
    assert "REASON" in slipctl_run(box, "dead", "w", "a").stdout
    assert slipctl_run(box, "drop", "w", "a").returncode == 64, "all are not thrown away by mistake"
    assert slipctl(box, "drop", "w", "a", "--all", "--json") == {"dropped": 3, "left": 0}
    assert (info(box, "a")["dead"], info(box, "a")["expired"]) == (0, 5)


def test_what_comes_back_too_often_is_a_dead_letter():
    with start(store="memory", max_deliveries=2) as box:
        send(box, "a", "poison")
        for _ in range(2):
            assert settle(box, "nack", "a", receive(box, "a", "--lease", "60")).returncode == 0
        assert receive(box, "a") == []
        m = slipctl(box, "dead", "w", "a", "--json")["messages"]
        assert [(x["payload"], x["dead_reason"]) for x in m] == [("poison", "attempts")]
        assert slipctl(box, "redrive", "w", "a", "--json") == {"moved": 1, "left": 0}
        assert payloads(box, "a") == ["poison"]


def test_a_full_mailbox_refuses_or_drops_its_oldest():
    with start(store="memory", box_messages=2) as box:
        r = piped(box, "1\n2\n3\n", "send", "w", "a", "--lines")
        assert r.returncode == 1 and r.stdout == "2 sent, 1 refused\n"
        assert "line 3: " in r.stderr and "(mailbox_full)" in r.stderr
        assert (info(box, "a")["rejected"], info(box, "a")["overflow"]) == (1, "reject")
    with start(store="memory", box_messages=2, overflow="drop_oldest") as box:
        for i in (1, 2, 3):
            send(box, "a", i)
        assert payloads(box, "a") == [2, 3]
        m = slipctl(box, "dead", "w", "a", "--json")["messages"]
        assert [(x["payload"], x["dead_reason"]) for x in m] == [(1, "overflow")]
        assert info(box, "a")["overflow"] == "drop_oldest"


def test_lines_and_files(box, tmp_path):
    many = tmp_path / "many"
    many.write_text("".join(f'{{"line": {i}}}\n' for i in range(2500)))
    one = tmp_path / "one"
    one.write_text('{\n  "in": "a file"\n}\n')
    with start(store="memory", box_messages=5000) as big:
        assert slipctl_run(big, "send", "w", "a", f"@{many}", "--lines").stdout == "2500 sent, 0 refused\n"
        got = []
        while m := receive(big, "a", "--max", "1000"):
            got += [x["payload"]["line"] for x in m]
        assert got == list(range(2500))
    assert slipctl_run(box, "send", "w", "a", f"@{one}").returncode == 0
    r = piped(box, '1\nnot json\n"three"\n', "send", "w", "a", "-", "--lines", "--json")
    results = [json.loads(line) for line in r.stdout.splitlines()]
    assert r.returncode == 1 and results[1] == {"error": "invalid_json"}
    assert payloads(box, "a") == [{"in": "a file"}, 1, "three"]
    r = slipctl_run(box, "send", "w", "a", "@/nonexistent")
    assert r.returncode == 1 and "/nonexistent" in r.stderr
    assert slipctl_run(box, "send", "w", "a", "1", "--lines").returncode == 64


def test_peek_takes_nothing(box):
    send(box, "a", 1)
    for _ in range(2):
        m = slipctl(box, "messages", "peek", "w", "a", "--json")["messages"]
        assert [(x["payload"], x["attempt"]) for x in m] == [(1, 0)]
    assert payloads(box, "a") == [1]
    assert slipctl_run(box, "receive", "w", "a", "--peek", "--lease", "3").returncode == 64


def test_follow_with_leases_is_a_worker(box):
    argv = [binary("slipctl"), "--config", box.config, "receive", "w", "a", "--follow", "--lease", "60", "--ack",
            "--count", "3", "--json"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=_env()) as p:
        for i in range(3):
            send(box, "a", i)
            m = json.loads(p.stdout.readline())
            assert m["payload"] == i and m["receipt"]
        assert p.wait(secs(10)) == 0, "it ends after --count"
    after = info(box, "a")
    assert (after["delivered"], after["leased"], after["depth"]) == (3, 0, 0)
    assert slipctl_run(box, "receive", "w", "a", "--follow", "--lease", "1").returncode == 64


def test_receive_with_ack_acknowledges_what_it_printed(box):
    send(box, "a", 1)
    assert payloads(box, "a", "--lease", "60", "--ack") == [1]
    assert info(box, "a")["delivered"] == 1
    assert slipctl_run(box, "receive", "w", "a", "--ack").returncode == 64


def test_a_worker_that_waits_goes_on_over_a_restart_of_the_mailbox():
    with start(store="sqlite") as box:
        send(box, "b", "leased")
        leased = receive(box, "b", "--lease", "60")
        argv = [binary("slipctl"), "--config", box.config, "receive", "w", "a", "--wait", "60", "--lease", "60", "--ack",
                "--json"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=_env()) as p:
            wait_until("it is parked", 10, lambda: info(box, "a")["waiting"] == 1)
            box.mailbox.kill9()
            box.mailbox.restart()
            wait_until("it is parked again", 10, lambda: info(box, "a")["waiting"] == 1)
            send(box, "a", "after")
            out, _ = p.communicate(timeout=secs(20))
        assert [m["payload"] for m in json.loads(out)["messages"]] == ["after"]
        assert info(box, "a")["leased"] == 0
        r = settle(box, "ack", "b", leased)  # of the time before, and nobody had it since
        assert r.returncode == 0, r.stderr
        assert receive(box, "b") == []


def test_sends_outlive_the_process_and_keys_too():
    with start(store="sqlite") as box:
        first = send(box, "a", 1, "--idempotency-key", "k")
        send(box, "a", 2)
        box.mailbox.kill9()
        box.mailbox.restart()
        assert send(box, "a", 1, "--idempotency-key", "k") == {**first, "replayed": True}
        assert [(m["payload"], m["attempt"]) for m in receive(box, "a")] == [(1, 1), (2, 1)]
        box.mailbox.kill9()
        box.mailbox.restart()
        assert receive(box, "a") == [], "what was delivered is gone for good"


def test_a_mailbox_that_stands_still_is_exit_code_2(box):
    os.kill(box.mailbox.pid, signal.SIGSTOP)
    try:
        before = time.monotonic()
        r = slipctl_run(box, "dead", "w", "a", "--timeout", "0.3")
        assert r.returncode == 2, r.stderr
        assert time.monotonic() - before < secs(10)
    finally:
        os.kill(box.mailbox.pid, signal.SIGCONT)
    assert info(box, "a")["depth"] == 0


def test_status_tells_of_the_store(box):
    send(box, "a", 1, "--delay", "60")
    s = json.loads(
        slipctl_run(box, "status", "--json", "--timeout", "0.3").stdout)["mailbox"]
    assert s["store"] == box.settings["mailbox"]["store"]
    assert (s["delayed"], s["store_failing"]) == (1, False)


def test_help_and_verbs(box):
    verbs = ("send", "receive", "peek", "ack", "nack", "extend", "dead", "redrive", "drop", "box")
    everything = slipctl_run(box, "messages", "--help").stdout
    for verb in verbs:
        assert verb in everything
        for words in ((verb,), ("messages", verb)):
            r = slipctl_run(box, *words, "--help")
            assert r.returncode == 0 and "--json" in r.stdout, words
    assert slipctl_run(box, "messages").returncode == 64
    assert slipctl_run(box, "messages", "nothing").returncode == 64


def test_the_largest_payload_goes_both_ways(tmp_path):
    text = json.dumps("x" * (3 * 1024 * 1024 - 2))
    (tmp_path / "large").write_text(text)
    with start(store="memory", max_payload_bytes=3 << 20) as box:
        for _ in range(2):
            assert slipctl_run(box, "send", "w", "a", f"@{tmp_path}/large").returncode == 0
        for _ in range(2):  # an answer carries 3 MiB at most, and one message at least
            assert payloads(box, "a") == [json.loads(text)]
        (tmp_path / "large").write_text(text[:-1] + 'x"')
        r = slipctl_run(box, "send", "w", "a", f"@{tmp_path}/large")
        assert r.returncode == 1 and "3 MiB" in r.stderr
