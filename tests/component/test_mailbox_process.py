# SPDX-License-Identifier: Apache-2.0
"""The real mailbox process and slipctl, nothing else."""
import json
import os
import signal
import subprocess

import pytest

from support.fleet import BUILD, Fleet, _env, binary, have, slipctl, slipctl_run
from support.ports import free_port
from support.wait import secs, wait_until

pytestmark = [pytest.mark.asan_ok,
              pytest.mark.skipif(not have("slipstream-mailbox", "slipctl"), reason="not built")]


def start(**kw):
    return Fleet(engines=0, workers=0, with_scheduler=False, **kw)


@pytest.fixture
def box():
    with start() as fleet:
        yield fleet


def send(fleet, workflow, agent, payload, *more):
    return slipctl(fleet, "send", workflow, agent, json.dumps(payload), "--json", *more)


def receive(fleet, workflow, agent, *more):
    return slipctl(fleet, "receive", workflow, agent, "--json", *more)["messages"]


def payloads(fleet, workflow, agent, *more):
    return [m["payload"] for m in receive(fleet, workflow, agent, *more)]


def depth(fleet, workflow, agent):
    return slipctl(fleet, "box", workflow, agent, "--json")


def pipe(fleet, text):
    return subprocess.run([binary("slipctl"), "--config", fleet.config, "send", "w", "a", "-"], input=text, text=True,
                          capture_output=True, timeout=secs(20), env=_env())


class Reader:
    """A slipctl that waits for messages."""

    def __init__(self, fleet, *args):
        self.popen = subprocess.Popen([str(binary("slipctl")), "--config", str(fleet.config), "receive", "--json", *args],
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_env())

    def result(self, seconds=20):
        out, err = self.popen.communicate(timeout=secs(seconds))
        assert self.popen.returncode == 0, err
        return json.loads(out)["messages"]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.popen.kill()
        self.popen.communicate()


def wait_parked(fleet, workflow, agent, count=1):
    wait_until(f"{count} readers are parked", 10, lambda: depth(fleet, workflow, agent)["waiting"] == count)


def test_messages_come_out_in_order_with_all_their_parts(box):
    first = send(box, "w", "a", {"n": 1}, "--from", "me", "--type", "task", "--ttl", "60",
                 "--correlation-id", "c-1", "--reply-to", "me")
    assert first["queued_for"] == ["a"]
    send(box, "w", "a", {"n": 2})
    m1, m2 = receive(box, "w", "a")
    assert (m1["payload"], m2["payload"]) == ({"n": 1}, {"n": 2})
    assert m1["message_id"] == first["message_id"] < m2["message_id"]
    assert (m1["source_agent"], m1["target_agent"], m1["message_type"]) == ("me", "a", "task")
    assert (m1["correlation_id"], m1["reply_to"], m1["attempt"]) == ("c-1", "me", 1)
    assert m1["expires_ms"] - m1["created_ms"] == 60000
    assert receive(box, "w", "a") == []
    after = depth(box, "w", "a")
    assert (after["depth"], after["sent"], after["delivered"]) == (0, 2, 2)


def test_a_waiting_reader_gets_the_message_when_it_comes(box):
    with Reader(box, "w", "a", "--wait", "60") as reader:
        wait_parked(box, "w", "a")
        send(box, "w", "a", "here")
        assert [m["payload"] for m in reader.result()] == ["here"]


def test_a_wait_that_ends_is_an_empty_answer(box):
    assert receive(box, "w", "a", "--wait", "0.2") == []
    assert depth(box, "w", "a")["waiting"] == 0


def test_waiting_readers_are_served_in_turn_and_by_type(box):
    with Reader(box, "w", "a", "--wait", "60", "--type", "result") as picky:
        wait_parked(box, "w", "a")
        with Reader(box, "w", "a", "--wait", "60") as any_type:
            wait_parked(box, "w", "a", 2)
            send(box, "w", "a", 1, "--type", "task")
            assert [m["payload"] for m in any_type.result()] == [1]
            send(box, "w", "a", 2, "--type", "result")
            assert [m["payload"] for m in picky.result()] == [2]


def test_a_reader_that_is_killed_while_it_waits_loses_nothing(box):
    with Reader(box, "w", "a", "--wait", "60"):
        wait_parked(box, "w", "a")
    wait_parked(box, "w", "a", 0)
    send(box, "w", "a", "kept")
    assert payloads(box, "w", "a") == ["kept"]


def test_a_broadcast_reaches_all_but_the_sender(box):
    for agent in ("a", "b", "me"):
        receive(box, "w", agent)
    sent = send(box, "w", "*", "all", "--from", "me")
    assert sorted(sent["queued_for"]) == ["a", "b"]
    assert [payloads(box, "w", agent) for agent in ("a", "b", "me")] == [["all"], ["all"], []]


