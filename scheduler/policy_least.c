/* SPDX-License-Identifier: Apache-2.0 */
#include "common/must.h"
#include "scheduler/state.h"

struct engine *least_pick(struct core *c, struct model *m, struct engine_set set)
{
    struct engine *best = NULL;
    uint32_t start = set_next(&set, m->turn + 1), i;

    if (start == ENGINE_NONE)
        start = set_next(&set, 0);
    must(start != ENGINE_NONE);
    i = start;
    do {
        struct engine *e = &c->fleet.engines[i];

        if (best == NULL || e->running < best->running)
            best = e;
        i = set_next(&set, i + 1);
        if (i == ENGINE_NONE)
            i = set_next(&set, 0);
    } while (i != start);
    m->turn = best->index;
    return best;
}

static bool least_place(struct core *c, const struct ask *ask, struct choice *out)
{
    out->engine = least_pick(c, ask->model, ask->may);
    out->reason = REASON_LEAST;
    return true;
}

const struct policy policy_least = {.name = "least", .place = least_place};
