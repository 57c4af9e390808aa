/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/prefix_store.h"

#include <stdlib.h>
#include <string.h>

#include "common/must.h"

#define CRATE_START 16u
#define SLOTS_START 1024u

void crate_init(struct crate *a, uint32_t item_bytes)
{
    *a = (struct crate){.item_bytes = item_bytes, .fresh = 1, .capacity = CRATE_START};
    a->items = calloc(CRATE_START, item_bytes);
    must(a->items != NULL);
}

static uint32_t capacity_more(uint32_t capacity, uint32_t start)
{
    must(capacity < SLOT_FREE / 2);
    return capacity + capacity / 4 + start;
}

uint32_t crate_take(struct crate *a)
{
    uint32_t i = a->free;

    a->used++;
    if (i != 0) {
        memcpy(&a->free, (char *)a->items + (size_t)i * a->item_bytes, sizeof(a->free));
        return i;
    }
    if (a->fresh >= a->capacity) {
        a->capacity = capacity_more(a->capacity, CRATE_START);
        a->items = realloc(a->items, (size_t)a->capacity * a->item_bytes);
        must(a->items != NULL);
    }
    memset((char *)a->items + (size_t)a->fresh * a->item_bytes, 0, a->item_bytes);
    return a->fresh++;
}

void crate_give(struct crate *a, uint32_t i)
{
    memcpy((char *)a->items + (size_t)i * a->item_bytes, &a->free, sizeof(a->free));
    a->free = i;
    a->used--;
}

/*
 * Free ranges are kept by length in bins, four to a doubling. Both ends of a range tell its length,
 * so that a neighbour which becomes free finds and swallows it; the first slot's digest is the pair
 * of links within the bin.
 */
struct range_links {
    uint32_t prev, next; /* first slot + 1 */
};

static uint32_t bin_of(uint32_t n) /* every range in a higher bin is longer than n */
{
    uint32_t log = 31 - (uint32_t)__builtin_clz(n);

    return log < 2 ? n : log * 4 + (n >> (log - 2) & 3);
}

static struct range_links *links_at(struct slots *s, uint32_t start)
{
    return (struct range_links *)(void *)&s->digests[start];
}

static void range_link(struct slots *s, uint32_t start, uint32_t n)
{
    uint32_t bin = bin_of(n), next = s->bins[bin];

    s->owners[start] = s->owners[start + n - 1] = SLOT_FREE | n;
    *links_at(s, start) = (struct range_links){.next = next};
    if (next != 0)
        links_at(s, next - 1)->prev = start + 1;
    s->bins[bin] = start + 1;
    s->filled[bin / 64] |= UINT64_C(1) << bin % 64;
}

static void range_unlink(struct slots *s, uint32_t start, uint32_t n)
{
    struct range_links l = *links_at(s, start);
    uint32_t bin = bin_of(n);

    if (l.next != 0)
        links_at(s, l.next - 1)->prev = l.prev;
    if (l.prev != 0)
        links_at(s, l.prev - 1)->next = l.next;
    else
        s->bins[bin] = l.next;
    if (s->bins[bin] == 0)
        s->filled[bin / 64] &= ~(UINT64_C(1) << bin % 64);
}

void slots_give(struct slots *s, uint32_t start, uint32_t n)
{
    uint32_t more;

    if (n == 0)
        return;
    if (start > 0 && (s->owners[start - 1] & SLOT_FREE) != 0) {
        more = s->owners[start - 1] & ~SLOT_FREE;
        start -= more;
        n += more;
        range_unlink(s, start, more);
    }
    if (start + n < s->capacity && (s->owners[start + n] & SLOT_FREE) != 0) {
        more = s->owners[start + n] & ~SLOT_FREE;
        range_unlink(s, start + n, more);
        n += more;
    }
    range_link(s, start, n);
}

static void slots_resize(struct slots *s, uint32_t capacity)
{
    uint32_t old = s->capacity;

    s->digests = realloc(s->digests, (size_t)capacity * sizeof(*s->digests));
    s->owners = realloc(s->owners, (size_t)capacity * sizeof(*s->owners));
    must(s->digests != NULL && s->owners != NULL);
    s->capacity = capacity;
    slots_give(s, old, capacity - old);
}

static void slots_grow(struct slots *s, uint32_t n)
{
    uint32_t capacity = s->capacity;

    while (capacity - s->capacity < n)
        capacity = capacity_more(capacity, SLOTS_START);
    slots_resize(s, capacity);
}

void slots_fit(struct slots *s, uint64_t capacity)
{
    must(capacity < SLOT_FREE);
    if (capacity > s->capacity)
        slots_resize(s, (uint32_t)capacity);
}

static uint32_t bin_next(const struct slots *s, uint32_t bin) /* SLOT_BINS: none */
{
    uint32_t word = bin / 64;
    uint64_t bits;

    if (bin >= SLOT_BINS)
        return SLOT_BINS;
    bits = s->filled[word] & UINT64_MAX << bin % 64;
    while (bits == 0 && ++word < SLOT_BINS / 64)
        bits = s->filled[word];
    return bits != 0 ? word * 64 + (uint32_t)__builtin_ctzll(bits) : SLOT_BINS;
}

uint32_t slots_take(struct slots *s, uint32_t n, uint32_t owner)
{
    uint32_t bin = bin_of(n), start = s->bins[bin], found, i;

    if (start == 0 || (s->owners[start - 1] & ~SLOT_FREE) < n) {
        bin = bin_next(s, bin + 1);
        if (bin == SLOT_BINS) {
            slots_grow(s, n);
            return slots_take(s, n, owner);
        }
        start = s->bins[bin];
    }
    start--;
    found = s->owners[start] & ~SLOT_FREE;
    range_unlink(s, start, found);
    if (found > n)
        range_link(s, start + n, found - n);
    for (i = start; i < start + n; i++)
        s->owners[i] = owner;
    return start;
}

void slots_init(struct slots *s)
{
    *s = (struct slots){0};
    slots_grow(s, 1);
}

void slots_fini(struct slots *s)
{
    free(s->digests);
    free(s->owners);
    *s = (struct slots){0};
}
