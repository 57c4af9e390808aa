# SPDX-License-Identifier: Apache-2.0
"""The trace format that slipstream-sim and slipstream-replay read (docs in bench/traces/README.md), and what its
converters share."""

import argparse
import gzip
import hashlib
import json
import sys


class BadSource(Exception):
    """What is wrong with a source file, in one line."""


class Rows:
    """Calls in order. A call brings the names of its blocks, of the prompt and then, if they are known, of the answer;
    equal names are equal blocks, and whoever has one has all before it.

    answers_follow: nothing names the answers, but a prompt that goes on behind the last full block of an earlier prompt is
    taken to go on with the answer to that, as conversations do."""

    def __init__(self, block, answers_follow=False):
        self.block, self.answers_follow = block, answers_follow
        self.rows, self.owner, self.same, self.ends, self.blocks = [], {}, {}, {}, []

    def _follow(self, names, own, shared, prompt):
        """Names in place of those that the source gave to blocks of an earlier answer."""
        q = self.ends.get(names[shared - 1]) if shared else None
        if q is None or shared != self.rows[q][5] // self.block or prompt < self.rows[q][5] + self.rows[q][6]:
            return
        upto = min(len(self.blocks[q]), len(names), prompt // self.block)
        if upto > shared:
            del self.ends[names[shared - 1]]  # the next one that goes on from there said something else
        for i in range(shared, upto):
            self.same[own[i]] = names[i] = self.blocks[q][i]

    def call(self, workflow, agent, t, deps, gap, prompt, answer, names=()):
        """Returns the number of the call."""
        if prompt < 1:
            raise BadSource("a call without a prompt")
        number, shared = len(self.rows), 0
        own = list(names)[: (prompt + answer) // self.block]
        names = [self.same.get(n, n) for n in own]
        for again in (False, True):
            while shared < len(names) and names[shared] in self.owner:
                shared += 1
            if self.answers_follow and not again:
                self._follow(names, own, shared, prompt)
        ref = self.owner[names[shared - 1]] if shared else -1
        if self.answers_follow:
            names += [("answer", number, i) for i in range(len(names), (prompt + answer) // self.block)]
            if prompt >= self.block:
                self.ends[names[prompt // self.block - 1]] = number
            self.blocks.append(names)
        for name in names:
            self.owner[name] = number
        self.rows.append([workflow, agent, round(t, 3), sorted(deps), round(gap, 3), prompt, max(1, answer), ref, shared])
        return number

    def write(self, path, meta):
        if not self.rows:
            raise BadSource("no calls in it")
        head = {"trace": meta.pop("trace"), "block": self.block, "mode": meta.pop("mode"), **meta}
        with gzip.GzipFile(path, "wb", mtime=0) as f:
            for line in (head, *self.rows):
                f.write((json.dumps(line, separators=(",", ":")) + "\n").encode())

    def best_hit(self):
        """Percent of all prompt tokens that one cache without end would have had."""
        seen, hit, total = [], 0, 0
        for _, _, _, _, _, prompt, answer, ref, shared in self.rows:
            known = min(shared, prompt // self.block)
            seen.append(known)
            hit += known * self.block
            total += prompt
        return 100 * hit / max(1, total)


TOKEN = 4  # characters


class Text:
    """A prompt made of text, for sources without block names: four characters are a token."""

    def __init__(self, *parts):
        self.text = "".join(parts)

    def tokens(self):
        return len(self.text) // TOKEN

    def names(self, block, answer=""):
        text, width, name, out = self.text + answer, block * TOKEN, b"", []
        for i in range(len(text) // width):
            name = hashlib.blake2b(name + text[i * width:(i + 1) * width].encode("utf-8", "replace"), digest_size=12).digest()
            out.append(name)
        return out


def say(rows, workflow, agent, deps, prompt, answer, gap=0.0):
    """One call with this text as its prompt and this answer; returns its number."""
    return rows.call(workflow, agent, 0.0, deps, gap, max(1, prompt.tokens()), len(answer) // TOKEN,
                     prompt.names(rows.block, answer))


def read_json(path):
    try:
        with open(path, encoding="utf-8") as f:
            return json.load(f)
    except (OSError, ValueError) as e:
        raise BadSource(f"{path}: {e}") from e


def main(convert, description, meta, **source):
    """convert(paths) -> Rows"""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("source", nargs="+", **source)
    p.add_argument("output", help="trace to write (.jsonl.gz)")
    a = p.parse_args()
    try:
        rows = convert(a.source)
        rows.write(a.output, dict(meta))
    except (BadSource, OSError) as e:
        print(f"{p.prog}: {e}", file=sys.stderr)
        return 1
    except (KeyError, TypeError, ValueError, IndexError) as e:
        print(f"{p.prog}: not in the format expected: {type(e).__name__}: {e}", file=sys.stderr)
        return 1
    print(f"{len(rows.rows)} calls, {len({r[0] for r in rows.rows})} workflows; one endless cache would hit {rows.best_hit():.1f} % of the prompts")
    return 0
