/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "common/clock.h"
#include "scheduler/late.h"

static void seen(struct late *l, uint64_t *now, uint64_t delay)
{
    uint64_t id = *now + 1;

    late_computed(l, id, false, *now);
    *now += delay;
    late_stored(l, &id, 1, *now);
}

static void events_are_as_late_as_the_latest_of_the_last_few(void **state)
{
    struct late l = {0};
    uint64_t now = NS_PER_S;

    (void)state;
    assert_int_equal(l.ns, 0);
    seen(&l, &now, 3 * NS_PER_S);
    seen(&l, &now, 2 * NS_PER_S);
    assert_int_equal(l.ns, 3 * NS_PER_S);
    for (unsigned i = 0; i < LATE_SEEN; i++)
        late_computed(&l, 5, true, now);
    assert_int_equal(l.ns, 0);
}

static void only_the_block_that_is_awaited_counts(void **state)
{
    uint64_t ids[] = {7, 8, 9}, now = NS_PER_S;
    struct late l = {0};

    (void)state;
    late_stored(&l, ids, 3, now);
    late_computed(&l, 8, false, now);
    late_computed(&l, 9, false, now + 1); /* 8 is still awaited */
    late_stored(&l, ids + 2, 1, now + NS_PER_S);
    assert_int_equal(l.ns, 0);
    late_stored(&l, ids, 3, now + 4 * NS_PER_S);
    assert_int_equal(l.ns, 4 * NS_PER_S);
}

static void an_event_that_never_comes_is_late_and_the_next_block_is_awaited(void **state)
{
    uint64_t id = 9, now = NS_PER_S;
    struct late l = {0};

    (void)state;
    late_computed(&l, 8, false, now);
    now += 100 * NS_PER_S;
    late_computed(&l, id, false, now);
    assert_true(l.ns >= 30 * NS_PER_S);
    late_stored(&l, &id, 1, now);
    assert_int_equal(l.awaited, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_are_as_late_as_the_latest_of_the_last_few),
        cmocka_unit_test(only_the_block_that_is_awaited_counts),
        cmocka_unit_test(an_event_that_never_comes_is_late_and_the_next_block_is_awaited),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
