/* SPDX-License-Identifier: Apache-2.0 */
#include "common/clock.h"
#include "common/must.h"
#include "scheduler/brain.h"
#include "scheduler/state.h"

/*
 * Claims: what live workflows hold. engine.claims is the sum, over LIVE workflows, of the blocks of
 * their footprint there, in 1/CLAIM_UNIT of a block; whole numbers, so that it never drifts.
 */
#define ENDED_MEMORY 50u
#define SWEEP 256u /* workflows that one step looks at */
#define FORGET_NS (600 * NS_PER_S)

static uint64_t units_on(const struct core *c, const struct workflow *w, const struct engine *e)
{
    return (uint64_t)foot_blocks(c->view.prefix, &w->flow.foot, e->index) * w->flow.bias;
}

static double blocks_tokens(const struct workflow *w, double blocks)
{
    return blocks * w->flow.block * w->flow.bias / CLAIM_UNIT;
}

double flow_tokens(const struct workflow *w)
{
    return blocks_tokens(w, (double)foot_total(&w->flow.foot));
}

double flow_claim_on(const struct core *c, const struct workflow *w, const struct engine *e)
{
    if (w->flow.state != FLOW_LIVE)
        return 0;
    return blocks_tokens(w, foot_blocks(c->view.prefix, &w->flow.foot, e->index));
}

/* Off by up to opt.err, the same way each time for one workflow. */
void flow_open(struct core *c, struct workflow *w)
{
    double off = (double)(table_mix(w->key_lo) >> 11) / (double)(UINT64_C(1) << 53) * 2 - 1;

    w->flow.bias = (uint32_t)(CLAIM_UNIT * (1 + off * c->brain.opt.err));
    w->flow.done_ns = c->now;
    list_init(&w->flow.idle);
}

static void claims_move(struct core *c, struct workflow *w, bool in)
{
    uint64_t all = 0;

    if (foot_total(&w->flow.foot) == 0)
        return;
    set_for(i, &c->fleet.used)
    {
        struct engine *e = &c->fleet.engines[i];
        uint64_t units = units_on(c, w, e);

        must(in || e->claims >= units);
        e->claims += in ? units : -units;
        all += units;
    }
    tenant_claim(c, w, all, in);
}

void flow_set_state(struct core *c, struct workflow *w, enum flow_state state)
{
    bool was = w->flow.state == FLOW_LIVE, is = state == FLOW_LIVE;

    if (was && !is)
        claims_move(c, w, false);
    w->flow.state = state;
    tenant_update(c, w);
    if (is && !was) {
        tenant_served(c, w);
        claims_move(c, w, true);
    }
    flow_busy(w); /* rents and lapsed are by state */
}

void flow_add(struct core *c, struct workflow *w, const struct engine *e, const uint64_t *d,
              uint32_t n)
{
    uint64_t units;

    if (n == 0)
        return;
    units = (uint64_t)foot_add(c->view.prefix, &w->flow.foot, e->index, d, n) * w->flow.bias;
    if (w->flow.state != FLOW_LIVE)
        return;
    c->fleet.engines[e->index].claims += units;
    tenant_claim(c, w, units, true);
}

void flow_drop(struct core *c, struct workflow *w, const struct engine *e)
{
    uint64_t units = units_on(c, w, e);

    if (units == 0)
        return;
    if (w->flow.state == FLOW_LIVE) {
        must(e->claims >= units);
        c->fleet.engines[e->index].claims -= units;
        tenant_claim(c, w, units, false);
    }
    foot_drop(c->view.prefix, &w->flow.foot, e->index);
}

void flow_forget(struct core *c, struct workflow *w)
{
    if (w->flow.state == FLOW_LIVE)
        claims_move(c, w, false);
    foot_clear(c->view.prefix, &w->flow.foot);
}

void flow_end(struct core *c, struct workflow *w)
{
    struct brain *b = &c->brain;

    b->ended++;
    b->mfoot +=
        (flow_tokens(w) - b->mfoot) / (double)(b->ended < ENDED_MEMORY ? b->ended : ENDED_MEMORY);
    flow_forget(c, w);
    flow_set_state(c, w, FLOW_NEW);
}

void flow_busy(struct workflow *w)
{
    list_remove(&w->flow.idle);
}

void flow_rest(struct core *c, struct workflow *w)
{
    list_remove(&w->flow.idle);
    if (w->flow.state == FLOW_LIVE)
        list_push(&c->brain.rents, &w->flow.idle);
    else if (w->flow.state == FLOW_LAPSED)
        list_push(&c->brain.lapsed, &w->flow.idle);
}

/* Rent or buy: holding f tokens for capacity * T(f) / f seconds costs as much as one refill. */
static uint64_t rent_ns(const struct brain_fleet *f, double tokens)
{
    double held = tokens > 1 ? tokens : 1;

    return (uint64_t)(f->capacity * brain_refill_s(f, held) / held * NS_PER_S);
}

static bool remembers_too_much(const struct core *c)
{
    struct prefix_stats s;

    prefix_stats_get(c->view.prefix, &s);
    return s.blocks > c->brain.blocks_max;
}

/* Where workflows say when they end they are forgotten only to keep memory bounded: what engines
 * hold is a fraction of that many blocks. Returns whether there may be more. */
static bool forget_some(struct core *c)
{
    bool silent = !c->brain.opt.ends || c->brain.end_signals == 0;
    uint32_t seen = 0;

    list_for_safe(pos, &c->brain.lapsed)
    {
        struct workflow *w = container_of(pos, struct workflow, flow.idle);

        if (!(silent && c->now - w->flow.done_ns > FORGET_NS) && !remembers_too_much(c))
            break;
        if (seen++ == SWEEP)
            return true;
        flow_end(c, w);
        workflow_set_home(c, w, NULL);
        action_home(c, w);
    }
    return false;
}

/* brain.sweep stands before the next one to look at. Returns whether there may be more. */
static bool lapse_some(struct core *c, const struct brain_fleet *f)
{
    struct list *sweep = &c->brain.sweep, *pos;
    uint64_t least = rent_ns(f, 1), idle;
    struct workflow *w;

    if (list_is_empty(sweep))
        return false;
    for (uint32_t seen = 0; (pos = sweep->next) != &c->brain.rents; seen++) {
        w = container_of(pos, struct workflow, flow.idle);
        idle = c->now - w->flow.done_ns;
        if (idle <= least) /* the others have been idle for less */
            break;
        if (seen == SWEEP)
            return true;
        list_remove(sweep);
        list_insert(pos->next, sweep);
        if (idle <= rent_ns(f, flow_tokens(w)))
            continue;
        flow_set_state(c, w, FLOW_LAPSED);
        flow_rest(c, w);
    }
    list_remove(sweep);
    return false;
}

void flows_lapse(struct core *c)
{
    list_remove(&c->brain.sweep);
    list_push_front(&c->brain.rents, &c->brain.sweep);
    c->brain.sweeping = true;
}

void flows_sweep(struct core *c, const struct brain_fleet *f)
{
    if (!c->brain.sweeping)
        return;
    c->brain.sweeping = lapse_some(c, f);
    if (!c->brain.sweeping)
        c->brain.sweeping = forget_some(c);
}
