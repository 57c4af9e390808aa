/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "common/clock.h"
#include "scheduler/brain.h"
#include "scheduler/state.h"

/* The policy "workflow", joined to the core: what is heard of a request from dispatch to end. */
#define EMA 0.02

/* What the reference model has there, if it is to be followed and nothing else is said. */
static double option_or(const struct policy_spec *s, const char *key, double reference)
{
    bool follow = spec_number(s, "reference") > 0 && !spec_has(s, key);

    return follow ? reference : spec_number(s, key);
}

static struct brain_options options_of(const struct policy_spec *s)
{
    struct brain_options o = {.tax = spec_number(s, "tax"),
                              .floor = option_or(s, "floor", 0),
                              .patience = spec_number(s, "patience"),
                              .age = spec_number(s, "age"),
                              .err = spec_number(s, "err"),
                              .terr = spec_number(s, "terr"),
                              .kerr = spec_number(s, "kerr"),
                              .cerr = spec_number(s, "cerr"),
                              .ends = spec_number(s, "end") > 0,
                              .ct = spec_number(s, "ct") > 0,
                              .fit = spec_number(s, "fit") > 0,
                              .reference = spec_number(s, "reference") > 0};

    if (strcmp(spec_str(s, "gate", "auto"), "off") == 0)
        o.gate = GATE_OPEN;
    else if (strcmp(spec_str(s, "gate", "auto"), "auto") != 0)
        o.gate = spec_f64(s, "gate", 0) > 0 ? spec_f64(s, "gate", 0) : GATE_OPEN;
    return o;
}

static void workflow_opened(struct core *c, const struct policy_spec *spec)
{
    struct brain *b = &c->brain;

    if (!b->open) {
        brain_init(b);
        b->open = true;
        b->tick_ns = b->credit_ns = c->now;
        list_for(pos, &c->by_age) flow_open(c, container_of(pos, struct workflow, by_age));
    }
    b->opt = options_of(spec);
    lines_set_share(&c->waits.lines, spec_number(spec, "share") > 0);
    if (b->opt.gate > 0)
        b->gate = b->opt.gate;
    c->view.approx = strcmp(spec_str(spec, "view", "auto"), "approx") == 0;
    c->view.learn = b->opt.ct;
    c->view.trust = option_or(spec, "late", 0) <= 0;
    c->view.spare = option_or(spec, "spare", 0) > 0;
    c->view.idx = option_or(spec, "idx", 0.8) * b->opt.cerr;
    c->priority_age = spec_number(spec, "prio") > 0 ? b->opt.age : -1;
}

static void workflow_closed(struct core *c)
{
    list_for(pos, &c->by_age)
    {
        struct workflow *w = container_of(pos, struct workflow, by_age);

        flow_forget(c, w);
        flow_set_state(c, w, FLOW_NEW);
    }
    c->brain.open = false;
}

/* Where its agent goes the home goes; the copy that it left behind is no longer needed. */
static void home_follow(struct core *c, struct lease *l)
{
    struct workflow *w = l->workflow;
    struct engine *home = workflow_home(c, w), *e = l->engine;
    struct agent *a = l->agent;
    bool moved = a->engine != ENGINE_NONE && a->engine != e->index;
    bool named = a->id.len > 0;

    if (l->reason == REASON_OTHER_MODEL || l->reason == REASON_RETRY ||
        l->reason == REASON_SPREAD || l->reason == REASON_ISOLATED)
        return;
    if (home == NULL) {
        workflow_set_home(c, w, e);
    } else if (moved && home->index == a->engine && (named || w->inflight == 1)) {
        flow_drop(c, w, home);
        workflow_set_home(c, w, e);
    }
    a->engine = e->index;
}

static void workflow_dispatched(struct core *c, struct lease *l)
{
    struct workflow *w = l->workflow;

    if (w == NULL || l->engine == NULL)
        return;
    if (w->flow.block <= 0)
        w->flow.block = (float)(c->conf.text_block / l->model->ratio);
    flow_set_state(c, w, FLOW_LIVE);
    home_follow(c, l);
    flow_add(c, w, l->engine, l->digests, l->digest_count);
}

static void returned(struct core *c, struct lease *l, const struct report_event *r)
{
    struct workflow *w = l->workflow;
    double block = c->conf.text_block / l->model->ratio, known = l->known * block;

    if (l->first_byte)
        c->brain.mdec += EMA * ((double)(c->now - l->first_ns) / NS_PER_S - c->brain.mdec);
    if (w == NULL || l->engine == NULL)
        return;
    if (r->has_usage && r->has_cached && brain_counts_losses_late(c, l->engine))
        brain_waste(c, known - r->cached_tokens,
                    (double)l->guessed_tokens * w->flow.bias / CLAIM_UNIT);
    if (r->digests != NULL)
        flow_add(c, w, l->engine, r->digests, r->digest_count);
}

static void workflow_request_ended(struct core *c, struct lease *l, enum cause cause,
                                   const struct report_event *r)
{
    struct workflow *w = l->workflow;

    if (cause == CAUSE_RETURNED && r != NULL && !r->declined)
        returned(c, l, r);
    if (w == NULL)
        return;
    w->flow.done_ns = c->now;
    if (w->inflight == 1)
        flow_rest(c, w);
}

static void workflow_engine_gone(struct core *c, struct engine *e)
{
    list_for(pos, &c->by_age)
    {
        struct workflow *w = container_of(pos, struct workflow, by_age);

        flow_drop(c, w, e);
        if (w->home == e->index && w->home_generation == e->generation) {
            workflow_set_home(c, w, NULL);
            action_home(c, w);
        }
        list_for(at, &w->agents)
        {
            struct agent *a = container_of(at, struct agent, node);

            a->engine = a->engine == e->index ? ENGINE_NONE : a->engine;
        }
    }
}

static void workflow_ended(struct core *c, struct workflow *w)
{
    flow_busy(w);
    flow_end(c, w);
}

const struct policy policy_workflow = {.name = "workflow",
                                       .wants_cached = true,
                                       .place = brain_place,
                                       .dispatched = workflow_dispatched,
                                       .ended = workflow_request_ended,
                                       .engine_gone = workflow_engine_gone,
                                       .workflow_ended = workflow_ended,
                                       .drain = brain_drain,
                                       .next_deadline = brain_next_deadline,
                                       .opened = workflow_opened,
                                       .closed = workflow_closed};
