/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_MAILBOX_STORE_PAYLOAD_H
#define SLIP_MAILBOX_STORE_PAYLOAD_H

#include <stdint.h>

#include "common/lz4_payload.h"
#include "mailbox/store.h"

/* How a store keeps the payload of r: as the block that came with it where it compresses payloads
 * of this size at all, else as p makes it. ERR_TOO_LARGE: more than MBOX_PAYLOAD_MAX. */
enum err payload_keep(struct packer *p, const struct mbox_record *r, struct packed *out);
/* Appends what is kept as it is; raw_len: 0 where it is the payload itself. */
void payload_give(const struct packed *p, struct buf *out, uint32_t *raw_len);

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
