/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/placement.h"

#include <string.h>

#include "proto/scheduler.pb-c.h"

#include "common/clock.h"
#include "common/codec.h"
#include "common/log.h"
#include "common/must.h"
#include "gateway/finish.h"
#include "gateway/fleet_told.h"
#include "gateway/methods.h"
#include "gateway/stream.h"
#include "gateway/worker.h"

#define RESUME_PAGE 64u
#define PATIENCE 0.9    /* of a client's time-out: a refusal that it hears is worth more */
#define WAIT_BUDGET 0.8 /* of the body budget: beyond, nothing may wait */

typedef Slipstream__V1__Query query_msg;
typedef Slipstream__V1__Decision decision_msg;
typedef Slipstream__V1__ReportItem report_msg;

static void text_set(char *dst, size_t size, const char *s)
{
    memccpy(dst, s != NULL ? s : "", '\0', size - 1);
    dst[size - 1] = '\0';
}

static uint32_t span_us(uint64_t from_ns, uint64_t to_ns)
{
    uint64_t us = to_ns > from_ns ? (to_ns - from_ns) / NS_PER_US : 0;

    return us < UINT32_MAX ? (uint32_t)us : UINT32_MAX;
}

static uint32_t remaining_ms(const struct gw_request *r, uint64_t now)
{
    return r->total_ns > now ? (uint32_t)((r->total_ns - now) / NS_PER_MS) : 0;
}

/* Since its first ticket, whoever gave that one. */
static uint32_t waited_ms(const struct gw_request *r, uint64_t now)
{
    uint64_t start = r->place.wait_start_ns;
    uint64_t ms = (r->place.waited_ns + (start != 0 && now > start ? now - start : 0)) / NS_PER_MS;

    return ms < UINT32_MAX ? (uint32_t)ms : UINT32_MAX;
}

static void wait_end(struct gw_request *r)
{
    uint64_t now;

    if (r->place.wait_start_ns == 0)
        return;
    now = clock_ns();
    r->place.waited_ns += now - r->place.wait_start_ns;
    r->place.wait_start_ns = 0;
    r->place.waited_ms = (uint32_t)(worker_model_seconds(r->gw, r->place.waited_ns) * 1e3);
    metric_observe(r->gw->m[GW_M_waited], worker_model_seconds(r->gw, r->place.waited_ns));
}

/* Strings are borrowed from r: pack it before r changes. The casts are protobuf-c's want of const.
 */
static void query_fill(query_msg *q, const struct gw_request *r, uint64_t now)
{
    slipstream__v1__query__init(q);
    q->handle = r->wire;
    q->tenant = (char *)(uintptr_t)r->tenant;
    q->workflow_id = (char *)(uintptr_t)r->workflow_id;
    q->agent_id = (char *)(uintptr_t)r->agent_id;
    q->parent_request_id = (char *)(uintptr_t)r->parent_id;
    q->group_id = (char *)(uintptr_t)r->group_id;
    q->group_size = r->group_size;
    q->strategy = (Slipstream__V1__Strategy)r->strategy;
    q->priority = (Slipstream__V1__Priority)r->priority;
    q->final = r->final;
    q->model = (char *)(uintptr_t)r->model;
    q->prompt_bytes = r->prompt_bytes;
    q->max_tokens = r->max_tokens;
    q->waited_ms = waited_ms(r, now);
    q->remaining_ms = remaining_ms(r, now);
    q->patience_ms = (uint32_t)(r->patience_ms * PATIENCE);
    q->request_id = (char *)(uintptr_t)r->id;
    q->route = (char *)(uintptr_t)r->route->path;
    q->explain = r->gw->access_fd >= 0;
    q->stream = r->stream;
    q->n_avoid = r->place.avoid_count;
    q->avoid = (uint32_t *)(uintptr_t)r->place.avoid;
}

static void report_send(struct gw *gw, report_msg *item)
{
    Slipstream__V1__Reports reports;

    slipstream__v1__reports__init(&reports);
    if (gw->scheduler == NULL)
        return;
    reports.n_items = 1;
    reports.items = &item;
    rpc_send(gw->scheduler, SCHED_REPORT, &reports.base);
}

