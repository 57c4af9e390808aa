/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <ctype.h>
#include <string.h>

#include <cmocka.h>

#include "common/err.h"

static void every_error_says_what_clients_need(void **state)
{
    unsigned e, other;
    const char *c;

    (void)state;
    for (e = 0; e < ERR_COUNT; e++) {
        assert_true(strlen(err_text((enum err)e)) > 5);
        assert_int_equal(err_text((enum err)e)[strlen(err_text((enum err)e)) - 1], '.');
        for (c = err_code((enum err)e); *c != '\0'; c++)
            assert_true(islower((unsigned char)*c) || *c == '_');
        for (other = 0; other < e; other++)
            assert_string_not_equal(err_code((enum err)e), err_code((enum err)other));
        if (e == ERR_OK)
            continue;
        assert_true(err_http((enum err)e) >= 400 && err_http((enum err)e) < 600);
        assert_true(strlen(err_type((enum err)e)) > 0);
        assert_true(err_retry_ms((enum err)e) >= -1);
    }
}

static void what_is_no_row_reads_as_a_bug(void **state)
{
    (void)state;
    assert_string_equal(err_code((enum err)ERR_COUNT), err_code(ERR_BUG));
    assert_int_equal(err_http((enum err)12345), 500);
}

static void numbers_from_the_wire_are_made_safe(void **state)
{
    (void)state;
    assert_int_equal(err_from_wire(0), ERR_OK);
    assert_int_equal(err_from_wire(ERR_BUSY), ERR_BUSY);
    assert_int_equal(err_from_wire(ERR_COUNT), ERR_PROTO);
    assert_int_equal(err_from_wire(0xffffffffu), ERR_PROTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_error_says_what_clients_need),
        cmocka_unit_test(what_is_no_row_reads_as_a_bug),
        cmocka_unit_test(numbers_from_the_wire_are_made_safe),
    };

    return cmocka_run_group_tests_name("err", tests, NULL, NULL);
}
