/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_CORE_H
#define SCHED_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

/*
 * The scheduler's pure core: who runs where.
 *
 * Events go in, one at a time, with the time they happen at; actions come out in the caller's
 * array. No sockets, no clock, no threads, no allocation once warm, and no order that depends on
 * addresses: the same events give the same actions, in the scheduler process and in a simulator.
 *
 * Time is model time: nanoseconds of CLOCK_MONOTONIC times the time scale, which only the shell
 * knows. Strings and arrays of an event are borrowed for the call; ids have been checked by the
 * shell (at most ID_MAX bytes, TENANT_MAX and MODEL_MAX alike). One thread.
 */
#define ENGINES_MAX 256u
#define ENGINE_NONE UINT32_MAX
#define ENGINE_MODELS_MAX 16u
#define ID_MAX 256u
#define TENANT_MAX 200u
#define MODEL_MAX 200u
#define DIGESTS_MAX 4096u
#define AVOID_MAX 32u
#define TEXT_BLOCK 512u /* bytes of prompt text behind one digest */

struct text { /* not NUL-terminated */
    const char *p;
    uint32_t len;
};

enum reason {
#define REASON(name, word, help) REASON_##name,
#include "scheduler/reasons.def"
#undef REASON
    REASON_COUNT
};

enum cause {
#define CAUSE(name, word, help) CAUSE_##name,
#include "scheduler/causes.def"
#undef CAUSE
    CAUSE_COUNT
};

const char *reason_word(enum reason r);
const char *cause_word(enum cause c);

enum strategy { PLACE_AUTO, PLACE_STRICT, PLACE_SPREAD, PLACE_ISOLATED };

struct core_conf {
    uint32_t max_workflows, max_agents, max_leases, max_workers;
    uint64_t workflow_ttl_ns, agent_active_ns;
    uint64_t lease_slack_ns; /* a lease outlives its request's deadline by this */
    double load_bound;
    uint32_t load_slack;
    uint32_t probe_failures;
    uint64_t hash_seed; /* random where strangers choose ids; any fixed one in simulations */
    const char *policy, *default_policy; /* names; borrowed for the call */
};

enum event_type {
    EV_ENGINE_SET,    /* engine: a new one, or other flags for one that is there */
    EV_ENGINE_MODELS, /* engine: index, models */
    EV_ENGINE_HEALTH, /* health */
    EV_ENGINE_GONE,   /* engine: index; what is in flight there may end in its own time */
    EV_WORKER_HELLO,  /* worker */
    EV_WORKER_GONE,   /* worker */
    EV_QUERY,         /* query: answered by exactly one ACT_GO or ACT_NO */
    EV_DISPATCHED,    /* query, engine index in placed: placed by a worker alone */
    EV_RESUME,        /* query, placed, first_byte: in flight since before this scheduler */
    EV_RESUME_LAST,   /* worker: everything in flight has been restated */
    EV_FIRST_BYTE,    /* report: worker, handle */
    EV_DONE,          /* report; err says whether it failed */
    EV_CANCEL,        /* report: worker, handle */
    EV_WF_END,        /* workflow */
    EV_WF_RESTORE,    /* restore: what a predecessor knew */
    EV_AGENT_NOTE,    /* workflow: tenant, id, agent */
    EV_POLICY_SET,    /* conf: policy names, bounds and times; tables keep their sizes */
    EV_TICK           /* due deadlines */
};

struct engine_event {
    uint32_t index, generation; /* another generation: another engine */
    struct text id;
    const struct text *models;
    uint32_t model_count;
    bool models_known; /* false: nobody knows yet what it serves */
    bool draining, priority;
    bool unproven; /* not alive before its first good probe: its address is not known yet */
};

struct health_event {
    uint32_t index, generation;
    bool ok;
    bool unreachable; /* !ok: not even a connection; requests without a first byte are revoked */
};

struct query {
    uint32_t worker;
    uint64_t handle; /* the worker's name for this attempt */
    struct text tenant, workflow, agent, model;
    enum strategy strategy;
    bool final, stream;
    uint32_t prompt_bytes, max_tokens;
    const uint64_t *digests;
    uint32_t digest_count;
    uint64_t waited_ns, remaining_ns;
    const uint32_t *avoid; /* engine indices */
    uint32_t avoid_count;
    uint32_t placed; /* EV_DISPATCHED, EV_RESUME */
    bool first_byte; /* EV_RESUME */
};

struct report_event {
    uint32_t worker;
    uint64_t handle;
    enum err err;
    bool declined; /* the engine said no (4xx): it computed nothing */
    bool has_usage, has_cached;
    uint32_t prompt_tokens, cached_tokens, completion_tokens;
    uint64_t latency_ns;
};

struct workflow_event {
    struct text tenant, id, agent;
    bool purge; /* EV_WF_END: also revoke what is in flight */
};

