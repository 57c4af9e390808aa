/* SPDX-License-Identifier: Apache-2.0 */
#include "common/must.h"
#include "scheduler/state.h"

/*
 * Sticky homes: a workflow's requests go where its KV cache is.
 *
 * The home is chosen at the first request, the engine that holds the fewest tokens of homed live
 * workflows, and kept while that engine lives, serves the model and is not draining. A home that is
 * far busier than the mean is left for one request at a time: the mean times load_bound, plus
 * load_slack.
 */
static void least_for(struct core *c, const struct ask *ask, struct engine_set set,
                      enum reason reason, struct choice *out)
{
    out->engine = least_pick(c, ask->model, set);
    out->reason = reason;
}

static bool is_overloaded(const struct core *c, const struct ask *ask, const struct engine *home)
{
    uint64_t running = 0, count = 0;

    set_for(i, &ask->able)
    {
        running += c->fleet.engines[i].running;
        count++;
    }
    must(count > 0);
    return (double)home->running >
           c->conf.load_bound * (double)running / (double)count + c->conf.load_slack;
}

static uint64_t rendezvous(const struct workflow *w, const struct engine *e)
{
    return table_mix(w->key_lo ^ e->id_hash);
}

static struct engine *home_pick(struct core *c, const struct ask *ask, bool by_tokens)
{
    struct engine *best = NULL;

    set_for(i, &ask->may)
    {
        struct engine *e = &c->fleet.engines[i];

        if (best == NULL || (by_tokens && e->home_tokens < best->home_tokens) ||
            ((!by_tokens || e->home_tokens == best->home_tokens) &&
             rendezvous(ask->workflow, e) > rendezvous(ask->workflow, best)))
            best = e;
    }
    must(best != NULL);
    return best;
}

static void at_home(struct core *c, const struct ask *ask, struct engine *home, struct choice *out)
{
    struct engine_set others = ask->may;
    bool strict = ask->query->strategy == PLACE_STRICT;

    set_remove(&others, home->index);
    *out = (struct choice){.engine = home, .reason = REASON_HOME};
    for (uint32_t i = 0; i < ask->query->avoid_count; i++)
        if (ask->query->avoid[i] == home->index) {
            least_for(c, ask, ask->may, REASON_RETRY, out);
            return;
        }
    if (!strict && !set_is_empty(&others) && is_overloaded(c, ask, home))
        least_for(c, ask, others, REASON_OVERLOAD, out);
}

static bool is_kept(const struct ask *ask, const struct engine *home)
{
    if (!set_has(&ask->able, home->index))
        return false;
    return !home->draining || ask->query->strategy == PLACE_STRICT ||
           set_has(&ask->may, home->index);
}

static bool workflow_place(struct core *c, const struct ask *ask, struct choice *out)
{
    struct workflow *w = ask->workflow;
    struct engine *home;

    if (w == NULL) {
        return c->fallback->place(c, ask, out);
    }
    if (ask->query->strategy == PLACE_ISOLATED || ask->query->strategy == PLACE_SPREAD) {
        least_for(c, ask, ask->may,
                  ask->query->strategy == PLACE_SPREAD ? REASON_SPREAD : REASON_ISOLATED, out);
        return true;
    }
    home = workflow_home(c, w);
    if (home != NULL && is_kept(ask, home)) {
        at_home(c, ask, home, out);
        return true;
    }
    if (home != NULL && set_has(&c->fleet.alive, home->index) && !home->draining) {
        /* A second model, served elsewhere: its place needs no memory. */
        out->engine = home_pick(c, ask, false);
        out->reason = REASON_OTHER_MODEL;
        return true;
    }
    out->engine = home_pick(c, ask, true);
    out->reason = w->home == ENGINE_NONE ? REASON_NEW : REASON_REHOMED;
    return true;
}

static void workflow_dispatched(struct core *c, struct lease *l)
{
    struct workflow *w = l->workflow;

    if (w == NULL || l->engine == NULL)
        return;
    if (l->reason == REASON_NEW || l->reason == REASON_REHOMED)
        workflow_set_home(c, w, l->engine);
    /* Whoever placed it without us has made that engine warm. */
    if ((l->reason == REASON_ALONE || l->reason == REASON_RESUMED) && workflow_home(c, w) == NULL)
        workflow_set_home(c, w, l->engine);
}

const struct policy policy_workflow = {
    .name = "workflow", .place = workflow_place, .dispatched = workflow_dispatched};
