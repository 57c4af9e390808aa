/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing answers, right or wrong on purpose. Everything goes through c->out; c->busy is what the
 * socket is writing now, so a slow reader makes events pile up in out and travel together later.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench/engine/http_wire.h"
#include "common/log.h"

static const char *phrase(int status)
{
    switch (status) {
    case 200:
        return "OK";
    case 400:
        return "Bad Request";
    case 404:
        return "Not Found";
    case 405:
        return "Method Not Allowed";
    case 413:
        return "Content Too Large";
    case 429:
        return "Too Many Requests";
    case 431:
        return "Request Header Fields Too Large";
    case 500:
        return "Internal Server Error";
    case 501:
        return "Not Implemented";
    case 502:
        return "Bad Gateway";
    case 503:
        return "Service Unavailable";
    default:
        return "Status";
    }
}

static void on_written(h2o_socket_t *sock, const char *err)
{
    struct conn *c = sock->data;

    if (err != NULL) {
        conn_close(c);
        return;
    }
    buf_clear(&c->busy);
    if (c->busy.cap > 65536)
        buf_fini(&c->busy);
    if (c->out.len > 0 && c->trouble.mode != TROUBLE_dribble)
        conn_flush(c);
    else if (c->out.len > 0)
        h2o_timeout_link(c->http->loop, &c->http->delay, &c->delay_entry);
    else if (c->state == CONN_DRAIN)
        shutdown(h2o_socket_get_fd(c->sock), SHUT_WR);
    else
        conn_after_write(c);
}

void conn_flush(struct conn *c)
{
    struct buf b = c->busy;
    h2o_iovec_t v;

    if (c->dead || c->out.len == 0 || h2o_socket_is_writing(c->sock) ||
        (c->trouble.mode == TROUBLE_dribble && h2o_timeout_is_linked(&c->delay_entry)))
        return;
    if (c->trouble.mode == TROUBLE_dribble) {
        buf_add(&c->busy, c->out.base, 1);
        buf_consume(&c->out, 1);
    } else {
        c->busy = c->out;
        c->out = b;
    }
    v = (h2o_iovec_t){c->busy.base, c->busy.len};
    h2o_socket_write(c->sock, &v, 1, on_written);
}

void conn_shut(struct conn *c)
{
    c->state = CONN_DRAIN;
    if (c->out.len == 0 && !h2o_socket_is_writing(c->sock))
        shutdown(h2o_socket_get_fd(c->sock), SHUT_WR);
    conn_flush(c);
    /* A peer that never closes its side is dropped when the keep-alive time is over. */
    h2o_timeout_unlink(&c->idle_entry);
    h2o_timeout_link(c->http->loop, &c->http->keepalive, &c->idle_entry);
}

void conn_finish(struct conn *c)
{
    c->job = NULL;
    if (c->dead)
        return;
    if (!c->keep_alive || c->close_after) {
        conn_shut(c);
        return;
    }
    c->state = CONN_HEAD;
    conn_flush(c);
    h2o_timeout_unlink(&c->delay_entry);
    if (c->trouble.mode == TROUBLE_close_idle)
        h2o_timeout_link(c->http->loop, &c->http->delay, &c->delay_entry);
    h2o_timeout_link(c->http->loop, &c->http->keepalive, &c->idle_entry);
}

static void add_number(struct buf *b, size_t v)
{
    char text[24];
    size_t i = sizeof text;

    do
        text[--i] = (char)('0' + v % 10);
    while ((v /= 10) > 0);
    buf_add(b, text + i, sizeof text - i);
}

static void add_head(struct conn *c, int status, const char *type)
{
    if (status == 200)
        buf_adds(&c->out, "HTTP/1.1 200 OK\r\n");
    else
        buf_addf(&c->out, "HTTP/1.1 %d %s\r\n", status, phrase(status));
    buf_adds(&c->out, "server: slipstream-engine (simulated)\r\ncontent-type: ");
    buf_adds(&c->out, type);
    if (!c->keep_alive || c->close_after)
        buf_adds(&c->out, "\r\nconnection: close");
    else if (c->http10)
        buf_adds(&c->out, "\r\nconnection: keep-alive");
    buf_adds(&c->out, "\r\n");
    if (c->trouble.mode == TROUBLE_bad_te)
        buf_adds(&c->out, "transfer-encoding: xchunked\r\n");
    if (c->trouble.mode == TROUBLE_te_cl)
        buf_adds(&c->out,
                 c->streaming ? "content-length: 100000\r\n" : "transfer-encoding: chunked\r\n");
    if (c->trouble.mode == TROUBLE_dup_cl)
        buf_adds(&c->out, "content-length: 3\r\n");
}

static _Noreturn void die(void)
{
    log_warn("fault", "mode=die");
    _exit(9);
}

