/* SPDX-License-Identifier: Apache-2.0 */
#include <netinet/in.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/loop.h"
#include "common/rpc.h"
#include "proto/scheduler.pb-c.h"

/*
 * Server and client in one process on one loop, over nng and over the ring: every test of
 * both_carriers runs twice.
 */
enum { PLACE = 0, REPORT = 1, GET_STATUS = 7 };
#define CALLS 2000
#define ANY_MS 20000

static struct loop *loop;
static struct rpc_server *server;
static struct rpc_client *client;
static enum rpc_channel channel;
static char dir[] = "/tmp/slip-rpc-XXXXXX";
static char url[100], ring_path[80];
static bool is_tcp;
static const char *urls[] = {url};

/* what the server saw */
static unsigned served, reports, hellos, gones, resumed;
static uint64_t report_sum, last_handle;
static unsigned disorder;
static struct rpc_peer *peer;
static bool is_mute; /* the server leaves calls unanswered */
static struct kept {
    uint64_t token, handle;
} kept[CALLS]; /* calls that wait for the turn's end, newest last */
static unsigned kept_count;
static enum { ANSWERS_AT_ONCE, KEEPS_ODD, KEEPS_ALL } habit;
static bool is_doubtful; /* every answer at the turn's end is given twice */
static unsigned refused; /* answers that were */
static bool is_lazy;     /* the turn's end answers nothing that was kept */
static bool refuse_hello;
static size_t status_bytes;
static unsigned grants_per_call;
static uint32_t look_us, ring_bytes, ring_busy_ms;
static uint64_t next_grant;

/* what the client saw */
static unsigned ups, downs, done_ok, done_timeout, done_gone, done_other, lates, events;
static uint64_t up_epoch, event_sum, last_event;
static enum err last_status;
static char down_reason[256];

static enum err on_hello(void *arg, struct rpc_peer *p, const char *name, const char *key,
                         uint8_t **info, size_t *info_len, const char **reason)
{
    (void)arg;
    hellos++;
    if (refuse_hello || (strcmp(key, "wrong") == 0)) {
        *reason = "not today";
        return ERR_DENIED;
    }
    resumed += rpc_peer_is_resumed(p);
    peer = p;
    *info = (uint8_t *)strdup(name);
    *info_len = strlen(name);
    return ERR_OK;
}

static void grant(struct rpc_peer *p)
{
    Slipstream__V1__Decision d;

    slipstream__v1__decision__init(&d);
    d.handle = ++next_grant;
    assert_int_equal(rpc_event(server, p, 0, &d.base), ERR_OK);
}

static void on_place(struct rpc_peer *p, uint64_t token, const uint8_t *body, size_t len)
{
    Slipstream__V1__Query *q = slipstream__v1__query__unpack(NULL, len, body);
    Slipstream__V1__Decision d;
    unsigned i;

    slipstream__v1__decision__init(&d);
    served++;
    if (q->handle < last_handle)
        disorder++;
    last_handle = q->handle;
    d.handle = q->handle;
    d.engine = (uint32_t)(q->handle * 3);
    for (i = 0; i < grants_per_call; i++)
        grant(p);
    slipstream__v1__query__free_unpacked(q, NULL);
    if (habit == KEEPS_ALL || (habit == KEEPS_ODD && d.handle % 2 == 1))
        kept[kept_count++] = (struct kept){token, d.handle};
    else if (!is_mute)
        assert_int_equal(rpc_reply(server, token, ERR_OK, &d.base), ERR_OK);
}

