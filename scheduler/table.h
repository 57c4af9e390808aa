/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_TABLE_H
#define SCHED_TABLE_H

#include <stdint.h>

/*
 * Hash index from 64-bit keys to pool slots: open addressing, linear probing, deletion by moving
 * the run behind the hole up. At most half full: it doubles on the way to its capacity, because a
 * big sparse table costs a page per entry, and never shrinks. Keys may repeat; the caller compares
 * what they stand for. Nothing depends on addresses.
 */
struct table {
    struct table_entry *entries;
    uint32_t mask, used, capacity;
};

void table_init(struct table *t, uint32_t capacity);
void table_fini(struct table *t);
void table_add(struct table *t, uint64_t key, uint32_t slot);
void table_remove(struct table *t, uint64_t key, uint32_t slot); /* must be there */
/* The next slot with this key, UINT32_MAX at the end. Start with *cursor = 0. */
uint32_t table_find(const struct table *t, uint64_t key, uint32_t *cursor);

static inline uint64_t table_mix(uint64_t x) /* splitmix64's finaliser */
{
    x ^= x >> 30;
    x *= UINT64_C(0xbf58476d1ce4e5b9);
    x ^= x >> 27;
    x *= UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

#endif
