/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/list.h"
#include "common/loop.h"

struct end {
    struct loop *loop;
    struct watch *watch, *other;
    int fd, calls;
};

static struct loop *loop;
static int turn_ends, signals, timers_fired;

static int setup(void **state)
{
    (void)state;
    loop = loop_new();
    turn_ends = signals = timers_fired = 0;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    loop_free(loop);
    return 0;
}

static void count_call(void *arg, uint32_t events)
{
    (void)events;
    ((struct end *)arg)->calls++;
}

static void unwatch_both(void *arg, uint32_t events)
{
    struct end *e = arg;

    (void)events;
    e->calls++;
    loop_unwatch(e->watch);
    loop_unwatch(e->other);
}

static void count_turn_end(void *arg)
{
    (void)arg;
    turn_ends++;
}

static void stop_on_signal(void *arg, int signo)
{
    (void)arg;
    signals += signo == SIGUSR1;
    loop_stop(loop);
}

static void stop_on_timer(struct timer *t)
{
    (void)t;
    timers_fired++;
    loop_stop(loop);
}

static void readiness_is_level_triggered(void **state)
{
    struct end e = {.loop = loop};
    int p[2];

    (void)state;
    assert_int_equal(pipe(p), 0);
    e.watch = loop_watch(loop, p[0], EPOLLIN, count_call, &e);
    loop_turn(loop, 0);
    assert_int_equal(e.calls, 0);
    assert_int_equal(write(p[1], "x", 1), 1);
    loop_turn(loop, 1000);
    loop_turn(loop, 1000);
    assert_int_equal(e.calls, 2);
    loop_rewatch(e.watch, 0);
    loop_turn(loop, 0);
    assert_int_equal(e.calls, 2);
    loop_unwatch(e.watch);
    close(p[0]);
    close(p[1]);
}

static void a_watch_that_ended_in_this_turn_is_not_called(void **state)
{
    struct end a = {.loop = loop}, b = {.loop = loop};
    int p[2], q[2];

    (void)state;
    assert_int_equal(pipe(p), 0);
    assert_int_equal(pipe(q), 0);
    a.watch = b.other = loop_watch(loop, p[0], EPOLLIN, unwatch_both, &a);
    b.watch = a.other = loop_watch(loop, q[0], EPOLLIN, unwatch_both, &b);
    assert_int_equal(write(p[1], "x", 1), 1);
    assert_int_equal(write(q[1], "x", 1), 1);
    loop_turn(loop, 1000);
    loop_turn(loop, 0);
    assert_int_equal(a.calls + b.calls, 1);
    close(p[0]);
    close(p[1]);
    close(q[0]);
    close(q[1]);
}

static void a_turn_sleeps_until_the_next_timer_and_ends_with_the_turn_ends(void **state)
{
    struct timer t = {.fire = stop_on_timer};

    (void)state;
    loop_at_turn_end(loop, count_turn_end, NULL);
    timer_start(loop_timers(loop), &t, clock_ns() + 3 * NS_PER_MS);
    loop_run(loop);
    assert_int_equal(timers_fired, 1);
    assert_true(turn_ends >= 1);
}

static void signals_arrive_in_the_loop(void **state)
{
    (void)state;
    loop_on_signal(loop, SIGUSR1, stop_on_signal, NULL);
    assert_int_equal(kill(getpid(), SIGUSR1), 0);
    loop_run(loop);
    assert_int_equal(signals, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(readiness_is_level_triggered, setup, teardown),
        cmocka_unit_test_setup_teardown(a_watch_that_ended_in_this_turn_is_not_called, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(
            a_turn_sleeps_until_the_next_timer_and_ends_with_the_turn_ends, setup, teardown),
        cmocka_unit_test_setup_teardown(signals_arrive_in_the_loop, setup, teardown),
    };

    return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
