# SPDX-License-Identifier: Apache-2.0
"""A publisher of KV events as vLLM and SGLang have it: PUB, and ROUTER for replays, through libzmq.

    pub = Publisher(tcp_port(), replay=tcp_port())
    pub.publish(stored([1, 2]), removed([1]))

Encodings are those of the engines' releases: see ENCODINGS.
"""
import threading
import time
from collections import deque

import msgpack
import zmq

BLOCK = 16


def stored(hashes, parent=None, medium="GPU", block=BLOCK, tokens=None, group=None, kind=None):
    return {"type": "BlockStored", "block_hashes": list(hashes), "parent_block_hash": parent,
            "token_ids": list(range(len(hashes) * block if tokens is None else tokens)), "block_size": block,
            "lora_id": None, "medium": medium, "lora_name": None, "extra_keys": None, "group_idx": group,
            "kv_cache_spec_kind": kind, "kv_cache_spec_sliding_window": None}


def removed(hashes, medium="GPU", group=None):
    return {"type": "BlockRemoved", "block_hashes": list(hashes), "medium": medium, "group_idx": group}


def cleared():
    return {"type": "AllBlocksCleared"}


def _array(event, size):
    row = list(event.values())
    return row[:{"BlockStored": size, "BlockRemoved": max(2, size - 4)}.get(event["type"], 1)]


def _map(event):
    required = ("type", "block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium", "lora_name")
    return {k: v for k, v in event.items() if v is not None or k in required}


def _with_hashes(event, convert):
    event = dict(event)
    if "block_hashes" in event:
        event["block_hashes"] = [convert(h) for h in event["block_hashes"]]
    if event.get("parent_block_hash") is not None:
        event["parent_block_hash"] = convert(event["parent_block_hash"])
    return event


def _signed(h):
    return h - 2**64 if h >= 2**63 else h


def _digest(h):
    return b"\x5a" * 24 + h.to_bytes(8, "big")


# name: event -> what is packed
ENCODINGS = {
    "vllm-0.9": lambda e: _array(e, 6),
    "vllm-0.11": lambda e: _array(e, 7),
    "vllm-0.14": lambda e: _array(e, 8),
    "vllm-0.17": lambda e: _array(e, 9),
    "vllm-0.20": lambda e: _array(e, 10),
    "vllm-0.22": lambda e: _array(e, 12),
    "vllm-0.24": _map,
    "vllm-bytes": lambda e: _map(_with_hashes(e, _digest)),
    "sglang": lambda e: _array(_with_hashes(e, _signed), 7),
    "of-the-future": lambda e: {**_map(e), "session_id": "s", "locality": "LOCAL"} if e["type"] == "BlockStored" else _map(e),
}


class Publisher:
    def __init__(self, endpoint, replay=None, encoding="vllm-0.24", topic=b"", connect=False, keep=10000, rank=0,
                 batch_as_map=False, topic_in_replay=True, first_seq=0, drop_replays=False):
        self.endpoint, self.replay_endpoint = endpoint, replay
        self.encode = ENCODINGS[encoding]
        self.topic, self.connect, self.rank = topic, connect, rank
        self.batch_as_map, self.topic_in_replay, self.drop_replays = batch_as_map, topic_in_replay, drop_replays
        self.first_seq = first_seq
        self.buffer = deque(maxlen=keep)
        self.replays = []  # the numbers that were asked for
        self.lock = threading.Lock()
        self.open()

    def open(self):
        self.seq = self.first_seq
        self.buffer.clear()
        self.context = zmq.Context()
        self.pub = self.context.socket(zmq.PUB)
        self.pub.linger = 0
        (self.pub.connect if self.connect else self.pub.bind)(self.endpoint)
        self.router = None
        if self.replay_endpoint:
            self.router = self.context.socket(zmq.ROUTER)
            self.router.linger = 0
            self.router.bind(self.replay_endpoint)
        self.is_open = True
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def close(self):
        self.is_open = False
        self.thread.join()
        self.pub.close()
        if self.router:
            self.router.close()
        self.context.term()

    def restart(self):
        """As a new process would: from the first number on, with nothing to repeat."""
        self.close()
        self.open()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def payload(self, events, ts=None):
        ts = time.time() if ts is None else ts
        events = [self.encode(e) for e in events]
        if self.batch_as_map:
            return msgpack.packb({"ts": ts, "events": events, "data_parallel_rank": self.rank})
        return msgpack.packb([ts, events, self.rank])

    def publish(self, *events, send=True, keep=True):
        """send=False: lost on the way; keep=False: cannot be had again."""
        self.raw(self.payload(events), send, keep)

    def raw(self, payload, send=True, keep=True):
        with self.lock:
            seq = self.seq.to_bytes(8, "big")
            self.seq += 1
            if send:
                self.pub.send_multipart((self.topic, seq, payload))
            if keep:
                self.buffer.append((seq, payload))

    def frames(self, *frames):
        with self.lock:
            self.pub.send_multipart(frames)

    def _serve(self):
        while self.is_open:
            if not self.router or not self.router.poll(10):
                if not self.router:
                    time.sleep(0.01)
                continue
            frames = self.router.recv_multipart()
            with self.lock:
                if len(frames) != 3 or frames[1] != b"":
                    continue
                start = int.from_bytes(frames[2], "big")
                self.replays.append(start)
                if self.drop_replays:
                    continue
                head = (frames[0], b"", self.topic) if self.topic_in_replay else (frames[0], b"")
                for seq, payload in self.buffer:
                    if int.from_bytes(seq, "big") >= start:
                        self.router.send_multipart((*head, seq, payload))
                self.router.send_multipart((*head, b"\xff" * 8, b""))
