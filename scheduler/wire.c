/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/wire.h"

#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/id.h"
#include "common/must.h"
#include "scheduler/engine.h"

#define CANDIDATES_MAX 64u
#define LONGEST_MS 86400000u /* nobody's request takes more than a day */

/* ---- memory ---- */

void arena_init(struct arena *a)
{
    *a = (struct arena){.size = ARENA_BYTES, .base = malloc(ARENA_BYTES)};
    must(a->base != NULL);
}

void arena_fini(struct arena *a)
{
    free(a->base);
    *a = (struct arena){0};
}

char *arena_text(struct arena *a, struct text t)
{
    static char empty[1];
    char *p = arena_room(a, (size_t)t.len + 1);

    if (p == NULL)
        return empty;
    memcpy(p, t.p, t.len);
    p[t.len] = '\0';
    return p;
}

/* ---- in ---- */

static struct text text_of(const char *s)
{
    return (struct text){s, (uint32_t)strlen(s)};
}

bool wire_id_is_valid(const char *s)
{
    return id_is_valid(s, strlen(s));
}

static bool id_or_empty(const char *s)
{
    return *s == '\0' || wire_id_is_valid(s);
}

static uint64_t to_model(uint64_t ms, double scale)
{
    return (uint64_t)((double)((ms < LONGEST_MS ? ms : LONGEST_MS) * NS_PER_MS) * scale);
}

static enum class class_of(Slipstream__V1__Priority p) {
    return p == SLIPSTREAM__V1__PRIORITY__PRIORITY_INTERACTIVE ? CLASS_INTERACTIVE
           : p == SLIPSTREAM__V1__PRIORITY__PRIORITY_BATCH     ? CLASS_BATCH
                                                               : CLASS_DEFAULT;
}

enum err wire_query(const Slipstream__V1__Query *q, double scale, struct query *out)
{
    if (!id_or_empty(q->workflow_id) || !id_or_empty(q->agent_id) || !id_or_empty(q->group_id) ||
        strlen(q->tenant) > TENANT_MAX)
        return ERR_ID;
    if ((unsigned)q->strategy > PLACE_ISOLATED || strlen(q->route) > ROUTE_MAX)
        return ERR_INVALID;
    if (q->n_digests > DIGESTS_MAX || q->n_avoid > AVOID_MAX)
        return ERR_TOO_LARGE;
    *out = (struct query){.handle = q->handle,
                          .tenant = text_of(q->tenant),
                          .workflow = text_of(q->workflow_id),
                          .agent = text_of(q->agent_id),
                          .model = text_of(q->model),
                          .strategy = (enum strategy)q->strategy,
                          .final = q->final,
                          .stream = q->stream,
                          .prompt_bytes = q->prompt_bytes,
                          .max_tokens = q->max_tokens,
                          .digests = q->digests,
                          .digest_count = (uint32_t)q->n_digests,
                          .waited_ns = to_model(q->waited_ms, scale),
                          .remaining_ns = to_model(q->remaining_ms, scale),
                          .class = (uint8_t)class_of(q->priority),
                          .wait_ns = to_model(q->patience_ms, scale),
                          .route = text_of(q->route),
                          .group = text_of(q->group_id),
                          .group_size = q->group_size,
                          .avoid = q->avoid,
                          .avoid_count = (uint32_t)q->n_avoid};
    /* Whole blocks are bytes, whatever the count says. */
    if (out->prompt_bytes < out->digest_count * TEXT_BLOCK)
        out->prompt_bytes = out->digest_count * TEXT_BLOCK;
    return ERR_OK;
}

enum err wire_report(const Slipstream__V1__ReportItem *r, double scale, struct event *out)
{
    static const enum event_type types[] = {EV_FIRST_BYTE, EV_DONE, EV_CANCEL, EV_DISPATCHED,
                                            EV_DONE};

