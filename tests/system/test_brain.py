# SPDX-License-Identifier: Apache-2.0
"""
The default policy with real processes: engines whose KV events tell what they hold, agents that share prompts, and
engines and schedulers that die on the way. Whatever happens, calls end, books are empty afterwards, and who lost its
engine gets another one.
"""
import json
import re
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import rawhttp
from support.fleet import Fleet, _env, binary, slipctl, slipctl_run
from support.wait import secs, wait_until

pytestmark = [pytest.mark.asan_ok, pytest.mark.channel, pytest.mark.timeout(400)]

SEED = 7
KV_TOKENS = 24000
TIME_SCALE = 10
GATE_WAIT_S = 300  # model seconds
TEXT = "word " * 2400  # 3000 tokens
VIEWS = ["workflow", "workflow:view=approx"]


class Brain(Fleet):
    """Simulated engines with little KV, whose content the scheduler hears of."""

    def __init__(self, channel="auto", engines=3, policy="workflow", time_scale=TIME_SCALE, kv_tokens=KV_TOKENS, workers=2,
                 scheduler=None, **more):
        super().__init__(
            engines=engines, workers=workers, channel=channel, engine={
                "profile": "70b", "time_scale": time_scale, "extra": ["--cache-tokens", kv_tokens, "--priority", "--kv-content", SEED]},
            scheduler={"policy": policy, "digest_seed": SEED, "gate_wait_ms": GATE_WAIT_S * 1000, "scrape_interval_ms": 200,
                       "explain_decisions": 5000, **(scheduler or {})}, **more)
        for e, conf in zip(self.engines, self.settings["engines"]):
            events, replay = f"ipc://{self.dir}/{e.id}.kv", f"ipc://{self.dir}/{e.id}.replay"
            e.argv += ["--kv-events", events, "--kv-replay", replay]
            conf.update(priority=True, kv_tokens=kv_tokens, kv_content=True, kv_events=events, kv_replay=replay)
        self.log_file = self.dir / "access"
        self.settings["gateway"]["access_log"] = str(self.log_file)
        self.write_config()

    def start(self):
        super().start()
        self.wait_told()

    def wait_told(self, engines=None):
        """Until the content of these engines is known."""
        for e in engines or self.engines:
            self.wait_engine(e, "kv_known", 2)

    def engine_metric(self, engine, what):
        return self.metrics().sum(f"slipstream_engine_{what}", engine=engine.id)

    def wait_engine(self, engine, what, value, seconds=10):
        wait_until(f"{what} of {engine.id} is {value}", seconds, lambda: self.engine_metric(engine, what) == value, 0.03)

    def scheduler_status(self):
        return slipctl(self, "status", "--json")["scheduler"]

    def homes(self, all_of=""):
        """Home engine by workflow, of those whose name begins so."""
        found, cursor = {}, ""
        while True:
            a = self.get(f"/v1/workflows?limit=200{cursor}").json()
            found.update({w["workflow_id"]: w["assigned_instance"] for w in a["workflows"] if w["workflow_id"].startswith(all_of)})
            if not a.get("next_cursor"):
                return found
            cursor = f"&cursor={a['next_cursor']}"

    def kill_engine(self, engine):
        engine.kill9()
        self.wait_engines([e.id for e in self.engines if e.is_alive()])

    def return_engine(self, engine):
        engine.restart()
        self.wait_engines([e.id for e in self.engines if e.is_alive()])
        self.wait_told([engine])

    def restart_scheduler(self):
        before = self.links()
        self.scheduler.kill9()
        self.scheduler.restart()
        self.wait_relinked(before)

    def say(self, workflow, text=TEXT, agent="a", headers=(), **more):
        return self.chat(text, [("X-Workflow-ID", workflow), ("X-Agent-ID", agent), *headers], timeout=60, **more)

    def say_and_settle(self, workflow):
        """Returns when the scheduler knows that the call has ended and that its engine holds the prompt."""
        a = self.say(workflow)
        engine = next(e for e in self.engines if e.id == a.header("x-slipstream-engine"))
        self.wait_no_lease()
        wait_until(f"{engine.id} is known to hold the prompt", 10, lambda: self.engine_metric(engine, "kv_resident_tokens") > 2000, 0.03)
        return a

    def explained(self, *args):
        return slipctl(self, "explain", "--json", *args)["decisions"]

    def check_books(self):
        """Nobody in flight, nobody at the door, and nothing claimed once every workflow has ended."""
        self.wait_no_lease(10)
        wait_until("nobody waits", 10, lambda: self.scheduler_status()["waiting"] == 0)
        for w in self.homes():
            assert self.fetch("DELETE", f"/v1/workflows/{w}").status in (200, 204, 404)
        for e in self.engines:
            self.wait_engine(e, "claimed_tokens", 0)
            self.wait_engine(e, "queue_seconds", 0)
            self.wait_engine(e, "running", 0)
        for what in ("leases", "waiting", "workflows"):
            self.wait_metric(f"slipstream_scheduler_{what}", 0, seconds=20)
        assert self.metrics().sum("slipstream_gateway_broken_total") == 0


