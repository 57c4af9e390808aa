/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/replay/blocks.h"

#include <stdlib.h>
#include <string.h>

#include "common/must.h"

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
        b->ids[call][i] = b->total++;
}

void blocks_init(struct blocks *b, const struct trace *t)
{
    b->ids = calloc(t->call_count + 1, sizeof(*b->ids));
    b->counts = calloc(t->call_count + 1, sizeof(*b->counts));
    b->total = 0;
    must(b->ids != NULL && b->counts != NULL);
    for (uint32_t i = 0; i < t->call_count; i++)
        blocks_add(b, t, i);
}

void blocks_fini(struct blocks *b, const struct trace *t)
{
    for (size_t i = 0; i < t->call_count; i++)
        free(b->ids[i]);
    free(b->ids);
    free(b->counts);
}

uint32_t blocks_of_prompt(const struct blocks *b, const struct trace *t, uint32_t call)
{
    uint32_t full = t->calls[call].in / t->block;

    return full < b->counts[call] ? full : b->counts[call];
}
