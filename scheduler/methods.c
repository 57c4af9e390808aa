/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/codec.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/must.h"
#include "common/secret.h"
#include "scheduler/server.h"

/*
 * The Scheduler service. Every call is checked for who asks (gateways name tenants, place and
 * report; other clients see the workflows of their own key) and for what it says, then becomes an
 * event for the core or a look at its tables.
 */
#define LIST_DEFAULT 100u
#define LIST_MAX 500u
#define LIST_LOOKED 20000u /* records one call walks over at most */
#define EXPLAIN_DEFAULT 20u
#define EXPLAIN_MAX 200u
#define AGENTS_SHOWN 1000u /* in one answer */

struct call {
    struct server *server;
    struct rpc_peer *peer;
    const struct peer *who;
    uint64_t token;
    const void *request; /* unpacked */
};

static void reply(const struct call *c, enum err status, const ProtobufCMessage *body)
{
    if (c->token != 0)
        rpc_reply(c->server->rpc, c->token, status, body);
}

/* ---- peers ---- */

/* Whose word this is. A local peer was let in by the permissions of the socket. */
static bool peer_recognise(const struct server *s, struct peer *p, bool local, const char *key)
{
    p->trusted = key == NULL || *key == '\0' ? local : secret_is_same(key, s->peer_key);
    if (p->trusted)
        return true;
    if (key == NULL)
        return false;
    for (size_t i = 0; i < s->conf->key_count; i++)
        if (secret_is_same(key, s->keys[i])) {
            snprintf(p->tenant, sizeof(p->tenant), "%s", s->conf->keys[i].tenant);
            return true;
        }
    return false;
}

static uint32_t worker_take(struct server *s, struct rpc_peer *peer)
{
    for (uint32_t i = 0; i < SERVER_PEERS; i++)
        if (s->workers[i] == NULL) {
            s->workers[i] = peer;
            return i;
        }
    return UINT32_MAX;
}

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

static bool engines_message(struct server *s, Slipstream__V1__Engines *out, bool as_rows)
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

static void info_pack(struct server *s, bool is_gateway, uint8_t **info, size_t *len)
{
    Slipstream__V1__SchedulerInfo words;
    Slipstream__V1__Engines engines;

    slipstream__v1__scheduler_info__init(&words);
    arena_clear(&s->arena);
    words.policy = (char *)(uintptr_t)core_policy_name(s->core);
    words.time_scale = s->scale;
    if (is_gateway) {
        words.digest_seed = s->publisher.segment->digest_seed;
        words.conf_epoch = s->conf_epoch;
        words.priority_now = (int64_t)(server_now(s) / NS_PER_MS);
        if (engines_message(s, &engines, true))
            words.engines = &engines;
    }
    *len = slipstream__v1__scheduler_info__get_packed_size(&words);
    *info = malloc(*len);
    must(*info != NULL);
    slipstream__v1__scheduler_info__pack(&words, *info);
}

enum err server_on_hello(void *arg, struct rpc_peer *peer, const char *name, const char *key,
                         uint8_t **info, size_t *info_len, const char **reason)
{
    struct server *s = arg;
    struct peer *p = rpc_peer_data(peer), fresh = {0};
    char quoted[80];

    if (!peer_recognise(s, &fresh, rpc_peer_is_local(peer), key)) {
        *reason = "the key is missing or not known";
        log_warn("peer_refused", "name=%s reason=\"%s\"",
                 log_quote(quoted, sizeof(quoted), name, strlen(name)), *reason);
        return ERR_DENIED;
    }
    if (p == NULL) {
        fresh.worker = worker_take(s, peer);
        if (fresh.worker == UINT32_MAX) {
            *reason = "too many clients";
            return ERR_BUSY;
        }
        p = malloc(sizeof(*p));
        must(p != NULL);
        *p = fresh;
        rpc_peer_set_data(peer, p);
        log_info("peer_up", "name=%s worker=%u trusted=%d",
                 log_quote(quoted, sizeof(quoted), name, strlen(name)), p->worker, p->trusted);
    }
    server_step(s, &(struct event){.type = EV_WORKER_HELLO, .worker = p->worker});
    p->fleet_due = false; /* it is in the answer */
    info_pack(s, p->trusted, info, info_len);
    return ERR_OK;
}

