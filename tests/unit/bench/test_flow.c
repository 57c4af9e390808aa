/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/replay/flow.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

struct fixture {
    struct trace *t;
    struct selection sel;
    struct flow *f;
};

static struct fixture started(const char *text, uint32_t users, uint32_t max_steps)
{
    struct selection_rule pick = {.max_steps = max_steps};
    struct flow_rule rule = {.users = users, .stagger = 1, .gap_cap = 60};
    struct buf why = {0};
    struct fixture x = {0};

    assert_int_equal(trace_parse(text, strlen(text), &x.t, &why), ERR_OK);
    selection_make(x.t, &pick, &x.sel);
    x.f = flow_new(x.t, &x.sel, &rule);
    buf_fini(&why);
    return x;
}

static void finished(struct fixture *x)
{
    flow_free(x->f);
    selection_fini(&x->sel);
    trace_free(x->t);
}

/* The next due call, which must be due at `at` exactly. */
static uint32_t taken(struct fixture *x, double at)
{
    uint32_t call = UINT32_MAX;
    double when = -1;

    assert_true(flow_next(x->f) == at);
    assert_false(flow_take(x->f, at - 1e-6, &call, &when));
    assert_true(flow_take(x->f, at, &call, &when));
    assert_true(when == at);
    return call;
}

static bool done(struct fixture *x, uint32_t call, double now)
{
    bool last = false;

    flow_done(x->f, call, now, &last);
    return last;
}

#define CLOSED "{\"trace\":\"x\",\"block\":16,\"mode\":\"closed\"}\n"

static void call_waits_for_all_dependencies_and_its_gap(void **state)
{
    struct fixture x = started(CLOSED "[0,0,0,[],0,9,1,-1,0]\n[0,1,0,[],0,9,1,-1,0]\n"
                                      "[0,0,0,[0,1],2.5,9,1,-1,0]\n",
                               1, 0);

    (void)state;
    assert_int_equal(taken(&x, 0), 0);
    assert_int_equal(taken(&x, 0), 1);
    assert_false(done(&x, 1, 3));
    assert_true(isinf(flow_next(x.f)));
    assert_int_equal(flow_left(x.f, 0), 2);
    assert_false(done(&x, 0, 4));
    assert_int_equal(taken(&x, 6.5), 2);
    assert_false(flow_is_over(x.f));
    assert_true(done(&x, 2, 7));
    assert_true(flow_is_over(x.f));
    finished(&x);
}

static void long_gaps_are_capped(void **state)
{
    struct fixture x = started(CLOSED "[0,0,0,[],0,9,1,-1,0]\n[0,0,0,[0],900,9,1,-1,0]\n", 1, 0);

    (void)state;
    done(&x, taken(&x, 0), 10);
    assert_int_equal(taken(&x, 70), 1);
    finished(&x);
}

static void users_start_a_stagger_apart_and_the_rest_when_one_is_free(void **state)
{
    struct fixture x = started(CLOSED "[0,0,0,[],0,9,1,-1,0]\n[1,1,0,[],0,9,1,-1,0]\n"
                                      "[2,2,0,[],0,9,1,-1,0]\n[3,3,0,[],0,9,1,-1,0]\n",
                               2, 0);

    (void)state;
    assert_int_equal(taken(&x, 0), 0);
    assert_int_equal(taken(&x, 1), 1);
    assert_true(isinf(flow_next(x.f)));
    assert_true(done(&x, 1, 5));
    assert_int_equal(taken(&x, 5), 2);
    assert_true(done(&x, 0, 6));
    assert_int_equal(taken(&x, 6), 3);
    assert_int_equal(flow_workflows_done(x.f), 2);
    finished(&x);
}

static void launch_times_are_kept(void **state)
{
    struct fixture x = started("{\"trace\":\"x\",\"block\":16,\"mode\":\"closed\","
                               "\"launch\":[[1,3.5],[0,1.25]]}\n"
                               "[0,0,0,[],0,9,1,-1,0]\n[1,1,0,[],0,9,1,-1,0]\n",
                               1, 0);

    (void)state;
    assert_int_equal(taken(&x, 1.25), 0);
    assert_int_equal(taken(&x, 3.5), 1);
    finished(&x);
}

static void open_calls_come_at_their_time_or_after_their_dependencies(void **state)
{
    struct fixture x = started("{\"trace\":\"x\",\"block\":16,\"mode\":\"open\"}\n"
                               "[0,0,10,[],0,9,1,-1,0]\n[0,0,12,[0],0,9,1,-1,0]\n"
                               "[1,1,15,[],0,9,1,-1,0]\n[0,0,16,[1],0,9,1,-1,0]\n",
                               1, 0);

    (void)state;
    assert_int_equal(taken(&x, 0), 0); /* the first arrival is time 0 */
    done(&x, 0, 14);
    assert_int_equal(taken(&x, 5), 2);
    assert_int_equal(taken(&x, 14), 1);
    finished(&x);
}

static void dependencies_that_were_not_selected_count_as_done(void **state)
{
    struct fixture x = started(CLOSED "[0,0,0,[],0,9,1,-1,0]\n[0,0,0,[0],1,9,1,-1,0]\n"
                                      "[0,0,0,[1],1,9,1,-1,0]\n[1,1,0,[2],0,9,1,-1,0]\n",
                               0, 2);

    (void)state;
    assert_int_equal(taken(&x, 0), 0);
    assert_int_equal(taken(&x, 1), 3);
    done(&x, 0, 2);
    assert_int_equal(taken(&x, 3), 1);
    assert_true(done(&x, 1, 4));
    assert_true(done(&x, 3, 4));
    assert_true(flow_is_over(x.f));
    finished(&x);
}

static void recorded_times_count_from_the_first_and_run_at_a_speed(void **state)
{
    static const char TEXT[] = "{\"trace\":\"x\",\"block\":16,\"mode\":\"open\"}\n"
                               "[7,1,110,[],0,1,1,-1,0]\n"
                               "[5,2,100,[],0,1,1,-1,0]\n"
                               "[7,1,130,[0],0,1,1,-1,0]\n";
    uint64_t order = 40;
    struct flow_rule rule = {.speed = 2, .order = &order};
    struct selection_rule pick = {0};
    struct buf why = {0};
    struct fixture x = {0};

    (void)state;
    assert_int_equal(trace_parse(TEXT, sizeof(TEXT) - 1, &x.t, &why), ERR_OK);
    selection_make(x.t, &pick, &x.sel);
    x.f = flow_new(x.t, &x.sel, &rule);
    assert_int_equal(order, 42);
    assert_int_equal(flow_next_order(x.f), 41);
    assert_int_equal(taken(&x, 0), 1);
    assert_int_equal(flow_next_order(x.f), 40);
    assert_int_equal(taken(&x, 5), 0);
    assert_true(flow_next_order(x.f) == UINT64_MAX);
    assert_false(done(&x, 0, 6));
    assert_int_equal(order, 43);
    assert_int_equal(taken(&x, 15), 2);
    finished(&x);
    buf_fini(&why);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(call_waits_for_all_dependencies_and_its_gap),
        cmocka_unit_test(long_gaps_are_capped),
        cmocka_unit_test(users_start_a_stagger_apart_and_the_rest_when_one_is_free),
        cmocka_unit_test(launch_times_are_kept),
        cmocka_unit_test(open_calls_come_at_their_time_or_after_their_dependencies),
        cmocka_unit_test(dependencies_that_were_not_selected_count_as_done),
        cmocka_unit_test(recorded_times_count_from_the_first_and_run_at_a_speed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
