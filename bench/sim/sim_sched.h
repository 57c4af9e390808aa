/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SIM_SCHED_H
#define SIM_SCHED_H

#include <stdbool.h>
#include <stdint.h>

#include "bench/sim/sim_fleet.h"
#include "common/buf.h"
#include "common/err.h"

/*
 * The scheduler's core in virtual time: what the simulator knows becomes its events, its actions
 * become calls of hooks. Pure; one thread. Times are model seconds from 0 up; the core's
 * nanoseconds follow from them without changing the order.
 */
struct sim_sched_conf {
    const char *policy; /* borrowed for sim_sched_new() */
    uint32_t engines, workflows, calls;
    uint32_t block;             /* tokens */
    uint64_t kv_tokens;         /* what the core is told about capacity */
    struct sim_time_model time; /* and about speed */
    bool priority;              /* engines take priorities */
    bool exact;                 /* engines tell which blocks they hold */
    bool share_after;
    bool cached_tokens; /* engines report how much of a prompt was cached */
    bool fit;           /* it may learn what engines are really like */
    uint64_t seed;
};

/* Called from the functions below; none of them may be called back. */
struct sim_sched_hooks {
    void (*go)(void *arg, double now, uint32_t call, uint32_t engine, int64_t priority);
    void (*wait)(void *arg, uint32_t call);
    void (*no)(void *arg, uint32_t call, enum err err);
    void *arg;
};

struct sim_ask {
    uint32_t call, workflow, agent;
    const uint64_t *digests;
    uint32_t digest_count, answer_digests;
    uint32_t prompt_tokens, max_tokens;
    bool final; /* the workflow will ask for nothing more */
};

struct sim_usage {
    uint32_t call, workflow;
    uint32_t prompt_tokens, cached_tokens, completion_tokens;
    const uint64_t *digests; /* of prompt and output */
    uint32_t digest_count;
    double latency;
    bool last; /* of its workflow, which says so if it had not before */
};

struct sim_sched;

/* ERR_CONF: no such policy, or not these options of it. */
enum err sim_sched_new(const struct sim_sched_conf *conf, const struct sim_sched_hooks *hooks,
                       struct sim_sched **out);
/* Whether there is such a policy with such options, ERR_CONF: no. why: one line. */
enum err sim_sched_check(const char *policy, struct buf *why);
void sim_sched_free(struct sim_sched *s);

void sim_sched_query(struct sim_sched *s, double now, const struct sim_ask *ask);
void sim_sched_first(struct sim_sched *s, double now, uint32_t call);
void sim_sched_done(struct sim_sched *s, double now, const struct sim_usage *usage);
void sim_sched_load(struct sim_sched *s, double now, uint32_t engine, const struct sim_load *load);
/* Blocks of one chain, in order; parent: what is before the first. */
void sim_sched_stored(struct sim_sched *s, double now, uint32_t engine, uint64_t parent,
                      const uint64_t *ids, uint32_t count);
void sim_sched_removed(struct sim_sched *s, double now, uint32_t engine, const uint64_t *ids,
                       uint32_t count);
double
sim_sched_next(const struct sim_sched *s); /* when sim_sched_tick() is due; INFINITY: never */
void sim_sched_tick(struct sim_sched *s, double now);

#endif
