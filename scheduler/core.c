/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/core.h"

#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/must.h"
#include "scheduler/learn.h"
#include "scheduler/place.h"
#include "scheduler/state.h"

#define RATIO_START 4.0
#define PRIORITY_AGE 0.1

/* ---- words ---- */

const char *reason_word(enum reason r)
{
    static const char *const words[] = {
#define REASON(name, word, help) word,
#include "scheduler/reasons.def"
#undef REASON
    };

    return (unsigned)r < REASON_COUNT ? words[r] : "";
}

const char *cause_word(enum cause c)
{
    static const char *const words[] = {
#define CAUSE(name, word, help) word,
#include "scheduler/causes.def"
#undef CAUSE
    };

    return (unsigned)c < CAUSE_COUNT ? words[c] : "";
}

/* ---- actions ---- */

void actions_fini(struct actions *a)
{
    free(a->items);
    *a = (struct actions){0};
}

struct action *action_add(struct core *c, enum action_type type)
{
    struct actions *a = c->out;
    struct action *act;

    if (a->count == a->cap) {
        a->cap = a->cap > 0 ? a->cap * 2 : 64;
        a->items = realloc(a->items, a->cap * sizeof(*a->items));
        must(a->items != NULL);
    }
    act = &a->items[a->count++];
    memset(act, 0, sizeof(*act)); /* padding too: two runs are compared byte by byte */
    act->type = type;
    act->engine = ENGINE_NONE;
    return act;
}

void action_engine(struct core *c, const struct engine *e)
{
    struct action *act = action_add(c, ACT_PUBLISH_ENGINE);

    act->engine = e->index;
    act->engine_generation = e->generation;
}

void action_home(struct core *c, const struct workflow *w)
{
    action_add(c, ACT_PUBLISH_HOME)->workflow = w->self;
}

static void lease_revoke(struct core *c, struct lease *l, enum err err)
{
    struct action *act = action_add(c, ACT_REVOKE);

    act->worker = l->worker;
    act->handle = l->handle;
    act->err = err;
    lease_end(c, l, CAUSE_REVOKED, NULL);
}

/* ---- the core ---- */

static enum err conf_apply(struct core *c, const struct core_conf *conf)
{
    enum err err = policies_set(c, conf);

    if (err != ERR_OK)
        return err;
    c->conf.max_agents = conf->max_agents;
    c->conf.workflow_ttl_ns = conf->workflow_ttl_ns;
    c->conf.agent_active_ns = conf->agent_active_ns;
    c->conf.lease_slack_ns = conf->lease_slack_ns;
    c->conf.probe_failures = conf->probe_failures;
    c->conf.gate_wait_ns = conf->gate_wait_ns;
    c->conf.group_wait_ms = conf->group_wait_ms;
    c->priority_age = PRIORITY_AGE;
    c->conf.scaled = conf->scaled;
    view_reset(&c->view);
    policies_open(c);
    c->view.trust |= conf->scaled;
    learn_switch(c, conf->fit && !conf->scaled && c->brain.opt.fit);
    return ERR_OK;
}

static uint32_t agents_max(const struct core_conf *conf)
{
    uint64_t n = (uint64_t)conf->max_workflows * AGENTS_PER_WORKFLOW + conf->max_agents;

    return n < UINT32_C(1) << 28 ? (uint32_t)n : UINT32_C(1) << 28;
}

static void tables_init(struct core *c)
{
    const struct core_conf *conf = &c->conf;

    pool_init(&c->workflows, sizeof(struct workflow), conf->max_workflows);
    pool_init(&c->agents, sizeof(struct agent), agents_max(conf));
    pool_init(&c->leases, sizeof(struct lease), conf->max_leases);
    pool_init(&c->names, NAME_LONG, conf->max_workflows + agents_max(conf));
    table_init(&c->workflow_index, conf->max_workflows);
    table_init(&c->agent_index, agents_max(conf));
    table_init(&c->lease_index, conf->max_leases);
    list_init(&c->by_age);
    list_init(&c->idle);
    timers_init(&c->timers);
    chains_init(&c->chains);
    waits_init(&c->waits, conf->max_leases, conf->max_workflows);
    groups_init(&c->groups, conf->max_leases);
    c->workers = calloc(conf->max_workers, sizeof(*c->workers));
    must(c->workers != NULL);
    for (uint32_t i = 0; i < conf->max_workers; i++) {
        list_init(&c->workers[i].leases);
        list_init(&c->workers[i].waits);
    }
}

