/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/mailbox.pb-c.h"

#include "common/lz4_payload.h"
#include "gateway/mail_show.h"

static uint8_t packed[65536];

static size_t reply_pack(void)
{
    Slipstream__V1__Message a, b, *both[] = {&a, &b};
    Slipstream__V1__ReceiveReply r;

    slipstream__v1__message__init(&a);
    slipstream__v1__message__init(&b);
    slipstream__v1__receive_reply__init(&r);
    a.message_id = "m1";
    a.source_agent = "s\"";
    a.target_agent = "t";
    a.message_type = "note";
    a.payload.data = (uint8_t *)"{ \"x\" :\r\n1.50}";
    a.payload.len = 14;
    a.created_ms = UINT64_C(951782400123); /* the last day of a February */
    a.attempt = 1;
    b.message_id = "m2";
    b.payload.data = (uint8_t *)"null";
    b.payload.len = 4;
    b.created_ms = 1;
    b.attempt = 300;
    b.expires_ms = UINT64_C(4102444799999);
    b.correlation_id = "c";
    b.reply_to = "r";
    b.group = "g";
    b.priority = 9;
    b.receipt = "tick";
    b.lease_expires_ms = 2000;
    b.dead_reason = "expired";
    b.dead_ms = 3000;
    r.messages = both;
    r.n_messages = 2;
    r.delivery = UINT64_MAX;
    r.poll = 7;
    r.more = 400;
    r.parked = true;
    return slipstream__v1__receive_reply__pack(&r, packed);
}

static void an_answer_is_read_in_place_and_shown_with_what_was_given(void **state)
{
    struct mail_reply reply;
    struct mail_view m;
    struct buf b = {0};

    (void)state;
    assert_true(mail_reply_read(packed, reply_pack(), &reply));
    assert_true(reply.parked);
    assert_int_equal(reply.poll, 7);
    assert_true(reply.delivery == UINT64_MAX);
    assert_int_equal(reply.more, 400);
    assert_int_equal(reply.count, 2);
    assert_true(mail_reply_next(&reply, &m));
    mail_show(&b, &m, false);
    assert_string_equal(buf_cstr(&b),
                        "{\"message_id\":\"m1\",\"source_agent\":\"s\\\"\",\"target_agent\":\"t\","
                        "\"message_type\":\"note\",\"created_at\":\"2000-02-29T00:00:00.123Z\","
                        "\"attempt\":1,\"payload\":{ \"x\" :\r\n1.50}}");
    assert_memory_equal(b.base + MAIL_SHOW_ID_AT, "\"m1\"", 4);
    buf_clear(&b);
    assert_true(mail_reply_next(&reply, &m));
    mail_show(&b, &m, false);
    assert_string_equal(
        buf_cstr(&b),
        "{\"message_id\":\"m2\",\"source_agent\":\"\",\"target_agent\":\"\",\"message_type\":\"\","
        "\"correlation_id\":\"c\",\"reply_to\":\"r\",\"group\":\"g\",\"priority\":9,"
        "\"created_at\":\"1970-01-01T00:00:00.001Z\",\"expires_at\":\"2099-12-31T23:59:59.999Z\","
        "\"attempt\":300,\"receipt\":\"tick\",\"lease_expires_at\":\"1970-01-01T00:00:02.000Z\","
        "\"dead_reason\":\"expired\",\"dead_at\":\"1970-01-01T00:00:03.000Z\",\"payload\":null}");
    assert_false(mail_reply_next(&reply, &m));
    buf_fini(&b);
}

static void an_event_has_no_line_ends_in_its_data(void **state)
{
    struct mail_reply reply;
    struct mail_view m;
    struct buf b = {0};
    size_t at;

    (void)state;
    assert_true(mail_reply_read(packed, reply_pack(), &reply));
    assert_true(mail_reply_next(&reply, &m));
    buf_adds(&b, "before");
    assert_true(mail_show_event(&b, &m, &at));
    assert_string_equal(
        buf_cstr(&b), "beforeid: m1\nevent: message\ndata: {\"message_id\":\"m1\",\"source_agent\":"
                      "\"s\\\"\",\"target_agent\":\"t\",\"message_type\":\"note\",\"created_at\":"
                      "\"2000-02-29T00:00:00.123Z\",\"attempt\":1,\"payload\":{ \"x\" :1.50}}\n\n");
    assert_memory_equal(b.base + at + MAIL_SHOW_ID_AT, "\"m1\"", 4);
    buf_fini(&b);
}

