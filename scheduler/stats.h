/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_STATS_H
#define SCHED_STATS_H

#include "common/metric.h"
#include "scheduler/core.h"
#include "scheduler/workflow.h"

/*
 * The core's numbers as metrics. The first workflows, as many as scheduler.metrics_workflows, get
 * label values of their own, which they keep until they end; then their series vanish. All others
 * share workflow_id="_other".
 */
#define STATS_ENGINE_ROWS 16u

struct label {
    bool used;
    struct metric_series *requests, *hit_rate, *latency, *batch;
    uint64_t prompt_tokens, cached_tokens, overlap_tokens, duplicate_tokens; /* of _other */
};

#define STATS_FEED_SERIES 18u
struct stats_feed {      /* of one engine; stats_feeds.c */
    uint32_t generation; /* 0: no series yet */
    struct metric_series *series[STATS_FEED_SERIES];
    double seen[STATS_FEED_SERIES];
};

struct stats {
    struct metric *metric;
    struct label *labels; /* slot 0 is _other */
    uint32_t label_count, label_free;
    bool forgotten, refreshed;
    struct core_stats seen;
    uint64_t engine_requests[ENGINES_MAX], engine_failures[ENGINES_MAX]; /* seen */
    uint32_t engine_generation[ENGINES_MAX];
    struct metric_series *engine_series[ENGINES_MAX][STATS_ENGINE_ROWS];
    struct stats_feed feeds[ENGINES_MAX];
    struct metric_series *calls[32], *step, *refused, *waited, *mail;
};

enum err stats_open(struct stats *st, const char *run_dir, uint32_t workflows);
void stats_close(struct stats *st);
void stats_call(struct stats *st, const char *method, unsigned index, double seconds);
void stats_call_refused(struct stats *st);
void stats_mail(struct stats *st, uint32_t messages);
/* A request that waited has been placed or refused; model time. */
void stats_waited(struct stats *st, uint64_t waited_ns);
/* One request of w has ended (ACT_FINISHED). w is NULL when the workflow has ended with it. */
void stats_finished(struct stats *st, const struct workflow *w, const struct action *act);
void stats_workflow(struct stats *st, const struct core *c,
                    struct workflow *w); /* gives a new one its label */
void stats_ended(struct stats *st, uint32_t label);
/* Series of workflows that a predecessor counted and that have not come back; acts once. */
void stats_forget_unclaimed(struct stats *st);
/* Everything that is a sum or a state; a few times a second. */
void stats_refresh(struct stats *st, const struct core *c, uint32_t peers);

#endif
