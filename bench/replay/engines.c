/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/replay/engines.h"

#include <stdlib.h>
#include <string.h>

#define ENGINE_BLOCK 16 /* tokens */

bool metrics_value(const char *text, size_t len, const char *name, double *out)
{
    size_t n = strlen(name);
    bool found = false;
    double sum = 0;

    for (const char *line = text; line < text + len;) {
        const char *end = memchr(line, '\n', (size_t)(text + len - line));
        const char *value = line + n;

        if (end == NULL)
            end = text + len;
        if ((size_t)(end - line) > n && memcmp(line, name, n) == 0 &&
            (*value == ' ' || *value == '{')) {
            if (*value == '{')
                value = memchr(value, '}', (size_t)(end - value));
            if (value != NULL) {
                sum += strtod(*value == '}' ? value + 1 : value, NULL);
                found = true;
            }
        }
        line = end + 1;
    }
    if (found)
        *out = sum;
    return found;
}

void engine_sample_read(const char *text, size_t len, struct engine_sample *out)
{
    double held = 0, cached = 0;

    memset(out, 0, sizeof(*out));
    out->has_resident = metrics_value(text, len, "slipstream_engine_blocks_held", &held) &&
                        metrics_value(text, len, "slipstream_engine_blocks_cached", &cached);
    out->resident_tokens = (held + cached) * ENGINE_BLOCK;
    out->has_counters =
        metrics_value(text, len, "vllm:prefix_cache_queries_total", &out->query_tokens) &&
        metrics_value(text, len, "vllm:prefix_cache_hits_total", &out->hit_tokens);
}

void time_mean_add(struct time_mean *m, double now, double value)
{
    if (!m->started) {
        m->started = true;
        m->from = now;
    } else {
        m->area += m->value * (now - m->at);
    }
    m->at = now;
    m->value = value;
    if (value > m->peak)
        m->peak = value;
}

double time_mean_get(const struct time_mean *m)
{
    if (!m->started)
        return -1;
    return m->at > m->from ? m->area / (m->at - m->from) : m->value;
}
