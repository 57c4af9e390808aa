/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REPLAY_PROMPT_H
#define REPLAY_PROMPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bench/replay/trace.h"
#include "common/buf.h"

/*
 * From token counts to chat messages, so that what a trace says is shared is shared.
 *
 * Token model (that of the simulated engine): a message is a role marker, its content at 4 bytes a
 * token counted afresh, and an end marker; a prompt ends with the role marker of the answer to
 * come. So prompt + output of a call is a token prefix of any call that repeats its messages, and a
 * content that starts with the same bytes starts with the same tokens.
 *
 * A plan lists the pieces of a call's content. All calls that share a token have it at the same
 * position of their prompts, so a piece is named by the call that brought it (its owner) and the
 * position. A call that shares S tokens with `ref` repeats ref's pieces up to S and goes on with
 * one new piece: in the same message if that is a user's, else in a new one. Text made up by us is
 * a function of (trace, owner, position); output is what the engine answered, or, where that is
 * not known, also made up. Prompts have exactly the trace's length (a prompt under 4 tokens becomes
 * 4); the shared part is exact, but where less than a message's frame is left of a prompt, up to 5
 * tokens less.
 */
struct piece {
    uint32_t owner; /* call */
    uint32_t at;    /* position of its first token */
    uint32_t len;   /* tokens; never 0 */
    bool opens;     /* starts a message; else carries the last one on */
    bool made_up;   /* output that was not known when the call was settled */
    bool is_output; /* what the engine answered to owner */
};

struct plan {
    struct piece *pieces;
    uint32_t count;
    uint32_t prompt_tokens; /* markers included */
    uint32_t shared_tokens; /* with ref, markers included */
    bool settled;
};

struct plans {
    const struct trace *trace; /* borrowed */
    struct plan *of;           /* one per call */
    uint64_t seed;
};

/* What came back: one per call, empty while unknown. Decoded text. */
struct answers {
    struct buf *text;
    size_t count;
};

#define PROMPT_TOKEN_BYTES 4U
#define PROMPT_MIN 4U
enum {
    PROMPT_USER = 1,
    PROMPT_ASSISTANT = 2,
    PROMPT_END = 3
}; /* marker tokens; no text is as small */

/* For all calls of the trace, also those not replayed: others may share through them. seed makes
 * runs that must not share text differ. */
struct plans *plans_new(const struct trace *t, uint64_t seed);
void plans_free(struct plans *p);

/* Before a call is sent: fixes which outputs in its prompt are real and which made up, so that
 * calls which share through it later repeat what it said, also when the real output is known by
 * then. */
void prompt_settle(struct plans *p, uint32_t call, const struct answers *known);

/* Appends the JSON array of messages. */
void prompt_add_messages(const struct plans *p, uint32_t call, const struct answers *known,
                         struct buf *out);

/* The prompt as tokens, prompt_tokens of them; the caller frees. */
uint32_t *prompt_tokens_of(const struct plans *p, uint32_t call, const struct answers *known);

/* n tokens of output text as bytes, made up where `known` has none. dst holds 4 * n bytes. */
void prompt_output(const struct plans *p, uint32_t call, const struct answers *known, uint32_t n,
                   char *dst);

#endif
