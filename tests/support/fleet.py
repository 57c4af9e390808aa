# SPDX-License-Identifier: Apache-2.0
"""The real processes, started from a build folder into a run_dir of their own.

    with Fleet(engines=2, workers=2) as f:
        f.post("/v1/chat/completions", chat())

Leaving the block stops everything with SIGTERM and insists that each process ends by itself, with
exit code 0, without a failed assertion and without a word from a sanitizer.
"""
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

from . import rawhttp, wait
from .metrics import parse_metrics
from .ports import free_port
from .wait import secs, wait_until

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("SLIP_BUILD") or ROOT / "build" / "release").resolve()
SANITIZED = any(word in BUILD.name for word in ("asan", "tsan"))
if "SLIP_TEST_FACTOR" not in os.environ and (SANITIZED or "debug" in BUILD.name):
    wait.set_factor(5.0)

BAD_LOG = re.compile(
    rb"must_failed|AddressSanitizer|LeakSanitizer|ThreadSanitizer|MemorySanitizer|runtime error:"
    rb"|Assertion .* failed|(?:^|\s)broken expr=")


def binary(name):
    return BUILD / "bin" / name


def have(*names):
    return all(binary(n).exists() for n in names)


def _env():
    env = dict(os.environ)
    env.pop("NOTIFY_SOCKET", None)
    env.pop("SLIPSTREAM_CONFIG", None)
    env["ASAN_OPTIONS"] = "detect_leaks=1:abort_on_error=0:exitcode=99:detect_stack_use_after_return=1"
    env["LSAN_OPTIONS"] = f"suppressions={Path(__file__).with_name('lsan.supp')}:print_suppressions=0"
    env["UBSAN_OPTIONS"] = "print_stacktrace=1:halt_on_error=1"
    env["TSAN_OPTIONS"] = "exitcode=99:halt_on_error=0"
    return env