static void on_call(void *arg, struct rpc_peer *p, unsigned method, uint64_t token,
                    uint32_t timeout_ms, const uint8_t *body, size_t len)
{
    Slipstream__V1__Reports *r;
    Slipstream__V1__SchedulerStatus status;

    slipstream__v1__scheduler_status__init(&status);
    (void)arg, (void)timeout_ms;
    if (method == PLACE) {
        on_place(p, token, body, len);
    } else if (method == REPORT) {
        r = slipstream__v1__reports__unpack(NULL, len, body);
        assert_int_equal(token, 0);
        reports++;
        report_sum += r->items[0]->handle;
        slipstream__v1__reports__free_unpacked(r, NULL);
    } else if (method == GET_STATUS) {
        status.version = malloc(status_bytes);
        memset(status.version, 'v', status_bytes);
        status.version[status_bytes - 1] = '\0';
        assert_int_equal(rpc_reply(server, token, ERR_OK, &status.base),
                         status_bytes > RPC_NNG_FRAME_MAX ? ERR_TOO_LARGE : ERR_OK);
        free(status.version);
    } else {
        rpc_reply(server, token, ERR_MODEL, NULL);
        assert_int_equal(rpc_reply(server, token, ERR_OK, NULL), ERR_GONE);
    }
}

static void on_gone(void *arg, struct rpc_peer *p)
{
    (void)arg;
    gones++;
    if (peer == p)
        peer = NULL;
}

static void on_up(void *arg, uint64_t epoch, const uint8_t *info, size_t len)
{
    (void)arg;
    assert_int_equal(len, 4);
    assert_memory_equal(info, "test", 4);
    ups++;
    up_epoch = epoch;
}

static void on_down(void *arg, const char *reason)
{
    (void)arg;
    downs++;
    snprintf(down_reason, sizeof(down_reason), "%s", reason);
}

static void on_event(void *arg, unsigned method, const uint8_t *body, size_t len)
{
    Slipstream__V1__Decision *d = slipstream__v1__decision__unpack(NULL, len, body);

    (void)arg;
    assert_int_equal(method, 0);
    if (d->handle <= last_event)
        disorder++;
    last_event = d->handle;
    event_sum += d->handle;
    events++;
    slipstream__v1__decision__free_unpacked(d, NULL);
}

static void on_done(void *arg, uint64_t token, enum err status, const uint8_t *body, size_t len)
{
    Slipstream__V1__Decision *d;

    (void)arg;
    last_status = status;
    if (status == ERR_OK && len > 0) {
        d = slipstream__v1__decision__unpack(NULL, len, body);
        assert_int_equal(d->handle, token);
        assert_int_equal(d->engine, (uint32_t)(token * 3));
        slipstream__v1__decision__free_unpacked(d, NULL);
    }
    if (status == ERR_OK)
        done_ok++;
    else if (status == ERR_TIMEOUT)
        done_timeout++;
    else if (status == ERR_GONE)
        done_gone++;
    else
        done_other++;
}

static void on_status(void *arg, uint64_t token, enum err status, const uint8_t *body, size_t len)
{
    (void)arg, (void)token, (void)body;
    assert_int_equal(status, ERR_OK);
    assert_true(len >= status_bytes);
    done_ok++;
}

static void on_late(void *arg, uint64_t token, enum err status, const uint8_t *body, size_t len)
{
    (void)arg, (void)token, (void)body, (void)len;
    assert_int_equal(status, ERR_OK);
    lates++;
}

static enum err answer_kept(void)
{
    Slipstream__V1__Decision d;
    const struct kept *k = &kept[--kept_count];

    slipstream__v1__decision__init(&d);
    d.handle = k->handle;
    d.engine = (uint32_t)(k->handle * 3);
    return rpc_reply(server, k->token, ERR_OK, &d.base);
}

static void flush(void *arg)
{
    (void)arg;
    if (client != NULL)
        rpc_client_flush(client);
    while (!is_lazy && kept_count > 0) {
        assert_int_equal(answer_kept(), ERR_OK);
        if (is_doubtful) {
            kept_count++;
            refused += answer_kept() == ERR_GONE;
        }
    }
    if (server != NULL)
        rpc_server_flush(server);
}

#define turn_until(condition)                    \
    do {                                         \
        uint64_t deadline = clock_ms() + ANY_MS; \
        while (!(condition)) {                   \
            assert_true(clock_ms() < deadline);  \
            loop_turn(loop, 100);                \
        }                                        \
    } while (0)

