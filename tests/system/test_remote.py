# SPDX-License-Identifier: Apache-2.0
"""
Gateways on other hosts: a run_dir of their own, so no shared memory with the scheduler, and tcp or
tls+tcp to it.
"""
import contextlib
import json
import signal
import socket
import struct
import subprocess

import pytest
from support import rawhttp
from support.fleet import Engine, Fleet, Load, Process, binary, slipctl, to_yaml
from support.ports import free_port
from support.wait import secs, wait_until

PATH = "/v1/chat/completions"


def wf(workflow):
    return [("X-Workflow-ID", workflow)]


def openssl(*args):
    subprocess.run(["openssl", *[str(a) for a in args]], check=True, capture_output=True, timeout=secs(30))


def make_ca(folder, name):
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
            f"/CN={name}", "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem")
    return folder / f"{name}.pem"


@pytest.fixture(scope="session")
def pki(tmp_path_factory):
    """ca.pem, server.pem and server.key for localhost, other.pem of a CA that nobody asked."""
    folder = tmp_path_factory.mktemp("pki")
    make_ca(folder, "ca")
    make_ca(folder, "other")
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=localhost", "-keyout",
            folder / "server.key", "-out", folder / "server.csr")
    (folder / "names").write_text("subjectAltName=DNS:localhost\n")
    openssl("x509", "-req", "-in", folder / "server.csr", "-CA", folder / "ca.pem", "-CAkey", folder / "ca.key",
            "-CAcreateserial", "-days", "2", "-extfile", folder / "names", "-out", folder / "server.pem")
    (folder / "key").write_text("between-hosts\n")
    (folder / "wrong-key").write_text("somebody-else\n")
    return folder


class Far(Fleet):
    """Scheduler and mailbox on one host; far gateways that know nothing but their addresses."""

    def __init__(self, pki, kind, gateway=None, near=0, **kw):
        self.pki = pki
        self.ports = free_port(), free_port()
        secure = kind == "tls"
        scheme = "tls+tcp" if secure else "tcp"
        here = {"scheduler_url": f"{scheme}://127.0.0.1:{self.ports[0]}",
                "mailbox_url": f"{scheme}://127.0.0.1:{self.ports[1]}", "rpc_key_file": str(pki / "key")}
        there = {"scheduler_url": f"{scheme}://localhost:{self.ports[0]}",
                 "mailbox_url": f"{scheme}://localhost:{self.ports[1]}", "rpc_key_file": str(pki / "key")}
        if secure:
            here |= {"rpc_tls_cert_file": str(pki / "server.pem"), "rpc_tls_key_file": str(pki / "server.key")}
            there["rpc_tls_ca_file"] = str(pki / "ca.pem")
        else:
            here["insecure"] = there["insecure"] = True
        super().__init__(workers=0, common=here, **kw)
        self.far_common = there
        self.mailbox.ready = lambda: "listening" in self.mailbox.log()
        self.far_settings = {
            "common": {"run_dir": str(self.dir / "far"), "log_level": "info", **there},
            # On a busy machine a scheduler may need more than the usual 250 ms.
            "gateway": {**self.settings["gateway"], "remote_placing_ms": "2s", **(gateway or {})}}
        self.far_config = self.far("far", self.far_settings)
        (self.dir / "far").mkdir()
        self.workers = [self.far_worker(self.far_config)]

    def far(self, name, settings):
        path = self.dir / f"{name}.yaml"
        path.write_text(to_yaml(settings))
        return path

    def far_worker(self, config, instance=1, name="gateway-1"):
        port = self.admin_port + instance - 1
        return Process(name, [binary("slipstream-gateway"), "--config", config, "--instance", instance], self.dir,
                       ready=lambda: rawhttp.reachable(port, "/ready") == 200)

    def ask_slipctl(self, *args):
        """As an operator on the far host."""
        config = self.dir / "far.yaml"
        r = subprocess.run([str(binary("slipctl")), "--config", str(config), *args, "--json"], capture_output=True,
                           text=True, timeout=secs(20))
        assert r.returncode == 0, r.stderr
        return json.loads(r.stdout)

    def leases(self):
        return sum(e["running"] for e in self.ask_slipctl("engines")["engines"])


