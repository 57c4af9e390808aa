# SPDX-License-Identifier: Apache-2.0
"""The converters of public traces, on samples in the sources' own formats, and what the simulator makes of the result."""
import gzip
import json
import os
import subprocess
import sys

import pytest
from support.fleet import ROOT, _env, binary
from support.wait import secs

pytestmark = pytest.mark.asan_ok


def convert(tmp_path, name, *sources):
    out = tmp_path / f"{name}.jsonl.gz"
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    r = subprocess.run([sys.executable, str(ROOT / f"bench/traces/{name}.py"), *map(str, sources), str(out)],
                       capture_output=True, text=True, env=env, timeout=secs(60))
    return r, out


def converted(tmp_path, name, *sources):
    r, out = convert(tmp_path, name, *sources)
    assert r.returncode == 0, r.stderr
    head, *rows = [json.loads(line) for line in gzip.open(out, "rt")]
    s = subprocess.run([str(binary("slipstream-sim")), "--trace", str(out), "--policy", "least", "--json", "-"],
                       capture_output=True, text=True, env=_env(), timeout=secs(60))
    assert s.returncode == 0, s.stderr
    assert json.loads(s.stdout)["requests"] == len(rows)
    return head, rows


def test_mooncake_conversations_are_found_by_their_blocks(tmp_path):
    source = tmp_path / "m.jsonl"
    requests = [(0, 1100, 600, [0, 1, 2]), (27, 700, 10, [0, 9]), (3000, 2600, 40, [0, 1, 5, 6, 7, 8]),
                (4000, 2600, 40, [0, 1, 5, 6, 7, 18])]
    source.write_text("".join(json.dumps(dict(zip(("timestamp", "input_length", "output_length", "hash_ids"), r))) + "\n"
                              for r in requests))
    head, rows = converted(tmp_path, "mooncake", source)
    assert (head["block"], head["mode"]) == (512, "open")
    assert rows == [
        [0, 0, 0, [], 0, 1100, 600, -1, 0],
        [1, 1, .027, [], 0, 700, 10, 0, 1],
        [0, 0, 3, [0], 0, 2600, 40, 0, 3],   # goes on behind block 1, with the answer in its third block
        [0, 0, 4, [2], 0, 2600, 40, 2, 5],
    ]


def weka(requests, **more):
    return {"block_size": 64, "tool_tokens": 1024, "requests": requests, **more}


def weka_call(t, prompt, out, first, api=2.0):
    return {"t": t, "type": "n", "in": prompt, "out": out, "api_time": api, "hash_ids": list(range(first, first + prompt // 64))}


def test_sessions_share_tool_definitions_and_wait_for_their_sub_agents(tmp_path):
    sub = {"t": 30.0, "type": "subagent", "duration_ms": 20000, "tool_tokens": 512,
           "requests": [weka_call(0, 1536, 10, 5001, 3), weka_call(6, 2048, 10, 5001, 4)]}
    one, two, long = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "c.json"
    one.write_text(json.dumps(weka([weka_call(0, 2048, 100, 1), sub, weka_call(40, 3072, 100, 1)])))
    two.write_text(json.dumps(weka([weka_call(0, 2048, 100, 1)])))
    long.write_text(json.dumps(weka([weka_call(0, 200001, 100, 1)])))
    head, rows = converted(tmp_path, "weka", one, long, two)
    assert (head["block"], head["mode"]) == (512, "closed")
    assert rows == [
        [0, 0, 0, [], 0, 2048, 100, -1, 0],
        [0, 1, 10, [0], 8, 1536, 10, -1, 0],
        [0, 1, 16, [1], 3, 2048, 10, 1, 3],
        [0, 0, 40, [0, 2], 20, 3072, 100, 0, 4],
        [2, 2000, 0, [], 0, 2048, 100, 3, 2],
    ]


def test_speakers_of_a_log_read_all_that_was_said(tmp_path):
    source = tmp_path / "1.json"
    source.write_text(json.dumps({"question": "q" * 64, "system_prompt": {"A": "a" * 64, "B": "b" * 64}, "history": [
        {"name": "A", "role": "assistant", "content": "x" * 128}, {"name": "Computer_terminal", "role": "user", "content": "y" * 64},
        {"name": "B", "role": "user", "content": "z" * 64}, {"name": "A", "role": "assistant", "content": "end!"}]}))
    head, rows = converted(tmp_path, "whowhen", source)
    assert head["block"] == 16
    assert [r[:5] for r in rows] == [[0, 0, 0, [], 0], [0, 1, 0, [0], 0], [0, 0, 0, [1], 0]]
    assert [r[6:] for r in rows] == [[32, -1, 0], [16, -1, 0], [1, 0, 4]]
    assert rows[0][5] == 32 and rows[1][5] == (64 + 64 + 128 + 2 + 64 + 18) // 4


def test_an_assistant_and_a_simulated_user_are_two_agents(tmp_path):
    source = tmp_path / "t.json"
    source.write_text(json.dumps([{"info": {"task": {"instruction": "You want to fly."}}, "traj": [
        {"role": "system", "content": "policy " * 20}, {"role": "user", "content": "Hello, I want to fly."},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "find", "arguments": "{}"}}]},
        {"role": "tool", "content": "flights"}, {"role": "assistant", "content": "Here is one."},
        {"role": "user", "content": "###STOP###"}]}]))
    _, rows = converted(tmp_path, "taubench", source)
    assert [(r[0], r[1], r[3]) for r in rows] == [(0, 1, []), (0, 0, [0]), (0, 0, [1]), (0, 1, [2])]
    assert rows[2][7] == 1 and rows[2][8] > 9000 // 4 // 16
    assert rows[3][5] < 100


def test_lengths_and_arrivals_alone(tmp_path):
    source = tmp_path / "az.csv"
    source.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n"
                      "2023-11-16 18:17:04.0319600,3180,8\n")
    head, rows = converted(tmp_path, "azure", source)
    assert head["mode"] == "open"
    assert rows == [[0, 0, 0, [], 0, 4808, 10, -1, 0], [1, 1, .052, [], 0, 3180, 8, -1, 0]]


@pytest.mark.parametrize("name", ["mooncake", "weka", "whowhen", "taubench", "azure"])
@pytest.mark.parametrize("text", ["", "nonsense", "{}", '[{"a":1}]', '{"requests":[{"type":"n"}]}'])
def test_another_format_is_refused_in_one_line(tmp_path, name, text):
    source = tmp_path / "source"
    source.write_text(text)
    r, out = convert(tmp_path, name, source)
    assert r.returncode == 1, r.stdout
    assert len(r.stderr.splitlines()) == 1 and "Traceback" not in r.stderr
    assert not out.exists()
