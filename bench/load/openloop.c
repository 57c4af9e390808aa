/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sends requests at a fixed rate, whatever the answers do (open loop), or one after the other on
 * each connection (--rate 0), and prints latency percentiles.
 *
 * In the open loop a request's time runs from the instant it was due, so a server that stalls is
 * charged for everything that waited. "sent" counts from the write: how late this program itself
 * woke up is then left out, which matters where tens of microseconds are compared.
 *
 * Prints "begin" when the measured window opens and one JSON object when it closes.
 */
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include "bench/load/net.h"
#include "bench/load/samples.h"
#include "common/buf.h"
#include "common/clock.h"
#include "common/list.h"
#include "common/must.h"

#define DUE_MAX 65536
#define HEAD_ROOM 1024

struct conn {
    int fd;
    bool writable; /* epoll watches for room to write */
    size_t sent;   /* of head and body together */
    uint64_t due_ns, sent_ns;
    char head[HEAD_ROOM];
    size_t head_len;
    char in[16384];
    size_t in_len;
    size_t left; /* answer body bytes still to come; chunked answers count down none */
    bool in_body, chunked;
    struct list idle;
};

struct load {
    int ep, timer;
    uint16_t port;
    uint64_t interval_ns; /* 0: closed loop */
    bool poisson;
    uint64_t workflows, serial;
    uint64_t next_ns, begin_ns, end_ns;
    const char *path;
    struct buf body;
    struct conn *conns;
    size_t conn_count;
    struct list idle; /* connections without a request */
    uint64_t due[DUE_MAX];
    size_t due_first, due_count;
    bool measuring;
    struct samples latency, sent;
    unsigned long errors, dropped, answered;
    unsigned short random[3];
};

static void conn_watch(struct load *l, struct conn *c, bool writable)
{
    struct epoll_event ev = {.events = EPOLLIN | (writable ? EPOLLOUT : 0), .data.ptr = c};

    if (c->writable == writable)
        return;
    c->writable = writable;
    if (epoll_ctl(l->ep, EPOLL_CTL_MOD, c->fd, &ev) != 0)
        net_die("epoll_ctl");
}

static void conn_open(struct load *l, struct conn *c)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};

    c->fd = net_dial(l->port);
    c->writable = false;
    if (epoll_ctl(l->ep, EPOLL_CTL_ADD, c->fd, &ev) != 0)
        net_die("epoll_ctl");
}

static void conn_write(struct load *l, struct conn *c)
{
    for (;;) {
        struct iovec v[2];
        int n = 0;
        ssize_t got;

        if (c->sent < c->head_len)
            v[n++] = (struct iovec){c->head + c->sent, c->head_len - c->sent};
        if (c->sent < c->head_len + l->body.len) {
            size_t at = c->sent > c->head_len ? c->sent - c->head_len : 0;

            v[n++] = (struct iovec){l->body.base + at, l->body.len - at};
        }
        if (n == 0)
            break;
        got = writev(c->fd, v, n);
        if (got < 0 && (errno == EAGAIN || errno == ENOTCONN)) {
            conn_watch(l, c, true);
            return;
        }
        if (got < 0)
            return; /* the read side sees the end */
        c->sent += (size_t)got;
    }
    conn_watch(l, c, false);
}

static void request_send(struct load *l, struct conn *c, uint64_t due_ns)
{
    int n = snprintf(c->head, sizeof(c->head),
                     "POST %s HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
                     "Content-Length: %zu\r\n",
                     l->path, l->body.len);

    if (l->workflows != 0)
        n += snprintf(c->head + n, sizeof(c->head) - (size_t)n,
                      "X-Workflow-ID: wf-%08llu\r\nX-Agent-ID: agent-0\r\n",
                      (unsigned long long)(l->serial++ % l->workflows));
    n += snprintf(c->head + n, sizeof(c->head) - (size_t)n, "\r\n");
    c->head_len = (size_t)n;
    c->sent = 0;
    c->in_len = 0;
    c->in_body = false;
    c->due_ns = due_ns;
    list_remove(&c->idle);
    c->sent_ns = clock_ns();
    conn_write(l, c);
}

