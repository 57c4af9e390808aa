/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/place.h"

#include <math.h>

#include "common/clock.h"
#include "common/must.h"
#include "scheduler/learn.h"
#include "scheduler/state.h"

/* ---- answers ---- */

static struct action *action_no(struct core *c, const struct query *q, enum err err,
                                uint64_t waited_ns)
{
    struct action *act = action_add(c, ACT_NO);

    act->worker = q->worker;
    act->handle = q->handle;
    act->err = err;
    act->retry_ns = err_retry_ms(err) > 0 ? (uint64_t)err_retry_ms(err) * NS_PER_MS : 0;
    act->waited_ns = waited_ns;
    c->stats.refused[err]++;
    return act;
}

static void action_wait(struct core *c, const struct wait *w, const struct ask *ask)
{
    struct action *act = action_add(c, ACT_WAIT);

    act->worker = w->query.worker;
    act->handle = w->query.handle;
    act->workflow = w->workflow->self;
    act->reason = w->reason;
    act->policy = spec_name(&policies_choose(c, &w->query, true)->spec);
    act->receipt = receipt_add_wait(c, ask, w->reason);
    act->deadline_ns = timer_is_running(&w->deadline) ? w->deadline.at_ns - c->now : 0;
    act->waited_ns = c->now - w->since_ns;
}

/* vLLM's order, lower first: arrival, less a bounded bonus for old workflows. Nobody is overtaken
 * by anyone who came more than a minute later. In milliseconds; exact as the reference model is. */
static int64_t priority_of(const struct core *c, const struct lease *l)
{
    uint64_t arrival = c->now - (l->waited_ns < c->now ? l->waited_ns : c->now), age = 0, bonus;
    uint64_t unit = c->brain.opt.reference ? 1 : NS_PER_MS;

    if (!l->engine->priority || c->priority_age < 0)
        return 0;
    if (l->workflow != NULL && l->workflow->created_ns < arrival)
        age = arrival - l->workflow->created_ns;
    bonus = (uint64_t)((double)age * c->priority_age);
    bonus = bonus < 60 * NS_PER_S ? bonus : 60 * NS_PER_S;
    return (int64_t)(arrival - (bonus < arrival ? bonus : arrival)) / (int64_t)unit;
}

static void action_go(struct core *c, const struct query *q, const struct lease *l,
                      const struct policy *policy, uint32_t first_row)
{
    struct action *act = action_add(c, ACT_GO);

    act->worker = q->worker;
    act->handle = q->handle;
    act->engine = l->engine->index;
    act->engine_generation = l->engine->generation;
    act->reason = l->reason;
    act->policy = policy->name;
    act->hit = lease_hit(l);
    act->priority = priority_of(c, l);
    act->deadline_ns = l->deadline.at_ns - c->now;
    act->waited_ns = l->waited_ns;
    act->receipt = receipt_add(c, first_row, l, policy->name);
    act->workflow = l->workflow != NULL ? l->workflow->self : 0;
    c->stats.decisions[l->reason]++;
}

/* ---- requests, resolved ---- */

static uint32_t whole_tokens(double tokens)
{
    return tokens < UINT32_MAX ? (uint32_t)tokens : UINT32_MAX;
}

static void ask_start(struct core *c, const struct query *q, struct ask *ask)
{
    *ask = (struct ask){.query = q,
                        .model = fleet_model(&c->fleet, q->model),
                        .first = true,
                        .bias = 1,
                        .blocks = q->digest_count,
                        .cached = c->look.tokens,
                        .cached_blocks = c->look.blocks,
                        .cost = c->look.cost,
                        .known = &c->look.known};
    c->look.known = 0;
}

/* Where a request may go. ERR_MODEL: nobody serves it; ERR_NO_ENGINE: nobody who does is alive. */
static enum err ask_fill(struct core *c, const struct query *q, struct ask *ask)
{
    struct fleet *f = &c->fleet;
    struct engine_set serves, open;

    if (q->model.len > MODEL_MAX) /* no engine is asked for one, known or not */
        return ERR_MODEL;
    ask_start(c, q, ask);
    if (ask->model != NULL) {
        serves = ask->model->engines;
    } else {
        serves = q->model.len == 0 ? f->used : f->unknown;
        ask->model = fleet_any_model(f);
    }
    if (set_is_empty(&serves))
        return set_is_empty(&f->used) ? ERR_NO_ENGINE : ERR_MODEL;
    ask->able = set_and(serves, f->alive);
    open = set_minus(ask->able, f->draining);
    ask->may = set_is_empty(&open) ? ask->able : open;
    for (uint32_t i = 0; i < q->avoid_count; i++)
        if (q->avoid[i] < ENGINES_MAX)
            set_remove(&ask->may, q->avoid[i]);
    if (set_is_empty(&ask->may))
        return ERR_NO_ENGINE;
    ask->tokens = whole_tokens(q->prompt_bytes / ask->model->ratio);
    return ERR_OK;
}

