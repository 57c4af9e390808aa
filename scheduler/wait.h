/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_WAIT_H
#define SCHED_WAIT_H

#include "common/pool.h"
#include "common/timers.h"
#include "scheduler/policy.h"
#include "scheduler/table.h"

/*
 * Requests that are held: answered by ACT_WAIT, and later by one ACT_GO or ACT_NO.
 *
 * Those that wait for the siblings of a group stand in no line. The others stand in two orders: the
 * one in which they are tried (class, oldest workflow, longest wait), and by how long it has
 * waited. It leaves by being placed (wait_try), refused (its deadline, no engine left, its workflow
 * purged), cancelled, asked again under the same name, or with its worker.
 */
struct wait {
    struct timer deadline, since; /* since: in waits.by_age only, never due */
    struct core *core;
    uint64_t self, seq;
    size_t pos; /* in its line's heap + 1; 0: taken out while it is tried */
    uint32_t line;
    struct list of_worker, of_workflow, of_group, of_failed;
    struct group *group;       /* waits for its siblings, in no line; NULL: in line */
    bool tried;                /* a policy has held it */
    struct workflow *workflow; /* NULL: it has ended */
    struct agent *agent;
    struct query query; /* digests, avoid and model point to copies */
    uint64_t *digests;
    uint32_t avoid[AVOID_MAX];
    char model[MODEL_MAX], route[ROUTE_MAX];
    uint64_t start_ns;  /* of its workflow */
    uint64_t since_ns;  /* the first arrival of its agent that was not served */
    uint64_t asked_ns;  /* when this request came */
    enum reason reason; /* why it waits */
    uint32_t known;     /* *ask.known after the first try */
    uint32_t tokens;    /* of the prompt, estimated then */
};

struct wait_line {      /* those who want one model */
    struct wait **heap; /* in the order of trying */
    uint32_t count, cap, failures;
    uint32_t used_at; /* in waits.used_lines, unless it is empty */
};

struct waits {
    struct pool pool;
    struct table index;      /* by worker and handle */
    struct wait_line *lines; /* by model */
    uint32_t *used_lines;    /* that are not empty */
    uint32_t used_line_count;
    uint32_t count; /* in lines */
    struct timers by_age;
    uint64_t seq;
};

void waits_init(struct waits *ws, uint32_t capacity);
void waits_fini(struct waits *ws);
struct wait *wait_find(struct core *c, uint32_t worker, uint64_t handle); /* or NULL */
/* ERR_BUSY: full. */
enum err wait_make(struct core *c, const struct ask *ask, const struct choice *why,
                   struct wait **out);
void wait_line_up(struct core *c, struct wait *w); /* it is in no line yet */
/* Gone without an answer. Its workflow may end with it. */
void wait_drop(struct core *c, struct wait *w);
/* Told to come back after retry_ns: its agent keeps its place for twice as long. */
void wait_note_refused(struct core *c, struct wait *w, uint64_t retry_ns);
/* Its workflow ends before it: from now on it is a request without one, and the first in line. */
void wait_detach_workflow(struct core *c, struct wait *w);

static inline double wait_tokens(const struct wait *w)
{
    return w->tokens;
}

struct wait *waits_oldest(const struct waits *ws); /* NULL: nobody waits */
/*
 * Takes the first of all lines out of line, for wait_try(); NULL: nobody is left. A line of which
 * so many as failures_max were tried in vain is passed over: those behind them wait for the same.
 */
struct wait *waits_take(struct waits *ws, uint32_t failures_max);
void waits_failed(struct waits *ws, struct wait *w, struct list *failed); /* tried in vain */
void waits_put(struct waits *ws, struct wait *w); /* back in line; forgets its failures */

/* In place.c. Whether it was answered; then it is gone. */
bool wait_try(struct core *c, struct wait *w);
void wait_refuse(struct core *c, struct wait *w, enum err err);

#endif
