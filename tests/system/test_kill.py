# SPDX-License-Identifier: Apache-2.0
"""Processes that are killed, stopped, restarted, misconfigured, or find rubbish where they work."""
import datetime
import os
import signal
import socket
import threading
import time

import pytest
from support import raw_engine as re_
from support.fleet import Fleet, Load
from support.raw_engine import RawEngine
from support.rawhttp import Broken, RawClient, chat, get
from support.wait import secs, wait_until

PATH = "/v1/chat/completions"


def wf(workflow):
    return [("X-Workflow-ID", workflow)]


@pytest.fixture
def fleet(channel):
    with Fleet(engines=2, workers=2, channel=channel) as f:
        yield f


@pytest.fixture
def hanging(channel):
    """One scripted engine, one worker."""
    with RawEngine("raw") as engine:
        with Fleet(engines=[engine], workers=1, channel=channel) as f:
            f.engine = engine
            yield f
            engine.drop()


# ---- the scheduler ----

@pytest.mark.channel
@pytest.mark.asan_ok
def test_scheduler_killed_under_load_costs_no_request(fleet):
    homes = {}
    for i in range(8):
        homes[f"load-{i}"] = fleet.chat("x", wf(f"load-{i}")).header("x-slipstream-engine")
    with Load(fleet, threads=4) as load:
        load.wait_more(20)
        links = fleet.links()
        before = load.count()
        fleet.scheduler.kill9()
        alone = load.wait_more(40)
        fleet.scheduler.restart()
        fleet.wait_relinked(links)
        after = load.count()
        back = load.wait_more(40)
    assert load.errors == []
    statuses = [a[0] for a in load.answers]
    assert statuses == [200] * len(statuses), [s for s in statuses if s != 200][:5]
    for _, workflow, engine in [*alone, *back]:
        assert engine == homes[workflow], "a home moved with the scheduler's death"
    fleet.wait_no_lease()
    total = sum(fleet.status(w).json()["total_requests"] for w in homes)
    known = 8 + before + len(load.answers) - after  # those placed alone may be known or not
    assert known - 8 <= total <= 8 + len(load.answers), (total, known, len(load.answers))


@pytest.mark.channel
@pytest.mark.asan_ok
def test_homes_and_totals_survive_a_scheduler(fleet):
    before = {}
    for i in range(6):
        w = f"kept-{i}"
        for _ in range(3):
            assert fleet.chat("remember " * 40, wf(w)).status == 200
        wait_until("counted", 5, lambda w=w: fleet.status(w).json()["tokens"]["completion"] == 12)
        before[w] = fleet.status(w).json()
        assert before[w]["total_requests"] == 3
    links = fleet.links()
    fleet.scheduler.kill9()
    fleet.scheduler.restart()
    fleet.wait_relinked(links)
    for w, s in before.items():
        assert fleet.chat("again", wf(w)).header("x-slipstream-engine") == s["assigned_instance"]
        wait_until("counted", 5, lambda w=w, s=s: fleet.status(w).json()["tokens"]["prompt"] > s["tokens"]["prompt"])
        now = fleet.status(w).json()
        assert now["total_requests"] == 4
        assert now["tokens"]["cached"] >= s["tokens"]["cached"]
        created = [datetime.datetime.fromisoformat(x["created"].replace("Z", "+00:00")) for x in (s, now)]
        assert abs((created[1] - created[0]).total_seconds()) < 0.01


@pytest.mark.channel
def link(fleet):
    return get(fleet.admin_port, "/ready").json()["scheduler"]


def test_models_that_an_engine_once_told_are_known_to_the_next_scheduler(channel):
    with Fleet(engines=1, workers=1, channel=channel, engine_conf={"models": []}, with_mailbox=False) as f:
        assert f.engine_rows()["e1"]["models"] == ["sim"]
        f.engines[0].signal(signal.SIGSTOP)  # so that it cannot tell again
        try:
            f.scheduler.kill9()
            wait_until("the worker knows", 10, lambda: link(f) == "down")
            f.scheduler.start()
            wait_until("the worker has the new scheduler", 10, lambda: link(f) != "down")
            assert f.engine_rows()["e1"]["models"] == ["sim"]
        finally:
            f.engines[0].signal(signal.SIGCONT)
        f.wait_engines()
        assert f.chat().status == 200


