# SPDX-License-Identifier: Apache-2.0
"""KV events over ZeroMQ: a publisher that is a real libzmq one, the real scheduler, and what it says it knows."""
import re
import time

import msgpack
import pytest
from support.fleet import Fleet
from support.kv_publisher import BLOCK, ENCODINGS, Publisher, cleared, removed, stored
from support.ports import free_port
from support.raw_engine import RawEngine
from support.wait import wait_until


def endpoint(count=1):
    return f"tcp://127.0.0.1:{free_port(count)}"


LONG = "a prompt of several blocks " * 200


def hit(answer):
    """The share of its prompt that the scheduler thought to be cached where it went."""
    assert answer.status == 200
    return float(re.search(r"hit=([0-9.]+)", answer.header("x-slipstream-decision")).group(1))


class World:
    """One engine whose cache is told by a publisher; what the scheduler made of it."""

    def __init__(self, **engine):
        self.engine = RawEngine("e1")
        self.fleet = Fleet(engines=[self.engine], with_mailbox=False,
                           scheduler={"scrape_interval_ms": 100},
                           engine_conf=engine)

    def __enter__(self):
        self.engine.__enter__()
        self.fleet.__enter__()
        return self

    def __exit__(self, *exc):
        self.fleet.__exit__(*exc)
        self.engine.__exit__(*exc)

    def get(self, what):
        return self.fleet.metrics().sum(f"slipstream_engine_{what}", engine="e1")

    def wait(self, what, value, seconds=10):
        last = [None]

        def reached():
            last[0] = self.get(what)
            return last[0] == value

        try:
            wait_until(f"{what} == {value}", seconds, reached, 0.05)
        except AssertionError as e:
            raise AssertionError(f"{e}; it is {last[0]}\n{self.fleet.scheduler.log()[-2000:]}") from None

    def wait_blocks(self, n):
        self.wait("kv_known", 1)
        self.wait("kv_resident_tokens", n * BLOCK)


def world_of(pub, **more):
    return World(kv_events=pub.endpoint, **({"kv_replay": pub.replay_endpoint} if pub.replay_endpoint else {}), **more)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_is_understood(encoding):
    with Publisher(endpoint(), endpoint(), encoding) as pub, world_of(pub) as w:
        w.wait("kv_connected", 1)
        pub.publish(stored([1, 2, 3]), stored([2**64 - 1, 2**63], parent=3))
        w.wait_blocks(5)
        pub.publish(removed([2**64 - 1, 2]), stored([7], medium="CPU"))
        w.wait_blocks(4 if encoding == "vllm-0.9" else 3)  # the oldest knows one medium only
        pub.publish(cleared())
        w.wait_blocks(0)
        assert w.get("kv_garbage_total") == w.get("kv_gaps_total") == w.get("kv_lost_total") == 0


@pytest.mark.asan_ok
@pytest.mark.parametrize("topic_in_replay", [False, True])
def test_a_late_joiner_has_the_history_repeated(topic_in_replay):
    with Publisher(endpoint(), endpoint(), topic=b"kv@host@model", topic_in_replay=topic_in_replay) as pub:
        for i in range(200):
            pub.publish(stored([2 * i, 2 * i + 1]))
        pub.publish(removed(range(100)))
        with world_of(pub) as w:
            w.wait_blocks(300)
            assert pub.replays[0] == 0
            pub.publish(stored([9999]))
            w.wait_blocks(301)
            assert w.get("kv_gaps_total") == 0


@pytest.mark.asan_ok
def test_what_is_lost_on_the_way_is_asked_for_again():
    with Publisher(endpoint(), endpoint()) as pub, world_of(pub) as w:
        pub.publish(stored([1]))
        w.wait_blocks(1)
        for i in range(10):
            pub.publish(stored([100 + i]), send=False)
        w.wait_blocks(1)
        pub.publish(stored([2]))
        w.wait_blocks(12)
        assert w.get("kv_gaps_total") == 1 and w.get("kv_lost_total") == 0
        assert pub.replays[-1] == 0  # the last batch that was there


def test_what_cannot_be_had_again_makes_the_size_unknown_until_a_clear():
    with Publisher(endpoint(), endpoint()) as pub, world_of(pub) as w:
        pub.publish(stored([1]))
        w.wait_blocks(1)
        pub.publish(stored([2]), send=False, keep=False)
        pub.buffer.clear()
        pub.publish(stored([3]))
        w.wait("kv_lost_total", 1)
        w.wait("kv_known", 0)
        assert hit(w.fleet.chat(LONG)) < 0.1 < 0.8 < hit(w.fleet.chat(LONG))
        w.fleet.wait_no_lease()  # what ends after the clear is there again
        pub.publish(cleared(), stored([4, 5]))
        w.wait_blocks(2)
        assert hit(w.fleet.chat(LONG)) < 0.1


