/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "common/metric_layout.h"
#include "common/must.h"

/*
 * The reading half: all files of the folder, added up by name and labels.
 *
 * The files were written by other processes, perhaps of another version, perhaps by one that went
 * mad. Everything is copied out before it is looked at, and what does not look right is passed
 * over: a scrape always answers with valid text.
 */
#define FILES_MAX 1024
#define BEAT_MAX_MS 5000

struct family { /* one metric name */
    struct metric_row row;
    uint32_t series_count;
};

struct sum { /* one series, of all files */
    uint32_t family, label_len;
    size_t label_at; /* in texts */
    double values[METRIC_VALUES];
};

struct summing {
    const char *skip_label;
    struct family *families;
    uint32_t family_count;
    struct sum *sums;
    uint32_t sum_count, sum_cap;
    uint32_t *table; /* open addressing: index in sums + 1 */
    uint32_t table_mask;
    struct buf texts;
    double dropped;
};

/* ---- is it what it says? ---- */

static bool name_is_valid(const char *s, size_t size, bool colon)
{
    size_t i;

    for (i = 0; i < size && s[i] != '\0'; i++) {
        bool letter = (s[i] >= 'a' && s[i] <= 'z') || (s[i] >= 'A' && s[i] <= 'Z') || s[i] == '_' ||
                      (colon && s[i] == ':');

        if (!letter && (i == 0 || s[i] < '0' || s[i] > '9'))
            return false;
    }
    return i > 0 && i < size;
}

static bool row_is_valid(const struct metric_row *r)
{
    uint32_t i;

    if (!name_is_valid(r->name, sizeof(r->name), true) ||
        memchr(r->help, 0, sizeof(r->help)) == NULL ||
        memchr(r->labels, 0, sizeof(r->labels)) == NULL || r->kind > METRIC_HISTOGRAM ||
        r->bound_count > METRIC_BUCKETS || (r->kind == METRIC_HISTOGRAM) != (r->bound_count > 0))
        return false;
    for (i = 0; i < r->bound_count; i++)
        if (!isfinite(r->bounds[i]) || (i > 0 && r->bounds[i] <= r->bounds[i - 1]))
            return false;
    return true;
}

/* a="b",c="d" with everything escaped as it must be. */
static bool labels_are_valid(const char *s, size_t len)
{
    size_t i = 0, start, n;

    while (i < len) {
        char key[64];

        for (start = i; i < len && s[i] != '='; i++)
            ;
        if (i - start >= sizeof(key) || i + 1 >= len || s[i + 1] != '"')
            return false;
        memcpy(key, s + start, i - start);
        key[i - start] = '\0';
        if (!name_is_valid(key, sizeof(key), false) || strcmp(key, "le") == 0)
            return false;
        for (i += 2; i < len && s[i] != '"'; i += n) {
            n = metric_utf8_span((const unsigned char *)s + i, len - i);
            if (n == 0 || (unsigned char)s[i] < 0x20)
                return false;
            if (s[i] == '\\') {
                if (i + 1 >= len || strchr("\\\"n", s[i + 1]) == NULL || s[i + 1] == '\0')
                    return false;
                n = 2;
            }
        }
        if (i >= len)
            return false;
        i++;
        if (i < len && (s[i] != ',' || ++i == len))
            return false;
    }
    return true;
}

static bool values_are_valid(const struct metric_row *r, const double *values)
{
    uint32_t i, count = r->kind == METRIC_HISTOGRAM ? r->bound_count + 1 : 1;

    for (i = 0; i < count; i++)
        if (!isfinite(values[i]) || (r->kind != METRIC_GAUGE && values[i] < 0))
            return false;
    return isfinite(values[METRIC_VALUES - 1]);
}

/* ---- adding up ---- */

