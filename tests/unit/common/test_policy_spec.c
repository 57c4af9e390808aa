/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "common/policy_spec.h"

static void refused(const char *text, const char *reason)
{
    struct policy_spec s;
    char why[200] = "";

    memset(&s, 0x5a, sizeof(s));
    assert_int_equal(spec_parse(text, &s, why, sizeof(why)), ERR_CONF);
    assert_non_null(strstr(why, reason));
    assert_int_equal(s.symbol, 0x5a); /* results stay untouched */
}

static void a_bare_name_has_no_options(void **state)
{
    struct policy_spec s;

    (void)state;
    assert_int_equal(spec_parse("least", &s, NULL, 0), ERR_OK);
    assert_int_equal(s.symbol, POLICY_least);
    assert_string_equal(spec_name(&s), "least");
    assert_string_equal(s.text, "least");
    assert_int_equal(s.count, 0);
    assert_false(spec_has(&s, "idx"));
    assert_false(spec_is_single(&s));
}

static void options_are_numbers_or_words(void **state)
{
    struct policy_spec s, copy;

    (void)state;
    assert_int_equal(spec_parse("workflow:gate=off:idx=1.25:tax=.05:view=approx", &s, NULL, 0),
                     ERR_OK);
    copy = s;
    memset(&s, 0, sizeof(s));
    assert_string_equal(spec_name(&copy), "workflow");
    assert_true(spec_is_single(&copy));
    assert_string_equal(copy.text, "workflow:gate=off:idx=1.25:tax=.05:view=approx");
    assert_string_equal(spec_str(&copy, "gate", "auto"), "off");
    assert_string_equal(spec_str(&copy, "view", "auto"), "approx");
    assert_string_equal(spec_str(&copy, "age", "none"), "none");
    assert_true(spec_f64(&copy, "idx", 0) == 1.25);
    assert_true(spec_f64(&copy, "tax", 0) == .05);
    assert_true(spec_f64(&copy, "gate", 7) == 7); /* a word is no number */
    assert_true(spec_f64(&copy, "age", 9) == 9);
}

static void numbers_not_given_come_from_the_table(void **state)
{
    struct policy_spec s;

    (void)state;
    assert_int_equal(spec_parse("workflow:tax=0", &s, NULL, 0), ERR_OK);
    assert_true(spec_number(&s, "tax") == 0);
    assert_true(spec_number(&s, "idx") == .95);
}

static void a_key_alone_means_one(void **state)
{
    struct policy_spec s;

    (void)state;
    assert_int_equal(spec_parse("workflow:lag", &s, NULL, 0), ERR_OK);
    assert_true(spec_has(&s, "lag"));
    assert_true(spec_number(&s, "lag") == 1);
}

static void what_is_not_known_is_named(void **state)
{
    (void)state;
    refused("fastest", "no policy \"fastest\"");
    refused("", "no policy");
    refused(":", "no policy");
    refused("Least", "no policy \"Least\"");
    refused("leas", "no policy \"leas\"");
    refused("least=1", "no policy \"least=1\"");
    refused("least:tax=1", "least has no option \"tax\"");
    refused("least:", "no option \"\"");
    refused("workflow:taxes=.1", "workflow has no option \"taxes\" (it has gate, ");
    refused("workflow:tax=.1:", "no option \"\"");
    refused("workflow:=1", "no option \"\"");
    refused("workflow:tax=.1:idx=1:tax=.1", "tax of policy workflow is given twice");
}

static void values_are_checked(void **state)
{
    static const char *const bad[] = {"workflow:tax=",    "workflow:tax=2",   "workflow:tax=-.1",
                                      "workflow:tax=0x1", "workflow:tax=nan", "workflow:tax=inf",
                                      "workflow:tax=.1s", "workflow:tax=off", "workflow:tax= .1",
                                      "workflow:tax=1e9", "workflow:tax=-",   "workflow:tax=+.1"};

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        refused(bad[i], "option tax of policy workflow is a number from 0 to 1");
    refused("workflow:gate=of", "a number from 0 to 1e+09, or auto|off");
    refused("workflow:view=exactly", "is one of auto|approx");
    refused("workflow:view=1", "is one of auto|approx");
    refused("workflow:view", "is one of auto|approx");
}

static void long_texts_are_refused(void **state)
{
    char text[SPEC_MAX + 2] = "workflow:gate=";

    (void)state;
    memset(text + 14, '0', SPEC_MAX - 13);
    refused(text, "at most 200 characters");
    text[SPEC_MAX] = '\0';
    assert_int_equal(spec_parse(text, &(struct policy_spec){0}, NULL, 0), ERR_OK);
    memset(text, ':', SPEC_MAX);
    refused(text, "no policy");
}

static void a_reason_is_cut_to_its_buffer(void **state)
{
    struct policy_spec s;
    char why[8];

    (void)state;
    memset(why, 'x', sizeof(why));
    assert_int_equal(spec_parse("fastest", &s, why, 5), ERR_CONF);
    assert_memory_equal(why, "no p\0xxx", 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bare_name_has_no_options),
        cmocka_unit_test(options_are_numbers_or_words),
        cmocka_unit_test(numbers_not_given_come_from_the_table),
        cmocka_unit_test(a_key_alone_means_one),
        cmocka_unit_test(what_is_not_known_is_named),
        cmocka_unit_test(values_are_checked),
        cmocka_unit_test(long_texts_are_refused),
        cmocka_unit_test(a_reason_is_cut_to_its_buffer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
