/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_PROBE_H
#define SCHED_PROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/inbox.h"

/*
 * Health probes and model discovery, on the one side thread of the scheduler: libcurl multi, one
 * probe at a time per engine, each with an absolute deadline. Results come as inbox items.
 */
struct probe_target {
    uint32_t index, generation;
    char health_url[416], models_url[240]; /* models_url empty: nobody needs to ask */
    char key[256];                         /* empty: none */
};

struct probe_conf {
    uint32_t interval_ms, timeout_ms;
};

struct probe_result {
    uint32_t index, generation;
    bool is_models; /* else health */
    bool ok, unreachable;
    char reason[96]; /* in words */
    char address[64];
    uint32_t port; /* that answered; 0: none did */
    char **models; /* is_models and ok: belong to the receiver, as the array does */
    size_t model_count;
};

struct prober;
/* on_result comes on the loop's thread, from inbox_run(); the result is freed after it. */
struct prober *prober_start(struct inbox *inbox,
                            void (*on_result)(void *arg, const struct probe_result *r), void *arg);
/* Replaces all targets; those that stay keep their rhythm. Any number of times. */
void prober_set(struct prober *p, const struct probe_conf *conf, const struct probe_target *targets,
                size_t count);
void prober_stop(struct prober *p); /* joins; results under way are dropped. NULL is fine */

#endif
