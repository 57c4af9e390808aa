#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Every relative link of a page leads to a file, and to a heading where it names one.
. "$(dirname "$0")/files.sh"
failed=0

# The anchors of a page: its headings in small letters, blanks as dashes, without punctuation.
anchors()
{
    sed -nE '/^```/,/^```/d; s/^#+ +(.*)/\1/p' "$1" |
        tr '[:upper:] ' '[:lower:]-' | sed -E 's/[^a-z0-9_-]//g'
}

for page in $(all_files | grep '\.md$'); do
    for link in $(sed '/^```/,/^```/d' "$page" | grep -oE '\]\([^) ]+\)' | sed 's/^](//; s/)$//' |
        grep -vE '^[a-z]+:' | sort -u); do
        file=${link%%#*}
        target=$page
        [ -z "$file" ] || target=$(dirname "$page")/$file
        if [ ! -e "$target" ]; then
            echo "$page: $link: no such file"
            failed=1
        elif [ "$link" != "$file" ] && ! anchors "$target" | grep -qxF -- "${link#*#}"; then
            echo "$page: $link: no such heading"
            failed=1
        fi
    done
done
exit $failed
