/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SIM_WORK_H
#define SIM_WORK_H

#include "bench/replay/blocks.h"
#include "bench/replay/trace.h"

/*
 * What a simulation replays: the selected calls of a trace, their blocks, and who uses which. Built
 * once, the same for every policy. Block numbers and the ids by which engines and scheduler know
 * blocks turn into each other by arithmetic.
 */
struct sim_workflow {
    uint32_t id; /* in the trace */
    uint32_t calls;
    uint32_t blocks_at, blocks_count; /* distinct ones of all its calls, in sim_work.used */
    uint32_t own_at, own_count;       /* those that no other workflow uses, in sim_work.own */
};

struct sim_work {
    const struct trace *trace;
    const struct selection *selection;
    struct blocks blocks;
    uint64_t **ids;                 /* per call: ids of its blocks; NULL where not selected */
    struct sim_workflow *workflows; /* ascending by id */
    uint32_t workflow_count;
    uint32_t *workflow_of; /* per call: index in workflows */
    uint32_t *used, *own;
};

/* Borrows both. */
void sim_work_init(struct sim_work *w, const struct trace *t, const struct selection *sel);
void sim_work_fini(struct sim_work *w);

uint64_t sim_block_id(uint32_t block); /* never 0 */
uint32_t sim_block_of(uint64_t id);

#endif
