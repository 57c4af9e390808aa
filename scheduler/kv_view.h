/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_KV_VIEW_H
#define SCHED_KV_VIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "scheduler/kv_decode.h"

/*
 * What one publisher (an engine, or one data-parallel rank of it) holds, by its events. Pure.
 *
 * The view is *complete* when it began with an empty cache: the first batch ever, a clear, or a
 * restart. One that began in the middle misses the blocks from before; they leave the engine sooner
 * or later, so it counts as complete again once KV_TURNOVER removals in a row named blocks that it
 * knew. Only what a complete view says is a bound of the cache.
 *
 * Batches are numbered. A publisher drops them silently, repeats them in replays, and begins anew
 * when it restarts. Its clock in each batch tells a repeated batch from that of a successor.
 */
#define KV_TURNOVER 256u
#define KV_VIEW_MAX (8u << 20) /* blocks; more is no cache */

struct kv_slot {
    uint64_t hash;
    uint32_t tokens; /* 0: free */
};

struct kv_view {
    struct kv_slot *slots; /* open addressing */
    uint32_t mask, blocks;
    uint64_t tokens;         /* of all blocks */
    bool complete, whole;    /* whole: it began with an empty cache, nothing is missing */
    uint32_t known_removals; /* in a row */
    int32_t group;           /* of layers, that the view follows; -1: no event has named one */

    bool any; /* batches were taken: */
    uint64_t last;
    double last_ts;
    bool live_any; /* not only from a replay: */
    uint64_t live_last;
};

struct kv_delta { /* what a batch changed: first cleared, then the rest */
    bool cleared;
    uint64_t stored_tokens, removed_tokens;
    uint32_t stored_blocks, removed_blocks;
    uint32_t ignored; /* events of other media, groups and shapes */
    bool overflow;    /* more than KV_VIEW_MAX blocks: the view is empty and incomplete */
};

enum kv_step {
    KV_STEP_TAKE,   /* the next one */
    KV_STEP_REPEAT, /* seen before */
    KV_STEP_GAP,    /* batches are missing before it */
    KV_STEP_RESTART /* the publisher is another one than before */
};

void kv_view_init(struct kv_view *v); /* empty, not complete, no batch yet */
void kv_view_fini(struct kv_view *v);
/* Forgets all blocks; the numbers, too, unless they go on. */
void kv_view_clear(struct kv_view *v, bool complete, bool goes_on);

/* What a batch with this number is. Changes nothing. */
enum kv_step kv_view_step(const struct kv_view *v, uint64_t seq, double ts, bool live);
/* The batch has been taken, whatever it was good for. */
void kv_view_took(struct kv_view *v, uint64_t seq, double ts, bool live);
/* Takes a batch's records of the engine's own medium. */
void kv_view_apply(struct kv_view *v, const struct kv_batch *batch, struct kv_delta *out);

#endif
