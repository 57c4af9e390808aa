/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ENGINE_ASK_H
#define ENGINE_ASK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"

/*
 * What a request body asks for: one parser for all generation and token endpoints. Pure.
 */
enum ask_kind {
    ASK_COMPLETION, /* /v1/completions */
    ASK_CHAT,       /* /v1/chat/completions */
    ASK_MESSAGES,   /* /v1/messages, Anthropic's shape */
    ASK_EMBEDDING,  /* /v1/embeddings */
    ASK_TOKENIZE,   /* /tokenize and /v1/messages/count_tokens */
    ASK_DETOKENIZE
};

struct ask_limits {
    const char *const *models; /* names served, ended by NULL */
    uint32_t max_len;          /* prompt + output tokens */
    bool priority;             /* the engine takes priorities */
    bool lenient;              /* workflow_metadata is ignored, not refused */
};

struct ask_error {
    int status;
    const char *type, *param; /* param NULL: none */
    char message[256];
};

struct ask {
    enum ask_kind kind;
    bool stream, include_usage, base64;
    uint32_t max_tokens, dimensions;
    uint32_t inputs; /* embeddings: texts in the list, so vectors in the answer */
    int64_t priority;
    uint64_t root;     /* separates caches: model and cache_salt */
    struct buf model;  /* unescaped, one of limits->models */
    struct buf tokens; /* the prompt, text.h */
    /* A forced tool call or a JSON answer: the text to give instead of filler, a whole number of
     * tokens; then max_tokens is its length. */
    struct buf fixed;
    struct buf tool; /* name of the forced tool; empty: none */
};

/* Zeroed struct before; ask_fini in any case. */
bool ask_parse(struct ask *a, enum ask_kind kind, const char *body, size_t len,
               const struct ask_limits *limits, struct ask_error *error);
void ask_fini(struct ask *a);

#endif
