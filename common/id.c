/* SPDX-License-Identifier: Apache-2.0 */
#include "common/id.h"

#include "common/json.h"

bool id_is_valid(const char *s, size_t len)
{
    size_t i;

    if (len == 0 || len > ID_BYTES_MAX || !json_is_utf8(s, len))
        return false;
    for (i = 0; i < len; i++) {
        unsigned char c = (unsigned char)s[i];

        if (c < 0x20 || c == 0x7f)
            return false;
        if (c == 0xc2 && (unsigned char)s[i + 1] < 0xa0) /* U+0080 to U+009F */
            return false;
    }
    return true;
}