enum err core_new(const struct core_conf *conf, struct core **out)
{
    struct core *c = calloc(1, sizeof(*c));
    enum err err;

    must(c != NULL);
    c->conf = *conf;
    c->conf.policy = c->conf.default_policy = NULL;
    c->conf.rules = NULL;
    if (c->conf.text_block == 0)
        c->conf.text_block = TEXT_BLOCK;
    fleet_init(&c->fleet, conf->ratio > 0 ? conf->ratio : RATIO_START);
    tables_init(c);
    load_init(&c->load, conf->max_leases);
    view_init(&c->view, conf->hash_seed);
    brain_init(&c->brain);
    err = conf_apply(c, conf);
    if (err != ERR_OK)
        core_free(c);
    else
        *out = c;
    return err;
}

void core_free(struct core *c)
{
    if (c == NULL)
        return;
    policies_stop(c);
    timers_fini(&c->timers);
    receipts_fini(&c->receipts);
    waits_fini(&c->waits);
    groups_fini(&c->groups);
    chains_fini(&c->chains);
    view_fini(&c->view);
    load_fini(&c->load);
    table_fini(&c->lease_index);
    table_fini(&c->agent_index);
    table_fini(&c->workflow_index);
    pool_fini(&c->names);
    pool_fini(&c->leases);
    pool_fini(&c->agents);
    pool_fini(&c->workflows);
    free(c->workers);
    fleet_fini(&c->fleet);
    free(c);
}

/* ---- engines ---- */

static void engine_lost(struct core *c, struct engine *e)
{
    view_engine_lost(c, e);
    policies_cleared(c, e);
    policies_tell(c, engine_gone, e);
}

static void engine_heard(struct core *c, struct engine *e, bool ok, bool unreachable)
{
    bool was = set_has(&c->fleet.alive, e->index);

    if (engine_probe(&c->fleet, e, ok, c->conf.probe_failures))
        action_engine(c, e);
    if (!was || e->healthy)
        return;
    engine_lost(c, e);
    /* Nothing will come from a host that takes no connections. One that is merely slow keeps its
     * requests: they may well be the reason. */
    if (!unreachable)
        return;
    list_for_safe(pos, &e->leases)
    {
        struct lease *l = container_of(pos, struct lease, of_engine);

        if (!l->first_byte)
            lease_revoke(c, l, ERR_ENGINE_GONE);
    }
}

static enum err on_health(struct core *c, const struct health_event *ev)
{
    struct engine *e = fleet_find(&c->fleet, ev->index, ev->generation);

    if (e == NULL)
        return ERR_NOT_FOUND;
    engine_heard(c, e, ev->ok, ev->unreachable);
    return ERR_OK;
}

static enum err on_engine(struct core *c, const struct event *ev)
{
    const struct engine_event *what = &ev->engine;
    struct engine *e;
    enum err err;

    if (ev->type == EV_ENGINE_GONE) {
        e = fleet_find(&c->fleet, what->index, what->generation);
        if (e == NULL)
            return ERR_NOT_FOUND;
        engine_lost(c, e);
        while (!list_is_empty(&e->leases))
            lease_detach_engine(c, container_of(list_first(&e->leases), struct lease, of_engine));
        fleet_remove(&c->fleet, e);
        action_engine(c, e);
        return ERR_OK;
    }
    err = ev->type == EV_ENGINE_SET ? fleet_set(&c->fleet, what) : fleet_models(&c->fleet, what);
    if (err == ERR_OK)
        action_engine(c, &c->fleet.engines[what->index]);
    return err;
}

