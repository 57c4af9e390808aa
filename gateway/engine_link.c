/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/engine_link.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/must.h"
#include "gateway/client.h"
#include "gateway/acks.h"
#include "gateway/phr.h"
#include "gateway/worker.h"

#define READ_BYTES 4096u       /* at least so much room for each read */
#define FLAT_BYTES (16u << 10) /* requests up to here are copied together */

struct engine_pool {
    struct list idle; /* kept connections, the most recently used last; none has an exchange */
    unsigned idle_count;
    uint32_t generation;
    char address[64]; /* of that generation; a scheduler that lost its memory counts anew */
    uint32_t port;
    uint32_t life; /* grows when another engine takes the place */
    struct acks_engine acks;
    struct sockaddr_storage addr;
    socklen_t addr_len;
};

struct link {
    struct gw *gw;
    struct list node;   /* on its pool's idle list */
    h2o_socket_t *sock; /* NULL: the dial failed at once */
    struct exchange *x; /* NULL while idle */
    struct timer connect_timer;
    uint64_t idle_since_ns;
    uint32_t engine, generation, life;
    h2o_iovec_t *bufs; /* request to be written once connected; owner's */
    size_t buf_count;
    bool reused, connecting, writing, write_failed, is_head, keep, paused, any_byte, complete,
        failed_at_once;
    enum answer_framing framing;
    uint64_t left; /* FRAMING_LENGTH: bytes to come */
    struct phr_chunked_decoder chunks;
    bool is_stream;
    struct acks acks; /* of the stream in progress */
    size_t last_len;  /* of an incomplete head: what was parsed in vain */
    size_t decoded;   /* bytes at the front of sock->input that belong to the body */
};

static void on_read(h2o_socket_t *sock, const char *err);

enum err engine_pools_init(struct gw *gw)
{
    uint32_t i;

    gw->pools = calloc(FLEET_ENGINES, sizeof(*gw->pools));
    if (gw->pools == NULL)
        return ERR_NOMEM;
    for (i = 0; i < FLEET_ENGINES; i++)
        list_init(&gw->pools[i].idle);
    return ERR_OK;
}

static void link_free(struct link *l)
{
    timer_stop(&l->gw->timers, &l->connect_timer);
    if (l->sock != NULL)
        h2o_socket_close(l->sock);
    free(l);
}

static void idle_close(struct engine_pool *p, struct link *l)
{
    list_remove(&l->node);
    p->idle_count--;
    link_free(l);
}

void engine_pools_fini(struct gw *gw)
{
    uint32_t i;

    for (i = 0; gw->pools != NULL && i < FLEET_ENGINES; i++)
        while (!list_is_empty(&gw->pools[i].idle))
            idle_close(&gw->pools[i],
                       container_of(list_first(&gw->pools[i].idle), struct link, node));
    free(gw->pools);
    gw->pools = NULL;
}

void engine_pools_sweep(struct gw *gw, uint64_t now_ns)
{
    uint64_t limit = gw->conf->gateway.engine_idle_ms * NS_PER_MS;
    uint32_t i;

    for (i = 0; i < FLEET_ENGINES; i++) {
        struct engine_pool *p = &gw->pools[i];
        struct list *n;

        while ((n = list_first(&p->idle)) != NULL) {
            struct link *l = container_of(n, struct link, node);

            if (now_ns - l->idle_since_ns < limit)
                break;
            idle_close(p, l);
        }
    }
}

/* An idle connection that becomes readable is dead, or talks out of turn: either way it is of no
 * use. */
static void on_idle_read(h2o_socket_t *sock, const char *err)
{
    struct link *l = sock->data;

    (void)err;
    idle_close(&l->gw->pools[l->engine], l);
}

/* Ends the exchange with an error. The connection is closed; the owner is told last. */
static void link_fail(struct link *l, enum err e, bool unread)
{
    struct exchange *x = l->x;

    l->x = NULL;
    x->link = NULL;
    x->ended = true;
    link_free(l);
    x->ops->on_fail(x->arg, e, unread);
}

static bool is_unread(const struct link *l)
{
    return l->connecting || (l->reused && !l->any_byte);
}

static void on_connect_timer(struct timer *t)
{
    struct link *l = container_of(t, struct link, connect_timer);

    link_fail(l, l->failed_at_once ? ERR_CONNECT : ERR_CONNECT_TIMEOUT, true);
}

