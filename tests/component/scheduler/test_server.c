/* SPDX-License-Identifier: Apache-2.0 */
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

enum { PLACE, REPORT, RESUME, ENGINES_LIST, GET, LIST, END, STATUS, AGENTS, NOTE };

typedef Slipstream__V1__Query query_msg;

/* ---- engines ---- */

struct engine {
    pthread_t thread;
    int fd, port;
    atomic_bool dead, stop;
};

static void engine_answer(const struct engine *e, int fd)
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

static void *engine_run(void *arg)
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

static void engine_start(struct engine *e)
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

static void engine_stop(struct engine *e)
{
    atomic_store(&e->stop, true);
    pthread_join(e->thread, NULL);
}

/* ---- the world ---- */

static struct engine engines[ENGINES];
static char dir[64], url[160];
static pid_t scheduler;
static const char *channel;

static void conf_write(unsigned engine_count, const char *extra)
{
    char path[120];
    FILE *f;

    snprintf(path, sizeof(path), "%s/slipstream.yaml", dir);
    f = fopen(path, "we");
    assert_non_null(f);
    fprintf(f,
            "common:\n  run_dir: %s/run\n  channel: %s\nscheduler:\n  probe_interval_ms: 50\n"
            "%sengines:\n",
            dir, channel, extra);
    for (unsigned i = 0; i < engine_count; i++)
        fprintf(f, "  - id: e%u\n    url: http://127.0.0.1:%d\n", i, engines[i].port);
    fclose(f);
}

static pid_t scheduler_spawn(void)
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

static int scheduler_end(int signo)
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
    unsigned ups, revokes;
    bool done;
    enum err status;
    struct buf body;
};

static void on_up(void *arg, uint64_t epoch, const uint8_t *info, size_t len)
{
    Slipstream__V1__SchedulerInfo *words = slipstream__v1__scheduler_info__unpack(NULL, len, info);
    struct link *l = arg;

    assert_true(epoch != 0);
    assert_non_null(words);
    assert_true(words->digest_seed != 0);
    slipstream__v1__scheduler_info__free_unpacked(words, NULL);
    l->ups++;
}

static void on_down(void *arg, const char *reason)
{
    (void)arg;
    (void)reason;
}

static void on_event(void *arg, unsigned method, const uint8_t *body, size_t len)
{
    struct link *l = arg;

    (void)body;
    (void)len;
    l->revokes += method == SLIPSTREAM__V1__SCHEDULER_EVENT__EVENT_REVOKE;
}

static void link_open_as(struct link *l, const char *name)
{
    struct rpc_client_conf conf = {.url = url,
                                   .name = name,
                                   .channel = strcmp(channel, "shm") == 0 ? RPC_SHM : RPC_NNG,
                                   .arg = l,
                                   .on_up = on_up,
                                   .on_down = on_down,
                                   .on_event = on_event};

    *l = (struct link){.loop = loop_new()};
    assert_int_equal(rpc_client_open(&conf, rpc_host_loop(l->loop), &l->client), ERR_OK);
}

static void link_turn(struct link *l)
{
    rpc_client_flush(l->client);
    loop_turn(l->loop, 20);
}

static void link_wait_up(struct link *l, unsigned ups)
{
    uint64_t end = clock_ms() + ANY_MS;

    while (l->ups < ups || !rpc_client_is_up(l->client)) {
        assert_true(clock_ms() < end);
        link_turn(l);
    }
}

static void link_open(struct link *l)
{
    link_open_as(l, "test");
    link_wait_up(l, 1);
}

static void link_close(struct link *l)
{
    rpc_client_close(l->client);
    loop_free(l->loop);
    buf_fini(&l->body);
}

static void on_done(void *arg, uint64_t token, enum err status, const uint8_t *body, size_t len)
{
    struct link *l = arg;

    (void)token;
    l->done = true;
    l->status = status;
    buf_clear(&l->body);
    if (len > 0)
        buf_add(&l->body, body, len);
}

static enum err call(struct link *l, unsigned method, const ProtobufCMessage *request)
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

static const uint8_t *body_of(const struct link *l)
{
    return l->body.len > 0 ? (const uint8_t *)l->body.base : (const uint8_t *)"";
}

static query_msg query_of(uint64_t handle, const char *workflow)
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
static int place(struct link *l, uint64_t handle, const char *workflow, char *reason)
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

static void report(struct link *l, uint64_t handle, int kind)
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

static Slipstream__V1__Workflow *workflow_get(struct link *l, const char *id)
{
    Slipstream__V1__WorkflowRef ref;

    slipstream__v1__workflow_ref__init(&ref);
    ref.workflow_id = (char *)(uintptr_t)id;
    if (call(l, GET, &ref.base) != ERR_OK)
        return NULL;
    return slipstream__v1__workflow__unpack(NULL, l->body.len, body_of(l));
}

