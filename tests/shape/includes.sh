#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The arrows between folders, and the fences round foreign libraries.
. "$(dirname "$0")/files.sh"
status=0
all=$(c_files)

# forbid WHY PATTERN FILES...: no line of the files may match
forbid()
{
    why=$1 pattern=$2
    shift 2
    [ $# -gt 0 ] || return 0
    if grep -nE "$pattern" /dev/null "$@"; then
        echo "  ^ $why"
        status=1
    fi
}

# pick YES [NO]: files whose path matches YES and not NO
pick()
{
    echo "$all" | grep -E "$1" | grep -vE "${2:-^$}"
}

inc='^[[:space:]]*#[[:space:]]*include[[:space:]]*'

# shellcheck disable=SC2046 # paths have no blanks
{
forbid "common/ knows no other folder" \
    "$inc\"(gateway|scheduler|mailbox|client|bench|tests)/" $(pick '^common/')
forbid "in common/ only rpc*.c and ring*.c see messages" \
    "$inc\"proto/" $(pick '^common/' '^common/(rpc|ring)[a-z_]*\.c$')
forbid "proto/ uses common/ alone" \
    "$inc\"(gateway|scheduler|mailbox|client|bench|tests)/" $(pick '^proto/')
forbid "gateway/ does not know its peers" \
    "$inc\"(scheduler|mailbox|client|bench|tests)/" $(pick '^gateway/')
forbid "scheduler/ does not know its peers" \
    "$inc\"(gateway|mailbox|client|bench|tests)/" $(pick '^scheduler/')
forbid "mailbox/ does not know its peers" \
    "$inc\"(gateway|scheduler|client|bench|tests)/" $(pick '^mailbox/')
forbid "client/ uses common/ and proto/" \
    "$inc\"(gateway|scheduler|mailbox|bench|tests)/" $(pick '^client/')
forbid "nothing uses tests/" "$inc\"tests/" $(pick '.' '^tests/')
forbid "h2o stays in gateway/ and bench/engine/" \
    "$inc<(h2o|picohttpparser)" $(pick '.' '^(gateway|bench/engine)/')
forbid "nng stays in common/rpc_nng*" "$inc<nng/" $(pick '.' '^(common|tests/unit/common)/(test_)?rpc_nng[a-z_]*\.[ch]$')
forbid "mappings stay in common/shm.c" "$inc<sys/mman\.h>" $(pick '.' '^(common/shm\.c$|tests/)')
forbid "libyaml stays in common/conf.c" "$inc<yaml\.h>" $(pick '.' '^common/conf\.c$')
forbid "a core has no sockets, threads, clock or messages" \
    "$inc(<(sys/socket|sys/epoll|pthread|time|curl/|zmq|unistd)|\"(common/(loop|rpc|inbox)\.h|proto/))|clock_(ns|ms|wall_ms)\\(" \
    $(pick '^(scheduler|mailbox)/(core|queue|lease|engine|index|gate|box|waiters|policy)[a-z_]*\.[ch]$')
forbid "includes begin at the root" "$inc\"[^/]*\"" $(pick '.' '^tests/')
}
exit $status
