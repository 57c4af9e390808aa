/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_BENCH_SAMPLES_H
#define SLIP_BENCH_SAMPLES_H

#include <stddef.h>
#include <stdint.h>

/* Durations in nanoseconds, all kept, so that percentiles are exact. Zeroed is empty. */
struct samples {
    uint64_t *v;
    size_t count;
    size_t cap;
};

void samples_add(struct samples *s, uint64_t ns);
void samples_fini(struct samples *s);

/* sorted[min(n - 1, floor(p * n))] in microseconds, 0 when empty. Call samples_sort() before. */
void samples_sort(struct samples *s);
double samples_us(const struct samples *s, double p);

#endif
