# SPDX-License-Identifier: Apache-2.0
"""
Requests that the scheduler has wait: their grant, their deadline, and everybody who may leave or die meanwhile.

One engine whose KV cache is a thousand tokens. A workflow with a request in flight has claimed it, so the next
one stands at the door until that request is done; nothing else opens it.
"""
import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import rawhttp
from support.fleet import Fleet, slipctl, slipctl_run
from support.raw_engine import RawEngine, ok_json, ok_stream
from support.wait import wait_until

pytestmark = [pytest.mark.asan_ok, pytest.mark.channel]

POLICY = "workflow:gate=1:tax=0"
TEXT = "word " * 720  # 900 tokens


class Stage:
    """The owner's request holds the engine until done() lets it end; others wait."""

    def __init__(self, channel, gateway=None, **scheduler):
        self.engine = RawEngine("e")
        self.released = threading.Event()
        self.fleet = Fleet(engines=[self.engine], channel=channel, gateway=gateway, engine_conf={"kv_tokens": 1000}, scheduler={"policy": POLICY, **scheduler})
        self.pool = ThreadPoolExecutor(8)

    def __enter__(self):
        self.fleet.__enter__()
        self.owner = self.ask("owner", final=True, step=self._hold)
        self.engine.wait_request(1)
        return self

    def __exit__(self, kind, *exc):
        self.released.set()
        self.pool.shutdown(wait=kind is None)
        self.fleet.__exit__(kind, *exc)
        self.engine.close()

    def _hold(self, conn, request):
        conn.read_body(request)
        self.released.wait(60)
        conn.json_answer({"object": "chat.completion", "choices": []})

    def ask(self, workflow, final=False, step=None, headers=(), **more):
        """A future of the answer. The engine answers it at once unless step says otherwise."""
        if step is not None:
            self.engine.script(step)
        return self.pool.submit(self.fleet.chat, workflow[:1] + TEXT, [
            ("X-Workflow-ID", workflow), ("X-Agent-ID", "a"), ("X-Workflow-Final", str(final).lower()), *headers], timeout=40,
            **more)

    def done(self):
        self.released.set()
        assert self.owner.result().status == 200

    def waiting(self):
        """By the books; -1 when the scheduler cannot be asked."""
        r = slipctl_run(self.fleet, "status", "--json")
        s = json.loads(r.stdout)["scheduler"]
        return s["waiting"] if s else -1

    def wait_waiting(self, n):
        wait_until(f"{n} requests wait", 10, lambda: self.waiting() == n)

    def quiet(self):
        """Nobody waits and nothing is held any more."""
        self.wait_waiting(0)
        self.fleet.wait_no_lease()


def receipt(a):
    return dict(part.split("=", 1) for part in a.header("x-slipstream-decision").split("; "))


@pytest.fixture(params=["nng", "shm"])
def channel(request):
    return request.param


@pytest.mark.parametrize("stream", [False, True])
def test_waiting_request_gets_its_grant(channel, stream):
    with Stage(channel) as s:
        b = s.ask("b", stream=stream)
        s.wait_waiting(1)
        d, = slipctl(s.fleet, "explain", "--workflow", "b", "--json")["decisions"]
        assert (d["kind"], d["wait_reason"]) == ("wait", "door")
        assert s.engine.count() == 1 and not b.done()
        s.engine.script(ok_stream if stream else ok_json)
        s.done()
        a = b.result()
        assert a.status == 200 and s.engine.count() == 2
        r = receipt(a)
        assert r["policy"] == "workflow" and r["engine"] == "e" and int(r["waited_ms"]) > 0
        d, = slipctl(s.fleet, "explain", "--workflow", "b", "--json")["decisions"]
        assert (d["kind"], d["wait_reason"], d["waited_ms"]) == ("go", "door", int(r["waited_ms"]))
        s.quiet()
        s.fleet.wait_metric("slipstream_scheduler_waits_total", 1, reason="door")
        m = s.fleet.metrics()
        assert m.sum("slipstream_scheduler_wait_seconds_count") == 1
        assert m.sum("slipstream_gateway_waits_total") == 1


def test_many_waiting_requests_get_one_grant_each(channel):
    with Stage(channel) as s:
        waiting = [s.ask(f"{i}", final=True) for i in range(6)]
        s.wait_waiting(6)
        s.done()
        assert [f.result().status for f in waiting] == [200] * 6
        assert s.engine.count() == 7
        s.quiet()


@pytest.mark.parametrize("path,kind", [("/v1/chat/completions", "openai"), ("/v1/messages", "anthropic")])
def test_deadline_of_a_wait_is_429_with_retry_after(channel, path, kind):
    with Stage(channel, gate_wait_ms=300) as s:
        a = s.ask("b", path=path, stream=True).result()
        assert a.status == 429
        assert int(a.header("retry-after")) >= 1 and int(a.header("retry-after-ms")) >= 1000
        assert a.header("x-should-retry") == "true"
        assert a.header("content-type") == "application/json"
        if kind == "openai":
            assert a.json()["error"]["code"] == "gate_wait"
        else:
            assert a.json()["error"]["type"] == "rate_limit_error"
        assert "waited_ms" in a.header("x-slipstream-decision")
        assert s.engine.count() == 1
        s.done()
        s.quiet()


