/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_TESTS_SCRIPTED_MAILBOX_H
#define SLIP_TESTS_SCRIPTED_MAILBOX_H

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "client/client.h"
#include "common/buf.h"
#include "common/clock.h"
#include "common/lz4_payload.h"

/*
 * The library against a scripted mailbox in the same process: on the test's own thread where calls
 * are started, on a thread of its own while the test blocks. All tests run over nng, and over
 * rings.
 */
static struct loop *loop;
static struct rpc_server *server;
static struct slipstream *s;
static char dir[] = "/tmp/slip-client-XXXXXX";
static char url[100], ring_path[100];
static bool over_rings;

/* What the mailbox does, and what it saw: "send:m1 receive:7 settle:5+ ..." */
static struct {
    bool mute; /* leaves every call unanswered */
    bool mute_settle;
    bool parks; /* receives find nothing */
    bool event_on_unpark;
    unsigned too_few;  /* results missing from answers */
    uint64_t delivery; /* of the next receive; 0: the reader need not settle */
    unsigned messages; /* in an answer */
    const char *receipt;
    unsigned receives_left;  /* beyond: empty answers */
    uint32_t compress_bytes; /* told in the hello */
    const char *block;       /* payload of answers, with its length and raw length */
    uint32_t block_len, raw_len;
    uint64_t poll; /* last one named */
    unsigned parked, unparks, sends;
    struct rpc_peer *peer;
    Slipstream__V1__SendRequest *send; /* the last */
    Slipstream__V1__ReceiveRequest *receive;
} box;
static struct buf seen;

static inline enum err on_hello(void *arg, struct rpc_peer *peer, const char *name, const char *key,
                                uint8_t **info, size_t *info_len, const char **reason)
{
    Slipstream__V1__MailboxInfo m = SLIPSTREAM__V1__MAILBOX_INFO__INIT;

    (void)arg, (void)name, (void)key, (void)reason;
    box.peer = peer;
    m.compress_bytes = box.compress_bytes;
    *info = malloc(16);
    *info_len = slipstream__v1__mailbox_info__pack(&m, *info);
    return ERR_OK;
}

static inline void answer(uint64_t token, const ProtobufCMessage *body)
{
    assert_int_equal(rpc_reply(server, token, ERR_OK, body), ERR_OK);
}

static inline void messages_answer(uint64_t token, uint64_t poll)
{
    static char payload[] = "{\"n\": 1}", id[8][8];
    Slipstream__V1__ReceiveReply r = SLIPSTREAM__V1__RECEIVE_REPLY__INIT;
    Slipstream__V1__Message m[8], *pointers[8];
    unsigned i;

    for (i = 0; i < box.messages; i++) {
        slipstream__v1__message__init(&m[i]);
        snprintf(id[i], sizeof(id[i]), "m%u", i);
        m[i].message_id = id[i];
        m[i].source_agent = unconst("from");
        m[i].target_agent = unconst("a");
        m[i].message_type = unconst("task");
        m[i].payload.data = (uint8_t *)payload;
        m[i].payload.len = i == 7 ? 0 : strlen(payload);
        if (box.block != NULL) {
            m[i].payload.data = (uint8_t *)unconst(box.block);
            m[i].payload.len = box.block_len;
            m[i].raw_len = box.raw_len;
        }
        m[i].correlation_id = unconst("c");
        m[i].reply_to = unconst("from");
        m[i].group = unconst("g");
        m[i].priority = 9;
        m[i].attempt = 2;
        m[i].created_ms = 1000;
        m[i].expires_ms = 2000;
        m[i].receipt = unconst(or_empty(box.receipt));
        m[i].lease_expires_ms = 3000;
        m[i].dead_reason = unconst("expired");
        m[i].dead_ms = 4000;
        pointers[i] = &m[i];
    }
    r.messages = pointers;
    r.n_messages = box.messages;
    r.more = 3;
    r.delivery = box.delivery;
    r.poll = poll;
    if (token != 0)
        answer(token, &r.base);
    else
        assert_int_equal(rpc_event(server, box.peer, 0, &r.base), ERR_OK);
}

