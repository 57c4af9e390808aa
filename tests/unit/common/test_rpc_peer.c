/* SPDX-License-Identifier: Apache-2.0 */
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

static enum err on_hello(void *arg, struct rpc_peer *p, const char *name, const char *key,
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

static void event_send(struct rpc_peer *p, uint64_t number)
{
    Slipstream__V1__Decision d;

    slipstream__v1__decision__init(&d);
    d.handle = number;
    assert_int_equal(rpc_event(server, p, 0, &d.base), ERR_OK);
}

static void on_call(void *arg, struct rpc_peer *p, unsigned method, uint64_t token,
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

static void on_gone(void *arg, struct rpc_peer *p)
{
    (void)arg;
    gones++;
    if (p == stranger_peer)
        stranger_peer = NULL;
    if (p == client_peer)
        client_peer = NULL;
}

static void on_up(void *arg, uint64_t epoch, const uint8_t *info, size_t len)
{
    (void)arg, (void)info, (void)len;
    assert_int_equal(epoch, EPOCH);
    ups++;
}

static void on_down(void *arg, const char *reason)
{
    (void)arg, (void)reason;
    downs++;
}

static void on_event(void *arg, unsigned method, const uint8_t *body, size_t len)
{
    Slipstream__V1__Decision *d = slipstream__v1__decision__unpack(NULL, len, body);

    (void)arg, (void)method;
    assert_int_equal(d->handle, last_event + 1);
    last_event = d->handle;
    events++;
    slipstream__v1__decision__free_unpacked(d, NULL);
}

static void on_done(void *arg, uint64_t token, enum err status, const uint8_t *body, size_t len)
{
    (void)arg, (void)token, (void)body, (void)len;
    done += status == ERR_OK;
    done_gone += status == ERR_GONE;
}

static void flush(void *arg)
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

static void client_start(enum rpc_channel channel)
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

static void place(void)
{
    Slipstream__V1__Query q;

    slipstream__v1__query__init(&q);
    assert_int_equal(rpc_call(client, 0, &q.base, ANY_MS, on_done, NULL, 0, NULL), ERR_OK);
}

static void good_client_is_served(void)
{
    unsigned before = done;

    place();
    turn_until(done == before + 1);
    assert_int_equal(downs, 0);
}

static int setup(void **state)
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

static int teardown(void **state)
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

static int dial(const char *path, int type)
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
static void receive(int fd, void *to, size_t n)
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

static int stranger_new(void)
{
    static const char sp[8] = {0, 'S', 'P', 0, 0, 0x30, 0, 0};
    char answer[8];
    int fd = dial(ipc_path, SOCK_STREAM);

    assert_int_equal(send(fd, sp, sizeof(sp), MSG_NOSIGNAL), sizeof(sp));
    receive(fd, answer, sizeof(answer));
    return fd;
}

static void stranger_send(int fd, const void *p, size_t len)
{
    uint8_t head[13] = {1,    0, 0, 0, 0, 0, 0, (uint8_t)((len + 4) >> 8), (uint8_t)(len + 4),
                        0x80, 0, 0, 1};

    assert_int_equal(send(fd, head, sizeof(head), MSG_NOSIGNAL | (len > 0 ? MSG_MORE : 0)),
                     sizeof(head));
    if (len > 0)
        assert_int_equal(send(fd, p, len, MSG_NOSIGNAL), len);
}

static void stranger_receive(int fd, struct buf *b)
{
    uint8_t head[13];
    size_t len;

    receive(fd, head, sizeof(head));
    len = (size_t)head[6] << 16 | (size_t)head[7] << 8 | head[8];
    buf_clear(b);
    receive(fd, buf_reserve(b, len), len - 4);
    b->len = len - 4;
}

static void stranger_ask(int fd, uint64_t epoch, uint64_t seq, const struct frame_call *call,
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

static struct frame_call first_call(const struct buf *b)
{
    struct frame_reader r;
    struct frame_head head;
    struct frame_call call;

    assert_int_equal(frame_open(&r, (uint8_t *)b->base, b->len, &head), ERR_OK);
    assert_true(frame_next(&r, &call));
    return call;
}

/* Says hello and returns the status; reply may be NULL. */
static uint32_t stranger_hello(int fd, Slipstream__V1__Hello *hello,
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

static Slipstream__V1__Hello good_hello(void)
{
    Slipstream__V1__Hello hello;

    slipstream__v1__hello__init(&hello);
    hello.proto_min = hello.proto_max = RPC_PROTO_MAX;
    hello.session = SESSION;
    return hello;
}

/* ---- hello ---- */

static void a_hello_without_a_common_version_is_refused(void **state)
{
    Slipstream__V1__Hello hello = good_hello();
    int fd = stranger_new();

    (void)state;
    hello.proto_min = RPC_PROTO_MAX + 1;
    hello.proto_max = RPC_PROTO_MAX + 9;
    assert_int_equal(stranger_hello(fd, &hello, NULL), ERR_VERSION);
    hello = good_hello();
    hello.session = 0;
    assert_int_equal(stranger_hello(fd, &hello, NULL), ERR_PROTO);
    assert_int_equal(rpc_server_peers(server), 0);
    assert_int_equal(hellos, 0);
    close(fd);
}

static void peers_above_the_limit_are_refused(void **state)
{
    Slipstream__V1__Hello hello = good_hello();
    int fd[5], i;

    (void)state;
    for (i = 0; i < 5; i++) {
        fd[i] = stranger_new();
        hello.session = SESSION + (uint64_t)i;
        assert_int_equal(stranger_hello(fd[i], &hello, NULL), i < 4 ? ERR_OK : ERR_BUSY);
    }
    for (i = 0; i < 5; i++)
        close(fd[i]);
    turn_until(gones == 4);
}

static void a_frame_before_the_hello_or_of_another_epoch_is_told_to_say_hello(void **state)
{
    Slipstream__V1__Hello hello = good_hello();
    struct frame_call call = {.id = 5, .method = RPC_METHOD_BASE};
    struct buf b = {0};
    int fd = stranger_new();

    (void)state;
    stranger_ask(fd, EPOCH, 1, &call, NULL);
    stranger_receive(fd, &b);
    assert_int_equal(first_call(&b).status, ERR_HELLO);
    assert_int_equal(stranger_hello(fd, &hello, NULL), ERR_OK);
    stranger_ask(fd, EPOCH - 1, 1, &call, NULL);
    stranger_receive(fd, &b);
    assert_int_equal(first_call(&b).status, ERR_HELLO);
    assert_int_equal(served, 0);
    stranger_ask(fd, EPOCH, 1, &call, NULL);
    stranger_receive(fd, &b);
    assert_int_equal(first_call(&b).id, 5);
    assert_int_equal(served, 1);
    buf_fini(&b);
    close(fd);
}

static void a_frame_is_handled_once_even_if_it_comes_twice(void **state)
{
    Slipstream__V1__Hello hello = good_hello();
    Slipstream__V1__HelloReply *reply;
    struct buf b = {0};
    int fd = stranger_new(), i;

    (void)state;
    assert_int_equal(stranger_hello(fd, &hello, NULL), ERR_OK);
    for (i = 0; i < 2; i++) {
        stranger_ask(fd, EPOCH, 4, &(struct frame_call){.id = 5, .method = RPC_METHOD_BASE}, NULL);
        stranger_receive(fd, &b);
    }
    assert_int_equal(served, 1);
    assert_int_equal(stranger_hello(fd, &hello, &reply), ERR_OK);
    assert_int_equal(reply->acked, 4);
    assert_true(reply->resumed);
    slipstream__v1__hello_reply__free_unpacked(reply, NULL);
    buf_fini(&b);
    close(fd);
}

static void stranger_asks_and_is_kept(int fd, uint64_t seq)
{
    unsigned before = kept_count;

    stranger_ask(fd, EPOCH, seq,
                 &(struct frame_call){.id = (uint32_t)seq, .method = RPC_METHOD_BASE}, NULL);
    turn_until(kept_count == before + 1);
}

static void who_asks_again_before_the_answer_gets_both(void **state)
{
    Slipstream__V1__Hello hello = good_hello();
    unsigned seen = 0;
    struct buf b = {0};
    int fd = stranger_new(), i;

    (void)state;
    assert_int_equal(stranger_hello(fd, &hello, NULL), ERR_OK);
    keeps = true;
    awaits = 3; /* no flush until the test lets it */
    stranger_asks_and_is_kept(fd, 1);
    stranger_asks_and_is_kept(fd, 2);
    for (i = 0; i < 2; i++)
        assert_int_equal(rpc_reply(server, kept[i], ERR_OK, NULL), ERR_OK);
    for (i = 0; i < 2; i++) {
        struct frame_reader r;
        struct frame_head head;
        struct frame_call call;

        stranger_receive(fd, &b);
        assert_int_equal(frame_open(&r, (uint8_t *)b.base, b.len, &head), ERR_OK);
        while (frame_next(&r, &call))
            seen |= 1u << call.id;
    }
    assert_int_equal(seen, 1u << 1 | 1u << 2);
    buf_fini(&b);
    close(fd);
}

static void nobody_waits_for_an_answer_after_a_new_hello_or_the_end_of_a_peer(void **state)
{
    Slipstream__V1__Hello hello = good_hello();
    int fd = stranger_new();

    (void)state;
    assert_int_equal(stranger_hello(fd, &hello, NULL), ERR_OK);
    keeps = true;
    awaits = 3;
    stranger_asks_and_is_kept(fd, 1);
    stranger_asks_and_is_kept(fd, 2);
    stranger_ask(fd, 0, 0, &(struct frame_call){.id = 1, .method = FRAME_HELLO}, &hello.base);
    turn_until(hellos == 2);
    assert_int_equal(rpc_reply(server, kept[0], ERR_OK, NULL), ERR_GONE);
    kept_count--;
    stranger_asks_and_is_kept(fd, 3);
    hello.session++;
    stranger_ask(fd, 0, 0, &(struct frame_call){.id = 1, .method = FRAME_HELLO}, &hello.base);
    turn_until(gones == 1);
    assert_int_equal(rpc_reply(server, kept[1], ERR_OK, NULL), ERR_GONE);
    close(fd);
    client_start(RPC_NNG);
    keeps = false;
    awaits = 0;
    good_client_is_served();
}

/* ---- events ---- */

static uint64_t stranger_next(int fd, uint64_t seq, uint64_t acked)
{
    Slipstream__V1__Next next;
    struct buf b = {0};
    uint64_t event;

    slipstream__v1__next__init(&next);
    next.acked = acked;
    stranger_ask(fd, EPOCH, seq, &(struct frame_call){.id = 1, .method = FRAME_NEXT}, &next.base);
    stranger_receive(fd, &b);
    event = first_call(&b).event;
    buf_fini(&b);
    return event;
}

static void an_event_is_sent_again_until_it_is_confirmed(void **state)
{
    Slipstream__V1__Hello hello = good_hello();
    int fd = stranger_new();

    (void)state;
    assert_int_equal(stranger_hello(fd, &hello, NULL), ERR_OK);
    event_send(stranger_peer, 1);
    assert_int_equal(stranger_next(fd, 1, 0), 1);
    close(fd); /* the link breaks, the session does not */
    fd = stranger_new();
    assert_int_equal(stranger_hello(fd, &hello, NULL), ERR_OK);
    assert_int_equal(resumed, 1);
    assert_int_equal(stranger_next(fd, 1, 0), 1);
    event_send(stranger_peer, 2);
    assert_int_equal(stranger_next(fd, 2, 1), 2);
    assert_int_equal(gones, 0);
    close(fd);
    turn_until(gones == 1);
}

static void stranger_park(int fd, uint64_t seq)
{
    Slipstream__V1__Next next;

    slipstream__v1__next__init(&next);
    stranger_ask(fd, EPOCH, seq, &(struct frame_call){.id = 1, .method = FRAME_NEXT}, &next.base);
}

static void no_event_overtakes_the_answer_that_a_call_of_its_turn_still_waits_for(void **state)
{
    Slipstream__V1__Hello hello = good_hello();
    struct buf b = {0};
    int fd = stranger_new();

    (void)state;
    assert_int_equal(stranger_hello(fd, &hello, NULL), ERR_OK);
    stranger_park(fd, 1);
    turn_until(stranger_peer->parked != NULL);
    keeps = tells = true;
    awaits = 2;
    stranger_asks_and_is_kept(fd, 2);
    assert_int_equal(rpc_reply(server, kept[0], ERR_OK, NULL), ERR_OK);
    stranger_receive(fd, &b);
    assert_int_equal(first_call(&b).id, 2);
    assert_int_equal(first_call(&b).event, 0);
    awaits = 1; /* the flush */
    stranger_receive(fd, &b);
    assert_int_equal(first_call(&b).event, 1);
    buf_fini(&b);
    close(fd);
}

static void a_parked_next_is_answered_empty_after_a_while(void **state)
{
    Slipstream__V1__Hello hello = good_hello();
    struct buf b = {0};
    uint8_t byte;
    int fd = stranger_new();

    (void)state;
    assert_int_equal(stranger_hello(fd, &hello, NULL), ERR_OK);
    clock_set(clock_ns());
    stranger_park(fd, 1);
    while (recv(fd, &byte, 1, MSG_PEEK) != 1) { /* nothing, until the clock has moved */
        clock_advance(NS_PER_S);
        loop_turn(loop, 1);
        usleep(1000);
    }
    assert_true(clock_ns() >= 20 * NS_PER_S);
    clock_set(0);
    stranger_receive(fd, &b);
    assert_int_equal(b.len, FRAME_HEAD_BYTES);
    buf_fini(&b);
    close(fd);
}

static void a_peer_that_falls_silent_is_given_up(void **state)
{
    Slipstream__V1__Hello hello = good_hello();
    int fd = stranger_new();

    (void)state;
    assert_int_equal(stranger_hello(fd, &hello, NULL), ERR_OK);
    clock_set(clock_ns());
    for (unsigned i = 0; i < 40; i++) {
        clock_advance(NS_PER_S);
        loop_turn(loop, 0);
    }
    assert_int_equal(gones, 0);
    for (unsigned i = 0; i < 10; i++) {
        clock_advance(NS_PER_S);
        loop_turn(loop, 0);
    }
    assert_int_equal(gones, 1);
    clock_set(0);
    close(fd);
}

/* ---- a link of the good client that breaks ---- */

static int ring_socket_of_the_client(void)
{
    socklen_t len;
    int fd, type, found = -1;

    for (fd = 3; fd < 200; fd++) {
        struct sockaddr_un addr;

        len = sizeof(type);
        if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) != 0 || type != SOCK_SEQPACKET)
            continue;
        len = sizeof(addr);
        if (getpeername(fd, (struct sockaddr *)&addr, &len) == 0)
            found = fd;
    }
    return found;
}

static void a_ring_that_breaks_is_made_anew_and_nothing_is_lost(void **state)
{
    unsigned i;

    (void)state;
    client_start(RPC_AUTO);
    assert_true(rpc_client_is_ring(client));
    for (i = 1; i <= 10; i++)
        event_send(client_peer, i);
    turn_until(events == 10);
    place();
    assert_int_equal(shutdown(ring_socket_of_the_client(), SHUT_RDWR), 0);
    for (i = 11; i <= 20; i++)
        event_send(client_peer, i);
    turn_until(ups == 2);
    assert_int_equal(downs, 1);
    assert_int_equal(done + done_gone, 1);
    assert_true(rpc_client_is_ring(client));
    assert_int_equal(resumed, 1);
    place();
    turn_until(events == 20 && done + done_gone == 2);
    assert_int_equal(gones, 0);
}

/* ---- hostility ---- */

static void garbage_costs_only_its_own_connection(void **state)
{
    uint8_t junk[600];
    struct buf b = {0};
    unsigned i, k;
    int fd;

    (void)state;
    client_start(RPC_NNG);
    srand(11);
    for (i = 0; i < 40; i++) {
        fd = stranger_new();
        for (k = 0; k < sizeof(junk); k++)
            junk[k] = (uint8_t)rand();
        stranger_send(fd, junk, (size_t)rand() % sizeof(junk));
        loop_turn(loop, 1);
        stranger_ask(fd, 0, 0, &(struct frame_call){.id = 1, .method = FRAME_HELLO}, NULL);
        loop_turn(loop, 1);
        close(fd);
    }
    fd = stranger_new(); /* more calls than a frame may hold */
    for (i = 0; i <= FRAME_CALLS_MAX; i++)
        frame_add_call(&b, &(struct frame_call){.id = 1, .method = RPC_METHOD_BASE}, NULL);
    stranger_send(fd, b.base, b.len);
    stranger_receive(fd, &b);
    assert_int_equal(b.len, 0);
    close(fd);
    buf_fini(&b);
    good_client_is_served();
    assert_int_equal(stranger_served, 0);
}

static void callers_who_hang_up_at_once_do_not_close_the_door(void **state)
{
    unsigned i;

    (void)state;
    for (i = 0; i < 300; i++)
        close(dial(ipc_path, SOCK_STREAM));
    client_start(RPC_NNG);
    good_client_is_served();
}

/* Each of them can end nng's listener; more ends than listeners fit into the server's table. */
static void the_door_opens_again_however_often_it_closes(void **state)
{
    unsigned ends = 0, tries = 0, i;
    struct stat was, now;

    (void)state;
    clock_set(clock_ns());
    assert_int_equal(stat(ipc_path, &was), 0);
    for (; ends < 80; tries++) {
        assert_true(tries < 20000);
        for (i = 0; i < 5; i++)
            close(dial(ipc_path, SOCK_STREAM));
        clock_advance(NS_PER_S / 2);
        for (i = 0; i < 3; i++)
            loop_turn(loop, 1);
        assert_int_equal(stat(ipc_path, &now), 0);
        ends += now.st_ino != was.st_ino;
        was = now;
    }
    clock_set(0);
    client_start(RPC_NNG);
    good_client_is_served();
}

static void strangers_at_the_ring_door_are_turned_away(void **state)
{
    uint64_t ticket[3] = {UINT64_C(0x31676e6972706c73), SESSION, 12345};
    int fd[20], i;
    char byte;

    (void)state;
    for (i = 0; i < 20; i++) {
        fd[i] = dial(ring_path, SOCK_SEQPACKET);
        if (i % 3 == 0)
            assert_int_equal(send(fd[i], ticket, sizeof(ticket), 0), sizeof(ticket));
        else if (i % 3 == 1)
            assert_int_equal(send(fd[i], "who are you", 11, 0), 11);
    }
    client_start(RPC_SHM);
    good_client_is_served();
    turn_until(recv(fd[0], &byte, 1, 0) == 0 && recv(fd[1], &byte, 1, 0) == 0);
    for (i = 0; i < 20; i++)
        close(fd[i]);
}

static int take_segment(int fd)
{
    char control[CMSG_SPACE(sizeof(int))], byte;
    struct iovec iov = {&byte, 1};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control,
                       .msg_controllen = sizeof(control)};
    uint64_t deadline = clock_ms() + ANY_MS;
    int got;

    while (recvmsg(fd, &m, 0) != 1) {
        assert_true(clock_ms() < deadline);
        loop_turn(loop, 1);
    }
    memcpy(&got, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(got));
    return got;
}

static void a_peer_that_damages_its_ring_loses_it(void **state)
{
    Slipstream__V1__Hello hello = good_hello();
    Slipstream__V1__HelloReply *reply;
    uint64_t ticket[3] = {UINT64_C(0x31676e6972706c73), SESSION, 0};
    char boot_id[40], byte;
    struct ring_shared *to_server;
    struct shm segment;
    int fd = stranger_new(), ring;

    (void)state;
    client_start(RPC_SHM);
    snprintf(boot_id, sizeof(boot_id), "%s", shm_boot_id());
    hello.boot_id = boot_id;
    hello.want_ring = true;
    assert_int_equal(stranger_hello(fd, &hello, &reply), ERR_OK);
    assert_string_equal(reply->ring_path, ring_path);
    ticket[2] = reply->ring_token;
    slipstream__v1__hello_reply__free_unpacked(reply, NULL);
    ring = dial(ring_path, SOCK_SEQPACKET);
    assert_int_equal(send(ring, ticket, sizeof(ticket), 0), sizeof(ticket));
    assert_int_equal(shm_map_fd(take_segment(ring), ring_segment_bytes(RPC_RING_BYTES), &segment),
                     ERR_OK);
    to_server = ring_in_segment(segment.head, RPC_RING_BYTES, true);
    memset(to_server->data, 0xff, RPC_RING_BYTES);
    atomic_store(&to_server->head, 800);
    assert_int_equal(send(ring, "", 1, 0), 1);
    turn_until(gones == 1); /* he says no hello again */
    assert_int_equal(recv(ring, &byte, 1, 0), 0);
    good_client_is_served();
    assert_int_equal(stranger_served, 0);
    shm_close(&segment);
    close(ring);
    close(fd);
}

#ifdef SLIP_SANITIZED
/* A listener of nng 1.5.2 that died does not give back what it held. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libnng.so";
}
#endif

static int group_setup(void **state)
{
    (void)state;
    if (mkdtemp(dir) == NULL)
        return -1;
    snprintf(ipc_path, sizeof(ipc_path), "%s/s.ipc", dir);
    snprintf(url, sizeof(url), "ipc://%s", ipc_path);
    snprintf(ring_path, sizeof(ring_path), "%s/s.ring", dir);
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    return rmdir(dir);
}

#define peer_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        peer_test(a_hello_without_a_common_version_is_refused),
        peer_test(peers_above_the_limit_are_refused),
        peer_test(a_frame_before_the_hello_or_of_another_epoch_is_told_to_say_hello),
        peer_test(a_frame_is_handled_once_even_if_it_comes_twice),
        peer_test(who_asks_again_before_the_answer_gets_both),
        peer_test(nobody_waits_for_an_answer_after_a_new_hello_or_the_end_of_a_peer),
        peer_test(an_event_is_sent_again_until_it_is_confirmed),
        peer_test(no_event_overtakes_the_answer_that_a_call_of_its_turn_still_waits_for),
        peer_test(a_parked_next_is_answered_empty_after_a_while),
        peer_test(a_peer_that_falls_silent_is_given_up),
        peer_test(a_ring_that_breaks_is_made_anew_and_nothing_is_lost),
        peer_test(garbage_costs_only_its_own_connection),
        peer_test(callers_who_hang_up_at_once_do_not_close_the_door),
        peer_test(the_door_opens_again_however_often_it_closes),
        peer_test(strangers_at_the_ring_door_are_turned_away),
        peer_test(a_peer_that_damages_its_ring_loses_it),
    };

    return cmocka_run_group_tests_name("rpc_peer", tests, group_setup, group_teardown);
}
