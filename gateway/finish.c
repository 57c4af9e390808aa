/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/finish.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "gateway/client.h"
#include "gateway/keys.h"
#include "gateway/mailbox_link.h"
#include "gateway/mcp.h"
#include "gateway/placement.h"
#include "gateway/worker.h"

const char *respond_reason(unsigned status)
{
    switch (status) {
    case 200:
        return "OK";
    case 202:
        return "Accepted";
    case 400:
        return "Bad Request";
    case 401:
        return "Unauthorized";
    case 403:
        return "Forbidden";
    case 404:
        return "Not Found";
    case 405:
        return "Method Not Allowed";
    case 406:
        return "Not Acceptable";
    case 408:
        return "Request Timeout";
    case 409:
        return "Conflict";
    case 413:
        return "Payload Too Large";
    case 415:
        return "Unsupported Media Type";
    case 422:
        return "Unprocessable Content";
    case 429:
        return "Too Many Requests";
    case 431:
        return "Request Header Fields Too Large";
    case 499:
        return "Client Closed Request";
    case 500:
        return "Internal Server Error";
    case 501:
        return "Not Implemented";
    case 502:
        return "Bad Gateway";
    case 503:
        return "Service Unavailable";
    case 504:
        return "Gateway Timeout";
    case 507:
        return "Insufficient Storage";
    default:
        return "Status";
    }
}

void respond_add_header(struct gw_request *r, const char *name, const char *value)
{
    h2o_iovec_t v = h2o_strdup(&r->req->pool, value, strlen(value));

    h2o_add_header_by_str(&r->req->pool, &r->req->res.headers, name, strlen(name), 0, NULL, v.base,
                          v.len);
}

/* Formatting by hand: these run for every answer, and printf was 3 % of a proxied request. */
static char *put_text(char *o, const char *s)
{
    return mempcpy(o, s, strlen(s));
}

static char *put_number(char *o, uint64_t v)
{
    char digits[20];
    size_t n = 0;

    do
        digits[n++] = (char)('0' + v % 10);
    while ((v /= 10) > 0);
    while (n > 0)
        *o++ = digits[--n];
    return o;
}

/* Milliseconds with three decimals. */
static char *put_ms(char *o, uint64_t from_ns, uint64_t to_ns)
{
    uint64_t us = to_ns > from_ns ? (to_ns - from_ns) / NS_PER_US : 0;

    o = put_number(o, us / 1000);
    *o++ = '.';
    *o++ = (char)('0' + us / 100 % 10);
    *o++ = (char)('0' + us / 10 % 10);
    *o++ = (char)('0' + us % 10);
    return o;
}

static char *put_share(char *o, float share)
{
    unsigned percent = share >= 1.0f ? 100 : share > 0 ? (unsigned)(share * 100.0f + 0.5f) : 0;

    *o++ = (char)('0' + percent / 100);
    *o++ = '.';
    *o++ = (char)('0' + percent / 10 % 10);
    *o++ = (char)('0' + percent % 10);
    return o;
}

static void header_add(struct gw_request *r, const char *name, size_t name_len, const char *from,
                       const char *to)
{
    h2o_iovec_t v = h2o_strdup(&r->req->pool, from, (size_t)(to - from));

    h2o_add_header_by_str(&r->req->pool, &r->req->res.headers, name, name_len, 0, NULL, v.base,
                          v.len);
}

void respond_standard_headers(struct gw_request *r)
{
    const struct gw_placement *p = &r->place;
    char text[320], *o;

    header_add(r, H2O_STRLIT("x-request-id"), r->id, r->id + strlen(r->id));
    if (p->engine_id[0] == '\0') {
        if (p->waited_ns > 0) { /* it stood at the door, and that is why it has no engine */
            o = put_text(put_text(text, "reason="), p->wait_reason);
            o = put_number(put_text(o, "; waited_ms="), p->waited_ms);
            header_add(r, H2O_STRLIT("x-slipstream-decision"), text, o);
        }
        return;
    }
    header_add(r, H2O_STRLIT("x-slipstream-engine"), p->engine_id,
               p->engine_id + strlen(p->engine_id));
    o = put_text(put_text(text, "policy="), p->policy);
    o = put_text(put_text(o, "; reason="), p->reason);
    o = put_text(put_text(o, "; engine="), p->engine_id);
    o = put_share(put_text(o, "; hit="), p->hit);
    o = put_number(put_text(o, "; waited_ms="), p->waited_ms);
    if (r->conflict)
        o = put_text(o, "; conflict=identity");
    header_add(r, H2O_STRLIT("x-slipstream-decision"), text, o);
    o = put_ms(put_text(text, "queue;dur="), 0, p->waited_ns);
    o = put_ms(put_text(o, ", route;dur="), r->placed_ns + p->waited_ns, r->dispatched_ns);
    o = put_ms(put_text(o, ", ttfb;dur="), r->dispatched_ns, r->first_byte_ns);
    header_add(r, H2O_STRLIT("server-timing"), text, o);
}

