# SPDX-License-Identifier: Apache-2.0
"""
A mailbox client of its own: frames of proto/shared.proto over an nng REQ socket, nothing of ours
linked. What the tests say to the mailbox they could say from any language.

    with MailboxClient(fleet) as c:
        c.send("w", "a", {"n": 1})
        c.receive("w", "a", lease_ms=1000)
"""
import contextlib
import functools
import itertools
import json
import re
import secrets
import subprocess
import tempfile
import threading
from pathlib import Path

import pynng
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from .fleet import ROOT
from .wait import secs

HELLO, NEXT, METHODS, EVENTS = 1, 2, 16, 80


@functools.cache
def errors():
    """Names of err.def by number."""
    text = (ROOT / "common" / "err.def").read_text()
    return [m.removeprefix("ERR_") for m in re.findall(r"^ERR\((ERR_\w+),", text, re.M)]


@functools.cache
def pool():
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "d"
        subprocess.run(["protoc-c", f"-I{ROOT / 'proto'}", "--include_imports", f"--descriptor_set_out={out}",
                        ROOT / "proto" / "mailbox.proto", ROOT / "proto" / "scheduler.proto"], check=True)
        files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    p = descriptor_pool.DescriptorPool()
    for f in files.file:
        p.Add(f)
    return p


@functools.cache
def message(name):
    return message_factory.GetMessageClass(pool().FindMessageTypeByName(f"slipstream.v1.{name}"))


@functools.cache
def method(name):
    """(number on the wire, class of the request, class of the answer)"""
    service = pool().FindServiceByName("slipstream.v1.Mailbox")
    m = service.FindMethodByName(name)
    return METHODS + m.index, message(m.input_type.name), message(m.output_type.name)


class Refused(Exception):
    def __init__(self, status):
        super().__init__(errors()[status])
        self.name = errors()[status]


class Lost(Exception):
    """The link is gone, or the mailbox is another one."""


class MailboxClient:
    """One session. Calls from one thread; events on a thread of their own."""

    def __init__(self, fleet, name="test", key="", url=None, events=True, timeout=20):
        self.socket = pynng.Req0(recv_timeout=int(secs(timeout) * 1000), send_timeout=int(secs(timeout) * 1000),
                                 resend_time=-1, recv_max_size=8 << 20)
        self.socket.dial(url or f"ipc://{fleet.run_dir}/sock/mailbox", block=False)
        self.ids = itertools.count(1)
        self.seq = 0
        self.polls = itertools.count(1)
        self.delivered = {}  # poll -> ReceiveReply
        self.changed = threading.Condition()
        self.sending = threading.Lock()  # nng aborts when a socket is closed while another thread sends
        self.closed = False
        hello = message("Hello")(proto_min=1, proto_max=1, name=name, key=key, session=secrets.randbits(63) + 1)
        self.epoch = 0
        (answer,), head = self._exchange([message("Call")(id=next(self.ids), method=HELLO, body=hello.SerializeToString())])
        if answer.status:
            raise Refused(answer.status)
        self.epoch = message("HelloReply").FromString(answer.body).epoch
        self.thread = None
        if events:
            self.listen()

    def listen(self):
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()

    def close(self):
        with self.sending:
            self.closed = True
            self.socket.close()
        if self.thread:
            self.thread.join(secs(10))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def _exchange(self, calls, context=None):
        if calls and calls[0].method == NEXT:
            seq = 0
        else:
            self.seq += 1
            seq = self.seq
        frame = message("Frame")(proto=1 if self.epoch else 0, epoch=self.epoch, seq=seq if self.epoch else 0, calls=calls)
        if not self.epoch:
            self.seq = 0
        wire = context or self.socket
        try:
            with self.sending if context else contextlib.nullcontext():
                if self.closed:
                    raise Lost("closed")
                wire.send(frame.SerializeToString())
            answer = message("Frame").FromString(wire.recv())
        except pynng.NNGException as e:
            raise Lost(str(e)) from None
        if self.epoch and (answer.epoch != self.epoch or any(c.method == HELLO for c in answer.calls)):
            raise Lost("another mailbox")
        return answer.calls, answer

    def _listen(self):
        acked = 0
        try:
            with self.sending:
                if self.closed:
                    return
                context = self.socket.new_context()
            with context:
                while True:
                    body = message("Next")(acked=acked).SerializeToString()
                    calls, _ = self._exchange([message("Call")(method=NEXT, body=body)], context)
                    with self.changed:
                        for c in calls:
                            if c.event > acked:
                                acked = c.event
                                reply = message("ReceiveReply").FromString(c.body)
                                self.delivered[reply.poll] = reply
                        self.changed.notify_all()
        except (Lost, pynng.NNGException):
            pass

    # -- calls --

    def calls(self, requests):
        """[(method, request), ...] in one frame; [(status, answer or None), ...] in their order."""
        out, kinds = [], {}
        for name, request in requests:
            number, _, answer = method(name)
            c = message("Call")(id=next(self.ids), method=number, timeout_ms=20000, body=request.SerializeToString())
            kinds[c.id] = answer
            out.append(c)
        found = {}
        answers, _ = self._exchange(out)
        for a in answers:
            found[a.id] = (a.status, kinds[a.id].FromString(a.body) if a.status == 0 else None)
        if len(found) != len(out):
            raise Lost("answers are missing")
        return [found[c.id] for c in out]

    def call(self, name, **fields):
        (status, answer), = self.calls([(name, method(name)[1](**fields))])
        if status:
            raise Refused(status)
        return answer

    def post(self, workflow, target, payload, source="me", tenant="", ttl=0, key="", agents=(), **more):
        """The SendResult of one message."""
        m = message("Message")(source_agent=source, target_agent=target, message_type="t",
                               payload=json.dumps(payload).encode(), **more)
        reply = self.call("Send", tenant=tenant, workflow_id=workflow, messages=[m], ttl_ms=ttl, idempotency_key=key,
                          agents=agents)
        return reply.results[0]

    def send(self, *args, **kw):
        """The id of one message that was taken in."""
        result = self.post(*args, **kw)
        if result.status:
            raise Refused(result.status)
        return result.message_id

    def receive(self, workflow, agent, **fields):
        return self.call("Receive", workflow_id=workflow, agent_id=agent, **fields)

    def take(self, workflow, agent, **fields):
        return [json.loads(m.payload) for m in self.receive(workflow, agent, **fields).messages]

    def park(self, workflow, agent, wait_ms=60000, **fields):
        """The name of a poll that waits."""
        poll = next(self.polls)
        reply = self.receive(workflow, agent, wait_ms=wait_ms, poll=poll, **fields)
        assert reply.parked, reply
        return poll

    def end_of(self, poll, seconds=10):
        with self.changed:
            assert self.changed.wait_for(lambda: poll in self.delivered, secs(seconds)), f"poll {poll} has not ended"
            return self.delivered.pop(poll)

    def ack(self, workflow, agent, m, kind=0, **fields):
        """Name of the error, or OK."""
        reply = self.call("Ack", workflow_id=workflow, agent_id=agent,
                          acks=[message("Ack")(message_id=m.message_id, receipt=m.receipt, kind=kind, **fields)])
        return errors()[reply.results[0].status]

    def box(self, workflow, agent):
        return self.call("GetBox", workflow_id=workflow, agent_id=agent)

    def status(self):
        return self.call("GetStatus")
