/* SPDX-License-Identifier: Apache-2.0 */
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

static enum err on_hello(void *arg, struct rpc_peer *peer, const char *name, const char *key,
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

static void answer(uint64_t token, const ProtobufCMessage *body)
{
    assert_int_equal(rpc_reply(server, token, ERR_OK, body), ERR_OK);
}

static void messages_answer(uint64_t token, uint64_t poll)
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

static void on_send(uint64_t token, const uint8_t *body, size_t len)
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

static void on_receive(uint64_t token, const uint8_t *body, size_t len)
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

static void on_settle(uint64_t token, const uint8_t *body, size_t len)
{
    Slipstream__V1__Empty empty = SLIPSTREAM__V1__EMPTY__INIT;
    Slipstream__V1__SettleRequest *r = slipstream__v1__settle_request__unpack(NULL, len, body);

    buf_addf(&seen, "settle:%u%s ", (unsigned)r->delivery, r->done ? "+" : "-");
    slipstream__v1__settle_request__free_unpacked(r, NULL);
    if (!box.mute_settle)
        answer(token, &empty.base);
}

static void on_unpark(uint64_t token)
{
    Slipstream__V1__Empty empty = SLIPSTREAM__V1__EMPTY__INIT;

    box.unparks++;
    if (box.event_on_unpark)
        messages_answer(0, box.poll);
    answer(token, &empty.base);
}

/* A receipt that begins with "stale" is. */
static void on_ack(uint64_t token, const uint8_t *body, size_t len)
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

static void on_hold(uint64_t token, const uint8_t *body, size_t len)
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

static void on_redrive(uint64_t token, const uint8_t *body, size_t len)
{
    Slipstream__V1__RedriveRequest *r = slipstream__v1__redrive_request__unpack(NULL, len, body);
    Slipstream__V1__RedriveReply reply = SLIPSTREAM__V1__REDRIVE_REPLY__INIT;

    reply.moved = (uint32_t)r->n_message_ids;
    reply.left = r->drop ? 1 : 0;
    slipstream__v1__redrive_request__free_unpacked(r, NULL);
    answer(token, &reply.base);
}

static void on_get_box(uint64_t token)
{
    Slipstream__V1__Box b = SLIPSTREAM__V1__BOX__INIT;

    b.depth = 1, b.bytes = 2, b.oldest_ms = 3, b.sent = 4, b.delivered = 5, b.expired = 6;
    b.rejected = 7, b.waiting = 8, b.limit_messages = 9, b.limit_bytes = 10, b.unsettled = 11;
    b.leased = 12, b.delayed = 13, b.dead = 14, b.kept = 15, b.redelivered = 16;
    b.max_deliveries = 17, b.drop_oldest = true;
    answer(token, &b.base);
}

static void on_call(void *arg, struct rpc_peer *peer, unsigned method, uint64_t token,
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

static void on_gone(void *arg, struct rpc_peer *peer)
{
    (void)arg, (void)peer;
}

static void on_turn_end(void *arg)
{
    (void)arg;
    if (server != NULL)
        rpc_server_flush(server);
}

static void mailbox_open(uint64_t epoch)
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

static void mailbox_close(void)
{
    rpc_server_close(server);
    server = NULL;
}

static void open_handle(uint32_t timeout_ms)
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

static const char *story(void)
{
    return buf_cstr(&seen);
}

/* ---- the mailbox on a thread, while the test blocks ---- */

static atomic_bool stop_serving;
static pthread_t thread;

static void *serve(void *arg)
{
    (void)arg;
    while (!stop_serving)
        loop_turn(loop, 1);
    return NULL;
}

static void serve_start(void)
{
    stop_serving = false;
    assert_int_equal(pthread_create(&thread, NULL, serve, NULL), 0);
}

static void serve_end(void)
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

static void on_done(void *arg, int error, void *result)
{
    (void)arg;
    ended.count++;
    ended.ok += error == 0;
    ended.error = error;
    snprintf(ended.text, sizeof(ended.text), "%s", slipstream_last_error(s));
    slipstream_free(ended.result);
    ended.result = result;
}

static void forget(void)
{
    slipstream_free(ended.result);
    ended = (struct ended){0};
}

static int setup(void **state)
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

static int teardown(void **state)
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

static int send_start(const char *id)
{
    struct slipstream_message m = small;

    m.id = id;
    return slipstream_send_start(s, &to_w, &m, 1, on_done, NULL);
}

/* ---- tests ---- */

static void calls_started_together_arrive_in_order_and_each_ends_once(void **state)
{
    char id[16];
    const char *expected;
    struct buf b = {0};
    unsigned i;

    (void)state;
    for (i = 0; i < 2000; i++) {
        snprintf(id, sizeof(id), "m%u", i);
        assert_int_equal(send_start(id), 0);
        buf_addf(&b, "send:%s ", id);
    }
    expected = buf_cstr(&b);
    assert_int_equal(ended.count, 0); /* never inside the start */
    TURN_UNTIL(ended.count >= 2000);
    assert_int_equal(ended.ok, 2000);
    assert_int_equal(slipstream_turn(s, 0), 0);
    assert_string_equal(story(), expected);
    buf_fini(&b);
    forget();
}

static void every_part_of_a_message_goes_there(void **state)
{
    static const char *const agents[] = {"x", "y"};
    const struct slipstream_send_options o = {
        .workflow = "w", .idempotency_key = "key", .ttl_ms = 5, .agents = agents, .agent_count = 2};
    const struct slipstream_message m[2] = {{.id = "i",
                                             .source = "s",
                                             .target = "*",
                                             .type = "t",
                                             .payload = "[1]xx",
                                             .payload_len = 3,
                                             .correlation_id = "c",
                                             .reply_to = "r",
                                             .group = "g",
                                             .priority = 7,
                                             .ttl_ms = 11,
                                             .delay_ms = 13},
                                            {0}};
    struct slipstream_sent_list *sent;
    const Slipstream__V1__Message *got;

    (void)state;
    serve_start();
    assert_int_equal(slipstream_send(s, &o, m, 2, &sent), 0);
    serve_end();
    assert_int_equal(rpc_client_is_ring(s->links[SIDE_MAILBOX].rpc), over_rings);
    assert_int_equal(sent->count, 2);
    assert_true(sent->replayed);
    assert_string_equal(sent->items[1].id, "i");
    assert_int_equal(sent->items[0].queued_for_count, 2);
    assert_string_equal(sent->items[0].queued_for[1], "y");
    slipstream_free(sent);
    assert_string_equal(box.send->idempotency_key, "key");
    assert_int_equal(box.send->ttl_ms, 5);
    assert_int_equal(box.send->n_messages, 2);
    got = box.send->messages[0];
    assert_int_equal(got->payload.len, 3);
    assert_memory_equal(got->payload.data, "[1]", 3);
    assert_string_equal(got->correlation_id, "c");
    assert_string_equal(got->reply_to, "r");
    assert_string_equal(got->group, "g");
    assert_int_equal(got->priority, 7);
    assert_int_equal(got->ttl_ms, 11);
    assert_int_equal(got->delay_ms, 13);
}

static void every_part_of_a_message_comes_back(void **state)
{
    static const char *const types[] = {"task", "other"};
    struct slipstream_receive_options o = from_a;
    struct slipstream_messages *list;
    const struct slipstream_message *m;

    (void)state;
    o.types = types;
    o.type_count = 2;
    o.max = 8;
    box.messages = 8;
    serve_start();
    assert_int_equal(slipstream_receive(s, &o, &list), 0);
    serve_end();
    assert_int_equal(box.receive->max, 8);
    assert_string_equal(box.receive->types[1], "other");
    assert_int_equal(list->count, 8);
    assert_int_equal(list->more, 3);
    m = &list->items[3];
    assert_string_equal(m->id, "m3");
    assert_string_equal(m->payload, "{\"n\": 1}"); /* ends where it ends */
    assert_int_equal(m->payload_len, 8);
    assert_string_equal(m->source, "from");
    assert_string_equal(m->target, "a");
    assert_string_equal(m->type, "task");
    assert_string_equal(m->correlation_id, "c");
    assert_string_equal(m->group, "g");
    assert_int_equal(m->priority, 9);
    assert_int_equal(m->attempt, 2);
    assert_int_equal(m->expires_ms - m->created_ms, 1000);
    assert_string_equal(m->receipt, "");
    assert_int_equal(m->lease_expires_ms, 3000);
    assert_string_equal(m->dead_reason, "expired");
    assert_int_equal(m->dead_ms, 4000);
    assert_string_equal(list->items[7].payload, "");
    slipstream_free(list);
}

/* The mailbox says from where on; what does not shrink, or is small, goes as it is. */
static void large_payloads_go_compressed_where_the_mailbox_can(void **state)
{
    static char text[5000], raw[5000];
    struct slipstream_message m[3] = {small, small, small};
    struct slipstream_sent_list *sent;
    const Slipstream__V1__Message *got;
    unsigned told, i;

    (void)state;
    memset(text, '1', sizeof(text));
    m[1].payload = text;
    m[1].payload_len = 5000;
    m[2].payload = text;
    m[2].payload_len = 4095;
    for (told = 0; told < 2; told++) {
        box.compress_bytes = told * 4096;
        serve_start();
        /* The first one waits for the link, so nobody knows yet. */
        for (i = 0; i < 2; i++) {
            assert_int_equal(slipstream_send(s, &to_w, m, 3, &sent), 0);
            slipstream_free(sent);
        }
        serve_end();
        got = box.send->messages[1];
        assert_int_equal(got->raw_len, told * 5000);
        if (told) {
            struct packed p;

            assert_true(got->payload.len < 100);
            assert_int_equal(payload_claim(got->payload.data, got->payload.len, 5000, 5000, &p),
                             ERR_OK);
            assert_true(payload_unpack_to(&p, raw));
            assert_memory_equal(raw, text, 5000);
        } else {
            assert_int_equal(got->payload.len, 5000);
        }
        assert_int_equal(box.send->messages[0]->raw_len, 0);
        assert_int_equal(box.send->messages[2]->raw_len, 0);
        assert_int_equal(box.send->messages[2]->payload.len, 4095);
        slipstream_close(s);
        open_handle(20000);
    }
}

static void a_handle_that_is_uncompressed_neither_sends_nor_wants_blocks(void **state)
{
    const struct slipstream_options o = {.mailbox_url = url, .uncompressed = true};
    static char text[5000];
    struct slipstream_message m = small;
    struct slipstream_sent_list *sent;
    struct slipstream_messages *list;

    (void)state;
    memset(text, '1', sizeof(text));
    m.payload = text;
    m.payload_len = 5000;
    box.compress_bytes = 64;
    slipstream_close(s);
    assert_int_equal(slipstream_open(&o, &s), 0);
    serve_start();
    assert_int_equal(slipstream_receive(s, &from_a, &list), 0);
    assert_int_equal(slipstream_send(s, &to_w, &m, 1, &sent), 0);
    serve_end();
    assert_false(box.receive->lz4);
    assert_int_equal(box.send->messages[0]->raw_len, 0);
    slipstream_free(list);
    slipstream_free(sent);
}

static void a_compressed_payload_comes_back_as_it_was(void **state)
{
    char text[5000], block[5000];
    struct slipstream_messages *list;

    (void)state;
    memset(text, '1', sizeof(text));
    box.block = block;
    box.block_len = (uint32_t)payload_block(text, 5000, block);
    box.raw_len = 5000;
    box.messages = 3;
    serve_start();
    assert_int_equal(slipstream_receive(s, &from_a, &list), 0);
    assert_true(box.receive->lz4);
    assert_int_equal(list->count, 3);
    assert_int_equal(list->items[2].payload_len, 5000);
    assert_memory_equal(list->items[2].payload, text, 5000);
    assert_int_equal(list->items[2].payload[5000], 0);
    slipstream_free(list);
    assert_int_equal(slipstream_dead_letters(s, "w", "a", 1, NULL, &list), 0);
    serve_end();
    assert_memory_equal(list->items[0].payload, text, 5000);
    slipstream_free(list);
}

/* Told, given back, and asked for uncompressed from then on: the mailbox finds out which it is. */
static void a_damaged_block_goes_back_and_the_next_are_asked_for_raw(void **state)
{
    static const uint32_t lies[] = {4999, UINT32_MAX};
    char text[5000], block[5000];
    unsigned i;

    (void)state;
    memset(text, '1', sizeof(text));
    box.block = block;
    box.block_len = (uint32_t)payload_block(text, 5000, block);
    box.delivery = 5;
    for (i = 0; i < 2; i++) {
        box.raw_len = lies[i];
        assert_int_equal(slipstream_receive_start(s, &from_a, on_done, NULL, NULL), 0);
        TURN_UNTIL(ended.count == 1 && strstr(story(), "settle") != NULL);
        assert_int_equal(ended.error, ERR_PROTO);
        assert_non_null(strstr(ended.text, "compressed"));
        assert_string_equal(story(), "receive:a settle:5- ");
        assert_int_equal(box.receive->lz4, i == 0);
        forget();
        buf_clear(&seen);
        buf_adds(&seen, "");
    }
}

static void a_blocking_receive_returns_when_the_mailbox_knows_that_it_arrived(void **state)
{
    struct slipstream_messages *list;

    (void)state;
    box.delivery = 5;
    serve_start();
    assert_int_equal(slipstream_receive(s, &from_a, &list), 0);
    serve_end();
    assert_string_equal(story(), "receive:a settle:5+ ");
    slipstream_free(list);
}

static void a_lease_without_a_wait_is_one_call(void **state)
{
    struct slipstream_receive_options o = from_a;

    (void)state;
    o.lease_ms = 1000;
    assert_int_equal(slipstream_receive_start(s, &o, on_done, NULL, NULL), 0);
    TURN_UNTIL(ended.count == 1);
    assert_false(box.receive->settle);
    assert_int_equal(box.receive->lease_ms, 1000);
    forget();
    o.wait_ms = 10; /* whoever waits may die while the event is on its way */
    assert_int_equal(slipstream_receive_start(s, &o, on_done, NULL, NULL), 0);
    TURN_UNTIL(ended.count == 1);
    assert_true(box.receive->settle);
    forget();
}

static void messages_are_settled_one_by_one(void **state)
{
    const struct slipstream_settling all[] = {
        {.message_id = "m1", .receipt = "good"},
        {.message_id = "m2", .receipt = "stale", .action = SLIPSTREAM_NACK, .delay_ms = 7},
        {.message_id = "m3", .receipt = "r3", .action = SLIPSTREAM_EXTEND, .lease_ms = 9},
    };
    const struct slipstream_message one = {.id = "m4", .receipt = "r4", .target = "a"},
                                    stale = {.id = "m5", .receipt = "stale", .target = "a"};
    struct slipstream_settled_list *list;
    uint64_t until = 0;

    (void)state;
    serve_start();
    assert_int_equal(slipstream_settle(s, "w", "a", all, 3, &list), 0);
    assert_int_equal(slipstream_ack(s, "w", &one), 0);
    assert_int_equal(slipstream_nack(s, "w", &one, 21), 0);
    assert_int_equal(slipstream_extend(s, "w", &one, 22, &until), 0);
    assert_int_equal(slipstream_ack(s, "w", &stale), SLIPSTREAM_RECEIPT);
    serve_end();
    assert_int_equal(list->count, 3);
    assert_int_equal(list->items[0].error, 0);
    assert_int_equal(list->items[1].error, SLIPSTREAM_RECEIPT);
    assert_int_equal(list->items[2].lease_expires_ms, 9);
    slipstream_free(list);
    assert_int_equal(until, 22);
    assert_string_equal(story(), "ack:m1/good/0/0/0 ack:m2/stale/1/7/0 ack:m3/r3/2/0/9 "
                                 "ack:m4/r4/0/0/0 ack:m4/r4/1/21/0 ack:m4/r4/2/0/22 "
                                 "ack:m5/stale/0/0/0 ");
    assert_int_equal(slipstream_settle(s, "w", "a", all, 0, &list), SLIPSTREAM_INVALID);
    assert_int_equal(slipstream_settle(s, "w", NULL, all, 1, &list), SLIPSTREAM_INVALID);
}

static void a_parked_receive_ends_with_its_event(void **state)
{
    const struct slipstream_messages *list;

    (void)state;
    box.parks = true;
    box.delivery = 6;
    assert_int_equal(slipstream_receive_start(s, &waiting, on_done, NULL, NULL), 0);
    TURN_UNTIL(box.parked == 1);
    messages_answer(0, box.poll);
    TURN_UNTIL(ended.count == 1);
    list = ended.result;
    assert_int_equal(list->count, 1);
    TURN_UNTIL(strstr(story(), "settle") != NULL);
    assert_string_equal(story(), "receive:a settle:6+ ");
    forget();
}

static void many_readers_park_at_once_and_each_gets_its_own(void **state)
{
    uint64_t polls[50];
    unsigned i;

    (void)state;
    box.parks = true;
    for (i = 0; i < 50; i++) {
        assert_int_equal(slipstream_receive_start(s, &waiting, on_done, NULL, NULL), 0);
        TURN_UNTIL(box.parked == i + 1);
        polls[i] = box.poll;
    }
    for (i = 50; i-- > 0;) {
        messages_answer(0, polls[i]);
        TURN_UNTIL(ended.count == 50 - i);
        assert_int_equal(((struct slipstream_messages *)ended.result)->count, 1);
    }
    forget();
}

static void a_receive_that_waits_is_asked_again_after_a_restart(void **state)
{
    uint64_t poll;

    (void)state;
    box.parks = true;
    assert_int_equal(slipstream_receive_start(s, &waiting, on_done, NULL, NULL), 0);
    TURN_UNTIL(box.parked == 1);
    poll = box.poll;
    mailbox_close();
    mailbox_open(2);
    TURN_UNTIL(box.parked == 2);
    assert_int_equal(box.poll, poll);
    assert_in_range(box.receive->wait_ms, 1, 60000);
    assert_int_equal(ended.count, 0);
    messages_answer(0, box.poll);
    TURN_UNTIL(ended.count == 1);
    assert_int_equal(ended.error, 0);
    TURN_UNTIL(box.unparks == 1); /* it may be parked twice */
    forget();
}

static void what_arrived_is_held_in_a_mailbox_that_was_started_anew(void **state)
{
    (void)state;
    box.delivery = 5;
    box.messages = 2;
    box.mute_settle = true;
    assert_int_equal(slipstream_receive_start(s, &from_a, on_done, NULL, NULL), 0);
    TURN_UNTIL(ended.count == 1 && strstr(story(), "settle:5+") != NULL);
    box.parks = true;
    assert_int_equal(slipstream_receive_start(s, &waiting, on_done, NULL, NULL), 0);
    TURN_UNTIL(box.parked == 1);
    mailbox_close();
    buf_clear(&seen);
    box.mute_settle = false;
    mailbox_open(2);
    TURN_UNTIL(box.parked == 2 && strstr(story(), "settle") != NULL);
    /* Before the other receive is parked there, which would be given the same messages. */
    assert_string_equal(story(), "hold:w/a/m0/m1 receive:a settle:77+ ");
    forget();
}

static void that_it_arrived_is_said_again_to_a_mailbox_that_still_knows(void **state)
{
    (void)state;
    box.delivery = 5;
    box.mute_settle = true;
    assert_int_equal(slipstream_receive_start(s, &from_a, on_done, NULL, NULL), 0);
    TURN_UNTIL(ended.count == 1 && strstr(story(), "settle:5+") != NULL);
    mailbox_close();
    buf_clear(&seen);
    box.mute_settle = false;
    mailbox_open(1);
    TURN_UNTIL(s->settling_count == 0);
    assert_string_equal(story(), "settle:5+ ");
    forget();
}

static void what_nobody_waits_for_goes_back(void **state)
{
    (void)state;
    box.delivery = 9;
    assert_int_equal(send_start("m"), 0);
    TURN_UNTIL(ended.count == 1);
    messages_answer(0, 12345);
    TURN_UNTIL(strstr(story(), "settle") != NULL);
    assert_string_equal(story(), "send:m settle:9- ");
    forget();
}

static void a_receive_that_is_stopped_ends_soon_and_loses_nothing(void **state)
{
    const struct slipstream_messages *list;
    uint64_t call;

    (void)state;
    box.parks = true;
    box.delivery = 9;
    assert_int_equal(slipstream_receive_start(s, &waiting, on_done, NULL, &call), 0);
    TURN_UNTIL(box.parked == 1);
    slipstream_receive_stop(s, call);
    slipstream_receive_stop(s, call);
    TURN_UNTIL(ended.count == 1);
    assert_int_equal(ended.error, 0);
    assert_int_equal(((struct slipstream_messages *)ended.result)->count, 0);
    assert_int_equal(box.unparks, 1);
    slipstream_receive_stop(s, call); /* ended long ago */

    box.event_on_unpark = true; /* a message crosses the stop */
    assert_int_equal(slipstream_receive_start(s, &waiting, on_done, NULL, &call), 0);
    TURN_UNTIL(box.parked == 2);
    slipstream_receive_stop(s, call);
    TURN_UNTIL(ended.count == 2 && strstr(story(), "settle:9") != NULL);
    list = ended.result; /* it is here, or it went back */
    assert_non_null(strstr(story(), list->count == 1 ? "settle:9+" : "settle:9-"));
    forget();
}

static void a_receive_without_a_link_can_be_stopped(void **state)
{
    uint64_t call;

    (void)state;
    mailbox_close();
    assert_int_equal(slipstream_receive_start(s, &waiting, on_done, NULL, &call), 0);
    slipstream_receive_stop(s, call);
    assert_int_equal(slipstream_turn(s, 0), 0);
    assert_int_equal(ended.count, 1);
    assert_int_equal(ended.error, 0);
    forget();
    mailbox_open(1);
}

static void closing_ends_all_that_is_under_way(void **state)
{
    (void)state;
    box.parks = true;
    assert_int_equal(slipstream_receive_start(s, &waiting, on_done, NULL, NULL), 0);
    TURN_UNTIL(box.parked == 1);
    box.mute = true;
    assert_int_equal(send_start("m"), 0);
    assert_int_equal(slipstream_receive_start(s, &from_a, on_done, NULL, NULL), 0);
    TURN_UNTIL(strstr(story(), "0 1 ") != NULL);
    slipstream_close(s);
    assert_int_equal(ended.count, 3);
    assert_int_equal(ended.ok, 0);
    assert_int_equal(ended.error, SLIPSTREAM_CANCELLED);
    forget();

    open_handle(20000);
    mailbox_close();
    assert_int_equal(send_start("m"), 0); /* waits for the link */
    slipstream_close(s);
    assert_int_equal(ended.count, 1);
    assert_int_equal(ended.error, SLIPSTREAM_CANCELLED);
    forget();
    mailbox_open(1);
    s = NULL;
}

static unsigned chain;

static void on_chain(void *arg, int error, void *result)
{
    struct slipstream_box b;

    assert_int_equal(error, 0);
    slipstream_free(result);
    assert_int_equal(slipstream_box_get(s, "w", "a", &b), SLIPSTREAM_INVALID);
    assert_int_equal(slipstream_send(s, &to_w, &small, 1, arg), SLIPSTREAM_INVALID);
    if (--chain > 0)
        assert_int_equal(slipstream_send_start(s, &to_w, &small, 1, on_chain, NULL), 0);
}

static void a_callback_may_start_calls_but_not_block(void **state)
{
    (void)state;
    chain = 100;
    assert_int_equal(slipstream_send_start(s, &to_w, &small, 1, on_chain, NULL), 0);
    TURN_UNTIL(chain == 0);
    assert_int_equal(box.sends, 100);
}

static void a_blocking_call_serves_those_under_way(void **state)
{
    struct slipstream_box b;

    (void)state;
    assert_int_equal(send_start("m"), 0);
    serve_start();
    assert_int_equal(slipstream_box_get(s, "w", "a", &b), 0);
    serve_end();
    assert_int_equal(ended.count, 1);
    forget();
}

static void a_handle_fits_into_a_loop_of_the_program(void **state)
{
    struct pollfd fd = {.fd = slipstream_fd(s), .events = POLLIN};

    (void)state;
    assert_int_equal(send_start("m"), 0);
    serve_start();
    while (slipstream_turn(s, 0) > 0)
        assert_true(poll(&fd, 1, slipstream_wait_ms(s)) >= 0);
    serve_end();
    assert_int_equal(ended.ok, 1);
    assert_int_equal(slipstream_fd(s), fd.fd);
    forget();
}

static void an_answer_for_another_number_is_refused(void **state)
{
    struct slipstream_sent_list *sent = NULL;

    (void)state;
    box.too_few = 1;
    serve_start();
    assert_int_equal(slipstream_send(s, &to_w, &small, 1, &sent), ERR_PROTO);
    serve_end();
    assert_null(sent);
}

static void dead_letters_are_seen_and_driven_back(void **state)
{
    static const char *const ids[] = {"m0", "m1"};
    struct slipstream_redriven r;
    struct slipstream_messages *list;
    struct slipstream_box b;

    (void)state;
    box.messages = 2;
    serve_start();
    assert_int_equal(slipstream_dead_letters(s, "w", "a", 2, "m", &list), 0);
    assert_int_equal(list->count, 2);
    assert_int_equal(list->more, 3);
    assert_string_equal(list->items[1].dead_reason, "expired");
    slipstream_free(list);
    assert_int_equal(slipstream_redrive(s, "w", "a", ids, 2, true, &r), 0);
    assert_int_equal(r.moved, 2);
    assert_int_equal(r.left, 1);
    assert_int_equal(slipstream_redrive(s, "w", "a", NULL, 0, false, NULL), 0);
    r.moved = 7;
    assert_int_equal(slipstream_redrive(s, "w", "a", ids, 0, true, &r), ERR_INVALID);
    assert_int_equal(r.moved, 7);
    assert_int_equal(slipstream_box_get(s, "w", "a", &b), 0);
    serve_end();
    assert_int_equal(b.depth + b.bytes + b.oldest_ms + b.sent + b.delivered + b.expired, 21);
    assert_int_equal(b.rejected + b.waiting + b.limit_messages + b.limit_bytes + b.unsettled, 45);
    assert_int_equal(b.leased, 12);
    assert_int_equal(b.delayed, 13);
    assert_int_equal(b.dead, 14);
    assert_int_equal(b.kept, 15);
    assert_int_equal(b.redelivered, 16);
    assert_int_equal(b.max_deliveries, 17);
    assert_true(b.drop_oldest);
}

static unsigned followed;

static enum slipstream_next on_message(void *arg, const struct slipstream_message *m)
{
    (void)arg;
    assert_string_equal(m->type, "task");
    followed++;
    return followed == 2   ? SLIPSTREAM_NEXT_RETURN
           : followed == 3 ? SLIPSTREAM_STOP_RETURN
                           : SLIPSTREAM_NEXT;
}

static void following_settles_each_message_as_it_is_told(void **state)
{
    struct slipstream_receive_options o = from_a;

    (void)state;
    followed = 0;
    box.receipt = "r";
    o.lease_ms = 1000;
    serve_start();
    assert_int_equal(slipstream_follow(s, &o, on_message, NULL), 0);
    serve_end();
    assert_string_equal(story(), "receive:a ack:m0/r/0/0/0 receive:a ack:m0/r/1/0/0 "
                                 "receive:a ack:m0/r/1/0/0 ");
    assert_int_equal(box.receive->max, 1);
    assert_true(box.receive->wait_ms > 0);
    followed = 0;
    box.receipt = "stale"; /* no failure: somebody else has it */
    buf_clear(&seen);
    serve_start();
    assert_int_equal(slipstream_follow(s, &o, on_message, NULL), 0);
    serve_end();
    assert_int_equal(followed, 3);
    o.peek = true;
    assert_int_equal(slipstream_follow(s, &o, on_message, NULL), SLIPSTREAM_INVALID);
}

static void nobody_there_is_told_at_the_deadline_and_what_waits_is_bounded(void **state)
{
    unsigned i;

    (void)state;
    slipstream_close(s);
    mailbox_close();
    open_handle(200);
    for (i = 0; i < 8191; i++)
        assert_int_equal(send_start("m"), 0);
    assert_int_equal(send_start("m"), SLIPSTREAM_BUSY);
    while (slipstream_turn(s, -1) > 0)
        ;
    assert_int_equal(ended.count, 8191);
    assert_int_equal(ended.error, SLIPSTREAM_MAILBOX_DOWN);
    assert_non_null(strstr(ended.text, url));
    forget();
    mailbox_open(1);
}

static void an_older_mailbox_says_so(void **state)
{
    struct slipstream_mailbox_status m;

    (void)state;
    serve_start();
    assert_int_equal(slipstream_mailbox_status(s, &m), SLIPSTREAM_UNIMPLEMENTED);
    serve_end();
}

#define MAIL_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        MAIL_TEST(calls_started_together_arrive_in_order_and_each_ends_once),
        MAIL_TEST(every_part_of_a_message_goes_there),
        MAIL_TEST(every_part_of_a_message_comes_back),
        MAIL_TEST(large_payloads_go_compressed_where_the_mailbox_can),
        MAIL_TEST(a_handle_that_is_uncompressed_neither_sends_nor_wants_blocks),
        MAIL_TEST(a_compressed_payload_comes_back_as_it_was),
        MAIL_TEST(a_damaged_block_goes_back_and_the_next_are_asked_for_raw),
        MAIL_TEST(a_blocking_receive_returns_when_the_mailbox_knows_that_it_arrived),
        MAIL_TEST(a_lease_without_a_wait_is_one_call),
        MAIL_TEST(messages_are_settled_one_by_one),
        MAIL_TEST(a_parked_receive_ends_with_its_event),
        MAIL_TEST(many_readers_park_at_once_and_each_gets_its_own),
        MAIL_TEST(a_receive_that_waits_is_asked_again_after_a_restart),
        MAIL_TEST(what_arrived_is_held_in_a_mailbox_that_was_started_anew),
        MAIL_TEST(that_it_arrived_is_said_again_to_a_mailbox_that_still_knows),
        MAIL_TEST(what_nobody_waits_for_goes_back),
        MAIL_TEST(a_receive_that_is_stopped_ends_soon_and_loses_nothing),
        MAIL_TEST(a_receive_without_a_link_can_be_stopped),
        MAIL_TEST(closing_ends_all_that_is_under_way),
        MAIL_TEST(a_callback_may_start_calls_but_not_block),
        MAIL_TEST(a_blocking_call_serves_those_under_way),
        MAIL_TEST(a_handle_fits_into_a_loop_of_the_program),
        MAIL_TEST(an_answer_for_another_number_is_refused),
        MAIL_TEST(dead_letters_are_seen_and_driven_back),
        MAIL_TEST(following_settles_each_message_as_it_is_told),
        MAIL_TEST(nobody_there_is_told_at_the_deadline_and_what_waits_is_bounded),
        MAIL_TEST(an_older_mailbox_says_so),
    };
    int failed;

    assert_non_null(mkdtemp(dir));
    failed = cmocka_run_group_tests_name("over nng", tests, NULL, NULL);
    over_rings = true;
    failed += cmocka_run_group_tests_name("over rings", tests, NULL, NULL);
    buf_fini(&seen);
    rmdir(dir);
    return failed;
}
