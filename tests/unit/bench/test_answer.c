/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/replay/answer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define SSE_HEAD                                                            \
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n" \
    "X-Slipstream-Engine: e2\r\nTransfer-Encoding: chunked\r\n\r\n"

static const char STREAM[] =
    SSE_HEAD "3e\r\n"
             "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"}}]}\n\n\r\n"
             "35\r\n"
             "data: {\"choices\":[{\"delta\":{\"content\":\"Hel\\u006co\"}}]\r\n"
             "4\r\n"
             "}\n\nd\r\n"
             "32\r\n"
             "ata: {\"choices\":[{\"delta\":{\"content\":\" you\"}}]}\r\n\r\r\n"
             "73\r\n"
             "\ndata: "
             "{\"choices\":[],\"usage\":{\"prompt_tokens\":32,\"completion_tokens\":2,\"prompt_"
             "tokens_details\":{\"cached_tokens\":16}\r\n"
             "12\r\n"
             "}}\n\ndata: [DONE]\n\n\r\n"
             "0\r\n\r\n";

static void feed_in_pieces(struct answer *a, const char *text, size_t len, size_t piece)
{
    size_t used;

    for (size_t at = 0; at < len; at += piece) {
        size_t n = len - at < piece ? len - at : piece;

        assert_int_equal(answer_feed(a, text + at, n, &used), ERR_OK);
        assert_int_equal(used, n);
    }
}

static void stream_reads_the_same_in_pieces_of_any_size(void **state)
{
    struct answer a = {0};

    (void)state;
    for (size_t piece = 1; piece < sizeof(STREAM); piece++) {
        answer_start(&a);
        feed_in_pieces(&a, STREAM, sizeof(STREAM) - 1, piece);
        assert_int_equal(a.state, ANSWER_DONE);
        assert_int_equal(a.status, 200);
        assert_true(a.is_sse && a.keep_alive && a.seen_done && a.has_usage);
        assert_string_equal(buf_cstr(&a.text), "Hello you");
        assert_int_equal(a.text_events, 2);
        assert_int_equal(a.prompt_tokens, 32);
        assert_int_equal(a.cached_tokens, 16);
        assert_int_equal(a.completion_tokens, 2);
        assert_string_equal(a.engine, "e2");
    }
    answer_fini(&a);
}

static void truncated_answers_are_errors(void **state)
{
    struct answer a = {0};
    size_t used;

    (void)state;
    for (size_t n = 0; n + 1 < sizeof(STREAM); n++) {
        answer_start(&a);
        assert_int_equal(answer_feed(&a, STREAM, n, &used), ERR_OK);
        assert_int_equal(answer_close(&a), ERR_TRUNCATED);
    }
    answer_fini(&a);
}

static void whole_fed(struct answer *a, const char *text, enum err want)
{
    size_t used;

    answer_start(a);
    assert_int_equal(answer_feed(a, text, strlen(text), &used), want);
}

static void error_answers_keep_status_and_body(void **state)
{
    struct answer a = {0};

    (void)state;
    whole_fed(&a, "HTTP/1.1 503 Busy\r\ncontent-length: 4\r\nConnection: close\r\n\r\nlate",
              ERR_OK);
    assert_int_equal(a.state, ANSWER_DONE);
    assert_int_equal(a.status, 503);
    assert_false(a.keep_alive);
    assert_string_equal(buf_cstr(&a.body), "late");
    whole_fed(&a,
              SSE_HEAD "26\r\n"
                       "data: {\"error\":{\"message\":\"broken\"}}\n\n\r\n",
              ERR_OK);
    assert_string_equal(a.error, "broken");
    answer_fini(&a);
}

static void body_without_length_ends_with_the_connection(void **state)
{
    struct answer a = {0};

    (void)state;
    whole_fed(&a, "HTTP/1.1 200 OK\r\n\r\nabc", ERR_OK);
    assert_int_equal(a.state, ANSWER_TO_CLOSE);
    assert_false(a.keep_alive);
    assert_int_equal(answer_close(&a), ERR_OK);
    assert_string_equal(buf_cstr(&a.body), "abc");
    answer_fini(&a);
}

static void interim_answers_are_skipped(void **state)
{
    struct answer a = {0};

    (void)state;
    whole_fed(&a, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
              ERR_OK);
    assert_int_equal(a.state, ANSWER_DONE);
    assert_int_equal(a.status, 200);
    answer_fini(&a);
}

static void garbage_is_no_answer(void **state)
{
    struct answer a = {0};

    (void)state;
    whole_fed(&a, "SMTP ready\r\n\r\n", ERR_PROTO);
    whole_fed(&a, "HTTP/1.1 abc\r\n\r\n", ERR_PROTO);
    whole_fed(&a, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", ERR_PROTO);
    whole_fed(&a, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", ERR_PROTO);
    answer_fini(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stream_reads_the_same_in_pieces_of_any_size),
        cmocka_unit_test(truncated_answers_are_errors),
        cmocka_unit_test(error_answers_keep_status_and_body),
        cmocka_unit_test(body_without_length_ends_with_the_connection),
        cmocka_unit_test(interim_answers_are_skipped),
        cmocka_unit_test(garbage_is_no_answer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
