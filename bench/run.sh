#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# bench/run.sh NAME [--json FILE] [--rounds N] [--seconds S] [--only PART]
# NAME: proxy, stream, bigbody, route, scale, mailbox, sim, live or all. See bench/README.md.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${BENCH_BUILD:-}" ]; then
    {
        [ -f build/release/build.ninja ] || cmake --preset release
        cmake --build build/release --target slipstream-gateway slipstream-scheduler slipstream-mailbox \
            bench_upstream bench_streams bench_openloop slipstream-engine slipstream-replay slipstream-sim bench_decision \
            bench_mailbox
    } >&2
fi
ulimit -n "$(ulimit -Hn)"
export PYTHONDONTWRITEBYTECODE=1
exec python3 bench/scenarios/main.py "$@"
