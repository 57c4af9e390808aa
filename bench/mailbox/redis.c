/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The work of bench_callers against Redis Streams: XADD, XREADGROUP, XACK and XDEL, each agent with
 * a stream, a group and a connection of its own and one command outstanding (XACK and XDEL travel
 * together). With --pipeline one connection carries what all agents have to say at once.
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

#define KEY_BYTES 24
#define ID_BYTES 48

enum step { STEP_ADD, STEP_READ, STEP_ACK, STEP_DELETE };

struct agent {
    redisContext *redis;
    enum step step;
    uint64_t since;
    char key[KEY_BYTES];
    char id[ID_BYTES];
    char payload[MAIL_BYTES];
};

struct agents {
    struct mail_window window;
    struct agent *all;
    unsigned count;
    bool pipeline;
};

static _Noreturn void redis_die(const char *what, const char *why)
{
    fprintf(stderr, "redis: %s: %s\n", what, why);
    exit(1);
}

/* ---- commands ---- */

static void say_add(redisContext *r, const struct agent *a)
{
    const char *v[] = {"XADD", a->key, "*", "p", a->payload};
    const size_t n[] = {4, strlen(a->key), 1, 1, MAIL_BYTES};

    redisAppendCommandArgv(r, 5, v, n);
}

static void say_read(redisContext *r, const struct agent *a)
{
    const char *v[] = {"XREADGROUP", "GROUP", "g", "c", "COUNT", "1", "STREAMS", a->key, ">"};
    const size_t n[] = {10, 5, 1, 1, 5, 1, 7, strlen(a->key), 1};

    redisAppendCommandArgv(r, 9, v, n);
}

static void say_done(redisContext *r, const struct agent *a)
{
    const char *ack[] = {"XACK", a->key, "g", a->id}, *del[] = {"XDEL", a->key, a->id};
    const size_t ack_n[] = {4, strlen(a->key), 1, strlen(a->id)};
    const size_t del_n[] = {4, strlen(a->key), strlen(a->id)};

    redisAppendCommandArgv(r, 4, ack, ack_n);
    redisAppendCommandArgv(r, 3, del, del_n);
}

static void send_all(redisContext *r)
{
    int done = 0;

    while (done == 0)
        if (redisBufferWrite(r, &done) != REDIS_OK)
            redis_die("write", r->errstr);
}

/* ---- answers ---- */

static const redisReply *element(const redisReply *r, size_t i)
{
    return r != NULL && r->type == REDIS_REPLY_ARRAY && r->elements > i ? r->element[i] : NULL;
}

/* [[key, [[id, ["p", payload]]]]] */
static bool take_read(struct agent *a, const redisReply *r)
{
    const redisReply *entry = element(element(element(r, 0), 1), 0);
    const redisReply *id = element(entry, 0), *payload = element(element(entry, 1), 1);

    if (id == NULL || payload == NULL || id->len >= ID_BYTES || payload->len != MAIL_BYTES)
        return false;
    memcpy(a->id, id->str, id->len + 1);
    return true;
}

/* What an agent makes of an answer to its step. False: not what it should be. */
static bool take(struct agent *a, const redisReply *r)
{
    switch (a->step) {
    case STEP_ADD:
        return r->type == REDIS_REPLY_STRING;
    case STEP_READ:
        return take_read(a, r);
    case STEP_ACK:
    case STEP_DELETE:
        break;
    }
    return r->type == REDIS_REPLY_INTEGER && r->integer == 1;
}

static void agent_begin(struct agent *a)
{
    a->step = STEP_ADD;
    a->since = clock_ns();
    say_add(a->redis, a);
    send_all(a->redis);
}

static void agent_take(struct agents *s, struct agent *a, const redisReply *r)
{
    uint64_t now;

    if (!take(a, r))
        redis_die("unexpected answer", r->str != NULL ? r->str : "");
    switch (a->step) {
    case STEP_ADD:
        a->step = STEP_READ;
        say_read(a->redis, a);
        send_all(a->redis);
        return;
    case STEP_READ:
        a->step = STEP_ACK;
        say_done(a->redis, a);
        send_all(a->redis);
        return;
    case STEP_ACK:
        a->step = STEP_DELETE;
        return;
    case STEP_DELETE:
        break;
    }
    now = clock_ns();
    mail_window_turn(&s->window, now);
    mail_window_add(&s->window, a->since, now);
    if (!s->window.done)
        agent_begin(a);
}

static void on_readable(struct agents *s, struct agent *a)
{
    void *r;

    if (redisBufferRead(a->redis) != REDIS_OK)
        redis_die("read", a->redis->errstr);
    while (redisGetReplyFromReader(a->redis, &r) == REDIS_OK && r != NULL) {
        agent_take(s, a, r);
        freeReplyObject(r);
    }
}