static void server_start(uint64_t epoch)
{
    const struct rpc_server_conf conf = {.urls = urls,
                                         .url_count = 1,
                                         .ring_path = channel == RPC_NNG ? NULL : ring_path,
                                         .ring_bytes = ring_bytes,
                                         .service = &slipstream__v1__scheduler__descriptor,
                                         .epoch = epoch,
                                         .max_peers = 8,
                                         .allow_plain_tcp = is_tcp,
                                         .on_hello = on_hello,
                                         .on_call = on_call,
                                         .on_gone = on_gone};

    assert_int_equal(rpc_server_open(&conf, rpc_host_loop(loop), &server), ERR_OK);
}

static void server_stop(void)
{
    rpc_server_close(server);
    server = NULL;
    peer = NULL;
}

static struct rpc_client *client_new(const char *key)
{
    const struct rpc_client_conf conf = {.url = url,
                                         .name = "test",
                                         .key = key,
                                         .channel = channel,
                                         .allow_plain_tcp = is_tcp,
                                         .look_us = look_us,
                                         .ring_busy_ms = ring_busy_ms,
                                         .on_up = on_up,
                                         .on_down = on_down,
                                         .on_event = on_event};
    struct rpc_client *c;

    assert_int_equal(rpc_client_open(&conf, rpc_host_loop(loop), &c), ERR_OK);
    return c;
}

static void client_start(void)
{
    client = client_new(NULL);
    turn_until(ups == 1);
    assert_true(rpc_client_is_up(client));
    assert_int_equal(rpc_client_is_ring(client), channel != RPC_NNG);
}

static enum err place(uint64_t handle, uint32_t timeout_ms, rpc_done_fn *late)
{
    Slipstream__V1__Query q;
    char model[] = "a-model";

    slipstream__v1__query__init(&q);
    q.handle = handle;
    q.model = model;
    return rpc_call(client, PLACE, &q.base, timeout_ms, on_done, NULL, handle, late);
}

static enum err report(uint64_t handle)
{
    Slipstream__V1__ReportItem item, *items[] = {&item};
    Slipstream__V1__Reports r;

    slipstream__v1__report_item__init(&item);
    slipstream__v1__reports__init(&r);
    item.handle = handle;
    r.items = items;
    r.n_items = 1;
    return rpc_send(client, REPORT, &r.base);
}

static int setup(void)
{
    served = reports = hellos = gones = resumed = disorder = grants_per_call = 0;
    ups = downs = done_ok = done_timeout = done_gone = done_other = lates = events = 0;
    report_sum = last_handle = next_grant = up_epoch = event_sum = last_event = 0;
    is_mute = refuse_hello = is_lazy = is_doubtful = false;
    habit = ANSWERS_AT_ONCE;
    kept_count = refused = 0;
    look_us = ring_bytes = ring_busy_ms = 0;
    down_reason[0] = '\0';
    status_bytes = 5u << 20;
    peer = NULL;
    loop = loop_new();
    loop_at_turn_end(loop, flush, NULL);
    return 0;
}

static int setup_nng(void **state)
{
    (void)state;
    channel = RPC_NNG;
    return setup();
}

static int setup_ring(void **state)
{
    (void)state;
    channel = RPC_SHM;
    return setup();
}

static int teardown(void **state)
{
    (void)state;
    rpc_client_close(client);
    client = NULL;
    server_stop();
    loop_free(loop);
    return 0;
}

static void a_call_is_answered(void **state)
{
    (void)state;
    server_start(7);
    client_start();
    assert_int_equal(up_epoch, 7);
    assert_int_equal(rpc_client_epoch(client), 7);
    assert_int_equal(place(1, 1000, NULL), ERR_OK);
    assert_int_equal(done_ok, 0);
    turn_until(done_ok == 1);
    assert_int_equal(rpc_server_peers(server), 1);
    assert_string_equal(rpc_peer_name(peer), "test");
    assert_true(rpc_peer_is_local(peer));
}

static void many_calls_in_flight_are_answered_in_order(void **state)
{
    unsigned i;

    (void)state;
    server_start(7);
    client_start();
    for (i = 0; i < CALLS; i++) {
        assert_int_equal(place(i + 1, 10000, NULL), ERR_OK);
        if (i % 50 == 0)
            loop_turn(loop, 0);
    }
    turn_until(done_ok == CALLS);
    assert_int_equal(served, CALLS);
    assert_int_equal(disorder, 0);
}

