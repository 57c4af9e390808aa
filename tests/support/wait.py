# SPDX-License-Identifier: Apache-2.0
"""Waiting for events. Nothing in the tests waits for time alone."""
import os
import time

# One factor for every deadline: sanitizer builds and loaded machines are slower.
FACTOR = float(os.environ.get("SLIP_TEST_FACTOR", "1"))


def set_factor(factor):
    global FACTOR
    FACTOR = factor


def secs(seconds):
    return seconds * FACTOR


def wait_until(what, seconds, predicate, interval=0.01):
    """Polls predicate until it returns something true, and returns that. what names the event."""
    deadline = time.monotonic() + secs(seconds)
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"did not happen within {secs(seconds):g} s: {what}")
        time.sleep(interval)
