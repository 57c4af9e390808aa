/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/methods.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/clock.h"

/* The calls that look at the core's tables, a bounded number of rows each. */
#define LIST_DEFAULT 100u
#define LIST_MAX 500u
#define LIST_LOOKED 20000u /* records one call walks over at most */
#define EXPLAIN_DEFAULT 20u
#define EXPLAIN_MAX 200u

/* ---- engines ---- */

/* What a gateway on another host needs to serve and to decide alone, as publish_engine() shows it
 * to those on this one. */
static void engine_row(const struct server *s, struct arena *a, const struct engine *e,
                       Slipstream__V1__Engine *to)
{
    const struct seat *seat = &s->fleet.seats[e->index];

    to->ip = arena_text(a, (struct text){seat->address, (uint32_t)strlen(seat->address)});
    to->port = seat->port;
    to->probed = e->probed;
    if (seat->usage == CONF_USAGE_NEVER)
        to->usage = SLIPSTREAM__V1__ENGINE_USAGE__USAGE_NEVER;
    if (seat->usage == CONF_USAGE_ALWAYS)
        to->usage = SLIPSTREAM__V1__ENGINE_USAGE__USAGE_ALWAYS;
}

static Slipstream__V1__EngineFit *fit_message(struct arena *a, const struct engine *e)
{
    static const char *const words[] = {
        [FIT_CACHED_UNKNOWN] = "unknown", [FIT_CACHED_TOLD] = "told", [FIT_CACHED_NEVER] = "never"};
    Slipstream__V1__EngineFit *m = arena_take(a, sizeof(*m));
    struct fit_report r;

    if (m == NULL)
        return NULL;
    fit_report(&e->fit, &e->time, e->kv_factor, &r);
    slipstream__v1__engine_fit__init(m);
    m->prefill_seconds = r.prefill_s;
    m->prefill_factor = r.prefill_factor;
    m->decode_factor = r.decode_factor;
    m->kv_factor = r.kv_factor;
    m->prefill_samples = r.prefill_samples;
    m->decode_samples = r.decode_samples;
    m->cached_tokens =
        arena_text(a, (struct text){words[r.cached], (uint32_t)strlen(words[r.cached])});
    return m;
}

static void engine_message(const struct server *s, struct arena *a, const struct engine *e,
                           Slipstream__V1__Engine *to, bool as_row)
{
    uint32_t models =
        as_row && e->model_count > FLEET_ENGINE_MODELS ? FLEET_ENGINE_MODELS : e->model_count;
    const struct seat *seat = &s->fleet.seats[e->index];

    slipstream__v1__engine__init(to);
    to->index = e->index;
    to->generation = e->generation;
    to->id = arena_text(a, (struct text){e->id, (uint32_t)strlen(e->id)});
    to->address = arena_text(a, (struct text){seat->host, (uint32_t)strlen(seat->host)});
    to->models = arena_take(a, (models + 1) * sizeof(*to->models));
    for (uint32_t i = 0; to->models != NULL && i < models; i++) {
        const char *name = core_engine_model(s->core, e, i);

        to->models[to->n_models++] = arena_text(a, (struct text){name, (uint32_t)strlen(name)});
    }
    to->healthy = e->healthy;
    to->draining = e->draining;
    to->running = e->running;
    to->home_tokens = e->home_tokens;
    to->homed_workflows = e->homed_workflows;
    to->health_reason =
        arena_text(a, (struct text){seat->health_reason, (uint32_t)strlen(seat->health_reason)});
    to->requests = e->requests;
    to->priority = e->priority;
    to->failures = e->failures;
    to->kv_tokens = engine_capacity(e);
    to->claimed_tokens = (uint64_t)core_engine_claims(s->core, e);
    to->queue = engine_queue_s(e);
    if (as_row)
        engine_row(s, a, e, to);
    else
        to->fit = fit_message(a, e);
}

