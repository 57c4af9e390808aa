/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_KV_DECODE_H
#define SCHED_KV_DECODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

/*
 * KV-cache events of vLLM and SGLang, as their ZeroMQ messages carry them: a batch of events in
 * MessagePack, as arrays (vLLM before 0.24, SGLang) or as maps (vLLM since). What newer releases
 * append is skipped. Pure; hostile input is refused before anything is allocated for it.
 */
#define KV_PAYLOAD_MAX (4u << 20) /* more than half a million new tokens in one step */
#define KV_BLOCK_MAX 65536u       /* tokens of a block */

enum kv_kind { KV_STORED, KV_REMOVED, KV_CLEARED };

enum kv_medium {
    KV_GPU,    /* the engine's own cache */
    KV_DIGEST, /* hashes are prompt digests: what simulated engines tell about content */
    KV_ELSEWHERE
};

struct kv_record {
    enum kv_kind kind;
    enum kv_medium medium;
    bool partial_view; /* stored by a group of layers that does not keep the whole context */
    bool has_parent;
    uint64_t parent;
    const uint64_t *hashes; /* the engine's own; of longer ones the last 8 bytes */
    uint32_t count;
    uint32_t token_count, block_size; /* KV_STORED */
    int32_t group;                    /* of layers; -1: not told */
};

struct kv_batch {
    double ts;    /* the publisher's clock */
    int64_t rank; /* data-parallel; -1: not told */
    const struct kv_record *events;
    size_t count, unknown; /* unknown: events of other types, left out */
};

struct kv_decoder; /* memory that is used again from batch to batch */
struct kv_decoder *kv_decoder_new(void);
void kv_decoder_free(struct kv_decoder *d); /* NULL is fine */

/* out points into d until the next call. ERR_INVALID: why says in words what is wrong; no part of
 * such a batch counts. */
enum err kv_decode(struct kv_decoder *d, const void *payload, size_t len, struct kv_batch *out,
                   const char **why);

#define KV_SEQ_END UINT64_MAX /* marks the end of a replay */
/* The number of a batch: 8 bytes, big-endian. False: it is none. */
bool kv_seq_read(const void *frame, size_t len, uint64_t *seq);
void kv_seq_write(uint64_t seq, unsigned char frame[8]);

#endif
