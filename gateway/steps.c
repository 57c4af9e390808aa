/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What happens on entering each state, and when its time is up. How the answer streams back is in
 * stream.c.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/must.h"
#include "gateway/api_mailbox.h"
#include "gateway/client.h"
#include "gateway/finish.h"
#include "gateway/head.h"
#include "gateway/keys.h"
#include "gateway/look.h"
#include "gateway/placement.h"
#include "gateway/request.h"
#include "gateway/stream.h"
#include "gateway/worker.h"

#define BEAT_CHECK_NS (50 * NS_PER_MS)
#define TICKET_SLACK_MS 1000u /* the scheduler ends a wait; this is for when it does not */

static const enum err limit_err[] = {
#define STATE(name, waits, limit, err, next) [GW_##name] = err,
#include "gateway/states.def"
#undef STATE
};

void enter_READING(struct gw_request *r)
{
    (void)r; /* requests are born here */
}

void enter_ASKING(struct gw_request *r)
{
    (void)r; /* the call is made by the endpoint */
}

void enter_PUSHING(struct gw_request *r)
{
    (void)r; /* api_mailbox_stream.c begins the answer */
}

static void digests_keep(struct gw_request *r)
{
    const uint64_t *digests;
    uint32_t count;

    if (r->digests != NULL || !look_digests(r, &digests, &count, &r->tail_bytes) || count == 0)
        return;
    r->digests = malloc(count * sizeof(*digests));
    must(r->digests != NULL);
    memcpy(r->digests, digests, count * sizeof(*digests));
    r->digest_count = count;
}

void enter_PLACING(struct gw_request *r)
{
    if (r->place.tries == 0 && r->place.wait_start_ns == 0)
        r->gw->retry_tokens += r->gw->conf->gateway.retry_budget;
    /* Looked at more often than the limit: the scheduler may die while we wait. */
    timer_start(&r->gw->timers, &r->timer, r->since_ns + BEAT_CHECK_NS);
    digests_keep(r);
    placement_ask(r);
}

/* The grant is an event (placement.c), and so is the refusal at the deadline. */
void enter_WAITING(struct gw_request *r)
{
    uint64_t limit = r->since_ns + (r->place.ticket_ms + TICKET_SLACK_MS) * NS_PER_MS;

    if (r->place.ticket_ms > 0 && limit < r->deadline_ns)
        r->deadline_ns = limit;
    timer_start(&r->gw->timers, &r->timer, r->deadline_ns);
}

/* Model milliseconds, as the scheduler counts them: on another host from another moment. */
static long long priority_of(const struct gw_request *r)
{
    const struct fleet *f = &r->gw->fleet;
    double ms =
        ((double)r->arrived_ns - (double)f->told_ns) * worker_time_scale(r->gw) / (double)NS_PER_MS;

    return r->place.alone ? (long long)ms + f->told_now : (long long)r->place.priority;
}

/* Adds what this engine needs to the body. Nothing else may change. */
static void splices_make(struct gw_request *r, const struct fleet_engine *e)
{
    const struct gw_look *f = &r->facts;
    bool add_usage = f->may_add_usage && !(e->flags & FLEET_USAGE_NEVER) &&
                     r->gw->conf->gateway.usage != CONF_USAGE_NEVER &&
                     (r->workflow_id[0] != '\0' || (e->flags & FLEET_USAGE_ALWAYS) ||
                      r->gw->conf->gateway.usage == CONF_USAGE_ALWAYS);
    bool add_priority = (e->flags & FLEET_PRIORITY) && r->route->shape != INSPECT_OTHER;
    char text[120];
    int n = 0;

    r->splices.count = 0;
    r->drop_usage = add_usage;
    if (add_priority)
        n += snprintf(text + n, sizeof(text) - (size_t)n, "\"priority\":%lld,", priority_of(r));
    if (add_usage && f->stream_options.len == 0)
        n += snprintf(text + n, sizeof(text) - (size_t)n,
                      "\"stream_options\":{\"include_usage\":true},");
    if (n > 0)
        splice_add(&r->splices, f->object_open, 0, request_strdup(r, text, (size_t)n), (size_t)n);
    if (f->metadata_cut.len > 0)
        splice_add(&r->splices, f->metadata_cut.at, f->metadata_cut.len, NULL, 0);
    if (add_priority && f->priority.len > 0)
        splice_add(&r->splices, f->priority.at, f->priority.len, NULL, 0);
    if (add_usage && f->stream_options.len > 0) {
        static const char whole[] = "{\"include_usage\":true}",
                          member[] = "\"include_usage\":true,";

        if (f->stream_options_null || f->stream_options_empty)
            splice_add(&r->splices, f->stream_options.at, f->stream_options.len, whole,
                       sizeof(whole) - 1);
        else
            splice_add(&r->splices, f->stream_options.at + 1, 0, member, sizeof(member) - 1);
    }
}

