/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/publish.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/must.h"
#include "common/snapshot.h"
#include "scheduler/engine.h"

#define PROBES_MAX 64u

/* ---- the predecessor ---- */

static int by_last_use(const void *a, const void *b)
{
    const struct fleet_home *x = a, *y = b;

    if (x->last_ms != y->last_ms)
        return x->last_ms < y->last_ms ? 1 : -1;
    return x->key_lo < y->key_lo ? -1 : x->key_lo > y->key_lo;
}

static void homes_read(const struct fleet_segment *s, struct predecessor *out)
{
    struct fleet_home h;

    out->homes = calloc(FLEET_HOMES, sizeof(*out->homes));
    must(out->homes != NULL);
    for (uint32_t i = 0; i < FLEET_HOMES; i++) {
        const struct fleet_home_row *row = &s->homes[i];

        /* A row that the predecessor died in stays odd: left out, its workflow begins anew. */
        if (snapshot_read(&row->seq, row->words, &h, sizeof(h)) && h.live == 1 &&
            (h.key_lo | h.key_hi) != 0)
            out->homes[out->home_count++] = h;
    }
    qsort(out->homes, out->home_count, sizeof(*out->homes), by_last_use);
}

void predecessor_read(const char *path, struct predecessor *out)
{
    const struct fleet_segment *s;
    struct shm shm;

    *out = (struct predecessor){0};
    out->engines = calloc(FLEET_ENGINES, sizeof(*out->engines));
    must(out->engines != NULL);
    if (shm_open_ro(path, SHM_FLEET, FLEET_LAYOUT, sizeof(struct fleet_segment), &shm) != ERR_OK)
        return;
    s = (const struct fleet_segment *)(const void *)shm.head;
    out->digest_seed = s->digest_seed;
    for (uint32_t i = 0; i < FLEET_ENGINES; i++)
        if (!snapshot_read(&s->engines[i].seq, s->engines[i].words, &out->engines[i],
                           sizeof(out->engines[i])))
            out->engines[i] = (struct fleet_engine){0};
    homes_read(s, out);
    shm_close(&shm);
}

void predecessor_fini(struct predecessor *p)
{
    free(p->engines);
    free(p->homes);
    *p = (struct predecessor){0};
}

/* ---- the segment ---- */

enum err publish_open(struct publisher *p, const char *path, uint64_t epoch, uint64_t digest_seed,
                      double time_scale)
{
    enum err err;

    *p = (struct publisher){.scale = time_scale};
    err = shm_create(path, SHM_FLEET, FLEET_LAYOUT, sizeof(struct fleet_segment), &p->shm);
    if (err != ERR_OK)
        return err;
    p->segment = (struct fleet_segment *)(void *)p->shm.head;
    p->segment->epoch = epoch;
    p->segment->digest_seed = digest_seed;
    p->segment->home_count = FLEET_HOMES;
    p->segment->time_scale = time_scale;
    return ERR_OK;
}

enum err publish_show(struct publisher *p)
{
    shm_beat(&p->shm);
    return shm_publish(&p->shm);
}

void publish_close(struct publisher *p)
{
    if (p->segment == NULL)
        return;
    p->segment = NULL;
    shm_close(&p->shm);
}

static void row_write(_Atomic uint64_t *seq, _Atomic uint64_t *words, const void *from,
                      size_t bytes)
{
    if (fault_hits(FAULT_publish_dies)) {
        atomic_store(seq, atomic_load(seq) | 1);
        _exit(70);
    }
    snapshot_write(seq, words, from, bytes);
}

static uint32_t engine_flags(const struct engine *e, const struct seat *seat)
{
    uint32_t flags = FLEET_USED;

    flags |= e->healthy ? FLEET_HEALTHY : 0;
    flags |= e->draining ? FLEET_DRAINING : 0;
    flags |= e->priority ? FLEET_PRIORITY : 0;
    flags |= e->probed ? FLEET_PROBED : 0;
    flags |= seat->usage == CONF_USAGE_NEVER ? FLEET_USAGE_NEVER : 0;
    flags |= seat->usage == CONF_USAGE_ALWAYS ? FLEET_USAGE_ALWAYS : 0;
    return flags;
}

