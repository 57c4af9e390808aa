#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Every header compiles alone. Arguments: compiler, build folder.
. "$(dirname "$0")/files.sh"
cc=${1:-cc} build=${2:-build/release}
flags="-std=gnu11 -D_GNU_SOURCE -DH2O_USE_LIBUV=0 -DSLIP_VERSION=\"0\" -I. -I$build \
$(pkg-config --cflags libh2o-evloop openssl libprotobuf-c)"
c_files | grep -E '\.h$' | xargs -P 2 -I{} sh -c '
    echo "#include \"$1\"" | '"$cc $flags"' -Wall -Wextra -Werror -Wmissing-prototypes -fsyntax-only -x c - ||
        { echo "$1 does not compile alone"; exit 1; }' sh {}