@pytest.mark.parametrize("replay", [False, True])
def test_an_engine_that_restarts_is_empty(replay):
    with Publisher(endpoint(), endpoint() if replay else None) as pub, world_of(pub) as w:
        w.wait("kv_connected", 1)
        for i in range(20):
            pub.publish(stored([i]))
        w.wait_blocks(20)
        pub.restart()
        w.wait("kv_connected", 1)
        if replay:  # an empty history says it all
            w.wait_blocks(0)
        # Without replays nobody knows when its first batch arrives: it goes on until one did.
        wait_until("a batch of the new one is there", 10,
                   lambda: pub.publish(stored([1000 + pub.seq])) or w.get("kv_restarts_total") > 0, 0.1)
        if replay:
            w.wait_blocks(pub.seq)
        else:
            pub.publish(cleared(), stored([1]))
            w.wait_blocks(1)


@pytest.mark.asan_ok
def test_a_successor_that_is_ahead_of_its_predecessor_is_told_apart():
    with Publisher(endpoint(), endpoint()) as pub, world_of(pub) as w:
        for i in range(5):
            pub.publish(stored([i]))
        w.wait_blocks(5)
        pub.close()
        w.wait("kv_connected", 0)
        pub.open()
        for i in range(30):
            pub.publish(stored([500 + i]))
        w.wait_blocks(30)
        assert w.get("kv_restarts_total") == 1


@pytest.mark.asan_ok
def test_garbage_costs_the_view_but_not_the_scheduler():
    with Publisher(endpoint(), endpoint()) as pub, world_of(pub) as w:
        pub.publish(stored([1]))
        w.wait_blocks(1)
        pub.frames(b"")
        pub.frames(b"", b"\x01\x02", b"x")
        pub.frames(*[b"x"] * 50)
        w.wait("kv_garbage_total", 3)
        w.wait_blocks(1)  # nothing of it had a number
        for bad in (b"", b"\xc1", b"\xdd\xff\xff\xff\xff", b"\x91" * 1000, b"\x92\x01\x91\x92\xacBlockRemoved\x91\xc0"):
            pub.raw(bad)
        w.wait("kv_garbage_total", 8)
        w.wait("kv_known", 0)
        pub.publish(cleared(), stored([5]))
        w.wait_blocks(1)
        pub.frames(b"", b"\xff" * 8, b"")  # the end of a replay that nobody asked for
        pub.publish(stored([6]))
        w.wait_blocks(2)


def test_a_flood_is_taken_at_the_scheduler_s_pace():
    with Publisher(endpoint(), endpoint(), keep=100000) as pub, world_of(pub) as w:
        w.wait("kv_connected", 1)
        for i in range(20000):
            pub.publish(stored([3 * i, 3 * i + 1, 3 * i + 2]))
        w.wait("kv_resident_tokens", 60000 * BLOCK, 60)
        assert w.get("kv_lost_total") == 0


@pytest.mark.parametrize("ip", ["127.0.0.1", "*"])
def test_the_engine_may_be_the_one_that_connects(ip):
    port = free_port()
    with World(kv_events=f"tcp://{ip}:{port}", kv_bind=True) as w:
        with Publisher(f"tcp://127.0.0.1:{port}", connect=True, first_seq=1) as pub:
            w.wait("kv_connected", 1)
            wait_until("batches arrive", 10, lambda: pub.publish(stored([pub.seq])) or w.get("kv_batches_total") > 2, 0.1)
            pub.publish(cleared(), stored([1, 2]))
            w.wait_blocks(2)
        w.wait("kv_connected", 0)


def test_unix_sockets_and_topics(tmp_path):
    with Publisher(f"ipc://{tmp_path}/kv", f"ipc://{tmp_path}/replay", topic=b"kv@a") as pub:
        with world_of(pub, kv_topic="kv@a") as w:
            w.wait("kv_connected", 1)
            pub.publish(stored([1]))
            w.wait_blocks(1)
            pub.topic = b"other"
            pub.publish(stored([2]))
            pub.topic = b"kv@a"
            pub.publish(stored([3]))
            w.wait_blocks(3)  # through a replay, which has no topics
            assert w.get("kv_gaps_total") == 1


@pytest.mark.asan_ok
def test_ranks_are_added_up_and_clear_their_own_share():
    port, replay = free_port(3), free_port(3)
    ranks = [Publisher(f"tcp://127.0.0.1:{port + r}", f"tcp://127.0.0.1:{replay + r}", rank=r) for r in range(3)]
    try:
        with World(kv_events=f"tcp://127.0.0.1:{port}", kv_replay=f"tcp://127.0.0.1:{replay}", kv_ranks=3) as w:
            w.wait("kv_connected", 3)
            for r, pub in enumerate(ranks):
                pub.publish(stored(range(10 * (r + 1))))
            w.wait_blocks(60)
            ranks[2].publish(cleared())
            w.wait_blocks(30)
            ranks[1].restart()
            w.wait_blocks(10)
    finally:
        for pub in ranks:
            pub.close()


