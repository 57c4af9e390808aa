/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ENGINE_HTTP_H
#define ENGINE_HTTP_H

#include <h2o/socket.h>
#include <h2o/timeout.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/list.h"

/*
 * A small HTTP/1.1 server on h2o's sockets: keep-alive, pipelining, Content-Length and chunked
 * bodies, answers whole or streamed, and every way to get the wire wrong that troubles.def lists
 * (which is why it is not h2o's own server: that one never errs). One thread.
 */
enum trouble_mode {
#define TROUBLE(name, help) TROUBLE_##name,
#include "bench/engine/troubles.def"
#undef TROUBLE
    TROUBLE_COUNT
};

struct trouble {
    enum trouble_mode mode;
    uint32_t count; /* requests still to hit; 0: all */
    uint32_t after_events, delay_ms;
    int status;
    bool everywhere; /* health, models and metrics too, not only POSTs that do work */
};

const char *trouble_name(enum trouble_mode m);
bool trouble_find(const char *name, enum trouble_mode *out);

struct phr_span {
    const char *at;
    size_t len;
};

struct http_request {
    struct phr_span method, path, query, body;
    struct phr_span request_id; /* X-Request-Id, may be empty */
};

struct conn;

struct http_conf {
    void (*serve)(struct conn *c, const struct http_request *q); /* spans end with the call */
    void (*gone)(struct conn *c); /* the peer left while c->job was set; drop the job */
    void *arg;
    uint32_t keepalive_ms;
    size_t body_bytes_max;
};

struct http {
    struct http_conf conf;
    h2o_loop_t *loop;
    struct http_listener {
        struct http *http;
        h2o_socket_t *sock;
        char address[64];
        bool is_control; /* troubles never touch it */
    } listeners[2];
    size_t listener_count;
    struct list conns, dead;
    uint32_t conn_count;
    h2o_timeout_t keepalive, delay, reopen;
    h2o_timeout_entry_t reopen_entry;
    struct trouble trouble;
    uint64_t accepted, requests, troubled;
};

enum conn_state {
    CONN_HEAD,   /* reading a head, or idle */
    CONN_BODY,   /* reading a body */
    CONN_DELAY,  /* complete, held back on purpose */
    CONN_ANSWER, /* being served */
    CONN_STUCK,  /* will never answer */
    CONN_DRAIN   /* said all; reads until the peer closes */
};

struct conn {
    struct http *http;
    void *job; /* the server's */

    /* private */
    enum conn_state state;
    h2o_socket_t *sock;
    struct list link;
    size_t head_bytes, body_bytes, raw_bytes;
    bool chunked, keep_alive, http10, is_control, streaming, dead, close_after;
    struct conn_chunks {
        size_t left;
        char consume_trailer, hex_count, state;
    } chunks;
    struct buf out, busy;
    h2o_timeout_entry_t idle_entry, delay_entry;
    struct trouble trouble; /* what hits the request at hand */
    uint32_t served, events;
};

void http_init(struct http *h, h2o_loop_t *loop, const struct http_conf *conf);
/* address: "127.0.0.1:8001" or "[::1]:8001". Port 0 picks one; listeners[i].address says which. */
enum err http_listen(struct http *h, const char *address, bool is_control);
void http_stop_listening(struct http *h);
void http_sweep(struct http *h); /* call after each turn of the loop */
void http_fini(struct http *h);
void http_set_trouble(struct http *h, const struct trouble *t);

/* One of: conn_answer(), or conn_stream_begin(), any conn_stream_add(), conn_stream_end(). The
 * connection may be gone afterwards (dead is set, memory stays until http_sweep). */
void conn_answer(struct conn *c, int status, const char *type, const char *body, size_t len);
void conn_stream_begin(struct conn *c, const char *type);
void conn_stream_add(struct conn *c, const char *data, size_t len); /* one event or several */
void conn_stream_end(struct conn *c);
void conn_flush(struct conn *c); /* a head that should not wait for the first event */

#endif
