/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdlib.h>

#include "common/must.h"
#include "scheduler/state.h"
#include "scheduler/turn.h"

/*
 * Policies that give every engine a number and take the best: those that others ship, as they
 * describe them, and the plain cost in seconds that ours grew from.
 */

static double tokens_per_block(const struct core *c, const struct ask *ask)
{
    return c->conf.text_block / ask->model->ratio;
}

static double uncached(const struct ask *ask, uint32_t i)
{
    return ask->cached[i] < ask->tokens ? ask->tokens - ask->cached[i] : 0;
}

/* Tokens that running requests hold in the engine's KV cache: scraped, else those dispatched. */
static double kv_used(const struct engine *e)
{
    return e->stats.has_kv_used ? (double)e->stats.kv_used_tokens : e->x_tokens;
}

/* Requests in the engine's queue: scraped, else those dispatched that have not begun to answer. */
static uint32_t queued(const struct engine *e)
{
    return e->stats.has_waiting ? e->stats.waiting : e->prefilling;
}

/* The lowest ask->cost of set. */
static bool cheapest(struct core *c, const struct ask *ask, const struct engine_set *set,
                     enum reason reason, struct choice *out)
{
    *out = (struct choice){.reason = reason};
    turn_for(i, ask->model, set)
    {
        if (out->engine == NULL || ask->cost[i] < ask->cost[out->engine->index])
            out->engine = &c->fleet.engines[i];
    }
    must(out->engine != NULL);
    return true;
}

/* ---- cost ---- */

/* Seconds until its first token: the prefills ahead of it, and its own. */
static bool cost_place(struct core *c, const struct ask *ask, struct choice *out)
{
    set_for(i, &ask->may)
    {
        const struct engine *e = &c->fleet.engines[i];
        double u = uncached(ask, i);

        ask->cost[i] = e->q_seconds + engine_prefill_s(e, u > 1 ? u : 1, ask->tokens);
    }
    return cheapest(c, ask, &ask->may, REASON_SCORE, out);
}

const struct policy policy_cost = {.name = "cost", .wants_cached = true, .place = cost_place};

/* ---- lmetric ---- */

/* New prefill tokens if it went there, times the batch that they would meet. */
static bool lmetric_place(struct core *c, const struct ask *ask, struct choice *out)
{
    set_for(i, &ask->may)
    {
        const struct engine *e = &c->fleet.engines[i];

        ask->cost[i] = ((double)e->q_tokens + uncached(ask, i) + 1) * (e->running + 1.0);
    }
    return cheapest(c, ask, &ask->may, REASON_SCORE, out);
}

const struct policy policy_lmetric = {
    .name = "lmetric", .wants_cached = true, .place = lmetric_place};

/* ---- dynamo ---- */

struct dynamo {
    double weight;
};

static void *dynamo_start(struct core *c, const struct policy_spec *spec)
{
    struct dynamo *d = calloc(1, sizeof(*d));

    (void)c;
    must(d != NULL);
    d->weight = spec_number(spec, "w");
    return d;
}

/* Prefill blocks to compute, those ahead of it included, and blocks in use by running requests. The
 * request's own blocks of prompt and answer are the same everywhere, less those that are cached. */
static bool dynamo_place(struct core *c, const struct ask *ask, struct choice *out)
{
    const struct dynamo *d = ask->state;
    double block = tokens_per_block(c, ask);

    set_for(i, &ask->may)
    {
        const struct engine *e = &c->fleet.engines[i];
        double cached = ask->cached[i] < ask->tokens ? ask->cached[i] : ask->tokens;

        ask->cost[i] = d->weight * (e->q_seconds / e->time.tok + ask->tokens - cached) / block +
                       (kv_used(e) + ask->tokens - cached) / block;
    }
    return cheapest(c, ask, &ask->may, REASON_SCORE, out);
}

