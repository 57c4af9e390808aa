/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_MAILBOX_STORE_PAYLOAD_H
#define SLIP_MAILBOX_STORE_PAYLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"

/* Payloads as stores keep them: from compress_from bytes on compressed with lz4, raw where that
 * does not make them smaller. */
struct packer {
    size_t compress_from;
    char *scratch;
    size_t scratch_len;
};

/* How a payload is kept: len bytes, which stand for raw_len. */
struct packed {
    const char *bytes; /* borrowed: of the packer until its next call, or of the caller */
    uint32_t len, raw_len;
    bool is_packed;
};

/* ERR_TOO_LARGE: more than MBOX_PAYLOAD_MAX. */
enum err payload_pack(struct packer *p, const void *payload, size_t len, struct packed *out);
/* Appends the payload as it came. ERR_IO: these bytes are not a payload of raw_len. */
enum err payload_unpack(const struct packed *p, struct buf *out);
void packer_fini(struct packer *p);

/*
 * A packed payload at rest in memory: its bytes, before which, where it is packed, stands the raw
 * length; what else there is to know fits into 32 bits beside the pointer, and a raw payload costs
 * its own bytes only.
 */
#define REST_LEN 0x3fffffu    /* bits of the stored length: enough for MBOX_PAYLOAD_MAX */
#define REST_PACKED 0x400000u /* bits above are the store's own */
char *payload_rest(const struct packed *p,
                   uint32_t *word); /* the caller's; out of memory: must() */
struct packed payload_at_rest(const char *bytes, uint32_t word);

#endif
