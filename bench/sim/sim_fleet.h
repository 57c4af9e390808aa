/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SIM_FLEET_H
#define SIM_FLEET_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

/*
 * The simulated engines, side by side, in virtual time. The scheduler and the simulated engine each
 * call something "struct engine": this module sees only the latter, sim_sched.c only the former.
 * Pure; one thread; times are model seconds.
 */
struct sim_fleet_conf {
    const char *profile; /* a row of bench/engine/profiles.def */
    uint32_t engines;
    uint32_t block;                     /* tokens */
    uint64_t cache_tokens, host_tokens; /* per engine; 0: the profile's / no second tier */
    uint32_t budget, maxseq;
    bool share_after;
};

struct sim_request {
    uint32_t call;
    const uint64_t *ids; /* borrowed until done */
    uint32_t np, n_ids, nin, nout;
    int64_t priority;
    uint64_t order; /* breaks ties of priority */
};

/* Called from sim_fleet_add() and sim_fleet_step(); only `first` and `done` may add. */
struct sim_fleet_hooks {
    void (*admit)(void *arg, uint32_t call, uint32_t hit_blocks);
    void (*first)(void *arg, double now, uint32_t call);
    void (*done)(void *arg, double now, uint32_t call, uint32_t hit_tokens);
    /* host: the second tier. parent: 0 at the head of a chain and where unknown. */
    void (*block)(void *arg, uint32_t engine, uint64_t id, uint64_t parent, bool stored, bool host);
    void *arg;
};

struct sim_load {
    uint32_t running, waiting;
    uint64_t kv_tokens, kv_used_tokens;
};

/* Seconds; see profiles.def. */
struct sim_time_model {
    double base, tok, attn, seq, kv;
};

struct sim_fleet;

/* order: a counter shared with whoever plans events, so that what falls on the same time happens as
 * it was planned. calls: how many requests there are. ERR_INVALID: no such profile, or no room for
 * a single block. */
enum err sim_fleet_new(const struct sim_fleet_conf *conf, const struct sim_fleet_hooks *hooks,
                       uint32_t calls, uint64_t *order, struct sim_fleet **out);
void sim_fleet_free(struct sim_fleet *f);

enum err sim_fleet_add(struct sim_fleet *f, uint32_t engine, double now,
                       const struct sim_request *req);
/* The earliest end of a step; INFINITY: all are idle. */
double sim_fleet_next(const struct sim_fleet *f, uint32_t *engine, uint64_t *order);
/* Ends the step of engine that is due, and begins its next one. */
void sim_fleet_step(struct sim_fleet *f, uint32_t engine, double now);

void sim_fleet_load(const struct sim_fleet *f, uint32_t engine, struct sim_load *out);
struct sim_time_model sim_fleet_time_model(const struct sim_fleet *f);
uint64_t sim_fleet_computed(const struct sim_fleet *f); /* prompt tokens prefilled, all engines */
/* Drops a block from the first tier of every engine where no request holds it. */
void sim_fleet_forget(struct sim_fleet *f, uint64_t id);
bool sim_fleet_is_clean(const struct sim_fleet *f); /* nobody runs or holds anything */

#endif