/* A connection came free: the oldest request that is due takes it. */
static void conn_free(struct load *l, struct conn *c)
{
    list_push(&l->idle, &c->idle);
    if (l->interval_ns == 0) {
        request_send(l, c, clock_ns());
    } else if (l->due_count > 0) {
        uint64_t due = l->due[l->due_first];

        l->due_first = (l->due_first + 1) % DUE_MAX;
        l->due_count--;
        request_send(l, c, due);
    }
}

static void conn_fail(struct load *l, struct conn *c)
{
    if (l->measuring)
        l->errors++;
    close(c->fd);
    conn_open(l, c);
    if (list_is_empty(&c->idle))
        conn_free(l, c);
}

static void on_answer(struct load *l, struct conn *c)
{
    uint64_t now = clock_ns();

    if (l->measuring && c->sent_ns >= l->begin_ns) {
        l->answered++;
        samples_add(&l->latency, now - c->due_ns);
        samples_add(&l->sent, now - c->sent_ns);
        l->errors += memcmp(c->in, "HTTP/1.1 200", 12) != 0;
    }
    conn_free(l, c);
}

/* Whether the bytes from at on complete the answer. */
static bool body_take(struct conn *c, size_t at)
{
    size_t n = c->in_len - at;

    if (c->chunked)
        return c->in_len >= 5 && memcmp(c->in + c->in_len - 5, "0\r\n\r\n", 5) == 0;
    c->left -= n < c->left ? n : c->left;
    return c->left == 0;
}

static bool answer_take(struct conn *c, size_t at)
{
    const char *end, *v;
    size_t head;

    if (c->in_body)
        return body_take(c, at);
    end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
    if (end == NULL)
        return false;
    head = (size_t)(end - c->in) + 4;
    v = net_header(c->in, head, "Content-Length");
    c->chunked = v == NULL;
    c->left = v != NULL ? strtoul(v, NULL, 10) : 0;
    c->in_body = true;
    return body_take(c, head);
}

static void on_readable(struct load *l, struct conn *c)
{
    size_t room = sizeof(c->in) - c->in_len;
    ssize_t n;

    if (room < 1024) { /* keep the first line for its status and the end for the last chunk */
        memmove(c->in + 512, c->in + c->in_len - 512, 512);
        c->in_len = 1024;
        room = sizeof(c->in) - c->in_len;
    }
    n = read(c->fd, c->in + c->in_len, room);
    if (n > 0) {
        size_t at = c->in_len;

        c->in_len += (size_t)n;
        if (answer_take(c, at))
            on_answer(l, c);
    } else if (n == 0 || errno != EAGAIN) {
        conn_fail(l, c);
    }
}

static void timer_set(struct load *l, uint64_t at_ns)
{
    struct itimerspec spec = {
        .it_value = {.tv_sec = (time_t)(at_ns / NS_PER_S), .tv_nsec = (long)(at_ns % NS_PER_S)}};

    if (timerfd_settime(l->timer, TFD_TIMER_ABSTIME, &spec, NULL) != 0)
        net_die("timerfd_settime");
}

static void on_due(struct load *l)
{
    uint64_t now = clock_ns();

    (void)net_ticks(l->timer);
    while (l->interval_ns != 0 && l->next_ns <= now) {
        struct list *idle = list_first(&l->idle);

        if (idle != NULL) {
            request_send(l, container_of(idle, struct conn, idle), l->next_ns);
        } else if (l->due_count < DUE_MAX) {
            l->due[(l->due_first + l->due_count++) % DUE_MAX] = l->next_ns;
        } else {
            l->dropped++;
        }
        l->next_ns += l->poisson ? (uint64_t)(-log(1 - erand48(l->random)) * (double)l->interval_ns)
                                 : l->interval_ns;
    }
}

static void report(struct load *l)
{
    double seconds = (double)(l->end_ns - l->begin_ns) / 1e9;

    samples_sort(&l->latency);
    samples_sort(&l->sent);
    printf("{\"answered\":%lu,\"errors\":%lu,\"dropped\":%lu,\"waiting\":%zu,\"rate\":%.1f,"
           "\"p50_us\":%.1f,\"p90_us\":%.1f,\"p99_us\":%.1f,\"max_us\":%.1f,"
           "\"sent_p50_us\":%.1f,\"sent_p99_us\":%.1f}\n",
           l->answered, l->errors, l->dropped, l->due_count, (double)l->answered / seconds,
           samples_us(&l->latency, 0.5), samples_us(&l->latency, 0.9),
           samples_us(&l->latency, 0.99), samples_us(&l->latency, 1), samples_us(&l->sent, 0.5),
           samples_us(&l->sent, 0.99));
    fflush(stdout);
}

