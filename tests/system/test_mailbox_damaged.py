# SPDX-License-Identifier: Apache-2.0
"""A mailbox process that hands out a compressed payload which cannot be unpacked: the gateway says so, gives all back, and asks raw."""
import json
import threading

import lz4.block
import pynng
import pytest
from support.fleet import Fleet
from support.mail import Box
from support.mailbox_client import HELLO, METHODS, NEXT, message, method
from support.wait import wait_until

pytestmark = [pytest.mark.asan_ok]

TEXT = json.dumps(["the same words"] * 1000).encode()
GOOD = lz4.block.compress(TEXT, store_size=False)


class Liar:
    """Speaks as a mailbox. Who asks for blocks gets a good one and a damaged one; who asks raw gets both raw."""

    def __init__(self, run_dir):
        (run_dir / "sock").mkdir(exist_ok=True)
        self.socket = pynng.Rep0(listen=f"ipc://{run_dir}/sock/mailbox", recv_timeout=200)
        self.names = {method(n)[0]: n for n in ("Receive", "Settle", "ListDead", "Unpark")}
        self.settled, self.asked, self.ending = [], [], threading.Event()
        self.threads = [threading.Thread(target=self._serve) for _ in range(8)]
        for t in self.threads:
            t.start()

    def close(self):
        self.ending.set()
        for t in self.threads:
            t.join(10)
        self.socket.close()

    def _serve(self):
        with self.socket.new_context() as context:
            while not self.ending.is_set():
                try:
                    frame = message("Frame").FromString(context.recv())
                except pynng.Timeout:
                    continue
                answers = [a for a in map(self._answer, frame.calls) if a]
                context.send(message("Frame")(proto=1, epoch=7, seq=frame.seq, calls=answers).SerializeToString())

    def _answer(self, call):
        body = None
        if call.method == HELLO:
            info = message("MailboxInfo")(max_payload_bytes=1 << 20, compress_bytes=4096).SerializeToString()
            body = message("HelloReply")(proto=1, epoch=7, info=info)
        elif call.method == NEXT:
            self.ending.wait(1)
            return None
        elif self.names.get(call.method) in ("Receive", "ListDead"):
            request = method(self.names[call.method])[1].FromString(call.body)
            self.asked.append(request.lz4)
            body = message("ReceiveReply")(messages=self._messages(request.lz4))
            if call.method == METHODS + 1 and not request.peek:
                body.delivery = len(self.asked)
        elif self.names.get(call.method) == "Settle":
            request = message("SettleRequest").FromString(call.body)
            self.settled.append((request.delivery, request.done))
            body = message("Empty")()
        if not call.id:
            return None
        return message("Call")(id=call.id, method=call.method, status=0 if body is not None else 9,
                               body=body.SerializeToString() if body is not None else b"")

    @staticmethod
    def _messages(packed):
        def one(name, payload, raw_len):
            return message("Message")(message_id=name, source_agent="s", target_agent="t", message_type="m", created_ms=1,
                                      payload=payload, raw_len=raw_len)
        if packed:
            return [one("m1", GOOD, len(TEXT)), one("m2", GOOD[:-9], len(TEXT))]
        return [one("m1", TEXT, 0), one("m2", TEXT, 0)]


@pytest.fixture
def liar():
    f = Fleet(engines=0, workers=1, with_scheduler=False, with_mailbox=False, channel="nng")
    mailbox = Liar(f.run_dir)
    try:
        with f:
            wait_until("the link is up", 10, lambda: " mailbox_up " in f.workers[0].log())
            mailbox.fleet = f
            yield mailbox
    finally:
        mailbox.close()


def check_recovery(liar, ask):
    """The next one comes raw, whole."""
    wait_until("all went back", 5, lambda: (1, False) in liar.settled)
    assert liar.fleet.metrics().sum("slipstream_gateway_mail_damaged_total") == 1
    assert "payload_damaged" in liar.fleet.workers[0].log()
    ask()
    assert liar.asked[:2] == [True, False]
    wait_until("it was delivered", 5, lambda: (2, True) in liar.settled)


def test_a_receive_fails_and_gives_back(liar):
    box = Box(liar.fleet)
    a = box.get()
    assert a.status == 502 and a.json()["code"] == "protocol_error", a
    check_recovery(liar, lambda: box.payloads() == [json.loads(TEXT)] * 2 or pytest.fail("not whole"))


def test_a_tool_of_mcp_fails_and_gives_back(liar):
    def call():
        return liar.fleet.fetch("POST", "/mcp", json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
            "name": "receive_messages", "arguments": {"agent_id": "t"}}}).encode(), [
                ("Content-Type", "application/json"), ("Accept", "application/json, text/event-stream"), ("X-Workflow-ID", "w"),
                ("MCP-Protocol-Version", "2025-11-25")]).json()["result"]

    assert call()["isError"] is True
    check_recovery(liar, lambda: len(call()["structuredContent"]["messages"]) == 2 or pytest.fail("not whole"))


def test_a_stream_goes_on_with_what_is_whole(liar):
    with Box(liar.fleet).stream() as s:
        assert s.payloads(2) == [json.loads(TEXT)] * 2
        check_recovery(liar, lambda: None)


def test_a_look_shows_what_there_is(liar):
    box = Box(liar.fleet)
    assert box.payloads("?peek=true") == [json.loads(TEXT), None]
    assert [m["payload"] for m in box.dead()["messages"]] == [json.loads(TEXT)] * 2
    assert liar.asked == [True, False] and liar.settled == []
