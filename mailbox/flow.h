/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_MAILBOX_FLOW_H
#define SLIP_MAILBOX_FLOW_H

#include <stdint.h>

#include "mailbox/core.h"

/*
 * How many messages went from which agent to which, for the dashboard: a counter for each pair, the
 * first max of them under their own names, all others together as _other. A pair keeps its series
 * until its workflow has no mailbox any more.
 */
struct metric;
struct flows;
struct flow;

struct flows *flows_new(struct metric *m, unsigned row, uint32_t max);
void flows_free(struct flows *f);
/* Good until the next flows_sweep. */
struct flow *flow_get(struct flows *f, const char *tenant, const char *workflow, const char *source,
                      const char *target);
void flow_add(struct flow *f);
void flows_sweep(struct flows *f, const struct mbox_core *c); /* now and then */

#endif