struct restore_event {
    uint64_t key_lo, key_hi;
    uint32_t engine; /* its index now, or ENGINE_NONE */
    uint64_t created_ns, last_ns;
    uint64_t requests, prompt_tokens, cached_tokens, completion_tokens, recomputed_tokens;
    uint64_t home_tokens;
};

struct event {
    enum event_type type;
    uint32_t worker; /* EV_WORKER_*, EV_RESUME_LAST */
    union {
        struct engine_event engine;
        struct health_event health;
        struct query query;
        struct report_event report;
        struct workflow_event workflow;
        struct restore_event restore;
        struct core_conf conf;
    };
};

enum action_type {
    ACT_GO,             /* worker, handle, engine ... hit */
    ACT_NO,             /* worker, handle, err, retry_ns */
    ACT_REVOKE,         /* worker, handle, err: give that request up; its lease has ended */
    ACT_PUBLISH_ENGINE, /* engine */
    ACT_PUBLISH_HOME,   /* workflow */
    ACT_HOME_ENDED,     /* key_lo, key_hi, row, label: the workflow is gone */
    ACT_FINISHED        /* workflow, label, counts ... latency_ns: one of its requests has ended */
};

struct action {
    enum action_type type;
    uint32_t worker;
    uint64_t handle;
    uint32_t engine, engine_generation;
    enum reason reason;
    enum err err;
    float hit; /* expected share of the prompt that is cached there */
    uint32_t row, label;
    int64_t priority;                          /* model milliseconds; 0 where not enabled */
    uint64_t deadline_ns, retry_ns, waited_ns; /* durations */
    uint64_t workflow;                         /* for core_workflow() */
    uint64_t key_lo, key_hi;
    bool counts;         /* ACT_FINISHED: not just another attempt of the same request */
    bool answered;       /* ACT_FINISHED: with success, after latency_ns */
    uint64_t latency_ns; /* ACT_FINISHED, and what the request adds to its workflow's tokens: */
    uint64_t prompt_tokens, cached_tokens, overlap_tokens, duplicate_tokens;
    const char *policy; /* static */
};

struct actions { /* zeroed is a valid empty one; memory is kept from step to step */
    struct action *items;
    size_t count, cap;
};
void actions_fini(struct actions *a);

struct core_stats {
    uint64_t decisions[REASON_COUNT];
    uint64_t refused[ERR_COUNT];
    uint64_t leases_ended[CAUSE_COUNT];
    uint64_t reports_unknown; /* named a lease that had ended */
    uint64_t workflows_created, workflows_ended, workflows_evicted, workflows_expired;
    uint32_t workflows, agents, leases, workers;
};

struct core;
struct engine;
struct workflow;

/* Fails with ERR_CONF when a policy name is not known. */
enum err core_new(const struct core_conf *conf, struct core **out);
void core_free(struct core *c);

/* Actions replace what out held. Failure only for events that name things that do not exist
 * (ERR_NOT_FOUND, ERR_WORKFLOW, ...); EV_QUERY always answers by an action. */
enum err core_step(struct core *c, uint64_t now_ns, const struct event *ev, struct actions *out);
/* When EV_TICK is due; UINT64_MAX: never. */
uint64_t core_next_deadline(const struct core *c);

const struct core_stats *core_stats_get(const struct core *c);
const char *core_policy_name(const struct core *c);
const struct engine *core_engine(const struct core *c, uint32_t index); /* NULL: no such engine */
uint32_t core_engine_count(const struct core *c); /* one more than the highest index in use */
const char *core_engine_model(const struct core *c, const struct engine *e, uint32_t n);

/* Whether it is known to serve other models than these. */
bool core_engine_models_differ(const struct core *c, const struct engine *e,
                               const struct text *models, uint32_t count);

/* All of them, in no order; cursor starts at 0. */
struct workflow *core_workflow_next(const struct core *c, uint32_t *cursor, uint64_t *handle);
/* NULL when gone. */
struct workflow *core_workflow(const struct core *c, uint64_t handle);
/* NULL when unknown. One that a predecessor's table brought back gets its names here. */
struct workflow *core_workflow_find(struct core *c, struct text tenant, struct text id);
/* The next older one; NULL: the newest. Nameless ones are left out. */
const struct workflow *core_workflow_older(const struct core *c, const struct workflow *from);
/* The newest one that is older than seq: where a listing goes on when its workflow has ended. */
const struct workflow *core_workflow_before(const struct core *c, uint64_t seq);

/* Every invariant of the tables, checked the slow way; for tests. Stops the process when one is
 * broken. */
void core_check(const struct core *c);
/* Bytes that one more workflow with this many agents takes, tables included. */
size_t core_workflow_bytes(unsigned agents);

#endif
