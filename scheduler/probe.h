/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_PROBE_H
#define SCHED_PROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/inbox.h"
#include "common/secret.h"
#include "scheduler/scrape.h"

/*
 * Health probes, model discovery and scrapes of metrics, on a side thread of the scheduler: libcurl
 * multi, one probe of a kind at a time per engine, each with an absolute deadline. Results come as
 * inbox items.
 */
struct probe_target {
    uint32_t index, generation;
    char health_url[416], models_url[240]; /* models_url empty: nobody needs to ask */
    char metrics_url[416];                 /* empty: none */
    char key[SECRET_KEY_MAX + 1];          /* empty: none */
};

struct probe_conf {
    uint32_t interval_ms, timeout_ms;
    uint32_t scrape_ms; /* 0: never */
};

struct probe_result {
    uint32_t index, generation;
    bool is_models, is_metrics; /* else health */
    bool ok, unreachable;
    char reason[96]; /* in words */
    char address[64];
    uint32_t port; /* that answered; 0: none did */
    char **models; /* is_models and ok: belong to the receiver, as the array does */
    size_t model_count;
    struct scrape scrape; /* is_metrics and ok */
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
