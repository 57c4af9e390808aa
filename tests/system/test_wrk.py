# SPDX-License-Identifier: Apache-2.0
"""wrk: many keep-alive connections at full speed, not one wrong answer."""
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.wait import secs

pytestmark = [pytest.mark.skipif(shutil.which("wrk") is None, reason="needs wrk"), pytest.mark.channel]
SCRIPT = Path(__file__).with_name("wrk_chat.lua")


def wrk(fleet, model, *args):
    r = subprocess.run(["wrk", *args, "-s", str(SCRIPT), f"http://127.0.0.1:{fleet.port}/v1/chat/completions"],
                       capture_output=True, text=True, timeout=secs(60), env={**os.environ, "WRK_MODEL": model})
    assert r.returncode == 0, r.stderr
    return r.stdout


@pytest.mark.asan_ok
def test_full_speed_over_each_carrier(hop):
    out = wrk(hop, "sim", "-t1", "-c32", "-d2s", "--timeout", "10s")
    assert "Non-2xx" not in out and "Socket errors" not in out, out
    assert int(re.search(r"(\d+) requests in", out).group(1)) > 50, out
    hop.wait_no_lease(10)
    total = sum(hop.status(f"wrk-{i}").json()["total_requests"] for i in range(16))
    answered = int(re.search(r"(\d+) requests in", out).group(1))
    assert answered <= total <= answered + 64, "requests lost from the books"
