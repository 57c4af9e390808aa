# SPDX-License-Identifier: Apache-2.0
"""
An engine that does exactly what a test tells it to, byte for byte, and remembers exactly what it got.

    raw.script(truncate_chunks, ok_json)       what happens to the next requests, in their order
    raw.requests[0].body                       what came in

A step of the script is a function(conn, request). It may read the rest of the request, write bytes,
wait for the peer to go, and end the connection. When it returns, the connection is read on for the
next request, unless the step closed it. Without a step a request gets a plain good answer. Probes
(GET /health, /v1/models, /metrics, /version) are answered without touching the script.
"""
import json
import socket
import threading
import time

from .ports import free_port
from .wait import secs, wait_until

PROBES = ("/health", "/v1/models", "/metrics", "/version")


class PeerGone(Exception):
    pass


class Request:
    """What arrived, exactly. body is None until it was read completely."""

    def __init__(self, conn, index, head):
        self.conn = conn
        self.index = index  # 0 = first on its connection
        self.head = head  # bytes up to and including the empty line
        lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, self.version = lines[0].split(" ", 2)
        self.headers = [(n.strip().lower(), v.strip()) for n, _, v in (x.partition(":") for x in lines[1:] if x)]
        self.body = None
        self.gone = threading.Event()  # the peer closed while the step waited for that

    def header(self, name, default=None):
        values = self.header_all(name)
        return values[0] if values else default

    def header_all(self, name):
        return [v for n, v in self.headers if n == name.lower()]

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"<{self.method} {self.target} conn={self.conn.id} index={self.index}>"


class Conn:
    def __init__(self, engine, sock, conn_id):
        self.engine = engine
        self.sock = sock
        self.id = conn_id
        self.buf = b""
        self.is_open = True
        self.sent = 0

    # -- in --

    def _more(self):
        try:
            data = self.sock.recv(262144)
        except (ConnectionResetError, TimeoutError, OSError):
            data = b""
        self.buf += data
        return len(data) > 0

    def read_head(self):
        while b"\r\n\r\n" not in self.buf:
            if not self._more():
                raise PeerGone
        head, rest = self.buf.split(b"\r\n\r\n", 1)
        self.buf = rest
        return head + b"\r\n\r\n"

    def read_body(self, request):
        """Our own gateway always frames with Content-Length; chunks are understood all the same."""
        if request.body is not None:
            return request.body
        if "chunked" in (request.header("transfer-encoding") or ""):
            body = b""
            while True:
                size = int(self._line().split(b";")[0], 16)
                body += self._exactly(size)
                assert self._exactly(2) == b"\r\n"
                if size == 0:
                    break
        else:
            body = self._exactly(int(request.header("content-length") or 0))
        request.body = body
        return body

    def _line(self):
        while b"\r\n" not in self.buf:
            if not self._more():
                raise PeerGone
        line, self.buf = self.buf.split(b"\r\n", 1)
        return line

    def _exactly(self, n):
        while len(self.buf) < n:
            if not self._more():
                raise PeerGone
        data, self.buf = self.buf[:n], self.buf[n:]
        return data

    # -- out --

    def send(self, data):
        if isinstance(data, str):
            data = data.encode("latin-1")
        try:
            self.sock.sendall(data)
        except OSError:
            raise PeerGone from None
        self.sent += len(data)

    def chunk(self, data):
        if isinstance(data, str):
            data = data.encode()
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def event(self, data):
        if not isinstance(data, str):
            data = json.dumps(data)
        self.chunk(f"data: {data}\n\n")

    def head(self, status="200 OK", *headers):
        self.send(f"HTTP/1.1 {status}\r\n" + "".join(f"{h}\r\n" for h in headers) + "\r\n")

    def json_answer(self, value, status="200 OK", *headers):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.head(status, "Content-Type: application/json", f"Content-Length: {len(body)}", *headers)
        self.send(body)

    def stream_head(self, *headers):
        self.head("200 OK", "Content-Type: text/event-stream", "Transfer-Encoding: chunked", *headers)

    # -- end --

    def close(self):
        self.is_open = False
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()

    def reset(self):
        self.is_open = False
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def wait_gone(self, request, seconds=20):
        """Until the peer has closed. Sets request.gone."""
        self.sock.settimeout(secs(seconds))
        try:
            while self.sock.recv(65536):
                pass
        except ConnectionResetError:
            pass
        except (TimeoutError, OSError):
            return False
        request.gone.set()
        self.close()
        return True


