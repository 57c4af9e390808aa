#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# clang-tidy over everything that was compiled; minutes, so only in long runs. Argument: build folder.
# 77: not installed.
. "$(dirname "$0")/files.sh"
build=${1:-build/release}
command -v clang-tidy-14 > /dev/null || {
    echo "clang-tidy-14 is not installed"
    exit 77
}
c_files | grep -E '^(common|proto|gateway|scheduler|mailbox|client|bench)/.*\.c$' |
    xargs -P "$(nproc)" -n 4 clang-tidy-14 --quiet -p "$build" 2> /dev/null
