/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/wait.h"

#include <string.h>

#include "common/clock.h"
#include "common/must.h"
#include "scheduler/state.h"

#define GAP_SHARE 0.1
#define RETRY_MIN_S 1u
#define RETRY_MAX_S 60u

void waits_init(struct waits *ws, uint32_t capacity, uint32_t workflows)
{
    *ws = (struct waits){0};
    pool_init(&ws->pool, sizeof(struct wait), capacity);
    table_init(&ws->index, capacity);
    lines_init(&ws->lines, capacity, workflows);
    timers_init(&ws->by_age);
}

void waits_fini(struct waits *ws)
{
    timers_fini(&ws->by_age);
    lines_fini(&ws->lines);
    table_fini(&ws->index);
    pool_fini(&ws->pool);
}

struct wait *waits_oldest(const struct waits *ws)
{
    return ws->by_age.len > 0 ? container_of(ws->by_age.heap[0], struct wait, since) : NULL;
}

/* ---- coming and going ---- */

static uint64_t wait_key(uint32_t worker, uint64_t handle)
{
    return table_mix(handle ^ table_mix(worker + 1));
}

struct wait *wait_find(struct core *c, uint32_t worker, uint64_t handle)
{
    uint32_t cursor = 0, slot;

    while ((slot = table_find(&c->waits.index, wait_key(worker, handle), &cursor)) != UINT32_MAX) {
        uint64_t self;
        struct wait *w = pool_next(&c->waits.pool, &slot, &self);

        if (w->query.worker == worker && w->query.handle == handle)
            return w;
    }
    return NULL;
}

static void never(struct timer *t)
{
    (void)t;
}

static void on_deadline(struct timer *t)
{
    struct wait *w = container_of(t, struct wait, deadline);

    wait_refuse(w->core, w, ERR_GATE_WAIT);
}

static uint64_t limit_of(const struct core *c, const struct query *q)
{
    uint64_t limit = c->conf.gate_wait_ns > 0 ? c->conf.gate_wait_ns : UINT64_MAX;

    if (q->wait_ns > 0 && q->wait_ns < limit)
        limit = q->wait_ns;
    if (q->remaining_ns > 0 && q->remaining_ns < limit)
        limit = q->remaining_ns;
    return limit;
}

static void query_copy(struct core *c, struct wait *w, const struct query *q)
{
    w->query = *q;
    w->digests = chain_keep(&c->chains, q->digests, q->digest_count);
    w->query.digests = w->digests;
    must(q->avoid_count <= AVOID_MAX && q->model.len <= MODEL_MAX);
    w->query.route.len = q->route.len < ROUTE_MAX ? q->route.len : ROUTE_MAX;
    if (q->route.len > 0)
        memcpy(w->route, q->route.p, w->query.route.len);
    w->query.route.p = w->route;
    if (q->avoid_count > 0)
        memcpy(w->avoid, q->avoid, q->avoid_count * sizeof(*q->avoid));
    w->query.avoid = w->avoid;
    if (q->model.len > 0)
        memcpy(w->model, q->model.p, q->model.len);
    w->query.model.p = w->model;
    w->query.tenant = w->query.workflow = w->query.agent = w->query.group = (struct text){0};
}

static uint32_t to_ms(uint64_t start_ns, uint64_t at_ns)
{
    uint64_t ms = at_ns > start_ns ? (at_ns - start_ns) / NS_PER_MS : 0;

    return ms < UINT32_MAX ? (uint32_t)ms : UINT32_MAX;
}

/* A wait counts from the first arrival that was not served: whoever was told to come back later and
 * does so in time keeps his place. */
static uint64_t since_of(const struct core *c, const struct query *q, uint64_t start,
                         const struct agent *a)
{
    uint64_t since = c->now - (q->waited_ns < c->now ? q->waited_ns : c->now);

    return a->refused_until_ms > to_ms(start, c->now) ? start + a->refused_since_ms * NS_PER_MS
                                                      : since;
}

void wait_line_up(struct core *c, struct wait *w)
{
    if (c->waits.by_age.len == 0)
        c->waits.admitted_ns = c->now;
    w->since.fire = never;
    timer_start(&c->waits.by_age, &w->since, w->since_ns);
    line_join(&c->waits.lines, w,
              w->workflow != NULL ? w->workflow->tenant : &c->waits.lines.nobody);
}

enum err wait_make(struct core *c, const struct ask *ask, const struct choice *why,
                   struct wait **out)
{
    const struct query *q = ask->query;
    uint64_t self, limit = limit_of(c, q);
    struct wait *w = pool_take(&c->waits.pool, &self);