static inline void on_send(uint64_t token, const uint8_t *body, size_t len)
{
    Slipstream__V1__SendReply reply = SLIPSTREAM__V1__SEND_REPLY__INIT;
    Slipstream__V1__SendResult one, *results[1000];
    size_t i;

    if (box.send != NULL)
        slipstream__v1__send_request__free_unpacked(box.send, NULL);
    box.send = slipstream__v1__send_request__unpack(NULL, len, body);
    buf_addf(&seen, "send:%s ", box.send->messages[0]->message_id);
    box.sends++;
    slipstream__v1__send_result__init(&one);
    one.message_id = box.send->messages[0]->message_id;
    one.queued_for = box.send->agents;
    one.n_queued_for = box.send->n_agents;
    for (i = 0; i < box.send->n_messages; i++)
        results[i] = &one;
    reply.results = results;
    reply.n_results = box.send->n_messages - box.too_few;
    reply.replayed = box.send->idempotency_key[0] != '\0';
    answer(token, &reply.base);
}

static inline void on_receive(uint64_t token, const uint8_t *body, size_t len)
{
    Slipstream__V1__ReceiveReply none = SLIPSTREAM__V1__RECEIVE_REPLY__INIT;

    if (box.receive != NULL)
        slipstream__v1__receive_request__free_unpacked(box.receive, NULL);
    box.receive = slipstream__v1__receive_request__unpack(NULL, len, body);
    buf_addf(&seen, "receive:%s ", box.receive->agent_id);
    box.poll = box.receive->poll;
    if (box.parks && box.receive->wait_ms > 0) {
        none.parked = true;
        box.parked++;
        answer(token, &none.base);
    } else if (box.parks || box.receives_left == 0) {
        answer(token, &none.base);
    } else {
        box.receives_left--;
        messages_answer(token, 0);
    }
}

static inline void on_settle(uint64_t token, const uint8_t *body, size_t len)
{
    Slipstream__V1__Empty empty = SLIPSTREAM__V1__EMPTY__INIT;
    Slipstream__V1__SettleRequest *r = slipstream__v1__settle_request__unpack(NULL, len, body);

    buf_addf(&seen, "settle:%u%s ", (unsigned)r->delivery, r->done ? "+" : "-");
    slipstream__v1__settle_request__free_unpacked(r, NULL);
    if (!box.mute_settle)
        answer(token, &empty.base);
}

static inline void on_unpark(uint64_t token)
{
    Slipstream__V1__Empty empty = SLIPSTREAM__V1__EMPTY__INIT;

    box.unparks++;
    if (box.event_on_unpark)
        messages_answer(0, box.poll);
    answer(token, &empty.base);
}

/* A receipt that begins with "stale" is. */
static inline void on_ack(uint64_t token, const uint8_t *body, size_t len)
{
    Slipstream__V1__AckRequest *r = slipstream__v1__ack_request__unpack(NULL, len, body);
    Slipstream__V1__AckReply reply = SLIPSTREAM__V1__ACK_REPLY__INIT;
    Slipstream__V1__AckResult results[8], *pointers[8];
    size_t i;

    for (i = 0; i < r->n_acks; i++) {
        const Slipstream__V1__Ack *a = r->acks[i];

        buf_addf(&seen, "ack:%s/%s/%d/%u/%u ", a->message_id, a->receipt, (int)a->kind, a->delay_ms,
                 a->lease_ms);
        slipstream__v1__ack_result__init(&results[i]);
        results[i].status = strncmp(a->receipt, "stale", 5) == 0 ? (uint32_t)ERR_RECEIPT : 0;
        results[i].lease_expires_ms = a->lease_ms;
        pointers[i] = &results[i];
    }
    reply.results = pointers;
    reply.n_results = r->n_acks;
    answer(token, &reply.base);
    slipstream__v1__ack_request__free_unpacked(r, NULL);
}

