#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The C sources are formatted as .clang-format says, by the version that decides. 77: not installed.
. "$(dirname "$0")/files.sh"
command -v clang-format-14 > /dev/null || {
    echo "clang-format-14 is not installed"
    exit 77
}
c_files | xargs clang-format-14 --dry-run --Werror
