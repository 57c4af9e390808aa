/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/methods.h"

#include "common/clock.h"
#include "common/codec.h"
#include "common/fault.h"

/*
 * The Scheduler service. Every call is checked for who asks (gateways name tenants, place and
 * report; other clients see the workflows of their own key) and for what it says, then becomes an
 * event for the core or a look at its tables (methods_look.c).
 */

void call_reply(const struct call *c, enum err status, const ProtobufCMessage *body)
{
    if (c->token != 0)
        rpc_reply(c->server->rpc, c->token, status, body);
}

const char *call_tenant(const struct call *c, const char *said)
{
    return c->who->trusted ? said : c->who->tenant;
}

struct wire_clock call_clock(const struct call *c)
{
    const struct server *s = c->server;

    return (struct wire_clock){.now_ns = server_now(s),
                               .wall_base_ms = s->publisher.wall_base_ms,
                               .scale = s->scale,
                               .ttl_ms = s->conf->scheduler.workflow_ttl_ms};
}

enum err call_workflow(const struct call *c, const Slipstream__V1__WorkflowRef *ref,
                       struct workflow_event *what, struct workflow **out)
{
    enum err err = wire_ref(call_tenant(c, ref->tenant), ref->workflow_id, NULL, what);

    if (err != ERR_OK)
        return err;
    *out = core_workflow_find(c->server->core, what->tenant, what->id);
    return *out != NULL ? ERR_OK : ERR_WORKFLOW;
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
    call_reply(c, ERR_OK, &d.base);
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
        call_reply(c, ERR_OK, NULL);
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
        call_reply(c, ERR_OK, NULL);
    return err;
}

/* ---- workflows and their agents ---- */

static enum err on_end_workflow(const struct call *c)
{
    const Slipstream__V1__WorkflowRef *ref = c->request;
    struct wire_clock clock = call_clock(c);
    struct event ev = {.type = EV_WF_END};
    Slipstream__V1__Workflow *m;
    struct workflow *w;
    enum err err = call_workflow(c, ref, &ev.workflow, &w);

    if (err != ERR_OK)
        return err;
    m = wire_workflow(&c->server->arena, c->server->core, w, &clock, METHODS_AGENTS_SHOWN);
    ev.workflow.purge = ref->purge;
    err = server_step(c->server, &ev);
    if (err == ERR_OK)
        call_reply(c, ERR_OK, m != NULL ? &m->base : NULL);
    return err;
}

static enum err on_note_agent(const struct call *c)
{
    const Slipstream__V1__AgentNote *note = c->request;
    struct event ev = {.type = EV_AGENT_NOTE};
    enum err err =
        wire_ref(call_tenant(c, note->tenant), note->workflow_id, note->agent_id, &ev.workflow);

    if (err == ERR_OK)
        err = server_step(c->server, &ev);
    if (err == ERR_OK)
        call_reply(c, ERR_OK, NULL);
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
        call_reply(c, ERR_OK, NULL);
    return err;
}

/* ---- policies ---- */

static enum err on_get_policies(const struct call *c)
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
    call_reply(c, ERR_OK, &out.base);
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
        return on_get_policies(c);
    if (why[0] == '\0')
        return err;
    slipstream__v1__failure__init(&failure);
    failure.message = why;
    stats_call_refused(&c->server->stats);
    call_reply(c, err, &failure.base);
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
    {"ListEngines", method_list_engines, false},
    {"GetWorkflow", method_get_workflow, false},
    {"ListWorkflows", method_list_workflows, false},
    {"EndWorkflow", on_end_workflow, false},
    {"GetStatus", method_get_status, false},
    {"ListAgents", method_list_agents, false},
    {"NoteAgent", on_note_agent, false},
    {"Explain", method_explain, false},
    {"GetPolicies", on_get_policies, false},
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
    call_reply(&c, err, NULL);
}
