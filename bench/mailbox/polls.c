/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Readers with a long poll each, parked at the gateway, and messages that come for one after the
 * other at --rate. Prints how long a message took from the write of its POST until its reader had
 * the complete answer. With --rate 0 the readers only park.
 *
 * Prints "begin" when every reader has asked and the window opens, and one JSON object when it
 * closes. The readers then stay until standard input ends, so that memory can be looked at.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench/load/net.h"
#include "bench/mailbox/mail.h"
#include "common/buf.h"
#include "common/clock.h"
#include "common/must.h"

#define SENDERS 8u
#define DIALS_PER_MS 4u

struct conn {
    unsigned index;
    int fd;
    bool dialled; /* its connect is through */
    bool is_sender, is_busy;
    char *in; /* an answer that did not come at once; NULL: none */
    size_t in_len;
};

struct polls {
    int ep, ramp;
    uint16_t port;
    unsigned first, count, agents, dialled, asked;
    unsigned next_reader, next_sender;
    uint64_t rate;
    unsigned wait_s;
    struct conn *readers, senders[SENDERS];
    struct mail_arrivals arrivals;
    struct mail_window window;
    unsigned long lost, late; /* connections; messages that found every sender busy */
    bool over;
    char payload[MAIL_BYTES];
};

#define IN_BYTES 8192u

static void conn_open(struct polls *s, struct conn *c)
{
    struct epoll_event ev = {.events = EPOLLOUT, .data.ptr = c};

    c->fd = net_dial(s->port);
    if (epoll_ctl(s->ep, EPOLL_CTL_ADD, c->fd, &ev) != 0)
        net_die("epoll_ctl");
}

static void conn_lost(struct polls *s, struct conn *c)
{
    s->lost++;
    close(c->fd);
    c->fd = -1;
}

static void conn_write(struct polls *s, struct conn *c, const struct buf *b)
{
    if (send(c->fd, b->base, b->len, MSG_NOSIGNAL) != (ssize_t)b->len)
        conn_lost(s, c);
}

static void reader_ask(struct polls *s, struct conn *c)
{
    static struct buf b;
    unsigned n = s->first + c->index;

    buf_clear(&b);
    buf_addf(&b,
             "GET /v1/workflows/wf-%08u/agents/agent-%u/messages?max=1&wait=%u HTTP/1.1\r\n"
             "Host: bench\r\n\r\n",
             n / s->agents + 1, n % s->agents, s->wait_s);
    conn_write(s, c, &b);
}

/* The reader's turn is its place in the row: every message finds one that has long been parked. */
static void sender_post(struct polls *s, struct conn *c)
{
    static struct buf b;
    unsigned n = s->first + s->next_reader++ % s->count;
    char head[160];
    int len = snprintf(head, sizeof(head),
                       "{\"source_agent\":\"agent-x\",\"target_agent\":\"agent-%u\","
                       "\"message_type\":\"task\",\"payload\":",
                       n % s->agents);

    buf_clear(&b);
    buf_addf(&b,
             "POST /v1/workflows/wf-%08u/messages HTTP/1.1\r\nHost: bench\r\n"
             "Content-Type: application/json\r\nContent-Length: %u\r\n\r\n%s",
             n / s->agents + 1, (unsigned)len + MAIL_BYTES + 1, head);
    mail_mark(s->payload, clock_ns());
    buf_add(&b, s->payload, MAIL_BYTES);
    buf_adds(&b, "}");
    c->is_busy = true;
    conn_write(s, c, &b);
}

/* ---- answers ---- */

/* Length of a complete answer, 0 while it is not. */
static size_t answer_length(const char *p, size_t len)
{
    const char *end = memmem(p, len, "\r\n\r\n", 4), *v;
    size_t head;

    if (end == NULL)
        return 0;
    head = (size_t)(end - p) + 4;
    v = net_header(p, head, "Content-Length");
    head += v != NULL ? strtoul(v, NULL, 10) : 0;
    return len >= head ? head : 0;
}

static void on_answer(struct polls *s, struct conn *c, const char *p, size_t len)
{
    uint64_t now = clock_ns(), sent;

    if (memcmp(p, "HTTP/1.1 20", 11) != 0)
        s->window.errors++;
    if (c->is_sender) {
        c->is_busy = false;
        return;
    }
    if (mail_find_mark(p, len, &sent))
        mail_window_add(&s->window, sent, now);
    reader_ask(s, c);
}

static void on_readable(struct polls *s, struct conn *c)
{
    static char fresh[IN_BYTES];
    char *in = c->in != NULL ? c->in : fresh;
    ssize_t n = read(c->fd, in + c->in_len, IN_BYTES - c->in_len);

    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        conn_lost(s, c);
        return;
    }
    c->in_len += (size_t)n;
    if (answer_length(in, c->in_len) != 0) {
        size_t len = c->in_len;

        c->in_len = 0;
        on_answer(s, c, in, len);
        free(c->in);
        c->in = NULL;
    } else if (c->in == NULL) {
        c->in = malloc(IN_BYTES);
        must(c->in != NULL);
        memcpy(c->in, fresh, c->in_len);
    }
}

