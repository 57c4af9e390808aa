# SPDX-License-Identifier: Apache-2.0
"""The programs in examples/ that speak HTTP, run as their first lines say, against a real fleet."""
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.fleet import BUILD, ROOT
from support.wait import secs, wait_until

EXAMPLES = ROOT / "examples"
NODE_MODULES = Path(__file__).resolve().parent / "node" / "node_modules"


def run(fleet, *argv, **env):
    r = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=secs(60),
                       env={**os.environ, "BASE_URL": f"http://127.0.0.1:{fleet.port}", **env})
    assert r.returncode == 0, r.stdout[-2000:] + r.stderr[-2000:]
    return r.stdout


def check(fleet, status):
    """Both agents were served as one workflow by one engine, and the message has passed."""
    workflow = status["workflow_id"]
    wait_until(f"both requests of {workflow} have ended: {status}", 5,
               lambda: (lambda s: (s["total_requests"], s["inflight"]) == (2, 0))(fleet.status(workflow).json()))
    s = fleet.status(workflow).json()
    assert {a["agent_id"] for a in s["agents"]} == {"planner", "writer"}
    assert s["assigned_instance"] in {e.id for e in fleet.engines}
    assert s["messages"] == {"queued": 0, "delivered": 1}
    return s


def test_openai_python(sim):
    s = check(sim, json.loads(run(sim, sys.executable, EXAMPLES / "openai_python.py")))
    assert s["cache_hit_rate"] > 0


def test_langchain(sim):
    s = check(sim, json.loads(run(sim, sys.executable, EXAMPLES / "langchain_agents.py")))
    assert s["cache_hit_rate"] > 0


@pytest.mark.skipif(shutil.which("node") is None or not (NODE_MODULES / "openai").exists(),
                    reason="needs node and `npm ci` in tests/system/node")
def test_openai_node(sim, tmp_path):
    shutil.copy(EXAMPLES / "openai_node.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    s = check(sim, json.loads(run(sim, "node", tmp_path / "openai_node.mjs")))
    assert s["cache_hit_rate"] > 0


def test_native_python(sim):
    pytest.importorskip("pynng")
    pytest.importorskip("grpc_tools")
    url = f"ipc://{sim.run_dir}/sock/mailbox"
    out = run(sim, sys.executable, EXAMPLES / "native_python.py", url)
    box = json.loads(out.splitlines()[-1])
    assert (box["sent"], box["delivered"], box["leased"]) == (1, 1, 0), out
    assert "chapter-1" in out
    total, travelled = (int(n) for n in re.search(r"planner: (\d+) bytes, (\d+) of them", out).groups())
    assert total == 12012 and travelled < 200, out


def test_native_python_without_lz4(sim, tmp_path):
    pytest.importorskip("pynng")
    pytest.importorskip("grpc_tools")
    (tmp_path / "lz4.py").write_text("raise ImportError\n")
    out = run(sim, sys.executable, EXAMPLES / "native_python.py", f"ipc://{sim.run_dir}/sock/mailbox", PYTHONPATH=str(tmp_path))
    assert "planner: 12012 bytes, 12012 of them" in out, out


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl(sim):
    check(sim, json.loads(run(sim, "sh", EXAMPLES / "curl.sh", WORKFLOW=f"curl-{os.getpid()}")))


def test_every_example_is_run():
    tested = Path(__file__).read_text()
    for path in EXAMPLES.iterdir():
        if path.suffix in (".py", ".mjs", ".sh"):
            assert path.name in tested, path.name


@pytest.mark.parametrize("name", sorted(p.name for p in EXAMPLES.glob("*.yaml")))
def test_settings(name):
    r = subprocess.run([str(BUILD / "bin/slipstream-scheduler"), "--config", str(EXAMPLES / name), "--check"],
                       capture_output=True, text=True)
    assert (r.returncode, r.stdout) == (0, "configuration ok\n"), r.stderr
