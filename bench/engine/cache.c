/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/engine/cache.h"

#include <stdlib.h>

#include "common/must.h"

#define ROOM_FIRST (UINT32_C(1) << 20)

static uint32_t home(const struct cache *c, uint64_t id)
{
    id ^= id >> 32; /* ids may be hashes or small numbers */
    id *= UINT64_C(0x9e3779b97f4a7c15);
    return (uint32_t)(id >> 32) & c->mask;
}

/* Position in the table: of id, or of the empty place where it would go. */
static uint32_t place(const struct cache *c, uint64_t id)
{
    uint32_t i = home(c, id);

    while (c->table[i] != 0 && c->blocks[c->table[i]].id != id)
        i = (i + 1) & c->mask;
    return i;
}

static void table_make(struct cache *c)
{
    uint32_t size = 16;

    while (size < c->room * 2)
        size *= 2;
    c->mask = size - 1;
    c->table = calloc(size, sizeof *c->table);
    must(c->table != NULL);
}

void cache_init(struct cache *c, uint32_t capacity)
{
    must(capacity > 0 && capacity < UINT32_C(1) << 30);
    *c = (struct cache){.capacity = capacity, .fresh = 1};
    c->room = capacity < ROOM_FIRST ? capacity : ROOM_FIRST;
    c->blocks = calloc((size_t)c->room + 1, sizeof *c->blocks);
    must(c->blocks != NULL);
    table_make(c);
}

static void grow(struct cache *c)
{
    struct cache_block *blocks;

    must(c->room < c->capacity);
    c->room = c->capacity / 2 < c->room ? c->capacity : c->room * 2;
    blocks = realloc(c->blocks, ((size_t)c->room + 1) * sizeof *c->blocks);
    must(blocks != NULL);
    c->blocks = blocks;
    free(c->table);
    table_make(c);
    for (uint32_t i = 1; i < c->fresh; i++) /* there is no spare slot, or we would not grow */
        c->table[place(c, blocks[i].id)] = i;
}

void cache_fini(struct cache *c)
{
    free(c->blocks);
    free(c->table);
    *c = (struct cache){0};
}

bool cache_has(const struct cache *c, uint64_t id)
{
    return c->table[place(c, id)] != 0;
}

bool cache_is_cached(const struct cache *c, uint64_t id)
{
    uint32_t slot = c->table[place(c, id)];

    return slot != 0 && c->blocks[slot].refs == 0;
}

static void unlink_free(struct cache *c, uint32_t slot)
{
    struct cache_block *b = &c->blocks[slot];

    c->blocks[b->prev].next = b->next;
    c->blocks[b->next].prev = b->prev;
    c->cached--;
}

bool cache_hold(struct cache *c, uint64_t id)
{
    uint32_t slot = c->table[place(c, id)];

    if (slot == 0)
        return false;
    if (c->blocks[slot].refs++ == 0) {
        unlink_free(c, slot);
        c->held++;
    }
    return true;
}

void cache_add(struct cache *c, uint64_t id)
{
    uint32_t slot = c->spare, i;

    if (slot != 0) {
        c->spare = c->blocks[slot].next;
    } else {
        if (c->fresh > c->room)
            grow(c);
        slot = c->fresh++;
    }
    i = place(c, id);
    must(c->table[i] == 0);
    c->blocks[slot] = (struct cache_block){.id = id, .refs = 1};
    c->table[i] = slot;
    c->held++;
}

void cache_drop(struct cache *c, uint64_t id)
{
    uint32_t slot = c->table[place(c, id)];
    struct cache_block *b = &c->blocks[slot];

    must(slot != 0 && b->refs > 0);
    if (--b->refs > 0)
        return;
    c->held--;
    c->cached++;
    b->next = 0; /* newest last */
    b->prev = c->blocks[0].prev;
    c->blocks[b->prev].next = slot;
    c->blocks[0].prev = slot;
}

/* A block without references leaves; i: its place in the table. */
static void leave(struct cache *c, uint32_t i)
{
    uint32_t slot = c->table[i], j;

    unlink_free(c, slot);
    /* Close the gap, so that no search stops short of what collided with us. */
    for (j = (i + 1) & c->mask; c->table[j] != 0; j = (j + 1) & c->mask) {
        uint32_t h = home(c, c->blocks[c->table[j]].id);

        if (((j - h) & c->mask) >= ((j - i) & c->mask)) {
            c->table[i] = c->table[j];
            i = j;
        }
    }
    c->table[i] = 0;
    c->blocks[slot].next = c->spare;
    c->spare = slot;
}

uint64_t cache_evict(struct cache *c)
{
    uint32_t slot = c->blocks[0].next;
    uint64_t id = c->blocks[slot].id;

    must(slot != 0);
    leave(c, place(c, id));
    return id;
}

bool cache_forget(struct cache *c, uint64_t id)
{
    uint32_t i = place(c, id);

    if (c->table[i] == 0 || c->blocks[c->table[i]].refs > 0)
        return false;
    leave(c, i);
    return true;
}

uint32_t cache_match(const struct cache *c, const uint64_t *ids, uint32_t n)
{
    uint32_t lo = 0, hi = n;

    while (lo < hi) {
        uint32_t mid = lo + (hi - lo + 1) / 2;

        if (cache_has(c, ids[mid - 1]))
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo;
}
