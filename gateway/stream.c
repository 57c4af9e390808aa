/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/stream.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/clock.h"
#include "gateway/client.h"
#include "gateway/finish.h"
#include "gateway/head.h"
#include "gateway/placement.h"
#include "gateway/worker.h"

#define DROP_BYTES (16u << 10) /* smaller bodies of short answers are not worth it */
#define HOLD_BYTES (64u << 10) /* beyond this an engine has to wait for its client */
#define RELAY_BYTES (8u << 10) /* longer pieces are not worth a copy */

/* Copies the engine's headers: their bytes are about to go. */
static void headers_return(struct gw_request *r, const struct answer *a)
{
    h2o_req_t *req = r->req;
    const char *base = a->headers[0].name;
    h2o_iovec_t copy;
    size_t i;

    if (a->header_count == 0)
        return;
    copy = h2o_strdup(&req->pool, base,
                      (size_t)(a->headers[a->header_count - 1].value +
                               a->headers[a->header_count - 1].value_len - base));
    for (i = 0; i < a->header_count; i++) {
        const struct phr_header *h = &a->headers[i];
        char *name = copy.base + (h->name - base), *value = copy.base + (h->value - base);

        if (!head_may_return(h->name, h->name_len, h->value, h->value_len))
            continue;
        h2o_strtolower(name, h->name_len);
        h2o_add_header_by_str(&req->pool, &req->res.headers, name, h->name_len, 1, NULL, value,
                              h->value_len);
    }
}

static void on_head(void *arg, const struct answer *a)
{
    struct gw_request *r = arg;
    h2o_req_t *req = r->req;
    char *reason = request_alloc(r, a->reason_len + 1);

    memcpy(reason, a->reason, a->reason_len);
    reason[a->reason_len] = '\0';
    req->res.status = a->status;
    req->res.reason = a->reason_len > 0 ? reason : respond_reason((unsigned)a->status);
    r->event_stream = a->is_event_stream;
    r->until_close = a->framing == ANSWER_UNTIL_CLOSE;
    r->answer_length = a->framing == ANSWER_LENGTH    ? a->length
                       : a->framing == ANSWER_NO_BODY ? 0
                                                      : UINT64_MAX;
    r->tapping = r->route->shape != INSPECT_OTHER && (a->is_event_stream || a->is_json);
    if (!a->is_event_stream || a->status != 200)
        r->drop_usage = false;
    if (r->drop_usage)
        r->answer_length = UINT64_MAX;
    if (r->tapping)
        tap_start(&r->tap, a->is_event_stream, r->drop_usage);
    headers_return(r, a);
    gw_goto(r, GW_STREAMING, "head of the answer");
    respond_standard_headers(r);
    r->head_ready = true;
}

/* What another try would have needed. */
static void retry_forget(struct gw_request *r)
{
    if (r->event_stream || r->req->entity.len >= DROP_BYTES)
        client_drop_body(r);
    free(r->digests);
    r->digests = NULL;
    r->digest_count = 0;
}

static void answer_start(struct gw_request *r, size_t in_hand)
{
    h2o_req_t *req = r->req;

    r->started = true;
    retry_forget(r);
    if (r->upstream_done) {
        req->res.content_length = in_hand; /* all is here: no chunks needed */
    } else if (r->answer_length != UINT64_MAX) {
        req->res.content_length = (size_t)r->answer_length;
    }
    worker_status_count(r->gw, (unsigned)req->res.status);
    h2o_start_response(req, &r->generator);
    r->relaying = r->client != NULL && r->client->sock->ssl == NULL &&
                  h2o_find_header(&req->res.headers, H2O_TOKEN_TRANSFER_ENCODING, -1) >= 0;
}

/* What the engine sent since last time, after the tap has seen it. The bytes stay valid until
 * on_proceed. */
static h2o_iovec_t bytes_take(struct gw_request *r)
{
    h2o_iovec_t bytes = {NULL, 0};
    bool rewritten = false;
    size_t len;

    if (exchange_take(&r->x, &r->sending_buffer, &len)) {
        bytes = h2o_iovec_init(r->sending_buffer->bytes, len);
        r->since_ns = clock_ns();
        if (r->tapping) {
            buf_clear(&r->out);
            tap_feed(&r->tap, bytes.base, bytes.len, &r->out, &rewritten);
            if (r->first_token_ns == 0 && r->tap.seen_token) {
                r->first_token_ns = r->since_ns;
                metric_observe(r->gw->m[GW_M_ttft],
                               worker_model_seconds(r->gw, r->first_token_ns - r->arrived_ns));
            }
            if (rewritten)
                bytes = h2o_iovec_init(r->out.base, r->out.len);
        }
    }
    if (r->upstream_done && r->tapping) {
        r->tapping = false;
        if (!rewritten)
            buf_clear(&r->out);
        size_t before = r->out.len;
        tap_end(&r->tap, &r->out);
        if (rewritten) {
            bytes = h2o_iovec_init(r->out.base, r->out.len);
        } else if (r->out.len >
                   before) { /* it held the start of an event back; what came now goes first */
            struct buf joined = {0};

            buf_add(&joined, bytes.base, bytes.len);
            buf_add(&joined, r->out.base, r->out.len);
            buf_fini(&r->out);
            r->out = joined;
            bytes = h2o_iovec_init(r->out.base, r->out.len);
        }
    }
    return bytes;
}

