/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/replay/flow.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/must.h"

struct due {
    double at;
    uint64_t order;
    uint32_t call;
};

struct run { /* a workflow */
    uint32_t workflow, left;
    uint32_t *roots;
    uint32_t root_count;
};

struct flow {
    const struct trace *trace;
    struct flow_rule rule;
    uint32_t *waits;  /* per call: dependencies not yet done */
    uint32_t *kid_at; /* per call + 1: its range of kids */
    uint32_t *kids;
    struct run *runs; /* by workflow, ascending */
    size_t run_count;
    struct trace_launch *pending; /* those that wait for a user, in order */
    size_t pending_count, pending_next;
    struct due *heap;
    size_t heap_len;
    uint64_t own_order, *order;
    double start; /* the earliest recorded time */
    size_t left;  /* calls */
    uint32_t runs_done;
};

static bool due_before(const struct due *a, const struct due *b)
{
    return a->at < b->at || (!(b->at < a->at) && a->order < b->order);
}

static void push(struct flow *f, double at, uint32_t call)
{
    struct due d = {.at = at, .order = (*f->order)++, .call = call};
    size_t i = f->heap_len++;

    for (; i > 0 && due_before(&d, &f->heap[(i - 1) / 2]); i = (i - 1) / 2)
        f->heap[i] = f->heap[(i - 1) / 2];
    f->heap[i] = d;
}

static struct due pop(struct flow *f)
{
    struct due top = f->heap[0], d = f->heap[--f->heap_len];
    size_t i = 0, kid;

    while ((kid = 2 * i + 1) < f->heap_len) {
        if (kid + 1 < f->heap_len && due_before(&f->heap[kid + 1], &f->heap[kid]))
            kid++;
        if (!due_before(&f->heap[kid], &d))
            break;
        f->heap[i] = f->heap[kid];
        i = kid;
    }
    f->heap[i] = d;
    return top;
}

static int by_workflow(const void *a, const void *b)
{
    uint32_t x = ((const struct run *)a)->workflow, y = ((const struct run *)b)->workflow;

    return x < y ? -1 : x > y;
}

static struct run *run_of(const struct flow *f, uint32_t workflow)
{
    struct run key = {.workflow = workflow};

    return bsearch(&key, f->runs, f->run_count, sizeof(*f->runs), by_workflow);
}

static void make_runs(struct flow *f, const bool *keep)
{
    size_t n = 0;

    f->runs = calloc(f->trace->call_count + 1, sizeof(*f->runs));
    must(f->runs != NULL);
    for (size_t i = 0; i < f->trace->call_count; i++)
        if (keep[i])
            f->runs[n++].workflow = f->trace->calls[i].workflow;
    qsort(f->runs, n, sizeof(*f->runs), by_workflow);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || f->runs[i].workflow != f->runs[f->run_count - 1].workflow)
            f->runs[f->run_count++] = f->runs[i];
}

static void add_root(struct run *r, uint32_t call)
{
    r->roots = realloc(r->roots, (r->root_count + 1) * sizeof(*r->roots));
    must(r->roots != NULL);
    r->roots[r->root_count++] = call;
}

static void make_graph(struct flow *f, const bool *keep)
{
    const struct trace *t = f->trace;
    uint32_t *fill;

    f->waits = calloc(t->call_count + 1, sizeof(*f->waits));
    f->kid_at = calloc(t->call_count + 2, sizeof(*f->kid_at));
    f->kids = calloc(t->dep_count + 1, sizeof(*f->kids));
    fill = calloc(t->call_count + 1, sizeof(*fill));
    must(f->waits != NULL && f->kid_at != NULL && f->kids != NULL && fill != NULL);
    for (size_t i = 0; i < t->call_count; i++)
        for (uint32_t d = 0; keep[i] && d < t->calls[i].dep_count; d++)
            if (keep[t->deps[t->calls[i].dep_at + d]])
                f->kid_at[t->deps[t->calls[i].dep_at + d] + 1]++;
    for (size_t i = 0; i < t->call_count; i++)
        f->kid_at[i + 1] += f->kid_at[i];
    for (uint32_t i = 0; i < t->call_count; i++) {
        struct run *r = keep[i] ? run_of(f, t->calls[i].workflow) : NULL;

        if (r == NULL)
            continue;
        for (uint32_t d = 0; d < t->calls[i].dep_count; d++) {
            uint32_t dep = t->deps[t->calls[i].dep_at + d];

            if (!keep[dep])
                continue;
            f->kids[f->kid_at[dep] + fill[dep]++] = i;
            f->waits[i]++;
        }
        r->left++;
        f->left++;
        if (f->waits[i] == 0)
            add_root(r, i);
    }
    free(fill);
}

