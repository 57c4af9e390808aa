/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_METRIC_LAYOUT_H
#define SLIP_METRIC_LAYOUT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/metric.h"
#include "common/shm.h"

/*
 * One metrics file: head, rows (the table, constant), records (the series). For metric.c, which
 * writes, and metric_expose.c, which reads.
 *
 * A record is live while its seq is odd. Who makes a series fills the record and then stores the
 * next odd number; who drops it stores the next even one. So a copy counts if seq was odd and the
 * same before and after, whatever moment the writer died at. Values are doubles in 64-bit words,
 * each with one writer: a plain load, add and store. Buckets are not cumulative, and a histogram's
 * count is their sum, so that a copy can never disagree with itself.
 */
#define METRIC_LAYOUT 1u
#define METRIC_ROWS_MAX 512u
#define METRIC_SERIES_MAX (1u << 20)
#define METRIC_LABEL_BYTES 512u
#define METRIC_KEYS_MAX 6u
#define METRIC_VALUES (METRIC_BUCKETS + 2) /* buckets, the one without a bound, the sum */

struct metric_row {
    char name[96], help[256], labels[128]; /* NUL-terminated */
    uint32_t kind;                         /* enum metric_kind */
    uint32_t bound_count;
    double bounds[METRIC_BUCKETS];
};
_Static_assert(sizeof(struct metric_row) == 648, "metric_row");

struct metric_record {
    _Atomic uint64_t seq;
    _Atomic uint64_t shape;                          /* row << 32 | bytes of labels */
    _Atomic uint64_t labels[METRIC_LABEL_BYTES / 8]; /* a="b",c="d", escaped */
    _Atomic uint64_t values[METRIC_VALUES];          /* counters and gauges: the first */
};
_Static_assert(sizeof(struct metric_record) == 704, "metric_record");

struct metric_segment {
    struct shm_head head;
    uint32_t row_count, series_max;
    _Atomic uint32_t series_used; /* records from here on were never live */
    uint32_t reserved;
    _Atomic uint64_t dropped; /* series that found no room */
    uint64_t reserved2[5];
};
_Static_assert(sizeof(struct metric_segment) == 192, "metric_segment");

static inline size_t metric_records_offset(uint32_t row_count)
{
    return (sizeof(struct metric_segment) + row_count * sizeof(struct metric_row) + 63) &
           ~(size_t)63;
}

static inline size_t metric_segment_bytes(uint32_t row_count, uint32_t series_max)
{
    return metric_records_offset(row_count) + series_max * sizeof(struct metric_record);
}

/* Length of the well-formed UTF-8 sequence at s, 0 if there is none. */
size_t metric_utf8_span(const unsigned char *s, size_t len);

/* Is key one of the comma-separated labels? */
bool metric_has_label(const char *labels, const char *key);

#endif
