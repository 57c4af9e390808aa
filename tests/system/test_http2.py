# SPDX-License-Identifier: Apache-2.0
"""HTTP/2, where a setting turns it on."""
import json
import socket
import struct
import subprocess
import time

import pytest
from support import raw_engine as re_
from support.fleet import Fleet
from support.rawhttp import chat
from support.wait import secs

PATH = "/v1/chat/completions"


@pytest.fixture
def h2():
    with re_.RawEngine("raw") as engine, \
            Fleet(engines=[engine], workers=1, with_mailbox=False,
                  gateway={"http2": "true", "http2_reset_budget": 20, "head_timeout_ms": 300}) as f:
        f.engine = engine
        yield f


def curl(f, body):
    return subprocess.run(["curl", "-sS", "--noproxy", "*", "--http2-prior-knowledge", "-w", "\n%{http_version}",
                           "-H", "content-type: application/json", "-d", json.dumps(body),
                           f"http://127.0.0.1:{f.port}{PATH}"], capture_output=True, text=True, timeout=secs(20))


@pytest.mark.asan_ok
def test_streams_are_not_taken_for_slow_heads(h2):
    """The time limit of a head ends no connection that has one."""
    def slow(conn, request):
        conn.read_body(request)
        conn.stream_head()
        conn.event(re_.delta("one"))
        time.sleep(1.0)
        conn.event(re_.delta("two"))
        conn.event("[DONE]")
        conn.send("0\r\n\r\n")

    h2.engine.script(slow)
    out = curl(h2, chat("raw", "slow", stream=True))
    assert out.returncode == 0, out
    assert out.stdout.endswith("\n2") and "two" in out.stdout and "[DONE]" in out.stdout, out


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


@pytest.mark.asan_ok
def test_client_that_only_resets_is_closed(h2):
    path = PATH.encode()
    head = b"\x83\x86\x04" + bytes([len(path)]) + path + b"\x01\x04test"
    with socket.create_connection(("127.0.0.1", h2.port), timeout=secs(10)) as s:
        s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0))
        try:
            for stream in range(1, 2001, 2):
                s.sendall(frame(1, 5, stream, head) + frame(3, 0, stream, b"\0\0\0\x08"))
            while s.recv(65536):
                pass
        except (ConnectionResetError, BrokenPipeError):
            pass
    assert "too many streams were reset" in h2.workers[0].log()
    assert curl(h2, chat("raw", "still there")).returncode == 0
