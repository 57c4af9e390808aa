/* SPDX-License-Identifier: Apache-2.0 */
#include "mailbox/meters.h"

#include <stdlib.h>

#include "common/list.h"
#include "common/metric.h"
#include "common/must.h"

/*
 * A mailbox gets a series of its own with its first message, while there are fewer than boxes_max;
 * it keeps it until it is forgotten. All others are the series _other, so that the sum is right.
 */
#define EVENTS 9
static const char *const event_names[EVENTS] = {"sent",    "delivered", "redelivered",
                                                "expired", "rejected",  "purged",
                                                "dead",    "redriven",  "forgotten"};

enum {
#define METRIC METRIC_ROW_ENUM
#include "mailbox/metrics.def"
#undef METRIC
    ROWS
};

static const struct metric_desc rows[] = {
#define METRIC METRIC_ROW_DESC
#include "mailbox/metrics.def"
#undef METRIC
};

static const char *const other_labels[] = {"_other", "_other", "_other"};

struct labelled {
    struct list all;
    struct metric_series *series;
    uint32_t depth;
};

enum gauge { BOXES, BYTES, WAITING, UNSETTLED, LEASED, DELAYED, DEAD, KEPT, KEYS, PEERS, GAUGES };

struct meters {
    struct metric *metric;
    struct metric_series *events[EVENTS], *gauges[GAUGES], *commits[2], *notes[2];
    struct metric_series *packed[PACKED_EVENTS];
    struct metric_series *delivery, *wait, *other, *replayed;
    struct metric_series *store_bytes, *store_failing, *commit_time;
    struct flows *flows;
    uint64_t told[EVENTS], told_replayed; /* counters as last told */
    uint32_t boxes_max, labelled;
    uint64_t labelled_depth; /* sum of all that have a series */
    struct list all;
};

static void series_get(struct meters *m)
{
    static const unsigned gauge_rows[GAUGES] = {
        [BOXES] = M_boxes,         [BYTES] = M_bytes,   [WAITING] = M_waiting,
        [UNSETTLED] = M_unsettled, [LEASED] = M_leased, [DELAYED] = M_delayed,
        [DEAD] = M_dead,           [KEPT] = M_kept,     [KEYS] = M_keys,
        [PEERS] = M_peers,
    };
    static const char *const packed[PACKED_EVENTS] = {"taken", "given", "refused"};
    static const char *const committed[2] = {"failed", "ok"}, *const noted[2] = {"dropped", "told"};
    unsigned i;

    for (i = 0; i < EVENTS; i++)
        m->events[i] = metric_get(m->metric, M_messages, &event_names[i]);
    for (i = 0; i < GAUGES; i++)
        m->gauges[i] = metric_get(m->metric, gauge_rows[i], NULL);
    for (i = 0; i < 2; i++) {
        m->commits[i] = metric_get(m->metric, M_commits, &committed[i]);
        m->notes[i] = metric_get(m->metric, M_notes, &noted[i]);
    }
    for (i = 0; i < PACKED_EVENTS; i++)
        m->packed[i] = metric_get(m->metric, M_packed, &packed[i]);
    m->delivery = metric_get(m->metric, M_delivery, NULL);
    m->wait = metric_get(m->metric, M_wait, NULL);
    m->replayed = metric_get(m->metric, M_replayed, NULL);
    m->store_bytes = metric_get(m->metric, M_store_bytes, NULL);
    m->store_failing = metric_get(m->metric, M_store_failing, NULL);
    m->commit_time = metric_get(m->metric, M_commit_time, NULL);
    m->other = metric_get(m->metric, M_queue_size, other_labels);
}

enum err meters_open(const char *run_dir, uint32_t boxes_max, struct meters **out)
{
    struct meters *m = calloc(1, sizeof(*m));
    enum err e;

    must(m != NULL);
    m->boxes_max = boxes_max;
    list_init(&m->all);
    e = metric_open(run_dir, "mailbox", rows, ROWS, boxes_max * 2 + 64, &m->metric);
    if (e != ERR_OK) {
        free(m);
        return e;
    }
    series_get(m);
    m->flows = flows_new(m->metric, M_flow, boxes_max);
    /* What still lives gets its series with the first change. */
    metric_drop_unclaimed(m->metric, "agent_id");
    metric_drop_unclaimed(m->metric, "source");
    *out = m;
    return ERR_OK;
}

