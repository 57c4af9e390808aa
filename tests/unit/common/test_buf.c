/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/buf.h"

static struct buf b;

static int teardown(void **state)
{
    (void)state;
    buf_fini(&b);
    return 0;
}

static void bytes_gather_over_any_growth(void **state)
{
    size_t i;

    (void)state;
    for (i = 0; i < 10000; i++)
        buf_add(&b, &(char){(char)i}, 1);
    assert_int_equal(b.len, 10000);
    for (i = 0; i < 10000; i++)
        assert_int_equal(b.base[i], (char)i);
    buf_add(&b, NULL, 0);
    assert_int_equal(b.len, 10000);
}

static void consuming_keeps_the_rest_and_clearing_the_memory(void **state)
{
    size_t cap;

    (void)state;
    buf_adds(&b, "hello world");
    buf_consume(&b, 6);
    assert_string_equal(buf_cstr(&b), "world");
    cap = b.cap;
    buf_clear(&b);
    assert_int_equal(b.len, 0);
    assert_int_equal(b.cap, cap);
    assert_string_equal(buf_cstr(&b), "");
}

static void formats_append(void **state)
{
    char big[2000];

    (void)state;
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    buf_addf(&b, "%d-", 42);
    buf_addf(&b, "%s", big);
    assert_int_equal(b.len, 3 + sizeof(big) - 1);
    assert_memory_equal(b.base, "42-xxx", 6);
}

static void numbers_append_as_decimals(void **state)
{
    (void)state;
    buf_add_number(&b, 0);
    buf_adds(&b, " ");
    buf_add_number(&b, 1234567890);
    buf_adds(&b, " ");
    buf_add_number(&b, UINT64_MAX);
    assert_string_equal(buf_cstr(&b), "0 1234567890 18446744073709551615");
}

static void json_strings_are_escaped(void **state)
{
    static const char hard[] = "a\"b\\c\nd\x01\x7f\xc3\xa9";

    (void)state;
    buf_add_json(&b, hard, sizeof(hard) - 1);
    assert_string_equal(buf_cstr(&b), "\"a\\\"b\\\\c\\nd\\u0001\\u007f\xc3\xa9\"");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(bytes_gather_over_any_growth, teardown),
        cmocka_unit_test_teardown(consuming_keeps_the_rest_and_clearing_the_memory, teardown),
        cmocka_unit_test_teardown(formats_append, teardown),
        cmocka_unit_test_teardown(numbers_append_as_decimals, teardown),
        cmocka_unit_test_teardown(json_strings_are_escaped, teardown),
    };

    return cmocka_run_group_tests_name("buf", tests, NULL, NULL);
}