static void lease_give_back(struct gw *gw, uint64_t wire)
{
    report_msg item;

    slipstream__v1__report_item__init(&item);
    item.handle = wire;
    item.kind = SLIPSTREAM__V1__REPORT_KIND__REPORT_CANCEL;
    item.err = ERR_CANCELLED;
    report_send(gw, &item);
}

/* Nobody is left to try: then what the last one did wrong says more. */
static enum err no_engine(const struct gw_request *r)
{
    return r->place.tries > 0 ? r->place.last_err : ERR_NO_ENGINE;
}

static void place_alone(struct gw_request *r)
{
    struct gw *gw = r->gw;
    struct fleet_wish wish = {.tenant = r->tenant,
                              .tenant_len = strlen(r->tenant),
                              .workflow_id = r->workflow_id,
                              .workflow_len = strlen(r->workflow_id),
                              .model = r->model,
                              .model_len = r->model_len,
                              .avoid = r->place.avoid,
                              .avoid_count = r->place.avoid_count,
                              .turn = gw->alone_turn++};
    bool none = gw->conf->common.channel == RPC_NONE, known;
    const char *reason = "";
    int engine;

    if (none) { /* benchmarks: plain rotation */
        wish.workflow_id = "";
        wish.workflow_len = 0;
    }
    wait_end(r);
    request_new_attempt(r);
    engine = fleet_choose(&gw->fleet, &wish, &reason, &known);
    if (engine < 0) {
        respond_error(r, known || gw->fleet.count == 0 ? no_engine(r) : ERR_MODEL,
                      known ? NULL : "model", NULL);
        return;
    }
    r->place.engine = (uint32_t)engine;
    r->place.generation = gw->fleet.engines[engine].generation;
    r->place.alone = true;
    r->place.held = false;
    text_set(r->place.engine_id, sizeof(r->place.engine_id), gw->fleet.engines[engine].id);
    text_set(r->place.policy, sizeof(r->place.policy), none ? "none" : "alone");
    text_set(r->place.reason, sizeof(r->place.reason), reason);
    worker_count(gw, GW_M_alone, 1);
    if (!none &&
        rpc_client_is_up(
            gw->scheduler)) { /* a stall in the same epoch: it must know, or its loads are wrong */
        report_msg item;
        query_msg q;

        slipstream__v1__report_item__init(&item);
        query_fill(&q, r, clock_ns());
        item.handle = r->wire;
        item.kind = SLIPSTREAM__V1__REPORT_KIND__REPORT_DISPATCHED;
        item.engine = r->place.engine;
        item.query = &q;
        report_send(gw, &item);
        r->place.held = true;
    }
    gw_goto(r, GW_DIALING, reason);
}

/* Without a heartbeat, only the answer tells slow from dead. */
static bool is_unanswered(const struct gw_request *r, uint64_t now)
{
    return r->gw->fleet.is_told &&
           now - r->since_ns >= r->gw->conf->gateway.remote_placing_ms * NS_PER_MS;
}

bool placement_try_alone(struct gw_request *r)
{
    uint64_t now = clock_ns();

    fleet_refresh(&r->gw->fleet, now);
    if (r->gw->fleet.count == 0 || (fleet_is_fresh(&r->gw->fleet) && !is_unanswered(r, now)))
        return false;
    place_alone(r);
    return true;
}

/* "e1:0.21,e2:1.4": seconds by the scheduler's reckoning, for the access log. */
static const char *costs_print(struct gw_request *r, const decision_msg *d)
{
    struct buf b = {0};
    const char *out = NULL;
    size_t i;

    for (i = 0; i < d->n_candidates; i++) {
        const Slipstream__V1__Candidate *c = d->candidates[i];
        const struct fleet *f = &r->gw->fleet;

        if (c->engine < f->count)
            buf_addf(&b, "%s%s:%.3g", b.len > 0 ? "," : "", f->engines[c->engine].id, c->cost);
    }
    if (b.len > 0)
        out = request_strdup(r, b.base, b.len);
    buf_fini(&b);
    return out;
}

