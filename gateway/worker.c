/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/worker.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/proc.h"
#include "gateway/client.h"
#include "gateway/engine_link.h"
#include "gateway/finish.h"
#include "gateway/placement.h"
#include "gateway/routes.h"

#define TURN_MAX_MS 1000u
#define SWEEP_NS (250 * NS_PER_MS)
#define SWEEP_SOON_NS (20 * NS_PER_MS) /* where bodies could outgrow their budget until then */
#define ACCESS_FLUSH_BYTES 32768u

void worker_count(struct gw *gw, enum gw_metric row, double v)
{
    metric_add(gw->m[row], v);
}

void worker_label_count(struct gw *gw, enum gw_metric row, const char *label, double v)
{
    metric_add(metric_get(gw->metric_file, row, &label), v);
}

void worker_error_count(struct gw *gw, enum err e)
{
    const char *code = err_code(e);

    if (gw->m_error[e] == NULL)
        gw->m_error[e] = metric_get(gw->metric_file, GW_M_errors, &code);
    metric_add(gw->m_error[e], 1);
}

void worker_status_count(struct gw *gw, unsigned status)
{
    char text[8];
    const char *label = text;

    if (status >= sizeof(gw->m_status) / sizeof(gw->m_status[0]))
        status = 0;
    if (gw->m_status[status] == NULL) {
        text[0] = (char)('0' + status / 100);
        text[1] = (char)('0' + status / 10 % 10);
        text[2] = (char)('0' + status % 10);
        text[3] = '\0';
        gw->m_status[status] = metric_get(gw->metric_file, GW_M_requests, &label);
    }
    metric_add(gw->m_status[status], 1);
}

void worker_access_flush(struct gw *gw)
{
    if (gw->access.len > 0 && gw->access_fd >= 0) {
        if (write(gw->access_fd, gw->access.base, gw->access.len) < 0)
            log_warn("access_log_failed", "error=\"%s\"", strerror(errno));
        buf_clear(&gw->access);
    }
}

static void on_sweep(struct timer *t)
{
    struct gw *gw = container_of(t, struct gw, sweep);
    uint64_t now = clock_ns();
    bool much;

    engine_pools_sweep(gw, now);
    clients_sweep(gw, now);
    if (gw->draining)
        clients_drain(gw);
    else
        clients_admit(gw);
    fleet_refresh(&gw->fleet, now);
    worker_access_flush(gw);
    metric_set(gw->m[GW_M_connections], gw->client_count);
    metric_set(gw->m[GW_M_body_bytes], (double)(gw->body_bytes + gw->coming_bytes));
    metric_beat(gw->metric_file);
    proc_alive();
    much = gw->body_bytes + gw->coming_bytes > gw->body_budget / 2;
    timer_start(&gw->timers, &gw->sweep, now + (much ? SWEEP_SOON_NS : SWEEP_NS));
}

static bool is_drained(const struct gw *gw, uint64_t now)
{
    return gw->draining &&
           ((gw->client_count == 0 && gw->requests.used == 0) || now >= gw->drain_until_ns);
}

/*
 * Runs as an h2o timer of no length, so at the end of the turn but inside the loop: only then does
 * h2o complete, in the same turn, the writes that start here. Seen from outside they would stay
 * pending over the next epoll_wait, be polled for room that they do not need, and the engine
 * connection would count as still writing when its answer comes.
 */
static void on_dispatch(h2o_timeout_entry_t *entry)
{
    struct gw *gw = container_of(entry, struct gw, dispatch);
    struct list *n;

    while ((n = list_take(&gw->patient)) != NULL) {
        struct gw_request *r = container_of(n, struct gw_request, node);

        r->patient(r);
    }
    gw->look_more = routes_dispatch(gw);
}

void worker_dispatch_soon(struct gw *gw)
{
    gw->dispatch.cb = on_dispatch;
    if (!h2o_timeout_is_linked(&gw->dispatch))
        h2o_timeout_link(gw->ctx.loop, &gw->ctx.zero_timeout, &gw->dispatch);
}

void worker_answer_soon(struct gw_request *r, void (*answer)(struct gw_request *r))
{
    r->patient = answer;
    list_push(&r->gw->patient, &r->node);
    worker_dispatch_soon(r->gw);
}

static void on_look(h2o_timeout_entry_t *entry)
{
    rpc_client_look(container_of(entry, struct gw, look)->scheduler);
}

/* Answers are taken inside the loop for on_dispatch()'s reason; its entry keeps epoll from
 * sleeping.
 */
static void worker_look_soon(struct gw *gw)
{
    gw->look.cb = on_look;
    if (!h2o_timeout_is_linked(&gw->look))
        h2o_timeout_link(gw->ctx.loop, &gw->ctx.zero_timeout, &gw->look);
}

/* Work that was started outside h2o's callbacks sits in its pending lists, and epoll would sleep
 * over it. */
static int turn_wait_ms(const struct gw *gw, uint64_t now)
{
    uint64_t next = timers_next(&gw->timers), ms;

    if (gw->ctx.loop->_pending_as_client != NULL || gw->ctx.loop->_pending_as_server != NULL)
        return 0;
    if (next <= now)
        return 0;
    ms = next == UINT64_MAX ? TURN_MAX_MS : (next - now + NS_PER_MS - 1) / NS_PER_MS;
    return ms < TURN_MAX_MS ? (int)ms : (int)TURN_MAX_MS;
}

double worker_time_scale(const struct gw *gw)
{
    return gw->fleet.told_scale > 0 ? gw->fleet.told_scale : gw->conf->common.time_scale;
}

double worker_model_seconds(const struct gw *gw, uint64_t ns)
{
    return (double)ns / 1e9 * worker_time_scale(gw);
}

bool worker_run(struct gw *gw)
{
    uint64_t now = clock_ns();

    gw->sweep.fire = on_sweep;
    timer_start(&gw->timers, &gw->sweep, now + SWEEP_NS);
    while (!is_drained(gw, now)) {
        if (h2o_evloop_run(gw->ctx.loop, turn_wait_ms(gw, now)) != 0 && errno != EINTR) {
            log_error("loop_failed", "error=\"%s\"", strerror(errno));
            return false;
        }
        now = clock_ns();
        timers_run(&gw->timers, now);
        if (gw->look_more)
            worker_dispatch_soon(gw);
        if (gw->mailbox != NULL)
            rpc_client_flush(gw->mailbox);
        if (gw->scheduler != NULL)
            rpc_client_flush(gw->scheduler);
        if (gw->access.len >= ACCESS_FLUSH_BYTES)
            worker_access_flush(gw);
        if (gw->scheduler != NULL && rpc_client_is_looking(gw->scheduler))
            worker_look_soon(gw);
    }
    worker_access_flush(gw);
    return true;
}
