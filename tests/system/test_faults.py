# SPDX-License-Identifier: Apache-2.0
"""Engines that die, lie, stall and dribble; clients that leave or do not read."""
import json
import socket
import threading
import time
from pathlib import Path

import openai
import pytest
from support import raw_engine as re_
from support.errors import check_openai
from support.fleet import SANITIZED, Fleet
from support.raw_engine import Flood
from support.rawhttp import Broken, chat
from support.wait import secs, wait_until

PATH = "/v1/chat/completions"


BROKEN_CODES = ("engine_bad_answer", "engine_answer_truncated", "engine_gone", "engine_stalled",
                "engine_first_byte_timeout")


def assert_broken_stream(fleet, **more):
    """A streamed answer that failed half way says so in an event that SDKs raise, and its framing is broken, too."""
    with fleet.client() as c:
        c.request("POST", PATH, chat("raw", "stream", stream=True, **more))
        head = c.read_head()
        if head.status != 200:  # noticed before anything was passed on: better still
            head.body = c.read_body(head)
            check_openai(head, BROKEN_CODES)
            return b""
        data = b""
        try:
            while (piece := c.read_chunk()) is not None:
                data += piece
        except Broken:
            pass
        else:
            raise AssertionError("the framing of a cut stream looks complete")
    error = json.loads(data.split(b"data: ")[-1])["error"]
    assert error["message"] and error["code"] in BROKEN_CODES, error
    return data


# ---- engines that cannot be reached ----

@pytest.mark.asan_ok
def test_all_engines_dead_is_503_at_once(pair):
    for e in pair.engines:
        e.refuse()
    pair.wait_engines([])
    t0 = time.monotonic()
    a = pair.chat()
    assert time.monotonic() - t0 < secs(0.5)
    check_openai(a, "no_engine_available", status=503)
    assert a.header("retry-after") and int(a.header("retry-after")) >= 1
    check_openai(pair.chat(headers=[("X-Workflow-ID", "dead")]), "no_engine_available", status=503)
    for e in pair.engines:
        e.open()
    pair.wait_engines()
    assert pair.chat().status == 200


@pytest.mark.asan_ok
def test_refusing_engine_is_replaced_by_the_other(pair):
    pair.engines[0].refuse()
    for i in range(8):  # before and after the probes have noticed
        a = pair.chat(headers=[("X-Workflow-ID", f"refused-{i}")])
        assert a.status == 200, a
        assert a.header("x-slipstream-engine") == "b"
    pair.wait_no_lease()


def test_all_refuse_before_any_probe_noticed(pair):
    for e in pair.engines:
        e.refuse()
    a = pair.chat()
    check_openai(a, ("engine_connect_failed", "no_engine_available"))


@pytest.mark.asan_ok
@pytest.mark.parametrize("step", ["read_and_close", "read_and_reset", "close_unread", "reset_unread"])
def test_engine_that_dies_before_its_first_byte_is_replaced(pair, step):
    pair.engines[0].default = getattr(re_, step)

    def tried():
        a = pair.chat()
        assert a.status == 200, a
        assert a.header("x-slipstream-engine") == "b"
        return pair.engines[0].count() >= 1

    wait_until("the dying engine got a request", 5, tried)
    pair.wait_no_lease()


@pytest.mark.asan_ok
@pytest.mark.parametrize("text", ["short", "long " * 10000], ids=["short", "long"])
@pytest.mark.parametrize("stream,step", [
    (True, re_.head_then("close", "Transfer-Encoding: chunked")), (True, re_.head_then("reset", "Transfer-Encoding: chunked")),
    (True, re_.head_then("close")),
    (False, re_.answer_head_then("close")), (False, re_.answer_head_then("reset"))],
    ids=["stream-close", "stream-reset", "stream-framed-by-close", "json-close", "json-reset"])
