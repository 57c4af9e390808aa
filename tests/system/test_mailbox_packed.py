# SPDX-License-Identifier: Apache-2.0
"""Large payloads through the gateway, byte for byte: REST, server-sent events, MCP and slipctl, over both carriers and a restart."""
import json
import random
import re
import subprocess

import lz4.block
import pytest
from support.fleet import Fleet, _env, binary
from support.mail import Box, new
from support.mailbox_client import MailboxClient, message
from support.wait import secs

pytestmark = [pytest.mark.channel, pytest.mark.asan_ok]

SIZES = (4096, 5000, 65536, 1 << 20)


def text(size, seed):
    """JSON of so many bytes, without line breaks, with blanks and number formats of its own."""
    rng = random.Random(seed)
    out = "["
    while len(out) < size - 80:
        out += '{"n" : %d.50, "text":"the same words again"}, ' % rng.randrange(10**6)
    out += '"'
    return out + "x" * (size - 2 - len(out)) + '"]'


def raw_of(answer):
    """The payloads of a list of messages as they stand in it."""
    assert answer.status == 200, answer
    head, tail = '{"message_id":', re.compile(r'\}(,|\],"next":(null|true)\})$')
    return [tail.sub("", part.split(',"payload":', 1)[1]) for part in answer.body.decode().split(head)[1:]]


def post(box, payload):
    a = box.fleet.post(box.sends, '{"source_agent":"s","target_agent":"%s","message_type":"m","payload":%s}' % (box.agent, payload))
    assert a.status == 202, a


def packed(f, event):
    return f.metrics().sum("slipstream_mailbox_packed_total", event=event)


@pytest.fixture(params=["sqlite", "memory"])
def f(request, channel):
    with Fleet(engines=0, workers=1, channel=channel, mailbox={"store": request.param, "box_bytes": "64M", "cache_bytes": "64K"}) as f:
        yield f


def test_rest_gives_back_every_byte(f):
    box = Box(f)
    payloads = [text(size, i) for i, size in enumerate(SIZES)]
    for p in payloads:
        assert len(p) in SIZES
        post(box, p)
    assert packed(f, "taken") == len(SIZES)
    for query in ("?peek=true", "?lease=30"):
        assert raw_of(box.get(query)) == payloads
    assert packed(f, "given") == 2 * len(SIZES)
    assert f.metrics().sum("slipstream_gateway_mail_damaged_total") == 0


def test_a_bulk_is_judged_one_by_one_however_it_travels(f):
    box = Box(f)
    big = text((1 << 20) + 5000, 1)
    body = '{"messages":[%s]}' % ",".join('{"source_agent":"s","target_agent":"t","message_type":"m","payload":%s}' % p
                                          for p in (text(9000, 1), big, "1", text(20000, 2)))
    a = f.post(box.sends, body)
    assert a.status == 202, a
    assert [r.get("error", {}).get("status") for r in a.json()["results"]] == [None, 413, None, None]
    assert [json.dumps(p) for p in box.payloads()] == [json.dumps(json.loads(p)) for p in (text(9000, 1), "1", text(20000, 2))]


def test_a_stream_gives_every_byte(f):
    box = Box(f)
    payloads = [text(size, i) for i, size in enumerate(SIZES)]
    with box.stream() as s:
        for p in payloads:
            post(box, p)
            assert s.event()["raw"].split(',"payload":', 1)[1] == p + "}"


def test_line_breaks_leave_a_stream_only(f):
    box = Box(f)
    body = "[" + ",\r\n".join('{"n": %d}' % i for i in range(2000)) + "]"
    with box.stream() as s:
        post(box, body)
        assert s.event()["raw"].split(',"payload":', 1)[1] == body.replace("\r\n", "") + "}"


def test_tools_of_mcp_give_every_byte(f):
    workflow = new()
    for i, size in enumerate(SIZES):
        p = text(size, i)
        call = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"%s","arguments":%s}}'
        headers = [("Content-Type", "application/json"), ("Accept", "application/json, text/event-stream"), ("X-Workflow-ID", workflow),
                   ("MCP-Protocol-Version", "2025-11-25")]
        sent = f.fetch("POST", "/mcp", (call % ("send_message", '{"source_agent":"s","target_agent":"t","message_type":"m","payload":%s}'
                                                % p)).encode(), headers)
        assert sent.json()["result"]["isError"] is False, sent
        got = f.fetch("POST", "/mcp", (call % ("receive_messages", '{"agent_id":"t"}')).encode(), headers)
        assert ',"payload":' + p + "}" in got.body.decode()


def test_a_restart_and_a_native_client_in_between(f):
    if f.settings["mailbox"]["store"] != "sqlite":
        pytest.skip("memory")
    box = Box(f)
    payloads = [text(size, i) for i, size in enumerate(SIZES)]
    for p in payloads[:2]:
        post(box, p)
    with MailboxClient(f) as c:
        for p in payloads[2:]:
            m = message("Message")(source_agent="s", target_agent="t", message_type="m", raw_len=len(p),
                                   payload=lz4.block.compress(p.encode(), store_size=False))
            assert c.call("Send", workflow_id=box.workflow, messages=[m]).results[0].status == 0
    f.mailbox.kill9()
    f.mailbox.restart()
    got = []
    while len(got) < len(payloads):
        a = box.get("?wait=5&max=1")
        if a.status == 200:
            got += raw_of(a)
    assert got == payloads


def test_slipctl_and_the_gateway_understand_each_other(f):
    box = Box(f)
    p = text(200000, 3)

    def slipctl(*args):
        r = subprocess.run([binary("slipctl"), "--config", f.config, *args], capture_output=True, timeout=secs(20), env=_env(),
                           input=p.encode())
        assert r.returncode == 0, r
        return r.stdout.decode()

    slipctl("send", box.workflow, "t", "-")
    assert raw_of(box.get()) == [p]
    post(box, p)
    assert p in slipctl("receive", box.workflow, "t")
