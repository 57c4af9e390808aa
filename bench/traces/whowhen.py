#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Who&When logs of failed multi-agent tasks (github.com/ag2ai/Agents_Failure_Attribution, Who&When/*/*.json): one file is
one task. Whoever speaks has read its role prompt and all that was said before; four characters are a token. Messages of
programs and people are not calls, nor are orders that only repeat a plan ("Orchestrator (-> WebSurfer)"). Logs of Magentic-One lack the role prompts: 4000 characters each are assumed."""

import re
import sys

from rows import Rows, Text, main, read_json, say

BLOCK = 16
NOT_MODELS = {"computer_terminal", "computerterminal", "human"}
ROLE_PROMPT = 4000  # characters


def speaker(message):
    """("Orchestrator (-> WebSurfer)", ...) are all the Orchestrator."""
    return re.sub(r"\s*\(.*\)$", "", message.get("name") or message["role"])


def role_prompt(data, name):
    known = data.get("system_prompt") or {}
    return known.get(name) or (f"You are {name}. " * ROLE_PROMPT)[:ROLE_PROMPT]


def task(rows, w, data):
    agents, talk, last = {}, [data["question"]], []
    for m in data["history"]:
        name, content = speaker(m), m.get("content") or ""
        if name.lower() not in NOT_MODELS and "(->" not in m["role"]:
            agent = agents.setdefault(name, len(agents))
            last = [say(rows, w, w * 100 + agent, last, Text(role_prompt(data, name), *talk), content)]
        talk.append(f"{content}\n{name}")  # signed at the end: prompt and answer begin the next prompt


def convert(paths):
    rows = Rows(BLOCK)
    for w, path in enumerate(sorted(paths)):
        task(rows, w, read_json(path))
    return rows


if __name__ == "__main__":
    sys.exit(main(convert, __doc__, {"trace": "who-and-when", "mode": "closed", "licence": "MIT",
                                     "source": "github.com/ag2ai/Agents_Failure_Attribution Who&When/",
                                     "note": "4 characters = 1 token; no recorded times"}, help="1.json ..."))