def test_engine_that_dies_between_head_and_first_byte_of_its_answer_is_replaced(pair, stream, step, text):
    pair.engines[0].default, pair.engines[1].default = step, re_.ok_stream if stream else re_.ok_json

    def tried():
        a = pair.chat(text, stream=stream)
        assert a.status == 200, a
        assert a.header_all("x-slipstream-engine") == ["b"] and len(a.header_all("content-type")) == 1
        if stream:
            assert [json.loads(e)["choices"][0]["delta"]["content"] for e in a.events()[:3]] == ["tok0", "tok1", "tok2"]
            assert a.events()[-1] == "[DONE]"
        else:
            assert a.json() == re_.CHAT
        return pair.engines[0].count() >= 1

    wait_until("the dying engine got a request", 5, tried)
    assert pair.engines[1].requests[-1].json()["messages"][0]["content"] == text
    pair.wait_no_lease()


class Refusing:
    """Two engines; one takes a request with step and then no more connections."""

    def __init__(self, channel, step):
        self.engines = [re_.RawEngine("a"), re_.RawEngine("b")]
        self.fleet = Fleet(engines=self.engines, workers=1, channel=channel, with_mailbox=False)
        self.step = step

    def __enter__(self):
        self.fleet.__enter__()
        for e in self.engines:
            e.script(self.step)
        self.client = self.fleet.client()
        self.client.request("POST", PATH, chat("raw", "x"))
        wait_until("one of them has it", 5, lambda: sum(e.count() for e in self.engines) == 1)
        self.victim, self.other = sorted(self.engines, key=lambda e: -e.count())
        self.other.reset()
        return self

    def __exit__(self, *exc):
        self.client.close()
        self.fleet.__exit__(*exc)
        for e in self.engines:
            e.close()

    def refuse(self):
        self.victim.refuse(keep=[self.victim.requests[0].conn])


@pytest.mark.channel
@pytest.mark.asan_ok
@pytest.mark.parametrize("step", ["hang", "answer_head_then_hang"])
def test_request_taken_back_from_an_unreachable_engine_goes_to_another(channel, step):
    """Its connection says nothing, as that of a host without power: the scheduler does."""
    with Refusing(channel, getattr(re_, step)) as x:
        x.refuse()
        a = x.client.read_answer()
        assert a.status == 200, a
        assert a.header("x-slipstream-engine") == x.other.id and x.other.count() == 1
        assert x.victim.requests[0].gone.wait(secs(5)), "the engine was not let go"
        assert x.fleet.metrics().sum("slipstream_gateway_retries_total", reason="engine_gone") == 1
        x.fleet.wait_no_lease()


@pytest.mark.channel
@pytest.mark.asan_ok
def test_engine_that_takes_no_more_connections_may_finish_its_answer(channel):
    go = threading.Event()

    def slow(conn, request):
        conn.read_body(request)
        body = json.dumps(re_.CHAT).encode()
        conn.head("200 OK", "Content-Type: application/json", f"Content-Length: {len(body)}")
        conn.send(body[:20])
        assert go.wait(secs(20))
        conn.send(body[20:])

    with Refusing(channel, slow) as x:
        head = x.client.read_head()
        x.refuse()
        x.fleet.wait_engines([x.other.id])
        assert x.fleet.chat().status == 200  # the worker has heard what the scheduler said before
        go.set()
        assert json.loads(x.client.read_body(head)) == re_.CHAT
        x.fleet.wait_no_lease()


def test_both_die_before_their_first_byte(pair):
    pair.default(re_.read_and_close)
    check_openai(pair.chat(), ("engine_gone", "engine_answer_truncated"), status=502)
    assert 2 <= pair.count() <= 4, "tries are bounded"
    pair.wait_no_lease()


def test_tries_stay_inside_the_budget():
    """A fleet that fails every request does not get three times the load for long: 20 % and 10 a second."""
    with re_.RawEngine("a") as a, re_.RawEngine("b") as b, Fleet(engines=[a, b], workers=1, with_mailbox=False) as f:
        a.default = b.default = re_.read_and_close
        t0 = time.monotonic()
        for _ in range(100):
            assert f.chat().status in (502, 503)
        assert a.count() + b.count() <= 100 + 0.2 * 100 + 10 * (time.monotonic() - t0) + 12


