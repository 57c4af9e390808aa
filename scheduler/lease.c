/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/lease.h"

#include "common/clock.h"
#include "common/must.h"
#include "scheduler/learn.h"
#include "scheduler/load.h"
#include "scheduler/state.h"

#define NO_DEADLINE_NS (3600 * NS_PER_S) /* for requests that state none */

static uint64_t lease_key(uint32_t worker, uint64_t handle)
{
    return table_mix(handle ^ table_mix(worker + 1));
}

struct lease *lease_find(struct core *c, uint32_t worker, uint64_t handle)
{
    uint64_t key = lease_key(worker, handle);
    uint32_t cursor = 0, slot;

    while ((slot = table_find(&c->lease_index, key, &cursor)) != UINT32_MAX) {
        struct lease *l = pool_at(&c->leases, slot);

        if (l->worker == worker && l->handle == handle)
            return l;
    }
    return NULL;
}

static void on_deadline(struct timer *t)
{
    struct lease *l = container_of(t, struct lease, deadline);

    lease_end(l->core, l, CAUSE_DEADLINE, NULL);
}

static void join_workflow(struct core *c, struct lease *l, struct workflow *w, struct agent *a)
{
    l->workflow = w;
    l->agent = a;
    list_push(&w->leases, &l->of_workflow);
    if (w->inflight > 0)
        w->overlap_seq = l->seq;
    w->inflight++;
    w->counted_inflight += l->counts;
    workflow_touch(c, w);
    a->inflight++;
    a->mails = 0; /* this is the request that they foretold */
    a->last_ns = c->now;
}

enum err lease_make(struct core *c, const struct query *q, struct engine *e, struct workflow *w,
                    struct agent *a, struct model *m, struct lease **out)
{
    uint64_t self;
    struct lease *l = pool_take(&c->leases, &self);

    if (l == NULL)
        return ERR_BUSY;
    l->self = self;
    l->core = c;
    l->seq = ++c->lease_seq;
    l->worker = q->worker;
    l->handle = q->handle;
    l->worker_round = c->workers[q->worker].round;
    l->model = m;
    l->prompt_bytes = q->prompt_bytes;
    l->waited_ns = q->waited_ns;
    l->stream = q->stream;
    l->start_ns = c->now;
    l->counts = q->avoid_count == 0;
    list_push(&c->workers[q->worker].leases, &l->of_worker);
    list_init(&l->of_engine);
    list_init(&l->of_workflow);
    if (e != NULL) {
        l->engine = e;
        list_push(&e->leases, &l->of_engine);
        e->running++;
    }
    if (w != NULL)
        join_workflow(c, l, w, a);
    table_add(&c->lease_index, lease_key(q->worker, q->handle), pool_slot_of(self));
    l->deadline.fire = on_deadline;
    timer_start(&c->timers, &l->deadline,
                c->now + (q->remaining_ns > 0 ? q->remaining_ns : NO_DEADLINE_NS) +
                    c->conf.lease_slack_ns);
    c->stats.leases++;
    *out = l;
    return ERR_OK;
}

void lease_detach_workflow(struct core *c, struct lease *l)
{
    load_leave_workflow(c, l);
    list_remove(&l->of_workflow);
    l->workflow->inflight--;
    l->workflow->counted_inflight -= l->counts;
    l->agent->inflight--;
    l->workflow = NULL;
    l->agent = NULL;
}

void lease_detach_engine(struct core *c, struct lease *l)
{
    if (l->engine == NULL)
        return;
    view_left(c, l);
    load_leave(c, l);
    list_remove(&l->of_engine);
    must(l->engine->running > 0);
    l->engine->running--;
    action_engine(c, l->engine);
    l->engine = NULL;
}

float lease_hit(const struct lease *l)
{
    return l->guessed_tokens == 0 ? 0
           : l->cached_tokens < l->guessed_tokens
               ? (float)l->cached_tokens / (float)l->guessed_tokens
               : 1;
}

static double share(const struct core *c, uint32_t blocks, uint32_t prompt_bytes)
{
    double bytes = (double)blocks * c->conf.text_block;

    return prompt_bytes == 0 ? 0 : bytes < prompt_bytes ? bytes / prompt_bytes : 1;
}

/* Tokens of a prompt that were computed before and again now. Less than one text block is rounding:
 * engines cache whole blocks of their own. */
static uint64_t again(double known_share, double prompt, double cached, double block)
{
    double tokens = known_share * prompt - cached;

    return tokens > block ? (uint64_t)tokens : 0;
}

