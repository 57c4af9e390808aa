/* SPDX-License-Identifier: Apache-2.0 */
#include "common/must.h"
#include "scheduler/state.h"
#include "scheduler/turn.h"

struct engine *least_pick(struct core *c, const struct model *m, struct engine_set set)
{
    struct engine *best = NULL;

    turn_for(i, m, &set)
    {
        struct engine *e = &c->fleet.engines[i];

        if (best == NULL || e->running < best->running)
            best = e;
    }
    must(best != NULL);
    return best;
}

static bool least_place(struct core *c, const struct ask *ask, struct choice *out)
{
    *out = (struct choice){least_pick(c, ask->model, ask->may), REASON_LEAST};
    return true;
}

const struct policy policy_least = {.name = "least", .place = least_place};

/* A workflow goes where the fewest requests were when it began, and stays. */
static bool wfleast_place(struct core *c, const struct ask *ask, struct choice *out)
{
    struct engine *home = ask->workflow != NULL ? workflow_home(c, ask->workflow) : NULL;

    if (home != NULL && set_has(&ask->may, home->index)) {
        *out = (struct choice){home, REASON_HOME};
        return true;
    }
    least_place(c, ask, out);
    if (ask->workflow == NULL)
        return true;
    if (home == NULL)
        out->reason = REASON_NEW;
    else if (!set_has(&c->fleet.alive, home->index) || home->draining)
        out->reason = REASON_REHOMED;
    else
        out->reason = set_has(&ask->able, home->index) ? REASON_RETRY : REASON_OTHER_MODEL;
    return true;
}

void home_placed(struct core *c, struct lease *l)
{
    if (l->workflow == NULL || l->engine == NULL)
        return;
    if (l->reason == REASON_NEW || l->reason == REASON_REHOMED ||
        workflow_home(c, l->workflow) == NULL)
        workflow_set_home(c, l->workflow, l->engine);
}

const struct policy policy_wfleast = {
    .name = "wfleast", .place = wfleast_place, .placed = home_placed};
