/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ENGINE_KV_FEED_H
#define ENGINE_KV_FEED_H

#include "bench/engine/ask.h"
#include "bench/engine/core.h"
#include "bench/engine/kv_encode.h"
#include "bench/engine/kv_pub.h"

/*
 * What the live engine tells of its cache: events of blocks, and with content the prompt digests
 * behind them, which a gateway with the same seed computes as well. One batch for each turn.
 */
struct kv_feed_conf {
    struct kv_pub_conf pub; /* events NULL: no feed */
    enum kv_form form;
    bool content;
    uint64_t digest_seed;
    double delay_ms; /* model time */
};

struct kv_prompt {    /* a request's; zeroed is a valid empty one */
    uint32_t *tokens; /* of prompt and output */
    uint64_t *digests;
    uint32_t digest_count;
    uint64_t bytes; /* of text */
};

struct kv_feed;
struct kv_feed *kv_feed_open(const struct kv_feed_conf *conf, uint32_t block_tokens,
                             double time_scale); /* NULL: errno tells */
void kv_feed_close(struct kv_feed *f);           /* NULL is fine */

/* text: tokens of prompt and output, bench/engine/text.h. */
void kv_feed_prompt(struct kv_feed *f, struct kv_prompt *p, enum ask_kind kind, const char *body,
                    size_t len, const char *model, const struct buf *text);
void kv_prompt_fini(struct kv_prompt *p);

/* A hook of the core; prompt: of block->req, where the block is stored. */
void kv_feed_block(struct kv_feed *f, const struct engine_block *block,
                   const struct kv_prompt *prompt);
/* The first so many blocks of req are resident. */
void kv_feed_content(struct kv_feed *f, const struct engine_req *req, uint32_t blocks,
                     const struct kv_prompt *prompt);
void kv_feed_flush(struct kv_feed *f);

#endif