static void load_run(struct load *l)
{
    while (clock_ns() < l->end_ns) {
        struct epoll_event ev[256];
        int n;

        if (l->interval_ns != 0)
            timer_set(l, l->next_ns);
        n = epoll_wait(l->ep, ev, 256, 100);
        for (int i = 0; i < n; i++) {
            if (ev[i].data.ptr == NULL) {
                on_due(l);
            } else {
                struct conn *c = ev[i].data.ptr;

                if ((ev[i].events & EPOLLOUT) != 0)
                    conn_write(l, c);
                if ((ev[i].events & ~(uint32_t)EPOLLOUT) != 0)
                    on_readable(l, c);
            }
        }
        if (!l->measuring && clock_ns() >= l->begin_ns) {
            l->measuring = true;
            puts("begin");
            fflush(stdout);
        }
    }
}

static void load_start(struct load *l, double warm, double seconds)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};

    l->ep = epoll_create1(EPOLL_CLOEXEC);
    l->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (l->ep < 0 || l->timer < 0 || epoll_ctl(l->ep, EPOLL_CTL_ADD, l->timer, &ev) != 0)
        net_die("epoll");
    list_init(&l->idle);
    l->next_ns = clock_ns();
    l->begin_ns = l->next_ns + (uint64_t)(warm * 1e9);
    l->end_ns = l->begin_ns + (uint64_t)(seconds * 1e9);
    l->conns = calloc(l->conn_count, sizeof(*l->conns));
    must(l->conns != NULL);
    for (size_t i = 0; i < l->conn_count; i++) {
        list_init(&l->conns[i].idle);
        conn_open(l, &l->conns[i]);
        conn_free(l, &l->conns[i]);
    }
}

static const struct option options[] = {
    {"port", required_argument, NULL, 'p'},      {"rate", required_argument, NULL, 'r'},
    {"poisson", no_argument, NULL, 'P'},         {"connections", required_argument, NULL, 'c'},
    {"warm-ms", required_argument, NULL, 'w'},   {"duration-ms", required_argument, NULL, 'd'},
    {"workflows", required_argument, NULL, 'W'}, {"body", required_argument, NULL, 'b'},
    {"path", required_argument, NULL, 'u'},      {0}};

int main(int argc, char **argv)
{
    static struct load l = {.path = "/v1/chat/completions", .conn_count = 64, .random = {1, 2, 3}};
    uint64_t rate = 1000, warm_ms = 1000, duration_ms = 5000;
    int o;

    while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (o == 'p')
            l.port = (uint16_t)net_number("--port", optarg, 1, 65535);
        else if (o == 'r')
            rate = net_number("--rate", optarg, 0, 1000000);
        else if (o == 'P')
            l.poisson = true;
        else if (o == 'c')
            l.conn_count = net_number("--connections", optarg, 1, 100000);
        else if (o == 'w')
            warm_ms = net_number("--warm-ms", optarg, 0, 600000);
        else if (o == 'd')
            duration_ms = net_number("--duration-ms", optarg, 1, 3600000);
        else if (o == 'W')
            l.workflows = net_number("--workflows", optarg, 0, 99999999);
        else if (o == 'b')
            net_read_file(optarg, &l.body);
        else if (o == 'u')
            l.path = optarg;
        else
            return 2;
    }
    if (l.port == 0 || l.body.len == 0) {
        fprintf(stderr, "usage: bench_openloop --port P --body FILE [--rate N] [--poisson] "
                        "[--connections N] [--warm-ms N] [--duration-ms N] [--workflows N] "
                        "[--path PATH]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    net_raise_limit();
    l.interval_ns = rate != 0 ? NS_PER_S / rate : 0;
    load_start(&l, (double)warm_ms / 1e3, (double)duration_ms / 1e3);
    load_run(&l);
    report(&l);
    return 0;
}
