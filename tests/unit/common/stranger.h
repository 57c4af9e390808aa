/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_TESTS_STRANGER_H
#define SLIP_TESTS_STRANGER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/loop.h"
#include "common/ring.h"
#include "common/rpc.h"
#include "common/rpc_frame.h"
#include "common/rpc_server.h"
#include "proto/scheduler.pb-c.h"

/*
 * A server, one good client, and a stranger who speaks the wire by hand: nng's ipc framing over a
 * plain socket, the ring's socket and its memory. Whatever he does, the good client is served.
 */
#define EPOCH 7u
#define ANY_MS 20000
#define SESSION UINT64_C(4711)

static struct loop *loop;
static struct rpc_server *server;
static struct rpc_client *client;
static char dir[] = "/tmp/slip-peer-XXXXXX";
static char url[100], ipc_path[80], ring_path[80];
static const char *urls[] = {url};
static unsigned served, stranger_served, hellos, resumed, gones, ups, downs, done, done_gone,
    events;
static uint64_t last_event;
static struct rpc_peer *stranger_peer, *client_peer;
static bool keeps;                  /* the server answers when the test says so */
static uint64_t kept[4];            /* tokens */
static unsigned kept_count, awaits; /* no flush before so many calls were kept */
static bool tells;                  /* and sends an event during each call */

static inline enum err on_hello(void *arg, struct rpc_peer *p, const char *name, const char *key,
                                uint8_t **info, size_t *info_len, const char **reason)
{
    (void)arg, (void)key, (void)info, (void)info_len, (void)reason;
    hellos++;
    resumed += rpc_peer_is_resumed(p);
    if (strcmp(name, "good") == 0)
        client_peer = p;
    else
        stranger_peer = p;
    return ERR_OK;
}

static inline void event_send(struct rpc_peer *p, uint64_t number)
{
    Slipstream__V1__Decision d;

    slipstream__v1__decision__init(&d);
    d.handle = number;
    assert_int_equal(rpc_event(server, p, 0, &d.base), ERR_OK);
}

static inline void on_call(void *arg, struct rpc_peer *p, unsigned method, uint64_t token,
                           uint32_t timeout_ms, const uint8_t *body, size_t len)
{
    (void)arg, (void)method, (void)timeout_ms, (void)body, (void)len;
    served++;
    stranger_served += p == stranger_peer;
    if (tells)
        event_send(p, served);
    if (keeps)
        kept[kept_count++] = token;
    else
        rpc_reply(server, token, ERR_OK, NULL);
}

static inline void on_gone(void *arg, struct rpc_peer *p)
{
    (void)arg;
    gones++;
    if (p == stranger_peer)
        stranger_peer = NULL;
    if (p == client_peer)
        client_peer = NULL;
}

static inline void on_up(void *arg, uint64_t epoch, const uint8_t *info, size_t len)
{
    (void)arg, (void)info, (void)len;
    assert_int_equal(epoch, EPOCH);
    ups++;
}

static inline void on_down(void *arg, const char *reason)
{
    (void)arg, (void)reason;
    downs++;
}

static inline void on_event(void *arg, unsigned method, const uint8_t *body, size_t len)
{
    Slipstream__V1__Decision *d = slipstream__v1__decision__unpack(NULL, len, body);

    (void)arg, (void)method;
    assert_int_equal(d->handle, last_event + 1);
    last_event = d->handle;
    events++;
    slipstream__v1__decision__free_unpacked(d, NULL);
}

static inline void on_done(void *arg, uint64_t token, enum err status, const uint8_t *body,
                           size_t len)
{
    (void)arg, (void)token, (void)body, (void)len;
    done += status == ERR_OK;
    done_gone += status == ERR_GONE;
}

static inline void flush(void *arg)
{
    (void)arg;
    if (client != NULL)
        rpc_client_flush(client);
    if (kept_count >= awaits)
        rpc_server_flush(server);
}

#define turn_until(condition)                    \
    do {                                         \
        uint64_t deadline = clock_ms() + ANY_MS; \
        while (!(condition)) {                   \
            assert_true(clock_ms() < deadline);  \
            loop_turn(loop, 20);                 \
        }                                        \
    } while (0)

static inline void client_start(enum rpc_channel channel)
{
    const struct rpc_client_conf conf = {.url = url,
                                         .name = "good",
                                         .channel = channel,
                                         .on_up = on_up,
                                         .on_down = on_down,
                                         .on_event = on_event};

    assert_int_equal(rpc_client_open(&conf, rpc_host_loop(loop), &client), ERR_OK);
    turn_until(ups == 1);
}

static inline void place(void)
{
    Slipstream__V1__Query q;

    slipstream__v1__query__init(&q);
    assert_int_equal(rpc_call(client, 0, &q.base, ANY_MS, on_done, NULL, 0, NULL), ERR_OK);
}

static inline void good_client_is_served(void)
{
    unsigned before = done;

    place();
    turn_until(done == before + 1);
    assert_int_equal(downs, 0);
}

