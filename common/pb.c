/* SPDX-License-Identifier: Apache-2.0 */
#include "common/pb.h"

bool pb_read_long(struct pb_reader *r, uint64_t *out)
{
    uint64_t v = 0;
    unsigned shift;

    for (shift = 0; shift < 7 * PB_VARINT_MAX && r->at < r->end; shift += 7) {
        uint8_t b = *r->at++;

        v |= (uint64_t)(b & 0x7f) << shift;
        if (b < 0x80) {
            *out = v;
            return true;
        }
    }
    return false;
}
