/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_TIMERS_H
#define SLIP_TIMERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Deadlines in order: a binary heap of intrusive timers. No clock of its own; the caller says what
 * time it is. Equal deadlines fire in the order in which they were started. One thread.
 */
struct timer {
    uint64_t at_ns;
    uint64_t order;
    size_t pos; /* index in the heap + 1; 0 = not running. Zeroed is a valid stopped timer. */
    void (*fire)(struct timer *t);
};

struct timers {
    struct timer **heap;
    size_t len, cap;
    uint64_t order;
};

void timers_init(struct timers *ts);
void timers_fini(struct timers *ts);
void timer_start(struct timers *ts, struct timer *t,
                 uint64_t at_ns);                    /* moves a running one; t->fire must be set */
void timer_stop(struct timers *ts, struct timer *t); /* a stopped one is fine */
bool timer_is_running(const struct timer *t);
uint64_t timers_next(const struct timers *ts); /* earliest deadline, UINT64_MAX when none */
void timers_run(struct timers *ts,
                uint64_t now_ns); /* fires everything due; callbacks may start and stop any */

#endif
