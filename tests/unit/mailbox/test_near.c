/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "mailbox/near.h"

#define SPAN UINT64_C(250000000)

struct use_at { /* what the thread used, moved by hand */
    struct near near;
    struct near_use use;
};

static uint32_t beat(struct use_at *u, uint64_t ran, uint64_t waited, uint64_t turns)
{
    u->use.ran_ns += ran;
    u->use.waited_ns += waited;
    u->use.turns += turns;
    return near_beat(&u->near, &u->use, SPAN);
}

static uint32_t quiet(struct use_at *u)
{
    return beat(u, SPAN / 100, 1000, 100);
}

static uint32_t answers(struct use_at *u, uint32_t cpu, unsigned count)
{
    uint32_t at = u->near.cpu;

    while (count-- > 0)
        at = near_answered(&u->near, cpu);
    return at;
}

static void start(struct use_at *u)
{
    *u = (struct use_at){0};
    near_init(&u->near);
    assert_int_equal(answers(u, 1, 100), NEAR_ANYWHERE); /* before it knows anything */
    assert_int_equal(quiet(u), NEAR_ANYWHERE);
}

static void follows_readers_that_stay_on_one_cpu(void **state)
{
    struct use_at u;

    (void)state;
    start(&u);
    assert_int_equal(answers(&u, 3, NEAR_STREAK - 1), NEAR_ANYWHERE);
    assert_int_equal(answers(&u, 3, 1), 3);
    assert_int_equal(quiet(&u), 3);
    assert_int_equal(answers(&u, 2, NEAR_STREAK - 1), 3);
    assert_int_equal(answers(&u, 2, 1), 2);
    assert_int_equal(quiet(&u), 2);
}

static void does_not_follow_readers_here_and_there(void **state)
{
    struct use_at u;

    (void)state;
    start(&u);
    for (uint32_t i = 0; i < 1000; i++)
        assert_int_equal(answers(&u, i % 2, 1), NEAR_ANYWHERE);
}

static void lets_go_of_a_reader_among_several(void **state)
{
    struct use_at u;

    (void)state;
    start(&u);
    assert_int_equal(answers(&u, 1, NEAR_STREAK), 1);
    for (uint32_t i = 0; i < 100; i++)
        answers(&u, i % 2, 1);
    assert_int_equal(quiet(&u), NEAR_ANYWHERE);
}

static void lets_go_when_it_has_much_to_do_and_begins_when_it_has_not(void **state)
{
    struct use_at u;

    (void)state;
    start(&u);
    answers(&u, 1, NEAR_STREAK);
    assert_int_equal(beat(&u, SPAN / NEAR_BUSY, 0, 1000), 1);
    assert_int_equal(beat(&u, SPAN / NEAR_BUSY + 1, 0, 1000), NEAR_ANYWHERE);
    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(beat(&u, SPAN / 2, 0, 1000), NEAR_ANYWHERE);
        assert_int_equal(answers(&u, 1, 100), NEAR_ANYWHERE);
    }
    quiet(&u);
    assert_int_equal(answers(&u, 1, NEAR_STREAK), 1);
}

static void lets_go_when_others_are_in_the_way(void **state)
{
    struct use_at u;

    (void)state;
    start(&u);
    answers(&u, 1, NEAR_STREAK);
    assert_int_equal(beat(&u, 0, 100 * (uint64_t)NEAR_WAIT_NS, 100), 1);
    assert_int_equal(beat(&u, 0, 15 * (uint64_t)NEAR_WAIT_NS * 100, 15), 1); /* too few turns */
    assert_int_equal(beat(&u, 0, 101 * (uint64_t)NEAR_WAIT_NS, 100), NEAR_ANYWHERE);
}

static void stays_where_it_waits_no_longer_than_elsewhere(void **state)
{
    struct use_at u;

    (void)state;
    start(&u);
    beat(&u, 0, 200 * (uint64_t)NEAR_WAIT_NS, 100);
    answers(&u, 1, NEAR_STREAK);
    assert_int_equal(beat(&u, 0, 400 * (uint64_t)NEAR_WAIT_NS, 100), 1);
    assert_int_equal(beat(&u, 0, 401 * (uint64_t)NEAR_WAIT_NS, 100), NEAR_ANYWHERE);
}

/* Beats until it follows again. */
static unsigned pause_of(struct use_at *u)
{
    unsigned beats = 0;

    while (answers(u, 1, NEAR_STREAK) == NEAR_ANYWHERE) {
        quiet(u);
        beats++;
    }
    return beats;
}

static void waits_longer_each_time_until_it_went_well(void **state)
{
    struct use_at u;

    (void)state;
    start(&u);
    answers(&u, 1, NEAR_STREAK);
    for (unsigned expected = NEAR_PAUSE_BEATS; expected <= NEAR_PAUSE_BEATS_MAX; expected *= 2) {
        assert_int_equal(beat(&u, SPAN, 0, 100), NEAR_ANYWHERE);
        assert_int_equal(pause_of(&u), expected);
    }
    beat(&u, SPAN, 0, 100);
    assert_int_equal(pause_of(&u), NEAR_PAUSE_BEATS_MAX);
    for (unsigned i = 0; i < NEAR_PAUSE_BEATS_MAX; i++)
        assert_int_equal(quiet(&u), 1);
    beat(&u, SPAN, 0, 100);
    assert_int_equal(pause_of(&u), NEAR_PAUSE_BEATS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(follows_readers_that_stay_on_one_cpu),
        cmocka_unit_test(does_not_follow_readers_here_and_there),
        cmocka_unit_test(lets_go_of_a_reader_among_several),
        cmocka_unit_test(lets_go_when_it_has_much_to_do_and_begins_when_it_has_not),
        cmocka_unit_test(lets_go_when_others_are_in_the_way),
        cmocka_unit_test(stays_where_it_waits_no_longer_than_elsewhere),
        cmocka_unit_test(waits_longer_each_time_until_it_went_well),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
