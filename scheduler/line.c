/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/line.h"

#include <stdlib.h>

#include <xxhash.h>

#include "common/must.h"
#include "scheduler/state.h"

#define ROWS_FIRST 16u

void lines_init(struct lines *ls, uint32_t waits, uint32_t workflows)
{
    uint32_t tenants = workflows < TENANTS_MAX ? workflows : TENANTS_MAX;

    *ls = (struct lines){0};
    pool_init(&ls->tenants, sizeof(struct tenant), tenants);
    pool_init(&ls->rows, sizeof(struct row), waits);
    table_init(&ls->index, tenants);
    list_init(&ls->nobody.rows);
    list_init(&ls->others.rows);
    ls->of_model = calloc(MODELS_MAX + 1, sizeof(*ls->of_model));
    ls->used = calloc(MODELS_MAX + 1, sizeof(*ls->used));
    must(ls->of_model != NULL && ls->used != NULL);
}

void lines_fini(struct lines *ls)
{
    for (uint32_t i = 0; i <= MODELS_MAX; i++)
        free(ls->of_model[i].heap);
    free(ls->of_model);
    free(ls->used);
    table_fini(&ls->index);
    pool_fini(&ls->rows);
    pool_fini(&ls->tenants);
}

/* ---- a row ---- */

static bool is_before(const struct wait *a, const struct wait *b)
{
    if (a->query.class != b->query.class)
        return a->query.class < b->query.class;
    if (a->start_ns != b->start_ns)
        return a->start_ns < b->start_ns;
    if (a->since_ns != b->since_ns)
        return a->since_ns < b->since_ns;
    return a->seq < b->seq;
}

/* Of two roots. */
static struct wait *merge(struct wait *a, struct wait *b)
{
    if (a == NULL || b == NULL)
        return a != NULL ? a : b;
    if (is_before(b, a)) {
        struct wait *first = b;

        b = a;
        a = first;
    }
    b->prev = a;
    b->next = a->child;
    if (a->child != NULL)
        a->child->prev = b;
    a->child = b;
    return a;
}

static struct wait *root_of(struct wait *w)
{
    if (w != NULL)
        w->next = w->prev = NULL;
    return w;
}

/* Of siblings: by pairs, then all from the last on. */
static struct wait *merge_all(struct wait *at)
{
    struct wait *pairs = NULL, *all = NULL;

    while (at != NULL) {
        struct wait *a = at, *b = a->next, *pair;

        at = b != NULL ? b->next : NULL;
        pair = merge(root_of(a), root_of(b));
        pair->next = pairs;
        pairs = pair;
    }
    while (pairs != NULL) {
        struct wait *next = pairs->next;

        all = merge(all, root_of(pairs));
        pairs = next;
    }
    return all;
}

static void cut(struct wait *w)
{
    if (w->prev->child == w)
        w->prev->child = w->next;
    else
        w->prev->next = w->next;
    if (w->next != NULL)
        w->next->prev = w->prev;
    root_of(w);
}

/* ---- a line ---- */

/* Of two tenants, one request each. */
static int compare(const struct lines *ls, const struct row *a, const struct row *b)
{
    const struct tenant *x = a->tenant, *y = b->tenant;

    if (ls->share && x->claims != y->claims)
        return x->claims < y->claims ? -1 : 1;
    if (ls->share && x->served != y->served)
        return x->served < y->served ? -1 : 1;
    return is_before(a->first, b->first) ? -1 : 1;
}

/* In one line. */
static bool goes_before(const struct lines *ls, const struct row *a, const struct row *b)
{
    if (a->first->query.class != b->first->query.class)
        return a->first->query.class < b->first->query.class;
    if (ls->share && a->failed != b->failed)
        return a->failed < b->failed;
    return compare(ls, a, b) < 0;
}

static void heap_set(struct line *l, uint32_t i, struct row *r)
{
    l->heap[i] = r;
    r->pos = i + 1;
}