bool server_engines_message(struct server *s, Slipstream__V1__Engines *out, bool as_rows)
{
    uint32_t count = core_engine_count(s->core), i;

    slipstream__v1__engines__init(out);
    out->conf_epoch = s->conf_epoch;
    out->engines = arena_take(&s->arena, (count + 1) * sizeof(*out->engines));
    for (i = 0; out->engines != NULL && i < count; i++) {
        const struct engine *e = core_engine(s->core, i);
        Slipstream__V1__Engine *to;

        if (e == NULL)
            continue;
        to = arena_take(&s->arena, sizeof(*to));
        if (to == NULL)
            return false;
        engine_message(s, &s->arena, e, to, as_rows);
        out->engines[out->n_engines++] = to;
    }
    return out->engines != NULL;
}

enum err method_list_engines(const struct call *c)
{
    Slipstream__V1__Engines engines;

    if (!server_engines_message(c->server, &engines, false))
        return ERR_BUSY;
    call_reply(c, ERR_OK, &engines.base);
    return ERR_OK;
}

enum err method_get_status(const struct call *c)
{
    const struct server *s = c->server;
    const struct core_stats *stats = core_stats_get(s->core);
    Slipstream__V1__SchedulerStatus out;
    char version[] = SLIP_VERSION;

    slipstream__v1__scheduler_status__init(&out);
    out.policy = (char *)(uintptr_t)core_policy_name(s->core);
    out.epoch = s->epoch;
    out.uptime_ms = (clock_ns() - s->started_ns) / NS_PER_MS;
    out.workflows = stats->workflows;
    out.leases = stats->leases;
    out.peers = rpc_server_peers(s->rpc);
    for (uint32_t i = 0; i < core_engine_count(s->core); i++) {
        const struct engine *e = core_engine(s->core, i);

        out.engines += e != NULL;
        out.engines_healthy += e != NULL && e->healthy;
    }
    for (unsigned r = 0; r < REASON_COUNT; r++)
        out.decisions += stats->decisions[r];
    out.waiting = stats->waiting;
    for (unsigned r = 0; r < REASON_COUNT; r++)
        out.waits += stats->waits[r];
    out.gate = stats->gate;
    out.waste = stats->waste;
    out.credit = stats->credit;
    out.version = version;
    call_reply(c, ERR_OK, &out.base);
    return ERR_OK;
}

/* ---- workflows ---- */

enum err method_get_workflow(const struct call *c)
{
    struct wire_clock clock = call_clock(c);
    Slipstream__V1__Workflow *m;
    struct workflow_event what;
    struct workflow *w;
    enum err err = call_workflow(c, c->request, &what, &w);

    if (err != ERR_OK)
        return err;
    m = wire_workflow(&c->server->arena, c->server->core, w, &clock, METHODS_AGENTS_SHOWN);
    if (m == NULL)
        return ERR_BUSY;
    call_reply(c, ERR_OK, &m->base);
    return ERR_OK;
}

enum err method_list_agents(const struct call *c)
{
    Slipstream__V1__Agents out;
    struct wire_clock clock = call_clock(c);
    struct workflow_event what;
    struct workflow *w;
    enum err err = call_workflow(c, c->request, &what, &w);

    slipstream__v1__agents__init(&out);
    if (err != ERR_OK)
        return err;
    out.agents = wire_agents(&c->server->arena, c->server->core, w, &clock, METHODS_AGENTS_SHOWN,
                             true, &out.n_agents);
    if (out.agents == NULL)
        return ERR_BUSY;
    call_reply(c, ERR_OK, &out.base);
    return ERR_OK;
}

/* Where a listing goes on: behind the workflow of the cursor, which may have ended since. */
static const struct workflow *cursor_find(const struct core *c, const char *cursor, bool *bad)
{
    uint64_t handle, seq;
    const struct workflow *w;
    int end = 0;

    *bad = false;
    if (*cursor == '\0')
        return core_workflow_older(c, NULL);
    if (sscanf(cursor, "%16" SCNx64 ".%16" SCNx64 "%n", &handle, &seq, &end) != 2 ||
        cursor[end] != '\0') {
        *bad = true;
        return NULL;
    }
    w = core_workflow(c, handle);
    return w != NULL && w->seq == seq ? core_workflow_older(c, w) : core_workflow_before(c, seq);
}

