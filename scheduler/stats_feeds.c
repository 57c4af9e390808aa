/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/feeds.h"

#include "common/metric.h"
#include "scheduler/engine.h"
#include "scheduler/stats.h"

enum {
#define METRIC METRIC_ROW_ENUM
#include "scheduler/metrics.def"
#undef METRIC
};

#define SERIES STATS_FEED_SERIES

struct value {
    unsigned row;
    bool is_gauge;
    double now;
};

static void values_fill(const struct feed_state *f, bool exact, struct value v[SERIES])
{
    const struct kv_counters *k = &f->kv;
    uint64_t used = 0;
    const struct value all[SERIES] = {
        {M_kv_up, true, f->kv_connected},
        {M_kv_known, true, f->kv_known ? 1 + exact : 0},
        {M_kv_tokens, true, (double)f->kv_tokens},
        {M_kv_batches, false, (double)k->batches},
        {M_kv_events, false, (double)k->events},
        {M_kv_ignored, false, (double)k->ignored},
        {M_kv_garbage, false, (double)k->garbage},
        {M_kv_gaps, false, (double)k->gaps},
        {M_kv_replays, false, (double)k->replays},
        {M_kv_restarts, false, (double)k->restarts},
        {M_kv_lost, false, (double)k->lost},
        {M_scrapes, false, (double)f->scrapes},
        {M_scrape_fails, false, (double)f->scrape_failures},
        {M_restarts, false, (double)f->restarts},
        {M_told_running, true, f->last.value[SCRAPE_running]},
        {M_told_waiting, true, f->last.value[SCRAPE_waiting]},
        {M_told_capacity, true, f->last.value[SCRAPE_capacity]},
        {M_told_used, true, scrape_used_tokens(&f->last, &used) ? (double)used : 0},
    };

    for (size_t i = 0; i < SERIES; i++)
        v[i] = all[i];
}

static void feed_refresh(struct stats *st, uint32_t i, const struct engine *e,
                         const struct feed_state *f)
{
    struct stats_feed *s = &st->feeds[i];
    struct value values[SERIES];
    const char *id = e != NULL ? e->id : NULL;

    if (s->generation != 0 && (e == NULL || e->generation != s->generation)) {
        for (size_t k = 0; k < SERIES; k++)
            metric_drop(st->metric, s->series[k]);
        *s = (struct stats_feed){0};
    }
    if (e == NULL || f->generation != e->generation)
        return;
    values_fill(f, e->content, values);
    for (size_t k = 0; k < SERIES; k++) {
        if (s->generation == 0)
            s->series[k] = metric_get(st->metric, values[k].row, &id);
        if (values[k].is_gauge) {
            metric_set(s->series[k], values[k].now);
            continue;
        }
        /* A target that is set anew counts from 0. */
        metric_add(s->series[k],
                   values[k].now >= s->seen[k] ? values[k].now - s->seen[k] : values[k].now);
        s->seen[k] = values[k].now;
    }
    s->generation = e->generation;
}

void stats_feeds(struct stats *st, const struct core *c, const struct feeds *feeds)
{
    for (uint32_t i = 0; i < ENGINES_MAX; i++)
        feed_refresh(st, i, core_engine(c, i), &feeds->engines[i]);
}
