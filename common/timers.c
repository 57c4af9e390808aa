/* SPDX-License-Identifier: Apache-2.0 */
#include "common/timers.h"

#include <stdlib.h>

#include "common/must.h"

void timers_init(struct timers *ts)
{
    *ts = (struct timers){0};
}

void timers_fini(struct timers *ts)
{
    free(ts->heap);
    *ts = (struct timers){0};
}

static bool is_before(const struct timer *a, const struct timer *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order;
}

static void place(struct timers *ts, size_t i, struct timer *t)
{
    ts->heap[i] = t;
    t->pos = i + 1;
}

static void sift_up(struct timers *ts, size_t i, struct timer *t)
{
    while (i > 0 && is_before(t, ts->heap[(i - 1) / 2])) {
        place(ts, i, ts->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    place(ts, i, t);
}

static void sift_down(struct timers *ts, size_t i, struct timer *t)
{
    for (;;) {
        size_t child = 2 * i + 1;

        if (child >= ts->len)
            break;
        if (child + 1 < ts->len && is_before(ts->heap[child + 1], ts->heap[child]))
            child++;
        if (!is_before(ts->heap[child], t))
            break;
        place(ts, i, ts->heap[child]);
        i = child;
    }
    place(ts, i, t);
}

static void sift(struct timers *ts, size_t i, struct timer *t)
{
    if (i > 0 && is_before(t, ts->heap[(i - 1) / 2]))
        sift_up(ts, i, t);
    else
        sift_down(ts, i, t);
}

void timer_start(struct timers *ts, struct timer *t, uint64_t at_ns)
{
    must(t->fire != NULL);
    t->at_ns = at_ns;
    t->order = ts->order++;
    if (t->pos != 0) {
        must(t->pos <= ts->len && ts->heap[t->pos - 1] == t);
        sift(ts, t->pos - 1, t);
        return;
    }
    if (ts->len == ts->cap) {
        ts->cap = ts->cap != 0 ? ts->cap * 2 : 64;
        ts->heap = realloc(ts->heap, ts->cap * sizeof(struct timer *));
        must(ts->heap != NULL);
    }
    sift_up(ts, ts->len++, t);
}

void timer_stop(struct timers *ts, struct timer *t)
{
    size_t i = t->pos;
    struct timer *last;

    if (i == 0)
        return;
    must(i <= ts->len && ts->heap[i - 1] == t);
    t->pos = 0;
    last = ts->heap[--ts->len];
    if (last != t)
        sift(ts, i - 1, last);
}

bool timer_is_running(const struct timer *t)
{
    return t->pos != 0;
}

uint64_t timers_next(const struct timers *ts)
{
    return ts->len > 0 ? ts->heap[0]->at_ns : UINT64_MAX;
}

void timers_run(struct timers *ts, uint64_t now_ns)
{
    /* What callbacks start waits for the next run, due or not: a timer that starts itself again
     * at once must not hold the loop. */
    uint64_t limit = ts->order;

    while (ts->len > 0 && ts->heap[0]->at_ns <= now_ns && ts->heap[0]->order < limit) {
        struct timer *t = ts->heap[0];

        timer_stop(ts, t);
        t->fire(t);
    }
}
