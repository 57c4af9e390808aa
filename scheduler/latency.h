/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_LATENCY_H
#define SCHED_LATENCY_H

#include <stdint.h>

/*
 * Latencies of one workflow in 192 bytes: four buckets per doubling from 1 ms to 4194 s, 16 bits
 * each. A full bucket halves them all, which keeps every quantile.
 */
#define LATENCY_BUCKETS 88u

struct latency {
    uint64_t sum_us, count;
    uint16_t bucket[LATENCY_BUCKETS];
};

void latency_add(struct latency *l, uint64_t us);
double latency_mean(const struct latency *l);               /* seconds; 0 without any */
double latency_quantile(const struct latency *l, double p); /* seconds, within 13 % */

#endif
