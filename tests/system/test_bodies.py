# SPDX-License-Identifier: Apache-2.0
"""Bodies that are wrong, and bodies that must arrive byte for byte."""
import contextlib
import gzip
import json
import re
import socket

import pytest
from support.errors import check_anthropic, check_openai, check_problem
from support.fleet import Fleet
from support.raw_engine import RawEngine, answer, ok_stream
from support.rawhttp import Broken, request_bytes

PATH = "/v1/chat/completions"


def body(**members):
    """A chat body whose members are given as raw JSON text."""
    base = {"model": '"raw"', "messages": '[{"role":"user","content":"hi"}]'}
    return ("{" + ",".join(f'"{k}":{v}' for k, v in {**base, **members}.items()) + "}").encode()


BAD_JSON = {
    "empty": b"", "space": b"   ", "truncated": body()[:-1], "truncated in a string": body()[:40],
    "truncated in an escape": b'{"model":"raw\\', "trailing comma": body()[:-1] + b",}",
    "two documents": body() + body(), "trailing garbage": body() + b"x", "trailing NUL": body() + b"\0",
    "byte order mark": b"\xef\xbb\xbf" + body(), "UTF-16": body().decode().encode("utf-16"),
    "UTF-16 without mark": body().decode().encode("utf-16-le"), "single quotes": body().replace(b'"', b"'"),
    "comment": body()[:-1] + b",/* */\"a\":1}", "NaN": body(temperature="NaN"), "Infinity": body(temperature="Infinity"),
    "-Infinity": body(temperature="-Infinity"), "leading zero": body(n="01"), "plus": body(n="+1"),
    "hexadecimal": body(n="0x1"), "point without digits": body(n="1."), "point first": body(n=".5"),
    "exponent without digits": body(n="1e"), "bare word": body(n="yes"), "capital literal": body(n="True"),
    "lone continuation byte": body(user='"\x80"').decode().encode("latin-1"),
    "overlong": body(user='"@@"').replace(b"@@", b"\xc0\xaf"), "surrogate": body(user='"@@"').replace(b"@@", b"\xed\xa0\x80"),
    "beyond Unicode": body(user='"@@"').replace(b"@@", b"\xf4\x90\x80\x80"), "cut UTF-8": body(user='"@@"').replace(b"@@", b"\xe2\x82"),
    "control character in a string": body(user='"a\x01b"'), "line feed in a string": body(user='"a\nb"'),
    "unknown escape": body(user='"\\x41"'), "short unicode escape": body(user='"\\u12"'),
    "missing colon": b'{"model" "raw"}', "missing comma": b'{"model":"raw" "messages":[]}',
    "key without quotes": b'{model:"raw"}', "number as key": b'{1:"raw"}', "unclosed array": b'{"model":"raw","messages":[}',
    "wrong closer": b'{"model":"raw","messages":[}]', "only a brace": b"{", "text": b"hello",
}


@pytest.mark.asan_ok
def test_malformed_json_is_400_and_reaches_nobody(raw):
    for name, data in BAD_JSON.items():
        a = raw.post(PATH, data)
        try:
            check_openai(a, "invalid_json")
        except AssertionError as e:
            raise AssertionError(f"{name}: {e}") from None
    assert raw.count() == 0


