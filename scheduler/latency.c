/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/latency.h"

static unsigned bucket_of(uint64_t us)
{
    uint64_t ms4 = us * 4 / 1000; /* quarters of a millisecond: two bits below the first octave */
    unsigned octave;

    if (ms4 < 4)
        return 0;
    octave = 61u - (unsigned)__builtin_clzll(ms4);
    if (octave >= LATENCY_BUCKETS / 4)
        return LATENCY_BUCKETS - 1;
    return octave * 4 + (unsigned)(ms4 >> octave & 3);
}

static double bucket_middle(unsigned b)
{
    double low = (double)(UINT64_C(1) << b / 4) * (4 + b % 4) / 4;

    return (low + (double)(UINT64_C(1) << b / 4) / 8) / 1000;
}

void latency_add(struct latency *l, uint64_t us)
{
    unsigned b, i;

    if (us > UINT64_C(1) << 50)
        us = UINT64_C(1) << 50;
    b = bucket_of(us);
    if (l->bucket[b] == UINT16_MAX)
        for (i = 0; i < LATENCY_BUCKETS; i++)
            l->bucket[i] = (uint16_t)((l->bucket[i] + 1) / 2);
    l->bucket[b]++;
    l->sum_us += us;
    l->count++;
}

double latency_mean(const struct latency *l)
{
    return l->count > 0 ? (double)l->sum_us / (double)l->count / 1e6 : 0;
}

double latency_quantile(const struct latency *l, double p)
{
    uint64_t n = 0, rank, seen = 0;
    unsigned b;

    for (b = 0; b < LATENCY_BUCKETS; b++)
        n += l->bucket[b];
    if (n == 0)
        return 0;
    rank = (uint64_t)(p * (double)n);
    if (rank >= n)
        rank = n - 1;
    for (b = 0; b < LATENCY_BUCKETS; b++) {
        seen += l->bucket[b];
        if (seen > rank)
            break;
    }
    return bucket_middle(b);
}