static Slipstream__V1__SchedulerStatus *status_get(struct link *l)
{
    Slipstream__V1__Empty empty;

    slipstream__v1__empty__init(&empty);
    assert_int_equal(call(l, STATUS, &empty.base), ERR_OK);
    return slipstream__v1__scheduler_status__unpack(NULL, l->body.len, body_of(l));
}

static unsigned healthy_engines(struct link *l)
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

static void engines_wait(struct link *l, unsigned want)
{
    uint64_t end = clock_ms() + ANY_MS;

    while (healthy_engines(l) != want) {
        assert_true(clock_ms() < end);
        loop_turn(l->loop, 10);
    }
}

static int forget(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

static int world_open(void **state, const char *over)
{
    (void)state;
    channel = over;
    snprintf(dir, sizeof(dir), "/tmp/slip-sched-XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(url, sizeof(url), "ipc://%s/run/sock/scheduler", dir);
    for (unsigned i = 0; i < ENGINES; i++)
        engine_start(&engines[i]);
    conf_write(2, "");
    scheduler = scheduler_spawn();
    return 0;
}

static int open_nng(void **state)
{
    return world_open(state, "nng");
}

static int open_shm(void **state)
{
    return world_open(state, "shm");
}

static int world_close(void **state)
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

/* ---- promises ---- */

static void workflow_is_placed_counted_and_listed(void **state)
{
    Slipstream__V1__WorkflowQuery list;
    Slipstream__V1__Workflows *ws;
    Slipstream__V1__Workflow *w;
    char reason[32];
    struct link l;
    int first;

    slipstream__v1__workflow_query__init(&list);
    (void)state;
    link_open(&l);
    engines_wait(&l, 2);
    first = place(&l, 1, "w", reason);
    assert_true(first >= 0);
    assert_string_equal(reason, "new");
    report(&l, 1, SLIPSTREAM__V1__REPORT_KIND__REPORT_FIRST_BYTE);
    report(&l, 1, SLIPSTREAM__V1__REPORT_KIND__REPORT_DONE);
    assert_int_equal(place(&l, 2, "w", reason), first);
    assert_string_equal(reason, "home");
    w = workflow_get(&l, "w");
    assert_non_null(w);
    assert_int_equal(w->total_requests, 2);
    assert_int_equal(w->active_agents, 1);
    assert_float_equal(w->cache_hit_rate, 0.4, 1e-9);
    assert_string_equal(w->assigned_instance, first == 0 ? "e0" : "e1");
    assert_string_equal(w->state, "active");
    assert_true(clock_wall_ms() - w->created_ms < ANY_MS);
    assert_float_equal(w->latency_mean, 0.25, 1e-6);
    assert_int_equal(w->n_agents, 1);
    assert_string_equal(w->agents[0]->id, "a");
    slipstream__v1__workflow__free_unpacked(w, NULL);
    assert_null(workflow_get(&l, "unknown"));
    assert_int_equal(l.status, ERR_WORKFLOW);

    place(&l, 3, "x", NULL);
    place(&l, 4, "y", NULL);
    list.limit = 2;
    assert_int_equal(call(&l, LIST, &list.base), ERR_OK);
    ws = slipstream__v1__workflows__unpack(NULL, l.body.len, body_of(&l));
    assert_int_equal(ws->n_workflows, 2);
    assert_string_equal(ws->workflows[0]->workflow_id, "y");
    assert_string_equal(ws->workflows[1]->workflow_id, "x");
    list.cursor = ws->cursor;
    assert_int_equal(call(&l, LIST, &list.base), ERR_OK);
    list.cursor = (char *)(uintptr_t) "zz";
    slipstream__v1__workflows__free_unpacked(ws, NULL);
    ws = slipstream__v1__workflows__unpack(NULL, l.body.len, body_of(&l));
    assert_int_equal(ws->n_workflows, 1);
    assert_string_equal(ws->workflows[0]->workflow_id, "w");
    assert_string_equal(ws->cursor, "");
    slipstream__v1__workflows__free_unpacked(ws, NULL);
    assert_int_equal(call(&l, LIST, &list.base), ERR_VALUE);
    link_close(&l);
}

static void dead_engines_are_found_and_refused_until_they_return(void **state)
{
    char reason[32];
    struct link l;
    int home;

    (void)state;
    link_open(&l);
    engines_wait(&l, 2);
    home = place(&l, 1, "w", NULL);
    atomic_store(&engines[home].dead, true);
    engines_wait(&l, 1);
    assert_int_equal(place(&l, 2, "w", reason), 1 - home);
    assert_string_equal(reason, "rehomed");
    atomic_store(&engines[1 - home].dead, true);
    engines_wait(&l, 0);
    assert_int_equal(place(&l, 3, "w", NULL), -(int)ERR_NO_ENGINE);
    atomic_store(&engines[home].dead, false);
    engines_wait(&l, 1);
    assert_int_equal(place(&l, 4, "w", NULL), home);
    link_close(&l);
}

static void restart_keeps_totals_and_counts_restated_requests_once(void **state)
{
    Slipstream__V1__InflightItem item, *items = &item;
    Slipstream__V1__Inflight page;
    Slipstream__V1__SchedulerStatus *st;
    Slipstream__V1__Workflow *w;
    query_msg q = query_of(2, "w");
    struct link l;
    int home;

    slipstream__v1__inflight_item__init(&item);
    slipstream__v1__inflight__init(&page);
    (void)state;
    link_open(&l);
    engines_wait(&l, 2);
    home = place(&l, 1, "w", NULL);
    report(&l, 1, SLIPSTREAM__V1__REPORT_KIND__REPORT_DONE);
    assert_int_equal(place(&l, 2, "w", NULL), home);
    assert_true(WIFSIGNALED(scheduler_end(SIGKILL)));
    scheduler = scheduler_spawn();
    link_wait_up(&l, 2);

    item.query = &q;
    item.engine = (uint32_t)home;
    item.dispatched = true;
    page.n_items = 1;
    page.items = &items;
    page.last = true;
    assert_int_equal(call(&l, RESUME, &page.base), ERR_OK);
    st = status_get(&l);
    assert_int_equal(st->leases, 1);
    assert_int_equal(st->workflows, 1);
    slipstream__v1__scheduler_status__free_unpacked(st, NULL);
    w = workflow_get(&l, "w");
    assert_int_equal(w->total_requests, 2);
    assert_int_equal(w->prompt_tokens, 1000);
    slipstream__v1__workflow__free_unpacked(w, NULL);
    report(&l, 2, SLIPSTREAM__V1__REPORT_KIND__REPORT_DONE);
    assert_int_equal(place(&l, 3, "w", NULL), home);
    w = workflow_get(&l, "w");
    assert_int_equal(w->total_requests, 3);
    assert_int_equal(w->prompt_tokens, 2000);
    slipstream__v1__workflow__free_unpacked(w, NULL);
    link_close(&l);
}

static void vanished_worker_gives_its_leases_back(void **state)
{
    Slipstream__V1__SchedulerStatus *st;
    struct link l, doomed;
    uint64_t start;
    uint32_t leases;

    (void)state;
    link_open(&l);
    link_open(&doomed);
    for (uint64_t i = 0; i < 20; i++)
        assert_true(place(&doomed, i, "w", NULL) >= 0);
    link_close(&doomed);
    start = clock_ms();
    do {
        st = status_get(&l);
        leases = st->leases;
        slipstream__v1__scheduler_status__free_unpacked(st, NULL);
        assert_true(clock_ms() - start < ANY_MS);
        loop_turn(l.loop, 10);
    } while (leases > 0);
#ifndef SLIP_SANITIZED
    assert_true(clock_ms() - start < 5000); /* half a second, on a machine that is not busy */
#endif
    link_close(&l);
}

static void only_one_scheduler_runs_in_a_folder(void **state)
{
    struct link l;
    pid_t second;
    int status;

    (void)state;
    link_open(&l);
    second = scheduler_spawn();
    assert_int_equal(waitpid(second, &status, 0), second);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != 127);
    assert_true(place(&l, 1, "w", NULL) >= 0); /* the first has not noticed */
    link_close(&l);
}

static void reload_adds_and_removes_engines_without_touching_the_rest(void **state)
{
    struct link l;
    int home;

    (void)state;
    link_open(&l);
    engines_wait(&l, 2);
    home = place(&l, 1, "w", NULL);
    conf_write(3, "");
    assert_int_equal(kill(scheduler, SIGHUP), 0);
    engines_wait(&l, 3);
    assert_int_equal(place(&l, 2, "w", NULL), home);
    conf_write(1, "  policy: roundrobin\n");
    assert_int_equal(kill(scheduler, SIGHUP), 0);
    engines_wait(&l, 1);
    assert_int_equal(place(&l, 3, "w", NULL), 0);
    report(&l, 1, SLIPSTREAM__V1__REPORT_KIND__REPORT_DONE);
    conf_write(1, "  policy: nonsense\n"); /* refused: what was goes on */
    assert_int_equal(kill(scheduler, SIGHUP), 0);
    assert_int_equal(place(&l, 4, "w", NULL), 0);
    link_close(&l);
}

static void nonsense_of_a_peer_is_refused_and_harms_nobody(void **state)
{
    Slipstream__V1__Reports *reports;
    char longest[300] = "";
    query_msg q = query_of(1, longest);
    struct link l;
    uint64_t digests[4200] = {0};
    Slipstream__V1__AgentNote note;

    slipstream__v1__agent_note__init(&note);
    (void)state;
    link_open(&l);
    memset(longest, 'x', sizeof(longest));
    longest[257] = '\0';
    assert_int_equal(call(&l, PLACE, &q.base), ERR_ID);
    strcpy(longest, "a\tb");
    assert_int_equal(call(&l, PLACE, &q.base), ERR_ID);
    strcpy(longest, "\xff\xfe");
    assert_int_equal(call(&l, PLACE, &q.base), ERR_ID);
    strcpy(longest, "w");
    q.digests = digests;
    q.n_digests = 4200;
    assert_int_equal(call(&l, PLACE, &q.base), ERR_TOO_LARGE);
    q.n_digests = 0;
    q.strategy = (Slipstream__V1__Strategy)77;
    assert_int_equal(call(&l, PLACE, &q.base), ERR_INVALID);
    assert_int_equal(call(&l, NOTE, &note.base), ERR_ID);

    /* Half a million empty items in a megabyte: more memory than one call may take. */
    reports = calloc(1, sizeof(*reports));
    assert_non_null(reports);
    slipstream__v1__reports__init(reports);
    reports->n_items = 100000;
    reports->items = calloc(reports->n_items, sizeof(*reports->items));
    assert_non_null(reports->items);
    for (size_t i = 0; i < reports->n_items; i++) {
        reports->items[i] = calloc(1, sizeof(**reports->items));
        assert_non_null(reports->items[i]);
        slipstream__v1__report_item__init(reports->items[i]);
    }
    assert_int_not_equal(call(&l, REPORT, &reports->base), ERR_OK);
    slipstream__v1__reports__free_unpacked(reports, NULL);

    strcpy(longest, "w");
    assert_true(place(&l, 9, "w", NULL) >= 0);
    link_close(&l);
}

static void fleet_segment_says_what_the_scheduler_knows(void **state)
{
    const struct fleet_segment *s;
    struct fleet_engine row;
    char path[120];
    struct link l;
    struct shm shm;
    unsigned homes = 0;
    int home;

    (void)state;
    link_open(&l);
    engines_wait(&l, 2);
    home = place(&l, 1, "w", NULL);
    report(&l, 1, SLIPSTREAM__V1__REPORT_KIND__REPORT_DONE);
    snprintf(path, sizeof(path), "%s/run/fleet", dir);
    assert_int_equal(shm_open_ro(path, SHM_FLEET, FLEET_LAYOUT, sizeof(*s), &shm), ERR_OK);
    s = (const struct fleet_segment *)(const void *)shm.head;
    assert_int_equal(s->engine_count, 2);
    assert_true(s->epoch == rpc_client_epoch(l.client));
    assert_true(shm_beat_age_ms(&shm) < 10000);
    for (unsigned i = 0; i < 2; i++) {
        assert_true(snapshot_read(&s->engines[i].seq, s->engines[i].words, &row, sizeof(row)));
        assert_int_equal(row.flags, FLEET_USED | FLEET_HEALTHY | FLEET_PROBED);
        assert_string_equal(row.id, i == 0 ? "e0" : "e1");
        assert_string_equal(row.address, "127.0.0.1");
        assert_int_equal(row.port, engines[i].port);
        assert_string_equal(row.models[0], "model-a");
    }
    for (unsigned i = 0; i < FLEET_HOMES; i++) {
        struct fleet_home h;

        assert_true(snapshot_read(&s->homes[i].seq, s->homes[i].words, &h, sizeof(h)));
        if (h.live == 0)
            continue;
        homes++;
        assert_int_equal(h.engine, home);
        assert_int_equal(h.requests, 1);
        assert_int_equal(h.prompt_tokens, 1000);
        assert_int_equal(h.home_tokens, 1020);
    }
    assert_int_equal(homes, 1);
    shm_close(&shm);
    link_close(&l);
}

#define BOTH(test)                                         \
    {#test " (nng)", test, open_nng, world_close, NULL},   \
    {                                                      \
#test " (ring)", test, open_shm, world_close, NULL \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(workflow_is_placed_counted_and_listed),
        BOTH(dead_engines_are_found_and_refused_until_they_return),
        BOTH(restart_keeps_totals_and_counts_restated_requests_once),
        BOTH(vanished_worker_gives_its_leases_back),
        BOTH(only_one_scheduler_runs_in_a_folder),
        BOTH(reload_adds_and_removes_engines_without_touching_the_rest),
        BOTH(nonsense_of_a_peer_is_refused_and_harms_nobody),
        BOTH(fleet_segment_says_what_the_scheduler_knows),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
