/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SIM_KV_H
#define SIM_KV_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Where each block of the workload is, over all engines: how many copies, over time, and whether it
 * belongs to a workflow that is under way. Blocks by their number in the trace. Pure; one thread.
 */
struct sim_kv {
    uint32_t *copies, *users;     /* per block: engines that hold it; live workflows that use it */
    bool *ever;                   /* was computed somewhere */
    uint64_t all, distinct, held; /* copies; blocks with a copy; copies of blocks with users */
    uint64_t all_peak, distinct_peak;
    double all_time, distinct_time, held_time; /* integrals over time */
    double changed_at, held_at;
};

void sim_kv_init(struct sim_kv *k, uint32_t blocks);
void sim_kv_fini(struct sim_kv *k);
void sim_kv_come(struct sim_kv *k, double now, uint32_t block);
void sim_kv_go(struct sim_kv *k, double now, uint32_t block);
/* A workflow starts, or ends: its distinct blocks. */
void sim_kv_use(struct sim_kv *k, double now, const uint32_t *blocks, uint32_t count);
void sim_kv_unuse(struct sim_kv *k, double now, const uint32_t *blocks, uint32_t count);
/* Percent of resident KV that is a second copy, over time. */
double sim_kv_duplicates(const struct sim_kv *k);
/* Mean number of copies of blocks in use, until `end`. */
double sim_kv_held(struct sim_kv *k, double end);

#endif
