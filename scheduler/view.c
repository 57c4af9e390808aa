/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/view.h"

#include "common/clock.h"
#include "scheduler/state.h"

#define IDX_DEFAULT 0.8
#define LATE_NS (NS_PER_S / 2) /* the view of an engine is exact while its events need less */

void view_init(struct view *v, uint64_t hash_seed)
{
    v->prefix = prefix_new(hash_seed);
    view_reset(v);
}

void view_fini(struct view *v)
{
    prefix_free(v->prefix);
    v->prefix = NULL;
}

void view_reset(struct view *v)
{
    v->approx = v->eager = v->trust = v->spare = false;
    v->learn = true;
    v->idx = IDX_DEFAULT;
}

static bool is_told(const struct core *c, const struct engine *e)
{
    return e->content && !c->view.approx;
}

static bool is_late(const struct core *c, const struct engine *e)
{
    return c->view.late[e->index].ns >= LATE_NS && !c->view.trust;
}

bool view_is_exact(const struct core *c, const struct engine *e)
{
    return is_told(c, e) && !is_late(c, e);
}

/* What was found there, without what late events told. */
static const struct prefix_hit *look_late(struct core *c, const struct query *q, uint32_t i)
{
    const struct engine *e = &c->fleet.engines[i];

    if (q->digest_count > 0 && is_told(c, e) && is_late(c, e) && set_has(&c->view.full, i))
        c->look.hits[i] = prefix_listed(c->view.prefix, i, q->digests, q->digest_count);
    return &c->look.hits[i];
}

void view_look(struct core *c, const struct ask *ask, const struct engine_set *set)
{
    double block = c->conf.text_block / ask->model->ratio * ask->bias;

    if (ask->query->digest_count > 0)
        prefix_match(c->view.prefix, ask->query->digests, ask->query->digest_count, set,
                     c->look.hits);
    set_for(i, set)
    {
        const struct prefix_hit *h = look_late(c, ask->query, i);
        double tokens = h->blocks * block + h->gen_tokens;
        bool any = ask->query->digest_count > 0 && h->blocks > 0;

        c->look.blocks[i] = any ? h->blocks : 0;
        c->look.tokens[i] = !any ? 0 : tokens < ask->tokens ? (uint32_t)tokens : ask->tokens;
    }
}

/*
 * Events without content tell how much there is: what running requests are going to add comes to
 * that, else a prompt on its way to an empty engine would not count as cached there.
 */
static double bound_tokens(const struct core *c, const struct engine *e)
{
    double capacity = (double)engine_capacity(e), tokens = (double)e->kv_resident + e->x_tokens;

    if (!e->kv_events || e->content)
        return c->view.idx * capacity;
    return tokens < capacity ? tokens : capacity;
}

static void bound(struct core *c, const struct lease *l)
{
    double block = c->conf.text_block / l->model->ratio, tokens = bound_tokens(c, l->engine);

    if (prefix_bound(c->view.prefix, l->engine->index, tokens > 0 ? (uint64_t)(tokens / block) : 0))
        set_add(&c->view.full, l->engine->index);
}

void view_dispatched(struct core *c, struct lease *l)
{
    struct prefix *p = c->view.prefix;
    uint32_t e = l->engine->index;

    l->expected = true;
    if (l->digest_count == 0)
        return;
    l->fresh = is_told(c, l->engine) && !prefix_is_told(p, e, l->digests[l->digest_count - 1]);
    if (view_is_exact(c, l->engine)) {
        l->pin = prefix_pin(p, e, l->digests, l->digest_count);
        return;
    }
    l->stamp = prefix_stamp(p, e, l->digests, l->predicted);
    if (c->view.eager)
        prefix_refresh(p, e, l->digests, l->digest_count, c->now);
    else
        prefix_enter(p, e, l->digests, l->digest_count, c->now);
    bound(c, l);
}

/* The engine has them now. */
static void computed(struct core *c, const struct engine *e, uint64_t last)
{
    late_computed(&c->view.late[e->index], last, prefix_is_told(c->view.prefix, e->index, last),
                  c->now);
}