/* The family of a row, made if need be; UINT32_MAX where the name means something else already. */
static uint32_t family_find(struct summing *t, const struct metric_row *row)
{
    struct family *f;
    uint32_t i;

    for (i = 0; i < t->family_count; i++) {
        f = &t->families[i];
        if (strcmp(f->row.name, row->name) != 0)
            continue;
        if (f->row.kind != row->kind || f->row.bound_count != row->bound_count ||
            memcmp(f->row.bounds, row->bounds, row->bound_count * sizeof(double)) != 0)
            return UINT32_MAX;
        return i;
    }
    t->families = realloc(t->families, (t->family_count + 1) * sizeof(*t->families));
    must(t->families != NULL);
    f = &t->families[t->family_count];
    f->row = *row;
    f->series_count = 0;
    return t->family_count++;
}

static void table_grow(struct summing *t)
{
    uint32_t i, at, size = (t->table_mask + 1) * 2;

    size = size < 256 ? 256 : size;
    free(t->table);
    t->table = calloc(size, sizeof(*t->table));
    must(t->table != NULL);
    t->table_mask = size - 1;
    for (i = 0; i < t->sum_count; i++) {
        const struct sum *s = &t->sums[i];

        at = (uint32_t)XXH3_64bits_withSeed(t->texts.base + s->label_at, s->label_len, s->family);
        for (at &= t->table_mask; t->table[at] != 0; at = (at + 1) & t->table_mask)
            ;
        t->table[at] = i + 1;
    }
}

static struct sum *sum_find(struct summing *t, uint32_t family, const char *labels, uint32_t len)
{
    struct sum *s;
    uint32_t at;

    if (t->table == NULL || t->sum_count * 2 > t->table_mask)
        table_grow(t);
    at = (uint32_t)XXH3_64bits_withSeed(labels, len, family);
    for (at &= t->table_mask; t->table[at] != 0; at = (at + 1) & t->table_mask) {
        s = &t->sums[t->table[at] - 1];
        if (s->family == family && s->label_len == len &&
            memcmp(t->texts.base + s->label_at, labels, len) == 0)
            return s;
    }
    if (t->sum_count == t->sum_cap) {
        t->sum_cap = t->sum_cap > 0 ? t->sum_cap * 2 : 128;
        t->sums = realloc(t->sums, t->sum_cap * sizeof(*t->sums));
        must(t->sums != NULL);
    }
    s = &t->sums[t->sum_count++];
    *s = (struct sum){.family = family, .label_len = len, .label_at = t->texts.len};
    buf_add(&t->texts, labels, len);
    t->families[family].series_count++;
    t->table[at] = t->sum_count;
    return s;
}

struct copy { /* a record, copied out */
    uint32_t row, label_len;
    char labels[METRIC_LABEL_BYTES];
    double values[METRIC_VALUES];
};

static bool record_copy(const struct metric_record *r, struct copy *c)
{
    uint64_t seq = atomic_load_explicit(&r->seq, memory_order_acquire), word;
    size_t i;

    if ((seq & 1) == 0)
        return false;
    word = atomic_load_explicit(&r->shape, memory_order_relaxed);
    c->row = (uint32_t)(word >> 32);
    c->label_len = (uint32_t)word;
    if (c->label_len > sizeof(c->labels))
        return false;
    for (i = 0; i < c->label_len; i += 8) {
        word = atomic_load_explicit(&r->labels[i / 8], memory_order_relaxed);
        memcpy(c->labels + i, &word, 8);
    }
    for (i = 0; i < METRIC_VALUES; i++) {
        word = atomic_load_explicit(&r->values[i], memory_order_relaxed);
        memcpy(&c->values[i], &word, 8);
    }
    atomic_thread_fence(memory_order_acquire);
    return atomic_load_explicit(&r->seq, memory_order_relaxed) == seq;
}

