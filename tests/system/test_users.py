# SPDX-License-Identifier: Apache-2.0
"""Each process under a user of its own, as the units run them: what they share is open to their group, the rest is shut."""
import os
import shutil
import subprocess

import pytest

from support.fleet import BUILD, Fleet, _env, binary
from support.wait import secs, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")

GROUP = 59700
USERS = {"gateway": 59701, "scheduler": 59702, "mailbox": 59703}
STRANGER, STRANGERS = 59709, 59719


def as_user(uid, gid, argv):
    return ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs", "--inh-caps=-all",
            "--bounding-set=-all", *argv]


def folders_make(run_dir):
    """What tmpfiles.d/slipstream.conf makes, and the mailbox's unit."""
    os.chown(run_dir, USERS["scheduler"], GROUP)
    os.chmod(run_dir, 0o750)
    for name in ("sock", "metrics"):
        (run_dir / name).mkdir()
        os.chown(run_dir / name, 0, GROUP)
        os.chmod(run_dir / name, 0o1770)
    (run_dir / "mailbox").mkdir()
    os.chown(run_dir / "mailbox", USERS["mailbox"], GROUP)
    os.chmod(run_dir / "mailbox", 0o700)


@pytest.fixture(params=["nng", "shm"])
def fleet(request):
    f = Fleet(engines=1, workers=2, channel=request.param)
    os.chmod(f.dir, 0o755)
    folders_make(f.run_dir)
    programs = f.dir / "bin"  # the build may lie where other users cannot go
    programs.mkdir()
    for kind in USERS:
        shutil.copy2(binary(f"slipstream-{kind}"), programs)
    for kind, processes in (("gateway", f.workers), ("scheduler", [f.scheduler]), ("mailbox", [f.mailbox])):
        for p in processes:
            p.argv = as_user(USERS[kind], GROUP, [str(programs / f"slipstream-{kind}"), *p.argv[1:]])
    with f:
        yield f


def chat_counted(fleet, total):
    """One request, and its report has reached the scheduler."""
    a = fleet.chat(headers=[("X-Workflow-ID", "users")])
    assert a.status == 200, a

    def counts():
        s = fleet.status("users").json()
        return s["total_requests"], s["inflight"]

    wait_until(f"{total} requests have ended", 5, lambda: counts() == (total, 0))


def owners(run_dir):
    return {str(p.relative_to(run_dir)): (p.stat().st_uid, p.stat().st_gid, oct(p.stat().st_mode & 0o7777))
            for p in run_dir.rglob("*") if not p.is_dir()}


def test_requests_messages_and_metrics_pass(fleet):
    chat_counted(fleet, 1)
    a = fleet.post("/v1/workflows/users/messages",
                   {"source_agent": "a", "target_agent": "b", "message_type": "t", "payload": {"n": 1}})
    assert a.status == 202, a
    a = fleet.get("/v1/workflows/users/agents/b/messages")
    assert [m["payload"] for m in a.json()["messages"]] == [{"n": 1}]
    # One worker reads what every process writes.
    wait_until("the scheduler's own metrics are seen", 5,
               lambda: fleet.metrics().sum("vllm_workflow_requests_total", workflow_id="users") == 1)
    assert fleet.metrics().sum("slipstream_mailbox_messages_total") >= 1


def test_files_are_their_owners_and_the_groups(fleet):
    chat_counted(fleet, 1)
    files = owners(fleet.run_dir)
    gw, sched, mbox = (USERS[k] for k in ("gateway", "scheduler", "mailbox"))
    assert files["fleet"] == (sched, GROUP, "0o640")
    assert files["sock/scheduler"] == (sched, GROUP, "0o660")
    assert files["sock/mailbox"] == (mbox, GROUP, "0o660")
    if fleet.channel == "shm":
        assert files["sock/scheduler.ring"] == (sched, GROUP, "0o660")
        assert files["sock/mailbox.ring"] == (mbox, GROUP, "0o660")
    assert files["metrics/gateway-1"] == files["metrics/gateway-2"] == (gw, GROUP, "0o640")
    assert files["metrics/mailbox"] == (mbox, GROUP, "0o640")
    assert files["metrics/scheduler"] == (sched, GROUP, "0o640")
    loose = {name: f for name, f in files.items() if int(f[2], 8) & 0o007}
    assert loose == {}


def test_each_process_starts_again_over_what_it_left(fleet):
    chat_counted(fleet, 1)
    for p in (fleet.scheduler, fleet.mailbox, *fleet.workers):
        p.kill9()
        p.restart()
        fleet.wait_engines()
    chat_counted(fleet, 2)


def test_a_worker_cannot_take_the_others_files(fleet):
    def refused(*argv):
        r = subprocess.run(as_user(USERS["gateway"], GROUP, argv), capture_output=True, text=True, timeout=secs(10))
        assert r.returncode != 0, argv
        assert "denied" in r.stderr or "not permitted" in r.stderr, r.stderr

    d = fleet.run_dir
    refused("rm", "-f", str(d / "fleet"))
    refused("mv", "-fT", "/dev/null", str(d / "fleet"))
    refused("rm", "-f", str(d / "sock/scheduler"))
    refused("rm", "-f", str(d / "sock/mailbox"))
    refused("rm", "-f", str(d / "metrics/scheduler"))
    refused("dd", "if=/dev/zero", f"of={d / 'fleet'}", "count=1", "conv=notrunc", "status=none")


def test_only_the_group_may_talk_to_the_scheduler(fleet):
    tool = fleet.dir / "bin" / "slipctl"
    shutil.copy2(BUILD / "bin" / "slipctl", tool)

    def ask(gid):
        return subprocess.run(as_user(STRANGER, gid, [str(tool), "--config", str(fleet.config), "--timeout", "2", "status"]),
                              capture_output=True, text=True, timeout=secs(20), env=_env())

    assert ask(GROUP).returncode == 0
    assert ask(STRANGERS).returncode == 2
