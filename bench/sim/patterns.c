/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/sim/patterns.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/replay/random.h"
#include "bench/sim/segments.h"
#include "common/must.h"

#define BLOCK 64U
#define AGENTS_PER_WORKFLOW 1000U
#define SIGMA .35

enum pattern {
#define PATTERN(name, help) PATTERN_##name,
#define OPTION(pattern, key, value, min, max, help)
#include "bench/sim/patterns.def"
#undef PATTERN
#undef OPTION
    PATTERN_COUNT
};

enum option {
#define PATTERN(name, help)
#define OPTION(pattern, key, value, min, max, help) OPTION_##pattern##_##key,
#include "bench/sim/patterns.def"
#undef PATTERN
#undef OPTION
    OPTION_COUNT
};

static const struct {
    enum pattern pattern;
    const char *key, *help;
    double value, min, max;
} OPTIONS[] = {
#define PATTERN(name, help)
#define OPTION(pattern, key, value, min, max, help) \
    {PATTERN_##pattern, #key, help, value, min, max},
#include "bench/sim/patterns.def"
#undef PATTERN
#undef OPTION
};

struct maker {
    struct writer writer;
    struct mt draw;
    double normal_left; /* of a pair of draws */
    bool has_normal;
    double opt[OPTION_COUNT];
    uint32_t workflow;
};

#define OPT(m, pattern, key) ((m)->opt[OPTION_##pattern##_##key])
#define COUNT(m, pattern, key) ((uint32_t)OPT(m, pattern, key))

/* ---- draws ---- */

static double normal(struct maker *m)
{
    double angle, radius;

    if (m->has_normal) {
        m->has_normal = false;
        return m->normal_left;
    }
    angle = mt_unit(&m->draw) * 6.283185307179586;
    radius = sqrt(-2.0 * log(1.0 - mt_unit(&m->draw)));
    m->has_normal = true;
    m->normal_left = sin(angle) * radius;
    return cos(angle) * radius;
}

static uint32_t around(struct maker *m, double mean, double sigma)
{
    double x = mean * exp(-sigma * sigma / 2 + normal(m) * sigma);

    return x < 8 ? 8 : x > 1e7 ? 10000000 : (uint32_t)x;
}

static double between(struct maker *m, double a, double b)
{
    return a + (b - a) * mt_unit(&m->draw);
}

static double tool_seconds(struct maker *m)
{
    double u = mt_unit(&m->draw);

    return u < .86 ? between(m, .05, 1) : u < .95 ? between(m, 1, 10) : between(m, 10, 60);
}

/* k of n, into out, as Python's Random.sample. */
static void sample(struct maker *m, uint32_t n, uint32_t k, uint32_t *out)
{
    double pool_max = 21;

    if (k > 5)
        pool_max += pow(4, ceil(log(k * 3.0) / log(4)));
    if (n <= pool_max) {
        uint32_t *pool = calloc(n + 1U, sizeof(*pool));

        must(pool != NULL);
        for (uint32_t i = 0; i < n; i++)
            pool[i] = i;
        for (uint32_t i = 0; i < k; i++) {
            uint32_t j = mt_below(&m->draw, n - i);

            out[i] = pool[j];
            pool[j] = pool[n - i - 1];
        }
        free(pool);
        return;
    }
    for (uint32_t i = 0; i < k;) {
        bool again = false;

        out[i] = mt_below(&m->draw, n);
        for (uint32_t j = 0; j < i; j++)
            again |= out[j] == out[i];
        i += !again;
    }
}

/* ---- calls ---- */

struct said {
    uint32_t call;
    struct segment text;
};

static struct said say(struct maker *m, uint32_t agent, const uint32_t *deps, uint32_t dep_count,
                       double gap, const struct segments *prompt, uint32_t out)
{
    struct said s;
    struct trace_call c = {.workflow = m->workflow,
                           .agent = m->workflow * AGENTS_PER_WORKFLOW + agent,
                           .gap = gap,
                           .out = out < 8 ? 8 : out};

    s.call = writer_call(&m->writer, c, deps, dep_count, prompt, &s.text);
    return s;
}

static struct segment text(const char *kind, uint64_t a, uint64_t b, uint32_t tokens)
{
    return (struct segment){segment_key(kind, a, b), tokens};
}

/* ---- patterns ---- */

static void map_reduce(struct maker *m, uint32_t fan, double ctx, bool share, uint32_t instr,
                       double out)
{
    struct segments all = {0}, body = {0};
    uint32_t *deps = calloc(fan, sizeof(*deps)), w = m->workflow;
    struct said plan;

    must(deps != NULL);
    segments_add(&all, text("mr-sys", 0, 0, 1500));
    segments_add(&all, text("doc", w, 0, around(m, ctx, SIGMA)));
    plan = say(m, 0, NULL, 0, 0, &all, around(m, 200, SIGMA));
    segments_add(&all, plan.text);
    for (uint32_t i = 0; i < fan; i++) {
        struct said one;

        body.count = 0;
        if (share) {
            for (uint32_t k = 0; k < 3; k++)
                segments_add(&body, all.at[k]);
            segments_add(&body, text("order", w, i, instr));
        } else {
            segments_add(&body, text("mr-map", 0, 0, 1000));
            segments_add(&body, text("chunk", w, i, around(m, ctx / fan, SIGMA)));
        }
        one = say(m, 1 + i, &plan.call, 1, .02, &body, around(m, out, SIGMA));
        deps[i] = one.call;
        segments_add(&all, one.text);
    }
    say(m, 0, deps, fan, .02, &all, around(m, 500, SIGMA));
    segments_fini(&all);
    segments_fini(&body);
    free(deps);
}

static void make_mapreduce(struct maker *m)
{
    map_reduce(m, COUNT(m, mapreduce, fan), OPT(m, mapreduce, ctx), OPT(m, mapreduce, share) > 0,
               COUNT(m, mapreduce, instr), OPT(m, mapreduce, out));
}

static void make_fanout(struct maker *m)
{
    map_reduce(m, COUNT(m, fanout, fan), OPT(m, fanout, ctx), OPT(m, fanout, share) > 0,
               COUNT(m, fanout, instr), OPT(m, fanout, out));
}

static void make_pipeline(struct maker *m)
{
    uint32_t roles = COUNT(m, pipeline, roles), rounds = roles + 2 * COUNT(m, pipeline, loops);
    bool log_first = OPT(m, pipeline, logfirst) > 0;
    struct segments log = {0}, prompt = {0};
    uint32_t dep = 0;

    segments_add(&log, text("task", m->workflow, 0, around(m, OPT(m, pipeline, task), SIGMA)));
    for (uint32_t k = 0; k < rounds; k++) {
        uint32_t r = k < roles ? k : roles - 2 + (k - roles) % 2;
        struct segment role = text("role", r, 0, COUNT(m, pipeline, role));
        double gap = between(m, .05, .5);
        struct said one;

        prompt.count = 0;
        if (!log_first)
            segments_add(&prompt, role);
        for (uint32_t i = 0; i < log.count; i++)
            segments_add(&prompt, log.at[i]);
        if (log_first)
            segments_add(&prompt, role);
        one = say(m, r, &dep, k > 0, gap, &prompt, around(m, OPT(m, pipeline, out), SIGMA));
        segments_add(&log, one.text);
        dep = one.call;
    }
    segments_fini(&log);
    segments_fini(&prompt);
}

static void make_debate(struct maker *m)
{
    uint32_t agents = COUNT(m, debate, agents), rounds = COUNT(m, debate, rounds);
    struct segments *history = calloc(agents, sizeof(*history));
    struct said *said = calloc(agents, sizeof(*said)), *last = calloc(agents, sizeof(*last));
    uint32_t *deps = calloc(agents, sizeof(*deps));
    struct segment question =
        text("question", m->workflow, 0, around(m, OPT(m, debate, ctx), SIGMA));

    must(history != NULL && said != NULL && last != NULL && deps != NULL);
    for (uint32_t a = 0; a < agents; a++) {
        segments_add(&history[a], text("db-sys", 0, 0, 500));
        segments_add(&history[a], question);
    }
    for (uint32_t r = 0; r < rounds; r++) {
        for (uint32_t a = 0; a < agents; a++) {
            for (uint32_t b = 0; r > 0 && b < agents; b++)
                if (b != a)
                    segments_add(&history[a], last[b].text);
            if (r > 0)
                segments_add(&history[a], text("db-next", 0, 0, 100));
            said[a] = say(m, a, deps, r > 0 ? agents : 0, .02, &history[a],
                          around(m, OPT(m, debate, out), SIGMA));
        }
        for (uint32_t a = 0; a < agents; a++) {
            segments_add(&history[a], said[a].text);
            last[a] = said[a];
            deps[a] = said[a].call;
        }
    }
    for (uint32_t a = 0; a < agents; a++)
        segments_fini(&history[a]);
    free(history);
    free(said);
    free(last);
    free(deps);
}

static void make_chat(struct maker *m)
{
    struct segments prompt = {0};
    uint32_t turns, dep = 0;

    segments_add(&prompt, text("gc-role", 0, 0, 0));
    segments_add(&prompt, text("opening", m->workflow, 0, around(m, OPT(m, chat, ctx), SIGMA)));
    turns = around(m, OPT(m, chat, turns), SIGMA);
    for (uint32_t k = 0; k < turns; k++) {
        uint32_t a = mt_below(&m->draw, COUNT(m, chat, agents));
        double gap = tool_seconds(m);
        struct said one;

        prompt.at[0] = text("gc-role", a, 0, COUNT(m, chat, role));
        one = say(m, a, &dep, k > 0, gap, &prompt, around(m, OPT(m, chat, out), SIGMA));
        segments_add(&prompt, one.text);
        dep = one.call;
    }
    segments_fini(&prompt);
}

/* Steps of one agent: each appends its answer and a tool's result to the conversation. */
static struct said work_steps(struct maker *m, uint32_t agent, struct segments *talk,
                              uint32_t count, uint32_t dep, bool has_dep, double gap)
{
    struct said one = {0};

    for (uint32_t k = 0; k < count; k++) {
        one = say(m, agent, &dep, has_dep, gap, talk, around(m, OPT(m, supervisor, out), .8));
        segments_add(talk, one.text);
        segments_add(talk, text("tool", one.call, 0, around(m, OPT(m, supervisor, append), 1.0)));
        dep = one.call;
        has_dep = true;
        gap = tool_seconds(m);
    }
    return one;
}

static void make_supervisor(struct maker *m)
{
    uint32_t subs = COUNT(m, supervisor, subs), tools = COUNT(m, supervisor, tools), steps;
    uint32_t *deps = calloc(subs + 1U, sizeof(*deps)), w = m->workflow;
    struct segments boss = {0}, sub = {0};
    struct segment *reports = calloc(subs + 1U, sizeof(*reports));
    struct said last;

    must(deps != NULL && reports != NULL);
    segments_add(&boss, text("sv-tools", 0, 0, tools));
    segments_add(&boss, text("sv-task", w, 0, around(m, OPT(m, supervisor, ctx), SIGMA)));
    steps = around(m, OPT(m, supervisor, steps), SIGMA) / 2;
    last = work_steps(m, 0, &boss, steps, 0, false, 0);
    deps[0] = last.call;
    for (uint32_t i = 0; i < subs; i++) {
        struct said one;

        sub.count = 0;
        segments_add(&sub, text("sub-tools", 0, 0, tools));
        segments_add(&sub, text("briefing", w, i, 800));
        steps = around(m, OPT(m, supervisor, substeps), SIGMA);
        one = work_steps(m, 1 + i, &sub, steps, last.call, true, .05);
        deps[i] = one.call;
        reports[i] = one.text;
    }
    for (uint32_t i = 0; i < subs; i++)
        segments_add(&boss, reports[i]);
    last =
        say(m, 0, deps, subs > 0 ? subs : 1, .1, &boss, around(m, OPT(m, supervisor, out), SIGMA));
    segments_add(&boss, last.text);
    segments_add(&boss, text("sv-next", w, 0, 300));
    steps = around(m, OPT(m, supervisor, steps), SIGMA) / 2;
    work_steps(m, 0, &boss, steps, last.call, true, tool_seconds(m));
    segments_fini(&boss);
    segments_fini(&sub);
    free(deps);
    free(reports);
}

struct node {
    struct segments talk;
    uint32_t call;
};

/* The children of one node, behind those that are there. */
static void tree_grow(struct maker *m, const struct segments *talk, const uint32_t *deps,
                      uint32_t dep_count, struct node *kids, uint32_t *count, uint32_t *number)
{
    uint32_t b = COUNT(m, tree, b);

    for (uint32_t i = 0; i < b; i++) {
        struct node *kid = &kids[(*count)++];
        struct said one;

        ++*number;
        segments_copy(&kid->talk, talk);
        segments_add(&kid->talk, text("thought", m->workflow, *number, 60));
        one =
            say(m, *number, deps, dep_count, .02, &kid->talk, around(m, OPT(m, tree, out), SIGMA));
        segments_add(&kid->talk, one.text);
        kid->call = one.call;
    }
}

static void make_tree(struct maker *m)
{
    uint32_t keep = COUNT(m, tree, keep), most = keep * COUNT(m, tree, b), number = 0, votes = 0;
    uint32_t front_count = 1, *deps = calloc(most, sizeof(*deps)),
             *kept = calloc(keep, sizeof(*kept));
    struct node *kids = calloc(most, sizeof(*kids));
    struct segments *front = calloc(keep, sizeof(*front));

    must(deps != NULL && kept != NULL && kids != NULL && front != NULL);
    segments_add(&front[0], text("ts-sys", 0, 0, 1500));
    segments_add(&front[0], text("ts-task", m->workflow, 0, around(m, OPT(m, tree, ctx), SIGMA)));
    for (uint32_t d = 0; d < COUNT(m, tree, depth); d++) {
        uint32_t count = 0;

        for (uint32_t i = 0; i < front_count; i++)
            tree_grow(m, &front[i], deps, votes, kids, &count, &number);
        for (uint32_t i = 0; i < count; i++) {
            segments_add(&kids[i].talk, text("ts-eval", 0, 0, 150));
            deps[i] = say(m, 500 + number + i, &kids[i].call, 1, .01, &kids[i].talk, 20).call;
            kids[i].talk.count--;
        }
        votes = count;
        front_count = keep < count ? keep : count;
        sample(m, count, front_count, kept);
        for (uint32_t i = 0; i < front_count; i++)
            segments_copy(&front[i], &kids[kept[i]].talk);
    }
    for (uint32_t i = 0; i < most; i++)
        segments_fini(&kids[i].talk);
    for (uint32_t i = 0; i < keep; i++)
        segments_fini(&front[i]);
    free(deps);
    free(kept);
    free(kids);
    free(front);
}

static void make_mix(struct maker *m)
{
    static void (*const of[])(struct maker *) = {make_mapreduce, make_pipeline,   make_debate,
                                                 make_chat,      make_supervisor, make_tree};

    of[mt_below(&m->draw, sizeof(of) / sizeof(*of))](m);
}

static const struct {
    const char *name, *help;
    void (*make)(struct maker *);
} PATTERNS[] = {
#define PATTERN(name, help) {#name, help, make_##name},
#define OPTION(pattern, key, value, min, max, help)
#include "bench/sim/patterns.def"
#undef PATTERN
#undef OPTION
};

/* ---- by name ---- */

static bool is_word(const char *s, size_t len, const char *word)
{
    return strlen(word) == len && memcmp(s, word, len) == 0;
}

static bool takes(enum pattern p, size_t option)
{
    return OPTIONS[option].pattern == p ||
           (p == PATTERN_mix && OPTIONS[option].pattern != PATTERN_fanout);
}

/* One KEY=VALUE of len bytes. */
static enum err set_option(struct maker *m, enum pattern p, const char *s, size_t len,
                           struct buf *why)
{
    const char *eq = memchr(s, '=', len);
    char *end = NULL;
    double v = eq != NULL ? strtod(eq + 1, &end) : NAN;
    bool known = false;

    if (eq == NULL || end != s + len || end == eq + 1) {
        buf_addf(why, "\"%.*s\" is not KEY=NUMBER", (int)len, s);
        return ERR_INVALID;
    }
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        if (!takes(p, i) || !is_word(s, (size_t)(eq - s), OPTIONS[i].key))
            continue;
        if (!(v >= OPTIONS[i].min) || !(v <= OPTIONS[i].max)) {
            buf_addf(why, "%s goes from %g to %g", OPTIONS[i].key, OPTIONS[i].min, OPTIONS[i].max);
            return ERR_INVALID;
        }
        m->opt[i] = v;
        known = true;
    }
    if (known)
        return ERR_OK;
    buf_addf(why, "%s has no option \"%.*s\", only", PATTERNS[p].name, (int)(eq - s), s);
    for (size_t i = 0; i < OPTION_COUNT; i++)
        if (takes(p, i))
            buf_addf(why, " %s", OPTIONS[i].key);
    return ERR_INVALID;
}

