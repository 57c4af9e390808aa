/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/id.h"

static bool is_id(const char *s)
{
    size_t len = strlen(s);
    char *exact = malloc(len != 0 ? len : 1); /* no byte behind it may be read */
    bool yes;

    assert_non_null(exact);
    memcpy(exact, s, len);
    yes = id_is_valid(exact, len);
    free(exact);
    return yes;
}

static void ids_are_short_text_without_control_characters(void **state)
{
    char longest[ID_BYTES_MAX + 2];

    (void)state;
    memset(longest, 'a', ID_BYTES_MAX + 1);
    longest[ID_BYTES_MAX + 1] = '\0';
    assert_false(is_id(longest));
    longest[ID_BYTES_MAX] = '\0';
    assert_true(is_id(longest));
    assert_true(is_id("agent \"1\"/\xc3\xa9"));
    assert_true(is_id("\xc2\xa0"));
    assert_false(is_id(""));
    assert_false(is_id("a\nb"));
    assert_false(is_id("a\x7f"));
    assert_false(is_id("a\xc2\x80"));
    assert_false(is_id("a\xc2\x9f"));
    assert_false(is_id("a\xff"));
    assert_false(is_id("a\xc3"));
    assert_false(id_is_valid("a\0b", 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_are_short_text_without_control_characters),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
