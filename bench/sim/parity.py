#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares slipstream-sim with the reference model, an independent implementation in Python: the same workload as the
model replays it (a dump: selected, ordered, timed), the same options, one policy after another.

  SLIPSTREAM_MODEL=DIR SLIPSTREAM_TRACES=DIR bench/sim/parity.py [--only REGEX] [--seeds 1,2] [--policy roundrobin,workflow]

DIR of the model holds routesim.py and suite.py; without it nothing can be compared (exit code 2). What the model gave
is kept (--keep), for it is slow; pypy3 is used when there is one. Differences are ours against the model's: hit rate in
points, the rest in percent. Exit code 1: a difference beyond what is allowed (2 points, 5 %, longest wait 20 %)."""

import argparse
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# product: reference model
PAIRS = {
    "roundrobin": "rr", "least": "least", "wfleast": "wfleast", "sglang": "sglang:idx=20", "sglang:idx=1": "sglang",
    "llmd:weights": "llmd", "dynamo": "dynamo", "cost": "cost", "workflow": "wf", "workflow:gate=off": "wf:gate=0",
    "workflow:view=approx": "wf:view=approx",
}
# Information taken away; compared only when named.
LESS = {"workflow:" + x: "wf:" + x for x in (
    "err=.15", "terr=2", "terr=.5", "kerr=2", "kerr=.5", "cerr=.8", "cerr=1.2", "end=0", "prio=0", "view=approx:ct=0",
    "lag=1", "lag=5", "lag=10")}


def theirs(policy):
    """The model's name of a policy of the product; None: it has none."""
    known = {**PAIRS, **LESS}
    if policy in known:
        return known[policy]
    if policy.startswith("workflow:"):
        return "wf:" + policy.split(":", 1)[1].replace("gate=off", "gate=0")
    return None


# ours: the model's, and the unit in which the model counts
COLUMNS = {"hit": ("hit", 1), "ttft_mean": ("ttft", 1), "ttft_p99": ("t99", 1), "ttft_max": ("tmax", 1), "e2e_mean": ("e2e", 1),
           "wf_mean": ("wf", 1), "span": ("span", 1), "dup": ("dup", 1), "ptok": ("ptok", 1e6), "peak": ("peak", 1e6), "held": ("held", 1)}
ALLOWED = {"hit": 2, "e2e_mean": 5, "wf_mean": 5, "ttft_max": 20}
RESULTS = {"hit": "parity_hit_points", "e2e_mean": "parity_e2e_pct", "wf_mean": "parity_wf_pct", "ttft_max": "parity_max_pct"}


class Missing(Exception):
    pass


def simulator():
    build = Path(os.environ.get("BENCH_BUILD") or os.environ.get("SLIP_BUILD") or ROOT / "build/release")
    path = build / "bin/slipstream-sim"
    if not path.exists():
        raise Missing(f"{path} is not built")
    return path


class Model:
    """The reference model in a folder, and what it gave before."""

    def __init__(self, folder=None, traces=None, keep=None):
        folder = folder or os.environ.get("SLIPSTREAM_MODEL")
        if not folder or not (Path(folder) / "routesim.py").exists():
            raise Missing("SLIPSTREAM_MODEL does not name a folder with routesim.py")
        self.folder = Path(folder).resolve()
        self.traces = Path(traces or os.environ.get("SLIPSTREAM_TRACES") or self.folder.parent / "traces")
        self.keep = Path(keep or ROOT / "build/parity")
        self.keep.mkdir(parents=True, exist_ok=True)
        self.dumping = threading.Lock()
        self.python = shutil.which("pypy3") or sys.executable
        code = b"".join((self.folder / n).read_bytes() for n in ("routesim.py", "synthwf.py"))
        self.version = hashlib.sha256(code).hexdigest()[:12]
        spec = importlib.util.spec_from_file_location("reference_suite", self.folder / "suite.py")
        suite = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(suite)
        self.suite = {name: self._options(text) for name, text in suite.SUITE.items()}

    def _options(self, text):
        words = text.split()
        if "--trace" in words:
            i = words.index("--trace") + 1
            words[i] = str(self.traces / Path(words[i]).name)
        return words

    def _call(self, *args):
        env = dict(os.environ, PYTHONDONTWRITEBYTECODE="1")
        r = subprocess.run([self.python, "routesim.py", *args], cwd=self.folder, capture_output=True, text=True, env=env)
        if r.returncode:
            raise Missing(r.stderr.strip().splitlines()[-1])

    def _kept(self, kind, *words):
        key = hashlib.sha256("\0".join((self.version, *words)).encode()).hexdigest()[:16]
        return self.keep / f"{kind}-{key}"

    def workload(self, name, seed):
        """(dump, options to replay it with)"""
        options = [*self.suite[name], "--seed", str(seed)]
        if "--trace" in options and not Path(options[options.index("--trace") + 1]).exists():
            raise Missing("no trace " + options[options.index("--trace") + 1])
        dump = self._kept("dump", *options).with_suffix(".jsonl.gz")
        with self.dumping:
            if not dump.exists():
                part = f"{dump}.part{os.getpid()}"
                self._call(*options, "--policy", "-", "--dump", part)
                os.replace(part, dump)
        source = options.index("--trace") if "--trace" in options else options.index("--synth")
        return dump, ["--trace", str(dump), *options[:source], *options[source + 2:]]

    def run(self, options, policy):
        kept = self._kept("row", *options, policy).with_suffix(".json")
        if not kept.exists():
            part = Path(f"{kept}.part{os.getpid()}")
            part.unlink(missing_ok=True)
            self._call(*options, "--policy", policy, "--json", str(part))
            os.replace(part, kept)
        row = json.loads(kept.read_text())
        return {column: row[name] * unit for column, (name, unit) in COLUMNS.items()}


