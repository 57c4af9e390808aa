/* SPDX-License-Identifier: Apache-2.0 */
#include "mailbox/store_payload.h"

#include <stdlib.h>
#include <string.h>

#include "common/must.h"

_Static_assert(MBOX_PAYLOAD_MAX <= REST_LEN, "a stored length fits its bits");
/* NOLINTNEXTLINE(misc-redundant-expression): of two headers, equal on purpose */
_Static_assert(MBOX_PAYLOAD_MAX == PAYLOAD_MAX, "what is stored can be unpacked");

enum err payload_keep(struct packer *p, const struct mbox_record *r, struct packed *out)
{
    if (r->block == NULL || r->payload_len < p->compress_from)
        return payload_pack(p, r->payload, r->payload_len, out);
    if (r->payload_len > MBOX_PAYLOAD_MAX)
        return ERR_TOO_LARGE;
    *out = (struct packed){.bytes = r->block,
                           .len = (uint32_t)r->block_len,
                           .raw_len = (uint32_t)r->payload_len,
                           .is_packed = true};
    return ERR_OK;
}

void payload_give(const struct packed *p, struct buf *out, uint32_t *raw_len)
{
    *raw_len = p->is_packed ? p->raw_len : 0;
    if (p->len > 0)
        buf_add(out, p->bytes, p->len);
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
