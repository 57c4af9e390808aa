/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/replay/report.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "bench/replay/engines.h"

static void percentile_is_the_sorted_item_at_floor_of_p_n(void **state)
{
    double v[] = {4, 1, 3, 2};

    (void)state;
    assert_true(report_percentile(v, 4, 0) == 1);
    assert_true(report_percentile(v, 4, .5) == 3);
    assert_true(report_percentile(v, 4, .99) == 4);
    assert_true(report_percentile(v, 4, 1) == 4);
    assert_true(report_percentile(v, 0, .5) == 0);
}

static const struct outcome CALLS[] = {
    {.workflow = 1, .ok = true, .ready = 10, .first = 1, .end = 5, .prompt_tokens = 100},
    {.workflow = 2,
     .ok = true,
     .ready = 12,
     .first = 3,
     .end = 4,
     .prompt_tokens = 100,
     .cached_tokens = 16,
     .expected_cached = 80},
    {.workflow = 1,
     .ok = true,
     .ready = 20,
     .first = 2,
     .end = 9,
     .prompt_tokens = 200,
     .cached_tokens = 96,
     .expected_cached = 90},
    {.workflow = 2, .ok = false, .ready = 30, .end = 1},
};

static void figures_come_from_calls_that_were_answered(void **state)
{
    struct report r;

    (void)state;
    report_make(CALLS, 4, &r);
    assert_int_equal(r.calls, 4);
    assert_int_equal(r.errors, 1);
    assert_int_equal(r.workflows, 2);
    assert_true(fabs(r.hit - 28) < 1e-9);
    assert_true(fabs(r.infinite_hit - 42.5) < 1e-9);
    assert_true(r.ttft_mean == 2 && r.ttft_p50 == 2 && r.ttft_max == 3);
    assert_true(r.e2e_mean == 6);
    assert_true(r.wf_mean == (19 + 19) / 2.0);
    assert_true(r.span == 21);
    assert_int_equal(r.ptok, 400 - 112);
    assert_int_equal(r.recomputed_tokens, 170 - 112);
}

static void json_has_every_key_and_unknown_figures_are_null(void **state)
{
    static const char *const keys[] = {"hit",      "ttft_mean", "ttft_p50", "ttft_p90",
                                       "ttft_p99", "ttft_max",  "e2e_mean", "wf_mean",
                                       "wf_p99",   "span",      "ptok",     "recomputed_tokens"};
    struct report_label label = {.policy = "a \"b\"",
                                 .trace = "t",
                                 .time_scale = 20,
                                 .kv_held = -1,
                                 .kv_peak = -1,
                                 .engine_hit = 12.5};
    struct report r;
    struct buf out = {0};
    json_t *v;

    (void)state;
    report_make(CALLS, 4, &r);
    report_add_json(&r, &label, &out);
    v = json_loadb(out.base, out.len, 0, NULL);
    assert_non_null(v);
    for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++)
        assert_true(json_is_number(json_object_get(v, keys[i])));
    assert_string_equal(json_string_value(json_object_get(v, "policy")), "a \"b\"");
    assert_true(json_is_null(json_object_get(v, "kv_held")));
    assert_true(json_number_value(json_object_get(v, "engine_hit")) == 12.5);
    json_decref(v);
    buf_fini(&out);
}

static void metrics_of_one_name_are_added_up(void **state)
{
    static const char text[] = "# TYPE a_total counter\na_total{x=\"1\"} 3\na_total{x=\"2\"} 4.5\n"
                               "a_total_more 100\nb 7\nc{x=\"1\"";
    double v = 0;

    (void)state;
    assert_true(metrics_value(text, strlen(text), "a_total", &v) && v == 7.5);
    assert_true(metrics_value(text, strlen(text), "b", &v) && v == 7);
    assert_false(metrics_value(text, strlen(text), "c", &v));
    assert_false(metrics_value(text, strlen(text), "d", &v));
    assert_false(metrics_value("", 0, "d", &v));
}

static void time_mean_weighs_by_how_long_a_value_held(void **state)
{
    struct time_mean m = {0};

    (void)state;
    assert_true(time_mean_get(&m) < 0);
    time_mean_add(&m, 10, 100);
    assert_true(time_mean_get(&m) == 100);
    time_mean_add(&m, 11, 200);
    time_mean_add(&m, 14, 0);
    assert_true(time_mean_get(&m) == 175);
    assert_true(m.peak == 200);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(percentile_is_the_sorted_item_at_floor_of_p_n),
        cmocka_unit_test(figures_come_from_calls_that_were_answered),
        cmocka_unit_test(json_has_every_key_and_unknown_figures_are_null),
        cmocka_unit_test(metrics_of_one_name_are_added_up),
        cmocka_unit_test(time_mean_weighs_by_how_long_a_value_held),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
