/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/stats.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/clock.h"
#include "common/must.h"
#include "scheduler/engine.h"

enum {
#define METRIC METRIC_ROW_ENUM
#include "scheduler/metrics.def"
#undef METRIC
    M_COUNT
};

static const struct metric_desc descs[] = {
#define METRIC METRIC_ROW_DESC
#include "scheduler/metrics.def"
#undef METRIC
};

#define OTHER 0u /* the label slot that is shared */

static void label_open(struct stats *st, struct label *l, const char *id, const char *tenant)
{
    const char *values[] = {id, tenant};

    *l = (struct label){.used = true,
                        .requests = metric_get(st->metric, M_wf_requests, values),
                        .hit_rate = metric_get(st->metric, M_wf_hit_rate, values),
                        .latency = metric_get(st->metric, M_wf_latency, values),
                        .batch = metric_get(st->metric, M_wf_batch, values)};
}

enum err stats_open(struct stats *st, const char *run_dir, uint32_t workflows)
{
    uint32_t series = (workflows + 1) * 8 + ENGINES_MAX * (STATS_ENGINE_ROWS + STATS_FEED_SERIES) +
                      ERR_COUNT + REASON_COUNT * 2 + 200;
    enum err err;

    *st = (struct stats){.label_count = workflows + 1};
    err = metric_open(run_dir, "scheduler", descs, M_COUNT, series, &st->metric);
    if (err != ERR_OK)
        return err;
    st->labels = calloc(st->label_count, sizeof(*st->labels));
    must(st->labels != NULL);
    label_open(st, &st->labels[OTHER], "_other", "");
    metric_set(st->labels[OTHER].batch, 1);
    st->step = metric_get(st->metric, M_step, NULL);
    st->refused = metric_get(st->metric, M_calls_refused, NULL);
    st->waited = metric_get(st->metric, M_waited, NULL);
    st->mail = metric_get(st->metric, M_mail, NULL);
    return ERR_OK;
}

void stats_close(struct stats *st)
{
    free(st->labels);
    metric_close(st->metric);
    *st = (struct stats){0};
}

void stats_call(struct stats *st, const char *method, unsigned index, double seconds)
{
    if (index >= sizeof(st->calls) / sizeof(st->calls[0]))
        return;
    if (st->calls[index] == NULL)
        st->calls[index] = metric_get(st->metric, M_calls, &method);
    metric_add(st->calls[index], 1);
    metric_observe(st->step, seconds);
}

void stats_call_refused(struct stats *st)
{
    metric_add(st->refused, 1);
}

void stats_mail(struct stats *st, uint32_t messages)
{
    metric_add(st->mail, messages);
}

void stats_waited(struct stats *st, uint64_t waited_ns)
{
    metric_observe(st->waited, (double)waited_ns / 1e9);
}

/* ---- workflows ---- */

/* w->label: 0 = not looked at yet, 1 = _other, n + 1 = slot n. */
void stats_workflow(struct stats *st, const struct core *c, struct workflow *w)
{
    char id[ID_MAX + 1], tenant[TENANT_MAX + 1];
    struct label *l;
    uint32_t i;

    if (w->label != 0 || w->name.len == 0)
        return;
    w->label = OTHER + 1;
    for (i = 1; i < st->label_count && st->labels[i].used; i++)
        ;
    if (i >= st->label_count)
        return;
    snprintf(id, sizeof(id), "%.*s", (int)workflow_id(c, w).len, workflow_id(c, w).p);
    snprintf(tenant, sizeof(tenant), "%.*s", (int)workflow_tenant(c, w).len,
             workflow_tenant(c, w).p);
    w->label = i + 1;
    l = &st->labels[i];
    label_open(st, l, id, tenant);
    /* Restored with its totals: the counter takes up what the file does not have already. */
    if ((double)w->ended_requests > metric_value(l->requests))
        metric_add(l->requests, (double)w->ended_requests - metric_value(l->requests));
    if (w->prompt_tokens > 0)
        metric_set(l->hit_rate, workflow_hit_rate(w));
}

void stats_finished(struct stats *st, const struct workflow *w, const struct action *act)
{
    uint32_t slot = w != NULL ? w->label : act->label;
    struct label *l = &st->labels[slot > 0 ? slot - 1 : OTHER];

    if (act->counts)
        metric_add(l->requests, 1);
    if (act->answered)
        metric_observe(l->latency, (double)act->latency_ns / 1e9);
    l->prompt_tokens += act->prompt_tokens;
    l->cached_tokens += act->cached_tokens;
    l->overlap_tokens += act->overlap_tokens;
    l->duplicate_tokens += act->duplicate_tokens;
    if (l != &st->labels[OTHER]) {
        if (w != NULL) {
            metric_set(l->hit_rate, workflow_hit_rate(w));
            metric_set(l->batch, workflow_batch_efficiency(w));
        }
        return;
    }
    if (l->prompt_tokens > 0)
        metric_set(l->hit_rate, (double)l->cached_tokens / (double)l->prompt_tokens);
    if (l->overlap_tokens > 0)
        metric_set(l->batch, 1 - (double)l->duplicate_tokens / (double)l->overlap_tokens);
}

void stats_ended(struct stats *st, uint32_t label)
{
    struct label *l;

    if (label <= OTHER + 1)
        return;
    l = &st->labels[label - 1];
    metric_drop(st->metric, l->requests);
    metric_drop(st->metric, l->hit_rate);
    metric_drop(st->metric, l->latency);
    metric_drop(st->metric, l->batch);
    *l = (struct label){0};
}