/* body must stay until r is disposed of. */
static void respond_with(struct gw_request *r, unsigned status, const char *content_type,
                         h2o_iovec_t body)
{
    h2o_req_t *req = r->req;
    bool is_head = h2o_memis(req->method.base, req->method.len, H2O_STRLIT("HEAD"));

    exchange_end(&r->x);
    gw_goto(r, GW_CLOSING, "answer of our own");
    req->res.status = (int)status;
    req->res.reason = respond_reason(status);
    req->res.content_length = body.len;
    if (content_type[0] != '\0')
        respond_add_header(r, "content-type", content_type);
    respond_standard_headers(r);
    r->sent_bytes = body.len;
    r->started = true;
    worker_status_count(r->gw, status);
    h2o_start_response(req, &r->generator);
    if (r->delivery != 0) { /* whether it was written decides what becomes of the messages */
        r->sending = r->confirming = true;
        h2o_send(req, &body, 1, H2O_SEND_STATE_IN_PROGRESS);
        return;
    }
    r->finished = true;
    client_before_final(r);
    h2o_send(req, &body, is_head ? 0 : 1, H2O_SEND_STATE_FINAL);
}

void respond_confirm(struct gw_request *r)
{
    if (r->sent_bytes > RESPOND_CONFIRM_BYTES && client_unconfirmed(r) > 0) {
        timer_start(&r->gw->timers, &r->timer, clock_ns() + RESPOND_CONFIRM_NS);
        return;
    }
    r->confirming = false;
    r->finished = true;
    client_before_final(r);
    h2o_send(r->req, NULL, 0, H2O_SEND_STATE_FINAL);
}

void respond(struct gw_request *r, unsigned status, const char *content_type, const char *body,
             size_t len)
{
    if (r->state != GW_CLOSING)
        respond_with(r, status, content_type, h2o_strdup(&r->req->pool, body, len));
}

void respond_out(struct gw_request *r, unsigned status, const char *content_type)
{
    if (r->state != GW_CLOSING)
        respond_with(r, status, content_type, h2o_iovec_init(r->out.base, r->out.len));
}

void respond_buf(struct gw_request *r, unsigned status, const char *content_type, struct buf *body)
{
    struct buf mine = *body;

    *body = (struct buf){0};
    respond(r, status, content_type, mine.base, mine.len);
    buf_fini(&mine);
}

static const char *anthropic_type(enum err e)
{
    switch (err_http(e)) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 404:
        return "not_found_error";
    case 413:
        return "request_too_large";
    case 429:
        return "rate_limit_error";
    case 503:
        return "overloaded_error";
    default:
        return err_http(e) < 500 ? "invalid_request_error" : "api_error";
    }
}

