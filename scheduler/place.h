/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_PLACE_H
#define SCHED_PLACE_H

#include "scheduler/policy.h"

/* Requests come, are placed, held or refused; what runs already is taken into the books. */

/* Answers by an action. */
void query_take(struct core *c, const struct query *q);
/* EV_DISPATCHED, EV_RESUME: whatever we think of them, they count. */
enum err placed_take(struct core *c, const struct query *q, enum reason reason);

#endif
