/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHEDULER_WORLD_H
#define SCHEDULER_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <arpa/inet.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/scheduler.pb-c.h"

#include "common/buf.h"
#include "common/clock.h"
#include "common/loop.h"
#include "common/metric.h"
#include "common/must.h"
#include "common/rpc.h"
#include "common/shm.h"
#include "common/shm_layout.h"
#include "common/snapshot.h"

/*
 * The real scheduler process, asked over both carriers; engines are threads that answer probes.
 * The program is $SLIP_BIN/slipstream-scheduler.
 */
#define ANY_MS 20000u
#define ENGINES 3u

enum {
    PLACE,
    REPORT,
    RESUME,
    ENGINES_LIST,
    GET,
    LIST,
    END,
    STATUS,
    AGENTS,
    NOTE,
    EXPLAIN,
    GET_POLICIES,
    SET_POLICY,
    NOTE_MAIL
};

typedef Slipstream__V1__Query query_msg;

/* ---- engines ---- */

struct engine {
    pthread_t thread;
    int fd, port;
    atomic_bool dead, stop;
};

static inline void engine_answer(const struct engine *e, int fd)
{
    static const char ok[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                      models[] = "HTTP/1.1 200 OK\r\nContent-Length: 27\r\n"
                                 "Connection: close\r\n\r\n{\"data\":[{\"id\":\"model-a\"}]}",
                      bad[] = "HTTP/1.1 503 no\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    char head[2048];
    ssize_t n = recv(fd, head, sizeof(head) - 1, 0);
    const char *say = ok;

    if (n <= 0)
        return;
    head[n] = '\0';
    if (strncmp(head, "GET /v1/models ", 15) == 0)
        say = models;
    if (atomic_load(&e->dead))
        say = bad;
    if (send(fd, say, strlen(say), MSG_NOSIGNAL) < 0)
        return;
}

static inline void *engine_run(void *arg)
{
    struct engine *e = arg;

    while (!atomic_load(&e->stop)) {
        struct pollfd p = {.fd = e->fd, .events = POLLIN};
        int fd;

        if (poll(&p, 1, 20) <= 0)
            continue;
        fd = accept(e->fd, NULL, NULL);
        if (fd < 0)
            continue;
        engine_answer(e, fd);
        close(fd);
    }
    close(e->fd);
    return NULL;
}

static inline void engine_start(struct engine *e)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);

    memset(e, 0, sizeof(*e));
    e->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(e->fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(e->fd, 64), 0);
    assert_int_equal(getsockname(e->fd, (struct sockaddr *)&a, &len), 0);
    e->port = ntohs(a.sin_port);
    assert_int_equal(pthread_create(&e->thread, NULL, engine_run, e), 0);
}

static inline void engine_stop(struct engine *e)
{
    atomic_store(&e->stop, true);
    pthread_join(e->thread, NULL);
}

/* ---- the world ---- */

static struct engine engines[ENGINES];
static char dir[64], url[160];
static pid_t scheduler;
static const char *channel;
static const char *engine_conf = ""; /* lines of every engine's item */
static double scale;

static inline void file_write(const char *name, const char *text)
{
    char path[120];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    f = fopen(path, "we");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static inline void conf_write(unsigned engine_count, const char *extra)
{
    char path[120];
    FILE *f;

    snprintf(path, sizeof(path), "%s/slipstream.yaml", dir);
    f = fopen(path, "we");
    assert_non_null(f);
    fprintf(f,
            "common:\n  run_dir: %s/run\n  channel: %s\n  time_scale: %g\n"
            "scheduler:\n  probe_interval_ms: 50\n%s"
            "keys:\n  - file: %s/key\n    tenant: acme\nengines:\n",
            dir, channel, scale, extra, dir);
    for (unsigned i = 0; i < engine_count; i++)
        fprintf(f, "  - id: e%u\n    url: http://127.0.0.1:%d\n%s", i, engines[i].port,
                engine_conf);
    fclose(f);
}

static inline pid_t scheduler_spawn(void)
{
    const char *bin = getenv("SLIP_BIN");
    char program[300], conf[120];
    pid_t pid;

    assert_non_null(bin);
    snprintf(program, sizeof(program), "%s/slipstream-scheduler", bin);
    snprintf(conf, sizeof(conf), "%s/slipstream.yaml", dir);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

        if (getenv("SLIP_VERBOSE") == NULL)
            dup2(null, 2);
        execl(program, program, "--config", conf, (char *)NULL);
        _exit(127);
    }
    return pid;
}

