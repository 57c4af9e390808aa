/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_MAILBOX_STORE_H
#define SLIP_MAILBOX_STORE_H

#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"

/*
 * Where payloads rest. One thread. An id names one payload from put to drop and is never 0.
 */
struct mbox_store {
    const struct mbox_store_ops *ops;
};

struct mbox_store_ops {
    /* stored: bytes that it takes, after compression. ERR_BUSY: no room. */
    enum err (*put)(struct mbox_store *s, const void *payload, size_t len, uint64_t *id,
                    size_t *stored);
    /* Appends the payload as it was put. ERR_NOT_FOUND: no such id; ERR_IO: it is damaged. */
    enum err (*get)(struct mbox_store *s, uint64_t id, struct buf *out);
    void (*drop)(struct mbox_store *s, uint64_t id); /* an unknown id is fine */
    uint64_t (*bytes)(const struct mbox_store *s);   /* of all payloads, as stored */
    void (*close)(struct mbox_store *s);             /* and everything in it */
};

#define MBOX_PAYLOAD_MAX (3u << 20) /* no payload is larger; get allocates no more */

/*
 * In memory. Payloads from compress_bytes on are compressed with lz4 and kept raw where that does
 * not make them smaller.
 */
struct mbox_store *store_memory_open(size_t compress_bytes);
void store_memory_compress_from(struct mbox_store *s, size_t compress_bytes);

#endif
