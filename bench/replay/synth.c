/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/replay/synth.h"

#include <math.h>

#include "bench/replay/random.h"

enum {
    BLOCK = 16,
    TOOLS_TOKENS = 8000, /* definitions shared by all agents of a kind */
    TASK_TOKENS = 24000,
    BRIEF_TOKENS = 16000, /* shared by the sub-agents of a workflow */
    ORDER_TOKENS = 800,   /* what one sub-agent is to do */
    APPEND_TOKENS = 2500,
    OUT_TOKENS = 214,
    SUB_AGENTS = 4,
};

struct synth {
    struct trace *t;
    struct mt draw;
    uint32_t workflow;
    int32_t first_supervisor, first_sub; /* of the whole trace: they bring the tool definitions */
    int32_t brief;                       /* first sub-agent call of this workflow */
};

/* One agent's conversation so far. */
struct thread {
    uint32_t agent;
    int32_t last; /* its last call, -1: none */
    uint32_t deps[SUB_AGENTS];
    uint32_t dep_count;
    double gap;
    uint32_t extra; /* tokens that the next prompt adds to prompt + output of the last call */
};

static double normal(struct mt *m)
{
    return sqrt(-2 * log(1 - mt_unit(m))) * cos(6.283185307179586 * mt_unit(m));
}

static uint32_t around(struct mt *m, double mean, double sigma)
{
    double x = mean * exp(sigma * normal(m) - sigma * sigma / 2);

    return x < 8 ? 8 : x > 20 * mean ? (uint32_t)(20 * mean) : (uint32_t)x;
}

static double tool_seconds(struct mt *m)
{
    double u = mt_unit(m), v = mt_unit(m);

    if (u < .86)
        return .05 + .95 * v;
    return u < .95 ? 1 + 9 * v : 10 + 50 * v;
}

static void step(struct synth *s, struct thread *th, struct trace_call c)
{
    uint32_t id;

    c.workflow = s->workflow;
    c.agent = th->agent;
    c.gap = th->gap;
    c.out = around(&s->draw, OUT_TOKENS, .8);
    if (th->last >= 0) {
        const struct trace_call *before = &s->t->calls[th->last];

        c.in = before->in + before->out + th->extra;
        c.ref = th->last;
        c.shared = (before->in + before->out) / BLOCK;
    }
    id = trace_add(s->t, &c, th->deps, th->dep_count);
    th->last = (int32_t)id;
    th->deps[0] = id;
    th->dep_count = 1;
    th->gap = tool_seconds(&s->draw);
    th->extra = around(&s->draw, APPEND_TOKENS, 1);
}

static void run_steps(struct synth *s, struct thread *th, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        step(s, th, (struct trace_call){.ref = -1});
}

static void sub_agent(struct synth *s, struct thread *th)
{
    struct trace_call c = {.ref = -1};

    c.in = TOOLS_TOKENS + BRIEF_TOKENS + around(&s->draw, ORDER_TOKENS, .35);
    if (s->brief >= 0) {
        c.ref = s->brief;
        c.shared = (TOOLS_TOKENS + BRIEF_TOKENS) / BLOCK;
    } else if (s->first_sub >= 0) {
        c.ref = s->first_sub;
        c.shared = TOOLS_TOKENS / BLOCK;
    }
    step(s, th, c);
    if (s->first_sub < 0)
        s->first_sub = th->last;
    if (s->brief < 0)
        s->brief = th->last;
    run_steps(s, th, 2 + around(&s->draw, 30, .35) / 10);
}

static void workflow(struct synth *s)
{
    struct thread boss = {.agent = s->workflow * (SUB_AGENTS + 1), .last = -1};
    struct trace_call c = {.ref = -1};
    uint32_t reports = 0, spawned, ends[SUB_AGENTS];

    c.in = TOOLS_TOKENS + around(&s->draw, TASK_TOKENS, .35);
    if (s->first_supervisor >= 0) {
        c.ref = s->first_supervisor;
        c.shared = TOOLS_TOKENS / BLOCK;
    }
    step(s, &boss, c);
    if (s->first_supervisor < 0)
        s->first_supervisor = boss.last;
    run_steps(s, &boss, 1 + around(&s->draw, 25, .35) / 10);
    spawned = (uint32_t)boss.last;
    s->brief = -1;
    for (uint32_t i = 0; i < SUB_AGENTS; i++) {
        struct thread sub = {.agent = boss.agent + 1 + i, .last = -1, .gap = .05};

        sub.deps[0] = spawned;
        sub.dep_count = 1;
        sub_agent(s, &sub);
        ends[i] = (uint32_t)sub.last;
        reports += s->t->calls[sub.last].out;
    }
    for (uint32_t i = 0; i < SUB_AGENTS; i++)
        boss.deps[i] = ends[i];
    boss.dep_count = SUB_AGENTS;
    boss.gap = .1;
    boss.extra = reports;
    run_steps(s, &boss, 2 + around(&s->draw, 25, .35) / 10);
}

struct trace *synth_supervisor(uint32_t workflows, uint32_t seed)
{
    struct synth s = {.first_supervisor = -1, .first_sub = -1, .brief = -1};

    s.t = trace_new("synthetic", BLOCK, TRACE_CLOSED);
    mt_seed(&s.draw, seed);
    for (uint32_t w = 0; w < workflows; w++) {
        s.workflow = w;
        workflow(&s);
    }
    return s.t;
}
