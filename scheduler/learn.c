/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/learn.h"

#include "scheduler/state.h"

static void apply(struct core *c, struct engine *e)
{
    e->time = c->fits ? fit_time(&e->fit) : e->fit.told;
    e->kv_factor = c->fits ? fit_room(&e->fit) : 1;
    action_engine(c, e);
}

void learn_switch(struct core *c, bool fits)
{
    if (c->fits == fits)
        return;
    c->fits = fits;
    set_for(i, &c->fleet.used)
    {
        struct engine *e = &c->fleet.engines[i];

        e->time = fits ? fit_time(&e->fit) : e->fit.told;
        e->kv_factor = fits ? fit_room(&e->fit) : 1;
    }
}

/* On l's engine; l itself as if it had its first byte, or was not there yet. */
static struct fit_load load_now(const struct core *c, const struct lease *l)
{
    const struct engine *e = l->engine;

    return (struct fit_load){.now_ns = c->now,
                             .running = e->running,
                             .prefilling = e->prefilling - l->prefilling,
                             .x_tokens = e->x_tokens,
                             .held_tokens = e->x_tokens - e->x_prefilling,
                             .room = (double)engine_capacity(e)};
}

void learn_sent(struct core *c, struct lease *l)
{
    struct fit_load now = load_now(c, l);

    if (l->stream && !l->resumed && !l->first_byte)
        fit_sent(&l->fit, &now, l->guessed_tokens, l->cached_tokens);
}

void learn_first_byte(struct core *c, struct lease *l)
{
    struct fit_load now;

    if (l->engine == NULL || !l->loaded)
        return;
    now = load_now(c, l);
    now.held_tokens += l->prefilling ? l->load_tokens : 0;
    if (fit_first_byte(&l->engine->fit, &l->fit, &now))
        apply(c, l->engine);
}

/* Bytes per token. */
static void learn_ratio(struct core *c, const struct lease *l, const struct report_event *r)
{
    if (c->conf.ratio_fixed || r->prompt_tokens == 0 || l->prompt_bytes < c->conf.text_block)
        return;
    l->model->ratio =
        fit_ratio(l->model->ratio, l->model->usages++, l->prompt_bytes, r->prompt_tokens);
}

static void learn_hit(struct core *c, struct engine *e, const struct lease *l,
                      const struct report_event *r)
{
    if (r->has_cached && !e->kv_events && !view_is_exact(c, e) && !l->resumed &&
        fit_hit(&e->fit, l->cached_tokens, r->cached_tokens, (double)engine_told_capacity(e)))
        apply(c, e);
}

void learn_ended(struct core *c, const struct lease *l, enum cause cause,
                 const struct report_event *r)
{
    struct engine *e = l->engine;
    struct fit_load now;
    double cached;

    if (r == NULL || !r->has_usage)
        return;
    learn_ratio(c, l, r);
    if (e == NULL || cause != CAUSE_RETURNED || r->declined)
        return;
    fit_usage(&e->fit, r->has_cached, l->cached_tokens);
    learn_hit(c, e, l, r);
    cached = r->has_cached ? r->cached_tokens : (double)lease_hit(l) * r->prompt_tokens;
    now = load_now(c, l);
    if (fit_answered(&e->fit, &l->fit, &now, r->prompt_tokens, cached, r->completion_tokens))
        apply(c, e);
}

void learn_kv(struct core *c, struct engine *e, uint64_t removed)
{
    if (fit_resident(&e->fit, (double)e->kv_resident, (double)removed,
                     (double)engine_told_capacity(e)))
        apply(c, e);
}
