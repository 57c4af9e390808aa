/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/replay/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/must.h"

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

double report_percentile(double *v, size_t n, double p)
{
    size_t i = (size_t)(p * (double)n);

    if (n == 0)
        return 0;
    qsort(v, n, sizeof(*v), by_value);
    return v[i < n ? i : n - 1];
}

static double mean(const double *v, size_t n)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += v[i];
    return n > 0 ? sum / (double)n : 0;
}

struct life {
    uint32_t workflow;
    double from, to;
};

static int by_workflow(const void *a, const void *b)
{
    uint32_t x = ((const struct life *)a)->workflow, y = ((const struct life *)b)->workflow;

    return x < y ? -1 : x > y;
}

/* First ready to last end of each workflow, into v; returns how many. */
static size_t lives(const struct outcome *all, size_t count, double *v)
{
    struct life *l = calloc(count + 1, sizeof(*l));
    size_t n = 0;

    must(l != NULL);
    for (size_t i = 0; i < count; i++)
        l[i] = (struct life){all[i].workflow, all[i].ready, all[i].ready + all[i].end};
    qsort(l, count, sizeof(*l), by_workflow);
    for (size_t i = 0; i < count; i++) {
        if (n == 0 || l[n - 1].workflow != l[i].workflow) {
            l[n++] = l[i];
            continue;
        }
        l[n - 1].from = fmin(l[n - 1].from, l[i].from);
        l[n - 1].to = fmax(l[n - 1].to, l[i].to);
    }
    for (size_t i = 0; i < n; i++)
        v[i] = l[i].to - l[i].from;
    free(l);
    return n;
}

void report_make(const struct outcome *all, size_t count, struct report *out)
{
    double *v = calloc(2 * count + 2, sizeof(*v)), *ends = v + count + 1, expected = 0,
           start = INFINITY;
    size_t n = 0, runs;

    must(v != NULL);
    memset(out, 0, sizeof(*out));
    out->calls = (uint32_t)count;
    for (size_t i = 0; i < count; i++) {
        const struct outcome *o = &all[i];

        start = fmin(start, o->ready);
        out->span = fmax(out->span, o->ready + o->end);
        if (!o->ok) {
            out->errors++;
            continue;
        }
        v[n] = o->first;
        ends[n++] = o->end;
        out->prompt_tokens += o->prompt_tokens;
        out->cached_tokens += o->cached_tokens;
        out->output_tokens += o->output_tokens;
        expected += o->expected_cached;
    }
    out->span -= count > 0 ? start : 0;
    /* Over all calls: of two that share, either may be the first to be computed. */
    if (expected > (double)out->cached_tokens)
        out->recomputed_tokens = (uint64_t)expected - out->cached_tokens;
    out->ptok = out->prompt_tokens - out->cached_tokens;
    if (out->prompt_tokens > 0) {
        out->hit = 100 * (double)out->cached_tokens / (double)out->prompt_tokens;
        out->infinite_hit = 100 * expected / (double)out->prompt_tokens;
    }
    out->ttft_mean = mean(v, n);
    out->ttft_p50 = report_percentile(v, n, .5);
    out->ttft_p90 = report_percentile(v, n, .9);
    out->ttft_p99 = report_percentile(v, n, .99);
    out->ttft_max = report_percentile(v, n, 1);
    out->e2e_mean = mean(ends, n);
    runs = lives(all, count, v);
    out->workflows = (uint32_t)runs;
    out->wf_mean = mean(v, runs);
    out->wf_p99 = report_percentile(v, runs, .99);
    free(v);
}

static void add_optional(struct buf *out, const char *key, double value)
{
    if (value < 0)
        buf_addf(out, ",\"%s\":null", key);
    else
        buf_addf(out, ",\"%s\":%.1f", key, value);
}

void report_add_json(const struct report *r, const struct report_label *l, struct buf *out)
{
    buf_adds(out, "{\"policy\":");
    buf_add_json(out, l->policy, strlen(l->policy));
    buf_adds(out, ",\"trace\":");
    buf_add_json(out, l->trace, strlen(l->trace));
    buf_addf(out, ",\"hit\":%.2f,\"ttft_mean\":%.4f,\"ttft_p50\":%.4f,\"ttft_p90\":%.4f", r->hit,
             r->ttft_mean, r->ttft_p50, r->ttft_p90);
    buf_addf(out, ",\"ttft_p99\":%.4f,\"ttft_max\":%.4f,\"e2e_mean\":%.4f,\"wf_mean\":%.3f",
             r->ttft_p99, r->ttft_max, r->e2e_mean, r->wf_mean);
    buf_addf(out, ",\"wf_p99\":%.3f,\"span\":%.3f,\"prompt_tokens\":%llu,\"ptok\":%llu", r->wf_p99,
             r->span, (unsigned long long)r->prompt_tokens, (unsigned long long)r->ptok);
    buf_addf(out, ",\"output_tokens\":%llu,\"recomputed_tokens\":%llu,\"infinite_hit\":%.2f",
             (unsigned long long)r->output_tokens, (unsigned long long)r->recomputed_tokens,
             r->infinite_hit);
    add_optional(out, "engine_hit", l->engine_hit);
    add_optional(out, "kv_held", l->kv_held);
    add_optional(out, "kv_peak", l->kv_peak);
    buf_addf(out, ",\"calls\":%u,\"workflows\":%u,\"errors\":%u,\"users\":%u,\"time_scale\":%g}\n",
             r->calls, r->workflows, r->errors, l->users, l->time_scale);
}

void report_add_text(const struct report *r, const struct report_label *l, struct buf *out)
{
    buf_addf(out, "%s on %s: %u calls, %u workflows, %u errors\n", l->policy, l->trace, r->calls,
             r->workflows, r->errors);
    buf_addf(out, "  hit %.1f %% (one endless cache: %.1f %%)  prefilled %llu  recomputed %llu\n",
             r->hit, r->infinite_hit, (unsigned long long)r->ptok,
             (unsigned long long)r->recomputed_tokens);
    buf_addf(out, "  ttft mean %.3f  p50 %.3f  p90 %.3f  p99 %.3f  max %.3f s\n", r->ttft_mean,
             r->ttft_p50, r->ttft_p90, r->ttft_p99, r->ttft_max);
    buf_addf(out, "  request mean %.3f s  workflow mean %.1f  p99 %.1f s  span %.0f s\n",
             r->e2e_mean, r->wf_mean, r->wf_p99, r->span);
    if (l->kv_held >= 0)
        buf_addf(out, "  KV held: mean %.0f  peak %.0f tokens\n", l->kv_held, l->kv_peak);
    if (l->engine_hit >= 0)
        buf_addf(out, "  hit by the engines' own counters: %.1f %%\n", l->engine_hit);
}