void server_on_gone(void *arg, struct rpc_peer *peer)
{
    struct server *s = arg;
    struct peer *p = rpc_peer_data(peer);
    char quoted[80];

    if (p == NULL)
        return;
    log_info("peer_gone", "name=%s worker=%u",
             log_quote(quoted, sizeof(quoted), rpc_peer_name(peer), strlen(rpc_peer_name(peer))),
             p->worker);
    server_step(s, &(struct event){.type = EV_WORKER_GONE, .worker = p->worker});
    s->workers[p->worker] = NULL;
    rpc_peer_set_data(peer, NULL);
    free(p);
}

void server_tell_fleet(struct server *s)
{
    for (uint32_t i = 0; i < SERVER_PEERS; i++)
        if (s->workers[i] != NULL && !rpc_peer_is_local(s->workers[i])) {
            struct peer *p = rpc_peer_data(s->workers[i]);

            p->fleet_due = p->trusted;
            s->fleet_due |= p->trusted;
        }
    server_retry_fleet(s);
}

void server_retry_fleet(struct server *s)
{
    Slipstream__V1__Engines engines;

    if (!s->fleet_due)
        return;
    arena_clear(&s->arena);
    if (!engines_message(s, &engines, true))
        return;
    s->fleet_due = false;
    for (uint32_t i = 0; i < SERVER_PEERS; i++) {
        struct peer *p = s->workers[i] != NULL ? rpc_peer_data(s->workers[i]) : NULL;

        if (p == NULL || !p->fleet_due)
            continue;
        p->fleet_due =
            rpc_event(s->rpc, s->workers[i], SLIPSTREAM__V1__SCHEDULER_EVENT__EVENT_FLEET,
                      &engines.base) != ERR_OK;
        s->fleet_due |= p->fleet_due;
    }
}

/* ---- placing ---- */

static enum err on_place(const struct call *c)
{
    const Slipstream__V1__Query *q = c->request;
    struct server *s = c->server;
    struct event ev = {.type = EV_QUERY};
    Slipstream__V1__Decision d;
    enum err err = wire_query(q, s->scale, &ev.query);

    if (err != ERR_OK)
        return err;
    if (fault_hits(FAULT_query_late))
        return ERR_OK;
    ev.query.worker = c->who->worker;
    explain_query(&s->explain, c->who->worker, q, q->tenant,
                  s->publisher.wall_base_ms + s->call_ns / NS_PER_MS, s->call_ns);
    err = server_ask(s, &ev);
    if (err != ERR_OK)
        return err;
    wire_decision(&s->arena, s->core, &s->ask.answer, server_wire(s), q->explain, &d);
    reply(c, ERR_OK, &d.base);
    return ERR_OK;
}

static enum err on_report(const struct call *c)
{
    const Slipstream__V1__Reports *r = c->request;
    enum err err = ERR_OK;

    for (size_t i = 0; i < r->n_items; i++) {
        struct event ev = {.type = EV_TICK};
        enum err bad = wire_report(r->items[i], c->server->scale, &ev);

        if (bad != ERR_OK) { /* the others count all the same */
            err = bad;
            continue;
        }
        if (ev.type == EV_DISPATCHED)
            ev.query.worker = c->who->worker;
        else
            ev.report.worker = c->who->worker;
        server_step(c->server, &ev);
    }
    if (err == ERR_OK)
        reply(c, ERR_OK, NULL);
    return err;
}

static enum err on_resume(const struct call *c)
{
    const Slipstream__V1__Inflight *page = c->request;
    enum err err = ERR_OK;

    for (size_t i = 0; i < page->n_items; i++) {
        const Slipstream__V1__InflightItem *item = page->items[i];
        struct event ev = {.type = EV_RESUME};
        enum err bad = item->query != NULL ? wire_query(item->query, c->server->scale, &ev.query)
                                           : ERR_INVALID;

        if (bad != ERR_OK) {
            err = bad;
            continue;
        }
        if (!item->dispatched) /* it will ask again */
            continue;
        ev.query.worker = c->who->worker;
        ev.query.placed = item->engine;
        ev.query.first_byte = item->first_byte;
        server_step(c->server, &ev);
    }
    if (page->last)
        server_step(c->server, &(struct event){.type = EV_RESUME_LAST, .worker = c->who->worker});
    if (err == ERR_OK)
        reply(c, ERR_OK, NULL);
    return err;
}

/* ---- looking ---- */

static struct wire_clock clock_of(const struct server *s)
{
    return (struct wire_clock){.now_ns = server_now(s),
                               .wall_base_ms = s->publisher.wall_base_ms,
                               .scale = s->scale,
                               .ttl_ms = s->conf->scheduler.workflow_ttl_ms};
}

