/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_TURN_H
#define SCHED_TURN_H

#include "scheduler/engine.h"

/*
 * Ties between engines rotate: the n-th request of a model begins with member n mod count of the
 * set, and looks at the others in ascending order, round the end; of equal ones the first wins.
 *
 *   turn_for(i, model, &set) { ... the body may not change the set ... }
 */
static inline uint32_t set_count(const struct engine_set *s)
{
    return (uint32_t)(__builtin_popcountll(s->w[0]) + __builtin_popcountll(s->w[1]) +
                      __builtin_popcountll(s->w[2]) + __builtin_popcountll(s->w[3]));
}

/* Its n-th member, from 0; ENGINE_NONE when it has fewer. */
static inline uint32_t set_nth(const struct engine_set *s, uint32_t n)
{
    set_for(i, s) if (n-- == 0) return i;
    return ENGINE_NONE;
}

/* The member behind i, round the end. The set is not empty. */
static inline uint32_t set_after(const struct engine_set *s, uint32_t i)
{
    uint32_t next = set_next(s, i + 1);

    return next != ENGINE_NONE ? next : set_next(s, 0);
}

static inline uint32_t turn_first(const struct model *m, const struct engine_set *s)
{
    uint32_t n = set_count(s);

    return n > 0 ? set_nth(s, (uint32_t)(m->dispatches % n)) : ENGINE_NONE;
}

#define turn_for(i, model, set)                                                            \
    for (uint32_t i = turn_first((model), (set)), i##_left = set_count(set); i##_left > 0; \
         i##_left--, i = set_after((set), i))

#endif