static enum err on_stats(struct core *c, const struct stats_event *ev)
{
    struct engine *e = fleet_find(&c->fleet, ev->index, ev->generation);
    struct engine_stats *s;

    if (e == NULL)
        return ERR_NOT_FOUND;
    s = &e->stats;
    s->at_ns = c->now;
    if (ev->has_running)
        s->running = ev->running;
    if (ev->has_waiting)
        s->waiting = ev->waiting;
    if (ev->has_kv_tokens)
        s->kv_tokens = ev->kv_tokens;
    if (ev->has_kv_used)
        s->kv_used_tokens = ev->kv_used_tokens;
    s->has_running |= ev->has_running;
    s->has_waiting |= ev->has_waiting;
    s->has_kv_tokens |= ev->has_kv_tokens;
    s->has_kv_used |= ev->has_kv_used;
    policies_tell(c, stats, e);
    return ERR_OK;
}

static enum err on_kv(struct core *c, enum event_type type, const struct kv_event *ev)
{
    struct engine *e = fleet_find(&c->fleet, ev->index, ev->generation);

    if (e == NULL)
        return ERR_NOT_FOUND;
    e->kv_events = type != EV_KV_CLEARED || !ev->unknown;
    if (type == EV_KV_REMOVED)
        learn_kv(c, e, ev->tokens);
    if (type == EV_KV_STORED)
        e->kv_resident += ev->tokens;
    else if (type == EV_KV_REMOVED && ev->tokens < e->kv_resident)
        e->kv_resident -= ev->tokens;
    else
        e->kv_resident = 0;
    if (type == EV_KV_STORED)
        learn_kv(c, e, 0);
    if (type != EV_KV_CLEARED || !ev->unknown)
        view_kv(c, type, e, ev);
    return ERR_OK;
}

/* ---- workers and their reports ---- */

static enum err on_worker(struct core *c, const struct event *ev)
{
    struct worker *w;

    if (ev->worker >= c->conf.max_workers)
        return ERR_BUSY;
    w = &c->workers[ev->worker];
    if (ev->type == EV_WORKER_HELLO) {
        c->stats.workers += !w->known;
        w->known = true;
        w->round++;
        return ERR_OK;
    }
    if (!w->known)
        return ERR_NOT_FOUND;
    list_for_safe(pos, &w->leases)
    {
        struct lease *l = container_of(pos, struct lease, of_worker);

        if (ev->type == EV_WORKER_GONE)
            lease_end(c, l, CAUSE_WORKER_GONE, NULL);
        else if (l->worker_round != w->round)
            lease_end(c, l, CAUSE_LOST, NULL);
    }
    if (ev->type == EV_WORKER_GONE) {
        list_for_safe(pos, &w->waits) wait_drop(c, container_of(pos, struct wait, of_worker));
        c->stats.workers--;
        w->known = false;
    }
    return ERR_OK;
}

static enum err on_report(struct core *c, enum event_type type, const struct report_event *r)
{
    struct lease *l = lease_find(c, r->worker, r->handle);
    struct wait *w = l == NULL ? wait_find(c, r->worker, r->handle) : NULL;
    struct engine *e;

    if (w != NULL && type != EV_FIRST_BYTE) {
        wait_drop(c, w);
        return ERR_OK;
    }
    if (l == NULL) {
        c->stats.reports_unknown++;
        return ERR_NOT_FOUND;
    }
    if (type == EV_FIRST_BYTE) {
        l->first_byte = true;
        l->first_ns = c->now;
        learn_first_byte(c, l);
        load_first_byte(c, l);
        view_first_byte(c, l);
        policies_tell(c, first_byte, l);
        return ERR_OK;
    }
    e = l->engine;
    if (type == EV_CANCEL) {
        lease_end(c, l, CAUSE_CANCELLED, r);
        return ERR_OK;
    }
    lease_end(c, l, r->err == ERR_OK ? CAUSE_RETURNED : CAUSE_FAILED, r);
    if (e == NULL || r->err < ERR_CONNECT || r->err > ERR_ENGINE_GONE)
        return ERR_OK;
    if (r->err == ERR_CONNECT || r->err == ERR_CONNECT_TIMEOUT)
        engine_heard(c, e, false, true);
    else
        e->failures++;
    action_engine(c, e);
    return ERR_OK;
}