def decision(answer):
    return dict(part.split("=", 1) for part in answer.header("x-slipstream-decision").split("; "))


@pytest.fixture(scope="module", params=["tcp", "tls"])
def far(request, pki):
    with Far(pki, request.param, engines=2) as f:
        yield f


# ---- serving ----

@pytest.mark.asan_ok
def test_requests_without_a_workflow_are_decided_by_the_scheduler(far):
    assert not (far.dir / "far" / "fleet").exists()
    for i in range(8):
        a = far.chat(f"hello {i}")
        assert a.status == 200 and decision(a)["policy"] == "least", decision(a)
    assert far.metrics().sum("slipstream_gateway_placed_alone_total") == 0


@pytest.mark.asan_ok
def test_a_workflow_has_its_home_its_hits_and_its_status(far):
    text = "a long beginning " * 400
    first = far.chat(text, wf("w"))
    again = far.chat(text, wf("w"))
    assert (first.status, again.status) == (200, 200)
    assert decision(again)["policy"] == "workflow" and decision(again)["engine"] == decision(first)["engine"]
    assert float(decision(again)["hit"]) > 0.9
    s = far.settled("w", 2)
    assert s["assigned_instance"] == decision(first)["engine"] and s["cache_hit_rate"] > 0.4
    assert "w" in [x["workflow_id"] for x in far.ask_slipctl("workflows")["workflows"]]


@pytest.mark.asan_ok
def test_an_answer_streams(far):
    a = far.chat("stream", wf("s"), stream=True, max_tokens=20)
    assert a.status == 200 and a.events()[-1] == "[DONE]" and len(a.events()) > 3
    assert far.settled("s", 1)["tokens"]["completion"] == 20


@pytest.mark.asan_ok
def test_agents_of_a_workflow_write_to_each_other(far):
    body = {"source_agent": "a", "target_agent": "b", "message_type": "note", "payload": {"x": 1}}
    assert far.post("/v1/workflows/m/messages", body).status in (200, 201, 202)
    got = far.get("/v1/workflows/m/agents/b/messages")
    assert got.status == 200 and [m["payload"] for m in got.json()["messages"]] == [{"x": 1}]


def test_models_engines_and_readiness_come_from_the_scheduler(far):
    assert [m["id"] for m in far.get("/v1/models").json()["data"]] == ["sim"]
    rows = far.engine_rows()
    assert sorted(rows) == ["e1", "e2"]
    assert all(r["healthy"] and r["models"] == ["sim"] and r["address"] == "127.0.0.1" for r in rows.values())
    assert {r["port"] for r in rows.values()} == {e.port for e in far.engines}
    ready = rawhttp.get(far.admin_port, "/ready").json()
    assert ready["scheduler"] == "nng" and ready["engines_alive"] == 2


# ---- changes ----

@pytest.mark.asan_ok
@pytest.mark.parametrize("kind", ["tcp", "tls"])
def test_engines_come_and_go_with_a_reload_of_the_scheduler(pki, kind):
    with Far(pki, kind, engines=1) as f:
        extra = Engine("e9", f.dir)
        f.engines.append(extra)
        extra.start().wait_ready()
        before = list(f.settings["engines"])
        f.settings["engines"] = [*before, {"id": "e9", "url": extra.url, "models": ["sim"]}]
        f.write_config()
        f.scheduler.signal(signal.SIGHUP)
        f.wait_engines(["e1", "e9"])
        seen = {f.chat(f"w{i}", wf(f"w{i}")).header("x-slipstream-engine") for i in range(16)}
        assert seen == {"e1", "e9"}
        f.settings["engines"] = before
        f.write_config()
        f.scheduler.signal(signal.SIGHUP)
        wait_until("e9 is gone", 5, lambda: sorted(f.engine_rows()) == ["e1"])
        for i in range(16):
            a = f.chat(f"w{i}", wf(f"w{i}"))
            assert a.status == 200 and a.header("x-slipstream-engine") == "e1"


