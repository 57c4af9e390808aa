/* SPDX-License-Identifier: Apache-2.0 */
#include "common/metric.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xxhash.h>

#include "common/metric_layout.h"
#include "common/must.h"

/*
 * The writing half: a process's own file.
 *
 * A file belongs to whoever holds the lock of its name. A second process of the same name, started
 * by mistake or before the first has gone, finds the lock taken and counts under "<name>.2": two
 * writers never share a file, and the sums stay right.
 *
 * Private memory holds what is needed to find a series (a hash table over row and labels) and the
 * free records; shared memory holds what must survive this process.
 */
#define NAMES_MAX 8
#define NONE UINT32_MAX

const double METRIC_SECONDS[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,
                                 2.5,   5,      10,    20,   30,    60,   120, 300,  0};
const double METRIC_MICROS[] = {1e-5,   2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2,
                                2.5e-2, 5e-2,   0.1,  0.25, 0.5,    1,    2.5,  5,      10,   0};
const double METRIC_TOKENS[] = {1,    4,     16,    64,    256,    512,    1024,   2048,    4096,
                                8192, 16384, 32768, 65536, 131072, 262144, 524288, 1048576, 0};

struct metric_series {
    struct metric_record *record;
    const double *bounds;
    uint32_t bound_count, row;
    uint32_t hash;
    uint32_t next;  /* in its hash chain, or in the free list */
    bool unclaimed; /* a predecessor's, not asked for yet */
};

struct metric {
    struct shm shm;
    struct metric_segment *segment;
    struct metric_row *rows;       /* ours, not the file's */
    struct metric_record *records; /* in the file */
    struct metric_series *series;  /* as many as records, same order */
    uint32_t *chains;              /* heads; as many as mask + 1 */
    uint32_t mask, free_head;
    struct metric_series nowhere; /* what metric_get answers when there is no room */
    struct metric_record nowhere_record;
    int lock_fd;
};

/* ---- labels ---- */

