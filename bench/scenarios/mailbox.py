# SPDX-License-Identifier: Apache-2.0
"""Messages between agents beside Redis 7 and NATS JetStream, over REST beside the proxy, and in memory."""

import json
import os
import subprocess
import time

from harness import (CHAT, LOAD_CPUS, TEST_CPUS, Missing, Target, free_port, pin, program, ratio_row, row, rss_kb,
                     run_wrk, say, start_upstream, wait_http)

CALLERS = 64
PAYLOAD = 1024
LARGE, LARGE_CALLERS = 65536, 16
READERS = 64
POLL_RATE = 1000
QUEUE_FOR_RECEIVES = 250_000
PARKED, PARKED_BASE, AGENTS_PER_WORKFLOW = 10_000, 200, 10
DEEP, SHALLOW, RECEIVES = 1_000_000, 1_000, 20_480
SCALE = float(os.environ.get("MAILBOX_SCALE", "1"))  # less than 1: fewer parked polls and queued messages, for a look


def scaled(n):
    return max(1, int(n * SCALE))


def apart(yes):
    """BENCH_PIN forces one way."""
    pin(os.environ.get("BENCH_PIN", "1" if yes else "0") == "1")


# ---- processes ----


class Mailbox(Target):
    """A mailbox with its scheduler, to which it tells what came for whom; with an upstream a gateway in front."""

    def __init__(self, bench, store, upstream=None, channel="shm"):
        port, folder = free_port(), bench.subdir()
        conf = bench.fill("mailbox.yaml.in", os.path.join(folder, "slipstream.yaml"), PORT=port, DIR=folder, STORE=store,
                          CHANNEL=channel, UPSTREAM=upstream.port if upstream else free_port())
        self.url = f"ipc://{folder}/sock/mailbox"
        helpers = [bench.start([program("slipstream-scheduler"), "--config", conf], LOAD_CPUS)]
        self.mailbox = bench.start([program("slipstream-mailbox"), "--config", conf], TEST_CPUS)
        front = [self.mailbox]
        if upstream:
            helpers.append(self.mailbox)
            front = [bench.start([program("slipstream-gateway"), "--config", conf, "--instance", "1"], TEST_CPUS)]
        super().__init__(bench, port, front[0], helpers, front)
        self.tool("--status")  # waits until it is up
        if upstream:
            wait_http(f"http://127.0.0.1:{port}/v1/chat/completions", front[0], data=CHAT)

    def tool(self, *args):
        out = subprocess.run([program("bench_fill"), "--url", self.url, *args], check=True, capture_output=True, text=True,
                             preexec_fn=lambda: os.sched_setaffinity(0, LOAD_CPUS)).stdout
        return json.loads(out)


def start_redis(b, *args):
    folder = b.subdir()
    path = os.path.join(folder, "redis.sock")
    p = b.start([program("redis-server"), "--dir", folder, "--unixsocket", path, "--save", "", *args], TEST_CPUS)
    wait_for(p, lambda: os.path.exists(path))
    return Target(b, path, p)


def start_jetstream(b):
    port, folder = free_port(), b.subdir()
    p = b.start([program("nats-server"), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", folder, "-l",
                 os.path.join(folder, "log")], TEST_CPUS)
    wait_for(p, lambda: "Server is ready" in read(os.path.join(folder, "log")))
    return Target(b, port, p)


def read(path):
    try:
        with open(path) as f:
            return f.read()
    except OSError:
        return ""


def wait_for(p, ready, seconds=15):
    end = time.monotonic() + seconds
    while not ready():
        if p.child.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"{p.args[0]} does not come up")
        time.sleep(0.02)


def attempt(name, start, *args):
    try:
        return start(*args)
    except (Missing, RuntimeError, subprocess.CalledProcessError) as e:
        say(f"{name}: {e}")
        return None


def drive(b, target, args, seconds, warm=1.0):
    """One window of a driver. None: the driver ended early."""
    p = b.start(args + ["--warm-ms", str(int(warm * 1000)), "--duration-ms", str(int(seconds * 1000))], LOAD_CPUS)
    if p.line() != "begin\n":
        b.stop(p)
        raise RuntimeError(f"{args[0]} ended early")
    w = b.window(target)
    line = p.line()
    b.close(w)
    b.stop(p)
    if not line:
        raise RuntimeError(f"{args[0]} ended early")
    got = json.loads(line)
    got["cpu_us"] = w.cpu_us / max(1, got["count"])
    got["load"] = w.load
    if got["errors"]:
        say(f"  {got['errors']} errors")
    return got


# ---- send, receive, acknowledge: 64 agents ----


