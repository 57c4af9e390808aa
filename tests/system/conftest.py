# SPDX-License-Identifier: Apache-2.0
"""
Fleets that the system tests share. The ones that tests may not hurt live for the whole run; each
test that kills something starts its own.
"""
import pytest
from support.fleet import BUILD, SANITIZED, Fleet, binary
from support.raw_engine import RawEngine


PROGRAMS = ("slipstream-gateway", "slipstream-scheduler", "slipstream-mailbox", "slipstream-engine", "slipctl")


@pytest.fixture(scope="session", autouse=True)
def programs():
    missing = [p for p in PROGRAMS if not binary(p).exists()]
    if missing:
        pytest.exit(f"{BUILD}/bin lacks {', '.join(missing)}: build first (cmake --build {BUILD})", 2)


def many_labels():
    """So many tests share these fleets that the usual number of labelled workflows would not do."""
    return {"scheduler": {"metrics_workflows": 1000}, "gateway": {"metrics_workflows": 1000}}


@pytest.fixture(scope="session")
def sim():
    """Two simulated engines, two workers. Leave everything running."""
    with Fleet(engines=2, workers=2, **many_labels()) as f:
        yield f


@pytest.fixture(scope="session", params=["nng", "shm"])
def hop(request):
    """Three simulated engines and two workers, once over each carrier. Leave everything running."""
    with Fleet(engines=3, workers=2, channel=request.param, **many_labels()) as f:
        yield f


class RawFleet:
    """A fleet whose engines are scripted by the test."""

    def __init__(self, fleet):
        self.fleet = fleet
        self.engines = fleet.engines
        self.engine = fleet.engines[0]
        self.worker = fleet.workers[0]

    def reset(self):
        for e in self.engines:
            e.reset()
        self.fleet.wait_engines()

    def script(self, *steps):
        """The same steps for every engine."""
        for e in self.engines:
            e.script(*steps)

    def default(self, step):
        for e in self.engines:
            e.default = step

    def count(self):
        return sum(e.count() for e in self.engines)

    def requests(self):
        return [r for e in self.engines for r in e.requests]

    def __getattr__(self, name):
        return getattr(self.fleet, name)


def _raw_fleet(engines, **kw):
    try:
        with Fleet(engines=engines, **kw) as f:
            yield RawFleet(f)
    finally:
        for e in engines:
            e.close()


@pytest.fixture(scope="session")
def raw_session():
    yield from _raw_fleet([RawEngine("raw")])


@pytest.fixture(scope="session")
def pair_session():
    engines = [RawEngine("a"), RawEngine("b")]
    impatient = {"connect_timeout_ms": 300, "first_byte_timeout_ms": 1000, "stall_timeout_ms": 800,
                 "write_timeout_ms": 3000, "head_timeout_ms": 500, "body_timeout_ms": 1500}
    if SANITIZED:
        impatient = {k: v * 3 for k, v in impatient.items()}
    yield from _raw_fleet(engines, gateway={**impatient, "retry_budget": 10}, scheduler={"default_policy": "roundrobin"})


@pytest.fixture
def raw(raw_session):
    """One scripted engine behind one worker with the usual time limits."""
    raw_session.reset()
    return raw_session


@pytest.fixture
def pair(pair_session):
    """Two scripted engines behind one worker with short time limits."""
    pair_session.reset()
    return pair_session
