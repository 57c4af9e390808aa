/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "scheduler/latency.h"

static void quantiles_are_within_an_eighth(void **state)
{
    (void)state;
    for (uint64_t us = 1000; us < UINT64_C(4000000000); us = us * 11 / 10) {
        struct latency l;
        double got;

        memset(&l, 0, sizeof(l));
        latency_add(&l, us);
        got = latency_quantile(&l, 0.99) * 1e6 / (double)us;
        assert_true(got > 0.87 && got < 1.13);
        assert_true(l.sum_us == us && l.count == 1);
    }
}

static void extremes_are_counted_at_the_ends(void **state)
{
    struct latency l;

    (void)state;
    memset(&l, 0, sizeof(l));
    assert_float_equal(latency_quantile(&l, 0.5), 0, 1e-9);
    latency_add(&l, 0);
    latency_add(&l, UINT64_MAX);
    assert_true(latency_quantile(&l, 0.4) < 0.002);
    assert_true(latency_quantile(&l, 1) > 3000);
}

static void full_buckets_keep_the_shape(void **state)
{
    struct latency l;

    (void)state;
    memset(&l, 0, sizeof(l));
    for (int i = 0; i < 200000; i++)
        latency_add(&l, i % 10 == 0 ? 1000000 : 10000);
    assert_int_equal(l.count, 200000);
    assert_float_equal(latency_quantile(&l, 0.5), 0.010, 0.0013);
    assert_float_equal(latency_quantile(&l, 0.85), 0.010, 0.0013);
    assert_float_equal(latency_quantile(&l, 0.95), 1.0, 0.13);
    assert_float_equal(latency_mean(&l), 0.109, 1e-6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quantiles_are_within_an_eighth),
        cmocka_unit_test(extremes_are_counted_at_the_ends),
        cmocka_unit_test(full_buckets_keep_the_shape),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