static void calls_may_be_answered_until_the_flush_and_in_any_order(void **state)
{
    unsigned i;

    (void)state;
    server_start(7);
    client_start();
    for (habit = KEEPS_ODD; habit <= KEEPS_ALL; habit++) {
        for (i = 0; i < 100; i++)
            assert_int_equal(place(i + 1, 10000, NULL), ERR_OK);
        last_handle = 0;
        turn_until(done_ok == 100 * (unsigned)habit);
    }
    assert_int_equal(served, 200);
    assert_int_equal(disorder, 0);
    habit = ANSWERS_AT_ONCE;
    assert_int_equal(place(1, 10000, NULL), ERR_OK);
    turn_until(done_ok == 201);
}

static void a_call_that_is_not_answered_by_the_flush_holds_up_no_other(void **state)
{
    (void)state;
    server_start(7);
    client_start();
    habit = KEEPS_ODD;
    is_lazy = true;
    place(1, 50, on_late);
    place(2, 10000, NULL);
    place(3, 50, NULL);
    turn_until(done_ok == 1 && kept_count == 2);
    while (kept_count > 0)
        assert_int_equal(answer_kept(), ERR_GONE);
    turn_until(done_timeout == 2);
    assert_int_equal(lates, 0);
    habit = ANSWERS_AT_ONCE;
    place(4, 10000, NULL);
    turn_until(done_ok == 2);
    assert_int_equal(downs, 0);
}

static void a_token_is_good_for_one_answer(void **state)
{
    (void)state;
    server_start(7);
    client_start();
    habit = KEEPS_ALL;
    is_doubtful = true;
    place(1, 10000, NULL);
    turn_until(done_ok == 1);
    assert_int_equal(refused, 1);
}

static void calls_without_room_are_refused_and_those_with_room_answered(void **state)
{
    unsigned taken = 0;
    enum err e;

    (void)state;
    server_start(7);
    client_start();
    while ((e = place(taken + 1, 10000, NULL)) == ERR_OK)
        taken++;
    assert_int_equal(e, ERR_BUSY);
    assert_true(taken > 1000);
    turn_until(done_ok + done_other == taken);
    assert_int_equal(done_other, 0);
}

static void statuses_travel_and_what_is_unknown_or_too_large_is_said_so(void **state)
{
    Slipstream__V1__Empty empty;

    slipstream__v1__empty__init(&empty);
    (void)state;
    server_start(7);
    client_start();
    rpc_call(client, 3, &empty.base, 1000, on_done, NULL, 1, NULL);
    turn_until(done_other == 1);
    assert_int_equal(last_status, ERR_MODEL);
    rpc_call(client, 60, &empty.base, 1000, on_done, NULL, 1, NULL);
    turn_until(done_other == 2);
    assert_int_equal(last_status, ERR_UNIMPLEMENTED);
    rpc_call(client, GET_STATUS, &empty.base, 1000, on_done, NULL, 1, NULL);
    turn_until(done_other == 3);
    assert_int_equal(last_status, ERR_TOO_LARGE);
    assert_int_equal(downs, 0);
}

static void a_request_larger_than_a_frame_is_refused(void **state)
{
    Slipstream__V1__Query q;
    size_t n = channel == RPC_NNG || ring_bytes > 0 ? RPC_NNG_FRAME_MAX : RPC_RING_BYTES / 4;
    unsigned i;

    slipstream__v1__query__init(&q);
    (void)state;
    server_start(7);
    client_start();
    q.model = malloc(n);
    memset(q.model, 'm', n);
    q.model[n - 1] = '\0';
    assert_int_equal(rpc_call(client, PLACE, &q.base, 1000, on_done, NULL, 1, NULL), ERR_TOO_LARGE);
    q.model[n - 200] = '\0';
    for (i = 0; i < 3; i++)
        assert_int_equal(rpc_call(client, PLACE, &q.base, ANY_MS, on_done, NULL, 0, NULL), ERR_OK);
    turn_until(done_ok == 3);
    free(q.model);
}

