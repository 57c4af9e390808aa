/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/scrape.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define START_SLACK 2.0 /* seconds by which clocks that are read twice may differ */

enum how { HOW_SUM, HOW_MEAN, HOW_MAX, HOW_INFO };

static const struct row {
    enum scrape_fact fact;
    enum how how;
    const char *name;
} rows[] = {
#define SCRAPE(fact, how, name) {SCRAPE_##fact, HOW_##how, name},
#include "scheduler/scrape.def"
#undef SCRAPE
};
#define ROWS (sizeof(rows) / sizeof(rows[0]))

struct sums {
    double sum, max;
    uint32_t count;
};

struct span {
    const char *at;
    size_t len;
};

static bool span_is(struct span s, const char *text)
{
    return s.len == strlen(text) && memcmp(s.at, text, s.len) == 0;
}

/* A whole number or decimal; what is longer than any number is none. */
static bool span_number(struct span s, double *out)
{
    char copy[64], *rest;
    double v;

    if (s.len == 0 || s.len >= sizeof(copy))
        return false;
    memcpy(copy, s.at, s.len);
    copy[s.len] = '\0';
    v = strtod(copy, &rest);
    if (rest == copy || *rest != '\0' || !isfinite(v))
        return false;
    *out = v;
    return true;
}

static bool is_name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == ':';
}

/* The end of the labels, behind their brace; NULL: there is none. */
static const char *labels_end(const char *p, const char *end)
{
    bool quoted = false;

    for (; p < end; p++) {
        if (quoted && *p == '\\')
            p++;
        else if (*p == '"')
            quoted = !quoted;
        else if (*p == '}' && !quoted)
            return p + 1;
    }
    return NULL;
}

/* The value of a label, as it stands between its quotes. */
static bool label_find(struct span labels, const char *key, struct span *value)
{
    const char *p = labels.at, *end;

    if (p == NULL) /* none at all */
        return false;
    end = p + labels.len;
    while (p < end) {
        struct span name = {p, 0};

        while (p < end && *p != '=')
            p++;
        name.len = (size_t)(p - name.at);
        while (name.len > 0 && !is_name_char(*name.at)) {
            name.at++;
            name.len--;
        }
        p++;
        if (p >= end || *p++ != '"')
            return false;
        value->at = p;
        while (p < end && *p != '"')
            p += *p == '\\' ? 2 : 1;
        if (p >= end)
            return false;
        value->len = (size_t)(p - value->at);
        p++;
        if (span_is(name, key))
            return true;
    }
    return false;
}

static bool label_number(struct span labels, const char *key, double *out)
{
    struct span value;

    return label_find(labels, key, &value) && span_number(value, out);
}

/* Tokens of cache by the labels of vLLM's cache_config_info. */
static bool info_tokens(struct span labels, double *tokens)
{
    double blocks, size = 16; /* what the engine takes when it does not say */

    if (label_number(labels, "kv_cache_size_tokens", tokens) && *tokens > 0)
        return true;
    if (!label_number(labels, "num_gpu_blocks", &blocks) || blocks <= 0)
        return false;
    (void)label_number(labels, "block_size", &size);
    *tokens = blocks * size;
    return size > 0;
}

static void sample_add(struct sums sums[ROWS], struct span name, struct span labels, double value)
{
    for (size_t i = 0; i < ROWS; i++) {
        if (!span_is(name, rows[i].name))
            continue;
        if (rows[i].how == HOW_INFO && !info_tokens(labels, &value))
            continue;
        sums[i].sum += value;
        sums[i].max = sums[i].count == 0 || value > sums[i].max ? value : sums[i].max;
        sums[i].count++;
    }
}

/* name{labels} value [timestamp] */
static void line_read(const char *p, const char *end, struct sums sums[ROWS])
{
    struct span name = {p, 0}, labels = {p, 0}, number;
    double value;

    while (p < end && is_name_char(*p))
        p++;
    name.len = (size_t)(p - name.at);
    while (p < end && *p == ' ')
        p++;
    if (name.len == 0)
        return;
    if (p < end && *p == '{') {
        labels.at = ++p;
        p = labels_end(p, end);
        if (p == NULL)
            return;
        labels.len = (size_t)(p - labels.at) - 1;
    }
    while (p < end && (*p == ' ' || *p == '\t'))
        p++;
    number.at = p;
    while (p < end && *p != ' ' && *p != '\t' && *p != '\r')
        p++;
    number.len = (size_t)(p - number.at);
    if (span_number(number, &value))
        sample_add(sums, name, labels, value);
}

static double sums_value(const struct sums *s, enum how how)
{
    switch (how) {
    case HOW_MEAN:
        return s->sum / s->count;
    case HOW_MAX:
        return s->max;
    case HOW_SUM:
    case HOW_INFO:
        break;
    }
    return s->sum;
}

bool scrape_read(const char *text, size_t len, struct scrape *out)
{
    struct sums sums[ROWS] = {{0}};
    const char *p = text, *end = text + len;
    bool any = false;

    *out = (struct scrape){0};
    while (p < end) {
        const char *line = p, *stop = memchr(p, '\n', (size_t)(end - p));

        if (stop == NULL)
            stop = end;
        p = stop + 1;
        while (line < stop && (*line == ' ' || *line == '\t'))
            line++;
        if (line < stop && *line != '#')
            line_read(line, stop, sums);
    }
    for (size_t i = 0; i < ROWS; i++) {
        if (sums[i].count == 0 || out->has[rows[i].fact])
            continue;
        out->has[rows[i].fact] = true;
        out->value[rows[i].fact] = sums_value(&sums[i], rows[i].how);
        any = any || rows[i].fact != SCRAPE_start;
    }
    return any;
}

static bool has_gone_back(const struct scrape *before, const struct scrape *now,
                          enum scrape_fact fact)
{
    return before->has[fact] && now->has[fact] && now->value[fact] < before->value[fact];
}

bool scrape_is_restart(const struct scrape *before, const struct scrape *now)
{
    if (before->has[SCRAPE_start] && now->has[SCRAPE_start] &&
        now->value[SCRAPE_start] > before->value[SCRAPE_start] + START_SLACK)
        return true;
    return has_gone_back(before, now, SCRAPE_counted) ||
           has_gone_back(before, now, SCRAPE_generated);
}

bool scrape_used_tokens(const struct scrape *s, uint64_t *tokens)
{
    double used;

    if (s->has[SCRAPE_used])
        used = s->value[SCRAPE_used];
    else if (s->has[SCRAPE_usage] && s->has[SCRAPE_capacity])
        used = s->value[SCRAPE_usage] * s->value[SCRAPE_capacity];
    else
        return false;
    if (!(used >= 0 && used < 1e15))
        return false;
    *tokens = (uint64_t)used;
    return true;
}
