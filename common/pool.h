/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_POOL_H
#define SLIP_POOL_H

#include <stddef.h>
#include <stdint.h>

/*
 * A fixed number of equal objects, and handles to them.
 *
 * A handle is (generation << 32 | slot + 1); 0 is no handle. Giving an object back changes its
 * slot's generation, so a late answer that still carries the old handle finds nobody. Memory is
 * taken once (plain malloc per object under sanitizers, so that use after give is seen). One
 * thread.
 */
struct pool {
    size_t object_bytes;
    uint32_t capacity, used, free_head;
    uint32_t fresh; /* slots from here on were never used: their pages are not touched yet */
    struct pool_slot *slots;
    char *memory;
};

void *pool_slot_object(const struct pool *p, uint32_t slot);

void pool_init(struct pool *p, size_t object_bytes, uint32_t capacity);
void pool_fini(struct pool *p);
void *pool_take(struct pool *p, uint64_t *handle);      /* zeroed; NULL when all are in use */
void pool_give(struct pool *p, uint64_t handle);        /* must be a live handle */
void *pool_find(const struct pool *p, uint64_t handle); /* NULL when stale */
/* Of a slot that is in use, without a look whether it is. */
static inline void *pool_at(const struct pool *p, uint32_t slot)
{
    return p->memory != NULL ? p->memory + slot * p->object_bytes : pool_slot_object(p, slot);
}

/* Walks live objects: returns the next at or after *cursor and moves it on, NULL at the end. Start
 * with 0. */
void *pool_next(const struct pool *p, uint32_t *cursor, uint64_t *handle);

#endif
