# SPDX-License-Identifier: Apache-2.0
"""Why requests went where they went, and how operators change what decides it."""
import re
import signal

import pytest
from support.fleet import Fleet, slipctl, slipctl_run
from support.wait import wait_until


pytestmark = pytest.mark.asan_ok


@pytest.fixture(scope="module", params=["nng", "shm"])
def trio(request):
    with Fleet(engines=3, channel=request.param) as f:
        yield f


def explained(fleet, *args):
    return slipctl(fleet, "explain", "--json", *args)["decisions"]


def receipt(answer):
    return dict(part.split("=", 1) for part in answer.header("x-slipstream-decision").split("; "))


def test_decision_is_explained_by_request_and_by_workflow(trio):
    first = trio.chat("hello " * 200, [("X-Workflow-ID", "explained"), ("X-Agent-ID", "planner"),
                                      ("X-Workflow-Priority", "batch"), ("X-Parent-Request-ID", "p-1")])
    second = trio.chat("hello " * 200, [("X-Workflow-ID", "explained")])
    d, = explained(trio, first.header("x-request-id"))
    assert (d["kind"], d["workflow_id"], d["agent_id"]) == ("go", "explained", "planner")
    assert (d["priority"], d["parent_request_id"], d["route"]) == ("batch", "p-1", "/v1/chat/completions")
    r = receipt(first)
    assert (d["policy"], d["reason"], d["engine"]) == (r["policy"], r["reason"], r["engine"])
    assert sorted(c["engine"] for c in d["candidates"]) == ["e1", "e2", "e3"]
    both = explained(trio, "--workflow", "explained")
    assert [d["request_id"] for d in both] == [second.header("x-request-id"), first.header("x-request-id")]
    assert len(explained(trio, "--workflow", "explained", "--limit", "1")) == 1
    assert "went to" in slipctl_run(trio, "explain", first.header("x-request-id")).stdout


def test_unknown_request_is_not_explained(trio):
    r = slipctl_run(trio, "explain", "req-never-was")
    assert r.returncode == 1 and "no such decision" in r.stderr


def test_remembered_decisions_are_bounded():
    with Fleet(engines=1, scheduler={"explain_decisions": 3}) as f:
        ids = [f.chat(f"q {i}").header("x-request-id") for i in range(5)]
        assert [d["request_id"] for d in explained(f)] == ids[:1:-1]
    with Fleet(engines=1, scheduler={"explain_decisions": 0}) as f:
        assert f.chat("q").status == 200
        assert explained(f) == []


def test_strangers_see_their_own_decisions_only(tmp_path):
    key = tmp_path / "key"
    key.write_text("sesame\n")
    with Fleet(engines=1, sections={"keys": [{"file": str(key), "tenant": "acme"}]}) as f:
        a = f.chat("mine", [("Authorization", "Bearer sesame"), ("X-Workflow-ID", "w")])
        assert a.status == 200
        assert [d["tenant"] for d in explained(f, "--tenant", "acme")] == ["acme"]
        assert explained(f, "--tenant", "other") == []
        r = slipctl_run(f, "policy", "least", "--key-file", str(key))
        assert r.returncode == 1 and "permission_denied" in r.stderr, r
        assert explained(f, "--key-file", str(key))[0]["workflow_id"] == "w"


def test_policy_changes_at_run_time_until_the_next_reload():
    with Fleet(engines=2) as f:
        assert slipctl(f, "policy", "--json")["policy"] == "workflow"
        assert slipctl(f, "policy", "least", "--json")["policy"] == "least"
        a = f.chat("x", [("X-Workflow-ID", "w")])
        assert receipt(a)["policy"] == "least"
        assert slipctl(f, "policy", "--default", "roundrobin", "--json")["default_policy"] == "roundrobin"
        assert receipt(f.chat("x"))["policy"] == "roundrobin"
        f.scheduler.signal(signal.SIGHUP)
        wait_until("the settings are in force again", 5,
                   lambda: slipctl(f, "policy", "--json") == {"policy": "workflow", "default_policy": "least", "rules": []})
        assert receipt(f.chat("x", [("X-Workflow-ID", "w2")]))["policy"] == "workflow"


def test_models_and_routes_have_policies_of_their_own():
    rules = [{"route": "/v1/completions", "policy": "roundrobin"}, {"model": "sim", "policy": "least"}]
    with Fleet(engines=2, sections={"policies": rules}) as f:
        wf = [("X-Workflow-ID", "w")]
        assert receipt(f.chat("x", wf))["policy"] == "least"
        a = f.post("/v1/completions", {"model": "sim", "prompt": "x", "max_tokens": 2}, wf)
        assert receipt(a)["policy"] == "roundrobin"
        shown = slipctl(f, "policy", "--json")["rules"]
        assert shown == [{"model": "", "route": "/v1/completions", "policy": "roundrobin"},
                         {"model": "sim", "route": "", "policy": "least"}]
        slipctl(f, "policy", "--remove", "--model", "sim", "--json")
        assert receipt(f.chat("x", wf))["policy"] == "workflow"
        slipctl(f, "policy", "random", "--model", "sim", "--route", "/v1/chat/completions", "--json")
        assert receipt(f.chat("x", wf))["policy"] == "random"
        f.settings["policies"] = [{"model": "other", "policy": "least"}]
        f.write_config()
        f.scheduler.signal(signal.SIGHUP)
        wait_until("the new rules are in force", 5, lambda: len(slipctl(f, "policy", "--json")["rules"]) == 1)
        assert receipt(f.chat("x", wf))["policy"] == "workflow"


@pytest.mark.parametrize("args,words", [
    (["astrology"], "astrology"), (["workflow:stars=1"], "stars"), (["--default", "workflow:tax=.1"], "one set of options"),
    (["--remove", "--model", "m"], "not_found"), (["workflow:tax=.1", "--model", "m"], "one set of options")])
def test_bad_policy_is_refused_in_words(trio, args, words):
    before = slipctl(trio, "policy", "--json")
    r = slipctl_run(trio, "policy", *args)
    assert r.returncode == 1 and words in r.stderr, r
    assert slipctl(trio, "policy", "--json") == before


@pytest.mark.parametrize("args", [["--remove"], ["--model", "m"], ["--default"], ["a", "b"],
                                  ["--default", "least", "--model", "m"]])
def test_policy_arguments_that_make_no_sense_are_64(trio, args):
    assert slipctl_run(trio, "policy", *args).returncode == 64


def test_access_log_says_where_and_why(tmp_path):
    log = tmp_path / "access"
    with Fleet(engines=2, gateway={"access_log": str(log)}) as f:
        a = f.chat("x", [("X-Workflow-ID", "logged")])
        wait_until("the request is logged", 5, lambda: 'workflow="logged"' in log.read_text())
        line = next(x for x in log.read_text().splitlines() if 'workflow="logged"' in x)
        r = receipt(a)
        for field in (f"policy={r['policy']}", f"reason={r['reason']}", f"engine={r['engine']}", "waited_ms=0", "wait=-"):
            assert f" {field} " in line, line
        assert re.search(r" cost=e\d:\d\S*,e\d:\d\S* ", line), line


def test_metrics_of_the_door_are_there(trio):
    m = trio.metrics()
    assert m.sum("slipstream_scheduler_waiting") == 0
    assert m.sum("slipstream_engine_kv_tokens", engine="e1") > 0
    assert m.sum("slipstream_scheduler_gate") == 0
    assert m.sum("slipstream_scheduler_wait_seconds_count") == 0
