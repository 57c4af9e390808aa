# SPDX-License-Identifier: Apache-2.0
"""Mail over HTTP/2, where a setting turns that on."""
import socket
import struct

import pytest
from support.fleet import Fleet
from support.mail import Box
from support.wait import secs

DATA, HEADERS, RST, SETTINGS, WINDOW = 0, 1, 3, 4, 8


@pytest.fixture
def h2():
    with Fleet(engines=0, workers=1, gateway={"http2": "true"}) as f:
        yield f


class Client:
    """One connection; gives windows only when told to."""

    def __init__(self, port):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=secs(20))
        self.sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self.frame(SETTINGS, 0, 0)
        self.next = 1
        self.data = {}
        self.ended = set()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.sock.close()

    def frame(self, kind, flags, stream, payload=b""):
        self.sock.sendall(struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload)

    def get(self, path, **headers):
        def text(s):
            assert len(s) < 127
            return bytes([len(s)]) + s.encode()

        stream, self.next = self.next, self.next + 2
        block = b"\x82\x86\x04" + text(path) + b"\x01" + text("test")
        for name, value in headers.items():
            block += b"\x00" + text(name) + text(value)
        self.frame(HEADERS, 5, stream, block)
        self.data[stream] = b""
        return stream

    def exactly(self, n):
        out = b""
        while len(out) < n:
            more = self.sock.recv(n - len(out))
            assert more, "the connection ended"
            out += more
        return out

    def read(self, until):
        """Frames until until() holds."""
        while not until():
            head = self.exactly(9)
            payload = self.exactly(struct.unpack(">I", b"\0" + head[:3])[0])
            kind, flags, stream = head[3], head[4], struct.unpack(">I", head[5:])[0] & 0x7fffffff
            if kind == SETTINGS and not flags & 1:
                self.frame(SETTINGS, 1, 0)
            elif kind == DATA:
                self.data[stream] += payload
            assert kind != RST, stream
            if kind in (DATA, HEADERS) and flags & 1:
                self.ended.add(stream)


@pytest.mark.asan_ok
def test_an_answer_that_was_written_is_settled(h2):
    b = Box(h2)
    b.send("x" * 10_000)
    with Client(h2.port) as c:
        s = c.get(f"{b.path}/messages")
        c.read(lambda: s in c.ended)
        assert b'"attempt":1' in c.data[s]
        b.wait_figure("unsettled", 0)
        assert b.receive() == []


@pytest.mark.asan_ok
def test_an_answer_whose_stream_is_reset_comes_back(h2):
    b = Box(h2)
    b.send("x" * 500_000)
    with Client(h2.port) as c:
        s = c.get(f"{b.path}/messages")
        c.read(lambda: len(c.data[s]) >= 65535)  # the window is used up
        b.wait_figure("unsettled", 1)
        c.frame(RST, 0, s, struct.pack(">I", 8))
        assert [m["attempt"] for m in b.receive("?wait=20")] == [2]


def test_a_poll_whose_stream_is_reset_is_gone(h2):
    b = Box(h2)
    with Client(h2.port) as c:
        s = c.get(f"{b.path}/messages?wait=60")
        b.wait_figure("waiting", 1)
        c.frame(RST, 0, s, struct.pack(">I", 8))
        b.wait_figure("waiting", 0)


@pytest.mark.asan_ok
def test_streams_of_events_share_a_connection(h2):
    one, two = Box(h2), Box(h2)
    with Client(h2.port) as c:
        a = c.get(f"{one.path}/messages", accept="text/event-stream")
        z = c.get(f"{two.path}/messages", accept="text/event-stream")
        one.wait_figure("waiting", 1)
        two.wait_figure("waiting", 1)
        one.send("first")
        two.send("second")
        c.read(lambda: b'"first"' in c.data[a] and b'"second"' in c.data[z])
        assert c.data[a].startswith(b"retry: 2000\n\nid: ") and b"\r" not in c.data[a]
        c.frame(RST, 0, a, struct.pack(">I", 8))
        one.wait_figure("waiting", 0)
        two.send("third")
        c.read(lambda: b'"third"' in c.data[z])