static void a_server_may_offer_rings_for_frames_as_large_as_over_nng(void **state)
{
    ring_bytes = 4 * RPC_NNG_FRAME_MAX;
    a_request_larger_than_a_frame_is_refused(state);
}

static void answers_of_many_megabytes_travel_in_a_large_ring(void **state)
{
    Slipstream__V1__Empty empty;
    unsigned i;

    slipstream__v1__empty__init(&empty);
    (void)state;
    ring_bytes = 4 * RPC_NNG_FRAME_MAX;
    server_start(7);
    client_start();
    status_bytes = 3u << 20;
    for (i = 0; i < 5; i++)
        rpc_call(client, GET_STATUS, &empty.base, ANY_MS, on_status, NULL, 1, NULL);
    turn_until(done_ok == 5);
    assert_int_equal(downs, 0);
}

static void one_way_calls_arrive_all_and_batched(void **state)
{
    unsigned i;

    (void)state;
    server_start(7);
    client_start();
    for (i = 1; i <= 500; i++) {
        assert_int_equal(report(i), ERR_OK);
        if (i % 7 == 0)
            loop_turn(loop, 0);
    }
    turn_until(reports == 500);
    assert_int_equal(report_sum, 500 * 501 / 2);
}

static void a_late_answer_goes_to_who_wanted_it(void **state)
{
    (void)state;
    server_start(7);
    client_start();
    /* No turn in between: the deadline has passed before the loop looks. */
    assert_int_equal(place(1, 0, on_late), ERR_OK);
    assert_int_equal(place(2, 0, NULL), ERR_OK);
    turn_until(done_timeout == 2);
    turn_until(lates == 1);
    assert_int_equal(place(3, 1000, NULL), ERR_OK);
    turn_until(done_ok == 1);
    assert_int_equal(downs, 0);
}

static void a_call_that_nobody_answers_times_out(void **state)
{
    (void)state;
    server_start(7);
    client_start();
    is_mute = true;
    assert_int_equal(place(1, 5, on_late), ERR_OK);
    turn_until(done_timeout == 1 && served == 1);
    is_mute = false;
    assert_int_equal(place(2, 1000, NULL), ERR_OK);
    turn_until(done_ok == 1);
    assert_int_equal(lates, 0);
}

static void events_arrive_once_and_in_order(void **state)
{
    unsigned i;

    (void)state;
    server_start(7);
    client_start();
    grants_per_call = 3;
    for (i = 0; i < 300; i++) {
        assert_int_equal(place(i + 1, 10000, NULL), ERR_OK);
        loop_turn(loop, 0);
    }
    turn_until(done_ok == 300 && events == 900);
    assert_int_equal(event_sum, 900 * 901 / 2);
    assert_int_equal(disorder, 0);
}

static void events_of_a_turn_may_be_many_megabytes(void **state)
{
    Slipstream__V1__Decision d;
    unsigned sent = 0;

    slipstream__v1__decision__init(&d);
    (void)state;
    server_start(7);
    client_start();
    d.reason = malloc(200000);
    memset(d.reason, 'r', 200000);
    d.reason[199999] = '\0';
    for (;;) {
        d.handle = ++next_grant;
        if (rpc_event(server, peer, 0, &d.base) != ERR_OK)
            break;
        sent++;
    }
    assert_true(sent > 60);
    turn_until(events == sent);
    assert_int_equal(disorder, 0);
    free(d.reason);
}

static void a_restarted_server_is_found_again_with_its_new_epoch(void **state)
{
    (void)state;
    server_start(7);
    client_start();
    is_mute = true;
    assert_int_equal(place(1, 10000, on_late), ERR_OK);
    turn_until(served == 1);
    server_stop();
    turn_until(downs == 1);
    assert_int_equal(done_gone, 1); /* before on_down */
    assert_false(rpc_client_is_up(client));
    assert_int_equal(rpc_client_epoch(client), 0);
    assert_int_equal(place(2, 10, NULL), ERR_GONE);
    assert_int_equal(report(5), ERR_OK); /* dropped: the next server is another */
    is_mute = false;
    server_start(8);
    turn_until(ups == 2);
    assert_int_equal(up_epoch, 8);
    assert_int_equal(place(3, 10000, NULL), ERR_OK);
    turn_until(done_ok == 1);
    assert_int_equal(reports, 0);
    assert_int_equal(gones, 1);
    assert_int_equal(resumed, 0);
}

