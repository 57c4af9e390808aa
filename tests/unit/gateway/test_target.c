/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "gateway/target.h"

static void parsed(const char *raw, bool is_tls, const char *authority, const char *rest)
{
    const char *why = NULL;
    struct target t;

    assert_true(target_is_absolute(raw, strlen(raw)));
    assert_int_equal(target_parse(raw, strlen(raw), is_tls, &t, &why), ERR_OK);
    assert_int_equal(t.authority_len, strlen(authority));
    assert_memory_equal(t.authority, authority, t.authority_len);
    assert_int_equal(t.rest_len, strlen(rest));
    assert_memory_equal(t.rest, rest, t.rest_len);
    assert_null(why);
}

static void absolute_forms_are_taken_apart(void **state)
{
    (void)state;
    parsed("http://host/v1/models?a=b", false, "host", "/v1/models?a=b");
    parsed("HTTP://Host:8080/", false, "Host:8080", "/");
    parsed("https://[::1]:443/x", true, "[::1]:443", "/x");
    parsed("http://host", false, "host", "");
    parsed("http://host?q=http://other/", false, "host", "?q=http://other/");
    parsed("http://host//two", false, "host", "//two");
}

static void other_forms_are_left_alone(void **state)
{
    static const char *const other[] = {"/",    "/http://x/", "*",   "",        "host:443",
                                        "://x", "http:/x",    "htt", "http:x/", " http://x/"};

    (void)state;
    for (size_t i = 0; i < sizeof(other) / sizeof(other[0]); i++)
        assert_false(target_is_absolute(other[i], strlen(other[i])));
}

static void targets_of_others_are_refused(void **state)
{
    static const char *const bad[] = {
        "https://host/", "ftp://host/",      "httpx://host/", "http:///path",  "http://",
        "http://?q",     "http://u:p@host/", "http://:80/",   "http://a#b/",   "http://a\\b.evil/",
        "http://a,b/",   "http://h\xffst/",  "http://h\"/",   "http://a@b@c/", "h2c://host/"};

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        const char *why = NULL;
        struct target t;

        assert_true(target_is_absolute(bad[i], strlen(bad[i])));
        assert_int_equal(target_parse(bad[i], strlen(bad[i]), false, &t, &why), ERR_HEAD);
        assert_non_null(why);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(absolute_forms_are_taken_apart),
        cmocka_unit_test(other_forms_are_left_alone),
        cmocka_unit_test(targets_of_others_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