static void go_apply(struct gw_request *r, const decision_msg *d)
{
    struct gw *gw = r->gw;
    const struct fleet_engine *e;

    r->place.held = true;
    wait_end(r);
    fleet_refresh(&gw->fleet, clock_ns());
    e = fleet_engine_get(&gw->fleet, d->engine, d->engine_generation);
    if (e == NULL) { /* of a scheduler whose segment we have not opened yet */
        fleet_reread(&gw->fleet, clock_ns());
        e = fleet_engine_get(&gw->fleet, d->engine, d->engine_generation);
    }
    if (e == NULL && gw->fleet.is_told) { /* the decision overtook the news of this engine */
        placement_cancel(r);
        if (r->state == GW_WAITING)
            gw_goto(r, GW_PLACING, "an engine that is not known yet");
        else
            r->place.wants_fleet = true;
        return;
    }
    if (e == NULL) { /* the fleet changed under the decision */
        placement_failed(r, ERR_NO_ENGINE);
        respond_error(r, ERR_NO_ENGINE, NULL, NULL);
        return;
    }
    r->place.engine = d->engine;
    r->place.generation = d->engine_generation;
    r->place.alone = false;
    r->place.hit = d->hit;
    r->place.waited_ms = d->waited_ms;
    r->place.priority = d->priority;
    text_set(r->place.engine_id, sizeof(r->place.engine_id), e->id);
    text_set(r->place.policy, sizeof(r->place.policy), d->policy);
    text_set(r->place.reason, sizeof(r->place.reason), d->reason);
    if (d->wait_reason[0] != '\0')
        text_set(r->place.wait_reason, sizeof(r->place.wait_reason), d->wait_reason);
    r->place.costs = costs_print(r, d);
    gw_goto(r, GW_DIALING, r->place.reason);
}

static void ticket_apply(struct gw_request *r, const decision_msg *d)
{
    struct gw *gw = r->gw;

    r->place.held = true;
    if ((double)gw->body_bytes > WAIT_BUDGET * (double)gw->body_budget) {
        placement_cancel(r);
        respond_error(r, ERR_BUDGET, NULL, NULL);
        return;
    }
    r->place.ticket_ms = d->deadline_ms;
    text_set(r->place.wait_reason, sizeof(r->place.wait_reason), d->reason);
    if (r->place.wait_start_ns == 0) {
        r->place.wait_start_ns = clock_ns();
        worker_count(gw, GW_M_waits, 1);
    }
    gw_goto(r, GW_WAITING, r->place.wait_reason);
}

static void decision_apply(struct gw_request *r, const decision_msg *d)
{
    switch (d->kind) {
    case SLIPSTREAM__V1__DECISION_KIND__DECISION_GO:
        go_apply(r, d);
        break;
    case SLIPSTREAM__V1__DECISION_KIND__DECISION_WAIT:
        ticket_apply(r, d);
        break;
    case SLIPSTREAM__V1__DECISION_KIND__DECISION_NO:
    case _SLIPSTREAM__V1__DECISION_KIND_IS_INT_SIZE:
    default:
        r->place.held = false;
        wait_end(r);
        respond_error_retry(r, d->err == ERR_NO_ENGINE ? no_engine(r) : err_from_wire(d->err),
                            d->err == ERR_MODEL ? "model" : NULL, NULL, (int)d->retry_ms);
        break;
    }
}

/* A decision with as many candidates as one may have. */
struct decision_room {
    _Alignas(16) char bytes[16384];
};

static decision_msg *decision_read(struct decision_room *room, const uint8_t *body, size_t len)
{
    struct arena memory = {.base = room->bytes, .size = sizeof(room->bytes)};

    return codec_unpack(&slipstream__v1__decision__descriptor, &memory, body, len);
}

static bool is_go(const uint8_t *body, size_t len)
{
    struct decision_room room;
    const decision_msg *d = decision_read(&room, body, len);

    return d != NULL && d->kind != SLIPSTREAM__V1__DECISION_KIND__DECISION_NO;
}

/* An answer that nobody waits for any more. What it brought goes back. */
static void on_late(void *arg, uint64_t wire, enum err status, const uint8_t *body, size_t len)
{
    /* An answer that never came may have been a lease, too. */
    if (status == ERR_TIMEOUT || (status == ERR_OK && is_go(body, len)))
        lease_give_back(arg, wire);
}

