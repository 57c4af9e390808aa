# SPDX-License-Identifier: Apache-2.0
"""Prometheus text, strictly enough to notice a malformed exposition."""
import re

_LINE = re.compile(r"^([A-Za-z_:][A-Za-z0-9_:]*)(\{(.*)\})? ([^ ]+)(?: [0-9]+)?$")
_LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"(?:,|$)')


class Metrics:
    def __init__(self):
        self.samples = []  # (name, labels, value)
        self.types = {}

    def sum(self, name, **labels):
        return sum(v for n, ls, v in self.samples if n == name and all(ls.get(k) == w for k, w in labels.items()))

    def has(self, name, **labels):
        return any(n == name and all(ls.get(k) == w for k, w in labels.items()) for n, ls, _ in self.samples)

    def labels(self, name, key):
        return {ls[key] for n, ls, _ in self.samples if n == name and key in ls}

    def names(self):
        return {n for n, _, _ in self.samples}


def parse_metrics(text):
    m = Metrics()
    seen = set()
    for line in text.splitlines():
        if not line:
            continue
        if line.startswith("#"):
            words = line.split(" ", 3)
            if len(words) >= 4 and words[1] == "TYPE":
                assert words[2] not in m.types, f"two TYPE lines for {words[2]}"
                m.types[words[2]] = words[3]
            continue
        match = _LINE.match(line)
        assert match, f"malformed exposition line: {line!r}"
        labels = {}
        rest = match.group(3) or ""
        while rest:
            label = _LABEL.match(rest)
            assert label, f"malformed labels: {line!r}"
            assert label.group(1) not in labels, f"label twice: {line!r}"
            labels[label.group(1)] = re.sub(r"\\(.)", lambda x: "\n" if x.group(1) == "n" else x.group(1), label.group(2))
            rest = rest[label.end():]
        key = (match.group(1), tuple(sorted(labels.items())))
        assert key not in seen, f"series twice: {line!r}"
        seen.add(key)
        m.samples.append((match.group(1), labels, float(match.group(4))))
    return m
