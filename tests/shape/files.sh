# SPDX-License-Identifier: Apache-2.0
# Sourced by the checks of this folder: moves to the root and defines the lists that they walk.
cd "$(dirname "$0")/../.." || exit 2

# Every file of the project, without build folders. A copy without git is fine.
all_files()
{
    if [ -e .git ]; then
        git ls-files --cached --others --exclude-standard | while read -r f; do
            [ ! -f "$f" ] || echo "$f"
        done
    else
        find . -type f -not -path './build/*' -not -path './.venv/*' -not -path '*/node_modules/*' |
            sed 's|^\./||'
    fi
}

c_files()
{
    all_files | grep -E '\.[ch]$'
}
