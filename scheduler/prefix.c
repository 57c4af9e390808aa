/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/prefix.h"

#include <stdlib.h>
#include <string.h>

#include "common/must.h"
#include "scheduler/prefix_store.h"

#define TABLE_MOST (UINT32_C(1) << 29)

struct prefix *prefix_new(uint64_t hash_seed)
{
    struct prefix *p = calloc(1, sizeof(*p));

    must(p != NULL);
    p->seed = hash_seed;
    slots_init(&p->slots);
    ids_fit(&p->ids, 0);
    table_init(&p->mates, TABLE_MOST);
    crate_init(&p->runs, sizeof(struct run));
    crate_init(&p->holds, sizeof(struct hold));
    crate_init(&p->parts, sizeof(struct part));
    crate_init(&p->members, sizeof(struct member));
    return p;
}

void prefix_reserve(struct prefix *p, uint64_t blocks)
{
    if (p->every)
        ids_fit(&p->ids, blocks);
    slots_fit(&p->slots, blocks + blocks / 3);
}

void prefix_free(struct prefix *p)
{
    if (p == NULL)
        return;
    slots_fini(&p->slots);
    ids_fini(&p->ids);
    table_fini(&p->mates);
    free(p->runs.items);
    free(p->holds.items);
    free(p->parts.items);
    free(p->members.items);
    free(p->path);
    free(p);
}

/* For those of set the match ends right behind the blocks of last. */
static void match_end(const struct prefix *p, const struct engine_set *set, const struct step *last,
                      uint32_t blocks, struct prefix_hit *hits)
{
    const struct run *r = run_at(p, last->run);

    if (blocks == 0)
        return;
    set_for(e, set) hits[e].blocks = blocks;
    if (r->gens == 0)
        return;
    for (uint32_t i = r->holds; i != 0; i = hold_at(p, i)->next) {
        const struct hold *h = hold_at(p, i);

        if (h->gen_at == last->off + last->count && set_has(set, h->engine))
            hits[h->engine].gen_tokens = h->gen_tokens;
    }
}

/* Those of live that hold less of the run than the prompt has of it leave. */
static void match_leave(const struct prefix *p, struct engine_set *live, const struct step *s,
                        const struct step *last, uint32_t blocks, struct prefix_hit *hits)
{
    struct engine_set leaving = set_minus(*live, run_at(p, s->run)->full);

    if (set_is_empty(&leaving))
        return;
    for (uint32_t i = run_at(p, s->run)->holds; i != 0; i = hold_at(p, i)->next) {
        const struct hold *h = hold_at(p, i);
        uint32_t cover = hold_cover(p, h);

        if (cover <= s->off || !set_has(&leaving, h->engine))
            continue;
        set_remove(&leaving, h->engine);
        if (cover >= s->off + s->count)
            continue;
        set_remove(live, h->engine);
        hits[h->engine].blocks = blocks + cover - s->off;
        hits[h->engine].gen_tokens = h->gen_at == cover ? h->gen_tokens : 0;
    }
    match_end(p, &leaving, last, blocks, hits);
    *live = set_minus(*live, leaving);
}

uint32_t prefix_match(const struct prefix *p, const uint64_t *d, uint32_t n,
                      const struct engine_set *who, struct prefix_hit *hits)
{
    struct engine_set live = *who;
    struct step s, last = {0};
    uint32_t i = 0, most = 0;

    memset(hits, 0, ENGINES_MAX * sizeof(*hits));
    while (i < n && !set_is_empty(&live) && step_find(p, d + i, n - i, &s)) {
        match_leave(p, &live, &s, &last, i, hits);
        last = s;
        i += s.count;
    }
    match_end(p, &live, &last, i, hits);
    set_for(e, who) most = hits[e].blocks > most ? hits[e].blocks : most;
    return most;
}