static inline int setup(void **state)
{
    const struct rpc_server_conf conf = {.urls = urls,
                                         .url_count = 1,
                                         .ring_path = ring_path,
                                         .service = &slipstream__v1__scheduler__descriptor,
                                         .epoch = EPOCH,
                                         .max_peers = 4,
                                         .on_hello = on_hello,
                                         .on_call = on_call,
                                         .on_gone = on_gone};

    (void)state;
    served = stranger_served = hellos = resumed = gones = ups = downs = done = done_gone = events =
        0;
    keeps = tells = false;
    kept_count = awaits = 0;
    last_event = 0;
    stranger_peer = client_peer = NULL;
    loop = loop_new();
    loop_at_turn_end(loop, flush, NULL);
    return rpc_server_open(&conf, rpc_host_loop(loop), &server) == ERR_OK ? 0 : -1;
}

static inline int teardown(void **state)
{
    (void)state;
    rpc_client_close(client);
    client = NULL;
    rpc_server_close(server);
    server = NULL;
    loop_free(loop);
    return 0;
}

/* ---- the stranger's hands ---- */

static inline int dial(const char *path, int type)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    strcpy(addr.sun_path, path);
    assert_true(fd >= 0);
    while (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) != 0) {
        assert_int_equal(errno, EAGAIN); /* the backlog is full */
        loop_turn(loop, 1);
    }
    return fd;
}

/* Reads exactly n bytes while the server's loop turns. */
static inline void receive(int fd, void *to, size_t n)
{
    uint64_t deadline = clock_ms() + ANY_MS;
    size_t got = 0;

    while (got < n) {
        ssize_t r = recv(fd, (char *)to + got, n - got, 0);

        assert_true(clock_ms() < deadline && r != 0);
        if (r > 0)
            got += (size_t)r;
        else
            loop_turn(loop, 1);
    }
}

static inline int stranger_new(void)
{
    static const char sp[8] = {0, 'S', 'P', 0, 0, 0x30, 0, 0};
    char answer[8];
    int fd = dial(ipc_path, SOCK_STREAM);

    assert_int_equal(send(fd, sp, sizeof(sp), MSG_NOSIGNAL), sizeof(sp));
    receive(fd, answer, sizeof(answer));
    return fd;
}

static inline void stranger_send(int fd, const void *p, size_t len)
{
    uint8_t head[13] = {1,    0, 0, 0, 0, 0, 0, (uint8_t)((len + 4) >> 8), (uint8_t)(len + 4),
                        0x80, 0, 0, 1};

    assert_int_equal(send(fd, head, sizeof(head), MSG_NOSIGNAL | (len > 0 ? MSG_MORE : 0)),
                     sizeof(head));
    if (len > 0)
        assert_int_equal(send(fd, p, len, MSG_NOSIGNAL), len);
}

static inline void stranger_receive(int fd, struct buf *b)
{
    uint8_t head[13];
    size_t len;

    receive(fd, head, sizeof(head));
    len = (size_t)head[6] << 16 | (size_t)head[7] << 8 | head[8];
    buf_clear(b);
    receive(fd, buf_reserve(b, len), len - 4);
    b->len = len - 4;
}

static inline void stranger_ask(int fd, uint64_t epoch, uint64_t seq, const struct frame_call *call,
                                const ProtobufCMessage *body)
{
    uint8_t head[FRAME_HEAD_BYTES];
    struct buf b = {0};

    frame_write_head(head, &(struct frame_head){.proto = 1, .epoch = epoch, .seq = seq});
    buf_add(&b, head, sizeof(head));
    frame_add_call(&b, call, body);
    stranger_send(fd, b.base, b.len);
    buf_fini(&b);
}

static inline struct frame_call first_call(const struct buf *b)
{
    struct frame_reader r;
    struct frame_head head;
    struct frame_call call;

    assert_int_equal(frame_open(&r, (uint8_t *)b->base, b->len, &head), ERR_OK);
    assert_true(frame_next(&r, &call));
    return call;
}

/* Says hello and returns the status; reply may be NULL. */
static inline uint32_t stranger_hello(int fd, Slipstream__V1__Hello *hello,
                                      Slipstream__V1__HelloReply **reply)
{
    struct buf b = {0};
    struct frame_call call;

    stranger_ask(fd, 0, 0, &(struct frame_call){.id = 1, .method = FRAME_HELLO}, &hello->base);
    stranger_receive(fd, &b);
    call = first_call(&b);
    assert_int_equal(call.method, FRAME_HELLO);
    if (reply != NULL)
        *reply = slipstream__v1__hello_reply__unpack(NULL, call.len, call.body);
    buf_fini(&b);
    return call.status;
}

static inline Slipstream__V1__Hello good_hello(void)
{
    Slipstream__V1__Hello hello;

    slipstream__v1__hello__init(&hello);
    hello.proto_min = hello.proto_max = RPC_PROTO_MAX;
    hello.session = SESSION;
    return hello;
}

static inline int group_setup(void **state)
{
    (void)state;
    if (mkdtemp(dir) == NULL)
        return -1;
    snprintf(ipc_path, sizeof(ipc_path), "%s/s.ipc", dir);
    snprintf(url, sizeof(url), "ipc://%s", ipc_path);
    snprintf(ring_path, sizeof(ring_path), "%s/s.ring", dir);
    return 0;
}

static inline int group_teardown(void **state)
{
    (void)state;
    return rmdir(dir);
}

#define peer_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

#endif
