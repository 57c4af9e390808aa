/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slipstream-sim: the scheduler's core and the simulated engine's core in one loop, in virtual
 * time. Exit code: 0 done, 1 a run failed, 2 the workload or the output file cannot be had, 64 bad
 * arguments.
 */
#include <argp.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench/replay/args.h"
#include "bench/sim/patterns.h"
#include "bench/sim/sim_report.h"
#include "common/buf.h"

const char *argp_program_version = "slipstream-sim " SLIP_VERSION;

#define POLICIES_MAX 64

struct options {
    const char *trace, *synth, *policies, *json;
    struct selection_rule rule;
    struct sim_conf conf;
};

enum {
    OPT_TRACE = 256,
    OPT_SYNTH,
    OPT_POLICY,
    OPT_ENGINES,
    OPT_PROFILE,
    OPT_CACHE,
    OPT_HOST,
    OPT_USERS,
    OPT_RATE,
    OPT_STAGGER,
    OPT_SPEED,
    OPT_LIMIT,
    OPT_MAX_STEPS,
    OPT_ONLY_MULTI,
    OPT_GAP_CAP,
    OPT_SEED,
    OPT_SHARE,
    OPT_BUDGET,
    OPT_MAXSEQ,
    OPT_LAG,
    OPT_FREE_ENDED,
    OPT_JSON
};

static const struct argp_option ARGS[] = {
    {NULL, 0, NULL, 0, "Workload:", 1},
    {"trace", OPT_TRACE, "FILE", 0,
     "JSON lines, gzip or plain; one with its own launch order is replayed as it is", 1},
    {"synth", OPT_SYNTH, "NAME[:K=V,...]", 0,
     "mapreduce, pipeline, debate, chat, supervisor, tree, mix or fanout; --synth help: their "
     "options",
     1},
    {"limit", OPT_LIMIT, "N", 0, "workflows (open traces: calls) to replay; 0: all (200)", 1},
    {"max-steps", OPT_MAX_STEPS, "N", 0, "only the first N calls of each workflow; 0: all", 1},
    {"only-multi", OPT_ONLY_MULTI, NULL, 0, "only workflows of more than one agent", 1},
    {"users", OPT_USERS, "N", 0, "this many workflows at any time", 1},
    {"rate", OPT_RATE, "X", 0, "workflows started per second where --users is not given (1)", 1},
    {"stagger", OPT_STAGGER, "S", 0, "between the starts of the first users (1)", 1},
    {"speed", OPT_SPEED, "X", 0, "of recorded arrivals, open traces (1)", 1},
    {"gap-cap", OPT_GAP_CAP, "S", 0, "longest pause between calls (60)", 1},
    {"seed", OPT_SEED, "N", 0, "of the selection and of synthetic workloads (1)", 1},
    {NULL, 0, NULL, 0, "Engines:", 2},
    {"engines", OPT_ENGINES, "N", 0, "how many (4)", 2},
    {"profile", OPT_PROFILE, "NAME", 0, "8b (default) or 70b", 2},
    {"cache", OPT_CACHE, "TOKENS", 0, "KV cache of each; 0: the profile's", 2},
    {"host", OPT_HOST, "TOKENS", 0, "second tier in host memory of each (0)", 2},
    {"share", OPT_SHARE, "now|after", 0,
     "a block can be hit when its prefill is scheduled (default), or finished", 2},
    {"budget", OPT_BUDGET, "TOKENS", 0, "tokens of one step (8192)", 2},
    {"maxseq", OPT_MAXSEQ, "N", 0, "requests running at once (256)", 2},
    {"lag", OPT_LAG, "S", 0, "KV events are late by this (0)", 2},
    {"free-ended", OPT_FREE_ENDED, NULL, 0, "a workflow's private KV is dropped when it ends", 2},
    {NULL, 0, NULL, 0, "Run:", 3},
    {"policy", OPT_POLICY, "NAME[:K=V]...,...", 0, "one after another (roundrobin,least,workflow)",
     3},
    {"json", OPT_JSON, "FILE", 0, "append one line of JSON per policy; -: to stdout, no table", 3},
    {0},
};

static bool parse_workload(struct options *o, int key, const char *arg, struct argp_state *state)
{
    switch (key) {
    case OPT_LIMIT:
        o->rule.sessions = (uint32_t)args_number(arg, 0, 1e6, state, "limit");
        return true;
    case OPT_MAX_STEPS:
        o->rule.max_steps = (uint32_t)args_number(arg, 0, 1e6, state, "max-steps");
        return true;
    case OPT_USERS:
        o->conf.flow.users = (uint32_t)args_number(arg, 0, 1e6, state, "users");
        return true;
    case OPT_RATE:
        o->rule.rate = args_number(arg, 1e-6, 1e6, state, "rate");
        return true;
    case OPT_STAGGER:
        o->conf.flow.stagger = args_number(arg, 0, 1e6, state, "stagger");
        return true;
    case OPT_SPEED:
        o->conf.flow.speed = args_number(arg, 1e-6, 1e6, state, "speed");
        return true;
    case OPT_GAP_CAP:
        o->conf.flow.gap_cap = args_number(arg, 0, 1e9, state, "gap-cap");
        return true;
    case OPT_SEED:
        o->rule.seed = (uint32_t)args_number(arg, 0, 4294967295.0, state, "seed");
        return true;
    default:
        return false;
    }
}

