# SPDX-License-Identifier: Apache-2.0
"""
What component and system tests share. The build under test is $SLIP_BUILD, or build/release; on a
sanitizer build only the tests marked asan_ok run, with longer deadlines.
"""
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
    os.environ.pop(name, None)
for name in list(os.environ):  # the SDKs read their settings from here
    if name.startswith(("OPENAI_", "ANTHROPIC_", "LANGCHAIN_", "LANGSMITH_", "OTEL_")):
        del os.environ[name]
os.environ["LANGSMITH_TRACING"] = "false"
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"

from support.fleet import SANITIZED, Fleet  # noqa: E402


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="also the slow tests")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--long"):
        skip = pytest.mark.skip(reason="slow; runs with --long")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)
    if SANITIZED:
        keep = [i for i in items if "asan_ok" in i.keywords]
        drop = [i for i in items if "asan_ok" not in i.keywords]
        if drop:
            config.hook.pytest_deselected(items=drop)
            items[:] = keep


def fleets_of(item):
    found = {}
    for name, value in getattr(item, "funcargs", {}).items():
        for v in value if isinstance(value, tuple) else (value,):
            fleet = v if isinstance(v, Fleet) else v.__dict__.get("fleet") if hasattr(v, "__dict__") else None
            if isinstance(fleet, Fleet):
                found[id(fleet)] = (name, fleet)
    return found.values()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    for _, fleet in fleets_of(item):
        fleet.mark_logs()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed:
        for name, fleet in fleets_of(item):
            if fleet.dir.exists() and (text := fleet.logs()):
                report.sections.append((f"logs of {name}", text))


@pytest.fixture(params=["nng", "shm"])
def channel(request):
    """Both carriers of the scheduler hop."""
    return request.param
