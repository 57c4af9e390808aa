/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdlib.h>

#include "common/must.h"
#include "scheduler/prefix.h"
#include "scheduler/state.h"
#include "scheduler/turn.h"

/*
 * Policies with an index of their own, kept as those do it whose rules they are: they write down
 * which engine each prompt went to, and never hear what became of it there. Where they would grow
 * without bound, ours are bounded, far beyond what an engine can hold.
 *
 * Unlike theirs, an engine that died or was replaced starts with an empty index.
 */

/* ---- sglang ---- */

struct sglang {
    struct prefix *index;
    double idx, threshold, absolute, relative;
};

static void *sglang_start(struct core *c, const struct policy_spec *spec)
{
    struct sglang *s = calloc(1, sizeof(*s));

    must(s != NULL);
    *s = (struct sglang){.index = prefix_new(c->conf.hash_seed),
                         .idx = spec_number(spec, "idx"),
                         .threshold = spec_number(spec, "thr"),
                         .absolute = spec_number(spec, "abs"),
                         .relative = spec_number(spec, "rel")};
    return s;
}

static void sglang_stop(struct core *c, void *state)
{
    struct sglang *s = state;

    (void)c;
    prefix_free(s->index);
    free(s);
}

static bool is_imbalanced(const struct core *c, const struct sglang *s,
                          const struct engine_set *set)
{
    uint32_t most = 0, least = UINT32_MAX;

    set_for(i, set)
    {
        uint32_t n = c->fleet.engines[i].running;

        most = n > most ? n : most;
        least = n < least ? n : least;
    }
    return most - least > s->absolute && most > s->relative * least;
}

/* The most blocks of the prompt, then the fewest requests. */
static struct engine *best_match(struct core *c, const struct ask *ask,
                                 const struct prefix_hit *hits)
{
    struct engine *best = NULL;

    set_for(i, &ask->may)
    {
        struct engine *e = &c->fleet.engines[i];

        if (best == NULL || hits[i].blocks > hits[best->index].blocks ||
            (hits[i].blocks == hits[best->index].blocks && e->running < best->running))
            best = e;
    }
    return best;
}

static struct engine *smallest_index(struct core *c, const struct prefix *index,
                                     const struct engine_set *set)
{
    struct engine *best = NULL;
    uint64_t least = 0;

    set_for(i, set)
    {
        struct engine *e = &c->fleet.engines[i];
        uint64_t blocks = prefix_blocks(index, i);

        if (best == NULL || blocks < least || (blocks == least && e->running < best->running)) {
            best = e;
            least = blocks;
        }
    }
    return best;
}

static void sglang_bound(const struct core *c, const struct sglang *s, const struct model *m,
                         const struct engine *e)
{
    double block_tokens = c->conf.text_block / m->ratio;

    prefix_bound(s->index, e->index,
                 (uint64_t)(s->idx * floor((double)engine_capacity(e) / block_tokens)));
}

static bool sglang_place(struct core *c, const struct ask *ask, struct choice *out)
{
    struct sglang *s = ask->state;
    const struct query *q = ask->query;

    if (is_imbalanced(c, s, &ask->may)) {
        *out = (struct choice){least_pick(c, ask->model, ask->may), REASON_BALANCE};
    } else {
        struct prefix_hit hits[ENGINES_MAX];

        prefix_match(s->index, q->digests, q->digest_count, &ask->may, hits);
        *out = (struct choice){best_match(c, ask, hits), REASON_CACHE};
        if (hits[out->engine->index].blocks <= s->threshold * q->digest_count)
            *out = (struct choice){smallest_index(c, s->index, &ask->may), REASON_SCORE};
    }
    prefix_refresh(s->index, out->engine->index, q->digests, q->digest_count + q->answer_digests,
                   c->now);
    sglang_bound(c, s, ask->model, out->engine);
    return true;
}

static void sglang_cleared(struct core *c, void *state, const struct engine *e)
{
    struct sglang *s = state;

    (void)c;
    prefix_clear(s->index, e->index);
}

const struct policy policy_sglang = {.name = "sglang",
                                     .place = sglang_place,
                                     .start = sglang_start,
                                     .stop = sglang_stop,
                                     .cleared = sglang_cleared};

/* ---- prefixaware ---- */

struct prefixaware {
    struct prefix *index;
    uint64_t blocks, dice;
};

static void *prefixaware_start(struct core *c, const struct policy_spec *spec)
{
    struct prefixaware *s = calloc(1, sizeof(*s));

    must(s != NULL);
    *s = (struct prefixaware){.index = prefix_new(c->conf.hash_seed),
                              .blocks = (uint64_t)spec_number(spec, "blocks"),
                              .dice = table_mix((uint64_t)spec_number(spec, "seed") + 1)};
    return s;
}

static void prefixaware_stop(struct core *c, void *state)
{
    struct prefixaware *s = state;

    (void)c;
    prefix_free(s->index);
    free(s);
}

/* Any of the engines that were sent the longest known prefix of it; any at all if there is none. */
static bool prefixaware_place(struct core *c, const struct ask *ask, struct choice *out)
{
    struct prefixaware *s = ask->state;
    const struct query *q = ask->query;
    struct prefix_hit hits[ENGINES_MAX];
    uint32_t most = prefix_match(s->index, q->digests, q->digest_count, &ask->may, hits);
    struct engine_set best = {{0}};

    set_for(i, &ask->may)
    {
        if (hits[i].blocks == most)
            set_add(&best, i);
    }
    *out =
        (struct choice){random_pick(c, &s->dice, &best), most > 0 ? REASON_CACHE : REASON_RANDOM};
    prefix_enter(s->index, out->engine->index, q->digests, q->digest_count, c->now);
    prefix_bound(s->index, out->engine->index, s->blocks / set_count(&c->fleet.used));
    return true;
}

static void prefixaware_cleared(struct core *c, void *state, const struct engine *e)
{
    struct prefixaware *s = state;

    (void)c;
    prefix_clear(s->index, e->index);
}

const struct policy policy_prefixaware = {.name = "prefixaware",
                                          .place = prefixaware_place,
                                          .start = prefixaware_start,
                                          .stop = prefixaware_stop,
                                          .cleared = prefixaware_cleared};
