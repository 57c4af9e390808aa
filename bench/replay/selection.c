/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/replay/random.h"
#include "bench/replay/trace.h"
#include "common/must.h"

struct counted {
    uint32_t workflow, calls, agent;
    bool keep, multi;
};

static int by_number(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

static int by_workflow(const void *a, const void *b)
{
    return by_number(&((const struct counted *)a)->workflow,
                     &((const struct counted *)b)->workflow);
}

static struct counted *find(struct counted *all, size_t count, uint32_t workflow)
{
    struct counted key = {.workflow = workflow};

    return bsearch(&key, all, count, sizeof(*all), by_workflow);
}

/* Ascending, without repeats. */
static struct counted *workflows_of(const struct trace *t, size_t *count)
{
    struct counted *all = calloc(t->call_count + 1, sizeof(*all));
    size_t n = 0;

    must(all != NULL);
    for (size_t i = 0; i < t->call_count; i++)
        all[i].workflow = t->calls[i].workflow;
    qsort(all, t->call_count, sizeof(*all), by_workflow);
    for (size_t i = 0; i < t->call_count; i++)
        if (n == 0 || all[n - 1].workflow != all[i].workflow)
            all[n++] = all[i];
    for (size_t i = 0; i < t->call_count; i++) {
        struct counted *w = find(all, n, t->calls[i].workflow);

        w->multi |= w->calls > 0 && w->agent != t->calls[i].agent;
        w->agent = t->calls[i].agent;
        w->calls++;
    }
    *count = n;
    return all;
}

static void keep_everything(const struct trace *t, struct selection *out)
{
    memset(out->keep, 1, t->call_count * sizeof(*out->keep));
    out->kept = t->call_count;
    out->launch = calloc(t->launch_count + 1, sizeof(*out->launch));
    must(out->launch != NULL);
    if (t->launch_count > 0)
        memcpy(out->launch, t->launch, t->launch_count * sizeof(*out->launch));
    out->launch_count = t->launch_count;
}

static void keep_closed(const struct trace *t, const struct selection_rule *rule,
                        struct selection *out)
{
    size_t count = 0;
    struct counted *all = workflows_of(t, &count);
    uint32_t *order = calloc(count + 1, sizeof(*order));
    size_t given = 0, keep;
    struct mt draw;
    double start = 0;

    must(order != NULL);
    for (size_t i = 0; i < count; i++) {
        all[i].calls = 0;
        if (all[i].multi || !rule->only_multi)
            order[given++] = all[i].workflow;
    }
    keep = rule->sessions == 0 || rule->sessions > given ? given : rule->sessions;
    mt_seed(&draw, rule->seed);
    if (rule->shuffle)
        mt_shuffle(&draw, order, (uint32_t)given);
    for (size_t i = 0; i < keep; i++)
        find(all, count, order[i])->keep = true;
    for (size_t i = 0; i < t->call_count; i++) {
        struct counted *w = find(all, count, t->calls[i].workflow);

        if (!w->keep || (rule->max_steps != 0 && w->calls++ >= rule->max_steps))
            continue;
        out->keep[i] = true;
        out->kept++;
    }
    /* Who is kept is one draw, in which order they start another. */
    qsort(order, keep, sizeof(*order), by_number);
    mt_seed(&draw, rule->seed);
    if (rule->shuffle)
        mt_shuffle(&draw, order, (uint32_t)keep);
    out->launch = calloc(keep + 1, sizeof(*out->launch));
    must(out->launch != NULL);
    for (size_t i = 0; i < keep; i++) {
        if (rule->rate > 0)
            start += -log(1 - mt_unit(&draw)) / rule->rate;
        out->launch[i] =
            (struct trace_launch){.workflow = order[i], .start = rule->rate > 0 ? start : -1};
    }
    out->launch_count = keep;
    free(order);
    free(all);
}

void selection_make(const struct trace *t, const struct selection_rule *rule, struct selection *out)
{
    memset(out, 0, sizeof(*out));
    out->keep = calloc(t->call_count + 1, sizeof(*out->keep));
    must(out->keep != NULL);
    if (t->launch != NULL) {
        keep_everything(t, out);
    } else if (t->mode == TRACE_CLOSED) {
        keep_closed(t, rule, out);
    } else {
        out->kept =
            rule->sessions == 0 || rule->sessions > t->call_count ? t->call_count : rule->sessions;
        memset(out->keep, 1, out->kept * sizeof(*out->keep));
    }
}

void selection_fini(struct selection *s)
{
    free(s->keep);
    free(s->launch);
    memset(s, 0, sizeof(*s));
}
