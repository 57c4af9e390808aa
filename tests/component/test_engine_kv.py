# SPDX-License-Identifier: Apache-2.0
"""The simulated engine tells of its cache as a real one does, and the scheduler knows what it holds."""
import contextlib
import re
import signal
import time

import msgpack
import pytest
import zmq
from support.fleet import Engine, Fleet
from support.ports import free_port
from support.rawhttp import chat, post
from support.wait import secs, wait_until

PATH = "/v1/chat/completions"
SEED = 4711


def words(n, seed="w"):
    return " ".join(f"{seed}{i:05d}" for i in range(n))


def say(engine, text, **more):
    a = post(engine.port, PATH, chat("sim", text, **{"max_tokens": 32, **more}))
    assert a.status == 200, a
    return a.json()["usage"]


@contextlib.contextmanager
def engine_with(tmp_path, *extra, replay=True, **more):
    events, rep = free_port(), free_port()
    argv = ["--kv-events", f"tcp://*:{events}", *(("--kv-replay", f"tcp://127.0.0.1:{rep}") if replay else ()), *extra]
    e = Engine("e1", tmp_path, extra=argv, **more)
    e.events, e.replay = f"tcp://127.0.0.1:{events}", f"tcp://127.0.0.1:{rep}"
    e.start().wait_ready()
    try:
        yield e
    finally:
        e.stop()
        e.check_log()


class Reader:
    """Everything from the first batch on, through a replay."""

    def __init__(self, engine):
        self.context = zmq.Context()
        self.dealer = self.context.socket(zmq.DEALER)
        self.dealer.linger = 0
        self.dealer.connect(engine.replay)

    def history(self):
        self.dealer.send_multipart([b"", (0).to_bytes(8, "big")])
        batches = []
        while True:
            assert self.dealer.poll(secs(10) * 1000), "no answer to a request for a replay"
            *_, seq, payload = self.dealer.recv_multipart()
            if seq == b"\xff" * 8:
                return batches
            assert int.from_bytes(seq, "big") == len(batches)
            batches.append(msgpack.unpackb(payload))

    def close(self):
        self.dealer.close()
        self.context.term()


def as_map(event):
    if isinstance(event, dict):
        return event
    names = {"BlockStored": ["block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium", "lora_name"],
             "BlockRemoved": ["block_hashes", "medium"], "AllBlocksCleared": []}[event[0]]
    assert len(event) == len(names) + 1
    return {"type": event[0], **dict(zip(names, event[1:]))}


def resident(batches, medium="GPU"):
    held, parents = {}, {}
    for _, events, rank in batches:
        assert rank == 0
        for e in map(as_map, events):
            if e.get("medium") != medium:
                continue
            if e["type"] == "BlockStored":
                parent = e["parent_block_hash"]
                for i, h in enumerate(e["block_hashes"]):
                    held[h] = e["token_ids"][16 * i:16 * i + 16]
                    parents[h] = parent
                    parent = h
            else:
                for h in e["block_hashes"]:
                    del held[h]
    return held, parents


@pytest.mark.asan_ok
@pytest.mark.parametrize("form", ["array", "map"])
def test_events_tell_exactly_what_is_resident(tmp_path, form):
    with engine_with(tmp_path, "--kv-encoding", form, "--cache-tokens", 4096) as e:
        for i in range(12):  # more than fits
            say(e, words(150, f"{i:02d}"))
        reader = Reader(e)
        held, parents = resident(wait_until("all is told", 10, reader.history))
        blocks = e.metric("slipstream_engine_blocks_cached")
        wait_until("every block is told", 10, lambda: len(resident(reader.history())[0]) == blocks)
        held, parents = resident(reader.history())
        assert blocks > 200
        assert all(len(tokens) == 16 for tokens in held.values())
        assert all(p is None or p in held for h, p in parents.items() if h in held), "chains have holes"
        reader.close()


def test_events_may_be_late(tmp_path):
    with engine_with(tmp_path, "--kv-events-delay-ms", 25000, time_scale=50) as e:  # half a second
        reader = Reader(e)
        start = time.monotonic()
        say(e, words(100))
        told = wait_until("the first batch", 10, reader.history)
        assert time.monotonic() - start > 0.5
        assert told
        reader.close()


