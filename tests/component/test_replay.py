# SPDX-License-Identifier: Apache-2.0
"""The replayer against engines alone: what a trace says is shared is what an engine finds in its cache."""
import json
import os
import subprocess

import pytest
from support.fleet import Engine, _env, binary
from support.ports import free_port
from support.wait import secs

ENDLESS = ("--cache-tokens", "100000000", "--max-len", "1000000", "--seqs", "4096")

pytestmark = pytest.mark.asan_ok


@pytest.fixture
def engine(tmp_path):
    engines = []

    def start(*extra, time_scale=200):
        e = Engine(f"e{len(engines) + 1}", tmp_path, time_scale=time_scale, extra=extra)
        engines.append(e)
        e.start().wait_ready(30)
        return e

    yield start
    for e in engines:
        if e.is_alive():
            e.stop()
        e.check_log()


def replay(*args, timeout=120):
    return subprocess.run([str(binary("slipstream-replay")), *map(str, args)], capture_output=True, text=True,
                          timeout=secs(timeout), env=_env())


def report(*args, **kw):
    r = replay(*args, "--json", "-", **kw)
    assert r.returncode == 0, f"{r.returncode}\n{r.stdout}\n{r.stderr}"
    return json.loads(r.stdout)


def expected(*args):
    r = replay(*args, "--dry-run")
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout)["trace_hit"]


def test_one_endless_cache_hits_what_the_workload_says(engine):
    e = engine(*ENDLESS)
    work = ("--trace", "synthetic", "--sessions", 3)
    got = report(*work, "--url", e.url, "--engines", e.url, "--time-scale", 200, "--users", 3, "--no-workflow")
    want = expected(*work)
    assert got["errors"] == 0
    assert abs(got["hit"] - want) < 0.5, (got, want)
    assert abs(got["engine_hit"] - got["hit"]) < 0.5
    assert abs(got["infinite_hit"] - want) < 0.5
    assert got["recomputed_tokens"] < 0.005 * got["prompt_tokens"]
    assert 0 < got["kv_held"] <= got["kv_peak"]
    assert 0 < got["ttft_p50"] <= got["ttft_p99"] <= got["e2e_mean"] * 100


def test_round_robin_over_engines_recomputes(engine):
    urls = ",".join(engine(*ENDLESS).url for _ in range(3))
    got = report("--sessions", 2, "--users", 2, "--max-steps", 12, "--url", urls, "--engines", urls, "--time-scale",
                 200, "--no-workflow")
    assert got["hit"] < got["infinite_hit"] - 5
    assert got["recomputed_tokens"] == pytest.approx(
        (got["infinite_hit"] - got["hit"]) / 100 * got["prompt_tokens"], rel=0.02)


def test_failed_calls_are_shown_and_make_the_exit_code_1(engine):
    e = engine()
    e.fault("error", count=2, status=500)
    r = replay("--sessions", 1, "--max-steps", 4, "--url", e.url, "--time-scale", 200, "--no-workflow", "--json", "-")
    assert r.returncode == 1, r.stderr
    got = json.loads(r.stdout)
    assert (got["errors"], got["calls"]) == (2, 4)
    assert r.stderr.count("failed: status 500") == 2


def test_nobody_there_is_an_error_not_a_hang():
    r = replay("--sessions", 1, "--max-steps", 1, "--url", f"http://127.0.0.1:{free_port()}", "--time-scale", 200)
    assert r.returncode == 1
    assert "refused the connection" in r.stderr


@pytest.mark.parametrize("args", [("--users", "many"), ("--select", "best"), ("--nonsense",)])
def test_bad_arguments_are_refused(args):
    assert replay(*args).returncode == 64


def test_a_file_that_is_no_trace_is_refused_by_line(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"trace":"x","block":16,"mode":"closed"}\n[0,0,0,[],0,9]\n')
    r = replay("--trace", path, "--dry-run")
    assert r.returncode == 2
    assert "line 2 is not a call" in r.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif("SLIPSTREAM_TRACES" not in os.environ, reason="SLIPSTREAM_TRACES names no folder of traces")
@pytest.mark.parametrize("name, hit", [("weka_claude_code_dev", 96.8), ("mooncake_synthetic", 65.1),
                                       ("mooncake_conversation", 38.4), ("whowhen", 93.7)])
def test_one_endless_cache_reproduces_real_traces(engine, name, hit):
    e = engine("--cache-tokens", "300000000", "--max-len", "1000000", "--seqs", "4096", time_scale=1000)
    path = os.path.join(os.environ["SLIPSTREAM_TRACES"], f"{name}.jsonl.gz")
    scale = 60 if name.startswith("mooncake") else 1000  # arrivals in time, engines ahead of them
    got = report("--trace", path, "--url", e.url, "--time-scale", scale, "--users", 32, "--no-workflow", timeout=800)
    assert abs(got["hit"] - hit) < 0.5, got
