/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_CHAINS_H
#define SCHED_CHAINS_H

#include <stdint.h>

#include "common/list.h"

/*
 * Copies of prompt digests, for as long as a request runs or waits. Buffers come in powers of two
 * and are used again: what was needed once is there the next time.
 */
#define CHAIN_SIZES 20u /* 16, 32 ... digests; strangers send DIGESTS_MAX at most */

struct chains {
    struct list all;                /* every buffer */
    struct list spare[CHAIN_SIZES]; /* those nobody uses */
};

void chains_init(struct chains *cs);
void chains_fini(struct chains *cs);
/* NULL for none. Goes back by chain_drop(). */
uint64_t *chain_keep(struct chains *cs, const uint64_t *d, uint32_t n);
void chain_drop(struct chains *cs, uint64_t *chain); /* NULL is fine */

#endif
