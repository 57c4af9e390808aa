#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Slipstream on this machine, from nothing: installs packages, builds, starts a scheduler, a mailbox,
# two gateway workers and four simulated engines, replays a workload of agents once with round-robin
# and once with workflow routing, prints both side by side, and leaves the system running.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'HELP'
usage: deploy/run.sh [options]
  --trace FILE     after the bundled workload, also a slice of this trace
  --json FILE      write the last comparison as JSON
  --once           stop the system at the end
  --quick          a smaller bundled workload
  --sessions N     slice of the trace: sessions (20)
  --max-steps N    slice of the trace: first calls of each (20)
  --users N        sessions at a time (20)
  --seed N         which sessions (1)
  --build DIR      use these programs, build nothing (build/release)
  --no-bundled     only the trace
  --stop           stop every system that this script left running
HELP
}

trace= json= once= quick= sessions=20 steps=20 users=20 seed=1 build= bundled=yes stop=
while [ $# -gt 0 ]; do
    case $1 in
    --trace) trace=${2:?--trace FILE} && shift ;;
    --json) json=${2:?--json FILE} && shift ;;
    --sessions) sessions=${2:?--sessions N} && shift ;;
    --max-steps) steps=${2:?--max-steps N} && shift ;;
    --users) users=${2:?--users N} && shift ;;
    --seed) seed=${2:?--seed N} && shift ;;
    --build) build=${2:?--build DIR} && shift ;;
    --once) once=yes ;;
    --quick) quick=yes ;;
    --no-bundled) bundled= ;;
    --stop) stop=yes ;;
    -h | --help)
        usage
        exit 0
        ;;
    *)
        usage >&2
        exit 64
        ;;
    esac
    shift
done
[ -z "$trace" ] || [ -r "$trace" ] || {
    echo "deploy/run.sh: cannot read $trace" >&2
    exit 64
}
[ -n "$bundled$trace" ] || bundled=yes

. deploy/lib.sh

if [ -n "$stop" ]; then
    found=
    for dir in "$SYS_PREFIX"-*; do
        [ -O "$dir" ] || continue
        processes_stop "$dir"
        rm -rf "$dir"
        found=yes
    done
    [ -n "$found" ] && say "Stopped." || say "Nothing was running."
    exit 0
fi

if [ -z "$build" ]; then
    build=build/release
    say "== packages"
    deploy/packages.sh
    say "== build"
    log=$(mktemp)
    if ! { cmake --preset release && cmake --build "$build"; } >"$log" 2>&1; then
        tail -n 40 "$log" >&2
        die "deploy/run.sh: the build failed; whole log: $log"
    fi
    rm -f "$log"
fi
BIN=$PWD/$build/bin
[ "${build#/}" = "$build" ] || BIN=$build/bin

finished=
on_exit() {
    local rc=$?
    trap - EXIT INT TERM
    if [ -z "$finished" ]; then
        [ "$rc" -eq 130 ] || system_show_dead
        [ "$rc" -eq 0 ] || say "deploy/run.sh: gave up (exit $rc); stopping what was started" >&2
        system_remove
    fi
    exit "$rc"
}
trap on_exit EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# replay POLICY REPORTS ARGS...: one workload under one policy, from empty caches.
replay() {
    local reports=$2
    POLICY=$1
    shift 2
    system_start
    "$BIN/slipstream-replay" --url "http://127.0.0.1:$PORT" --engines "$ENGINE_URLS" --policy "$POLICY" \
        --time-scale "$TIME_SCALE" --final --progress --json "$reports" "$@" >/dev/null
}

# compare TITLE ARGS...: the same under both policies; the system of the second stays up.
compare() {
    local title=$1 reports=$SYS_DIR/reports
    shift
    rm -f "$reports"
    say
    say "== $title"
    replay roundrobin "$reports" "$@"
    system_stop
    replay workflow "$reports" "$@"
    say
    "$BIN/slipstream-replay" --compare "$reports" ${json:+--json "$json"}
}

bundled_sessions=32
[ -z "$quick" ] || bundled_sessions=10
system_new
if [ -n "$bundled" ]; then
    compare "bundled workload: supervisors with sub-agents, $ENGINES engines ($PROFILE), model time x$TIME_SCALE" \
        --trace synthetic --sessions "$bundled_sessions" --users 12 --seed "$seed"
    [ -z "$trace" ] || system_stop
fi
if [ -n "$trace" ]; then
    compare "$(basename "$trace"): $sessions sessions, first $steps calls, $users at a time" \
        --trace "$trace" --sessions "$sessions" --max-steps "$steps" --users "$users" --gap-cap 60 --seed "$seed"
fi

finished=yes
if [ -n "$once" ]; then
    system_remove
    exit 0
fi
cat <<TRY

The system is up. Try:

  curl -N http://127.0.0.1:$PORT/v1/chat/completions -H 'Content-Type: application/json' \\
    -H 'X-Workflow-ID: my-first' -H 'X-Agent-ID: planner' -d '{"model":"sim","stream":true,"max_tokens":32,
    "messages":[{"role":"user","content":"Plan a trip to the moon."}]}'

  curl http://127.0.0.1:$PORT/v1/workflows/my-first/status
  curl http://127.0.0.1:$ADMIN_PORT/metrics

Configuration and logs: $SYS_DIR
Stop it: deploy/run.sh --stop
TRY
