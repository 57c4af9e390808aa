/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "common/timers.h"

struct probe {
    struct timer timer;
    int id;
};

static struct timers ts;
static int fired[4096];
static int fired_count;
static struct timer *victim;

static void note(struct timer *t)
{
    fired[fired_count++] = ((struct probe *)(void *)t)->id;
}

static void note_and_stop_victim(struct timer *t)
{
    note(t);
    timer_stop(&ts, victim);
}

static void note_and_start_again_at_once(struct timer *t)
{
    note(t);
    timer_start(&ts, t, 0);
}

static int setup(void **state)
{
    (void)state;
    timers_init(&ts);
    fired_count = 0;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    timers_fini(&ts);
    return 0;
}

static void equal_deadlines_fire_in_the_order_of_their_starts(void **state)
{
    struct probe p[8];
    int i;

    (void)state;
    for (i = 0; i < 8; i++) {
        p[i] = (struct probe){.timer.fire = note, .id = i};
        timer_start(&ts, &p[i].timer, i < 4 ? 50 : 20);
    }
    timers_run(&ts, 19);
    assert_int_equal(fired_count, 0);
    timers_run(&ts, 50);
    assert_int_equal(fired_count, 8);
    for (i = 0; i < 8; i++)
        assert_int_equal(fired[i], (i + 4) % 8);
}

static void random_starts_moves_and_stops_fire_in_order(void **state)
{
    static struct probe p[1000];
    uint64_t last = 0;
    int i, expected = 0;

    (void)state;
    srand(7);
    for (i = 0; i < 1000; i++) {
        p[i] = (struct probe){.timer.fire = note, .id = i};
        timer_start(&ts, &p[i].timer, (uint64_t)(rand() % 500));
    }
    for (i = 0; i < 1000; i += 3)
        timer_start(&ts, &p[i].timer, (uint64_t)(rand() % 500));
    for (i = 1; i < 1000; i += 3)
        timer_stop(&ts, &p[i].timer);
    for (i = 0; i < 1000; i++)
        expected += timer_is_running(&p[i].timer);
    while (timers_next(&ts) != UINT64_MAX) {
        uint64_t now = timers_next(&ts);

        assert_true(now >= last);
        last = now;
        timers_run(&ts, now);
    }
    assert_int_equal(fired_count, expected);
    for (i = 1; i < fired_count; i++)
        assert_true(p[fired[i]].timer.at_ns >= p[fired[i - 1]].timer.at_ns);
}

static void a_callback_may_stop_another_due_timer(void **state)
{
    struct probe a = {.timer.fire = note_and_stop_victim, .id = 1};
    struct probe b = {.timer.fire = note, .id = 2};

    (void)state;
    victim = &b.timer;
    timer_start(&ts, &a.timer, 1);
    timer_start(&ts, &b.timer, 2);
    timers_run(&ts, 10);
    assert_int_equal(fired_count, 1);
    assert_false(timer_is_running(&b.timer));
}

static void a_timer_that_starts_itself_again_does_not_hold_the_loop(void **state)
{
    struct probe a = {.timer.fire = note_and_start_again_at_once, .id = 1};

    (void)state;
    timer_start(&ts, &a.timer, 1);
    timers_run(&ts, 10);
    assert_int_equal(fired_count, 1);
    assert_true(timer_is_running(&a.timer));
    timers_run(&ts, 10);
    assert_int_equal(fired_count, 2);
}

static void stopping_a_stopped_timer_is_fine(void **state)
{
    struct probe a = {.timer.fire = note};

    (void)state;
    timer_stop(&ts, &a.timer);
    assert_int_equal(timers_next(&ts), UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(equal_deadlines_fire_in_the_order_of_their_starts, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(random_starts_moves_and_stops_fire_in_order, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_callback_may_stop_another_due_timer, setup, teardown),
        cmocka_unit_test_setup_teardown(a_timer_that_starts_itself_again_does_not_hold_the_loop,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(stopping_a_stopped_timer_is_fine, setup, teardown),
    };

    return cmocka_run_group_tests_name("timers", tests, NULL, NULL);
}