const struct policy policy_dynamo = {.name = "dynamo",
                                     .wants_cached = true,
                                     .place = dynamo_place,
                                     .start = dynamo_start,
                                     .stop = plain_stop};

/* ---- llmd:weights ---- */

struct weights {
    double prefix, queue, kv;
};

static void *weights_start(struct core *c, const struct policy_spec *spec)
{
    struct weights *w = calloc(1, sizeof(*w));

    (void)c;
    must(w != NULL);
    *w = (struct weights){spec_number(spec, "prefix"), spec_number(spec, "queue"),
                          spec_number(spec, "kv")};
    return w;
}

/* Three scores from 0 to 1, weighted. The cost is the negative sum. */
static bool weights_place(struct core *c, const struct ask *ask, struct choice *out)
{
    const struct weights *w = ask->state;
    uint32_t most = 0, least = UINT32_MAX;

    set_for(i, &ask->may)
    {
        uint32_t q = queued(&c->fleet.engines[i]);

        most = q > most ? q : most;
        least = q < least ? q : least;
    }
    set_for(i, &ask->may)
    {
        const struct engine *e = &c->fleet.engines[i];
        double blocks = ask->blocks > 0 ? ask->blocks : 1;
        double queue = most > least ? (double)(most - queued(e)) / (most - least) : 1;
        double kv = 1 - kv_used(e) / (double)engine_capacity(e);

        ask->cost[i] =
            -(w->prefix * ask->cached_blocks[i] / blocks + w->queue * queue + w->kv * kv);
    }
    return cheapest(c, ask, &ask->may, REASON_SCORE, out);
}

const struct policy policy_llmd_weights = {.name = "llmd:weights",
                                           .wants_cached = true,
                                           .place = weights_place,
                                           .start = weights_start,
                                           .stop = plain_stop};

/* ---- llmd ---- */

struct sticky {
    double warm, rate, penalty, explore;
    uint64_t dice;
};

static void *sticky_start(struct core *c, const struct policy_spec *spec)
{
    struct sticky *s = calloc(1, sizeof(*s));

    (void)c;
    must(s != NULL);
    *s = (struct sticky){.warm = spec_number(spec, "warm"),
                         .rate = spec_number(spec, "rate"),
                         .penalty = spec_number(spec, "penalty"),
                         .explore = spec_number(spec, "explore")};
    return s;
}

static double least_queue(const struct core *c, const struct engine_set *set)
{
    double least = INFINITY;

    set_for(i, set)
    {
        double q = (double)c->fleet.engines[i].q_tokens;

        least = q < least ? q : least;
    }
    return least;
}

/* Sticky until saturated: among the engines that have most of the prompt cached, unless each of
 * them is so far behind the best of the others that waiting would cost more than the penalty. */
static bool sticky_place(struct core *c, const struct ask *ask, struct choice *out)
{
    struct sticky *s = ask->state;
    struct engine_set warm = {{0}}, cold;
    enum reason reason = REASON_CACHE;

    set_for(i, &ask->may)
    {
        ask->cost[i] = (double)c->fleet.engines[i].q_tokens + uncached(ask, i);
        if (ask->tokens > 0 && ask->cached[i] >= s->warm * ask->tokens)
            set_add(&warm, i);
    }
    cold = set_minus(ask->may, warm);
    if (set_is_empty(&warm)) {
        warm = ask->may;
        reason = REASON_SCORE;
    } else if (s->explore > 0 && (double)(dice_next(&s->dice) >> 11) * 0x1p-53 < s->explore) {
        warm = ask->may;
        reason = REASON_RANDOM;
    } else if (least_queue(c, &warm) - least_queue(c, &cold) > s->penalty * s->rate) {
        warm = ask->may;
        reason = REASON_BALANCE;
    }
    return cheapest(c, ask, &warm, reason, out);
}

const struct policy policy_llmd = {.name = "llmd",
                                   .wants_cached = true,
                                   .place = sticky_place,
                                   .start = sticky_start,
                                   .stop = plain_stop};
