# SPDX-License-Identifier: Apache-2.0
"""Streams of small pieces, which the gateway writes itself where it can: clients that read late, never, or leave."""
import hashlib

import pytest
from support import raw_engine as re_
from support.fleet import Fleet
from support.raw_engine import Flood
from support.rawhttp import chat, request_bytes
from support.wait import secs, wait_until

PATH = "/v1/chat/completions"
SLOW = {"write_timeout_ms": 500, "stall_timeout_ms": 20000}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    engine = re_.RawEngine("raw")
    log = tmp_path_factory.mktemp("relay") / "access"
    with Fleet(engines=[engine], workers=1, with_mailbox=False, gateway={**SLOW, "access_log": str(log)}) as f:
        f.log_file = log
        f.raw = engine
        yield f
    engine.close()


def line(fleet, request_id):
    def find():
        return [x for x in fleet.log_file.read_text().splitlines() if f" id={request_id} " in x]

    return wait_until("the line is in the access log", 5, find, 0.05)[0]


@pytest.mark.asan_ok
@pytest.mark.parametrize("piece", [700, 65536], ids=["small pieces", "large pieces"])
def test_who_does_not_read_his_stream_is_too_slow_and_not_gone(small, piece):
    small.raw.reset()
    before = small.metrics().sum("slipstream_gateway_ended_total", reason="client_too_slow")
    flood = Flood(1 << 30, piece)
    small.raw.script(flood)
    with small.client(rcvbuf=4096) as c:
        c.request("POST", PATH, chat("raw", "never reads", stream=True))
        assert flood.ended.wait(secs(30)), "still waiting for a client that does not read"
        small.wait_metric("slipstream_gateway_ended_total", before + 1, seconds=5, reason="client_too_slow")


class Pieces:
    """A stream of small events as fast as they are taken; knows what it said."""

    def __init__(self, count):
        self.count = count
        self.said = hashlib.sha256()
        self.bytes = 0

    def __call__(self, conn, request):
        conn.read_body(request)
        conn.stream_head()
        for i in range(self.count):
            event = b"data: " + b"%d" % i * (1 + i % 50) + b"\n\n"
            conn.chunk(event)
            self.said.update(event)
            self.bytes += len(event)
        conn.send("0\r\n\r\n")


@pytest.mark.asan_ok
def test_a_late_reader_has_every_byte_and_then_his_next_answer(small):
    small.raw.reset()
    pieces = Pieces(40000)
    small.raw.script(pieces)
    ask = chat("raw", "late", stream=True)
    with small.client(rcvbuf=4096, timeout=60) as c:
        c.send(request_bytes("POST", PATH, ask) + request_bytes("POST", PATH, chat("raw", "pipelined")))
        head = c.read_head()
        got, n = hashlib.sha256(), 0
        while (data := c.read_chunk()) is not None:
            got.update(data)
            n += len(data)
        assert (head.status, n, got.digest()) == (200, pieces.bytes, pieces.said.digest())
        assert c.read_answer().json()["choices"][0]["message"]["content"] == "fine"
        c.request("POST", PATH, chat("raw", "kept"))
        assert c.read_answer().status == 200
    row = line(small, head.header("x-request-id"))
    assert f" bytes={pieces.bytes} " in row and " end=ok " in row, row
