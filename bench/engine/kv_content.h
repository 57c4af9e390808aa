/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ENGINE_KV_CONTENT_H
#define ENGINE_KV_CONTENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Which prompt digests the resident blocks stand for. A text block is resident as long as the token
 * block is in which its last token lies: chains are prefix-closed. The first block that a digest
 * was found in keeps it. Pure; memory grows with the cache.
 */
struct kv_content;

struct kv_content *kv_content_new(void);
void kv_content_free(struct kv_content *c);
bool kv_content_add(struct kv_content *c, uint64_t digest, uint64_t block);   /* false: known */
bool kv_content_take(struct kv_content *c, uint64_t block, uint64_t *digest); /* false: no more */
size_t kv_content_count(const struct kv_content *c);

/* The token block that the text block i of a prompt ends in: tokens of the prompt are spread evenly
 * over its text. */
uint32_t kv_content_block(uint32_t i, uint32_t text_block, uint64_t text_bytes, uint32_t tokens,
                          uint32_t block_tokens);

#endif
