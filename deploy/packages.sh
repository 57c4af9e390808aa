#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs the Debian 12 packages that Slipstream needs: to build and run, with --test also to test
# and benchmark, and with --bench also what the mailbox benchmark compares with. Does nothing when
# all are there. Needs root or sudo otherwise.
set -euo pipefail

BUILD=(
    build-essential cmake ninja-build pkg-config ca-certificates curl
    libh2o-evloop-dev libh2o-dev-common libnng-dev libprotobuf-c-dev protobuf-c-compiler
    liblz4-dev libcmocka-dev libxxhash-dev libyaml-dev libcurl4-openssl-dev libjansson-dev
    libsystemd-dev libssl-dev libsqlite3-dev zlib1g-dev
    libzmq3-dev libmsgpack-dev
)
TEST=(
    clang clang-tidy clang-format libclang-rt-14-dev llvm valgrind git file openssl procps
    python3 python3-venv python3-pip
    wrk systemd man-db
)
# Programs that may also come from elsewhere: package, then a command that it brings.
TEST_PROGRAMS=(nginx-light:nginx haproxy:haproxy nodejs:node npm:npm)
BENCH=(libhiredis-dev libnats-dev)
BENCH_PROGRAMS=(redis-server:redis-server nats-server:nats-server)

wanted=("${BUILD[@]}")
programs=()
for arg in "$@"; do
    case $arg in
    --test)
        wanted+=("${TEST[@]}")
        programs+=("${TEST_PROGRAMS[@]}")
        ;;
    --bench)
        wanted+=("${BENCH[@]}")
        programs+=("${BENCH_PROGRAMS[@]}")
        ;;
    *)
        echo "usage: deploy/packages.sh [--test] [--bench]" >&2
        exit 64
        ;;
    esac
done

is_installed() {
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

has_program() {
    PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null
}

missing=()
services=()
for package in "${wanted[@]}"; do
    is_installed "$package" || missing+=("$package")
done
for row in "${programs[@]}"; do
    has_program "${row#*:}" && continue
    missing+=("${row%%:*}")
    case $row in *:nginx | *:haproxy | *-server) services+=("${row#*:}") ;; esac
done
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "These packages are missing; install them as root:" >&2
        echo "  apt-get install ${missing[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
fi

# Servers are wanted as programs only; without this their packages start services.
policy=/usr/sbin/policy-rc.d
made_policy=
cleanup() {
    [ -z "$made_policy" ] || "${as_root[@]}" rm -f "$policy"
}
trap cleanup EXIT
if [ ${#services[@]} -gt 0 ] && [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    made_policy=yes
    "${as_root[@]}" chmod 755 "$policy"
fi

echo "Installing ${#missing[@]} packages: ${missing[*]}"
log=$(mktemp)
apt() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 "$@" >>"$log" 2>&1
}
if ! { apt update && apt install --no-install-recommends "${missing[@]}"; }; then
    tail -n 40 "$log" >&2
    echo "deploy/packages.sh: installing failed; whole log: $log" >&2
    exit 1
fi
rm -f "$log"
for service in "${services[@]}"; do
    if [ -d /run/systemd/system ]; then
        "${as_root[@]}" systemctl disable --now "$service" >/dev/null 2>&1 || true
    fi
done
