/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_HASH_RING_H
#define SCHED_HASH_RING_H

#include "scheduler/engine.h"

/*
 * The consistent hash ring of uhashring's default ("meta") implementation, versions 2.3 and 2.4, as
 * production-stack's session routing uses it: RING_POINTS points a node, each the MD5 of
 * "<name>-<i>" as a number; a key belongs to the first point strictly above its own MD5, round the
 * end. The ring holds every engine of the fleet and a lookup passes over those that are not asked
 * for, which gives what a ring of only those gives. Zeroed is a valid empty one.
 */
#define RING_POINTS 160u

struct hash_ring {
    struct ring_point *points; /* ascending */
    uint32_t count, cap;
    struct engine_set nodes;
    uint32_t generation[ENGINES_MAX]; /* of each node, when its points were made */
};

void ring_fini(struct hash_ring *r);
/* Makes it hold the fleet's engines; O(1) per engine of set unless one of them is new. Allocates
 * only then. */
void ring_sync(struct hash_ring *r, const struct fleet *f, const struct engine_set *set);
/* A member of set, which must not be empty and all in the ring. O(log points), then one step for
 * each point that is passed over. */
uint32_t ring_find(const struct hash_ring *r, const void *key, size_t len,
                   const struct engine_set *set);

#endif