@pytest.mark.asan_ok
@pytest.mark.parametrize("read", [False, True])
def test_kept_connection_closed_just_as_it_is_picked_is_retried(raw, read):
    """vLLM closes idle connections; a POST that meets the close must not fail."""
    assert raw.chat().status == 200
    first = raw.engine.requests[0]

    def closes(conn, request):
        if read:
            conn.read_body(request)
        conn.close()

    raw.script(closes)
    a = raw.chat(text="again")
    assert a.status == 200, a
    second, third = raw.engine.requests[1:]
    assert second.conn is first.conn, "the connection was not reused: the test shows nothing"
    assert third.conn is not first.conn and third.json()["messages"][0]["content"] == "again"


def test_idle_connection_closed_by_the_engine_is_never_picked(raw):
    assert raw.chat().status == 200
    raw.engine.drop()
    before = raw.engine.connections
    wait_until("connection closed on both sides", 5, lambda: not [c for c in raw.engine.conns if c.is_open
                                                                  and c.id <= before and not c.buf and c.sent > 400])
    assert raw.chat().status == 200
    assert raw.count() == 2


def test_kept_connections_are_reused(raw):
    assert raw.chat().status == 200
    before = {r.conn.id for r in raw.engine.requests}
    for _ in range(5):
        assert raw.chat().status == 200
    assert max(r.conn.id for r in raw.engine.requests) == max(before), "a new connection was opened for nothing"


# ---- engines that lie ----

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
BAD_HEADS = {
    "garbage": b"hello, this is not HTTP\r\n\r\n", "binary": bytes(range(256)) * 4, "empty": b"",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "status not a number": b"HTTP/1.1 abc OK\r\n\r\n",
    "status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\n{}",
    "status 0": b"HTTP/1.1 000 OK\r\nContent-Length: 2\r\n\r\n{}", "no status": b"HTTP/1.1 \r\n\r\n",
    "unasked 101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "length and chunked": OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "length list": OK + b"Content-Length: 2, 3\r\n\r\n{}", "length negative": OK + b"Content-Length: -2\r\n\r\n{}",
    "length with a plus": OK + b"Content-Length: +2\r\n\r\n{}", "length empty": OK + b"Content-Length: \r\n\r\n{}",
    "length 2^64 + 2": OK + b"Content-Length: 18446744073709551618\r\n\r\n{}",
    "two codings": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "coding gzip": OK + b"Transfer-Encoding: gzip\r\n\r\n{}", "coding xchunked": OK + b"Transfer-Encoding: xchunked\r\n\r\n{}",
    "coding in 1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "folded header": OK + b"X-A: b\r\n c\r\nContent-Length: 2\r\n\r\n{}",
    "NUL in a header": OK + b"X-A: a\0b\r\nContent-Length: 2\r\n\r\n{}",
    "bare CR in a header": OK + b"X-A: a\rb\r\nContent-Length: 2\r\n\r\n{}",
    "space before colon": OK + b"Content-Length : 2\r\n\r\n{}",
    "header without colon": OK + b"nonsense\r\nContent-Length: 2\r\n\r\n{}",
    "huge header": OK + b"X-A: " + b"a" * 400000 + b"\r\nContent-Length: 2\r\n\r\n{}",
    "head without end": OK + b"X-A: b\r\n", "many headers": OK + b"X: y\r\n" * 5000 + b"Content-Length: 2\r\n\r\n{}",
}


@pytest.mark.asan_ok
@pytest.mark.parametrize("name", BAD_HEADS)
def test_malformed_answer_is_502(pair, name):
    pair.default(re_.answer_bytes(BAD_HEADS[name]))
    a = pair.chat()
    check_openai(a, ("engine_bad_answer", "engine_answer_truncated", "engine_gone"), status=502)
    pair.wait_no_lease()


CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
TOKEN = b"data: " + json.dumps(re_.delta("one")).encode() + b"\n\n"
TOKEN_CHUNK = b"%x\r\n%s\r\n" % (len(TOKEN), TOKEN)
BAD_BODIES = {
    "ends between two chunks": CHUNKED + TOKEN_CHUNK, "ends in a chunk": CHUNKED + TOKEN_CHUNK + b"ff\r\ndata: {",
    "ends in a size": CHUNKED + TOKEN_CHUNK + b"f", "size is no number": CHUNKED + TOKEN_CHUNK + b"zz\r\nxx\r\n",
    "size overflows": CHUNKED + TOKEN_CHUNK + b"10000000000000001\r\nx", "no CRLF behind a chunk": CHUNKED + b"2\r\nabXX",
    "close-framed, without its end mark": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + TOKEN,
    "negative size": CHUNKED + TOKEN_CHUNK + b"-1\r\nx",
}


