# SPDX-License-Identifier: Apache-2.0
"""The simulator as its users call it: same input, same bytes; what is wrong is said in one line."""
import gzip
import json
import os
import subprocess
import sys

import pytest
from support.fleet import ROOT, _env, binary
from support.wait import secs

KEYS = ("policy hit ttft_mean ttft_p50 ttft_p90 ttft_p99 ttft_max e2e_mean wf_mean wf_p99 span ptok dup held peak uniq "
        "recomputed_tokens kv_held").split()
META = '{"trace":"x","block":16,"mode":"closed"}\n'

pytestmark = pytest.mark.asan_ok


def sim(*args):
    return subprocess.run([str(binary("slipstream-sim")), *map(str, args)], capture_output=True, text=True,
                          timeout=secs(120), env=_env())


def rows(*args):
    r = sim(*args, "--json", "-")
    assert r.returncode == 0, f"{r.returncode}\n{r.stdout}\n{r.stderr}"
    return [json.loads(line) for line in r.stdout.splitlines()]


def test_two_runs_are_the_same_bytes():
    args = ("--synth", "supervisor:subs=3", "--limit", 20, "--rate", .5, "--cache", 60000, "--seed", 4,
            "--policy", "roundrobin,least,workflow,llmd:weights", "--json", "-")
    once, twice = sim(*args), sim(*args)
    assert once.returncode == 0, once.stderr
    assert once.stdout == twice.stdout
    assert len(once.stdout.splitlines()) == 4


def test_a_line_of_json_per_policy_has_all_keys_and_comes_in_the_order_asked_for(tmp_path):
    out = tmp_path / "out.json"
    r = sim("--synth", "debate", "--limit", 5, "--policy", "least,roundrobin", "--json", out)
    assert r.returncode == 0, r.stderr
    got = [json.loads(line) for line in out.read_text().splitlines()]
    assert [g["policy"] for g in got] == ["least", "roundrobin"]
    for g in got:
        assert set(KEYS) <= set(g)
        assert g["requests"] == 60 and g["workflows"] == 5
        assert 0 < g["hit"] < 100 and g["peak"] >= g["uniq"] > 0 and g["kv_held"] > 0
    assert "least" in r.stdout and "workflow p" not in r.stdout


def test_a_workload_with_its_own_launch_order_is_replayed_as_it_is(tmp_path):
    dump = tmp_path / "dump.jsonl.gz"
    meta = {"trace": "dump", "block": 16, "mode": "closed", "launch": [[2, 5.0], [1, 10.0]]}
    calls = [[1, 1, 0, [], 0, 160, 16, -1, 0], [2, 2, 0, [], 0, 160, 16, -1, 0]]
    with gzip.open(dump, "wt") as f:
        f.write("".join(json.dumps(x) + "\n" for x in (meta, *calls)))
    (got,) = rows("--trace", dump, "--policy", "least", "--limit", 1, "--engines", 1)
    assert got["requests"] == 2
    assert 10 < got["span"] < 11


def test_more_engines_keep_more(tmp_path):
    (one,), (four,) = (rows("--synth", "chat", "--limit", 10, "--cache", 20000, "--engines", n, "--policy", "wfleast")
                       for n in (1, 4))
    assert four["hit"] > one["hit"] and four["wf_mean"] < one["wf_mean"]


@pytest.mark.parametrize("args, code, why", [
    ((), 64, "one of --trace and --synth"),
    (("--synth", "nonesuch"), 2, "no such pattern"),
    (("--synth", "tree:b=99"), 2, "b goes from 1 to 20"),
    (("--synth", "tree", "--policy", "nonesuch"), 64, "nonesuch"),
    (("--synth", "tree", "--policy", "least,workflow:nonesuch=1"), 64, "nonesuch"),
    (("--synth", "tree", "--policy", ""), 64, "no policy"),
    (("--synth", "tree", "--engines", "0"), 64, "--engines: a number from 1 to 256"),
    (("--synth", "tree", "--users", "x"), 64, "--users"),
    (("--synth", "tree", "--profile", "9b"), 64, "--profile: 8b or 70b"),
    (("--synth", "tree", "--share", "never"), 64, "--share: now or after"),
    (("--synth", "tree", "--cache", "10"), 1, "a cache of less than one block"),
    (("--synth", "tree", "--limit", "3", "--json", "/nonesuch/x"), 2, "No such file"),
    (("--synth", "tree", "stray"), 64, "stray"),
    (("--trace", "/nonesuch"), 2, "cannot be opened"),
])
def test_what_is_wrong_is_said(args, code, why):
    r = sim(*args)
    assert r.returncode == code, (r.returncode, r.stderr)
    assert why in r.stderr


@pytest.mark.parametrize("text, why", [
    ("", "no calls"),
    ("nonsense\n", "line 1"),
    (META, "no calls"),
    (META + "[1,1,0,[],0,160,16,-1]\n", "line 2"),
    (META + "[1,1,0,[],0,160,16,-1,0]\n[1,1,0,[1],0,160,16,-1,0]\n", "line 3"),
    (META + "[1,1,0,[],0,160,16,3,1]\n", "line 2"),
    (META + "[1,1,0,[],-1,160,16,-1,0]\n", "line 2"),
])
def test_a_bad_trace_is_refused_with_its_line(tmp_path, text, why):
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    r = sim("--trace", path)
    assert r.returncode == 2, (r.returncode, r.stderr)
    assert why in r.stderr


def test_progress_and_tables_stay_out_of_the_json():
    r = sim("--synth", "pipeline", "--limit", 3, "--policy", "least", "--json", "-")
    assert len(r.stdout.splitlines()) == 1
    assert "least" in r.stderr


def parity(*args, model=None):
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "SLIP_BUILD": str(binary("slipstream-sim").parents[1])}
    env.pop("SLIPSTREAM_MODEL", None)
    return subprocess.run([sys.executable, str(ROOT / "bench/sim/parity.py"), *map(str, args)], capture_output=True, text=True,
                          timeout=secs(600), env={**env, **({"SLIPSTREAM_MODEL": model} if model else {})})


def test_without_a_reference_model_the_comparison_says_so(tmp_path):
    r = parity("--keep", tmp_path)
    assert r.returncode == 2 and "SLIPSTREAM_MODEL" in r.stderr


@pytest.mark.slow
@pytest.mark.skipif("SLIPSTREAM_MODEL" not in os.environ, reason="needs the reference model, $SLIPSTREAM_MODEL")
def test_policies_without_a_cache_of_their_own_are_those_of_the_reference_model_to_the_digit(tmp_path):
    out = tmp_path / "out.json"
    r = parity("--keep", tmp_path, "--only", "^(tree30|fan4|deb50)$", "--policy", "roundrobin,least,wfleast", "--json", out,
               model=os.environ["SLIPSTREAM_MODEL"])
    assert r.returncode == 0, r.stdout + r.stderr
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(found) == 9
    for f in found:
        assert all(abs(d) < 1e-3 for d in f["difference"].values()), f
