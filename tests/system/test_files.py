# SPDX-License-Identifier: Apache-2.0
"""Files that the gateway's settings name: what --check says of them, and what a reload takes anew."""
import signal
import socket
import ssl
import subprocess
import threading

import pytest
from support import raw_engine as re_
from support import rawhttp
from support.fleet import Fleet, binary, to_yaml
from support.rawhttp import RawClient, chat
from support.wait import secs, wait_until

PATH = "/v1/chat/completions"


def make_cert(folder, name, days="2"):
    key, cert = folder / f"{name}.key", folder / f"{name}.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days",
                    days, "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out",
                    str(cert)], check=True, capture_output=True, timeout=secs(30))
    key.chmod(0o600)
    return cert, key


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    """Two pairs: one.pem and one.key, two.pem and two.key."""
    folder = tmp_path_factory.mktemp("pki")
    make_cert(folder, "one")
    make_cert(folder, "two")
    return folder


def der(pem):
    return ssl.PEM_cert_to_DER_cert(pem.read_text())


def handshake(sock):
    """The certificate that the server shows on a connection without one so far."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with context.wrap_socket(sock) as s:
        return s.getpeercert(binary_form=True)


def shown(port):
    return handshake(socket.create_connection(("127.0.0.1", port), timeout=secs(10)))


def reload(worker, event=" reloaded "):
    seen = worker.log().count(event)
    worker.signal(signal.SIGHUP)
    wait_until(event, 5, lambda: worker.log().count(event) > seen)


# ---- reload ----

@pytest.mark.asan_ok
def test_a_reload_shows_the_new_certificate_and_cuts_nobody_off(pki, tmp_path):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def put(c, k):
        cert.write_bytes(c)
        key.write_bytes(k)
        key.chmod(0o600)

    one, two = ((pki / f"{n}.pem").read_bytes() for n in ("one", "two"))
    one_key, two_key = ((pki / f"{n}.key").read_bytes() for n in ("one", "two"))
    go = threading.Event()

    def late(conn, request):
        assert go.wait(secs(20))
        re_.ok_json(conn, request)

    put(one, one_key)
    trust = ssl.create_default_context(cafile=str(pki / "one.pem"))
    with re_.RawEngine("raw") as engine, Fleet(engines=[engine], workers=1, with_mailbox=False, gateway={
            "tls_cert_file": str(cert), "tls_key_file": str(key)}) as f:
        worker = f.workers[0]
        with RawClient(f.port, tls=trust) as kept, RawClient(f.port, tls=trust) as waiting:
            kept.request("POST", PATH, chat("raw"))
            assert kept.read_answer().status == 200
            engine.script(late)
            waiting.request("POST", PATH, chat("raw"))
            engine.wait_request(2)
            silent = socket.create_connection(("127.0.0.1", f.port), timeout=secs(10))  # says hello later
            assert shown(f.port) == der(pki / "one.pem")
            put(two, two_key)
            reload(worker)
            assert shown(f.port) == der(pki / "two.pem")
            assert handshake(silent) == der(pki / "one.pem")
            kept.request("POST", PATH, chat("raw"))
            assert kept.read_answer().status == 200
            go.set()
            assert waiting.read_answer().status == 200
        for bad, words in (((b"nonsense", two_key), f"{cert}: holds no certificate in PEM form"),
                           ((two, b"nonsense"), f"{key}: holds no private key in PEM form"),
                           ((two, one_key), f"{key}: is not the key of the certificate")):
            put(*bad)
            reload(worker, " reload_refused ")
            assert f'tls_failed reason="{words}' in worker.log()
            assert shown(f.port) == der(pki / "two.pem")
        put(one, one_key)
        reload(worker)
        assert shown(f.port) == der(pki / "one.pem")


@pytest.mark.asan_ok
def test_a_reload_opens_the_access_log_anew(tmp_path):
    log, rotated = tmp_path / "access.log", tmp_path / "access.log.1"

    def lines(path):
        return path.read_text().count(f'path="{PATH}"') if path.exists() else 0

    with re_.RawEngine("raw") as engine, Fleet(engines=[engine], workers=1, with_mailbox=False,
                                               gateway={"access_log": str(log)}) as f:
        assert f.chat("first").status == 200
        log.rename(rotated)
        reload(f.workers[0])
        assert f.chat("second").status == 200
        wait_until("the new file has a line", 5, lambda: lines(log) == 1)
        assert lines(rotated) == 1, "what was written before went to the old one"
        f.settings["gateway"]["access_log"] = str(tmp_path / "no" / "access.log")
        f.write_config()
        reload(f.workers[0], " reload_refused ")
        assert f"access_log_failed file={tmp_path}/no/access.log" in f.workers[0].log()
        assert f.chat("third").status == 200
        wait_until("the old one goes on", 5, lambda: lines(log) == 2)


# ---- --check ----

def check(folder, settings):
    config = folder / "check.yaml"
    config.write_text(to_yaml(settings))
    r = subprocess.run([str(binary("slipstream-gateway")), "--config", str(config), "--check"], capture_output=True,
                       text=True, timeout=secs(20))
    assert (r.returncode == 0) == ("configuration ok" in r.stdout)
    return r.returncode, r.stderr


def tls(cert, key):
    return {"gateway": {"tls_cert_file": str(cert), "tls_key_file": str(key)}}


@pytest.mark.asan_ok
def test_check_opens_certificate_and_key(pki, tmp_path):
    one, one_key = pki / "one.pem", pki / "one.key"
    empty, text = tmp_path / "empty", tmp_path / "text"
    empty.write_text("")
    text.write_text("nonsense\n")
    text.chmod(0o600)
    locked = tmp_path / "locked.key"
    subprocess.run(["openssl", "pkey", "-in", str(one_key), "-aes128", "-passout", "pass:x", "-out", str(locked)], check=True,
                   capture_output=True, timeout=secs(30))
    assert check(tmp_path, tls(one, one_key)) == (0, "")
    for settings, line in (
            (tls(tmp_path / "gone", one_key), f"{tmp_path}/gone: No such file or directory"),
            (tls(one, tmp_path / "gone"), f"{tmp_path}/gone: No such file or directory"),
            (tls(tmp_path, one_key), f"{tmp_path}: no regular file"),
            (tls(empty, one_key), f"{empty}: is empty"),
            (tls(text, one_key), f"{text}: holds no certificate in PEM form"),
            (tls(one, text), f"{text}: holds no private key in PEM form"),
            (tls(one, locked), f"{locked}: holds no private key in PEM form without a password"),
            (tls(one, pki / "two.key"), f"{pki}/two.key: is not the key of the certificate"),
            ({"common": {"rpc_tls_ca_file": str(text)}}, f"{text}: holds no certificate in PEM form")):
        code, said = check(tmp_path, settings)
        assert code == 78 and said.startswith(line), (settings, said)
    one_key.chmod(0o644)
    try:
        assert check(tmp_path, tls(one, one_key)) == (0, f"{one_key}: everybody may read it\n")
    finally:
        one_key.chmod(0o600)


@pytest.mark.asan_ok
def test_check_reads_every_key(tmp_path):
    good, empty, open_, gone = (tmp_path / n for n in ("good", "empty", "open", "gone"))
    for path, text, mode in ((good, "k\n", 0o600), (empty, "\n", 0o600), (open_, "k\n", 0o666)):
        path.write_text(text)
        path.chmod(mode)
    engine = {"id": "a", "url": "http://127.0.0.1:1"}
    assert check(tmp_path, {"keys": [{"file": str(good)}], "engines": [{**engine, "key_file": str(good)}]}) == (0, "")
    code, said = check(tmp_path, {
        "common": {"rpc_key_file": str(gone)}, "gateway": {"admin_key_file": str(empty)}, "keys": [{"file": str(open_)}],
        "engines": [{**engine, "key_file": str(tmp_path)}]})
    assert code == 78
    assert said.splitlines() == [
        f"{gone}: No such file or directory", f"{empty}: holds no key in its first line", f"{open_}: everybody may write it",
        f"{tmp_path}: no regular file"]
    assert check(tmp_path, {"keys": [{"file": "first"}]}) == (0, "first: a credential of the unit, not checked\n")


# ---- half-closed connections ----

@pytest.mark.asan_ok
def test_a_client_that_closes_its_half_counts_as_gone():
    """As with nginx: a program that is gone looks the same until something is written to it."""
    with re_.RawEngine("raw") as engine, Fleet(engines=[engine], workers=1, with_mailbox=False) as f:
        engine.script(re_.hang)
        with RawClient(f.port) as c:
            c.request("POST", PATH, chat("raw"))
            engine.wait_request()
            c.sock.shutdown(socket.SHUT_WR)
            wait_until("it counts as gone", 5,
                       lambda: f.metrics().sum("slipstream_gateway_requests_total", status="499") == 1)
        assert f.chat("the next one").status == 200
        assert rawhttp.get(f.admin_port, "/ready").status == 200
