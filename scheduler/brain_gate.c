/* SPDX-License-Identifier: Apache-2.0 */
#include "common/clock.h"
#include "scheduler/brain.h"
#include "scheduler/state.h"

/*
 * The gate: how much of the engines' KV live workflows may claim, in capacities. Every ten seconds
 * it closes a little where much of the engines' time goes into computing again what live workflows
 * had lost, and where holding KV is worth it at all: a refill takes longer than half an idle cycle,
 * and most prompt tokens are repeats.
 */
#define TICK_NS (10 * NS_PER_S)
#define WASTE_HIGH 0.15
#define WASTE_LOW 0.05
#define RELATIVE_PATIENCE 100.0
#define BRAKE 0.5
#define BLOCKS_MAX 4000000u

void brain_init(struct brain *b)
{
    *b = (struct brain){.gate = GATE_OPEN,
                        .blocks_max = BLOCKS_MAX,
                        .mgap = 1,
                        .mdec = 2,
                        .mctx = 1000,
                        .all = 1e-9};
    b->opt = (struct brain_options){.tax = 0.3,
                                    .patience = 600,
                                    .age = 0.1,
                                    .terr = 1,
                                    .kerr = 1,
                                    .cerr = 1,
                                    .ends = true,
                                    .ct = true,
                                    .fit = true};
    list_init(&b->rents);
    list_init(&b->lapsed);
    list_init(&b->sweep);
}

/* Whether e says at the end what was cached: never read its absence as zero. */
static bool reports_cached(const struct core *c, const struct engine *e)
{
    return c->brain.opt.ct && fit_cached(&e->fit) != FIT_CACHED_NEVER;
}

bool brain_counts_losses_late(const struct core *c, const struct engine *e)
{
    return !view_is_exact(c, e) && reports_cached(c, e);
}

void brain_restarted(struct core *c)
{
    c->brain.mute_until_ns = c->now + 60 * NS_PER_S;
}

void brain_waste(struct core *c, double tokens, double n)
{
    struct brain_fleet f;

    if (tokens <= 0 || c->now < c->brain.mute_until_ns)
        return;
    f = brain_fleet(c);
    c->brain.waste += brain_prefill_s(&f, tokens, n);
}

/* What cannot be measured cannot be paid for. */
static bool is_measured(const struct core *c)
{
    set_for(i, &c->fleet.alive)
    {
        const struct engine *e = &c->fleet.engines[i];

        if (view_is_exact(c, e) || reports_cached(c, e))
            return true;
    }
    return false;
}

double brain_tax(const struct core *c, double waited_s, double refill_s)
{
    const struct brain *b = &c->brain;
    double patience = RELATIVE_PATIENCE * refill_s, tax = b->opt.tax, brake = BRAKE - b->wfrac;

    if (b->opt.patience < patience)
        patience = b->opt.patience;
    if (waited_s / patience < tax)
        tax = waited_s / patience;
    if (!is_measured(c) || brake < b->opt.floor)
        brake = b->opt.floor;
    return brake < tax ? brake : tax;
}

static double claimed_share(const struct core *c)
{
    double claimed = 0, capacity = 0;

    set_for(i, &c->fleet.alive)
    {
        const struct engine *e = &c->fleet.engines[i];

        claimed += brain_claims(e, c->conf.text_block / engine_ratio(&c->fleet, e));
        capacity += brain_capacity(c, e);
    }
    return capacity > 0 ? claimed / capacity : 0;
}

static void gate_move(struct core *c, const struct brain_fleet *f)
{
    struct brain *b = &c->brain;
    double refill = f->capacity / b->mctx * brain_refill_s(f, b->mctx), gate;
    bool worth = refill > 0.5 * (b->mgap + b->mdec) && b->known > 0.5 * b->all;

    if (worth && b->wfrac > WASTE_HIGH) {
        gate = claimed_share(c);
        gate = 0.85 * (b->gate < gate ? b->gate : gate);
        b->gate = gate > 1 ? gate : 1;
    } else if (!worth || b->wfrac < WASTE_LOW) {
        gate = 1.1 * b->gate;
        b->gate = gate < GATE_OPEN ? gate : GATE_OPEN;
    }
}

bool brain_rests(const struct core *c)
{
    const struct brain *b = &c->brain;

    return c->now - b->tick_ns < TICK_NS && !b->sweeping && waits_oldest(&c->waits) == NULL;
}

void brain_tick(struct core *c, const struct brain_fleet *f)
{
    struct brain *b = &c->brain;
    double past = (double)(c->now - b->tick_ns) / NS_PER_S;

    if (c->now - b->tick_ns < TICK_NS) {
        flows_sweep(c, f);
        return;
    }
    b->wfrac += 0.5 * (b->waste / (f->engines * past) - b->wfrac);
    b->waste = 0;
    b->tick_ns = c->now;
    flows_lapse(c);
    flows_sweep(c, f);
    if (b->opt.gate > 0)
        b->gate = b->opt.gate;
    else
        gate_move(c, f);
}

/* When the credit will do for turn at the present tax, which grows with its wait: looked at again
 * after a second at the latest. */
static uint64_t paid_ns(const struct core *c, const struct wait *turn)
{
    struct brain_fleet f = brain_fleet(c);
    double refill = brain_refill_s(&f, wait_tokens(turn));
    double waited = (double)(c->now - turn->since_ns) / NS_PER_S;
    double missing = refill - c->brain.credit, rate = f.engines * brain_tax(c, waited, refill);

    if (missing <= 0 || missing >= rate)
        return NS_PER_S;
    return missing < 0.05 * rate ? NS_PER_S / 20 : (uint64_t)(missing / rate * NS_PER_S);
}

/* While requests run they bring drains, and ticks come with those. */
uint64_t brain_next_deadline(const struct core *c)
{
    const struct brain *b = &c->brain;
    const struct wait *turn = waits_oldest(&c->waits);

    if (b->sweeping)
        return c->now;
    if (b->opt.reference && (turn == NULL || c->stats.leases > 0))
        return UINT64_MAX;
    if (turn != NULL)
        return b->credit_ns + (c->stats.leases > 0 ? TICK_NS : paid_ns(c, turn));
    if (c->stats.leases > 0)
        return b->credit_ns + TICK_NS;
    if (list_is_empty(&b->rents) && b->gate >= GATE_OPEN && b->wfrac < 1e-3 && b->waste <= 0)
        return UINT64_MAX;
    return b->tick_ns + TICK_NS;
}