/* ---- one command outstanding per connection ---- */

static void run_apart(struct agents *s)
{
    int ep = epoll_create1(EPOLL_CLOEXEC);

    must(s->all != NULL);
    for (unsigned i = 0; i < s->count; i++) {
        struct epoll_event ev = {.events = EPOLLIN, .data.ptr = &s->all[i]};

        if (epoll_ctl(ep, EPOLL_CTL_ADD, s->all[i].redis->fd, &ev) != 0)
            net_die("epoll_ctl");
        agent_begin(&s->all[i]);
    }
    while (!s->window.done) {
        struct epoll_event ev[64];
        int n = epoll_wait(ep, ev, 64, 100);

        for (int i = 0; i < n; i++)
            on_readable(s, ev[i].data.ptr);
    }
}

/* ---- one connection for all ---- */

static void round_take(struct agents *s, redisContext *redis, struct agent *a)
{
    void *r;

    if (redisGetReply(redis, &r) != REDIS_OK)
        redis_die("read", redis->errstr);
    if (!take(a, r))
        redis_die("unexpected answer", ((redisReply *)r)->str);
    freeReplyObject(r);
    if (a->step == STEP_DELETE)
        mail_window_add(&s->window, a->since, clock_ns());
}

static void run_pipeline(struct agents *s)
{
    redisContext *r = s->all[0].redis;
    unsigned i;

    while (!s->window.done) {
        for (i = 0; i < s->count; i++) {
            s->all[i].since = clock_ns();
            say_add(r, &s->all[i]);
        }
        for (i = 0; i < s->count; i++) {
            s->all[i].step = STEP_ADD;
            round_take(s, r, &s->all[i]);
        }
        for (i = 0; i < s->count; i++)
            say_read(r, &s->all[i]);
        for (i = 0; i < s->count; i++) {
            s->all[i].step = STEP_READ;
            round_take(s, r, &s->all[i]);
        }
        for (i = 0; i < s->count; i++)
            say_done(r, &s->all[i]);
        for (i = 0; i < s->count; i++) {
            s->all[i].step = STEP_ACK;
            round_take(s, r, &s->all[i]);
            s->all[i].step = STEP_DELETE;
            round_take(s, r, &s->all[i]);
        }
        mail_window_turn(&s->window, clock_ns());
    }
}

/* ---- start ---- */

static void agents_start(struct agents *s, const char *path)
{
    s->all = calloc(s->count, sizeof(*s->all));
    must(s->all != NULL);
    for (unsigned i = 0; i < s->count; i++) {
        struct agent *a = &s->all[i];
        redisReply *r;

        snprintf(a->key, sizeof(a->key), "box:%u", i);
        mail_payload(a->payload, i);
        a->redis = redisConnectUnix(path);
        if (a->redis == NULL || a->redis->err != 0)
            redis_die(path, a->redis != NULL ? a->redis->errstr : "no memory");
        r = redisCommand(a->redis, "DEL %s", a->key);
        freeReplyObject(r);
        r = redisCommand(a->redis, "XGROUP CREATE %s g $ MKSTREAM", a->key);
        if (r == NULL || r->type == REDIS_REPLY_ERROR)
            redis_die("XGROUP", r != NULL ? r->str : a->redis->errstr);
        freeReplyObject(r);
    }
}

static const struct option options[] = {MAIL_WINDOW_OPTIONS,
                                        {"socket", required_argument, NULL, 's'},
                                        {"agents", required_argument, NULL, 'n'},
                                        {"pipeline", no_argument, NULL, 'p'},
                                        {0}};

int main(int argc, char **argv)
{
    static struct agents s = {.count = 64};
    const char *path = NULL;
    int o;

    s.window.warm_ns = NS_PER_S;
    s.window.length_ns = 5 * NS_PER_S;
    while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (o == 's')
            path = optarg;
        else if (o == 'n')
            s.count = (unsigned)net_number("--agents", optarg, 1, 8000);
        else if (o == 'p')
            s.pipeline = true;
        else if (!mail_window_option(&s.window, o, optarg))
            return 2;
    }
    if (path == NULL) {
        fprintf(stderr, "usage: bench_redis --socket PATH [--agents N] [--pipeline] [--warm-ms N] "
                        "[--duration-ms N]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    agents_start(&s, path);
    mail_window_start(&s.window, clock_ns());
    if (s.pipeline)
        run_pipeline(&s);
    else
        run_apart(&s);
    mail_window_report(&s.window);
    for (unsigned i = 0; i < s.count; i++)
        redisFree(s.all[i].redis);
    samples_fini(&s.window.times);
    free(s.all);
    return 0;
}