@pytest.mark.asan_ok
@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("name", BAD_BODIES)
def test_broken_stream_is_never_a_success(pair, name, end):
    pair.default(re_.answer_bytes(BAD_BODIES[name], then=end))
    assert_broken_stream(pair.fleet)
    assert pair.count() == 1, "asked again after the first byte"
    pair.wait_no_lease()


@pytest.mark.parametrize("end", ["close", "reset"])
def test_answer_shorter_than_its_length_is_never_a_success(pair, end):
    pair.default(re_.short_body(end))
    try:
        assert pair.chat().status >= 500
    except Broken:
        pass


def test_close_framed_stream_with_its_end_mark_is_complete(raw):
    whole = TOKEN + b"data: [DONE]\n\n"
    raw.script(re_.answer_bytes(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + whole))
    a = raw.chat(stream=True)
    assert (a.status, a.body) == (200, whole)


def test_reset_ends_a_close_framed_answer_as_an_error(pair):
    pair.default(re_.answer_bytes(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + b"{" * 20, then="reset"))
    try:
        assert pair.chat().status >= 500
    except Broken:
        pass


def test_sdk_raises_when_the_engine_dies_in_the_stream(pair):
    pair.default(re_.token_then("reset"))
    client = openai.OpenAI(base_url=pair.base_url, api_key="x", max_retries=0)
    seen = []
    with pytest.raises(openai.APIError):
        for piece in client.chat.completions.create(model="raw", messages=[{"role": "user", "content": "x"}], stream=True):
            seen.append(piece.choices[0].delta.content)
    assert seen == ["one"]


# ---- unusual, but right ----

@pytest.mark.asan_ok
def test_interim_heads_are_skipped(raw):
    text = json.dumps(re_.CHAT).encode()
    raw.script(re_.answer_bytes(
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(text) + text, then="keep"))
    a = raw.chat()
    assert (a.status, a.json()) == (200, re_.CHAT)
    assert a.header("link") is None
    assert raw.chat().status == 200


def test_endless_interim_heads_are_an_error(pair):
    pair.default(re_.answer_bytes(b"HTTP/1.1 100 Continue\r\n\r\n" * 20000))
    check_openai(pair.chat(), ("engine_bad_answer", "engine_answer_truncated", "engine_gone"), status=502)


def test_close_framed_answer_is_complete_at_its_end(raw):
    text = json.dumps(re_.CHAT).encode()
    for version in (b"1.0", b"1.1"):
        raw.script(re_.answer_bytes(b"HTTP/%s 200 OK\r\nContent-Type: application/json\r\n\r\n" % version + text))
        a = raw.chat()
        assert (a.status, a.json()) == (200, re_.CHAT)


def test_answer_without_a_body(raw):
    raw.script(re_.answer_bytes(b"HTTP/1.1 204 No Content\r\n\r\n", then="keep"))
    assert raw.chat().status == 204
    assert raw.chat().status == 200


@pytest.mark.asan_ok
def test_dribbled_stream_is_the_same_stream(raw):
    raw.script(re_.dribble(1))
    a = raw.chat(stream=True)
    events = a.events()
    assert [json.loads(e)["choices"][0]["delta"]["content"] for e in events[:-1]] == ["tok0", "tok1", ""]
    assert events[-1] == "[DONE]"


def test_big_answer_passes(raw):
    text = json.dumps({"choices": [], "x": "y" * (8 << 20)}).encode()
    raw.script(re_.answer(text))
    assert raw.chat(timeout=30).body == text


def test_answer_while_the_request_is_still_written_is_passed_on(raw):
    """A 413 that comes early, before the engine has read the body, and a close: the client sees the 413."""
    error = {"error": {"message": "too big", "type": "x", "param": None, "code": 413}}
    raw.script(re_.early_answer("413 Payload Too Large", error))
    a = raw.chat(text="x" * (8 << 20), timeout=30)
    assert (a.status, a.json()) == (413, error)
    assert raw.count() == 1


