/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_VIEW_H
#define SCHED_VIEW_H

#include "scheduler/policy.h"
#include "scheduler/late.h"
#include "scheduler/prefix.h"

/*
 * What we think each engine's cache holds.
 *
 * Where an engine's KV events tell content it is exact: those blocks, and the prompts of requests
 * on their way to their first byte. Else it is a list kept here, least recently used out first,
 * bounded to what the engine can hold: new blocks enter at dispatch, but known ones are refreshed
 * only at first byte and end, as the engine does when it admits a request; and where it reports
 * less cached tokens than were expected, what it must have dropped before those goes too.
 *
 * Events that come late tell of a cache as it was: seconds after a first byte has shown that a
 * prompt is there they say so, and seconds after it was dropped they still do not. Such an engine
 * is looked at by the list; until the list has been full once, what is told counts as well.
 */
struct view {
    struct prefix *prefix;
    struct late late[ENGINES_MAX];
    struct engine_set full; /* whose list had to drop blocks */
    /* Set by the policy when it opens: */
    bool approx; /* use the list even where content is known */
    bool eager;  /* refresh at dispatch instead of at the first byte, learn nothing */
    bool learn;  /* cached_tokens correct the list */
    bool trust;  /* KV events are in time, whatever is seen */
    bool spare;  /* what running requests use is not dropped */
    double idx;  /* the list's bound in capacities of the engine */
};

void view_init(struct view *v, uint64_t hash_seed);
void view_fini(struct view *v);
void view_reset(struct view *v); /* what holds unless the policy says otherwise */

bool view_is_exact(const struct core *c, const struct engine *e);
/* Fills what ask.cached and ask.cached_blocks point to, for the engines of set. */
void view_look(struct core *c, const struct ask *ask, const struct engine_set *set);

/* l->predicted and l->cached_tokens are set from what ask saw; the prompt is on its way. */
void view_dispatched(struct core *c, struct lease *l);
void view_first_byte(struct core *c, struct lease *l); /* acts once */
void view_left(struct core *c, struct lease *l);       /* its engine is gone */
void view_ended(struct core *c, struct lease *l, enum cause cause, const struct report_event *r);
void view_engine_lost(struct core *c, const struct engine *e);
void view_kv(struct core *c, enum event_type type, struct engine *e, const struct kv_event *ev);

#endif
