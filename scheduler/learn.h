/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_LEARN_H
#define SCHED_LEARN_H

#include "scheduler/lease.h"

/*
 * What the reports of requests and the KV events of engines teach (fit.h), joined to the core:
 * engine.time and engine.kv_factor follow what was learned while core.fits is true, and are as told
 * while it is not. Learning goes on either way.
 */
void learn_switch(struct core *c, bool fits);
void learn_sent(struct core *c, struct lease *l); /* runs on l->engine from now on */
void learn_first_byte(struct core *c, struct lease *l);
/* Before anything of l is taken back. */
void learn_ended(struct core *c, const struct lease *l, enum cause cause,
                 const struct report_event *r);
/* Before a removal is counted in e->kv_resident, after anything else. */
void learn_kv(struct core *c, struct engine *e, uint64_t removed);

#endif
