/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_PREFIX_H
#define SCHED_PREFIX_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Which engine holds which prefix, and which blocks are a workflow's.
 *
 * Blocks are named by chained digests: an equal digest is an equal text from the start to there.
 * A prompt is an array of them. Three views of each engine stand side by side, and prefix_match()
 * counts a block that is in any of them: the list that the router keeps (least recently used,
 * bounded), the content that the engine tells (stored, removed), and the prompts of dispatched
 * requests (pinned). Footprints are sets of blocks per workflow and engine.
 *
 * All of it is exact per block, whatever the order of calls. Where a digest is equal, those before
 * it are taken for equal unseen; digests that are not chained, as strangers may send them, give
 * hits without a meaning and do no harm.
 *
 * Engines are indices below ENGINES_MAX. One thread. Memory grows to the most that was ever held
 * at once, is used again, and goes back in prefix_free().
 */
struct engine_set;
struct prefix;

struct prefix_hit {
    uint32_t blocks;
    uint32_t gen_tokens; /* of an answer that stands right behind them */
};

/* A workflow's footprint. Zeroed is a valid empty one; foot_clear() before its memory goes. */
struct foot {
    uint32_t parts; /* one per engine */
    uint64_t total; /* blocks, summed over engines */
};

struct prefix_stats {
    uint64_t blocks; /* distinct ones */
    uint64_t runs;   /* of consecutive blocks that the same engines and workflows hold */
    uint64_t bytes;  /* memory, spare room included */
    uint64_t pins;
    uint64_t unknown_parents; /* calls of prefix_stored() that were ignored, ever */
};

/* The seed keeps strangers from choosing digests that collide: random, fixed in simulations. */
struct prefix *prefix_new(uint64_t hash_seed);
void prefix_free(struct prefix *p); /* NULL is fine */
/* Takes memory for so many distinct blocks at once: growing on the way copies it all, which takes
 * milliseconds where there are hundreds of thousands. */
void prefix_reserve(struct prefix *p, uint64_t blocks);

/*
 * A prompt is going to be looked for, n > 0. What that takes comes into the processor's cache in
 * steps, 0 to 2, as memory answers: a caller with other work takes them between its parts.
 */
void prefix_expect(const struct prefix *p, const uint64_t *d, uint32_t n, uint32_t step);

/* The longest held prefix per engine of who; hits has ENGINES_MAX entries, those of other engines
 * become zero. Returns the most blocks. */
uint32_t prefix_match(const struct prefix *p, const uint64_t *d, uint32_t n,
                      const struct engine_set *who, struct prefix_hit *hits);

/* The router's own list. now never goes back; any unit. Within one call the tail counts as older
 * than the head. */
/* New blocks become the most recent; known ones stay where they are in the order. */
void prefix_enter(struct prefix *p, uint32_t engine, const uint64_t *d, uint32_t n, uint64_t now);
/* All become the most recent, missing ones enter. */
void prefix_refresh(struct prefix *p, uint32_t engine, const uint64_t *d, uint32_t n, uint64_t now);
/* Of a prompt the blocks from, from + 1 ... n - 1 leave the list. */
void prefix_leave(struct prefix *p, uint32_t engine, const uint64_t *d, uint32_t from, uint32_t n);
/* The last use of block n - 1; 0: not in the list, or n is 0. */
uint64_t prefix_stamp(const struct prefix *p, uint32_t engine, const uint64_t *d, uint32_t n);
/* Drops the least recently used until at most so many blocks are left; those that are pinned go
 * last. Returns whether any had to go. */
bool prefix_bound(struct prefix *p, uint32_t engine, uint64_t blocks);
/* The longest prefix that is in the list or pinned, whatever the engine tells. */
struct prefix_hit prefix_listed(const struct prefix *p, uint32_t engine, const uint64_t *d,
                                uint32_t n);
/* Drops all that was last used before stamp. */
void prefix_drop_older(struct prefix *p, uint32_t engine, uint64_t stamp);
/* Length of the list. */
uint64_t prefix_blocks(const struct prefix *p, uint32_t engine);

/* The answer to this prompt stands behind it there (any view), until a later one of the same run
 * of blocks, or until block n - 1 goes. */
void prefix_output(struct prefix *p, uint32_t engine, const uint64_t *d, uint32_t n,
                   uint32_t gen_tokens);

/* What the engine tells. A parent that nobody holds (0: none, a first block): ignored, counted. */
void prefix_stored(struct prefix *p, uint32_t engine, uint64_t parent, const uint64_t *ids,
                   uint32_t n);
void prefix_removed(struct prefix *p, uint32_t engine, const uint64_t *ids, uint32_t n);
/* Whether the engine told so of this block. */
bool prefix_is_told(const struct prefix *p, uint32_t engine, uint64_t digest);
uint64_t prefix_told(const struct prefix *p, uint32_t engine); /* blocks stored and not removed */

/* Empties the list and what the engine told; pins stay until they are taken off. */
void prefix_clear(struct prefix *p, uint32_t engine);

/* Counts the prompt as held there until prefix_unpin(), which may be called in any order, after
 * prefix_clear() too, and ignores 0 and handles that are no longer valid. Never returns 0. */
uint64_t prefix_pin(struct prefix *p, uint32_t engine, const uint64_t *d, uint32_t n);
void prefix_unpin(struct prefix *p, uint64_t pin);

/* Returns how many of the blocks are new there. */
uint32_t foot_add(struct prefix *p, struct foot *f, uint32_t engine, const uint64_t *d, uint32_t n);
/* The longest prefix that is on any one engine. */
uint32_t foot_known(const struct prefix *p, const struct foot *f, const uint64_t *d, uint32_t n);
uint32_t foot_blocks(const struct prefix *p, const struct foot *f, uint32_t engine);
uint64_t foot_total(const struct foot *f);
void foot_drop(struct prefix *p, struct foot *f, uint32_t engine);
void foot_clear(struct prefix *p, struct foot *f);

void prefix_stats_get(const struct prefix *p, struct prefix_stats *out);
/* Every invariant, the slow way; for tests. Stops the process when one is broken. */
void prefix_check(const struct prefix *p);

#endif