def receipt(a):
    return dict(part.split("=", 1) for part in a.header("x-slipstream-decision").split("; "))


def cached(a):
    return a.json()["usage"]["prompt_tokens_details"]["cached_tokens"]


# ---- the whole of it ----

def agents_trace(path, workflows=24, siblings=3, steps=3):
    """Supervisors with sub-agents that share a brief: [workflow, agent, t, deps, gap, in, out, ref, shared]."""
    rows, first = [], None
    for w in range(workflows):
        def call(agent, deps, tokens, ref, shared, gap=0.2, w=w):
            rows.append([w, w * 10 + agent, 0, deps, gap, tokens, 24, -1 if ref is None else ref, shared // 16])
            return len(rows) - 1

        plan = call(0, [], 2400, first, 800)
        first = plan if first is None else first
        ends, brief = [], None
        for s in range(siblings):
            last = call(1 + s, [plan], 2000, plan if brief is None else brief, 800 if brief is None else 1600)
            brief = last if brief is None else brief
            for _ in range(steps - 1):
                size = rows[last][5] + rows[last][6]
                last = call(1 + s, [last], size + 400, last, size)
            ends.append(last)
        call(0, ends, 3200, plan, 2416)
    lines = [{"trace": "agents", "block": 16, "mode": "closed"}, *rows]
    path.write_text("".join(json.dumps(x) + "\n" for x in lines))
    return len(rows)


class Replay:
    """slipstream-replay under way."""

    def __init__(self, fleet, trace, users=8, tag="live"):
        self.out = fleet.dir / f"{tag}.json"
        self.popen = subprocess.Popen(
            [str(binary("slipstream-replay")), "--url", fleet.base_url.removesuffix("/v1"), "--trace", str(trace), "--users", str(users),
             "--time-scale", str(TIME_SCALE), "--tag", tag, "--final", "--stagger", "0.2", "--json", str(self.out)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=_env())

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.communicate()

    def end(self):
        """Report, and what it said of failed calls."""
        _, err = self.popen.communicate(timeout=secs(240))
        assert self.popen.returncode in (0, 1), err
        return json.loads(self.out.read_text()), [x for x in err.splitlines() if " failed: " in x]


def access(fleet):
    rows = []
    for line in fleet.log_file.read_text().splitlines():
        row = dict(re.findall(r'(\w+)=("[^"]*"|\S+)', line))
        if row["path"].strip('"') == "/v1/chat/completions":
            rows.append({k: v.strip('"') for k, v in row.items()})
    return rows


@pytest.mark.parametrize("policy", VIEWS)
def test_agents_go_on_while_engines_and_the_scheduler_die(channel, policy, tmp_path):
    calls = agents_trace(tmp_path / "trace")
    # A workflow that ends while nobody schedules is known to the next scheduler until it expires.
    with Brain(channel, policy=policy, scheduler={"workflow_ttl_ms": 60000}) as f:
        def answered():  # its first tokens: looking here is an answered request, too
            return f.metrics().sum("slipstream_gateway_ttft_seconds_count")

        def wait_answered(share):
            wait_until(f"{share} of the calls are answered", 90, lambda: answered() >= share * calls, 0.05)

        def wait_at_work():
            return wait_until("one is at work", 20, lambda: next((e for e in f.engines if f.engine_metric(e, "running") > 0), None))

        with Replay(f, tmp_path / "trace") as replay:
            wait_answered(0.1)
            victim = wait_at_work()
            f.kill_engine(victim)
            assert victim.id not in f.homes().values(), "a dead engine is somebody's home"
            wait_answered(0.2)
            f.return_engine(victim)
            before = f.engine_metric(victim, "requests_total")
            wait_until("the engine that returned is used", 60, lambda: f.engine_metric(victim, "requests_total") > before)
            wait_answered(0.25)
            f.restart_scheduler()
            wait_answered(0.35)
            victim = wait_at_work()
            f.kill_engine(victim)
            f.return_engine(victim)
            report, failed = replay.end()
        assert report["calls"] == calls
        assert len(failed) == min(report["errors"], 10), "it shows the first ten"
        strange = [x for x in failed if "error in the stream" not in x]
        assert not strange, "calls failed that another engine could have had: nothing of an answer had come"
        assert report["errors"] < calls / 5
        f.check_books()
        wait_until("every call has its line", 10, lambda: len(access(f)) >= calls, 0.1)
        rows = access(f)
        assert len(rows) == calls
        assert {r["status"] for r in rows} == {"200"}
        assert {r["end"] for r in rows} <= {"ok", "engine_answer_truncated"}
        assert max(int(r["waited_ms"]) for r in rows) <= GATE_WAIT_S * 1000
        assert {r["policy"] for r in rows} <= {"workflow", "alone"}
        # alone: placed while the scheduler was away, which takes longer the busier this machine is
        assert sum(r["policy"] == "workflow" for r in rows) > 0.5 * calls
        assert {r["engine"] for r in rows} == {e.id for e in f.engines}


# ---- an engine that dies ----

def home_all(f, names):
    """A first call of each; returns the homes."""
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: f.say(n, n + TEXT), names))
    assert {a.status for a in answers} == {200}
    f.wait_no_lease()
    return f.homes()


@pytest.mark.parametrize("policy", VIEWS)
def test_siblings_of_a_dead_engine_find_one_new_home(channel, policy):
    names = [f"w{i}" for i in range(6)]
    with Brain(channel, policy=policy, kv_tokens=200000) as f:
        homes = home_all(f, names)
        victim = next(e for e in f.engines if e.id == homes["w0"])
        f.kill_engine(victim)
        lost = [n for n in names if homes[n] == victim.id]
        stayed = {n: e for n, e in homes.items() if e != victim.id}
        with ThreadPoolExecutor(16) as pool:
            jobs = {(n, s): pool.submit(f.say, n, f"{n}{TEXT} and {s}", f"agent-{s}") for n in names for s in range(4)}
            answers = {k: j.result() for k, j in jobs.items()}
        assert {a.status for a in answers.values()} == {200}
        found = f.homes()
        for n in names:
            # An engine that takes in the homeless may have too much for a moment: what it gives away says so.
            where = {answers[n, s].header("x-slipstream-engine") for s in range(4)
                     if receipt(answers[n, s])["reason"] != "overload"}
            assert where <= {found[n]}, (n, where, found)
            assert found[n] != victim.id and (n in lost or found[n] == stayed[n])
        assert sum(receipt(a)["reason"] == "overload" for a in answers.values()) < len(answers) / 2
        assert all("rehomed" in {receipt(answers[n, s])["reason"] for s in range(4)} for n in lost)
        f.check_books()


@pytest.mark.parametrize("policy", VIEWS)
def test_engine_that_returns_is_known_to_be_empty(channel, policy):
    with Brain(channel, policy=policy, engines=2, kv_tokens=200000) as f:
        first = f.say_and_settle("w")
        again = f.say_and_settle("w")
        victim = next(e for e in f.engines if e.id == first.header("x-slipstream-engine"))
        assert again.header("x-slipstream-engine") == victim.id
        assert float(receipt(again)["hit"]) > 0.9 and cached(again) > 0
        f.kill_engine(victim)
        moved = f.say_and_settle("w")
        assert moved.header("x-slipstream-engine") != victim.id
        assert float(receipt(moved)["hit"]) < 0.1 and cached(moved) == 0
        f.return_engine(victim)
        # Its old workflows do not come back for nothing, and what is sent there is not thought to be cached.
        assert f.say_and_settle("w").header("x-slipstream-engine") == moved.header("x-slipstream-engine")
        f.kill_engine(next(e for e in f.engines if e is not victim))
        back = f.say_and_settle("w")
        assert back.header("x-slipstream-engine") == victim.id
        assert float(receipt(back)["hit"]) < 0.1 and cached(back) == 0
        f.return_engine(next(e for e in f.engines if e is not victim))
        f.check_books()


def test_predicted_hits_are_what_engines_report(channel):
    """Exact content: no more is predicted than was there, whatever was evicted meanwhile."""
    with Brain(channel, engines=2, kv_tokens=12000) as f:
        for turn in range(3):
            for i in range(8):
                a = f.say(f"w{i}", f"{i}" + TEXT, headers=[("X-Workflow-Final", "true")] if turn == 2 else [])
                assert a.status == 200
                usage = a.json()["usage"]
                share = usage["prompt_tokens_details"]["cached_tokens"] / usage["prompt_tokens"]
                assert float(receipt(a)["hit"]) <= share + 0.06, (turn, i, receipt(a), usage)
                f.wait_no_lease()
        f.check_books()


# ---- the door ----

class Door:
    """One engine with room for one workflow, and a workflow that streams there until finish()."""

    def __init__(self, channel, **more):
        self.fleet = Brain(channel, engines=1, policy="workflow:gate=1:tax=0", kv_tokens=6000, workers=1, time_scale=1, **more)
        self.pool = ThreadPoolExecutor(16)
        self.order, self.lock = [], threading.Lock()

    def __enter__(self):
        self.fleet.__enter__()
        self.owner = self.fleet.client(timeout=60)
        self.owner.request("POST", "/v1/chat/completions", rawhttp.chat(
            "sim", "o" + TEXT, stream=True, max_tokens=2000, ignore_eos=True), [("X-Workflow-ID", "owner")])
        assert self.owner.read_head().status == 200
        return self

    def __exit__(self, kind, *exc):
        self.owner.close()
        self.pool.shutdown(wait=kind is None)
        self.fleet.__exit__(kind, *exc)

    def ask(self, workflow, *headers):
        """A call that ends its workflow; order has the names as they are answered."""
        def run():
            a = self.fleet.say(workflow, workflow + TEXT, headers=[("X-Workflow-Final", "true"), *headers])
            with self.lock:
                self.order.append(workflow)
            return a

        waiting = self.waiting()
        job = self.pool.submit(run)
        wait_until(f"{workflow} waits", 10, lambda: self.waiting() == waiting + 1)
        return job

    def waiting(self):
        return self.fleet.scheduler_status()["waiting"]

    def finish(self):
        """The owner leaves and its workflow ends: there is room."""
        self.owner.close()
        self.fleet.wait_no_lease()
        assert self.fleet.fetch("DELETE", "/v1/workflows/owner").status in (200, 204)


def test_interactive_goes_before_batch_at_the_door(channel):
    with Door(channel) as d:
        jobs = [d.ask("b1", ("X-Workflow-Priority", "batch")), d.ask("b2", ("X-Workflow-Priority", "batch")),
                d.ask("d1"), d.ask("i1", ("X-Workflow-Priority", "interactive"))]
        d.finish()
        assert [j.result().status for j in jobs] == [200] * 4
        assert d.order.index("i1") < d.order.index("d1") < d.order.index("b2"), d.order
        d.fleet.check_books()


def test_oldest_workflow_goes_first_at_the_door(channel):
    with Door(channel) as d:
        names = [f"w{i}" for i in range(4)]
        jobs = [d.ask(n) for n in names]
        d.finish()
        assert [j.result().status for j in jobs] == [200] * 4
        assert d.order == names
        d.fleet.check_books()


def test_explain_shows_why_a_request_waits_and_what_engines_would_cost(channel):
    with Door(channel) as d:
        job = d.ask("w")
        x, = d.fleet.explained("--workflow", "w")
        assert (x["kind"], x["wait_reason"], x["policy"]) == ("wait", "door", "workflow")
        assert [c["engine"] for c in x["candidates"]] == ["e1"] and x["candidates"][0]["cost"] > 0
        d.finish()
        assert job.result().status == 200
        x, = d.fleet.explained(job.result().header("x-request-id"))
        assert (x["kind"], x["wait_reason"], x["engine"]) == ("go", "door", "e1")
        assert x["waited_ms"] > 0 and [c["engine"] for c in x["candidates"]] == ["e1"]
        assert x["candidates"][0]["cost"] > 0
        assert "because: door" in slipctl_run(d.fleet, "explain", "--workflow", "w").stdout
        d.fleet.check_books()


def test_every_engine_has_its_cost_in_the_explanation(channel):
    with Brain(channel, kv_tokens=200000) as f:
        f.say("w")
        f.wait_no_lease()
        a = f.say("w")
        x, = f.explained(a.header("x-request-id"))
        costs = {c["engine"]: c["cost"] for c in x["candidates"]}
        assert sorted(costs) == ["e1", "e2", "e3"]
        assert x["engine"] == min(costs, key=costs.get) and costs[x["engine"]] < max(costs.values())
        tokens = {c["engine"]: c["cached_tokens"] for c in x["candidates"]}
        assert tokens[x["engine"]] > 2000 and sum(v == 0 for v in tokens.values()) == 2
        f.check_books()


def test_tenants_with_equal_names_have_workflows_of_their_own(channel, tmp_path):
    keys = []
    for t in ("acme", "globex"):
        (tmp_path / t).write_text(f"key-of-{t}\n")
        keys.append({"file": str(tmp_path / t), "tenant": t})
    with Brain(channel, kv_tokens=200000, sections={"keys": keys}) as f:
        auth = {t: [("Authorization", f"Bearer key-of-{t}")] for t in ("acme", "globex")}
        with ThreadPoolExecutor(8) as pool:
            jobs = [pool.submit(f.say, "same", t + TEXT, headers=auth[t]) for t in auth for _ in range(4)]
            assert {j.result().status for j in jobs} == {200}
        f.wait_no_lease()
        for t in auth:
            s = f.get("/v1/workflows/same/status", headers=auth[t]).json()
            assert s["total_requests"] == 4
            assert {d["tenant"] for d in f.explained("--tenant", t)} == {t}
            assert f.fetch("DELETE", "/v1/workflows/same", headers=auth[t]).status in (200, 204)
        for e in f.engines:
            f.wait_engine(e, "claimed_tokens", 0)


# ---- groups and drains ----

def test_siblings_of_a_group_are_released_together(channel):
    with Brain(channel, kv_tokens=200000, scheduler={"group_wait_ms": 60000}) as f:
        def sibling(i):
            return f.post("/v1/chat/completions", rawhttp.chat(
                "sim", f"{TEXT} and {i}", max_tokens=4,
                workflow_metadata={"workflow_id": "w", "agent_id": f"a{i}", "group_id": "g", "group_size": 3}), timeout=60)

        with ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(sibling, i) for i in range(2)]
            wait_until("two siblings wait", 10, lambda: f.scheduler_status()["waiting"] == 2)
            assert {d["wait_reason"] for d in f.explained("--workflow", "w")} == {"group"}
            assert f.metrics().sum("slipstream_scheduler_leases") == 0 and not any(j.done() for j in jobs)
            jobs.append(pool.submit(sibling, 2))
            answers = [j.result() for j in jobs]
        assert [a.status for a in answers] == [200] * 3
        assert len({a.header("x-slipstream-engine") for a in answers}) == 1
        f.check_books()