static enum err ask_identity(struct core *c, const struct query *q, struct ask *ask)
{
    enum err err;

    if (q->workflow.len == 0)
        return ERR_OK;
    err = workflow_make(c, q->tenant, q->workflow, &ask->workflow);
    if (err == ERR_OK)
        err = agent_make(c, ask->workflow, q->agent, &ask->agent);
    if (err != ERR_OK)
        ask->workflow = NULL;
    return err;
}

/* Token counts that are wrong on purpose. */
static void ask_bias(struct ask *ask)
{
    if (ask->workflow == NULL || ask->workflow->flow.bias == CLAIM_UNIT)
        return;
    ask->bias = (double)ask->workflow->flow.bias / CLAIM_UNIT;
    ask->tokens = whole_tokens(ask->tokens * ask->bias);
}

/* What the engines hold of it, as far as the policy will ask. */
static void ask_look(struct core *c, struct ask *ask, const struct policy *policy)
{
    set_for(i, &ask->able)
    {
        c->look.tokens[i] = c->look.blocks[i] = 0;
        c->look.cost[i] = NAN;
    }
    if (policy->wants_cached)
        view_look(c, ask, &ask->able);
    ask->looked = policy->wants_cached;
}

/* ---- dispatch ---- */

static void lease_note_marks(struct core *c, struct lease *l, const struct query *q)
{
    struct workflow *w = l->workflow;
    uint16_t tag = (uint16_t)pool_slot_of(l->agent->self);

    workflow_refresh_marks(c, w);
    marks_look(&w->marks, &l->agent->ends, tag, q, l->engine->index, &l->view);
    marks_note(&w->marks, &l->agent->ends, tag, q, l->engine->index);
    l->end_digest = q->digests[q->digest_count - 1];
}

static void lease_note_workflow(struct core *c, struct lease *l, const struct query *q)
{
    struct workflow *w = l->workflow;

    if (l->waited_ns > 0 && l->counts) {
        w->waits++;
        w->waited_ns += l->waited_ns;
    }
    if (l->guessed_tokens > l->agent->guessed_tokens)
        workflow_set_tokens(c, w, l->agent, l->agent->known_tokens, l->guessed_tokens);
    if (l->engine == NULL)
        return;
    w->last_engine = l->engine->index;
    w->last_generation = l->engine->generation;
    if (q->digest_count > 0)
        lease_note_marks(c, l, q);
}

/* Everything that follows from "this request now runs there". engine NULL: nobody knows where. */
static enum err dispatch(struct core *c, const struct ask *ask, const struct choice *choice,
                         const struct policy *policy, struct lease **out)
{
    const struct query *q = ask->query;
    struct engine *e = choice->engine;
    struct engine_set there = {{0}};
    struct lease *l;
    enum err err = lease_make(c, q, e, ask->workflow, ask->agent, ask->model, &l);

    if (err != ERR_OK)
        return err;
    l->reason = choice->reason;
    l->known = *ask->known;
    l->guessed_tokens = ask->tokens;
    l->first_byte = q->first_byte;
    l->resumed = choice->reason == REASON_RESUMED;
    l->digest_count = q->digest_count;
    l->digests = chain_keep(&c->chains, q->digests, q->digest_count);
    if (ask->wait != NULL)
        l->why_waited = ask->wait->reason;
    if (e != NULL) {
        set_add(&there, e->index);
        if (!ask->looked)
            view_look(c, ask, &there);
        l->predicted = ask->cached_blocks[e->index];
        l->cached_tokens = ask->cached[e->index];
        load_join(c, l);
        learn_sent(c, l);
        if (!l->first_byte)
            view_dispatched(c, l);
    }
    if (l->workflow != NULL && ask->wait == NULL) /* else it counted when it came */
        l->workflow->ending = q->final;
    if (l->workflow != NULL)
        lease_note_workflow(c, l, q);
    policies_tell(c, dispatched, l);
    if (policy->placed != NULL)
        policy->placed(c, l);
    if (e != NULL) {
        e->requests += !l->resumed;
        action_engine(c, e);
    }
    if (l->workflow != NULL)
        action_home(c, l->workflow);
    *out = l;
    return ERR_OK;
}

/* ---- the ways in ---- */

static bool worker_is_known(const struct core *c, uint32_t worker)
{
    return worker < c->conf.max_workers && c->workers[worker].known;
}

/* false: it is held, and choice says why. */
static bool ask_place(struct core *c, struct ask *ask, struct choice *choice, enum err *err)
{
    const struct placement *p = policies_choose(c, ask->query, ask->workflow != NULL);
    const struct policy *policy = p->policy;
    struct lease *l;
    uint32_t first;

    ask->spec = &p->spec;
    ask->state = p->state;
    if (ask->wait == NULL)
        *ask->known = 0;
    ask_bias(ask);
    ask_look(c, ask, policy);
    if (c->leases.used == c->leases.capacity) { /* before anything is spent on it */
        *err = ERR_BUSY;
        return true;
    }
    if (!policy->place(c, ask, choice))
        return false;
    must(choice->engine != NULL);
    first = receipt_rows(c, ask);
    *err = dispatch(c, ask, choice, policy, &l);
    must(*err == ERR_OK);
    action_go(c, ask->query, l, policy, first);
    return true;
}

