/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/replay/dry.h"

#include <stdlib.h>
#include <string.h>

#include "bench/replay/perfect.h"
#include "common/must.h"

/* The trace's own blocks: who brought block i of call c, as an index into ids. */
struct blocks {
    uint32_t **ids; /* per call */
    uint32_t *counts;
    uint32_t next;
    bool *seen;
};

static void blocks_add(struct blocks *b, const struct trace *t, uint32_t call)
{
    const struct trace_call *c = &t->calls[call];
    uint32_t n = (c->in + c->out) / t->block, from = 0;

    b->ids[call] = calloc((size_t)n + 1, sizeof(**b->ids));
    must(b->ids[call] != NULL);
    b->counts[call] = n;
    if (c->ref >= 0) {
        from = c->shared < b->counts[c->ref] ? c->shared : b->counts[c->ref];
        from = from < n ? from : n;
        memcpy(b->ids[call], b->ids[c->ref], from * sizeof(**b->ids));
    }
    for (uint32_t i = from; i < n; i++)
        b->ids[call][i] = b->next++;
}

/* Prompt tokens of call that the trace has already seen; then call is seen. */
static uint64_t blocks_hit(struct blocks *b, const struct trace *t, uint32_t call)
{
    uint32_t full = t->calls[call].in / t->block, hit = 0;

    full = full < b->counts[call] ? full : b->counts[call];
    while (hit < full && b->seen[b->ids[call][hit]])
        hit++;
    for (uint32_t i = 0; i < b->counts[call]; i++)
        b->seen[b->ids[call][i]] = true;
    return (uint64_t)hit * t->block;
}

static void blocks_init(struct blocks *b, const struct trace *t)
{
    size_t all = 1;

    b->ids = calloc(t->call_count + 1, sizeof(*b->ids));
    b->counts = calloc(t->call_count + 1, sizeof(*b->counts));
    b->next = 0;
    for (uint32_t i = 0; i < t->call_count; i++)
        all += (t->calls[i].in + t->calls[i].out) / t->block;
    b->seen = calloc(all, sizeof(*b->seen));
    must(b->ids != NULL && b->counts != NULL && b->seen != NULL);
    for (uint32_t i = 0; i < t->call_count; i++)
        blocks_add(b, t, i);
}

static void blocks_fini(struct blocks *b, const struct trace *t)
{
    for (size_t i = 0; i < t->call_count; i++)
        free(b->ids[i]);
    free(b->ids);
    free(b->counts);
    free(b->seen);
}

static uint64_t text_hit(const struct plans *p, uint32_t call, struct perfect *cache)
{
    uint32_t out = p->trace->calls[call].out, prompt = p->of[call].prompt_tokens;
    uint32_t *tokens = prompt_tokens_of(p, call, NULL), *answer = calloc(out, sizeof(*answer));
    struct chain c = {0};
    uint64_t hit;

    must(answer != NULL);
    chain_add(&c, tokens, prompt);
    hit = perfect_match(cache, &c) * PERFECT_BLOCK;
    prompt_output(p, call, NULL, out, (char *)answer);
    chain_add(&c, answer, out);
    perfect_learn(cache, &c);
    chain_fini(&c);
    free(tokens);
    free(answer);
    return hit < prompt ? hit : prompt;
}

void dry_run(const struct plans *p, const struct selection *sel, struct dry *out)
{
    const struct trace *t = p->trace;
    struct blocks blocks;
    struct perfect cache;
    double in = 0, made = 0, said = 0, hit = 0;

    blocks_init(&blocks, t);
    perfect_init(&cache);
    memset(out, 0, sizeof(*out));
    for (uint32_t i = 0; i < t->call_count; i++) {
        uint64_t told, got;
        uint32_t off;

        if (!sel->keep[i])
            continue;
        told = blocks_hit(&blocks, t, i);
        got = text_hit(p, i, &cache);
        off = (uint32_t)(told > got ? told - got : got - told);
        if (off > out->worst_off)
            out->worst_off = off;
        in += t->calls[i].in;
        made += p->of[i].prompt_tokens;
        said += (double)told;
        hit += (double)got;
    }
    if (in > 0 && made > 0) {
        out->trace_hit = 100 * said / in;
        out->text_hit = 100 * hit / made;
        out->tokens_off = 100 * (made - in) / in;
    }
    perfect_fini(&cache);
    blocks_fini(&blocks, t);
}
