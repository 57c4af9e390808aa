/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads many event streams of bench_upstream at once and prints how many events arrived in a window
 * and how old they were: each carries the CLOCK_MONOTONIC time of its write as @ and 20 digits.
 *
 * Prints "begin" when every stream runs and the window opens, and one JSON object when it closes.
 * The streams then stay open until standard input ends, so that memory can be looked at.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench/load/net.h"
#include "bench/load/samples.h"
#include "common/buf.h"
#include "common/clock.h"
#include "common/must.h"

#define MARK 21   /* @ and 20 digits */
#define RAMP_MS 1 /* between two dials */

struct stream {
    int fd; /* -1: not dialled or ended */
    bool sent, running;
    size_t index, keep_len;
    char keep[MARK]; /* end of the last read, in case a mark was cut */
};

struct streams {
    int ep, ramp;
    uint16_t port;
    size_t count, dialled, running;
    uint64_t warm_ns, length_ns, begin_ns, end_ns;
    struct buf body;
    struct stream *all;
    bool measuring, done, over;
    struct samples delay;
    unsigned long ended;
};

static void stream_dial(struct streams *s)
{
    struct stream *t = &s->all[s->dialled];
    struct epoll_event ev = {.events = EPOLLOUT, .data.ptr = t};

    t->index = s->dialled++;
    t->fd = net_dial(s->port);
    if (epoll_ctl(s->ep, EPOLL_CTL_ADD, t->fd, &ev) != 0)
        net_die("epoll_ctl");
}

static void stream_send(struct streams *s, struct stream *t)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = t};
    struct buf b = {0};

    buf_addf(
        &b,
        "POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        "Content-Length: %zu\r\nX-Workflow-ID: wf-%08zu\r\nX-Agent-ID: agent-0\r\n\r\n",
        s->body.len, t->index);
    buf_add(&b, s->body.base, s->body.len);
    if (send(t->fd, b.base, b.len, MSG_NOSIGNAL) != (ssize_t)b.len)
        net_die("send");
    buf_fini(&b);
    t->sent = true;
    if (epoll_ctl(s->ep, EPOLL_CTL_MOD, t->fd, &ev) != 0)
        net_die("epoll_ctl");
}

static bool mark_read(const char *p, uint64_t *ns)
{
    uint64_t v = 0;

    for (int i = 1; i < MARK; i++) {
        if (p[i] < '0' || p[i] > '9')
            return false;
        v = v * 10 + (uint64_t)(p[i] - '0');
    }
    *ns = v;
    return true;
}

static void marks_take(struct streams *s, struct stream *t, const char *p, size_t len, uint64_t now)
{
    const char *end = p + len, *at;

    while ((at = memchr(p, '@', (size_t)(end - p))) != NULL) {
        uint64_t ns;

        if (end - at < MARK)
            break;
        p = at + 1;
        if (!mark_read(at, &ns))
            continue;
        s->running += !t->running;
        t->running = true;
        if (s->measuring && ns >= s->begin_ns)
            samples_add(&s->delay, now - ns);
    }
    t->keep_len = at != NULL ? (size_t)(end - at) : 0;
    if (at != NULL)
        memcpy(t->keep, at, t->keep_len);
}

static void on_readable(struct streams *s, struct stream *t)
{
    static char in[MARK + 65536];
    ssize_t n;

    memcpy(in, t->keep, t->keep_len);
    n = read(t->fd, in + t->keep_len, sizeof(in) - t->keep_len);
    if (n > 0) {
        marks_take(s, t, in, t->keep_len + (size_t)n, clock_ns());
    } else if (n == 0 || errno != EAGAIN) {
        s->ended++;
        close(t->fd);
        t->fd = -1;
    }
}