static void on_dialled(struct polls *s, struct conn *c)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};

    c->dialled = true;
    if (epoll_ctl(s->ep, EPOLL_CTL_MOD, c->fd, &ev) != 0)
        net_die("epoll_ctl");
    if (c->is_sender)
        return;
    reader_ask(s, c);
    if (++s->asked == s->count)
        mail_window_start(&s->window, clock_ns());
}

/* ---- the loop ---- */

static void on_due(struct polls *s)
{
    unsigned due = mail_arrivals_take(&s->arrivals, clock_ns());

    for (; due > 0; due--) {
        unsigned tried = 0;
        struct conn *c;

        do
            c = &s->senders[s->next_sender++ % SENDERS];
        while ((c->is_busy || !c->dialled || c->fd < 0) && ++tried < SENDERS);
        if (tried < SENDERS)
            sender_post(s, c);
        else
            s->late++;
    }
}

static void on_ramp(struct polls *s)
{
    uint64_t due = net_ticks(s->ramp) * DIALS_PER_MS;

    must(s->readers != NULL);
    for (; due > 0 && s->dialled < s->count; due--, s->dialled++) {
        s->readers[s->dialled].index = s->dialled;
        conn_open(s, &s->readers[s->dialled]);
    }
    if (s->dialled == s->count)
        epoll_ctl(s->ep, EPOLL_CTL_DEL, s->ramp, NULL);
}

static void polls_turn(struct polls *s)
{
    struct epoll_event ev[256];
    int n = epoll_wait(s->ep, ev, 256, 10);
    bool was_done = s->window.done;

    for (int i = 0; i < n; i++) {
        struct conn *c = ev[i].data.ptr;

        if (ev[i].data.ptr == &s->arrivals)
            on_due(s);
        else if (ev[i].data.ptr == &s->ramp)
            on_ramp(s);
        else if (ev[i].data.ptr == &s->over)
            s->over = read(STDIN_FILENO, &(char){0}, 1) <= 0;
        else if (!c->dialled)
            on_dialled(s, c);
        else if (c->fd >= 0)
            on_readable(s, c);
    }
    mail_window_turn(&s->window, clock_ns());
    if (s->window.done && !was_done) {
        s->window.errors += s->lost + s->late;
        mail_window_report(&s->window);
        if (s->rate != 0)
            epoll_ctl(s->ep, EPOLL_CTL_DEL, s->arrivals.fd, NULL);
    }
}

static void watch(struct polls *s, int fd, void *what)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = what};

    if (epoll_ctl(s->ep, EPOLL_CTL_ADD, fd, &ev) != 0)
        net_die("epoll_ctl");
}

static void polls_start(struct polls *s)
{
    s->readers = calloc(s->count, sizeof(*s->readers));
    must(s->readers != NULL);
    s->ep = epoll_create1(EPOLL_CLOEXEC);
    s->ramp = net_ticker(NS_PER_MS);
    watch(s, s->ramp, &s->ramp);
    watch(s, STDIN_FILENO, &s->over);
    mail_payload(s->payload, 1);
    if (s->rate == 0)
        return;
    for (unsigned i = 0; i < SENDERS; i++) {
        s->senders[i].is_sender = true;
        conn_open(s, &s->senders[i]);
    }
    mail_arrivals_start(&s->arrivals, s->rate, clock_ns() + NS_PER_S);
    watch(s, s->arrivals.fd, &s->arrivals);
}

static const struct option options[] = {MAIL_WINDOW_OPTIONS,
                                        {"port", required_argument, NULL, 'p'},
                                        {"readers", required_argument, NULL, 'n'},
                                        {"first", required_argument, NULL, 'f'},
                                        {"agents", required_argument, NULL, 'a'},
                                        {"rate", required_argument, NULL, 'r'},
                                        {"wait", required_argument, NULL, 'W'},
                                        {0}};

int main(int argc, char **argv)
{
    static struct polls s = {.count = 64, .agents = 1, .rate = 1000, .wait_s = 60};
    int o;

    s.window.warm_ns = 2 * NS_PER_S;
    s.window.length_ns = 5 * NS_PER_S;
    while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (o == 'p')
            s.port = (uint16_t)net_number("--port", optarg, 1, 65535);
        else if (o == 'n')
            s.count = (unsigned)net_number("--readers", optarg, 1, 100000);
        else if (o == 'f')
            s.first = (unsigned)net_number("--first", optarg, 0, 100000);
        else if (o == 'a')
            s.agents = (unsigned)net_number("--agents", optarg, 1, 1000);
        else if (o == 'r')
            s.rate = net_number("--rate", optarg, 0, 1000000);
        else if (o == 'W')
            s.wait_s = (unsigned)net_number("--wait", optarg, 1, 60);
        else if (!mail_window_option(&s.window, o, optarg))
            return 2;
    }
    if (s.port == 0) {
        fprintf(stderr, "usage: bench_polls --port P [--readers N] [--first N] [--agents N] "
                        "[--rate R] [--wait S] [--warm-ms N] [--duration-ms N]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    net_raise_limit();
    polls_start(&s);
    while (!s.over)
        polls_turn(&s);
    samples_fini(&s.window.times);
    return 0;
}
