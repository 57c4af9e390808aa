#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""tau-bench trajectories (github.com/sierra-research/tau-bench, historical_trajectories/*.json): one conversation is one
workflow of two agents: the assistant with its policy, its tools and all that was said, and the simulated user with its
instruction and what the two said to each other. Four characters are a token; the tool definitions, which the log lacks,
are taken to have 9000 characters."""

import json
import sys

from rows import Rows, Text, main, read_json, say

BLOCK = 16
TOOLS = ("tool definitions; " * 500)[:9000]


def content_of(m):
    calls = m.get("tool_calls")
    return (m.get("content") or "") + (json.dumps(calls) if calls else "")


def conversation(rows, w, data):
    policy, instruction = "", data["info"]["task"]["instruction"]
    heard, between, last = [], [], []
    for m in data["traj"]:
        role, content = m["role"], content_of(m)
        if role == "system":
            policy = content
            continue
        if role == "assistant":
            last = [say(rows, w, 2 * w, last, Text(TOOLS, policy, *heard), content)]
        elif role == "user":
            last = [say(rows, w, 2 * w + 1, last, Text("You are a customer. ", instruction, *between), content)]
        heard.append(content)
        if role == "user" or (role == "assistant" and not m.get("tool_calls")):
            between.append(content)


def convert(paths):
    rows, w = Rows(BLOCK), 0
    for path in paths:
        for data in read_json(path):
            conversation(rows, w, data)
            w += 1
    return rows


if __name__ == "__main__":
    sys.exit(main(convert, __doc__, {"trace": "tau-bench", "mode": "closed", "licence": "MIT",
                                     "source": "github.com/sierra-research/tau-bench historical_trajectories/",
                                     "note": "4 characters = 1 token; no recorded times"}, help="gpt-4o-airline.json or its like"))
