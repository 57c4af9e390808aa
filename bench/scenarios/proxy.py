# SPDX-License-Identifier: Apache-2.0
"""Requests/s of one worker with the scheduler hop: a 2 KB chat POST, a 1 KB answer, 64 connections."""

from harness import CHAT, CPUS, ratio_row, row, run_wrk, say, start_target, start_upstream

TARGETS = ["ring", "nng", "none", "nginx", "haproxy", "direct"]
PAIRS = ["ring", "nng", "nginx", "haproxy"]


def measure(b, names, tag, seconds, rounds, upstream, body, **more):
    targets = {name: start_target(name, b, upstream, **({} if name == "direct" else more)) for name in names}
    for r in range(rounds):
        for name, target in targets.items():
            if target is None:
                continue
            got = run_wrk(b, target, body, seconds)
            say(f"  {tag}{r + 1}/{rounds} {name:8} {got['rate']:8.0f} req/s {got['cpu_us']:6.1f} us/req "
                f"busy {got['load'] * 100:.0f} %, helpers {got['helper_us']:.1f} us/req")
            b.note(f"{tag}{name}_rate", got["rate"])
            b.note(f"{tag}{name}_cpu", got["cpu_us"])
            b.note(f"{tag}{name}_busy", got["load"] * 100)
            if target.helpers:
                b.note(f"{tag}{name}_scheduler_cpu", got["helper_us"])
    for target in targets.values():
        if target not in (None, upstream):
            target.stop()


def run(b):
    body = b.file("chat.json", CHAT)
    upstream = start_upstream(b)
    measure(b, TARGETS, "", b.opts.seconds, b.opts.rounds, upstream, body)
    measure(b, PAIRS, "2w_", b.opts.seconds, min(3, b.opts.rounds), upstream, body, cpus=CPUS, workers=2)
    rate = {n: b.median(f"{n}_rate") for n in TARGETS}
    rows = [
        ratio_row("ring_vs_nginx", rate["ring"], "nginx", rate["nginx"], goal=1.0),
        ratio_row("ring_vs_haproxy", rate["ring"], "haproxy", rate["haproxy"], goal=0.9),
        ratio_row("nng_vs_nginx", rate["nng"], "nginx", rate["nginx"], goal=0.65),
    ]
    for n in TARGETS:
        rows.append(row(f"{n}_req_s", rate[n], "req/s"))
        if n != "direct":
            rows.append(row(f"{n}_cpu_us", b.median(f"{n}_cpu"), "us/req"))
            rows.append(row(f"{n}_busy", b.median(f"{n}_busy"), "% of a CPU"))
        if n in ("ring", "nng"):
            rows.append(row(f"{n}_scheduler_cpu_us", b.median(f"{n}_scheduler_cpu"), "us/req, with mailbox"))
    for n in PAIRS:
        rows.append(row(f"{n}_2_workers_req_s", b.median(f"2w_{n}_rate"), "req/s"))
        rows.append(row(f"{n}_2_workers_cpu_us", b.median(f"2w_{n}_cpu"), "us/req"))
    return rows