static void run_use(struct prefix *p, uint32_t run, uint32_t engine, uint64_t now)
{
    uint32_t hold = hold_get(p, run, engine);
    struct hold *h = hold_at(p, hold);
    uint32_t len = run_at(p, run)->len;

    hold_unlink(p, hold);
    p->shelves[engine].held += len - h->held;
    h->held = len;
    h->stamp = now;
    hold_link(p, hold);
    hold_fit(p, hold);
}

static void path_use(struct prefix *p, uint32_t engine, uint64_t now)
{
    for (uint32_t i = p->path_count; i-- > 0;)
        run_use(p, path_run(p, i), engine, now);
}

void prefix_enter(struct prefix *p, uint32_t engine, const uint64_t *d, uint32_t n, uint64_t now)
{
    struct step s;
    uint32_t i, hold, held;

    must(engine < ENGINES_MAX);
    p->path_count = 0;
    for (i = 0; i < n; i += s.count) {
        if (!step_find(p, d + i, n - i, &s)) {
            path_mark(p, run_new(p, d + i, n - i, &s.count));
            continue;
        }
        if (run_at(p, s.run)->marked)
            continue;
        hold = hold_find(p, s.run, engine);
        held = hold != 0 ? hold_at(p, hold)->held : 0;
        if (held < s.off + s.count)
            path_mark(p, run_isolate(p, s.run, held > s.off ? held : s.off, s.off + s.count));
    }
    path_use(p, engine, now);
}

void prefix_refresh(struct prefix *p, uint32_t engine, const uint64_t *d, uint32_t n, uint64_t now)
{
    must(engine < ENGINES_MAX);
    path_carve(p, d, n);
    path_use(p, engine, now);
    path_join(p);
}

/* What the list has of the step from its block from on. */
static void step_leave(struct prefix *p, uint32_t engine, struct step s, uint32_t from)
{
    uint32_t hold = hold_find(p, s.run, engine), held = hold != 0 ? hold_at(p, hold)->held : 0;

    if (held <= s.off + from)
        return;
    if (held > s.off + s.count) {
        (void)run_isolate(p, s.run, 0, s.off + s.count);
        held = s.off + s.count;
    }
    p->shelves[engine].held -= held - s.off - from;
    hold_at(p, hold)->held = s.off + from;
    hold_fit(p, hold);
    run_settle(p, s.run);
}

void prefix_leave(struct prefix *p, uint32_t engine, const uint64_t *d, uint32_t from, uint32_t n)
{
    struct step s;

    must(engine < ENGINES_MAX);
    for (uint32_t i = 0; i < n; i += s.count) {
        s.count = 1;
        if (step_find(p, d + i, n - i, &s) && i + s.count > from)
            step_leave(p, engine, s, from > i ? from - i : 0);
    }
}

uint64_t prefix_stamp(const struct prefix *p, uint32_t engine, const uint64_t *d, uint32_t n)
{
    struct step s;
    uint32_t hold;

    if (!tail_find(p, d, n, &s))
        return 0;
    hold = hold_find(p, s.run, engine);
    return hold != 0 && hold_at(p, hold)->held > s.off ? hold_at(p, hold)->stamp : 0;
}

static void oldest_shorten(struct prefix *p, struct shelf *s, uint32_t blocks)
{
    uint32_t hold = s->oldest, run = hold_at(p, hold)->run;

    hold_at(p, hold)->held -= blocks;
    s->held -= blocks;
    hold_fit(p, hold);
    run_settle(p, run);
}

/* In use: becomes the most recent instead of being dropped. */
static void hold_spare(struct prefix *p, uint32_t hold)
{
    struct shelf *s = &p->shelves[hold_at(p, hold)->engine];

    if (s->newest == hold)
        return;
    hold_unlink(p, hold);
    hold_at(p, hold)->stamp = hold_at(p, s->newest)->stamp;
    hold_link(p, hold);
}

