/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/receipt.h"

#include <math.h>
#include <stdlib.h>

#include "common/must.h"
#include "scheduler/state.h"

static void *grown(void *items, size_t *cap, size_t needed, size_t size)
{
    if (needed <= *cap)
        return items;
    while (*cap < needed)
        *cap = *cap > 0 ? *cap * 2 : 64;
    items = realloc(items, *cap * size);
    must(items != NULL);
    return items;
}

void receipts_fini(struct receipts *rs)
{
    free(rs->items);
    free(rs->rows);
    *rs = (struct receipts){0};
}

void receipts_clear(struct receipts *rs)
{
    rs->count = rs->row_count = 0;
}

uint32_t receipt_rows(struct core *c, const struct ask *ask)
{
    struct receipts *rs = &c->receipts;
    uint32_t first = (uint32_t)rs->row_count;

    rs->rows = grown(rs->rows, &rs->row_cap, rs->row_count + ENGINES_MAX, sizeof(*rs->rows));
    set_for(i, &ask->may)
    {
        const struct engine *e = &c->fleet.engines[i];
        double cost = ask->cost[i];

        rs->rows[rs->row_count++] = (struct receipt_row){.engine = i,
                                                         .cached_tokens = ask->cached[i],
                                                         .workflows = e->workflows,
                                                         .has_cost = !isnan(cost),
                                                         .cost = isnan(cost) ? 0 : cost,
                                                         .queue_seconds = engine_queue_s(e)};
    }
    return first;
}

uint32_t receipt_add(struct core *c, uint32_t first, const struct lease *l, const char *policy)
{
    struct receipts *rs = &c->receipts;

    rs->items = grown(rs->items, &rs->cap, rs->count + 1, sizeof(*rs->items));
    rs->items[rs->count] = (struct receipt){.policy = policy,
                                            .reason = l->reason,
                                            .why_waited = l->why_waited,
                                            .waited_ns = l->waited_ns,
                                            .hit = lease_hit(l),
                                            .tokens = l->guessed_tokens,
                                            .engine = l->engine->index,
                                            .first = first,
                                            .count = (uint32_t)rs->row_count - first};
    return (uint32_t)rs->count++;
}

uint32_t receipt_add_wait(struct core *c, const struct ask *ask, enum reason reason)
{
    struct receipts *rs = &c->receipts;
    /* Before its group is there nobody has looked at engines. */
    uint32_t first = reason != REASON_GROUP ? receipt_rows(c, ask) : (uint32_t)rs->row_count;

    rs->items = grown(rs->items, &rs->cap, rs->count + 1, sizeof(*rs->items));
    rs->items[rs->count] = (struct receipt){.policy = "",
                                            .reason = reason,
                                            .why_waited = reason,
                                            .tokens = ask->tokens,
                                            .engine = ENGINE_NONE,
                                            .first = first,
                                            .count = (uint32_t)rs->row_count - first};
    return (uint32_t)rs->count++;
}

const struct receipt *core_receipt(const struct core *c, uint32_t receipt)
{
    must(receipt < c->receipts.count);
    return &c->receipts.items[receipt];
}

const struct receipt_row *core_receipt_row(const struct core *c, const struct receipt *r,
                                           uint32_t i)
{
    must(i < r->count);
    return &c->receipts.rows[r->first + i];
}
