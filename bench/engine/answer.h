/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ENGINE_ANSWER_H
#define ENGINE_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bench/engine/ask.h"
#include "common/buf.h"

/*
 * Answers in the shapes of vLLM's OpenAI and Anthropic endpoints. Every one says that it is
 * simulated. Pure.
 */
struct answer {
    enum ask_kind kind;
    const char *id;    /* "chatcmpl-..." */
    const char *model; /* as JSON, with quotes */
    uint64_t created_s;
    uint32_t prompt_tokens, cached_tokens, out_tokens;
    const char *text; /* out_tokens * 4 bytes, JSON-safe unless fixed */
    bool fixed;       /* the model "stopped" by itself; text needs escaping */
    const char *tool; /* forced tool, NULL or "" for none: text is its arguments */
    bool include_usage;
    uint32_t dimensions, inputs; /* embeddings */
    bool base64;
    uint64_t seed;
};

void answer_whole(const struct answer *a, struct buf *out);

/* A stream is begin, tokens (text from token `from` on, n of them), end. Complete SSE events. */
void answer_begin(const struct answer *a, struct buf *out);
void answer_tokens(const struct answer *a, uint32_t from, uint32_t n, struct buf *out);
void answer_end(const struct answer *a, struct buf *out);

void answer_refusal(const struct ask_error *e, bool anthropic, struct buf *out);

#endif
