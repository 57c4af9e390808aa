/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "scheduler/table.h"

#define SLOTS 3000u

/* Keys of few values, so that runs are long and the same key stands for many slots. */
static uint64_t key_of(uint32_t slot, uint32_t spread)
{
    return table_mix(slot % spread);
}

static uint32_t find(const struct table *t, uint64_t key, uint32_t slot)
{
    uint32_t cursor = 0, found, times = 0;

    while ((found = table_find(t, key, &cursor)) != UINT32_MAX)
        times += found == slot;
    return times;
}

static void whatever_comes_and_goes_is_found_exactly_while_it_is_there(void **state)
{
    static const uint32_t spreads[] = {1, 7, 500, SLOTS};
    struct table t;

    (void)state;
    for (unsigned s = 0; s < 4; s++) {
        uint32_t spread = spreads[s], count = spread == 1 ? 60 : SLOTS;
        char in[SLOTS] = {0};
        uint64_t dice = 1;

        table_init(&t, count);
        for (unsigned i = 0; i < 20000; i++) {
            uint32_t slot;

            dice = table_mix(dice + i);
            slot = (uint32_t)(dice % count);
            if (in[slot])
                table_remove(&t, key_of(slot, spread), slot);
            else
                table_add(&t, key_of(slot, spread), slot);
            in[slot] = (char)!in[slot];
            slot = (uint32_t)(dice >> 40) % count;
            if (spread >= 500 || i % 50 == 0)
                assert_int_equal(find(&t, key_of(slot, spread), slot), in[slot]);
        }
        for (uint32_t slot = 0; slot < count; slot++)
            assert_int_equal(find(&t, key_of(slot, spread), slot), in[slot]);
        table_fini(&t);
    }
}

static void fills_to_its_capacity(void **state)
{
    struct table t;

    (void)state;
    table_init(&t, 5000);
    for (uint32_t i = 0; i < 5000; i++)
        table_add(&t, table_mix(i), i);
    assert_int_equal(t.used, 5000);
    assert_true(t.mask + 1 >= 10000);
    for (uint32_t i = 0; i < 5000; i++)
        assert_int_equal(find(&t, table_mix(i), i), 1);
    table_fini(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whatever_comes_and_goes_is_found_exactly_while_it_is_there),
        cmocka_unit_test(fills_to_its_capacity),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