static void buffer_drop(struct gw_request *r)
{
    if (r->sending_buffer != NULL) {
        h2o_buffer_dispose(&r->sending_buffer);
        r->sending_buffer = NULL;
    }
}

/* Where the connection's end is the answer's, a stream must say itself that it is complete: an
 * engine that died closes, too. */
static bool is_cut_off(const struct gw_request *r)
{
    enum inspect_shape shape = r->route->shape;

    return r->upstream_done && r->until_close && r->event_stream && r->req->res.status == 200 &&
           !r->tap.seen_done &&
           (shape == INSPECT_CHAT || shape == INSPECT_COMPLETION || shape == INSPECT_ANTHROPIC);
}

/* An engine that frames its answer badly has not died. */
static bool may_retry(struct gw_request *r, enum err e, bool unread)
{
    const struct conf_gateway *conf = &r->gw->conf->gateway;
    struct gw *gw = r->gw;
    uint64_t now = clock_ns();
    bool repeatable = r->route->shape == INSPECT_CHAT || r->route->shape == INSPECT_COMPLETION ||
                      r->route->shape == INSPECT_ANTHROPIC ||
                      (r->path_len > 0 && r->path[1] != 'v');

    if (r->started || (r->state == GW_STREAMING && e == ERR_ENGINE_PROTO))
        return false;
    if (r->place.tries >= conf->retry_max || r->body_dropped || now >= r->total_ns ||
        (!unread && !repeatable))
        return false;
    gw->retry_tokens += (double)(now - gw->retry_at_ns) / 1e9 * 10.0;
    gw->retry_at_ns = now;
    if (gw->retry_tokens > 100.0)
        gw->retry_tokens = 100.0;
    if (gw->retry_tokens < 1.0)
        return false;
    gw->retry_tokens -= 1.0;
    return true;
}

/* Forgets an answer of which the client has got nothing. */
static void answer_forget(struct gw_request *r)
{
    r->req->res.headers = (h2o_headers_t){NULL, 0, 0};
    r->req->res.status = 0;
    r->event_stream = r->until_close = r->upstream_done = r->tapping = r->head_ready = false;
    r->answer_length = UINT64_MAX;
    r->first_byte_ns = r->first_token_ns = 0;
    tap_start(&r->tap, false, false);
}

/* No answer from this engine: another one is asked, or that is the end of it. The exchange has
 * ended. r may be gone afterwards. */
static void attempt_failed(struct gw_request *r, enum err e, bool unread)
{
    struct gw_placement *p = &r->place;

    if (!may_retry(r, e, unread)) {
        if (r->state == GW_DIALING)
            placement_failed(r, e);
        request_fail(r, e);
        return;
    }
    placement_failed(r, e);
    worker_label_count(r->gw, GW_M_retries, err_code(e), 1);
    p->tries++;
    p->last_err = e;
    p->retried_fresh = false;
    if (p->avoid_count < GW_AVOID_MAX)
        p->avoid[p->avoid_count++] = p->engine;
    if (r->state == GW_STREAMING)
        answer_forget(r);
    gw_goto(r, GW_PLACING, err_code(e));
}

static void on_relayed(h2o_socket_t *sock, const char *err)
{
    struct client *c = sock->on_close.data;
    struct gw_request *r = c->active;

    if (err != NULL) {
        r->sending = false;
        request_gone(r);
        return;
    }
    stream_on_proceed(&r->generator, r->req);
}

static char *put_hex(char *o, size_t v)
{
    unsigned shift = 0;

    while (v >> shift > 15)
        shift += 4;
    for (;; shift -= 4) {
        *o++ = "0123456789abcdef"[v >> shift & 15];
        if (shift == 0)
            return o;
    }
}

