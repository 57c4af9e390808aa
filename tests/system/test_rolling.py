# SPDX-License-Identifier: Apache-2.0
"""Workers on a listening socket that somebody else holds, as systemd does, restarted one after the other under load."""
import socket
import subprocess
import threading

import pytest
from support import rawhttp
from support.fleet import Fleet, Load, Process
from support.rawhttp import chat
from support.wait import secs, wait_until

SHELL = 'exec 3<&"$0"; export LISTEN_FDS=1 LISTEN_FDNAMES=data LISTEN_PID=$$; exec "$@"'


class Activated(Process):
    """A process that gets the socket the way systemd hands it in."""

    def __init__(self, worker, sock):
        super().__init__(worker.name, ["bash", "-c", SHELL, sock.fileno(), *worker.argv], worker.log_path.parent, ready=worker.ready)
        self.sock = sock

    def start(self):
        with open(self.log_path, "ab") as log:
            self.popen = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env,
                                          pass_fds=[self.sock.fileno()])
        return self


@pytest.fixture
def held():
    """Two workers on a socket of ours; none of them knows its address from the settings."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as sock:
        f = Fleet(engines=2, workers=2, gateway={"listen": ["192.0.2.1:1"]})
        f.port = sock.getsockname()[1]
        f.workers = [Activated(w, sock) for w in f.workers]
        with f:
            yield f


class OneByOne:
    """Threads that open a connection for each request."""

    def __init__(self, fleet, threads=6):
        self.fleet = fleet
        self.count = 0
        self.errors = []
        self.stopped = threading.Event()
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.run, daemon=True) for _ in range(threads)]

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *exc):
        self.stopped.set()
        for t in self.threads:
            t.join(secs(30))
            assert not t.is_alive(), "a request hangs"

    def run(self):
        while not self.stopped.is_set():
            try:
                a = rawhttp.post(self.fleet.port, "/v1/chat/completions", chat("sim", "x", max_tokens=2), timeout=secs(20))
                word = None if a.status == 200 else str(a)
            except (OSError, rawhttp.Broken) as e:
                word = f"{type(e).__name__}: {e}"
            with self.lock:
                self.count += 1
                if word:
                    self.errors.append(word)

    def wait_more(self, n):
        start = self.count
        wait_until(f"{n} more requests; errors {self.errors[:3]}", 20, lambda: self.count >= start + n)


def roll(fleet):
    for w in fleet.workers:
        w.stop(20)
        w.restart()


def test_a_rolling_restart_loses_no_new_connection(held):
    with OneByOne(held) as load:
        for _ in range(3):
            load.wait_more(20)
            roll(held)
        load.wait_more(20)
    assert load.errors == []


def test_connections_that_wait_while_no_worker_runs_are_served_by_the_next(held):
    for w in held.workers:
        w.stop(20)
    with OneByOne(held, threads=4) as load:
        for w in held.workers:
            w.restart()
        load.wait_more(8)
    assert load.errors == []


def test_the_admin_listener_is_opened_beside_a_socket_that_was_handed_in(held):
    assert rawhttp.get(held.admin_port, "/health").status == 200
    assert rawhttp.get(held.port, "/engines").status == 404


def test_a_request_that_arrives_at_a_draining_worker_on_an_open_connection_is_served(held):
    """Only kept connections without a request are closed; nobody is sent away who was let in."""
    with Load(held, threads=6) as load:
        load.wait_more(20)
        roll(held)
        load.wait_more(20)
    assert {a[0] for a in load.answers} == {200}