enum err pattern_make(const char *spec, uint32_t workflows, uint32_t seed, struct trace **out,
                      struct buf *why)
{
    size_t len = strcspn(spec, ":"), p = 0;
    const char *s = spec[len] == ':' ? spec + len + 1 : spec + len;
    struct maker m = {0};
    enum err err = ERR_OK;

    while (p < PATTERN_COUNT && !is_word(spec, len, PATTERNS[p].name))
        p++;
    if (p == PATTERN_COUNT) {
        buf_adds(why, "no such pattern; there are");
        for (p = 0; p < PATTERN_COUNT; p++)
            buf_addf(why, " %s", PATTERNS[p].name);
        return ERR_INVALID;
    }
    for (size_t i = 0; i < OPTION_COUNT; i++)
        m.opt[i] = OPTIONS[i].value;
    while (*s != '\0' && err == ERR_OK) {
        len = strcspn(s, ",");
        err = set_option(&m, (enum pattern)p, s, len, why);
        s += s[len] == ',' ? len + 1 : len;
    }
    if (err != ERR_OK)
        return err;
    *out = trace_new(spec, BLOCK, TRACE_CLOSED);
    writer_init(&m.writer, *out);
    mt_seed(&m.draw, seed);
    for (m.workflow = 0; m.workflow < workflows; m.workflow++)
        PATTERNS[p].make(&m);
    writer_fini(&m.writer);
    return ERR_OK;
}

void patterns_describe(struct buf *out)
{
    for (size_t p = 0; p < PATTERN_COUNT; p++) {
        buf_addf(out, "%s: %s\n", PATTERNS[p].name, PATTERNS[p].help);
        for (size_t i = 0; i < OPTION_COUNT; i++)
            if (OPTIONS[i].pattern == p)
                buf_addf(out, "    %s=%g  %s\n", OPTIONS[i].key, OPTIONS[i].value, OPTIONS[i].help);
    }
}
