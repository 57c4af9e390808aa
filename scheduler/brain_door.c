/* SPDX-License-Identifier: Apache-2.0 */
#include "common/clock.h"
#include "common/must.h"
#include "scheduler/brain.h"
#include "scheduler/state.h"

/*
 * The door. A request of a live workflow most of whose KV is still there passes. Any other would
 * build its workflow's KV (again), and passes where there is room for the claim, where next to
 * nothing is to be prefilled, or when it is its turn and the credit pays for it: engine seconds
 * that accrue while somebody waits, at a rate that grows with the longest wait.
 */
#define LOST_SHARE 0.3
#define SMALL_SHARE 0.02
#define FAILURES_MAX 25u /* of requests for one model in one drain; fewer each of many models */
#define FAILURES_ALL 50u
#define FAILURES_MIN 2u
#define EMA 0.02
#define FOLLOW_TOKENS 512.0
#define FOLLOW_NS (5 * NS_PER_S)
#define FOLLOW_LOOKS 32u

/* ---- arriving ---- */

static void moving(double *mean, double seen)
{
    *mean += EMA * (seen - *mean);
}

/* Looks at what its workflow had sent before. Once per request. */
static uint32_t arrive(struct core *c, const struct ask *ask)
{
    struct brain *b = &c->brain;
    struct workflow *w = ask->workflow;
    double idle = w->inflight > 0 ? 0 : (double)(c->now - w->flow.done_ns) / NS_PER_S;
    uint32_t known = 0;

    w->flow.block = (float)(c->conf.text_block / ask->model->ratio);
    if (ask->blocks > 0)
        known = foot_known(c->view.prefix, &w->flow.foot, ask->query->digests, ask->blocks);
    b->known = 0.99 * b->known + (double)known * w->flow.block;
    b->all = 0.99 * b->all + ask->tokens / ask->bias;
    moving(&b->mctx, ask->tokens);
    if (w->home != ENGINE_NONE)
        moving(&b->mgap, idle);
    return known;
}

/* ---- why ---- */

static bool is_avoided(const struct query *q, uint32_t engine)
{
    for (uint32_t i = 0; i < q->avoid_count; i++)
        if (q->avoid[i] == engine)
            return true;
    return false;
}

static enum reason reason_of(struct core *c, const struct ask *ask, const struct engine *e)
{
    const struct engine *home = ask->workflow != NULL ? workflow_home(c, ask->workflow) : NULL;

    if (ask->workflow == NULL)
        return REASON_SCORE;
    if (home == NULL)
        return ask->workflow->last_engine == ENGINE_NONE ? REASON_NEW : REASON_REHOMED;
    if (home == e)
        return REASON_HOME;
    if (is_avoided(ask->query, home->index))
        return REASON_RETRY;
    if (set_has(&c->fleet.alive, home->index) && !set_has(&ask->able, home->index))
        return REASON_OTHER_MODEL;
    return set_has(&ask->may, home->index) ? REASON_OVERLOAD : REASON_REHOMED;
}

/* ---- trying ---- */

static double lost_tokens(const struct ask *ask, uint32_t known)
{
    const struct flow *f = &ask->workflow->flow;
    uint32_t most = 0;

    set_for(i, &ask->may) most = ask->cached_blocks[i] > most ? ask->cached_blocks[i] : most;
    return known > most ? (double)(known - most) * f->block * f->bias / CLAIM_UNIT : 0;
}

static struct engine_set with_room(const struct core *c, const struct ask *ask)
{
    double need = ask->tokens + c->load.mout;
    double block = c->conf.text_block / ask->model->ratio;
    struct engine_set room = {{0}};

    set_for(i, &ask->may)
    {
        const struct engine *e = &c->fleet.engines[i];
        double claims = brain_claims(e, block);

        if (claims < 1 || claims - flow_claim_on(c, ask->workflow, e) + need <=
                              c->brain.gate * brain_capacity(c, e))
            set_add(&room, i);
    }
    return room;
}

static bool may_pay(const struct core *c, const struct ask *ask)
{
    const struct brain *b = &c->brain;

    if (ask->wait != NULL && ask->wait->self == b->turn)
        return true;
    /* Who was the turn stays it until the drain ends, even if it has left meanwhile. */
    return b->turn == 0 || (!b->draining && pool_find(&c->waits.pool, b->turn) == NULL);
}

static bool pay(struct core *c, const struct ask *ask)
{
    struct brain_fleet f = brain_fleet(c);
    double price = brain_refill_s(&f, ask->tokens);

    if (!may_pay(c, ask) || c->brain.credit < price)
        return false;
    c->brain.credit -= price;
    return true;
}

static bool at_door(struct core *c, const struct ask *ask, struct choice *out)
{
    struct workflow *w = ask->workflow;
    struct engine_set room = with_room(c, ask);
    const struct engine *b = out->engine;
    double fresh = (double)ask->tokens - ask->cached[b->index];

    if (!set_is_empty(&room)) {
        out->engine = brain_cheapest(c, ask, &room);
        out->reason =
            w->flow.state == FLOW_PAUSED ? REASON_ADMITTED : reason_of(c, ask, out->engine);
        return true;
    }
    if (fresh <= SMALL_SHARE * brain_capacity(c, b)) {
        out->reason = REASON_SMALL;
        return true;
    }
    if (pay(c, ask)) {
        out->reason = REASON_TURN;
        return true;
    }
    if (w->flow.state != FLOW_NEW && w->inflight == 0) {
        flow_set_state(c, w, FLOW_PAUSED);
        flow_forget(c, w);
    }
    out->reason = REASON_DOOR;
    return false;
}

/* ---- followers ---- */

