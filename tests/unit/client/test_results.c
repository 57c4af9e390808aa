/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "client/client.h"

static const struct slipstream_send_options to_w = {.workflow = "w"};

static void one_free_takes_a_result_with_everything_in_it(void **state)
{
    char a[] = "one", b[] = "", *items[] = {a, b, NULL};
    char **root = result_new(3 * sizeof(char *));
    const char *const *texts;
    size_t i;

    (void)state;
    assert_null(root[0]); /* zeroed */
    for (i = 0; i < 100; i++)
        memset(result_more(root, i), 'x', i);
    texts = result_texts(root, items, 3);
    memset(a, '-', 3); /* a copy, not a loan */
    assert_string_equal(texts[0], "one");
    assert_string_equal(texts[1], "");
    assert_string_equal(texts[2], "");
    slipstream_free(root);
    slipstream_free(NULL);
}

static void errors_have_codes_and_texts_also_unknown_ones(void **state)
{
    (void)state;
    assert_string_equal(slipstream_error_code(SLIPSTREAM_MAILBOX_FULL), "mailbox_full");
    assert_string_equal(slipstream_error_code(SLIPSTREAM_OK), "ok");
    assert_true(strlen(slipstream_error_text(SLIPSTREAM_WORKFLOW)) > 0);
    assert_string_equal(slipstream_error_code(-1), "internal_error");
    assert_string_equal(slipstream_error_code(100000), "internal_error");
}

static void a_handle_opens_without_anybody_there_and_says_who_is_missing(void **state)
{
    const struct slipstream_options bad = {.mailbox_url = "http://127.0.0.1:1"};
    const struct slipstream_options none = {.scheduler_url = "ipc:///nonexistent/scheduler",
                                            .mailbox_url = "ipc:///nonexistent/mailbox",
                                            .timeout_ms = 50};
    struct slipstream_mailbox_status m;
    struct slipstream_box box;
    struct slipstream_sent_list *sent = NULL;
    struct slipstream_engines *engines = NULL;
    struct slipstream *s;

    (void)state;
    assert_int_equal(slipstream_open(&bad, &s), SLIPSTREAM_INVALID);
    assert_int_equal(slipstream_open(&none, &s), SLIPSTREAM_OK);
    assert_string_equal(slipstream_last_error(s), "");
    assert_int_equal(slipstream_mailbox_status(s, &m), SLIPSTREAM_MAILBOX_DOWN);
    assert_non_null(strstr(slipstream_last_error(s), "ipc:///nonexistent/mailbox"));
    assert_int_equal(slipstream_box_get(s, "w", "a", &box), SLIPSTREAM_MAILBOX_DOWN);
    assert_int_equal(slipstream_engines_list(s, &engines), SLIPSTREAM_SCHEDULER_DOWN);
    assert_null(engines);
    assert_int_equal(slipstream_send(s, &to_w, NULL, 0, &sent), SLIPSTREAM_INVALID);
    assert_null(sent);
    slipstream_close(s);
    slipstream_close(NULL);
}

static void too_much_at_once_is_refused_before_anything_is_sent(void **state)
{
    const struct slipstream_options none = {.mailbox_url = "ipc:///nonexistent/mailbox",
                                            .timeout_ms = 50};
    struct slipstream_message m[2] = {{.payload = "1", .payload_len = 2u << 20},
                                      {.payload = "1", .payload_len = SIZE_MAX}};
    struct slipstream_sent_list *sent = NULL;
    struct slipstream *s;

    (void)state;
    assert_int_equal(slipstream_open(&none, &s), SLIPSTREAM_OK);
    assert_int_equal(slipstream_send(s, &to_w, m, 2, &sent), SLIPSTREAM_TOO_LARGE);
    m[1].payload_len = 2u << 20;
    assert_int_equal(slipstream_send(s, &to_w, m, 2, &sent), SLIPSTREAM_TOO_LARGE);
    assert_int_equal(slipstream_send(s, &to_w, m, 1001, &sent), SLIPSTREAM_INVALID);
    slipstream_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_free_takes_a_result_with_everything_in_it),
        cmocka_unit_test(errors_have_codes_and_texts_also_unknown_ones),
        cmocka_unit_test(a_handle_opens_without_anybody_there_and_says_who_is_missing),
        cmocka_unit_test(too_much_at_once_is_refused_before_anything_is_sent),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
