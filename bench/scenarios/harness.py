# SPDX-License-Identifier: Apache-2.0
"""What all scenarios share: processes with a CPU of their own, samples of what they used, rows."""

import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
PEERS = os.path.join(ROOT, "bench", "peers")
BIN = os.path.join(os.environ.get("BENCH_BUILD", os.path.join(ROOT, "build", "release")), "bin")
TICK = os.sysconf("SC_CLK_TCK")

CPUS = sorted(os.sched_getaffinity(0))
TEST_CPUS = list(CPUS)
LOAD_CPUS = list(CPUS)


def pin(apart):
    """apart: the process under test has one CPU to itself, all others share the rest; else the kernel places everything."""
    TEST_CPUS[:] = CPUS[-1:] if apart else CPUS
    LOAD_CPUS[:] = (CPUS[:-1] or CPUS) if apart else CPUS


class Missing(Exception):
    """A program that this machine lacks."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def program(name):
    path = os.path.join(BIN, name)
    if os.path.exists(path):
        return path
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not found:
        raise Missing(name)
    return found


def free_port():
    """A port that nobody listens on. Taken below the ephemeral range, where no client lands."""
    for _ in range(200):
        port = 20000 + int.from_bytes(os.urandom(2), "big") % 12000
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise RuntimeError("no free port")


class Process:
    """One child. Ended by its pid, never by name."""

    def __init__(self, args, cpus, log, env=None):
        self.args = args
        self.children = []
        self.log = open(log, "ab")
        self.child = subprocess.Popen(
            args,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=dict(os.environ, **(env or {})),
            preexec_fn=lambda: os.sched_setaffinity(0, cpus),
        )

    @property
    def pid(self):
        return self.child.pid

    def line(self):
        return self.child.stdout.readline().decode()

    def pids(self):
        return [self.pid] + self.children

    def find_children(self):
        """nginx has a master and workers."""
        with open(f"/proc/{self.pid}/task/{self.pid}/children") as f:
            self.children = [int(p) for p in f.read().split()]

    def stop(self):
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(3)
            except subprocess.TimeoutExpired:
                for pid in reversed(self.pids()):
                    os.kill(pid, signal.SIGKILL)
                self.child.wait()
        self.child.stdin.close()
        self.child.stdout.close()
        self.log.close()


def cpu_ns(pids):
    """CPU time of all threads of these processes, those that ended included. By the process's CPU
    clock and not from /proc: reaping a process whose /proc files were read can take the kernel seconds."""
    total = 0
    for pid in pids:
        try:
            total += time.clock_gettime_ns(~pid << 3 | 2)  # what clock_getcpuclockid(3) makes of a pid
        except OSError:
            pass
    return total


def rss_kb(pids):
    """Resident memory, that shared with the peer included."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/status") as f:
            total += sum(int(row.split()[1]) for row in f if row.startswith("VmRSS"))
    return total


def slab_kb():
    with open("/proc/meminfo") as f:
        return sum(int(row.split()[1]) for row in f if row.startswith("Slab:"))


def machine_busy_s():
    """Seconds that all CPUs of the machine worked for anybody, stolen time included."""
    with open("/proc/stat") as f:
        v = [int(x) for x in f.readline().split()[1:]]
    return (v[0] + v[1] + v[2] + v[5] + v[6] + v[7]) / TICK


class Window:
    """CPU that a target and its helpers used between two instants, and how much of the machine others took."""

    def __init__(self, target, ours):
        self.pids, self.helpers, self.ours = target.pids(), target.helper_pids(), ours
        self.t0, self.cpu0, self.helper0 = time.monotonic(), cpu_ns(self.pids), cpu_ns(self.helpers)
        self.busy0, self.all0 = machine_busy_s(), cpu_ns(ours)

    def close(self):
        self.seconds = time.monotonic() - self.t0
        self.cpu_us = (cpu_ns(self.pids) - self.cpu0) / 1e3
        self.helper_us = (cpu_ns(self.helpers) - self.helper0) / 1e3
        mine = (cpu_ns(self.ours) - self.all0) / 1e9
        busy = machine_busy_s() - self.busy0
        self.others = max(0.0, busy - mine) / (self.seconds * (os.cpu_count() or 1))
        self.load = self.cpu_us / 1e6 / self.seconds
        return self


