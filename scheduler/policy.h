/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_POLICY_H
#define SCHED_POLICY_H

#include "scheduler/lease.h"
#include "common/policy_spec.h"

/*
 * A placement rule. It picks, and hears of what happens; the core keeps the books and acts. Hooks
 * may be NULL.
 */
struct wait;

struct ask { /* one request, resolved */
    const struct query *query;
    const struct policy_spec *spec; /* options of the policy that is asked */
    void *state;                    /* what its start gave */
    struct workflow *workflow;      /* NULL: none */
    struct agent *agent;
    struct model *model;
    const struct wait *wait; /* it has been held since an earlier step; NULL: it has just come */
    bool first;              /* no policy has seen it before */
    uint32_t tokens;         /* of the prompt, estimated */
    double bias;             /* 1, unless token counts are wrong on purpose */
    bool looked;             /* what is below is filled */
    uint32_t blocks;         /* digests of the prompt: its full blocks */
    struct engine_set able;  /* alive and serve the model */
    struct engine_set may;   /* of those: not draining (unless all are), not just failed */
    /* [ENGINES_MAX], for members of may, when the policy wants_cached, else zeros: tokens and
     * blocks of the longest prefix of the prompt that is cached there, counting prefills under way,
     * and for the tokens an answer that follows. */
    const uint32_t *cached, *cached_blocks;
    /* [ENGINES_MAX], NAN at first: what a policy thinks each engine costs, for the receipt. */
    double *cost;
    uint32_t *known; /* kept with the request: blocks that its workflow had sent before */
};

struct choice {
    struct engine *engine; /* a member of ask.may, or of ask.able */
    enum reason reason;    /* of the choice, or of waiting */
};

struct policy {
    const char *name;
    bool wants_cached;
    /* ask.may is never empty. false: hold it. Such a policy has drain, which tries again by
     * wait_try(). */
    bool (*place)(struct core *c, const struct ask *ask, struct choice *out);
    void (*placed)(struct core *c,
                   struct lease *l); /* its own choice runs, or so it would choose */
    /* The others hear of all requests, whichever policy placed them. */
    void (*dispatched)(struct core *c, struct lease *l);
    void (*first_byte)(struct core *c, struct lease *l);
    void (*ended)(struct core *c, struct lease *l, enum cause cause,
                  const struct report_event *report);
    void (*engine_gone)(struct core *c, struct engine *e); /* dead, or removed */
    void (*workflow_ended)(struct core *c, struct workflow *w);
    void (*stats)(struct core *c, struct engine *e); /* new ones have come */
    /* After every event that may have made room, EV_TICK among them. */
    void (*drain)(struct core *c);
    uint64_t (*next_deadline)(const struct core *c);
    /* This policy is in force, now or again, perhaps with other options. One that has this hook
     * can be in force with one set of options only. */
    void (*opened)(struct core *c, const struct policy_spec *spec);
    void (*closed)(struct core *c); /* it is in force no longer */
    /* What it keeps between requests, owned by the core until stop: other options, another state.
     * Both or neither. The core's tables may not be there yet, or no longer. */
    void *(*start)(struct core *c, const struct policy_spec *spec);
    void (*stop)(struct core *c, void *state);
    /* Called for each state that lives. */
    void (*cleared)(struct core *c, void *state, const struct engine *e); /* dead, or removed */
};

#define POLICY(symbol, name, single, help) extern const struct policy policy_##symbol;
#include "common/policies.def"

const struct policy *policy_get(const struct policy_spec *spec);

/* A policy in force. */
struct placement {
    const struct policy *policy;
    struct policy_spec spec;
    void *state;
    bool hears; /* the first of its policy: hooks are called once */
};

/*
 * The policies in force, each text once: items[0] places requests with a workflow, items[fallback]
 * those without, unless a rule names another one for their model and route.
 */
struct placements {
    struct placement items[2 + POLICY_RULES_MAX];
    uint32_t count, fallback;
    struct placement_rule {
        char model[MODEL_MAX + 1], route[ROUTE_MAX + 1]; /* "": any */
        uint32_t item;
    } rules[POLICY_RULES_MAX];
    uint32_t rule_count;
};

/* From now on these place. A state goes on where its policy is chosen again with the same options.
 * ERR_CONF: one of them is not known, or not fit for its place; nothing has changed. */
enum err policies_set(struct core *c, const struct core_conf *conf);
void policies_open(struct core *c); /* they are in force */
void policies_stop(struct core *c);
/* Who places this one: the first rule that fits. */
const struct placement *policies_choose(const struct core *c, const struct query *q,
                                        bool has_workflow);
void policies_cleared(struct core *c, const struct engine *e);
/* Where no policy in force would try those again that an earlier one held, all go now. */
void policies_drain(struct core *c);
uint64_t policies_next_deadline(const struct core *c);

/* policies_tell(c, hook, ...): of every policy in force. */
#define policies_tell(c, hook, ...)                                  \
    for (const struct placement *told = (c)->policies->items;        \
         told < (c)->policies->items + (c)->policies->count; told++) \
        if (told->hears && told->policy->hook != NULL)               \
    told->policy->hook((c), ##__VA_ARGS__)

/* The one with the fewest running requests; ties rotate per model. set must not be empty. */
struct engine *least_pick(struct core *c, const struct model *m, struct engine_set set);
/* Any of set, which must not be empty; at: the state of the dice. */
struct engine *random_pick(struct core *c, uint64_t *at, const struct engine_set *set);
uint64_t dice_next(uint64_t *at);
/* As struct policy.placed: a workflow's home is where it went first, until that engine dies. */
void home_placed(struct core *c, struct lease *l);
/* As struct policy.stop, of a state that owns nothing else. */
void plain_stop(struct core *c, void *state);

#endif
