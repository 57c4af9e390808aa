/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/marks.h"

#include <string.h>

#include "scheduler/core.h"

static bool end_matches(const struct mark_end *e, const struct query *q)
{
    return e->blocks != 0 && e->blocks <= q->digest_count && q->digests[e->blocks - 1] == e->digest;
}

static bool step_has(const struct mark_step *s, uint32_t engine)
{
    for (unsigned i = 0; i < s->engine_count; i++)
        if (s->engines[i] == engine)
            return true;
    return false;
}

void marks_look(const struct marks *m, const struct mark_ends *ends, uint16_t agent,
                const struct query *q, uint32_t engine, struct mark_view *out)
{
    unsigned i, way;

    *out = (struct mark_view){0};
    for (i = 0; i < MARK_ENDS; i++) {
        const struct mark_end *e = &ends->ends[i];

        if (!end_matches(e, q))
            continue;
        if (e->blocks > out->anywhere)
            out->anywhere = e->blocks;
        if (e->engine == engine && e->blocks > out->here) {
            out->here = e->blocks;
            out->gen_tokens = e->gen_tokens;
        }
    }
    for (i = 0; i < MARK_STEPS && 1u << i <= q->digest_count; i++) {
        for (way = 0; way < MARK_WAYS; way++) {
            const struct mark_step *s = &m->steps[i][way];

            if (s->digest == 0 || s->digest != q->digests[(1u << i) - 1])
                continue;
            if (1u << i > out->anywhere)
                out->anywhere = 1u << i;
            if (s->shared || s->agent != agent)
                out->sibling = 1u << i;
            if (1u << i > out->here && step_has(s, engine)) {
                out->here = 1u << i;
                out->gen_tokens = 0;
            }
        }
    }
}

static void end_note(struct mark_ends *ends, const struct query *q, uint32_t engine)
{
    struct mark_end fresh = {.digest = q->digests[q->digest_count - 1],
                             .blocks = (uint16_t)q->digest_count,
                             .engine = (uint8_t)engine};
    unsigned i;

    /* A conversation that grew replaces its own end, else the oldest one goes. */
    for (i = 0; i < MARK_ENDS - 1; i++)
        if (end_matches(&ends->ends[i], q))
            break;
    memmove(&ends->ends[1], &ends->ends[0], i * sizeof(fresh));
    ends->ends[0] = fresh;
}

static void step_note(struct mark_step ways[MARK_WAYS], uint64_t digest, uint16_t agent,
                      uint32_t engine)
{
    struct mark_step fresh = {.digest = digest, .agent = agent};
    unsigned way;

    for (way = 0; way < MARK_WAYS; way++)
        if (ways[way].digest == digest)
            break;
    if (way < MARK_WAYS) {
        fresh = ways[way];
        fresh.shared |= fresh.agent != agent;
    } else {
        way = MARK_WAYS - 1;
    }
    if (!step_has(&fresh, engine)) {
        if (fresh.engine_count == MARK_HOLDERS) {
            memmove(&fresh.engines[0], &fresh.engines[1], MARK_HOLDERS - 1);
            fresh.engine_count--;
        }
        fresh.engines[fresh.engine_count++] = (uint8_t)engine;
    }
    memmove(&ways[1], &ways[0], way * sizeof(fresh));
    ways[0] = fresh;
}

void marks_note(struct marks *m, struct mark_ends *ends, uint16_t agent, const struct query *q,
                uint32_t engine)
{
    unsigned i;

    if (q->digest_count == 0)
        return;
    end_note(ends, q, engine);
    for (i = 0; i < MARK_STEPS && 1u << i <= q->digest_count; i++)
        if (q->digests[(1u << i) - 1] != 0)
            step_note(m->steps[i], q->digests[(1u << i) - 1], agent, engine);
}

void marks_answered(struct mark_ends *ends, uint64_t digest, uint32_t gen_tokens)
{
    for (unsigned i = 0; i < MARK_ENDS; i++)
        if (ends->ends[i].blocks != 0 && ends->ends[i].digest == digest)
            ends->ends[i].gen_tokens = gen_tokens;
}

void marks_failed(struct mark_ends *ends, uint64_t digest)
{
    for (unsigned i = 0; i < MARK_ENDS; i++)
        if (ends->ends[i].blocks != 0 && ends->ends[i].digest == digest)
            ends->ends[i].blocks = 0;
}

void mark_ends_drop_engine(struct mark_ends *ends, uint32_t engine)
{
    for (unsigned i = 0; i < MARK_ENDS; i++)
        if (ends->ends[i].engine == engine)
            ends->ends[i].blocks = 0;
}

void marks_drop_engine(struct marks *m, uint32_t engine)
{
    for (unsigned i = 0; i < MARK_STEPS * MARK_WAYS; i++) {
        struct mark_step *s = &m->steps[i / MARK_WAYS][i % MARK_WAYS];
        uint8_t kept = 0;

        for (unsigned j = 0; j < s->engine_count; j++)
            if (s->engines[j] != engine)
                s->engines[kept++] = s->engines[j];
        s->engine_count = kept;
    }
}
