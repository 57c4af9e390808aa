/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/replay/client.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/list.h"
#include "common/must.h"

#define READ_BYTES (256U << 10)

struct target {
    struct sockaddr_storage addr;
    socklen_t addr_len;
    char host[256];
    struct list idle; /* connections without an exchange, the last used first */
};

struct conn {
    struct list link; /* target.idle, while idle */
    struct client *client;
    int fd;
    struct watch *watch;
    struct exchange *exchange; /* NULL while idle */
};

struct exchange {
    struct list link; /* client.open */
    struct client *client;
    struct target *target;
    struct conn *conn;
    bool reused;
    struct buf head, body;
    size_t sent; /* of head and body */
    struct answer answer;
    bool got_bytes;
    enum err failed; /* found out inside client_send(); told by the timer */
    struct timer timer;
    struct exchange_calls calls;
};

struct client {
    struct loop *loop;
    struct target *targets;
    uint32_t target_count, turn;
    uint32_t timeout_ms;
    struct list open;
    char *read_room;
};

static void conn_close(struct conn *c)
{
    list_remove(&c->link);
    loop_unwatch(c->watch);
    close(c->fd);
    free(c);
}

static void exchange_free(struct exchange *x)
{
    list_remove(&x->link);
    timer_stop(loop_timers(x->client->loop), &x->timer);
    buf_fini(&x->head);
    buf_fini(&x->body);
    answer_fini(&x->answer);
    free(x);
}

static void exchange_end(struct exchange *x, enum err e)
{
    struct conn *c = x->conn;

    if (c != NULL) {
        c->exchange = NULL;
        if (e == ERR_OK && x->answer.keep_alive)
            list_push_front(&x->target->idle, &c->link);
        else
            conn_close(c);
    }
    x->conn = NULL;
    x->calls.on_end(x->calls.arg, e, &x->answer);
    exchange_free(x);
}

static void write_some(struct exchange *x)
{
    size_t total = x->head.len + x->body.len;

    while (x->sent < total) {
        struct iovec v[2];
        int n = 0;
        ssize_t done;

        if (x->sent < x->head.len)
            v[n++] = (struct iovec){x->head.base + x->sent, x->head.len - x->sent};
        if (x->body.len > 0) {
            size_t at = x->sent > x->head.len ? x->sent - x->head.len : 0;

            v[n++] = (struct iovec){x->body.base + at, x->body.len - at};
        }
        done = writev(x->conn->fd, v, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0 && errno == EAGAIN) {
            loop_rewatch(x->conn->watch, EPOLLIN | EPOLLOUT);
            return;
        }
        if (done < 0)
            break; /* the reader learns why; an early answer may be waiting */
        x->sent += (size_t)done;
    }
    loop_rewatch(x->conn->watch, EPOLLIN);
}

static bool connect_fresh(struct exchange *x);

/* The connection ended or broke. */
static void on_closed(struct exchange *x)
{
    enum err e = x->got_bytes ? answer_close(&x->answer) : x->sent > 0 ? ERR_GONE : ERR_CONNECT;

    if (x->reused && !x->got_bytes) { /* closed while idle: nobody has seen the request */
        conn_close(x->conn);
        x->conn = NULL;
        x->reused = false;
        x->sent = 0;
        if (connect_fresh(x))
            return;
        e = ERR_CONNECT;
    }
    exchange_end(x, e);
}

/* False: the exchange is over. */
static bool read_some(struct exchange *x)
{
    ssize_t n = recv(x->conn->fd, x->client->read_room, READ_BYTES, 0);
    size_t used = 0;
    enum err e;

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    if (n <= 0) {
        on_closed(x);
        return false;
    }
    x->got_bytes = true;
    e = answer_feed(&x->answer, x->client->read_room, (size_t)n, &used);
    if (e == ERR_OK && x->calls.on_bytes != NULL)
        x->calls.on_bytes(x->calls.arg, &x->answer);
    if (e == ERR_OK && x->answer.state != ANSWER_DONE)
        return true;
    if (used < (size_t)n || x->sent < x->head.len + x->body.len)
        x->answer.keep_alive = false;
    exchange_end(x, e);
    return false;
}

static void on_ready(void *arg, uint32_t events)
{
    struct conn *c = arg;

    if (c->exchange == NULL) { /* idle: closed by the other side, or speaking out of turn */
        conn_close(c);
        return;
    }
    if ((events & EPOLLOUT) != 0)
        write_some(c->exchange);
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0)
        read_some(c->exchange);
}

static void attach(struct exchange *x, struct conn *c)
{
    x->conn = c;
    c->exchange = x;
}

