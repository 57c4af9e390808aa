# SPDX-License-Identifier: Apache-2.0
"""The examples of docs/mailbox.md, run as they stand: each answers in the shape that the page shows."""
import json
import os
import re
import shutil
import subprocess

import pytest

from support.fleet import ROOT, Fleet
from support.wait import secs

PAGE = ROOT / "docs" / "mailbox.md"
MARK = "=-=-=-=-="
ID = re.compile(r"[0-9a-z]{26}")


def blocks():
    """(language, text) of every fenced block that has a language."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)


def same_shape(shown, got, at="answer"):
    if isinstance(shown, dict):
        assert isinstance(got, dict) and shown.keys() == got.keys(), f"{at}: {shown} is shown, {got} came"
        for k in shown:
            same_shape(shown[k], got[k], f"{at}.{k}")
    elif isinstance(shown, list):
        assert isinstance(got, list) and bool(shown) == bool(got), f"{at}: {shown} is shown, {got} came"
        for s, g in zip(shown, got):
            same_shape(s, g, f"{at}[]")
    elif shown is None or isinstance(shown, bool) or at.endswith((".payload", ".attempt", ".code", ".status")):
        assert shown == got, f"{at}: {shown} is shown, {got} came"
    elif isinstance(shown, str):
        assert isinstance(got, str) and bool(shown) == bool(got), f"{at}: {shown!r} is shown, {got!r} came"
    else:
        assert isinstance(got, (int, float)) and not isinstance(got, bool), f"{at}: {shown} is shown, {got} came"


def same_lines(shown, got):
    """Every line that is shown is the beginning of one that came, in this order; ids differ."""
    lines = iter(got.splitlines())
    for want in shown.splitlines():
        pattern = re.compile("[0-9a-z]{26}".join(re.escape(part) for part in ID.split(want)))
        assert any(pattern.match(line) for line in lines), f"{want!r} is shown, this came:\n{got}"


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_page_tells_what_happens(sim):
    page = blocks()
    script = "set -eu\n" + "".join(f"{text}\nprintf '%s' {MARK}\n" for language, text in page if language == "sh")
    script = script.replace("http://127.0.0.1:8080", f"http://127.0.0.1:{sim.port}").replace("trip-17", f"docs-{os.getpid()}")
    r = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=secs(60))
    assert r.returncode == 0, r.stdout[-3000:] + r.stderr[-2000:]
    outputs = iter(r.stdout.split(MARK))
    got, compared = "", 0
    for language, text in page:
        if language == "sh":
            got = next(outputs)
        elif language == "json":
            same_shape(json.loads(text), json.loads(got))
            compared += 1
        elif language == "text":
            same_lines(text, got)
            compared += 1
    assert compared > 10


def test_every_setting_of_the_mailbox_that_bounds_something_is_on_the_page():
    page = PAGE.read_text()
    rows = re.findall(r"^CONF\((?:u32|u64|ms|overflow|store|flag),\s*(\w+),\s*\"?([^\",]+)", (ROOT / "common" / "conf_mailbox.def").read_text(),
                      re.M)
    assert len(rows) > 20
    own = {"workflow_ttl_ms", "drain_timeout_ms", "metrics_boxes", "overflow"}  # of operations, or no number
    for name, value in rows:
        if name in own:
            continue
        assert f"`{name}`" in page, name
        line = next(x for x in page.splitlines() if x.startswith("|") and f"`{name}`" in x and x.count("|") == 4)
        assert value.strip() in line, f"{name}: {value} is the default, the page says {line}"


def test_every_code_of_the_page_exists():
    codes = re.findall(r'^ERR\(\w+,\s*"(\w+)"', (ROOT / "common" / "err.def").read_text(), re.M)
    table = PAGE.read_text().split("## Troubleshooting")[1]
    named = re.findall(r"`(\w+)`", "".join(row.split("|")[1] for row in table.splitlines() if row.startswith("| `")))
    assert len(named) > 10
    assert set(named) <= set(codes), set(named) - set(codes)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_queue_of_work_of_the_page_loses_nothing_with_a_worker():
    """The recipe of the queue of work: a lease of a dead worker ends, and another one does it."""
    with Fleet(engines=0, workers=1, mailbox={"store": "memory"}) as f:
        base = "/v1/workflows/w/agents/workers/messages"
        for i in range(20):
            assert f.post("/v1/workflows/w/messages", {"source_agent": "s", "target_agent": "workers", "message_type": "t", "payload": i}).status == 202
        dead = f.get(f"{base}?lease=0.3&max=5").json()["messages"]
        assert [m["payload"] for m in dead] == [0, 1, 2, 3, 4]
        done = []
        while len(done) < 20:
            for m in f.get(f"{base}?lease=60&max=4&wait=10").json()["messages"]:
                assert f.post(f"{base}/{m['message_id']}:ack", {"receipt": m["receipt"]}).status == 200
                done.append((m["payload"], m["attempt"]))
        assert sorted(done) == [(i, 2 if i < 5 else 1) for i in range(20)]
        m = dead[0]
        assert f.post(f"{base}/{m['message_id']}:ack", {"receipt": m["receipt"]}).status == 409
