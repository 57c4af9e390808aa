/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/table.h"

#include <stdlib.h>

#include "common/must.h"

struct table_entry {
    uint32_t tag;  /* lower half of the key; where it hashes to is tag & mask */
    uint32_t slot; /* plus 1; 0 = empty */
};

#define TABLE_START 1024u

static struct table_entry *entries_new(uint32_t size)
{
    struct table_entry *e = calloc(size, sizeof(*e));

    must(e != NULL);
    return e;
}

void table_init(struct table *t, uint32_t capacity)
{
    uint32_t size = 16;

    must(capacity <= UINT32_C(1) << 29);
    while (size < TABLE_START && size < capacity * 2)
        size *= 2;
    *t = (struct table){.entries = entries_new(size), .mask = size - 1, .capacity = capacity};
}

void table_fini(struct table *t)
{
    free(t->entries);
    *t = (struct table){0};
}

static void entry_put(struct table *t, struct table_entry e)
{
    uint32_t at = e.tag & t->mask;

    while (t->entries[at].slot != 0)
        at = (at + 1) & t->mask;
    t->entries[at] = e;
}

static void table_grow(struct table *t)
{
    struct table_entry *old = t->entries;
    uint32_t size = t->mask + 1, i;

    t->entries = entries_new(size * 2);
    t->mask = size * 2 - 1;
    for (i = 0; i < size; i++)
        if (old[i].slot != 0)
            entry_put(t, old[i]);
    free(old);
}

void table_add(struct table *t, uint64_t key, uint32_t slot)
{
    must(t->used < t->capacity);
    if (t->used > t->mask / 2)
        table_grow(t);
    entry_put(t, (struct table_entry){.tag = (uint32_t)key, .slot = slot + 1});
    t->used++;
}

void table_remove(struct table *t, uint64_t key, uint32_t slot)
{
    uint32_t hole = (uint32_t)key & t->mask, at;

    while (t->entries[hole].slot != slot + 1) {
        must(t->entries[hole].slot != 0);
        hole = (hole + 1) & t->mask;
    }
    for (at = (hole + 1) & t->mask; t->entries[at].slot != 0; at = (at + 1) & t->mask) {
        /* Moves up only what may stand in the hole: its home is not between hole and at. */
        if (((at - t->entries[at].tag) & t->mask) < ((at - hole) & t->mask))
            continue;
        t->entries[hole] = t->entries[at];
        hole = at;
    }
    t->entries[hole].slot = 0;
    t->used--;
}

uint32_t table_find(const struct table *t, uint64_t key, uint32_t *cursor)
{
    uint32_t tag = (uint32_t)key, at;

    for (at = (tag + *cursor) & t->mask; t->entries[at].slot != 0; at = (at + 1) & t->mask) {
        ++*cursor;
        if (t->entries[at].tag == tag)
            return t->entries[at].slot - 1;
    }
    return UINT32_MAX;
}
