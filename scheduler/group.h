/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_GROUP_H
#define SCHED_GROUP_H

#include "common/pool.h"
#include "common/timers.h"
#include "scheduler/policy.h"
#include "scheduler/table.h"

/*
 * Siblings that say they belong together wait for each other, so that they are placed in one go:
 * until as many have come as they said, or group_wait_ms after the first.
 */
struct group {
    struct timer deadline;
    struct core *core;
    uint64_t self, key;
    struct list waits; /* wait.of_group, in the order they came; never empty */
    uint32_t count, size;
};

struct groups {
    struct pool pool;
    struct table index;
};

void groups_init(struct groups *gs, uint32_t capacity);
void groups_fini(struct groups *gs);
/* Whether ask has to wait for siblings; then choice says so, and group_join() is next. When it is
 * the last of them, the others have been placed. */
bool group_holds(struct core *c, const struct ask *ask, struct choice *out);
void group_join(struct core *c, const struct ask *ask, struct wait *w);
void group_leave(struct core *c, struct wait *w); /* w is about to go */

#endif