def test_scheduler_stopped_by_sigterm_and_started_again(fleet):
    with Load(fleet, threads=2) as load:
        load.wait_more(10)
        fleet.scheduler.stop()
        load.wait_more(20)
        fleet.scheduler.restart()
        load.wait_more(20)
    assert load.errors == []
    assert {a[0] for a in load.answers} == {200}
    fleet.wait_no_lease()


@pytest.mark.channel
def test_frozen_scheduler_does_not_freeze_the_gateways(fleet):
    """Its heart stops: after 300 ms the workers decide alone. It thaws: nothing is counted twice or leaked."""
    with Load(fleet, threads=2) as load:
        load.wait_more(10)
        fleet.scheduler.signal(signal.SIGSTOP)
        load.wait_more(20, seconds=10)
        fleet.scheduler.signal(signal.SIGCONT)
        load.wait_more(20)
    assert load.errors == []
    assert {a[0] for a in load.answers} <= {200, 503}
    assert sum(a[0] == 503 for a in load.answers) <= 4
    fleet.wait_no_lease()


@pytest.mark.channel
def test_requests_in_flight_survive_a_scheduler(hanging):
    """Killed and back while a request runs: the request ends well and its lease is known to the successor."""
    go = threading.Event()

    def slow(conn, request):
        conn.read_body(request)
        assert go.wait(secs(20))
        conn.json_answer(re_.CHAT)

    hanging.engine.script(slow)
    with hanging.client() as c:
        c.request("POST", PATH, chat("raw", "long"), wf("inflight"))
        hanging.engine.wait_request()
        hanging.scheduler.kill9()
        hanging.scheduler.restart()
        wait_until("the successor knows of the request", 5, lambda: hanging.leases() == 1, interval=0.05)
        go.set()
        assert c.read_answer().status == 200
    hanging.wait_no_lease()


@pytest.mark.channel
def test_gateway_that_starts_before_any_scheduler_waits_for_it(channel):
    with Fleet(engines=1, workers=0, channel=channel, with_mailbox=False) as f:
        f.scheduler.stop()
        w = f.worker(1, with_scheduler=False)
        f.workers.append(w)
        w.start().wait_ready()
        assert f.chat().status in (200, 503)
        f.scheduler.start().wait_ready()
        wait_until("it is ready", 10, lambda: get(f.admin_port, "/ready").status == 200)
        assert f.chat().status == 200


def test_second_scheduler_in_one_run_dir_is_refused(sim):
    p = sim.process("slipstream-scheduler", log="scheduler-2").start()
    code = p.wait_end(5)
    assert code not in (0, None) and code > 0, code
    assert "scheduler" in p.log() and len(p.log()) > 20
    assert sim.scheduler.is_alive()
    assert sim.chat(headers=wf("second")).status == 200


def test_second_mailbox_in_one_run_dir_is_refused(sim):
    p = sim.process("slipstream-mailbox", log="mailbox-2").start()
    assert p.wait_end(5) > 0
    assert sim.post("/v1/workflows/second/messages", {"source_agent": "a", "target_agent": "b", "message_type": "m",
                                                      "payload": 1}).status == 202


# ---- the mailbox ----

@pytest.mark.channel
@pytest.mark.asan_ok
def test_mailbox_killed_and_back(channel):
    with Fleet(engines=1, workers=1, channel=channel) as f:
        message = {"source_agent": "a", "target_agent": "b", "message_type": "m", "payload": 1}
        path = "/v1/workflows/mail/messages"
        assert f.post(path, message).status == 202
        f.mailbox.kill9()
        t0 = time.monotonic()
        a = f.post(path, message)
        assert a.status == 503 and a.header("retry-after"), a
        assert a.json()["code"] == "mailbox_unavailable"
        assert time.monotonic() - t0 < secs(5)
        assert f.chat().status == 200, "generation needs no mailbox"
        f.mailbox.restart()
        wait_until("posts are taken again", 10, lambda: f.post(path, message).status == 202)
        assert f.get("/v1/workflows/mail/agents/b/messages").status == 200


