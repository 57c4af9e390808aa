# SPDX-License-Identifier: Apache-2.0
"""Mailboxes over HTTP, as their tests use them."""
import json
import uuid

from .wait import wait_until


def new(name="mail"):
    return f"{name}-{uuid.uuid4().hex[:10]}"


class Box:
    """One agent's mailbox."""

    def __init__(self, fleet, workflow=None, agent="t", headers=()):
        self.fleet = fleet
        self.workflow = workflow or new()
        self.agent = agent
        self.headers = list(headers)
        self.sends = f"/v1/workflows/{self.workflow}/messages"
        self.path = f"/v1/workflows/{self.workflow}/agents/{agent}"

    def other(self, agent):
        return Box(self.fleet, self.workflow, agent, self.headers)

    def post(self, payload, source="s", kind="m", target=None, headers=(), **more):
        return self.fleet.post(self.sends, {"source_agent": source, "target_agent": target or self.agent,
                                            "message_type": kind, "payload": payload, **more},
                               [*self.headers, *headers])

    def send(self, payload, **more):
        """Id of an accepted message."""
        a = self.post(payload, **more)
        assert a.status == 202, a
        return a.json()["message_id"]

    def get(self, query="", headers=(), **kw):
        return self.fleet.get(f"{self.path}/messages{query}", headers=[*self.headers, *headers], **kw)

    def receive(self, query="", **kw):
        a = self.get(query, **kw)
        assert a.status == 200, a
        return a.json()["messages"]

    def payloads(self, query="", **kw):
        return [m["payload"] for m in self.receive(query, **kw)]

    def settle(self, verb, message, query="", receipt=None, quoted=None):
        return self.fleet.post(f"{self.path}/messages/{quoted or message['message_id']}:{verb}{query}",
                               {"receipt": receipt or message["receipt"]}, self.headers)

    def figures(self):
        a = self.fleet.get(f"{self.path}/mailbox", headers=self.headers)
        assert a.status == 200, a
        return a.json()

    def wait_figure(self, name, value, seconds=5):
        wait_until(f"{name} == {value} (is {self.figures()})", seconds, lambda: self.figures()[name] == value)

    def dead(self, query=""):
        a = self.fleet.get(f"{self.path}/dead-letters{query}", headers=self.headers)
        assert a.status == 200, a
        return a.json()

    def redrive(self, ids=None):
        a = self.fleet.post(f"{self.path}/dead-letters:redrive", b"" if ids is None else {"message_ids": ids},
                            self.headers)
        assert a.status == 200, a
        return a.json()

    def stream(self, last=None, query="", **kw):
        return Stream(self, last, query, **kw)


class Stream:
    """A reader of server-sent events."""

    def __init__(self, box, last=None, query="", version="HTTP/1.1", **kw):
        self.client = box.fleet.client(**kw)
        headers = [("Accept", "text/event-stream"), *box.headers]
        if last is not None:
            headers.append(("Last-Event-ID", last))
        self.client.request("GET", f"{box.path}/messages{query}", headers=headers, version=version)
        self.head = self.client.read_head()
        self.text = b""
        self.comments = []
        self.ended = False

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.client.close()

    def _block(self):
        """The next block of lines; None at a clean end."""
        while b"\n\n" not in self.text:
            chunk = self.client.read_chunk()
            if chunk is None:
                self.ended = True
                assert self.text == b"", self.text
                return None
            self.text += chunk
        block, self.text = self.text.split(b"\n\n", 1)
        assert b"\r" not in block
        return block.decode()

    def event(self):
        """The next message; None at a clean end."""
        while True:
            block = self._block()
            if block is None:
                return None
            fields = {}
            for line in block.split("\n"):
                name, _, value = line.partition(":")
                assert name not in fields, block
                fields[name] = value.removeprefix(" ")
            if "data" not in fields:
                self.comments.append(block)
                continue
            assert set(fields) == {"id", "event", "data"} and fields["event"] == "message", block
            message = json.loads(fields["data"])
            assert message["message_id"] == fields["id"]
            message["raw"] = fields["data"]
            return message

    def events(self, n):
        return [self.event() for _ in range(n)]

    def payloads(self, n):
        return [e["payload"] for e in self.events(n)]
