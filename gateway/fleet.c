/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/fleet.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include <xxhash.h>

#include "common/clock.h"
#include "common/snapshot.h"

#define BEAT_FRESH_MS 300u
#define LOOK_AGAIN_NS (20 * NS_PER_MS)
#define HOME_PROBES 64u

void fleet_init(struct fleet *f, const char *run_dir)
{
    memset(f, 0, sizeof(*f));
    f->shm.fd = -1;
    f->is_told = run_dir == NULL;
    if (!f->is_told)
        snprintf(f->path, sizeof(f->path), "%s/fleet", run_dir);
}

void fleet_fini(struct fleet *f)
{
    shm_close(&f->shm);
    f->seg = NULL;
}

static bool is_word(const char *s)
{
    for (; *s != '\0'; s++)
        if ((unsigned char)*s <= 0x20 || (unsigned char)*s >= 0x7f)
            return false;
    return true;
}

/* What another process wrote is looked at after it was copied, and before it is believed. */
static bool row_is_sane(struct fleet_engine *e)
{
    unsigned char address[16];
    unsigned m;

    e->id[sizeof(e->id) - 1] = e->host[sizeof(e->host) - 1] = e->address[sizeof(e->address) - 1] =
        '\0';
    for (m = 0; m < FLEET_ENGINE_MODELS; m++)
        e->models[m][sizeof(e->models[m]) - 1] = '\0';
    if (!(e->flags & FLEET_USED))
        return e->flags == 0;
    return (e->flags & ~(uint32_t)FLEET_FLAGS) == 0 && e->id[0] != '\0' && is_word(e->id) &&
           is_word(e->host) && e->port > 0 && e->port <= 65535 &&
           (inet_pton(AF_INET, e->address, address) == 1 ||
            inet_pton(AF_INET6, e->address, address) == 1);
}

static void rows_copy(struct fleet *f)
{
    uint32_t count = atomic_load_explicit(&f->seg->engine_count, memory_order_acquire);
    struct fleet_engine e;
    uint32_t i;

    if (count > FLEET_ENGINES)
        return;
    for (i = 0; i < count; i++) {
        const struct fleet_engine_row *row = &f->seg->engines[i];

        if (snapshot_read(&row->seq, row->words, &e, sizeof(e)) && row_is_sane(&e))
            f->engines[i] = e;
    }
    f->count = count;
}

/* Opens what is under the name now, unless that is what we have: the file of a writer that is slow,
 * or dead without a successor. */
static void segment_open(struct fleet *f, uint64_t now_ns)
{
    struct shm s;

    if (f->looked_ns != 0 && now_ns - f->looked_ns < LOOK_AGAIN_NS)
        return;
    f->looked_ns = now_ns;
    if (f->seg != NULL && shm_is_current(&f->shm) && shm_has_its_name(&f->shm))
        return;
    if (shm_open_ro(f->path, SHM_FLEET, FLEET_LAYOUT, sizeof(struct fleet_segment), &s) != ERR_OK)
        return; /* the copy that we have must do */
    shm_close(&f->shm);
    f->shm = s;
    f->seg = (const struct fleet_segment *)(const void *)f->shm.head;
    f->conf_epoch = UINT64_MAX;
}

static void rows_follow(struct fleet *f)
{
    uint64_t epoch;

    if (f->seg == NULL)
        return;
    epoch = atomic_load_explicit(&f->seg->conf_epoch, memory_order_acquire);
    if (epoch == f->conf_epoch)
        return;
    f->conf_epoch = epoch;
    rows_copy(f);
}

void fleet_refresh(struct fleet *f, uint64_t now_ns)
{
    if (f->is_told)
        return;
    if (!fleet_is_fresh(f) || !shm_is_current(&f->shm))
        segment_open(f, now_ns);
    rows_follow(f);
}

void fleet_reread(struct fleet *f, uint64_t now_ns)
{
    if (f->is_told)
        return;
    f->looked_ns = 0;
    f->conf_epoch = UINT64_MAX;
    segment_open(f, now_ns);
    rows_follow(f);
}

bool fleet_is_fresh(const struct fleet *f)
{
    if (f->is_told)
        return f->is_linked;
    return f->seg != NULL && shm_beat_age_ms(&f->shm) < BEAT_FRESH_MS;
}

uint64_t fleet_digest_seed(const struct fleet *f)
{
    if (f->is_told)
        return f->told_seed;
    return f->seg != NULL ? f->seg->digest_seed : 0;
}