void publish_engine(struct publisher *p, const struct core *c, const struct seat *seat,
                    uint32_t index)
{
    struct fleet_engine_row *to = &p->segment->engines[index];
    const struct engine *e = core_engine(c, index);
    struct fleet_engine row = {.generation = seat->generation};
    unsigned models = 0;

    if (e != NULL) {
        row.flags = engine_flags(e, seat);
        row.generation = e->generation;
        row.running = e->running;
        row.home_tokens = e->home_tokens;
        row.port = seat->port;
        snprintf(row.id, sizeof(row.id), "%s", e->id);
        snprintf(row.host, sizeof(row.host), "%s", seat->host);
        snprintf(row.address, sizeof(row.address), "%s", seat->address);
        for (uint32_t i = 0; i < e->model_count && models < FLEET_ENGINE_MODELS; i++) {
            const char *name = core_engine_model(c, e, i);

            if (strlen(name) < sizeof(row.models[0])) /* half a name would be another model */
                memcpy(row.models[models++], name, strlen(name));
        }
    }
    row_write(&to->seq, to->words, &row, sizeof(row));
}

void publish_engine_count(struct publisher *p, uint32_t count)
{
    atomic_store_explicit(&p->segment->engine_count, count, memory_order_release);
}

void publish_conf_epoch(struct publisher *p, uint64_t conf_epoch)
{
    atomic_store_explicit(&p->segment->conf_epoch, conf_epoch, memory_order_release);
}

void publish_policy(struct publisher *p, const char *policy)
{
    char word[sizeof(p->segment->policy)] = {0};

    snprintf(word, sizeof(word), "%s", policy);
    memcpy(p->segment->policy, word, sizeof(word));
}

/* ---- homes ---- */

/* A row for a new home: one that was never used, or whose workflow has ended. 0: none nearby. */
static uint32_t home_row_find(const struct publisher *p, uint64_t key_lo)
{
    for (uint32_t i = 0; i < PROBES_MAX; i++) {
        uint32_t at = (uint32_t)(key_lo + i) & (FLEET_HOMES - 1);
        const struct fleet_home_row *row = &p->segment->homes[at];
        struct fleet_home h;

        if (snapshot_read(&row->seq, row->words, &h, sizeof(h)) && h.live == 0)
            return at + 1;
    }
    return 0;
}

static uint64_t real_ms(const struct publisher *p, uint64_t model_ns)
{
    return (uint64_t)((double)model_ns / p->scale) / NS_PER_MS;
}

void publish_home(struct publisher *p, const struct core *c, struct workflow *w)
{
    struct fleet_home h = {.key_lo = w->key_lo, .key_hi = w->key_hi, .engine = ENGINE_NONE};
    const struct engine *e;

    if (w->row == 0)
        w->row = home_row_find(p, w->key_lo);
    if (w->row == 0)
        return;
    e = w->home != ENGINE_NONE ? core_engine(c, w->home) : NULL;
    if (e != NULL && e->generation == w->home_generation) {
        h.engine = e->index;
        h.engine_generation = e->generation;
    }
    h.live = 1;
    h.created_ms = real_ms(p, w->created_ns);
    h.last_ms = real_ms(p, w->last_ns);
    h.created_wall_ms = p->wall_base_ms + h.created_ms;
    h.requests = w->ended_requests;
    h.prompt_tokens = w->prompt_tokens;
    h.cached_tokens = w->cached_tokens;
    h.completion_tokens = w->completion_tokens;
    h.recomputed_tokens = w->recomputed_tokens;
    h.home_tokens = w->home_tokens;
    row_write(&p->segment->homes[w->row - 1].seq, p->segment->homes[w->row - 1].words, &h,
              sizeof(h));
}

void publish_home_ended(struct publisher *p, uint32_t row)
{
    struct fleet_home_row *to;
    struct fleet_home h;

    if (row == 0)
        return;
    to = &p->segment->homes[row - 1];
    if (!snapshot_read(&to->seq, to->words, &h, sizeof(h)))
        h = (struct fleet_home){.key_lo = 1};
    h.live = 0;
    row_write(&to->seq, to->words, &h, sizeof(h));
}