def test_requests_flow_while_engines_come_and_go(pki):
    with Far(pki, "tcp", engines=1) as f:
        extra = Engine("e9", f.dir)
        f.engines.append(extra)
        extra.start().wait_ready()
        one = list(f.settings["engines"])
        with Load(f, threads=4, workflows=64) as load:
            for i in range(6):
                f.settings["engines"] = [*one, {"id": "e9", "url": extra.url, "models": ["sim"]}] if i % 2 == 0 else one
                f.write_config()
                f.scheduler.signal(signal.SIGHUP)
                wait_until("the far gateway knows", 5, lambda i=i: ("e9" in f.engine_rows()) == (i % 2 == 0))
                load.wait_more(40)
        assert load.errors == []
        assert {a[2] for a in load.answers if a[0] == 200} == {"e1", "e9"}
        bad = [a for a in load.answers if a[0] != 200]
        # A request in flight at an engine that is taken out is cut off, as everywhere.
        assert len(bad) <= 12, bad


@pytest.mark.asan_ok
def test_an_engine_that_dies_is_known_to_be_dead(pki):
    with Far(pki, "tcp", engines=2, scheduler={"probe_interval_ms": 50}) as f:
        f.engines[0].kill9()
        wait_until("e1 counts as dead", 5, lambda: f.healthy_engines() == ["e2"])
        for i in range(6):
            assert f.chat(f"x{i}", wf(f"x{i}")).header("x-slipstream-engine") == "e2"
        f.engines[0].start().wait_ready()
        f.wait_engines()


# ---- without a scheduler ----

@pytest.mark.asan_ok
@pytest.mark.parametrize("kind", ["tcp", "tls"])
def test_scheduler_killed_under_load_costs_no_request(pki, kind):
    with Far(pki, kind, engines=2) as f:
        with Load(f, threads=4) as load:
            load.wait_more(20)
            links = f.links()
            f.scheduler.kill9()
            wait_until("the gateway has lost it", 5, lambda: " scheduler_down " in f.workers[0].log())
            alone = load.wait_more(60)[8:]  # what was under way may have been decided before
            assert f.metrics().sum("slipstream_gateway_placed_alone_total") > 0
            places = {}
            for _, workflow, engine in alone:
                assert places.setdefault(workflow, engine) == engine, "rendezvous hashing wanders"
            f.scheduler.restart()
            f.wait_relinked(links, 15)
            f.wait_engines()
            before = f.metrics().sum("slipstream_gateway_placed_alone_total")
            load.wait_more(60)
            assert f.metrics().sum("slipstream_gateway_placed_alone_total") <= before + 4
        assert load.errors == []
        assert {a[0] for a in load.answers} == {200}
        f.wait_no_lease()


def test_a_scheduler_that_does_not_answer_is_waited_for_only_so_long(pki):
    with Far(pki, "tcp", engines=2, gateway={"remote_placing_ms": 250}) as f:
        f.scheduler.signal(signal.SIGSTOP)
        try:
            a = f.chat("hello", wf("w"))
            assert a.status == 200 and decision(a)["policy"] == "alone"
        finally:
            f.scheduler.signal(signal.SIGCONT)
        wait_until("the scheduler decides again", 10, lambda: decision(f.chat("hello", wf("w")))["policy"] == "workflow")
        f.wait_no_lease()


