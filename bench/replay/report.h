/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REPLAY_REPORT_H
#define REPLAY_REPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"

/* What one call came to. Times in model seconds, `first` and `end` since it was ready to go. */
struct outcome {
    uint32_t workflow;
    bool ok;
    double ready, first, end;
    uint32_t prompt_tokens, cached_tokens, output_tokens;
    uint32_t expected_cached; /* had no engine forgotten, and all shared one cache */
};

struct report {
    double hit; /* percent */
    double ttft_mean, ttft_p50, ttft_p90, ttft_p99, ttft_max;
    double e2e_mean, wf_mean, wf_p99, span;
    uint64_t prompt_tokens, cached_tokens, ptok, output_tokens;
    uint64_t recomputed_tokens; /* prefilled although computed before on some engine */
    double infinite_hit;        /* percent: one cache for all that never forgets */
    uint32_t calls, errors, workflows;
};

/* sorted[min(n - 1, floor(p * n))]; 0 of nothing. Sorts v. */
double report_percentile(double *v, size_t n, double p);
/* Failed calls count as errors and in nothing else but their workflow's time. */
void report_make(const struct outcome *all, size_t count, struct report *out);

struct report_label {
    const char *policy, *trace;
    uint32_t users;
    double time_scale;
    double kv_held, kv_peak; /* tokens; negative: not known */
    double engine_hit;       /* percent, by the engines' own counters; negative: not known */
};
/* One JSON object and a newline. */
void report_add_json(const struct report *r, const struct report_label *l, struct buf *out);
void report_add_text(const struct report *r, const struct report_label *l, struct buf *out);

#endif