@pytest.mark.channel
def test_parked_poll_survives_a_mailbox(channel):
    with Fleet(engines=1, workers=1, channel=channel) as f:
        with f.client() as c:
            c.request("GET", "/v1/workflows/mail/agents/b/messages?wait=30")
            wait_until("parked", 5, lambda: f.get("/v1/workflows/mail/agents/b/mailbox").json().get("waiting") == 1)
            f.mailbox.kill9()
            f.mailbox.restart()
            message = {"source_agent": "a", "target_agent": "b", "message_type": "m", "payload": "late"}
            wait_until("posted", 10, lambda: f.post("/v1/workflows/mail/messages", message).status == 202)
            a = c.read_answer()
            assert a.status in (200, 503), a
            if a.status == 200:
                assert [m["payload"] for m in a.json()["messages"]] == ["late"]


# ---- a worker ----

@pytest.mark.channel
@pytest.mark.asan_ok
def test_leases_of_a_killed_worker_end_within_a_second(channel):
    with RawEngine("raw") as engine, Fleet(engines=[engine], workers=2, channel=channel, with_mailbox=False) as f:
        engine.default = re_.hang
        clients = [f.client() for _ in range(16)]  # on either worker
        for c in clients:
            c.request("POST", PATH, chat("raw", "lost"), wf("lost"))
        engine.wait_request(16)
        wait_until("sixteen leases", 5, lambda: f.leases() == 16)
        f.workers[0].kill9()
        t0 = time.monotonic()
        left = [c for c in clients if c.is_open(0.01)]
        assert 0 < len(left) < 16
        wait_until("only the leases of the other worker", 1.5, lambda: f.leases() == len(left))
        assert time.monotonic() - t0 < secs(1.5)
        f.workers[0].restart()
        for c in clients:
            c.close()
        wait_until("no lease is held", 5, lambda: f.leases() == 0)
        for r in engine.requests[:16]:
            assert r.gone.wait(secs(5))
        engine.default = re_.ok_json
        assert f.chat().status == 200


@pytest.mark.channel
def test_killed_worker_costs_only_its_own_connections(fleet):
    with Load(fleet, threads=6) as load:
        load.wait_more(30)
        fleet.workers[0].kill9()
        load.wait_more(30)
        fleet.workers[0].restart()
        load.wait_more(30)
    assert len(load.errors) <= 12, load.errors[:20]
    assert {a[0] for a in load.answers} == {200}
    fleet.wait_no_lease()


def test_counters_survive_a_worker():
    with Fleet(engines=1, workers=1, with_mailbox=False) as f:
        for _ in range(5):
            assert f.chat(max_tokens=1).status == 200
        before = f.metrics().sum("slipstream_gateway_requests_total", status="200")
        f.workers[0].kill9()
        f.workers[0].restart()
        assert f.metrics().sum("slipstream_gateway_requests_total", status="200") >= before >= 5


@pytest.mark.asan_ok
def test_sigterm_lets_open_streams_finish(raw_fleet_of_two):
    f, engine = raw_fleet_of_two
    go = threading.Event()

    def slow_stream(conn, request):
        conn.read_body(request)
        conn.stream_head()
        conn.event(re_.delta("one"))
        assert go.wait(secs(20))
        conn.event(re_.delta("two", "stop"))
        conn.event("[DONE]")
        conn.send("0\r\n\r\n")

    engine.script(slow_stream)
    with f.client() as c, f.client() as idle:
        idle.request("GET", "/health")
        assert idle.read_answer().status == 200
        c.request("POST", PATH, chat("raw", "drain", stream=True))
        assert c.read_head().status == 200
        assert b"one" in c.read_chunk()
        f.workers[0].signal(signal.SIGTERM)
        wait_until("the listener is gone", 5, lambda: _refused(f.port))
        assert idle.is_closed(), "an idle connection holds the drain up"
        assert f.workers[0].is_alive(), "it did not wait for the stream"
        go.set()
        rest = b"".join(iter(c.read_chunk, None))
        assert b"two" in rest and b"[DONE]" in rest
    assert f.workers[0].wait_end(5) == 0
    f.workers[0].restart()


