/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/sim/sim_sched.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/must.h"
#include "common/policy_spec.h"
#include "scheduler/core.h"

#define BYTES_PER_TOKEN 4U
#define GENERATION 1U
#define FOREVER_NS UINT64_C(1000000000000000000) /* 31 years: nothing here ends by a deadline */

struct sim_sched {
    struct sim_sched_conf conf;
    struct sim_sched_hooks hooks;
    struct core *core;
    struct actions actions;
};

/* Monotone, and exact to the nanosecond for any time a simulation reaches. */
static uint64_t ns_of(double s)
{
    return (uint64_t)llround(s * 1e9);
}

static double seconds_of(uint64_t ns)
{
    double s = (double)ns / 1e9;

    while (ns_of(s) < ns)
        s = nextafter(s, INFINITY);
    return s;
}

static void step(struct sim_sched *s, double now, const struct event *ev)
{
    (void)core_step(s->core, ns_of(now), ev, &s->actions);
    for (size_t i = 0; i < s->actions.count; i++) {
        const struct action *a = &s->actions.items[i];
        uint32_t call = (uint32_t)a->handle - 1;

        if (a->type == ACT_GO)
            s->hooks.go(s->hooks.arg, now, call, a->engine, a->priority);
        else if (a->type == ACT_WAIT)
            s->hooks.wait(s->hooks.arg, call);
        else if (a->type == ACT_NO || a->type == ACT_REVOKE)
            s->hooks.no(s->hooks.arg, call, a->err);
    }
}

static void introduce(struct sim_sched *s)
{
    const struct sim_time_model *t = &s->conf.time;
    struct event hello = {.type = EV_WORKER_HELLO}, known = {.type = EV_RESUME_LAST};

    step(s, 0, &hello);
    step(s, 0, &known);
    for (uint32_t i = 0; i < s->conf.engines; i++) {
        char id[16];
        struct event set = {.type = EV_ENGINE_SET}, health = {.type = EV_ENGINE_HEALTH};

        snprintf(id, sizeof(id), "e%u", i + 1);
        set.engine = (struct engine_event){
            .index = i,
            .generation = GENERATION,
            .id = {id, (uint32_t)strlen(id)},
            .priority = s->conf.priority,
            .kv_tokens = s->conf.kv_tokens,
            .content = s->conf.exact,
            .late_share = s->conf.share_after,
            .time = {.base = t->base, .tok = t->tok, .attn = t->attn, .kv = t->kv, .seq = t->seq}};
        health.health = (struct health_event){.index = i, .generation = GENERATION, .ok = true};
        step(s, 0, &set);
        step(s, 0, &health);
    }
}

enum err sim_sched_new(const struct sim_sched_conf *conf, const struct sim_sched_hooks *hooks,
                       struct sim_sched **out)
{
    struct sim_sched *s = calloc(1, sizeof(*s));
    struct core_conf c = {
        .max_workflows = conf->workflows + 1,
        .max_agents = conf->calls + 1,
        .max_leases = conf->calls + 1,
        .max_workers = 1,
        .workflow_ttl_ns = FOREVER_NS,
        .agent_active_ns = 60000000000,
        .probe_failures = 3,
        .hash_seed = conf->seed,
        .policy = conf->policy,
        .default_policy = "least",
        .text_block = conf->block * BYTES_PER_TOKEN,
        .ratio = BYTES_PER_TOKEN,
        .ratio_fixed = true,
        .fit = conf->fit,
    };
    enum err err;

    must(s != NULL);
    s->conf = *conf;
    s->conf.policy = NULL;
    s->hooks = *hooks;
    err = core_new(&c, &s->core);
    if (err != ERR_OK) {
        free(s);
        return err;
    }
    introduce(s);
    *out = s;
    return ERR_OK;
}

enum err sim_sched_check(const char *policy, struct buf *why)
{
    struct policy_spec spec;
    char text[256];
    enum err err = spec_parse(policy, &spec, text, sizeof(text));

    if (err != ERR_OK)
        buf_adds(why, text);
    return err;
}

void sim_sched_free(struct sim_sched *s)
{
    if (s == NULL)
        return;
    core_free(s->core);
    actions_fini(&s->actions);
    free(s);
}