@pytest.mark.asan_ok
@pytest.mark.parametrize("fresh", [False, True])
def test_engine_that_reads_late_gets_the_whole_body(raw, fresh):
    """Bodies that just fit into the socket: written at once, and the socket becomes writable again much later."""
    for kb in (300, 600, 1000, 1500, 2000, 2500, 3000, 3800):
        assert raw.chat().status == 200
        if fresh:
            raw.engine.drop()
        go = threading.Event()

        def reads_late(conn, request):
            assert go.wait(secs(10))
            re_.ok_json(conn, request)

        raw.script(reads_late)
        raw.engine.requests.clear()
        with raw.client() as c:
            c.request("POST", PATH, chat("raw", "x" * (kb << 10)))
            raw.engine.wait_request()
            for _ in range(3):
                assert raw.get("/health").status == 200
            go.set()
            assert c.read_answer().status == 200
        assert raw.get("/health").status == 200
        assert len(raw.engine.requests[0].body) > kb << 10


def test_stray_bytes_behind_an_answer_end_the_connection(raw):
    text = json.dumps(re_.CHAT).encode()
    raw.script(re_.answer_bytes(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%sHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
                                % (len(text), text), then="keep"))
    assert raw.chat().json() == re_.CHAT
    assert raw.chat().json() == re_.CHAT
    assert raw.engine.requests[1].index == 0, "a poisoned connection was reused"


# ---- silence ----

@pytest.mark.asan_ok
def test_silent_engine_is_504_and_let_go(pair):
    pair.default(re_.hang)
    t0 = time.monotonic()
    a = pair.chat(timeout=30)
    check_openai(a, "engine_first_byte_timeout", status=504)
    assert time.monotonic() - t0 < secs(8)
    for r in pair.requests():
        assert r.gone.wait(secs(5)), "the engine was not let go"
    pair.wait_no_lease()


@pytest.mark.parametrize("step", ["token_then_hang", "head_then_hang"])
def test_engine_that_stalls_in_the_stream_is_an_error(pair, step):
    pair.default(getattr(re_, step))
    assert_broken_stream(pair.fleet)
    assert pair.requests()[0].gone.wait(secs(5)), "the engine was not let go"
    pair.wait_no_lease()


def test_stalled_probe_makes_an_engine_dead_and_back_again(pair):
    pair.engines[0].healthy = False
    pair.wait_engines(["b"])
    for _ in range(4):
        assert pair.chat().header("x-slipstream-engine") == "b"
    pair.engines[0].healthy = True
    pair.wait_engines(["a", "b"])


# ---- clients that leave ----

def leave(client, how):
    client.reset() if how == "reset" else client.close()


@pytest.mark.asan_ok
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("stream", [False, True])
def test_client_that_leaves_before_the_first_byte_cancels(raw, how, stream):
    raw.script(re_.hang)
    c = raw.client()
    c.request("POST", PATH, chat("raw", "bye", stream=stream))
    r = raw.engine.wait_request()
    leave(c, how)
    assert r.gone.wait(secs(3)), "the engine still works for nobody"
    raw.wait_no_lease()


@pytest.mark.asan_ok
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("step", ["head_then_hang", "token_then_hang"])
def test_client_that_leaves_a_silent_stream_cancels(raw, how, step):
    raw.script(getattr(re_, step))
    c = raw.client()
    c.request("POST", PATH, chat("raw", "bye", stream=True))
    r = raw.engine.wait_request()
    if step == "token_then_hang":
        assert c.read_head().status == 200
        assert b"one" in c.read_chunk()
    leave(c, how)
    assert r.gone.wait(secs(3)), "the engine still works for nobody"
    raw.wait_no_lease()


def test_client_that_leaves_a_busy_stream_cancels(raw):
    flood = Flood(1 << 30)
    raw.script(flood)
    with raw.client() as c:
        c.request("POST", PATH, chat("raw", "bye", stream=True))
        c.read_head()
        c.read_chunk()
    assert flood.ended.wait(secs(5)) and flood.request.gone.is_set()
    raw.wait_no_lease()


