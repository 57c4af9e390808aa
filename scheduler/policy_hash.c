/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "common/must.h"
#include "scheduler/hash_ring.h"
#include "scheduler/state.h"
#include "scheduler/turn.h"

/* Policies that look at names or dice, not at engines. */

/* ---- random ---- */

struct dice {
    uint64_t at;
};

static void *dice_start(struct core *c, const struct policy_spec *spec)
{
    struct dice *d = calloc(1, sizeof(*d));

    (void)c;
    must(d != NULL);
    d->at = table_mix((uint64_t)spec_number(spec, "seed") + 1);
    return d;
}

uint64_t dice_next(uint64_t *at)
{
    *at += UINT64_C(0x9e3779b97f4a7c15);
    return table_mix(*at);
}

struct engine *random_pick(struct core *c, uint64_t *at, const struct engine_set *set)
{
    uint32_t n = set_count(set);

    must(n > 0);
    return &c->fleet.engines[set_nth(set, (uint32_t)((dice_next(at) >> 32) * n >> 32))];
}

static bool random_place(struct core *c, const struct ask *ask, struct choice *out)
{
    struct dice *d = ask->state;

    *out = (struct choice){random_pick(c, &d->at, &ask->may), REASON_RANDOM};
    return true;
}

const struct policy policy_random = {
    .name = "random", .place = random_place, .start = dice_start, .stop = plain_stop};

/* ---- wfhash ---- */

/* Highest random weight: when an engine comes or goes, only the workflows of that engine move. */
static bool wfhash_place(struct core *c, const struct ask *ask, struct choice *out)
{
    uint64_t most = 0;

    if (ask->workflow == NULL) {
        *out = (struct choice){least_pick(c, ask->model, ask->may), REASON_LEAST};
        return true;
    }
    *out = (struct choice){.reason = REASON_HASH};
    set_for(i, &ask->may)
    {
        struct engine *e = &c->fleet.engines[i];
        uint64_t weight = table_mix(ask->workflow->key_lo ^ e->id_hash);

        if (out->engine == NULL || weight > most) {
            out->engine = e;
            most = weight;
        }
    }
    return true;
}

const struct policy policy_wfhash = {
    .name = "wfhash", .place = wfhash_place, .placed = home_placed};

/* ---- session ---- */

struct session {
    struct hash_ring ring;
    bool by_agent;
};

static void *session_start(struct core *c, const struct policy_spec *spec)
{
    struct session *s = calloc(1, sizeof(*s));

    (void)c;
    must(s != NULL);
    s->by_agent = strcmp(spec_str(spec, "key", "workflow"), "agent") == 0;
    return s;
}

static void session_stop(struct core *c, void *state)
{
    struct session *s = state;

    (void)c;
    ring_fini(&s->ring);
    free(s);
}

static bool session_place(struct core *c, const struct ask *ask, struct choice *out)
{
    struct session *s = ask->state;
    struct text key = s->by_agent ? ask->query->agent : ask->query->workflow;

    if (key.len == 0) {
        *out = (struct choice){least_pick(c, ask->model, ask->may), REASON_LEAST};
        return true;
    }
    ring_sync(&s->ring, &c->fleet, &ask->may);
    *out = (struct choice){&c->fleet.engines[ring_find(&s->ring, key.p, key.len, &ask->may)],
                           REASON_HASH};
    return true;
}

const struct policy policy_session = {.name = "session",
                                      .place = session_place,
                                      .start = session_start,
                                      .stop = session_stop,
                                      .placed = home_placed};
