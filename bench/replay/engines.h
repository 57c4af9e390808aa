/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REPLAY_ENGINES_H
#define REPLAY_ENGINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a replay reads off the engines' /metrics. Pure. */
struct engine_sample {
    bool has_resident, has_counters;
    double resident_tokens; /* KV in the cache, held by requests or not */
    double query_tokens, hit_tokens;
};

/* text is NUL-terminated behind len. Sum over the labels of one metric in Prometheus text; false:
 * not there. */
bool metrics_value(const char *text, size_t len, const char *name, double *out);
void engine_sample_read(const char *text, size_t len, struct engine_sample *out);

/* Mean over time of values that hold until the next one. Zeroed is an empty one. */
struct time_mean {
    bool started;
    double from, at, value, area, peak;
};

void time_mean_add(struct time_mean *m, double now, double value);
double time_mean_get(const struct time_mean *m); /* negative: nothing was added */

#endif