static void on_placed(void *arg, uint64_t wire, enum err status, const uint8_t *body, size_t len)
{
    struct gw *gw = arg;
    struct gw_request *r = request_find_wire(gw, wire);
    struct decision_room room;
    decision_msg *d;

    if (r != NULL && r->place.granted)
        return; /* the ticket, overtaken by its own end */
    if (r == NULL || r->state != GW_PLACING) {
        on_late(arg, wire, status, body, len);
        return;
    }
    metric_observe(gw->m[GW_M_placing], (double)(clock_ns() - r->since_ns) / 1e9);
    switch ((int)status) {
    case ERR_OK:
        d = decision_read(&room, body, len);
        if (d == NULL) {
            respond_error(r, ERR_PROTO, NULL, NULL);
            return;
        }
        decision_apply(r, d);
        break;
    case ERR_GONE:
    case ERR_CANCELLED:
    case ERR_HELLO:
        if (gw->fleet.count > 0)
            place_alone(r);
        else
            respond_error(r, ERR_SCHEDULER_DOWN, NULL, NULL);
        break;
    case ERR_TIMEOUT:
        lease_give_back(gw, wire);
        if (!placement_try_alone(r))
            respond_error(r, ERR_NO_ANSWER, NULL, NULL);
        break;
    default:
        respond_error(r, status, NULL, NULL);
        break;
    }
}

void placement_ask(struct gw_request *r)
{
    struct gw *gw = r->gw;
    uint64_t now = clock_ns();
    query_msg q;
    enum err e;

    if (r->placed_ns == 0)
        r->placed_ns = now;
    fleet_refresh(&gw->fleet, now);
    if (gw->conf->common.channel == RPC_NONE) {
        place_alone(r);
        return;
    }
    request_new_attempt(r);
    r->place.granted = r->place.wants_fleet = false;
    if (!rpc_client_is_up(gw->scheduler)) {
        if (gw->fleet.count > 0 && (gw->scheduler_lost || !fleet_is_fresh(&gw->fleet)))
            place_alone(r);
        return; /* its heart beats, or nothing is known yet: the link comes up within the time
                   limit, or the timer decides */
    }
    query_fill(&q, r, now);
    q.n_digests = r->digest_count;
    q.digests = r->digests;
    q.tail_bytes = r->tail_bytes;
    e = rpc_call(gw->scheduler, SCHED_PLACE, &q.base, gw->conf->gateway.placing_timeout_ms,
                 on_placed, gw, r->wire, on_late);
    if (e == ERR_GONE && gw->fleet.count > 0)
        place_alone(r);
    else if (e != ERR_OK)
        respond_error(r, e == ERR_GONE ? ERR_SCHEDULER_DOWN : e, NULL, NULL);
}

void placement_first_byte(struct gw_request *r)
{
    report_msg item;

    slipstream__v1__report_item__init(&item);
    if (!r->place.held)
        return;
    item.handle = r->wire;
    item.kind = SLIPSTREAM__V1__REPORT_KIND__REPORT_FIRST_BYTE;
    item.ttft_us = span_us(r->arrived_ns, r->first_byte_ns);
    report_send(r->gw, &item);
}

void placement_cancel(struct gw_request *r)
{
    if (r->place.held)
        lease_give_back(r->gw, r->wire);
    r->place.held = false;
}

void placement_failed(struct gw_request *r, enum err e)
{
    report_msg item;

    slipstream__v1__report_item__init(&item);
    if (!r->place.held)
        return;
    r->place.held = false;
    item.handle = r->wire;
    item.kind = SLIPSTREAM__V1__REPORT_KIND__REPORT_FAILED;
    item.err = (uint32_t)e;
    report_send(r->gw, &item);
}

