/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/head.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/buf.h"

static enum err check_bytes(const char *raw, size_t len, size_t max, struct head_facts *facts)
{
    char *copy = malloc(len + (len == 0));
    enum err e;

    assert_non_null(copy);
    memcpy(copy, raw, len);
    e = head_check(copy, len, max, facts);
    free(copy);
    return e;
}

static enum err check(const char *raw, struct head_facts *facts)
{
    return check_bytes(raw, strlen(raw), 32768, facts);
}

#define POST "POST /v1/x HTTP/1.1\r\nHost: h:80\r\n"

static void well_formed_heads_pass_with_their_framing(void **state)
{
    static const struct {
        const char *raw;
        bool chunked, has_length, has_body;
    } cases[] = {
        {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", false, false, false},
        {"GET / HTTP/1.0\r\n\r\n", false, false, false},
        {"GET /?q=\xc3\xa9 HTTP/1.1\r\nhost: [::1]:80\r\nX: a\tb\xff\r\n\r\n", false, false, false},
        {POST "Content-Length: 0\r\n\r\n", false, true, false},
        {POST "Content-Length: 000\r\n\r\n", false, true, false},
        {POST "content-length: 12 \r\n\r\n", false, true, true},
        {POST "Transfer-Encoding: Chunked\r\n\r\n", true, false, true},
        {"POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello", false, true, true},
    };
    struct head_facts f;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(check(cases[i].raw, &f), ERR_OK);
        assert_null(f.why);
        assert_int_equal(f.chunked, cases[i].chunked);
        assert_int_equal(f.has_length, cases[i].has_length);
        assert_int_equal(f.has_body, cases[i].has_body);
        assert_int_equal(f.head_bytes, strstr(cases[i].raw, "\r\n\r\n") + 4 - cases[i].raw);
    }
}

static void heads_that_two_readers_may_read_differently_are_refused(void **state)
{
    static const char *const heads[] = {
        POST "Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        POST "Content-Length: 5\r\nContent-Length: 5\r\n\r\n",
        POST "Content-Length: 5, 5\r\n\r\n",
        POST "Content-Length: +5\r\n\r\n",
        POST "Content-Length: -5\r\n\r\n",
        POST "Content-Length: 0x5\r\n\r\n",
        POST "Content-Length: 5 5\r\n\r\n",
        POST "Content-Length:\r\n\r\n",
        POST "Content-Length: 99999999999999999999\r\n\r\n",
        POST "Content-Length: 18446744073709551621\r\n\r\n",
        POST "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        POST "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        POST "Transfer-Encoding: chunked, chunked\r\n\r\n",
        POST "Transfer-Encoding: gzip, chunked\r\n\r\n",
        POST "Transfer-Encoding: identity\r\n\r\n",
        POST "Transfer-Encoding: xchunked\r\n\r\n",
        POST "Transfer-Encoding: \"chunked\"\r\n\r\n",
        POST "Transfer-Encoding:\r\n\r\n",
        POST "Transfer-Encoding: \x0b"
             "chunked\r\n\r\n",
        POST "Transfer-Encoding : chunked\r\n\r\n",
        POST " Transfer-Encoding: chunked\r\n\r\n",
        POST "Content-Length : 5\r\n\r\n",
        POST "X: a\r\n b\r\n\r\n",
        POST "X: a\r\n\tb\r\n\r\n",
        POST "X: a\rb\r\n\r\n",
        POST "X: a\x01\r\n\r\n",
        POST "X\x01: a\r\n\r\n",
        POST "X(y): a\r\n\r\n",
        POST ": a\r\n\r\n",
        POST "no colon\r\n\r\n",
        POST "Host: h2\r\n\r\n",
        POST "Host: h:80\r\n\r\n",
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: u@b\r\n\r\n",
        "GET /a\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        "G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        "GET /\r\n\r\n",
        "nonsense",
        "",
    };
    struct head_facts f;

    (void)state;
    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++) {
        if (check(heads[i], &f) != ERR_HEAD)
            fail_msg("accepted: %s", heads[i]);
        assert_non_null(f.why);
    }
    assert_int_equal(
        check_bytes(POST "X: a\0b\r\n\r\n", sizeof(POST "X: a\0b\r\n\r\n") - 1, 9999, &f),
        ERR_HEAD);
}

static void every_truncated_head_is_refused(void **state)
{
    static const char head[] = POST "Content-Length: 5\r\nX-A: b\r\n\r\n";
    struct head_facts f;

    (void)state;
    for (size_t len = 0; len < sizeof(head) - 1; len++)
        assert_int_equal(check_bytes(head, len, 1000, &f), ERR_HEAD);
}

