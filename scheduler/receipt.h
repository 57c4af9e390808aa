/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_RECEIPT_H
#define SCHED_RECEIPT_H

#include "scheduler/policy.h"

/* The receipts of one step, one for each ACT_GO and ACT_WAIT. Memory is kept from step to step. */
struct receipts {
    struct receipt *items;
    struct receipt_row *rows;
    size_t count, cap, row_count, row_cap;
};

void receipts_fini(struct receipts *rs);
void receipts_clear(struct receipts *rs);
/* The rows: after the choice, before its request is in the books. Returns where they start. */
uint32_t receipt_rows(struct core *c, const struct ask *ask);
/* Of a request that is held: what each engine would have cost. Returns the index for
 * action.receipt. */
uint32_t receipt_add_wait(struct core *c, const struct ask *ask, enum reason reason);
/* Returns the index for action.receipt. */
uint32_t receipt_add(struct core *c, uint32_t first, const struct lease *l, const char *policy);

#endif