class Bench:
    """A run of one benchmark: its folder, its processes, its figures."""

    def __init__(self, opts):
        self.opts = opts
        self.dir = tempfile.mkdtemp(prefix="slipstream-bench-")
        self.running = []
        self.figures = {}
        self.others = []
        self.serial = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for p in reversed(self.running):
            p.stop()
        if self.opts.keep:
            say(f"kept {self.dir}")
        else:
            shutil.rmtree(self.dir, ignore_errors=True)

    def start(self, args, cpus, env=None):
        log = os.path.join(self.dir, f"{os.path.basename(args[0])}.log")
        p = Process(args, cpus, log, env)
        self.running.append(p)
        return p

    def stop(self, p):
        self.running.remove(p)
        p.stop()

    def subdir(self):
        self.serial += 1
        path = os.path.join(self.dir, str(self.serial))
        os.mkdir(path)
        return path

    def fill(self, template, target, **names):
        with open(os.path.join(PEERS, template)) as f:
            text = f.read()
        for name, value in names.items():
            text = text.replace(f"@{name}@", str(value))
        with open(target, "w") as f:
            f.write(text)
        return target

    def file(self, name, data):
        path = os.path.join(self.dir, name)
        with open(path, "wb") as f:
            f.write(data)
        return path

    def note(self, name, value):
        self.figures.setdefault(name, []).append(value)

    def median(self, name):
        values = self.figures.get(name)
        return statistics.median(values) if values else None

    def window(self, target):
        ours = [os.getpid()] + [pid for p in self.running for pid in p.pids()]
        return Window(target, ours)

    def close(self, window):
        window.close()
        self.others.append(window.others)
        return window


def wait_http(url, process, seconds=15, data=None):
    end = time.monotonic() + seconds
    while True:
        try:
            request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=2) as answer:
                return answer.read()
        except OSError as e:
            if process.child.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{process.args[0]} does not answer {url}: {e}") from e
            time.sleep(0.02)


# ---- what is compared ----


class Target:
    """A process under test, reached at port. helpers are its companions, on the load's CPUs."""

    def __init__(self, bench, port, process, helpers=(), front=None):
        self.bench, self.port, self.process = bench, port, process
        self.helpers = list(helpers)
        self.front = front or [process]

    def pids(self):
        return [pid for p in self.front for pid in p.pids()]

    def helper_pids(self):
        return [pid for p in self.helpers for pid in p.pids()]

    def stop(self):
        for p in self.front + self.helpers:
            self.bench.stop(p)


def start_upstream(bench, rate=50):
    port = free_port()
    p = bench.start([program("bench_upstream"), "--port", str(port), "--rate", str(rate)], LOAD_CPUS)
    wait_http(f"http://127.0.0.1:{port}/health", p)
    return Target(bench, port, p)


def start_nginx(bench, upstream, cpus=TEST_CPUS, workers=1, buffering="on"):
    port, folder = free_port(), bench.subdir()
    conf = bench.fill("nginx.conf.in", os.path.join(folder, "nginx.conf"), PORT=port, DIR=folder,
                      UPSTREAM=upstream.port, WORKERS=workers, BUFFERING=buffering,
                      REUSEPORT=" reuseport" if workers > 1 else "")
    p = bench.start([program("nginx"), "-p", folder, "-c", conf, "-e", os.path.join(folder, "e.log")], cpus)
    wait_http(f"http://127.0.0.1:{port}/health", p)
    p.find_children()
    return Target(bench, port, p)


def start_haproxy(bench, upstream, cpus=TEST_CPUS, workers=1):
    port, folder = free_port(), bench.subdir()
    conf = bench.fill("haproxy.cfg.in", os.path.join(folder, "haproxy.cfg"), PORT=port,
                      UPSTREAM=upstream.port, WORKERS=workers)
    p = bench.start([program("haproxy"), "-db", "-f", conf], cpus)
    wait_http(f"http://127.0.0.1:{port}/health", p)
    return Target(bench, port, p)


def start_gateway(bench, upstream, channel, cpus=TEST_CPUS, workers=1, load_cpus=LOAD_CPUS):
    port, folder = free_port(), bench.subdir()
    conf = bench.fill("slipstream.yaml.in", os.path.join(folder, "slipstream.yaml"), PORT=port, DIR=folder,
                      UPSTREAM=upstream.port, CHANNEL=channel)
    # With channel none too: the fleet segment, which only the scheduler writes, names the engines.
    helpers = [bench.start([program(name), "--config", conf], load_cpus)
               for name in ("slipstream-scheduler", "slipstream-mailbox")]
    front = [bench.start([program("slipstream-gateway"), "--config", conf, "--instance", str(i + 1)], cpus)
             for i in range(workers)]
    for p in front:
        wait_http(f"http://127.0.0.1:{port}/v1/chat/completions", p, data=CHAT)
    return Target(bench, port, front[0], helpers, front)


def start_target(name, bench, upstream, **more):
    """A target by the name that rows use, or None where a program is missing."""
    try:
        if name == "direct":
            return upstream
        if name == "nginx":
            return start_nginx(bench, upstream, **more)
        more.pop("buffering", None)
        if name == "haproxy":
            return start_haproxy(bench, upstream, **more)
        return start_gateway(bench, upstream, {"ring": "shm", "nng": "nng", "none": "none"}[name], **more)
    except (Missing, RuntimeError) as e:
        say(f"{name}: {e}")
        return None