class RawEngine:
    def __init__(self, engine_id="raw", model="raw"):
        self.id = engine_id
        self.model = model
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.lock = threading.Lock()
        self.steps = []
        self.default = ok_json
        self.requests = []
        self.healthy = True
        self.key = None  # what probes must show
        self.metrics_page = b""
        self.connections = 0
        self.conns = set()
        self.listener = None
        self.open()

    # -- life --

    def open(self):
        self.listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", self.port))
        self.listener.listen(512)
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def refuse(self, keep=()):
        """From now on connections are refused; open ones are reset, except these."""
        listener, self.listener = self.listener, None
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        self.drop(keep)

    def drop(self, keep=()):
        """Resets every open connection, except these."""
        with self.lock:
            conns = [c for c in self.conns if c not in keep]
        for c in conns:
            try:
                c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                c.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        if self.listener is not None:
            self.refuse()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    # -- what tests say and ask --

    def script(self, *steps):
        with self.lock:
            self.steps += steps

    def reset(self):
        """Forgets script and record, lets every waiting step end, and is healthy again."""
        with self.lock:
            self.steps = []
            self.requests = []
            self.default = ok_json
            self.healthy = True
        if self.listener is None:
            self.open()

    def count(self):
        with self.lock:
            return len(self.requests)

    def wait_request(self, n=1, seconds=5):
        """The n-th request (from 1), as soon as its head has arrived."""
        wait_until(f"request {n} reached {self.id} (have {self.count()})", seconds, lambda: self.count() >= n)
        with self.lock:
            return self.requests[n - 1]

    # -- threads --

    def _accept(self, listener):
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.lock:
                self.connections += 1
                conn = Conn(self, sock, self.connections)
                self.conns.add(conn)
            threading.Thread(target=self._serve, args=(conn,), daemon=True).start()

    def _serve(self, conn):
        index = 0
        try:
            while conn.is_open:
                request = Request(conn, index, conn.read_head())
                if request.method == "GET" and request.target in PROBES:
                    self._probe(conn, request)
                    continue
                index += 1
                with self.lock:
                    self.requests.append(request)
                    step = self.steps.pop(0) if self.steps else self.default
                step(conn, request)
        except (PeerGone, OSError):
            pass
        finally:
            conn.close()
            with self.lock:
                self.conns.discard(conn)

    def _probe(self, conn, request):
        if not self.healthy:
            conn.json_answer({}, "503 Service Unavailable")
        elif self.key and request.header("authorization") != f"Bearer {self.key}":
            conn.json_answer({}, "401 Unauthorized")
        elif request.target == "/v1/models":
            conn.json_answer({"object": "list", "data": [
                {"id": self.model, "object": "model", "created": 1700000000, "owned_by": "test"}]})
        elif request.target == "/metrics":
            conn.json_answer(self.metrics_page, "200 OK")
        else:
            conn.json_answer({})


# ---- good answers ----

CHAT = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1700000000, "model": "raw",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101,
                  "prompt_tokens_details": {"cached_tokens": 80}}}
USAGE_EVENT = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": "raw",
               "choices": [], "usage": CHAT["usage"]}


def delta(text, finish=None):
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": "raw",
            "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}


def ok_json(conn, request):
    conn.read_body(request)
    conn.json_answer(CHAT)


def ok_stream(conn, request):
    """Three tokens, the usage where asked for, the end mark."""
    body = json.loads(conn.read_body(request))
    conn.stream_head()
    for i in range(3):
        conn.event(delta(f"tok{i}"))
    conn.event(delta("", "stop"))
    if (body.get("stream_options") or {}).get("include_usage"):
        conn.event(USAGE_EVENT)
    conn.event("[DONE]")
    conn.send("0\r\n\r\n")


def answer(value, status="200 OK", *headers):
    def step(conn, request):
        conn.read_body(request)
        conn.json_answer(value, status, *headers)
    return step


def answer_bytes(data, then="close", read=True):
    """Writes exactly these bytes; then: close, reset, keep or wait (for the peer to go)."""
    def step(conn, request):
        if read:
            conn.read_body(request)
        conn.send(data)
        _end(conn, request, then)
    return step


