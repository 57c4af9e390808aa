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
 * shell (at most ID_MAX bytes, TENANT_MAX alike). One thread.
 */
#define ENGINES_MAX 256u
#define ENGINE_NONE UINT32_MAX
#define ENGINE_MODELS_MAX 16u
#define ENGINE_KV_TOKENS 400000u
#define ID_MAX 256u
#define TENANT_MAX 200u
#define MODEL_MAX 200u
#define DIGESTS_MAX 4096u
#define AVOID_MAX 32u
#define TEXT_BLOCK 512u /* bytes of prompt text behind one digest, unless conf.text_block says */

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

/* Requests of this model and route are placed by this policy, whether or not they have a workflow.
 */
#define POLICY_RULES_MAX 64u
#define ROUTE_MAX 127u
struct policy_rule {
    const char *model, *route; /* "": any */
    const char *policy;
};

struct core_conf {
    uint32_t max_workflows, max_agents, max_leases, max_workers;
    uint64_t workflow_ttl_ns, agent_active_ns;
    uint64_t lease_slack_ns; /* a lease outlives its request's deadline by this */
    uint32_t probe_failures;
    uint64_t hash_seed; /* random where strangers choose ids; any fixed one in simulations */
    /* name[:key=value]..., of common/policies.def; borrowed for the call */
    const char *policy, *default_policy;
    const struct policy_rule *rules; /* the first that fits counts; borrowed for the call */
    uint32_t rule_count;
    uint32_t text_block;    /* bytes of prompt text behind one digest; 0: TEXT_BLOCK */
    double ratio;           /* bytes of prompt text per token to start with; 0: 4 */
    bool ratio_fixed;       /* no ratio is learned from usage */
    bool fit;               /* times and KV sizes of engines are corrected by what they do */
    bool scaled;            /* model time runs faster: what transport takes is multiplied, so that
                               nothing is learned from when reports and KV events come */
    uint64_t gate_wait_ns;  /* longest wait of a request that is held; 0: no limit */
    uint32_t group_wait_ms; /* how long siblings of one group wait for each other */
};

/*
 * Seconds of one engine step: base + tok * prefilled tokens + attn * prefilled tokens * their
 * context + kv * KV tokens read by decodes + seq * decodes. Prefilling u uncached tokens of a
 * prompt of n takes tok * u + attn * u * (n - u / 2).
 */
struct time_model {
    double base, tok, attn, kv, seq;
};

enum class { CLASS_INTERACTIVE, CLASS_DEFAULT, CLASS_BATCH, CLASS_COUNT };

enum event_type {
    EV_ENGINE_SET,    /* engine: a new one, or other flags for one that is there */
    EV_ENGINE_MODELS, /* engine: index, models */
    EV_ENGINE_HEALTH, /* health */
    EV_ENGINE_GONE,   /* engine: index; what is in flight there may end in its own time */
    EV_WORKER_HELLO,  /* worker */
    EV_WORKER_GONE,   /* worker */
    EV_ENGINE_STATS,  /* stats: scraped from the engine */
    EV_KV_STORED,     /* kv: the engine holds these blocks now */
    EV_KV_REMOVED,    /* kv: ... no longer */
    EV_KV_CLEARED,    /* kv: it holds nothing; or, unknown: what it holds is not known any more */
    EV_QUERY,         /* query: answered by exactly one ACT_GO, ACT_NO or ACT_WAIT */
    EV_DISPATCHED,    /* query, engine index in placed: placed by a worker alone */
    EV_RESUME,        /* query, placed, first_byte: in flight since before this scheduler */
    EV_RESUME_LAST,   /* worker: everything in flight has been restated */
    EV_FIRST_BYTE,    /* report: worker, handle */
    EV_DONE,          /* report; err says whether it failed */
    EV_CANCEL,        /* report: worker, handle; also of a request that waits */
    EV_WF_END,        /* workflow */
    EV_WF_RESTORE,    /* restore: what a predecessor knew */
    EV_AGENT_NOTE,    /* workflow: tenant, id, agent */
    EV_MAIL,          /* mail: messages wait for an agent; unknown ones are none of ours */
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
    bool unproven;      /* not alive before its first good probe: its address is not known yet */
    uint64_t kv_tokens; /* KV capacity; 0: from its stats, else ENGINE_KV_TOKENS */
    bool content;       /* its KV events tell digests: the index follows them exactly */
    bool late_share;    /* others can use a prefill's blocks only once that has ended */
    struct time_model time; /* zero terms: as on a 70B model, 4 x H100 */
};

struct stats_event { /* has_x false: x is not known, and stays what it was */
    uint32_t index, generation;
    bool has_running, has_waiting, has_kv_tokens, has_kv_used;
    uint32_t running, waiting; /* requests in its batch, and in its queue */
    uint64_t kv_tokens;        /* capacity */
    uint64_t kv_used_tokens;   /* of running requests */
};

