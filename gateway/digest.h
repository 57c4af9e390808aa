/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_DIGEST_H
#define GW_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway/inspect.h"

/*
 * Prompt digests: the raw JSON bytes of tools, then system, then each element of messages / input /
 * prompt, without what lies between elements and without cache_control members, cut into 512-byte
 * blocks that ignore message borders; d[i] = XXH3_64bits_withSeed(block i, d[i-1]), d[-1] = the
 * chain's start. A growing conversation's byte prefix gives a prefix of digests. Pure, resumable.
 */
#define DIGEST_BLOCK 512u
#define DIGEST_MAX 4096u

struct digest_key {                           /* what keeps chains of different caches apart */
    uint64_t seed;                            /* of the installation */
    const char *model, *lora, *salt, *tenant; /* NULL = none; salt: cache_salt */
};

struct digest {
    uint64_t *blocks; /* DIGEST_MAX at most, allocated as needed, kept from run to run */
    uint32_t count, cap;
    uint32_t tail_bytes; /* length of the last, partial block, 0..511 */
    uint64_t bytes;      /* of the whole digest stream, also beyond DIGEST_MAX blocks */

    const struct inspection *in; /* state of the pass */
    uint64_t chain;
    uint32_t part, at, skip;
    size_t held;
    char block[DIGEST_BLOCK];
};

void digest_start(struct digest *d, const struct inspection *in, const struct digest_key *key);
bool digest_run(struct digest *d, size_t budget); /* true: done */
void digest_fini(struct digest *d);

#endif
