/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/client.h"

#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/must.h"
#include "gateway/finish.h"
#include "gateway/mcp.h"
#include "gateway/phr.h"
#include "gateway/request.h"
#include "gateway/worker.h"

#define FRESH_NS NS_PER_S
#define REFUSED_NS (2 * NS_PER_S)
#define REFUSE_MIN_BYTES (64u << 10)

/* Buffers of waiting connections: h2o wants to "consume" the request at its end, so a stub of that
 * size must be there. */
static __thread h2o_buffer_prototype_t stub_prototype = {
    .allocator = {.max = 16}, ._initial_buf = {.capacity = 64, ._fd = -1}};

static bool is_http1(const struct gw_request *r)
{
    return r->req->version < 0x200;
}

static struct client *client_of(struct gw *gw, int fd)
{
    return fd >= 0 && (size_t)fd < gw->by_fd_count ? gw->by_fd[fd] : NULL;
}

static struct client *client_behind(const struct gw_request *r)
{
    h2o_socket_t *s = r->req->conn->callbacks->get_socket(r->req->conn);

    return s != NULL ? client_of(r->gw, h2o_socket_get_fd(s)) : NULL;
}

/* One who opens streams only to reset them has us start work for nothing, as fast as he can write.
 */
static void reset_count(struct gw_request *r)
{
    struct client *c = client_behind(r);

    if (c == NULL || ++c->resets != r->gw->conf->gateway.http2_reset_budget + 1)
        return;
    log_info("client_closed", "fd=%d reason=\"too many streams were reset\"", c->fd);
    shutdown(c->fd, SHUT_RDWR);
}

static void on_sock_close(void *data)
{
    struct client *c = data;
    struct gw *gw = c->gw;

    gw->by_fd[c->fd] = NULL;
    list_remove(&c->node);
    gw->client_count--;
    SSL_CTX_free(c->tls);
    buf_fini(&c->refusal);
    free(c);
    clients_admit(gw);
}

void clients_admit(struct gw *gw)
{
    if (!gw->accepting && !gw->draining && !gw->stopped && gw->client_count < gw->client_max)
        listeners_pause(gw, false);
}

void client_accepted(struct gw *gw, h2o_socket_t *sock, SSL_CTX *tls)
{
    struct client *c = calloc(1, sizeof(*c));
    int fd = h2o_socket_get_fd(sock);

    must(c != NULL && fd >= 0);
    if ((size_t)fd >= gw->by_fd_count) {
        size_t count = ((size_t)fd + 1) * 2;

        gw->by_fd = realloc(gw->by_fd, count * sizeof(*gw->by_fd));
        must(gw->by_fd != NULL);
        memset(gw->by_fd + gw->by_fd_count, 0, (count - gw->by_fd_count) * sizeof(*gw->by_fd));
        gw->by_fd_count = count;
    }
    *c = (struct client){.gw = gw, .sock = sock, .fd = fd, .tls = tls};
    if (tls != NULL)
        SSL_CTX_up_ref(tls);
    c->accepted_ns = c->idle_since_ns = clock_ns();
    gw->by_fd[fd] = c;
    list_push(&gw->clients, &c->node);
    gw->client_count++;
    sock->on_close.cb = on_sock_close;
    sock->on_close.data = c;
    if (gw->client_count >= gw->client_max)
        listeners_pause(gw, true);
}

void client_attach(struct gw_request *r)
{
    struct client *c = client_behind(r);

    if (!is_http1(r)) {
        if (c != NULL)
            c->is_http2 = true;
        return;
    }
    r->client = c;
    if (r->client != NULL) {
        r->client->active = r;
        r->client->pipelined = false;
        r->client->first_byte_ns = 0;
    }
}

void client_detach(struct gw_request *r)
{
    if (!is_http1(r) && !r->finished)
        reset_count(r);
    if (r->client != NULL) {
        r->client->active = NULL;
        r->client->idle_since_ns = clock_ns();
        r->client = NULL;
    }
}

enum stream_end { END_NONE, END_HALF, END_WHOLE };