void fleet_tell(struct fleet *f, const struct fleet_engine *rows, uint32_t count,
                uint64_t conf_epoch)
{
    uint32_t i;

    if (!f->is_told)
        return;
    f->count = count < FLEET_ENGINES ? count : FLEET_ENGINES;
    f->conf_epoch = conf_epoch;
    memset(f->engines, 0, sizeof(f->engines));
    for (i = 0; i < f->count; i++) {
        struct fleet_engine e = rows[i];

        if (row_is_sane(&e))
            f->engines[i] = e;
    }
}

void fleet_set_linked(struct fleet *f, bool is_linked)
{
    f->is_linked = is_linked;
}

const struct fleet_engine *fleet_engine_get(const struct fleet *f, uint32_t index,
                                            uint32_t generation)
{
    const struct fleet_engine *e;

    if (index >= f->count)
        return NULL;
    e = &f->engines[index];
    return (e->flags & FLEET_USED) && e->generation == generation ? e : NULL;
}

bool fleet_serves(const struct fleet_engine *e, const char *model, size_t model_len)
{
    unsigned m;

    for (m = 0; m < FLEET_ENGINE_MODELS; m++)
        if (strlen(e->models[m]) == model_len && memcmp(e->models[m], model, model_len) == 0)
            return true;
    return false;
}

static XXH128_hash_t home_key(const struct fleet_wish *w)
{
    char text[600];
    size_t n = w->tenant_len < 256 ? w->tenant_len : 256,
           k = w->workflow_len < 256 ? w->workflow_len : 256;

    memcpy(text, w->tenant, n);
    text[n] = '\0';
    memcpy(text + n + 1, w->workflow_id, k);
    return XXH3_128bits(text, n + 1 + k);
}

/* The home that the scheduler wrote down, or -1. */
static int home_find(const struct fleet *f, XXH128_hash_t key, uint32_t *generation)
{
    struct fleet_home h;
    uint32_t i;

    if (f->seg == NULL)
        return -1;
    for (i = 0; i < HOME_PROBES; i++) {
        const struct fleet_home_row *row = &f->seg->homes[(key.low64 + i) & (FLEET_HOMES - 1)];

        if (!snapshot_read(&row->seq, row->words, &h, sizeof(h)))
            continue;
        if (h.key_lo == 0 && h.key_hi == 0)
            return -1;
        if (h.key_lo == key.low64 && h.key_hi == key.high64 && h.live) {
            *generation = h.engine_generation;
            return (int)h.engine;
        }
    }
    return -1;
}

static bool is_avoided(const struct fleet_wish *w, uint32_t index)
{
    unsigned i;

    for (i = 0; i < w->avoid_count; i++)
        if (w->avoid[i] == index)
            return true;
    return false;
}

int fleet_choose(const struct fleet *f, const struct fleet_wish *w, const char **reason,
                 bool *known)
{
    XXH128_hash_t key = w->workflow_len > 0 ? home_key(w) : (XXH128_hash_t){0, 0};
    uint32_t alive[FLEET_ENGINES], n = 0, i, generation = 0;
    uint64_t best = 0;
    int home, choice = -1;

    *known = false;
    for (i = 0; i < f->count; i++) {
        const struct fleet_engine *e = &f->engines[i];

        /* One whose models nobody has told yet may serve any, as for the scheduler. */
        if (!(e->flags & FLEET_USED) || (w->model_len > 0 && e->models[0][0] != '\0' &&
                                         !fleet_serves(e, w->model, w->model_len)))
            continue;
        *known = true;
        if ((e->flags & FLEET_HEALTHY) && !is_avoided(w, i))
            alive[n++] = i;
    }
    if (n == 0)
        return -1;
    if (w->workflow_len == 0) {
        *reason = "alone_rotation";
        return (int)alive[w->turn % n];
    }
    home = home_find(f, key, &generation);
    for (i = 0; i < n; i++)
        if ((int)alive[i] == home && f->engines[home].generation == generation) {
            *reason = "alone_home";
            return home;
        }
    for (i = 0; i < n; i++) {
        const char *id = f->engines[alive[i]].id;
        uint64_t h = XXH3_64bits_withSeed(id, strlen(id), key.low64);

        if (choice < 0 || h > best) {
            best = h;
            choice = (int)alive[i];
        }
    }
    *reason = "alone_rendezvous";
    return choice;
}
