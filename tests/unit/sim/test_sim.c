/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/sim/sim.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "bench/sim/patterns.h"
#include "bench/sim/sim_report.h"

#define CLOSED "{\"trace\":\"x\",\"block\":16,\"mode\":\"closed\"}\n"

static struct sim_conf small(uint32_t engines)
{
    return (struct sim_conf){
        .fleet = {.profile = "8b", .engines = engines, .block = 16, .budget = 8192, .maxseq = 256},
        .flow = {.users = 8, .gap_cap = 60, .speed = 1}};
}

static enum err run_trace(struct trace *t, const struct sim_conf *conf, const char *policy,
                          struct sim_result *out, struct buf *why)
{
    struct selection sel;
    struct sim_work work;
    struct sim_policy p;
    enum err err;

    selection_make(t, &(struct selection_rule){.seed = 1}, &sel);
    sim_work_init(&work, t, &sel);
    assert_int_equal(sim_policy_parse(policy, &p, why), ERR_OK);
    err = sim_run(&work, conf, &p, out, why);
    sim_policy_fini(&p);
    sim_work_fini(&work);
    selection_fini(&sel);
    return err;
}

static struct sim_result run_text(const char *text, const struct sim_conf *conf, const char *policy)
{
    struct buf why = {0};
    struct trace *t = NULL;
    struct sim_result r = {0};

    assert_int_equal(trace_parse(text, strlen(text), &t, &why), ERR_OK);
    if (run_trace(t, conf, policy, &r, &why) != ERR_OK)
        fail_msg("%s", buf_cstr(&why));
    trace_free(t);
    buf_fini(&why);
    return r;
}

static void assert_near(double got, double want)
{
    if (fabs(got - want) > 1e-9)
        fail_msg("%.12f, not %.12f", got, want);
}

/* The time model of "8b", by hand. */
#define BASE 0.008
#define TOK 5.0e-5
#define ATTN 1.3e-9
#define SEQ 2e-5
#define KV 4.9e-8

static double prefill(double tokens, double context)
{
    return BASE + TOK * tokens + ATTN * tokens * (context + tokens / 2);
}

static double decode(double prompt, double steps)
{
    return steps * (BASE + SEQ + KV * (prompt + 1 + steps / 2));
}

static void two_calls_take_what_the_time_model_says(void **state)
{
    struct sim_conf conf = small(1);
    struct sim_result r = run_text(CLOSED "[1,1,0,[],0,1600,100,-1,0]\n"
                                          "[1,1,0,[0],3,2000,1,0,106]\n",
                                   &conf, "roundrobin");
    double first = prefill(1600, 0), second = prefill(304, 1696), answer = decode(1600, 99);

    (void)state;
    assert_near(r.report.ttft_mean, (first + second) / 2);
    assert_near(r.report.ttft_max, first);
    assert_near(r.report.e2e_mean, (first + answer + second) / 2);
    assert_near(r.report.wf_mean, first + answer + 3 + second);
    assert_near(r.report.span, first + answer + 3 + second);
    assert_near(r.report.hit, 100 * 1696.0 / 3600);
    assert_int_equal(r.report.ptok, 1904);
    assert_int_equal(r.report.recomputed_tokens, 0);
    assert_int_equal(r.peak, 125 * 16);
    assert_int_equal(r.uniq, r.peak);
    assert_int_equal(r.decisions, 2);
    assert_near(r.dup, 0);
}

/* Three engines in turn: the second call finds nothing, the third neither. */
static void what_another_engine_had_is_recomputed_and_held_twice(void **state)
{
    struct sim_conf conf = small(3);
    struct sim_result r = run_text(CLOSED "[1,1,0,[],0,1600,16,-1,0]\n"
                                          "[1,1,0,[0],0,1616,16,0,101]\n"
                                          "[1,1,0,[1],0,1632,16,1,102]\n",
                                   &conf, "roundrobin");

    (void)state;
    assert_near(r.report.hit, 0);
    assert_int_equal(r.report.ptok, 1600 + 1616 + 1632);
    assert_int_equal(r.report.recomputed_tokens, 1616 + 1632);
    assert_int_equal(r.uniq, 103 * 16);
    assert_int_equal(r.peak, (101 + 102 + 103) * 16);
    assert_true(r.dup > 30 && r.dup < 67);
}

