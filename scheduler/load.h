/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_LOAD_H
#define SCHED_LOAD_H

#include "common/pool.h"
#include "scheduler/lease.h"

/*
 * What runs where, in seconds and tokens: the books of every policy that counts more than requests.
 *
 * A request adds the seconds of its prefill to its engine's queue until its first byte, and its
 * tokens until its end. Where nothing shows the first byte (no stream) it is taken to come when
 * everything dispatched there before it and its own prefill should be done.
 */
struct load {
    struct pool stays;
    double mout;  /* tokens of an answer: moving mean */
    double burst; /* sum of squared prefill seconds of dispatched requests, decaying with 60 s */
    uint64_t burst_ns; /* ... as it was then */
    uint64_t dispatches;
};

/* A workflow on an engine, while it has requests in flight there. */
struct stay {
    uint64_t self;
    struct list of_workflow; /* workflow.stays */
    struct engine *engine;
    uint32_t inflight;
};

void load_init(struct load *ld, uint32_t max_leases);
void load_fini(struct load *ld);
/* l->tokens and l->cached_tokens are set; now runs on l->engine. */
void load_join(struct core *c, struct lease *l);
void load_first_byte(struct core *c, struct lease *l);
/* Ends, or its engine goes: acts once. */
void load_leave(struct core *c, struct lease *l);
/* Its workflow ends before it. */
void load_leave_workflow(struct core *c, struct lease *l);
double load_burst(const struct core *c); /* now */

#endif