def metric(target, name):
    text = wait_http(f"http://127.0.0.1:{target.port}/metrics", target.process).decode()
    for row in text.splitlines():
        if row.startswith(name + " "):
            return float(row.split()[-1])
    return None


# ---- load ----

CHAT = json.dumps(
    {"model": "sim", "max_tokens": 170, "messages": [
        {"role": "system", "content": "You are one of several agents. " * 10},
        {"role": "user", "content": "Say what the next step of the plan is. " * 40}]},
    separators=(",", ":")).encode()
CHAT += b" " * (2048 - len(CHAT))
STREAM = json.dumps({"model": "sim", "stream": True, "messages": [{"role": "user", "content": "Go on."}]},
                    separators=(",", ":")).encode()


def run_open_loop(bench, target, body, seconds, rate, connections=64, workflows=64, warm=1.0, poisson=True):
    """One window of bench_openloop. Returns its figures with those of the process under test."""
    args = [program("bench_openloop"), "--port", str(target.port), "--body", body, "--rate", str(rate),
            "--connections", str(connections), "--workflows", str(workflows),
            "--warm-ms", str(int(warm * 1000)), "--duration-ms", str(int(seconds * 1000))]
    p = bench.start(args + (["--poisson"] if poisson and rate else []), LOAD_CPUS)
    if p.line() != "begin\n":
        raise RuntimeError("the load generator ended early")
    w = bench.window(target)
    result = json.loads(p.line())
    bench.close(w)
    bench.stop(p)
    result["cpu_us"] = w.cpu_us / max(1, result["answered"])
    result["load"] = w.load
    if result["errors"] or result["dropped"]:
        say(f"  {result['errors']} errors, {result['dropped']} not sent")
    return result


def run_wrk(bench, target, body, seconds, connections=64, script="chat.lua", env=None):
    args = [program("wrk"), "-t1", f"-c{connections}", "-s", os.path.join(PEERS, script)]
    for length in (1, seconds):
        p = bench.start(args + [f"-d{int(length)}s", f"http://127.0.0.1:{target.port}"], LOAD_CPUS, env or {"BODY": body})
        w = bench.window(target)
        out = p.child.stdout.read().decode()
        bench.close(w)
        bench.stop(p)
    result = json.loads(next(row for row in out.splitlines() if row.startswith("{")))
    result["rate"] = result["requests"] / (result["us"] / 1e6)
    result["cpu_us"] = w.cpu_us / max(1, result["requests"])
    result["helper_us"] = w.helper_us / max(1, result["requests"])
    result["load"] = w.load
    if result["errors"]:
        say(f"  {result['errors']} errors")
    return result


def run_streams(bench, target, count, seconds, rate, body):
    """One window of bench_streams; memory is read at its end, with all streams open."""
    p = bench.start([program("bench_streams"), "--port", str(target.port), "--streams", str(count), "--body", body,
                     "--warm-ms", "1000", "--duration-ms", str(int(seconds * 1000))], LOAD_CPUS)
    if p.line() != "begin\n":
        raise RuntimeError("the stream reader ended early")
    w = bench.window(target)
    result = json.loads(p.line())
    bench.close(w)
    result["rss_kb"], result["slab_kb"] = rss_kb(target.pids()), slab_kb()
    bench.stop(p)
    result["arrived"] = result["events"] / (count * rate * result["seconds"])
    result["cpu_s_per_million"] = w.cpu_us / max(1, result["events"])
    result["load"] = w.load
    return result


# ---- rows ----


def row(name, value, unit, goal=None, most=None, baseline=None, baseline_value=None, ratio=None):
    """goal: value must be at least this; most: at most this."""
    limit = goal if goal is not None else most
    ok = value is not None
    if ok and limit is not None:
        ok = value >= limit if goal is not None else value <= limit
    return {"name": name, "value": value, "unit": unit, "baseline": baseline, "baseline_value": baseline_value,
            "ratio": ratio, "goal": limit, "goal_is": None if limit is None else "least" if goal is not None else "most",
            "ok": ok}


def ratio_row(name, ours, baseline, baseline_value, goal=None, most=None):
    value = ours / baseline_value if ours is not None and baseline_value else None
    return row(name, value, "x", goal, most, baseline, baseline_value, value)


def machine():
    model = "unknown CPU"
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    with open("/proc/meminfo") as f:
        memory = int(f.readline().split()[1]) // 1048576
    return f"{len(CPUS)} x {model}, {memory} GiB, Linux {os.uname().release}"


def commit():
    try:
        return subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], check=True,
                              capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
