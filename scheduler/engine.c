/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/engine.h"

#include <string.h>

#include <xxhash.h>

#include "common/must.h"

/* Step times of a 70B model on 4 x H100, from FLOPs and bytes; fitted to each engine as it runs. */
static const struct time_model time_default = {
    .base = .018, .tok = 1.25e-4, .attn = 1.6e-9, .kv = 3.5e-8, .seq = 4e-5};

uint64_t engine_told_capacity(const struct engine *e)
{
    return e->kv_conf > 0                                     ? e->kv_conf
           : e->stats.has_kv_tokens && e->stats.kv_tokens > 0 ? e->stats.kv_tokens
                                                              : ENGINE_KV_TOKENS;
}

uint64_t engine_capacity(const struct engine *e)
{
    uint64_t told = engine_told_capacity(e);
    double found = (double)told * e->kv_factor;

    return e->kv_factor <= 0 ? told : found > 1 ? (uint64_t)found : 1;
}

double engine_ratio(const struct fleet *f, const struct engine *e)
{
    return e->model_count > 0 ? f->models[e->models[0]].ratio : f->models[MODELS_MAX].ratio;
}

double engine_queue_s(const struct engine *e)
{
    return e->prefilling > 0 && e->q_seconds > 0 ? e->q_seconds : 0;
}

double engine_prefill_s(const struct engine *e, double u, double n)
{
    return e->time.tok * u + e->time.attn * u * (n - u / 2);
}

void fleet_init(struct fleet *f, double ratio)
{
    uint32_t i;

    memset(f, 0, sizeof(*f));
    f->ratio_start = ratio;
    table_init(&f->model_index, MODELS_MAX);
    for (i = 0; i < ENGINES_MAX; i++) {
        f->engines[i].index = i;
        list_init(&f->engines[i].leases);
    }
    f->models[MODELS_MAX].ratio = ratio;
    f->models[MODELS_MAX].turn = ENGINES_MAX - 1;
}

void fleet_fini(struct fleet *f)
{
    table_fini(&f->model_index);
}

struct engine *fleet_find(struct fleet *f, uint32_t index, uint32_t generation)
{
    struct engine *e = index < ENGINES_MAX ? &f->engines[index] : NULL;

    return e != NULL && e->used && e->generation == generation ? e : NULL;
}

static uint64_t model_key(struct text name)
{
    return XXH3_64bits(name.p, name.len);
}

struct model *fleet_any_model(struct fleet *f)
{
    return &f->models[MODELS_MAX];
}

static struct model *model_find(struct fleet *f, struct text name)
{
    uint32_t cursor = 0, slot;

    while ((slot = table_find(&f->model_index, model_key(name), &cursor)) != UINT32_MAX) {
        struct model *m = &f->models[slot];

        if (m->len == name.len && memcmp(m->name, name.p, name.len) == 0)
            return m;
    }
    return NULL;
}

struct model *fleet_model(struct fleet *f, struct text name)
{
    struct model *m = model_find(f, name);

    return m != NULL && !set_is_empty(&m->engines) ? m : NULL;
}

/* A free one, else one that nobody serves any more; NULL when all are served. */
static struct model *model_make(struct fleet *f, struct text name)
{
    struct model *m = NULL;
    uint32_t i;

    if (name.len == 0 || name.len > MODEL_MAX)
        return NULL;
    for (i = 0; i < MODELS_MAX && (m == NULL || m->len != 0); i++)
        if (f->models[i].len == 0 || (m == NULL && set_is_empty(&f->models[i].engines)))
            m = &f->models[i];
    if (m == NULL)
        return NULL;
    if (m->len != 0)
        table_remove(&f->model_index, model_key((struct text){m->name, m->len}),
                     (uint32_t)(m - f->models));
    *m =
        (struct model){.len = (uint16_t)name.len, .ratio = f->ratio_start, .turn = ENGINES_MAX - 1};
    memcpy(m->name, name.p, name.len);
    table_add(&f->model_index, model_key(name), (uint32_t)(m - f->models));
    return m;
}

static void set_put(struct engine_set *s, uint32_t i, bool in)
{
    if (in)
        set_add(s, i);
    else
        set_remove(s, i);
}

static void engine_forget_models(struct fleet *f, struct engine *e)
{
    uint32_t i;

    for (i = 0; i < e->model_count; i++)
        set_remove(&f->models[e->models[i]].engines, e->index);
    e->model_count = 0;
    e->models_known = false;
    set_add(&f->unknown, e->index);
}

