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
#define EVENTS 7
static const char *const event_names[EVENTS] = {"sent",     "delivered", "redelivered", "expired",
                                                "rejected", "purged",    "dead"};

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

struct meters {
    struct metric *metric;
    struct metric_series *events[EVENTS], *delivery, *wait, *boxes, *bytes, *waiting, *unsettled,
        *peers, *other;
    uint64_t told[EVENTS]; /* counters as last told */
    uint32_t boxes_max, labelled;
    uint64_t labelled_depth; /* sum of all that have a series */
    struct list all;
};

enum err meters_open(const char *run_dir, uint32_t boxes_max, struct meters **out)
{
    struct meters *m = calloc(1, sizeof(*m));
    enum err e;
    unsigned i;

    must(m != NULL);
    m->boxes_max = boxes_max;
    list_init(&m->all);
    e = metric_open(run_dir, "mailbox", rows, ROWS, boxes_max + 64, &m->metric);
    if (e != ERR_OK) {
        free(m);
        return e;
    }
    for (i = 0; i < EVENTS; i++)
        m->events[i] = metric_get(m->metric, M_messages, &event_names[i]);
    m->delivery = metric_get(m->metric, M_delivery, NULL);
    m->wait = metric_get(m->metric, M_wait, NULL);
    m->boxes = metric_get(m->metric, M_boxes, NULL);
    m->bytes = metric_get(m->metric, M_bytes, NULL);
    m->waiting = metric_get(m->metric, M_waiting, NULL);
    m->unsettled = metric_get(m->metric, M_unsettled, NULL);
    m->peers = metric_get(m->metric, M_peers, NULL);
    m->other = metric_get(m->metric, M_queue_size, other_labels);
    metric_drop_unclaimed(m->metric, "agent_id"); /* boxes do not outlive the process */
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

void meters_flush(struct meters *m, struct mbox_core *c, uint32_t peers)
{
    struct mbox_change change;
    struct mbox_totals t;
    unsigned i;

    while (mbox_take_change(c, &change)) {
        if (change.gone)
            forget(m, &change);
        else
            tell_depth(m, &change);
    }
    mbox_totals(c, &t);
    const uint64_t now[EVENTS] = {
        t.sent, t.delivered, t.redelivered, t.expired, t.rejected, t.purged, 0};
    for (i = 0; i < EVENTS; i++) {
        metric_add(m->events[i], (double)(now[i] - m->told[i]));
        m->told[i] = now[i];
    }
    metric_set(m->other, (double)(t.queued - m->labelled_depth));
    metric_set(m->boxes, t.boxes);
    metric_set(m->bytes, (double)t.bytes);
    metric_set(m->waiting, t.waiting);
    metric_set(m->unsettled, (double)t.unsettled);
    metric_set(m->peers, peers);
}

void meters_beat(struct meters *m)
{
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