def native(b):
    """Servers have one CPU, drivers the other."""
    apart(True)
    targets = {
        "mem": attempt("mem", Mailbox, b, "memory"),
        "redis": attempt("redis", start_redis, b, "--port", "0", "--appendonly", "no"),
        "sqlite": attempt("sqlite", Mailbox, b, "sqlite"),
        "redis_aof": attempt("redis_aof", start_redis, b, "--port", "0", "--appendonly", "yes", "--appendfsync", "everysec"),
        "jetstream": attempt("jetstream", start_jetstream, b),
    }
    targets["redis_pipelined"] = targets["redis"]
    args = {
        "mem": lambda t: [program("bench_callers"), "--url", t.url],
        "sqlite": lambda t: [program("bench_callers"), "--url", t.url],
        "redis": lambda t: [program("bench_redis"), "--socket", t.port],
        "redis_aof": lambda t: [program("bench_redis"), "--socket", t.port],
        "redis_pipelined": lambda t: [program("bench_redis"), "--pipeline", "--socket", t.port],
        "jetstream": lambda t: [program("bench_jetstream"), "--url", f"nats://127.0.0.1:{t.port}"],
    }
    for r in range(b.opts.rounds):
        for name, target in targets.items():
            got = target and attempt(name, lambda: drive(b, target, args[name](target), b.opts.seconds))
            if not got:
                continue
            say(f"  {r + 1}/{b.opts.rounds} {name:16} {got['rate']:8.0f} messages/s {got['cpu_us']:6.1f} us each, "
                f"busy {got['load'] * 100:.0f} %, p50 {got['p50_us']:.0f} us, p99 {got['p99_us']:.0f} us")
            for key in ("rate", "cpu_us", "p50_us", "p99_us"):
                b.note(f"{name}_{key}", got[key])
    for target in set(targets.values()) - {None}:
        target.stop()
    rate = {n: b.median(f"{n}_rate") for n in targets}
    rows = [
        ratio_row("mem_vs_redis", rate["mem"], "redis", rate["redis"], goal=1.0),
        ratio_row("sqlite_vs_redis_aof", rate["sqlite"], "redis_aof", rate["redis_aof"], goal=1.0),
        ratio_row("sqlite_vs_jetstream", rate["sqlite"], "jetstream", rate["jetstream"], goal=3.0),
    ]
    for n in targets:
        rows += [row(f"{n}_msg_s", rate[n], "messages/s"), row(f"{n}_cpu_us", b.median(f"{n}_cpu_us"), "us/message"),
                 row(f"{n}_p50_us", b.median(f"{n}_p50_us"), "us"), row(f"{n}_p99_us", b.median(f"{n}_p99_us"), "us")]
    return rows


# ---- large payloads: compressed on the way, or not ----


def large(b):
    """64 KiB of JSON that shrinks: the mailbox stores it compressed in either case."""
    apart(True)
    targets = {f"{store}_{carrier}": attempt(store, Mailbox, b, store, None, channel)
               for store in ("memory", "sqlite") for carrier, channel in (("rings", "shm"), ("nng", "nng"))}
    for r in range(b.opts.rounds):
        for name, target in targets.items():
            for way, more in (("raw", []), ("lz4", ["--lz4"])):
                args = [program("bench_callers"), "--callers", str(LARGE_CALLERS), "--bytes", str(LARGE), *more]
                got = target and attempt(name, lambda: drive(b, target, [*args, "--url", target.url], b.opts.seconds))
                if not got:
                    continue
                say(f"  {r + 1}/{b.opts.rounds} {name} {way} {got['rate']:8.0f} messages/s, mailbox {got['cpu_us']:6.1f} us each, "
                    f"client {got['own_us']:6.1f} us, {got['wire_bytes']:.0f} bytes, p99 {got['p99_us']:.0f} us")
                for key in ("rate", "cpu_us", "own_us", "wire_bytes"):
                    b.note(f"wire_{name}_{way}_{key}", got[key])
    for target in targets.values():
        if target:
            target.stop()
    rows = [ratio_row("wire_lz4_vs_raw", b.median("wire_sqlite_nng_lz4_rate"), "raw", b.median("wire_sqlite_nng_raw_rate"), goal=1.0),
            ratio_row("wire_lz4_cpu_vs_raw", b.median("wire_sqlite_rings_lz4_cpu_us"), "raw us", b.median("wire_sqlite_rings_raw_cpu_us"),
                      most=0.8)]
    for name in targets:
        raw = b.median(f"wire_{name}_raw_rate")
        rows.append(ratio_row(f"wire_{name}_lz4_vs_raw", b.median(f"wire_{name}_lz4_rate"), "raw", raw))
        for way in ("raw", "lz4"):
            rows += [row(f"wire_{name}_{way}_msg_s", b.median(f"wire_{name}_{way}_rate"), "messages/s"),
                     row(f"wire_{name}_{way}_cpu_us", b.median(f"wire_{name}_{way}_cpu_us"), "us/message, mailbox"),
                     row(f"wire_{name}_{way}_own_us", b.median(f"wire_{name}_{way}_own_us"), "us/message, client")]
    return rows + [row(f"wire_{way}_bytes", b.median(f"wire_memory_rings_{way}_wire_bytes"), "bytes/message") for way in ("raw", "lz4")]