bool prefix_bound(struct prefix *p, uint32_t engine, uint64_t blocks)
{
    struct shelf *s = &p->shelves[engine];
    uint64_t unseen, before;

    must(engine < ENGINES_MAX);
    before = unseen = s->held; /* the rest are pinned, and stand behind these */
    while (s->held > blocks) {
        uint64_t most = hold_at(p, s->oldest)->held, over = s->held - blocks;

        if (unseen > 0 && hold_at(p, s->oldest)->pins > 0) {
            hold_spare(p, s->oldest);
            unseen -= most;
            continue;
        }
        over = over < most ? over : most;
        oldest_shorten(p, s, (uint32_t)over);
        unseen -= unseen < over ? unseen : over;
    }
    return s->held < before;
}

struct prefix_hit prefix_listed(const struct prefix *p, uint32_t engine, const uint64_t *d,
                                uint32_t n)
{
    struct prefix_hit hit = {0};
    struct step s;
    uint32_t i;

    must(engine < ENGINES_MAX);
    for (i = 0; i < n && step_find(p, d + i, n - i, &s); i += s.count) {
        uint32_t hold = hold_find(p, s.run, engine), held;
        const struct hold *h = hold_at(p, hold);

        if (hold == 0)
            break;
        held = h->pins > 0 ? run_at(p, s.run)->len : h->held;
        held = held < s.off + s.count ? held : s.off + s.count;
        if (held <= s.off)
            break;
        hit.blocks = i + held - s.off;
        hit.gen_tokens = h->gen_at == held ? h->gen_tokens : 0;
        if (held < s.off + s.count)
            break;
    }
    return hit;
}

void prefix_drop_older(struct prefix *p, uint32_t engine, uint64_t stamp)
{
    struct shelf *s = &p->shelves[engine];

    must(engine < ENGINES_MAX);
    while (s->oldest != 0 && hold_at(p, s->oldest)->stamp < stamp)
        oldest_shorten(p, s, hold_at(p, s->oldest)->held);
}

uint64_t prefix_blocks(const struct prefix *p, uint32_t engine)
{
    must(engine < ENGINES_MAX);
    return p->shelves[engine].held;
}

void prefix_output(struct prefix *p, uint32_t engine, const uint64_t *d, uint32_t n,
                   uint32_t gen_tokens)
{
    struct step s;
    uint32_t hold;
    struct hold *h;

    if (gen_tokens == 0 || !tail_find(p, d, n, &s))
        return;
    hold = hold_find(p, s.run, engine);
    if (hold == 0 || hold_cover(p, hold_at(p, hold)) <= s.off)
        return;
    h = hold_at(p, hold);
    run_at(p, s.run)->gens += h->gen_at == 0;
    h->gen_at = s.off + 1;
    h->gen_tokens = gen_tokens;
}

void prefix_clear(struct prefix *p, uint32_t engine)
{
    struct shelf *s = &p->shelves[engine];
    uint32_t hold, next, run;

    must(engine < ENGINES_MAX);
    /* Without their place in the order all are among the others; some stay there for their pins. */
    while (s->oldest != 0) {
        hold_at(p, s->oldest)->held = 0;
        hold_fit(p, s->oldest);
    }
    for (hold = s->others; hold != 0; hold = next) {
        next = hold_at(p, hold)->newer;
        run = hold_at(p, hold)->run;
        hold_at(p, hold)->told = 0;
        hold_fit(p, hold);
        run_settle(p, run);
    }
    s->held = s->told = 0;
}

void prefix_stats_get(const struct prefix *p, struct prefix_stats *out)
{
    const struct crate *a[] = {&p->runs, &p->holds, &p->parts, &p->members};

    *out = (struct prefix_stats){.blocks = p->blocks,
                                 .runs = p->runs.used,
                                 .pins = p->pins,
                                 .unknown_parents = p->unknown_parents};
    out->bytes = sizeof(*p) + (uint64_t)p->slots.capacity * (sizeof(uint64_t) + sizeof(uint32_t)) +
                 ((uint64_t)p->ids.mask + p->mates.mask + 2) * sizeof(uint64_t) +
                 p->path_capacity * sizeof(*p->path);
    for (unsigned i = 0; i < sizeof(a) / sizeof(a[0]); i++)
        out->bytes += (uint64_t)a[i]->capacity * a[i]->item_bytes;
}
