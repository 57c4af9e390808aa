#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""
Slipstream's mailbox without HTTP and without its C library: any language that has nng and protobuf
can talk to it. A worker parks a poll, a planner sends it a task with a key against duplicates, the
worker works under a lease, acknowledges, and answers; the planner waits for the answer.

The code for proto/*.proto is generated when the program starts.

With the package lz4 large payloads travel compressed; without it nothing here is different but that.

    pip install pynng grpcio-tools lz4
    python3 native_python.py ipc:///run/slipstream/sock/mailbox
"""
import importlib
import json
import os
import sys
import tempfile
import uuid
from pathlib import Path

import pynng
from grpc_tools import protoc

try:
    import lz4.block
except ImportError:
    lz4 = None

PROTO = Path(os.environ.get("PROTO", Path(__file__).resolve().parent.parent / "proto"))
URL = sys.argv[1] if len(sys.argv) > 1 else "ipc:///run/slipstream/sock/mailbox"

with tempfile.TemporaryDirectory() as generated:
    files = ["shared.proto", "mailbox.proto"]
    if protoc.main(["protoc", f"-I{PROTO}", f"--python_out={generated}", *files]) != 0:
        sys.exit("the .proto files cannot be compiled")
    sys.path.insert(0, generated)
    shared, mail = (importlib.import_module(f.replace(".proto", "_pb2")) for f in files)

HELLO, NEXT = 1, 2                       # methods of the channel itself
FIRST_METHOD, FIRST_EVENT = 16, 16 + 64  # of the service: the order in mailbox.proto
METHODS = {m.name: m for m in mail.DESCRIPTOR.services_by_name["Mailbox"].methods}


class Refused(Exception):
    """status is a row of docs/reference/errors.md."""

    def __init__(self, status, text):
        super().__init__(f"{text} ({status})")
        self.status = status


class Mailbox:
    """
    One connection: a REQ socket with two contexts. Calls go through the first, one frame at a time.
    The second holds a parked Next, whose answers bring events; they are numbered, and the next Next
    confirms them. After any failure: a new connection, a new hello, and calls and polls again.
    """

    def __init__(self, url, name):
        self.socket = pynng.Req0(resend_time=-1, send_timeout=5000)
        self.socket.dial(url, block=True)
        self.calls, self.events = self.socket.new_context(), self.socket.new_context()
        self.calls.recv_timeout, self.events.recv_timeout = 5000, 30000
        self.epoch = self.seq = self.ids = self.acked = self.polls = 0
        hello = shared.Hello(proto_min=1, proto_max=1, build="python", name=name, pid=os.getpid(),
                             session=uuid.uuid4().int >> 64 or 1)
        answer = self.ask(self.calls, HELLO, hello, shared.HelloReply)
        self.epoch, self.seq = answer.epoch, 0
        self.compress_bytes = mail.MailboxInfo.FromString(answer.info).compress_bytes if lz4 else 0

    def close(self):
        self.calls.close()
        self.events.close()
        self.socket.close()

    def frame(self, context, method, request, call_id):
        self.seq += 1
        frame = shared.Frame(proto=1 if self.epoch else 0, epoch=self.epoch, seq=self.seq)
        frame.calls.add(id=call_id, method=method, timeout_ms=5000, body=request.SerializeToString())
        context.send(frame.SerializeToString())
        return shared.Frame.FromString(context.recv()).calls

    def ask(self, context, method, request, reply_type):
        self.ids += 1
        for answer in self.frame(context, method, request, self.ids):
            if answer.id == self.ids and answer.status == 0:
                return reply_type.FromString(answer.body)
            if answer.id == self.ids:
                failure = shared.HelloReply if method == HELLO else shared.Failure
                said = failure.FromString(answer.body)
                raise Refused(answer.status, getattr(said, "refused", "") or getattr(said, "message", ""))
        raise ConnectionError("the mailbox wants a new hello")

    def call(self, name, **fields):
        method = METHODS[name]
        request, reply = (getattr(mail, t.name, None) or getattr(shared, t.name)
                          for t in (method.input_type, method.output_type))
        return self.ask(self.calls, FIRST_METHOD + method.index, request(**fields), reply)

    def next_delivery(self, poll):
        """Parks Next until the event of this poll has come. An empty answer means: nothing yet."""
        while True:
            for event in self.frame(self.events, NEXT, shared.Next(acked=self.acked), 1):
                if event.event != self.acked + 1:
                    continue  # sent again; handled before
                self.acked = event.event
                if event.method == FIRST_EVENT + mail.EVENT_DELIVERY:
                    delivery = mail.ReceiveReply.FromString(event.body)
                    if delivery.poll == poll:
                        return delivery

    # -- what an agent wants --

    def park(self, workflow, agent, wait=30, lease=30):
        """Asks for messages. Answered at once: with what is there, or with the name of a parked poll."""
        self.polls += 1
        return self.call("Receive", workflow_id=workflow, agent_id=agent, max=1, poll=self.polls,
                         wait_ms=int(wait * 1000), lease_ms=int(lease * 1000), lz4=bool(lz4)), self.polls

    def receive(self, workflow, agent):
        answer, poll = self.park(workflow, agent)
        if answer.parked:
            answer = self.next_delivery(poll)
        return answer.messages[0] if answer.messages else None

    def send(self, workflow, source, target, kind, payload, key="", **more):
        message = mail.Message(source_agent=source, target_agent=target, message_type=kind, **more)
        message.payload = json.dumps(payload).encode()
        if 0 < self.compress_bytes <= len(message.payload):
            block = lz4.block.compress(message.payload, store_size=False)
            if len(block) < len(message.payload):
                message.raw_len, message.payload = len(message.payload), block
        reply = self.call("Send", workflow_id=workflow, messages=[message], idempotency_key=key)
        if reply.results[0].status != 0:
            raise Refused(reply.results[0].status, "the message was refused")
        return reply

    def ack(self, workflow, message):
        reply = self.call("Ack", workflow_id=workflow, agent_id=message.target_agent, acks=[
            mail.Ack(message_id=message.message_id, receipt=message.receipt, kind=mail.ACK_DONE)])
        if reply.results[0].status != 0:
            raise Refused(reply.results[0].status, "somebody else has the message by now")


def text_of(message):
    """The payload. Who does not say lz4 when receiving never gets one with raw_len."""
    if message.raw_len == 0:
        return message.payload.decode()
    return lz4.block.decompress(message.payload, uncompressed_size=message.raw_len).decode()


workflow = f"native-{uuid.uuid4().hex[:8]}"
planner, worker = Mailbox(URL, "planner"), Mailbox(URL, "worker")

# Nothing is there yet: the poll is parked, no thread or call waits in the mailbox.
answer, poll = worker.park(workflow, "worker")
assert answer.parked

# The same send twice with one key is one message.
task = dict(kind="task", payload={"chapter": 1}, key="chapter-1", correlation_id="chapter-1", reply_to="planner")
first = planner.send(workflow, "planner", "worker", **task)
again = planner.send(workflow, "planner", "worker", **task)
assert again.replayed and again.results[0].message_id == first.results[0].message_id

message = worker.next_delivery(poll).messages[0]
print(f"worker: {text_of(message)}, attempt {message.attempt}, leased under {message.receipt}")
worker.send(workflow, "worker", message.reply_to, "result", {"text": "words " * 2000}, correlation_id=message.correlation_id)
worker.ack(workflow, message)

result = planner.receive(workflow, "planner")
planner.ack(workflow, result)
print(f"planner: {len(text_of(result))} bytes, {len(result.payload)} of them on the way, answer {result.correlation_id}")

box = worker.call("GetBox", workflow_id=workflow, agent_id="worker")
worker.close()
planner.close()
print(json.dumps({"workflow": workflow, "sent": box.sent, "delivered": box.delivered, "leased": box.leased}))
