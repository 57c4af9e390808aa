/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/sim/sim_work.h"

#include <stdlib.h>
#include <string.h>

#include "common/must.h"

/* An odd factor and its inverse modulo 2^64: spreads numbers over all bits, and comes back. */
#define SPREAD UINT64_C(0x9e3779b97f4a7c15)
#define GATHER UINT64_C(0xf1de83e19937733d)

#define NOBODY UINT32_MAX
#define SEVERAL (UINT32_MAX - 1)

_Static_assert(SPREAD *GATHER == 1, "inverse of each other");

uint64_t sim_block_id(uint32_t block)
{
    return (block + UINT64_C(1)) * SPREAD;
}

uint32_t sim_block_of(uint64_t id)
{
    return (uint32_t)(id * GATHER - 1);
}

static int by_id(const void *a, const void *b)
{
    uint32_t x = ((const struct sim_workflow *)a)->id, y = ((const struct sim_workflow *)b)->id;

    return x < y ? -1 : x > y;
}

static void make_workflows(struct sim_work *w)
{
    const struct trace *t = w->trace;
    size_t n = 0;

    w->workflows = calloc(w->selection->kept + 1, sizeof(*w->workflows));
    w->workflow_of = calloc(t->call_count + 1, sizeof(*w->workflow_of));
    must(w->workflows != NULL && w->workflow_of != NULL);
    for (size_t i = 0; i < t->call_count; i++)
        if (w->selection->keep[i])
            w->workflows[n++].id = t->calls[i].workflow;
    qsort(w->workflows, n, sizeof(*w->workflows), by_id);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || w->workflows[i].id != w->workflows[w->workflow_count - 1].id)
            w->workflows[w->workflow_count++] = w->workflows[i];
    for (size_t i = 0; i < t->call_count; i++) {
        struct sim_workflow key = {.id = t->calls[i].workflow}, *found;

        if (!w->selection->keep[i])
            continue;
        found = bsearch(&key, w->workflows, w->workflow_count, sizeof(key), by_id);
        must(found != NULL);
        found->calls++;
        w->workflow_of[i] = (uint32_t)(found - w->workflows);
    }
}

static void make_ids(struct sim_work *w)
{
    w->ids = calloc(w->trace->call_count + 1, sizeof(*w->ids));
    must(w->ids != NULL);
    for (size_t i = 0; i < w->trace->call_count; i++) {
        if (!w->selection->keep[i])
            continue;
        w->ids[i] = calloc(w->blocks.counts[i] + 1U, sizeof(**w->ids));
        must(w->ids[i] != NULL);
        for (uint32_t k = 0; k < w->blocks.counts[i]; k++)
            w->ids[i][k] = sim_block_id(w->blocks.ids[i][k]);
    }
}

/* Calls of one workflow after another; the caller frees it. */
static uint32_t *calls_by_workflow(const struct sim_work *w)
{
    uint32_t *at = calloc(w->workflow_count + 1U, sizeof(*at)), sum = 0;
    uint32_t *calls = calloc(w->selection->kept + 1, sizeof(*calls));

    must(at != NULL && calls != NULL);
    for (uint32_t i = 0; i < w->workflow_count; i++) {
        at[i] = sum;
        sum += w->workflows[i].calls;
    }
    for (uint32_t i = 0; i < w->trace->call_count; i++)
        if (w->selection->keep[i])
            calls[at[w->workflow_of[i]]++] = i;
    free(at);
    return calls;
}

/* Adds the blocks of `call` that its workflow did not have yet; returns how many in all. */
static uint32_t take_blocks(struct sim_work *w, uint32_t call, uint32_t *last, uint32_t *owner,
                            uint32_t count)
{
    uint32_t self = w->workflow_of[call];

    for (uint32_t k = 0; k < w->blocks.counts[call]; k++) {
        uint32_t b = w->blocks.ids[call][k];

        if (last[b] == self)
            continue;
        last[b] = self;
        owner[b] = owner[b] == NOBODY ? self : SEVERAL;
        w->used[count++] = b;
    }
    return count;
}

static void make_uses(struct sim_work *w)
{
    uint32_t *calls = calls_by_workflow(w), next = 0, used = 0, own = 0;
    uint32_t *last = malloc((w->blocks.total + 1U) * sizeof(*last));
    uint32_t *owner = malloc((w->blocks.total + 1U) * sizeof(*owner));
    size_t room = 1;

    for (size_t i = 0; i < w->trace->call_count; i++)
        room += w->selection->keep[i] ? w->blocks.counts[i] : 0;
    w->used = calloc(room, sizeof(*w->used));
    w->own = calloc(w->blocks.total + 1U, sizeof(*w->own));
    must(last != NULL && owner != NULL && w->used != NULL && w->own != NULL);
    memset(last, 0xff, (w->blocks.total + 1U) * sizeof(*last));
    memset(owner, 0xff, (w->blocks.total + 1U) * sizeof(*owner));
    for (uint32_t i = 0; i < w->workflow_count; i++) {
        w->workflows[i].blocks_at = used;
        for (uint32_t k = 0; k < w->workflows[i].calls; k++)
            used = take_blocks(w, calls[next++], last, owner, used);
        w->workflows[i].blocks_count = used - w->workflows[i].blocks_at;
    }
    for (uint32_t i = 0; i < w->workflow_count; i++) {
        struct sim_workflow *f = &w->workflows[i];

        f->own_at = own;
        for (uint32_t k = 0; k < f->blocks_count; k++)
            if (owner[w->used[f->blocks_at + k]] == i)
                w->own[own++] = w->used[f->blocks_at + k];
        f->own_count = own - f->own_at;
    }
    free(calls);
    free(last);
    free(owner);
}

void sim_work_init(struct sim_work *w, const struct trace *t, const struct selection *sel)
{
    *w = (struct sim_work){.trace = t, .selection = sel};
    blocks_init(&w->blocks, t);
    make_workflows(w);
    make_ids(w);
    make_uses(w);
}

void sim_work_fini(struct sim_work *w)
{
    for (size_t i = 0; i < w->trace->call_count; i++)
        free(w->ids[i]);
    free(w->ids);
    free(w->workflows);
    free(w->workflow_of);
    free(w->used);
    free(w->own);
    blocks_fini(&w->blocks, w->trace);
}