def test_draining_engine_gets_no_workflow(channel):
    with Brain(channel, kv_tokens=200000) as f:
        f.settings["engines"][0]["drain"] = True
        f.write_config()
        f.scheduler.signal(signal.SIGHUP)
        wait_until("e1 drains", 10, lambda: next(
            e for e in slipctl(f, "engines", "--json")["engines"] if e["id"] == "e1")["draining"])
        homes = home_all(f, [f"w{i}" for i in range(8)])
        assert set(homes.values()) == {"e2", "e3"}, homes
        assert f.engine_metric(f.engines[0], "requests_total") == 0
        f.settings["engines"][0]["drain"] = False
        f.write_config()
        f.scheduler.signal(signal.SIGHUP)
        wait_until("e1 is used again", 20, lambda: f.say(
            f"x{f.scheduler_status()['decisions']}", f"{f.scheduler_status()['decisions']}" + TEXT).header("x-slipstream-engine") == "e1")
        f.check_books()


# ---- the gate ----

def test_gate_opens_when_nobody_is_there(channel):
    """Closed by a policy with a fixed gate, it goes up by a tenth every ten model seconds, and lets everybody in."""
    with Brain(channel, policy="workflow:gate=1", time_scale=1000) as f:
        home_all(f, [f"w{i}" for i in range(4)])
        assert f.scheduler_status()["gate"] == 1
        slipctl(f, "policy", "workflow", "--json")
        f.say("more")
        wait_until("the gate has opened", 60, lambda: f.scheduler_status()["gate"] is None, 0.1)
        assert int(receipt(f.say("late"))["waited_ms"]) == 0
        f.check_books()