static void heap_settle(const struct lines *ls, struct line *l, uint32_t i, struct row *r)
{
    while (i > 0 && goes_before(ls, r, l->heap[(i - 1) / 2])) {
        heap_set(l, i, l->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    for (;;) {
        uint32_t next = 2 * i + 1;

        if (next + 1 < l->count && goes_before(ls, l->heap[next + 1], l->heap[next]))
            next++;
        if (next >= l->count || !goes_before(ls, l->heap[next], r))
            break;
        heap_set(l, i, l->heap[next]);
        i = next;
    }
    heap_set(l, i, r);
}

static void heap_add(struct lines *ls, struct line *l, struct row *r)
{
    if (l->count == 0) {
        l->used_at = ls->used_count;
        ls->used[ls->used_count++] = r->line;
    }
    if (l->count == l->cap) {
        l->cap = l->cap > 0 ? l->cap * 2 : ROWS_FIRST;
        l->heap = realloc(l->heap, l->cap * sizeof(*l->heap));
        must(l->heap != NULL);
    }
    heap_settle(ls, l, l->count++, r);
}

static void heap_remove(struct lines *ls, struct line *l, struct row *r)
{
    struct row *last = l->heap[--l->count];
    uint32_t i = r->pos - 1;

    r->pos = 0;
    if (last != r)
        heap_settle(ls, l, i, last);
    if (l->count == 0) {
        uint32_t moved = ls->used[--ls->used_count];

        ls->used[l->used_at] = moved;
        ls->of_model[moved].used_at = l->used_at;
    }
}

/* Its first has changed, its failures, or its tenant's claims. */
static void row_settle(struct lines *ls, struct row *r)
{
    struct line *l = &ls->of_model[r->line];

    if (r->pos == 0 && r->first != NULL)
        heap_add(ls, l, r);
    else if (r->pos > 0 && r->first == NULL)
        heap_remove(ls, l, r);
    else if (r->pos > 0)
        heap_settle(ls, l, r->pos - 1, r);
}

static void tenant_settle(struct lines *ls, const struct tenant *t)
{
    list_for(pos, &t->rows) row_settle(ls, container_of(pos, struct row, of_tenant));
}

void lines_set_share(struct lines *ls, bool share)
{
    ls->share = share;
    for (uint32_t k = 0; k < ls->used_count; k++) {
        struct line *l = &ls->of_model[ls->used[k]];
        uint32_t count = l->count;

        l->count = 0;
        for (uint32_t i = 0; i < count; i++)
            heap_settle(ls, l, l->count++, l->heap[i]);
    }
}

/* ---- coming and going ---- */

static struct row *row_of(struct lines *ls, struct tenant *t, uint32_t line)
{
    uint64_t self;
    struct row *r;

    list_for(pos, &t->rows)
    {
        r = container_of(pos, struct row, of_tenant);
        if (r->line == line)
            return r;
    }
    r = pool_take(&ls->rows, &self);
    must(r != NULL); /* not more than waits */
    r->self = self;
    r->tenant = t;
    r->line = line;
    list_push(&t->rows, &r->of_tenant);
    return r;
}

void line_put(struct lines *ls, struct wait *w)
{
    struct row *r = w->row;

    must(!w->in_line);
    w->in_line = true;
    if (w->failed) {
        ls->of_model[r->line].failures--;
        r->failed--;
    }
    w->failed = false;
    r->first = merge(r->first, w);
    ls->waiting++;
    row_settle(ls, r);
}

void line_join(struct lines *ls, struct wait *w, struct tenant *t)
{
    must(w->row == NULL);
    w->row = row_of(ls, t, w->line);
    w->row->waiting++;
    line_put(ls, w);
}

void line_take(struct lines *ls, struct wait *w)
{
    struct row *r = w->row;
    struct wait *rest = merge_all(w->child);

    must(w->in_line);
    w->child = NULL;
    if (r->first == w) {
        r->first = rest;
    } else {
        cut(w);
        r->first = merge(r->first, rest);
    }
    w->in_line = false;
    ls->waiting--;
    row_settle(ls, r);
}

void line_leave(struct lines *ls, struct wait *w)
{
    struct row *r = w->row;

    if (r == NULL)
        return;
    if (w->in_line)
        line_take(ls, w);
    if (w->failed) {
        ls->of_model[r->line].failures--;
        r->failed--;
        row_settle(ls, r);
    }
    w->failed = false;
    w->row = NULL;
    if (--r->waiting > 0)
        return;
    list_remove(&r->of_tenant);
    pool_give(&ls->rows, r->self);
}

struct wait *lines_take(struct lines *ls, uint32_t failures_max)
{
    const struct row *first = NULL;

    for (uint32_t i = 0; i < ls->used_count; i++) {
        const struct line *l = &ls->of_model[ls->used[i]];
        const struct row *r = l->heap[0];

        if (l->failures >= failures_max)
            continue;
        if (first == NULL || r->first->query.class < first->first->query.class ||
            (r->first->query.class == first->first->query.class && compare(ls, r, first) < 0))
            first = r;
    }
    if (first != NULL) {
        struct wait *w = first->first;

        line_take(ls, w);
        return w;
    }
    return NULL;
}

void line_failed(struct lines *ls, struct wait *w, struct list *failed)
{
    must(!w->in_line && !w->failed);
    w->failed = true;
    w->row->failed++;
    ls->of_model[w->row->line].failures++;
    row_settle(ls, w->row);
    list_push(failed, &w->of_failed);
}

/* ---- who they are ---- */

static struct tenant *tenant_find(struct lines *ls, XXH128_hash_t key)
{
    uint32_t cursor = 0, slot;

    while ((slot = table_find(&ls->index, key.low64, &cursor)) != UINT32_MAX) {
        uint64_t self;
        struct tenant *t = pool_next(&ls->tenants, &slot, &self);

        if (t->key_lo == key.low64 && t->key_hi == key.high64)
            return t;
    }
    return NULL;
}

static struct tenant *tenant_join(struct core *c, const struct workflow *w)
{
    struct lines *ls = &c->waits.lines;
    struct text name = workflow_tenant(c, w);
    XXH128_hash_t key = XXH3_128bits_withSeed(name.p, name.len, c->conf.hash_seed);
    struct tenant *t = tenant_find(ls, key);
    uint64_t self;

    if (t == NULL) {
        t = pool_take(&ls->tenants, &self);
        if (t == NULL)
            return &ls->others;
        t->self = self;
        list_init(&t->rows);
        t->key_lo = key.low64;
        t->key_hi = key.high64;
        table_add(&ls->index, t->key_lo, pool_slot_of(self));
    }
    return t;
}

void tenant_update(struct core *c, struct workflow *w)
{
    struct lines *ls = &c->waits.lines;
    struct tenant *t = w->tenant;
    bool in = w->flow.state == FLOW_LIVE || w->waiting_count > 0;

    if (in && t == NULL) {
        w->tenant = tenant_join(c, w);
        w->tenant->workflows++;
    } else if (!in && t != NULL) {
        w->tenant = NULL;
        if (--t->workflows > 0 || t->self == 0)
            return;
        must(list_is_empty(&t->rows) && t->claims == 0);
        table_remove(&ls->index, t->key_lo, pool_slot_of(t->self));
        pool_give(&ls->tenants, t->self);
    }
}

void tenant_served(struct core *c, struct workflow *w)
{
    w->tenant->served = ++c->waits.lines.served;
    tenant_settle(&c->waits.lines, w->tenant);
}

void tenant_claim(struct core *c, struct workflow *w, uint64_t units, bool in)
{
    struct tenant *t = w->tenant;

    must(t != NULL && (in || t->claims >= units));
    t->claims += in ? units : -units;
    tenant_settle(&c->waits.lines, t);
}

/* ---- checked ---- */

static void check_row(const struct lines *ls, const struct row *r)
{
    must(r->failed == 0 && r->waiting > 0);
    must((r->pos > 0) == (r->first != NULL));
    must(r->pos == 0 || ls->of_model[r->line].heap[r->pos - 1] == r);
}

static void check_tenant(const struct core *c, const struct tenant *t)
{
    uint64_t claims = 0;
    uint32_t workflows = 0;

    list_for(pos, &c->by_age)
    {
        const struct workflow *w = container_of(pos, const struct workflow, by_age);

        if (w->tenant != t)
            continue;
        workflows++;
        set_for(i, &c->fleet.used) if (w->flow.state == FLOW_LIVE) claims +=
            (uint64_t)foot_blocks(c->view.prefix, &w->flow.foot, i) * w->flow.bias;
    }
    must(t->claims == claims && t->workflows == workflows);
    must(t->self == 0 || workflows > 0);
    list_for(pos, &t->rows) check_row(&c->waits.lines, container_of(pos, struct row, of_tenant));
}

static void check_line(const struct lines *ls, uint32_t k)
{
    const struct line *l = &ls->of_model[ls->used[k]];

    must(l->used_at == k && l->count > 0 && l->failures == 0);
    for (uint32_t i = 0; i < l->count; i++) {
        must(l->heap[i]->pos == i + 1 && l->heap[i]->line == ls->used[k]);
        must(i == 0 || !goes_before(ls, l->heap[i], l->heap[(i - 1) / 2]));
    }
}

static void check_wait(const struct core *c, const struct wait *w)
{
    must(w->row->tenant == (w->workflow != NULL ? w->workflow->tenant : &c->waits.lines.nobody));
    must(w->in_line && !w->failed && w->row->line == w->line);
    must((w->row->first == w) == (w->prev == NULL));
    must(w->prev == NULL || w->prev->child == w || w->prev->next == w);
    for (const struct wait *at = w->child; at != NULL; at = at->next)
        must(at->row == w->row && !is_before(at, w));
}

void lines_check(const struct core *c)
{
    const struct lines *ls = &c->waits.lines;
    uint32_t cursor = 0, waiting = 0;
    const struct tenant *t;
    uint64_t self;

    for (uint32_t k = 0; k < ls->used_count; k++)
        check_line(ls, k);
    check_tenant(c, &ls->nobody);
    check_tenant(c, &ls->others);
    while ((t = pool_next(&ls->tenants, &cursor, &self)) != NULL)
        check_tenant(c, t);
    list_for(pos, &c->by_age)
    {
        const struct workflow *w = container_of(pos, const struct workflow, by_age);

        must((w->tenant != NULL) == (w->flow.state == FLOW_LIVE || w->waiting_count > 0));
    }
    for (uint32_t i = 0; i < c->conf.max_workers; i++)
        list_for(pos, &c->workers[i].waits)
        {
            const struct wait *w = container_of(pos, const struct wait, of_worker);

            if (w->row == NULL)
                continue;
            check_wait(c, w);
            waiting++;
        }
    must(waiting == ls->waiting && ls->index.used == ls->tenants.used);
}
