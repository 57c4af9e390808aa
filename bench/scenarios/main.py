# SPDX-License-Identifier: Apache-2.0
"""Runs one benchmark, or all; prints a table and writes JSON. bench/README.md says what is measured."""

import argparse
import importlib
import json
import os
import sys

from harness import Bench, commit, machine, pin, say

NAMES = ["proxy", "stream", "bigbody", "route", "scale", "mailbox", "sim", "live"]


def number(x):
    if x is None:
        return "-"
    if abs(x) >= 1000:
        return f"{x:,.0f}"
    return f"{x:.3g}" if abs(x) < 10 else f"{x:.1f}"


def table(name, rows):
    print(f"\n{name}")
    head = ["", "value", "unit", "goal", "baseline", ""]
    lines = [head]
    for r in rows:
        goal = "" if r["goal"] is None else f"{'>=' if r['goal_is'] == 'least' else '<='} {r['goal']:g}"
        base = "" if r["baseline"] is None else f"{r['baseline']} {number(r['baseline_value'])}"
        verdict = "not run" if r["value"] is None else "" if r["goal"] is None else "ok" if r["ok"] else "MISSED"
        lines.append([r["name"], number(r["value"]), r["unit"], goal, base, verdict])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        print("  " + "  ".join(c.rjust(w) if i == 1 else c.ljust(w)
                               for i, (c, w) in enumerate(zip(line, widths))).rstrip())


def run(name, opts):
    say(f"{name}:")
    with Bench(opts) as b:
        pin(os.environ.get("BENCH_PIN", "0" if name in ("proxy", "route") else "1") == "1")
        rows = importlib.import_module(name).run(b)
        others = sum(b.others) / max(1, len(b.others))
    table(name, rows)
    if others > 0.05:
        print(f"\n  Others used {others * 100:.0f} % of this machine meanwhile: do not trust these figures.")
    return rows, others


def main():
    p = argparse.ArgumentParser(prog="bench/run.sh", description=__doc__)
    p.add_argument("name", choices=NAMES + ["all"])
    p.add_argument("--json", metavar="FILE", help="also write the rows there")
    p.add_argument("--rounds", type=int, default=5, help="rounds over all that is compared, at least 3 (5)")
    p.add_argument("--seconds", type=float, default=4, help="base length of one measurement (4)")
    p.add_argument("--only", metavar="PART", action="append", help="of mailbox: native, large, rest, polls, parked or deep; may be repeated")
    p.add_argument("--keep", action="store_true", help="keep settings and logs of the processes")
    opts = p.parse_args()
    if opts.rounds < 3:
        say("fewer than 3 rounds: good for a look, not for a figure")
    rows, others = [], []
    for name in NAMES if opts.name == "all" else [opts.name]:
        got, busy = run(name, opts)
        rows += [dict(r, name=f"{name}.{r['name']}") for r in got] if opts.name == "all" else got
        others.append(busy)
    if opts.json:
        out = {"bench": opts.name, "commit": commit(), "machine": machine(), "rounds": opts.rounds,
               "others_busy": max(others), "results": rows}
        with open(opts.json + ".part", "w") as f:
            json.dump(out, f, indent=1)
            f.write("\n")
        os.replace(opts.json + ".part", opts.json)


if __name__ == "__main__":
    sys.exit(main())
