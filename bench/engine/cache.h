/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ENGINE_CACHE_H
#define ENGINE_CACHE_H

#include <stdbool.h>
#include <stdint.h>

/*
 * The blocks that are resident, by chained id. A block is referenced by running requests, or it is
 * free but still cached, in order of release: the oldest is evicted first. Memory is taken once,
 * for capacities beyond a million blocks as they fill. Pure; one thread.
 */
struct cache_block {
    uint64_t id;
    uint32_t refs;
    uint32_t prev, next; /* free but cached ones; slot 0 is the head of that ring */
};

struct cache {
    struct cache_block *blocks; /* room + 1 */
    uint32_t *table;            /* open addressing, 0 = empty */
    uint32_t mask, capacity, room;
    uint32_t held, cached; /* blocks with and without references */
    uint32_t spare;        /* unused slots, linked by next; 0: none */
    uint32_t fresh;        /* slots from here on were never used */
};

void cache_init(struct cache *c, uint32_t capacity);
void cache_fini(struct cache *c);
bool cache_has(const struct cache *c, uint64_t id);
bool cache_is_cached(const struct cache *c, uint64_t id); /* resident without references */
bool cache_hold(struct cache *c, uint64_t id);            /* false: not resident */
void cache_add(struct cache *c, uint64_t id);             /* not resident before; one reference */
void cache_drop(struct cache *c, uint64_t id);            /* one reference less */
uint64_t cache_evict(struct cache *c);                    /* the oldest; there must be one */
bool cache_forget(struct cache *c, uint64_t id);          /* false: not there, or referenced */

/* Leading ids that are resident; residency must be prefix-closed along a chain. */
uint32_t cache_match(const struct cache *c, const uint64_t *ids, uint32_t n);

#endif
