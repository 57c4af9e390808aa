/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_EXPLAIN_H
#define SCHED_EXPLAIN_H

#include "proto/scheduler.pb-c.h"

#include "scheduler/core.h"

/*
 * The last decisions with their reasons, for whoever asks afterwards: a ring of a fixed number of
 * records. A request that waits has one record, which its grant or refusal completes. One thread.
 */
#define EXPLAIN_ROWS 32u
#define EXPLAIN_SHORT 96u /* model, route, group and request ids beyond are cut */

/* Texts of a record. They lie one after the other, so that writing one touches few cache lines. */
enum explained_text {
    EXPLAINED_TENANT,
    EXPLAINED_WORKFLOW,
    EXPLAINED_AGENT,
    EXPLAINED_PARENT,
    EXPLAINED_REQUEST,
    EXPLAINED_MODEL,
    EXPLAINED_ROUTE,
    EXPLAINED_GROUP,
    EXPLAINED_TEXTS
};

struct explained_row {
    uint32_t engine, generation;
    uint32_t cached_tokens, workflows;
    double cost, queue; /* queue: seconds */
    bool has_cost;
};

struct explained {
    uint64_t at_wall_ms, since_ns; /* since: real, of the query */
    Slipstream__V1__DecisionKind kind;
    uint32_t group_size, prompt_bytes;
    Slipstream__V1__Priority priority;
    const char *policy, *reason, *wait_reason; /* static */
    uint32_t engine, generation;               /* GO */
    float hit;
    uint64_t waited_ns; /* model */
    enum err err;
    uint32_t row_count;
    uint16_t texts[EXPLAINED_TEXTS]; /* where each begins */
    char text[TENANT_MAX + 1 + 3 * (ID_MAX + 1) + 4 * EXPLAIN_SHORT];
    struct explained_row rows[EXPLAIN_ROWS];
};

struct explain {
    struct explained *items;
    struct explain_name { /* whose decision it is; beside the records, for a quick look */
        uint32_t worker;
        uint64_t handle;
    } * names;
    uint32_t size;
    uint64_t count; /* ever; the next one goes to count % size */
};

void explain_init(struct explain *x, uint32_t size); /* 0: nothing is kept */
void explain_fini(struct explain *x);
/* A query begins; its answer follows in explain_action(). q is borrowed for the call. */
void explain_query(struct explain *x, uint32_t worker, const Slipstream__V1__Query *q,
                   const char *tenant, uint64_t wall_ms, uint64_t now_ns);
/* ACT_GO, ACT_WAIT or ACT_NO, in the step that it belongs to. */
void explain_action(struct explain *x, const struct core *c, const struct action *act);

const char *explained_text(const struct explained *d, enum explained_text which);
/* The n-th newest, from 0; NULL: there are not so many. */
const struct explained *explain_get(const struct explain *x, uint64_t n);

#endif
