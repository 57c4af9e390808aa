/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "common/clock.h"
#include "scheduler/brain.h"
#include "scheduler/state.h"

/*
 * The cost of engine e for a request of n tokens, u of them not cached there, in seconds:
 *
 *   its queue, its own prefill, the workflows stalled by that (2 + W), live KV pushed out by it;
 *   half of what decoding slows down, 200 steps of its own and 100 of each running request;
 *   the touch cost: one more engine on which a long prefill may stall a sibling, by the
 *     Pollaczek-Khinchine mean wait rate * E[T^2] / 2 per engine;
 *   for a workflow without a home, the refill of a typical one where live ones fill the cache.
 *
 * The externality counts workflows, not requests: 16 siblings stalled by one prefill are one late
 * workflow.
 */
#define STEPS_OWN 200.0
#define STEPS_OTHERS 100.0
#define TOUCH_SECONDS 60.0
#define HOME_PULL 1.0 /* seconds */

struct brain_fleet brain_fleet(const struct core *c)
{
    struct brain_fleet f = {0};

    set_for(i, &c->fleet.alive)
    {
        const struct engine *e = &c->fleet.engines[i];

        f.engines++;
        f.tok += e->time.tok;
        f.attn += e->time.attn;
        f.capacity += brain_capacity(c, e);
    }
    if (f.engines == 0) {
        f.capacity = ENGINE_KV_TOKENS;
        f.engines = 1;
    }
    f.tok *= c->brain.opt.terr / f.engines;
    f.attn *= c->brain.opt.terr / f.engines;
    f.capacity /= f.engines;
    return f;
}

double brain_prefill_s(const struct brain_fleet *f, double u, double n)
{
    return f->tok * u + f->attn * u * (n - u / 2);
}

double brain_refill_s(const struct brain_fleet *f, double tokens)
{
    return brain_prefill_s(f, tokens, tokens);
}

double brain_capacity(const struct core *c, const struct engine *e)
{
    return (double)engine_capacity(e) * c->brain.opt.cerr;
}

double brain_claims(const struct engine *e, double block)
{
    return (double)e->claims / CLAIM_UNIT * block;
}

static bool is_on(const struct workflow *w, const struct engine *e)
{
    list_for(pos, &w->stays)
    {
        if (container_of(pos, struct stay, of_workflow)->engine == e)
            return true;
    }
    return false;
}

/* After a restart nothing is known but the home: it should hold what it held. */
static double cached(const struct ask *ask, const struct engine *e)
{
    const struct workflow *w = ask->workflow;
    double seen = ask->cached[e->index], before;

    if (w == NULL || w->home != e->index || w->restored_tokens == 0)
        return seen;
    before = w->restored_tokens < ask->tokens ? (double)w->restored_tokens : ask->tokens;
    return before > seen ? before : seen;
}

static double cost(const struct core *c, const struct ask *ask, const struct engine *e,
                   double touch)
{
    const struct workflow *w = ask->workflow;
    double n = ask->tokens, u = n - cached(ask, e), m = e->running;
    double block = c->conf.text_block / ask->model->ratio, capacity = brain_capacity(c, e);
    double full = brain_claims(e, block) / capacity, terr = c->brain.opt.terr, f;
    double kv = e->time.kv * c->brain.opt.kerr, seq = e->time.seq * c->brain.opt.kerr;
    double t = terr * engine_prefill_s(e, u > 1 ? u : 1, n);
    double j = e->q_seconds + t * (2 + e->workflows + 2 * (full < 1 ? full : 1));

    j += 0.5 * (STEPS_OWN * (kv * (e->x_tokens + n) + seq * m) + STEPS_OTHERS * m * (kv * n + seq));
    if (w != NULL && w->inflight > 0 && !is_on(w, e))
        j += touch;
    if (w != NULL && w->home == ENGINE_NONE) {
        f = c->brain.mfoot > n ? c->brain.mfoot : n;
        j += terr * engine_prefill_s(e, f, f) * full;
    }
    return j;
}

void brain_costs(struct core *c, const struct ask *ask)
{
    uint32_t engines = 0;
    double touch = load_burst(c);

    set_for(i, &ask->able) engines++;
    touch /= 2 * TOUCH_SECONDS * engines;
    set_for(i, &ask->may)
    {
        ask->cost[i] = cost(c, ask, &c->fleet.engines[i], touch);
        /* What rounding left of queues must not tell idle engines apart for ever. */
        if (!c->brain.opt.reference)
            ask->cost[i] = nearbyint(ask->cost[i] * NS_PER_S) / NS_PER_S;
    }
}

/* A prompt of less than one block says nothing about caches: it goes home, unless that costs a
 * second more. */
static double pulled(const struct ask *ask, uint32_t i)
{
    bool home = ask->blocks == 0 && ask->workflow != NULL && ask->workflow->home == i;

    return ask->cost[i] - (home ? HOME_PULL : 0);
}

struct engine *brain_cheapest(struct core *c, const struct ask *ask, const struct engine_set *set)
{
    uint32_t count = core_engine_count(c), previous = ENGINE_NONE;
    uint32_t best = ENGINE_NONE, best_turn = 0, from = (uint32_t)(ask->model->dispatches % count);

    if (ask->agent != NULL)
        previous = ask->agent->engine;
    set_for(i, set)
    {
        /* Ties: the agent's previous engine comes first, the others in turn. */
        uint32_t turn = i == previous ? 0 : 1 + (i + count - from) % count;

        if (best == ENGINE_NONE || pulled(ask, i) < pulled(ask, best) ||
            (pulled(ask, i) <= pulled(ask, best) && turn < best_turn)) {
            best = i;
            best_turn = turn;
        }
    }
    return best != ENGINE_NONE ? &c->fleet.engines[best] : NULL;
}