static void prompt_expect(const struct core *c, const struct query *q, uint32_t step)
{
    if (q->digest_count > 0)
        prefix_expect(c->view.prefix, q->digests, q->digest_count, step);
}

void query_take(struct core *c, const struct query *q)
{
    struct choice choice = {0};
    enum err err = worker_is_known(c, q->worker) ? ERR_OK : ERR_HELLO;
    struct lease *l;
    struct wait *w;
    struct ask ask;

    prompt_expect(c, q, 0);
    if (err == ERR_OK) {
        l = lease_find(c, q->worker, q->handle);
        if (l != NULL)
            lease_end(c, l, CAUSE_REPLACED, NULL);
        w = wait_find(c, q->worker, q->handle);
        if (w != NULL)
            wait_drop(c, w);
        err = ask_fill(c, q, &ask);
    }
    prompt_expect(c, q, 1);
    if (err == ERR_OK)
        err = ask_identity(c, q, &ask);
    prompt_expect(c, q, 2);
    if (err == ERR_OK && ask.workflow != NULL)
        ask.workflow->ending = false; /* it goes on; a last request says so again */
    if (err == ERR_OK && (group_holds(c, &ask, &choice) || !ask_place(c, &ask, &choice, &err))) {
        err = wait_make(c, &ask, &choice, &w);
        if (err == ERR_OK) {
            must(ask.workflow != NULL); /* what has none never waits */
            ask.workflow->ending = q->final;
            action_wait(c, w, &ask);
        }
    }
    if (err != ERR_OK)
        action_no(c, q, err, q->waited_ns);
}

enum err placed_take(struct core *c, const struct query *q, enum reason reason)
{
    struct choice choice = {.reason = reason};
    struct lease *l;
    struct wait *w;
    struct ask ask;
    enum err err;

    if (!worker_is_known(c, q->worker))
        return ERR_HELLO;
    w = wait_find(c, q->worker, q->handle);
    if (w != NULL) /* it went ahead without us */
        wait_drop(c, w);
    l = lease_find(c, q->worker, q->handle);
    if (l != NULL) {
        l->worker_round = c->workers[q->worker].round;
        l->first_byte |= q->first_byte;
        return ERR_OK;
    }
    if (q->placed < ENGINES_MAX && c->fleet.engines[q->placed].used)
        choice.engine = &c->fleet.engines[q->placed];
    ask_start(c, q, &ask);
    if (ask.model == NULL)
        ask.model = fleet_any_model(&c->fleet);
    ask.tokens = whole_tokens(q->prompt_bytes / ask.model->ratio);
    if (ask_identity(c, q, &ask) != ERR_OK)
        ask.workflow = NULL; /* no room for its workflow; the lease still counts */
    err = dispatch(c, &ask, &choice, policies_choose(c, q, ask.workflow != NULL)->policy, &l);
    if (err == ERR_OK)
        c->stats.decisions[reason]++;
    return err;
}

/* ---- those that wait ---- */

bool wait_try(struct core *c, struct wait *w)
{
    struct choice choice = {0};
    struct query q = w->query;
    enum err err;
    struct ask ask;

    err = ask_fill(c, &q, &ask);
    if (err == ERR_OK) {
        uint64_t past = c->now - w->asked_ns;

        ask.wait = w;
        ask.first = !w->tried;
        c->look.known = w->known;
        ask.workflow = w->workflow;
        ask.agent = w->agent;
        q.waited_ns = c->now - w->since_ns;
        if (q.remaining_ns > 0)
            q.remaining_ns = q.remaining_ns > past ? q.remaining_ns - past : 1;
        if (!ask_place(c, &ask, &choice, &err)) {
            if (!w->tried)
                w->known = *ask.known;
            w->tried = true;
            w->reason = choice.reason;
            return false;
        }
    }
    if (err == ERR_BUSY)
        return false; /* room for one more lease will come */
    if (err != ERR_OK) {
        wait_refuse(c, w, err);
        return true;
    }
    if (w->agent != NULL)
        w->agent->refused_until_ms = 0;
    wait_note_admitted(c, w);
    wait_drop(c, w);
    return true;
}

void wait_refuse(struct core *c, struct wait *w, enum err err)
{
    struct action *act = action_no(c, &w->query, err, c->now - w->since_ns);

    if (err == ERR_GATE_WAIT) {
        act->retry_ns = wait_retry_ns(c, w);
        wait_note_refused(c, w, act->retry_ns);
    }
    wait_drop(c, w);
}