    if ((unsigned)r->kind >= sizeof(types) / sizeof(types[0]))
        return ERR_INVALID;
    out->type = types[r->kind];
    if (out->type == EV_DISPATCHED) {
        enum err err = r->query != NULL ? wire_query(r->query, scale, &out->query) : ERR_INVALID;

        if (err != ERR_OK)
            return err;
        out->query.handle = r->handle;
        out->query.placed = r->engine;
        return ERR_OK;
    }
    out->report = (struct report_event){.handle = r->handle,
                                        .err = err_from_wire(r->err),
                                        .has_usage = r->has_usage,
                                        .has_cached = r->has_cached,
                                        .prompt_tokens = r->prompt_tokens,
                                        .cached_tokens = r->cached_tokens,
                                        .completion_tokens = r->completion_tokens};
    out->report.latency_ns = (uint64_t)((double)(r->latency_us * NS_PER_US) * scale);
    out->report.declined = r->status >= 400 && r->status < 500;
    if (r->status >= 500 && out->report.err == ERR_OK) /* an answer, but not what was asked for */
        out->report.err = ERR_ENGINE_PROTO;
    if (r->kind == SLIPSTREAM__V1__REPORT_KIND__REPORT_FAILED && out->report.err == ERR_OK)
        out->report.err = ERR_PROTO;
    return ERR_OK;
}

enum err wire_ref(const char *tenant, const char *id, const char *agent, struct workflow_event *out)
{
    if (!wire_id_is_valid(id) || strlen(tenant) > TENANT_MAX ||
        (agent != NULL && !wire_id_is_valid(agent)))
        return ERR_ID;
    *out = (struct workflow_event){.tenant = text_of(tenant), .id = text_of(id)};
    if (agent != NULL)
        out->agent = text_of(agent);
    return ERR_OK;
}

/* ---- out ---- */

static char *word(const char *s) /* protobuf-c wants char *, and only reads */
{
    return (char *)(uintptr_t)s;
}

static void candidates_add(struct arena *a, const struct core *c, const struct receipt *r,
                           Slipstream__V1__Decision *d)
{
    size_t most = r->count < CANDIDATES_MAX ? r->count : CANDIDATES_MAX;

    d->candidates = arena_take(a, (most + 1) * sizeof(*d->candidates));
    for (uint32_t i = 0; d->candidates != NULL && i < r->count && d->n_candidates < most; i++) {
        const struct receipt_row *from = core_receipt_row(c, r, i);
        Slipstream__V1__Candidate *to = from->has_cost ? arena_take(a, sizeof(*to)) : NULL;

        if (to == NULL)
            continue;
        slipstream__v1__candidate__init(to);
        to->engine = from->engine;
        to->cost = from->cost;
        to->cached_tokens = from->cached_tokens;
        to->queue = from->queue_seconds;
        to->workflows = from->workflows;
        d->candidates[d->n_candidates++] = to;
    }
}

static uint32_t real_ms(uint64_t model_ns, double scale)
{
    double ms = (double)model_ns / scale / NS_PER_MS;

    return ms < UINT32_MAX ? (uint32_t)ms : UINT32_MAX;
}

static void go_fill(struct arena *a, const struct core *c, const struct action *act,
                    struct wire_way way, bool candidates, Slipstream__V1__Decision *d)
{
    const struct receipt *r = core_receipt(c, act->receipt);

    d->kind = SLIPSTREAM__V1__DECISION_KIND__DECISION_GO;
    d->engine = act->engine;
    d->engine_generation = act->engine_generation;
    d->priority = act->priority;
    d->deadline_ms = real_ms(act->deadline_ns - way.lease_slack_ns, way.scale);
    d->reason = word(reason_word(act->reason));
    d->policy = word(act->policy);
    d->hit = act->hit;
    d->waited_ms = (uint32_t)(act->waited_ns / NS_PER_MS);
    if (r != NULL && act->waited_ns > 0)
        d->wait_reason = word(reason_word(r->why_waited));
    if (r != NULL && candidates)
        candidates_add(a, c, r, d);
}

