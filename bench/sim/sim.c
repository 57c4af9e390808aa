/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Three sources of events: calls that become due (flow), ends of engine steps (sim_fleet),
 * deadlines of the scheduler (sim_sched). Calls and steps share one counter, by which ties are
 * broken; deadlines come after both.
 *
 * Engines say at once which blocks come and go; that news rests in a queue until the scheduler is
 * next asked or told anything, or until it is `lag` seconds old.
 */
#include "bench/sim/sim.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/sim/sim_kv.h"
#include "bench/sim/sim_sched.h"
#include "common/must.h"

#define IDLE_TICK_S .05      /* when only the scheduler could make something happen */
#define IDLE_LIMIT_S 86400.0 /* and does not for so long */

struct news {
    double at;
    uint64_t id, parent;
    uint32_t engine;
    bool stored;
};

struct sim {
    const struct sim_work *work;
    const struct sim_conf *conf;
    const struct sim_policy *policy;
    struct sim_fleet *fleet;
    struct sim_sched *sched;
    struct flow *flow;
    uint64_t order;
    double now, ticked_at, lag;

    struct outcome *outcomes; /* per call */
    uint64_t *arrivals;       /* per call: its number */
    bool *held;               /* per call */
    uint32_t *unready;        /* per workflow: calls not yet due */
    uint32_t *left;           /* per workflow: calls not yet done */
    uint32_t held_now, done;
    struct sim_result result;

    struct sim_kv kv;
    uint8_t *tiers; /* per engine and block: in how many tiers */
    struct news *news;
    size_t news_head, news_len, news_room;
    uint64_t *batch;
    struct sim_load *loads; /* as last told */
    struct buf *why;
    enum err err; /* the first; ends the run */
};

static const struct trace_call *call_of(const struct sim *s, uint32_t call)
{
    return &s->work->trace->calls[call];
}

static void fail(struct sim *s, uint32_t call, enum err err, const char *who)
{
    if (s->err != ERR_OK)
        return;
    s->err = err;
    buf_addf(s->why, "%s: the %s refused call %u (%u + %u tokens) at %.3f s: %s", s->policy->name,
             who, call, call_of(s, call)->in, call_of(s, call)->out, s->now, err_text(err));
}

/* ---- what the scheduler hears of blocks ---- */

static void news_add(struct sim *s, const struct news *n)
{
    if (s->news_len == s->news_room) {
        size_t kept = s->news_len - s->news_head;

        if (s->news_head > s->news_room / 2) {
            memmove(s->news, s->news + s->news_head, kept * sizeof(*s->news));
        } else {
            s->news_room = s->news_room == 0 ? 1024 : s->news_room * 2;
            s->news = realloc(s->news, s->news_room * sizeof(*s->news));
            s->batch = realloc(s->batch, s->news_room * sizeof(*s->batch));
            must(s->news != NULL && s->batch != NULL);
            memmove(s->news, s->news + s->news_head, kept * sizeof(*s->news));
        }
        s->news_head = 0;
        s->news_len = kept;
    }
    s->news[s->news_len++] = *n;
}

/* How many at the head can go as one event: of one engine and kind, stored ones a chain. */
static size_t news_run(const struct sim *s)
{
    const struct news *first = &s->news[s->news_head], *n = first;
    size_t left = s->news_len - s->news_head, count = 1;

    for (; count < left; count++, n++) {
        const struct news *next = n + 1;

        if (next->at > s->now || next->engine != first->engine || next->stored != first->stored ||
            (next->stored && next->parent != n->id))
            break;
    }
    return count;
}

static void tell_news(struct sim *s)
{
    while (s->news_head < s->news_len && s->news[s->news_head].at <= s->now) {
        const struct news *first = &s->news[s->news_head];
        size_t count = news_run(s);

        for (size_t i = 0; i < count; i++)
            s->batch[i] = first[i].id;
        if (first->stored)
            sim_sched_stored(s->sched, s->now, first->engine, first->parent, s->batch,
                             (uint32_t)count);
        else
            sim_sched_removed(s->sched, s->now, first->engine, s->batch, (uint32_t)count);
        s->news_head += count;
    }
    if (s->news_head == s->news_len)
        s->news_head = s->news_len = 0;
}