void meters_close(struct meters *m)
{
    struct list *n;

    if (m == NULL)
        return;
    while ((n = list_take(&m->all)) != NULL)
        free(container_of(n, struct labelled, all));
    flows_free(m->flows);
    metric_close(m->metric);
    free(m);
}

static void forget(struct meters *m, const struct mbox_change *change)
{
    struct labelled *l = *change->user;

    metric_drop(m->metric, l->series);
    m->labelled_depth -= l->depth;
    m->labelled--;
    list_remove(&l->all);
    free(l);
    *change->user = NULL;
}

static void tell_depth(struct meters *m, const struct mbox_change *change)
{
    const char *const values[] = {change->key.workflow, change->key.agent, change->key.tenant};
    struct labelled *l = *change->user;

    if (l == NULL) {
        if (change->depth == 0 || m->labelled >= m->boxes_max)
            return;
        l = calloc(1, sizeof(*l));
        must(l != NULL);
        l->series = metric_get(m->metric, M_queue_size, values);
        m->labelled++;
        list_push(&m->all, &l->all);
        *change->user = l;
    }
    m->labelled_depth += change->depth;
    m->labelled_depth -= l->depth;
    l->depth = change->depth;
    metric_set(l->series, l->depth);
}

void meters_change(struct meters *m, const struct mbox_change *change)
{
    if (!change->gone)
        tell_depth(m, change);
    else if (*change->user != NULL)
        forget(m, change);
}

static void gauges_set(struct meters *m, const struct mbox_totals *t, uint32_t peers)
{
    const double now[GAUGES] = {
        [BOXES] = t->boxes,
        [BYTES] = (double)t->bytes,
        [WAITING] = t->waiting,
        [UNSETTLED] = (double)t->unsettled,
        [LEASED] = (double)t->leased,
        [DELAYED] = (double)t->delayed,
        [DEAD] = (double)t->dead_now,
        [KEPT] = (double)t->kept,
        [KEYS] = t->keys,
        [PEERS] = peers,
    };
    unsigned i;

    for (i = 0; i < GAUGES; i++)
        metric_set(m->gauges[i], now[i]);
}

void meters_flush(struct meters *m, const struct mbox_core *c, const struct mbox_store *store,
                  uint32_t peers)
{
    struct mbox_store_stats stats;
    struct mbox_totals t;
    unsigned i;

    mbox_totals(c, &t);
    const uint64_t now[EVENTS] = {t.sent,   t.delivered, t.redelivered, t.expired,  t.rejected,
                                  t.purged, t.dead,      t.redriven,    t.forgotten};
    for (i = 0; i < EVENTS; i++) {
        if (now[i] != m->told[i])
            metric_add(m->events[i], (double)(now[i] - m->told[i]));
        m->told[i] = now[i];
    }
    metric_add(m->replayed, (double)(t.replayed - m->told_replayed));
    m->told_replayed = t.replayed;
    metric_set(m->other, (double)(t.queued - m->labelled_depth));
    gauges_set(m, &t, peers);
    store->ops->stats(store, &stats);
    metric_set(m->store_bytes, (double)stats.disk_bytes);
    metric_set(m->store_failing, stats.failing ? 1 : 0);
}

void meters_beat(struct meters *m, const struct mbox_core *c)
{
    flows_sweep(m->flows, c);
    metric_beat(m->metric);
}

void meters_delivered(struct meters *m, uint64_t ns)
{
    metric_observe(m->delivery, (double)ns / 1e9);
}

void meters_waited(struct meters *m, uint64_t ns)
{
    metric_observe(m->wait, (double)ns / 1e9);
}

void meters_committed(struct meters *m, uint64_t ns, bool ok)
{
    metric_add(m->commits[ok], 1);
    metric_observe(m->commit_time, (double)ns / 1e9);
}

void meters_packed(struct meters *m, enum packed_event event)
{
    metric_add(m->packed[event], 1);
}

void meters_noted(struct meters *m, uint32_t messages, bool told)
{
    metric_add(m->notes[told], messages);
}

struct flow *meters_flow(struct meters *m, const char *tenant, const char *workflow,
                         const char *source, const char *target)
{
    return flow_get(m->flows, tenant, workflow, source, target);
}
