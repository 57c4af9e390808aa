/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_MARKS_H
#define SCHED_MARKS_H

#include <stdbool.h>
#include <stdint.h>

struct query;

/*
 * What a workflow's prompts had in common, in half a kilobyte.
 *
 * Digests are chained, so one digest vouches for the whole text before it. Per agent the ends of
 * its last two conversations are kept with the engine that has them; per workflow, for each power
 * of two, the digest at that block of the two latest different prompts, with the engines that have
 * it and whether more than one agent sent it. So a growing conversation is recognised to its last
 * full block, and a prefix shared by siblings to within a factor of two from below.
 *
 * An estimate for receipts and metrics, never below what the texts share and blind to eviction.
 * What an engine really holds is the business of a prefix index.
 */
#define MARK_ENDS 2u
#define MARK_STEPS 13u /* 1, 2, 4 ... 4096 blocks */
#define MARK_WAYS 2u
#define MARK_HOLDERS 4u

struct mark_end {
    uint64_t digest;
    uint32_t gen_tokens; /* the engine's answer, which follows the prompt in its cache */
    uint16_t blocks;     /* 0: free */
    uint8_t engine;
    uint8_t reserved;
};

struct mark_step {
    uint64_t digest; /* 0: free */
    uint8_t engines[MARK_HOLDERS];
    uint8_t engine_count;
    bool shared;    /* sent by more than one agent */
    uint16_t agent; /* who sent it first */
};

struct marks { /* of a workflow */
    struct mark_step steps[MARK_STEPS][MARK_WAYS];
};

struct mark_ends { /* of an agent, the latest first */
    struct mark_end ends[MARK_ENDS];
};

struct mark_view { /* blocks of the prompt that were sent before */
    uint32_t anywhere, here, sibling;
    uint32_t gen_tokens; /* that follow them here */
};

/* Before marks_note() of the same request. */
void marks_look(const struct marks *m, const struct mark_ends *ends, uint16_t agent,
                const struct query *q, uint32_t engine, struct mark_view *out);
void marks_note(struct marks *m, struct mark_ends *ends, uint16_t agent, const struct query *q,
                uint32_t engine);
/* The request that ended with this digest was answered with so many tokens, or came to nothing. */
void marks_answered(struct mark_ends *ends, uint64_t digest, uint32_t gen_tokens);
void marks_failed(struct mark_ends *ends, uint64_t digest);
/* The engine's cache is gone. */
void marks_drop_engine(struct marks *m, uint32_t engine);
void mark_ends_drop_engine(struct mark_ends *ends, uint32_t engine);

#endif