static void tell_loads(struct sim *s)
{
    for (uint32_t i = 0; i < s->conf->fleet.engines; i++) {
        struct sim_load load = {0};

        sim_fleet_load(s->fleet, i, &load);
        if (load.running == s->loads[i].running && load.waiting == s->loads[i].waiting &&
            load.kv_used_tokens == s->loads[i].kv_used_tokens)
            continue;
        s->loads[i] = load;
        sim_sched_load(s->sched, s->now, i, &load);
    }
}

/* ---- engines ---- */

static void on_block(void *arg, uint32_t engine, uint64_t id, uint64_t parent, bool stored,
                     bool host)
{
    struct sim *s = arg;
    uint32_t block = sim_block_of(id);
    uint8_t *tiers = &s->tiers[(size_t)engine * s->work->blocks.total + block];

    if (!host && stored)
        sim_kv_come(&s->kv, s->now, block);
    else if (!host)
        sim_kv_go(&s->kv, s->now, block);
    *tiers = (uint8_t)(*tiers + (stored ? 1 : -1));
    if (s->policy->exact && *tiers == (stored ? 1 : 0))
        news_add(s, &(struct news){.at = s->now + s->lag,
                                   .id = id,
                                   .parent = parent,
                                   .engine = engine,
                                   .stored = stored});
}

static void on_admit(void *arg, uint32_t call, uint32_t hit_blocks)
{
    struct sim *s = arg;
    uint32_t block = s->work->trace->block, in = call_of(s, call)->in;
    uint32_t full = blocks_of_prompt(&s->work->blocks, s->work->trace, call);
    uint64_t hit = (uint64_t)hit_blocks * block;

    s->outcomes[call].cached_tokens = hit < in ? (uint32_t)hit : in;
    for (uint32_t i = hit_blocks; i < full; i++)
        if (s->kv.ever[s->work->blocks.ids[call][i]])
            s->result.report.recomputed_tokens += block;
}

static void on_first(void *arg, double now, uint32_t call)
{
    struct sim *s = arg;

    s->outcomes[call].first = now - s->outcomes[call].ready;
    tell_news(s);
    sim_sched_first(s->sched, now, call);
}

static void workflow_over(struct sim *s, uint32_t workflow)
{
    const struct sim_workflow *w = &s->work->workflows[workflow];

    sim_kv_unuse(&s->kv, s->now, s->work->used + w->blocks_at, w->blocks_count);
    for (uint32_t i = 0; s->conf->free_ended && i < w->own_count; i++)
        sim_fleet_forget(s->fleet, sim_block_id(s->work->own[w->own_at + i]));
}

static void on_done(void *arg, double now, uint32_t call, uint32_t hit_tokens)
{
    struct sim *s = arg;
    const struct trace_call *c = call_of(s, call);
    struct outcome *o = &s->outcomes[call];
    uint32_t workflow = s->work->workflow_of[call];
    bool last;

    (void)hit_tokens;
    o->end = now - o->ready;
    o->ok = true;
    s->done++;
    flow_done(s->flow, call, now, &last);
    tell_news(s);
    sim_sched_done(s->sched, now,
                   &(struct sim_usage){.call = call,
                                       .workflow = c->workflow,
                                       .prompt_tokens = c->in,
                                       .cached_tokens = o->cached_tokens,
                                       .completion_tokens = c->out,
                                       .digests = s->work->ids[call],
                                       .digest_count = s->work->blocks.counts[call],
                                       .latency = o->end,
                                       .last = s->left[workflow] == 1 && s->policy->end});
    if (--s->left[workflow] == 0)
        workflow_over(s, workflow);
}

/* ---- the scheduler's answers ---- */

static void on_go(void *arg, double now, uint32_t call, uint32_t engine, int64_t priority)
{
    struct sim *s = arg;
    const struct trace_call *c = call_of(s, call);
    enum err err;

    s->held_now -= s->held[call];
    s->held[call] = false;
    err = sim_fleet_add(
        s->fleet, engine, now,
        &(struct sim_request){.call = call,
                              .ids = s->work->ids[call],
                              .np = blocks_of_prompt(&s->work->blocks, s->work->trace, call),
                              .n_ids = s->work->blocks.counts[call],
                              .nin = c->in,
                              .nout = c->out,
                              .priority = priority,
                              .order = s->arrivals[call]});
    if (err != ERR_OK)
        fail(s, call, err, "engine");
}

