/* SPDX-License-Identifier: Apache-2.0 */
#include "common/lz4_payload.h"

#include <stdlib.h>
#include <string.h>

#include <lz4.h>

#include "common/must.h"

/* A byte of a block adds 255 bytes at most: the longest match costs one for each 255 of its length
 * (lz4's block format). */
#define RATIO_MAX 255u

/* Room for one byte less than the payload: lz4 gives up where it would not shrink. */
size_t payload_block(const void *payload, size_t len, char *to)
{
    int n = len >= 2 ? LZ4_compress_default(payload, to, (int)len, (int)len - 1) : 0;

    return n > 0 ? (size_t)n : 0;
}

enum err payload_pack(struct packer *p, const void *payload, size_t len, struct packed *out)
{
    size_t n = 0;

    if (len > PAYLOAD_MAX)
        return ERR_TOO_LARGE;
    if (len >= p->compress_from) {
        if (p->scratch_len < len) {
            free(p->scratch);
            p->scratch = malloc(len);
            must(p->scratch != NULL);
            p->scratch_len = len;
        }
        n = payload_block(payload, len, p->scratch);
    }
    *out = (struct packed){.bytes = n > 0 ? p->scratch : payload,
                           .len = (uint32_t)(n > 0 ? n : len),
                           .raw_len = (uint32_t)len,
                           .is_packed = n > 0};
    return ERR_OK;
}

void packer_fini(struct packer *p)
{
    free(p->scratch);
    p->scratch = NULL;
    p->scratch_len = 0;
}

enum err payload_claim(const void *bytes, size_t len, uint32_t raw_len, size_t max,
                       struct packed *out)
{
    size_t whole = raw_len != 0 ? raw_len : len;

    if (whole > max || whole > PAYLOAD_MAX)
        return ERR_TOO_LARGE;
    if (raw_len != 0 && (len == 0 || len >= raw_len || raw_len > len * (uint64_t)RATIO_MAX))
        return ERR_PACKED;
    *out = (struct packed){.bytes = bytes,
                           .len = (uint32_t)len,
                           .raw_len = (uint32_t)whole,
                           .is_packed = raw_len != 0};
    return ERR_OK;
}

bool payload_unpack_to(const struct packed *p, char *to)
{
    if (p->is_packed)
        return LZ4_decompress_safe(p->bytes, to, (int)p->len, (int)p->raw_len) == (int)p->raw_len;
    if (p->len > 0)
        memcpy(to, p->bytes, p->len);
    return true;
}

enum err payload_unpack(const struct packed *p, struct buf *out)
{
    if (p->len > PAYLOAD_MAX || p->raw_len > PAYLOAD_MAX)
        return ERR_IO;
    if (p->raw_len > 0 && !payload_unpack_to(p, buf_reserve(out, p->raw_len)))
        return ERR_IO;
    out->len += p->raw_len;
    return ERR_OK;
}