WRONG = {
    "array": (b"[]", ("invalid_json", "invalid_type"), None),
    "string": (b'"raw"', ("invalid_json", "invalid_type"), None),
    "null": (b"null", ("invalid_json", "invalid_type"), None),
    "no model": (b'{"messages":[]}', "model_required", "model"),
    "model null": (body(model="null"), ("invalid_type", "model_required"), "model"),
    "model number": (body(model="7"), "invalid_type", "model"),
    "model array": (body(model='["raw"]'), "invalid_type", "model"),
    "model empty": (body(model='""'), ("invalid_value", "invalid_id", "model_required", "model_not_found"), "model"),
    "model of 10 KB": (body(model='"' + "m" * 10000 + '"'), ("invalid_value", "model_not_found"), "model"),
    "model unknown": (body(model='"nobody"'), "model_not_found", "model"),
    "model with another case": (body(model='"RAW"'), "model_not_found", "model"),
    "model with a NUL": (body(model='"raw\\u0000"'), ("invalid_value", "invalid_id", "model_not_found"), "model"),
    "stream a string": (body(stream='"true"'), "invalid_type", "stream"),
    "stream a number": (body(stream="1"), "invalid_type", "stream"),
    "model twice": (b'{"model":"raw","messages":[],"model":"raw"}', "duplicate_key", "model"),
    "model twice, one escaped": (b'{"model":"raw","messages":[],"m\\u006fdel":"other"}', "duplicate_key", "model"),
    "stream twice": (b'{"model":"raw","messages":[],"stream":true,"stream":false}', "duplicate_key", "stream"),
    "messages twice": (b'{"model":"raw","messages":[],"messages":[]}', "duplicate_key", "messages"),
    "stream_options a string": (body(stream="true", stream_options='"yes"'), "invalid_type", "stream_options"),
    "metadata twice": (
        body(workflow_metadata='{"workflow_id":"a"},"workflow_metadata":{"workflow_id":"b"}'), "duplicate_key",
        "workflow_metadata"),
}


@pytest.mark.asan_ok
@pytest.mark.parametrize("name", WRONG)
def test_wrong_member_is_named(raw, name):
    data, code, param = WRONG[name]
    check_openai(raw.post(PATH, data), code, param)
    assert raw.count() == 0


LONG = "x" * 257
METADATA = {
    "a string": ('"w"', "invalid_type", "workflow_metadata"),
    "a list": ("[]", "invalid_type", "workflow_metadata"),
    "a number": ("1", "invalid_type", "workflow_metadata"),
    "workflow_id a number": ('{"workflow_id":7}', "invalid_type", "workflow_metadata.workflow_id"),
    "workflow_id an object": ('{"workflow_id":{}}', "invalid_type", "workflow_metadata.workflow_id"),
    "workflow_id empty": ('{"workflow_id":""}', "invalid_id", "workflow_metadata.workflow_id"),
    "workflow_id of 257 bytes": ('{"workflow_id":"%s"}' % LONG, "invalid_id", "workflow_metadata.workflow_id"),
    "workflow_id with NUL": ('{"workflow_id":"a\\u0000b"}', "invalid_id", "workflow_metadata.workflow_id"),
    "workflow_id with line feed": ('{"workflow_id":"a\\nb"}', "invalid_id", "workflow_metadata.workflow_id"),
    "workflow_id with DEL": ('{"workflow_id":"a\x7fb"}', "invalid_id", "workflow_metadata.workflow_id"),
    "workflow_id lone surrogate": ('{"workflow_id":"\\ud800"}', ("invalid_id", "invalid_json"), None),
    "agent_id of 257 bytes": ('{"workflow_id":"w","agent_id":"%s"}' % LONG, "invalid_id", "workflow_metadata.agent_id"),
    "agent_id a list": ('{"workflow_id":"w","agent_id":[]}', "invalid_type", "workflow_metadata.agent_id"),
    "parent a number": ('{"workflow_id":"w","parent_request_id":1}', "invalid_type",
                        "workflow_metadata.parent_request_id"),
    "strategy unknown": ('{"workflow_id":"w","context_sharing_strategy":"max"}', "invalid_value",
                         "workflow_metadata.context_sharing_strategy"),
    "strategy a number": ('{"workflow_id":"w","context_sharing_strategy":1}', "invalid_type",
                          "workflow_metadata.context_sharing_strategy"),
    "priority unknown": ('{"workflow_id":"w","priority":"urgent"}', "invalid_value", "workflow_metadata.priority"),
    "priority a number": ('{"workflow_id":"w","priority":1}', "invalid_type", "workflow_metadata.priority"),
    "group_size a string": ('{"workflow_id":"w","group_id":"g","group_size":"4"}', "invalid_type",
                            "workflow_metadata.group_size"),
    "group_size negative": ('{"workflow_id":"w","group_id":"g","group_size":-1}', ("invalid_value", "invalid_type"),
                            "workflow_metadata.group_size"),
    "group_size a fraction": ('{"workflow_id":"w","group_id":"g","group_size":1.5}',
                              ("invalid_value", "invalid_type"), "workflow_metadata.group_size"),
    "group_size huge": ('{"workflow_id":"w","group_id":"g","group_size":1e99}', ("invalid_value", "invalid_type"),
                        "workflow_metadata.group_size"),
    "final a string": ('{"workflow_id":"w","final":"yes"}', "invalid_type", "workflow_metadata.final"),
    "workflow_id twice": ('{"workflow_id":"w","workflow_id":"v"}', "duplicate_key", "workflow_metadata.workflow_id"),
}