/* ---- workflows ---- */

static enum err on_workflow_end(struct core *c, const struct workflow_event *ev)
{
    struct workflow *w = core_workflow_find(c, ev->tenant, ev->id);

    if (w == NULL)
        return ERR_WORKFLOW;
    w->ending = false; /* else the last lease would end it under our hands */
    if (ev->purge)
        list_for_safe(pos, &w->leases)
            lease_revoke(c, container_of(pos, struct lease, of_workflow), ERR_CANCELLED);
    if (ev->purge)
        list_for_safe(pos, &w->waiting)
            wait_refuse(c, container_of(pos, struct wait, of_workflow), ERR_CANCELLED);
    c->brain.end_signals++;
    workflow_end(c, w);
    return ERR_OK;
}

static enum err on_agent_note(struct core *c, const struct workflow_event *ev)
{
    struct workflow *w;
    struct agent *a;
    enum err err = workflow_make(c, ev->tenant, ev->id, &w);

    if (err == ERR_OK && ev->agent.len > 0)
        err = agent_make(c, w, ev->agent, &a);
    if (err == ERR_OK) {
        workflow_touch(c, w);
        action_home(c, w);
    }
    return err;
}

/* What a message foretells is the next request of the agent that it is for. Mail alone brings
 * nobody into being: an agent is known by its requests. */
static void on_mail(struct core *c, const struct mail_event *ev)
{
    struct workflow *w = core_workflow_find(c, ev->tenant, ev->id);
    struct agent *a = w != NULL ? agent_find(c, w, ev->agent) : NULL;
    uint64_t ticks;

    if (a == NULL)
        return;
    ticks = (c->now - w->created_ns) / (MAIL_TICK_MS * NS_PER_MS);
    a->mail_ticks = (ticks < MAIL_TICKS_MAX ? ticks : MAIL_TICKS_MAX) & MAIL_TICKS_MAX;
    a->mails =
        (ev->messages < MAILS_MAX - a->mails ? a->mails + ev->messages : MAILS_MAX) & MAILS_MAX;
}

static enum err on_tick(struct core *c)
{
    timers_run(&c->timers, c->now);
    workflows_expire(c);
    return ERR_OK;
}

static enum err event_take(struct core *c, const struct event *ev)
{
    switch (ev->type) {
    case EV_ENGINE_SET:
    case EV_ENGINE_MODELS:
    case EV_ENGINE_GONE:
        return on_engine(c, ev);
    case EV_ENGINE_HEALTH:
        return on_health(c, &ev->health);
    case EV_ENGINE_STATS:
        return on_stats(c, &ev->stats);
    case EV_KV_STORED:
    case EV_KV_REMOVED:
    case EV_KV_CLEARED:
        return on_kv(c, ev->type, &ev->kv);
    case EV_WORKER_HELLO:
    case EV_WORKER_GONE:
    case EV_RESUME_LAST:
        return on_worker(c, ev);
    case EV_QUERY:
        query_take(c, &ev->query);
        return ERR_OK;
    case EV_DISPATCHED:
        return placed_take(c, &ev->query, REASON_ALONE);
    case EV_RESUME:
        return placed_take(c, &ev->query, REASON_RESUMED);
    case EV_FIRST_BYTE:
    case EV_DONE:
    case EV_CANCEL:
        return on_report(c, ev->type, &ev->report);
    case EV_WF_END:
        return on_workflow_end(c, &ev->workflow);
    case EV_WF_RESTORE:
        workflow_restore(c, &ev->restore);
        return ERR_OK;
    case EV_AGENT_NOTE:
        return on_agent_note(c, &ev->workflow);
    case EV_MAIL:
        on_mail(c, &ev->mail);
        return ERR_OK;
    case EV_POLICY_SET:
        return conf_apply(c, &ev->conf);
    case EV_TICK:
        return on_tick(c);
    }
    return ERR_BUG;
}

