# SPDX-License-Identifier: Apache-2.0
"""What the routing hop adds at 1000 req/s, over a worker that decides round-robin by itself."""

from harness import CHAT, row, run_open_loop, say, start_target, start_upstream

TARGETS = ["none", "ring", "nng", "direct"]
GOALS = {"ring": 50, "nng": 350}


def run(b):
    body = b.file("chat.json", CHAT)
    upstream = start_upstream(b)
    targets = {name: start_target(name, b, upstream) for name in TARGETS}
    for r in range(b.opts.rounds):
        got = {}
        for name, target in targets.items():
            if target is None:
                continue
            got[name] = g = run_open_loop(b, target, body, b.opts.seconds * 2, rate=1000)
            say(f"  {r + 1}/{b.opts.rounds} {name:8} p50 {g['sent_p50_us']:.0f} p99 {g['sent_p99_us']:.0f} us, "
                f"CPU {g['cpu_us']:.0f} us/req")
            for key in ("sent_p50_us", "sent_p99_us", "cpu_us"):
                b.note(f"{name}_{key}", g[key])
        # The difference within one round: what the machine did meanwhile is in both.
        for name in GOALS:
            if name in got and "none" in got:
                for p in ("p50", "p99"):
                    b.note(f"{name}_added_{p}", got[name][f"sent_{p}_us"] - got["none"][f"sent_{p}_us"])
    rows = []
    for p in ("p50", "p99"):
        base = b.median(f"none_sent_{p}_us")
        for name, most in GOALS.items():
            ours = b.median(f"{name}_sent_{p}_us")
            rows.append(row(f"{name}_added_us_{p}", b.median(f"{name}_added_{p}"), "us",
                            most=most if p == "p50" else None, baseline="none", baseline_value=base,
                            ratio=ours / base if ours and base else None))
    for name in TARGETS:
        for p in ("p50", "p99"):
            rows.append(row(f"{name}_us_{p}", b.median(f"{name}_sent_{p}_us"), "us"))
        if name != "direct":
            rows.append(row(f"{name}_cpu_us", b.median(f"{name}_cpu_us"), "us/req"))
    return rows