void sim_sched_query(struct sim_sched *s, double now, const struct sim_ask *ask)
{
    char workflow[16], agent[16];
    struct event ev = {.type = EV_QUERY};

    snprintf(workflow, sizeof(workflow), "w%u", ask->workflow);
    snprintf(agent, sizeof(agent), "a%u", ask->agent);
    ev.query = (struct query){.handle = ask->call + UINT64_C(1),
                              .workflow = {workflow, (uint32_t)strlen(workflow)},
                              .agent = {agent, (uint32_t)strlen(agent)},
                              .final = ask->final,
                              .stream = true,
                              .prompt_bytes = ask->prompt_tokens * BYTES_PER_TOKEN,
                              .max_tokens = ask->max_tokens,
                              .digests = ask->digests,
                              .digest_count = ask->digest_count,
                              .answer_digests = ask->answer_digests,
                              .remaining_ns = FOREVER_NS};
    step(s, now, &ev);
}

void sim_sched_first(struct sim_sched *s, double now, uint32_t call)
{
    struct event ev = {.type = EV_FIRST_BYTE, .report = {.handle = call + UINT64_C(1)}};

    step(s, now, &ev);
}

void sim_sched_done(struct sim_sched *s, double now, const struct sim_usage *u)
{
    struct event ev = {.type = EV_DONE,
                       .report = {.handle = u->call + UINT64_C(1),
                                  .has_usage = true,
                                  .has_cached = s->conf.cached_tokens,
                                  .prompt_tokens = u->prompt_tokens,
                                  .cached_tokens = u->cached_tokens,
                                  .completion_tokens = u->completion_tokens,
                                  .digests = u->digests,
                                  .digest_count = u->digest_count,
                                  .latency_ns = ns_of(u->latency)}};

    step(s, now, &ev);
    if (u->last) {
        char name[16];
        struct event over = {.type = EV_WF_END};

        snprintf(name, sizeof(name), "w%u", u->workflow);
        over.workflow.id = (struct text){name, (uint32_t)strlen(name)};
        /* Most have ended with their last request. */
        if (core_workflow_find(s->core, (struct text){0}, over.workflow.id) != NULL)
            step(s, now, &over);
    }
}

void sim_sched_load(struct sim_sched *s, double now, uint32_t engine, const struct sim_load *load)
{
    struct event ev = {.type = EV_ENGINE_STATS,
                       .stats = {.index = engine,
                                 .generation = GENERATION,
                                 .has_running = true,
                                 .has_waiting = true,
                                 .has_kv_tokens = true,
                                 .has_kv_used = true,
                                 .running = load->running,
                                 .waiting = load->waiting,
                                 .kv_tokens = s->conf.kv_tokens,
                                 .kv_used_tokens = load->kv_used_tokens}};

    step(s, now, &ev);
}

static void kv_step(struct sim_sched *s, double now, enum event_type type, uint32_t engine,
                    uint64_t parent, const uint64_t *ids, uint32_t count)
{
    struct event ev = {.type = type,
                       .kv = {.index = engine,
                              .generation = GENERATION,
                              .parent = parent,
                              .digests = ids,
                              .count = count,
                              .tokens = count * s->conf.block,
                              .content = true}};

    step(s, now, &ev);
}

void sim_sched_stored(struct sim_sched *s, double now, uint32_t engine, uint64_t parent,
                      const uint64_t *ids, uint32_t count)
{
    kv_step(s, now, EV_KV_STORED, engine, parent, ids, count);
}

void sim_sched_removed(struct sim_sched *s, double now, uint32_t engine, const uint64_t *ids,
                       uint32_t count)
{
    kv_step(s, now, EV_KV_REMOVED, engine, 0, ids, count);
}

double sim_sched_next(const struct sim_sched *s)
{
    uint64_t ns = core_next_deadline(s->core);

    return ns < FOREVER_NS / 2 ? seconds_of(ns) : INFINITY;
}

void sim_sched_tick(struct sim_sched *s, double now)
{
    struct event ev = {.type = EV_TICK};

    step(s, now, &ev);
}
