/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/client/scripted_mailbox.h"

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
        MAIL_TEST(an_answer_for_another_number_is_refused),
        MAIL_TEST(dead_letters_are_seen_and_driven_back),
        MAIL_TEST(following_settles_each_message_as_it_is_told),
        MAIL_TEST(nobody_there_is_told_at_the_deadline_and_what_waits_is_bounded),
        MAIL_TEST(an_older_mailbox_says_so),
    };

    RUN_OVER_BOTH(tests);
}
