#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# No file names a place that exists on one machine only.
. "$(dirname "$0")/files.sh"
here=$(git rev-parse --path-format=absolute --git-common-dir 2> /dev/null) && here=$(dirname "$here")
places="${here:-$PWD}/|$PWD/|/ho""me/[a-z]|/ro""ot/"
if all_files | tr '\n' '\0' | xargs -0 grep -nIE "(^|[^A-Za-z0-9_.}-])($places)"; then
    echo "  ^ paths of somebody's machine"
    exit 1
fi
exit 0
