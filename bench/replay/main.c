/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slipstream-replay: replays a workload trace against an OpenAI-compatible server and reports what
 * its callers saw. Exit code: 0 all calls answered, 1 some failed, 2 interrupted or not started,
 * 64 bad arguments.
 */
#include <argp.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench/replay/args.h"
#include "bench/replay/compare.h"
#include "bench/replay/dry.h"
#include "bench/replay/live.h"
#include "bench/replay/synth.h"
#include "common/buf.h"

const char *argp_program_version = "slipstream-replay " SLIP_VERSION;

struct options {
    const char *trace, *json, *compare;
    struct selection_rule rule;
    struct live_conf live;
    bool dry;
};

enum {
    OPT_URL = 256,
    OPT_TRACE,
    OPT_SESSIONS,
    OPT_MAX_STEPS,
    OPT_USERS,
    OPT_GAP_CAP,
    OPT_STAGGER,
    OPT_TIME_SCALE,
    OPT_SEED,
    OPT_SELECT,
    OPT_MODEL,
    OPT_HEADER,
    OPT_METADATA,
    OPT_NO_WORKFLOW,
    OPT_FINAL,
    OPT_POLICY,
    OPT_TAG,
    OPT_TIMEOUT,
    OPT_ENGINES,
    OPT_JSON,
    OPT_PROGRESS,
    OPT_DRY,
    OPT_COMPARE
};

static const struct argp_option ARGS[] = {
    {"url", OPT_URL, "URL,...", 0, "where calls go, in turn (http://127.0.0.1:8080)", 0},
    {"trace", OPT_TRACE, "FILE", 0, "JSON lines, gzip or plain; or \"synthetic\" (default)", 0},
    {"sessions", OPT_SESSIONS, "N", 0, "how many workflows (open traces: calls); 0: all", 0},
    {"max-steps", OPT_MAX_STEPS, "N", 0, "only the first N calls of each workflow; 0: all", 0},
    {"users", OPT_USERS, "N", 0, "workflows at a time; 0: no limit (16)", 0},
    {"gap-cap", OPT_GAP_CAP, "S", 0, "longest pause between calls, model seconds (60)", 0},
    {"stagger", OPT_STAGGER, "S", 0, "between the starts of the first users (1)", 0},
    {"time-scale", OPT_TIME_SCALE, "X", 0, "model seconds per real second (1)", 0},
    {"seed", OPT_SEED, "N", 0, "of the synthetic workload and the selection (1)", 0},
    {"select", OPT_SELECT, "first|shuffle", 0, "which workflows, in which order (shuffle)", 0},
    {"model", OPT_MODEL, "NAME", 0, "model to ask for (sim)", 0},
    {"workflow-header", OPT_HEADER, NULL, 0, "identity in X-Workflow-ID, X-Agent-ID (default)", 0},
    {"workflow-metadata", OPT_METADATA, NULL, 0, "identity in workflow_metadata of the body", 0},
    {"no-workflow", OPT_NO_WORKFLOW, NULL, 0, "no identity", 0},
    {"final", OPT_FINAL, NULL, 0, "mark the last call of each workflow as final", 0},
    {"policy", OPT_POLICY, "NAME", 0, "label of the report", 0},
    {"tag", OPT_TAG, "WORD", 0, "prefix of workflow ids (drawn)", 0},
    {"timeout", OPT_TIMEOUT, "S", 0, "longest life of a call, real seconds (600)", 0},
    {"engines", OPT_ENGINES, "URL,...", 0, "engines whose /metrics are sampled", 0},
    {"json", OPT_JSON, "FILE", 0, "append the report as one line of JSON; -: stdout", 0},
    {"progress", OPT_PROGRESS, NULL, 0, "show progress on stderr", 0},
    {"dry-run", OPT_DRY, NULL, 0, "send nothing: compare the prompts with the trace", 0},
    {"compare", OPT_COMPARE, "FILE", 0,
     "send nothing: print reports written by --json side by side; with --json OUT as one object",
     0},
    {0},
};