    if (w == NULL)
        return ERR_BUSY;
    w->self = self;
    w->core = c;
    w->seq = c->waits.seq++;
    query_copy(c, w, q);
    w->workflow = ask->workflow;
    w->agent = ask->agent;
    w->start_ns = ask->workflow->created_ns;
    w->since_ns = since_of(c, q, w->start_ns, ask->agent);
    w->asked_ns = c->now;
    w->reason = why->reason;
    w->known = *ask->known;
    w->tokens = ask->tokens;
    w->line = (uint32_t)(ask->model - c->fleet.models);
    list_init(&w->of_failed);
    w->tried = why->reason != REASON_GROUP;
    list_push(&c->workers[q->worker].waits, &w->of_worker);
    list_push(&ask->workflow->waiting, &w->of_workflow);
    ask->workflow->waiting_count++;
    tenant_update(c, ask->workflow);
    workflow_touch(c, ask->workflow);
    table_add(&c->waits.index, wait_key(q->worker, q->handle), pool_slot_of(self));
    w->deadline.fire = on_deadline;
    if (limit != UINT64_MAX)
        timer_start(&c->timers, &w->deadline,
                    c->now + (limit > q->waited_ns ? limit - q->waited_ns : 0));
    if (why->reason == REASON_GROUP)
        group_join(c, ask, w);
    else
        wait_line_up(c, w);
    c->stats.waiting++;
    c->stats.waits[why->reason]++;
    *out = w;
    return ERR_OK;
}

void wait_note_admitted(struct core *c, const struct wait *w)
{
    struct waits *ws = &c->waits;
    double gap = (double)(c->now - ws->admitted_ns) / NS_PER_S;

    if (!w->tried || w->reason != REASON_DOOR)
        return;
    ws->gap_s += (ws->gap_s > 0 ? GAP_SHARE : 1) * (gap - ws->gap_s);
    ws->admitted_ns = c->now;
}

/* As many as have waited longer go before it, one every gap_s. Who waits is taken to have come
 * evenly over the longest wait, which spares counting them. */
uint64_t wait_retry_ns(const struct core *c, const struct wait *w)
{
    const struct wait *oldest = waits_oldest(&c->waits);
    double gap = (double)(c->now - c->waits.admitted_ns) / NS_PER_S, seconds, longest;

    if (oldest == NULL)
        return RETRY_MIN_S * NS_PER_S;
    if (c->waits.gap_s > gap)
        gap = c->waits.gap_s;
    longest = (double)(c->now - oldest->since_ns);
    seconds = gap;
    if (longest > 0 && w->since_ns > oldest->since_ns)
        seconds += gap * (double)(c->waits.by_age.len - 1) *
                   (double)(w->since_ns - oldest->since_ns) / longest;
    seconds = seconds < RETRY_MIN_S ? RETRY_MIN_S : seconds > RETRY_MAX_S ? RETRY_MAX_S : seconds;
    return (uint64_t)(seconds * NS_PER_S);
}

void wait_note_refused(struct core *c, struct wait *w, uint64_t retry_ns)
{
    if (w->agent == NULL)
        return;
    w->agent->refused_since_ms = to_ms(w->start_ns, w->since_ns);
    w->agent->refused_until_ms = to_ms(w->start_ns, c->now + 2 * retry_ns);
}

void wait_detach_workflow(struct core *c, struct wait *w)
{
    bool stood = w->row != NULL, in_line = w->in_line;

    line_leave(&c->waits.lines, w);
    list_remove(&w->of_workflow);
    w->workflow->waiting_count--;
    tenant_update(c, w->workflow);
    w->workflow = NULL;
    w->agent = NULL;
    w->query.class = 0;
    w->start_ns = 0;
    if (stood)
        line_join(&c->waits.lines, w, &c->waits.lines.nobody);
    if (stood && !in_line)
        line_take(&c->waits.lines, w);
}

void wait_drop(struct core *c, struct wait *w)
{
    struct workflow *of = w->workflow;

    line_leave(&c->waits.lines, w);
    group_leave(c, w);
    timer_stop(&c->waits.by_age, &w->since);
    timer_stop(&c->timers, &w->deadline);
    table_remove(&c->waits.index, wait_key(w->query.worker, w->query.handle),
                 pool_slot_of(w->self));
    list_remove(&w->of_worker);
    list_remove(&w->of_failed);
    chain_drop(&c->chains, w->digests);
    if (of != NULL) {
        list_remove(&w->of_workflow);
        of->waiting_count--;
        tenant_update(c, of);
        workflow_touch(c, of);
    }
    c->stats.waiting--;
    pool_give(&c->waits.pool, w->self);
    if (of != NULL && of->ending && of->inflight == 0 && of->waiting_count == 0)
        workflow_end(c, of);
}