def test_drain_is_bounded(raw_fleet_of_two):
    f, engine = raw_fleet_of_two
    engine.script(re_.token_then_hang)
    with f.client() as c:
        c.request("POST", PATH, chat("raw", "drain", stream=True))
        c.read_head()
        f.workers[0].signal(signal.SIGTERM)
        assert f.workers[0].wait_end(8) == 0
    f.workers[0].restart()


@pytest.fixture
def raw_fleet_of_two():
    with RawEngine("raw") as engine:
        with Fleet(engines=[engine], workers=1, with_mailbox=False,
                   gateway={"drain_timeout_ms": int(secs(3) * 1000)}) as f:
            yield f, engine
            engine.drop()


def _refused(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) != 0


# ---- reload ----

@pytest.mark.asan_ok
def test_sighup_brings_a_new_engine_in_and_an_old_one_out():
    with RawEngine("one") as one, RawEngine("two") as two:
        with Fleet(engines=[one], workers=1, with_mailbox=False) as f:
            assert f.chat().header("x-slipstream-engine") == "one"
            f.settings["engines"].append({"id": "two", "url": two.url, "models": ["raw"]})
            f.write_config()
            f.scheduler.signal(signal.SIGHUP)
            f.workers[0].signal(signal.SIGHUP)
            f.wait_engines(["one", "two"])
            wait_until("both engines serve", 5,
                       lambda: len({f.chat().header("x-slipstream-engine") for _ in range(6)}) == 2)
            del f.settings["engines"][0]
            f.write_config()
            f.scheduler.signal(signal.SIGHUP)
            f.wait_engines(["two"])
            wait_until("only the new one serves", 5,
                       lambda: {f.chat().header("x-slipstream-engine") for _ in range(6)} == {"two"})


def test_sighup_with_a_bad_file_changes_nothing():
    with Fleet(engines=1, workers=1) as f:
        good = f.config.read_text()
        f.config.write_text(good + "\nnonsense:\n  a: 1\n")
        for p in (f.scheduler, f.mailbox, f.workers[0]):
            p.signal(signal.SIGHUP)
            wait_until(f"{p.name} complains", 5, lambda p=p: "nonsense" in p.log())
        assert f.chat().status == 200
        f.config.write_text(good)


# ---- bad starts ----

PROGRAMS = ("slipstream-gateway", "slipstream-scheduler", "slipstream-mailbox")


@pytest.fixture(scope="module")
def unstarted():
    with Fleet(engines=0, workers=0, with_scheduler=False, with_mailbox=False) as f:
        yield f


def run_with(fleet, program, text, *args):
    path = fleet.dir / f"bad-{os.urandom(4).hex()}.yaml"
    path.write_text(text)
    fleet_config, fleet.config = fleet.config, path
    try:
        p = fleet.process(program, *args, log=f"bad-{os.urandom(4).hex()}").start()
    finally:
        fleet.config = fleet_config
    return p.wait_end(5), p.log()


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("text,line,word", [
    ("scheduler:\n  polcy: least\n", 2, "policy"), ("common:\n  log_level: info\n  time_scale: fast\n", 3, "time_scale"),
    ("gateway:\n  max_requests: 0\n", 2, "max_requests"), ("gatewy:\n  listen: [127.0.0.1:1]\n", 1, "gateway"),
    ("common:\n  log_level: [", 2, ""), ("engines:\n  - id: a\n    url: ftp://x\n", 3, "url"),
    ("engines:\n  - id: a\n    url: http://127.0.0.1:1\n  - id: a\n    url: http://127.0.0.1:2\n", None, "a"),
    ("mailbox:\n  ttl_ms: 5 parsecs\n", 2, "ttl_ms"), ("common:\n  channel: pigeon\n", 2, "channel"),
    ("common:\n  run_dir: /tmp\n  run_dir: /tmp\n", 3, "run_dir"), ("scheduler:\n  policy: astrology\n", 2, "policy"),
    ("scheduler:\n  default_policy: 'workflow:tax=.1'\n", 2, "default_policy"),
    ("gateway:\n  listen: [127.0.0.1:1]\n  admin_listen: [127.0.0.1:1]\n", 3, "admin_listen")])