static void engine_set_models(struct fleet *f, struct engine *e, const struct text *models,
                              uint32_t count)
{
    uint32_t i;

    engine_forget_models(f, e);
    e->models_known = true;
    set_remove(&f->unknown, e->index);
    for (i = 0; i < count && e->model_count < ENGINE_MODELS_MAX; i++) {
        struct model *m = model_find(f, models[i]);

        if (m == NULL)
            m = model_make(f, models[i]);
        if (m == NULL || set_has(&m->engines, e->index))
            continue;
        set_add(&m->engines, e->index);
        e->models[e->model_count++] = (uint16_t)(m - f->models);
    }
}

static double or_default(double told, double otherwise)
{
    return told > 0 ? told : otherwise;
}

static void engine_set_time(struct engine *e, const struct time_model *told)
{
    e->time = (struct time_model){.base = or_default(told->base, time_default.base),
                                  .tok = or_default(told->tok, time_default.tok),
                                  .attn = or_default(told->attn, time_default.attn),
                                  .kv = or_default(told->kv, time_default.kv),
                                  .seq = or_default(told->seq, time_default.seq)};
}

enum err fleet_set(struct fleet *f, const struct engine_event *ev)
{
    struct engine *e;

    if (ev->index >= ENGINES_MAX || ev->id.len == 0 || ev->id.len >= sizeof(e->id))
        return ERR_INVALID;
    e = &f->engines[ev->index];
    if (e->used && e->generation != ev->generation)
        return ERR_INVALID; /* the old one has to go first */
    if (!e->used && e->id[0] != '\0' && e->generation == ev->generation)
        return ERR_INVALID; /* homes would point to one that is not the same */
    if (!e->used) {
        must(e->running == 0 && list_is_empty(&e->leases));
        *e = (struct engine){.index = ev->index, .generation = ev->generation, .used = true};
        list_init(&e->leases);
        memcpy(e->id, ev->id.p, ev->id.len);
        e->id_hash = XXH3_64bits(ev->id.p, ev->id.len);
        e->died = ++f->deaths; /* what an engine of this index held before is not there */
        set_add(&f->used, e->index);
        /* Counts as alive before its first probe: a scheduler that starts refuses nobody. */
        e->healthy = !ev->unproven;
        set_put(&f->alive, e->index, e->healthy);
        set_add(&f->unknown, e->index);
        engine_set_time(e, &ev->time);
        fit_init(&e->fit, &e->time);
    }
    e->draining = ev->draining;
    e->priority = ev->priority;
    e->content = ev->content;
    e->late_share = ev->late_share;
    e->kv_conf = ev->kv_tokens;
    set_put(&f->draining, e->index, ev->draining);
    if (ev->models_known)
        engine_set_models(f, e, ev->models, ev->model_count);
    return ERR_OK;
}

enum err fleet_models(struct fleet *f, const struct engine_event *ev)
{
    struct engine *e = fleet_find(f, ev->index, ev->generation);

    if (e == NULL)
        return ERR_NOT_FOUND;
    engine_set_models(f, e, ev->models, ev->model_count);
    return ERR_OK;
}

void fleet_remove(struct fleet *f, struct engine *e)
{
    must(e->used && list_is_empty(&e->leases));
    engine_forget_models(f, e);
    set_remove(&f->used, e->index);
    set_remove(&f->alive, e->index);
    set_remove(&f->draining, e->index);
    set_remove(&f->unknown, e->index);
    e->used = e->healthy = e->probed = false;
    e->running = e->prefilling = e->workflows = 0;
    e->q_seconds = e->x_tokens = e->x_prefilling = 0;
    e->q_tokens = 0;
    e->home_tokens = e->homed_workflows = 0;
}

bool engine_probe(struct fleet *f, struct engine *e, bool ok, uint32_t probe_failures)
{
    bool was = e->healthy, was_probed = e->probed;

    if (ok) {
        e->failed_probes = 0;
        e->healthy = true;
    } else {
        e->failures++;
        e->failed_probes++;
        if (!e->probed || e->failed_probes >= probe_failures)
            e->healthy = false;
    }
    e->probed = true;
    set_put(&f->alive, e->index, e->healthy);
    if (was && !e->healthy)
        e->died = ++f->deaths;
    return was != e->healthy || !was_probed;
}