/* What all Connection headers name; there may be several. */
static h2o_iovec_t connection_of(struct gw_request *r)
{
    const h2o_headers_t *hs = &r->req->headers;
    ssize_t at = h2o_find_header(hs, H2O_TOKEN_CONNECTION, -1);
    h2o_iovec_t all = {NULL, 0};

    for (; at >= 0; at = h2o_find_header(hs, H2O_TOKEN_CONNECTION, at)) {
        const h2o_iovec_t *v = &hs->entries[at].value;

        all = all.base == NULL
                  ? *v
                  : h2o_concat(&r->req->pool, all, h2o_iovec_init(H2O_STRLIT(",")), *v);
    }
    return all;
}

static void upstream_headers(struct gw_request *r, struct buf *b)
{
    const h2o_headers_t *hs = &r->req->headers;
    h2o_iovec_t connection = connection_of(r);
    const char *engine_key = keys_of_engine(r->gw, r->place.engine_id);
    size_t i;

    for (i = 0; i < hs->size; i++) {
        const h2o_header_t *h = &hs->entries[i];

        if (r->req->version < 0x200
                ? !head_passes(h->name->base, h->name->len, connection.base, connection.len)
                : !head_may_forward(h->name->base, h->name->len, h->value.base, h->value.len,
                                    connection.base, connection.len))
            continue;
        if (h->name == &H2O_TOKEN_ACCEPT_ENCODING->buf ||
            h2o_memis(h->name->base, h->name->len, H2O_STRLIT("x-request-id")))
            continue; /* the tap reads plain text; the id is ours */
        if ((engine_key != NULL || r->gw->conf->key_count > 0) &&
            (h->name == &H2O_TOKEN_AUTHORIZATION->buf ||
             h2o_memis(h->name->base, h->name->len, H2O_STRLIT("x-api-key"))))
            continue; /* a key of ours is not for engines */
        buf_add(b, h->name->base, h->name->len);
        buf_add(b, ": ", 2);
        buf_add(b, h->value.base, h->value.len);
        buf_add(b, "\r\n", 2);
    }
    if (engine_key != NULL)
        buf_addf(b, "authorization: Bearer %s\r\n", engine_key);
}

/* Request head and changed body as pieces in the request's own memory; returns how many. */
static size_t upstream_make(struct gw_request *r, const struct fleet_engine *e)
{
    struct iovec pieces[SPLICE_PIECES];
    struct buf *b = &r->gw->head;
    size_t n = 0, i;

    splices_make(r, e);
    buf_clear(b);
    buf_add(b, r->req->method.base, r->req->method.len);
    buf_add(b, " ", 1);
    buf_add(b, r->path, r->path_len);
    buf_adds(b, " HTTP/1.1\r\nhost: ");
    buf_adds(b, e->host);
    buf_adds(b, "\r\n");
    upstream_headers(r, b);
    buf_adds(b, "x-request-id: ");
    buf_adds(b, r->id);
    if (r->req->entity.base != NULL) {
        buf_adds(b, "\r\ncontent-length: ");
        buf_add_number(b, splice_length(&r->splices, r->req->entity.len));
        n = splice_apply(&r->splices, r->req->entity.base, r->req->entity.len, pieces);
    }
    buf_adds(b, "\r\n\r\n");
    r->upstream = request_alloc(r, (n + 1) * sizeof(*r->upstream));
    r->upstream[0] = h2o_strdup(&r->req->pool, b->base, b->len);
    for (i = 0; i < n; i++)
        r->upstream[i + 1] = h2o_iovec_init(pieces[i].iov_base, pieces[i].iov_len);
    return n + 1;
}

