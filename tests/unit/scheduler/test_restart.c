/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/scheduler/core_fixture.h"

static struct event resume_of(uint64_t handle, const char *workflow, uint32_t engine)
{
    return (struct event){.type = EV_RESUME,
                          .query = {.handle = handle,
                                    .workflow = text_of(workflow),
                                    .agent = text_of("a"),
                                    .model = text_of("m"),
                                    .prompt_bytes = 4000,
                                    .remaining_ns = 60 * NS_PER_S,
                                    .placed = engine}};
}

static struct event restore_of(const char *workflow, uint32_t engine, uint64_t last_ns)
{
    struct event ev = {.type = EV_WF_RESTORE,
                       .restore = {.engine = engine,
                                   .created_ns = 5,
                                   .last_ns = last_ns,
                                   .requests = 10,
                                   .prompt_tokens = 1000,
                                   .cached_tokens = 700,
                                   .completion_tokens = 90,
                                   .recomputed_tokens = 20,
                                   .home_tokens = 5000}};

    workflow_key(text_of(""), text_of(workflow), &ev.restore.key_lo, &ev.restore.key_hi);
    return ev;
}

static void resume_does_not_double_count(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;
    struct event ev;

    (void)state;
    fixture_open(&f, &conf, 2);
    ev = restore_of("w", 1, 10);
    step(&f, &ev);
    ev = resume_of(77, "w", 1);
    assert_int_equal(step(&f, &ev), ERR_OK);
    assert_int_equal(step(&f, &ev), ERR_OK); /* a page that came twice */
    assert_int_equal(core_engine(f.core, 1)->running, 1);
    assert_int_equal(workflow_requests(workflow(&f, "w")), 11);
    assert_int_equal(finish(&f, 77, 100, 50, 10), ERR_OK);
    assert_int_equal(workflow_requests(workflow(&f, "w")), 11);
    assert_int_equal(workflow(&f, "w")->prompt_tokens, 1100);
    assert_int_equal(core_engine(f.core, 1)->running, 0);
    fixture_close(&f);
}

static void restart_restores_totals(void **state)
{
    struct core_conf conf = fixture_conf();
    const struct workflow *w;
    struct fixture f;
    struct event ev;
    struct action go;

    (void)state;
    fixture_open(&f, &conf, 4);
    ev = restore_of("w", 3, 10);
    step(&f, &ev);
    assert_null(core_workflow_older(f.core, NULL)); /* its name is not known yet */
    assert_int_equal(core_engine(f.core, 3)->home_tokens, 5000);
    go = place(&f, "w", "a");
    assert_int_equal(go.engine, 3);
    assert_int_equal(go.reason, REASON_HOME);
    w = workflow(&f, "w");
    assert_non_null(w);
    assert_ptr_equal(core_workflow_older(f.core, NULL), w);
    assert_int_equal(workflow_requests(w), 11);
    assert_float_equal(workflow_hit_rate(w), 0.7, 1e-9);
    assert_true(w->created_ns == 5);
    /* Tokens of the agents that show themselves again are not added to those restored. */
    assert_int_equal(w->home_tokens, 5000);
    finish(&f, go.handle, 5900, 0, 100);
    assert_int_equal(w->home_tokens, 6000);
    fixture_close(&f);
}

static void restored_workflows_expire_in_the_order_of_their_use(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;
    struct event ev;

    (void)state;
    fixture_open(&f, &conf, 1);
    f.now = 10000 * NS_PER_S;
    ev = restore_of("b", 0, 9000 * NS_PER_S);
    step(&f, &ev);
    ev = restore_of("c", 0, 9900 * NS_PER_S);
    step(&f, &ev);
    ev = restore_of("a", 0, 8500 * NS_PER_S);
    step(&f, &ev);
    step(&f, &ev); /* twice is once */
    assert_int_equal(core_stats_get(f.core)->workflows, 3);
    core_check(f.core);
    f.now = 10799 * NS_PER_S;
    step(&f, &(struct event){.type = EV_TICK});
    assert_int_equal(core_stats_get(f.core)->workflows, 2);
    assert_null(workflow(&f, "a"));
    f.now = 10801 * NS_PER_S;
    step(&f, &(struct event){.type = EV_TICK});
    assert_null(workflow(&f, "b"));
    assert_non_null(workflow(&f, "c"));
    fixture_close(&f);
}

static void home_on_an_engine_that_is_gone_is_chosen_anew(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;
    struct event ev;

    (void)state;
    fixture_open(&f, &conf, 2);
    ev = restore_of("w", ENGINE_NONE, 10);
    step(&f, &ev);
    assert_int_equal(place(&f, "w", "a").reason, REASON_NEW);
    assert_int_equal(workflow_requests(workflow(&f, "w")), 11);
    fixture_close(&f);
}

static void lost_requests_end_with_the_last_page(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;
    struct event ev;
    uint64_t kept, lost, after;

    (void)state;
    fixture_open(&f, &conf, 1);
    kept = place(&f, "w", "a").handle;
    lost = place(&f, "w", "a").handle;
    worker_event(&f, EV_WORKER_HELLO, 0);
    after = place(&f, "w", "a").handle; /* asked after the hello, so not in its pages */
    ev = resume_of(kept, "w", 0);
    step(&f, &ev);
    worker_event(&f, EV_RESUME_LAST, 0);
    assert_int_equal(core_stats_get(f.core)->leases_ended[CAUSE_LOST], 1);
    assert_int_equal(finish(&f, lost, 1, 0, 1), ERR_NOT_FOUND);
    assert_int_equal(finish(&f, kept, 1, 0, 1), ERR_OK);
    assert_int_equal(finish(&f, after, 1, 0, 1), ERR_OK);
    fixture_close(&f);
}

static void requests_placed_alone_are_counted_where_they_run(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;
    struct event ev;

    (void)state;
    fixture_open(&f, &conf, 2);
    ev = resume_of(5, "w", 1);
    ev.type = EV_DISPATCHED;
    assert_int_equal(step(&f, &ev), ERR_OK);
    assert_int_equal(core_engine(f.core, 1)->running, 1);
    assert_int_equal(finish(&f, 5, 10, 0, 1), ERR_OK);
    assert_int_equal(place(&f, "w", "a").engine, 1); /* that engine is warm now */
    ev = resume_of(6, "w", 200);                     /* an engine we do not have */
    assert_int_equal(step(&f, &ev), ERR_OK);
    assert_int_equal(finish(&f, 6, 10, 0, 1), ERR_OK);
    ev.query.worker = 5;
    assert_int_equal(step(&f, &ev), ERR_HELLO);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(resume_does_not_double_count),
        cmocka_unit_test(restart_restores_totals),
        cmocka_unit_test(restored_workflows_expire_in_the_order_of_their_use),
        cmocka_unit_test(home_on_an_engine_that_is_gone_is_chosen_anew),
        cmocka_unit_test(lost_requests_end_with_the_last_page),
        cmocka_unit_test(requests_placed_alone_are_counted_where_they_run),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