def test_a_scheduler_without_memory_seats_engines_anew(pki):
    """After a reboot of its host: the same numbers and generations, other engines behind them."""
    with Far(pki, "tcp", engines=2) as f:
        for i in range(8):
            assert f.chat(f"w{i}", wf(f"w{i}")).status == 200  # connections to both are kept
        links = f.links()
        f.scheduler.kill9()
        (f.run_dir / "fleet").unlink()
        f.settings["engines"].reverse()
        f.write_config()
        f.scheduler.restart()
        f.wait_relinked(links, 15)
        f.wait_engines()
        ports = {e.id: e.port for e in f.engines}
        assert {k: r["port"] for k, r in f.engine_rows().items()} == ports
        for i in range(16):
            a = f.chat(f"v{i}", wf(f"v{i}"))
            assert a.status == 200
            by_engine = {e.id: e.metric("vllm:request_success_total") for e in f.engines}
            b = f.chat(f"v{i} again", wf(f"v{i}"))
            served = b.header("x-slipstream-engine")
            after = next(e for e in f.engines if e.id == served).metric("vllm:request_success_total")
            assert after == by_engine[served] + 1, "the answer names another engine than the one that served"


# ---- who may come ----

@pytest.fixture(scope="module")
def guarded(pki):
    with Far(pki, "tls", engines=1) as f:
        yield f


def refused(f, name, words, **common):
    """A second far gateway with other settings; it says words in its log, and serves nothing."""
    folder = f.dir / name
    folder.mkdir()
    settings = {"common": {**f.far_settings["common"], "run_dir": str(folder), **common},
                "gateway": {**f.far_settings["gateway"], "listen": [f"127.0.0.1:{free_port()}"],
                            "admin_listen": [f"127.0.0.1:{free_port()}"], "placing_timeout_ms": 300}}
    p = f.far_worker(f.far(name, settings), name=name)
    port = int(settings["gateway"]["listen"][0].split(":")[1])
    p.ready = lambda: rawhttp.reachable(port) == 200
    p.start()
    try:
        p.wait_ready()
        wait_until(f"{name} says why", 10, lambda: words in p.log())
        if 'reason="refused: ' in words:
            turned_away = f.scheduler.log().count(" peer_refused ")
            wait_until("it has tried again", 10, lambda: f.scheduler.log().count(" peer_refused ") >= turned_away + 2)
            assert p.log().count(words) == 1
        assert rawhttp.get(port, "/ready").status == 503
        assert rawhttp.post(port, PATH, rawhttp.chat("sim")).status == 503
    finally:
        p.stop()
    assert f.chat("the right ones are served").status == 200
    assert f.ask_slipctl("engines")["engines"], "and new ones are let in"


@pytest.mark.asan_ok
def test_a_wrong_key_is_refused(guarded, pki):
    refused(guarded, "wrong-key", 'scheduler_down reason="refused: the key is missing or not known"',
            rpc_key_file=str(pki / "wrong-key"))
    assert "peer_refused" in guarded.scheduler.log()
    assert "somebody-else" not in guarded.scheduler.log()


@pytest.mark.asan_ok
def test_no_key_is_refused(guarded):
    refused(guarded, "no-key", 'scheduler_down reason="refused: the key is missing or not known"', rpc_key_file="")


CERTIFICATE = 'scheduler_down reason="the server\'s certificate is not of the CA in rpc_tls_ca_file, or not for this host"'


@pytest.mark.asan_ok
def test_a_server_of_another_ca_is_refused(guarded, pki):
    refused(guarded, "wrong-ca", CERTIFICATE, rpc_tls_ca_file=str(pki / "other.pem"))


def test_a_server_of_another_name_is_refused(guarded):
    url = f"tls+tcp://127.0.0.1:{guarded.ports[0]}"
    refused(guarded, "wrong-name", CERTIFICATE, scheduler_url=url)