static inline void on_hold(uint64_t token, const uint8_t *body, size_t len)
{
    Slipstream__V1__HoldRequest *r = slipstream__v1__hold_request__unpack(NULL, len, body);
    Slipstream__V1__HoldReply reply = SLIPSTREAM__V1__HOLD_REPLY__INIT;
    size_t i;

    buf_addf(&seen, "hold:%s/%s", r->workflow_id, r->agent_id);
    for (i = 0; i < r->n_message_ids; i++)
        buf_addf(&seen, "/%s", r->message_ids[i]);
    buf_adds(&seen, " ");
    slipstream__v1__hold_request__free_unpacked(r, NULL);
    reply.delivery = 77;
    answer(token, &reply.base);
}

static inline void on_redrive(uint64_t token, const uint8_t *body, size_t len)
{
    Slipstream__V1__RedriveRequest *r = slipstream__v1__redrive_request__unpack(NULL, len, body);
    Slipstream__V1__RedriveReply reply = SLIPSTREAM__V1__REDRIVE_REPLY__INIT;

    reply.moved = (uint32_t)r->n_message_ids;
    reply.left = r->drop ? 1 : 0;
    slipstream__v1__redrive_request__free_unpacked(r, NULL);
    answer(token, &reply.base);
}

static inline void on_get_box(uint64_t token)
{
    Slipstream__V1__Box b = SLIPSTREAM__V1__BOX__INIT;

    b.depth = 1, b.bytes = 2, b.oldest_ms = 3, b.sent = 4, b.delivered = 5, b.expired = 6;
    b.rejected = 7, b.waiting = 8, b.limit_messages = 9, b.limit_bytes = 10, b.unsettled = 11;
    b.leased = 12, b.delayed = 13, b.dead = 14, b.kept = 15, b.redelivered = 16;
    b.max_deliveries = 17, b.drop_oldest = true;
    answer(token, &b.base);
}

static inline void on_call(void *arg, struct rpc_peer *peer, unsigned method, uint64_t token,
                           uint32_t timeout_ms, const uint8_t *body, size_t len)
{
    (void)arg, (void)peer, (void)timeout_ms;
    if (box.mute)
        buf_addf(&seen, "%u ", method);
    else if (method == MAILBOX_SEND)
        on_send(token, body, len);
    else if (method == MAILBOX_RECEIVE)
        on_receive(token, body, len);
    else if (method == MAILBOX_SETTLE)
        on_settle(token, body, len);
    else if (method == MAILBOX_UNPARK)
        on_unpark(token);
    else if (method == MAILBOX_ACK)
        on_ack(token, body, len);
    else if (method == MAILBOX_HOLD)
        on_hold(token, body, len);
    else if (method == MAILBOX_LIST_DEAD)
        messages_answer(token, 0);
    else if (method == MAILBOX_REDRIVE)
        on_redrive(token, body, len);
    else if (method == MAILBOX_GET_BOX)
        on_get_box(token);
    else
        rpc_reply(server, token, ERR_UNIMPLEMENTED, NULL);
}

static inline void on_gone(void *arg, struct rpc_peer *peer)
{
    (void)arg, (void)peer;
}

static inline void on_turn_end(void *arg)
{
    (void)arg;
    if (server != NULL)
        rpc_server_flush(server);
}

static inline void mailbox_open(uint64_t epoch)
{
    static const char *urls[] = {url};
    const struct rpc_server_conf conf = {
        .urls = urls,
        .url_count = 1,
        .ring_path = over_rings ? ring_path : NULL,
        .service = &slipstream__v1__mailbox__descriptor,
        .epoch = epoch,
        .max_peers = 4,
        .on_hello = on_hello,
        .on_call = on_call,
        .on_gone = on_gone,
    };

    assert_int_equal(rpc_server_open(&conf, rpc_host_loop(loop), &server), ERR_OK);
}

static inline void mailbox_close(void)
{
    rpc_server_close(server);
    server = NULL;
}