static void launch(struct flow *f, uint32_t workflow, double at)
{
    const struct run *r = run_of(f, workflow);

    for (uint32_t i = 0; r != NULL && i < r->root_count; i++)
        push(f, at, r->roots[i]);
}

static double recorded(const struct flow *f, uint32_t call)
{
    return (f->trace->calls[call].t - f->start) / f->rule.speed;
}

static void launch_open(struct flow *f, const bool *keep)
{
    f->start = INFINITY;
    for (size_t i = 0; i < f->trace->call_count; i++)
        if (keep[i] && f->trace->calls[i].t < f->start)
            f->start = f->trace->calls[i].t;
    for (uint32_t i = 0; i < f->trace->call_count; i++)
        if (keep[i] && f->waits[i] == 0)
            push(f, recorded(f, i), i);
}

static void launch_closed(struct flow *f, const struct selection *sel)
{
    f->pending = calloc(sel->launch_count + 1, sizeof(*f->pending));
    must(f->pending != NULL);
    for (size_t i = 0; i < sel->launch_count; i++) {
        const struct trace_launch *l = &sel->launch[i];

        if (run_of(f, l->workflow) == NULL)
            continue;
        if (l->start >= 0)
            launch(f, l->workflow, l->start);
        else if (f->rule.users == 0 || i < f->rule.users)
            launch(f, l->workflow, (double)i * f->rule.stagger);
        else
            f->pending[f->pending_count++] = *l;
    }
}

struct flow *flow_new(const struct trace *t, const struct selection *sel,
                      const struct flow_rule *rule)
{
    struct flow *f = calloc(1, sizeof(*f));

    must(f != NULL);
    f->trace = t;
    f->rule = *rule;
    if (!(f->rule.speed > 0))
        f->rule.speed = 1;
    f->order = rule->order != NULL ? rule->order : &f->own_order;
    f->heap = calloc(t->call_count + 1, sizeof(*f->heap));
    must(f->heap != NULL);
    make_runs(f, sel->keep);
    make_graph(f, sel->keep);
    if (t->mode == TRACE_OPEN)
        launch_open(f, sel->keep);
    else
        launch_closed(f, sel);
    return f;
}

void flow_free(struct flow *f)
{
    if (f == NULL)
        return;
    for (size_t i = 0; i < f->run_count; i++)
        free(f->runs[i].roots);
    free(f->runs);
    free(f->waits);
    free(f->kid_at);
    free(f->kids);
    free(f->pending);
    free(f->heap);
    free(f);
}

double flow_next(const struct flow *f)
{
    return f->heap_len > 0 ? f->heap[0].at : INFINITY;
}

uint64_t flow_next_order(const struct flow *f)
{
    return f->heap_len > 0 ? f->heap[0].order : UINT64_MAX;
}

bool flow_take(struct flow *f, double now, uint32_t *call, double *when)
{
    struct due d;

    if (f->heap_len == 0 || f->heap[0].at > now)
        return false;
    d = pop(f);
    *call = d.call;
    *when = d.at;
    return true;
}

void flow_done(struct flow *f, uint32_t call, double now, bool *last)
{
    const struct trace *t = f->trace;
    struct run *r = run_of(f, t->calls[call].workflow);

    for (uint32_t i = f->kid_at[call]; i < f->kid_at[call + 1]; i++) {
        uint32_t kid = f->kids[i];
        double gap = fmin(t->calls[kid].gap, f->rule.gap_cap);

        if (--f->waits[kid] == 0)
            push(f, t->mode == TRACE_OPEN ? fmax(recorded(f, kid), now) : now + gap, kid);
    }
    f->left--;
    *last = --r->left == 0;
    if (!*last)
        return;
    f->runs_done++;
    if (f->pending_next < f->pending_count)
        launch(f, f->pending[f->pending_next++].workflow, now);
}

bool flow_is_over(const struct flow *f)
{
    return f->left == 0;
}

uint32_t flow_left(const struct flow *f, uint32_t call)
{
    return run_of(f, f->trace->calls[call].workflow)->left;
}

uint32_t flow_workflows_done(const struct flow *f)
{
    return f->runs_done;
}