@pytest.mark.asan_ok
@pytest.mark.parametrize("name", METADATA)
def test_wrong_workflow_metadata_is_named(raw, name):
    text, code, param = METADATA[name]
    check_openai(raw.post(PATH, body(workflow_metadata=text)), code, param)
    assert raw.count() == 0


@pytest.mark.parametrize("header,value", [
    ("X-Workflow-ID", "x" * 257), ("X-Workflow-ID", ""), ("X-Workflow-ID", "bad\xff"), ("X-Agent-ID", "y" * 257),
    ("X-Parent-Request-ID", "z" * 257), ("X-Context-Sharing", "sometimes"), ("X-Workflow-Priority", "urgent"),
    ("X-Workflow-Final", "perhaps")])
def test_wrong_identity_header_is_named(raw, header, value):
    headers = [("X-Workflow-ID", "w")] if header != "X-Workflow-ID" else []
    a = raw.post(PATH, body(), [*headers, (header, value)])
    error = check_openai(a, ("invalid_id", "invalid_value"))
    assert (error["param"] or "").lower() == header.lower(), error
    assert raw.count() == 0


def test_depth_is_limited(raw):
    def deep(n):
        return body(metadata="[" * n + "]" * n)

    assert raw.post(PATH, deep(120)).status == 200
    for n in (129, 1000, 200000):
        check_openai(raw.post(PATH, deep(n)), "json_too_deep")
    check_openai(raw.post(PATH, b"[" * 100000), ("json_too_deep", "invalid_json", "invalid_type"))
    check_openai(raw.post(PATH, b'{"a":' * 100000), ("json_too_deep", "invalid_json"))
    assert raw.count() == 1


@pytest.mark.asan_ok
def test_body_over_the_limit_is_413(raw):
    """32 MiB is the limit; told by the length alone, before the body was sent."""
    with raw.client() as c:
        c.send(f"POST {PATH} HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
               f"Content-Length: {34 << 20}\r\n\r\n".encode())
        a = c.read_answer()
        check_openai(a, "request_too_large", has_id=False)
        assert c.is_closed()
    assert raw.count() == 0


