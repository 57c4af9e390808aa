/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/pool.h"

struct thing {
    uint64_t a, b;
};

static struct pool pool;

static int setup(void **state)
{
    (void)state;
    pool_init(&pool, sizeof(struct thing), 4);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    pool_fini(&pool);
    return 0;
}

static void a_stale_handle_finds_nobody(void **state)
{
    uint64_t first, second;
    struct thing *t = pool_take(&pool, &first);

    (void)state;
    assert_non_null(t);
    assert_ptr_equal(pool_find(&pool, first), t);
    pool_give(&pool, first);
    assert_null(pool_find(&pool, first));
    assert_non_null(pool_take(&pool, &second));
    assert_int_equal((uint32_t)first, (uint32_t)second); /* the same slot */
    assert_int_not_equal(first, second);
    assert_null(pool_find(&pool, first));
    assert_null(pool_find(&pool, 0));
    assert_null(pool_find(&pool, second + 1000));
}

static void a_full_pool_gives_nothing_until_something_comes_back(void **state)
{
    uint64_t h[4], more;
    int i;

    (void)state;
    for (i = 0; i < 4; i++)
        assert_non_null(pool_take(&pool, &h[i]));
    assert_null(pool_take(&pool, &more));
    assert_int_equal(pool.used, 4);
    pool_give(&pool, h[2]);
    assert_non_null(pool_take(&pool, &more));
    assert_null(pool_find(&pool, h[2]));
}

static void objects_come_zeroed_also_the_second_time(void **state)
{
    uint64_t h;
    struct thing *t = pool_take(&pool, &h);

    (void)state;
    t->a = t->b = 99;
    pool_give(&pool, h);
    t = pool_take(&pool, &h);
    assert_int_equal(t->a, 0);
    assert_int_equal(t->b, 0);
}

static void a_walk_meets_the_living_once_each_and_may_give_them_back(void **state)
{
    uint64_t h[3], handle;
    uint32_t cursor = 0;
    unsigned met = 0;
    int i;

    (void)state;
    for (i = 0; i < 3; i++)
        pool_take(&pool, &h[i]);
    pool_give(&pool, h[1]);
    while (pool_next(&pool, &cursor, &handle) != NULL) {
        assert_true(handle == h[0] || handle == h[2]);
        pool_give(&pool, handle);
        met++;
    }
    assert_int_equal(met, 2);
    assert_int_equal(pool.used, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_stale_handle_finds_nobody, setup, teardown),
        cmocka_unit_test_setup_teardown(a_full_pool_gives_nothing_until_something_comes_back, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(objects_come_zeroed_also_the_second_time, setup, teardown),
        cmocka_unit_test_setup_teardown(a_walk_meets_the_living_once_each_and_may_give_them_back,
                                        setup, teardown),
    };

    return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
