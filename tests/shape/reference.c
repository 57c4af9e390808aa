/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "common/conf.h"
#include "common/err.h"
#include "common/policy_spec.h"
#include "gateway/mcp_tools.h"

/*
 * Prints the pages of docs/reference/ and examples/slipstream.yaml from the tables.
 *
 *   slip_reference config | errors | metrics | faults | policies | mcp | http | example
 */
static void errors_print(struct buf *out)
{
    unsigned i;

    buf_adds(out,
             "# Errors\n\n"
             "Every error that Slipstream itself answers. `code` is stable and for programs; "
             "`type` is OpenAI's error type.\n"
             "*Retry*: the advice in `Retry-After`, in milliseconds; empty where repeating the "
             "same request cannot help.\n"
             "The number travels between processes.\n\n"
             "Printed from the table `common/err.def`.\n\n"
             "| number | code | HTTP | type | retry | meaning |\n|---|---|---|---|---|---|\n");
    for (i = 1; i < ERR_COUNT; i++) {
        enum err e = (enum err)i;

        buf_addf(out, "| %u | `%s` | %u | `%s` | ", i, err_code(e), err_http(e), err_type(e));
        if (err_retry_ms(e) >= 0)
            buf_addf(out, "%d", err_retry_ms(e));
        buf_addf(out, " | %s |\n", err_text(e));
    }
}

struct metric_line {
    const char *name, *kind, *labels, *help;
};

#define METRIC(field, name, kind, help, labels, buckets) {name, #kind, labels, help},
static const struct metric_line gateway_lines[] = {
#ifdef HAVE_GATEWAY_METRICS
#include "gateway/metrics.def"
#endif
    {NULL, NULL, NULL, NULL}};
static const struct metric_line scheduler_lines[] = {
#ifdef HAVE_SCHEDULER_METRICS
#include "scheduler/metrics.def"
#endif
    {NULL, NULL, NULL, NULL}};
static const struct metric_line mailbox_lines[] = {
#ifdef HAVE_MAILBOX_METRICS
#include "mailbox/metrics.def"
#endif
    {NULL, NULL, NULL, NULL}};
#undef METRIC

static void metric_lines_print(const char *title, const struct metric_line *line, struct buf *out)
{
    if (line->name == NULL)
        return;
    buf_addf(out, "\n## %s\n\n| name | kind | labels | meaning |\n|---|---|---|---|\n", title);
    for (; line->name != NULL; line++) {
        const char *kind = line->kind[0] == 'C'   ? "counter"
                           : line->kind[0] == 'G' ? "gauge"
                                                  : "histogram";

        buf_addf(out, "| `%s` | %s | %s%s%s | %s |\n", line->name, kind,
                 *line->labels != '\0' ? "`" : "", line->labels, *line->labels != '\0' ? "`" : "",
                 line->help);
    }
}

static void metrics_print(struct buf *out)
{
    buf_adds(out,
             "# Metrics\n\n"
             "`/metrics` of any gateway worker answers for all processes of the host: counters "
             "and histograms are summed over them, those of processes that have ended "
             "included; gauges count while their process lives (a sign of life in the last "
             "5 s).\n"
             "The data plane's `/metrics` leaves out everything with a `workflow_id` label; "
             "the admin listener's has all.\n\n"
             "Printed from the tables `*/metrics.def`.\n");
    metric_lines_print("gateway", gateway_lines, out);
    metric_lines_print("scheduler", scheduler_lines, out);
    metric_lines_print("mailbox", mailbox_lines, out);
    buf_adds(out, "\n## all\n\n| name | kind | labels | meaning |\n|---|---|---|---|\n"
                  "| `slipstream_metric_series_dropped_total` | counter |  | Series that were not "
                  "kept because a process had as many as it may. |\n");
}

static void faults_print(struct buf *out)
{
    buf_adds(out, "# Faults that tests can order\n\n"
                  "Builds with `SLIP_FAULTS` take `SLIPSTREAM_FAULTS=name=count,name=count` in the "
                  "environment: each named failure then happens that many times. Release builds "
                  "have none of them.\n\n"
                  "Printed from the table `common/faults.def`.\n\n"
                  "| name | what happens |\n|---|---|\n");
#define FAULT(name, help) buf_addf(out, "| `%s` | %s |\n", #name, help);
#include "common/faults.def"
#undef FAULT
}

/* The words of the table's rows. */
enum { DATA, ADMIN, BOTH, LISTENERS };
enum { OPENAI, ANTHROPIC, PROBLEM, JSONRPC, DIALECTS };
static const char *const listeners[LISTENERS] = {"clients", "admin", "clients, admin"};
static const char *const dialects[DIALECTS] = {"OpenAI", "Anthropic", "[problem+json](errors.md)",
                                               "JSON-RPC"};

static void routes_print(struct buf *out)
{
    buf_adds(
        out,
        "# HTTP interface\n\n"
        "The first row that fits counts; {} stands for one part of the path, * for any rest. "
        "Listener `clients` is `gateway.listen`, `admin` is `gateway.admin_listen`. For clients, "
        "`/v1/...` and `/mcp` may have `/wf/{workflow}` or `/wf/{workflow}/agents/{agent}` in "
        "front (`gateway.trust_workflow_path`). A path without a row is 404, one with rows for "
        "other methods only 405. Messages between agents: [mailboxes](../mailbox.md), "
        "[MCP](../mcp.md).\n\n"
        "Printed from the table `gateway/routes.def`.\n\n"
        "| method and path | what | listener | its errors |\n|---|---|---|---|\n");
#define ROUTE(listener, method, path, handle, dialect, shape, help)                        \
    buf_addf(out, "| `%s %s` | %s | %s | %s |\n", method, path, help, listeners[listener], \
             dialects[dialect]);
#include "gateway/routes.def"
#undef ROUTE
}

int main(int argc, char **argv)
{
    static const struct page {
        const char *name;
        void (*print)(struct buf *out);
    } pages[] = {
        {"config", conf_reference}, {"errors", errors_print},     {"metrics", metrics_print},
        {"faults", faults_print},   {"policies", spec_reference}, {"mcp", mcp_tools_reference},
        {"http", routes_print},     {"example", conf_example},
    };
    struct buf out = {0};
    size_t i;

    for (i = 0; argc == 2 && i < sizeof(pages) / sizeof(pages[0]); i++) {
        if (strcmp(pages[i].name, argv[1]) != 0)
            continue;
        if (pages[i].print == conf_example) /* the only page that is no Markdown */
            buf_adds(&out, "# SPDX-License-Identifier: Apache-2.0\n");
        pages[i].print(&out);
        fwrite(out.base, 1, out.len, stdout);
        buf_fini(&out);
        return fflush(stdout) == 0 ? 0 : 1;
    }
    fprintf(stderr, "usage: slip_reference config | errors | metrics | faults | policies | mcp | "
                    "http | example\n");
    return 64;
}
