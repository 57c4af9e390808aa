/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/hash_ring.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/must.h"
#include "scheduler/md5.h"

struct ring_point {
    struct md5 at;
    uint32_t engine;
};

void ring_fini(struct hash_ring *r)
{
    free(r->points);
    *r = (struct hash_ring){0};
}

static bool is_above(const struct md5 *a, const struct md5 *b)
{
    return a->hi > b->hi || (a->hi == b->hi && a->lo > b->lo);
}

static int point_compare(const void *a, const void *b)
{
    const struct ring_point *x = a, *y = b;

    if (is_above(&x->at, &y->at))
        return 1;
    return is_above(&y->at, &x->at) ? -1 : 0;
}

static void ring_build(struct hash_ring *r, const struct fleet *f)
{
    uint32_t nodes = 0;

    set_for(i, &f->used) nodes++;
    if (nodes * RING_POINTS > r->cap) {
        r->cap = nodes * RING_POINTS;
        r->points = realloc(r->points, r->cap * sizeof(*r->points));
        must(r->points != NULL);
    }
    r->count = 0;
    set_for(i, &f->used)
    {
        const struct engine *e = &f->engines[i];

        for (uint32_t k = 0; k < RING_POINTS; k++) {
            char name[sizeof(e->id) + 16];
            int len = snprintf(name, sizeof(name), "%s-%u", e->id, k);

            r->points[r->count++] =
                (struct ring_point){.at = md5_of(name, (size_t)len), .engine = i};
        }
        r->generation[i] = e->generation;
    }
    r->nodes = f->used;
    qsort(r->points, r->count, sizeof(*r->points), point_compare);
}

void ring_sync(struct hash_ring *r, const struct fleet *f, const struct engine_set *set)
{
    set_for(i, set)
    {
        if (set_has(&r->nodes, i) && r->generation[i] == f->engines[i].generation)
            continue;
        ring_build(r, f);
        return;
    }
}

uint32_t ring_find(const struct hash_ring *r, const void *key, size_t len,
                   const struct engine_set *set)
{
    struct md5 at = md5_of(key, len);
    uint32_t low = 0, high = r->count;

    while (low < high) { /* the first point above */
        uint32_t mid = low + (high - low) / 2;

        if (is_above(&r->points[mid].at, &at))
            high = mid;
        else
            low = mid + 1;
    }
    for (uint32_t i = 0; i < r->count; i++) {
        uint32_t engine = r->points[(low + i) % r->count].engine;

        if (set_has(set, engine))
            return engine;
    }
    must(false); /* a member of set is not in the ring */
    return ENGINE_NONE;
}
