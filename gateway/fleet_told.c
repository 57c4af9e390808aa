/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/fleet_told.h"

#include <math.h>
#include <string.h>

#include "proto/scheduler.pb-c.h"

#include "gateway/fleet.h"

/* Half a name would be another name. */
static bool text_take(char *dst, size_t size, const char *s)
{
    size_t n = strlen(s);

    if (n >= size)
        return false;
    memcpy(dst, s, n + 1);
    return true;
}

static uint32_t flags_of(const Slipstream__V1__Engine *m)
{
    uint32_t flags = FLEET_USED;

    flags |= m->healthy ? FLEET_HEALTHY : 0;
    flags |= m->draining ? FLEET_DRAINING : 0;
    flags |= m->priority ? FLEET_PRIORITY : 0;
    flags |= m->probed ? FLEET_PROBED : 0;
    flags |= m->usage == SLIPSTREAM__V1__ENGINE_USAGE__USAGE_NEVER ? FLEET_USAGE_NEVER : 0;
    flags |= m->usage == SLIPSTREAM__V1__ENGINE_USAGE__USAGE_ALWAYS ? FLEET_USAGE_ALWAYS : 0;
    return flags;
}

static bool row_take(struct fleet_engine *e, const Slipstream__V1__Engine *m)
{
    size_t i, n = 0;

    memset(e, 0, sizeof(*e));
    e->generation = m->generation;
    e->flags = flags_of(m);
    e->port = m->port;
    e->running = m->running;
    e->home_tokens = m->home_tokens;
    for (i = 0; i < m->n_models && n < FLEET_ENGINE_MODELS; i++)
        n += m->models[i][0] != '\0' && text_take(e->models[n], sizeof(e->models[n]), m->models[i]);
    return text_take(e->id, sizeof(e->id), m->id) &&
           text_take(e->host, sizeof(e->host), m->address) &&
           text_take(e->address, sizeof(e->address), m->ip);
}

static void rows_take(struct fleet *f, const Slipstream__V1__Engines *engines, uint64_t conf_epoch)
{
    static struct fleet_engine rows[FLEET_ENGINES]; /* one thread */
    uint32_t count = 0;
    size_t i;

    memset(rows, 0, sizeof(rows));
    for (i = 0; engines != NULL && i < engines->n_engines; i++) {
        const Slipstream__V1__Engine *m = engines->engines[i];

        if (m->index >= FLEET_ENGINES)
            continue;
        if (!row_take(&rows[m->index], m))
            memset(&rows[m->index], 0, sizeof(rows[0]));
        if (m->index >= count)
            count = m->index + 1;
    }
    fleet_tell(f, rows, count, conf_epoch);
}

enum err fleet_take_info(struct fleet *f, const uint8_t *info, size_t len, uint64_t now_ns)
{
    Slipstream__V1__SchedulerInfo *m = slipstream__v1__scheduler_info__unpack(NULL, len, info);

    if (m == NULL)
        return ERR_PROTO;
    f->told_seed = m->digest_seed;
    f->told_scale = isfinite(m->time_scale) && m->time_scale > 0 ? m->time_scale : 0;
    f->told_now = m->priority_now;
    f->told_ns = now_ns;
    rows_take(f, m->engines, m->conf_epoch);
    slipstream__v1__scheduler_info__free_unpacked(m, NULL);
    return ERR_OK;
}

enum err fleet_take_event(struct fleet *f, const uint8_t *body, size_t len)
{
    Slipstream__V1__Engines *m = slipstream__v1__engines__unpack(NULL, len, body);
    enum err e = m != NULL ? ERR_OK : ERR_PROTO;

    if (e == ERR_OK && m->conf_epoch < f->conf_epoch)
        e = ERR_INVALID; /* sent again after a hello that said more */
    if (e == ERR_OK)
        rows_take(f, m, m->conf_epoch);
    if (m != NULL)
        slipstream__v1__engines__free_unpacked(m, NULL);
    return e;
}