def test_wait_ends_before_the_client_gives_up(channel):
    """The SDKs tell their time-out; 0.9 of it is what they are let wait."""
    with Stage(channel) as s:
        a = s.ask("b", headers=[("X-Stainless-Timeout", "0.5")]).result()
        assert a.status == 429 and a.json()["error"]["code"] == "gate_wait"
        s.done()
        s.quiet()


def test_retry_after_429_keeps_its_place(channel):
    with Stage(channel, gate_wait_ms=5000) as s:
        assert s.ask("b", headers=[("X-Stainless-Timeout", "0.5")]).result().status == 429
        again = s.ask("b")
        s.wait_waiting(1)
        s.done()
        a = again.result()
        assert a.status == 200
        assert int(receipt(a)["waited_ms"]) >= 450
        s.quiet()


def test_client_that_leaves_frees_its_place(channel):
    with Stage(channel) as s:
        with s.fleet.client() as c:
            c.request("POST", "/v1/chat/completions", rawhttp.chat("raw", TEXT), [("X-Workflow-ID", "b")])
            s.wait_waiting(1)
        s.wait_waiting(0)
        c = s.ask("c")
        s.wait_waiting(1)
        s.done()
        assert c.result().status == 200
        assert s.engine.count() == 2  # the one that left never ran
        s.quiet()


def test_waiting_keeps_its_place_over_a_new_scheduler(channel):
    with Stage(channel) as s:
        b = s.ask("b")
        s.wait_waiting(1)
        before = s.fleet.links()
        start = slipctl(s.fleet, "explain", "--workflow", "b", "--json")["decisions"][0]
        wait_until("it has waited for a while", 5, lambda: slipctl(
            s.fleet, "explain", "--workflow", "b", "--json")["decisions"][0]["waited_ms"] >= start["waited_ms"] + 300)
        s.fleet.scheduler.kill9()
        s.fleet.scheduler.restart()
        s.fleet.wait_relinked(before)
        s.done()
        a = b.result()
        assert a.status == 200
        r = receipt(a)
        assert r["policy"] == "workflow" and int(r["waited_ms"]) >= 300, r
        assert s.engine.count() == 2
        s.quiet()


def test_without_a_scheduler_a_waiting_request_goes_ahead_alone(channel):
    with Stage(channel, gateway={"placing_timeout_ms": 500}) as s:
        b = s.ask("b")
        s.wait_waiting(1)
        s.fleet.scheduler.kill9()
        a = b.result()
        assert a.status == 200 and receipt(a)["policy"] == "alone"
        assert int(receipt(a)["waited_ms"]) >= 500
        s.fleet.scheduler.restart()
        s.done()
        s.quiet()


def test_scheduler_that_stands_still_does_not_keep_a_request_for_ever(channel):
    """The worker's own timer is a second longer than the wait; what comes later is given back."""
    with Stage(channel, gate_wait_ms=500) as s:
        b = s.ask("b")
        s.wait_waiting(1)
        s.fleet.scheduler.signal(signal.SIGSTOP)
        a = b.result()
        s.fleet.scheduler.signal(signal.SIGCONT)
        assert a.status == 429 and a.json()["error"]["code"] == "gate_wait"
        s.done()
        s.quiet()


def test_dead_worker_leaves_nobody_waiting(channel):
    with Stage(channel) as s:
        b = s.ask("b")
        s.wait_waiting(1)
        s.fleet.workers[0].kill9()
        for f in (b, s.owner):
            with pytest.raises((OSError, rawhttp.Broken)):
                f.result()
        s.wait_waiting(0)
        s.fleet.workers[0].restart()
        s.fleet.wait_no_lease()


def test_nothing_waits_when_bodies_fill_the_memory(channel):
    small = {"max_body_bytes": 12000, "body_budget_bytes": 12000}
    with Stage(channel, gateway=small) as s:
        first = s.ask("b")
        s.wait_waiting(1)
        a = s.ask("c").result()
        assert a.status == 429 and a.json()["error"]["code"] == "body_budget"
        s.wait_waiting(1)
        s.done()
        assert first.result().status == 200
        s.quiet()


def test_status_of_a_workflow_says_that_it_waits(channel):
    with Stage(channel) as s:
        assert s.fleet.status("owner").json()["admission"] == "live"
        b = s.ask("b")
        s.wait_waiting(1)
        w = s.fleet.status("b").json()
        assert w["admission"] == "waiting"
        assert w["waits"]["now"] == 1 and w["waits"]["longest"] >= 0
        s.done()
        assert b.result().status == 200
        w = s.fleet.settled("b", 1)
        assert w["admission"] == "live"
        assert w["waits"]["count"] == 1 and w["waits"]["mean"] > 0 and w["waits"]["now"] == 0


def test_purged_workflow_does_not_wait_on(channel):
    with Stage(channel) as s:
        b = s.ask("b")
        s.wait_waiting(1)
        assert s.fleet.fetch("DELETE", "/v1/workflows/b?purge=true").status == 200
        assert b.result().status >= 400
        s.wait_waiting(0)
        s.done()
        s.quiet()


def test_policy_without_a_door_lets_everybody_in(channel):
    """Changing the policy at run time does not forget those who wait."""
    with Stage(channel) as s:
        b = s.ask("b")
        s.wait_waiting(1)
        slipctl(s.fleet, "policy", "least", "--json")
        assert b.result().status == 200
        s.done()
        s.quiet()
