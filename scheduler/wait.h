/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_WAIT_H
#define SCHED_WAIT_H

#include "common/pool.h"
#include "common/timers.h"
#include "scheduler/line.h"
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
    struct row *row;                  /* where it stands; NULL: in no line, it is of a group */
    struct wait *child, *next, *prev; /* in its row; prev of a first child: its parent */
    uint32_t line;                    /* its model's */
    bool in_line;                     /* false: taken out while it is tried, or of a group */
    bool failed;                      /* tried in vain by the drain under way */
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

struct waits {
    struct pool pool;
    struct table index; /* by worker and handle */
    struct lines lines; /* the order of trying */
    struct timers by_age;
    uint64_t seq;
    uint64_t admitted_ns; /* when the door last let one in, or somebody came to an empty line */
    double gap_s;         /* moving mean of seconds between those let in; 0: none was */
};

void waits_init(struct waits *ws, uint32_t capacity, uint32_t workflows); /* at most */
void waits_fini(struct waits *ws);
struct wait *wait_find(struct core *c, uint32_t worker, uint64_t handle); /* or NULL */
/* ERR_BUSY: full. */
enum err wait_make(struct core *c, const struct ask *ask, const struct choice *why,
                   struct wait **out);
void wait_line_up(struct core *c, struct wait *w); /* it is in no line yet */
/* Gone without an answer. Its workflow may end with it. */
void wait_drop(struct core *c, struct wait *w);
/* When it is worth asking again, if its deadline is now: 1 to 60 s. */
uint64_t wait_retry_ns(const struct core *c, const struct wait *w);
/* The door lets it in. */
void wait_note_admitted(struct core *c, const struct wait *w);
/* Told to come back after retry_ns: its agent keeps its place for twice as long. */
void wait_note_refused(struct core *c, struct wait *w, uint64_t retry_ns);
/* Its workflow ends before it: from now on it is a request without one, and the first in line. */
void wait_detach_workflow(struct core *c, struct wait *w);

static inline double wait_tokens(const struct wait *w)
{
    return w->tokens;
}

struct wait *waits_oldest(const struct waits *ws); /* NULL: nobody waits */
/* In place.c. Whether it was answered; then it is gone. */
bool wait_try(struct core *c, struct wait *w);
void wait_refuse(struct core *c, struct wait *w, enum err err);

#endif
