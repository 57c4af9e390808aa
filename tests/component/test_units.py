# SPDX-License-Identifier: Apache-2.0
"""The systemd units: systemd itself finds no mistake in them, and they are locked down as promised."""
import os
import re
import shutil
import subprocess

import pytest

from support.fleet import BUILD, ROOT
from support.wait import secs

UNITS = ROOT / "deploy" / "systemd"
SERVICES = {"slipstream-gateway@1.service": 1.5, "slipstream-scheduler.service": 1.5, "slipstream-mailbox.service": 0.5}

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (package systemd)")


def run(*args, **kw):
    return subprocess.run([str(a) for a in args], capture_output=True, text=True, timeout=secs(60), **kw)


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """What cmake --install puts in place for the prefix /usr, with programs that are really there."""
    stage = tmp_path_factory.mktemp("stage")
    r = run("cmake", "--install", BUILD, "--prefix", "/usr", env={**os.environ, "DESTDIR": str(stage)})
    assert r.returncode == 0, r.stderr
    return stage


@pytest.fixture(scope="module")
def units(stage, tmp_path_factory):
    folder = tmp_path_factory.mktemp("units")
    for path in [*(stage / "usr/lib/systemd/system").iterdir(), *(UNITS / "per-worker").iterdir()]:
        if path.is_file():
            text = path.read_text().replace("ExecStart=/usr/bin/", f"ExecStart={stage}/usr/bin/")
            (folder / path.name).write_text(text)
    return folder


def test_installation_is_complete(stage):
    for path in ("usr/bin/slipstream-gateway", "usr/bin/slipstream-scheduler", "usr/bin/slipstream-mailbox", "usr/bin/slipctl",
                 "usr/lib/systemd/system/slipstream.target", "usr/lib/systemd/system/slipstream-gateway.socket",
                 "usr/lib/sysusers.d/slipstream.conf", "usr/lib/tmpfiles.d/slipstream.conf",
                 "etc/slipstream/slipstream.yaml.example", "usr/share/man/man8/slipstream-gateway.8",
                 "usr/share/man/man8/slipstream-scheduler.8", "usr/share/man/man8/slipstream-mailbox.8",
                 "usr/share/man/man1/slipctl.1", "usr/share/man/man5/slipstream.yaml.5"):
        assert (stage / path).is_file(), path
    for name in SERVICES:
        text = (stage / "usr/lib/systemd/system" / name.replace("@1", "@")).read_text()
        assert "@SLIP_" not in text
        program = re.search(r"^ExecStart=(\S+)", text, re.M).group(1)
        assert os.access(stage / program.lstrip("/"), os.X_OK), program


def test_installed_example_is_a_valid_configuration(stage):
    r = run(stage / "usr/bin/slipstream-gateway", "--config", stage / "etc/slipstream/slipstream.yaml.example", "--check")
    assert (r.returncode, r.stdout) == (0, "configuration ok\n"), r.stderr


def test_a_worker_that_starts_leaves_the_shared_socket_nonblocking():
    """systemd otherwise clears the flag at each start, for all who share the socket, and they hang in accept()."""
    assert "\nNonBlocking=yes\n" in (UNITS / "slipstream-gateway@.service.in").read_text()


def test_a_restarted_mailbox_finds_its_messages():
    """systemd otherwise removes a RuntimeDirectory whenever its service ends."""
    text = (UNITS / "slipstream-mailbox.service.in").read_text()
    assert "\nRuntimeDirectory=slipstream/mailbox\n" in text and "\nRuntimeDirectoryPreserve=yes\n" in text


@needs_systemd
@pytest.mark.parametrize("name", [*SERVICES, "slipstream-gateway.socket", "slipstream.target", "slipstream-gateway@1.socket"])
def test_verify(units, name):
    env = {**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:"}
    r = run("systemd-analyze", "verify", "--man=no", name, env=env)
    ours = [line for line in r.stderr.splitlines() if "slipstream" in line]
    assert (r.returncode, ours) == (0, []), r.stderr


@needs_systemd
@pytest.mark.parametrize("name, limit", SERVICES.items())
def test_exposure(units, name, limit):
    path = units / name.replace("@1", "@")
    r = run("systemd-analyze", "security", "--offline=yes", f"--threshold={int(limit * 10)}", path)
    assert r.returncode == 0, r.stdout[-3000:] + r.stderr


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None or os.geteuid() != 0, reason="needs systemd-sysusers, and root")
def test_users_and_folders(tmp_path):
    (tmp_path / "etc").mkdir()
    for name in ("passwd", "group"):
        (tmp_path / "etc" / name).write_text("root:x:0:0::/root:/bin/sh\n" if name == "passwd" else "root:x:0:\n")
    r = run("systemd-sysusers", f"--root={tmp_path}", UNITS / "sysusers.d/slipstream.conf")
    assert r.returncode == 0, r.stderr
    group = re.search(r"^slipstream:x:(\d+):", (tmp_path / "etc/group").read_text(), re.M).group(1)
    users = dict(re.findall(r"^(slipstream-\w+):x:\d+:(\d+):", (tmp_path / "etc/passwd").read_text(), re.M))
    assert users == {"slipstream-gw": group, "slipstream-sched": group, "slipstream-mbox": group}
    conf = tmp_path / "usr/lib/tmpfiles.d"
    conf.mkdir(parents=True)
    shutil.copy(UNITS / "tmpfiles.d/slipstream.conf", conf)
    r = run("systemd-tmpfiles", f"--root={tmp_path}", "--create", "slipstream.conf")
    assert r.returncode == 0, r.stderr
    modes = {p: oct((tmp_path / "run/slipstream" / p).stat().st_mode & 0o7777) for p in ("", "sock", "metrics")}
    assert modes == {"": "0o750", "sock": "0o1770", "metrics": "0o1770"}


@pytest.mark.skipif(shutil.which("man") is None, reason="needs man (package man-db)")
@pytest.mark.parametrize("page", sorted((ROOT / "docs/man").glob("*.[158]")), ids=lambda p: p.name)
def test_manual_page_is_well_formed(page):
    r = run("man", "--warnings", "-l", page, env={**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "80", "MANROFFSEQ": ""})
    assert (r.returncode, r.stderr) == (0, "")
    assert "NAME" in r.stdout and "SEE ALSO" in r.stdout