size_t metric_utf8_span(const unsigned char *s, size_t len)
{
    size_t n, i;

    if (len == 0 || s[0] == 0)
        return 0;
    if (s[0] < 0x80)
        return 1;
    n = s[0] >= 0xc2 && s[0] < 0xe0 ? 2 : s[0] >= 0xe0 && s[0] < 0xf0 ? 3 : 4;
    if (s[0] < 0xc2 || s[0] > 0xf4 || len < n)
        return 0;
    for (i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
        (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
        return 0;
    return n;
}

bool metric_has_label(const char *labels, const char *key)
{
    size_t n = strlen(key), span;

    for (;; labels += span + 1) {
        span = strcspn(labels, ",");
        if (span == n && n > 0 && memcmp(labels, key, n) == 0)
            return true;
        if (labels[span] == '\0')
            return false;
    }
}

/* The escaped form of one character of a label's value; *used is how much of s it stands for. What
 * is no UTF-8 and control characters become '_'. */
static size_t escape_one(char out[4], const unsigned char *s, size_t len, size_t *used)
{
    size_t n = metric_utf8_span(s, len);

    *used = n > 0 ? n : 1;
    if (n == 0 || (s[0] < 0x20 && s[0] != '\n') || s[0] == 0x7f) {
        out[0] = '_';
        return 1;
    }
    if (s[0] == '"' || s[0] == '\\' || s[0] == '\n') {
        out[0] = '\\';
        out[1] = s[0] == '\n' ? 'n' : (char)s[0];
        return 2;
    }
    memcpy(out, s, n);
    return n;
}

/* Writes an escaped value of at most room bytes. One that does not fit is cut and ends in a hash of
 * the whole, so that two long values never become one. */
static size_t value_write(char *dst, size_t room, const char *value)
{
    const unsigned char *s = (const unsigned char *)value;
    size_t len = strlen(value), i, used, n, o = 0, cut = 0;
    char one[4];

    for (i = 0; i < len; i += used) {
        n = escape_one(one, s + i, len - i, &used);
        if (o + n > room)
            break;
        memcpy(dst + o, one, n);
        o += n;
        if (o + 9 <= room)
            cut = o;
    }
    if (i >= len)
        return o;
    o = cut;
    dst[o++] = '~';
    for (n = 0; n < 8; n++)
        dst[o++] = "0123456789abcdef"[XXH3_64bits(value, len) >> (n * 4) & 15];
    return o;
}

/* Writes a="b",c="d"; the room for values is shared evenly. */
static size_t labels_write(char dst[METRIC_LABEL_BYTES], const char *keys,
                           const char *const *values)
{
    size_t o = 0, span, count = 0, room = METRIC_LABEL_BYTES;
    const char *k;

    for (k = keys; *k != '\0'; k += span + (k[span] == ',')) {
        span = strcspn(k, ",");
        room -= span + 4;
        count++;
    }
    for (k = keys; *k != '\0'; k += span + (k[span] == ',')) {
        span = strcspn(k, ",");
        if (o > 0)
            dst[o++] = ',';
        memcpy(dst + o, k, span);
        o += span;
        dst[o++] = '=';
        dst[o++] = '"';
        o += value_write(dst + o, room / count, *values++);
        dst[o++] = '"';
    }
    return o;
}

/* ---- records ---- */

static double value_load(const _Atomic uint64_t *word)
{
    uint64_t bits = atomic_load_explicit(word, memory_order_relaxed);
    double v;

    memcpy(&v, &bits, sizeof(v));
    return v;
}

static void value_store(_Atomic uint64_t *word, double v)
{
    uint64_t bits;

    memcpy(&bits, &v, sizeof(bits));
    atomic_store_explicit(word, bits, memory_order_relaxed);
}

static void record_fill(struct metric_record *r, uint32_t row, const char *labels, size_t len)
{
    uint64_t seq = atomic_load_explicit(&r->seq, memory_order_relaxed), word;
    size_t i, n;

    for (i = 0; i < METRIC_VALUES; i++)
        atomic_store_explicit(&r->values[i], 0, memory_order_relaxed);
    for (i = 0; i < len; i += 8) {
        n = len - i < 8 ? len - i : 8;
        word = 0;
        memcpy(&word, labels + i, n);
        atomic_store_explicit(&r->labels[i / 8], word, memory_order_relaxed);
    }
    atomic_store_explicit(&r->shape, (uint64_t)row << 32 | len, memory_order_relaxed);
    atomic_store_explicit(&r->seq, seq + 1, memory_order_release);
}

static void record_end(struct metric_record *r)
{
    uint64_t seq = atomic_load_explicit(&r->seq, memory_order_relaxed);

    atomic_store_explicit(&r->seq, (seq | 1) + 1, memory_order_relaxed);
    /* What fills it next must not be seen before it has ended. */
    atomic_thread_fence(memory_order_release);
}

static bool labels_equal(const struct metric_record *r, const char *labels, size_t len)
{
    char now[METRIC_LABEL_BYTES];
    size_t i;

    if ((uint32_t)atomic_load_explicit(&r->shape, memory_order_relaxed) != len)
        return false;
    for (i = 0; i < len; i += 8) {
        uint64_t word = atomic_load_explicit(&r->labels[i / 8], memory_order_relaxed);

        memcpy(now + i, &word, 8);
    }
    return memcmp(now, labels, len) == 0;
}

/* ---- series ---- */

static uint32_t hash_of(uint32_t row, const char *labels, size_t len)
{
    return (uint32_t)XXH3_64bits_withSeed(labels, len, row);
}

static void series_link(struct metric *m, uint32_t slot, uint32_t row, uint32_t hash)
{
    struct metric_series *s = &m->series[slot];

    s->record = &m->records[slot];
    s->row = row;
    s->bounds = m->rows[row].bounds;
    s->bound_count = m->rows[row].bound_count;
    s->hash = hash;
    s->next = m->chains[hash & m->mask];
    m->chains[hash & m->mask] = slot;
}

static void series_free(struct metric *m, uint32_t slot)
{
    m->series[slot] = (struct metric_series){.next = m->free_head};
    m->free_head = slot;
}

/* A free record, from those given back before those never used; NONE when all are live. */
static uint32_t slot_take(struct metric *m)
{
    uint32_t slot = m->free_head, used;

    if (slot != NONE) {
        m->free_head = m->series[slot].next;
        return slot;
    }
    used = atomic_load_explicit(&m->segment->series_used, memory_order_relaxed);
    if (used >= m->segment->series_max)
        return NONE;
    atomic_store_explicit(&m->segment->series_used, used + 1, memory_order_release);
    return used;
}

struct metric_series *metric_get(struct metric *m, unsigned row, const char *const *values)
{
    char labels[METRIC_LABEL_BYTES];
    uint32_t hash, slot;
    size_t len;

    must(row < m->segment->row_count);
    len = labels_write(labels, m->rows[row].labels, values);
    hash = hash_of(row, labels, len);
    for (slot = m->chains[hash & m->mask]; slot != NONE; slot = m->series[slot].next) {
        struct metric_series *s = &m->series[slot];

        if (s->hash == hash && s->row == row && labels_equal(s->record, labels, len)) {
            s->unclaimed = false;
            return s;
        }
    }
    slot = slot_take(m);
    if (slot == NONE) {
        atomic_fetch_add_explicit(&m->segment->dropped, 1, memory_order_relaxed);
        return &m->nowhere;
    }
    record_fill(&m->records[slot], row, labels, len);
    series_link(m, slot, row, hash);
    return &m->series[slot];
}

void metric_drop(struct metric *m, struct metric_series *s)
{
    uint32_t slot, *link;

    if (s == &m->nowhere)
        return;
    slot = (uint32_t)(s - m->series);
    must(slot < m->segment->series_max && s->record != NULL);
    for (link = &m->chains[s->hash & m->mask]; *link != slot; link = &m->series[*link].next)
        must(*link != NONE);
    *link = s->next;
    record_end(s->record);
    series_free(m, slot);
}

void metric_drop_unclaimed(struct metric *m, const char *label)
{
    uint32_t i;

    for (i = 0; i < m->segment->series_max; i++) {
        struct metric_series *s = &m->series[i];

        if (s->record != NULL && s->unclaimed && metric_has_label(m->rows[s->row].labels, label))
            metric_drop(m, s);
    }
}

void metric_add(struct metric_series *s, double v)
{
    if (v > 0) /* and a NaN is not */
        value_store(&s->record->values[0], value_load(&s->record->values[0]) + v);
}

void metric_set(struct metric_series *s, double v)
{
    value_store(&s->record->values[0], v);
}

void metric_observe(struct metric_series *s, double v)
{
    struct metric_record *r = s->record;
    uint32_t i = 0;

    if (!isfinite(v))
        return;
    while (i < s->bound_count && v > s->bounds[i])
        i++;
    value_store(&r->values[i], value_load(&r->values[i]) + 1);
    i = METRIC_VALUES - 1;
    value_store(&r->values[i], value_load(&r->values[i]) + v);
}

double metric_value(const struct metric_series *s)
{
    double sum = value_load(&s->record->values[0]);
    uint32_t i;

    for (i = 1; i <= s->bound_count; i++)
        sum += value_load(&s->record->values[i]);
    return sum;
}

/* ---- the file ---- */

static void text_copy(char *dst, size_t size, const char *src)
{
    must(strlen(src) < size); /* a table of ours */
    memcpy(dst, src, strlen(src) + 1);
}

static void row_fill(struct metric_row *r, const struct metric_desc *d)
{
    size_t keys = *d->labels != '\0', i;

    text_copy(r->name, sizeof(r->name), d->name);
    text_copy(r->help, sizeof(r->help), d->help);
    text_copy(r->labels, sizeof(r->labels), d->labels);
    for (i = 0; d->labels[i] != '\0'; i++)
        keys += d->labels[i] == ',';
    must(keys <= METRIC_KEYS_MAX);
    r->kind = (uint32_t)d->kind;
    if (d->kind != METRIC_HISTOGRAM)
        return;
    for (i = 0; d->bounds[i] > 0; i++) {
        must(i < METRIC_BUCKETS);
        r->bounds[i] = d->bounds[i];
    }
    r->bound_count = (uint32_t)i;
}

/* True once this process alone may use the name. The lock file stays: removing it would let two
 * processes lock two files of one name. */
static bool name_lock(const char *folder, const char *name, int *fd)
{
    char path[256];

    snprintf(path, sizeof(path), "%s/.%s.lock", folder, name);
    *fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0640);
    if (*fd < 0)
        return false;
    if (flock(*fd, LOCK_EX | LOCK_NB) == 0)
        return true;
    close(*fd);
    *fd = -1;
    return false;
}

static enum err name_take(const char *folder, const char *process, char *path, size_t size, int *fd)
{
    char name[80];
    int i;

    for (i = 1; i <= NAMES_MAX; i++) {
        if (i == 1)
            snprintf(name, sizeof(name), "%s", process);
        else
            snprintf(name, sizeof(name), "%s.%d", process, i);
        errno = 0;
        if (name_lock(folder, name, fd)) {
            if (snprintf(path, size, "%s/%s", folder, name) >= (int)size)
                return ERR_CONF;
            return ERR_OK;
        }
        if (errno != EWOULDBLOCK)
            return ERR_IO;
    }
    return ERR_BUSY;
}

/* Series of a predecessor: counters and histograms go on, gauges end. A record that is not as it
 * should be ends, too. */
static void records_adopt(struct metric *m)
{
    uint32_t used = atomic_load(&m->segment->series_used), i;

    if (used > m->segment->series_max)
        used = m->segment->series_max;
    atomic_store(&m->segment->series_used, used);
    for (i = used; i-- > 0;) {
        struct metric_record *r = &m->records[i];
        uint64_t shape = atomic_load(&r->shape);
        uint32_t row = (uint32_t)(shape >> 32), len = (uint32_t)shape;
        char labels[METRIC_LABEL_BYTES];
        size_t k;

        if ((atomic_load(&r->seq) & 1) == 0 || row >= m->segment->row_count ||
            len > sizeof(labels) || m->rows[row].kind == METRIC_GAUGE) {
            record_end(r);
            series_free(m, i);
            continue;
        }
        for (k = 0; k < len; k += 8) {
            uint64_t word = atomic_load(&r->labels[k / 8]);

            memcpy(labels + k, &word, 8);
        }
        series_link(m, i, row, hash_of(row, labels, len));
        m->series[i].unclaimed = true;
    }
}

static enum err file_adopt(struct metric *m, const char *path, uint32_t rows, uint32_t series_max)
{
    enum err e = shm_adopt(path, SHM_METRICS, METRIC_LAYOUT, metric_segment_bytes(rows, series_max),
                           &m->shm);

    if (e != ERR_OK)
        return e;
    m->segment = (struct metric_segment *)(void *)m->shm.head;
    if (m->segment->row_count == rows && m->segment->series_max == series_max &&
        memcmp(m->segment + 1, m->rows, rows * sizeof(*m->rows)) == 0)
        return ERR_OK;
    shm_close(&m->shm);
    return ERR_LAYOUT;
}

static enum err file_create(struct metric *m, const char *path, uint32_t rows, uint32_t series_max)
{
    enum err e = shm_create(path, SHM_METRICS, METRIC_LAYOUT,
                            metric_segment_bytes(rows, series_max), &m->shm);

    if (e != ERR_OK)
        return e;
    m->segment = (struct metric_segment *)(void *)m->shm.head;
    m->segment->row_count = rows;
    m->segment->series_max = series_max;
    memcpy(m->segment + 1, m->rows, rows * sizeof(*m->rows));
    return shm_publish(&m->shm);
}

static void tables_make(struct metric *m, uint32_t series_max)
{
    uint32_t i;

    m->mask = 15;
    while (m->mask < series_max)
        m->mask = m->mask * 2 + 1;
    m->chains = malloc((m->mask + 1) * sizeof(*m->chains));
    m->series = calloc(series_max, sizeof(*m->series));
    must(m->chains != NULL && m->series != NULL);
    for (i = 0; i <= m->mask; i++)
        m->chains[i] = NONE;
    m->free_head = NONE;
    m->nowhere.record = &m->nowhere_record;
}

enum err metric_open(const char *run_dir, const char *process, const struct metric_desc *desc,
                     size_t desc_count, uint32_t series_max, struct metric **out)
{
    struct metric *m = calloc(1, sizeof(*m));
    uint32_t rows = (uint32_t)desc_count, i;
    char folder[160], path[200];
    enum err e;

    must(m != NULL && desc_count <= METRIC_ROWS_MAX && series_max <= METRIC_SERIES_MAX);
    m->lock_fd = -1;
    m->rows = calloc(desc_count + 1, sizeof(*m->rows));
    must(m->rows != NULL);
    for (i = 0; i < rows; i++)
        row_fill(&m->rows[i], &desc[i]);
    tables_make(m, series_max);
    snprintf(folder, sizeof(folder), "%s/metrics", run_dir);
    if (mkdir(run_dir, 0750) == 0 || errno == EEXIST)
        (void)!mkdir(folder, 0770);
    e = name_take(folder, process, path, sizeof(path), &m->lock_fd);
    if (e == ERR_OK)
        e = file_adopt(m, path, rows, series_max);
    if (e == ERR_LAYOUT || e == ERR_NOT_FOUND)
        e = file_create(m, path, rows, series_max);
    if (e != ERR_OK) {
        metric_close(m);
        return e;
    }
    m->records = (struct metric_record *)(void *)((char *)m->segment + metric_records_offset(rows));
    records_adopt(m);
    for (i = 0; i < rows; i++)
        if (m->rows[i].labels[0] == '\0')
            metric_get(m, i, NULL);
    *out = m;
    return ERR_OK;
}

void metric_close(struct metric *m)
{
    if (m == NULL)
        return;
    shm_close(&m->shm);
    if (m->lock_fd >= 0)
        close(m->lock_fd);
    free(m->chains);
    free(m->series);
    free(m->rows);
    free(m);
}

void metric_beat(struct metric *m)
{
    shm_beat(&m->shm);
}
