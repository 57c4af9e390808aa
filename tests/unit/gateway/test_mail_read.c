/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gateway/mail_read.h"

static void *blocks[4096];
static size_t block_count;

static void *take(void *arg, size_t bytes)
{
    (void)arg;
    assert_true(block_count < sizeof(blocks) / sizeof(blocks[0]));
    return blocks[block_count++] = malloc(bytes > 0 ? bytes : 1);
}

static const struct mail_memory memory = {take, NULL};

static int forget(void **state)
{
    (void)state;
    while (block_count > 0)
        free(blocks[--block_count]);
    return 0;
}

static enum err post(const char *body, struct mail_post *out, struct mail_fault *fault)
{
    size_t len = strlen(body);
    char *exact = take(NULL, len); /* a byte beyond it is seen by the sanitizer */

    memcpy(exact, body, len);
    return mail_post_read(&memory, exact, len, 100, out, fault);
}

static void a_message_is_taken_apart_and_its_payload_left_alone(void **state)
{
    struct mail_post p;
    struct mail_fault f;
    const Slipstream__V1__Message *m;

    (void)state;
    assert_int_equal(
        post(" { \"source_agent\" : \"a\",\"target_agent\":\"\\u00fc\\/\",\"message_type\":\"m\", "
             "\"payload\" :"
             " {\"b\": 1e400 ,\n\"b\":[1.0 , -0]} , \"ttl\":1.5,\"priority\":9,\"delay\":"
             "0.0001,\"group\":null,\"correlation_id\":\"\",\"reply_to\":\"r\"} ",
             &p, &f),
        ERR_OK);
    assert_false(p.bulk);
    assert_int_equal(p.count, 1);
    m = p.messages[0];
    assert_string_equal(m->source_agent, "a");
    assert_string_equal(m->target_agent, "\xc3\xbc/");
    assert_string_equal(m->group, "");
    assert_string_equal(m->correlation_id, "");
    assert_string_equal(m->reply_to, "r");
    assert_int_equal(m->payload.len, strlen("{\"b\": 1e400 ,\n\"b\":[1.0 , -0]}"));
    assert_memory_equal(m->payload.data, "{\"b\": 1e400 ,\n\"b\":[1.0 , -0]}", m->payload.len);
    assert_int_equal(m->ttl_ms, 1500);
    assert_int_equal(m->delay_ms, 1);
    assert_int_equal(m->priority, 9);
}

#define SOURCE "{\"source_agent\":\"s\",\"target_agent\":\"t\""
#define HEAD SOURCE ",\"message_type\":\"m\""
#define GOOD HEAD ",\"payload\":1}"

