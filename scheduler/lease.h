/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_LEASE_H
#define SCHED_LEASE_H

#include "common/list.h"
#include "common/timers.h"
#include "scheduler/core.h"
#include "scheduler/engine.h"
#include "scheduler/workflow.h"

/*
 * Leases: the right to use one engine for one request, until a deadline.
 *
 * A worker can die between hearing "use engine 3" and saying "done". If running requests were only
 * counted up and down, every such death would lose one for good. So a lease ends when the worker
 * returns it, when the worker is gone, or when its deadline passes, whichever is first. All of them
 * meet in lease_end(), which acts once. A lease is known by (worker, handle); a late report finds
 * nobody.
 *
 * Not here: which engine is chosen (policy_*.c).
 */
struct lease {
    struct timer deadline;
    struct core *core;
    uint64_t self, seq;
    uint32_t worker;
    uint64_t handle;
    uint32_t worker_round; /* worker.round when it was made or last restated */
    struct list of_worker, of_engine, of_workflow;
    struct engine *engine;     /* NULL: removed from the fleet meanwhile */
    struct workflow *workflow; /* NULL: none, or ended meanwhile */
    struct agent *agent;       /* of workflow */
    struct model *model;
    enum reason reason;
    bool first_byte;
    bool counts;  /* as a request of its workflow; another attempt of the same request does not */
    bool resumed; /* made by a restatement: what was cached is not known */
    bool overlapped;
    bool stream;
    enum reason why_waited;
    uint64_t waited_ns;
    uint32_t prompt_bytes, guessed_tokens;
    uint32_t cached_tokens; /* of its prompt, expected on its engine */
    /* load.c: */
    bool loaded, prefilling;
    double est_s, load_tokens;
    uint32_t q_tokens;
    struct stay *stay;
    struct timer first_due;
    uint64_t end_digest;
    struct mark_view view;
    uint64_t start_ns;
    uint64_t first_ns; /* of its first byte, when first_byte */
    uint32_t known;    /* *ask.known */
    uint64_t *digests; /* of the prompt */
    uint32_t digest_count;
    /* view.c: */
    bool fresh;         /* its engine had not told of its last block */
    bool expected;      /* its prompt is on its way */
    uint32_t predicted; /* blocks that should be cached on its engine */
    uint64_t pin, stamp;
    struct fit_run fit; /* learn.c */
};

struct worker {
    bool known;
    uint32_t round; /* hellos so far */
    struct list leases, waits;
};

struct core;

float lease_hit(const struct lease *l); /* expected cached share, 0..1 */
struct lease *lease_find(struct core *c, uint32_t worker, uint64_t handle); /* or NULL */
/* ERR_BUSY: the table is full. engine and agent may be NULL, workflow too. */
enum err lease_make(struct core *c, const struct query *q, struct engine *e, struct workflow *w,
                    struct agent *a, struct model *m, struct lease **out);
/* report: what the worker said, NULL when it said nothing. The lease is gone afterwards. */
void lease_end(struct core *c, struct lease *l, enum cause cause,
               const struct report_event *report);
void lease_detach_workflow(struct core *c, struct lease *l);
void lease_detach_engine(struct core *c, struct lease *l);

#endif