/* content false: only tokens says something, how much came or went. */
struct kv_event {
    uint32_t index, generation;
    uint64_t parent; /* EV_KV_STORED: the digest that comes before digests[0]; 0: none */
    const uint64_t *digests;
    uint32_t count, tokens;
    bool content;
    bool unknown; /* EV_KV_CLEARED: until the next event its size is not known; nothing has left */
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
    uint32_t answer_digests; /* behind those of the prompt, where a simulator knows the answer */
    uint64_t waited_ns, remaining_ns;
    const uint32_t *avoid; /* engine indices */
    uint32_t avoid_count;
    uint32_t placed;     /* EV_DISPATCHED, EV_RESUME */
    bool first_byte;     /* EV_RESUME */
    uint8_t class;       /* enum class; a zeroed query is interactive */
    uint64_t wait_ns;    /* longest wait that its client would bear; 0: conf.gate_wait_ns alone */
    struct text route;   /* where at the gateway it came in; empty: not told */
    struct text group;   /* siblings that are placed together; empty: none */
    uint32_t group_size; /* how many they are; 0: not known */
};

struct report_event {
    uint32_t worker;
    uint64_t handle;
    enum err err;
    bool declined; /* the engine said no (4xx): it computed nothing */
    bool has_usage, has_cached;
    uint32_t prompt_tokens, cached_tokens, completion_tokens;
    uint64_t latency_ns;
    /* The chain of prompt and output, where their content is known; else NULL, and the tail of the
     * prompt's chain remembers the tokens of the answer. */
    const uint64_t *digests;
    uint32_t digest_count;
    bool final; /* its workflow has said meanwhile that this one is its last */
};

struct workflow_event {
    struct text tenant, id, agent;
    bool purge; /* EV_WF_END: also revoke what is in flight */
};

struct mail_event {
    struct text tenant, id, agent;
    uint32_t messages;
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
        struct mail_event mail;
        struct restore_event restore;
        struct stats_event stats;
        struct kv_event kv;
        struct core_conf conf;
    };
};

enum action_type {
    ACT_GO,     /* worker, handle, engine ... hit */
    ACT_NO,     /* worker, handle, err, retry_ns */
    ACT_WAIT,   /* worker, handle, workflow, reason: ended by one ACT_GO or ACT_NO of a later
                   step, by EV_CANCEL, by another query of this name or by EV_WORKER_GONE */
    ACT_REVOKE, /* worker, handle, err: give that request up; its lease has ended */
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
    uint32_t receipt;   /* ACT_GO, ACT_WAIT: for core_receipt() */
};

struct actions { /* zeroed is a valid empty one; memory is kept from step to step */
    struct action *items;
    size_t count, cap;
};
void actions_fini(struct actions *a);

/* Why a request went where it went. Valid until the next step. */
struct receipt {
    const char *policy;
    enum reason reason, why_waited;
    uint64_t waited_ns;
    float hit;              /* expected share of the prompt that is cached there */
    uint32_t tokens;        /* of the prompt, estimated */
    uint32_t engine, count; /* count: rows, for core_receipt_row() */
    uint32_t first;         /* the core's */
};

struct receipt_row { /* an engine that it could have gone to */
    uint32_t engine;
    uint32_t cached_tokens; /* of its prompt, expected there */
    uint32_t workflows;     /* with requests in flight there */
    bool has_cost;
    double cost;          /* in the unit of the policy: seconds with workflow and cost */
    double queue_seconds; /* prefills dispatched there before it */
};

struct core_stats {
    uint64_t decisions[REASON_COUNT];
    uint64_t refused[ERR_COUNT];
    uint64_t leases_ended[CAUSE_COUNT];
    uint64_t reports_unknown; /* named a lease that had ended */
    uint64_t workflows_created, workflows_ended, workflows_evicted, workflows_expired;
    uint64_t waits[REASON_COUNT]; /* requests that were ever held, by why */
    uint32_t workflows, agents, leases, workers, waiting;
    double gate;   /* share of the KV caches that claims may fill; 0: as much as they like */
    double waste;  /* share of the engines' time spent on prompts computed before */
    double credit; /* engine seconds saved up for whoever waits longest */
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
/* Of an ACT_GO of the last step. */
const struct receipt *core_receipt(const struct core *c, uint32_t receipt);
const struct receipt_row *core_receipt_row(const struct core *c, const struct receipt *r,
                                           uint32_t i);
const char *core_policy_name(const struct core *c);
const struct engine *core_engine(const struct core *c, uint32_t index); /* NULL: no such engine */
/* Tokens of KV that live workflows claim there. */
double core_engine_claims(const struct core *c, const struct engine *e);
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
/* "new", "live", "lapsed", "paused" or "waiting"; "" where no policy in force has a door. */
const char *core_workflow_admission(const struct core *c, const struct workflow *w);
/* Seconds that its longest waiting request has waited; 0: none waits. */
double core_workflow_waiting(const struct core *c, const struct workflow *w);
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