static uint32_t common_blocks(const struct lease *l, const struct ask *ask)
{
    uint32_t low = 0, high = l->digest_count < ask->blocks ? l->digest_count : ask->blocks;

    while (low < high) { /* digests are chained: what is equal here is equal before */
        uint32_t at = (low + high + 1) / 2;

        if (l->digests[at - 1] == ask->query->digests[at - 1])
            low = at;
        else
            high = at - 1;
    }
    return low;
}

/* Where blocks can be used only once their prefill has ended, a sibling that prefills the same is
 * waited for: side by side both would compute it. */
static bool follows(const struct core *c, const struct ask *ask, const struct engine *e)
{
    double block = c->conf.text_block / ask->model->ratio;
    uint32_t looked = 0;

    if (!e->late_share || ask->blocks == 0)
        return false;
    list_for(pos, &ask->workflow->leases)
    {
        const struct lease *l = container_of(pos, struct lease, of_workflow);
        uint32_t common;

        if (l->engine != e || !l->prefilling || c->now - l->start_ns > FOLLOW_NS)
            continue;
        if (++looked > FOLLOW_LOOKS)
            break;
        common = common_blocks(l, ask);
        if (common > l->predicted && (common - l->predicted) * block >= FOLLOW_TOKENS)
            return true;
    }
    return false;
}

/* What the client asked for goes before what we think. */
static bool by_strategy(struct core *c, const struct ask *ask, struct choice *out)
{
    enum strategy s = ask->query->strategy;
    struct engine *home = ask->workflow != NULL ? workflow_home(c, ask->workflow) : NULL;

    if (s == PLACE_STRICT && home != NULL && set_has(&ask->able, home->index) &&
        !is_avoided(ask->query, home->index)) {
        *out = (struct choice){.engine = home, .reason = REASON_HOME};
        return true;
    }
    if (s != PLACE_SPREAD && s != PLACE_ISOLATED)
        return false;
    out->engine = least_pick(c, ask->model, ask->may);
    out->reason = s == PLACE_SPREAD ? REASON_SPREAD : REASON_ISOLATED;
    return true;
}

/* The request's workflow passes or not; out->engine is the cheapest of all. */
static bool is_let_in(struct core *c, const struct ask *ask, struct choice *out)
{
    const struct workflow *w = ask->workflow;
    double lost = lost_tokens(ask, *ask->known);

    if (ask->first && !brain_counts_losses_late(c, out->engine))
        brain_waste(c, lost, ask->tokens);
    if (follows(c, ask, out->engine)) {
        out->reason = REASON_FOLLOW;
        return false;
    }
    out->reason = reason_of(c, ask, out->engine);
    if ((w->flow.state == FLOW_LIVE || w->flow.state == FLOW_LAPSED) &&
        lost <= LOST_SHARE * ask->tokens)
        return true;
    return at_door(c, ask, out);
}

bool brain_place(struct core *c, const struct ask *ask, struct choice *out)
{
    const struct workflow *w = ask->workflow;

    if (w != NULL && ask->first)
        *ask->known = arrive(c, ask);
    if (by_strategy(c, ask, out))
        return true;
    brain_costs(c, ask);
    out->engine = brain_cheapest(c, ask, &ask->may);
    out->reason = REASON_SCORE;
    must(out->engine != NULL);
    if (w == NULL)
        return true;
    return is_let_in(c, ask, out);
}

/* ---- draining ---- */

static void credit_accrue(struct core *c, const struct brain_fleet *f, const struct wait *turn,
                          double waited_s)
{
    struct brain *b = &c->brain;
    double refill = brain_refill_s(f, wait_tokens(turn));
    double past = (double)(c->now - b->credit_ns) / NS_PER_S;

    b->credit += brain_tax(c, waited_s, refill) * f->engines * past;
    if (b->credit > refill)
        b->credit = refill;
    b->credit_ns = c->now;
}

static uint32_t failures_max(const struct core *c)
{
    uint32_t lines = c->waits.lines.used_count, max = lines > 0 ? FAILURES_ALL / lines : 0;

    return max > FAILURES_MAX ? FAILURES_MAX : max < FAILURES_MIN ? FAILURES_MIN : max;
}

static void try_all(struct core *c)
{
    uint32_t max = failures_max(c);
    struct list failed, *at;
    struct wait *w;
    bool tried = false;

    list_init(&failed);
    while ((w = lines_take(&c->waits.lines, max)) != NULL) {
        tried |= w->self == c->brain.turn;
        if (!wait_try(c, w))
            line_failed(&c->waits.lines, w, &failed);
    }
    w = tried ? NULL : pool_find(&c->waits.pool, c->brain.turn);
    if (w != NULL)
        wait_try(c, w);
    while ((at = list_take(&failed)) != NULL)
        line_put(&c->waits.lines, container_of(at, struct wait, of_failed));
}

void brain_drain(struct core *c)
{
    struct brain *b = &c->brain;
    const struct wait *turn;
    struct brain_fleet f;
    double waited;

    if (brain_rests(c)) {
        b->turn = 0;
        b->credit_ns = c->now;
        return;
    }
    f = brain_fleet(c);
    turn = pool_find(&c->waits.pool, b->turn);
    waited = turn != NULL ? (double)(c->now - turn->since_ns) / NS_PER_S : 0;
    brain_tick(c, &f);
    turn = waits_oldest(&c->waits);
    if (turn == NULL) {
        b->turn = 0;
        b->credit_ns = c->now;
        return;
    }
    b->turn = turn->self;
    credit_accrue(c, &f, turn, waited);
    b->draining = true;
    try_all(c);
    b->draining = false;
    turn = waits_oldest(&c->waits);
    b->turn = turn != NULL ? turn->self : 0;
}
