# SPDX-License-Identifier: Apache-2.0
"""Event streams at 50 events/s each: CPU per million events, memory per stream, age of the events."""

from harness import STREAM, ratio_row, row, run_streams, say, start_target, start_upstream

TARGETS = ["ring", "nginx", "haproxy"]
FEW, MANY, RATE = 200, 1000, 50
ARRIVED = 0.98


def one(b, name, count, body, upstream, label):
    """A fresh process each time: memory of earlier runs must not hide what a stream costs."""
    target = start_target(name, b, upstream, buffering="off")
    if target is None:
        return
    got = run_streams(b, target, count, b.opts.seconds, RATE, body)
    target.stop()
    counts = got["arrived"] >= ARRIVED
    say(f"  {label} {name:8} {count:5} {got['cpu_s_per_million']:6.2f} s/M events, p50 {got['p50_us']:.0f} "
        f"p99 {got['p99_us']:.0f} us, rss {got['rss_kb']} kB, {got['arrived'] * 100:.1f} % arrived, "
        f"busy {got['load'] * 100:.0f} %{'' if counts else ': does not count'}")
    b.note(f"{name}_{count}_arrived", got["arrived"] * 100)
    if counts:
        b.note(f"{name}_{count}_cpu", got["cpu_s_per_million"])
        b.note(f"{name}_{count}_rss", got["rss_kb"])
        b.note(f"{name}_{count}_slab", got["slab_kb"])
        b.note(f"{name}_{count}_p50", got["p50_us"])
        b.note(f"{name}_{count}_p99", got["p99_us"])


def per_stream(b, name, what):
    few, many = b.median(f"{name}_{FEW}_{what}"), b.median(f"{name}_{MANY}_{what}")
    return None if few is None or many is None else (many - few) / (MANY - FEW)


def run(b):
    body = b.file("stream.json", STREAM)
    upstream = start_upstream(b, RATE)
    for r in range(b.opts.rounds):
        for count in (FEW, MANY):
            for name in TARGETS:
                one(b, name, count, body, upstream, f"{r + 1}/{b.opts.rounds}")
    m = b.median
    rows = [
        ratio_row("cpu_vs_nginx_200", m("ring_200_cpu"), "nginx", m("nginx_200_cpu"), most=0.95),
        ratio_row("cpu_vs_nginx_1000", m("ring_1000_cpu"), "nginx", m("nginx_1000_cpu"), most=0.95),
        ratio_row("cpu_vs_haproxy_1000", m("ring_1000_cpu"), "haproxy", m("haproxy_1000_cpu"), most=1.0),
        row("rss_kb_per_stream", per_stream(b, "ring", "rss"), "kB", most=10, baseline="nginx",
            baseline_value=per_stream(b, "nginx", "rss")),
        ratio_row("delay_p99_vs_nginx_200", m("ring_200_p99"), "nginx", m("nginx_200_p99"), most=1.2),
    ]
    for n in TARGETS:
        if n != "ring":
            rows.append(row(f"{n}_rss_kb_per_stream", per_stream(b, n, "rss"), "kB"))
        rows.append(row(f"{n}_kernel_kb_per_stream", per_stream(b, n, "slab"), "kB slab, whole machine"))
        for count in (FEW, MANY):
            rows.append(row(f"{n}_{count}_cpu", m(f"{n}_{count}_cpu"), "s/million events"))
            rows.append(row(f"{n}_{count}_delay_p50", m(f"{n}_{count}_p50"), "us"))
            rows.append(row(f"{n}_{count}_delay_p99", m(f"{n}_{count}_p99"), "us"))
            rows.append(row(f"{n}_{count}_arrived", m(f"{n}_{count}_arrived"), "%"))
    return rows