static size_t block_pack(const char *payload, size_t len, uint32_t raw_len)
{
    Slipstream__V1__Message m, *one = &m;
    Slipstream__V1__ReceiveReply r;

    slipstream__v1__message__init(&m);
    slipstream__v1__receive_reply__init(&r);
    m.message_id = "m1";
    m.payload.data = (uint8_t *)(uintptr_t)payload;
    m.payload.len = len;
    m.raw_len = raw_len;
    r.messages = &one;
    r.n_messages = 1;
    return slipstream__v1__receive_reply__pack(&r, packed);
}

static bool block_show(struct buf *b, size_t len, bool as_event)
{
    struct mail_reply reply;
    struct mail_view m;
    size_t at;

    buf_clear(b);
    assert_true(mail_reply_read(packed, len, &reply));
    assert_true(mail_reply_next(&reply, &m));
    return as_event ? mail_show_event(b, &m, &at) : mail_show(b, &m, false);
}

static void a_compressed_payload_is_shown_as_it_was_and_a_damaged_one_as_null(void **state)
{
    char raw[3000], want[3100], block[3000];
    size_t len, packed_len, i, n = 0;
    struct buf b = {0};

    (void)state;
    for (i = 0; i < sizeof(raw); i++)
        raw[i] = i % 30 == 9 ? '\n' : i % 30 == 8 ? '\r' : 'x';
    len = payload_block(raw, sizeof(raw), block);
    assert_true(len > 0);
    packed_len = block_pack(block, len, sizeof(raw));
    assert_true(block_show(&b, packed_len, false));
    assert_memory_equal(b.base + b.len - 1 - sizeof(raw), raw, sizeof(raw));
    assert_memory_equal(b.base + b.len - 1 - sizeof(raw) - 10, "\"payload\":", 10);
    assert_true(block_show(&b, packed_len, true));
    for (i = 0; i < sizeof(raw); i++)
        if (raw[i] == 'x')
            want[n++] = 'x';
    assert_memory_equal(b.base + b.len - 3 - n, want, n);
    assert_memory_equal(b.base + b.len - 3 - n - 10, "\"payload\":", 10);
    for (i = 0; i < 4; i++) {
        static const uint32_t lies[] = {2999, 3001, UINT32_MAX, 1};

        assert_false(block_show(&b, block_pack(block, len, lies[i]), i % 2 == 0));
        assert_non_null(strstr(buf_cstr(&b), "\"payload\":null}"));
    }
    assert_false(block_show(&b, block_pack("", 0, 5), false));
    buf_fini(&b);
}

static void damaged_answers_are_refused_or_read_inside_their_bounds(void **state)
{
    size_t len = reply_pack(), cut, i;

    (void)state;
    for (cut = 0; cut < len; cut++)
        for (i = 0; i < 4; i++) {
            uint8_t *exact = malloc(cut + 1);
            struct mail_reply reply;
            struct mail_view m;
            struct buf b = {0};
            unsigned guard = 0;
            size_t at;

            memcpy(exact, packed, cut);
            if (cut > 0 && i > 0)
                exact[(cut * 7 + i * 13) % cut] ^= (uint8_t)(1u << (cut + i) % 8);
            exact = realloc(exact, cut > 0 ? cut : 1);
            if (mail_reply_read(exact, cut, &reply))
                while (mail_reply_next(&reply, &m) && guard++ < 100)
                    mail_show_event(&b, &m, &at);
            assert_true(guard < 100);
            buf_fini(&b);
            free(exact);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_answer_is_read_in_place_and_shown_with_what_was_given),
        cmocka_unit_test(an_event_has_no_line_ends_in_its_data),
        cmocka_unit_test(a_compressed_payload_is_shown_as_it_was_and_a_damaged_one_as_null),
        cmocka_unit_test(damaged_answers_are_refused_or_read_inside_their_bounds),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