static bool is_listed(const struct call *c, const struct workflow *w, const char *tenant,
                      const char *state, uint64_t now)
{
    const Slipstream__V1__WorkflowQuery *q = c->request;
    struct text t = workflow_tenant(c->server->core, w);
    bool active = workflow_is_active(c->server->core, w, now);

    if (*state != '\0' && strcmp(state, active ? "active" : "idle") != 0)
        return false;
    return (q->all_tenants && c->who->trusted) ||
           (t.len == strlen(tenant) && memcmp(t.p, tenant, t.len) == 0);
}

enum err method_list_workflows(const struct call *c)
{
    const Slipstream__V1__WorkflowQuery *q = c->request;
    const struct core *core = c->server->core;
    Slipstream__V1__Workflows out;
    uint32_t limit = q->limit == 0 ? LIST_DEFAULT : q->limit < LIST_MAX ? q->limit : LIST_MAX;
    struct wire_clock clock = call_clock(c);
    const struct workflow *w, *last = NULL;
    char cursor[40];
    uint32_t looked = 0;
    bool bad;

    slipstream__v1__workflows__init(&out);
    if (*q->state != '\0' && strcmp(q->state, "active") != 0 && strcmp(q->state, "idle") != 0)
        return ERR_VALUE;
    w = cursor_find(core, q->cursor, &bad);
    out.workflows = arena_take(&c->server->arena, limit * sizeof(*out.workflows));
    if (bad || out.workflows == NULL)
        return bad ? ERR_VALUE : ERR_BUSY;
    for (; w != NULL && out.n_workflows < limit && looked < LIST_LOOKED; looked++) {
        if (is_listed(c, w, call_tenant(c, q->tenant), q->state, clock.now_ns)) {
            Slipstream__V1__Workflow *m = wire_workflow(&c->server->arena, core, w, &clock, 0);

            if (m == NULL)
                break;
            out.workflows[out.n_workflows++] = m;
        }
        last = w;
        w = core_workflow_older(core, w);
    }
    if (w != NULL && last != NULL) {
        snprintf(cursor, sizeof(cursor), "%" PRIx64 ".%" PRIx64, last->self, last->seq);
        out.cursor = cursor;
    }
    call_reply(c, ERR_OK, &out.base);
    return ERR_OK;
}

/* ---- decisions ---- */

static bool is_explained(const struct call *c, const struct explained *d)
{
    const Slipstream__V1__ExplainQuery *q = c->request;

    if (*q->workflow_id != '\0' &&
        strcmp(q->workflow_id, explained_text(d, EXPLAINED_WORKFLOW)) != 0)
        return false;
    if (*q->request_id != '\0' && strcmp(q->request_id, explained_text(d, EXPLAINED_REQUEST)) != 0)
        return false;
    return (q->all_tenants && c->who->trusted) ||
           strcmp(call_tenant(c, q->tenant), explained_text(d, EXPLAINED_TENANT)) == 0;
}

enum err method_explain(const struct call *c)
{
    const Slipstream__V1__ExplainQuery *q = c->request;
    struct server *s = c->server;
    Slipstream__V1__Explanations out;
    uint32_t limit = q->limit == 0            ? EXPLAIN_DEFAULT
                     : q->limit < EXPLAIN_MAX ? q->limit
                                              : EXPLAIN_MAX;
    const struct explained *d;

    slipstream__v1__explanations__init(&out);
    out.items = arena_take(&s->arena, limit * sizeof(*out.items));
    for (uint64_t n = 0; out.items != NULL && out.n_items < limit; n++) {
        Slipstream__V1__Explanation *m;

        d = explain_get(&s->explain, n);
        if (d == NULL)
            break;
        if (!is_explained(c, d))
            continue;
        m = wire_explanation(&s->arena, s->core, d, clock_ns());
        if (m == NULL)
            break;
        out.items[out.n_items++] = m;
    }
    if (out.items == NULL)
        return ERR_BUSY;
    call_reply(c, ERR_OK, &out.base);
    return ERR_OK;
}