static void report(struct streams *s)
{
    samples_sort(&s->delay);
    printf("{\"streams\":%zu,\"running\":%zu,\"ended\":%lu,\"events\":%zu,\"seconds\":%.3f,"
           "\"p50_us\":%.1f,\"p99_us\":%.1f,\"max_us\":%.1f}\n",
           s->count, s->running, s->ended, s->delay.count, (double)s->length_ns / 1e9,
           samples_us(&s->delay, 0.5), samples_us(&s->delay, 0.99), samples_us(&s->delay, 1));
    fflush(stdout);
}

/* The window opens warm_ns after the last stream began, and closes length_ns later. */
static void window_step(struct streams *s)
{
    uint64_t now = clock_ns();

    if (s->begin_ns == 0 && s->running + s->ended >= s->count)
        s->begin_ns = now + s->warm_ns;
    if (s->begin_ns == 0 || now < s->begin_ns || s->done)
        return;
    if (!s->measuring) {
        s->measuring = true;
        s->begin_ns = now;
        s->end_ns = now + s->length_ns;
        puts("begin");
        fflush(stdout);
    } else if (now >= s->end_ns) {
        s->measuring = false;
        s->done = true;
        report(s);
    }
}

static void streams_turn(struct streams *s)
{
    struct epoll_event ev[256];
    int n = epoll_wait(s->ep, ev, 256, 10);

    for (int i = 0; i < n; i++) {
        struct stream *t = ev[i].data.ptr;

        if (ev[i].data.ptr == &s->ramp) {
            for (uint64_t k = net_ticks(s->ramp); k > 0 && s->dialled < s->count; k--)
                stream_dial(s);
        } else if (ev[i].data.ptr == &s->over) {
            char c;

            s->over = read(STDIN_FILENO, &c, 1) <= 0;
        } else if (!t->sent) {
            stream_send(s, t);
        } else if (t->fd >= 0) {
            on_readable(s, t);
        }
    }
    window_step(s);
}

static void streams_start(struct streams *s)
{
    struct epoll_event ramp = {.events = EPOLLIN, .data.ptr = &s->ramp};
    struct epoll_event over = {.events = EPOLLIN, .data.ptr = &s->over};

    s->all = calloc(s->count, sizeof(*s->all));
    must(s->all != NULL);
    for (size_t i = 0; i < s->count; i++)
        s->all[i].fd = -1;
    s->ep = epoll_create1(EPOLL_CLOEXEC);
    s->ramp = net_ticker(RAMP_MS * NS_PER_MS);
    if (s->ep < 0 || epoll_ctl(s->ep, EPOLL_CTL_ADD, s->ramp, &ramp) != 0 ||
        epoll_ctl(s->ep, EPOLL_CTL_ADD, STDIN_FILENO, &over) != 0)
        net_die("epoll");
}

static const struct option options[] = {
    {"port", required_argument, NULL, 'p'},    {"streams", required_argument, NULL, 'n'},
    {"warm-ms", required_argument, NULL, 'w'}, {"duration-ms", required_argument, NULL, 'd'},
    {"body", required_argument, NULL, 'b'},    {0}};

int main(int argc, char **argv)
{
    static struct streams s;
    uint64_t warm_ms = 1000, duration_ms = 5000;
    int o;

    while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (o == 'p')
            s.port = (uint16_t)net_number("--port", optarg, 1, 65535);
        else if (o == 'n')
            s.count = net_number("--streams", optarg, 1, 100000);
        else if (o == 'w')
            warm_ms = net_number("--warm-ms", optarg, 0, 600000);
        else if (o == 'd')
            duration_ms = net_number("--duration-ms", optarg, 1, 3600000);
        else if (o == 'b')
            net_read_file(optarg, &s.body);
        else
            return 2;
    }
    if (s.port == 0 || s.count == 0 || s.body.len == 0) {
        fprintf(stderr, "usage: bench_streams --port P --streams N --body FILE [--warm-ms N] "
                        "[--duration-ms N]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    net_raise_limit();
    s.warm_ns = warm_ms * NS_PER_MS;
    s.length_ns = duration_ms * NS_PER_MS;
    streams_start(&s);
    while (!s.over)
        streams_turn(&s);
    samples_fini(&s.delay);
    return 0;
}