class Told:
    """A fleet of one simulated engine that tells of its cache."""

    def __init__(self, *extra, **conf):
        port, replay = free_port(), free_port()
        argv = ["--kv-events", f"tcp://*:{port}", "--kv-replay", f"tcp://127.0.0.1:{replay}", *extra]
        self.fleet = Fleet(engines=1, with_mailbox=False, engine={"extra": argv},
                           scheduler={"digest_seed": SEED, "scrape_interval_ms": 100},
                           engine_conf={"kv_events": f"tcp://127.0.0.1:{port}",
                                        "kv_replay": f"tcp://127.0.0.1:{replay}", **conf})
        self.engine = self.fleet.engines[0]

    def __enter__(self):
        self.fleet.__enter__()
        return self

    def __exit__(self, *exc):
        return self.fleet.__exit__(*exc)

    def get(self, what):
        return self.fleet.metrics().sum(f"slipstream_engine_{what}", engine="e1")

    def wait_exact(self, known):
        def exact():
            blocks = self.engine.metric("slipstream_engine_blocks_cached")
            return self.get("kv_known") == known and self.get("kv_resident_tokens") == 16 * blocks

        wait_until("the scheduler knows the size of the cache", 10, exact, 0.05)


@pytest.mark.asan_ok
@pytest.mark.parametrize("form", ["array", "map"])
def test_the_scheduler_knows_the_size_of_a_simulated_cache(form):
    with Told("--kv-encoding", form, "--cache-tokens", 8192) as t:
        for i in range(12):
            assert t.fleet.chat(words(150, f"{i:02d}"), max_tokens=16).status == 200
        t.wait_exact(1)
        assert t.get("kv_capacity_tokens") == 8192
        t.engine.kill9()
        t.engine.start().wait_ready()
        t.wait_exact(1)
        assert t.get("kv_resident_tokens") == 0
        t.fleet.wait_engines()
        assert t.fleet.chat(words(50), max_tokens=16).status == 200
        t.wait_exact(1)
        assert t.get("kv_lost_total") == 0


def test_what_others_sent_to_an_engine_is_found_there():
    """Digests of the engine are those of the gateway: a prompt that never came through it is placed where it is."""
    ports = free_port(2)
    fleet = Fleet(engines=2, with_mailbox=False, scheduler={"digest_seed": SEED, "policy": "workflow"})
    for i, e in enumerate(fleet.engines):
        e.argv += ["--kv-events", f"tcp://*:{ports + i}", "--kv-content", str(SEED)]
        fleet.settings["engines"][i].update(kv_events=f"tcp://127.0.0.1:{ports + i}", kv_content=True)
    fleet.write_config()
    with fleet:
        def known(engine):
            return fleet.metrics().sum("slipstream_engine_kv_batches_total", engine=engine.id)

        wait_until("both are heard", 10, lambda: fleet.metrics().sum("slipstream_engine_kv_connected") == 2, 0.05)
        for n, engine in enumerate((fleet.engines[1], fleet.engines[0], fleet.engines[1], fleet.engines[1])):
            text, before = words(600, f"p{n}"), known(engine)
            say(engine, text)
            wait_until("its cache is told", 10, lambda: known(engine) > before, 0.05)
            a = fleet.chat(text, [("x-workflow-id", f"w{n}")], max_tokens=4)
            assert a.status == 200
            assert a.header("x-slipstream-engine") == engine.id
            usage = a.json()["usage"]
            assert usage["prompt_tokens_details"]["cached_tokens"] > usage["prompt_tokens"] - 32


def test_content_is_told_in_prompt_digests():
    with Told("--kv-content", SEED, "--cache-tokens", 65536, kv_content=True) as t:
        t.wait_exact(2)
        assert t.fleet.chat(words(800), max_tokens=16).status == 200
        t.wait_exact(2)
        a = t.fleet.chat(words(800) + " and more", max_tokens=16)
        assert a.json()["usage"]["prompt_tokens_details"]["cached_tokens"] > 1000
        t.wait_exact(2)
        # A scheduler that joins late has it all repeated.
        t.fleet.scheduler.kill9()
        t.fleet.scheduler.restart()
        t.wait_exact(2)
        t.engine.kill9()
        t.engine.start().wait_ready()
        t.wait_exact(2)
        assert t.get("kv_garbage_total") == 0


def test_an_engine_that_only_seemed_dead_tells_its_content_again():
    with Told("--kv-content", SEED, kv_content=True) as t:
        t.wait_exact(2)
        assert t.fleet.chat(words(600), max_tokens=4).status == 200
        t.wait_exact(2)
        t.engine.signal(signal.SIGSTOP)
        try:
            t.fleet.wait_engines([], 30)
        finally:
            t.engine.signal(signal.SIGCONT)
        t.fleet.wait_engines()
        t.wait_exact(2)
        a = t.fleet.chat(words(600), max_tokens=4)
        assert a.status == 200
        hit = re.search(r"hit=([0-9.]+)", a.header("x-slipstream-decision"))
        assert float(hit.group(1)) > 0.8
