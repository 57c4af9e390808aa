/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_WORKFLOW_H
#define SCHED_WORKFLOW_H

#include "common/list.h"
#include "scheduler/core.h"
#include "scheduler/flow.h"
#include "scheduler/latency.h"
#include "scheduler/marks.h"

/*
 * Workflows and their agents.
 *
 * A workflow is (tenant, id). It comes into being on first use and ends by DELETE, when a request
 * marked final is done and nothing else is in flight, when it has been idle for its time to live,
 * or when the table is full and it is the one that has been idle longest. With nothing in flight it
 * stands on core.idle, whose head is therefore the next to expire.
 *
 * Records are kept small because a hundred thousand of them are allowed: core_workflow_bytes().
 */
#define NAME_INLINE 46u

struct name { /* bytes; short ones in place, long ones in core.names */
    uint16_t len;
    char head[NAME_INLINE];
    uint64_t rest; /* handle in core.names when len > NAME_INLINE */
};

#define MAIL_TICK_MS 16u
#define MAIL_TICKS_MAX 0xffffffu
#define MAILS_MAX 0xffu
struct agent {
    uint64_t self, workflow; /* handles */
    struct list node;        /* workflow.agents */
    struct name id;          /* empty: requests that name no agent */
    uint64_t key;
    uint64_t last_ns; /* of its last request's start or end; 0: none yet */
    uint64_t prompt_tokens, cached_tokens, completion_tokens;
    uint32_t requests, inflight;
    uint32_t engine; /* of its latest request; ENGINE_NONE: none, or lost */
    uint32_t refused_since_ms, refused_until_ms; /* told to come back by then; from created_ns */
    /* Of other agents' messages: when the latest came, from created_ns, 0: none yet; and how many
     * did since its latest request. Both stay at their largest. */
    uint32_t mail_ticks : 24;
    uint32_t mails : 8;
    uint32_t known_tokens;   /* largest context that an engine reported */
    uint32_t guessed_tokens; /* context of a request whose usage is not known */
    struct mark_ends ends;
};

struct workflow {
    uint64_t key_lo, key_hi; /* XXH3_128 of tenant, NUL, id: as in the fleet segment */
    uint64_t self;           /* handle */
    struct list by_age;      /* core.by_age, oldest first */
    struct list idle;        /* core.idle while nothing is in flight */
    struct list agents, leases;
    struct list stays; /* load.c: the engines it has requests in flight on */
    uint64_t seq;      /* ascending with creation */
    uint64_t created_ns, last_ns;
    uint64_t deaths;  /* fleet.deaths that its marks know of */
    struct name name; /* tenant, then id; empty: restored, not seen yet */
    uint16_t tenant_len;
    bool ending;                    /* a final request came: ends with the last one in flight */
    bool estimated;                 /* some of its cached tokens are an estimate */
    uint32_t home, home_generation; /* ENGINE_NONE: none */
    uint32_t last_engine, last_generation;
    uint32_t agent_count, inflight;
    uint32_t latest;           /* slot + 1 of the agent that was asked for last; 0: none yet */
    uint32_t counted_inflight; /* of those, first attempts */
    uint64_t home_tokens;      /* the sum of agent_context(), plus restored_tokens */
    uint64_t restored_tokens;
    uint64_t ended_requests;
    uint64_t prompt_tokens, cached_tokens, completion_tokens, recomputed_tokens;
    uint64_t overlap_tokens, duplicate_tokens; /* of requests that overlapped a sibling */
    uint64_t waits, waited_ns;
    uint64_t overlap_seq; /* leases up to this one have had company */
    struct list waiting;  /* wait.c: its requests that are held */
    uint32_t waiting_count;
    struct tenant *tenant; /* line.c: while LIVE or waiting */
    struct latency latency;
    struct flow flow;
    struct marks marks;
    uint32_t row, label; /* the shell's; 0 at first */
};

struct core;

struct text name_text(const struct core *c, const struct name *n);
struct text workflow_tenant(const struct core *c, const struct workflow *w);
struct text workflow_id(const struct core *c, const struct workflow *w);
struct text agent_id(const struct core *c, const struct agent *a);

void workflow_key(struct text tenant, struct text id, uint64_t *lo, uint64_t *hi);

/* ERR_WORKFLOW_LIMIT: full of workflows with requests in flight. */
enum err workflow_make(struct core *c, struct text tenant, struct text id, struct workflow **out);
void workflow_end(struct core *c, struct workflow *w);
void workflow_restore(struct core *c, const struct restore_event *ev);
void workflows_expire(struct core *c);
uint64_t workflows_next_expiry(const struct core *c);
void workflow_touch(struct core *c, struct workflow *w); /* it was used now */

struct agent *agent_find(struct core *c, const struct workflow *w, struct text id);
/* ERR_AGENT_LIMIT */
enum err agent_make(struct core *c, struct workflow *w, struct text id, struct agent **out);
uint32_t agent_context(const struct agent *a);
bool agent_is_active(const struct core *c, const struct agent *a, uint64_t now_ns);
uint32_t workflow_active_agents(const struct core *c, const struct workflow *w, uint64_t now_ns);
bool workflow_is_active(const struct core *c, const struct workflow *w, uint64_t now_ns);
uint64_t workflow_requests(const struct workflow *w);
double workflow_hit_rate(const struct workflow *w);         /* 0..1 */
double workflow_batch_efficiency(const struct workflow *w); /* 0..1 */
/* Its home, else where its last request went; NULL when that is gone. */
const struct engine *workflow_engine(const struct core *c, const struct workflow *w);

/* NULL when it has none or that engine is gone. */
struct engine *workflow_home(struct core *c, const struct workflow *w);
void workflow_set_home(struct core *c, struct workflow *w, struct engine *e); /* NULL: none */
/* An agent's context changed: keeps the sums of workflow and home true. */
void workflow_set_tokens(struct core *c, struct workflow *w, struct agent *a, uint32_t known,
                         uint32_t guessed);
/* Forgets what dead engines held. */
void workflow_refresh_marks(struct core *c, struct workflow *w);

#endif
