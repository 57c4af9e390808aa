/* SPDX-License-Identifier: Apache-2.0 */
#include "mailbox/store_payload.h"

#include <stdlib.h>
#include <string.h>

#include <lz4.h>

#include "common/must.h"
#include "mailbox/store.h"

_Static_assert(MBOX_PAYLOAD_MAX <= REST_LEN, "a stored length fits its bits");

enum err payload_pack(struct packer *p, const void *payload, size_t len, struct packed *out)
{
    int n = 0;

    if (len > MBOX_PAYLOAD_MAX)
        return ERR_TOO_LARGE;
    if (len >= p->compress_from && len >= 2) {
        if (p->scratch_len < len) {
            free(p->scratch);
            p->scratch = malloc(len);
            must(p->scratch != NULL);
            p->scratch_len = len;
        }
        /* Room for one byte less than the payload: lz4 gives up where it would not shrink. */
        n = LZ4_compress_default(payload, p->scratch, (int)len, (int)len - 1);
    }
    *out = (struct packed){.bytes = n > 0 ? p->scratch : payload,
                           .len = n > 0 ? (uint32_t)n : (uint32_t)len,
                           .raw_len = (uint32_t)len,
                           .is_packed = n > 0};
    return ERR_OK;
}

enum err payload_unpack(const struct packed *p, struct buf *out)
{
    char *to;

    if (p->len > MBOX_PAYLOAD_MAX || p->raw_len > MBOX_PAYLOAD_MAX)
        return ERR_IO;
    if (!p->is_packed) {
        if (p->len > 0)
            buf_add(out, p->bytes, p->len);
        return ERR_OK;
    }
    to = buf_reserve(out, p->raw_len);
    if (LZ4_decompress_safe(p->bytes, to, (int)p->len, (int)p->raw_len) != (int)p->raw_len)
        return ERR_IO;
    out->len += p->raw_len;
    return ERR_OK;
}

void packer_fini(struct packer *p)
{
    free(p->scratch);
    p->scratch = NULL;
    p->scratch_len = 0;
}

char *payload_rest(const struct packed *p, uint32_t *word)
{
    size_t head = p->is_packed ? sizeof(p->raw_len) : 0;
    char *bytes = NULL;

    if (head + p->len > 0) {
        bytes = malloc(head + p->len);
        must(bytes != NULL);
        memcpy(bytes, &p->raw_len, head);
        memcpy(bytes + head, p->bytes, p->len);
    }
    *word = p->len | (p->is_packed ? REST_PACKED : 0);
    return bytes;
}

struct packed payload_at_rest(const char *bytes, uint32_t word)
{
    struct packed p = {.bytes = bytes, .len = word & REST_LEN, .raw_len = word & REST_LEN};

    if (word & REST_PACKED) {
        memcpy(&p.raw_len, bytes, sizeof(p.raw_len));
        p.bytes += sizeof(p.raw_len);
        p.is_packed = true;
    }
    return p;
}