static bool connect_fresh(struct exchange *x)
{
    struct conn *c;
    int one = 1;
    int fd = socket(x->target->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return false;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (connect(fd, (struct sockaddr *)&x->target->addr, x->target->addr_len) != 0 &&
        errno != EINPROGRESS) {
        close(fd);
        return false;
    }
    c = calloc(1, sizeof(*c));
    must(c != NULL);
    list_init(&c->link);
    c->client = x->client;
    c->fd = fd;
    c->watch = loop_watch(x->client->loop, fd, EPOLLIN | EPOLLOUT, on_ready, c);
    attach(x, c);
    return true;
}

static void on_timer(struct timer *t)
{
    struct exchange *x = container_of(t, struct exchange, timer);

    exchange_end(x, x->failed != ERR_OK ? x->failed : ERR_TIMEOUT);
}

void client_send(struct client *c, int target, const char *method, const char *path,
                 const char *headers, struct buf *body, const struct exchange_calls *calls)
{
    struct exchange *x = calloc(1, sizeof(*x));
    struct list *idle;

    must(x != NULL);
    list_init(&x->link);
    list_push(&c->open, &x->link);
    x->client = c;
    x->calls = *calls;
    x->target =
        &c->targets[target >= 0 ? (uint32_t)target % c->target_count : c->turn++ % c->target_count];
    x->body = *body;
    *body = (struct buf){0};
    buf_addf(&x->head, "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %zu\r\n%s\r\n", method, path,
             x->target->host, x->body.len, headers);
    answer_start(&x->answer);
    x->timer.fire = on_timer;
    idle = list_take(&x->target->idle);
    if (idle != NULL) {
        x->reused = true;
        attach(x, container_of(idle, struct conn, link));
        loop_rewatch(x->conn->watch, EPOLLIN | EPOLLOUT);
    } else if (!connect_fresh(x)) {
        x->failed = ERR_CONNECT;
    }
    timer_start(loop_timers(c->loop), &x->timer,
                clock_ns() + (x->failed != ERR_OK ? 0 : c->timeout_ms * NS_PER_MS));
}

/* One "http://host:port" of len bytes. */
static bool target_parse(struct target *t, const char *url, size_t len)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    char host[256], *port;

    if (len <= 7 || len - 7 >= sizeof(host) || strncmp(url, "http://", 7) != 0)
        return false;
    memcpy(host, url + 7, len - 7);
    host[len - 7] = '\0';
    host[strcspn(host, "/")] = '\0';
    memcpy(t->host, host, sizeof(host));
    port = strrchr(host, ':');
    if (port != NULL)
        *port++ = '\0';
    if (getaddrinfo(host, port != NULL ? port : "80", &hints, &found) != 0)
        return false;
    memcpy(&t->addr, found->ai_addr, found->ai_addrlen);
    t->addr_len = found->ai_addrlen;
    freeaddrinfo(found);
    return true;
}

enum err client_new(struct loop *l, const char *urls, uint32_t timeout_ms, struct client **out,
                    struct buf *why)
{
    struct client *c = calloc(1, sizeof(*c));

    must(c != NULL);
    c->loop = l;
    c->timeout_ms = timeout_ms;
    list_init(&c->open);
    c->targets = calloc(strlen(urls) + 1, sizeof(*c->targets));
    c->read_room = malloc(READ_BYTES);
    must(c->targets != NULL && c->read_room != NULL);
    for (const char *u = urls; *u != '\0';) {
        size_t n = strcspn(u, ",");

        if (!target_parse(&c->targets[c->target_count], u, n)) {
            buf_addf(why, "not an address: %.*s", (int)n, u);
            client_free(c);
            return ERR_INVALID;
        }
        list_init(&c->targets[c->target_count++].idle);
        u += n + (u[n] == ',');
    }
    if (c->target_count == 0) {
        buf_adds(why, "no address");
        client_free(c);
        return ERR_INVALID;
    }
    *out = c;
    return ERR_OK;
}

void client_free(struct client *c)
{
    if (c == NULL)
        return;
    list_for_safe(pos, &c->open)
    {
        struct exchange *x = container_of(pos, struct exchange, link);

        exchange_end(x, ERR_CANCELLED);
    }
    for (uint32_t i = 0; i < c->target_count; i++)
        list_for_safe(pos, &c->targets[i].idle) conn_close(container_of(pos, struct conn, link));
    free(c->targets);
    free(c->read_room);
    free(c);
}

uint32_t client_targets(const struct client *c)
{
    return c->target_count;
}