def _end(conn, request, then):
    if then == "close":
        conn.close()
    elif then == "reset":
        conn.reset()
    elif then == "wait":
        conn.wait_gone(request)


# ---- bad days ----

def close_unread(conn, request):
    """Ends the connection without having read the body: the stale keep-alive race as the peer sees it."""
    conn.close()


def reset_unread(conn, request):
    conn.reset()


def read_and_close(conn, request):
    """Takes the whole request, then dies without a word."""
    conn.read_body(request)
    conn.close()


def read_and_reset(conn, request):
    conn.read_body(request)
    conn.reset()


def hang(conn, request):
    """Never answers; waits for the peer to give up."""
    conn.read_body(request)
    conn.wait_gone(request)


def head_then_hang(conn, request):
    conn.read_body(request)
    conn.stream_head()
    conn.wait_gone(request)


def answer_head_then_hang(conn, request):
    conn.read_body(request)
    conn.head("200 OK", "Content-Type: application/json", "Content-Length: 1000")
    conn.wait_gone(request)


def head_then(end, *framing):
    """Begins a stream and dies before its first event."""
    def step(conn, request):
        conn.read_body(request)
        conn.head("200 OK", "Content-Type: text/event-stream", *framing)
        _end(conn, request, end)
    return step


def answer_head_then(end):
    """Promises JSON and dies before its first byte."""
    def step(conn, request):
        conn.read_body(request)
        conn.head("200 OK", "Content-Type: application/json", "Content-Length: 1000")
        _end(conn, request, end)
    return step


def token_then_hang(conn, request):
    conn.read_body(request)
    conn.stream_head()
    conn.event(delta("one"))
    conn.wait_gone(request)


def token_then(end):
    """Streams one token and then dies: close, reset, or close between two chunks."""
    def step(conn, request):
        conn.read_body(request)
        conn.stream_head()
        conn.event(delta("one"))
        if end == "mid-chunk":
            conn.send("ff\r\ndata: {")
            conn.close()
        else:
            _end(conn, request, end)
    return step


def short_body(end):
    """Promises 1000 bytes of JSON, sends 20, dies."""
    def step(conn, request):
        conn.read_body(request)
        conn.head("200 OK", "Content-Type: application/json", "Content-Length: 1000")
        conn.send(b'{"id":"chatcmpl-1","')
        _end(conn, request, end)
    return step


def early_answer(status, value, then="close"):
    """Answers as soon as the head is there, without reading the body, and closes."""
    def step(conn, request):
        conn.json_answer(value, status, "Connection: close")
        if then == "close":
            # What is unread would turn the close into a reset that can destroy the answer on its way.
            conn.sock.shutdown(socket.SHUT_WR)
            conn.wait_gone(request)
    return step


def dribble(step_bytes=1):
    """A good stream, written in tiny pieces."""
    def step(conn, request):
        conn.read_body(request)
        text = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        for d in (delta("tok0"), delta("tok1"), delta("", "stop"), "[DONE]"):
            data = f"data: {d if isinstance(d, str) else json.dumps(d)}\n\n".encode()
            text += b"%x\r\n%s\r\n" % (len(data), data)
        text += b"0\r\n\r\n"
        for i in range(0, len(text), step_bytes):
            conn.send(text[i:i + step_bytes])
    return step


class Flood:
    """Streams total bytes in chunks as fast as they are taken; says how far it came."""

    def __init__(self, total, piece=65536):
        self.total = total
        self.piece = piece
        self.sent = 0
        self.ended = threading.Event()
        self.request = None

    def __call__(self, conn, request):
        self.request = request
        conn.read_body(request)
        conn.stream_head()
        line = b"data: " + b"x" * (self.piece - 8) + b"\n\n"
        try:
            while self.sent < self.total:
                conn.chunk(line)
                self.sent += len(line)
            conn.send("0\r\n\r\n")
        except PeerGone:
            request.gone.set()
            raise
        finally:
            self.ended.set()

    def wait_blocked(self, quiet=0.3, seconds=20):
        """Until nothing has moved for a while: the peer does not read any more."""
        state = {"sent": -1, "since": time.monotonic()}

        def blocked():
            if self.sent != state["sent"]:
                state.update(sent=self.sent, since=time.monotonic())
            return self.sent > 0 and time.monotonic() - state["since"] > quiet

        wait_until("the engine is held back", seconds, blocked)
        return self.sent