static void records_add(struct summing *t, const struct metric_segment *g, uint32_t series_max,
                        const struct metric_row *rows, const uint32_t *families, uint32_t row_count)
{
    const struct metric_record *records =
        (const void *)((const char *)g + metric_records_offset(row_count));
    uint32_t used = atomic_load_explicit(&g->series_used, memory_order_acquire), i, k;
    struct copy c;

    for (i = 0; i < used && i < series_max; i++) {
        struct sum *s;

        if (!record_copy(&records[i], &c) || c.row >= row_count || families[c.row] == UINT32_MAX ||
            !labels_are_valid(c.labels, c.label_len) || !values_are_valid(&rows[c.row], c.values))
            continue;
        s = sum_find(t, families[c.row], c.labels, c.label_len);
        for (k = 0; k < METRIC_VALUES; k++)
            s->values[k] += c.values[k];
    }
}

static void segment_add(struct summing *t, const struct shm *shm)
{
    const struct metric_segment *g = (const void *)shm->head;
    bool fresh = shm_beat_age_ms(shm) < BEAT_MAX_MS;
    uint32_t row_count, series_max, i, *families;
    struct metric_row *rows;

    if (shm->bytes < sizeof(*g))
        return;
    row_count = g->row_count;
    series_max = g->series_max;
    if (row_count > METRIC_ROWS_MAX || series_max > METRIC_SERIES_MAX ||
        shm->bytes != metric_segment_bytes(row_count, series_max))
        return;
    rows = calloc(row_count + 1, sizeof(*rows));
    families = calloc(row_count + 1, sizeof(*families));
    must(rows != NULL && families != NULL);
    memcpy(rows, g + 1, row_count * sizeof(*rows));
    for (i = 0; i < row_count; i++) {
        families[i] = UINT32_MAX;
        if (row_is_valid(&rows[i]) && (fresh || rows[i].kind != METRIC_GAUGE) &&
            (t->skip_label == NULL || !metric_has_label(rows[i].labels, t->skip_label)))
            families[i] = family_find(t, &rows[i]);
    }
    records_add(t, g, series_max, rows, families, row_count);
    t->dropped += (double)atomic_load_explicit(&g->dropped, memory_order_relaxed);
    free(rows);
    free(families);
}

/* ---- text ---- */

/* Most values are whole numbers; a scrape prints many thousands of them on a worker's loop, so
 * these go without printf. */
static void print_value(struct buf *out, double v)
{
    char digits[24], *p = digits + sizeof(digits);
    uint64_t whole;

    if (v < 0 || v >= 9007199254740992.0 || v != floor(v)) {
        buf_addf(out, " %.15g\n", v);
        return;
    }
    whole = (uint64_t)v;
    *--p = '\n';
    do {
        *--p = (char)('0' + whole % 10);
        whole /= 10;
    } while (whole > 0);
    *--p = ' ';
    buf_add(out, p, (size_t)(digits + sizeof(digits) - p));
}

static void print_sample(struct buf *out, const char *name, const char *suffix, const char *labels,
                         uint32_t len, const char *le, double v)
{
    buf_adds(out, name);
    buf_adds(out, suffix);
    if (len > 0 || le != NULL) {
        buf_add(out, "{", 1);
        buf_add(out, labels, len);
        if (le != NULL) {
            buf_adds(out, len > 0 ? ",le=\"" : "le=\"");
            buf_adds(out, le);
            buf_add(out, "\"", 1);
        }
        buf_add(out, "}", 1);
    }
    print_value(out, v);
}

/* The bounds as text, made once for each family. */
struct bound_texts {
    char le[METRIC_BUCKETS][20];
};

static void print_histogram(struct buf *out, const struct metric_row *r,
                            const struct bound_texts *texts, const char *labels,
                            const struct sum *s)
{
    double total = 0;
    uint32_t i;

    for (i = 0; i < r->bound_count; i++) {
        total += s->values[i];
        print_sample(out, r->name, "_bucket", labels, s->label_len, texts->le[i], total);
    }
    total += s->values[r->bound_count];
    print_sample(out, r->name, "_bucket", labels, s->label_len, "+Inf", total);
    print_sample(out, r->name, "_sum", labels, s->label_len, NULL, s->values[METRIC_VALUES - 1]);
    print_sample(out, r->name, "_count", labels, s->label_len, NULL, total);
}

