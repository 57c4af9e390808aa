/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/replay/compare.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct row {
    const char *key, *what, *unit;
    double scale;
    int digits;
} ROWS[] = {
    {"hit", "prefix cache hit rate", "%", 1, 1},
    {"ttft_mean", "time to first token, mean", "s", 1, 2},
    {"ttft_p50", "  p50", "s", 1, 2},
    {"ttft_p99", "  p99", "s", 1, 1},
    {"e2e_mean", "request latency, mean", "s", 1, 1},
    {"wf_mean", "workflow latency, mean", "s", 1, 0},
    {"ptok", "prompt tokens prefilled", "M", 1e-6, 2},
    {"recomputed_tokens", "  computed before elsewhere", "M", 1e-6, 2},
    {"kv_held", "KV held, mean", "M", 1e-6, 2},
    {"errors", "failed requests", "", 1, 0},
};

static double value_of(const json_t *report, const char *key)
{
    const json_t *v = json_object_get(report, key);

    return json_is_number(v) ? json_number_value(v) : -1;
}

static void add_table(const json_t *all, struct buf *out)
{
    size_t n = json_array_size(all);

    buf_addf(out, "%-32s", "");
    for (size_t i = 0; i < n; i++)
        buf_addf(out, "%14s", json_string_value(json_object_get(json_array_get(all, i), "policy")));
    buf_adds(out, "\n");
    for (size_t r = 0; r < sizeof(ROWS) / sizeof(*ROWS); r++) {
        buf_addf(out, "%-28s%4s", ROWS[r].what, ROWS[r].unit);
        for (size_t i = 0; i < n; i++) {
            double v = value_of(json_array_get(all, i), ROWS[r].key);

            if (v < 0)
                buf_addf(out, "%14s", "-");
            else
                buf_addf(out, "%14.*f", ROWS[r].digits, v * ROWS[r].scale);
        }
        buf_adds(out, "\n");
    }
}

static double ratio(const json_t *first, const json_t *last, const char *key)
{
    double a = value_of(first, key), b = value_of(last, key);

    return a >= 0 && b > 0 ? a / b : 0;
}

static void add_words(const json_t *first, const json_t *last, struct buf *out)
{
    buf_addf(out,
             "%s against %s: hit rate %+.1f points, time to first token %.1fx lower, requests "
             "%.1fx and workflows %.1fx faster, %.1fx fewer tokens prefilled\n",
             json_string_value(json_object_get(last, "policy")),
             json_string_value(json_object_get(first, "policy")),
             value_of(last, "hit") - value_of(first, "hit"), ratio(first, last, "ttft_mean"),
             ratio(first, last, "e2e_mean"), ratio(first, last, "wf_mean"),
             ratio(first, last, "ptok"));
}

/* The reports as a JSON array; NULL: a line is none. */
static json_t *read_all(const char *in, size_t len)
{
    json_t *all = json_array();

    for (size_t at = 0; at < len;) {
        const char *end = memchr(in + at, '\n', len - at);
        size_t n = end != NULL ? (size_t)(end - in) - at : len - at;
        json_t *v = n > 0 ? json_loadb(in + at, n, 0, NULL) : NULL;

        if (n > 0 && !json_is_string(json_object_get(v, "policy"))) {
            json_decref(v);
            json_decref(all);
            return NULL;
        }
        if (v != NULL)
            json_array_append_new(all, v);
        at += n + 1;
    }
    return all;
}

enum err compare_reports(const char *in, size_t len, struct buf *table, struct buf *wrapped)
{
    json_t *all = read_all(in, len), *object;
    size_t n = json_array_size(all);
    char *text;

    if (n == 0) {
        json_decref(all);
        return ERR_INVALID;
    }
    add_table(all, table);
    if (n > 1)
        add_words(json_array_get(all, 0), json_array_get(all, n - 1), table);
    object = json_pack("{s:O}", "policies", all);
    text = json_dumps(object, JSON_INDENT(1) | JSON_REAL_PRECISION(10));
    if (wrapped != NULL && text != NULL)
        buf_addf(wrapped, "%s\n", text);
    free(text);
    json_decref(object);
    json_decref(all);
    return ERR_OK;
}
