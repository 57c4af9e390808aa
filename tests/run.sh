#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# All tests, from nothing: packages, builds with gcc and with clang's sanitizers, unit tests, fuzz
# corpora, source rules, real processes under pytest with real client libraries. Exit code 0 only if
# everything passed. Logs: build/tests/.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'HELP'
usage: tests/run.sh [--long] [--only STEP[,STEP...]] [--no-packages]
  --long          also the slow tests, and the real traces of $SLIPSTREAM_TRACES
  --only STEPS    of: build unit unit-asan unit-tsan valgrind clients system system-asan demo
  --no-packages   take packages as they are
HELP
}

long= only= packages=yes
while [ $# -gt 0 ]; do
    case $1 in
    --long) long=yes ;;
    --only) only=,${2:?--only STEPS}, && shift ;;
    --no-packages) packages= ;;
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
[ -n "$long" ] || unset SLIPSTREAM_TRACES
[ -z "${SLIPSTREAM_TRACES:-}" ] || SLIPSTREAM_TRACES=$(realpath "$SLIPSTREAM_TRACES")

logs=$PWD/build/tests
mkdir -p "$logs"
failed=()
jobs=$(nproc)

# step NAME COMMAND...: runs it with its output in a log; on failure shows the end of that. A step
# that fails does not stop the others.
step() {
    local name=$1 start=$SECONDS rc=0
    shift
    case $only in '' | *,$name,*) ;; *) return 0 ;; esac
    printf '== %s\n' "$name"
    # In a subshell of its own, where an error inside ends it (set -e is off in front of a ||).
    set +e
    (
        set -e
        "$@"
    ) >"$logs/$name.log" 2>&1
    rc=$?
    set -e
    closing_lines "$name" | sed 's/^/   /'
    if [ "$rc" -ne 0 ]; then
        failed+=("$name")
        printf '   FAILED (exit %d) after %d s; %s ends:\n' "$rc" $((SECONDS - start)) "$logs/$name.log"
        tail -n 60 "$logs/$name.log" | sed 's/^/   | /'
    else
        printf '   ok, %d s\n' $((SECONDS - start))
    fi
}

# What each runner says at its end, in its own words.
closing_lines() {
    grep -E '^[0-9]+% tests passed|^Total Test time|^[0-9]+ (passed|failed|skipped)|^=+ .*(passed|failed|error).* =+$|^(ERROR SUMMARY|.*ERROR SUMMARY: [1-9])|^added [0-9]+ packages' \
        "$logs/$1.log" || true
}

build() {
    cmake --preset release && cmake --build build/release -j "$jobs" &&
        cmake --preset asan && cmake --build build/asan -j "$jobs"
}

unit() {
    ctest --test-dir "build/$1" --output-on-failure -j "$jobs" ${long:+-C long}
}

# The units where threads meet.
unit_tsan() {
    local targets=() name
    cmake --preset tsan
    for name in inbox ring snapshot; do
        [ -f "tests/unit/common/test_$name.c" ] && targets+=("test_common_$name")
    done
    cmake --build build/tsan -j "$jobs" --target "${targets[@]}"
    ctest --test-dir build/tsan --output-on-failure -R '^unit/common/(inbox|ring|snapshot)$'
}

# A handful of unit tests again, under the tool that needs no instrumentation. Faults and threads are
# the sanitizers' business.
unit_valgrind() {
    local dir rc=0 count=0 test
    for test in bench_answer bench_flow gateway_sse gateway_inspect gateway_splice common_conf common_buf \
        scheduler_core mailbox_core engine_core; do
        [ -x "build/release/bin/test_$test" ] || continue
        echo "-- $test"
        valgrind -q --leak-check=full --errors-for-leak-kinds=definite,possible --error-exitcode=9 \
            --suppressions=/dev/null "build/release/bin/test_$test" || rc=1
        count=$((count + 1))
    done
    [ "$rc" -eq 0 ] && echo "$count passed under valgrind"
    return "$rc"
}

# The client libraries that system tests use, from their registries, at pinned versions.
clients() {
    [ -x .venv/bin/python ] || python3 -m venv .venv
    if ! cmp -s tests/requirements.txt .venv/installed.txt; then
        .venv/bin/python -m pip install -q --disable-pip-version-check -r tests/requirements.txt
        cp tests/requirements.txt .venv/installed.txt
    fi
    local dir have
    for dir in tests/system/node tests/system/node/mcp; do
        have=$dir/node_modules/.installed
        if ! cmp -s "$dir/package.json" "$have"; then
            (cd "$dir" && npm ci --no-audit --no-fund)
            cp "$dir/package.json" "$have"
        fi
    done
}

# system BUILD: the real processes of that build.
system() {
    SLIP_BUILD=build/$1 .venv/bin/python -m pytest tests/component tests/system ${long:+--long}
}

# The first command of the README, on the bundled workload: workflow routing must have won, by what
# does not depend on how busy this machine is.
demo() {
    local out=$logs/demo.json
    PORT=18080 ADMIN_PORT=19080 ENGINE_PORT=19101 deploy/run.sh --once --quick --build build/release --json "$out"
    .venv/bin/python - "$out" <<'PY'
import json, sys
rr, wf = json.load(open(sys.argv[1]))["policies"]
assert (rr["policy"], wf["policy"]) == ("roundrobin", "workflow")
assert rr["errors"] == wf["errors"] == 0, (rr["errors"], wf["errors"])
assert wf["hit"] > rr["hit"] + 10, (rr["hit"], wf["hit"])
assert wf["recomputed_tokens"] < rr["recomputed_tokens"] / 5, (rr["recomputed_tokens"], wf["recomputed_tokens"])
assert 0 < wf["kv_held"] < rr["kv_held"], (rr["kv_held"], wf["kv_held"])
print("1 passed: workflow routing beats round-robin on the bundled workload")
PY
}

if [ -n "$packages" ]; then
    step packages deploy/packages.sh --test
fi
step build build
case " ${failed[*]} " in *" build "* | *" packages "*)
    echo "tests/run.sh: nothing to test without a build" >&2
    exit 1
    ;;
esac
step unit unit release
step unit-asan unit asan
step unit-tsan unit_tsan
step valgrind unit_valgrind
step clients clients
step system system release
step system-asan system asan
step demo demo

if [ ${#failed[@]} -gt 0 ]; then
    printf 'tests/run.sh: FAILED: %s (%d s)\n' "${failed[*]}" "$SECONDS"
    exit 1
fi
printf 'tests/run.sh: all passed (%d s)\n' "$SECONDS"
