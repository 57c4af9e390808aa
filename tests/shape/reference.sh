#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The printed pages are what the tables say. Arguments: the printer, and --write to renew the pages.
. "$(dirname "$0")/files.sh"
printer=$1 mode=${2:-}
status=0
for page in config errors metrics faults policies mcp http example; do
    file=docs/reference/$page.md
    [ $page = example ] && file=examples/slipstream.yaml
    if [ "$mode" = --write ]; then
        "$printer" $page > "$file" || exit 1
    elif ! "$printer" $page | diff -u "$file" -; then
        echo "$file is stale: run tests/shape/reference.sh $printer --write"
        status=1
    fi
done
exit $status
