/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "mailbox/json.h"

static bool is_value(const char *s)
{
    size_t len = strlen(s);
    char *exact = malloc(len != 0 ? len : 1); /* no byte behind it may be read */
    bool yes;

    memcpy(exact, s, len);
    yes = json_is_value(exact, len);
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
    assert_false(json_is_value("\"a\0b\"", 5));
}

static void nesting_ends_at_its_limit(void **state)
{
    char text[2 * (JSON_DEPTH + 1) + 1];

    (void)state;
    memset(text, '[', JSON_DEPTH);
    memset(text + JSON_DEPTH, ']', JSON_DEPTH);
    assert_true(json_is_value(text, 2 * JSON_DEPTH));
    memset(text, '[', JSON_DEPTH + 1);
    memset(text + JSON_DEPTH + 1, ']', JSON_DEPTH + 1);
    assert_false(json_is_value(text, 2 * (JSON_DEPTH + 1)));
}

static void ids_are_short_text_without_control_characters(void **state)
{
    char longest[258];

    (void)state;
    memset(longest, 'a', 257);
    longest[257] = '\0';
    assert_false(id_is_valid(longest));
    longest[256] = '\0';
    assert_true(id_is_valid(longest));
    assert_true(id_is_valid("agent \"1\"/\xc3\xa9"));
    assert_false(id_is_valid(NULL));
    assert_false(id_is_valid(""));
    assert_false(id_is_valid("a\nb"));
    assert_false(id_is_valid("a\x7f"));
    assert_false(id_is_valid("a\xc2\x85"));
    assert_false(id_is_valid("a\xff"));
    assert_false(id_is_valid("a\xc3"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_json_is_taken),
        cmocka_unit_test(what_is_not_json_is_refused),
        cmocka_unit_test(nesting_ends_at_its_limit),
        cmocka_unit_test(ids_are_short_text_without_control_characters),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