/* HALF: nothing more will come, which is all that those say, too, who have left. */
static enum stream_end end_of(int fd)
{
    char c;
    ssize_t n;

    do
        n = recv(fd, &c, 1, MSG_PEEK | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n == 0)
        return END_HALF;
    return n < 0 && errno != EAGAIN ? END_WHOLE : END_NONE;
}

/* Its answer is on its way and costs nobody anything: it is written, should its client have closed
 * its half only (nc -N). What a receive takes would be lost, so there such a client is gone. */
static bool is_short(const struct gw_request *r)
{
    return r->state == GW_ASKING && r->receive_ns == 0 && (r->mcp == NULL || !r->mcp->is_batch);
}

/* The same behind unread bytes, which hide the end of the stream from recv(). */
static bool has_closed(int fd)
{
    struct tcp_info info;
    socklen_t len = sizeof(info);

    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) != 0 ||
           (info.tcpi_state != TCP_ESTABLISHED && info.tcpi_state != TCP_SYN_RECV);
}

/* The end that is read is the one that clients_drain() put there: the request came just then. */
static bool is_ours_to_end(const struct client *c)
{
    return c->read_shut && !has_closed(c->fd);
}

static void on_readable(h2o_socket_t *sock, const char *err)
{
    enum stream_end end;
    struct client *c;
    struct gw_request *r;

    c = sock->on_close.data; /* sock->data belongs to h2o */
    r = c != NULL ? c->active : NULL;
    if (r == NULL)
        return;
    if (r->finished) { /* what comes now belongs to the next request; h2o reads it when ours is out
                        */
        h2o_socket_read_stop(sock);
        return;
    }
    end = sock->ssl == NULL ? end_of(c->fd) : END_NONE;
    if (end != END_NONE && is_ours_to_end(c))
        end = END_NONE;
    if (err != NULL || end == END_WHOLE || (end == END_HALF && !is_short(r))) {
        request_gone(r);
        return;
    }
    h2o_socket_read_stop(sock); /* the next request is already there; it waits for its turn */
    c->pipelined = true;
}

void client_watch(struct gw_request *r)
{
    h2o_socket_t *s;

    if (r->client == NULL)
        return;
    s = r->client->sock;
    if (s->ssl == NULL)
        h2o_socket_dont_read(s, 1);
    h2o_socket_read_start(s, on_readable);
}

void client_before_final(struct gw_request *r)
{
    if (r->client == NULL)
        return;
    h2o_socket_dont_read(r->client->sock, 0);
    if (r->body_dropped)
        h2o_socket_read_stop(r->client->sock);
}

void client_kill(struct gw_request *r)
{
    if (r->client != NULL)
        shutdown(r->client->fd, SHUT_RDWR);
}

size_t client_unconfirmed(const struct gw_request *r)
{
    int n = 0;

    if (r->client == NULL || ioctl(r->client->fd, SIOCOUTQ, &n) != 0 || n < 0)
        return 0;
    return (size_t)n;
}

void client_poll_settle(h2o_socket_t *sock)
{
    if (h2o_socket_is_reading(sock))
        h2o_socket_read_start(sock, sock->_cb.read);
    else
        h2o_socket_read_stop(sock);
}

