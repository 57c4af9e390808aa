/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_ENGINE_H
#define SCHED_ENGINE_H

#include "common/list.h"
#include "scheduler/core.h"
#include "scheduler/fit.h"
#include "scheduler/table.h"

#define MODELS_MAX 1024u

struct engine_set {
    uint64_t w[ENGINES_MAX / 64];
};

static inline void set_add(struct engine_set *s, uint32_t i)
{
    s->w[i / 64] |= UINT64_C(1) << i % 64;
}

static inline void set_remove(struct engine_set *s, uint32_t i)
{
    s->w[i / 64] &= ~(UINT64_C(1) << i % 64);
}

static inline bool set_has(const struct engine_set *s, uint32_t i)
{
    return i < ENGINES_MAX && (s->w[i / 64] >> i % 64 & 1) != 0;
}

static inline bool set_is_empty(const struct engine_set *s)
{
    return (s->w[0] | s->w[1] | s->w[2] | s->w[3]) == 0;
}

static inline struct engine_set set_and(struct engine_set a, struct engine_set b)
{
    for (unsigned i = 0; i < ENGINES_MAX / 64; i++)
        a.w[i] &= b.w[i];
    return a;
}

static inline struct engine_set set_minus(struct engine_set a, struct engine_set b)
{
    for (unsigned i = 0; i < ENGINES_MAX / 64; i++)
        a.w[i] &= ~b.w[i];
    return a;
}

/* The first member at or after i, ENGINE_NONE when there is none. */
static inline uint32_t set_next(const struct engine_set *s, uint32_t i)
{
    uint32_t word = i / 64;
    uint64_t bits;

    if (i >= ENGINES_MAX)
        return ENGINE_NONE;
    bits = s->w[word] & UINT64_MAX << i % 64;
    while (bits == 0 && ++word < ENGINES_MAX / 64)
        bits = s->w[word];
    return bits != 0 ? word * 64 + (uint32_t)__builtin_ctzll(bits) : ENGINE_NONE;
}

/* The body may not change the set. */
#define set_for(i, set) \
    for (uint32_t i = set_next((set), 0); i != ENGINE_NONE; i = set_next((set), i + 1))

struct model {
    uint16_t len; /* 0: free */
    char name[MODEL_MAX + 1];
    struct engine_set engines; /* that are known to serve it */
    double ratio;              /* bytes of prompt text per token, learned */
    uint64_t usages;           /* from how many requests */
    uint32_t turn;             /* engine of the last rotation */
    uint64_t dispatches;       /* requests placed so far: whose turn it is among equals */
};

struct engine {
    uint32_t index, generation;
    char id[64];
    bool used, draining, priority;
    bool models_known;
    bool probed, healthy;
    uint16_t models[ENGINE_MODELS_MAX];
    uint32_t model_count;
    uint32_t failed_probes;   /* in a row */
    uint64_t failures;        /* failed probes and requests, ever */
    uint64_t requests;        /* placed here, ever */
    uint32_t running;         /* leases held: the length of leases */
    uint32_t homed_workflows; /* whose home this is */
    uint64_t home_tokens;     /* of those: the sum of workflow.home_tokens */
    uint64_t id_hash;
    uint64_t died; /* core.deaths when its cache was last lost */
    struct list leases;
    /* As told: */
    bool content, late_share;
    uint64_t kv_conf;       /* capacity in tokens; 0: not told */
    struct time_model time; /* in use: as told, or as learned */
    double kv_factor;       /* on the capacity that was told; 0: 1 */
    struct fit fit;
    struct engine_stats {
        bool has_running, has_waiting, has_kv_tokens, has_kv_used;
        uint32_t running, waiting;
        uint64_t kv_tokens, kv_used_tokens, at_ns; /* at_ns 0: never heard */
    } stats;
    bool kv_events;       /* it has sent some */
    uint64_t kv_resident; /* tokens stored - removed, by them */
    /* What runs here, whoever placed it; load.c keeps them: */
    double q_seconds;    /* prefills dispatched without a first byte; rounding leaves a trace */
    uint64_t q_tokens;   /* of these: tokens that were not cached */
    double x_tokens;     /* prompts and expected outputs of running requests */
    double x_prefilling; /* of these: of requests without a first byte */
    uint32_t prefilling; /* running requests without a first byte */
    uint32_t workflows;  /* with requests in flight; each request without one counts as one */
    uint64_t claims;     /* blocks of live workflows, in 1/1024 */
};

struct fleet;

/* KV capacity in tokens: as told, and as corrected by what was learned. */
uint64_t engine_told_capacity(const struct engine *e);
uint64_t engine_capacity(const struct engine *e);
double engine_ratio(const struct fleet *f, const struct engine *e); /* bytes per token there */
/* q_seconds without the trace: for people. */
double engine_queue_s(const struct engine *e);
/* Seconds to prefill u uncached tokens of a prompt of n. */
double engine_prefill_s(const struct engine *e, double u, double n);

/* The engines, what they serve, and the sets that placement picks from. */
struct fleet {
    struct engine engines[ENGINES_MAX];
    struct engine_set used, alive, draining, unknown; /* unknown: models not known yet */
    struct model models[MODELS_MAX + 1];              /* the last: any model nobody named */
    struct table model_index;
    uint64_t deaths;
    double ratio_start;
};

void fleet_init(struct fleet *f, double ratio); /* ratio: of models nobody has used yet */
void fleet_fini(struct fleet *f);
/* ERR_INVALID: index or id out of range. */
enum err fleet_set(struct fleet *f, const struct engine_event *ev);
enum err fleet_models(struct fleet *f, const struct engine_event *ev);
void fleet_remove(struct fleet *f, struct engine *e);
/* Whether health changed. A failed probe counts; probe_failures in a row, or the very first, mean
 * dead. */
bool engine_probe(struct fleet *f, struct engine *e, bool ok, uint32_t probe_failures);
struct engine *fleet_find(struct fleet *f, uint32_t index, uint32_t generation); /* or NULL */
struct model *fleet_model(struct fleet *f, struct text name); /* NULL: nobody serves it */
struct model *fleet_any_model(struct fleet *f);

#endif