# ---- REST ----


def rest_round(b, tag, target, body, payload, r):
    """wrk on one gateway worker: the proxy, then sends, then receives of what was queued."""
    work = {"proxy": {}, "send": {"script": "mail.lua", "env": {"WORK": "send", "PAYLOAD": payload}},
            "receive": {"script": "mail.lua", "env": {"WORK": "receive"}}}
    if tag:
        work.pop("proxy")
    for name, more in work.items():
        if name == "receive":
            lacking = scaled(QUEUE_FOR_RECEIVES) - target.tool("--status")["messages"]
            if lacking > 0:
                target.tool("--fill", str(lacking), "--boxes", "64")
        got = run_wrk(b, target, body, b.opts.seconds, **more)
        if name == "receive" and target.tool("--status")["messages"] < 64 * 64:
            say("  the mailboxes ran empty")
            got["rate"] = None
        if got["rate"] is None or got["errors"]:
            continue
        say(f"  {r + 1}/{b.opts.rounds} {tag}{name:8} {got['rate']:8.0f} req/s {got['cpu_us']:6.1f} us/req, "
            f"mailbox and scheduler {got['helper_us']:.1f} us/req")
        for key in ("rate", "cpu_us", "helper_us"):
            b.note(f"rest_{tag}{name}_{key}", got[key])


def rest(b, upstream):
    """As proxy does it: nothing is pinned."""
    apart(False)
    body, payload = b.file("chat.json", CHAT), b.file("payload.json", incompressible())
    targets = {"": attempt("rest", Mailbox, b, "memory", upstream), "sqlite_": attempt("rest", Mailbox, b, "sqlite", upstream)}
    for r in range(b.opts.rounds):
        for tag, target in targets.items():
            if target:
                attempt("rest", rest_round, b, tag, target, body, payload, r)
    for target in targets.values():
        if target:
            target.stop()
    proxy = b.median("rest_proxy_rate")
    rows = [ratio_row("rest_send_vs_proxy", b.median("rest_send_rate"), "proxy", proxy, goal=0.6),
            ratio_row("rest_receive_vs_proxy", b.median("rest_receive_rate"), "proxy", proxy, goal=0.6),
            ratio_row("rest_sqlite_send_vs_proxy", b.median("rest_sqlite_send_rate"), "proxy", proxy),
            ratio_row("rest_sqlite_receive_vs_proxy", b.median("rest_sqlite_receive_rate"), "proxy", proxy)]
    for n in ("proxy", "send", "receive", "sqlite_send", "sqlite_receive"):
        rows += [row(f"rest_{n}_req_s", b.median(f"rest_{n}_rate"), "req/s"),
                 row(f"rest_{n}_cpu_us", b.median(f"rest_{n}_cpu_us"), "us/req"),
                 row(f"rest_{n}_helper_us", b.median(f"rest_{n}_helper_us"), "us/req, mailbox and scheduler")]
    return rows


def incompressible():
    import base64
    return b'"' + base64.urlsafe_b64encode(os.urandom(PAYLOAD))[:PAYLOAD - 2] + b'"'


# ---- parked readers ----


def polls(b, upstream):
    apart(False)
    ours = attempt("polls", Mailbox, b, "memory", upstream)
    port = free_port()
    redis = attempt("redis", start_redis, b, "--port", str(port), "--bind", "127.0.0.1", "--appendonly", "no")
    common = ["--readers", str(READERS), "--rate", str(POLL_RATE)]
    targets = {"poll": (ours, "bench_polls", ours and ours.port), "blpop": (redis, "bench_blpop", port)}
    for r in range(b.opts.rounds):
        for name, (target, tool, at) in targets.items():
            got = target and attempt(name, lambda: drive(b, target, [program(tool), "--port", str(at), *common],
                                                         b.opts.seconds, warm=2.0))
            if not got or got["count"] < 0.98 * POLL_RATE * b.opts.seconds * 0.95:
                say(f"  {name}: {got and got['count']} messages arrived")
                continue
            say(f"  {r + 1}/{b.opts.rounds} {name:8} p50 {got['p50_us']:.0f} us, p99 {got['p99_us']:.0f} us, "
                f"{got['cpu_us']:.1f} us/message")
            for key in ("p50_us", "p99_us", "cpu_us"):
                b.note(f"{name}_{key}", got[key])
    for target, _, _ in targets.values():
        if target:
            target.stop()
    rows = []
    for p in ("p50", "p99"):
        blpop = b.median(f"blpop_{p}_us")
        rows.append(ratio_row(f"poll_{p}_vs_blpop", b.median(f"poll_{p}_us"), "blpop us", blpop, most=2.0))
    for n in ("poll", "blpop"):
        rows += [row(f"{n}_{p}_us", b.median(f"{n}_{p}_us"), "us") for p in ("p50", "p99")]
    return rows


