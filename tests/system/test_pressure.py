# SPDX-License-Identifier: Apache-2.0
"""Too much of everything: bodies that are never finished, connections beyond the open files, odd files in run_dir."""
import os
import signal
import ssl
import subprocess

import pytest
from support.fleet import Fleet
from support.rawhttp import RawClient, chat, get, request_bytes
from support.wait import secs, wait_until

BIG = 4 << 20


def unfinished(headers=()):
    """A request without its last byte."""
    return request_bytes("POST", "/v1/chat/completions", chat(text="a" * BIG, max_tokens=1), headers)[:-1]


@pytest.fixture(params=["plain", "tls"])
def small_budget(request, tmp_path):
    """A gateway that may hold 20 MB of bodies, and how to speak to it."""
    settings, tls = {"body_budget_bytes": "20M", "max_body_bytes": "8M"}, None
    if request.param == "tls":
        cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                        "-days", "2", "-subj", "/CN=localhost", "-keyout", key, "-out", cert], check=True, capture_output=True)
        settings |= {"tls_cert_file": str(cert), "tls_key_file": str(key)}
        tls = ssl.create_default_context(cafile=str(cert))
        tls.check_hostname = False
    with Fleet(engines=1, workers=1, with_mailbox=False, gateway=settings) as f:
        yield f, tls


@pytest.mark.asan_ok
def test_bodies_that_never_end_stay_within_the_budget(small_budget):
    fleet, tls = small_budget
    clients, refused = [], []
    for _ in range(16):
        c = RawClient(fleet.port, tls=tls)
        clients.append(c)
        try:
            c.send(unfinished())
        except OSError:
            refused.append(c)
    wait_until("somebody is refused", 10, lambda: fleet.metrics().sum("slipstream_gateway_errors_total", code="body_budget") >= 10)
    wait_until("the budget is kept", 10, lambda: fleet.metrics().sum("slipstream_gateway_body_bytes") <= 20 << 20)
    # The last to come was refused, in words; the first to come has kept its place.
    last = next(c for c in reversed(clients) if c not in refused)
    a = last.read_answer()
    assert a.status == 429 and a.json()["error"]["code"] == "body_budget" and a.header("retry-after"), a
    assert last.is_closed()
    clients[0].send(b"}")
    assert clients[0].read_answer().status in (200, 400)  # as the engine likes such a prompt
    for c in clients:
        c.close()
    wait_until("nothing is held", 10, lambda: fleet.metrics().sum("slipstream_gateway_body_bytes") == 0)
    with RawClient(fleet.port, tls=tls) as c:
        c.request("POST", "/v1/chat/completions", chat(max_tokens=1))
        assert c.read_answer().status == 200


def cpu_ticks(p):
    fields = open(f"/proc/{p.pid}/stat").read().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.asan_ok
def test_worker_out_of_open_files_serves_those_it_has():
    f = Fleet(engines=1, workers=1)
    w = f.workers[0]
    w.argv = ["prlimit", "--nofile=64:64", *w.argv]
    with f:
        assert "few_files" in w.log()
        first = RawClient(f.port)
        first.request("GET", "/v1/models")
        assert first.read_answer().status == 200
        crowd = [RawClient(f.port) for _ in range(100)]
        wait_until("the worker is full", 5, lambda: w.fd_count() >= 32)
        first.request("POST", "/v1/chat/completions", chat(max_tokens=1))
        assert first.read_answer().status == 200
        for c in crowd:
            c.close()
        first.close()
        wait_until("the worker takes others again", 10, lambda: f.chat().status == 200)


@pytest.mark.asan_ok
def test_worker_whose_open_files_are_taken_away_survives_and_does_not_spin():
    with Fleet(engines=1, workers=1) as f:
        w = f.workers[0]
        crowd = [RawClient(f.port) for _ in range(20)]
        wait_until("all are in", 5, lambda: f.metrics().sum("slipstream_gateway_connections") >= 20)
        subprocess.run(["prlimit", f"--pid={w.pid}", f"--nofile={w.fd_count()}"], check=True)
        crowd += [RawClient(f.port) for _ in range(20)]
        wait_until("accepting has failed", 5, lambda: "accept_failed" in w.log())
        before = cpu_ticks(w)
        f.scheduler.kill9()
        f.scheduler.restart()
        f.mailbox.kill9()
        f.mailbox.restart()
        wait_until("the scheduler's loss is noticed", 5, lambda: "scheduler_down" in w.log())
        assert cpu_ticks(w) - before < secs(1) * os.sysconf("SC_CLK_TCK")
        for c in crowd:
            c.close()
        wait_until("the scheduler is found again", 10, lambda: f.metrics().sum("slipstream_gateway_scheduler_up") == 1)
        assert f.chat().status == 200