void view_first_byte(struct core *c, struct lease *l)
{
    struct prefix *p = c->view.prefix;

    if (!l->expected)
        return;
    l->expected = false;
    prefix_unpin(p, l->pin);
    l->pin = 0;
    if (l->digest_count == 0)
        return;
    if (l->fresh)
        computed(c, l->engine, l->digests[l->digest_count - 1]);
    if (view_is_exact(c, l->engine) || c->view.eager)
        return;
    prefix_refresh(p, l->engine->index, l->digests, l->digest_count, c->now);
    if (c->view.spare)
        l->pin = prefix_pin(p, l->engine->index, l->digests, l->digest_count);
    bound(c, l);
}

/* The engine is LRU, too: if blocks last used then are gone, so is what was last used before. */
static void learn(struct core *c, const struct lease *l, const struct report_event *r)
{
    double expected = l->predicted * (c->conf.text_block / l->model->ratio);

    if (l->predicted > 0 && l->stamp > 0 &&
        r->cached_tokens + c->conf.text_block / l->model->ratio <= expected)
        prefix_drop_older(c->view.prefix, l->engine->index, l->stamp);
}

void view_left(struct core *c, struct lease *l)
{
    prefix_unpin(c->view.prefix, l->pin);
    l->pin = 0;
    l->expected = false;
}

void view_ended(struct core *c, struct lease *l, enum cause cause, const struct report_event *r)
{
    struct prefix *p = c->view.prefix;
    bool expected = l->expected;
    uint32_t e;

    if (l->engine == NULL || l->digest_count == 0)
        return;
    e = l->engine->index;
    view_left(c, l);
    if (cause != CAUSE_RETURNED && expected && !view_is_exact(c, l->engine))
        prefix_leave(p, e, l->digests, l->predicted, l->digest_count);
    if (cause != CAUSE_RETURNED || r == NULL || r->declined)
        return;
    if (r->digest_count > l->digest_count && is_told(c, l->engine))
        computed(c, l->engine, r->digests[r->digest_count - 1]);
    if (!view_is_exact(c, l->engine)) {
        if (r->has_usage && r->has_cached && c->view.learn && !c->view.eager)
            learn(c, l, r);
        if (r->digests != NULL)
            prefix_refresh(p, e, r->digests, r->digest_count, c->now);
        else if (!c->view.eager)
            prefix_refresh(p, e, l->digests, l->digest_count, c->now);
        bound(c, l);
    }
    if (r->digests == NULL && r->completion_tokens > 0)
        prefix_output(p, e, l->digests, l->digest_count, r->completion_tokens);
}

static void view_content(struct core *c, enum event_type type, const struct engine *e,
                         const struct kv_event *ev)
{
    if (!is_told(c, e))
        return;
    if (type == EV_KV_STORED) {
        late_stored(&c->view.late[e->index], ev->digests, ev->count, c->now);
        prefix_stored(c->view.prefix, e->index, ev->parent, ev->digests, ev->count);
    } else {
        prefix_removed(c->view.prefix, e->index, ev->digests, ev->count);
    }
}

static void forget(struct core *c, const struct engine *e)
{
    c->view.late[e->index] = (struct late){0};
    set_remove(&c->view.full, e->index);
    prefix_clear(c->view.prefix, e->index);
}

void view_engine_lost(struct core *c, const struct engine *e)
{
    forget(c, e);
}

void view_kv(struct core *c, enum event_type type, struct engine *e, const struct kv_event *ev)
{
    struct prefix *p = c->view.prefix;

    if (type == EV_KV_CLEARED) {
        forget(c, e);
    } else if (ev->content) {
        view_content(c, type, e, ev);
    } else if (type == EV_KV_REMOVED && !view_is_exact(c, e)) {
        double block = c->conf.text_block / engine_ratio(&c->fleet, e);

        prefix_bound(p, e->index, (uint64_t)(bound_tokens(c, e) / block));
    }
}
