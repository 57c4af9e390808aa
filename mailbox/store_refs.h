/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_MAILBOX_STORE_REFS_H
#define SLIP_MAILBOX_STORE_REFS_H

#include <stddef.h>
#include <stdint.h>

/*
 * Names for what a store holds: a ref is (generation << 32 | slot + 1), so that a late one finds
 * nothing. Items start with a struct ref_slot. They never move and come in parts of fixed size, so
 * that growing copies nothing and a million of them cost their own bytes only. Slots are used again
 * and not given back: their number is bounded by the most that were held at once.
 */
struct ref_slot {
    uint32_t generation; /* odd while taken */
    uint32_t word;       /* the owner's while taken, else the next free slot + 1 */
};

struct refs {
    size_t item_size;
    char **parts;
    uint32_t part_count, part_cap;
    uint32_t len, free_head; /* free_head: slot + 1, 0 none */
};

void refs_init(struct refs *r, size_t item_size);
void refs_fini(struct refs *r);
/* A zeroed item. Out of memory is must(). */
void *refs_take(struct refs *r, uint64_t *ref);
void *refs_find(const struct refs *r, uint64_t ref); /* NULL: no such, or no longer */
void refs_give(struct refs *r, void *item, uint64_t ref);
/* The item in slot i < r->len; NULL where it is free. */
void *refs_at(const struct refs *r, uint32_t i);

#endif