static void on_written(h2o_socket_t *sock, const char *err)
{
    struct link *l = sock->data;

    client_poll_settle(sock);
    l->writing = false;
    if (err != NULL)
        l->write_failed =
            true; /* an early answer may still be there to be read; the read side ends it */
}

/* Writes it at once, without h2o: one buffer and no completion to wait for are a twentieth of the
 * way there. false: h2o writes what is left of bufs, or hits the error again. */
static bool request_send(struct link *l)
{
    struct buf *flat = &l->gw->flat;
    size_t len = 0, i;
    ssize_t n;

    for (i = 0; i < l->buf_count; i++)
        len += l->bufs[i].len;
    if (len > FLAT_BYTES)
        return false;
    buf_clear(flat);
    for (i = 0; i < l->buf_count; i++)
        buf_add(flat, l->bufs[i].base, l->bufs[i].len);
    n = send(h2o_socket_get_fd(l->sock), flat->base, len, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n == (ssize_t)len)
        return true;
    for (; n > 0; l->bufs++, l->buf_count--) {
        size_t part = l->bufs->len < (size_t)n ? l->bufs->len : (size_t)n;

        l->bufs->base += part;
        l->bufs->len -= part;
        n -= (ssize_t)part;
        if (l->bufs->len > 0)
            break;
    }
    return false;
}

static void request_write(struct link *l)
{
    h2o_socket_read_start(l->sock, on_read); /* before the write: an engine may answer early */
    if (fault_hits(FAULT_engine_write_fails)) {
        shutdown(h2o_socket_get_fd(l->sock), SHUT_RDWR);
    }
    l->writing = !request_send(l);
    if (l->writing)
        h2o_socket_write(l->sock, l->bufs, l->buf_count, on_written);
}

static void on_connected(h2o_socket_t *sock, const char *err)
{
    struct link *l = sock->data;

    timer_stop(&l->gw->timers, &l->connect_timer);
    if (err != NULL) {
        link_fail(l, ERR_CONNECT, true);
        return;
    }
    l->connecting = false;
    request_write(l);
}

static bool address_of(const struct fleet_engine *e, struct sockaddr_storage *out, socklen_t *len)
{
    struct sockaddr_in *a4 = (struct sockaddr_in *)out;
    struct sockaddr_in6 *a6 = (struct sockaddr_in6 *)out;

    memset(out, 0, sizeof(*out));
    if (inet_pton(AF_INET, e->address, &a4->sin_addr) == 1) {
        a4->sin_family = AF_INET;
        a4->sin_port = htons((uint16_t)e->port);
        *len = sizeof(*a4);
        return true;
    }
    if (inet_pton(AF_INET6, e->address, &a6->sin6_addr) == 1) {
        a6->sin6_family = AF_INET6;
        a6->sin6_port = htons((uint16_t)e->port);
        *len = sizeof(*a6);
        return true;
    }
    return false;
}

static void pool_follow(struct engine_pool *p, const struct fleet_engine *e)
{
    if (p->generation == e->generation && p->port == e->port && strcmp(p->address, e->address) == 0)
        return;
    while (!list_is_empty(&p->idle))
        idle_close(p, container_of(list_first(&p->idle), struct link, node));
    p->generation = e->generation;
    p->port = e->port;
    memcpy(p->address, e->address, sizeof(p->address));
    p->life++;
    p->acks = (struct acks_engine){0};
}

static void link_dial(struct link *l)
{
    const struct fleet_engine *e = fleet_engine_get(&l->gw->fleet, l->engine, l->generation);
    uint64_t now = clock_ns();
    struct sockaddr_storage addr;
    socklen_t len;

    l->connecting = true;
    l->connect_timer.fire = on_connect_timer;
    worker_count(l->gw, GW_M_engine_dials, 1);
    if (e != NULL && address_of(e, &addr, &len))
        l->sock = h2o_socket_connect(l->gw->ctx.loop, (struct sockaddr *)&addr, len, on_connected);
    if (l->sock == NULL) {
        l->failed_at_once = true;
        timer_start(&l->gw->timers, &l->connect_timer, now);
        return;
    }
    l->sock->data = l;
    h2o_socket_dont_read(l->sock, 1); /* link_receive() does */
    timer_start(&l->gw->timers, &l->connect_timer,
                now + l->gw->conf->gateway.connect_timeout_ms * NS_PER_MS);
}