def test_client_that_leaves_in_its_body_starts_nothing(raw):
    for how in ("close", "reset"):
        c = raw.client()
        c.send(f"POST {PATH} HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n"
               .encode() + b"{" * 100)
        leave(c, how)
    assert raw.chat().status == 200
    assert raw.count() == 1
    raw.wait_no_lease()


def test_many_clients_that_leave_at_once_leave_nothing_behind(raw):
    raw.engine.default = re_.hang
    fds = raw.worker.fd_count()
    clients = [raw.client() for _ in range(40)]
    for c in clients:
        c.request("POST", PATH, chat("raw", "crowd"), [("X-Workflow-ID", "crowd")])
    raw.engine.wait_request(40)
    for i, c in enumerate(clients):
        leave(c, "reset" if i % 2 else "close")
    for r in raw.engine.requests[:40]:
        assert r.gone.wait(secs(5))
    raw.wait_no_lease()
    wait_until("descriptors are back", 5, lambda: raw.worker.fd_count() <= fds + 4)


def test_pipelined_request_behind_a_hanging_one_does_not_hide_the_leaving(raw):
    raw.script(re_.hang)
    c = raw.client()
    c.request("POST", PATH, chat("raw", "one"))
    r = raw.engine.wait_request()
    c.request("GET", "/v1/models")
    c.close()
    assert r.gone.wait(secs(3))


# ---- clients that are slow ----

def kernel_buffers():
    """What the sockets between an engine and a client may hold at most, and a little of our own."""
    def most(name):
        return int(Path(f"/proc/sys/net/ipv4/{name}").read_text().split()[2])

    return most("tcp_rmem") + 2 * most("tcp_wmem") + (8 << 20)


