/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"

static int out[2], saved;

static int setup(void **state)
{
    (void)state;
    saved = dup(2);
    if (pipe2(out, O_NONBLOCK | O_CLOEXEC) != 0)
        return -1;
    return dup2(out[1], 2) < 0;
}

static int teardown(void **state)
{
    (void)state;
    dup2(saved, 2);
    close(saved);
    close(out[0]);
    close(out[1]);
    return 0;
}

/* What one line of log wrote, "" for nothing. */
static const char *logged(void)
{
    static char text[8192];
    ssize_t n = read(out[0], text, sizeof(text) - 1);

    text[n > 0 ? n : 0] = '\0';
    return text;
}

static void line_has_time_level_process_event_and_pairs(void **state)
{
    const char *line;

    (void)state;
    log_init("gateway-1", LOG_LEVEL_INFO);
    log_info("request_end", "id=%s status=%d", "r1", 200);
    line = logged();
    /* 2026-11-23T12:00:00.123Z */
    assert_int_equal(strspn(line, "0123456789-T:.Z"), 24);
    assert_string_equal(line + 24, " info gateway-1 request_end id=r1 status=200\n");
}

static void lines_below_the_level_are_not_written(void **state)
{
    (void)state;
    log_init("p", LOG_LEVEL_WARN);
    log_info("quiet", "a=1");
    log_debug("quiet", "a=1");
    assert_string_equal(logged(), "");
    assert_false(log_is_on(LOG_LEVEL_INFO));
    log_warn("loud", "a=1");
    assert_non_null(strstr(logged(), " warn p loud a=1\n"));
    log_set_level(LOG_LEVEL_DEBUG);
    log_debug("loud", "a=1");
    assert_non_null(strstr(logged(), " debug p loud a=1\n"));
}

static void long_line_is_cut_and_still_one_line(void **state)
{
    static char value[5000];
    const char *line;

    (void)state;
    memset(value, 'x', sizeof(value) - 1);
    log_init("p", LOG_LEVEL_INFO);
    log_info("long", "v=%s", value);
    line = logged();
    assert_true(strlen(line) < 2049);
    assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
}

static void quote_escapes_and_cuts_what_came_from_outside(void **state)
{
    char dst[32], small[12];

    (void)state;
    assert_string_equal(log_quote(dst, sizeof(dst), "a\"b\\\n\x7f", 6), "\"a\\\"b\\\\\\x0a\\x7f\"");
    assert_string_equal(log_quote(dst, sizeof(dst), "", 0), "\"\"");
    log_quote(small, sizeof(small), "\n\n\n\n\n\n\n\n", 8);
    assert_true(strlen(small) < sizeof(small));
    assert_int_equal(small[strlen(small) - 1], '"');
    assert_string_equal(log_quote(small, 7, "abc", 3), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(line_has_time_level_process_event_and_pairs, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(lines_below_the_level_are_not_written, setup, teardown),
        cmocka_unit_test_setup_teardown(long_line_is_cut_and_still_one_line, setup, teardown),
        cmocka_unit_test(quote_escapes_and_cuts_what_came_from_outside),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