static bool parse_number(struct options *o, int key, const char *arg, struct argp_state *state)
{
    switch (key) {
    case OPT_SESSIONS:
        o->rule.sessions = (uint32_t)args_number(arg, 0, 1e6, state, "sessions");
        return true;
    case OPT_MAX_STEPS:
        o->rule.max_steps = (uint32_t)args_number(arg, 0, 1e6, state, "max-steps");
        return true;
    case OPT_SEED:
        o->rule.seed = (uint32_t)args_number(arg, 0, 4294967295.0, state, "seed");
        return true;
    case OPT_USERS:
        o->live.rule.users = (uint32_t)args_number(arg, 0, 1e6, state, "users");
        return true;
    case OPT_GAP_CAP:
        o->live.rule.gap_cap = args_number(arg, 0, 1e9, state, "gap-cap");
        return true;
    case OPT_STAGGER:
        o->live.rule.stagger = args_number(arg, 0, 1e9, state, "stagger");
        return true;
    case OPT_TIME_SCALE:
        o->live.time_scale = args_number(arg, .001, 1000, state, "time-scale");
        return true;
    case OPT_TIMEOUT:
        o->live.timeout_ms = (uint32_t)(1000 * args_number(arg, .001, 86400, state, "timeout"));
        return true;
    default:
        return false;
    }
}

