/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_LZ4_PAYLOAD_H
#define SLIP_LZ4_PAYLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"

/*
 * Payloads of messages as one lz4 block (the block format, without a frame): the large ones travel
 * and are stored like that. A block is always smaller than what it stands for. Pure.
 */
#define PAYLOAD_MAX (3u << 20) /* of one, unpacked: nothing here allocates more for it */

struct packed {
    const char *bytes; /* borrowed: of the packer until its next call, or of the caller */
    uint32_t len, raw_len;
    bool is_packed; /* false: len is raw_len, and bytes are the payload */
};

/* From compress_from bytes on payloads are compressed, where that makes them smaller. */
struct packer {
    size_t compress_from;
    char *scratch;
    size_t scratch_len;
};

/* ERR_TOO_LARGE: more than PAYLOAD_MAX. */
enum err payload_pack(struct packer *p, const void *payload, size_t len, struct packed *out);
void packer_fini(struct packer *p);
/* One block of len bytes to to, which has room for len. Its length; 0: it would not be smaller.
 * len: up to PAYLOAD_MAX. */
size_t payload_block(const void *payload, size_t len, char *to);

/*
 * What a stranger says of a payload, judged before anything is allocated for it; raw_len 0: it is
 * not compressed. ERR_TOO_LARGE: unpacked it has more than max bytes (PAYLOAD_MAX counts as well);
 * ERR_PACKED: no block of len bytes stands for raw_len.
 */
enum err payload_claim(const void *bytes, size_t len, uint32_t raw_len, size_t max,
                       struct packed *out);
/* Appends the payload as it was. ERR_IO: these bytes are not a block of raw_len bytes; nothing was
 * appended. */
enum err payload_unpack(const struct packed *p, struct buf *out);
/* The same, to memory of raw_len bytes, whose contents are lost where it fails. */
bool payload_unpack_to(const struct packed *p, char *to);

#endif