def park(b, target, first, count):
    p = b.start([program("bench_polls"), "--port", str(target.port), "--readers", str(count), "--first", str(first),
                 "--agents", str(AGENTS_PER_WORKFLOW), "--rate", "0", "--warm-ms", "0", "--duration-ms", "500"], LOAD_CPUS)
    if p.line() != "begin\n" or not p.line():
        raise RuntimeError("the readers ended early")
    waiting = target.tool("--status")["waiting"]
    if waiting != first + count:
        raise RuntimeError(f"{waiting} polls are parked, not {first + count}")
    return rss_kb(target.pids()), rss_kb([target.mailbox.pid]), p


def parked(b, upstream):
    """A fresh worker and a fresh mailbox each time."""
    apart(True)
    n = max(scaled(PARKED), 2 * PARKED_BASE)
    for _ in range(min(3, b.opts.rounds)):
        target = attempt("parked", Mailbox, b, "memory", upstream)
        if not target:
            break
        try:
            gw0, mbox0, a = park(b, target, 0, PARKED_BASE)
            gw1, mbox1, z = park(b, target, PARKED_BASE, n - PARKED_BASE)
            gw, mbox = (gw1 - gw0) / (n - PARKED_BASE), (mbox1 - mbox0) / (n - PARKED_BASE)
            say(f"  {n} parked polls: {gw:.2f} KB gateway, {mbox:.2f} KB mailbox each")
            for key, value in (("kb", gw + mbox), ("kb_gateway", gw), ("kb_mailbox", mbox)):
                b.note(f"parked_{key}", value)
            b.stop(z)
            b.stop(a)
        except RuntimeError as e:
            say(f"parked: {e}")
        target.stop()
    return [row("kb_per_parked_poll", b.median("parked_kb"), "KB", most=8),
            row("kb_per_parked_poll_gateway", b.median("parked_kb_gateway"), "KB"),
            row("kb_per_parked_poll_mailbox", b.median("parked_kb_mailbox"), "KB")]


# ---- depth ----


def deep(b):
    """One mailbox with a million messages, beside one with a thousand."""
    apart(True)
    for _ in range(min(3, b.opts.rounds)):
        us = {}
        for name, depth in (("1k", SHALLOW), ("1m", scaled(DEEP))):
            target = attempt("deep", Mailbox, b, "memory")
            if not target:
                return []
            before = rss_kb([target.mailbox.pid])
            failed = target.tool("--fill", str(depth))["failed"]
            grown = (rss_kb([target.mailbox.pid]) - before) * 1024 / (depth * PAYLOAD)
            got = target.tool("--receive", str(RECEIVES), "--pid", str(target.mailbox.pid))
            target.stop()
            if failed or got["failed"]:
                say(f"deep: {failed} sends and {got['failed']} receives failed")
                continue
            us[name] = got["us"]
            b.note(f"receive_{name}", got["us"])
            if name == "1m":
                b.note("memory", grown)
            say(f"  {depth} messages queued: {got['us']:.2f} us per receive, {grown:.2f} of the payload")
        if len(us) == 2:
            b.note("receive_ratio", us["1m"] / us["1k"])
    return [row("memory_vs_payload", b.median("memory"), "x", most=1.3),
            ratio_row("receive_us_1m_vs_1k", b.median("receive_1m"), "1k us", b.median("receive_1k"), most=2),
            row("receive_1m_us", b.median("receive_1m"), "us CPU")]


PARTS = {"native": native, "large": large, "rest": rest, "polls": polls, "parked": parked, "deep": deep}


def run(b):
    only = b.opts.only or list(PARTS)
    unknown = set(only) - set(PARTS)
    if unknown:
        raise SystemExit(f"mailbox has no part {', '.join(sorted(unknown))}, only {', '.join(PARTS)}")
    apart(False)
    upstream = start_upstream(b) if set(only) & {"rest", "polls", "parked"} else None
    return [r for name, part in PARTS.items() if name in only
            for r in (part(b, upstream) if name in ("rest", "polls", "parked") else part(b))]