static void a_peer_that_leaves_is_gone_after_its_grace(void **state)
{
    uint64_t start;

    (void)state;
    server_start(7);
    client_start();
    rpc_client_close(client);
    client = NULL;
    start = clock_ms();
    turn_until(gones == 1);
    assert_true(clock_ms() - start >= 400);
    assert_int_equal(rpc_server_peers(server), 0);
}

static void calls_under_way_end_when_the_client_closes(void **state)
{
    (void)state;
    server_start(7);
    client_start();
    assert_int_equal(place(1, 10000, on_late), ERR_OK);
    rpc_client_close(client);
    client = NULL;
    assert_int_equal(done_other, 1);
    assert_int_equal(last_status, ERR_CANCELLED);
}

static void a_refused_hello_is_told_with_its_reason(void **state)
{
    (void)state;
    server_start(7);
    refuse_hello = true;
    client = client_new("wrong");
    turn_until(downs == 1);
    assert_string_equal(down_reason, "refused: not today");
    assert_false(rpc_client_is_up(client));
    assert_int_equal(rpc_server_peers(server), 0);
    assert_int_equal(gones, 0);
    assert_int_equal(place(1, 100, NULL), ERR_GONE);
    assert_int_equal(report(1), ERR_GONE);
}

static void run_on(int cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET((unsigned)cpu, &set);
    assert_int_equal(sched_setaffinity(0, sizeof(set), &set), 0);
}

/* The server's end goes to sleep on one CPU, the client then asks from another. */
static void ask_from_elsewhere(const cpu_set_t *cpus)
{
    int first = 0, second;

    while (!CPU_ISSET((unsigned)first, cpus))
        first++;
    second = first + 1;
    while (!CPU_ISSET((unsigned)second, cpus))
        second++;
    server_start(7);
    client_start();
    run_on(first);
    assert_int_equal(place(1, ANY_MS, NULL), ERR_OK);
    rpc_client_flush(client);
    while (done_ok == 0) {
        rpc_client_look(client);
        loop_turn(loop, 1);
    }
    run_on(second);
    assert_int_equal(place(2, ANY_MS, NULL), ERR_OK);
    rpc_client_flush(client);
}

static void an_answer_is_looked_for_while_the_server_runs_elsewhere(void **state)
{
    cpu_set_t cpus;

    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof(cpus), &cpus), 0);
    if (CPU_COUNT(&cpus) < 2)
        skip();
    look_us = ANY_MS * 1000;
    ask_from_elsewhere(&cpus);
    assert_true(rpc_client_is_looking(client));
    while (served < 2)
        loop_turn(loop, 100);
    loop_turn(loop, 0);
    assert_int_equal(done_ok, 1); /* nobody rang */
    rpc_client_look(client);
    assert_int_equal(done_ok, 2);
    assert_false(rpc_client_is_looking(client));
    grant(peer); /* asleep again, and rung for */
    turn_until(events == 1);
    assert_int_equal(sched_setaffinity(0, sizeof(cpus), &cpus), 0);
}

static void looking_ends_and_a_late_answer_rings(void **state)
{
    cpu_set_t cpus;

    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof(cpus), &cpus), 0);
    if (CPU_COUNT(&cpus) < 2)
        skip();
    look_us = 1;
    ask_from_elsewhere(&cpus);
    while (rpc_client_is_looking(client))
        rpc_client_look(client);
    turn_until(done_ok == 2);
    assert_int_equal(sched_setaffinity(0, sizeof(cpus), &cpus), 0);
}

static void a_ring_that_is_full_for_a_moment_loses_nothing(void **state)
{
    Slipstream__V1__Query q;
    unsigned i;

    (void)state;
    slipstream__v1__query__init(&q);
    server_start(7);
    client_start();
    q.model = malloc(200000);
    memset(q.model, 'm', 200000);
    q.model[199999] = '\0';
    for (i = 0; i < 20; i++)
        assert_int_equal(rpc_call(client, PLACE, &q.base, 10000, on_done, NULL, 0, NULL), ERR_OK);
    turn_until(done_ok == 20);
    free(q.model);
}

