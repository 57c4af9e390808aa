# SPDX-License-Identifier: Apache-2.0
"""curl, as people use it on a command line."""
import json
import shutil
import subprocess

import pytest
from support import raw_engine as re_
from support.fleet import Fleet
from support.rawhttp import chat
from support.wait import secs

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")


def curl(*args, stdin=None, code=0):
    r = subprocess.run(["curl", "-sS", "--noproxy", "*", "--max-time", str(secs(20)), *args], input=stdin,
                       capture_output=True, timeout=secs(30))
    assert r.returncode == code, (r.returncode, r.stderr.decode())
    return r.stdout


def url(fleet, path="/v1/chat/completions"):
    return f"http://127.0.0.1:{fleet.port}{path}"


JSON = ("-H", "Content-Type: application/json")


@pytest.mark.asan_ok
def test_chat(sim):
    out = curl(url(sim), *JSON, "-d", json.dumps(chat("sim", "hello", max_tokens=4)))
    assert len(json.loads(out)["choices"][0]["message"]["content"]) == 16


def test_default_content_type(sim):
    """curl -d alone says application/x-www-form-urlencoded; people forget the header."""
    out = curl(url(sim), "-d", json.dumps(chat("sim", "hello", max_tokens=4)), "-w", "%{http_code}")
    assert out[-3:] in (b"200", b"415")


def test_stream(sim):
    out = curl("-N", url(sim), *JSON, "-d", json.dumps(chat("sim", "hello", max_tokens=4, stream=True)))
    assert out.rstrip().endswith(b"data: [DONE]")


@pytest.mark.asan_ok
def test_big_body_with_expect(raw):
    """curl asks with Expect: 100-continue before it sends a big body."""
    body = json.dumps(chat("raw", "x" * (3 << 20))).encode()
    out = curl(url(raw), *JSON, "-H", "Expect: 100-continue", "--data-binary", "@-", stdin=body)
    assert json.loads(out) == re_.CHAT
    assert raw.engine.requests[0].body == body
    assert raw.engine.requests[0].header("expect") is None


def test_chunked_upload(raw):
    body = json.dumps(chat("raw", "x" * 200000)).encode()
    out = curl(url(raw), *JSON, "-H", "Transfer-Encoding: chunked", "--data-binary", "@-", stdin=body)
    assert json.loads(out) == re_.CHAT
    assert raw.engine.requests[0].body == body
    assert raw.engine.requests[0].header_all("content-length") == [str(len(body))]


def test_http_1_0(raw):
    body = json.dumps(chat("raw"))
    assert json.loads(curl("-0", url(raw), *JSON, "-d", body)) == re_.CHAT
    raw.engine.default = re_.ok_stream
    out = curl("-0", "-N", url(raw), *JSON, "-d", json.dumps(chat("raw", stream=True)))
    assert out.rstrip().endswith(b"data: [DONE]")


def test_truncated_answer_is_an_error_of_curl(raw):
    raw.script(re_.short_body("close"))
    r = subprocess.run(["curl", "-sS", "--noproxy", "*", url(raw), *JSON, "-d", json.dumps(chat("raw")), "-w",
                        "%{http_code}"], capture_output=True, timeout=secs(30))
    assert r.returncode == 18 or r.stdout[-3:] == b"502", (r.returncode, r.stdout)


def test_upgrade_to_http2_is_ignored(sim):
    out = curl("--http2", "-w", "\n%{http_version}", url(sim, "/v1/models"))
    assert out.splitlines()[-1] == b"1.1"


def test_keepalive_over_errors(raw):
    """A refused body does not cost the connection."""
    out = curl(url(raw), *JSON, "-d", "{", "-o", "/dev/null", "-w", "%{http_code} %{num_connects}\n", "--next", "-sS",
               "--noproxy", "*", url(raw), *JSON, "-d", json.dumps(chat("raw")), "-o", "/dev/null", "-w",
               "%{http_code} %{num_connects}\n")
    assert out.split(b"\n")[:2] == [b"400 1", b"200 0"]


def test_tls(tmp_path):
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days",
                    "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out",
                    str(cert)], check=True, capture_output=True)
    with re_.RawEngine("raw") as engine:
        engine.default = re_.ok_stream
        with Fleet(engines=[engine], workers=1, with_mailbox=False,
                   gateway={"tls_cert_file": str(cert), "tls_key_file": str(key)}) as f:
            base = f"https://127.0.0.1:{f.port}"
            out = curl("--cacert", str(cert), "-N", "-w", "%{http_version}", f"{base}/v1/chat/completions", *JSON, "-d",
                       json.dumps(chat("raw", stream=True)))
            assert b"data: [DONE]" in out and out.endswith(b"1.1")
            body = json.dumps(chat("raw", "x" * (2 << 20), stream=True)).encode()
            out = curl("--cacert", str(cert), f"{base}/v1/chat/completions", *JSON, "--data-binary", "@-", stdin=body)
            assert b"data: [DONE]" in out
            assert engine.requests[-1].body == body