void exchange_start(struct exchange *x, struct gw *gw, uint32_t engine, uint32_t generation,
                    h2o_iovec_t *bufs, size_t count, bool is_head, bool fresh,
                    const struct exchange_ops *ops, void *arg)
{
    struct engine_pool *p = &gw->pools[engine];
    struct link *l;

    *x = (struct exchange){.ops = ops, .arg = arg};
    pool_follow(p, &gw->fleet.engines[engine]);
    if (!fresh && !list_is_empty(&p->idle)) {
        l = container_of(p->idle.prev, struct link, node);
        list_remove(&l->node);
        p->idle_count--;
        l->reused = true;
        worker_count(gw, GW_M_engine_reuse, 1);
    } else {
        l = calloc(1, sizeof(*l));
        must(l != NULL);
        list_init(&l->node);
        l->gw = gw;
        l->engine = engine;
        l->generation = generation;
        l->life = p->life;
    }
    l->x = x;
    x->link = l;
    l->bufs = bufs;
    l->buf_count = count;
    l->is_head = is_head;
    l->any_byte = l->complete = l->write_failed = l->paused = l->is_stream = false;
    l->last_len = l->decoded = 0;
    if (l->sock != NULL)
        request_write(l);
    else
        link_dial(l);
}

/* Decodes what has just arrived behind the decoded bytes. Sets complete at the end of the answer.
 */
static enum err body_decode(struct link *l)
{
    h2o_buffer_t *in = l->sock->input;
    size_t fresh = in->size - l->decoded;
    ssize_t rest;

    switch (l->framing) {
    case ANSWER_NO_BODY:
        l->complete = true;
        l->keep = l->keep && in->size == 0;
        break;
    case ANSWER_LENGTH:
        if (fresh > l->left) {
            l->keep = false; /* it talks on after its end */
            fresh = (size_t)l->left;
        }
        l->left -= fresh;
        l->decoded += fresh;
        l->complete = l->left == 0;
        break;
    case ANSWER_CHUNKED:
        if (fresh == 0)
            break;
        rest = phr_decode_chunked(&l->chunks, in->bytes + l->decoded, &fresh);
        if (rest == -1)
            return ERR_ENGINE_PROTO;
        l->decoded += fresh;
        l->complete = rest >= 0;
        if (rest > 0)
            l->keep = false;
        in->size = l->decoded;
        break;
    case ANSWER_UNTIL_CLOSE:
        l->decoded = in->size;
        break;
    }
    return ERR_OK;
}

static void stream_piece_seen(struct link *l)
{
    int off = 0;

    if (acks_on_piece(&l->acks, &l->gw->pools[l->engine].acks, clock_ns()))
        setsockopt(h2o_socket_get_fd(l->sock), IPPROTO_TCP, TCP_QUICKACK, &off, sizeof(off));
}

/* The head, if it is all there. ERR_BUSY: needs more. */
static enum err head_read(struct link *l)
{
    struct answer a;
    enum err e;

    for (;;) {
        h2o_buffer_t *in = l->sock->input;

        e = answer_parse(in->bytes, in->size, l->last_len, l->is_head, &a);
        if (e == ERR_BUSY)
            l->last_len = in->size;
        if (e != ERR_OK)
            return e;
        if (a.status >= 200)
            break;
        h2o_buffer_consume(&l->sock->input, a.head_bytes); /* 100, 102, 103 */
        l->last_len = 0;
        if (l->sock->input->size == 0)
            return ERR_BUSY;
    }
    l->framing = a.framing;
    l->left = a.length;
    l->keep = a.keep_alive && a.framing != ANSWER_UNTIL_CLOSE;
    memset(&l->chunks, 0, sizeof(l->chunks));
    l->chunks.consume_trailer = 1;
    l->is_stream = a.is_event_stream;
    l->acks = (struct acks){0};
    l->x->head_seen = true;
    l->x->ops->on_head(l->x->arg, &a);
    h2o_buffer_consume(&l->sock->input, a.head_bytes);
    return ERR_OK;
}

/* The owner may take its time with the last bytes. Until it ends the exchange nothing more is read:
 * an engine that closes now has said all it had to say. */
