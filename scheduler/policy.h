/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_POLICY_H
#define SCHED_POLICY_H

#include "scheduler/lease.h"

/*
 * A placement rule. It picks, and hears of what happens; the core keeps the books and acts. Hooks
 * may be NULL.
 */
struct ask { /* one request, resolved */
    const struct query *query;
    struct workflow *workflow; /* NULL: none */
    struct agent *agent;
    struct model *model;
    uint32_t tokens;        /* of the prompt, estimated */
    struct engine_set able; /* alive and serve the model */
    struct engine_set may;  /* of those: not draining (unless all are), not just failed */
};

struct choice {
    struct engine *engine; /* a member of ask.may, or of ask.able */
    enum reason reason;
};

struct policy {
    const char *name;
    /* ask.may is never empty. */
    void (*place)(struct core *c, const struct ask *ask, struct choice *out);
    void (*dispatched)(struct core *c, struct lease *l);
    void (*first_byte)(struct core *c, struct lease *l);
    void (*ended)(struct core *c, struct lease *l, enum cause cause,
                  const struct report_event *report);
    void (*engine_gone)(struct core *c, struct engine *e); /* dead, or removed */
    void (*workflow_ended)(struct core *c, struct workflow *w);
    void (*tick)(struct core *c);
    uint64_t (*next_deadline)(const struct core *c);
};

extern const struct policy policy_workflow, policy_roundrobin, policy_least;

const struct policy *policy_find(const char *name); /* NULL: no such policy */

/* The one with the fewest running requests; ties rotate per model. set must not be empty. */
struct engine *least_pick(struct core *c, struct model *m, struct engine_set set);

#endif
