#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Claude Code sessions of github.com/callanjfox/kv-cache-tester (traces/trace_*.json): one file is one session. Block names
are of 64 tokens, chained, and local to a file: every eighth names a block of 512. Between sessions only the prefix of
tool definitions is taken to be shared, where tool_tokens is the same. A sub-agent's t is its end. Its first call waits for
its parent's last finished call, the parent's next call for the last call of every sub-agent that has finished. Sessions
with a prompt of more than 200,000 tokens are left out."""

import sys

from rows import BadSource, Rows, main, read_json

BLOCK, PART, LONGEST = 512, 64, 200_000


def names_of(session, request, tools):
    """Of the prompt's full 512-token blocks."""
    ids = request["hash_ids"]
    count = min(request["in"] // BLOCK, len(ids) * PART // BLOCK)
    step = BLOCK // PART
    return [("tools", tools, i) if (i + 1) * BLOCK <= tools else (session, ids[step * i + step - 1]) for i in range(count)]


def calls_of(data):
    """Calls of a session as dicts in order of their start: agent, t, end, request, tools, and after (see below)."""
    calls, agents = [], 0
    for r in data["requests"]:
        if r["type"] != "subagent":
            calls.append({"agent": 0, "t": r["t"], "request": r, "tools": data["tool_tokens"]})
            continue
        agents += 1
        took = (r.get("duration_ms") or 0) / 1000 or max((x["t"] + x.get("api_time", 0) for x in r["requests"]), default=0)
        start = r["t"] - took
        for k, inner in enumerate(r["requests"]):
            calls.append({"agent": agents, "t": max(0, start + inner["t"]), "request": inner, "tools": r["tool_tokens"],
                          "over": r["t"] if k == len(r["requests"]) - 1 else None})
    for c in calls:
        c["end"] = c["t"] + c["request"].get("api_time", 0)
    return sorted(calls, key=lambda c: c["t"])


def session(rows, w, name, data):
    if data["block_size"] != PART:
        raise BadSource(f"{name}: blocks of {data['block_size']} tokens, not {PART}")
    last, finished, done = {}, [], []  # last call of each agent; last calls of sub-agents; all calls so far
    for c in calls_of(data):
        agent, t, waits = c["agent"], c["t"], []
        if agent in last:
            waits.append(last[agent])
        elif agent:
            before = [d for d in done if d["agent"] == 0 and d["end"] <= t] or [d for d in done if d["agent"] == 0][:1]
            waits += before[-1:]
        if agent == 0:
            waits += [d for d in finished if d["over"] <= t + 1e-3]
            finished = [d for d in finished if d["over"] > t + 1e-3]
        gap = max(0, t - max((d["end"] for d in waits), default=t)) if waits else 0
        r = c["request"]
        c["number"] = rows.call(w, w * 1000 + agent, t, {d["number"] for d in waits}, gap, r["in"], r["out"],
                                names_of(name, r, c["tools"]))
        last[agent] = c
        done.append(c)
        if agent and c["over"] is not None:
            finished.append(c)


def convert(paths):
    rows = Rows(BLOCK, answers_follow=True)
    for w, path in enumerate(paths):
        data = read_json(path)
        prompts = [x["in"] for r in data["requests"] for x in (r["requests"] if r["type"] == "subagent" else [r])]
        if prompts and max(prompts) <= LONGEST:
            session(rows, w, str(path), data)
    return rows


if __name__ == "__main__":
    sys.exit(main(convert, __doc__, {"trace": "weka-claude-code", "mode": "closed", "licence": "Apache-2.0",
                                     "source": "github.com/callanjfox/kv-cache-tester traces/"}, help="trace_0001.json ..."))