def test_peeking_leaves_everything_there(box):
    send(box, "w", "a", 1)
    assert payloads(box, "w", "a", "--peek") == [1]
    assert payloads(box, "w", "a") == [1]


def test_a_full_mailbox_refuses_and_says_so():
    with start(mailbox={"box_messages": 2}) as fleet:
        send(fleet, "w", "a", 1)
        send(fleet, "w", "a", 2)
        r = slipctl_run(fleet, "send", "w", "a", "3")
        assert r.returncode == 1 and "mailbox_full" in r.stderr
        assert depth(fleet, "w", "a")["rejected"] == 1
        assert payloads(fleet, "w", "a") == [1, 2]
        send(fleet, "w", "a", 4)


def test_a_message_expires(box):
    send(box, "w", "a", "short", "--ttl", "0.2")
    send(box, "w", "a", "long")
    wait_until("the message expired", 5, lambda: depth(box, "w", "a")["expired"] == 1)
    assert payloads(box, "w", "a") == ["long"]


def test_a_large_payload_comes_back_byte_for_byte(box):
    text = '{"text": "' + "squeeze me, " * 80000 + '",  "n":1.50}'
    r = pipe(box, text)
    assert r.returncode == 0, r.stderr
    r = slipctl_run(box, "receive", "w", "a", "--json")
    assert text in r.stdout


def test_what_is_not_json_or_no_id_is_refused(box):
    for payload in ("{", "", "nul", '{"a":1}}', "[1,]"):
        r = slipctl_run(box, "send", "w", "a", payload)
        assert r.returncode == 1 and "invalid_json" in r.stderr, (payload, r)
    for workflow, agent in (("w\n", "a"), ("w", "a\x7f"), ("w" * 257, "a"), ("w", "")):
        r = slipctl_run(box, "send", workflow, agent, "1")
        assert r.returncode == 1 and "invalid_id" in r.stderr, (workflow, agent, r)
    r = slipctl_run(box, "receive", "w", "*")
    assert r.returncode == 1 and "invalid_id" in r.stderr
    r = pipe(box, json.dumps("x" * (1 << 20)))
    assert r.returncode == 1 and "request_too_large" in r.stderr
    assert box.mailbox.is_alive()


def test_exit_codes_tell_what_went_wrong(box):
    for args in (["nonsense"], [], ["send"], ["send", "w", "a"], ["receive", "w"], ["box", "w", "a", "more"],
                 ["receive", "w", "a", "--wait", "soon"], ["workflows", "show"], ["status", "--nonsense"]):
        assert slipctl_run(box, *args).returncode == 64, args
    r = slipctl_run(box, "status", "--timeout", "0.3")
    assert r.returncode == 2 and "scheduler_unavailable" in r.stderr
    r = slipctl_run(box, "box", "w", "a", "--timeout", "0.3", "--mailbox", f"ipc://{box.dir}/nobody")
    assert r.returncode == 2 and "mailbox_unavailable" in r.stderr
    assert slipctl_run(box, "box", "w", "a", "--mailbox", "http://x").returncode == 1
    for command in ([], ["send"], ["receive"], ["status"], ["workflows"], ["engines"], ["box"], ["check"]):
        r = slipctl_run(box, *command, "--help")
        assert r.returncode == 0 and "Usage:" in r.stdout and "--json" in r.stdout
    assert slipctl_run(box, "--version").stdout.startswith("slipctl ")


def test_check_tells_a_wrong_setting_from_a_missing_process(box):
    r = slipctl_run(box, "check", "--timeout", "0.3")
    assert r.returncode == 2 and "mailbox        ok" in r.stdout and "scheduler      FAILED" in r.stdout
    box.config.write_text("mailbox:\n  box_mesages: 1\n")
    r = slipctl_run(box, "check")
    assert r.returncode == 1 and "box_messages" in r.stderr


def test_a_waiting_reader_survives_a_crash_of_the_mailbox(box):
    with Reader(box, "w", "a", "--wait", "60") as reader:
        wait_parked(box, "w", "a")
        box.mailbox.kill9()
        box.mailbox.restart()
        wait_parked(box, "w", "a")
        send(box, "w", "a", "again")
        assert [m["payload"] for m in reader.result()] == ["again"]


def test_sigterm_sends_waiting_readers_home_and_ends(box):
    with Reader(box, "w", "a", "--wait", "1") as reader:
        wait_parked(box, "w", "a")
        box.mailbox.stop()
        box.mailbox.restart()
        assert reader.result() == []


