# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 by hand: what is sent is exactly what is written here, and framing errors show."""
import json
import socket
import time

from . import wait


class Broken(Exception):
    """The answer ended before its framing said so, or is not well formed."""


class Answer:
    def __init__(self, status, reason, headers, body, version="HTTP/1.1"):
        self.status = status
        self.reason = reason
        self.headers = headers  # list of (lower-case name, value)
        self.body = body
        self.version = version

    def header(self, name, default=None):
        for n, v in self.headers:
            if n == name.lower():
                return v
        return default

    def header_all(self, name):
        return [v for n, v in self.headers if n == name.lower()]

    def json(self):
        return json.loads(self.body)

    def events(self):
        """The data of each server-sent event."""
        out = []
        for block in self.body.replace(b"\r\n", b"\n").split(b"\n\n"):
            lines = [x[5:].strip() for x in block.split(b"\n") if x.startswith(b"data:")]
            if lines:
                out.append(b"\n".join(lines).decode())
        return out

    def __repr__(self):
        return f"<{self.status} {self.headers} {(self.body or b'')[:400]!r}>"


class RawClient:
    """One connection to a server."""

    def __init__(self, port, host="127.0.0.1", timeout=20, rcvbuf=None, tls=None):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.settimeout(wait.secs(timeout))
        self.sock.connect((host, port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname=host)
        self.buf = b""

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        self.sock.close()

    def reset(self):
        """Closes with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data)

    def request(self, method, path, body=None, headers=(), host="test", version="HTTP/1.1"):
        self.send(request_bytes(method, path, body, headers, host, version))

    def _more(self):
        try:
            data = self.sock.recv(65536)
        except ConnectionResetError:
            data = b""
        self.buf += data
        return len(data) > 0

    def read_until(self, mark):
        while mark not in self.buf:
            if not self._more():
                raise Broken(f"end of connection before {mark!r}; have {self.buf[:200]!r}")
        head, self.buf = self.buf.split(mark, 1)
        return head

    def read_exactly(self, n):
        while len(self.buf) < n:
            if not self._more():
                raise Broken(f"end of connection, {n - len(self.buf)} bytes short")
        data, self.buf = self.buf[:n], self.buf[n:]
        return data

    def read_head(self):
        """Skips 1xx heads. Answer with body None."""
        while True:
            head = self.read_until(b"\r\n\r\n").decode("latin-1")
            lines = head.split("\r\n")
            parts = lines[0].split(" ", 2)
            if not parts[0].startswith("HTTP/1.") or len(parts) < 2 or not parts[1].isdigit():
                raise Broken(f"bad status line {lines[0]!r}")
            headers = []
            for line in lines[1:]:
                name, colon, value = line.partition(":")
                if not colon or name != name.strip() or not name:
                    raise Broken(f"bad header line {line!r}")
                headers.append((name.lower(), value.strip()))
            if int(parts[1]) >= 200:
                return Answer(int(parts[1]), parts[2] if len(parts) > 2 else "", headers, None, parts[0])

    def read_chunk(self):
        """One chunk of a chunked body; None at its end."""
        line = self.read_until(b"\r\n")
        try:
            size = int(line.split(b";")[0], 16)
        except ValueError:
            raise Broken(f"bad chunk size {line!r}") from None
        data = self.read_exactly(size)
        if self.read_exactly(2) != b"\r\n":
            raise Broken("no CRLF after a chunk")
        return data if size else None

    def read_body(self, head, method="GET"):
        te = head.header_all("transfer-encoding")
        cl = head.header_all("content-length")
        if len(te) + len(cl) > 1:
            raise Broken(f"ambiguous framing in an answer: {head.headers}")
        if method == "HEAD" or head.status in (204, 304):
            return b""
        if te:
            if te[0].lower() != "chunked":
                raise Broken(f"transfer-encoding {te[0]!r}")
            body = b""
            while True:
                chunk = self.read_chunk()
                if chunk is None:
                    return body
                body += chunk
        if cl:
            return self.read_exactly(int(cl[0]))
        body = self.buf
        self.buf = b""
        while self._more():
            pass
        body, self.buf = body + self.buf, b""
        return body

    def read_answer(self, method="GET"):
        a = self.read_head()
        a.body = self.read_body(a, method)
        return a

    def is_closed(self, seconds=5):
        """Does the server close now, without sending anything more?"""
        self.sock.settimeout(wait.secs(seconds))
        try:
            if self.buf:
                return False
            self.buf = self.sock.recv(65536)
            return self.buf == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False

    def is_open(self, seconds=0.2):
        """Is the connection kept: neither closed nor sent to for a while?"""
        self.sock.settimeout(wait.secs(seconds))
        try:
            self.buf += self.sock.recv(65536)
            return False
        except ConnectionResetError:
            return False
        except TimeoutError:
            return True


def request_bytes(method, path, body=None, headers=(), host="test", version="HTTP/1.1"):
    if isinstance(body, (dict, list)):
        body = json.dumps(body).encode()
    if isinstance(body, str):
        body = body.encode()
    lines = [f"{method} {path} {version}"]
    if host is not None:
        lines.append(f"Host: {host}")
    names = {h[0].lower() for h in headers}
    if body is not None:
        if "content-type" not in names:
            lines.append("Content-Type: application/json")
        if "content-length" not in names and "transfer-encoding" not in names:
            lines.append(f"Content-Length: {len(body)}")
    lines += [f"{n}: {v}" for n, v in headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b"")


def fetch(port, method, path, body=None, headers=(), timeout=20, host="localhost"):
    """One request on a connection of its own."""
    if isinstance(headers, dict):
        headers = list(headers.items())
    with RawClient(port, timeout=timeout) as c:
        c.request(method, path, body, [*headers, ("Connection", "close")], host)
        return c.read_answer(method)


def get(port, path, **kw):
    return fetch(port, "GET", path, **kw)


def post(port, path, body, headers=(), **kw):
    return fetch(port, "POST", path, body, headers, **kw)


def chat(model="sim", text="hello", **more):
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


def reachable(port, path="/health"):
    try:
        return fetch(port, "GET", path, timeout=2).status
    except (OSError, Broken):
        return 0


def elapsed(t0):
    return time.monotonic() - t0
