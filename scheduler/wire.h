/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_WIRE_H
#define SCHED_WIRE_H

#include <protobuf-c/protobuf-c.h>

#include "proto/scheduler.pb-c.h"

#include "common/arena.h"
#include "scheduler/core.h"
#include "scheduler/explain.h"
#include "scheduler/workflow.h"

/*
 * Between messages and the core's structs; everything that peers wrote is checked here. Memory of
 * one call comes from an arena that is emptied by the next one, so that a warm server allocates
 * nothing, and a message that unpacks into more than the arena holds is refused.
 */
#define ARENA_BYTES (2u << 20)

void arena_init(struct arena *a);
void arena_fini(struct arena *a);
char *arena_text(struct arena *a, struct text t); /* NUL-terminated; "" when full */

/* common/id.h */
bool wire_id_is_valid(const char *s);

/* ERR_ID, ERR_INVALID, ERR_TOO_LARGE. out borrows from q. worker, tenant: the caller's word. */
enum err wire_query(const Slipstream__V1__Query *q, double scale, struct query *out);
enum err wire_report(const Slipstream__V1__ReportItem *r, double scale, struct event *out);
/* tenant and id of a reference; agent may be NULL. */
enum err wire_ref(const char *tenant, const char *id, const char *agent,
                  struct workflow_event *out);

/* A workflow as callers see it, from the arena; with_agents: at most agents_max of them. NULL: the
 * arena is full. */
struct wire_clock {        /* what turns model time into the caller's */
    uint64_t now_ns;       /* model */
    uint64_t wall_base_ms; /* wall clock at time 0 */
    double scale;
    uint32_t ttl_ms;
};
Slipstream__V1__Workflow *wire_workflow(struct arena *a, const struct core *c,
                                        const struct workflow *w, const struct wire_clock *clock,
                                        size_t agents_max);
Slipstream__V1__Agent **wire_agents(struct arena *a, const struct core *c, const struct workflow *w,
                                    const struct wire_clock *clock, size_t max, bool named_only,
                                    size_t *count);
struct wire_way { /* how model time becomes the caller's */
    double scale;
    uint64_t lease_slack_ns, gate_wait_ns; /* model */
};
/* ACT_GO, ACT_WAIT or ACT_NO of the last step. candidates: with the engines that were compared;
 * from the arena, as many as it has room for. */
void wire_decision(struct arena *a, const struct core *c, const struct action *act,
                   struct wire_way way, bool candidates, Slipstream__V1__Decision *out);
Slipstream__V1__Explanation *wire_explanation(struct arena *a, const struct core *c,
                                              const struct explained *d, uint64_t now_ns);

#endif