static void on_wait(void *arg, uint32_t call)
{
    struct sim *s = arg;

    s->result.held++;
    s->held_now++;
    s->held[call] = true;
}

static void on_no(void *arg, uint32_t call, enum err err)
{
    fail(arg, call, err, "scheduler");
}

/* ---- callers ---- */

static void ask(struct sim *s, uint32_t call)
{
    const struct trace_call *c = call_of(s, call);
    uint32_t np = blocks_of_prompt(&s->work->blocks, s->work->trace, call);
    const struct sim_workflow *w = &s->work->workflows[s->work->workflow_of[call]];
    uint32_t *unready = &s->unready[s->work->workflow_of[call]];

    if (*unready == w->calls)
        sim_kv_use(&s->kv, s->now, s->work->used + w->blocks_at, w->blocks_count);
    --*unready;
    s->outcomes[call] = (struct outcome){
        .workflow = c->workflow, .ready = s->now, .prompt_tokens = c->in, .output_tokens = c->out};
    s->arrivals[call] = ++s->order;
    s->result.decisions++;
    tell_news(s);
    tell_loads(s);
    sim_sched_query(s->sched, s->now,
                    &(struct sim_ask){.call = call,
                                      .workflow = c->workflow,
                                      .agent = c->agent,
                                      .digests = s->work->ids[call],
                                      .digest_count = np,
                                      .answer_digests = s->work->blocks.counts[call] - np,
                                      .prompt_tokens = c->in,
                                      .max_tokens = c->out,
                                      .final = s->policy->end && *unready == 0});
}

static void tick(struct sim *s, double at)
{
    s->now = s->ticked_at = fmax(at, s->now);
    tell_news(s);
    sim_sched_tick(s->sched, s->now);
}

/* Nothing runs and nothing is due: the scheduler has all that is left. */
static void wait_for_scheduler(struct sim *s, double deadline, double since)
{
    if (s->now - since > IDLE_LIMIT_S && s->err == ERR_OK) {
        s->err = ERR_TIMEOUT;
        buf_addf(s->why, "%s: %u calls are held for ever, since %.3f s", s->policy->name,
                 s->held_now, since);
        return;
    }
    tick(s, fmin(deadline, s->now + IDLE_TICK_S));
}

static void loop(struct sim *s)
{
    double busy_at = 0;

    while (!flow_is_over(s->flow) && s->err == ERR_OK) {
        uint64_t flow_order = flow_next_order(s->flow), step_order;
        uint32_t engine, call;
        double due = flow_next(s->flow), when;
        double ends = sim_fleet_next(s->fleet, &engine, &step_order);
        double deadline = sim_sched_next(s->sched), next = fmin(due, ends);

        if (deadline <= s->ticked_at)
            deadline = INFINITY;
        if (isinf(next)) {
            wait_for_scheduler(s, deadline, busy_at);
        } else if (deadline < next) {
            tick(s, deadline);
        } else if (ends < due || (!(due < ends) && step_order < flow_order)) {
            s->now = busy_at = ends;
            sim_fleet_step(s->fleet, engine, ends);
        } else {
            s->now = busy_at = due;
            if (flow_take(s->flow, due, &call, &when))
                ask(s, call);
        }
        if (s->conf->progress != NULL)
            s->conf->progress(s->conf->progress_arg, s->now, s->done, s->held_now);
    }
}

/* ---- one run ---- */

static enum err make_sched(struct sim *s)
{
    const struct sim_fleet_conf *fleet = &s->conf->fleet;
    struct sim_load load;
    struct sim_time_model time = sim_fleet_time_model(s->fleet);
    enum err err;