def test_bad_configuration_is_78_with_its_line(unstarted, program, text, line, word):
    code, log = run_with(unstarted, program, text)
    assert code == 78, (code, log)
    if line is not None:
        assert f".yaml:{line}:" in log, log
    assert word in log, log


@pytest.mark.parametrize("program", PROGRAMS)
def test_check_only_checks(unstarted, program):
    code, log = run_with(unstarted, program, unstarted.config.read_text(), "--check")
    assert code == 0 and "ok" in log, (code, log)
    code, log = run_with(unstarted, program, "nonsense: 1\n", "--check")
    assert code == 78, (code, log)
    code, log = run_with(unstarted, program, "", "--no-such-option")
    assert code == 64, (code, log)


def test_missing_configuration_is_named(unstarted):
    p = unstarted.process("slipstream-scheduler", log="missing")
    p.argv[p.argv.index("--config") + 1] = "/nonexistent/slipstream.yaml"
    assert p.start().wait_end(5) == 78
    assert "/nonexistent/slipstream.yaml" in p.log()


@pytest.mark.asan_ok
def test_port_in_use_is_said_clearly():
    with Fleet(engines=0, workers=0, with_scheduler=False, with_mailbox=False) as f:
        with socket.socket() as s:
            s.bind(("127.0.0.1", f.port))
            s.listen()
            p = f.worker(1).start()
            code = p.wait_end(5)
        assert code > 0, code
        assert str(f.port) in p.log(), p.log()


def test_run_dir_that_cannot_be_written_is_said_clearly(unstarted):
    for program in PROGRAMS:
        code, log = run_with(unstarted, program, "common:\n  run_dir: /proc/nowhere\n")
        assert code > 0 and "/proc/nowhere" in log, (program, code, log)


# ---- rubbish in shared memory ----

def segments(fleet):
    return [fleet.run_dir / "fleet", fleet.run_dir / "metrics" / "scheduler", fleet.run_dir / "metrics" / "gateway-1"]


@pytest.mark.asan_ok
@pytest.mark.parametrize("rubbish", ["empty", "short", "random", "zeros"])
def test_rubbish_found_at_the_start_is_replaced(rubbish):
    data = {"empty": b"", "short": b"slip", "random": os.urandom(1 << 20), "zeros": bytes(16 << 20)}[rubbish]
    f = Fleet(engines=1, workers=1, with_mailbox=False)
    (f.run_dir / "metrics").mkdir()
    (f.run_dir / "sock").mkdir()
    for path in segments(f):
        path.write_bytes(data)
    (f.run_dir / "metrics" / "stranger").write_bytes(data)
    with f:
        assert f.chat(headers=wf("rubbish")).status == 200
        assert f.metrics().sum("slipstream_gateway_requests_total", status="200") >= 1


def rewrite(path, change):
    """Another file takes the name, as a wrong process would do it; nobody's mapping is touched."""
    data = bytearray(path.read_bytes())
    change(data)
    other = path.with_name(path.name + ".new")
    other.write_bytes(data)
    os.rename(other, path)


