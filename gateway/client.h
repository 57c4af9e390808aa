/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_CLIENT_H
#define GW_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#include <h2o.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/list.h"

/*
 * Client connections: accepting them, noticing that one has left, and closing the slow and the
 * idle.
 *
 * h2o's HTTP/1 server stops reading once it has a request, so nobody would see a client leave while
 * we wait for the engine. The connection is kept readable here instead, without reading; see
 * client_watch().
 */
struct gw;
struct gw_request;

struct client {
    struct list node; /* on gw->clients */
    struct gw *gw;
    h2o_socket_t *sock;
    struct gw_request *active; /* HTTP/1: the request being answered */
    uint64_t accepted_ns, idle_since_ns,
        first_byte_ns;      /* first_byte: of a head or body that is not complete yet; 0 = none */
    uint64_t refused_ns;    /* told to go; 0: not */
    h2o_socket_cb h2o_read; /* of a refused one: h2o's own, for its end */
    SSL_CTX *tls;           /* held: h2o borrows it until the first bytes come; NULL: plain */
    struct buf refusal;     /* what it is told; outlives the write */
    int fd;
    bool read_shut;  /* told to go while it was idle */
    bool is_http2;   /* its streams and its idle time are h2o's business */
    unsigned resets; /* HTTP/2: streams that ended before their answer did */
    bool pipelined;  /* more than one request is here, so reading would not tell that it has left */
};

/* Before h2o_accept() with the same tls, which may be NULL. */
void client_accepted(struct gw *gw, h2o_socket_t *sock, SSL_CTX *tls);
enum err listeners_open(struct gw *gw);
void listeners_stop(struct gw *gw); /* accept no more */
void listeners_pause(struct gw *gw, bool pause);
void clients_admit(struct gw *gw); /* opens paused listeners where there is room again */
void clients_sweep(struct gw *gw, uint64_t now_ns);
void clients_drain(struct gw *gw); /* closes the idle ones; call until none is left */
void clients_close_all(struct gw *gw);

void client_attach(
    struct gw_request *r); /* r becomes the active request of its HTTP/1 connection */
void client_detach(struct gw_request *r);
void client_watch(struct gw_request *r); /* from now on a leaving client is seen: request_gone() */
void client_before_final(struct gw_request *r); /* before the last h2o_send() */
void client_kill(
    struct gw_request *r); /* makes h2o close the connection even with a write in flight */
/* After a write: makes h2o's loop look again at what to poll for. A write that ended before its
 * poll was set up leaves a poll for writability behind, and when that fires and nobody writes, h2o
 * aborts. */
void client_poll_settle(h2o_socket_t *sock);
void client_reset_on_close(struct gw_request *r); /* an abort must not look like an end */
/* Frees most of the memory of a body that nobody needs any more. */
/* Bytes that we wrote and the client's side has not confirmed; 0 where nobody can tell (HTTP/2). */
size_t client_unconfirmed(const struct gw_request *r);
void client_shrink(struct gw_request *r); /* a GET that waits: gives its input buffer back; its
                                             headers are gone */
void client_drop_body(struct gw_request *r);

#endif
