# SPDX-License-Identifier: Apache-2.0
"""Request heads and framings that a strict proxy must not let through."""
import json

import pytest
from support.fleet import Fleet
from support.raw_engine import RawEngine
from support.rawhttp import Broken, RawClient, chat, request_bytes

BODY = json.dumps(chat("raw", "hygiene", max_tokens=4)).encode()
N = len(BODY)
PATH = "/v1/chat/completions"


def post(*lines, line=f"POST {PATH} HTTP/1.1", host="Host: test", body=BODY, eol="\r\n"):
    heads = [line, *([host] if host else []), "Content-Type: application/json", *lines]
    return eol.join(heads).encode("latin-1") + (eol + eol).encode() + body


def chunked(data):
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data)


REFUSED = {
    "two different content lengths": (post(f"Content-Length: {N}", f"Content-Length: {N - 1}"), {400}),
    "two equal content lengths": (post(f"Content-Length: {N}", f"Content-Length: {N}"), {400}),
    "list of content lengths": (post(f"Content-Length: {N}, {N}"), {400}),
    "content length and transfer encoding": (
        post(f"Content-Length: {N}", "Transfer-Encoding: chunked", body=chunked(BODY)), {400}),
    "transfer encoding and content length": (
        post("Transfer-Encoding: chunked", "Content-Length: 5", body=chunked(BODY)), {400}),
    "two transfer encodings": (
        post("Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=chunked(BODY)), {400, 501}),
    "transfer encoding in 1.0": (
        post("Transfer-Encoding: chunked", line=f"POST {PATH} HTTP/1.0", body=chunked(BODY)), {400}),
    "transfer encoding xchunked": (post("Transfer-Encoding: xchunked", body=chunked(BODY)), {400, 501}),
    "transfer encoding gzip, chunked": (post("Transfer-Encoding: gzip, chunked", body=chunked(BODY)), {400, 501}),
    "transfer encoding chunked, identity": (
        post("Transfer-Encoding: chunked, identity", body=chunked(BODY)), {400, 501}),
    "transfer encoding with a space before the colon": (
        post("Transfer-Encoding : chunked", body=chunked(BODY)), {400}),
    "content length with a space before the colon": (post(f"Content-Length : {N}"), {400}),
    "content length with a plus": (post(f"Content-Length: +{N}"), {400}),
    "content length negative": (post("Content-Length: -1"), {400}),
    "content length hexadecimal": (post(f"Content-Length: 0x{N:x}"), {400}),
    "content length empty": (post("Content-Length:"), {400}),
    "content length of 2^64 + 1": (post(f"Content-Length: {2**64 + 1}"), {400, 413}),
    "content length of 2^64 + body": (post(f"Content-Length: {2**64 + N}"), {400, 413}),
    "no host": (post(f"Content-Length: {N}", host=None), {400}),
    "two hosts": (post("Host: other", f"Content-Length: {N}"), {400}),
    "two equal hosts": (post("Host: test", f"Content-Length: {N}"), {400}),
    "folded header": (post("X-A: b", " folded", f"Content-Length: {N}"), {400}),
    "folded first header": (post(f"Content-Length: {N}", host=" Host: test"), {400}),
    "space in a header name": (post("X A: b", f"Content-Length: {N}"), {400}),
    "space before a colon": (post("X-A : b", f"Content-Length: {N}"), {400}),
    "empty header name": (post(": b", f"Content-Length: {N}"), {400}),
    "line without a colon": (post("nonsense", f"Content-Length: {N}"), {400}),
    "NUL in a value": (post("X-A: a\0b", f"Content-Length: {N}"), {400}),
    "bare CR in a value": (post("X-A: a\rb", f"Content-Length: {N}"), {400}),
    "control character in a value": (post("X-A: a\x01b", f"Content-Length: {N}"), {400}),
    "70 KB header": (post("X-A: " + "a" * 70000, f"Content-Length: {N}"), {431}),
    "40 KB of small headers": (
        post(*[f"X-{i}: {'v' * 490}" for i in range(80)], f"Content-Length: {N}"), {431}),
    "70 KB request target": (post(f"Content-Length: {N}", line=f"POST /{'a' * 70000} HTTP/1.1"), {414, 431}),
    "unknown version": (post(f"Content-Length: {N}", line=f"POST {PATH} HTTP/3.0"), {400, 505}),
    "no version": (b"GET /v1/models\r\n\r\n", {400}),
    "garbage": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", {400}),
    "chunk size not hexadecimal": (post("Transfer-Encoding: chunked", body=b"zz\r\nab\r\n0\r\n\r\n"), {400}),
    "chunk size negative": (post("Transfer-Encoding: chunked", body=b"-1\r\nab\r\n0\r\n\r\n"), {400}),
    "chunk size overflow": (
        post("Transfer-Encoding: chunked", body=b"1%016x\r\n%s\r\n0\r\n\r\n" % (N, BODY)), {400, 413}),
    "chunk longer than its size": (
        post("Transfer-Encoding: chunked", body=b"2\r\n%s\r\n0\r\n\r\n" % BODY), {400}),
}


@pytest.mark.asan_ok
@pytest.mark.parametrize("name", REFUSED)
def test_malformed_head_is_refused_and_the_connection_closed(raw, name):
    data, statuses = REFUSED[name]
    with raw.client() as c:
        c.send(data)
        try:
            a = c.read_answer()
        except Broken:
            a = None  # closed without a word: only for what is no HTTP request at all
        assert (a is None and name in ("garbage", "no version", "unknown version")) or a.status in statuses, a
        assert c.is_closed(), "the connection stays open"
    assert raw.count() == 0, "it reached the engine"


# Accepted by the HTTP library below us, which hides how a chunk was written. Either is fine as long as
# nothing after it on the connection is believed and upstream gets a framing of our own.
LENIENT = {
    "chunk size with 0x": b"0x%x\r\n%s\r\n0\r\n\r\n" % (N, BODY),
    "chunk extension with bare CR": b"%x;a\rb\r\n%s\r\n0\r\n\r\n" % (N, BODY),
    "chunk lines with bare LF": b"%x\n%s\r\n0\n\n" % (N, BODY),
    "chunk extension": b"%x;name=value\r\n%s\r\n0\r\n\r\n" % (N, BODY),
    "trailer that claims a length": b"%x\r\n%s\r\n0\r\nContent-Length: 3\r\nX-Slipstream-Evil: 1\r\n\r\n" % (N, BODY),
}


@pytest.mark.asan_ok
@pytest.mark.parametrize("name", LENIENT)
def test_odd_chunks_are_refused_or_reframed_and_nothing_follows(raw, name):
    smuggled = request_bytes("POST", PATH, chat("raw", "smuggled"))
    with raw.client() as c:
        c.send(post("Transfer-Encoding: chunked", body=LENIENT[name]) + smuggled)
        try:
            a = c.read_answer()
            assert a.status in (200, 400), a
        except Broken:
            pass
        assert c.is_closed(), "a second request was believed"
    for r in raw.engine.requests:
        assert b"smuggled" not in r.body
        assert r.body == BODY
        assert r.header_all("transfer-encoding") == []
        assert r.header_all("content-length") == [str(N)]
        assert r.header("x-slipstream-evil") is None
    assert raw.count() <= 1


def test_bare_line_feeds_are_read_as_line_ends_or_refused(raw):
    with raw.client() as c:
        c.send(post(f"Content-Length: {N}", eol="\n"))
        a = c.read_answer()
        assert a.status in (200, 400), a
        assert raw.count() == (1 if a.status == 200 else 0)


def test_chunked_body_arrives_whole_and_the_connection_closes(raw):
    pieces = b"".join(b"%x\r\n%s\r\n" % (len(BODY[i:i + 7]), BODY[i:i + 7]) for i in range(0, N, 7))
    with raw.client() as c:
        c.send(post("Transfer-Encoding: chunked", body=pieces + b"0\r\n\r\n"))
        assert c.read_answer().status == 200
        assert c.is_closed()
    assert raw.engine.requests[0].body == BODY


def test_pipelined_requests_are_answered_in_order(raw):
    with raw.client() as c:
        c.send(post(f"Content-Length: {N}") + request_bytes("GET", "/v1/models") + post(f"Content-Length: {N}"))
        first, second, third = (c.read_answer() for _ in range(3))
    assert first.json()["object"] == third.json()["object"] == "chat.completion"
    assert second.json()["object"] == "list"
    assert raw.count() == 2


TARGETS = {
    "unknown path": ("GET", "/nothing", {404}),
    "unknown path with a body": ("POST", "/nothing", {404}),
    "path that walks up": ("POST", "/v1/../collective_rpc", {400, 404}),
    "path that walks up, encoded": ("POST", "/v1/%2e%2e/sleep", {400, 404}),
    "path that walks up at its end": ("POST", "/v1/x/..", {400, 404}),
    "path with an encoded slash": ("POST", "/v1/..%2fsleep", {400, 404}),
    "path with an encoded NUL": ("POST", "/v1/x%00", {400, 404}),
    "GET on a POST path": ("GET", PATH, {405}),
    "PUT on a POST path": ("PUT", PATH, {405}),
    "TRACE": ("TRACE", PATH, {405}),
    "unknown method": ("BREW", PATH, {405}),
    "unknown method elsewhere": ("BREW", "/v1/models", {405}),
    "CONNECT": ("CONNECT", "example.com:443", {400, 404, 405}),
    "asterisk": ("OPTIONS", "*", {400, 404, 405}),
    "POST on models": ("PATCH", "/v1/models", {405}),
}


@pytest.mark.parametrize("name", TARGETS)
def test_wrong_method_or_target_never_reaches_an_engine(raw, name):
    method, target, statuses = TARGETS[name]
    with raw.client() as c:
        c.request(method, target, BODY if method in ("POST", "PUT", "PATCH", "BREW") else None)
        a = c.read_answer(method)
    assert a.status in statuses, a
    assert raw.count() == 0


def test_wrong_method_names_the_right_ones(raw):
    a = raw.fetch("GET", PATH)
    assert a.status == 405
    assert a.header("allow") == "POST", a
    assert a.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("target, sent", [
    (f"http://test{PATH}", PATH), (f"HTTP://other.example:81{PATH}", PATH), (f"http://test{PATH}?a=b", f"{PATH}?a=b"),
    (f"http://test/wf/absolute{PATH}", PATH)])
@pytest.mark.asan_ok
def test_absolute_form_is_understood_and_goes_on_in_origin_form(raw, target, sent):
    with raw.client() as c:
        c.send(post(f"Content-Length: {N}", line=f"POST {target} HTTP/1.1"))
        assert c.read_answer().status == 200
        c.request("GET", "http://test/v1/models")
        assert c.read_answer().status == 200
    (r,) = raw.engine.requests
    assert (r.target, r.body) == (sent, BODY)
    assert r.header_all("host") == [f"127.0.0.1:{raw.engine.port}"]


@pytest.mark.parametrize("target, status", [
    ("https://test/v1/models", 400), ("ftp://test/v1/models", 400), ("http:///v1/models", 400), ("http://u:p@test/v1/models", 400),
    ("http://test", 404), ("http://test?x", 404), ("http://test//v1/models", 404), ("http:/v1/models", 404),
    ("http://test/v1/../collective_rpc", 405)])
def test_absolute_form_that_is_not_ours_is_refused(raw, target, status):
    with raw.client() as c:
        c.request("GET", target)
        a = c.read_answer()
    assert a.status == status and a.json()["error"]["code"], a
    assert raw.count() == 0


def test_absolute_form_counts_and_not_the_host(raw):
    """The admin listener is only for names that are meant: a page that rebinds its own is not."""
    for host, target, status in (("evil.example", "http://localhost/engines", 200), ("localhost", "http://evil.example/engines", 403)):
        with RawClient(raw.fleet.admin_port) as c:
            c.request("GET", target, host=host)
            assert c.read_answer().status == status


def test_head_answers_carry_no_body(raw):
    with raw.client() as c:
        c.request("HEAD", "/health")
        a = c.read_answer("HEAD")
        assert a.status in (200, 405)
        c.request("GET", "/health")
        assert c.read_answer().status == 200


WF_PATHS = {
    "encoded slash": ("/wf/a%2fb", 400), "encoded slash, capital": ("/wf/a%2Fb", 400),
    "encoded NUL": ("/wf/a%00b", 400), "dot": ("/wf/.", 400), "dot dot": ("/wf/..", 400),
    "encoded dot dot": ("/wf/%2e%2e", 400), "encoded line feed": ("/wf/a%0ab", 400),
    "bad UTF-8": ("/wf/%ff", 400), "cut percent": ("/wf/a%2", 400), "not hexadecimal": ("/wf/a%zz", 400),
    "257 bytes": ("/wf/" + "a" * 257, 400), "empty": ("/wf/", 400),
    "agent with an encoded slash": ("/wf/a/agents/b%2fc", 400), "agent dot dot": ("/wf/a/agents/..", 400),
    "agent empty": ("/wf/a/agents/", 400), "agent 257 bytes": ("/wf/a/agents/" + "b" * 257, 400),
}


@pytest.mark.parametrize("name", WF_PATHS)
def test_bad_workflow_path_is_refused(raw, name):
    prefix, status = WF_PATHS[name]
    a = raw.post(f"{prefix}/v1/chat/completions", BODY)
    assert a.status == status or (name in ("empty", "agent empty", "dot", "dot dot", "agent dot dot")
                                  and a.status == 404), a
    assert raw.count() == 0


@pytest.mark.parametrize("prefix,workflow", [
    ("/wf/once%252fdecoded", "once%252fdecoded"), ("/wf/%C3%BCber", "%C3%BCber"), ("/wf/" + "w" * 256, "w" * 256),
    ("/wf/a.b..c", "a.b..c"), ("/wf/sp%20ace", "sp%20ace")])
def test_workflow_path_is_decoded_exactly_once(raw, prefix, workflow):
    a = raw.post(f"{prefix}/v1/chat/completions", BODY)
    assert a.status == 200, a
    assert raw.engine.requests[0].target == PATH
    assert raw.get(f"/v1/workflows/{workflow}/status").status == 200


@pytest.mark.asan_ok
def test_upstream_request_is_framed_by_us(raw):
    sent = [("X-Custom", "kept"), ("Authorization", "Bearer sk-test"), ("Connection", "keep-alive, X-Hop"),
            ("X-Hop", "1"), ("Keep-Alive", "timeout=5"), ("Proxy-Authorization", "Basic x"), ("TE", "trailers"),
            ("Trailer", "X-T"), ("Upgrade", "websocket"), ("X-Slipstream-Engine", "evil"), ("X-Workflow-ID", "framed"),
            ("X-Data-Parallel-Rank", "3"), ("X-Vllm-Priority", "-100"), ("HTTP2-Settings", "AAMAAABk"),
            ("Accept", "application/json"), ("User-Agent", "probe/1"), ("Connection", "X-Late"), ("X-Late", "1")]
    with raw.client() as c:
        c.request("POST", PATH, BODY, sent, host="public.example:81")
        assert c.read_answer().status == 200
    r = raw.engine.requests[0]
    assert r.method == "POST" and r.target == PATH and r.version == "HTTP/1.1"
    assert r.header_all("host") == [f"127.0.0.1:{raw.engine.port}"]
    assert r.header_all("content-length") == [str(N)]
    assert r.header("x-custom") == "kept"
    assert r.header("authorization") == "Bearer sk-test"
    assert r.header("accept") == "application/json"
    assert r.header("user-agent") == "probe/1"
    assert len(r.header_all("x-request-id")) == 1
    for gone in ("transfer-encoding", "keep-alive", "proxy-authorization", "te", "trailer", "upgrade", "x-hop", "x-late",
                 "x-slipstream-engine", "x-data-parallel-rank", "x-vllm-priority", "http2-settings", "expect"):
        assert r.header(gone) is None, (gone, r.headers)


@pytest.mark.asan_ok
def test_engines_are_asked_with_their_own_key(tmp_path):
    key = "k" * 511  # the longest there is
    (tmp_path / "key").write_text(key + "\n")
    with RawEngine() as engine:
        engine.key = key
        with Fleet(engines=[engine], engine_conf={"key_file": str(tmp_path / "key")}) as f:
            assert f.chat(headers=[("Authorization", "Bearer of-the-client")]).status == 200
        assert engine.requests[0].header_all("authorization") == [f"Bearer {key}"]


def test_client_request_id_is_kept(raw):
    a = raw.chat(headers=[("X-Request-Id", "mine-1")])
    assert a.header_all("x-request-id") == ["mine-1"]
    assert raw.engine.requests[0].header_all("x-request-id") == ["mine-1"]


def test_hostile_request_id_is_replaced_or_refused(raw):
    a = raw.chat(headers=[("X-Request-Id", "a" * 5000)])
    assert a.status in (200, 400)
    assert len(a.header("x-request-id") or "") <= 256


def test_a_good_request_works_after_all_of_this(raw):
    assert raw.chat().status == 200
    assert raw.worker.is_alive()
