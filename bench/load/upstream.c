/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The null engine of the benchmarks: answers as fast as a socket allows, so that what is measured
 * is the process in front of it.
 *
 * A POST gets one fixed chat completion; with "stream":true in a body of at most SMALL bytes it
 * gets events at a steady pace until the client leaves. Streams sit on a wheel of as many slots as
 * ticks fit into the time between two events, spread evenly. Each event carries the CLOCK_MONOTONIC
 * time of its write as @ and 20 digits, which bench_streams reads on the same host.
 */
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench/load/net.h"
#include "common/buf.h"
#include "common/clock.h"
#include "common/list.h"
#include "common/must.h"

#define SMALL 16384
#define HEAD_MAX 32768
#define EVENTS_PER_TURN 256

struct conn {
    int fd;
    struct buf in;    /* an incomplete request */
    size_t skip;      /* body bytes of a big request still to come */
    struct list slot; /* in a slot of the wheel while streaming */
    char *rest;       /* end of an event that the socket did not take; owned */
    size_t rest_len;
    struct list gone; /* on the list of closed ones */
};

struct upstream {
    int ep, listener, ticker;
    struct buf answer, models, ok, event, head;
    size_t stamp; /* offset of the 20 digits in event */
    struct list *wheel;
    size_t slots, now, next;
    struct list dead; /* closed in this turn, freed at its end */
    unsigned long stalled;
};

