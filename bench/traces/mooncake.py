#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Mooncake traces (github.com/kvcache-ai/Mooncake, FAST25-release/traces/*.jsonl): one request a line, with names of its
512-token blocks and no names of conversations. Request r continues q when the last full block of q is the deepest such
block on r's known prefix, and not the very first block."""

import json
import sys

from rows import BadSource, Rows, main

BLOCK = 512


def convert(paths):
    rows = Rows(BLOCK, answers_follow=True)
    seen, ends, flow, workflows = set(), {}, [], 0  # last full block: the call that ended there; workflow of each call
    for path in paths:
        with open(path, encoding="utf-8") as f:
            for n, line in enumerate(f, 1):
                try:
                    r = json.loads(line)
                    at, length, answer = r["timestamp"] / 1000, r["input_length"], r["output_length"]
                except (ValueError, KeyError, TypeError) as e:
                    raise BadSource(f"{path}, line {n}: not a request: {e}") from e
                names = r["hash_ids"][: (length + answer) // BLOCK]  # a block that the prompt begins may end in the answer
                full, known = length // BLOCK, 0
                while known < len(names) and names[known] in seen:
                    known += 1
                before = next((ends[x] for x in reversed(names[1:known]) if x in ends), None)
                number = len(rows.rows)
                workflow = workflows if before is None else flow[before]
                workflows += before is None
                flow.append(workflow)
                rows.call(workflow, workflow, at, [] if before is None else [before], 0, length, answer, names)
                seen.update(names)
                if full > 1:
                    ends[names[full - 1]] = number
    return rows


if __name__ == "__main__":
    sys.exit(main(convert, __doc__, {"trace": "mooncake", "mode": "open", "licence": "Apache-2.0",
                                     "source": "github.com/kvcache-ai/Mooncake FAST25-release/traces",
                                     "note": "workflows are derived from block names"}, help="conversation_trace.jsonl or its like"))
