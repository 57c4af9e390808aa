# SPDX-License-Identifier: Apache-2.0
"""1000 and 10,000 live workflows at the same 1000 req/s: memory of a workflow, latency of a request."""

from harness import CHAT, ratio_row, row, rss_kb, run_open_loop, say, start_target, start_upstream

FEW, MANY, RATE = 1000, 10000, 1000


def one(b, count, body, upstream, label):
    target = start_target("ring", b, upstream)
    if target is None:
        return
    scheduler = target.helpers[0].pids()
    before = rss_kb(scheduler)
    # Every workflow is seen once before the window opens, so the window finds all of them live.
    got = run_open_loop(b, target, body, b.opts.seconds * 2, RATE, workflows=count, warm=count / RATE + 1,
                        poisson=False)
    after = rss_kb(scheduler)
    target.stop()
    say(f"  {label} {count:6} workflows: p50 {got['sent_p50_us']:.0f} us, scheduler {before} -> {after} kB")
    b.note(f"p50_{count}", got["sent_p50_us"])
    b.note(f"p99_{count}", got["sent_p99_us"])
    b.note(f"rss_{count}", after)
    b.note(f"grown_{count}", after - before)


def run(b):
    body = b.file("chat.json", CHAT)
    upstream = start_upstream(b)
    for r in range(min(3, b.opts.rounds)):
        direct = run_open_loop(b, upstream, body, b.opts.seconds, RATE, poisson=False)
        b.note("direct", direct["sent_p50_us"])
        for count in (FEW, MANY):
            one(b, count, body, upstream, f"{r + 1}/{min(3, b.opts.rounds)}")
    m = b.median
    added = {n: None if m(f"p50_{n}") is None else m(f"p50_{n}") - m("direct") for n in (FEW, MANY)}
    grown = None if m("rss_1000") is None else (m("rss_10000") - m("rss_1000")) * 1024 / (MANY - FEW)
    return [
        row("bytes_per_workflow", grown, "B", most=2048),
        ratio_row("p50_10000_vs_1000", added[MANY], "1000 workflows", added[FEW], most=1.1),
        row("added_us_p50_1000", added[FEW], "us"),
        row("added_us_p50_10000", added[MANY], "us"),
        row("us_p99_1000", m("p99_1000"), "us"),
        row("us_p99_10000", m("p99_10000"), "us"),
        row("scheduler_grown_kb_1000", m("grown_1000"), "kB"),
        row("scheduler_grown_kb_10000", m("grown_10000"), "kB"),
    ]
