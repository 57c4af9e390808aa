# SPDX-License-Identifier: Apache-2.0
"""What a mailbox process has acknowledged outlives it: kills, full disks, damaged files, drains."""
import os
import random
import resource
import shutil
import signal
import subprocess
import threading

import pytest

from support.fleet import BUILD, Fleet, _env, binary, have
from support.mailbox_client import Lost, MailboxClient, Refused, message, method
from support.wait import secs, wait_until

pytestmark = [pytest.mark.asan_ok,
              pytest.mark.skipif(not have("slipstream-mailbox"), reason="not built"),
              pytest.mark.skipif(shutil.which("protoc-c") is None, reason="needs protoc-c")]

ROOMY = {"box_messages": 1000000, "workflow_messages": 10000000, "total_messages": 10000000, "box_bytes": "1G",
         "workflow_bytes": "1G", "total_bytes": "2G"}


def start(**kw):
    return Fleet(engines=0, workers=0, with_scheduler=False, **kw)


@pytest.fixture
def box():
    with start() as fleet:
        yield fleet


# ---- killed in the middle of sends ----

AGENTS = [f"a{i}" for i in range(8)]
FRAME = 64  # calls of one message each that travel together


class Sender(threading.Thread):
    """Sends numbers to all agents in turn until the mailbox dies, and knows which were acknowledged."""

    def __init__(self, fleet, first, count):
        super().__init__(daemon=True)
        self.client = MailboxClient(fleet, events=False)
        self.numbers = range(first, first + count)
        self.tried = first  # one more than the last number that was ever sent
        self.acked = []
        self.error = None

    def run(self):
        request, letter = method("Send")[1], message("Message")
        try:
            for at in range(self.numbers.start, self.numbers.stop, FRAME):
                part = range(at, min(at + FRAME, self.numbers.stop))
                self.tried = part.stop
                answers = self.client.calls([
                    ("Send", request(workflow_id="w", messages=[letter(
                        source_agent="s", target_agent=AGENTS[n % len(AGENTS)], message_type="t", payload=b"%d" % n)]))
                    for n in part])
                self.acked += [n for n, (status, a) in zip(part, answers) if status == 0 and a.results[0].status == 0]
        except Lost:
            pass
        except Exception as e:
            self.error = e


def drain(client, agent):
    got = []
    while part := client.take("w", agent, max=1000):
        got += part
    return got


def kill_rounds(fleet, rounds, count, seed):
    rng = random.Random(seed)
    first = 0
    for _ in range(rounds):
        sender = Sender(fleet, first, count)
        at = first + rng.randrange(count)
        sender.start()
        wait_until("the sender got there", 60, lambda: sender.tried > at or not sender.is_alive(), interval=0.0005)
        fleet.mailbox.kill9()
        sender.join(secs(30))
        assert not sender.is_alive() and sender.error is None, sender.error
        sender.client.close()
        assert sender.acked and sender.acked[0] == first
        fleet.mailbox.restart(60)
        with MailboxClient(fleet, events=False) as client:
            got = {agent: drain(client, agent) for agent in AGENTS}
        everything = sorted(n for numbers in got.values() for n in numbers)
        for i, agent in enumerate(AGENTS):
            assert got[agent] == sorted(got[agent]), f"{agent} is out of order"
            assert all(n % len(AGENTS) == i for n in got[agent])
        assert len(set(everything)) == len(everything), "something came twice"
        missing = set(sender.acked) - set(everything)
        assert not missing, f"{len(missing)} acknowledged messages are lost: {sorted(missing)[:10]}"
        assert not everything or (everything[0] == first and everything[-1] < sender.tried), "something is invented"
        assert len(everything) - len(sender.acked) <= FRAME, "more than what was on its way"
        first = sender.tried


