/* SPDX-License-Identifier: Apache-2.0 */
/* Footprints: which blocks a workflow has used on which engine, whatever is left of them there. */
#include "common/must.h"
#include "scheduler/prefix_store.h"

static uint32_t foot_part(const struct prefix *p, const struct foot *f, uint32_t engine)
{
    uint32_t part = f->parts;

    while (part != 0 && part_at(p, part)->engine != engine)
        part = part_at(p, part)->next;
    return part;
}

uint32_t foot_add(struct prefix *p, struct foot *f, uint32_t engine, const uint64_t *d, uint32_t n)
{
    uint32_t part = foot_part(p, f, engine), i, run, added = 0;
    struct step s;

    must(engine < ENGINES_MAX);
    if (part == 0) {
        if (n == 0)
            return 0;
        part = crate_take(&p->parts);
        *part_at(p, part) = (struct part){
            .engine = engine, .next = f->parts, .generation = part_at(p, part)->generation};
        f->parts = part;
    }
    p->path_count = 0;
    for (i = 0; i < n; i += s.count) {
        if (!step_find(p, d + i, n - i, &s)) {
            run = run_new(p, d + i, n - i, &s.count);
        } else if (member_find(p, part, s.run) != 0) {
            path_push(p, s.count == run_at(p, s.run)->len ? s.run : 0);
            continue;
        } else {
            run = run_isolate(p, s.run, s.off, s.off + s.count);
        }
        path_push(p, run);
        member_add(p, part, run);
        added += s.count;
    }
    path_join(p);
    part_at(p, part)->blocks += added;
    f->total += added;
    return added;
}

uint32_t foot_known(const struct prefix *p, const struct foot *f, const uint64_t *d, uint32_t n)
{
    struct engine_set live = {0};
    struct step s;
    uint32_t i, part;

    for (part = f->parts; part != 0; part = part_at(p, part)->next)
        set_add(&live, part_at(p, part)->engine);
    for (i = 0; i < n && step_find(p, d + i, n - i, &s); i += s.count) {
        for (part = f->parts; part != 0; part = part_at(p, part)->next)
            if (set_has(&live, part_at(p, part)->engine) && member_find(p, part, s.run) == 0)
                set_remove(&live, part_at(p, part)->engine);
        if (set_is_empty(&live))
            break;
    }
    return i;
}

uint32_t foot_blocks(const struct prefix *p, const struct foot *f, uint32_t engine)
{
    uint32_t part = foot_part(p, f, engine);

    return part != 0 ? part_at(p, part)->blocks : 0;
}

uint64_t foot_total(const struct foot *f)
{
    return f->total;
}

void foot_drop(struct prefix *p, struct foot *f, uint32_t engine)
{
    uint32_t part, prev = 0;

    for (part = f->parts; part != 0; part = part_at(p, part)->next) {
        if (part_at(p, part)->engine == engine)
            break;
        prev = part;
    }
    if (part == 0)
        return;
    if (prev != 0)
        part_at(p, prev)->next = part_at(p, part)->next;
    else
        f->parts = part_at(p, part)->next;
    f->total -= part_at(p, part)->blocks;
    part_empty(p, part);
    crate_give(&p->parts, part);
}

void foot_clear(struct prefix *p, struct foot *f)
{
    while (f->parts != 0)
        foot_drop(p, f, part_at(p, f->parts)->engine);
}