static const char *tenant_of(const struct call *c, const char *said)
{
    return c->who->trusted ? said : c->who->tenant;
}

static enum err on_list_engines(const struct call *c)
{
    Slipstream__V1__Engines engines;

    if (!engines_message(c->server, &engines, false))
        return ERR_BUSY;
    reply(c, ERR_OK, &engines.base);
    return ERR_OK;
}

static enum err workflow_of(const struct call *c, const Slipstream__V1__WorkflowRef *ref,
                            struct workflow_event *what, struct workflow **out)
{
    enum err err = wire_ref(tenant_of(c, ref->tenant), ref->workflow_id, NULL, what);

    if (err != ERR_OK)
        return err;
    *out = core_workflow_find(c->server->core, what->tenant, what->id);
    return *out != NULL ? ERR_OK : ERR_WORKFLOW;
}

static enum err on_get_workflow(const struct call *c)
{
    struct wire_clock clock = clock_of(c->server);
    Slipstream__V1__Workflow *m;
    struct workflow_event what;
    struct workflow *w;
    enum err err = workflow_of(c, c->request, &what, &w);

    if (err != ERR_OK)
        return err;
    m = wire_workflow(&c->server->arena, c->server->core, w, &clock, AGENTS_SHOWN);
    if (m == NULL)
        return ERR_BUSY;
    reply(c, ERR_OK, &m->base);
    return ERR_OK;
}

static enum err on_end_workflow(const struct call *c)
{
    const Slipstream__V1__WorkflowRef *ref = c->request;
    struct wire_clock clock = clock_of(c->server);
    struct event ev = {.type = EV_WF_END};
    Slipstream__V1__Workflow *m;
    struct workflow *w;
    enum err err = workflow_of(c, ref, &ev.workflow, &w);

    if (err != ERR_OK)
        return err;
    m = wire_workflow(&c->server->arena, c->server->core, w, &clock, AGENTS_SHOWN);
    ev.workflow.purge = ref->purge;
    err = server_step(c->server, &ev);
    if (err == ERR_OK)
        reply(c, ERR_OK, m != NULL ? &m->base : NULL);
    return err;
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

static enum err on_list_workflows(const struct call *c)
{
    const Slipstream__V1__WorkflowQuery *q = c->request;
    const struct core *core = c->server->core;
    Slipstream__V1__Workflows out;
    uint32_t limit = q->limit == 0 ? LIST_DEFAULT : q->limit < LIST_MAX ? q->limit : LIST_MAX;
    struct wire_clock clock = clock_of(c->server);
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
        if (is_listed(c, w, tenant_of(c, q->tenant), q->state, clock.now_ns)) {
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
    reply(c, ERR_OK, &out.base);
    return ERR_OK;
}

static enum err on_get_status(const struct call *c)
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
    reply(c, ERR_OK, &out.base);
    return ERR_OK;
}

static enum err on_list_agents(const struct call *c)
{
    Slipstream__V1__Agents out;
    struct wire_clock clock = clock_of(c->server);
    struct workflow_event what;
    struct workflow *w;
    enum err err = workflow_of(c, c->request, &what, &w);

    slipstream__v1__agents__init(&out);
    if (err != ERR_OK)
        return err;
    out.agents = wire_agents(&c->server->arena, c->server->core, w, &clock, AGENTS_SHOWN, true,
                             &out.n_agents);
    if (out.agents == NULL)
        return ERR_BUSY;
    reply(c, ERR_OK, &out.base);
    return ERR_OK;
}

static enum err on_note_agent(const struct call *c)
{
    const Slipstream__V1__AgentNote *note = c->request;
    struct event ev = {.type = EV_AGENT_NOTE};
    enum err err =
        wire_ref(tenant_of(c, note->tenant), note->workflow_id, note->agent_id, &ev.workflow);

    if (err == ERR_OK)
        err = server_step(c->server, &ev);
    if (err == ERR_OK)
        reply(c, ERR_OK, NULL);
    return err;
}

static enum err on_note_mail(const struct call *c)
{
    const Slipstream__V1__MailNotes *notes = c->request;
    enum err err = ERR_OK;