void placement_end(struct gw_request *r, uint64_t now)
{
    report_msg item;
    const struct tap_usage *u = &r->tap.usage;

    bool waits = r->place.wait_start_ns != 0;

    slipstream__v1__report_item__init(&item);
    wait_end(r);
    if (!r->place.held)
        return;
    r->place.held = false;
    item.handle = r->wire;
    item.kind = SLIPSTREAM__V1__REPORT_KIND__REPORT_DONE;
    if (r->end == ERR_CLIENT_GONE || r->end == ERR_SLOW_CLIENT || waits)
        item.kind = SLIPSTREAM__V1__REPORT_KIND__REPORT_CANCEL;
    else if (r->end != ERR_OK)
        item.kind = SLIPSTREAM__V1__REPORT_KIND__REPORT_FAILED;
    item.err = (uint32_t)r->end;
    item.has_usage = u->has_usage;
    item.has_cached = u->has_cached;
    item.prompt_tokens = u->prompt_tokens;
    item.cached_tokens = u->cached_tokens;
    item.completion_tokens = u->completion_tokens;
    item.latency_us = span_us(r->arrived_ns, now);
    if (r->first_token_ns != 0)
        item.ttft_us = span_us(r->arrived_ns, r->first_token_ns);
    if (r->dispatched_ns != 0)
        item.engine_us = span_us(r->dispatched_ns, now);
    item.status = (uint32_t)r->req->res.status;
    report_send(r->gw, &item);
}

/* Another engine may have its number, where a scheduler has forgotten who had which. */
static bool is_there(const struct gw_request *r)
{
    const struct fleet *f = &r->gw->fleet;

    return !f->is_told || (r->place.engine < f->count &&
                           strcmp(f->engines[r->place.engine].id, r->place.engine_id) == 0);
}

/* After each hello: everything in flight is restated, in pages, so that a new scheduler counts it
 * and an old one forgets what it must. */
static void resume_send(struct gw *gw)
{
    Slipstream__V1__InflightItem items[RESUME_PAGE], *ptrs[RESUME_PAGE];
    query_msg queries[RESUME_PAGE];
    Slipstream__V1__Inflight page;
    uint32_t cursor = 0;
    uint64_t handle, now = clock_ns();
    struct gw_request *r;

    slipstream__v1__inflight__init(&page);
    page.items = ptrs;
    while ((r = pool_next(&gw->requests, &cursor, &handle)) != NULL) {
        Slipstream__V1__InflightItem *it = &items[page.n_items];

        if ((r->state != GW_DIALING && r->state != GW_STREAMING) || !is_there(r))
            continue;
        slipstream__v1__inflight_item__init(it);
        query_fill(&queries[page.n_items], r, now);
        it->query = &queries[page.n_items];
        it->engine = r->place.engine;
        it->dispatched = true;
        it->first_byte = r->state == GW_STREAMING;
        r->place.held = true;
        ptrs[page.n_items++] = it;
        if (page.n_items == RESUME_PAGE) {
            rpc_send(gw->scheduler, SCHED_RESUME, &page.base);
            page.n_items = 0;
        }
    }
    page.last = true;
    rpc_send(gw->scheduler, SCHED_RESUME, &page.base);
}

/* Requests that arrived while the link was down but its heart beat. */
static void waiting_ask(struct gw *gw, enum gw_state state)
{
    uint32_t cursor = 0;
    uint64_t handle;
    struct gw_request *r;

    while ((r = pool_next(&gw->requests, &cursor, &handle)) != NULL) {
        if (r->state != state)
            continue;
        if (state == GW_WAITING)
            gw_goto(r, GW_PLACING, "a new scheduler");
        else
            placement_ask(r);
    }
}

uint64_t placement_ticket_end(const struct gw *gw)
{
    return gw->scheduler_lost
               ? gw->scheduler_lost_ns + gw->conf->gateway.placing_timeout_ms * NS_PER_MS
               : UINT64_MAX;
}

/* The link is down: whoever waits looks again when it has been so for too long. */
static void tickets_watch(struct gw *gw)
{
    uint64_t handle, end = placement_ticket_end(gw);
    uint32_t cursor = 0;
    struct gw_request *r;

    while ((r = pool_next(&gw->requests, &cursor, &handle)) != NULL)
        if (r->state == GW_WAITING && end < r->deadline_ns)
            timer_start(&gw->timers, &r->timer, end);
}

