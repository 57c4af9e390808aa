/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/explain.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/must.h"
#include "scheduler/engine.h"

void explain_init(struct explain *x, uint32_t size)
{
    *x = (struct explain){.size = size};
    if (size == 0)
        return;
    x->items = calloc(size, sizeof(*x->items));
    x->names = calloc(size, sizeof(*x->names));
    must(x->items != NULL && x->names != NULL);
}

void explain_fini(struct explain *x)
{
    free(x->items);
    free(x->names);
    *x = (struct explain){0};
}

/* What is too long is cut between two characters of UTF-8. */
static char *text_add(struct explained *d, enum explained_text which, char *at, size_t size,
                      const char *s)
{
    size_t n = strnlen(s, size - 1);

    while (n > 0 && ((unsigned char)s[n] & 0xc0) == 0x80)
        n--;
    d->texts[which] = (uint16_t)(at - d->text);
    memcpy(at, s, n);
    at[n] = '\0';
    return at + n + 1;
}

const char *explained_text(const struct explained *d, enum explained_text which)
{
    return d->text + d->texts[which];
}

static struct explained *record_new(struct explain *x, uint32_t worker, uint64_t handle)
{
    uint64_t at = x->count++ % x->size;
    struct explained *d = &x->items[at];

    x->names[at] = (struct explain_name){.worker = worker, .handle = handle};
    d->row_count = 0;
    d->policy = d->reason = d->wait_reason = "";
    d->engine = ENGINE_NONE;
    d->hit = 0;
    d->waited_ns = 0;
    d->err = ERR_OK;
    d->kind = SLIPSTREAM__V1__DECISION_KIND__DECISION_WAIT;
    return d;
}

void explain_query(struct explain *x, uint32_t worker, const Slipstream__V1__Query *q,
                   const char *tenant, uint64_t wall_ms, uint64_t now_ns)
{
    struct explained *d;
    char *at;

    if (x->size == 0)
        return;
    d = record_new(x, worker, q->handle);
    d->at_wall_ms = wall_ms;
    d->since_ns = now_ns;
    at = text_add(d, EXPLAINED_TENANT, d->text, TENANT_MAX + 1, tenant);
    at = text_add(d, EXPLAINED_WORKFLOW, at, ID_MAX + 1, q->workflow_id);
    at = text_add(d, EXPLAINED_AGENT, at, ID_MAX + 1, q->agent_id);
    at = text_add(d, EXPLAINED_PARENT, at, ID_MAX + 1, q->parent_request_id);
    at = text_add(d, EXPLAINED_REQUEST, at, EXPLAIN_SHORT, q->request_id);
    at = text_add(d, EXPLAINED_MODEL, at, EXPLAIN_SHORT, q->model);
    at = text_add(d, EXPLAINED_ROUTE, at, EXPLAIN_SHORT, q->route);
    text_add(d, EXPLAINED_GROUP, at, EXPLAIN_SHORT, q->group_id);
    d->group_size = q->group_size;
    d->prompt_bytes = q->prompt_bytes;
    d->priority = q->priority;
}

static struct explained *record_find(struct explain *x, uint32_t worker, uint64_t handle)
{
    uint64_t kept = x->count < x->size ? x->count : x->size;

    for (uint64_t n = 0; n < kept; n++) {
        uint64_t at = (x->count - 1 - n) % x->size;

        if (x->names[at].handle == handle && x->names[at].worker == worker)
            return &x->items[at];
    }
    return NULL;
}

static bool is_cheaper(const struct explained_row *a, const struct explained_row *b)
{
    return a->has_cost && (!b->has_cost || a->cost < b->cost);
}

/* The cheapest ones where there are more than fit, cheapest first. */
static void rows_take(struct explained *d, const struct core *c, const struct receipt *r)
{
    for (uint32_t i = 0; i < r->count; i++) {
        const struct receipt_row *from = core_receipt_row(c, r, i);
        const struct engine *e = core_engine(c, from->engine);
        struct explained_row row = {.engine = from->engine,
                                    .generation = e != NULL ? e->generation : 0,
                                    .cost = from->cost,
                                    .has_cost = from->has_cost,
                                    .queue = from->queue_seconds,
                                    .cached_tokens = from->cached_tokens,
                                    .workflows = from->workflows};
        uint32_t at;

        if (d->row_count < EXPLAIN_ROWS)
            d->row_count++;
        else if (!is_cheaper(&row, &d->rows[EXPLAIN_ROWS - 1]))
            continue;
        for (at = d->row_count - 1; at > 0 && is_cheaper(&row, &d->rows[at - 1]); at--)
            d->rows[at] = d->rows[at - 1];
        d->rows[at] = row;
    }
}

void explain_action(struct explain *x, const struct core *c, const struct action *act)
{
    struct explained *d;
    const struct receipt *r;

    if (x->size == 0)
        return;
    d = record_find(x, act->worker, act->handle);
    if (d == NULL) /* it waited for longer than records are kept */
        return;
    if (act->type == ACT_WAIT) {
        d->kind = SLIPSTREAM__V1__DECISION_KIND__DECISION_WAIT;
        d->policy = act->policy;
        d->wait_reason = reason_word(act->reason);
        d->row_count = 0;
        rows_take(d, c, core_receipt(c, act->receipt));
        return;
    }
    if (act->type == ACT_NO) {
        d->kind = SLIPSTREAM__V1__DECISION_KIND__DECISION_NO;
        d->err = act->err;
        d->waited_ns = act->waited_ns;
        return;
    }
    r = core_receipt(c, act->receipt);
    d->kind = SLIPSTREAM__V1__DECISION_KIND__DECISION_GO;
    d->policy = act->policy;
    d->reason = reason_word(act->reason);
    d->hit = act->hit;
    d->waited_ns = act->waited_ns;
    d->engine = act->engine;
    d->generation = act->engine_generation;
    d->row_count = 0;
    if (r != NULL)
        rows_take(d, c, r);
}

const struct explained *explain_get(const struct explain *x, uint64_t n)
{
    return n < x->count && n < x->size ? &x->items[(x->count - 1 - n) % x->size] : NULL;
}
