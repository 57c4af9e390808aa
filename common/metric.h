/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_METRIC_H
#define SLIP_METRIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"

/*
 * Counters, gauges and histograms in shared memory: one file per process,
 * run_dir/metrics/<process>, written by that process alone; anybody who may read the folder adds
 * all of them up into Prometheus text. Files describe themselves (name, kind, help, buckets), so
 * the reader needs no table. Counters of a dead process still count, its gauges do not (stale
 * beat). A restarted process carries on in its predecessor's file where the table is the same.
 *
 * A table is an X-macro file, metrics.def of a process's folder:
 *
 *   METRIC(requests, "slipstream_requests_total", COUNTER, "Requests.", "method,code", NULL)
 *   METRIC(latency, "slipstream_request_seconds", HISTOGRAM, "Time.", "", METRIC_SECONDS)
 *
 * which becomes an enumeration of rows (M_requests, M_latency) and the descriptions:
 *
 *   enum {
 *   #define METRIC METRIC_ROW_ENUM
 *   #include "gateway/metrics.def"
 *   #undef METRIC
 *   };
 *   static const struct metric_desc descs[] = {
 *   #define METRIC METRIC_ROW_DESC
 *   #include "gateway/metrics.def"
 *   #undef METRIC
 *   };
 */
enum metric_kind { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

#define METRIC_ROW_ENUM(field, name, kind, help, labels, buckets) M_##field,
#define METRIC_ROW_DESC(field, name, kind, help, labels, buckets) \
    {name, help, labels, METRIC_##kind, buckets},

#define METRIC_BUCKETS 20
struct metric_desc {
    const char *name, *help, *labels; /* labels: "workflow_id,tenant" or "" */
    enum metric_kind kind;
    const double *bounds; /* upper bounds, ascending, ended by 0; histograms only */
};

struct metric;        /* a process's own file */
struct metric_series; /* one time series; owned by its metric file */

extern const double METRIC_SECONDS[]; /* 0.001 .. 300 */
extern const double METRIC_MICROS[];  /* 1e-5 .. 10, in seconds */
extern const double METRIC_TOKENS[];

/*
 * series_max bounds everything: beyond it, metric_get answers a series that goes nowhere, and
 * slipstream_metric_series_dropped_total counts. One thread, but for metric_expose. Where another
 * process of this name lives, the file is <process>.2 and so on: no file has two writers. ERR_BUSY:
 * all of those are taken, too. series of rows without labels exist from the start.
 */
enum err metric_open(const char *run_dir, const char *process, const struct metric_desc *desc,
                     size_t desc_count, uint32_t series_max, struct metric **out);
void metric_close(struct metric *m); /* the file stays; NULL is fine */
/* At least every 2 s: gauges of a file whose last beat is 5 s old are left out. */
void metric_beat(struct metric *m);

/*
 * Never NULL. values: as many as the row has label keys (NULL where it has none). Finds or makes
 * the series; keep the answer rather than asking again, it is good until metric_drop or
 * metric_close. Values may be any bytes: they are escaped, what is no UTF-8 is replaced, what is
 * too long is cut and marked with a hash of the whole.
 */
struct metric_series *metric_get(struct metric *m, unsigned row, const char *const *values);
/* The series vanishes from the exposition; s must not be used again. */
void metric_drop(struct metric *m, struct metric_series *s);
/* Drops the series with this label key that came from the predecessor and that nobody has asked for
 * since metric_open. For a process that has restored all that still lives. */
void metric_drop_unclaimed(struct metric *m, const char *label);

void metric_add(struct metric_series *s, double v);     /* counters; less than 0 is not added */
void metric_set(struct metric_series *s, double v);     /* gauges */
void metric_observe(struct metric_series *s, double v); /* histograms */
double metric_value(const struct metric_series *s); /* counters and gauges; a histogram's count */

/*
 * Adds up every file of run_dir/metrics as Prometheus text. skip_label: series that carry this
 * label key are left out (NULL: none). Any thread, any process that may read the folder. Files that
 * are no metrics files, or damaged, are passed over. ERR_IO: there is no such folder.
 */
enum err metric_expose(const char *run_dir, const char *skip_label, struct buf *out);

#endif
