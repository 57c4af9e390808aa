/* SPDX-License-Identifier: Apache-2.0 */
/* What engines tell of their content, and the prompts of requests that they are still reading. */
#include "common/must.h"
#include "scheduler/prefix_store.h"

static void run_tell(struct prefix *p, uint32_t run, uint32_t engine)
{
    uint32_t hold = hold_get(p, run, engine), len = run_at(p, run)->len;
    struct hold *h = hold_at(p, hold);

    p->shelves[engine].told += len - h->told;
    h->told = len;
    hold_fit(p, hold);
}

void prefix_stored(struct prefix *p, uint32_t engine, uint64_t parent, const uint64_t *ids,
                   uint32_t n)
{
    struct step s, before = {0};
    uint32_t i, hold, told, run;

    must(engine < ENGINES_MAX);
    ids_every(p);
    if (parent != 0 && !step_find(p, &parent, 1, &before)) {
        p->unknown_parents++;
        return;
    }
    p->path_count = 0;
    if (parent != 0 && before.off + 1 == run_at(p, before.run)->len)
        path_push(p, before.run);
    for (i = 0; i < n; i += s.count) {
        if (!step_find(p, ids + i, n - i, &s)) {
            run = run_new(p, ids + i, n - i, &s.count);
        } else {
            hold = hold_find(p, s.run, engine);
            told = hold != 0 ? hold_at(p, hold)->told : 0;
            if (told >= s.off + s.count) {
                path_push(p, s.count == run_at(p, s.run)->len ? s.run : 0);
                continue;
            }
            run = run_isolate(p, s.run, told > s.off ? told : s.off, s.off + s.count);
        }
        run_tell(p, run, engine);
        path_push(p, run);
    }
    path_join(p);
}

/* Engines drop blocks in any order, but those in a row go at once. */
static void stretch(const struct prefix *p, struct step *s, const uint64_t *ids, uint32_t n)
{
    const struct run *r = run_at(p, s->run);
    const uint64_t *d = p->slots.digests + r->start + s->off;

    n = r->len - s->off < n ? r->len - s->off : n;
    while (s->count < n && d[s->count] == ids[s->count])
        s->count++;
}

void prefix_removed(struct prefix *p, uint32_t engine, const uint64_t *ids, uint32_t n)
{
    struct step s;
    uint32_t i, hold, told;

    must(engine < ENGINES_MAX);
    ids_every(p);
    for (i = 0; i < n; i += s.count) {
        s.count = 1;
        if (!step_find(p, ids + i, 1, &s))
            continue;
        stretch(p, &s, ids + i, n - i);
        hold = hold_find(p, s.run, engine);
        told = hold != 0 ? hold_at(p, hold)->told : 0;
        if (told <= s.off)
            continue;
        if (told > s.off + s.count) {
            (void)run_isolate(p, s.run, 0, s.off + s.count);
            told = s.off + s.count;
        }
        p->shelves[engine].told -= told - s.off;
        hold_at(p, hold)->told = s.off;
        hold_fit(p, hold);
        run_settle(p, s.run);
    }
}

bool prefix_is_told(const struct prefix *p, uint32_t engine, uint64_t digest)
{
    struct step s;
    uint32_t hold;

    must(engine < ENGINES_MAX);
    if (!step_find(p, &digest, 1, &s))
        return false;
    hold = hold_find(p, s.run, engine);
    return hold != 0 && hold_at(p, hold)->told > s.off;
}

uint64_t prefix_told(const struct prefix *p, uint32_t engine)
{
    must(engine < ENGINES_MAX);
    return p->shelves[engine].told;
}

uint64_t prefix_pin(struct prefix *p, uint32_t engine, const uint64_t *d, uint32_t n)
{
    uint32_t part, generation, i, hold;

    must(engine < ENGINES_MAX);
    part = crate_take(&p->parts);
    generation = part_at(p, part)->generation + 1;
    *part_at(p, part) = (struct part){.generation = generation, .engine = engine, .pin = true};
    path_carve(p, d, n);
    for (i = 0; i < p->path_count; i++) {
        uint32_t run = path_run(p, i);

        member_add(p, part, run);
        hold = hold_get(p, run, engine);
        hold_at(p, hold)->pins++;
        hold_fit(p, hold);
    }
    p->pins++;
    return (uint64_t)generation << 32 | part;
}

void prefix_unpin(struct prefix *p, uint64_t pin)
{
    uint32_t part = (uint32_t)pin;

    if (part == 0 || part >= p->parts.fresh || !part_at(p, part)->pin ||
        part_at(p, part)->generation != pin >> 32)
        return;
    part_empty(p, part);
    part_at(p, part)->pin = false;
    crate_give(&p->parts, part);
    p->pins--;
}