void enter_DIALING(struct gw_request *r)
{
    const struct fleet_engine *e =
        fleet_engine_get(&r->gw->fleet, r->place.engine, r->place.generation);
    size_t n;

    if (e == NULL) {
        respond_error(r, ERR_NO_ENGINE, NULL, NULL);
        return;
    }
    r->dispatched_ns = clock_ns();
    n = upstream_make(r, e);
    exchange_start(&r->x, r->gw, r->place.engine, r->place.generation, r->upstream, n, false,
                   r->place.retried_fresh, &stream_ops, r);
}

void enter_STREAMING(struct gw_request *r)
{
    r->first_byte_ns = clock_ns();
    if (r->event_stream)
        placement_first_byte(r);
}

void enter_CLOSING(struct gw_request *r)
{
    (void)r; /* whoever closes sends the last bytes himself */
}

static bool placing_is_over(struct gw_request *r, uint64_t now)
{
    if (placement_try_alone(r))
        return false;
    if (now < r->deadline_ns) {
        timer_start(&r->gw->timers, &r->timer,
                    now + BEAT_CHECK_NS < r->deadline_ns ? now + BEAT_CHECK_NS : r->deadline_ns);
        return false;
    }
    return true;
}

/* A ticket is worth as much as the link to who gave it. */
static bool waiting_is_over(struct gw_request *r, uint64_t now)
{
    uint64_t next = placement_ticket_end(r->gw);

    if (now >= next) {
        gw_goto(r, GW_PLACING, "the scheduler is gone");
        return false;
    }
    if (now >= r->deadline_ns)
        return true;
    timer_start(&r->gw->timers, &r->timer, next < r->deadline_ns ? next : r->deadline_ns);
    return false;
}

/* Limits of a running answer move with its bytes, so the timer is set lazily: it looks when it
 * fires. */
static bool streaming_is_over(struct gw_request *r, uint64_t now, enum err *e)
{
    const struct conf_gateway *conf = &r->gw->conf->gateway;
    uint64_t limit;

    if (r->sending) {
        limit = r->sending_since_ns + conf->write_timeout_ms * NS_PER_MS;
        *e = ERR_SLOW_CLIENT;
    } else {
        limit = r->since_ns + conf->stall_timeout_ms * NS_PER_MS;
        *e = ERR_STALL;
    }
    if (now >= r->total_ns) {
        *e = ERR_TOTAL;
        return true;
    }
    if (now >= limit)
        return true;
    timer_start(&r->gw->timers, &r->timer, limit < r->total_ns ? limit : r->total_ns);
    return false;
}

void on_state_timer(struct gw_request *r)
{
    uint64_t now = clock_ns();
    enum err e = limit_err[r->state];

    if (r->state == GW_PLACING && !placing_is_over(r, now))
        return;
    if (r->state == GW_WAITING && !waiting_is_over(r, now))
        return;
    if (r->state == GW_STREAMING && !streaming_is_over(r, now, &e))
        return;
    if (r->state == GW_CLOSING && r->confirming && !r->sending && now < r->deadline_ns) {
        respond_confirm(r);
        return;
    }
    if (r->state == GW_PUSHING && !mail_stream_is_over(r, now, &e))
        return;
    if (now >= r->total_ns && r->state != GW_CLOSING)
        e = ERR_TOTAL;
    else if (r->state == GW_ASKING && r->polling)
        e = ERR_MAILBOX_DOWN; /* it would have ended the poll by now */
    if (r->state == GW_DIALING)
        placement_failed(r, e);
    log_debug("deadline", "id=%s state=%s", r->id, state_name(r->state));
    if (r->state == GW_CLOSING || e == ERR_SLOW_CLIENT) {
        r->end = e;
        exchange_end(&r->x);
        client_kill(r);
        if (r->state == GW_CLOSING && r->req->version >= 0x200)
            timer_start(&r->gw->timers, &r->timer, now + NS_PER_S);
        return;
    }
    request_fail(r, e);
}