def test_a_server_without_a_valid_certificate_is_refused(pki):
    """Its own, self-signed; and one of the right CA for the right host that has expired."""
    self_signed = make_ca(pki, "self")
    openssl("x509", "-req", "-in", pki / "server.csr", "-CA", pki / "ca.pem", "-CAkey", pki / "ca.key", "-CAcreateserial",
            "-days", "0", "-extfile", pki / "names", "-out", pki / "expired.pem")
    good = pki / "server.pem", pki / "server.key"
    with Far(pki, "tls", engines=1) as f:
        for cert, key in ((self_signed, pki / "self.key"), (pki / "expired.pem", pki / "server.key")):
            before = f.workers[0].log()
            links = f.links()
            f.settings["common"] |= {"rpc_tls_cert_file": str(cert), "rpc_tls_key_file": str(key)}
            f.write_config()
            f.scheduler.stop()
            f.scheduler.restart()
            wait_until(f"the gateway refuses {cert.name}", 10, lambda b=before: CERTIFICATE in f.workers[0].log()[len(b):])
            assert decision(f.chat("hello"))["policy"] == "alone"
            assert f.links() == links, "it is not let in"
            f.settings["common"] |= {"rpc_tls_cert_file": str(good[0]), "rpc_tls_key_file": str(good[1])}
            f.write_config()
            f.scheduler.stop()
            f.scheduler.restart()
            f.wait_relinked(links, 15)


@pytest.mark.parametrize("program", ["slipstream-scheduler", "slipstream-mailbox"])
def test_a_server_whose_files_cannot_be_used_does_not_start(pki, tmp_path, program):
    (tmp_path / "text").write_text("nonsense\n")
    for setting, path, words in (
            ("rpc_tls_key_file", tmp_path / "gone", f"{tmp_path}/gone: No such file or directory"),
            ("rpc_tls_cert_file", tmp_path / "gone", f"{tmp_path}/gone: No such file or directory"),
            ("rpc_tls_cert_file", tmp_path / "text", f"{tmp_path}/text or {pki}/server.key: not in PEM form"),
            ("rpc_tls_key_file", tmp_path / "text", f"{pki}/server.pem or {tmp_path}/text: not in PEM form")):
        common = {"run_dir": str(tmp_path), "rpc_key_file": str(pki / "key"),
                  "rpc_tls_cert_file": str(pki / "server.pem"), "rpc_tls_key_file": str(pki / "server.key"),
                  "scheduler_url": f"tls+tcp://127.0.0.1:{free_port()}", "mailbox_url": f"tls+tcp://127.0.0.1:{free_port()}"}
        config = tmp_path / "server.yaml"
        config.write_text(to_yaml({"common": {**common, setting: str(path)}}))
        r = subprocess.run([str(binary(program)), "--config", str(config)], capture_output=True, text=True, timeout=secs(20))
        assert r.returncode == 78 and f'reason="{words}"' in r.stderr, (r.returncode, r.stderr)


def test_a_gateway_without_its_ca_does_not_start(guarded, tmp_path):
    settings = {"common": {**guarded.far_settings["common"], "rpc_tls_ca_file": str(tmp_path / "gone")},
                "gateway": {"listen": [f"127.0.0.1:{free_port()}"], "admin_listen": [f"127.0.0.1:{free_port()}"]}}
    r = subprocess.run([str(binary("slipstream-gateway")), "--config", str(guarded.far("no-ca", settings))],
                       capture_output=True, text=True, timeout=secs(20))
    assert r.returncode == 78 and f'reason="{tmp_path}/gone: No such file or directory"' in r.stderr, r.stderr


def test_a_server_that_is_not_there_is_named(guarded):
    refused(guarded, "nobody", 'scheduler_down reason="the connection is refused: nobody listens there"',
            scheduler_url=f"tls+tcp://localhost:{free_port()}")