def test_nobody_answers_requests_for_a_replay():
    with Publisher(endpoint(), endpoint(), drop_replays=True) as pub, world_of(pub) as w:
        w.wait("kv_replays_total", 2, 30)
        w.wait("kv_known", 0)
        wait_until("live batches are taken", 30, lambda: pub.publish(stored([pub.seq])) or w.get("kv_batches_total") > 0, 0.2)


def test_endpoints_may_change_at_run_time():
    with Publisher(endpoint(), endpoint()) as a, Publisher(endpoint(), endpoint()) as b, world_of(a) as w:
        a.publish(stored([1, 2, 3]))
        b.publish(stored([1]))
        w.wait_blocks(3)
        w.fleet.settings["engines"][0].update(kv_events=b.endpoint, kv_replay=b.replay_endpoint)
        w.fleet.write_config()
        w.fleet.scheduler.signal(1)
        w.wait_blocks(1)
        for key in ("kv_events", "kv_replay"):
            w.fleet.settings["engines"][0].pop(key)
        w.fleet.write_config()
        w.fleet.scheduler.signal(1)
        w.wait("kv_known", 0)


PAGES = {
    "vllm": ('vllm:num_requests_running{engine="0"} 4\nvllm:num_requests_waiting{engine="0"} 2\n'
             'vllm:kv_cache_usage_perc{engine="0"} 0.5\nvllm:prompt_tokens_total{engine="0"} 1000\n'
             'vllm:cache_config_info{block_size="16",num_gpu_blocks="1000"} 1\n', 4, 2, 16000, 8000),
    "vllm-old": ('vllm:num_requests_running 4\nvllm:num_requests_waiting 2\nvllm:gpu_cache_usage_perc 0.25\n'
                 'vllm:cache_config_info{block_size="16",num_gpu_blocks="1000"} 1\n', 4, 2, 16000, 4000),
    "sglang": ('sglang:num_running_reqs 3\nsglang:num_queue_reqs 1\nsglang:num_used_tokens 500\n'
               'sglang:max_total_num_tokens 9000\n', 3, 1, 9000, 500),
    "llama.cpp": ("llamacpp:requests_processing 2\nllamacpp:requests_deferred 5\n", 2, 5, 0, 0),
}


@pytest.mark.parametrize("name", PAGES)
def test_metrics_pages_are_read(name):
    text, running, waiting, capacity, used = PAGES[name]
    with World() as w:
        w.engine.metrics_page = text.encode()
        w.wait("reported_running", running)
        w.wait("reported_waiting", waiting)
        w.wait("kv_capacity_tokens", capacity)
        w.wait("kv_used_tokens", used)


def test_a_restart_shows_on_the_metrics_page():
    with World() as w:
        w.engine.metrics_page = b"vllm:prompt_tokens_total 1000\n"
        wait_until("it was read", 10, lambda: w.get("scrapes_total") > 0, 0.05)
        assert w.get("restarts_total") == 0
        w.engine.metrics_page = b"vllm:prompt_tokens_total 3\n"
        w.wait("restarts_total", 1)
        assert hit(w.fleet.chat(LONG)) < 0.1 < 0.8 < hit(w.fleet.chat(LONG))
        w.fleet.wait_no_lease()
        w.engine.metrics_page = b"vllm:prompt_tokens_total 1\n"
        w.wait("restarts_total", 2)
        # What it held is gone; that its size is not known takes nothing away of what comes now.
        assert hit(w.fleet.chat(LONG)) < 0.1 < 0.8 < hit(w.fleet.chat(LONG))
        w.engine.metrics_page = b"no page at all"
        wait_until("it failed", 10, lambda: w.get("scrape_failures_total") > 0, 0.05)


@pytest.mark.parametrize("content", [False, True])
def test_a_flood_takes_a_bounded_amount_of_memory_and_does_not_delay_the_end(content):
    event = ["BlockStored", [1] * 3_900_000, None, [], 128, None, "PROMPT_DIGEST"]
    with Publisher(endpoint()) as pub, world_of(pub, kv_content=content) as w:
        w.wait("kv_connected", 1)
        flood = msgpack.packb([1.0, [event], 0])
        for _ in range(200):
            pub.raw(flood, keep=False)
        most, end = 0, time.monotonic() + 3
        while time.monotonic() < end:
            most = max(most, w.fleet.scheduler.rss_kb())
            assert w.fleet.chat("x").status == 200
        assert most < 600_000  # of 780 MB that were sent