static void answer_make(struct buf *out, const char *type, const char *body, size_t len)
{
    buf_addf(out, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n", type, len);
    buf_add(out, body, len);
}

static void completion_make(struct buf *out, size_t bytes)
{
    static const char front[] =
        "{\"id\":\"chatcmpl-0\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":"
        "\"sim\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"";
    static const char back[] =
        "\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":500,\"completion_tokens\":"
        "170,"
        "\"total_tokens\":670,\"prompt_tokens_details\":{\"cached_tokens\":400}}}";
    struct buf body = {0};

    buf_adds(&body, front);
    while (body.len + sizeof(back) - 1 < bytes)
        buf_add(&body, &"word "[body.len % 5], 1);
    buf_adds(&body, back);
    answer_make(out, "application/json", body.base, body.len);
    buf_fini(&body);
}

/* One event as one chunk; only the digits change from write to write. */
static void event_make(struct upstream *u, size_t bytes)
{
    static const char front[] =
        "data: {\"id\":\"chatcmpl-0\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"
        "\"model\":\"sim\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"@";
    static const char back[] = "\"},\"finish_reason\":null}]}\n\n";
    size_t fixed = sizeof(front) - 1 + 20 + sizeof(back) - 1,
           pad = bytes > fixed ? bytes - fixed : 0;

    buf_addf(&u->event, "%zx\r\n%s", fixed + pad, front);
    u->stamp = u->event.len;
    buf_adds(&u->event, "00000000000000000000");
    for (size_t i = 0; i < pad; i++)
        buf_add(&u->event, ".", 1);
    buf_adds(&u->event, back);
    buf_adds(&u->event, "\r\n");
}

static void conn_close(struct upstream *u, struct conn *c)
{
    if (c->fd < 0)
        return;
    close(c->fd);
    c->fd = -1;
    list_remove(&c->slot);
    list_push(&u->dead, &c->gone);
}

static void conn_free(struct conn *c)
{
    buf_fini(&c->in);
    free(c->rest);
    free(c);
}

/* Small answers always fit an empty socket buffer; one that does not costs the connection. */
static void conn_write(struct upstream *u, struct conn *c, const struct buf *b)
{
    if (send(c->fd, b->base, b->len, MSG_NOSIGNAL) != (ssize_t)b->len)
        conn_close(u, c);
}

static void stamp_put(char *digits)
{
    uint64_t t = clock_ns();

    for (int i = 19; i >= 0; i--, t /= 10)
        digits[i] = (char)('0' + t % 10);
}

static bool rest_flush(struct upstream *u, struct conn *c)
{
    ssize_t n = send(c->fd, c->rest, c->rest_len, MSG_NOSIGNAL);

    if (n < 0 && errno != EAGAIN)
        conn_close(u, c);
    if (n <= 0)
        return false;
    memmove(c->rest, c->rest + n, c->rest_len - (size_t)n);
    c->rest_len -= (size_t)n;
    return c->rest_len == 0;
}

static void event_send(struct upstream *u, struct conn *c)
{
    ssize_t n;

    if (c->rest_len != 0 && !rest_flush(u, c)) {
        u->stalled++;
        return;
    }
    stamp_put(u->event.base + u->stamp);
    n = send(c->fd, u->event.base, u->event.len, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) {
        conn_close(u, c);
    } else if (n < 0) {
        u->stalled++;
    } else if ((size_t)n < u->event.len) {
        c->rest_len = u->event.len - (size_t)n;
        c->rest = c->rest != NULL ? c->rest : malloc(u->event.len);
        must(c->rest != NULL);
        memcpy(c->rest, u->event.base + n, c->rest_len);
    }
}

static void stream_start(struct upstream *u, struct conn *c)
{
    conn_write(u, c, &u->head);
    if (c->fd < 0 || !list_is_empty(&c->slot))
        return;
    list_push(&u->wheel[u->next], &c->slot);
    u->next = (u->next + 1) % u->slots;
}

static void on_tick(struct upstream *u)
{
    for (uint64_t n = net_ticks(u->ticker); n > 0; n--) {
        list_for_safe(at, &u->wheel[u->now])
        {
            event_send(u, container_of(at, struct conn, slot));
        }
        u->now = (u->now + 1) % u->slots;
    }
}

static void request_answer(struct upstream *u, struct conn *c, const char *head, const char *body,
                           size_t body_len)
{
    if (head[0] == 'P' && body_len <= SMALL &&
        memmem(body, body_len, "\"stream\":true", 13) != NULL)
        stream_start(u, c);
    else if (head[0] == 'P')
        conn_write(u, c, &u->answer);
    else
        conn_write(u, c, strncmp(head, "GET /v1/models", 14) == 0 ? &u->models : &u->ok);
}

/* Handles one request at p. Returns the bytes it used, 0 when more must come. */
static size_t request_take(struct upstream *u, struct conn *c, const char *p, size_t len)
{
    const char *end = memmem(p, len, "\r\n\r\n", 4), *v;
    size_t head, body;

    if (end == NULL) {
        if (len > HEAD_MAX)
            conn_close(u, c);
        return 0;
    }
    head = (size_t)(end - p) + 4;
    if (net_header(p, head, "Transfer-Encoding") != NULL) {
        conn_close(u, c);
        return 0;
    }
    v = net_header(p, head, "Content-Length");
    body = v != NULL ? strtoul(v, NULL, 10) : 0;
    if (body > SMALL) {
        size_t have = len - head < body ? len - head : body;

        c->skip = body - have;
        if (c->skip == 0)
            conn_write(u, c, &u->answer);
        return head + have;
    }
    if (len - head < body)
        return 0;
    request_answer(u, c, p, p + head, body);
    return head + body;
}

static void on_bytes(struct upstream *u, struct conn *c, const char *p, size_t len)
{
    while (len > 0 && c->fd >= 0) {
        size_t used;

        if (c->skip > 0) {
            used = len < c->skip ? len : c->skip;
            c->skip -= used;
            if (c->skip == 0)
                conn_write(u, c, &u->answer);
        } else {
            used = request_take(u, c, p, len);
            if (used == 0)
                break;
        }
        p += used;
        len -= used;
    }
    if (len > 0 && c->fd >= 0)
        buf_add(&c->in, p, len);
}

static void on_readable(struct upstream *u, struct conn *c)
{
    static char in[262144];
    size_t have = c->in.len;
    ssize_t n;

    memcpy(in, c->in.base != NULL ? c->in.base : "", have);
    buf_clear(&c->in);
    n = read(c->fd, in + have, sizeof(in) - have);
    if (n > 0)
        on_bytes(u, c, in, have + (size_t)n);
    else if (n == 0 || errno != EAGAIN)
        conn_close(u, c);
    else
        buf_add(&c->in, in, have);
}

static void on_accept(struct upstream *u)
{
    int fd, one = 1;

    while ((fd = accept4(u->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct conn *c = calloc(1, sizeof(*c));
        struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};

        must(c != NULL);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* as uvicorn and Node do */
        c->fd = fd;
        list_init(&c->slot);
        if (epoll_ctl(u->ep, EPOLL_CTL_ADD, fd, &ev) != 0)
            net_die("epoll_ctl");
    }
}

static void upstream_init(struct upstream *u, uint16_t port, size_t answer, size_t event,
                          uint64_t rate, uint64_t tick_us)
{
    struct epoll_event listening = {.events = EPOLLIN, .data.ptr = &u->listener};
    struct epoll_event ticking = {.events = EPOLLIN, .data.ptr = &u->ticker};
    static const char models[] =
        "{\"object\":\"list\",\"data\":[{\"id\":\"sim\",\"object\":\"model\","
        "\"created\":1700000000,\"owned_by\":\"bench\"}]}";

    completion_make(&u->answer, answer);
    answer_make(&u->models, "application/json", models, sizeof(models) - 1);
    answer_make(&u->ok, "text/plain", "", 0);
    buf_adds(&u->head, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                       "Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n");
    event_make(u, event);
    u->slots = (size_t)(1000000 / rate / tick_us);
    u->slots = u->slots != 0 ? u->slots : 1;
    u->wheel = calloc(u->slots, sizeof(*u->wheel));
    must(u->wheel != NULL);
    for (size_t i = 0; i < u->slots; i++)
        list_init(&u->wheel[i]);
    list_init(&u->dead);
    u->listener = net_listen(port);
    u->ticker = net_ticker(1000000000 / rate / u->slots);
    u->ep = epoll_create1(EPOLL_CLOEXEC);
    if (u->ep < 0 || epoll_ctl(u->ep, EPOLL_CTL_ADD, u->listener, &listening) != 0 ||
        epoll_ctl(u->ep, EPOLL_CTL_ADD, u->ticker, &ticking) != 0)
        net_die("epoll");
}

static void upstream_turn(struct upstream *u)
{
    struct epoll_event ev[EVENTS_PER_TURN];
    struct list *at;
    int n = epoll_wait(u->ep, ev, EVENTS_PER_TURN, -1);

    for (int i = 0; i < n; i++) {
        if (ev[i].data.ptr == &u->listener)
            on_accept(u);
        else if (ev[i].data.ptr == &u->ticker)
            on_tick(u);
        else if (((struct conn *)ev[i].data.ptr)->fd >= 0)
            on_readable(u, ev[i].data.ptr);
    }
    while ((at = list_take(&u->dead)) != NULL)
        conn_free(container_of(at, struct conn, gone));
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"port", required_argument, NULL, 'p'},
                                            {"answer-bytes", required_argument, NULL, 'a'},
                                            {"event-bytes", required_argument, NULL, 'e'},
                                            {"rate", required_argument, NULL, 'r'},
                                            {"tick-us", required_argument, NULL, 't'},
                                            {0}};
    static struct upstream u;
    uint64_t port = 0, answer = 1024, event = 200, rate = 50, tick_us = 1000;
    int o;

    while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (o == 'p')
            port = net_number("--port", optarg, 1, 65535);
        else if (o == 'a')
            answer = net_number("--answer-bytes", optarg, 1, 60000);
        else if (o == 'e')
            event = net_number("--event-bytes", optarg, 1, 60000);
        else if (o == 'r')
            rate = net_number("--rate", optarg, 1, 10000);
        else if (o == 't')
            tick_us = net_number("--tick-us", optarg, 10, 1000000);
        else
            return 2;
    }
    if (port == 0) {
        fprintf(stderr, "usage: bench_upstream --port P [--answer-bytes N] [--event-bytes N] "
                        "[--rate EVENTS_PER_SECOND] [--tick-us N]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    net_raise_limit();
    upstream_init(&u, (uint16_t)port, answer, event, rate, tick_us);
    for (;;)
        upstream_turn(&u);
}