static bool parse_word(struct options *o, int key, const char *arg, struct argp_state *state)
{
    switch (key) {
    case OPT_URL:
        o->live.urls = arg;
        return true;
    case OPT_TRACE:
        o->trace = arg;
        return true;
    case OPT_SELECT:
        o->rule.shuffle = strcmp(arg, "shuffle") == 0;
        if (!o->rule.shuffle && strcmp(arg, "first") != 0)
            argp_error(state, "--select: first or shuffle");
        return true;
    case OPT_MODEL:
        o->live.model = arg;
        return true;
    case OPT_POLICY:
        o->live.policy = arg;
        return true;
    case OPT_TAG:
        o->live.tag = arg;
        return true;
    case OPT_ENGINES:
        o->live.engine_urls = arg;
        return true;
    case OPT_JSON:
        o->json = arg;
        return true;
    case OPT_COMPARE:
        o->compare = arg;
        return true;
    default:
        return false;
    }
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct options *o = state->input;

    if (parse_number(o, key, arg, state) || parse_word(o, key, arg, state))
        return 0;
    switch (key) {
    case OPT_HEADER:
        o->live.identity = LIVE_HEADER;
        return 0;
    case OPT_METADATA:
        o->live.identity = LIVE_METADATA;
        return 0;
    case OPT_NO_WORKFLOW:
        o->live.identity = LIVE_NONE;
        return 0;
    case OPT_FINAL:
        o->live.final_mark = true;
        return 0;
    case OPT_PROGRESS:
        o->live.progress = true;
        return 0;
    case OPT_DRY:
        o->dry = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static struct trace *open_trace(const struct options *o)
{
    struct trace *t = NULL;
    struct buf why = {0};

    if (strcmp(o->trace, "synthetic") == 0)
        return synth_supervisor(o->rule.sessions != 0 ? o->rule.sessions : 32, o->rule.seed);
    if (trace_load(o->trace, &t, &why) != ERR_OK)
        fprintf(stderr, "slipstream-replay: %s: %s\n", o->trace, buf_cstr(&why));
    buf_fini(&why);
    return t;
}

static int show_dry(const struct plans *plans, const struct selection *sel)
{
    struct dry d;

    dry_run(plans, sel, &d);
    printf("{\"trace\":\"%s\",\"calls\":%zu,\"trace_hit\":%.2f,\"text_hit\":%.2f,"
           "\"tokens_off\":%.4f,\"worst_off\":%u}\n",
           plans->trace->name, sel->kept, d.trace_hit, d.text_hit, d.tokens_off, d.worst_off);
    return 0;
}

static bool write_json(const char *path, const char *mode, const struct buf *text)
{
    FILE *f = strcmp(path, "-") == 0 ? stdout : fopen(path, mode);
    bool ok = f != NULL && fwrite(text->base, 1, text->len, f) == text->len;

    if (f != NULL && f != stdout)
        ok = fclose(f) == 0 && ok;
    if (!ok)
        fprintf(stderr, "slipstream-replay: %s: %s\n", path, strerror(errno));
    return ok;
}

static int run_live(const struct options *o, struct plans *plans, const struct selection *sel)
{
    struct report_label label = {.policy = o->live.policy,
                                 .trace = plans->trace->name,
                                 .users = o->live.rule.users,
                                 .time_scale = o->live.time_scale};
    struct report report = {0};
    struct buf text = {0};
    bool to_stdout = o->json != NULL && strcmp(o->json, "-") == 0, ok;

    if (!live_run(&o->live, plans, sel, &report, &label))
        return 2;
    report_add_text(&report, &label, &text);
    fputs(buf_cstr(&text), to_stdout ? stderr : stdout);
    buf_clear(&text);
    report_add_json(&report, &label, &text);
    ok = o->json == NULL || write_json(o->json, "a", &text);
    buf_fini(&text);
    return !ok ? 2 : report.errors > 0 ? 1 : 0;
}

static int run_compare(const struct options *o)
{
    struct buf in = {0}, table = {0}, wrapped = {0};
    FILE *f = fopen(o->compare, "r");
    size_t n = 1;
    bool ok;

    while (f != NULL && n > 0) {
        n = fread(buf_reserve(&in, 65536), 1, 65536, f);
        in.len += n;
    }
    if (f != NULL)
        fclose(f);
    ok = compare_reports(in.base, in.len, &table, &wrapped) == ERR_OK;
    if (!ok)
        fprintf(stderr, "slipstream-replay: %s: no reports in it\n", o->compare);
    else
        fputs(buf_cstr(&table), o->json != NULL && strcmp(o->json, "-") == 0 ? stderr : stdout);
    if (ok && o->json != NULL)
        ok = write_json(o->json, "w", &wrapped);
    buf_fini(&in);
    buf_fini(&table);
    buf_fini(&wrapped);
    return ok ? 0 : 2;
}

int main(int argc, char **argv)
{
    static const struct argp ARGP = {ARGS,
                                     parse,
                                     NULL,
                                     "Replays a workload of agents against an OpenAI-compatible "
                                     "server.",
                                     NULL,
                                     NULL,
                                     NULL};
    char tag[32];
    struct options o = {
        .trace = "synthetic",
        .rule = {.shuffle = true, .seed = 1},
        .live = {.urls = "http://127.0.0.1:8080",
                 .model = "sim",
                 .policy = "run",
                 .time_scale = 1,
                 .timeout_ms = 600000,
                 .rule = {.users = 16, .stagger = 1, .gap_cap = 60}},
    };
    struct trace *t;
    struct plans *plans;
    struct selection sel;
    int rc;

    snprintf(tag, sizeof(tag), "r%lx%x", (unsigned long)time(NULL), (unsigned)getpid());
    o.live.tag = tag;
    signal(SIGPIPE, SIG_IGN); /* a server that hangs up is an error of one call */
    argp_err_exit_status = 64;
    argp_parse(&ARGP, argc, argv, 0, NULL, &o);
    if (o.compare != NULL)
        return run_compare(&o);
    t = open_trace(&o);
    if (t == NULL)
        return 2;
    plans = plans_new(t, o.rule.seed);
    selection_make(t, &o.rule, &sel);
    rc = o.dry ? show_dry(plans, &sel) : run_live(&o, plans, &sel);
    selection_fini(&sel);
    plans_free(plans);
    trace_free(t);
    return rc;
}
