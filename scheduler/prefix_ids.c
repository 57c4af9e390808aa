/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "common/must.h"
#include "scheduler/prefix_store.h"

#define IDS_START 1024u
#define TAIL 8u   /* blocks of a prompt that are likely to be new */
#define AHEAD 12u /* entries that are fetched while earlier ones are looked at */

static uint32_t tag_of(const struct prefix *p, uint64_t d)
{
    return (uint32_t)table_mix(d ^ p->seed);
}

static void entry_put(struct id_map *m, struct id_entry e)
{
    uint32_t at = e.tag & m->mask;

    while (m->entries[at].slot != 0)
        at = (at + 1) & m->mask;
    m->entries[at] = e;
}

static void ids_resize(struct id_map *m, uint32_t size)
{
    struct id_entry *old = m->entries;
    uint32_t old_size = old != NULL ? m->mask + 1 : 0, i;

    m->entries = calloc(size, sizeof(*old));
    must(m->entries != NULL);
    m->mask = size - 1;
    for (i = 0; i < old_size; i++)
        if (old[i].slot != 0)
            entry_put(m, old[i]);
    free(old);
}

void ids_fit(struct id_map *m, uint64_t count)
{
    uint64_t size = m->entries != NULL ? (uint64_t)m->mask + 1 : IDS_START;

    while (size / 4 * 3 < count)
        size *= 2;
    must(size <= SLOT_FREE);
    if (m->entries == NULL || size > (uint64_t)m->mask + 1)
        ids_resize(m, (uint32_t)size);
}

void ids_fini(struct id_map *m)
{
    free(m->entries);
    *m = (struct id_map){0};
}

static uint32_t entry_find(const struct prefix *p, uint64_t d) /* or the empty one it would take */
{
    const struct id_map *m = &p->ids;
    uint32_t tag = tag_of(p, d), at = tag & m->mask;

    while (m->entries[at].slot != 0 &&
           (m->entries[at].tag != tag || p->slots.digests[m->entries[at].slot - 1] != d))
        at = (at + 1) & m->mask;
    return at;
}

uint32_t id_find(const struct prefix *p, uint64_t d)
{
    return p->ids.entries[entry_find(p, d)].slot - 1; /* SLOT_NONE when empty */
}

void prefix_expect(const struct prefix *p, const uint64_t *d, uint32_t n, uint32_t step)
{
    uint32_t tag = tag_of(p, d[0]);
    const struct id_entry *e = &p->ids.entries[tag & p->ids.mask];
    const struct run *r;

    if (step == 0) {
        __builtin_prefetch(e);
        for (uint32_t i = n > TAIL ? n - TAIL : 1; i < n; i++)
            __builtin_prefetch(&p->ids.entries[tag_of(p, d[i]) & p->ids.mask]);
    } else if (e->slot == 0 || e->tag != tag) {
        return;
    } else if (step == 1) {
        __builtin_prefetch(&p->slots.digests[e->slot - 1]);
        __builtin_prefetch(&p->slots.owners[e->slot - 1]);
    } else {
        r = run_at(p, p->slots.owners[e->slot - 1]);
        __builtin_prefetch(r);
        __builtin_prefetch((const char *)(r + 1) - 1);
    }
}

bool id_leads_to(const struct prefix *p, uint32_t slot)
{
    const struct id_map *m = &p->ids;
    uint32_t at = tag_of(p, p->slots.digests[slot]) & m->mask;

    while (m->entries[at].slot != 0 && m->entries[at].slot != slot + 1)
        at = (at + 1) & m->mask;
    return m->entries[at].slot != 0;
}

static void entry_add(struct prefix *p, uint32_t at, uint64_t d, uint32_t slot)
{
    struct id_map *m = &p->ids;

    m->entries[at] = (struct id_entry){.tag = tag_of(p, d), .slot = slot + 1};
    /* Heads are few, and asked for by digests that are none: most of those should find a gap. */
    if (++m->used > (p->every ? m->mask / 4 * 3 : m->mask / 3))
        ids_resize(m, (m->mask + 1) * 2);
}

