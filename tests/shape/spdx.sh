#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Every source file says its licence in its first lines.
. "$(dirname "$0")/files.sh"
status=0
for f in $(all_files | grep -E '\.(c|h|def|proto|sh|py|mjs|js|ts|cmake)$|(^|/)CMakeLists\.txt$'); do
    if ! head -n 3 "$f" | grep -q 'SPDX-License-Identifier: Apache-2.0'; then
        echo "$f: no SPDX line"
        status=1
    fi
done
exit $status