/* Its news has come, whoever waited for it asks again. */
static void on_fleet(struct gw *gw, const uint8_t *body, size_t len)
{
    uint32_t cursor = 0;
    uint64_t handle;
    struct gw_request *r;

    if (!gw->fleet.is_told)
        return;
    if (fleet_take_event(&gw->fleet, body, len) == ERR_PROTO)
        log_error("fleet_refused", "reason=\"malformed\"");
    while ((r = pool_next(&gw->requests, &cursor, &handle)) != NULL)
        if (r->state == GW_PLACING && r->place.wants_fleet)
            placement_ask(r);
}

static void on_up(void *arg, uint64_t epoch, const uint8_t *info, size_t len)
{
    struct gw *gw = arg;

    if (gw->fleet.is_told && fleet_take_info(&gw->fleet, info, len, clock_ns()) != ERR_OK)
        log_error("fleet_refused", "reason=\"malformed\"");
    fleet_set_linked(&gw->fleet, true);
    log_info("scheduler_up", "epoch=%016llx ring=%d", (unsigned long long)epoch,
             rpc_client_is_ring(gw->scheduler));
    gw->scheduler_lost = false;
    metric_set(gw->m[GW_M_scheduler_up], 1);
    resume_send(gw);
    waiting_ask(gw, GW_PLACING);
    waiting_ask(gw, GW_WAITING);
}

static void on_down(void *arg, const char *reason)
{
    struct gw *gw = arg;

    if (!gw->scheduler_lost || strcmp(gw->scheduler_why, reason) != 0) /* else it was said */
        log_warn("scheduler_down", "reason=\"%s\"", reason);
    text_set(gw->scheduler_why, sizeof(gw->scheduler_why), reason);
    if (!gw->scheduler_lost)
        gw->scheduler_lost_ns = clock_ns();
    gw->scheduler_lost = true;
    fleet_set_linked(&gw->fleet, false);
    tickets_watch(gw);
    metric_set(gw->m[GW_M_scheduler_up], 0);
}

/* Its lease has ended. */
static void revoke_apply(struct gw_request *r, enum err e)
{
    if (r->state != GW_WAITING && r->state != GW_DIALING && r->state != GW_STREAMING)
        return;
    r->place.held = false;
    if (e == ERR_ENGINE_GONE && r->state != GW_WAITING)
        stream_engine_lost(r, e);
    else
        request_fail(r, e);
}

static void on_event(void *arg, unsigned event, const uint8_t *body, size_t len)
{
    struct gw *gw = arg;
    struct gw_request *r;
    struct decision_room room;
    decision_msg *d;

    if (event == SCHED_EVENT_FLEET)
        on_fleet(gw, body, len);
    if (event != SCHED_EVENT_GRANT && event != SCHED_EVENT_REVOKE)
        return;
    d = decision_read(&room, body, len);
    if (d == NULL)
        return;
    r = request_find_wire(gw, d->handle);
    if (event == SCHED_EVENT_REVOKE) {
        if (r != NULL)
            revoke_apply(r, err_from_wire(d->err));
    } else if (r != NULL && (r->state == GW_WAITING || r->state == GW_PLACING)) {
        r->place.granted = true;
        decision_apply(r, d);
    } else if (d->kind == SLIPSTREAM__V1__DECISION_KIND__DECISION_GO) {
        lease_give_back(gw, d->handle);
    }
}

enum err placement_open(struct gw *gw)
{
    static char url[256];
    struct rpc_client_conf conf = {.url = conf_scheduler_url(gw->conf, url, sizeof(url)),
                                   .name = gw->name,
                                   .channel = (enum rpc_channel)gw->conf->common.channel,
                                   .look_us = gw->conf->gateway.scheduler_look_us,
                                   .key = gw->rpc_key,
                                   .tls_ca_file = gw->conf->common.rpc_tls_ca_file,
                                   .allow_plain_tcp = gw->conf->common.insecure,
                                   .arg = gw,
                                   .on_up = on_up,
                                   .on_down = on_down,
                                   .on_event = on_event};

    if (conf.channel == RPC_NONE)
        return ERR_OK;
    return rpc_client_open(&conf, gw->rpc_host, &gw->scheduler);
}

void placement_close(struct gw *gw)
{
    if (gw->scheduler != NULL)
        rpc_client_close(gw->scheduler);
    gw->scheduler = NULL;
}
