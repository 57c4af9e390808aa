# SPDX-License-Identifier: Apache-2.0
"""Compressed payloads as a foreign client sends and takes them, over tcp: senders and readers of both kinds, restarts, liars."""
import random

import lz4.block
import pytest

from support.fleet import Fleet, have
from support.mailbox_client import MailboxClient, Refused, errors, message
from support.ports import free_port
from support.wait import wait_until

pytestmark = [pytest.mark.asan_ok,
              pytest.mark.skipif(not have("slipstream-mailbox"), reason="not built")]

MIB = 1 << 20


def block(raw):
    return lz4.block.compress(raw, store_size=False)


def text(size, seed=1):
    """JSON that shrinks, of so many bytes, with white space in odd places."""
    rng = random.Random(seed)
    rows = []
    while sum(map(len, rows)) < size:
        rows.append('{"id" : %d,\n\t"text": "the same words again and again"}' % rng.randrange(10**6))
    raw = ("[" + ",\r\n".join(rows)).encode()
    raw = raw[:raw[:size - 1].rindex(b"}") + 1]
    return raw + b" " * (size - 1 - len(raw)) + b"]"


def noise(size, seed=1):
    """A JSON string that does not shrink."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return ('"' + "".join(random.Random(seed).choices(letters, k=size - 2)) + '"').encode()


class Tcp(MailboxClient):
    """Sends payloads either way."""

    def put(self, raw, packed, workflow="w", target="a", key="", **more):
        m = message("Message")(source_agent="me", target_agent=target, message_type="t", payload=block(raw) if packed else raw,
                               raw_len=len(raw) if packed else 0, **more)
        return self.call("Send", workflow_id=workflow, messages=[m], idempotency_key=key)

    def fate(self, payload, raw_len, target="bad"):
        """Name of the result, or of the refusal of the whole call."""
        m = message("Message")(source_agent="me", target_agent=target, message_type="t", payload=payload, raw_len=raw_len)
        try:
            return errors()[self.call("Send", workflow_id="w", messages=[m]).results[0].status]
        except Refused as e:
            return e.name


def unpacked(m):
    if m.raw_len == 0:
        return m.payload
    raw = lz4.block.decompress(m.payload, uncompressed_size=m.raw_len)
    assert len(raw) == m.raw_len > len(m.payload)
    return raw


@pytest.fixture(scope="module", params=["memory", "sqlite"])
def fleet(request, tmp_path_factory):
    key = tmp_path_factory.mktemp("keys") / "worker"
    key.write_text("w0rker-key\n")
    url = f"tcp://127.0.0.1:{free_port()}"
    f = Fleet(engines=0, workers=0, with_scheduler=False,
              common={"mailbox_url": url, "insecure": True, "rpc_key_file": str(key)},
              mailbox={"store": request.param, "box_bytes": "64M", "cache_bytes": "1M"})
    f.mailbox.ready = lambda: "listening" in f.mailbox.log()
    f.mailbox_url = url
    with f:
        yield f


@pytest.fixture
def tcp(fleet):
    with Tcp(fleet, key="w0rker-key", url=fleet.mailbox_url) as c:
        c.fleet = fleet
        yield c


SIZES = (2, 63, 4095, 4096, 4097, 65536, MIB)


def test_senders_and_readers_of_both_kinds_agree_byte_for_byte(tcp):
    for size in SIZES:
        raw = text(size) if size > 60 else b"1" * size
        for packed in (False, True) if size > 60 else (False,):
            for lz4_reader in (False, True):
                assert tcp.put(raw, packed).results[0].status == 0, (size, packed)
                m, = tcp.receive("w", "a", lz4=lz4_reader).messages
                assert unpacked(m) == raw, (size, packed, lz4_reader)
                assert (m.raw_len > 0) == (lz4_reader and size >= 4096), (size, packed, lz4_reader)


def test_what_does_not_shrink_is_never_compressed(tcp):
    raw = noise(65536)
    assert tcp.put(raw, False).results[0].status == 0
    m, = tcp.receive("w", "a", lz4=True).messages
    assert (m.payload, m.raw_len) == (raw, 0)


def test_a_parked_poll_remembers_what_its_reader_can(tcp):
    raw = text(20000)
    for lz4_reader in (False, True):
        poll = tcp.park("w", "p", lz4=lz4_reader)
        tcp.put(raw, not lz4_reader, target="p")
        m, = tcp.end_of(poll).messages
        assert unpacked(m) == raw and (m.raw_len > 0) == lz4_reader


def test_limits_and_figures_count_raw_bytes(tcp):
    raw = text(MIB)
    for _ in range(4):
        assert tcp.put(raw, True, target="full").results[0].status == 0
    b = tcp.box("w", "full")
    assert (b.depth, b.bytes) == (4, 4 * MIB)
    reply = tcp.receive("w", "full", lz4=True, max=100)  # 3 MiB of payload, however small it travels
    assert [m.raw_len for m in reply.messages] == [MIB, MIB] and reply.more == 2
    left = 4 - len(reply.messages)
    while left:
        left -= len(tcp.receive("w", "full", lz4=True, max=100).messages)
    for _ in range(64):
        assert tcp.put(raw, True, target="brim").results[0].status == 0
    assert errors()[tcp.put(b"1", False, target="brim").results[0].status] == "MAILBOX_FULL"  # box_bytes: 64M, raw
    tcp.call("CloseWorkflow", workflow_id="w", purge=True)


def test_a_send_is_the_same_compressed_or_not(tcp):
    raw = text(30000)
    first = tcp.put(raw, False, key="k1", target="same")
    again = tcp.put(raw, True, key="k1", target="same")
    assert again.replayed and again.results[0].message_id == first.results[0].message_id
    with pytest.raises(Refused) as e:
        tcp.put(text(30000, seed=2), True, key="k1", target="same")
    assert e.value.name == "IDEMPOTENCY"
    assert len(tcp.receive("w", "same").messages) == 1


def test_dead_letters_come_compressed_to_who_can(tcp):
    raw = text(50000)
    tcp.put(raw, True, target="dead", ttl_ms=1)
    wait_until("it is dead", 5, lambda: tcp.box("w", "dead").dead == 1)
    for lz4_reader in (False, True):
        m, = tcp.call("ListDead", workflow_id="w", agent_id="dead", lz4=lz4_reader).messages
        assert unpacked(m) == raw and (m.raw_len > 0) == lz4_reader


def test_a_liar_is_refused_and_harms_nobody(tcp):
    raw = text(20000)
    good = block(raw)
    rng = random.Random(5)
    for want, payload, raw_len in (
            ("PACKED", good, 19999), ("PACKED", good, 20001), ("PACKED", good, len(good)), ("PACKED", good, 1),
            ("TOO_LARGE", good, MIB + 1), ("TOO_LARGE", good, 0xffffffff), ("TOO_LARGE", b"", 0xffffffff), ("PACKED", b"", 20000),
            ("PACKED", b"\0", 2), ("PACKED", rng.randbytes(5000), 20000), ("PACKED", b"\xff" * 5000, MIB),
            ("PACKED", good[:-1], 20000), ("PACKED", good + b"\0", 20000), ("PACKED", b"x" * 100, MIB),
            ("JSON", block(b"{" * 5000), 5000), ("JSON", block(raw + b"]"), 20001), ("JSON", good, 0),
            ("TOO_LARGE", block(b"1" * (MIB + 1)), MIB + 1),
            ("OK", block(b'"' + b"b" * (MIB - 2) + b'"'), MIB),  # as large as may be, and small as can be
            ("OK", block(b'"' + b"s" * 98 + b'"'), 100)):  # below the threshold
        assert tcp.fate(payload, raw_len) == want, (want, raw_len, payload[:20])
    for _ in range(200):
        twisted = bytearray(good)
        for _ in range(3):
            twisted[rng.randrange(len(twisted))] ^= 1 << rng.randrange(8)
        assert tcp.fate(bytes(twisted), 20000) in ("PACKED", "JSON", "OK")
    got = tcp.receive("w", "bad", lz4=True, max=2).messages
    assert [m.raw_len for m in got[:2]] == [MIB, 0] and got[1].payload == b'"' + b"s" * 98 + b'"'


def test_bombs_are_bounded_in_one_call_and_in_one_turn(tcp):
    bomb = block(b'"' + b"b" * (MIB - 2) + b'"')
    m = message("Message")(source_agent="me", target_agent="bombs", message_type="t", payload=bomb, raw_len=MIB)
    send = message("SendRequest")
    with pytest.raises(Refused) as e:
        tcp.call("Send", workflow_id="bombs", messages=[m] * 5)  # unpacked they would fill more than a frame
    assert e.value.name == "TOO_LARGE"
    raw = message("Message")(source_agent="me", target_agent="bombs", message_type="t", payload=b"1")
    answers = tcp.calls([("Send", send(workflow_id="bombs", messages=[m] * 4))] * 100 +  # 400 MiB in one frame
                        [("Send", send(workflow_id="bombs", messages=[raw]))])  # and one with nothing to unpack
    names = [errors()[status] for status, _ in answers]
    assert names[:16] == ["OK"] * 16 and set(names[17:100]) == {"BUSY"}
    assert names[100] == "OK"
    assert tcp.put(b"1", False, workflow="others").results[0].status == 0
    tcp.call("CloseWorkflow", workflow_id="bombs", purge=True)


def test_blocks_outlive_the_process(tcp):
    if tcp.fleet.settings["mailbox"]["store"] != "sqlite":
        pytest.skip("memory")
    raws = [text(size, seed) for seed, size in enumerate((4096, 65536, MIB, 100000))]
    for i, raw in enumerate(raws):
        assert tcp.put(raw, i % 2 == 0, target="kept").results[0].status == 0
    tcp.fleet.mailbox.kill9()
    tcp.fleet.mailbox.restart()
    with Tcp(tcp.fleet, key="w0rker-key", url=tcp.fleet.mailbox_url) as c:
        peeked = c.receive("w", "kept", peek=True).messages
        got = []
        while len(got) < len(raws):
            got += c.receive("w", "kept", lz4=True).messages
    assert [unpacked(m) for m in got] == raws and all(m.raw_len for m in got)
    assert [m.payload for m in peeked] == raws[:len(peeked)] and peeked


def test_the_hello_says_from_where_on(tcp):
    hello = message("Hello")(proto_min=1, proto_max=1, name="asks", key="w0rker-key", session=77)
    with Tcp(tcp.fleet, key="w0rker-key", url=tcp.fleet.mailbox_url, events=False) as c:
        c.epoch = 0
        (answer,), _ = c._exchange([message("Call")(id=1, method=1, body=hello.SerializeToString())])
    info = message("MailboxInfo").FromString(message("HelloReply").FromString(answer.body).info)
    assert (info.compress_bytes, info.max_payload_bytes) == (4096, MIB)
