/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The work of bench_polls against Redis: readers blocked in BLPOP, each with a list and a
 * connection of its own, and RPUSH at --rate over a few further connections.
 *
 * Prints "begin" when the measured window opens and one JSON object when it closes.
 */
#include <getopt.h>
#include <hiredis.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "bench/load/net.h"
#include "bench/mailbox/mail.h"
#include "common/clock.h"
#include "common/must.h"

#define SENDERS 8u

struct conn {
    redisContext *redis;
    unsigned index;
    bool is_sender, is_busy;
};

struct readers {
    int ep;
    unsigned count, next_reader, next_sender;
    struct conn *all, senders[SENDERS];
    struct mail_arrivals arrivals;
    struct mail_window window;
    char payload[MAIL_BYTES];
};

static _Noreturn void redis_die(const char *what, const char *why)
{
    fprintf(stderr, "redis: %s: %s\n", what, why);
    exit(1);
}

static void conn_write(struct conn *c)
{
    int done = 0;

    while (done == 0)
        if (redisBufferWrite(c->redis, &done) != REDIS_OK)
            redis_die("write", c->redis->errstr);
}

static void reader_ask(struct conn *c)
{
    char key[24];
    int len = snprintf(key, sizeof(key), "list:%u", c->index);
    const char *v[] = {"BLPOP", key, "0"};
    const size_t n[] = {5, (size_t)len, 1};

    redisAppendCommandArgv(c->redis, 3, v, n);
    conn_write(c);
}

static void sender_push(struct readers *s, struct conn *c)
{
    char key[24];
    int len = snprintf(key, sizeof(key), "list:%u", s->next_reader++ % s->count);
    const char *v[] = {"RPUSH", key, s->payload};
    const size_t n[] = {5, (size_t)len, MAIL_BYTES};

    mail_mark(s->payload, clock_ns());
    redisAppendCommandArgv(c->redis, 3, v, n);
    c->is_busy = true;
    conn_write(c);
}

static void on_answer(struct readers *s, struct conn *c, const redisReply *r)
{
    uint64_t now = clock_ns(), sent;

    if (r->type == REDIS_REPLY_ERROR)
        redis_die("answer", r->str);
    if (c->is_sender) {
        c->is_busy = false;
        return;
    }
    if (r->type != REDIS_REPLY_ARRAY || r->elements != 2 || r->element[1]->len != MAIL_BYTES)
        s->window.errors++;
    else if (mail_find_mark(r->element[1]->str, r->element[1]->len, &sent))
        mail_window_add(&s->window, sent, now);
    reader_ask(c);
}

static void on_readable(struct readers *s, struct conn *c)
{
    void *r;

    if (redisBufferRead(c->redis) != REDIS_OK)
        redis_die("read", c->redis->errstr);
    while (redisGetReplyFromReader(c->redis, &r) == REDIS_OK && r != NULL) {
        on_answer(s, c, r);
        freeReplyObject(r);
    }
}

static void on_due(struct readers *s)
{
    unsigned due = mail_arrivals_take(&s->arrivals, clock_ns());

    for (; due > 0; due--) {
        unsigned tried = 0;
        struct conn *c;

        do
            c = &s->senders[s->next_sender++ % SENDERS];
        while (c->is_busy && ++tried < SENDERS);
        if (tried < SENDERS)
            sender_push(s, c);
        else
            s->window.errors++;
    }
}

static void conn_open(struct readers *s, struct conn *c, uint16_t port)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};

    c->redis = redisConnect("127.0.0.1", port);
    if (c->redis == NULL || c->redis->err != 0)
        redis_die("connect", c->redis != NULL ? c->redis->errstr : "no memory");
    if (epoll_ctl(s->ep, EPOLL_CTL_ADD, c->redis->fd, &ev) != 0)
        net_die("epoll_ctl");
}

static void readers_start(struct readers *s, uint16_t port, uint64_t rate)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = &s->arrivals};

    s->all = calloc(s->count, sizeof(*s->all));
    must(s->all != NULL);
    s->ep = epoll_create1(EPOLL_CLOEXEC);
    mail_payload(s->payload, 1);
    for (unsigned i = 0; i < s->count; i++) {
        s->all[i].index = i;
        conn_open(s, &s->all[i], port);
        reader_ask(&s->all[i]);
    }
    for (unsigned i = 0; i < SENDERS; i++) {
        s->senders[i].is_sender = true;
        conn_open(s, &s->senders[i], port);
    }
    mail_arrivals_start(&s->arrivals, rate, clock_ns());
    if (epoll_ctl(s->ep, EPOLL_CTL_ADD, s->arrivals.fd, &ev) != 0)
        net_die("epoll_ctl");
    mail_window_start(&s->window, clock_ns());
}

static const struct option options[] = {MAIL_WINDOW_OPTIONS,
                                        {"port", required_argument, NULL, 'p'},
                                        {"readers", required_argument, NULL, 'n'},
                                        {"rate", required_argument, NULL, 'r'},
                                        {0}};

int main(int argc, char **argv)
{
    static struct readers s = {.count = 64};
    uint64_t rate = 1000;
    uint16_t port = 0;
    int o;

    s.window.warm_ns = 2 * NS_PER_S;
    s.window.length_ns = 5 * NS_PER_S;
    while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (o == 'p')
            port = (uint16_t)net_number("--port", optarg, 1, 65535);
        else if (o == 'n')
            s.count = (unsigned)net_number("--readers", optarg, 1, 100000);
        else if (o == 'r')
            rate = net_number("--rate", optarg, 1, 1000000);
        else if (!mail_window_option(&s.window, o, optarg))
            return 2;
    }
    if (port == 0) {
        fprintf(stderr, "usage: bench_blpop --port P [--readers N] [--rate R] [--warm-ms N] "
                        "[--duration-ms N]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    net_raise_limit();
    readers_start(&s, port, rate);
    must(s.all != NULL);
    while (!s.window.done) {
        struct epoll_event ev[64];
        int n = epoll_wait(s.ep, ev, 64, 10);

        for (int i = 0; i < n; i++) {
            if (ev[i].data.ptr == &s.arrivals)
                on_due(&s);
            else
                on_readable(&s, ev[i].data.ptr);
        }
        mail_window_turn(&s.window, clock_ns());
    }
    mail_window_report(&s.window);
    for (unsigned i = 0; i < s.count; i++)
        redisFree(s.all[i].redis);
    for (unsigned i = 0; i < SENDERS; i++)
        redisFree(s.senders[i].redis);
    samples_fini(&s.window.times);
    free(s.all);
    return 0;
}
