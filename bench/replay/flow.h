/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REPLAY_FLOW_H
#define REPLAY_FLOW_H

#include <stdbool.h>
#include <stdint.h>

#include "bench/replay/trace.h"

/*
 * When each call is sent. Pure: told the time (model seconds), answers what is due.
 *
 * A workflow starts at its given time, or when one of `users` is free; the first `users` start a
 * stagger apart. A call is due once all its dependencies are done and its gap has passed (mode
 * closed), or at its recorded time if that is later (mode open; the first call is at 0).
 * Dependencies that were not selected count as done. What is due at the same time comes in the
 * order in which it was planned.
 */
struct flow_rule {
    uint32_t users; /* workflows at a time; 0: no limit */
    double stagger, gap_cap;
    double speed; /* of recorded times, mode open; 0: 1 */
    uint64_t
        *order; /* optional: numbers plans together with others of the caller's; NULL: its own */
};

struct flow;

struct flow *flow_new(const struct trace *t, const struct selection *sel,
                      const struct flow_rule *rule);
void flow_free(struct flow *f);

double flow_next(const struct flow *f);         /* time of the earliest due call; INFINITY: none */
uint64_t flow_next_order(const struct flow *f); /* its number; UINT64_MAX: none */
/* Takes a call that is due at now; false: none. when: the time at which it became due. */
bool flow_take(struct flow *f, double now, uint32_t *call, double *when);
/* The call has ended, well or not. last: it was its workflow's last one. */
void flow_done(struct flow *f, uint32_t call, double now, bool *last);
bool flow_is_over(const struct flow *f); /* every selected call is done */
/* Calls of the same workflow that are not done, this one included. */
uint32_t flow_left(const struct flow *f, uint32_t call);
uint32_t flow_workflows_done(const struct flow *f);

#endif
