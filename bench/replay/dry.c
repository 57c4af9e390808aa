/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/replay/dry.h"

#include <stdlib.h>
#include <string.h>

#include "bench/replay/blocks.h"
#include "bench/replay/perfect.h"
#include "common/must.h"

/* Prompt tokens of call that the trace has already seen; then call is seen. */
static uint64_t told_hit(const struct blocks *b, const struct trace *t, uint32_t call, bool *seen)
{
    uint32_t full = blocks_of_prompt(b, t, call), hit = 0;

    while (hit < full && seen[b->ids[call][hit]])
        hit++;
    for (uint32_t i = 0; i < b->counts[call]; i++)
        seen[b->ids[call][i]] = true;
    return (uint64_t)hit * t->block;
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
    bool *seen;
    double in = 0, made = 0, said = 0, hit = 0;

    blocks_init(&blocks, t);
    seen = calloc((size_t)blocks.total + 1, sizeof(*seen));
    must(seen != NULL);
    perfect_init(&cache);
    memset(out, 0, sizeof(*out));
    for (uint32_t i = 0; i < t->call_count; i++) {
        uint64_t told, got;
        uint32_t off;

        if (!sel->keep[i])
            continue;
        told = told_hit(&blocks, t, i, seen);
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
    free(seen);
    blocks_fini(&blocks, t);
}
