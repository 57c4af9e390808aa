# SPDX-License-Identifier: Apache-2.0
"""Big prompts, one after the other on one connection, inspection and digests included."""

from harness import metric, ratio_row, row, run_open_loop, say, start_target, start_upstream

TARGETS = ["ring", "nginx", "haproxy", "direct"]
ESCAPED = "thirty-eight plain bytes and then a ..\\n"
CJK = "\u4e2d\u6587\u5b57\u7b26\u3002\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\\n"


def chat(size, unit):
    """A conversation of messages of 8 KB, written out by hand so that escapes stay as they are."""
    unit = unit.encode()
    out, i = bytearray(b'{"model":"sim","messages":['), 0
    while len(out) < size:
        out += b'%s{"role":"%s","content":"' % (b"," if i else b"", b"assistant" if i % 2 else b"user")
        out += unit * min(8192 // len(unit), max(1, (size - len(out)) // len(unit)))
        out += b'"}'
        i += 1
    return bytes(out + b"]}")


def run(b):
    bodies = {
        "400k": b.file("400k.json", chat(400_000, ESCAPED)),
        "780k": b.file("780k.json", chat(780_000, ESCAPED)),
        "400k_cjk": b.file("400k_cjk.json", chat(400_000, CJK)),
    }
    upstream = start_upstream(b)
    for r in range(b.opts.rounds):
        targets = {name: start_target(name, b, upstream) for name in TARGETS}
        for size, body in bodies.items():
            for name, target in targets.items():
                if target is None:
                    continue
                got = run_open_loop(b, target, body, b.opts.seconds / 2, rate=0, connections=1, warm=0.5)
                say(f"  {r + 1}/{b.opts.rounds} {size:9} {name:8} {got['cpu_us'] / 1e3:6.3f} ms CPU, "
                    f"p50 {got['p50_us'] / 1e3:6.3f} p99 {got['p99_us'] / 1e3:6.3f} ms")
                b.note(f"{name}_{size}_cpu", got["cpu_us"] / 1e3)
                b.note(f"{name}_{size}_p50", got["p50_us"] / 1e3)
        if targets["ring"] is not None:
            # The longest of a whole round.
            b.note("longest", metric(targets["ring"], "slipstream_gateway_longest_step_seconds") * 1e3)
        for target in targets.values():
            if target not in (None, upstream):
                target.stop()
    m = b.median

    def added(name, size):
        ours, direct = m(f"{name}_{size}_p50"), m(f"direct_{size}_p50")
        return None if ours is None or direct is None else ours - direct

    rows = [
        ratio_row("cpu_vs_nginx_400k", m("ring_400k_cpu"), "nginx", m("nginx_400k_cpu"), most=2.5),
        row("cpu_ms_400k", m("ring_400k_cpu"), "ms", baseline="nginx", baseline_value=m("nginx_400k_cpu")),
        row("added_ms_400k", added("ring", "400k"), "ms", baseline="nginx", baseline_value=added("nginx", "400k")),
        row("longest_step_ms", m("longest"), "ms", most=0.5),
    ]
    for size in bodies:
        for n in TARGETS[:-1]:
            if (n, size) != ("ring", "400k"):
                rows.append(row(f"{n}_cpu_ms_{size}", m(f"{n}_{size}_cpu"), "ms"))
                rows.append(row(f"{n}_added_ms_{size}", added(n, size), "ms"))
    return rows