def test_a_killed_mailbox_loses_nothing_that_it_acknowledged():
    with start(mailbox=ROOMY) as fleet:
        kill_rounds(fleet, 3, 20000, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_kills_in_the_middle_of_a_hundred_thousand_sends():
    with start(mailbox=ROOMY) as fleet:
        kill_rounds(fleet, 50, 100000, seed=2)


def test_leases_acks_and_dead_letters_outlive_a_kill():
    with start(mailbox={"max_deliveries": 2}) as fleet:
        with MailboxClient(fleet) as c:
            for n in range(4):
                c.send("w", "a", n)
            c.send("w", "a", "late", delay_ms=600000)
            m = c.receive("w", "a", lease_ms=60000, max=4).messages
            assert c.ack("w", "a", m[0]) == "OK"
            assert c.ack("w", "a", m[1], kind=1) == "OK"  # back in its place, once delivered
            m1 = c.receive("w", "a", lease_ms=60000, max=1).messages[0]
            assert (m1.payload, m1.attempt) == (b"1", 2)
            assert c.ack("w", "a", m1, kind=1) == "OK"  # for the second time: dead
            fleet.mailbox.kill9()
        fleet.mailbox.restart()
        with MailboxClient(fleet) as c:
            b = c.box("w", "a")
            assert (b.depth, b.delayed, b.dead, b.leased) == (2, 1, 1, 0)
            assert c.ack("w", "a", m[2]) == "OK"  # a receipt of the time before, and nobody took it since
            again = c.receive("w", "a", lease_ms=60000).messages
            assert [x.payload for x in again] == [b"3"]
            assert c.ack("w", "a", m[3]) == "RECEIPT"
            dead = c.call("ListDead", workflow_id="w", agent_id="a").messages
            assert [(x.payload, x.dead_reason) for x in dead] == [(b"1", "attempts")]
            assert abs(dead[0].dead_ms - again[0].created_ms) < 60000
            assert c.call("Redrive", workflow_id="w", agent_id="a").moved == 1
            assert c.take("w", "a") == [1]


def stream_away(c, **fields):
    """What a stream does: takes messages, and settles them as written and kept."""
    got = c.receive("w", "a", settle=True, **fields)
    c.call("Settle", delivery=got.delivery, done=True, keep_ms=30000)
    return [(m.message_id, m.payload, m.attempt) for m in got.messages]


def test_what_was_kept_for_a_stream_outlives_kills(box):
    with MailboxClient(box) as c:
        for n in range(6):
            c.send("w", "a", n)
        first = stream_away(c, max=2) + stream_away(c, max=2)
        box.mailbox.kill9()
    box.mailbox.restart()
    with MailboxClient(box) as c:
        assert (c.box("w", "a").kept, c.box("w", "a").depth) == (4, 2)
        assert [p for _, p, _ in stream_away(c, max=10)] == [b"4", b"5"]  # what was written is nobody else's
        box.mailbox.kill9()
    box.mailbox.restart()
    with MailboxClient(box) as c:
        assert [(p, a) for _, p, a in stream_away(c, max=10, resume_after=first[1][0])] == \
            [(b"2", 2), (b"3", 2), (b"4", 2), (b"5", 2)]
        assert c.box("w", "a").kept == 6


def test_what_was_kept_is_done_when_its_time_ends_though_the_mailbox_was_away(box):
    with MailboxClient(box) as c:
        c.send("w", "a", 1)
        got = c.receive("w", "a", settle=True)
        c.call("Settle", delivery=got.delivery, done=True, keep_ms=300)
        box.mailbox.kill9()
    box.mailbox.restart()
    with MailboxClient(box) as c:
        wait_until("its time ended", 5, lambda: c.box("w", "a").kept == 0)
        assert c.take("w", "a") == []


def test_an_idempotency_key_outlives_a_kill(box):
    with MailboxClient(box) as c:
        first = c.send("w", "a", 1, key="k")
        box.mailbox.kill9()
    box.mailbox.restart()
    with MailboxClient(box) as c:
        assert c.send("w", "a", 1, key="k") == first
        with pytest.raises(Refused, match="IDEMPOTENCY"):
            c.send("w", "a", 2, key="k")
        assert c.take("w", "a") == [1]


def test_deliveries_that_go_on_after_a_restart_are_held_again(box):
    with MailboxClient(box) as c:
        ids = [c.send("w", "a", n) for n in range(3)]
        assert len(c.receive("w", "a", settle=True, max=2).messages) == 2
        box.mailbox.kill9()
    box.mailbox.restart()
    with MailboxClient(box) as c:
        held = c.call("Hold", workflow_id="w", agent_id="a", message_ids=[ids[0], ids[1], "unknown"])
        assert held.held == 2 and held.delivery != 0
        assert c.take("w", "a") == [2]
        c.call("Settle", delivery=held.delivery, done=True)
        assert c.take("w", "a") == []
        assert c.call("Hold", workflow_id="w", agent_id="a", message_ids=ids).delivery == 0


# ---- stops ----

def test_a_drain_keeps_what_is_queued_and_ends_clean(box):
    with MailboxClient(box) as c:
        for n in range(100):
            c.send("w", "a", n)
        poll = c.park("w", "b")
        delivery = c.receive("w", "a", settle=True, max=1).delivery
        box.mailbox.signal(signal.SIGTERM)
        assert not c.end_of(poll).messages  # sent home
        with pytest.raises(Refused, match="DRAINING"):
            c.send("w", "a", "late")
        c.call("Settle", delivery=delivery, done=True)
        assert box.mailbox.wait_end() == 0
    folder = box.run_dir / "mailbox"
    box.mailbox.restart()
    assert "messages=99 " in box.mailbox.log().split(" restored ")[-1]
    with MailboxClient(box) as c:
        assert drain(c, "a") == list(range(1, 100))
    assert oct(folder.stat().st_mode & 0o777) == "0o700"


def test_a_stopped_mailbox_ages_messages_by_the_clock_on_the_wall(box):
    with MailboxClient(box) as c:
        c.send("w", "a", "short", ttl=300)
        c.send("w", "a", "due", delay_ms=300)
        c.send("w", "a", "long", ttl=600000)
        now = c.receive("w", "a", peek=True).messages[0].created_ms
        box.mailbox.stop()
    wait_until("300 ms have passed", 5, lambda: int(subprocess.check_output(["date", "+%s%3N"])) > now + 1000)
    box.mailbox.restart()
    with MailboxClient(box) as c:
        wait_until("the delayed one is due", 5, lambda: c.box("w", "a").delayed == 0)
        assert sorted(c.take("w", "a")) == ["due", "long"]
        b = c.box("w", "a")
        assert (b.expired, b.dead) in ((1, 1), (0, 1))


def test_another_store_is_empty_and_the_memory_store_forgets(box):
    with MailboxClient(box) as c:
        c.send("w", "a", 1)
    box.settings["mailbox"]["store"] = "memory"
    box.write_config()
    box.mailbox.stop()
    box.mailbox.restart()
    with MailboxClient(box) as c:
        assert c.status().store == "memory"
        assert c.take("w", "a") == []


# ---- files ----

def test_a_damaged_file_is_moved_aside_and_said_once(box):
    with MailboxClient(box) as c:
        for n in range(500):
            c.send("w", "a", "x" * 2000)
    box.mailbox.stop()
    path = box.run_dir / "mailbox" / "mailbox.db"
    size = path.stat().st_size
    with open(path, "r+b") as f:
        f.seek(0)
        f.write(b"no database at all" * 50)
        f.seek(size // 2)
        f.write(os.urandom(4096))
    box.mailbox.start()
    assert box.mailbox.wait_end() == 78
    assert "damaged" in box.mailbox.log()
    aside = list(path.parent.glob("mailbox.db.damaged-*"))
    assert aside, list(path.parent.iterdir())
    box.mailbox.restart()
    with MailboxClient(box) as c:
        assert c.take("w", "a") == []
        c.send("w", "a", "new")
        assert c.take("w", "a") == ["new"]
    assert aside[0].exists()


def check(fleet):
    return subprocess.run([binary("slipstream-mailbox"), "--config", fleet.config, "--check"], capture_output=True, text=True,
                          timeout=secs(20), env=_env())


def test_check_looks_where_the_store_will_lie(tmp_path):
    fleet = start()
    try:
        assert check(fleet).returncode == 0
        fleet.settings["mailbox"]["store_path"] = str(tmp_path / "no" / "such" / "mailbox.db")
        fleet.write_config()
        r = check(fleet)
        assert r.returncode == 78 and "mailbox.store_path" in r.stderr and "No such file" in r.stderr
        fleet.settings["mailbox"]["store_path"] = str(tmp_path / "mailbox.db")
        fleet.write_config()
        assert check(fleet).returncode == 0
        assert list(tmp_path.iterdir()) == []  # it only looked
    finally:
        shutil.rmtree(fleet.dir)


def test_a_reload_says_what_has_to_wait(box):
    box.settings["mailbox"] |= {"power_safe": True, "max_deliveries": 3, "overflow": "drop_oldest"}
    box.write_config()
    with MailboxClient(box) as c:
        box.mailbox.signal(signal.SIGHUP)
        wait_until("the new limit holds", 5, lambda: c.box("w", "a").max_deliveries == 3)
        assert c.box("w", "a").drop_oldest
    assert "setting=mailbox.power_safe" in box.mailbox.log()
    assert "setting=mailbox.store " not in box.mailbox.log()


# ---- payloads that cannot be read ----

@pytest.mark.skipif(not any(word in BUILD.name for word in ("asan", "debug")), reason="faults are compiled out of this build")
def test_a_message_that_cannot_be_read_is_given_to_nobody_until_it_can():
    fleet = start()
    fleet.mailbox.env["SLIPSTREAM_FAULTS"] = "store_unreadable=1"
    with fleet, MailboxClient(fleet) as c:
        for n in range(3):
            c.send("w", "a", n)
        assert c.take("w", "a", max=10) == [1, 2]
        assert c.box("w", "a").delayed == 1
        poll = c.park("w", "a")
        m, = c.end_of(poll).messages
        assert (m.payload, m.attempt) == (b"0", 2)
        assert fleet.mailbox.log().count("payload_lost") == 1


# ---- full disks ----

class Small:
    """A mailbox that may write only so much, until it is let."""

    LIMIT = 400 << 10

    def __enter__(self):
        self.fleet = start()
        self.fleet.mailbox.argv = ["/bin/sh", "-c", 'trap "" XFSZ; exec "$@"', "sh", *self.fleet.mailbox.argv]
        self.fleet.__enter__()
        self.limit(self.LIMIT)
        return self.fleet

    def limit(self, size):
        resource.prlimit(self.fleet.mailbox.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def __exit__(self, *exc):
        self.limit(resource.RLIM_INFINITY)
        self.fleet.__exit__(*exc)


def fill(client, most=5000):
    """Sends until the store is full: payloads that were acknowledged."""
    for n in range(most):
        try:
            client.send("w", "a", [n, "x" * 2000])
        except Refused as e:
            assert e.name == "STORE"
            return n
    raise AssertionError("the disk was never full")


def may_send(client, payload):
    try:
        return client.send("w", "a", payload)
    except Refused as e:
        assert e.name == "STORE"
        return None


def test_a_full_disk_refuses_sends_and_nothing_else():
    small = Small()
    with small as fleet, MailboxClient(fleet) as c:
        sent = fill(c)
        assert sent > 10
        assert c.status().store_failing
        with pytest.raises(Refused, match="STORE"):
            c.send("w", "a", "another")
        first = c.receive("w", "a", max=10, lease_ms=60000).messages  # of what there is all can be had
        assert [m.payload.startswith(b"[%d," % i) for i, m in enumerate(first)] == [True] * 10
        assert c.ack("w", "a", first[0]) == "OK"
        assert c.box("w", "a").depth == sent - 10
        small.limit(resource.RLIM_INFINITY)
        wait_until("the store has recovered", 10, lambda: may_send(c, "after"))
        assert not c.status().store_failing
        log = fleet.mailbox.log()
        assert log.count(" sends_refused ") == log.count(" sends_taken ") == 1
        fleet.mailbox.kill9()
        fleet.mailbox.restart()
        small.limit(resource.RLIM_INFINITY)
        with MailboxClient(fleet) as again:
            got = drain(again, "a")
            assert [m[0] for m in got[:-1]] == list(range(1, sent)) and got[-1] == "after"


@pytest.fixture
def small_fs(tmp_path):
    """Mounts a tmpfs of so many bytes."""
    mounted = []

    def mount(size):
        if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", tmp_path],
                                               capture_output=True).returncode:
            pytest.skip("may not mount a small file system")
        mounted.append(tmp_path)
        return tmp_path

    yield mount
    for path in mounted:
        subprocess.run(["umount", path], check=True)


@pytest.mark.parametrize("size, bulk", [("4m", 1), ("4m", 64), ("1m", 16)])
def test_readers_make_room_in_a_full_file_system(small_fs, size, bulk):
    request, letter = method("Send")[1], message("Message")

    def fill_up(c, first):
        """Numbers that were acknowledged, until the first refusal."""
        acked = []
        for at in range(first, first + 20000, bulk):
            answers = c.calls([("Send", request(workflow_id="w", messages=[letter(
                source_agent="s", target_agent="a", message_type="t", payload=b'[%d,"%s"]' % (n, os.urandom(700).hex().encode()))]))
                for n in range(at, at + bulk)])
            good = [at + i for i, (status, a) in enumerate(answers) if status == 0 and a.results[0].status == 0]
            acked += good
            if len(good) < bulk:
                return acked
        raise AssertionError("the disk was never full")

    folder = small_fs(size)
    with start(mailbox={"store_path": str(folder / "mailbox.db"), "box_messages": 100000}) as fleet:
        first, least = 0, None
        for _ in range(4):
            with MailboxClient(fleet) as c:
                acked = fill_up(c, first)
                least = least or len(acked) // 2
                assert len(acked) >= least, "room got lost"
                assert c.status().store_failing
                first = acked[-1] + 1000
                fleet.mailbox.kill9()
            fleet.mailbox.restart()
            with MailboxClient(fleet) as c:
                got = [m[0] for m in drain(c, "a")]
                assert got == acked
                wait_until("the store has room", 10, lambda: may_send(c, [first, "after"]))
                assert not c.status().store_failing
                assert [m[0] for m in drain(c, "a")] == [first]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a small file system")
def test_a_file_system_without_room_refuses_sends_until_there_is_some(tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "none", tmp_path], capture_output=True).returncode:
        pytest.skip("may not mount")
    try:
        ballast = tmp_path / "ballast"
        ballast.write_bytes(b"x" * (100 << 10))
        with start(mailbox={"store_path": str(tmp_path / "mailbox.db")}) as fleet, MailboxClient(fleet) as c:
            sent = fill(c)
            got = c.receive("w", "a", peek=True, max=1000)
            assert len(got.messages) + got.more == sent
            ballast.unlink()
            wait_until("the store has recovered", 10, lambda: may_send(c, "after"))
            assert not c.status().store_failing
            assert len(drain(c, "a")) == sent + 1
    finally:
        subprocess.run(["umount", tmp_path], check=True)