static void entry_remove(struct prefix *p, uint32_t slot)
{
    struct id_map *m = &p->ids;
    uint32_t hole = tag_of(p, p->slots.digests[slot]) & m->mask, at;

    while (m->entries[hole].slot != slot + 1)
        hole = (hole + 1) & m->mask;
    for (at = (hole + 1) & m->mask; m->entries[at].slot != 0; at = (at + 1) & m->mask) {
        /* Moves up only what may stand in the hole: its home is not between hole and at. */
        if (((at - m->entries[at].tag) & m->mask) < ((at - hole) & m->mask))
            continue;
        m->entries[hole] = m->entries[at];
        hole = at;
    }
    m->entries[hole].slot = 0;
    m->used--;
}

void head_add(struct prefix *p, uint32_t slot)
{
    uint64_t d = p->slots.digests[slot];
    uint32_t at = tag_of(p, d) & p->ids.mask;

    if (p->every)
        return;
    while (p->ids.entries[at].slot != 0)
        at = (at + 1) & p->ids.mask;
    entry_add(p, at, d, slot);
}

void head_drop(struct prefix *p, uint32_t slot)
{
    if (!p->every)
        entry_remove(p, slot);
}

static uint32_t heads_add_new(struct prefix *p, const uint64_t *d, uint32_t n, uint32_t slot)
{
    uint64_t *digests = p->slots.digests + slot;
    uint32_t i;

    digests[0] = d[0];
    head_add(p, slot);
    for (i = 1; i < n && id_find(p, d[i]) == SLOT_NONE; i++)
        digests[i] = d[i];
    return i;
}

uint32_t ids_add_new(struct prefix *p, const uint64_t *d, uint32_t n, uint32_t slot)
{
    struct id_map *m = &p->ids;
    uint32_t i, at;

    if (!p->every)
        return heads_add_new(p, d, n, slot);
    for (i = 0; i < n; i++) {
        if (i + AHEAD < n)
            __builtin_prefetch(&m->entries[tag_of(p, d[i + AHEAD]) & m->mask], 1);
        at = entry_find(p, d[i]);
        if (m->entries[at].slot != 0)
            break;
        p->slots.digests[slot + i] = d[i];
        entry_add(p, at, d[i], slot + i);
    }
    return i;
}

void ids_remove(struct prefix *p, uint32_t slot, uint32_t n)
{
    const struct id_map *m = &p->ids;

    for (uint32_t i = 0; p->every && i < n; i++) {
        if (i + AHEAD < n)
            __builtin_prefetch(&m->entries[tag_of(p, p->slots.digests[slot + i + AHEAD]) & m->mask],
                               1);
        entry_remove(p, slot + i);
    }
}

void ids_move(struct prefix *p, uint32_t from, uint32_t to, uint32_t n)
{
    const struct id_map *m = &p->ids;
    uint64_t *digests = p->slots.digests;
    uint32_t i, at;

    memcpy(digests + to, digests + from, n * sizeof(*digests));
    for (i = 0; p->every && i < n; i++) {
        if (i + AHEAD < n)
            __builtin_prefetch(&m->entries[tag_of(p, digests[from + i + AHEAD]) & m->mask], 1);
        at = tag_of(p, digests[from + i]) & m->mask;
        while (m->entries[at].slot != from + i + 1)
            at = (at + 1) & m->mask;
        m->entries[at].slot = to + i + 1;
    }
}

void ids_every(struct prefix *p)
{
    if (p->every)
        return;
    p->every = true;
    ids_fini(&p->ids);
    ids_fit(&p->ids, p->blocks);
    for (uint32_t run = 1; run < p->runs.fresh; run++) {
        const struct run *r = run_at(p, run); /* free ones have no blocks */

        for (uint32_t slot = r->start; slot < r->start + r->len; slot++)
            entry_put(&p->ids, (struct id_entry){tag_of(p, p->slots.digests[slot]), slot + 1});
        for (uint32_t i = 0; r->len > 0 && i < r->capacity; i++)
            p->slots.owners[r->start + i] = run;
        p->ids.used += r->len;
    }
}
