/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/splice.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/buf.h"

static void assert_result(const struct splice_list *l, const char *body, const char *expected)
{
    struct iovec pieces[SPLICE_PIECES];
    size_t len = strlen(body);
    char *copy = malloc(len + 1);
    struct buf b = {0};
    size_t n;

    assert_non_null(copy);
    memcpy(copy, body, len + 1);
    n = splice_apply(l, copy, len, pieces);
    assert_true(n <= SPLICE_PIECES);
    for (size_t i = 0; i < n; i++) {
        assert_true(pieces[i].iov_len > 0);
        buf_add(&b, pieces[i].iov_base, pieces[i].iov_len);
    }
    assert_int_equal(b.len, splice_length(l, len));
    assert_string_equal(buf_cstr(&b), expected);
    buf_fini(&b);
    free(copy);
}

static void nothing_to_change_is_the_body_itself(void **state)
{
    struct splice_list l = {0};

    (void)state;
    assert_result(&l, "abc", "abc");
    assert_result(&l, "", "");
}

static void cuts_and_inserts_come_in_any_order(void **state)
{
    struct splice_list l = {0};

    (void)state;
    assert_true(splice_add(&l, 7, 3, NULL, 0));
    assert_true(splice_add(&l, 0, 0, "<", 1));
    assert_true(splice_add(&l, 2, 1, "TWO", 3));
    assert_true(splice_add(&l, 10, 0, ">", 1));
    assert_result(&l, "0123456789", "<01TWO3456>");
}

static void what_is_put_in_at_the_begin_of_a_cut_goes_before_it(void **state)
{
    struct splice_list first = {0}, second = {0};

    (void)state;
    assert_true(splice_add(&first, 1, 4, NULL, 0));
    assert_true(splice_add(&first, 1, 0, "x,", 2));
    assert_true(splice_add(&second, 1, 0, "x,", 2));
    assert_true(splice_add(&second, 1, 4, NULL, 0));
    assert_result(&first, "{abc,d}", "{x,d}");
    assert_result(&second, "{abc,d}", "{x,d}");
}

static void neighbours_are_no_overlap(void **state)
{
    struct splice_list l = {0};

    (void)state;
    assert_true(splice_add(&l, 0, 2, NULL, 0));
    assert_true(splice_add(&l, 4, 2, NULL, 0));
    assert_true(splice_add(&l, 2, 2, "x", 1));
    assert_true(splice_add(&l, 6, 0, "y", 1));
    assert_result(&l, "aabbcc", "xy");
}

static void overlaps_are_refused_and_change_nothing(void **state)
{
    struct splice_list l = {0};

    (void)state;
    assert_true(splice_add(&l, 4, 4, NULL, 0));
    assert_false(splice_add(&l, 5, 0, "x", 1));
    assert_false(splice_add(&l, 7, 3, NULL, 0));
    assert_false(splice_add(&l, 2, 3, NULL, 0));
    assert_false(splice_add(&l, 0, 20, NULL, 0));
    assert_false(splice_add(&l, 4, 4, NULL, 0));
    assert_result(&l, "0123456789", "012389");
}

static void eight_places_fit_and_no_ninth(void **state)
{
    struct splice_list l = {0};

    (void)state;
    for (uint32_t i = SPLICE_MAX; i > 0; i--)
        assert_true(splice_add(&l, 2 * i - 1, 1, "xy", 2));
    assert_false(splice_add(&l, 18, 0, "z", 1));
    assert_result(&l, "0123456789abcdefgh", "0xy2xy4xy6xy8xyaxycxyexygh");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_to_change_is_the_body_itself),
        cmocka_unit_test(cuts_and_inserts_come_in_any_order),
        cmocka_unit_test(what_is_put_in_at_the_begin_of_a_cut_goes_before_it),
        cmocka_unit_test(neighbours_are_no_overlap),
        cmocka_unit_test(overlaps_are_refused_and_change_nothing),
        cmocka_unit_test(eight_places_fit_and_no_ninth),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
