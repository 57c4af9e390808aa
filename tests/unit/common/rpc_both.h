/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_TESTS_RPC_BOTH_H
#define SLIP_TESTS_RPC_BOTH_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
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
static unsigned served, reports, hellos, gones, resumed, reports_before_place;
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

static inline enum err on_hello(void *arg, struct rpc_peer *p, const char *name, const char *key,
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

static inline void grant(struct rpc_peer *p)
{
    Slipstream__V1__Decision d;

    slipstream__v1__decision__init(&d);
    d.handle = ++next_grant;
    assert_int_equal(rpc_event(server, p, 0, &d.base), ERR_OK);
}

static inline void on_place(struct rpc_peer *p, uint64_t token, const uint8_t *body, size_t len)
{
    Slipstream__V1__Query *q = slipstream__v1__query__unpack(NULL, len, body);
    Slipstream__V1__Decision d;
    unsigned i;

    slipstream__v1__decision__init(&d);
    served++;
    reports_before_place = reports;
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

static inline void on_call(void *arg, struct rpc_peer *p, unsigned method, uint64_t token,
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

static inline void on_gone(void *arg, struct rpc_peer *p)
{
    (void)arg;
    gones++;
    if (peer == p)
        peer = NULL;
}

static inline void on_up(void *arg, uint64_t epoch, const uint8_t *info, size_t len)
{
    (void)arg;
    assert_int_equal(len, 4);
    assert_memory_equal(info, "test", 4);
    ups++;
    up_epoch = epoch;
}

static inline void on_down(void *arg, const char *reason)
{
    (void)arg;
    downs++;
    snprintf(down_reason, sizeof(down_reason), "%s", reason);
}

static inline void on_event(void *arg, unsigned method, const uint8_t *body, size_t len)
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

static inline void on_done(void *arg, uint64_t token, enum err status, const uint8_t *body,
                           size_t len)
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

static inline void on_status(void *arg, uint64_t token, enum err status, const uint8_t *body,
                             size_t len)
{
    (void)arg, (void)token, (void)body;
    assert_int_equal(status, ERR_OK);
    assert_true(len >= status_bytes);
    done_ok++;
}

static inline void on_late(void *arg, uint64_t token, enum err status, const uint8_t *body,
                           size_t len)
{
    (void)arg, (void)token, (void)body, (void)len;
    assert_int_equal(status, ERR_OK);
    lates++;
}

static inline enum err answer_kept(void)
{
    Slipstream__V1__Decision d;
    const struct kept *k = &kept[--kept_count];

    slipstream__v1__decision__init(&d);
    d.handle = k->handle;
    d.engine = (uint32_t)(k->handle * 3);
    return rpc_reply(server, k->token, ERR_OK, &d.base);
}

static inline void flush(void *arg)
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

static inline void server_start(uint64_t epoch)
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

static inline void server_stop(void)
{
    rpc_server_close(server);
    server = NULL;
    peer = NULL;
}

static inline struct rpc_client *client_new(const char *key)
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

static inline void client_start(void)
{
    client = client_new(NULL);
    turn_until(ups == 1);
    assert_true(rpc_client_is_up(client));
    assert_int_equal(rpc_client_is_ring(client), channel != RPC_NNG);
}

static inline enum err place(uint64_t handle, uint32_t timeout_ms, rpc_done_fn *late)
{
    Slipstream__V1__Query q;
    char model[] = "a-model";

    slipstream__v1__query__init(&q);
    q.handle = handle;
    q.model = model;
    return rpc_call(client, PLACE, &q.base, timeout_ms, on_done, NULL, handle, late);
}

static inline enum err report(uint64_t handle)
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

static inline int setup(void)
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

static inline int setup_nng(void **state)
{
    (void)state;
    channel = RPC_NNG;
    return setup();
}

static inline int setup_ring(void **state)
{
    (void)state;
    channel = RPC_SHM;
    return setup();
}

static inline int teardown(void **state)
{
    (void)state;
    rpc_client_close(client);
    client = NULL;
    server_stop();
    loop_free(loop);
    return 0;
}

static inline int group_setup(void **state)
{
    (void)state;
    if (mkdtemp(dir) == NULL)
        return -1;
    snprintf(url, sizeof(url), "ipc://%s/s.ipc", dir);
    snprintf(ring_path, sizeof(ring_path), "%s/s.ring", dir);
    return 0;
}

static inline int group_teardown(void **state)
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

#endif