def test_body_over_the_limit_in_chunks_is_413(raw):
    piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
    with raw.client() as c:
        c.send(f"POST {PATH} HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
               "Transfer-Encoding: chunked\r\n\r\n".encode())
        try:
            for _ in range(34 * 16):
                c.send(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused while we wrote
        try:
            a = c.read_answer()
            check_openai(a, "request_too_large", has_id=False)
        except Broken:
            pass  # the answer was lost behind a reset; that it was refused shows below
        assert c.is_closed()
    assert raw.count() == 0


def test_body_one_byte_over_the_limit_is_413(raw):
    data = body().ljust((32 << 20) + 1)
    check_openai(raw.post(PATH, data, timeout=30), "request_too_large")
    assert raw.count() == 0


def test_body_just_below_the_limit_passes(raw):
    data = body(user='"' + "u" * ((32 << 20) - len(body()) - 20) + '"')
    assert raw.post(PATH, data, timeout=30).status == 200
    assert raw.engine.requests[0].body == data


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, identity"])
def test_encoded_body_is_415(raw, encoding):
    data = gzip.compress(body())
    check_openai(raw.post(PATH, data, [("Content-Encoding", encoding)]), "unsupported_media_type")
    assert raw.count() == 0


def test_identity_encoding_passes(raw):
    assert raw.post(PATH, body(), [("Content-Encoding", "identity")]).status == 200


def test_unknown_path_below_v1_goes_by_model(raw):
    data = b'{"model":"raw","anything":[1, 2,3]}'
    assert raw.post("/v1/rerank?x=1&y=%20", data).status == 200
    r = raw.engine.requests[0]
    assert (r.target, r.body) == ("/v1/rerank?x=1&y=%20", data)
    check_openai(raw.post("/v1/rerank", b'{"anything":1}'), ("model_required", "path_not_found"))
    check_openai(raw.get("/v1/nothing"), ("path_not_found", "method_not_allowed"))
    check_openai(raw.get("/nothing"), "path_not_found")


def test_errors_have_the_dialect_of_their_path(raw):
    check_anthropic(raw.post("/v1/messages", {"model": "nobody", "max_tokens": 1, "messages": []}), 404)
    check_anthropic(raw.post("/v1/messages", b"{"), 400)
    check_problem(raw.get("/v1/workflows/never-seen/status"), "workflow_not_found")


# ---- byte for byte ----

EXACT = {
    "spaces": b' \t\r\n{ "model" :\t"raw" , "messages" : [ { "role":"user" ,"content" : "hi" } ] } \n',
    "escapes": body(user='"\\u0041\\/\\"\\\\\\b\\f\\n\\r\\t\\ud83d\\ude00"'),
    "lone surrogate escape": body(user='"\\ud800"'),
    "unicode": body(user='"日本語 – ünï 😀"'),
    "numbers": body(a="1e400", b="-0", c="123456789012345678901234567890", d="1.0e-7", e="0.1E+2"),
    "unknown members twice": body(user='1,"user":2,"user":[]'),
    "escaped key": body(**{"us\\u0065r": "1"}),
    "cache_control": body(messages='[{"role":"user","content":[{"type":"text","text":"x","cache_control":'
                                   '{"type":"ephemeral"}}]}]'),
    "session_id and program_id": body(session_id='"s"', program_id='"p"', prompt_cache_key='"k"'),
    "priority on a plain engine": body(priority="-5"),
    "metadata inside a message": body(messages='[{"role":"user","content":"x","workflow_metadata":'
                                               '{"workflow_id":7}}]'),
    "stream_options without workflow": body(stream="false", stream_options="null"),
    "empty members": body(tools="[]", x="{}", y='""', z="null"),
}


@pytest.mark.asan_ok
@pytest.mark.parametrize("name", EXACT)
def test_request_without_workflow_arrives_byte_for_byte(raw, name):
    assert raw.post(PATH, EXACT[name]).status == 200
    assert raw.engine.requests[0].body == EXACT[name]


def test_streaming_request_without_workflow_arrives_byte_for_byte(raw):
    raw.engine.default = ok_stream
    data = body(stream="true")
    a = raw.post(PATH, data)
    assert raw.engine.requests[0].body == data
    assert a.events()[-1] == "[DONE]"
    assert not any('"usage":' in e for e in a.events())


MD = '"workflow_metadata":{"workflow_id":"cut","agent_id":"a","x":{"y":[1,"}",{}]}}'
CUTS = {
    "first": '{%s,"model":"raw","messages":[]}', "last": '{"model":"raw","messages":[],%s}',
    "middle": '{"model":"raw",%s,"messages":[]}', "first, spaced": '{ %s , "model" : "raw","messages":[] }',
    "last, spaced": '{"model":"raw" , "messages" : [] , %s }', "middle, spaced": '{"model":"raw" ,\n\t%s\r\n,"messages":[]}',
    "with a neighbour that looks alike": '{"model":"raw","workflow_metadata_":"}",%s,"workflow_metadat":1}',
    "behind a string that looks alike": '{"model":"raw","messages":["\\"workflow_metadata\\":{}"],%s}',
}


def is_one_cut(whole, cut):
    """Is cut what is left of whole when one range of bytes is taken out?"""
    n = len(whole) - len(cut)
    same = 0
    while same < len(cut) and whole[same] == cut[same]:
        same += 1
    return any(whole[:i] + whole[i + n:] == cut for i in range(max(0, same - 2), same + 1)) or (
        any(whole[:i] + whole[i + n:] == cut for i in range(len(cut) + 1)))


@pytest.mark.asan_ok
@pytest.mark.parametrize("key", ["workflow_metadata", "workflow\\u005fmetadata"])
@pytest.mark.parametrize("name", CUTS)
def test_workflow_metadata_is_cut_out_and_nothing_else(raw, name, key):
    data = (CUTS[name] % MD.replace('"workflow_metadata"', f'"{key}"')).encode()
    a = raw.post(PATH, data)
    assert a.status == 200, a
    got = raw.engine.requests[0].body
    expected = json.loads(data)
    del expected["workflow_metadata"]
    assert json.loads(got) == expected
    assert list(json.loads(got)) == list(expected)
    assert is_one_cut(data, got), got
    assert raw.get("/v1/workflows/cut/status").status == 200


def test_cut_in_a_big_body(raw):
    text = json.dumps("línea \\ \" \n" * 150000, ensure_ascii=False)
    for name in ("first", "middle", "last"):
        data = (CUTS[name] % MD).replace('"messages":[]', f'"messages":[{{"role":"user","content":{text}}}]').encode()
        assert raw.post(PATH, data).status == 200
        got = raw.engine.requests[-1].body
        assert is_one_cut(data, got) if len(got) < 5000 else len(data) - len(got) == len(MD) + 1
        assert b"workflow_metadata" not in got
        assert json.loads(got)["messages"] == json.loads(data)["messages"]


OPTIONS = {
    "absent": (None, {"include_usage": True}),
    "empty": ("{}", {"include_usage": True}),
    "other option": ('{"continuous_usage_stats":false}', {"continuous_usage_stats": False, "include_usage": True}),
    "null": ("null", {"include_usage": True}),
    "spaced": ('{ "continuous_usage_stats" : false }', {"continuous_usage_stats": False, "include_usage": True}),
}


@pytest.mark.asan_ok
@pytest.mark.parametrize("source", ["body", "header"])
@pytest.mark.parametrize("name", OPTIONS)
def test_usage_is_asked_for_in_workflow_streams_and_hidden_from_the_client(raw, name, source):
    raw.engine.default = ok_stream
    options, wanted = OPTIONS[name]
    members = {"stream": "true"} | ({"stream_options": options} if options else {})
    if source == "body":
        members["workflow_metadata"] = '{"workflow_id":"usage"}'
    data = body(**members)
    a = raw.post(PATH, data, [] if source == "body" else [("X-Workflow-ID", "usage")])
    got = raw.engine.requests[0].body
    expected = json.loads(data)
    expected.pop("workflow_metadata", None)
    expected["stream_options"] = wanted
    assert json.loads(got) == expected
    assert list(json.loads(got)).count("stream_options") == 1 and got.count(b"stream_options") == 1
    events = a.events()
    assert events[-1] == "[DONE]"
    assert [json.loads(e)["choices"][0]["delta"]["content"] for e in events[:-1]] == ["tok0", "tok1", "tok2", ""]
    assert not any('"usage"' in e for e in events)


def test_a_client_that_asked_for_usage_gets_it(raw):
    raw.engine.default = ok_stream
    data = body(stream="true", stream_options='{"include_usage":true}')
    a = raw.post(PATH, data, [("X-Workflow-ID", "own-usage")])
    assert raw.engine.requests[0].body == data
    usage = [json.loads(e) for e in a.events()[:-1] if json.loads(e).get("usage")]
    assert len(usage) == 1 and usage[0]["choices"] == []


def test_usage_of_a_hidden_event_counts(raw):
    raw.engine.default = ok_stream
    for _ in range(3):
        raw.post(PATH, body(stream="true"), [("X-Workflow-ID", "counted-usage")])
    raw.settled("counted-usage", 3)
    s = raw.status("counted-usage").json()
    assert s["cache_hit_rate"] == pytest.approx(0.8, abs=0.01), s
    assert s["tokens"]["prompt"] == 300 and s["tokens"]["cached"] == 240 and s["tokens"]["completion"] == 3, s


def test_the_body_may_arrive_in_any_pieces(raw):
    data = body(workflow_metadata='{"workflow_id":"pieces"}', user='"日本"')
    whole = request_bytes("POST", PATH, data)
    for size in (1, 3, 64):
        with raw.client() as c:
            c.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for i in range(0, len(whole), size):
                c.send(whole[i:i + size])
            assert c.read_answer().status == 200
    bodies = {r.body for r in raw.engine.requests}
    assert len(bodies) == 1 and re.search(rb"workflow_metadata", bodies.pop()) is None


def test_engine_answer_passes_byte_for_byte(raw):
    odd = b' { "id" : "x", "choices":[ ] ,"\\u0065":1e400, "z":"\xe6\x97\xa5" }\n'
    raw.script(answer(odd, "200 OK", "X-Engine-Thing: 1", "X-Request-Id: engines-own", "Set-Cookie: a=1",
                      "Set-Cookie: b=2", "Keep-Alive: timeout=5", "Server: uvicorn"))
    a = raw.post(PATH, body(), [("X-Request-Id", "clients")])
    assert a.body == odd
    assert a.header("x-engine-thing") == "1"
    assert a.header_all("set-cookie") == ["a=1", "b=2"]
    assert a.header_all("x-request-id") == ["clients"]
    assert a.header("keep-alive") is None
    assert a.header("content-type") == "application/json"


def test_engine_errors_pass_unchanged(raw):
    for status, text in ((400, "Bad Request"), (404, "Not Found"), (422, "Unprocessable Entity"),
                         (429, "Too Many Requests"), (500, "Internal Server Error"), (503, "Service Unavailable")):
        raw.engine.reset()
        error = json.dumps({"error": {"message": "no", "type": "BadRequestError", "param": None, "code": status}}).encode()
        raw.script(answer(error, f"{status} {text}", "Retry-After: 7"))
        a = raw.post(PATH, body())
        assert (a.status, a.body, a.header("retry-after")) == (status, error, "7"), a
        assert raw.count() == 1, "an answer of the engine was asked for twice"


@pytest.mark.asan_ok
def test_bodies_on_their_way_count_against_the_budget():
    """Clients that never finish big bodies cannot fill the memory."""
    with RawEngine("raw") as engine, \
            Fleet(engines=[engine], workers=1, with_mailbox=False, gateway={"body_budget_bytes": 4 << 20, "max_body_bytes": 4 << 20}) as f:
        small, big = ([f.client() for _ in range(3)] for _ in range(2))
        for c in [*small, *big]:
            with contextlib.suppress(OSError):  # refused while it still sends
                c.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nContent-Length: 4000000\r\n\r\n")
                c.send(b" " * (600_000 if c in small else 3_000_000))
        f.wait_metric("slipstream_gateway_errors_total", 3, code="body_budget")
        assert all(c.is_closed() or b" 429 " in c.buf for c in big)
        assert all(c.is_open() for c in small), "more were refused than had to"
        assert f.chat().status == 200
        for c in [*small, *big]:
            c.close()


@pytest.mark.asan_ok
def test_priorities_of_scheduler_and_worker_are_of_one_clock():
    with RawEngine("raw") as engine, Fleet(engines=[engine], workers=1, with_mailbox=False, common={"time_scale": 10},
                                           engine_conf={"priority": "true"}) as f:
        assert f.chat().status == 200
        f.scheduler.kill9()
        assert f.chat().status == 200
        by_scheduler, alone = (r.json()["priority"] for r in engine.requests)
        assert 0 <= alone - by_scheduler < 10 * 60_000
