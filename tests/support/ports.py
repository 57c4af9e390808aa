# SPDX-License-Identifier: Apache-2.0
"""Free TCP ports below the ephemeral range, so that no outgoing connection can take one."""
import random
import socket

_given = set()


def free_port(count=1):
    """The first of count neighbouring ports that nobody listens on. Never given twice."""
    rng = random.SystemRandom()
    for _ in range(1000):
        first = rng.randrange(10240, 32000)
        wanted = range(first, first + count)
        if _given.isdisjoint(wanted) and all(_is_free(p) for p in wanted):
            _given.update(wanted)
            return first
    raise RuntimeError("no free port")


def _is_free(port):
    with socket.socket() as s:
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
