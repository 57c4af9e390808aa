/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/engine/metrics.h"

static const double bounds[METRICS_BUCKETS] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,
                                               0.25,  0.5,   0.75, 1,    2.5,  5,    7.5,  10,
                                               20,    40,    80,   160,  640,  2560};

void histogram_add(struct histogram *h, double seconds)
{
    h->sum += seconds;
    h->count++;
    for (size_t i = 0; i < METRICS_BUCKETS; i++) {
        if (seconds <= bounds[i]) {
            h->below[i]++;
            return;
        }
    }
}

static void head(const char *name, const char *type, const char *help, struct buf *out)
{
    buf_addf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void simple(const char *name, const char *type, const char *help, double value,
                   const char *model, struct buf *out)
{
    head(name, type, help, out);
    buf_addf(out, "%s{model_name=%s,engine=\"0\"} %.17g\n", name, model, value);
}

static void print_histogram(const struct histogram *h, const char *name, const char *help,
                            const char *model, struct buf *out)
{
    uint64_t sum = 0;

    head(name, "histogram", help, out);
    for (size_t i = 0; i < METRICS_BUCKETS; i++) {
        sum += h->below[i];
        buf_addf(out, "%s_bucket{model_name=%s,engine=\"0\",le=\"%g\"} %llu\n", name, model,
                 bounds[i], (unsigned long long)sum);
    }
    buf_addf(
        out,
        "%s_bucket{model_name=%s,engine=\"0\",le=\"+Inf\"} %llu\n"
        "%s_sum{model_name=%s,engine=\"0\"} %.17g\n%s_count{model_name=%s,engine=\"0\"} %llu\n",
        name, model, (unsigned long long)h->count, name, model, h->sum, name, model,
        (unsigned long long)h->count);
}

static void print_success(const char *reason, uint64_t n, const char *model, struct buf *out)
{
    buf_addf(out,
             "vllm:request_success_total{model_name=%s,engine=\"0\",finished_reason=\"%s\"} %llu\n",
             model, reason, (unsigned long long)n);
}

void metrics_print(const struct metrics *m, const struct engine_stats *s, const char *model,
                   struct buf *out)
{
#define GAUGE(name, value, help) simple(name, "gauge", help, (double)(value), model, out);
#define COUNTER(name, value, help) simple(name, "counter", help, (double)(value), model, out);
#define HISTOGRAM(field, name, help) print_histogram(&m->field, name, help, model, out);
#include "bench/engine/metrics.def"
#undef GAUGE
#undef COUNTER
#undef HISTOGRAM
    head("vllm:request_success_total", "counter", "Requests that finished, by reason.", out);
    print_success("length", m->length_total, model, out);
    print_success("stop", m->stop_total, model, out);
    print_success("abort", s->cancelled, model, out);
    head("vllm:cache_config_info", "gauge", "Cache configuration.", out);
    buf_addf(out, "vllm:cache_config_info{engine=\"0\",num_gpu_blocks=\"%u\"} 1\n", s->blocks);
}