@pytest.mark.asan_ok
def test_client_that_does_not_read_holds_the_engine_back(raw):
    flood = Flood(kernel_buffers() * 3 // 2)
    assert raw.chat().status == 200
    raw.script(flood)
    before = raw.worker.rss_kb()
    with raw.client(rcvbuf=65536, timeout=60) as c:
        c.request("POST", PATH, chat("raw", "slow reader", stream=True))
        head = c.read_head()
        assert head.status == 200
        sent = flood.wait_blocked()
        assert sent < kernel_buffers(), f"{sent >> 20} MB were taken for a client that reads nothing"
        allowed = 65536 if SANITIZED else 16384  # a sanitizer keeps freed memory for a while
        assert raw.worker.rss_kb() - before < allowed, "the worker hoards"
        total = 0
        while (piece := c.read_chunk()) is not None:
            total += len(piece)
        assert total == flood.sent >= flood.total, "bytes were lost"
    raw.wait_no_lease()


@pytest.mark.asan_ok
@pytest.mark.parametrize("framing", ["Content-Length", "chunked", "close"])
def test_engine_that_closes_behind_its_answer_does_not_cut_it_off_for_a_slow_reader(raw, framing):
    size = 24 << 20

    def closes(conn, request):
        conn.read_body(request)
        if framing == "chunked":
            conn.head("200 OK", "Content-Type: application/json", "Transfer-Encoding: chunked", "Connection: close")
            conn.send(b"%x\r\n%s\r\n0\r\n\r\n" % (size, b" " * size))
        else:
            length = [f"Content-Length: {size}"] if framing == "Content-Length" else []
            conn.head("200 OK", "Content-Type: application/json", "Connection: close", *length)
            conn.send(b" " * size)
        conn.close()

    raw.script(closes)
    with raw.client(rcvbuf=8192, timeout=60) as c:
        c.request("POST", PATH, chat("raw", "slow reader of a closed answer"))
        assert len(c.read_body(c.read_head())) == size
    raw.wait_no_lease()


def test_client_that_never_reads_is_given_up(pair):
    """write_timeout_ms: the request ends and the engine is let go, though the client keeps its connection."""
    flood = Flood(1 << 30)
    pair.default(flood)
    with pair.client(rcvbuf=65536) as c:
        c.request("POST", PATH, chat("raw", "never reads", stream=True))
        flood.wait_blocked()
        assert flood.ended.wait(secs(10)), "still waiting for a client that does not read"
    pair.wait_no_lease()


@pytest.mark.asan_ok
def test_request_beyond_the_last_place_is_503():
    with re_.RawEngine("raw") as engine, \
            Fleet(engines=[engine], workers=1, with_mailbox=False, gateway={"max_requests": 1}) as f:
        engine.script(re_.hang)
        with f.client() as c:
            c.request("POST", PATH, chat("raw", "takes the only place"))
            engine.wait_request()
            check_openai(f.chat(), "busy", status=503, has_id=False)
        wait_until("the place is free again", 5, lambda: f.chat().status == 200)


def test_slow_head_is_408(pair):
    with pair.client() as c:
        c.send(b"POST " + PATH.encode() + b" HTTP/1.1\r\nHost: t\r\n")
        try:
            assert c.read_answer().status == 408
        except Broken:
            raise AssertionError("closed without an answer") from None
        assert c.is_closed()


def test_dribbled_head_does_not_extend_the_deadline(pair):
    t0 = time.monotonic()
    with pair.client() as c:
        c.send(b"POST " + PATH.encode() + b" HTTP/1.1\r\n")
        try:
            while time.monotonic() - t0 < secs(8):
                c.send(b"X-A: b\r\n")
                c.sock.settimeout(0.1)
                try:
                    if not c.sock.recv(4096):
                        break
                except TimeoutError:
                    pass
            else:
                raise AssertionError("still open")
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert time.monotonic() - t0 < secs(5)


def test_slow_body_is_408(pair):
    with pair.client() as c:
        c.send(f"POST {PATH} HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{{"
               .encode())
        a = c.read_answer()
        assert a.status == 408
        assert c.is_closed()
    assert pair.count() == 0


def test_idle_connections_cost_nothing_and_block_nobody(raw):
    idle = [socket.create_connection(("127.0.0.1", raw.port)) for _ in range(200)]
    try:
        assert raw.chat().status == 200
    finally:
        for s in idle:
            s.close()


# ---- engines that fall over (simulated ones) ----

SIM_FAULTS = {"error": {"status": 500}, "garbage": {}, "bad_te": {}, "te_cl": {}, "dup_cl": {}, "reset": {},
              "truncate": {"after_events": 2}, "stream_error": {"after_events": 2}, "stale": {}, "early": {},
              "close_idle": {"delay_ms": 1}, "slow": {"delay_ms": 50}, "dribble": {"delay_ms": 0}}


@pytest.mark.parametrize("mode", SIM_FAULTS)
def test_every_fault_of_the_simulator_ends_in_an_answer(sim, mode):
    """Whatever an engine does, each client gets an answer or a visibly broken one, in time."""
    try:
        for stream in (False, True):
            for e in sim.engines:
                e.fault(mode, 1, **SIM_FAULTS[mode])
            for _ in range(3):
                try:
                    a = sim.chat(f"fault {mode}", stream=stream, max_tokens=8)
                except Broken:
                    assert mode in ("reset", "truncate")
                    continue
                assert a.status in (200, 413, 500, 502, 503), a
                if a.status != 200:
                    assert a.json()["error"]["message"]
                elif stream:
                    assert a.events()[-1] == "[DONE]" or '"error"' in a.events()[-1]
                else:
                    assert len(a.json()["choices"][0]["message"]["content"]) == 32
    finally:
        for e in sim.engines:
            e.fault("none", 0)
    sim.wait_engines()
    assert sim.chat().status == 200


@pytest.mark.slow
def test_a_hundred_deaths(pair):
    ends = ["read_and_close", "read_and_reset", "close_unread", "reset_unread"]
    for i in range(100):
        pair.engines[i % 2].default = getattr(re_, ends[i % 4])
        pair.engines[(i + 1) % 2].default = re_.ok_json
        assert pair.chat(headers=[("X-Workflow-ID", f"deaths-{i % 5}")]).status in (200, 502, 503)
    pair.wait_no_lease()


def test_fleet_without_an_engine_says_so():
    with Fleet(engines=[], workers=1, with_mailbox=False) as f:
        a = f.post(PATH, chat("raw"))
        check_openai(a, ("model_not_found", "no_engine_available"))