static bool may_make_room(enum event_type type)
{
    return type != EV_QUERY && type != EV_DISPATCHED && type != EV_RESUME &&
           type != EV_AGENT_NOTE && type != EV_MAIL && type != EV_WF_RESTORE &&
           type != EV_KV_STORED && type != EV_KV_REMOVED && type != EV_ENGINE_STATS;
}

enum err core_step(struct core *c, uint64_t now_ns, const struct event *ev, struct actions *out)
{
    enum err err;

    if (now_ns > c->now)
        c->now = now_ns;
    c->out = out;
    out->count = 0;
    receipts_clear(&c->receipts);
    err = event_take(c, ev);
    if (may_make_room(ev->type))
        policies_drain(c);
    c->stats.gate = c->brain.gate < GATE_OPEN ? c->brain.gate : 0;
    c->stats.waste = c->brain.wfrac;
    c->stats.credit = c->brain.credit;
    return err;
}

uint64_t core_next_deadline(const struct core *c)
{
    uint64_t next = timers_next(&c->timers), other = workflows_next_expiry(c);

    if (other < next)
        next = other;
    other = policies_next_deadline(c);
    return other < next ? other : next;
}

/* ---- views ---- */

const struct core_stats *core_stats_get(const struct core *c)
{
    return &c->stats;
}

const char *core_policy_name(const struct core *c)
{
    return c->policies->items[0].policy->name;
}

const struct engine *core_engine(const struct core *c, uint32_t index)
{
    return index < ENGINES_MAX && c->fleet.engines[index].used ? &c->fleet.engines[index] : NULL;
}

double core_engine_claims(const struct core *c, const struct engine *e)
{
    return brain_claims(e, c->conf.text_block / engine_ratio(&c->fleet, e));
}

const char *core_workflow_admission(const struct core *c, const struct workflow *w)
{
    static const char *const words[] = {[FLOW_NEW] = "new",
                                        [FLOW_LIVE] = "live",
                                        [FLOW_LAPSED] = "lapsed",
                                        [FLOW_PAUSED] = "paused"};

    return w->waiting_count > 0 ? "waiting" : c->brain.open ? words[w->flow.state] : "";
}

double core_workflow_waiting(const struct core *c, const struct workflow *w)
{
    uint64_t longest = 0;

    list_for(pos, &w->waiting)
    {
        const struct wait *at = container_of(pos, const struct wait, of_workflow);

        longest = c->now - at->since_ns > longest ? c->now - at->since_ns : longest;
    }
    return (double)longest / NS_PER_S;
}

uint32_t core_engine_count(const struct core *c)
{
    for (uint32_t i = ENGINES_MAX / 64; i-- > 0;)
        if (c->fleet.used.w[i] != 0)
            return i * 64 + 64 - (uint32_t)__builtin_clzll(c->fleet.used.w[i]);
    return 0;
}

const char *core_engine_model(const struct core *c, const struct engine *e, uint32_t n)
{
    return n < e->model_count ? c->fleet.models[e->models[n]].name : "";
}

bool core_engine_models_differ(const struct core *c, const struct engine *e,
                               const struct text *models, uint32_t count)
{
    if (!e->models_known || e->model_count != count)
        return true;
    for (uint32_t i = 0; i < count; i++) {
        const struct model *m = &c->fleet.models[e->models[i]];

        if (m->len != models[i].len || memcmp(m->name, models[i].p, m->len) != 0)
            return true;
    }
    return false;
}

struct workflow *core_workflow_next(const struct core *c, uint32_t *cursor, uint64_t *handle)
{
    return pool_next(&c->workflows, cursor, handle);
}