    sim_fleet_load(s->fleet, 0, &load);
    time.tok *= s->policy->tok_factor;
    time.attn *= s->policy->tok_factor;
    time.seq *= s->policy->kv_factor;
    time.kv *= s->policy->kv_factor;
    err = sim_sched_new(&(struct sim_sched_conf){.policy = s->policy->spec,
                                                 .engines = fleet->engines,
                                                 .workflows = s->work->workflow_count,
                                                 .calls = (uint32_t)s->work->selection->kept,
                                                 .block = fleet->block,
                                                 .kv_tokens = (uint64_t)((double)load.kv_tokens *
                                                                         s->policy->size_factor),
                                                 .time = time,
                                                 .priority = s->policy->priority,
                                                 .exact = s->policy->exact,
                                                 .share_after = fleet->share_after,
                                                 .cached_tokens = s->policy->cached_tokens,
                                                 .fit = s->policy->fit,
                                                 .seed = s->conf->seed},
                        &(struct sim_sched_hooks){on_go, on_wait, on_no, s}, &s->sched);
    if (err != ERR_OK)
        buf_addf(s->why, "%s: no such policy, or not these options of it", s->policy->name);
    return err;
}

static void *zeroed(size_t count, size_t size)
{
    void *p = calloc(count + 1, size);

    must(p != NULL);
    return p;
}

static enum err start(struct sim *s)
{
    const struct sim_work *w = s->work;
    struct flow_rule rule = s->conf->flow;
    size_t calls = w->trace->call_count, engines = s->conf->fleet.engines;
    enum err err;

    s->lag = s->policy->lag > 0 ? s->policy->lag : s->conf->lag;
    s->ticked_at = -1;
    s->outcomes = zeroed(calls, sizeof(*s->outcomes));
    s->arrivals = zeroed(calls, sizeof(*s->arrivals));
    s->held = zeroed(calls, sizeof(*s->held));
    s->unready = zeroed(w->workflow_count, sizeof(*s->unready));
    s->left = zeroed(w->workflow_count, sizeof(*s->left));
    s->loads = zeroed(engines, sizeof(*s->loads));
    s->tiers = zeroed(engines * w->blocks.total, sizeof(*s->tiers));
    sim_kv_init(&s->kv, w->blocks.total);
    for (uint32_t i = 0; i < w->workflow_count; i++)
        s->unready[i] = s->left[i] = w->workflows[i].calls;
    rule.order = &s->order;
    s->flow = flow_new(w->trace, w->selection, &rule);
    err = sim_fleet_new(&s->conf->fleet,
                        &(struct sim_fleet_hooks){on_admit, on_first, on_done, on_block, s},
                        (uint32_t)calls, &s->order, &s->fleet);
    if (err != ERR_OK) {
        buf_adds(s->why, "no such profile, or a cache of less than one block, or too many blocks");
        return err;
    }
    return make_sched(s);
}

static void finish(struct sim *s)
{
    const struct sim_work *w = s->work;
    struct sim_result *r = &s->result;
    uint64_t recomputed = r->report.recomputed_tokens;
    size_t n = 0;

    must(sim_fleet_is_clean(s->fleet));
    for (size_t i = 0; i < w->trace->call_count; i++)
        if (w->selection->keep[i])
            s->outcomes[n++] = s->outcomes[i];
    report_make(s->outcomes, n, &r->report);
    r->report.recomputed_tokens = recomputed;
    r->report.ptok = sim_fleet_computed(s->fleet);
    r->report.span = s->now;
    r->dup = sim_kv_duplicates(&s->kv);
    r->kv_held = sim_kv_held(&s->kv, s->now) * w->trace->block;
    r->peak = s->kv.all_peak * w->trace->block;
    r->uniq = s->kv.distinct_peak * w->trace->block;
}

static void stop(struct sim *s)
{
    sim_sched_free(s->sched);
    sim_fleet_free(s->fleet);
    flow_free(s->flow);
    sim_kv_fini(&s->kv);
    free(s->outcomes);
    free(s->arrivals);
    free(s->held);
    free(s->unready);
    free(s->left);
    free(s->loads);
    free(s->tiers);
    free(s->news);
    free(s->batch);
}

enum err sim_run(const struct sim_work *work, const struct sim_conf *conf,
                 const struct sim_policy *policy, struct sim_result *out, struct buf *why)
{
    struct sim s = {.work = work, .conf = conf, .policy = policy, .why = why};

    s.err = start(&s);
    if (s.err == ERR_OK)
        loop(&s);
    if (s.err == ERR_OK) {
        finish(&s);
        *out = s.result;
    }
    stop(&s);
    return s.err;
}
