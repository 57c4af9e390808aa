/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ENGINE_CORE_H
#define ENGINE_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/list.h"

/*
 * A simulated inference engine: paged KV cache with prefix sharing, continuous batching, chunked
 * prefill, and a time model. Pure: no sockets, clock or threads, and no allocation after
 * engine_new() except that the waiting queue grows. Times are seconds on the caller's clock
 * ("model seconds"). One thread.
 *
 * Driving it:
 *
 *   engine_add(e, now, req);                              queue work at time now
 *   while ((n = engine_step(e, now, events, cap)) > 0)    step ends that are due, in order
 *       handle them; more engine_add() and engine_cancel() are welcome here
 *   sleep until engine_next_deadline(e)
 *
 * A step that starts after events were handed out starts at the scheduled end of the one before,
 * however late the caller is, so lateness never adds up; what was added in between takes part.
 */
struct engine_profile {
    const char *name, *help;
    double base, tok, attn, seq, kv, load; /* seconds; see profiles.def */
    uint64_t cache_tokens;
};

const struct engine_profile *engine_profile_find(const char *name); /* NULL: unknown */
/* The i-th row, NULL behind the last. */
const struct engine_profile *engine_profile_row(size_t i);

struct engine_req;

/* A block's content became resident, or left. */
struct engine_block {
    uint64_t id, parent; /* parent: the block before it in its chain; 0: none, or !stored */
    bool stored;
    bool host;                    /* in the second tier */
    uint32_t index;               /* which block of req; stored in the first tier only */
    const struct engine_req *req; /* whose prefill or output this is; else NULL */
};

struct engine_conf {
    struct engine_profile profile;
    uint64_t cache_tokens;  /* 0: the profile's */
    uint64_t host_tokens;   /* second tier, in host memory, LRU; what leaves the first goes there */
    uint32_t block_tokens;  /* 0: 16 */
    uint32_t budget_tokens; /* per step; 0: 8192 */
    uint32_t seqs_max;      /* running at once; 0: 256 */
    bool priority;          /* lower priority value first, then arrival; else arrival only */
    bool stream_tokens;     /* one step per token, each announced; else decode runs jump ahead */
    bool share_after;       /* a block can be hit only when its prefill has finished; default: as
                               soon as it is scheduled */
    /* Optional, called within any function that changes something: each block in and out of a
     * tier, in order; and each admission, when hits are known and nothing is computed yet. */
    void (*on_block)(void *arg, const struct engine_block *block);
    void (*on_admit)(void *arg, const struct engine_req *req);
    void *hook_arg;
};

/* Memory of the caller, untouched by it from engine_add() until its DONE event or engine_cancel().
 * Set the first part. */
struct engine_req {
    uint64_t handle;     /* the caller's; the core does not look at it */
    const uint64_t *ids; /* chained ids of full blocks of prompt + output; borrowed for as long */
    uint32_t np, n_ids;  /* how many belong to the prompt / in all */
    uint32_t nin, nout;  /* tokens; nout counts as 1 at least */
    int64_t priority;
    uint64_t order; /* of equals, the lower goes first; 0: set to the order of engine_add() */

    double arrived_s, admitted_s, first_s; /* filled as they happen */
    uint32_t hit_tokens;                   /* from admission on; at most nin - 1 */
    uint32_t hit_blocks, host_blocks;      /* all that hit; of them from host memory */
    /* private */
    enum { ENGINE_REQ_OUT, ENGINE_REQ_WAIT, ENGINE_REQ_PREFILL, ENGINE_REQ_DECODE } state;
    uint32_t need, reg, todo;
    int64_t key; /* priority while waiting, last tick while decoding */
    size_t pos;
    struct list link;
};

enum engine_event_kind {
    ENGINE_FIRST,  /* prefill finished: the first token */
    ENGINE_TOKENS, /* stream_tokens only: tokens more */
    ENGINE_DONE    /* all tokens out; the request is the caller's again */
};

struct engine_event {
    enum engine_event_kind kind;
    uint32_t tokens; /* FIRST: 1; TOKENS: new ones; DONE: in all */
    double at_s;     /* scheduled, not observed */
    struct engine_req *req;
};

struct engine_stats {
    uint32_t running, waiting;
    uint32_t blocks, blocks_held, blocks_cached; /* held includes what is reserved for outputs */
    uint64_t steps, requests, done, cancelled;
    uint64_t query_tokens, hit_tokens;  /* at admission */
    uint64_t computed_tokens;           /* prompt tokens that were really prefilled */
    uint64_t prompt_tokens, out_tokens; /* of requests whose prefill finished / tokens made */
    double busy_s;
};

struct engine;

struct engine *engine_new(const struct engine_conf *conf);
void engine_free(struct engine *e); /* requests still inside are forgotten */

/* ERR_TOO_LARGE: would never fit the cache. ERR_INVALID: no prompt, or more ids than tokens. */
enum err engine_add(struct engine *e, double now_s, struct engine_req *req);
/* Begins the next step if none runs. engine_step() does so too; calling this right after
 * engine_add() keeps what is added later at the same time out of that step. */
void engine_begin(struct engine *e);
/* At any moment; also for a request that is already out. Frees all it holds; what it had computed
 * stays cached. */
void engine_cancel(struct engine *e, double now_s, struct engine_req *req);
/* Finishes one step that is due, if any, and hands out its events; 0 = nothing more is due. cap is
 * engine_events_max() at least. */
size_t engine_step(struct engine *e, double now_s, struct engine_event *events, size_t cap);
size_t engine_events_max(const struct engine *e);
double engine_next_deadline(const struct engine *e); /* INFINITY: idle */

/* Drops one block from the first tier if no request holds it; whether it did. */
bool engine_forget(struct engine *e, uint64_t id);
/* In either tier. */
bool engine_has(const struct engine *e, uint64_t id);
/* Leading blocks of a chain that are resident. */
uint32_t engine_match(const struct engine *e, const uint64_t *ids, uint32_t n);
void engine_stats_get(const struct engine *e, struct engine_stats *out);
/* Evicts every block that no request holds, from both tiers, and zeroes the counters. */
void engine_reset(struct engine *e);

#endif