static void print_head(struct buf *out, const char *name, const char *help, const char *type)
{
    buf_addf(out, "# HELP %s ", name);
    for (; *help != '\0'; help++) {
        if (*help == '\\' || *help == '\n')
            buf_adds(out, *help == '\\' ? "\\\\" : "\\n");
        else
            buf_addf(out, "%c", (unsigned char)*help < 0x20 || *help == 0x7f ? ' ' : *help);
    }
    buf_addf(out, "\n# TYPE %s %s\n", name, type);
}

static int order(const void *a, const void *b, void *arg)
{
    const struct summing *t = arg;
    const struct sum *x = &t->sums[*(const uint32_t *)a], *y = &t->sums[*(const uint32_t *)b];
    uint32_t n = x->label_len < y->label_len ? x->label_len : y->label_len;
    int c = strcmp(t->families[x->family].row.name, t->families[y->family].row.name);

    if (c == 0)
        c = memcmp(t->texts.base + x->label_at, t->texts.base + y->label_at, n);
    if (c == 0)
        c = (x->label_len > y->label_len) - (x->label_len < y->label_len);
    return c;
}

static void print_all(struct summing *t, struct buf *out)
{
    static const char *const types[] = {"counter", "gauge", "histogram"};
    uint32_t *sorted = calloc(t->sum_count + 1, sizeof(*sorted)), i, k, last = UINT32_MAX;
    struct bound_texts texts;

    must(sorted != NULL);
    for (i = 0; i < t->sum_count; i++)
        sorted[i] = i;
    qsort_r(sorted, t->sum_count, sizeof(*sorted), order, t);
    for (i = 0; i < t->sum_count; i++) {
        const struct sum *s = &t->sums[sorted[i]];
        const struct metric_row *r = &t->families[s->family].row;
        const char *labels = t->texts.base + s->label_at;

        if (s->family != last) {
            print_head(out, r->name, r->help, types[r->kind]);
            for (k = 0; k < r->bound_count; k++)
                snprintf(texts.le[k], sizeof(texts.le[k]), "%.9g", r->bounds[k]);
        }
        last = s->family;
        if (r->kind == METRIC_HISTOGRAM)
            print_histogram(out, r, &texts, labels, s);
        else
            print_sample(out, r->name, "", labels, s->label_len, NULL, s->values[0]);
    }
    free(sorted);
    print_head(out, "slipstream_metric_series_dropped_total",
               "Series that were not kept because a process had as many as it may.", "counter");
    buf_adds(out, "slipstream_metric_series_dropped_total");
    print_value(out, t->dropped);
}

static bool name_is_file(const char *name)
{
    size_t n = strlen(name);

    return name[0] != '.' && (n < 4 || strcmp(name + n - 4, ".new") != 0);
}

enum err metric_expose(const char *run_dir, const char *skip_label, struct buf *out)
{
    struct summing t = {.skip_label = skip_label};
    char path[512];
    struct dirent *d;
    unsigned files = 0;
    struct shm shm;
    DIR *dir;

    snprintf(path, sizeof(path), "%s/metrics", run_dir);
    dir = opendir(path);
    if (dir == NULL)
        return ERR_IO;
    buf_reserve(&t.texts, METRIC_LABEL_BYTES); /* from here on base is not NULL */
    while (files < FILES_MAX && (d = readdir(dir)) != NULL) {
        if (!name_is_file(d->d_name))
            continue;
        snprintf(path, sizeof(path), "%s/metrics/%.200s", run_dir, d->d_name);
        if (shm_open_ro(path, SHM_METRICS, METRIC_LAYOUT, 0, &shm) != ERR_OK)
            continue;
        files++;
        segment_add(&t, &shm);
        shm_close(&shm);
    }
    closedir(dir);
    print_all(&t, out);
    free(t.families);
    free(t.sums);
    free(t.table);
    buf_fini(&t.texts);
    return ERR_OK;
}