CHANGES = {
    "magic": lambda d: d.__setitem__(slice(0, 8), b"notslip!"),
    "kind": lambda d: d.__setitem__(slice(8, 12), b"\xff\0\0\0"),
    "layout": lambda d: d.__setitem__(slice(12, 16), b"\x63\0\0\0"),
    "size": lambda d: d.__setitem__(slice(16, 24), (1 << 50).to_bytes(8, "little")),
    "boot id": lambda d: d.__setitem__(slice(40, 80), b"another boot".ljust(40, b"\0")),
    "truncated": lambda d: d.__delitem__(slice(4096, None)),
    "random behind the head": lambda d: d.__setitem__(slice(128, None), os.urandom(len(d) - 128)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_rubbish_under_a_running_fleet_hurts_nobody(change):
    with Fleet(engines=1, workers=1, with_mailbox=False) as f:
        assert f.chat(headers=wf("rubbish")).status == 200
        for path in segments(f):
            rewrite(path, CHANGES[change])
        # A segment with the right head and random rows is believed until the scheduler starts anew: then no
        # engine may seem alive, but nobody dies of it.
        fine = (200, 503) if change == "random behind the head" else (200,)
        for _ in range(3):
            assert f.chat(headers=wf("rubbish")).status in fine
        assert get(f.admin_port, "/metrics").status == 200
        f.scheduler.kill9()
        f.scheduler.restart()
        wait_until("the worker has found the new scheduler", 10, lambda: get(f.admin_port, "/ready").status == 200)
        assert f.chat(headers=wf("rubbish")).status == 200
        f.workers[0].kill9()
        f.workers[0].restart()
        assert f.chat(headers=wf("rubbish")).status == 200


@pytest.mark.asan_ok
@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_lost_segment_does_not_tie_a_worker_to_a_dead_scheduler(how):
    with Fleet(engines=2, workers=1, with_mailbox=False) as f:
        assert f.chat(headers=wf("lost")).status == 200
        if how == "removed":
            (f.run_dir / "fleet").unlink()
        else:
            rewrite(f.run_dir / "fleet", CHANGES["random behind the head"])
        f.scheduler.kill9()
        f.scheduler.restart()
        f.engines[0].kill9()
        f.wait_engines(["e2"])
        f.engines[0].restart()
        f.wait_engines(["e1", "e2"])
        for i in range(8):
            assert f.chat(headers=wf(f"lost-{i}")).status == 200


# ---- days that only builds with faults armed can have ----

def armed():
    from support.fleet import BUILD
    return any(word in BUILD.name for word in ("asan", "debug"))


@pytest.mark.channel
@pytest.mark.asan_ok
@pytest.mark.skipif(not armed(), reason="faults are compiled out of this build")
@pytest.mark.parametrize("who,fault", [("scheduler", "publish_dies=1"), ("scheduler", "rpc_answer_lost=3"),
                                       ("scheduler", "query_late=2"), ("gateway", "rpc_send_fails=3"),
                                       ("gateway", "ring_full=5"), ("gateway", "engine_write_fails=2")])
def test_armed_fault_costs_no_answer(channel, who, fault):
    f = Fleet(engines=2, workers=1, channel=channel, with_mailbox=False)
    victim = f.scheduler if who == "scheduler" else f.workers[0]
    victim.env["SLIPSTREAM_FAULTS"] = "" if fault == "publish_dies=1" else fault
    with f:
        if fault == "publish_dies=1":
            victim.kill9()
            victim.env["SLIPSTREAM_FAULTS"] = fault
            victim.start()
            victim.wait_end(10)
            victim.env["SLIPSTREAM_FAULTS"] = ""
            victim.restart()
        seen = [f.chat(f"{i}", wf(f"armed-{i % 3}")).status for i in range(12)]
        assert set(seen) <= {200, 502, 503, 504} and seen.count(200) >= 8, seen
        assert f.chat().status == 200
        f.wait_no_lease(10)


@pytest.mark.slow
@pytest.mark.channel
def test_scheduler_killed_ten_times_under_load(fleet):
    with Load(fleet, threads=4) as load:
        for _ in range(10):
            load.wait_more(10)
            fleet.scheduler.kill9()
            load.wait_more(10)
            fleet.scheduler.restart()
    assert load.errors == []
    assert {a[0] for a in load.answers} == {200}
    fleet.wait_no_lease()


def test_connection_storm_is_served():
    """Many more connections than requests; then one more that works."""
    with Fleet(engines=1, workers=1, with_mailbox=False, gateway={"max_connections": 64}) as f:
        crowd = []
        try:
            for _ in range(100):
                crowd.append(RawClient(f.port))
        except OSError:
            pass
        for c in crowd:
            c.close()

        def served():
            try:
                return f.chat().status == 200
            except (OSError, Broken):
                return False

        wait_until("a chat is served", 5, served)