void wire_decision(struct arena *a, const struct core *c, const struct action *act,
                   struct wire_way way, bool candidates, Slipstream__V1__Decision *out)
{
    slipstream__v1__decision__init(out);
    if (act->type == ACT_GO) {
        go_fill(a, c, act, way, candidates, out);
    } else if (act->type == ACT_WAIT) {
        out->kind = SLIPSTREAM__V1__DECISION_KIND__DECISION_WAIT;
        out->reason = word(reason_word(act->reason));
        out->deadline_ms =
            real_ms(act->deadline_ns > 0 ? act->deadline_ns : way.gate_wait_ns, way.scale);
    } else {
        out->kind = SLIPSTREAM__V1__DECISION_KIND__DECISION_NO;
        out->err = act->err;
        out->retry_ms = real_ms(act->retry_ns, way.scale);
    }
}

static char *engine_word(const struct core *c, uint32_t index, uint32_t generation)
{
    const struct engine *e = core_engine(c, index);

    return word(e != NULL && e->generation == generation ? e->id : "");
}

static bool explained_engines(struct arena *a, const struct core *c, const struct explained *d,
                              Slipstream__V1__Explanation *to)
{
    to->engines = arena_take(a, (d->row_count + 1) * sizeof(*to->engines));
    for (uint32_t i = 0; to->engines != NULL && i < d->row_count; i++) {
        const struct explained_row *row = &d->rows[i];
        Slipstream__V1__ExplainedEngine *e = arena_take(a, sizeof(*e));

        if (e == NULL)
            return false;
        slipstream__v1__explained_engine__init(e);
        e->id = engine_word(c, row->engine, row->generation);
        e->cost = row->has_cost ? row->cost : 0;
        e->no_cost = !row->has_cost;
        e->cached_tokens = row->cached_tokens;
        e->queue = row->queue;
        e->workflows = row->workflows;
        to->engines[to->n_engines++] = e;
    }
    return to->engines != NULL;
}

Slipstream__V1__Explanation *wire_explanation(struct arena *a, const struct core *c,
                                              const struct explained *d, uint64_t now_ns)
{
    Slipstream__V1__Explanation *to = arena_take(a, sizeof(*to));

    if (to == NULL)
        return NULL;
    slipstream__v1__explanation__init(to);
    to->at_ms = d->at_wall_ms;
    to->kind = d->kind;
    to->request_id = word(explained_text(d, EXPLAINED_REQUEST));
    to->tenant = word(explained_text(d, EXPLAINED_TENANT));
    to->workflow_id = word(explained_text(d, EXPLAINED_WORKFLOW));
    to->agent_id = word(explained_text(d, EXPLAINED_AGENT));
    to->parent_request_id = word(explained_text(d, EXPLAINED_PARENT));
    to->model = word(explained_text(d, EXPLAINED_MODEL));
    to->route = word(explained_text(d, EXPLAINED_ROUTE));
    to->priority = d->priority;
    to->group_id = word(explained_text(d, EXPLAINED_GROUP));
    to->group_size = d->group_size;
    to->prompt_bytes = d->prompt_bytes;
    to->policy = word(d->policy);
    to->reason = word(d->reason);
    to->engine = engine_word(c, d->engine, d->generation);
    to->hit = d->hit;
    to->wait_reason = word(d->wait_reason);
    to->err = d->err;
    if (d->kind == SLIPSTREAM__V1__DECISION_KIND__DECISION_WAIT)
        to->waited_ms = (uint32_t)((now_ns - d->since_ns) / NS_PER_MS);
    else
        to->waited_ms = (uint32_t)(d->waited_ns / NS_PER_MS);
    return explained_engines(a, c, d, to) ? to : NULL;
}

