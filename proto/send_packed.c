/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/send_packed.h"

#include <stdlib.h>

#include "common/lz4_payload.h"
#include "common/must.h"

struct copy {
    Slipstream__V1__SendRequest request;
    Slipstream__V1__Message *messages;
    char *room; /* for blocks; each takes less than its payload */
};

static bool is_large(const Slipstream__V1__Message *m, size_t compress_from)
{
    return m->raw_len == 0 && m->payload.len >= compress_from && m->payload.len <= PAYLOAD_MAX;
}

static struct copy *copy_new(const Slipstream__V1__SendRequest *r, size_t room)
{
    size_t each = sizeof(r->messages[0]) + sizeof(*r->messages[0]), i;
    struct copy *c = malloc(sizeof(*c) + r->n_messages * each + room);

    must(c != NULL);
    c->request = *r;
    c->messages = (Slipstream__V1__Message *)(c + 1);
    c->request.messages = (Slipstream__V1__Message **)(void *)(c->messages + r->n_messages);
    c->room = (char *)(c->request.messages + r->n_messages);
    for (i = 0; i < r->n_messages; i++) {
        c->messages[i] = *r->messages[i];
        c->request.messages[i] = &c->messages[i];
    }
    return c;
}

Slipstream__V1__SendRequest *send_packed(const Slipstream__V1__SendRequest *r, size_t compress_from)
{
    size_t room = 0, blocks = 0, i;
    struct copy *c;
    char *at;

    for (i = 0; compress_from != 0 && i < r->n_messages; i++)
        if (is_large(r->messages[i], compress_from))
            room += r->messages[i]->payload.len;
    if (room == 0)
        return NULL;
    c = copy_new(r, room);
    at = c->room;
    for (i = 0; i < r->n_messages; i++) {
        Slipstream__V1__Message *m = &c->messages[i];
        size_t len =
            is_large(m, compress_from) ? payload_block(m->payload.data, m->payload.len, at) : 0;

        if (len == 0)
            continue;
        m->raw_len = (uint32_t)m->payload.len;
        m->payload = (ProtobufCBinaryData){len, (uint8_t *)at};
        at += len;
        blocks++;
    }
    if (blocks > 0)
        return &c->request;
    free(c);
    return NULL;
}