static void what_is_wrong_is_named(void **state)
{
    static const struct {
        const char *body;
        enum err e;
        const char *param;
    } rows[] = {
        {"", ERR_JSON, NULL},
        {"[]", ERR_TYPE, NULL},
        {"{", ERR_JSON, NULL},
        {GOOD "x", ERR_JSON, NULL},
        {HEAD ",\"payload\":01}", ERR_JSON, NULL},
        {HEAD ",\"payload\":\"\xff\"}", ERR_JSON, NULL},
        {HEAD ",\"payload\":1,}", ERR_JSON, NULL},
        {HEAD "}", ERR_VALUE, "payload"},
        {"{\"target_agent\":\"t\",\"payload\":1}", ERR_VALUE, "source_agent"},
        {HEAD ",\"payload\":1,\"payload\":1}", ERR_DUPLICATE_KEY, "payload"},
        {HEAD ",\"payload\":1,\"priorty\":1}", ERR_VALUE, "priorty"},
        {HEAD ",\"payload\":1,\"priority\":10}", ERR_VALUE, "priority"},
        {HEAD ",\"payload\":1,\"priority\":1.5}", ERR_VALUE, "priority"},
        {HEAD ",\"payload\":1,\"priority\":\"1\"}", ERR_TYPE, "priority"},
        {HEAD ",\"payload\":1,\"priority\":-1}", ERR_TYPE, "priority"},
        {HEAD ",\"payload\":1,\"ttl\":0}", ERR_VALUE, "ttl"},
        {HEAD ",\"payload\":1,\"ttl\":1e9}", ERR_VALUE, "ttl"},
        {SOURCE ",\"payload\":1}", ERR_VALUE, "message_type"},
        {SOURCE ",\"payload\":1,\"message_type\":7}", ERR_TYPE, "message_type"},
        {HEAD ",\"payload\":1,\"group\":\"a\\u0000b\"}", ERR_ID, "group"},
        {HEAD ",\"payload\":1,\"group\":\"a\\nb\"}", ERR_ID, "group"},
        {"{\"source_agent\":\"\",\"target_agent\":\"t\",\"payload\":1}", ERR_ID, "source_agent"},
        {"{\"messages\":[]}", ERR_VALUE, "messages"},
        {"{\"messages\":{}}", ERR_TYPE, "messages"},
        {"{\"messages\":[" GOOD ",7]}", ERR_TYPE, "messages[1]"},
        {"{\"messages\":[" GOOD "," HEAD ",\"payload\":1,\"x\":2}]}", ERR_VALUE, "messages[1].x"},
        {"{\"messages\":[" GOOD "],\"ttl\":1}", ERR_VALUE, "messages"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct mail_post p;
        struct mail_fault f;
        enum err e = post(rows[i].body, &p, &f);

        if (e != rows[i].e)
            fail_msg("%s: %s", rows[i].body, err_code(e));
        if (rows[i].param == NULL)
            assert_null(f.param);
        else
            assert_string_equal(f.param != NULL ? f.param : "", rows[i].param);
    }
}

static void one_payload_over_the_limit_is_too_large_and_one_at_it_is_not(void **state)
{
    struct mail_post p;
    struct mail_fault f;
    char body[256], text[128];

    (void)state;
    memset(text, 'x', sizeof(text));
    snprintf(body, sizeof(body), HEAD ",\"payload\":\"%.98s\"}", text);
    assert_int_equal(post(body, &p, &f), ERR_OK);
    snprintf(body, sizeof(body), HEAD ",\"payload\":\"%.99s\"}", text);
    assert_int_equal(post(body, &p, &f), ERR_TOO_LARGE);
    assert_string_equal(f.param, "payload");
}

static void a_bulk_has_so_many_and_no_more(void **state)
{
    struct mail_post p;
    struct mail_fault f;
    unsigned n;

    (void)state;
    for (n = MAIL_BULK_MAX; n <= MAIL_BULK_MAX + 1; n++) {
        char *body = take(NULL, 64 + n * sizeof(GOOD)), *at = body;

        at += sprintf(at, "{\"messages\":[");
        for (unsigned i = 0; i < n; i++)
            at += sprintf(at, "%s" GOOD, i > 0 ? "," : "");
        sprintf(at, "]}");
        assert_int_equal(post(body, &p, &f), n <= MAIL_BULK_MAX ? ERR_OK : ERR_TOO_LARGE);
        if (n <= MAIL_BULK_MAX)
            assert_int_equal(p.count, n);
        forget(NULL);
    }
}

static void acks_are_read_with_their_actions(void **state)
{
    static const char body[] =
        "{\"acks\":[{\"message_id\":\"a\",\"receipt\":\"r1\"},{\"message_id\":\"b\",\"receipt\":"
        "\"r2\","
        "\"action\":\"nack\",\"delay\":2.5},{\"message_id\":\"c\",\"receipt\":\"r3\",\"action\":"
        "\"extend\",\"lease\":30}]}";
    struct mail_fault f;
    Slipstream__V1__Ack **acks;
    size_t n;

    (void)state;
    assert_int_equal(mail_acks_read(&memory, body, sizeof(body) - 1, &acks, &n, &f), ERR_OK);
    assert_int_equal(n, 3);
    assert_int_equal(acks[0]->kind, SLIPSTREAM__V1__ACK_KIND__ACK_DONE);
    assert_int_equal(acks[1]->kind, SLIPSTREAM__V1__ACK_KIND__ACK_RETURN);
    assert_int_equal(acks[1]->delay_ms, 2500);
    assert_int_equal(acks[2]->lease_ms, 30000);
    assert_string_equal(acks[2]->receipt, "r3");
    assert_int_equal(
        mail_acks_read(&memory, "{\"acks\":[{\"message_id\":\"a\"}]}", 29, &acks, &n, &f),
        ERR_VALUE);
    assert_string_equal(f.param, "acks[0].receipt");
    assert_int_equal(mail_acks_read(&memory, "{\"acks\":[]}", 11, &acks, &n, &f), ERR_VALUE);
}

static void ids_may_be_left_out(void **state)
{
    struct mail_fault f;
    char **ids;
    size_t n;

    (void)state;
    assert_int_equal(mail_ids_read(&memory, "", 0, &ids, &n, &f), ERR_OK);
    assert_int_equal(n, 0);
    assert_int_equal(mail_ids_read(&memory, "{}", 2, &ids, &n, &f), ERR_OK);
    assert_int_equal(n, 0);
    assert_int_equal(mail_ids_read(&memory, "{\"message_ids\":[\"x\",\"y\"]}", 25, &ids, &n, &f),
                     ERR_OK);
    assert_int_equal(n, 2);
    assert_string_equal(ids[1], "y");
    assert_int_equal(mail_ids_read(&memory, "{\"message_ids\":[\"x\",8]}", 23, &ids, &n, &f),
                     ERR_TYPE);
    assert_string_equal(f.param, "message_ids[1]");
}

static void an_empty_list_of_ids_does_not_mean_all(void **state)
{
    struct mail_fault f;
    char **ids;
    size_t n;

    (void)state;
    assert_int_equal(mail_ids_read(&memory, "{\"message_ids\":[]}", 18, &ids, &n, &f), ERR_VALUE);
    assert_string_equal(f.param, "message_ids");
    assert_int_equal(mail_ids_read(&memory, "{\"message_ids\":null}", 20, &ids, &n, &f), ERR_TYPE);
}

static void seconds_are_decimal_and_bounded(void **state)
{
    static const char *const bad[] = {"",    "x",   "-1", "1s", "61", "nan",
                                      "inf", "0x1", "1 ", " 1", "+1"};
    uint32_t ms;

    (void)state;
    assert_true(mail_seconds_read("2.5", 60, &ms));
    assert_int_equal(ms, 2500);
    assert_true(mail_seconds_read("0.0001", 60, &ms));
    assert_int_equal(ms, 1);
    assert_true(mail_seconds_read("0", 60, &ms));
    assert_int_equal(ms, 0);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        if (mail_seconds_read(bad[i], 60, &ms))
            fail_msg("\"%s\" was taken", bad[i]);
}

static void the_preference_wait_is_found_among_others(void **state)
{
    static const struct {
        const char *value;
        int ms;
    } rows[] = {{"wait=10", 10000},   {"respond-async, wait=5", 5000},
                {"WAIT=1 , x", 1000}, {"wait=", -1},
                {"wait=x", -1},       {"wait=1.5", -1},
                {"await=3", -1},      {"", -1},
                {",,", -1},           {"wait=99999999999", -1}};

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        uint32_t ms = 0;
        bool found = mail_prefer_wait(rows[i].value, strlen(rows[i].value), &ms);

        if ((found ? (int)ms : -1) != rows[i].ms)
            fail_msg("%s: %d", rows[i].value, found ? (int)ms : -1);
    }
}

