/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/answer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/buf.h"

static struct answer a;

static enum err parse(const char *head, bool to_head)
{
    size_t len = strlen(head);
    static char copy[ANSWER_HEAD_MAX];

    assert_true(len < sizeof(copy));
    memcpy(copy, head, len);
    return answer_parse(copy, len, 0, to_head, &a);
}

static void the_framing_follows_from_head_and_request(void **state)
{
    static const struct {
        const char *head;
        bool to_head;
        enum answer_framing framing;
        uint64_t length;
        bool keep_alive;
    } cases[] = {
        {"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", false, ANSWER_LENGTH, 12, true},
        {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, ANSWER_NO_BODY, 0, true},
        {"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", true, ANSWER_NO_BODY, 12, true},
        {"HTTP/1.1 200 \r\nTransfer-Encoding: Chunked \t\r\n\r\n", false, ANSWER_CHUNKED, 0, true},
        {"HTTP/1.1 204 No\r\n\r\n", false, ANSWER_NO_BODY, 0, true},
        {"HTTP/1.1 304 No\r\nContent-Length: 9\r\n\r\n", false, ANSWER_NO_BODY, 9, true},
        {"HTTP/1.1 200 OK\r\n\r\n", false, ANSWER_UNTIL_CLOSE, 0, true},
        {"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 1\r\n\r\n", false, ANSWER_LENGTH,
         1, false},
        {"HTTP/1.1 200 OK\r\nConnection: x ,\tclose\r\nContent-Length: 1\r\n\r\n", false,
         ANSWER_LENGTH, 1, false},
        {"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", false, ANSWER_LENGTH, 1, false},
        {"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\n", false,
         ANSWER_LENGTH, 1, true},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(parse(cases[i].head, cases[i].to_head), ERR_OK);
        assert_int_equal(a.framing, cases[i].framing);
        assert_int_equal(a.length, cases[i].length);
        assert_int_equal(a.keep_alive, cases[i].keep_alive);
        assert_int_equal(a.head_bytes, strlen(cases[i].head));
    }
}

static void answers_whose_end_is_in_doubt_are_refused(void **state)
{
#define OK "HTTP/1.1 200 OK\r\n"
    static const char *const heads[] = {
        OK "Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        OK "Content-Length: 5\r\nContent-Length: 5\r\n\r\n",
        OK "Content-Length: 5, 5\r\n\r\n",
        OK "Content-Length: +5\r\n\r\n",
        OK "Content-Length: -1\r\n\r\n",
        OK "Content-Length: 5x\r\n\r\n",
        OK "Content-Length:\r\n\r\n",
        OK "Content-Length: 9999999999999999999999\r\n\r\n",
        OK "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        OK "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        OK "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        OK "Transfer-Encoding: chunked, chunked\r\n\r\n",
        OK "Transfer-Encoding: gzip, chunked\r\n\r\n",
        OK "Transfer-Encoding: identity\r\n\r\n",
        OK "Transfer-Encoding:\r\n\r\n",
        OK "Transfer-Encoding : chunked\r\n\r\n",
        OK "X: a\r\n folded\r\n\r\n",
        OK " X: a\r\n\r\n",
        OK "X: a\rb\r\n\r\n",
        OK "X: a\x01\r\n\r\n",
        OK "nocolon\r\n\r\n",
        OK ": x\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n",
        "HTTP/1.1 99 Low\r\n\r\n",
        "HTTP/1.1 600 High\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 0200 OK\r\n\r\n",
        "HTTP/1.1 -20 OK\r\n\r\n",
        "HTTP/1.1 abc\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/0.9 200 OK\r\n\r\n",
        "<html>no head</html>\r\n\r\n",
        "{\"choices\":[]}\r\n\r\n",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++) {
        if (parse(heads[i], false) != ERR_ENGINE_PROTO)
            fail_msg("accepted: %s", heads[i]);
    }
}

static void a_head_may_come_byte_by_byte(void **state)
{
    static const char head[] = "HTTP/1.1 503 Busy now\r\nContent-Type: application/json; x=y\r\n"
                               "Retry-After: 3\r\nContent-Length: 2\r\n\r\n{}";
    size_t len;

    (void)state;
    for (len = 0; len < sizeof(head) - 3; len++) {
        char *copy = malloc(len + 1);

        assert_non_null(copy);
        memcpy(copy, head, len);
        assert_int_equal(answer_parse(copy, len, len > 0 ? len - 1 : 0, false, &a), ERR_BUSY);
        free(copy);
    }
    assert_int_equal(answer_parse(head, len, len - 1, false, &a), ERR_OK);
    assert_int_equal(a.status, 503);
    assert_int_equal(a.reason_len, 8);
    assert_memory_equal(a.reason, "Busy now", 8);
    assert_int_equal(a.header_count, 3);
    assert_true(a.is_json && !a.is_event_stream);
    assert_int_equal(a.head_bytes, sizeof(head) - 3);
}

static void interim_answers_are_passed_over(void **state)
{
    static const char text[] =
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        "HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream\r\n"
        "Transfer-Encoding: chunked\r\n\r\n";
    const char *p = text, *end = text + sizeof(text) - 1;
    static const int statuses[] = {100, 103, 200};

    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(answer_parse(p, (size_t)(end - p), 0, false, &a), ERR_OK);
        assert_int_equal(a.status, statuses[i]);
        p += a.head_bytes;
    }
    assert_ptr_equal(p, end);
    assert_true(a.is_event_stream && !a.is_json);
    assert_int_equal(a.framing, ANSWER_CHUNKED);
}

static void a_head_is_64_KiB_and_100_headers_at_most(void **state)
{
    struct buf b = {0};

    (void)state;
    buf_adds(&b, "HTTP/1.1 200 OK\r\nX: ");
    while (b.len < ANSWER_HEAD_MAX - 1)
        buf_adds(&b, "x");
    assert_int_equal(answer_parse(b.base, b.len, 0, false, &a), ERR_BUSY);
    buf_adds(&b, "xx");
    assert_int_equal(answer_parse(b.base, b.len, 0, false, &a), ERR_ENGINE_PROTO);
    buf_adds(&b, "\r\n\r\n");
    assert_int_equal(answer_parse(b.base, b.len, 0, false, &a), ERR_ENGINE_PROTO);
    for (unsigned n = 100; n <= 101; n++) {
        buf_clear(&b);
        buf_adds(&b, "HTTP/1.1 200 OK\r\n");
        for (unsigned i = 0; i < n; i++)
            buf_adds(&b, "A: b\r\n");
        buf_adds(&b, "\r\n");
        assert_int_equal(answer_parse(b.base, b.len, 0, false, &a),
                         n == 100 ? ERR_OK : ERR_ENGINE_PROTO);
    }
    buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_framing_follows_from_head_and_request),
        cmocka_unit_test(answers_whose_end_is_in_doubt_are_refused),
        cmocka_unit_test(a_head_may_come_byte_by_byte),
        cmocka_unit_test(interim_answers_are_passed_over),
        cmocka_unit_test(a_head_is_64_KiB_and_100_headers_at_most),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
