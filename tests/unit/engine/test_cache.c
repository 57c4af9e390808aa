/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "bench/engine/cache.h"

static void evicts_in_order_of_release(void **state)
{
    struct cache c;

    (void)state;
    cache_init(&c, 4);
    for (uint64_t id = 1; id <= 4; id++)
        cache_add(&c, id);
    cache_drop(&c, 3);
    cache_drop(&c, 1);
    cache_drop(&c, 4);
    assert_true(cache_hold(&c, 3)); /* in use again: not a candidate */
    assert_int_equal(cache_evict(&c), 1);
    cache_drop(&c, 3);
    assert_int_equal(cache_evict(&c), 4);
    assert_int_equal(cache_evict(&c), 3);
    assert_int_equal(c.held, 1);
    assert_int_equal(c.cached, 0);
    assert_true(cache_has(&c, 2));
    assert_false(cache_has(&c, 3));
    cache_fini(&c);
}

static void a_block_stays_until_its_last_reference(void **state)
{
    struct cache c;

    (void)state;
    cache_init(&c, 2);
    cache_add(&c, 9);
    assert_true(cache_hold(&c, 9));
    cache_drop(&c, 9);
    assert_int_equal(c.held, 1);
    assert_false(cache_is_cached(&c, 9));
    cache_drop(&c, 9);
    assert_true(cache_is_cached(&c, 9));
    assert_false(cache_hold(&c, 8));
    cache_fini(&c);
}

static void matches_the_longest_resident_prefix(void **state)
{
    struct cache c;
    uint64_t ids[] = {11, 12, 13, 14, 15};

    (void)state;
    cache_init(&c, 8);
    assert_int_equal(cache_match(&c, ids, 5), 0);
    for (size_t i = 0; i < 3; i++)
        cache_add(&c, ids[i]);
    assert_int_equal(cache_match(&c, ids, 5), 3);
    assert_int_equal(cache_match(&c, ids, 2), 2);
    assert_int_equal(cache_match(&c, ids, 0), 0);
    cache_fini(&c);
}

static void a_large_cache_grows_as_it_fills(void **state)
{
    enum { MANY = 2500000 };
    struct cache c;

    (void)state;
    cache_init(&c, MANY + 1000);
    for (uint64_t id = 1; id <= MANY; id++) {
        cache_add(&c, id * 7);
        cache_drop(&c, id * 7);
    }
    assert_int_equal(c.cached, MANY);
    for (uint64_t id = 1; id <= MANY; id += 1001)
        assert_true(cache_is_cached(&c, id * 7));
    assert_false(cache_has(&c, 8));
    assert_int_equal(cache_evict(&c), 7);
    assert_true(cache_forget(&c, 21));
    assert_false(cache_forget(&c, 21));
    assert_int_equal(cache_evict(&c), 14);
    assert_int_equal(cache_evict(&c), 28);
    assert_int_equal(c.cached, MANY - 4);
    cache_fini(&c);
}

/* A table against a plain array, with a small table so that everything collides. */
static void finds_what_is_there_after_many_evictions(void **state)
{
    enum { CAP = 50, IDS = 400 };
    struct cache c;
    int refs[IDS] = {0};
    bool resident[IDS] = {false};
    uint32_t seed = 12345, held = 0, cached = 0;

    (void)state;
    cache_init(&c, CAP);
    for (int i = 0; i < 200000; i++) {
        uint32_t id;

        seed = seed * 1664525 + 1013904223;
        id = seed >> 8 & 0xffff;
        id %= IDS;
        if ((seed >> 24 & 1) != 0 && refs[id] > 0) {
            cache_drop(&c, id);
            if (--refs[id] == 0) {
                held--;
                cached++;
            }
        } else if (resident[id]) {
            assert_true(cache_hold(&c, id));
            if (refs[id]++ == 0) {
                held++;
                cached--;
            }
        } else if (held < CAP) {
            assert_false(cache_hold(&c, id));
            if (held + cached == CAP) {
                uint64_t gone = cache_evict(&c);

                assert_true(resident[gone] && refs[gone] == 0);
                resident[gone] = false;
                cached--;
            }
            cache_add(&c, id);
            resident[id] = true;
            refs[id] = 1;
            held++;
        }
        assert_int_equal(c.held, held);
        assert_int_equal(c.cached, cached);
    }
    for (uint32_t id = 0; id < IDS; id++)
        assert_int_equal(cache_has(&c, id), resident[id]);
    cache_fini(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(evicts_in_order_of_release),
        cmocka_unit_test(a_block_stays_until_its_last_reference),
        cmocka_unit_test(matches_the_longest_resident_prefix),
        cmocka_unit_test(a_large_cache_grows_as_it_fills),
        cmocka_unit_test(finds_what_is_there_after_many_evictions),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
