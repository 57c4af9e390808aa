/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ENGINE_KV_ENCODE_H
#define ENGINE_KV_ENCODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * KV events as vLLM's publisher writes them: gathered while an engine step runs, packed as one
 * batch. Pure.
 */
enum kv_form {
    KV_FORM_ARRAY, /* vLLM before 0.24, SGLang */
    KV_FORM_MAP
};

struct kv_encode;
struct kv_encode *kv_encode_new(enum kv_form form, uint32_t block_tokens);
void kv_encode_free(struct kv_encode *k);

/* A block with its tokens; parent 0: it is the first of its chain. Neighbours share an event. */
void kv_encode_stored(struct kv_encode *k, uint64_t id, uint64_t parent, const uint32_t *tokens);
void kv_encode_removed(struct kv_encode *k, uint64_t id);
/* The same for prompt digests: content, not memory. */
void kv_encode_digest(struct kv_encode *k, uint64_t digest, uint64_t parent, bool stored);
void kv_encode_cleared(struct kv_encode *k);
/* Packs all that was gathered. The caller frees it; NULL: there is nothing. */
void *kv_encode_batch(struct kv_encode *k, double ts, size_t *len);

#endif