static uint32_t idle_ms(const struct wire_clock *clock, uint64_t last_ns)
{
    uint64_t ms =
        last_ns > 0 && last_ns < clock->now_ns ? (clock->now_ns - last_ns) / NS_PER_MS : 0;

    return ms < UINT32_MAX ? (uint32_t)ms : UINT32_MAX;
}

Slipstream__V1__Agent **wire_agents(struct arena *a, const struct core *c, const struct workflow *w,
                                    const struct wire_clock *clock, size_t max, bool named_only,
                                    size_t *count)
{
    size_t most = w->agent_count < max ? w->agent_count : max;
    Slipstream__V1__Agent **out = arena_take(a, (most + 1) * sizeof(*out));

    *count = 0;
    if (out == NULL)
        return NULL;
    list_for(pos, &w->agents)
    {
        const struct agent *agent = container_of(pos, const struct agent, node);
        Slipstream__V1__Agent *to;

        if (named_only && agent->id.len == 0)
            continue;
        to = *count < most ? arena_take(a, sizeof(*to)) : NULL;
        if (to == NULL)
            break;
        slipstream__v1__agent__init(to);
        to->id = arena_text(a, agent_id(c, agent));
        to->active = agent_is_active(c, agent, clock->now_ns);
        to->inflight = agent->inflight;
        to->requests = (uint64_t)agent->requests + agent->inflight;
        to->prompt_tokens = agent->prompt_tokens;
        to->cached_tokens = agent->cached_tokens;
        to->completion_tokens = agent->completion_tokens;
        to->idle_ms = agent->inflight > 0 ? 0 : idle_ms(clock, agent->last_ns);
        out[(*count)++] = to;
    }
    return out;
}

static uint64_t wall_of(const struct wire_clock *clock, uint64_t at_ns)
{
    return clock->wall_base_ms + (uint64_t)((double)at_ns / clock->scale) / NS_PER_MS;
}

Slipstream__V1__Workflow *wire_workflow(struct arena *a, const struct core *c,
                                        const struct workflow *w, const struct wire_clock *clock,
                                        size_t agents_max)
{
    Slipstream__V1__Workflow *to = arena_take(a, sizeof(*to));
    const struct engine *e = workflow_engine(c, w);

    if (to == NULL)
        return NULL;
    slipstream__v1__workflow__init(to);
    to->workflow_id = arena_text(a, workflow_id(c, w));
    to->tenant = arena_text(a, workflow_tenant(c, w));
    to->state = word(workflow_is_active(c, w, clock->now_ns) ? "active" : "idle");
    to->active_agents = workflow_active_agents(c, w, clock->now_ns);
    to->total_requests = workflow_requests(w);
    to->cache_hit_rate = workflow_hit_rate(w);
    to->cache_hit_estimated = w->estimated;
    to->assigned_instance = word(e != NULL ? e->id : "");
    to->created_ms = wall_of(clock, w->created_ns);
    to->last_activity_ms = wall_of(clock, w->last_ns);
    to->ttl_ms = clock->ttl_ms;
    to->prompt_tokens = w->prompt_tokens;
    to->cached_tokens = w->cached_tokens;
    to->completion_tokens = w->completion_tokens;
    to->recomputed_tokens = w->recomputed_tokens;
    to->latency_mean = latency_mean(&w->latency);
    to->latency_p50 = latency_quantile(&w->latency, 0.5);
    to->latency_p99 = latency_quantile(&w->latency, 0.99);
    to->inflight = w->inflight;
    to->waits = w->waits;
    to->waited_mean = w->waits > 0 ? (double)w->waited_ns / (double)w->waits / 1e9 : 0;
    to->admission = word(core_workflow_admission(c, w));
    to->waiting = w->waiting_count;
    to->waiting_longest = core_workflow_waiting(c, w);
    if (agents_max > 0)
        to->agents = wire_agents(a, c, w, clock, agents_max, true, &to->n_agents);
    return to;
}