@pytest.mark.asan_ok
def test_scheduler_without_open_files_takes_no_engine_for_dead():
    with Fleet(engines=2, workers=1, with_mailbox=False) as f:
        limits = subprocess.run(["prlimit", f"--pid={f.scheduler.pid}", "--nofile", "--noheadings", "-o", "SOFT,HARD"],
                                check=True, capture_output=True, text=True).stdout.split()
        assert limits[0] == limits[1], "it did not take what it may have"
        for e in f.engines:  # the probes' own connections have to be made anew
            e.fault("close_idle")
        subprocess.run(["prlimit", f"--pid={f.scheduler.pid}", "--nofile=3:"], check=True)
        wait_until("a probe could not leave", 10, lambda: "no descriptor is free" in f.scheduler.log())
        for _ in range(20):
            assert f.chat().status == 200
        assert "engine_down" not in f.scheduler.log()
        subprocess.run(["prlimit", f"--pid={f.scheduler.pid}", "--nofile=1000:"], check=True)
        f.engines[0].kill9()
        wait_until("probes leave again", 10, lambda: "engine_down" in f.scheduler.log())
        f.engines[0].restart()


@pytest.mark.asan_ok
def test_pipes_and_links_among_the_metrics_stop_nobody():
    with Fleet(engines=1, workers=1, with_mailbox=False) as f:
        metrics = f.run_dir / "metrics"
        os.mkfifo(metrics / "fifo")
        (metrics / "folder").mkdir()
        (metrics / "endless").symlink_to("/dev/zero")
        (metrics / "loop").symlink_to("loop")
        assert get(f.admin_port, "/metrics").status == 200
        assert f.chat().status == 200
        f.workers[0].signal(signal.SIGHUP)
        assert f.chat().status == 200


@pytest.mark.asan_ok
def test_slow_upload_over_http2_has_the_time_of_a_body(tmp_path):
    body = tmp_path / "body.json"
    body.write_text('{"model":"sim","max_tokens":2,"messages":[{"role":"user","content":"' + "a" * 40000 + '"}]}')
    head_ms = int(secs(600))
    with Fleet(engines=1, workers=1, with_mailbox=False, gateway={"http2": True, "head_timeout_ms": head_ms}) as f:
        rate = 40000 * 1000 // (3 * head_ms)  # it takes three times as long as a head may
        r = subprocess.run(["curl", "-sS", "--noproxy", "*", "-m", str(secs(20)), "--http2-prior-knowledge", "--limit-rate",
                            str(rate), "-o", "/dev/null", "-w", "%{http_version} %{http_code} %{time_total}",
                            "--data-binary", f"@{body}", f"{f.base_url}/chat/completions"], capture_output=True, text=True)
        assert r.stdout.startswith("2 200"), (r.stdout, r.stderr)
        assert float(r.stdout.split()[2]) > head_ms / 1000 * 1.5


@pytest.mark.asan_ok
def test_crowd_that_runs_out_of_time_at_once_is_told_and_let_go():
    with Fleet(engines=1, workers=1, with_mailbox=False, gateway={"head_timeout_ms": 300, "body_timeout_ms": 600}) as f:
        crowd = [RawClient(f.port) for _ in range(400)]
        for c in crowd[::2]:
            c.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n{")
        for c in crowd:
            assert c.read_answer().status == 408
            assert c.is_closed()
            c.close()
        assert f.chat().status == 200
        wait_until("all have gone", 5, lambda: f.metrics().sum("slipstream_gateway_connections") <= 1)


@pytest.mark.asan_ok
@pytest.mark.parametrize("program", ["slipstream-scheduler", "slipstream-mailbox", "slipstream-gateway"])
def test_full_run_dir_is_said_clearly(program):
    f = Fleet(engines=0, workers=0, with_scheduler=False, with_mailbox=False)  # never started
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", f.run_dir], capture_output=True).returncode != 0:
        pytest.skip("may not mount")
    try:
        p = f.process(program).start()
        assert p.wait_end(10) != 0
        assert "No space left on device" in p.log() and str(f.run_dir) in p.log(), p.log()
        p.check_log()
    finally:
        subprocess.run(["umount", "-l", f.run_dir], check=True)
        f.kill()
