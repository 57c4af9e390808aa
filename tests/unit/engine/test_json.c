/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "bench/engine/json.h"

static bool good(const char *text)
{
    struct json v;
    size_t at;

    return json_check(text, strlen(text), &v, &at);
}

static void accepts_json_and_nothing_else(void **state)
{
    static const char *const yes[] = {"{}",
                                      "[]",
                                      " [1, 2.5e-3, -0, \"x\", null, true, false] ",
                                      "{\"a\":{\"b\":[{}]},\"c\":[]}",
                                      "\"\\u00e9\\n\\\"\"",
                                      "0",
                                      "-1.0E+2"};
    static const char *const no[] = {
        "",      "{",           "}",     "[1,]",    "{\"a\":}",  "{\"a\"}", "{\"a\":1,}",
        "[1 2]", "01",          "1.",    "\"\\x\"", "\"\\u12\"", "\"\n\"",  "nul",
        "[1]]",  "{,}",         "{1:2}", "\"open",  "[\"a\":1]", "-",       "1e",
        "truex", "{\"a\":1 1}", "[}",    "{]"};

    (void)state;
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++) {
        if (!good(yes[i]))
            fail_msg("refused: %s", yes[i]);
    }
    for (size_t i = 0; i < sizeof no / sizeof *no; i++) {
        if (good(no[i]))
            fail_msg("accepted: %s", no[i]);
    }
}

static void refuses_every_cut_of_a_document(void **state)
{
    static const char text[] = "{\"a\":[1,{\"b\":\"c\\u00e9\\\\\"}],\"d\":-1.5e3}";
    struct json v;
    size_t at;

    (void)state;
    assert_true(good(text));
    for (size_t n = 0; n < sizeof text - 1; n++) {
        char copy[sizeof text]; /* exact length, so that a sanitizer sees an overrun */

        memcpy(copy, text, n);
        assert_false(json_check(copy, n, &v, &at));
        assert_true(at <= n);
    }
}

static void depth_is_limited(void **state)
{
    char text[2 * JSON_DEPTH + 3];

    (void)state;
    memset(text, '[', JSON_DEPTH);
    memset(text + JSON_DEPTH, ']', JSON_DEPTH);
    text[2 * JSON_DEPTH] = '\0';
    assert_true(good(text));
    memset(text, '[', JSON_DEPTH + 1);
    memset(text + JSON_DEPTH + 1, ']', JSON_DEPTH + 1);
    text[2 * JSON_DEPTH + 2] = '\0';
    assert_false(good(text));
}

static void text_is_unescaped(void **state)
{
    static const char text[] = "\"a\\u00e9\\ud83d\\ude00\\n\\/\\\"\\ud800x caf\xc3\xa9\"";
    struct json v;
    struct buf b = {0};
    size_t at;

    (void)state;
    assert_true(json_check(text, sizeof text - 1, &v, &at));
    json_text(&v, &b);
    assert_string_equal(buf_cstr(&b), "a\xc3\xa9\xf0\x9f\x98\x80\n/\"\xef\xbf\xbdx caf\xc3\xa9");
    buf_fini(&b);
}

static void members_and_elements_are_walked_in_order(void **state)
{
    static const char text[] = "{ \"a\" : 1 , \"b\\u0063\" : [ 10 , 20, 30 ] ,\"a\":2, \"e\":{}}";
    struct json v, list, item, key, value;
    int64_t n, sum = 0;
    size_t at, count = 0;

    (void)state;
    assert_true(json_check(text, sizeof text - 1, &v, &at));
    for (size_t pos = 0; json_next_member(&v, &pos, &key, &value);)
        count++;
    assert_int_equal(count, 4);
    item = json_member(&v, "a");
    assert_true(json_int(&item, &n));
    assert_int_equal(n, 2); /* the last one */
    list = json_member(&v, "bc");
    assert_int_equal(list.type, JSON_ARRAY);
    for (size_t pos = 0; json_next_element(&list, &pos, &item);) {
        assert_true(json_int(&item, &n));
        sum += n;
    }
    assert_int_equal(sum, 60);
    assert_int_equal(json_member(&v, "x").type, JSON_NONE);
    assert_int_equal(json_member(&list, "x").type, JSON_NONE);
}

static void integers_only(void **state)
{
    struct json v;
    size_t at;
    int64_t n;

    (void)state;
    assert_true(json_check("9223372036854775807", 19, &v, &at) && json_int(&v, &n));
    assert_true(json_check("9223372036854775808", 19, &v, &at) && !json_int(&v, &n));
    assert_true(json_check("1.0", 3, &v, &at) && !json_int(&v, &n));
    assert_true(json_check("\"1\"", 3, &v, &at) && !json_int(&v, &n));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accepts_json_and_nothing_else),
        cmocka_unit_test(refuses_every_cut_of_a_document),
        cmocka_unit_test(depth_is_limited),
        cmocka_unit_test(text_is_unescaped),
        cmocka_unit_test(members_and_elements_are_walked_in_order),
        cmocka_unit_test(integers_only),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