    for (size_t i = 0; i < notes->n_notes; i++) {
        const Slipstream__V1__MailNote *note = notes->notes[i];
        struct event ev = {.type = EV_MAIL};
        struct workflow_event who;
        enum err bad = wire_ref(note->tenant, note->workflow_id, note->agent_id, &who);

        if (bad != ERR_OK) { /* the others count all the same */
            err = bad;
            continue;
        }
        ev.mail = (struct mail_event){who.tenant, who.id, who.agent, note->messages};
        server_step(c->server, &ev);
        stats_mail(&c->server->stats, note->messages);
    }
    if (err == ERR_OK)
        reply(c, ERR_OK, NULL);
    return err;
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
           strcmp(tenant_of(c, q->tenant), explained_text(d, EXPLAINED_TENANT)) == 0;
}

static enum err on_explain(const struct call *c)
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
    reply(c, ERR_OK, &out.base);
    return ERR_OK;
}

static enum err policies_reply(const struct call *c)
{
    struct server *s = c->server;
    Slipstream__V1__Policies out;

    slipstream__v1__policies__init(&out);
    out.policy = s->rules.general;
    out.default_policy = s->rules.others;
    out.rules = arena_take(&s->arena, (s->rules.count + 1) * sizeof(*out.rules));
    for (uint32_t i = 0; out.rules != NULL && i < s->rules.count; i++) {
        Slipstream__V1__PolicyRule *to = arena_take(&s->arena, sizeof(*to));

        if (to == NULL)
            return ERR_BUSY;
        slipstream__v1__policy_rule__init(to);
        to->model = s->rules.items[i].model;
        to->route = s->rules.items[i].route;
        to->policy = s->rules.items[i].policy;
        out.rules[out.n_rules++] = to;
    }
    if (out.rules == NULL)
        return ERR_BUSY;
    reply(c, ERR_OK, &out.base);
    return ERR_OK;
}

static enum err on_set_policy(const struct call *c)
{
    const Slipstream__V1__PolicyChange *change = c->request;
    struct rule_change what = {.is_default = change->is_default, .remove = change->remove};
    Slipstream__V1__Failure failure;
    char why[400];
    enum err err;

    if (change->rule == NULL)
        return ERR_INVALID;
    what.model = change->rule->model;
    what.route = change->rule->route;
    what.policy = change->rule->policy;
    err = server_policy_set(c->server, &what, why, sizeof(why));
    err = err == ERR_CONF ? ERR_VALUE : err;
    if (err == ERR_OK)
        return policies_reply(c);
    if (why[0] == '\0')
        return err;
    slipstream__v1__failure__init(&failure);
    failure.message = why;
    stats_call_refused(&c->server->stats);
    reply(c, err, &failure.base);
    return ERR_OK;
}

/* ---- the door ---- */

/* In the order of the service in proto/scheduler.proto. */
static const struct method {
    const char *name;
    enum err (*handle)(const struct call *c); /* has replied when it answers ERR_OK */
    bool gateways_only;
} methods[] = {
    {"Place", on_place, true},
    {"Report", on_report, true},
    {"Resume", on_resume, true},
    {"ListEngines", on_list_engines, false},
    {"GetWorkflow", on_get_workflow, false},
    {"ListWorkflows", on_list_workflows, false},
    {"EndWorkflow", on_end_workflow, false},
    {"GetStatus", on_get_status, false},
    {"ListAgents", on_list_agents, false},
    {"NoteAgent", on_note_agent, false},
    {"Explain", on_explain, false},
    {"GetPolicies", policies_reply, false},
    {"SetPolicy", on_set_policy, true},
    {"NoteMail", on_note_mail, true},
};

void server_on_call(void *arg, struct rpc_peer *peer, unsigned method, uint64_t token,
                    uint32_t timeout_ms, const uint8_t *body, size_t len)
{
    struct server *s = arg;
    struct call c = {.server = s, .peer = peer, .who = rpc_peer_data(peer), .token = token};
    const ProtobufCMessageDescriptor *type;
    uint64_t start = clock_ns();
    enum err err = ERR_UNIMPLEMENTED;

    (void)timeout_ms;
    s->call_ns = start;
    arena_clear(&s->arena);
    if (method < sizeof(methods) / sizeof(methods[0])) {
        type = slipstream__v1__scheduler__descriptor.methods[method].input;
        err = c.who == NULL || (methods[method].gateways_only && !c.who->trusted) ? ERR_DENIED
                                                                                  : ERR_OK;
        if (err == ERR_OK) {
            c.request = codec_unpack(type, &s->arena, body, len);
            err = c.request != NULL ? methods[method].handle(&c) : ERR_PROTO;
        }
        stats_call(&s->stats, methods[method].name, method, (double)(clock_ns() - start) / 1e9);
    }
    s->call_ns = 0;
    if (err == ERR_OK)
        return;
    stats_call_refused(&s->stats);
    reply(&c, err, NULL);
}
