/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/sim/sim_report.h"

#include <string.h>

static void add_count(struct buf *out, const char *key, uint64_t v)
{
    buf_addf(out, ",\"%s\":%llu", key, (unsigned long long)v);
}

static void add_number(struct buf *out, const char *key, double v)
{
    buf_addf(out, ",\"%s\":%.6f", key, v);
}

void sim_report_add_json(const struct sim_result *r, const char *policy, struct buf *out)
{
    const struct report *p = &r->report;

    buf_adds(out, "{\"policy\":");
    buf_add_json(out, policy, strlen(policy));
    add_number(out, "hit", p->hit);
    add_number(out, "ttft_mean", p->ttft_mean);
    add_number(out, "ttft_p50", p->ttft_p50);
    add_number(out, "ttft_p90", p->ttft_p90);
    add_number(out, "ttft_p99", p->ttft_p99);
    add_number(out, "ttft_max", p->ttft_max);
    add_number(out, "e2e_mean", p->e2e_mean);
    add_number(out, "wf_mean", p->wf_mean);
    add_number(out, "wf_p99", p->wf_p99);
    add_number(out, "span", p->span);
    add_number(out, "dup", r->dup);
    add_number(out, "kv_held", r->kv_held);
    add_count(out, "ptok", p->ptok);
    add_count(out, "recomputed_tokens", p->recomputed_tokens);
    add_count(out, "held", r->held);
    add_count(out, "peak", r->peak);
    add_count(out, "uniq", r->uniq);
    add_count(out, "prompt_tokens", p->prompt_tokens);
    add_count(out, "output_tokens", p->output_tokens);
    add_count(out, "requests", p->calls);
    add_count(out, "workflows", p->workflows);
    buf_adds(out, "}\n");
}

void sim_report_add_head(struct buf *out)
{
    buf_addf(out, "%-28s %6s %8s %8s %8s %8s %8s %9s %9s %8s %7s %7s %7s %6s %6s\n", "policy",
             "hit", "ttft", "p50", "p99", "max", "request", "workflow", "wf p99", "span", "prefill",
             "again", "peak", "copies", "held");
    buf_addf(out, "%-28s %6s %8s %8s %8s %8s %8s %9s %9s %8s %7s %7s %7s %6s %6s\n", "", "%", "s",
             "s", "s", "s", "s", "s", "s", "s", "Mtok", "Mtok", "Mtok", "%", "");
}

void sim_report_add_row(const struct sim_result *r, const char *policy, struct buf *out)
{
    const struct report *p = &r->report;

    buf_addf(out,
             "%-28s %6.1f %8.3f %8.3f %8.2f %8.1f %8.2f %9.1f %9.1f %8.0f %7.2f %7.2f %7.2f %6.1f "
             "%6u\n",
             policy, p->hit, p->ttft_mean, p->ttft_p50, p->ttft_p99, p->ttft_max, p->e2e_mean,
             p->wf_mean, p->wf_p99, p->span, (double)p->ptok / 1e6,
             (double)p->recomputed_tokens / 1e6, (double)r->peak / 1e6, r->dup, r->held);
}
