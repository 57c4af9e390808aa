/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/json.h"

/* UTF-8 by its definition: decode, then ask whether this is the shortest way to write it. */
static bool utf8_by_definition(const unsigned char *s, size_t len)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};

    for (size_t i = 0; i < len;) {
        unsigned n = s[i] < 0x80             ? 1
                     : (s[i] & 0xe0) == 0xc0 ? 2
                     : (s[i] & 0xf0) == 0xe0 ? 3
                     : (s[i] & 0xf8) == 0xf0 ? 4
                                             : 0;
        uint32_t c;

        if (n == 0 || len - i < n)
            return false;
        c = n == 1 ? s[i] : s[i] & (0xffu >> (n + 1));
        for (unsigned k = 1; k < n; k++) {
            if ((s[i + k] & 0xc0) != 0x80)
                return false;
            c = c << 6 | (s[i + k] & 0x3fu);
        }
        if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
            return false;
        i += n;
    }
    return true;
}

/* Four bytes behind at bytes of good text, and good text behind them. */
static void check_utf8(const unsigned char four[4], const char *filler, size_t count)
{
    char text[128];
    size_t n = strlen(filler), at = count * n, len = at;
    bool escaped = false, good;
    const char *p = text;

    for (size_t i = 0; i < count; i++)
        memcpy(text + i * n, filler, n);
    memcpy(text + len, four, 4);
    len += 4;
    for (; len + n < at + 44; len += n)
        memcpy(text + len, filler, n);
    text[len++] = '"';
    good = utf8_by_definition((const unsigned char *)text, len);
    assert_int_equal(json_is_utf8(text, len), good);
    assert_int_equal(json_string(&p, text + len, text + len, &escaped),
                     good ? JSON_DONE : JSON_BAD);
    if (good)
        assert_ptr_equal(p, text + len);
    else
        assert_in_range(p - text, at, at + 4);
}

static void utf8_is_checked_at_every_place_of_a_block(void **state)
{
    static const char *const fillers[] = {"x", "\xd0\xb4", "\xe4\xb8\xad", "\xf0\x9f\x98\x80"};
    static const unsigned char edges[] = {0x80, 0x8f, 0x90, 0x9f, 0xa0,
                                          0xbf, 0xc0, 0xe0, 0xf0, 'a'};
    unsigned char four[4];

    (void)state;
    for (unsigned a = 0x80; a < 0x100; a++) {
        for (unsigned i = 0; i < 10 * 10 * 10; i++) {
            four[0] = (unsigned char)a;
            four[1] = edges[i / 100];
            four[2] = edges[i / 10 % 10];
            four[3] = edges[i % 10];
            for (size_t f = 0; f < 4; f++)
                check_utf8(four, fillers[f], (a * 7 + i) % 18);
        }
    }
}

static void a_string_can_be_read_in_pieces(void **state)
{
    static const char text[] = "plain \\\"q\\\" \\u00e9\\ud83d\\ude00 \xe4\xb8\xad\xe6\x96\x87 "
                               "\xf0\x9f\x98\x80 long enough for several blocks of sixteen\\\\\"x";
    const char *end = text + sizeof(text) - 1;

    (void)state;
    for (size_t step = 1; step < sizeof(text); step++) {
        const char *p = text, *stop = text;
        enum json_scan r = JSON_MORE;
        bool escaped = false;

        while (r == JSON_MORE) {
            stop = (size_t)(end - stop) < step ? end : stop + step;
            r = json_string(&p, stop, end, &escaped);
            assert_true(p <= end);
        }
        assert_int_equal(r, JSON_DONE);
        assert_ptr_equal(p, end - 1);
        assert_true(escaped);
    }
}

static void a_string_that_ends_too_early_or_has_raw_controls_is_bad(void **state)
{
    static const struct {
        const char *text;
        size_t bad_at;
    } cases[] = {{"", 0},       {"abc", 3},    {"a\\", 1},     {"a\\u12", 1}, {"a\\u12g4\"", 1},
                 {"a\\x\"", 1}, {"a\nb\"", 1}, {"a\x1f\"", 1}, {"a\\\"", 3},  {"a\xe4\xb8\"", 1}};

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        size_t len = strlen(cases[i].text);
        char *copy = malloc(len + 1);
        const char *p = copy;
        bool escaped = false;

        assert_non_null(copy);
        memcpy(copy, cases[i].text, len);
        assert_int_equal(json_string(&p, copy + len, copy + len, &escaped), JSON_BAD);
        assert_int_equal(p - copy, cases[i].bad_at);
        free(copy);
    }
}