static bool parse_engines(struct options *o, int key, const char *arg, struct argp_state *state)
{
    struct sim_fleet_conf *f = &o->conf.fleet;

    switch (key) {
    case OPT_ENGINES:
        f->engines = (uint32_t)args_number(arg, 1, 256, state, "engines");
        return true;
    case OPT_CACHE:
        f->cache_tokens = (uint64_t)args_number(arg, 0, 1e10, state, "cache");
        return true;
    case OPT_HOST:
        f->host_tokens = (uint64_t)args_number(arg, 0, 1e10, state, "host");
        return true;
    case OPT_BUDGET:
        f->budget = (uint32_t)args_number(arg, 1, 1e6, state, "budget");
        return true;
    case OPT_MAXSEQ:
        f->maxseq = (uint32_t)args_number(arg, 1, 65536, state, "maxseq");
        return true;
    case OPT_LAG:
        o->conf.lag = args_number(arg, 0, 1e6, state, "lag");
        return true;
    default:
        return false;
    }
}

static void help_patterns(void)
{
    struct buf text = {0};

    patterns_describe(&text);
    fwrite(text.base, 1, text.len, stdout);
    buf_fini(&text);
    exit(0);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct options *o = state->input;

    if (parse_workload(o, key, arg, state) || parse_engines(o, key, arg, state))
        return 0;
    switch (key) {
    case OPT_TRACE:
        o->trace = arg;
        return 0;
    case OPT_SYNTH:
        o->synth = arg;
        if (strcmp(arg, "help") == 0)
            help_patterns();
        return 0;
    case OPT_POLICY:
        o->policies = arg;
        return 0;
    case OPT_PROFILE:
        o->conf.fleet.profile = arg;
        if (strcmp(arg, "8b") != 0 && strcmp(arg, "70b") != 0)
            argp_error(state, "--profile: 8b or 70b");
        return 0;
    case OPT_SHARE:
        o->conf.fleet.share_after = strcmp(arg, "after") == 0;
        if (!o->conf.fleet.share_after && strcmp(arg, "now") != 0)
            argp_error(state, "--share: now or after");
        return 0;
    case OPT_ONLY_MULTI:
        o->rule.only_multi = true;
        return 0;
    case OPT_FREE_ENDED:
        o->conf.free_ended = true;
        return 0;
    case OPT_JSON:
        o->json = arg;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "%s: what is that?", arg);
        return 0;
    case ARGP_KEY_END:
        if ((o->trace == NULL) == (o->synth == NULL))
            argp_error(state, "one of --trace and --synth");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static struct trace *open_workload(struct options *o)
{
    struct trace *t = NULL;
    struct buf why = {0};
    enum err err;

    if (o->synth != NULL) {
        err = pattern_make(o->synth, o->rule.sessions != 0 ? o->rule.sessions : 200, o->rule.seed,
                           &t, &why);
        o->rule.sessions = o->rule.max_steps = 0;
        o->rule.only_multi = false;
    } else {
        err = trace_load(o->trace, &t, &why);
    }
    if (err != ERR_OK)
        fprintf(stderr, "slipstream-sim: %s: %s\n", o->synth != NULL ? o->synth : o->trace,
                buf_cstr(&why));
    buf_fini(&why);
    return t;
}

/* ---- progress ---- */

struct progress {
    const char *policy;
    uint32_t calls, steps;
    bool tty;
};

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void show(void *arg, double now, uint32_t done, uint32_t waiting)
{
    struct progress *p = arg;

    if (p->tty && ++p->steps % 65536 == 0)
        fprintf(stderr, "\r%s: %u of %u calls, %u at the door, %.0f model seconds\033[K", p->policy,
                done, p->calls, waiting, now);
}

/* ---- runs ---- */

static bool write_out(const struct options *o, const struct buf *json, const struct buf *row)
{
    FILE *f;
    bool ok;

    if (o->json == NULL || strcmp(o->json, "-") != 0) {
        fwrite(row->base, 1, row->len, stdout);
        fflush(stdout);
    }
    if (o->json == NULL)
        return true;
    f = strcmp(o->json, "-") == 0 ? stdout : fopen(o->json, "a");
    ok = f != NULL && fwrite(json->base, 1, json->len, f) == json->len && fflush(f) == 0;
    if (f != NULL && f != stdout)
        ok = fclose(f) == 0 && ok;
    if (!ok)
        fprintf(stderr, "slipstream-sim: %s: %s\n", o->json, strerror(errno));
    return ok;
}

/* Exit code. */
static int run_one(const struct options *o, const struct sim_work *work,
                   const struct sim_policy *policy)
{
    struct progress progress = {policy->name, (uint32_t)work->selection->kept, 0,
                                isatty(STDERR_FILENO) == 1};
    struct sim_conf conf = o->conf;
    struct sim_result r;
    struct buf why = {0}, json = {0}, row = {0};
    double from = seconds();
    int rc = 1;

    conf.progress = show;
    conf.progress_arg = &progress;
    if (sim_run(work, &conf, policy, &r, &why) == ERR_OK) {
        fprintf(stderr, "%s%s: %u calls in %.2f s\n", progress.tty ? "\r\033[K" : "", policy->name,
                r.report.calls, seconds() - from);
        sim_report_add_json(&r, policy->name, &json);
        sim_report_add_row(&r, policy->name, &row);
        rc = write_out(o, &json, &row) ? 0 : 2;
    } else {
        fprintf(stderr, "slipstream-sim: %s\n", buf_cstr(&why));
    }
    buf_fini(&why);
    buf_fini(&json);
    buf_fini(&row);
    return rc;
}

static void describe(const struct options *o, const struct sim_work *w)
{
    struct buf head = {0};
    double in = 0, out = 0, n = (double)w->selection->kept;

    for (size_t i = 0; i < w->trace->call_count; i++)
        if (w->selection->keep[i]) {
            in += w->trace->calls[i].in;
            out += w->trace->calls[i].out;
        }
    printf("%s: %.0f calls, %u workflows, mean prompt %.0f, output %.0f tokens; %u engines (%s)\n",
           o->synth != NULL ? o->synth : w->trace->name, n, w->workflow_count, in / n, out / n,
           o->conf.fleet.engines, o->conf.fleet.profile);
    sim_report_add_head(&head);
    fwrite(head.base, 1, head.len, stdout);
    buf_fini(&head);
}

/* All names are looked at before the first run begins. Returns how many; 0: one is wrong. */
static size_t parse_policies(char *list, struct sim_policy *out, size_t room)
{
    struct buf why = {0};
    size_t n = 0;
    char *name;
    bool ok = true;

    while (ok && (name = strsep(&list, ",")) != NULL) {
        if (n == room)
            buf_adds(&why, "too many policies");
        ok = n < room && sim_policy_parse(name, &out[n], &why) == ERR_OK;
        n += ok;
    }
    if (!ok) {
        fprintf(stderr, "slipstream-sim: %s\n", buf_cstr(&why));
        while (n > 0)
            sim_policy_fini(&out[--n]);
    }
    buf_fini(&why);
    return n;
}

static int run_all(const struct options *o, const struct sim_work *work,
                   const struct sim_policy *policies, size_t count)
{
    int rc = 0;

    if (o->json == NULL || strcmp(o->json, "-") != 0)
        describe(o, work);
    for (size_t i = 0; i < count && rc == 0; i++)
        rc = run_one(o, work, &policies[i]);
    return rc;
}

static int run_workload(struct options *o, const struct sim_policy *policies, size_t count)
{
    struct selection sel;
    struct sim_work work;
    struct trace *t = open_workload(o);
    int rc = 2;

    if (t == NULL)
        return 2;
    if (o->conf.flow.users > 0)
        o->rule.rate = 0;
    o->conf.seed = o->rule.seed;
    o->conf.fleet.block = t->block;
    selection_make(t, &o->rule, &sel);
    sim_work_init(&work, t, &sel);
    if (sel.kept > 0)
        rc = run_all(o, &work, policies, count);
    else
        fprintf(stderr, "slipstream-sim: no calls are left to replay\n");
    sim_work_fini(&work);
    selection_fini(&sel);
    trace_free(t);
    return rc;
}

int main(int argc, char **argv)
{
    static const struct argp ARGP = {
        ARGS,
        parse,
        NULL,
        "Replays a workload of agents over simulated engines in virtual time, under one scheduling "
        "policy after another.\vKeys that any policy takes: lag=S, end=0, prio=0, ct=0, terr=F, "
        "kerr=F, cerr=F (KV events late, no end signal, no priorities, no cached_tokens, prefill "
        "times, decode times, capacity told wrongly by a factor), view=approx (no KV events).",
        NULL,
        NULL,
        NULL};
    struct options o = {
        .policies = "roundrobin,least,workflow",
        .rule = {.sessions = 200, .shuffle = true, .rate = 1, .seed = 1},
        .conf = {.fleet = {.profile = "8b", .engines = 4, .budget = 8192, .maxseq = 256},
                 .flow = {.stagger = 1, .speed = 1, .gap_cap = 60}}};
    struct sim_policy policies[POLICIES_MAX];
    char *list;
    size_t count;
    int rc = 64;

    argp_err_exit_status = 64;
    argp_parse(&ARGP, argc, argv, 0, NULL, &o);
    list = strdup(o.policies);
    count = parse_policies(list, policies, POLICIES_MAX);
    if (count > 0)
        rc = run_workload(&o, policies, count);
    for (size_t i = 0; i < count; i++)
        sim_policy_fini(&policies[i]);
    free(list);
    return rc;
}