static void exchange_complete(struct link *l)
{
    struct exchange *x = l->x;

    h2o_socket_read_stop(l->sock);
    x->ended = true;
    x->ops->on_end(x->arg);
}

static void on_read_end(struct link *l, const char *err)
{
    bool clean = err == h2o_socket_error_closed;
    struct exchange *x = l->x;

    if (!x->head_seen) {
        link_fail(l, ERR_ENGINE_GONE, is_unread(l));
        return;
    }
    if (l->framing == ANSWER_UNTIL_CLOSE && clean) {
        l->complete = true;
        l->keep = false;
        exchange_complete(l);
        return;
    }
    link_fail(l, ERR_TRUNCATED, false);
}

/* As h2o would, but by recv(): through the file layer a read takes longer. Returns why there will
 * be no more, in h2o's words, or NULL. */
static const char *link_receive(struct link *l)
{
    bool any = false;

    for (;;) {
        h2o_iovec_t room = h2o_buffer_reserve(&l->sock->input, READ_BYTES);
        ssize_t n = recv(h2o_socket_get_fd(l->sock), room.base, room.len, MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? NULL : h2o_socket_error_io;
        if (n == 0)
            return any ? NULL : h2o_socket_error_closed; /* it is still there at the next look */
        l->sock->input->size += (size_t)n;
        if ((size_t)n < room.len)
            return NULL;
        any = true;
    }
}

static void on_read(h2o_socket_t *sock, const char *err)
{
    struct link *l = sock->data;
    struct exchange *x = l->x;
    size_t before = l->decoded;
    enum err e;

    if (err == NULL)
        err = link_receive(l);
    if (sock->input->size > l->decoded)
        l->any_byte = true;
    if (err != NULL) {
        on_read_end(l, err);
        return;
    }
    if (!x->head_seen) {
        e = head_read(l);
        if (e == ERR_BUSY)
            return;
        if (e != ERR_OK) {
            link_fail(l, e, false);
            return;
        }
    }
    e = body_decode(l);
    if (e != ERR_OK) {
        link_fail(l, e, false);
        return;
    }
    if (l->is_stream)
        stream_piece_seen(l);
    x->body_bytes += l->decoded - before;
    if (l->complete) {
        exchange_complete(l);
    } else if (l->decoded > before) {
        x->ops->on_data(x->arg);
    }
}

bool exchange_take(struct exchange *x, h2o_buffer_t **buffer, size_t *len)
{
    struct link *l = x->link;

    if (l == NULL || l->decoded == 0)
        return false;
    *buffer = l->sock->input;
    *len = l->decoded;
    h2o_buffer_init(&l->sock->input, &h2o_socket_buffer_prototype);
    l->decoded = 0;
    return true;
}

size_t exchange_waiting(const struct exchange *x)
{
    return x->link != NULL ? x->link->decoded : 0;
}

void exchange_pause(struct exchange *x)
{
    if (x->link != NULL && !x->link->paused && !x->ended) {
        x->link->paused = true;
        h2o_socket_read_stop(x->link->sock);
    }
}

void exchange_resume(struct exchange *x)
{
    if (x->link != NULL && x->link->paused && !x->ended) {
        x->link->paused = false;
        h2o_socket_read_start(x->link->sock, on_read);
    }
}

bool exchange_is_writing(const struct exchange *x)
{
    return x->link != NULL && x->link->writing;
}

bool exchange_is_connecting(const struct exchange *x)
{
    return x->link != NULL && x->link->connecting;
}

void exchange_end(struct exchange *x)
{
    struct link *l = x->link;
    struct engine_pool *p;

    if (l == NULL)
        return;
    x->link = NULL;
    l->x = NULL;
    p = &l->gw->pools[l->engine];
    if (!l->complete || !l->keep || l->writing || l->write_failed || l->gw->stopped ||
        p->life != l->life || p->idle_count >= l->gw->conf->gateway.engine_idle_max) {
        link_free(l);
        return;
    }
    if (l->sock->input->size != 0)
        h2o_buffer_consume(&l->sock->input, l->sock->input->size);
    l->decoded = 0;
    l->idle_since_ns = clock_ns();
    list_push(&p->idle, &l->node);
    p->idle_count++;
    h2o_socket_read_start(l->sock, on_idle_read);
}