void respond_error_body(struct buf *out, enum dialect d, enum err e, const char *param,
                        const char *detail, const char *id)
{
    const char *text = detail != NULL ? detail : err_text(e);

    switch (d) {
    case DIALECT_OPENAI:
        buf_adds(out, "{\"error\":{\"message\":");
        buf_add_json(out, text, strlen(text));
        buf_addf(out, ",\"type\":\"%s\",\"param\":", err_type(e));
        if (param != NULL && param[0] != '\0')
            buf_add_json(out, param, strlen(param));
        else
            buf_adds(out, "null");
        buf_addf(out, ",\"code\":\"%s\"}}", err_code(e));
        break;
    case DIALECT_ANTHROPIC:
        buf_addf(out,
                 "{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":", anthropic_type(e));
        buf_add_json(out, text, strlen(text));
        buf_adds(out, "},\"request_id\":");
        buf_add_json(out, id, strlen(id));
        buf_adds(out, "}");
        break;
    case DIALECT_PROBLEM:
        buf_addf(out, "{\"type\":\"about:blank\",\"title\":\"%s\",\"status\":%u,\"detail\":",
                 respond_reason(err_http(e)), err_http(e));
        buf_add_json(out, text, strlen(text));
        buf_addf(out, ",\"code\":\"%s\"", err_code(e));
        if (param != NULL && param[0] != '\0') {
            buf_adds(out, ",\"param\":");
            buf_add_json(out, param, strlen(param));
        }
        buf_adds(out, "}");
        break;
    case DIALECT_JSONRPC:
        rpc_error(out, NULL, 0, rpc_code_of(e), text, NULL);
        break;
    }
}

void respond_retry_after(struct gw_request *r, int retry_ms)
{
    char text[32];

    snprintf(text, sizeof(text), "%d", (retry_ms + 999) / 1000);
    respond_add_header(r, "retry-after", text);
    snprintf(text, sizeof(text), "%d", retry_ms);
    respond_add_header(r, "retry-after-ms", text);
}

void respond_error_retry(struct gw_request *r, enum err e, const char *param, const char *detail,
                         int retry_ms)
{
    enum dialect d = r->route != NULL ? r->route->dialect : DIALECT_OPENAI;
    unsigned status = err_http(e);
    struct buf body = {0};

    if (r->state == GW_CLOSING)
        return;
    r->end = e;
    worker_error_count(r->gw, e);
    if (retry_ms > 0 && (status == 429 || status == 503 || status == 507))
        respond_retry_after(r, retry_ms);
    if (status >= 408)
        respond_add_header(r, "x-should-retry", err_retry_ms(e) >= 0 ? "true" : "false");
    if (status == 401)
        respond_add_header(r, "www-authenticate", "Bearer");
    if (e == ERR_HEAD || e == ERR_HEAD_TOO_LARGE)
        r->req->http1_is_persistent = 0;
    if (d == DIALECT_JSONRPC)
        mcp_error_write(r, &body, e, param, detail, retry_ms);
    else
        respond_error_body(&body, d, e, param, detail, r->id);
    respond_buf(r, status, d == DIALECT_PROBLEM ? "application/problem+json" : "application/json",
                &body);
}

void respond_error(struct gw_request *r, enum err e, const char *param, const char *detail)
{
    respond_error_retry(r, e, param, detail, err_retry_ms(e));
}

/* What SDKs understand in a stream; the empty lines end an event that the engine left half said. */
static h2o_iovec_t error_event(struct gw_request *r)
{
    struct buf b = {0};
    h2o_iovec_t out;

    buf_adds(&b,
             r->route->dialect == DIALECT_ANTHROPIC ? "\n\nevent: error\ndata: " : "\n\ndata: ");
    respond_error_body(&b, r->route->dialect, r->end, NULL, NULL, r->id);
    buf_adds(&b, "\n\n");
    out = h2o_strdup(&r->req->pool, b.base, b.len);
    buf_fini(&b);
    return out;
}

/* Breaks a started answer off: a bad chunk, a short body or a reset, never a clean end. */
static void answer_abort(struct gw_request *r)
{
    h2o_iovec_t event = {NULL, 0};

    r->abort = true;
    if (r->sending)
        return; /* on_proceed() comes back here */
    if (r->finished)
        return;
    r->finished = true;
    if (r->req->version < 0x101 || r->req->res.status != 200)
        client_reset_on_close(r);
    client_before_final(r);
    if (r->event_stream && r->answer_length == UINT64_MAX && r->end != ERR_CLIENT_GONE)
        event = error_event(r);
    h2o_send(r->req, &event, event.len > 0, H2O_SEND_STATE_ERROR);
}

void request_fail(struct gw_request *r, enum err e)
{
    exchange_end(&r->x);
    if (r->state == GW_CLOSING && r->finished) {
        r->end = e;
        client_kill(r);
        return;
    }
    if (!r->started) {
        r->req->res.headers = (h2o_headers_t){NULL, 0, 0}; /* of an engine's head that was held */
        respond_error(r, e, NULL, NULL);
        return;
    }
    r->end = e;
    if (r->state != GW_CLOSING)
        gw_goto(r, GW_CLOSING, err_code(e));
    answer_abort(r);
}

void request_gone(struct gw_request *r)
{
    h2o_iovec_t nothing = {NULL, 0};

    exchange_end(&r->x);
    r->req->http1_is_persistent = 0;
    if (r->confirming && !r->sending && client_unconfirmed(r) == 0) {
        respond_confirm(r); /* with all of its answer */
        return;
    }
    if (r->end == ERR_OK) /* else we have shown it the door ourselves */
        r->end = ERR_CLIENT_GONE;
    if (r->state != GW_CLOSING)
        gw_goto(r, GW_CLOSING, "client left");
    if (r->started) {
        client_kill(r);
        answer_abort(r);
        return;
    }
    r->finished = r->started = true;
    client_before_final(r);
    r->req->res.status = 499;
    r->req->res.reason = respond_reason(499);
    r->req->res.content_length = 0;
    worker_status_count(r->gw, 499);
    h2o_start_response(r->req, &r->generator);
    h2o_send(r->req, &nothing, 1, H2O_SEND_STATE_FINAL);
}

static void access_log(struct gw_request *r, uint64_t now)
{
    struct gw *gw = r->gw;
    char path[300];

    if (gw->access_fd < 0)
        return;
    buf_addf(&gw->access,
             "time=%llu id=%s method=%.*s path=%s status=%d bytes=%llu ms=%.3f ttft_ms=%.3f "
             "engine=%s policy=%s reason=%s hit=%.2f waited_ms=%u wait=%s cost=%s end=%s workflow=",
             (unsigned long long)clock_wall_ms(), r->id,
             (int)(r->req->method.len < 16 ? r->req->method.len : 16), r->req->method.base,
             log_quote(path, sizeof(path), r->req->path.base, r->req->path.len), r->req->res.status,
             (unsigned long long)r->sent_bytes, (double)(now - r->arrived_ns) / 1e6,
             r->first_token_ns != 0 ? (double)(r->first_token_ns - r->arrived_ns) / 1e6 : 0.0,
             r->place.engine_id[0] != '\0' ? r->place.engine_id : "-",
             r->place.policy[0] != '\0' ? r->place.policy : "-",
             r->place.reason[0] != '\0' ? r->place.reason : "-", (double)r->place.hit,
             r->place.waited_ms, r->place.wait_reason[0] != '\0' ? r->place.wait_reason : "-",
             r->place.costs != NULL ? r->place.costs : "-",
             r->end == ERR_OK ? "ok" : err_code(r->end));
    buf_adds(&gw->access, log_quote(path, sizeof(path), r->workflow_id, strlen(r->workflow_id)));
    buf_adds(&gw->access, "\n");
}

void request_dispose(struct gw_request *r)
{
    struct gw *gw = r->gw;
    uint64_t now = clock_ns();

    if (r->end == ERR_OK && !r->finished)
        r->end = ERR_CLIENT_GONE; /* h2o lost the connection, or the stream was reset, before our
                                     last write */
    exchange_end(&r->x);
    if (r->on_dispose != NULL)
        r->on_dispose(r);
    placement_end(r, now);
    if (r->final && r->place.engine_id[0] != '\0') /* the scheduler ends it, too */
        mailbox_close_workflow(r, false);
    keys_release(r);
    timer_stop(&gw->timers, &r->timer);
    list_remove(&r->node);
    client_detach(r);
    metric_observe(gw->m[GW_M_latency], worker_model_seconds(gw, now - r->arrived_ns));
    if (r->end != ERR_OK) {
        worker_label_count(gw, GW_M_ended, err_code(r->end), 1);
        if (r->end != ERR_CLIENT_GONE || log_is_on(LOG_LEVEL_DEBUG))
            log_info("request_ended", "id=%s status=%d reason=\"%s\" engine=%s ms=%llu", r->id,
                     r->req->res.status, err_text(r->end), r->place.engine_id,
                     (unsigned long long)((now - r->arrived_ns) / NS_PER_MS));
    }
    metric_add(gw->m[GW_M_bytes_out], (double)r->sent_bytes);
    access_log(r, now);
    metric_set(gw->m_state[r->state], metric_value(gw->m_state[r->state]) - 1);
    gw->body_bytes -= r->held_bytes;
    if (r->sending_buffer != NULL)
        h2o_buffer_dispose(&r->sending_buffer);
    tap_fini(&r->tap);
    buf_fini(&r->out);
    free(r->identity);
    free(r->digests);
    pool_give(&gw->requests, r->handle);
}
