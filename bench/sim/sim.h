/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SIM_SIM_H
#define SIM_SIM_H

#include "bench/replay/flow.h"
#include "bench/replay/report.h"
#include "bench/sim/sim_fleet.h"
#include "bench/sim/sim_policy.h"
#include "bench/sim/sim_work.h"

/*
 * One workload under one policy: callers, scheduler core and engine cores in one loop, in virtual
 * time. What falls on the same time happens in the order in which it was planned; the same input
 * gives the same result, bit by bit.
 */
struct sim_conf {
    struct sim_fleet_conf fleet;
    struct flow_rule flow;
    double lag;      /* seconds by which KV events are late; a policy's own lag= goes first */
    bool free_ended; /* KV that only one workflow uses is dropped when that ends */
    uint64_t seed;
    /* Optional, every now and then. */
    void (*progress)(void *arg, double now, uint32_t done, uint32_t waiting);
    void *progress_arg;
};

struct sim_result {
    struct report report; /* recomputed_tokens and ptok by the engines' own count */
    double dup;           /* percent */
    double kv_held;       /* tokens */
    uint64_t peak, uniq;  /* tokens */
    uint32_t held;        /* requests that had to wait at the door */
    uint64_t decisions;   /* questions to the scheduler */
};

/* On failure `why` has one line about it. */
enum err sim_run(const struct sim_work *work, const struct sim_conf *conf,
                 const struct sim_policy *policy, struct sim_result *out, struct buf *why);

#endif