/*
 * Tokens of one request. Recomputed are those whose text this workflow had sent before, to any
 * engine, and that were not cached now; duplicates are recomputed tokens that a sibling had sent,
 * over requests that overlapped another of the workflow in time. Where the engine does not say what
 * was cached, what it was expected to hold stands in.
 */
static void count_tokens(struct core *c, struct lease *l, const struct report_event *r,
                         struct action *act)
{
    struct workflow *w = l->workflow;
    double prompt, cached, block = c->conf.text_block / l->model->ratio;
    uint32_t known = l->agent->known_tokens;

    prompt = r->has_usage ? r->prompt_tokens : l->guessed_tokens;
    if (r->has_usage && r->has_cached)
        cached = r->cached_tokens < prompt ? r->cached_tokens : prompt;
    else
        cached = lease_hit(l) * prompt;
    if (!r->has_usage || !r->has_cached)
        w->estimated = true;
    act->prompt_tokens = (uint64_t)prompt;
    act->cached_tokens = (uint64_t)cached;
    if (l->seq <= w->overlap_seq) {
        act->overlap_tokens = act->prompt_tokens;
        act->duplicate_tokens =
            again(share(c, l->view.sibling, l->prompt_bytes), prompt, cached, block);
    }
    w->prompt_tokens += act->prompt_tokens;
    w->cached_tokens += act->cached_tokens;
    w->overlap_tokens += act->overlap_tokens;
    w->duplicate_tokens += act->duplicate_tokens;
    w->completion_tokens += r->has_usage ? r->completion_tokens : 0;
    w->recomputed_tokens +=
        again(share(c, l->view.anywhere, l->prompt_bytes), prompt, cached, block);
    l->agent->prompt_tokens += act->prompt_tokens;
    l->agent->cached_tokens += act->cached_tokens;
    if (r->has_usage) {
        uint64_t context = (uint64_t)r->prompt_tokens + r->completion_tokens;

        l->agent->completion_tokens += r->completion_tokens;
        known = context > UINT32_MAX ? UINT32_MAX : context > known ? (uint32_t)context : known;
        workflow_set_tokens(c, w, l->agent, known,
                            l->agent->inflight > 1 ? l->agent->guessed_tokens : 0);
    }
}

static void leave_workflow(struct core *c, struct lease *l, enum cause cause,
                           const struct report_event *r)
{
    struct workflow *w = l->workflow;
    struct action *act;

    if (l->counts) {
        w->ended_requests++;
        l->agent->requests++;
    }
    act = action_add(c, ACT_FINISHED);
    act->workflow = w->self;
    act->label = w->label;
    act->counts = l->counts;
    if (r != NULL && (r->has_usage || (cause == CAUSE_RETURNED && !r->declined)))
        count_tokens(c, l, r, act);
    if (cause == CAUSE_RETURNED && !r->declined) {
        latency_add(&w->latency, r->latency_ns / NS_PER_US);
        marks_answered(&l->agent->ends, l->end_digest, r->completion_tokens);
        act->answered = true;
        act->latency_ns = r->latency_ns;
    } else if (!l->first_byte || cause == CAUSE_RETURNED) {
        marks_failed(&l->agent->ends, l->end_digest);
    }
    l->agent->last_ns = c->now;
    lease_detach_workflow(c, l);
    workflow_touch(c, w);
    if (w->ending && w->inflight == 0 && w->waiting_count == 0) {
        c->brain.end_signals++;
        workflow_end(c, w);
    } else
        action_home(c, w);
}

/* No output is longer than the cache that it was in. */
static void learn_output(struct core *c, const struct lease *l, const struct report_event *r)
{
    double out = r->completion_tokens,
           most = l->engine != NULL ? (double)engine_capacity(l->engine) : ENGINE_KV_TOKENS;

    c->load.mout += 0.02 * ((out < most ? out : most) - c->load.mout);
}

void lease_end(struct core *c, struct lease *l, enum cause cause, const struct report_event *r)
{
    view_ended(c, l, cause, r);
    policies_tell(c, ended, l, cause, r);
    if (r != NULL && cause == CAUSE_RETURNED && r->has_usage && !r->declined)
        learn_output(c, l, r);
    learn_ended(c, l, cause, r);
    timer_stop(&c->timers, &l->deadline);
    table_remove(&c->lease_index, lease_key(l->worker, l->handle), pool_slot_of(l->self));
    list_remove(&l->of_worker);
    lease_detach_engine(c, l);
    if (r != NULL && r->final && l->workflow != NULL)
        l->workflow->ending = true;
    if (l->workflow != NULL)
        leave_workflow(c, l, cause, r);
    chain_drop(&c->chains, l->digests);
    c->stats.leases--;
    c->stats.leases_ended[cause]++;
    pool_give(&c->leases, l->self);
}