/* The body of a whole answer, or as much of it as the trouble lets through. */
static void answer_body(struct conn *c, const char *body, size_t len)
{
    if (c->trouble.mode != TROUBLE_truncate && c->trouble.mode != TROUBLE_stall) {
        buf_add(&c->out, body, len);
        conn_finish(c);
        return;
    }
    buf_add(&c->out, body, len / 2);
    c->job = NULL;
    if (c->trouble.mode == TROUBLE_truncate) {
        conn_shut(c);
        return;
    }
    c->state = CONN_STUCK;
    conn_flush(c);
}

void conn_answer(struct conn *c, int status, const char *type, const char *body, size_t len)
{
    if (c->dead)
        return;
    add_head(c, status, type);
    if (c->trouble.mode != TROUBLE_bad_te) {
        buf_adds(&c->out, "content-length: ");
        add_number(&c->out, len);
        buf_adds(&c->out, "\r\n");
    }
    buf_adds(&c->out, "\r\n");
    answer_body(c, body, len);
}

void conn_stream_begin(struct conn *c, const char *type)
{
    if (c->dead)
        return;
    c->streaming = true;
    if (c->http10)
        c->close_after = true;
    add_head(c, 200, type);
    buf_adds(&c->out, "cache-control: no-cache\r\n");
    if (!c->http10 && c->trouble.mode != TROUBLE_bad_te && c->trouble.mode != TROUBLE_dup_cl)
        buf_adds(&c->out, "transfer-encoding: chunked\r\n");
    if (c->trouble.mode == TROUBLE_dup_cl)
        buf_adds(&c->out, "content-length: 100000\r\n");
    buf_adds(&c->out, "\r\n");
}

static void chunk(struct conn *c, const char *data, size_t len)
{
    if (!c->http10)
        buf_addf(&c->out, "%zx\r\n", len);
    buf_add(&c->out, data, len);
    if (!c->http10)
        buf_adds(&c->out, "\r\n");
}

/* After so many events something happens. True: nothing more is to be sent. */
static bool stream_trouble(struct conn *c)
{
    static const char failure[] =
        "data: {\"error\":{\"message\":\"simulated failure\",\"type\":\"InternalServerError\","
        "\"param\":null,\"code\":500}}\n\ndata: [DONE]\n\n";

    if (c->events < c->trouble.after_events)
        return false;
    if (c->trouble.mode == TROUBLE_die) {
        conn_flush(c);
        die();
    }
    if (c->trouble.mode == TROUBLE_reset) {
        conn_reset(c); /* may overtake what was written; so be it */
    } else if (c->trouble.mode == TROUBLE_truncate) {
        c->http->conf.gone(c);
        conn_shut(c);
    } else if (c->trouble.mode == TROUBLE_stall) {
        c->http->conf.gone(c);
        c->state = CONN_STUCK;
        conn_flush(c);
    } else if (c->trouble.mode == TROUBLE_stream_error) {
        c->http->conf.gone(c);
        chunk(c, failure, sizeof failure - 1);
        conn_stream_end(c);
    } else {
        return false;
    }
    return true;
}

void conn_stream_add(struct conn *c, const char *data, size_t len)
{
    if (c->dead || c->state != CONN_ANSWER || stream_trouble(c))
        return;
    chunk(c, data, len);
    c->events++;
    conn_flush(c);
}

void conn_stream_end(struct conn *c)
{
    if (c->dead || c->state != CONN_ANSWER)
        return;
    if (!c->http10)
        buf_adds(&c->out, "0\r\n\r\n");
    conn_finish(c);
}

static void answer_error(struct conn *c)
{
    struct buf b = {0};
    int status = c->trouble.status;

    buf_addf(&b,
             "{\"error\":{\"message\":\"simulated failure\",\"type\":\"%s\",\"param\":null,"
             "\"code\":%d}}",
             status < 500 ? "BadRequestError" : "InternalServerError", status);
    conn_answer(c, status, "application/json", b.base, b.len);
    buf_fini(&b);
}

bool conn_trouble_instead(struct conn *c)
{
    bool at_once = c->trouble.after_events == 0;

    if (c->trouble.mode == TROUBLE_hang) {
        c->state = CONN_STUCK;
    } else if (c->trouble.mode == TROUBLE_error) {
        answer_error(c);
    } else if (c->trouble.mode == TROUBLE_garbage) {
        buf_adds(&c->out, "\x16\x03\x01 this is not HTTP \xff\xfe\r\n\r\nat all\r\n");
        conn_shut(c);
    } else if (c->trouble.mode == TROUBLE_die && at_once) {
        die();
    } else if (c->trouble.mode == TROUBLE_reset && at_once) {
        conn_reset(c);
    } else {
        return false;
    }
    return true;
}