static void a_host_tier_gives_back_what_was_evicted(void **state)
{
    static const char TEXT[] = CLOSED "[1,1,0,[],0,1600,16,-1,0]\n"
                                      "[1,2,0,[0],0,1632,16,-1,0]\n"
                                      "[1,1,0,[1],0,1632,16,0,101]\n";
    struct sim_conf conf = small(1);
    struct sim_result without, with;

    (void)state;
    conf.fleet.cache_tokens = 1648;
    without = run_text(TEXT, &conf, "least");
    conf.fleet.host_tokens = 4096;
    with = run_text(TEXT, &conf, "least");
    assert_int_equal(without.report.ptok, 1600 + 1632 + 1632);
    assert_int_equal(without.report.recomputed_tokens, 1616);
    assert_int_equal(with.report.ptok, 1600 + 1632 + 16);
    assert_int_equal(with.report.recomputed_tokens, 0);
    assert_near(with.report.ttft_p50, prefill(1600, 0));
    assert_near(with.report.ttft_mean * 3 - prefill(1600, 0) - prefill(1632, 0),
                prefill(16, 1616) + 1616 * 5.2e-6);
}

static void kv_of_ended_workflows_is_dropped_on_request(void **state)
{
    static const char TEXT[] = CLOSED "[1,1,0,[],0,1600,16,-1,0]\n"
                                      "[2,2,0,[],0,1600,16,0,50]\n"
                                      "[3,3,0,[],0,1600,16,0,50]\n";
    struct sim_conf conf = small(1);
    struct sim_result kept, freed;

    (void)state;
    conf.flow.users = 1;
    kept = run_text(TEXT, &conf, "least");
    conf.free_ended = true;
    freed = run_text(TEXT, &conf, "least");
    assert_int_equal(kept.peak, (101 + 51 + 51) * 16);
    assert_int_equal(freed.peak, 101 * 16);
    assert_near(kept.report.wf_mean, freed.report.wf_mean);
}

static void a_run_is_the_same_twice_to_the_last_bit(void **state)
{
    static const char *const policies[] = {"roundrobin", "least", "workflow", "workflow:lag=2",
                                           "workflow:end=0:ct=0:view=approx"};
    struct sim_conf conf = small(4);

    (void)state;
    conf.fleet.block = 64;
    conf.fleet.cache_tokens = 60000;
    for (size_t i = 0; i < sizeof(policies) / sizeof(*policies); i++) {
        struct buf once = {0}, twice = {0}, why = {0};

        for (int k = 0; k < 2; k++) {
            struct sim_result r;
            struct trace *t = NULL;

            assert_int_equal(pattern_make("mix", 12, 5, &t, &why), ERR_OK);
            if (run_trace(t, &conf, policies[i], &r, &why) != ERR_OK)
                fail_msg("%s", buf_cstr(&why));
            sim_report_add_json(&r, policies[i], k == 0 ? &once : &twice);
            trace_free(t);
        }
        assert_string_equal(buf_cstr(&once), buf_cstr(&twice));
        buf_fini(&once);
        buf_fini(&twice);
        buf_fini(&why);
    }
}

static void a_call_that_fits_no_engine_is_named(void **state)
{
    static const char TEXT[] = CLOSED "[1,1,0,[],0,1600,16,-1,0]\n[1,1,0,[0],0,9000,16,-1,0]\n";
    struct sim_conf conf = small(2);
    struct sim_result r;
    struct buf why = {0};
    struct trace *t = NULL;

    (void)state;
    conf.fleet.cache_tokens = 4096;
    assert_int_equal(trace_parse(TEXT, strlen(TEXT), &t, &why), ERR_OK);
    assert_int_equal(run_trace(t, &conf, "least", &r, &why), ERR_TOO_LARGE);
    assert_non_null(strstr(buf_cstr(&why), "call 1 (9000 + 16 tokens)"));
    trace_free(t);
    buf_fini(&why);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_calls_take_what_the_time_model_says),
        cmocka_unit_test(what_another_engine_had_is_recomputed_and_held_twice),
        cmocka_unit_test(a_host_tier_gives_back_what_was_evicted),
        cmocka_unit_test(kv_of_ended_workflows_is_dropped_on_request),
        cmocka_unit_test(a_run_is_the_same_twice_to_the_last_bit),
        cmocka_unit_test(a_call_that_fits_no_engine_is_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