static void a_stream_is_for_those_who_ask_for_nothing_else(void **state)
{
    static const struct {
        const char *accept;
        bool wants;
    } rows[] = {{"text/event-stream", true},
                {"Text/Event-Stream;charset=utf-8", true},
                {"text/event-stream, */*;q=0.1", true},
                {"*/*", false},
                {"", false},
                {"application/json, text/event-stream", false},
                {"text/event-stream;q=0", false},
                {"text/event-stream; q=0.5", true},
                {"text/event-streams", false}};

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (mail_wants_stream(rows[i].accept, strlen(rows[i].accept)) != rows[i].wants)
            fail_msg("%s", rows[i].accept);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(a_message_is_taken_apart_and_its_payload_left_alone, forget),
        cmocka_unit_test_teardown(what_is_wrong_is_named, forget),
        cmocka_unit_test_teardown(one_payload_over_the_limit_is_too_large_and_one_at_it_is_not,
                                  forget),
        cmocka_unit_test_teardown(a_bulk_has_so_many_and_no_more, forget),
        cmocka_unit_test_teardown(acks_are_read_with_their_actions, forget),
        cmocka_unit_test_teardown(ids_may_be_left_out, forget),
        cmocka_unit_test_teardown(an_empty_list_of_ids_does_not_mean_all, forget),
        cmocka_unit_test(seconds_are_decimal_and_bounded),
        cmocka_unit_test(the_preference_wait_is_found_among_others),
        cmocka_unit_test(a_stream_is_for_those_who_ask_for_nothing_else),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