static void a_large_head_is_431(void **state)
{
    struct head_facts f;
    struct buf b = {0};

    (void)state;
    buf_adds(&b, POST "X: ");
    while (b.len < 5000)
        buf_adds(&b, "x");
    assert_int_equal(check_bytes(b.base, b.len, 4096, &f), ERR_HEAD_TOO_LARGE);
    buf_adds(&b, "\r\n\r\n");
    assert_int_equal(check_bytes(b.base, b.len, 4096, &f), ERR_HEAD_TOO_LARGE);
    assert_int_equal(check_bytes(b.base, b.len, b.len, &f), ERR_OK);
    assert_int_equal(check_bytes(b.base, b.len, b.len - 1, &f), ERR_HEAD_TOO_LARGE);
    assert_non_null(f.why);
    /* A large body is no large head. */
    for (unsigned i = 0; i < 1000; i++)
        buf_adds(&b, "0123456789");
    assert_int_equal(check_bytes(b.base, b.len, 5100, &f), ERR_OK);
    buf_fini(&b);
}

static bool forward(const char *name, const char *value, const char *connection)
{
    return head_may_forward(name, strlen(name), value, strlen(value), connection,
                            connection != NULL ? strlen(connection) : 0);
}

static void only_end_to_end_headers_go_upstream(void **state)
{
    static const char *const yes[] = {"authorization", "content-type", "accept",     "x-request-id",
                                      "X-Workflow-ID", "traceparent",  "user-agent", "x-slipstrea"};
    static const char *const no[] = {"Connection",
                                     "keep-alive",
                                     "proxy-connection",
                                     "te",
                                     "Trailer",
                                     "transfer-encoding",
                                     "upgrade",
                                     "content-length",
                                     "host",
                                     "expect",
                                     "X-Slipstream-Engine",
                                     "x-slipstream-",
                                     "x-vllm-priority",
                                     "X-Data-Parallel-Rank",
                                     "http2-settings",
                                     "proxy-authorization",
                                     "",
                                     "a b",
                                     "a:",
                                     "\xc3\xa9"};

    (void)state;
    for (size_t i = 0; i < sizeof(yes) / sizeof(yes[0]); i++)
        assert_true(forward(yes[i], "v", NULL));
    for (size_t i = 0; i < sizeof(no) / sizeof(no[0]); i++)
        assert_false(forward(no[i], "v", NULL));
    assert_false(forward("x", "a\r\nevil: 1", NULL));
    assert_false(forward("x", "a\nb", NULL));
    assert_false(head_may_forward("x", 1, "a\0b", 3, NULL, 0));
    assert_true(forward("x", "tab\t and \xff", NULL));
}

static void what_connection_names_stays_here(void **state)
{
    (void)state;
    assert_false(forward("x-drop", "v", "x-drop"));
    assert_false(forward("X-Drop", "v", "close, \tx-drop , y"));
    assert_false(forward("y", "v", ",,x-drop,y"));
    assert_true(forward("x-dro", "v", "x-drop"));
    assert_true(forward("x-drop", "v", "x-drop2, drop"));
    assert_true(forward("x", "v", ""));
}

static void only_end_to_end_headers_come_back(void **state)
{
    static const char *const yes[] = {"content-type", "retry-after", "x-ratelimit-limit",
                                      "cache-control", "openai-version"};
    static const char *const no[] = {"connection",
                                     "content-length",
                                     "Transfer-Encoding",
                                     "trailer",
                                     "X-Request-Id",
                                     "date",
                                     "server",
                                     "alt-svc",
                                     "upgrade",
                                     "keep-alive",
                                     "x-slipstream-decision",
                                     ""};

    (void)state;
    for (size_t i = 0; i < sizeof(yes) / sizeof(yes[0]); i++)
        assert_true(head_may_return(yes[i], strlen(yes[i]), "v", 1));
    for (size_t i = 0; i < sizeof(no) / sizeof(no[0]); i++)
        assert_false(head_may_return(no[i], strlen(no[i]), "v", 1));
    assert_false(head_may_return("x", 1, "a\rb", 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(well_formed_heads_pass_with_their_framing),
        cmocka_unit_test(heads_that_two_readers_may_read_differently_are_refused),
        cmocka_unit_test(every_truncated_head_is_refused),
        cmocka_unit_test(a_large_head_is_431),
        cmocka_unit_test(only_end_to_end_headers_go_upstream),
        cmocka_unit_test(what_connection_names_stays_here),
        cmocka_unit_test(only_end_to_end_headers_come_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
