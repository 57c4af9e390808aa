/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_LATE_H
#define SCHED_LATE_H

#include <stdbool.h>
#include <stdint.h>

/*
 * How late an engine's KV events are.
 *
 * A first byte proves that the prompt is in its cache, an end that the answer is: the events that
 * say so should be there by then. One block at a time is awaited, and the greatest of the latest
 * delays counts. Zeroed is a valid start. Times in nanoseconds, of the core's clock.
 */
#define LATE_SEEN 8u

struct late {
    uint64_t awaited, since_ns; /* a block whose event is on its way; 0: none */
    uint64_t seen_ns[LATE_SEEN];
    uint32_t seen;
    uint64_t ns; /* the greatest */
};

/* The block has just been computed; told: its event was here before. */
void late_computed(struct late *l, uint64_t digest, bool told, uint64_t now);
/* The engine has stored these. */
void late_stored(struct late *l, const uint64_t *ids, uint32_t n, uint64_t now);

#endif