void stats_forget_unclaimed(struct stats *st)
{
    if (!st->forgotten)
        metric_drop_unclaimed(st->metric, "workflow_id");
    st->forgotten = true;
}

/* ---- the rest ---- */

static void count(struct stats *st, unsigned row, const char *label, uint64_t now, uint64_t seen)
{
    if (now > seen)
        metric_add(metric_get(st->metric, row, label != NULL ? &label : NULL),
                   (double)(now - seen));
}

static void gauge(struct stats *st, unsigned row, double value)
{
    metric_set(metric_get(st->metric, row, NULL), value);
}

static void fit_refresh(struct metric_series *const *s, const struct engine *e)
{
    static const double told[] = {
        [FIT_CACHED_UNKNOWN] = 0, [FIT_CACHED_TOLD] = 1, [FIT_CACHED_NEVER] = -1};
    struct fit_report r;

    fit_report(&e->fit, &e->time, e->kv_factor, &r);
    metric_set(s[0], r.prefill_s);
    metric_set(s[1], r.prefill_factor);
    metric_set(s[2], r.decode_factor);
    metric_set(s[3], r.kv_factor);
    metric_set(s[4], (double)r.prefill_samples);
    metric_set(s[5], (double)r.decode_samples);
    metric_set(s[6], told[r.cached]);
}

static void engine_refresh(struct stats *st, const struct core *c, uint32_t i,
                           const struct engine *e)
{
    static const unsigned rows[STATS_ENGINE_ROWS] = {
        M_engine_up,    M_engine_run,   M_engine_tokens,  M_engine_homed,
        M_engine_reqs,  M_engine_fails, M_engine_kv,      M_engine_claims,
        M_engine_queue, M_fit_prefill,  M_fit_prefill_by, M_fit_decode_by,
        M_fit_kv_by,    M_fit_prefills, M_fit_decodes,    M_fit_cached};
    struct metric_series **s = st->engine_series[i];
    const char *id = e != NULL ? e->id : NULL;
    unsigned k;

    if (s[0] != NULL && (e == NULL || e->generation != st->engine_generation[i])) {
        for (k = 0; k < STATS_ENGINE_ROWS; k++)
            metric_drop(st->metric, s[k]);
        s[0] = NULL;
    }
    if (e == NULL)
        return;
    if (s[0] == NULL) {
        for (k = 0; k < STATS_ENGINE_ROWS; k++)
            s[k] = metric_get(st->metric, rows[k], &id);
        st->engine_generation[i] = e->generation;
        st->engine_requests[i] = st->engine_failures[i] = 0;
    }
    metric_set(s[0], e->healthy ? 1 : 0);
    metric_set(s[1], e->running);
    metric_set(s[2], (double)e->home_tokens);
    metric_set(s[3], e->homed_workflows);
    metric_add(s[4], (double)(e->requests - st->engine_requests[i]));
    metric_add(s[5], (double)(e->failures - st->engine_failures[i]));
    metric_set(s[6], (double)engine_capacity(e));
    metric_set(s[7], core_engine_claims(c, e));
    metric_set(s[8], engine_queue_s(e));
    fit_refresh(s + 9, e);
    st->engine_requests[i] = e->requests;
    st->engine_failures[i] = e->failures;
}

void stats_refresh(struct stats *st, const struct core *c, uint32_t peers)
{
    const struct core_stats *now = core_stats_get(c), *was = &st->seen;
    uint32_t engines = 0, alive = 0, i;

    for (i = 0; i < REASON_COUNT; i++)
        count(st, M_decisions, reason_word((enum reason)i), now->decisions[i], was->decisions[i]);
    for (i = 0; i < ERR_COUNT; i++)
        count(st, M_refusals, err_code((enum err)i), now->refused[i], was->refused[i]);
    for (i = 0; i < CAUSE_COUNT; i++)
        count(st, M_leases_ended, cause_word((enum cause)i), now->leases_ended[i],
              was->leases_ended[i]);
    count(st, M_reports_late, NULL, now->reports_unknown, was->reports_unknown);
    count(st, M_wf_created, NULL, now->workflows_created, was->workflows_created);
    count(st, M_wf_ended, NULL, now->workflows_ended, was->workflows_ended);
    count(st, M_wf_expired, NULL, now->workflows_expired, was->workflows_expired);
    count(st, M_wf_evicted, NULL, now->workflows_evicted, was->workflows_evicted);
    for (i = 0; i < REASON_COUNT; i++)
        count(st, M_waits, reason_word((enum reason)i), now->waits[i], was->waits[i]);
    gauge(st, M_waiting, now->waiting);
    gauge(st, M_gate, now->gate);
    gauge(st, M_waste, now->waste);
    gauge(st, M_credit, now->credit);
    gauge(st, M_leases, now->leases);
    gauge(st, M_workflows, now->workflows);
    gauge(st, M_agents, now->agents);
    gauge(st, M_peers, peers);
    for (i = 0; i < ENGINES_MAX; i++) {
        const struct engine *e = core_engine(c, i);

        engines += e != NULL;
        alive += e != NULL && e->healthy;
        engine_refresh(st, c, i, e);
    }
    gauge(st, M_engines, engines);
    gauge(st, M_engines_alive, alive);
    st->seen = *now;
    if (!st->refreshed)
        metric_drop_unclaimed(st->metric, "engine");
    st->refreshed = true;
    metric_beat(st->metric);
}
