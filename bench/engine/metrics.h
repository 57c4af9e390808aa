/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ENGINE_METRICS_H
#define ENGINE_METRICS_H

#include <stdint.h>

#include "bench/engine/core.h"
#include "common/buf.h"

/* vLLM's metric names, in model seconds; the table is metrics.def. */
#define METRICS_BUCKETS 22

struct histogram {
    double sum;
    uint64_t count, below[METRICS_BUCKETS]; /* not cumulative; what is above all counts in count */
};

struct metrics {
    uint64_t length_total, stop_total; /* finished requests by reason */
#define GAUGE(name, value, help)
#define COUNTER(name, value, help)
#define HISTOGRAM(field, name, help) struct histogram field;
#include "bench/engine/metrics.def"
#undef GAUGE
#undef COUNTER
#undef HISTOGRAM
};

void histogram_add(struct histogram *h, double seconds);

/* model: as JSON, with quotes. */
void metrics_print(const struct metrics *m, const struct engine_stats *s, const char *model,
                   struct buf *out);

#endif