def ours(options, policy):
    r = subprocess.run([str(simulator()), *options, "--policy", policy, "--json", "-"], capture_output=True, text=True)
    if r.returncode:
        raise Missing(r.stderr.strip().splitlines()[-1])
    return json.loads(r.stdout)


def difference(key, a, b):
    if key == "hit" or key == "dup":
        return a - b
    return 100 * (a / b - 1) if b else 0 if a == b else float("inf")


def compare(model, name, seed, policy):
    """{column: (ours, theirs, difference)}"""
    _, options = model.workload(name, seed)
    asked = policy + ":reference=1" if policy.split(":")[0] == "workflow" else policy
    mine, other = ours(options, asked), model.run(options, theirs(policy))
    return {k: (mine[k], other[k], difference(k, mine[k], other[k])) for k in COLUMNS}


def worst(found):
    """The largest difference of each column that has a limit, over what compare() returned."""
    return {RESULTS[k]: max((abs(f[k][2]) for f in found), default=None) for k in ALLOWED}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", default="^(weka16|weka24|weka32|weka48|mix100|own64|chat60)$", help="workloads, by regular expression")
    p.add_argument("--seeds", default="1")
    p.add_argument("--policy", help="a,b,c: of the product; all: every pair; default: all but those with less information")
    p.add_argument("--keep", help="folder for dumps and for what the model gave (build/parity)")
    p.add_argument("--json", help="append one line of JSON per comparison")
    p.add_argument("--jobs", type=int, default=2)
    a = p.parse_args()
    try:
        model = Model(keep=a.keep)
        simulator()
    except Missing as e:
        print(f"parity: {e}", file=sys.stderr)
        return 2
    known = {**PAIRS, **LESS}
    policies = list(PAIRS) if a.policy is None else list(known) if a.policy == "all" else a.policy.split(",")
    if wrong := [x for x in policies if theirs(x) is None]:
        print(f"parity: nothing to compare {', '.join(wrong)} with; there are {', '.join(known)}", file=sys.stderr)
        return 64
    names = [n for n in model.suite if re.search(a.only, n)]
    work = [(n, int(s), x) for n in names for s in a.seeds.split(",") for x in policies]
    print(f"{'workload':16}{'policy':26}" + "".join(f"{k:>11}" for k in COLUMNS))
    found, failed = [], False
    with ThreadPoolExecutor(a.jobs) as pool:
        for (name, seed, policy), result in zip(work, [pool.submit(compare, model, *w) for w in work]):
            head = f"{f'{name}/{seed}':16}{policy:26}"
            try:
                f = result.result()
            except Missing as e:
                print(f"{head}  {e}")
                continue
            found.append(f)
            beyond = [k for k in ALLOWED if abs(f[k][2]) > ALLOWED[k]]
            failed = failed or bool(beyond)
            print(head + "".join(f"{'=' if v[2] == 0 or abs(v[2]) < 5e-5 else f'{v[2]:+.2f}':>11}" for v in f.values())
                  + ("  BEYOND: " + ", ".join(f"{k} {f[k][0]:.4g} not {f[k][1]:.4g}" for k in beyond) if beyond else ""), flush=True)
            if a.json:
                with open(a.json, "a") as out:
                    out.write(json.dumps({"workload": name, "seed": seed, "policy": policy,
                                          "ours": {k: v[0] for k, v in f.items()}, "model": {k: v[1] for k, v in f.items()},
                                          "difference": {k: v[2] for k, v in f.items()}}) + "\n")
    print("worst: " + "  ".join(f"{k} {v:.3g}" for k, v in worst(found).items() if v is not None))
    return 1 if failed or not found else 0


if __name__ == "__main__":
    sys.exit(main())
