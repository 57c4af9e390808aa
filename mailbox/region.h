/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_MAILBOX_REGION_H
#define SLIP_MAILBOX_REGION_H

#include <stddef.h>

#include <protobuf-c/protobuf-c.h>

/*
 * Memory that is all given back at once: what one call unpacks into, or the answers of one turn.
 * The first block stays, so that a warm process allocates nothing for what fits it; larger things
 * come and go with malloc. One thread.
 */
struct region_block;

struct region {
    struct region_block *blocks; /* the newest first, the one that stays last */
    size_t used;                 /* of the newest */
    size_t total, max;
    ProtobufCAllocator allocator; /* of this region, for unpacking */
};

void region_init(struct region *r, size_t stays, size_t max);
void region_fini(struct region *r);
void region_clear(struct region *r);
void *region_take(struct region *r, size_t bytes); /* aligned, not zeroed; NULL: beyond max */
/* As above where beyond max cannot be: what was checked before. */
void *region_get(struct region *r, size_t bytes);
char *region_text(struct region *r, const char *s); /* a copy */

#endif
