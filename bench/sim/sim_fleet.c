/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/sim/sim_fleet.h"

#include <math.h>
#include <stdlib.h>

#include "bench/engine/core.h"
#include "common/must.h"

struct machine {
    struct sim_fleet *fleet;
    struct engine *engine;
    uint32_t index;
    bool stepping; /* its events are being handed out: the next step begins when all are */
    double at;     /* end of its step */
    uint64_t order;
};

struct sim_fleet {
    struct sim_fleet_conf conf;
    struct sim_fleet_hooks hooks;
    struct engine_profile profile;
    uint64_t capacity_tokens;
    uint64_t *order;
    struct machine *machines;
    struct engine_req *reqs; /* by call */
    struct engine_event *events;
    size_t events_max;
};

static void on_block(void *arg, const struct engine_block *b)
{
    const struct machine *m = arg;
    const struct sim_fleet_hooks *h = &m->fleet->hooks;

    h->block(h->arg, m->index, b->id, b->parent, b->stored, b->host);
}

static void on_admit(void *arg, const struct engine_req *r)
{
    const struct machine *m = arg;
    const struct sim_fleet_hooks *h = &m->fleet->hooks;

    h->admit(h->arg, (uint32_t)r->handle, r->hit_blocks);
}

enum err sim_fleet_new(const struct sim_fleet_conf *conf, const struct sim_fleet_hooks *hooks,
                       uint32_t calls, uint64_t *order, struct sim_fleet **out)
{
    const struct engine_profile *profile = engine_profile_find(conf->profile);
    struct sim_fleet *f;
    uint64_t tokens;

    if (profile == NULL || conf->engines == 0)
        return ERR_INVALID;
    tokens = conf->cache_tokens > 0 ? conf->cache_tokens : profile->cache_tokens;
    if (tokens < conf->block || tokens / conf->block >= UINT32_C(1) << 30 ||
        conf->host_tokens / conf->block >= UINT32_C(1) << 30)
        return ERR_INVALID;
    f = calloc(1, sizeof(*f));
    must(f != NULL);
    *f = (struct sim_fleet){.conf = *conf,
                            .hooks = *hooks,
                            .profile = *profile,
                            .capacity_tokens = tokens / conf->block * conf->block,
                            .order = order};
    f->machines = calloc(conf->engines, sizeof(*f->machines));
    f->reqs = calloc(calls + 1U, sizeof(*f->reqs));
    must(f->machines != NULL && f->reqs != NULL);
    for (uint32_t i = 0; i < conf->engines; i++) {
        struct machine *m = &f->machines[i];

        *m = (struct machine){.fleet = f, .index = i, .at = INFINITY};
        m->engine = engine_new(&(struct engine_conf){.profile = *profile,
                                                     .cache_tokens = tokens,
                                                     .host_tokens = conf->host_tokens,
                                                     .block_tokens = conf->block,
                                                     .budget_tokens = conf->budget,
                                                     .seqs_max = conf->maxseq,
                                                     .priority = true,
                                                     .share_after = conf->share_after,
                                                     .on_block = on_block,
                                                     .on_admit = on_admit,
                                                     .hook_arg = m});
    }
    f->events_max = engine_events_max(f->machines[0].engine);
    f->events = calloc(f->events_max, sizeof(*f->events));
    must(f->events != NULL);
    *out = f;
    return ERR_OK;
}

void sim_fleet_free(struct sim_fleet *f)
{
    if (f == NULL)
        return;
    for (uint32_t i = 0; i < f->conf.engines; i++)
        engine_free(f->machines[i].engine);
    free(f->machines);
    free(f->reqs);
    free(f->events);
    free(f);
}

/* A step that began, or became shorter, is planned now. */
static void plan(struct machine *m)
{
    double at = engine_next_deadline(m->engine);

    if (at < m->at || at > m->at) {
        m->at = at;
        m->order = (*m->fleet->order)++;
    }
}

enum err sim_fleet_add(struct sim_fleet *f, uint32_t engine, double now,
                       const struct sim_request *req)
{
    struct machine *m = &f->machines[engine];
    struct engine_req *r = &f->reqs[req->call];
    enum err err;

    *r = (struct engine_req){.handle = req->call,
                             .ids = req->ids,
                             .np = req->np,
                             .n_ids = req->n_ids,
                             .nin = req->nin,
                             .nout = req->nout,
                             .priority = req->priority,
                             .order = req->order};
    err = engine_add(m->engine, now, r);
    if (err != ERR_OK || m->stepping)
        return err;
    engine_begin(m->engine);
    plan(m);
    return ERR_OK;
}

double sim_fleet_next(const struct sim_fleet *f, uint32_t *engine, uint64_t *order)
{
    const struct machine *best = &f->machines[0];

    for (uint32_t i = 1; i < f->conf.engines; i++) {
        const struct machine *m = &f->machines[i];

        if (m->at < best->at || (!(best->at < m->at) && m->order < best->order))
            best = m;
    }
    *engine = best->index;
    *order = best->order;
    return best->at;
}

void sim_fleet_step(struct sim_fleet *f, uint32_t engine, double now)
{
    struct machine *m = &f->machines[engine];
    size_t n;

    m->stepping = true;
    n = engine_step(m->engine, now, f->events, f->events_max);
    for (size_t i = 0; i < n; i++) {
        const struct engine_event *ev = &f->events[i];

        if (ev->kind == ENGINE_FIRST)
            f->hooks.first(f->hooks.arg, ev->at_s, (uint32_t)ev->req->handle);
        else if (ev->kind == ENGINE_DONE)
            f->hooks.done(f->hooks.arg, ev->at_s, (uint32_t)ev->req->handle, ev->req->hit_tokens);
    }
    m->stepping = false;
    engine_begin(m->engine);
    m->at = INFINITY; /* so that even a step without duration is planned anew */
    plan(m);
}

void sim_fleet_load(const struct sim_fleet *f, uint32_t engine, struct sim_load *out)
{
    struct engine_stats s;

    engine_stats_get(f->machines[engine].engine, &s);
    *out = (struct sim_load){.running = s.running,
                             .waiting = s.waiting,
                             .kv_tokens = f->capacity_tokens,
                             .kv_used_tokens = (uint64_t)s.blocks_held * f->conf.block};
}

struct sim_time_model sim_fleet_time_model(const struct sim_fleet *f)
{
    const struct engine_profile *p = &f->profile;

    return (struct sim_time_model){
        .base = p->base, .tok = p->tok, .attn = p->attn, .seq = p->seq, .kv = p->kv};
}

uint64_t sim_fleet_computed(const struct sim_fleet *f)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < f->conf.engines; i++) {
        struct engine_stats s;

        engine_stats_get(f->machines[i].engine, &s);
        sum += s.computed_tokens;
    }
    return sum;
}

void sim_fleet_forget(struct sim_fleet *f, uint64_t id)
{
    for (uint32_t i = 0; i < f->conf.engines; i++)
        (void)engine_forget(f->machines[i].engine, id);
}

bool sim_fleet_is_clean(const struct sim_fleet *f)
{
    for (uint32_t i = 0; i < f->conf.engines; i++) {
        struct engine_stats s;

        engine_stats_get(f->machines[i].engine, &s);
        if (s.running + s.waiting + s.blocks_held > 0)
            return false;
    }
    return true;
}