static inline int scheduler_end(int signo)
{
    int status;

    assert_int_equal(kill(scheduler, signo), 0);
    assert_int_equal(waitpid(scheduler, &status, 0), scheduler);
    return status;
}

/* ---- a client ---- */

struct link {
    struct loop *loop;
    struct rpc_client *client;
    unsigned ups, revokes, grants;
    struct { /* the last one */
        uint64_t handle;
        bool go;
        uint32_t err, waited_ms;
        char wait_reason[32];
    } grant;
    bool was_told; /* seed and engines in the hello */
    bool done;
    enum err status;
    struct buf body;
};

static inline void on_up(void *arg, uint64_t epoch, const uint8_t *info, size_t len)
{
    Slipstream__V1__SchedulerInfo *words = slipstream__v1__scheduler_info__unpack(NULL, len, info);
    struct link *l = arg;

    assert_true(epoch != 0);
    assert_non_null(words);
    l->was_told = words->digest_seed != 0 && words->engines != NULL;
    assert_true(l->was_told || words->engines == NULL);
    slipstream__v1__scheduler_info__free_unpacked(words, NULL);
    l->ups++;
}

static inline void on_down(void *arg, const char *reason)
{
    (void)arg;
    (void)reason;
}

static inline void on_event(void *arg, unsigned method, const uint8_t *body, size_t len)
{
    struct link *l = arg;
    Slipstream__V1__Decision *d;

    l->revokes += method == SLIPSTREAM__V1__SCHEDULER_EVENT__EVENT_REVOKE;
    if (method != SLIPSTREAM__V1__SCHEDULER_EVENT__EVENT_GRANT)
        return;
    d = slipstream__v1__decision__unpack(NULL, len, body);
    assert_non_null(d);
    l->grants++;
    l->grant.handle = d->handle;
    l->grant.go = d->kind == SLIPSTREAM__V1__DECISION_KIND__DECISION_GO;
    l->grant.err = d->err;
    l->grant.waited_ms = d->waited_ms;
    snprintf(l->grant.wait_reason, sizeof(l->grant.wait_reason), "%s", d->wait_reason);
    slipstream__v1__decision__free_unpacked(d, NULL);
}

static inline void link_start(struct link *l, const char *key)
{
    struct rpc_client_conf conf = {.url = url,
                                   .name = "test",
                                   .key = key,
                                   .channel = strcmp(channel, "shm") == 0 ? RPC_SHM : RPC_NNG,
                                   .arg = l,
                                   .on_up = on_up,
                                   .on_down = on_down,
                                   .on_event = on_event};

    *l = (struct link){.loop = loop_new()};
    assert_int_equal(rpc_client_open(&conf, rpc_host_loop(l->loop), &l->client), ERR_OK);
}

static inline void link_turn(struct link *l)
{
    rpc_client_flush(l->client);
    loop_turn(l->loop, 20);
}

static inline void link_wait_up(struct link *l, unsigned ups)
{
    uint64_t end = clock_ms() + ANY_MS;

    while (l->ups < ups || !rpc_client_is_up(l->client)) {
        assert_true(clock_ms() < end);
        link_turn(l);
    }
}

static inline void link_open(struct link *l)
{
    link_start(l, NULL);
    link_wait_up(l, 1);
}

static inline void link_close(struct link *l)
{
    rpc_client_close(l->client);
    loop_free(l->loop);
    buf_fini(&l->body);
}

static inline void on_done(void *arg, uint64_t token, enum err status, const uint8_t *body,
                           size_t len)
{
    struct link *l = arg;

    (void)token;
    l->done = true;
    l->status = status;
    buf_clear(&l->body);
    if (len > 0)
        buf_add(&l->body, body, len);
}

static inline enum err call(struct link *l, unsigned method, const ProtobufCMessage *request)
{
    uint64_t end = clock_ms() + ANY_MS;

    l->done = false;
    assert_int_equal(rpc_call(l->client, method, request, ANY_MS, on_done, l, 1, NULL), ERR_OK);
    while (!l->done) {
        assert_true(clock_ms() < end);
        link_turn(l);
    }
    return l->status;
}

static inline const uint8_t *body_of(const struct link *l)
{
    return l->body.len > 0 ? (const uint8_t *)l->body.base : (const uint8_t *)"";
}

static inline query_msg query_of(uint64_t handle, const char *workflow)
{
    query_msg q;

    slipstream__v1__query__init(&q);
    q.handle = handle;
    q.workflow_id = (char *)(uintptr_t)workflow;
    q.agent_id = (char *)(uintptr_t) "a";
    q.model = (char *)(uintptr_t) "model-a";
    q.prompt_bytes = 4000;
    q.remaining_ms = 60000;
    return q;
}