void client_reset_on_close(struct gw_request *r)
{
    struct linger hard = {.l_onoff = 1, .l_linger = 0};

    if (r->client != NULL && r->client->sock->ssl == NULL)
        setsockopt(r->client->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
}

/* Puts a stub of the same size in the place of the input buffer. */
static void input_drop(h2o_socket_t *s, size_t used)
{
    h2o_buffer_t *old = s->input, *stub;

    h2o_buffer_init(&stub, &stub_prototype);
    h2o_buffer_reserve(&stub, 1);
    stub->size = used;
    s->input = stub;
    h2o_buffer_dispose(&old);
}

void client_drop_body(struct gw_request *r)
{
    h2o_socket_t *s;
    size_t used;

    if (r->client == NULL || r->body_dropped || r->req->entity.base == NULL ||
        exchange_is_writing(&r->x))
        return;
    s = r->client->sock;
    used = (size_t)(r->req->entity.base + r->req->entity.len - s->input->bytes);
    if (s->ssl != NULL || s->input->size != used)
        return;
    input_drop(s, used);
    r->req->entity = h2o_iovec_init(NULL, 0);
    r->gw->body_bytes -= r->held_bytes;
    r->held_bytes = 0;
    r->body_dropped = true;
}

void client_shrink(struct gw_request *r)
{
    h2o_req_t *req = r->req;
    h2o_socket_t *s;
    const char *end;

    if (r->client == NULL || r->body_dropped || req->entity.len > 0)
        return;
    s = r->client->sock;
    if (s->ssl != NULL)
        return;
    end = memmem(s->input->bytes, s->input->size, "\r\n\r\n", 4);
    if (end == NULL || end + 4 != s->input->bytes + s->input->size)
        return;
    req->input.path = h2o_strdup(&req->pool, req->input.path.base, req->input.path.len);
    req->path = req->path_normalized = req->input.path;
    r->path = req->path.base;
    r->path_len = req->path.len;
    req->method = req->input.method = h2o_iovec_init(H2O_STRLIT("GET"));
    req->authority = req->input.authority = h2o_iovec_init(H2O_STRLIT(""));
    req->headers.size = 0;
    memset(r->segments, 0, sizeof(r->segments));
    input_drop(s, s->input->size);
    r->body_dropped = true;
}

static void on_discard(h2o_socket_t *sock, const char *err)
{
    struct client *c = sock->on_close.data;

    if (err != NULL)
        c->h2o_read(sock, err);
    else
        h2o_buffer_consume(&sock->input, sock->input->size);
}

static void on_refusal_written(h2o_socket_t *sock, const char *err)
{
    const struct client *c = sock->on_close.data;

    client_poll_settle(sock);
    shutdown(c->fd, err == NULL ? SHUT_WR : SHUT_RDWR);
}

static void refusal_make(struct buf *out, enum err e)
{
    struct buf body = {0};
    int retry_ms = err_retry_ms(e);

    respond_error_body(&body, DIALECT_OPENAI, e, NULL, NULL, "");
    buf_addf(out, "HTTP/1.1 %u %s\r\nConnection: close\r\n", err_http(e),
             respond_reason(err_http(e)));
    if (retry_ms > 0)
        buf_addf(out, "Retry-After: %d\r\n", (retry_ms + 999) / 1000);
    buf_addf(out, "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n", body.len);
    buf_add(out, body.base, body.len);
    buf_fini(&body);
}

/* Says why and closes; for connections whose request h2o has not handed over yet, nor will: what it
 * has of it is freed. A client in the middle of its body would not see our answer if we closed at
 * once, so for REFUSED_NS what it still sends is read and thrown away. */
static void client_refuse(struct client *c, enum err e, uint64_t now_ns)
{
    h2o_buffer_t *old = c->sock->input, *fresh;
    h2o_iovec_t out;

    log_info("client_closed", "fd=%d bytes=%zu reason=\"%s\"", c->fd, old->size, err_text(e));
    worker_error_count(c->gw, e);
    c->refused_ns = now_ns;
    c->h2o_read = c->sock->_cb.read;
    if (c->h2o_read == NULL || h2o_socket_is_writing(c->sock) ||
        (c->sock->ssl != NULL && old->size == 0)) { /* perhaps not even past its handshake */
        shutdown(c->fd, SHUT_RDWR);
        return;
    }
    h2o_buffer_init(&fresh, &h2o_socket_buffer_prototype);
    c->sock->input = fresh;
    h2o_buffer_dispose(&old);
    h2o_socket_read_start(c->sock, on_discard);
    refusal_make(&c->refusal, e);
    out = h2o_iovec_init(c->refusal.base, c->refusal.len);
    h2o_socket_write(c->sock, &out, 1, on_refusal_written);
}

static bool head_is_complete(const h2o_buffer_t *in)
{
    struct phr_header headers[H2O_MAX_HEADERS];
    size_t count = H2O_MAX_HEADERS, ml, pl;
    const char *m, *p;
    int minor;

    return phr_parse_request(in->bytes, in->size, &m, &ml, &p, &pl, &minor, headers, &count, 0) > 0;
}

/* Bodies on their way are h2o's, and are held, too. The oldest keep their room; small ones are not
 * the problem. */
static void bodies_limit(struct gw *gw, uint64_t now_ns)
{
    uint64_t coming = 0;

    list_for(n, &gw->clients)
    {
        struct client *c = container_of(n, struct client, node);
        size_t size = c->sock->input->size;

        if (c->active != NULL || c->is_http2 || c->refused_ns != 0)
            continue;
        if (size > REFUSE_MIN_BYTES && gw->body_bytes + coming + size > gw->body_budget)
            client_refuse(c, ERR_BUDGET, now_ns);
        else
            coming += size;
    }
    gw->coming_bytes = coming;
}

/* HTTP/2 without a request so far: its server speaks first, HTTP/1's only when there is a head. */
static bool is_new_http2(const struct client *c)
{
    return c->gw->conf->gateway.http2 && c->idle_since_ns == c->accepted_ns &&
           c->sock->bytes_written > 0 && !head_is_complete(c->sock->input);
}

/* Several times a second: heads, bodies and idle connections that have had their time. h2o's own
 * timer covers them all in one and says nothing. */
void clients_sweep(struct gw *gw, uint64_t now_ns)
{
    const struct conf_gateway *conf = &gw->conf->gateway;

    bodies_limit(gw, now_ns);
    list_for_safe(n, &gw->clients)
    {
        struct client *c = container_of(n, struct client, node);
        const h2o_buffer_t *in = c->sock->input;
        uint64_t limit_ms;

        if (c->refused_ns != 0) {
            if (now_ns - c->refused_ns > REFUSED_NS)
                shutdown(c->fd, SHUT_RDWR);
            continue;
        }
        if (!c->is_http2 && c->active == NULL && is_new_http2(c))
            c->is_http2 = true;
        if (c->is_http2)
            continue;
        if (c->active != NULL) {
            if (c->pipelined && !c->active->finished && !is_short(c->active) && has_closed(c->fd))
                request_gone(c->active);
            continue;
        }
        if (in->size == 0) {
            uint64_t idle_ms = (now_ns - c->idle_since_ns) / NS_PER_MS;

            c->first_byte_ns = 0;
            /* A connection that never sent a byte owes us a head. */
            if (c->idle_since_ns == c->accepted_ns && idle_ms > conf->head_timeout_ms)
                client_refuse(c, ERR_HEAD_TIMEOUT, now_ns);
            else if (idle_ms > conf->keepalive_timeout_ms)
                shutdown(c->fd, SHUT_RDWR);
            continue;
        }
        if (c->first_byte_ns == 0)
            c->first_byte_ns = c->idle_since_ns == c->accepted_ns ? c->accepted_ns : now_ns;
        limit_ms = head_is_complete(in) ? conf->body_timeout_ms : conf->head_timeout_ms;
        if ((now_ns - c->first_byte_ns) / NS_PER_MS > limit_ms)
            client_refuse(c, ERR_HEAD_TIMEOUT, now_ns);
    }
}

/* A request is on its way: to a connection just accepted its first, or one that we have not read
 * yet. */
static bool is_due(const struct client *c, uint64_t now_ns)
{
    char byte;

    return (c->idle_since_ns == c->accepted_ns && now_ns - c->accepted_ns < FRESH_NS) ||
           recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

void clients_drain(struct gw *gw)
{
    uint64_t now_ns = clock_ns();

    list_for_safe(n, &gw->clients)
    {
        struct client *c = container_of(n, struct client, node);

        if (!c->is_http2 && c->active == NULL && c->sock->input->size == 0 && !is_due(c, now_ns)) {
            c->read_shut = true;
            shutdown(c->fd, SHUT_RD);
        }
    }
}

void clients_close_all(struct gw *gw)
{
    list_for_safe(n, &gw->clients)
    {
        shutdown(container_of(n, struct client, node)->fd, SHUT_RDWR);
    }
}