class Process:
    """One process of the fleet. Its standard error is kept over restarts, in one file."""

    def __init__(self, name, argv, log_dir, env=None, ready=None):
        self.name = name
        self.argv = [str(a) for a in argv]
        self.log_path = Path(log_dir) / f"{name}.log"
        self.env = {**_env(), **(env or {})}
        self.ready = ready  # () -> bool
        self.popen = None

    def start(self):
        assert self.popen is None, f"{self.name} runs already"
        log = open(self.log_path, "ab")
        with log:
            self.popen = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env)
        return self

    def wait_ready(self, seconds=10):
        def ready():
            code = self.popen.poll()
            assert code is None, f"{self.name} ended with {code} at its start:\n{self.log()[-3000:]}"
            return self.ready is None or self.ready()

        try:
            wait_until(f"{self.name} is ready", seconds, ready)
        except AssertionError as e:
            raise AssertionError(f"{e}\n{self.log()[-3000:]}") from None
        return self

    @property
    def pid(self):
        return self.popen.pid

    def is_alive(self):
        return self.popen is not None and self.popen.poll() is None

    def log(self):
        try:
            return self.log_path.read_bytes().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""

    def signal(self, sig):
        self.popen.send_signal(sig)

    def kill9(self):
        self.popen.kill()
        self.popen.wait(secs(10))
        self.popen = None

    def wait_end(self, seconds=10):
        """Exit code; the process is forgotten."""
        try:
            code = self.popen.wait(secs(seconds))
        except subprocess.TimeoutExpired:
            self.popen.send_signal(signal.SIGCONT)
            self.popen.kill()
            self.popen.wait(secs(10))
            self.popen = None
            raise AssertionError(f"{self.name} did not end within {secs(seconds):g} s:\n{self.log()[-3000:]}") from None
        self.popen = None
        return code

    def stop(self, seconds=10):
        """SIGTERM, and an end by itself with exit code 0."""
        self.popen.send_signal(signal.SIGTERM)
        code = self.wait_end(seconds)
        assert code == 0, f"{self.name} ended with {code} on SIGTERM:\n{self.log()[-3000:]}"

    def restart(self, seconds=10):
        self.start().wait_ready(seconds)

    def rss_kb(self):
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise AssertionError("no VmRSS")

    def fd_count(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def check_log(self):
        bad = BAD_LOG.search(self.log_path.read_bytes()) if self.log_path.exists() else None
        assert bad is None, f"{self.name} says {bad.group().decode()}:\n{self.log()[bad.start():][:4000]}"


class Engine(Process):
    """A simulated engine."""

    def __init__(self, engine_id, log_dir, model="sim", profile="8b", time_scale=50, extra=()):
        self.id = engine_id
        self.model = model
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__(
            engine_id,
            [binary("slipstream-engine"), "--listen", f"127.0.0.1:{self.port}", "--id", engine_id,
             "--model", model, "--profile", profile, "--time-scale", time_scale, *extra],
            log_dir, ready=lambda: rawhttp.reachable(self.port) == 200)

    def fault(self, mode, count=1, **more):
        a = rawhttp.post(self.port, "/fault", {"mode": mode, "count": count, **more})
        assert a.status in (200, 202, 204), a

    def metrics(self):
        return parse_metrics(rawhttp.get(self.port, "/metrics").body.decode())

    def metric(self, name, **labels):
        return self.metrics().sum(name, **labels)


class Fleet:
    """
    engines     a number of simulated ones, or a list of objects with id, url, model (RawEngine)
    workers     gateway workers; they share one address
    channel     auto, nng or shm
    common, gateway, scheduler, mailbox     settings over the tests' own
    engine      arguments of Engine
    """

    def __init__(self, engines=2, workers=1, channel="auto", with_scheduler=True, with_mailbox=True, common=None,
                 gateway=None, scheduler=None, mailbox=None, engine=None, engine_conf=None, sections=None):
        shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.dir = Path(tempfile.mkdtemp(prefix="slip", dir=shm))
        self.run_dir = self.dir / "run"
        self.run_dir.mkdir()
        self.config = self.dir / "slipstream.yaml"
        self.own_engines = isinstance(engines, int)
        if self.own_engines:
            engines = [Engine(f"e{i + 1}", self.dir, **(engine or {})) for i in range(engines)]
        self.engines = engines
        self.port = free_port()
        self.admin_port = free_port(max(workers, 1))
        self.channel = channel
        self.settings = {
            "common": {"run_dir": str(self.run_dir), "channel": channel, "log_level": "info",
                       "time_scale": (engine or {}).get("time_scale", 50) if self.own_engines else 1,
                       **(common or {})},
            "gateway": {"listen": [f"127.0.0.1:{self.port}"], "admin_listen": [f"127.0.0.1:{self.admin_port}"],
                        **(gateway or {})},
            "scheduler": {"probe_interval_ms": 100, "probe_timeout_ms": "2s", **(scheduler or {})},
            "mailbox": {**(mailbox or {})},
            "engines": [{"id": e.id, "url": e.url, "models": [e.model], **(engine_conf or {})} for e in engines],
            **(sections or {}),
        }
        self.write_config()
        self.log_marks = {}
        self.scheduler = self.mailbox = None
        if with_scheduler:
            self.scheduler = self.process("slipstream-scheduler",
                                          ready=lambda: (self.run_dir / "sock" / "scheduler").exists())
        if with_mailbox:
            self.mailbox = self.process("slipstream-mailbox",
                                        ready=lambda: (self.run_dir / "sock" / "mailbox").exists())
        self.workers = [self.worker(i + 1) for i in range(workers)]

    def write_config(self):
        self.config.write_text(to_yaml(self.settings))

    def process(self, name, *args, ready=None, log=None, env=None):
        p = Process(log or name.removeprefix("slipstream-"), [binary(name), "--config", self.config, *args], self.dir,
                    env=env, ready=ready)
        return p

    def worker(self, instance, with_scheduler=True):
        port = self.admin_port + instance - 1
        path = "/ready" if self.scheduler and with_scheduler and self.engines else "/health"
        return self.process("slipstream-gateway", "--instance", instance, log=f"gateway-{instance}",
                            ready=lambda: rawhttp.reachable(port, path) == 200)

    def processes(self):
        own = self.engines if self.own_engines else []
        return [p for p in [*self.workers, self.mailbox, self.scheduler, *own] if p is not None]

    # -- life --

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__(BaseException)
            raise
        return self

    def __exit__(self, kind, *exc):
        try:
            if kind is not None:
                self.kill()
            else:
                self.stop()
        finally:
            if "SLIP_KEEP" not in os.environ:
                shutil.rmtree(self.dir, ignore_errors=True)

    def start(self):
        if self.own_engines:
            for e in self.engines:
                e.start()
            for e in self.engines:
                e.wait_ready()
        for p in (self.scheduler, self.mailbox):
            if p is not None:
                p.start()
        for p in (self.scheduler, self.mailbox):
            if p is not None:
                p.wait_ready()
        for w in self.workers:
            w.start()
        for w in self.workers:
            w.wait_ready()
        if self.scheduler and self.workers and self.engines:
            self.wait_engines()
        if self.mailbox:
            for w in self.workers:
                wait_until(f"{w.name} has its mailbox", 10, lambda: " mailbox_up " in w.log())

    def stop(self):
        """Everything ends by SIGTERM, gateways first, and nobody complained."""
        try:
            order = [self.workers, [self.mailbox], [self.scheduler], self.engines if self.own_engines else []]
            for group in order:
                alive = [p for p in group if p is not None and p.is_alive()]
                for p in alive:
                    p.signal(signal.SIGTERM)
                for p in alive:
                    code = p.wait_end()
                    assert code == 0, f"{p.name} ended with {code} on SIGTERM:\n{p.log()[-3000:]}"
            for p in self.processes():
                if p.popen is not None:
                    code = p.popen.poll()
                    raise AssertionError(f"{p.name} had died with {code}:\n{p.log()[-3000:]}")
                p.check_log()
        except BaseException:
            self.kill()
            raise

    def kill(self):
        for p in self.processes():
            if p.popen is not None:
                with contextlib.suppress(ProcessLookupError):
                    p.popen.kill()
                p.popen.wait()
                p.popen = None

    def mark_logs(self):
        """From here on logs() tells news only."""
        self.log_marks = {p: p.stat().st_size for p in self.dir.glob("*.log")}

    def logs(self, limit=1500):
        out = []
        for path in sorted(self.dir.glob("*.log")):
            text = path.read_bytes()[self.log_marks.get(path, 0):].decode("utf-8", "replace")
            if text:
                out.append(f"---- {path.name}\n{text[-limit:]}")
        return "\n".join(out)

    # -- talking to it --

    @property
    def base_url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    def get(self, path, **kw):
        return rawhttp.get(self.port, path, **kw)

    def post(self, path, body, headers=(), **kw):
        return rawhttp.post(self.port, path, body, headers, **kw)

    def fetch(self, method, path, body=None, headers=(), **kw):
        return rawhttp.fetch(self.port, method, path, body, headers, **kw)

    def chat(self, text="hello", headers=(), path="/v1/chat/completions", timeout=20, **more):
        model = more.pop("model", self.engines[0].model if self.engines else "sim")
        more.setdefault("max_tokens", 4)
        return self.post(path, rawhttp.chat(model, text, **more), headers, timeout=timeout)

    def client(self, **kw):
        return rawhttp.RawClient(self.port, **kw)

    def status(self, workflow):
        return self.get(f"/v1/workflows/{workflow}/status")

    def settled(self, workflow, requests):
        """Status of a workflow once so many requests have been counted and have all ended."""
        def is_settled():
            a = self.status(workflow)
            s = a.json()
            return a.status == 200 and s["total_requests"] == requests and s["inflight"] == 0 and s

        return wait_until(f"{requests} requests of {workflow} are counted", 5, is_settled)

    def metrics(self, worker=1):
        """What the admin listener of one worker says about the whole fleet."""
        return parse_metrics(rawhttp.get(self.admin_port + worker - 1, "/metrics").body.decode())

    def wait_metric(self, name, value, seconds=5, worker=1, **labels):
        wait_until(f"{name}{labels} == {value} (is {self.metrics(worker).sum(name, **labels)})", seconds,
                   lambda: self.metrics(worker).sum(name, **labels) == value)

    def engine_rows(self, worker=1):
        """What a gateway worker knows of each engine, by id."""
        a = rawhttp.get(self.admin_port + worker - 1, "/engines")
        assert a.status == 200, a
        return {e["id"]: e for e in a.json()["engines"]}

    def healthy_engines(self):
        return sorted(e["id"] for e in self.engine_rows().values() if e["healthy"])

    def leases(self):
        """Requests in flight by the scheduler's books; -1 when it cannot be asked."""
        r = slipctl_run(self, "engines", "--json")
        return sum(e["running"] for e in json.loads(r.stdout)["engines"]) if r.returncode == 0 else -1

    def wait_no_lease(self, seconds=5):
        wait_until("no lease is held", seconds, lambda: self.leases() == 0, interval=0.02)

    def links(self):
        """How often each worker has met a scheduler."""
        return [w.log().count(" scheduler_up ") for w in self.workers]

    def wait_relinked(self, before, seconds=5):
        """Until every worker has met another one since links() told before."""
        wait_until("every worker has found the new scheduler", seconds,
                   lambda: all(now > then for now, then in zip(self.links(), before)))

    def wait_engines(self, ids=None, seconds=10):
        want = sorted(ids if ids is not None else [e.id for e in self.engines])
        wait_until(f"healthy engines are {want}", seconds, lambda: self.healthy_engines() == want, interval=0.03)


def slipctl_run(fleet, *args, timeout=20):
    return subprocess.run([str(binary("slipctl")), "--config", str(fleet.config), *args], capture_output=True,
                          text=True, timeout=secs(timeout), env=_env())


def slipctl(fleet, *args):
    """Parsed --json output of slipctl."""
    r = slipctl_run(fleet, *args)
    assert r.returncode == 0, f"slipctl {' '.join(args)}: {r.returncode}\n{r.stdout}\n{r.stderr}"
    return json.loads(r.stdout)


def to_yaml(settings):
    """Plain block YAML of the configuration's shape: sections of scalars, lists of scalars, lists of rows."""
    out = []
    for section, body in settings.items():
        if isinstance(body, list):
            out.append(f"{section}:" if body else f"{section}: []")
            for row in body:
                lead = "  - "
                for key, value in row.items():
                    out.append(f"{lead}{key}: {_scalar(value)}")
                    lead = "    "
        elif body:
            out.append(f"{section}:")
            out += [f"  {key}: {_scalar(value)}" for key, value in body.items()]
    return "\n".join(out) + "\n"


def _scalar(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_scalar(v) for v in value) + "]"
    if isinstance(value, (int, float)):
        return str(value)
    return json.dumps(value)


class Load:
    """Threads that send chats until told to stop, each on one connection kept alive, and remember every answer."""

    def __init__(self, fleet, threads=4, workflows=8, **body):
        self.fleet = fleet
        self.answers = []  # (status, workflow, engine)
        self.errors = []  # words
        self.body = body
        self.workflows = workflows
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.threads = [threading.Thread(target=self._run, args=(i,), daemon=True) for i in range(threads)]

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *exc):
        self.stop()

    def stop(self):
        self._stop.set()
        for t in self.threads:
            t.join(secs(30))
            assert not t.is_alive(), "a request of the load hangs"

    def count(self):
        with self._lock:
            return len(self.answers)

    def wait_more(self, n, seconds=10):
        """Waits for n answers that come after this moment."""
        start = self.count()
        wait_until(f"{n} more answers under load; errors {self.errors[:3]}", seconds, lambda: self.count() >= start + n)
        with self._lock:
            return self.answers[start:]

    def _run(self, index):
        client = None
        n = index
        while not self._stop.is_set():
            workflow = f"load-{n % self.workflows}"
            n += len(self.threads)
            try:
                if client is None:
                    client = self.fleet.client()
                model = self.fleet.engines[0].model
                client.request("POST", "/v1/chat/completions",
                               rawhttp.chat(model, f"load {n}", **{"max_tokens": 4, **self.body}),
                               [("X-Workflow-ID", workflow)])
                a = client.read_answer("POST")
                with self._lock:
                    self.answers.append((a.status, workflow, a.header("x-slipstream-engine")))
                if a.header("connection", "").lower() == "close":
                    client.close()
                    client = None
            except (OSError, rawhttp.Broken) as e:
                with self._lock:
                    self.errors.append(f"{type(e).__name__}: {e}")
                if client:
                    client.close()
                client = None
        if client:
            client.close()
