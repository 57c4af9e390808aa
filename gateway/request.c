/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/request.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/must.h"
#include "common/proc.h"
#include "gateway/client.h"
#include "gateway/finish.h"
#include "gateway/worker.h"

#define ATTEMPT_SHIFT 24
#define ATTEMPT_MASK (UINT64_C(0xff) << ATTEMPT_SHIFT)

#define TO(name) (1u << GW_##name)
static const struct step {
    const char *name, *waits;
    size_t limit; /* offset of the setting */
    unsigned next;
    void (*enter)(struct gw_request *r);
} steps[] = {
#define STATE(name, waits, limit, err, next) \
    {#name, waits, offsetof(struct conf_gateway, limit), next, enter_##name},
#include "gateway/states.def"
#undef STATE
};

const char *state_name(enum gw_state s)
{
    return steps[s].name;
}

static void on_timer(struct timer *t)
{
    on_state_timer(container_of(t, struct gw_request, timer));
}

void gw_goto(struct gw_request *r, enum gw_state next, const char *why)
{
    struct gw *gw = r->gw;
    uint32_t limit_ms;

    must(steps[r->state].next & (1u << next));
    log_debug("state", "id=%s from=%s to=%s why=\"%s\"", r->id, steps[r->state].name,
              steps[next].name, why);
    metric_set(gw->m_state[r->state], metric_value(gw->m_state[r->state]) - 1);
    metric_set(gw->m_state[next], metric_value(gw->m_state[next]) + 1);
    list_remove(&r->node); /* whatever it waited on belonged to the old state */
    if (r->state == GW_READING) {
        free(r->identity);
        r->identity = NULL;
    }
    r->state = next;
    r->since_ns = clock_ns();
    memcpy(&limit_ms, (const char *)&gw->conf->gateway + steps[next].limit, sizeof(limit_ms));
    r->deadline_ns = r->since_ns + limit_ms * NS_PER_MS;
    if (next != GW_CLOSING && r->total_ns < r->deadline_ns)
        r->deadline_ns = r->total_ns;
    timer_start(&gw->timers, &r->timer, r->deadline_ns);
    steps[next].enter(r);
}

static void on_h2o_dispose(void *p)
{
    struct gw_request *r = *(struct gw_request **)p;

    request_dispose(r);
}

static bool is_id_byte(unsigned char c)
{
    return c > 0x20 && c < 0x7f && c != '"' && c != '\\' && c != ',' && c != ';';
}

/* Unique over workers and restarts: random start per worker, then a counter through a bijection. */
static void id_make(struct gw_request *r)
{
    static const char hex[] = "0123456789abcdef";
    static uint64_t base, count;
    uint64_t v;
    int i;

    if (base == 0)
        base = proc_random();
    v = (base ^ ++count) * UINT64_C(0x9e3779b97f4a7c15);
    memcpy(r->id, "req-", 4);
    for (i = 0; i < 16; i++)
        r->id[4 + i] = hex[v >> (60 - 4 * i) & 15];
    r->id[20] = '\0';
}

static void id_choose(struct gw_request *r)
{
    ssize_t at = h2o_find_header_by_str(&r->req->headers, H2O_STRLIT("x-request-id"), -1);
    size_t i;

    if (at >= 0) {
        h2o_iovec_t v = r->req->headers.entries[at].value;

        if (v.len > 0 && v.len < sizeof(r->id)) {
            for (i = 0; i < v.len && is_id_byte((unsigned char)v.base[i]); i++)
                r->id[i] = v.base[i];
            if (i == v.len) {
                r->id[i] = '\0';
                return;
            }
        }
    }
    id_make(r);
}

struct gw_request *request_new(struct gw *gw, h2o_req_t *req)
{
    struct gw_request *r, **hook;
    uint64_t handle;

    r = pool_take(&gw->requests, &handle);
    if (r == NULL)
        return NULL;
    hook = h2o_mem_alloc_shared(&req->pool, sizeof(*hook), on_h2o_dispose);
    *hook = r;
    r->gw = gw;
    r->handle = r->wire = handle;
    r->req = req;
    r->tenant = r->workflow_id = r->agent_id = r->parent_id = r->group_id = r->model = "";
    r->answer_length = UINT64_MAX;
    r->timer.fire = on_timer;
    list_init(&r->node);
    r->arrived_ns = r->since_ns = clock_ns();
    r->total_ns = r->arrived_ns + gw->conf->gateway.total_timeout_ms * NS_PER_MS;
    r->held_bytes = req->entity.len;
    gw->body_bytes += r->held_bytes;
    metric_set(gw->m_state[GW_READING], metric_value(gw->m_state[GW_READING]) + 1);
    id_choose(r);
    client_attach(r);
    r->deadline_ns = r->arrived_ns + gw->conf->gateway.body_timeout_ms * NS_PER_MS;
    timer_start(&gw->timers, &r->timer, r->deadline_ns);
    return r;
}

struct gw_request *request_find(struct gw *gw, uint64_t handle)
{
    return pool_find(&gw->requests, handle);
}

struct gw_request *request_find_wire(struct gw *gw, uint64_t wire)
{
    struct gw_request *r = pool_find(&gw->requests, wire & ~ATTEMPT_MASK);

    return r != NULL && r->wire == wire ? r : NULL;
}

void request_new_attempt(struct gw_request *r)
{
    r->attempt++;
    r->wire = r->handle | (uint64_t)(r->attempt & 0xff) << ATTEMPT_SHIFT;
}

void *request_alloc(struct gw_request *r, size_t bytes)
{
    return h2o_mem_alloc_pool(&r->req->pool, bytes);
}

const char *request_strdup(struct gw_request *r, const char *s, size_t len)
{
    return h2o_strdup(&r->req->pool, s, len).base;
}