def test_plain_tcp_is_a_mistake_unless_it_is_wanted(guarded):
    settings = {"common": {"run_dir": str(guarded.dir), "scheduler_url": f"tcp://localhost:{guarded.ports[0]}"}}
    r = subprocess.run([str(binary("slipstream-gateway")), "--config", str(guarded.far("plain", settings))],
                       capture_output=True, text=True, timeout=secs(10))
    assert r.returncode == 78 and "insecure" in r.stderr


def test_the_engines_are_no_business_of_a_tenant(pki, tmp_path):
    (tmp_path / "tenant").write_text("tenant-key\n")
    with Far(pki, "tls", engines=1, sections={"keys": [{"file": str(tmp_path / "tenant"), "tenant": "t"}]}) as f:
        settings = {"common": {**f.far_settings["common"], "run_dir": str(f.dir / "t"),
                               "rpc_key_file": str(tmp_path / "tenant")},
                    "gateway": {**f.far_settings["gateway"], "listen": [f"127.0.0.1:{free_port()}"],
                                "admin_listen": [f"127.0.0.1:{free_port(2)}"]}}
        (f.dir / "t").mkdir()
        p = f.far_worker(f.far("t", settings), name="tenant")
        admin = int(settings["gateway"]["admin_listen"][0].split(":")[1])
        p.ready = lambda: rawhttp.reachable(admin, "/health") == 200
        p.start()
        try:
            p.wait_ready()
            wait_until("it is let in", 5, lambda: " scheduler_up " in p.log())
            assert rawhttp.get(admin, "/engines").json()["engines"] == []
            assert rawhttp.get(admin, "/ready").status == 503
        finally:
            p.stop()


# ---- near and far together ----

def test_near_and_far_gateways_share_what_engines_have_cached(pki):
    with Far(pki, "tcp", engines=2) as f:
        near = {"common": {k: v for k, v in f.settings["common"].items() if not k.endswith("_url")},
                "gateway": {"listen": [f"127.0.0.1:{free_port()}"], "admin_listen": [f"127.0.0.1:{free_port()}"]}}
        port = int(near["gateway"]["listen"][0].split(":")[1])
        admin = int(near["gateway"]["admin_listen"][0].split(":")[1])
        p = f.far_worker(f.far("near", near), instance=2, name="near")
        admin += 1  # of instance 2
        p.ready = lambda: rawhttp.reachable(admin, "/ready") == 200
        p.start()
        try:
            p.wait_ready()
            text = "what both of them say " * 300
            a = f.chat(text, wf("both"))
            b = rawhttp.post(port, PATH, rawhttp.chat("sim", text, max_tokens=4), wf("both"))
            assert (a.status, b.status) == (200, 200)
            assert float(decision(b)["hit"]) > 0.9 and decision(a)["engine"] == decision(b)["engine"]
            assert slipctl(f, "--scheduler", f"ipc://{f.run_dir}/sock/scheduler", "status", "--json")
        finally:
            p.stop()


# ---- strangers at the door ----

@pytest.mark.asan_ok
@pytest.mark.parametrize("kind", ["tcp", "tls"])
def test_strangers_at_the_port_keep_nobody_out(pki, kind):
    hello = b"\0SP\0\0\x30\0\0"  # of nng's REQ
    words = [b"", b"G", hello[:5], hello, b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"x" * 40,
             hello + b"\0" * 8, hello + b"\0\0\0\0\0\0\1\0" + b"\xff" * 256, hello + b"\xff" * 64, b"\xff" * 5000]
    with Far(pki, kind, engines=1) as f:
        for n in range(60):
            for port in f.ports:
                with socket.create_connection(("127.0.0.1", port), timeout=secs(5)) as s:
                    with contextlib.suppress(OSError):
                        s.sendall(words[n % len(words)])
                    if n % 3 == 0:  # a reset instead of an end
                        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert f.chat("still there").status == 200
        assert f.ask_slipctl("engines")["engines"]
        assert f.ask_slipctl("check")
        f.workers[0].stop()
        f.workers[0].restart()
        assert f.chat("and again").status == 200