/*
 * A piece of a running answer in chunks, written as h2o writes it but in one buffer and with nobody
 * to be told when it is out: for an event of a few hundred bytes h2o's way takes as many
 * instructions as all the rest. Only between two of h2o's own writes, and what the socket does not
 * take at once goes out through h2o.
 */
static void relay(struct gw_request *r, h2o_iovec_t bytes)
{
    h2o_socket_t *sock = r->client->sock;
    struct buf *flat = &r->gw->flat;
    h2o_iovec_t rest;
    char *begin, *o;
    ssize_t n;

    buf_clear(flat);
    begin = buf_reserve(flat, bytes.len + 20);
    o = put_hex(begin, bytes.len);
    o = mempcpy(o, "\r\n", 2);
    o = mempcpy(o, bytes.base, bytes.len);
    o = mempcpy(o, "\r\n", 2);
    buffer_drop(r);
    r->sent_bytes += bytes.len;
    n = send(r->client->fd, begin, (size_t)(o - begin), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n == o - begin)
        return;
    if (n > 0)
        begin += n;
    buf_clear(&r->out);
    buf_add(&r->out, begin, (size_t)(o - begin));
    rest = h2o_iovec_init(r->out.base, r->out.len);
    r->sending = true;
    r->sending_since_ns = r->since_ns;
    h2o_socket_write(sock, &rest, 1, on_relayed);
}

/* Sends what there is. r may be gone afterwards. */
static void pump(struct gw_request *r)
{
    h2o_iovec_t bytes;

    if (r->sending) {
        if (exchange_waiting(&r->x) >= HOLD_BYTES)
            exchange_pause(&r->x);
        return;
    }
    bytes = bytes_take(r);
    if (is_cut_off(r)) {
        buffer_drop(r);
        exchange_end(&r->x);
        attempt_failed(r, ERR_TRUNCATED, false);
        return;
    }
    if (bytes.len == 0)
        buffer_drop(r);
    if (bytes.len == 0 && !r->upstream_done && (r->started || !r->event_stream))
        return;
    if (!r->started) {
        answer_start(r, bytes.len);
    } else if (r->relaying && !r->upstream_done && bytes.len <= RELAY_BYTES) {
        relay(r, bytes);
        return;
    }
    r->sent_bytes += bytes.len;
    r->sending = true;
    r->sending_since_ns = r->since_ns;
    if (r->upstream_done) {
        exchange_end(&r->x);
        r->finished = true;
        gw_goto(r, GW_CLOSING, "answer complete");
        client_before_final(r);
        h2o_send(r->req, &bytes, bytes.len > 0, H2O_SEND_STATE_FINAL);
        return;
    }
    h2o_send(r->req, &bytes, bytes.len > 0, H2O_SEND_STATE_IN_PROGRESS);
}

static void on_data(void *arg)
{
    pump(arg);
}

static void on_end(void *arg)
{
    struct gw_request *r = arg;

    r->upstream_done = true;
    pump(r);
}

static void on_fail(void *arg, enum err e, bool unread)
{
    struct gw_request *r = arg;
    struct gw_placement *p = &r->place;

    if (r->state == GW_DIALING && unread && e == ERR_ENGINE_GONE && !p->retried_fresh) {
        /* A kept connection that the engine closed just as it was picked: nothing ran. Once more,
         * over a new one. */
        p->retried_fresh = true;
        worker_label_count(r->gw, GW_M_retries, "stale_connection", 1);
        enter_DIALING(r);
        return;
    }
    attempt_failed(r, e, unread);
}

void stream_engine_lost(struct gw_request *r, enum err e)
{
    bool unread = exchange_is_connecting(&r->x);

    if (r->started)
        return;
    exchange_end(&r->x);
    attempt_failed(r, e, unread);
}

void stream_on_proceed(h2o_generator_t *generator, h2o_req_t *req)
{
    struct gw_request *r = container_of(generator, struct gw_request, generator);

    (void)req;
    r->sending = false;
    buffer_drop(r);
    if (r->client != NULL)
        client_poll_settle(r->client->sock);
    if (r->abort) {
        request_fail(r, r->end);
        return;
    }
    if (r->confirming) {
        respond_confirm(r);
        return;
    }
    r->since_ns = clock_ns();
    exchange_resume(&r->x);
    if (r->upstream_done || exchange_waiting(&r->x) > 0)
        pump(r);
}

void stream_on_stop(h2o_generator_t *generator, h2o_req_t *req)
{
    (void)generator;
    (void)req; /* request_dispose() follows at once */
}

const struct exchange_ops stream_ops = {
    .on_head = on_head, .on_data = on_data, .on_end = on_end, .on_fail = on_fail};