static void numbers_follow_the_grammar(void **state)
{
    static const char *const good[] = {"0",   "-0",  "10",  "1.5",    "-1.25e+10",
                                       "0e0", "1E5", "0.0", "123e-4", "1e0005"};
    static const char *const bad[] = {"-", "1.", "1.e1", ".5", "1e", "1e+", "-a", "+1", "--1"};
    uint8_t number;

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        const char *end = good[i] + strlen(good[i]);

        for (const char *stop = good[i] + 1; stop <= end; stop++) {
            const char *p = good[i];

            number = 0;
            if (stop < end)
                assert_int_equal(json_number(&p, stop, end, &number), JSON_MORE);
            assert_int_equal(json_number(&p, end, end, &number), JSON_DONE);
            assert_ptr_equal(p, end);
        }
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        const char *p = bad[i], *end = p + strlen(p);

        number = 0;
        assert_int_equal(json_number(&p, end, end, &number), JSON_BAD);
    }
}

static void escapes_are_undone(void **state)
{
    static const char raw[] = "a\\n\\/\\u0041\\u00e9\\u4e2d\\ud83d\\ude00\\\"";
    static const char plain[] = "a\n/A\xc3\xa9\xe4\xb8\xad\xf0\x9f\x98\x80\"";
    static const char *const halves[] = {"\\ud800",        "\\ud800x",       "\\udc00",
                                         "\\ud800\\u0041", "\\ud800\\ud800", "\\ud800\\n"};
    char out[32];
    size_t n = 0;

    (void)state;
    assert_true(json_unescape(raw, sizeof(raw) - 1, out, sizeof(out), &n));
    assert_int_equal(n, sizeof(plain) - 1);
    assert_memory_equal(out, plain, n);
    assert_true(json_unescape(raw, sizeof(raw) - 1, out, n, &n));
    assert_false(json_unescape(raw, sizeof(raw) - 1, out, n - 1, &n));
    for (size_t i = 0; i < sizeof(halves) / sizeof(halves[0]); i++)
        assert_false(json_unescape(halves[i], strlen(halves[i]), out, sizeof(out), &n));
}

static void integers_saturate_and_fractions_are_none(void **state)
{
    int64_t v = 7;

    (void)state;
    assert_true(json_integer("-12", 3, &v) && v == -12);
    assert_true(json_integer("9223372036854775807", 19, &v) && v == INT64_MAX);
    assert_true(json_integer("9223372036854775808", 19, &v) && v == INT64_MAX);
    assert_true(json_integer("-99999999999999999999999", 24, &v) && v == INT64_MIN);
    assert_false(json_integer("1.0", 3, &v));
    assert_false(json_integer("1e3", 3, &v));
    assert_false(json_integer("-", 1, &v));
    assert_false(json_integer("", 0, &v));
}

static bool is_value(const char *s)
{
    size_t len = strlen(s);
    char *exact = malloc(len != 0 ? len : 1); /* no byte behind it may be read */
    size_t at;
    bool yes;

    memcpy(exact, s, len);
    yes = json_verify(exact, len, &at) == ERR_OK;
    free(exact);
    return yes;
}