/* The engine's index, or -err. */
static inline int place(struct link *l, uint64_t handle, const char *workflow, char *reason)
{
    query_msg q = query_of(handle, workflow);
    Slipstream__V1__Decision *d;
    int got;

    assert_int_equal(call(l, PLACE, &q.base), ERR_OK);
    d = slipstream__v1__decision__unpack(NULL, l->body.len, body_of(l));
    assert_non_null(d);
    got = d->kind == SLIPSTREAM__V1__DECISION_KIND__DECISION_GO ? (int)d->engine : -(int)d->err;
    if (reason != NULL)
        snprintf(reason, 32, "%s", d->reason);
    if (got >= 0)
        assert_true(d->deadline_ms > 59000 && d->deadline_ms <= 60000);
    slipstream__v1__decision__free_unpacked(d, NULL);
    return got;
}

static inline void report(struct link *l, uint64_t handle, int kind)
{
    Slipstream__V1__ReportItem item, *items = &item;
    Slipstream__V1__Reports r;

    slipstream__v1__report_item__init(&item);
    slipstream__v1__reports__init(&r);
    item.handle = handle;
    item.kind = (Slipstream__V1__ReportKind)kind;
    item.has_usage = item.has_cached = true;
    item.prompt_tokens = 1000;
    item.cached_tokens = 400;
    item.completion_tokens = 20;
    item.latency_us = 250000;
    r.n_items = 1;
    r.items = &items;
    assert_int_equal(call(l, REPORT, &r.base), ERR_OK); /* unary here: it has been counted */
}

static inline Slipstream__V1__Workflow *workflow_get(struct link *l, const char *id)
{
    Slipstream__V1__WorkflowRef ref;

    slipstream__v1__workflow_ref__init(&ref);
    ref.workflow_id = (char *)(uintptr_t)id;
    if (call(l, GET, &ref.base) != ERR_OK)
        return NULL;
    return slipstream__v1__workflow__unpack(NULL, l->body.len, body_of(l));
}

static inline Slipstream__V1__SchedulerStatus *status_get(struct link *l)
{
    Slipstream__V1__Empty empty;

    slipstream__v1__empty__init(&empty);
    assert_int_equal(call(l, STATUS, &empty.base), ERR_OK);
    return slipstream__v1__scheduler_status__unpack(NULL, l->body.len, body_of(l));
}

static inline unsigned healthy_engines(struct link *l)
{
    Slipstream__V1__Empty empty;
    Slipstream__V1__Engines *m;
    unsigned n = 0;

    slipstream__v1__empty__init(&empty);
    assert_int_equal(call(l, ENGINES_LIST, &empty.base), ERR_OK);
    m = slipstream__v1__engines__unpack(NULL, l->body.len, body_of(l));
    assert_non_null(m);
    for (size_t i = 0; i < m->n_engines; i++)
        n += m->engines[i]->healthy && m->engines[i]->n_models == 1 &&
             strcmp(m->engines[i]->models[0], "model-a") == 0;
    slipstream__v1__engines__free_unpacked(m, NULL);
    return n;
}

static inline void engines_wait(struct link *l, unsigned want)
{
    uint64_t end = clock_ms() + ANY_MS;

    while (healthy_engines(l) != want) {
        assert_true(clock_ms() < end);
        loop_turn(l->loop, 10);
    }
}

static inline int forget(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

static inline int world_open(void **state, const char *over)
{
    (void)state;
    channel = over;
    scale = 1;
    snprintf(dir, sizeof(dir), "/tmp/slip-sched-XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(url, sizeof(url), "ipc://%s/run/sock/scheduler", dir);
    for (unsigned i = 0; i < ENGINES; i++)
        engine_start(&engines[i]);
    file_write("key", "sesame\n");
    conf_write(2, "");
    scheduler = scheduler_spawn();
    return 0;
}

static inline int open_nng(void **state)
{
    return world_open(state, "nng");
}

static inline int open_shm(void **state)
{
    return world_open(state, "shm");
}

static inline int world_close(void **state)
{
    int status = scheduler_end(SIGTERM);

    (void)state;
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    for (unsigned i = 0; i < ENGINES; i++)
        engine_stop(&engines[i]);
    nftw(dir, forget, 16, FTW_DEPTH | FTW_PHYS);
    return 0;
}

#endif