def test_sighup_takes_new_limits_and_keeps_old_ones_when_the_file_is_wrong(box):
    def limit():
        return depth(box, "w", "a")["limit_messages"]

    box.settings["mailbox"]["box_messages"] = 7
    box.write_config()
    box.mailbox.signal(signal.SIGHUP)
    wait_until("the new limit holds", 5, lambda: limit() == 7)
    good = box.config.read_text()
    box.config.write_text(good.replace("box_messages: 7", "box_messages: seven"))
    box.mailbox.signal(signal.SIGHUP)
    wait_until("the reload is refused", 5, lambda: "reload_failed" in box.mailbox.log())
    box.config.write_text(good)
    assert limit() == 7


def test_one_mailbox_for_each_run_dir(box):
    r = subprocess.run([binary("slipstream-mailbox"), "--config", box.config], capture_output=True, text=True,
                       timeout=secs(10), env=_env())
    assert r.returncode == 75 and "another mailbox" in r.stderr
    send(box, "w", "a", "still here")


def test_a_key_decides_the_tenant_over_tcp(tmp_path):
    worker, team = tmp_path / "worker", tmp_path / "team"
    worker.write_text("w0rker-key\n")
    team.write_text("team-key\n")
    url = f"tcp://127.0.0.1:{free_port()}"
    fleet = start(common={"mailbox_url": url, "insecure": True, "rpc_key_file": str(worker)},
                  sections={"keys": [{"file": str(team), "tenant": "team"}]})
    fleet.mailbox.ready = lambda: "listening" in fleet.mailbox.log()
    bad = tmp_path / "bad"
    bad.write_text("guess\n")
    with fleet:
        send(fleet, "w", "a", "for team", "--key-file", str(team), "--tenant", "other")
        assert payloads(fleet, "w", "a", "--tenant", "other") == []  # slipctl shows the worker's key by itself
        assert payloads(fleet, "w", "a", "--tenant", "team", "--peek") == ["for team"]
        assert payloads(fleet, "w", "a", "--key-file", str(team)) == ["for team"]
        r = slipctl_run(fleet, "box", "w", "a", "--key-file", str(bad), "--timeout", "0.5")
        assert r.returncode == 2 and "not known" in r.stderr
        assert "guess" not in fleet.mailbox.log()


def test_metrics_name_the_busy_mailboxes_and_sum_the_rest():
    if not have("slipstream-gateway"):
        pytest.skip("no gateway to ask")
    with start(mailbox={"metrics_boxes": 2}) as fleet:
        gateway = fleet.worker(1, with_scheduler=False)
        gateway.start().wait_ready()
        try:
            for agent in ("a", "a", "b", "c", "d"):
                send(fleet, "w", agent, 1)
            size = "vllm_agent_message_queue_size"
            fleet.wait_metric(size, 2, agent_id="a", workflow_id="w")
            fleet.wait_metric(size, 2, agent_id="_other")
            fleet.wait_metric(size, 5)
            receive(fleet, "w", "a")
            fleet.wait_metric(size, 0, agent_id="a", workflow_id="w")
            fleet.wait_metric("slipstream_mailbox_messages_total", 2, event="delivered")
            fleet.wait_metric("slipstream_mailbox_messages_total", 5, event="sent")
            fleet.wait_metric("slipstream_mailbox_delivery_seconds_count", 2)
            fleet.mailbox.stop()
            fleet.mailbox.restart()
            fleet.wait_metric(size, 3)  # they outlive the process
            fleet.wait_metric("slipstream_mailbox_messages_total", 5, event="sent")
        finally:
            gateway.stop()


def test_follow_prints_each_message_as_it_comes(box):
    argv = [binary("slipctl"), "--config", box.config, "receive", "w", "a", "--follow", "--json"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=_env()) as p:
        try:
            for i in range(3):
                send(box, "w", "a", {"i": i})
                assert json.loads(p.stdout.readline())["payload"] == {"i": i}
        finally:
            p.kill()


def test_the_example_of_the_client_library_runs(box):
    example = BUILD / "bin" / "client_messages"
    if not example.exists():
        pytest.skip("not built here")
    r = subprocess.run([example, f"ipc://{box.run_dir}/sock/mailbox"], capture_output=True, text=True,
                       timeout=secs(20), env=_env())
    assert r.returncode == 0, r.stderr
    assert 'planner got from worker: {"done": "write the test"}' in r.stdout


def test_nothing_is_left_behind(box):
    for i in range(20):
        send(box, "w", f"agent-{i}", i)
    before = box.mailbox.fd_count()
    for i in range(20):
        assert payloads(box, "w", f"agent-{i}") == [i]
    wait_until("connections of finished clients are closed", 5, lambda: box.mailbox.fd_count() <= before)
    assert os.path.exists(box.run_dir / "metrics")