static void what_is_json_is_taken(void **state)
{
    static const char *const good[] = {"1",
                                       "-0",
                                       "0.5e+10",
                                       "true",
                                       " null ",
                                       "\"\"",
                                       "\"x\"",
                                       "{}",
                                       "[ ]",
                                       "[1,2 , 3]",
                                       "{\"a\":1}",
                                       "{ \"a\" : [ { } ] }",
                                       "false",
                                       "[[],[[]]]",
                                       "\"\\u00e9\\n\"",
                                       "\"\xc3\xa9\"",
                                       "\"\xf0\x9f\x98\x80\"",
                                       "1E5",
                                       "{\"a\":{\"b\":[1,{\"c\":null}]},\"d\":\"e\"}"};
    size_t i;

    (void)state;
    for (i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        if (!is_value(good[i]))
            fail_msg("refused: %s", good[i]);
}

static void what_is_not_json_is_refused(void **state)
{
    size_t at = 0;
    static const char *const bad[] = {"",
                                      " ",
                                      "01",
                                      "-",
                                      "1.",
                                      ".5",
                                      "1e",
                                      "+1",
                                      "tru",
                                      "nulll",
                                      "\"",
                                      "\"\\",
                                      "\"\\x\"",
                                      "\"\\u12g4\"",
                                      "\"\\u12",
                                      "[",
                                      "]",
                                      "[1,]",
                                      "[,1]",
                                      "{\"a\"}",
                                      "{\"a\":}",
                                      "{a:1}",
                                      "{\"a\":1,}",
                                      "{,}",
                                      "1 2",
                                      "{} {}",
                                      "[1}",
                                      "{\"a\":1]",
                                      "\"\n\"",
                                      "\"\x80\"",
                                      "\"\xc0\xaf\"",
                                      "\"\xed\xa0\x80\"",
                                      "\"\xf4\x90\x80\x80\"",
                                      "\"\xc3\"",
                                      "\"\xe2\x82\"",
                                      "'a'",
                                      "NaN",
                                      "{\"a\":1}, \"b\":2",
                                      "1}",
                                      "[1]]"};
    size_t i;

    (void)state;
    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        if (is_value(bad[i]))
            fail_msg("taken: %s", bad[i]);
    assert_int_equal(json_verify("\"a\0b\"", 5, &at), ERR_JSON);
    assert_int_equal(at, 2);
}

static void nesting_ends_at_its_limit(void **state)
{
    size_t at = 0;
    char text[2 * (JSON_DEPTH + 1) + 1];

    (void)state;
    memset(text, '[', JSON_DEPTH);
    memset(text + JSON_DEPTH, ']', JSON_DEPTH);
    assert_int_equal(json_verify(text, 2 * JSON_DEPTH, &at), ERR_OK);
    memset(text, '[', JSON_DEPTH + 1);
    memset(text + JSON_DEPTH + 1, ']', JSON_DEPTH + 1);
    assert_int_equal(json_verify(text, 2 * (JSON_DEPTH + 1), &at), ERR_DEPTH);
    assert_int_equal(at, JSON_DEPTH);
}

static void errors_are_told_with_their_place(void **state)
{
    static const char *const good[] = {
        "0",           " \"x\" ",        "null",   "[]", "{\"model\":1,\"model\":2}",
        "\"\\ud800\"", "[1,{\"a\":[]}]", "-0.5e+3"};
    size_t at = 99;

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_int_equal(json_verify(good[i], strlen(good[i]), &at), ERR_OK);
    assert_int_equal(at, 99);
    assert_int_equal(json_verify("[1,,2]", 6, &at), ERR_JSON);
    assert_int_equal(at, 3);
    assert_int_equal(json_verify("1 2", 3, &at), ERR_JSON);
    assert_int_equal(at, 2);
}

/* A public suite of JSON texts, not part of this repository: y_* must be accepted, n_* refused.
 * JSONTESTSUITE names the folder with its files; without it this test is skipped. */
static void json_test_suite_is_judged_as_it_says(void **state)
{
    const char *dir = getenv("JSONTESTSUITE");
    char path[4096], text[300000];
    struct dirent *e;
    unsigned judged = 0;
    size_t n, at;
    DIR *d;

    (void)state;
    if (dir == NULL)
        skip();
    d = opendir(dir);
    assert_non_null(d);
    while ((e = readdir(d)) != NULL) {
        FILE *f;

        if (e->d_name[0] != 'y' && e->d_name[0] != 'n')
            continue;
        snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
        f = fopen(path, "rb");
        assert_non_null(f);
        n = fread(text, 1, sizeof(text), f);
        fclose(f);
        if ((json_verify(text, n, &at) == ERR_OK) != (e->d_name[0] == 'y'))
            fail_msg("%s", e->d_name);
        judged++;
    }
    closedir(d);
    assert_true(judged > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(utf8_is_checked_at_every_place_of_a_block),
        cmocka_unit_test(a_string_can_be_read_in_pieces),
        cmocka_unit_test(a_string_that_ends_too_early_or_has_raw_controls_is_bad),
        cmocka_unit_test(numbers_follow_the_grammar),
        cmocka_unit_test(escapes_are_undone),
        cmocka_unit_test(integers_saturate_and_fractions_are_none),
        cmocka_unit_test(what_is_json_is_taken),
        cmocka_unit_test(what_is_not_json_is_refused),
        cmocka_unit_test(nesting_ends_at_its_limit),
        cmocka_unit_test(errors_are_told_with_their_place),
        cmocka_unit_test(json_test_suite_is_judged_as_it_says),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