#ifdef SLIP_FAULTS
static void a_ring_that_stays_full_is_busy_for_calls_and_keeps_reports(void **state)
{
    (void)state;
    server_start(7);
    client_start();
    fault_arm("ring_full", 1000000);
    assert_int_equal(report(5), ERR_OK);
    assert_int_equal(place(1, 10000, NULL), ERR_OK);
    turn_until(done_other == 1);
    assert_int_equal(last_status, ERR_BUSY);
    fault_arm("ring_full", 0);
    turn_until(reports == 1);
    assert_int_equal(served, 0);
    assert_int_equal(downs, 0);
}

static void a_ring_that_may_stand_still_keeps_its_calls(void **state)
{
    uint64_t until = clock_ms() + 20;

    (void)state;
    ring_busy_ms = ANY_MS;
    server_start(7);
    client_start();
    fault_arm("ring_full", 1000000);
    assert_int_equal(place(1, ANY_MS, NULL), ERR_OK);
    while (clock_ms() < until)
        loop_turn(loop, 5);
    assert_int_equal(done_ok + done_other, 0);
    fault_arm("ring_full", 0);
    turn_until(done_ok == 1);
    assert_int_equal(downs, 0);
}

static void a_carrier_that_refuses_a_frame_is_replaced_and_reports_survive(void **state)
{
    (void)state;
    server_start(7);
    client_start();
    turn_until(peer != NULL);
    loop_turn(loop, 5);
    assert_int_equal(place(1, 10000, NULL), ERR_OK);
    turn_until(done_ok == 1);
    assert_int_equal(report(5), ERR_OK);
    assert_int_equal(place(2, 10000, NULL), ERR_OK);
    fault_arm("rpc_send_fails", 1);
    turn_until(downs == 1 && ups == 2);
    assert_int_equal(done_gone, 1);
    assert_int_equal(resumed, 1);
    turn_until(reports == 1);
    assert_int_equal(served, 1);
}

static void a_lost_answer_is_a_timeout_and_no_more(void **state)
{
    (void)state;
    server_start(7);
    client_start();
    fault_arm("rpc_answer_lost", 1);
    assert_int_equal(place(1, 20, on_late), ERR_OK);
    turn_until(done_timeout == 1 && served == 1);
    assert_int_equal(place(2, 10000, NULL), ERR_OK);
    turn_until(done_ok == 1);
    assert_int_equal(downs + lates, 0);
}
#endif

static void without_a_ring_auto_carries_on_and_shm_says_why_not(void **state)
{
    (void)state;
    channel = RPC_SHM;
    server_start(7);
    channel = RPC_AUTO;
    assert_int_equal(unlink(ring_path), 0);
    client = client_new(NULL);
    turn_until(ups == 1);
    assert_false(rpc_client_is_ring(client));
    assert_int_equal(place(1, 10000, NULL), ERR_OK);
    turn_until(done_ok == 1);
    rpc_client_close(client);
    channel = RPC_SHM;
    client = client_new(NULL);
    turn_until(downs == 1);
    assert_string_equal(down_reason, "the ring could not be attached");
    assert_int_equal(ups, 1);
}

static void a_call_is_answered_over_tcp_where_it_is_allowed(void **state)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    char before[sizeof(url)];

    (void)state;
    /* A port that the kernel thinks free; nobody else asks for it between the two lines. */
    assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
    close(fd);
    strcpy(before, url);
    snprintf(url, sizeof(url), "tcp://127.0.0.1:%u", ntohs(addr.sin_port));
    is_tcp = true;
    server_start(7);
    client_start();
    strcpy(url, before);
    is_tcp = false;
    assert_int_equal(place(1, 10000, NULL), ERR_OK);
    turn_until(done_ok == 1);
    assert_false(rpc_peer_is_local(peer));
}

