/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_BRAIN_H
#define SCHED_BRAIN_H

#include "common/list.h"
#include "scheduler/policy.h"
#include "scheduler/prefix.h"

/*
 * The policy "workflow": one social cost in seconds says where a request goes, and a door says when
 * a workflow may build up its KV while live ones need more than the engines have.
 *
 * A workflow is NEW until its first dispatch, then LIVE: what it holds counts as its claim on the
 * engines. A claim that has been idle for as long as a refill would take LAPSED; such a workflow is
 * let in as long as most of its KV is still there. Whoever lost it and finds no room is PAUSED and
 * waits at the door.
 *
 * brain_cost.c prices engines, brain_door.c lets in, brain_claim.c keeps the claims, brain_gate.c
 * measures waste and moves the gate; policy_workflow.c joins them to the core.
 */
#define GATE_OPEN 1e9

struct brain_options {
    double gate; /* fixed; 0: moves by itself */
    double tax, floor, patience, age;
    double err, terr, kerr, cerr; /* what is wrong on purpose, for tests */
    bool ends, ct, fit;
    bool reference; /* its ticks, with drains alone, and its exact priorities */
};

struct brain {
    struct brain_options opt;
    bool open; /* the policy is in use */
    double gate, waste, wfrac, credit;
    uint64_t tick_ns, credit_ns; /* of the last tick, the last payment */
    uint64_t mute_until_ns;      /* after a restart losses say nothing */
    uint64_t turn;               /* handle of the wait that may use the credit; 0: anybody */
    bool draining;
    double mgap, mdec,
        mctx;          /* moving means: seconds idle between calls, of decode; prompt tokens */
    double known, all; /* prompt tokens sent before and in all, decaying */
    double mfoot;      /* tokens of ended workflows */
    uint64_t ended, end_signals;
    uint64_t blocks_max;       /* in the index, beyond which lapsed workflows are forgotten */
    struct list rents, lapsed; /* longest idle first */
    struct list sweep;         /* among rents, while flows_sweep() is on its way through them */
    bool sweeping;
};

void brain_init(struct brain *b);

/* ---- brain_cost.c ---- */
/* What all engines have in common, as far as one figure must do: means over those alive. */
struct brain_fleet {
    uint32_t engines; /* alive; at least 1 */
    double tok, attn; /* of the time model */
    double capacity;  /* KV tokens of one */
};
struct brain_fleet brain_fleet(const struct core *c);
double brain_refill_s(const struct brain_fleet *f, double tokens); /* prefill of that many */
double brain_prefill_s(const struct brain_fleet *f, double u, double n);
double brain_capacity(const struct core *c, const struct engine *e);
double brain_claims(const struct engine *e, double block); /* L, in tokens of so many per block */
/* Fills ask->cost for the members of may. */
void brain_costs(struct core *c, const struct ask *ask);
/* The cheapest; ties: the agent's previous engine, then in turn. NULL: set is empty. */
struct engine *brain_cheapest(struct core *c, const struct ask *ask, const struct engine_set *set);

/* ---- brain_claim.c ---- */
void flow_open(struct core *c, struct workflow *w);
void flow_set_state(struct core *c, struct workflow *w, enum flow_state state);
void flow_add(struct core *c, struct workflow *w, const struct engine *e, const uint64_t *d,
              uint32_t n);
void flow_drop(struct core *c, struct workflow *w, const struct engine *e);
void flow_forget(struct core *c, struct workflow *w); /* all its blocks; its state stays */
void flow_end(struct core *c, struct workflow *w);    /* and counts it as ended */
double flow_claim_on(const struct core *c, const struct workflow *w, const struct engine *e);
double flow_tokens(const struct workflow *w); /* that it holds, summed over engines */
void flow_busy(struct workflow *w);
void flow_rest(struct core *c, struct workflow *w); /* nothing in flight any more */
/* Claims lapse, and lapsed workflows are forgotten: a few in this step, others in later ones. */
void flows_lapse(struct core *c);
void flows_sweep(struct core *c, const struct brain_fleet *f); /* goes on with that */

/* ---- brain_door.c ---- */
bool brain_place(struct core *c, const struct ask *ask, struct choice *out);
void brain_drain(struct core *c);
uint64_t brain_next_deadline(const struct core *c);

/* ---- brain_gate.c ---- */
/* Homes are known, caches are not: what seems lost for a minute says nothing. */
void brain_restarted(struct core *c);
bool brain_counts_losses_late(const struct core *c, const struct engine *e);
void brain_waste(struct core *c, double tokens, double n);
bool brain_rests(const struct core *c); /* no tick is due, and nobody waits */
void brain_tick(struct core *c, const struct brain_fleet *f);
double brain_tax(const struct core *c, double waited_s, double refill_s);

#endif