static inline void open_handle(uint32_t timeout_ms)
{
    const struct slipstream_options o = {.mailbox_url = url, .timeout_ms = timeout_ms};

    assert_int_equal(slipstream_open(&o, &s), SLIPSTREAM_OK);
}

/* Both sides by turns, until it is so. */
#define TURN_UNTIL(condition)                                \
    do {                                                     \
        uint64_t turn_until_ns = clock_ns() + 20 * NS_PER_S; \
        while (!(condition)) {                               \
            assert_true(clock_ns() < turn_until_ns);         \
            slipstream_turn(s, 0);                           \
            loop_turn(loop, 1);                              \
        }                                                    \
    } while (0)

static inline const char *story(void)
{
    return buf_cstr(&seen);
}

/* ---- the mailbox on a thread, while the test blocks ---- */

static atomic_bool stop_serving;
static pthread_t thread;

static inline void *serve(void *arg)
{
    (void)arg;
    while (!stop_serving)
        loop_turn(loop, 1);
    return NULL;
}

static inline void serve_start(void)
{
    stop_serving = false;
    assert_int_equal(pthread_create(&thread, NULL, serve, NULL), 0);
}

static inline void serve_end(void)
{
    stop_serving = true;
    pthread_join(thread, NULL);
}

/* ---- what callbacks saw ---- */

static struct ended {
    unsigned count, ok, order;
    int error;
    void *result; /* the last */
    char text[200];
} ended;

static inline void on_done(void *arg, int error, void *result)
{
    (void)arg;
    ended.count++;
    ended.ok += error == 0;
    ended.error = error;
    snprintf(ended.text, sizeof(ended.text), "%s", slipstream_last_error(s));
    slipstream_free(ended.result);
    ended.result = result;
}

static inline void forget(void)
{
    slipstream_free(ended.result);
    ended = (struct ended){0};
}

static inline int setup(void **state)
{
    static unsigned number;

    (void)state;
    snprintf(url, sizeof(url), "ipc://%s/mailbox%u", dir, number++);
    snprintf(ring_path, sizeof(ring_path), "%s/ring%u", dir, number);
    memset(&box, 0, sizeof(box));
    forget();
    box.messages = 1;
    box.receives_left = 1000;
    buf_clear(&seen);
    buf_adds(&seen, "");
    loop = loop_new();
    loop_at_turn_end(loop, on_turn_end, NULL);
    mailbox_open(1);
    open_handle(20000);
    return 0;
}

static inline int teardown(void **state)
{
    (void)state;
    slipstream_close(s);
    s = NULL;
    mailbox_close();
    loop_free(loop);
    unlink(url + strlen("ipc://"));
    unlink(ring_path);
    if (box.send != NULL)
        slipstream__v1__send_request__free_unpacked(box.send, NULL);
    if (box.receive != NULL)
        slipstream__v1__receive_request__free_unpacked(box.receive, NULL);
    return 0;
}

static const struct slipstream_send_options to_w = {.workflow = "w"};
static const struct slipstream_receive_options from_a = {.workflow = "w", .agent = "a"};
static const struct slipstream_receive_options waiting = {
    .workflow = "w", .agent = "a", .wait_ms = 60000};
static const struct slipstream_message small = {
    .id = "m", .source = "s", .target = "a", .type = "t", .payload = "1", .payload_len = 1};

static inline int send_start(const char *id)
{
    struct slipstream_message m = small;

    m.id = id;
    return slipstream_send_start(s, &to_w, &m, 1, on_done, NULL);
}

#define MAIL_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

/* Both ways; the result is that of main(). */
#define RUN_OVER_BOTH(tests)                                                    \
    do {                                                                        \
        int failed;                                                             \
                                                                                \
        assert_non_null(mkdtemp(dir));                                          \
        failed = cmocka_run_group_tests_name("over nng", tests, NULL, NULL);    \
        over_rings = true;                                                      \
        failed += cmocka_run_group_tests_name("over rings", tests, NULL, NULL); \
        buf_fini(&seen);                                                        \
        rmdir(dir);                                                             \
        return failed;                                                          \
    } while (0)

#endif