static void addresses_that_cannot_be_are_refused(void **state)
{
    struct rpc_client_conf conf = {.url = "tcp://127.0.0.1:1", .name = "test"};
    const char *bad[] = {"tcp://127.0.0.1:0"};
    struct rpc_server_conf sconf = {.urls = bad,
                                    .url_count = 1,
                                    .service = &slipstream__v1__scheduler__descriptor,
                                    .epoch = 1,
                                    .max_peers = 1};
    struct rpc_client *c;
    struct rpc_server *s;

    (void)state;
    server_start(7);
    assert_int_equal(rpc_client_open(&conf, rpc_host_loop(loop), &c), ERR_CONF);
    assert_int_equal(rpc_server_open(&sconf, rpc_host_loop(loop), &s), ERR_CONF);
    conf.url = "gopher://x";
    assert_int_equal(rpc_client_open(&conf, rpc_host_loop(loop), &c), ERR_CONF);
    conf.url = url;
    conf.channel = RPC_NONE;
    assert_int_equal(rpc_client_open(&conf, rpc_host_loop(loop), &c), ERR_CONF);
    sconf.urls = urls; /* in use */
    assert_int_equal(rpc_server_open(&sconf, rpc_host_loop(loop), &s), ERR_IO);
}

static int group_setup(void **state)
{
    (void)state;
    if (mkdtemp(dir) == NULL)
        return -1;
    snprintf(url, sizeof(url), "ipc://%s/s.ipc", dir);
    snprintf(ring_path, sizeof(ring_path), "%s/s.ring", dir);
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    return rmdir(dir);
}

#define both_carriers(f)                                     \
    cmocka_unit_test_setup_teardown(f, setup_nng, teardown), \
    {                                                        \
#f " (ring)", f, setup_ring, teardown, NULL          \
    }
#define over_ring(f) cmocka_unit_test_setup_teardown(f, setup_ring, teardown)
#define over_nng(f) cmocka_unit_test_setup_teardown(f, setup_nng, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        both_carriers(a_call_is_answered),
        both_carriers(many_calls_in_flight_are_answered_in_order),
        both_carriers(calls_may_be_answered_until_the_flush_and_in_any_order),
        both_carriers(a_call_that_is_not_answered_by_the_flush_holds_up_no_other),
        both_carriers(a_token_is_good_for_one_answer),
        both_carriers(calls_without_room_are_refused_and_those_with_room_answered),
        both_carriers(statuses_travel_and_what_is_unknown_or_too_large_is_said_so),
        both_carriers(a_request_larger_than_a_frame_is_refused),
        over_ring(a_server_may_offer_rings_for_frames_as_large_as_over_nng),
        over_ring(answers_of_many_megabytes_travel_in_a_large_ring),
        both_carriers(one_way_calls_arrive_all_and_batched),
        both_carriers(a_late_answer_goes_to_who_wanted_it),
        both_carriers(a_call_that_nobody_answers_times_out),
        both_carriers(events_arrive_once_and_in_order),
        both_carriers(events_of_a_turn_may_be_many_megabytes),
        both_carriers(a_restarted_server_is_found_again_with_its_new_epoch),
        both_carriers(a_peer_that_leaves_is_gone_after_its_grace),
        both_carriers(calls_under_way_end_when_the_client_closes),
        both_carriers(a_refused_hello_is_told_with_its_reason),
        over_ring(an_answer_is_looked_for_while_the_server_runs_elsewhere),
        over_ring(looking_ends_and_a_late_answer_rings),
        over_ring(a_ring_that_is_full_for_a_moment_loses_nothing),
#ifdef SLIP_FAULTS
        over_ring(a_ring_that_stays_full_is_busy_for_calls_and_keeps_reports),
        over_ring(a_ring_that_may_stand_still_keeps_its_calls),
        over_nng(a_carrier_that_refuses_a_frame_is_replaced_and_reports_survive),
        both_carriers(a_lost_answer_is_a_timeout_and_no_more),
#endif
        over_nng(without_a_ring_auto_carries_on_and_shm_says_why_not),
        over_nng(a_call_is_answered_over_tcp_where_it_is_allowed),
        over_nng(addresses_that_cannot_be_are_refused),
    };

    return cmocka_run_group_tests_name("rpc", tests, group_setup, group_teardown);
}
