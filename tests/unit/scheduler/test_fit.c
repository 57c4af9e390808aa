/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/clock.h"
#include "scheduler/fit.h"

static const struct time_model told = {
    .base = .018, .tok = 1.25e-4, .attn = 1.6e-9, .kv = 3.5e-8, .seq = 4e-5};

/* An engine that serves one prompt after another, and what is heard of it. */
struct bench {
    struct fit fit;
    struct time_model real;
    double now, free_at; /* seconds */
    uint64_t seed;
    double noise, tall; /* relative; share of requests that take ten times as long */
};

static double draw(struct bench *b)
{
    b->seed = b->seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double)(b->seed >> 11) / (double)(UINT64_C(1) << 53);
}

static struct bench bench_make(double prefill, double decode)
{
    struct bench b = {.real = told, .seed = 1, .now = 1, .noise = .1};

    b.real.tok *= prefill;
    b.real.attn *= prefill;
    b.real.kv *= decode;
    b.real.seq *= decode;
    fit_init(&b.fit, &told);
    return b;
}

static uint64_t ns(double s)
{
    return (uint64_t)(s * NS_PER_S);
}

static struct fit_load load_at(double at, double x)
{
    return (struct fit_load){
        .now_ns = ns(at), .running = 4, .x_tokens = x, .held_tokens = x, .room = 1e9};
}

static double noisy(struct bench *b, double s)
{
    double k = 1 + b->noise * (2 * draw(b) - 1);

    return draw(b) < b->tall ? 10 * s : k * s;
}

/* Arrives `gap` after the one before, whatever the queue. */
static void serve(struct bench *b, double gap, double n, double cached, double expected)
{
    double u = n - cached, x = 5e4 + 3e5 * draw(b), start, first, done;
    struct time_model *t = &b->real;
    struct fit_load now;
    struct fit_run run;

    b->now += gap;
    now = load_at(b->now, x);
    fit_sent(&run, &now, n, expected);
    start = b->free_at > b->now ? b->free_at : b->now;
    first = start + t->base + noisy(b, t->tok * u + t->attn * u * (n - u / 2));
    done = first + 99 * noisy(b, t->base + t->kv * x + t->seq * 4);
    b->free_at = first;
    now = load_at(first, x);
    fit_first_byte(&b->fit, &run, &now);
    now = load_at(done, x);
    fit_answered(&b->fit, &run, &now, n, cached, 100);
}

static void serve_many(struct bench *b, unsigned count, double gap)
{
    for (unsigned i = 0; i < count; i++) {
        double n = 2000 + 60000 * draw(b), cached = n * .8 * draw(b);

        serve(b, gap, n, cached, cached);
    }
}

static double off(double value, double truth)
{
    return value > truth ? value / truth : truth / value;
}

static void assert_prefill(const struct bench *b, double within)
{
    struct time_model t = fit_time(&b->fit);
    double u = 20000, n = 40000, q = u * (n - u / 2);

    assert_true(off(t.tok * u + t.attn * q, b->real.tok * u + b->real.attn * q) < within);
}

static void a_right_model_is_left_as_it_was_told(void **state)
{
    struct bench b = bench_make(1, 1);
    struct time_model t;

    (void)state;
    for (unsigned i = 0; i < 2000; i++) {
        serve_many(&b, 1, 10);
        t = fit_time(&b.fit);
        assert_memory_equal(&t, &told, sizeof(t));
    }
    assert_int_equal(b.fit.prefill.moves, 0);
    assert_true(b.fit.prefill.samples > 1900);
    assert_true(b.fit.decode.samples > 1900);
}

static void nothing_is_believed_before_enough_samples(void **state)
{
    struct bench b = bench_make(3, 3);

    (void)state;
    while (b.fit.prefill.samples < FIT_ENOUGH - 1) {
        struct time_model t = fit_time(&b.fit);

        assert_memory_equal(&t, &told, sizeof(t));
        serve_many(&b, 1, 10);
    }
    serve_many(&b, 2 * FIT_EVERY, 10);
    assert_prefill(&b, 1.1);
}

static void a_wrong_model_is_put_right(void **state)
{
    static const double factors[] = {.2, .5, 2, 4, 7};

    (void)state;
    for (unsigned i = 0; i < 5; i++) {
        struct bench b = bench_make(factors[i], 1);

        serve_many(&b, 200, 30);
        assert_prefill(&b, 1.1);
    }
}

static void a_queue_does_not_look_like_slowness(void **state)
{
    struct bench b = bench_make(1, 1), c = bench_make(2, 1);

    (void)state;
    serve_many(&b, 500, .1); /* arrivals far above what it can do */
    assert_true(b.free_at - b.now > 100);
    assert_int_equal(b.fit.prefill.moves, 0);
    serve_many(&c, 500, .1);
    assert_prefill(&c, 1.1);
}

static void outliers_are_clipped(void **state)
{
    struct bench b = bench_make(1, 1), c = bench_make(2, 1);

    (void)state;
    b.tall = c.tall = .15;
    b.noise = c.noise = .3;
    serve_many(&b, 500, 60);
    assert_int_equal(b.fit.prefill.moves, 0);
    serve_many(&c, 500, 60);
    assert_prefill(&c, 1.2);
}

static void waits_for_memory_weigh_less(void **state)
{
    struct bench b = bench_make(1, 1);

    (void)state;
    for (unsigned i = 0; i < 300; i++) {
        struct fit_load now = load_at(b.now += 100, 9e4);
        struct fit_run run;

        now.room = 1e5;
        fit_sent(&run, &now, 20000, 0);
        now.now_ns += ns(30);
        fit_first_byte(&b.fit, &run, &now);
        fit_answered(&b.fit, &run, &now, 20000, 0, 1);
        serve_many(&b, 1, 100);
    }
    assert_prefill(&b, 1.2);
}

static void prompts_of_one_step_make_one_sample(void **state)
{
    struct bench b = bench_make(1, 1);

    (void)state;
    for (unsigned i = 0; i < 200; i++) {
        struct fit_run run[4];
        struct fit_load now = load_at(b.now += 10, 1e5);

        for (unsigned j = 0; j < 4; j++)
            fit_sent(&run[j], &now, 2000, 0);
        now.now_ns += ns(told.base + 4 * (told.tok * 2000 + told.attn * 2000 * 1000));
        for (unsigned j = 0; j < 4; j++)
            fit_first_byte(&b.fit, &run[j], &now);
    }
    assert_true(b.fit.prefill.samples >= 199);
    assert_true(off((double)b.fit.prefill.found[0], 1) < 1.05);
    assert_int_equal(b.fit.prefill.moves, 0);
}

static void what_was_cached_is_corrected_at_the_end(void **state)
{
    struct bench b = bench_make(1, 1);

    (void)state;
    for (unsigned i = 0; i < 300; i++) { /* said to be cached, and was not */
        double n = 2000 + 60000 * draw(&b);

        serve(&b, 30, n, 0, .9 * n);
    }
    assert_prefill(&b, 1.2);
    assert_true(off((double)b.fit.prefill.found[0], 1) < 1.3);
}

static void an_engine_that_changes_is_followed_and_comes_back(void **state)
{
    struct bench b = bench_make(1, 1);
    struct time_model t;

    (void)state;
    serve_many(&b, 200, 30);
    assert_int_equal(b.fit.prefill.moves, 0);
    b.real.tok *= 2.5;
    b.real.attn *= 2.5;
    serve_many(&b, 2 * FIT_WINDOW, 60);
    assert_prefill(&b, 1.1);
    b.real = told;
    serve_many(&b, 2 * FIT_WINDOW, 60);
    t = fit_time(&b.fit);
    assert_memory_equal(&t, &told, sizeof(t));
    assert_true(b.fit.prefill.moves < 10);
}

static void noise_does_not_make_it_flap(void **state)
{
    struct bench b = bench_make(1.22, 1); /* on the edge of what is believed */

    (void)state;
    b.noise = .3;
    serve_many(&b, 3000, 30);
    assert_prefill(&b, 1.3);
    assert_true(b.fit.prefill.moves <= 3000 / FIT_EVERY / 10);
}

static void decode_times_are_put_right(void **state)
{
    struct bench b = bench_make(1, 3);
    struct time_model t;

    (void)state;
    serve_many(&b, 300, 30);
    t = fit_time(&b.fit);
    assert_true(off(t.kv, b.real.kv) < 1.25);
    assert_true(off(t.base, b.real.base) < 1.25);
    assert_true(t.tok == told.tok);
}

static void factors_stay_in_bounds_whatever_is_reported(void **state)
{
    static const double odd[] = {0,     1,    -5, 1e300, -1e300,  1e-300, 4e9,
                                 1e308, 1024, .5, 2e4,   0.0 / 1, 1e9,    3};
    struct bench b = bench_make(1, 1);

    (void)state;
    for (unsigned i = 0; i < 20000; i++) {
        double v[6];
        struct fit_run run;
        struct fit_load now;
        struct time_model t;

        for (unsigned j = 0; j < 6; j++)
            v[j] = odd[(unsigned)(draw(&b) * 14)];
        now = (struct fit_load){.now_ns = (uint64_t)(draw(&b) * 1e12),
                                .running = (uint32_t)(draw(&b) * 1e3),
                                .x_tokens = v[0],
                                .held_tokens = v[1],
                                .room = v[2]};
        fit_sent(&run, &now, v[3], v[4]);
        now.now_ns = (uint64_t)(draw(&b) * 1e12);
        fit_first_byte(&b.fit, &run, &now);
        now.now_ns = (uint64_t)(draw(&b) * 1e13);
        fit_answered(&b.fit, &run, &now, v[4], v[5], v[0]);
        fit_hit(&b.fit, v[1], v[2], v[3]);
        fit_resident(&b.fit, v[3], v[4], v[5]);
        t = fit_time(&b.fit);
        assert_true(t.tok >= told.tok * .1249 && t.tok <= told.tok * 8.001);
        assert_true(t.attn >= told.attn * .1249 && t.attn <= told.attn * 8.001);
        assert_true(t.kv >= told.kv * .1249 && t.kv <= told.kv * 8.001);
        assert_true(t.seq >= told.seq * .1249 && t.seq <= told.seq * 8.001);
        assert_true(t.base >= told.base * .1249 && t.base <= told.base * 8.001);
        assert_true(fit_room(&b.fit) >= .1249 && fit_room(&b.fit) <= 8);
    }
}

static void the_same_reports_give_the_same_fit(void **state)
{
    struct bench a = bench_make(1.7, 2), b = bench_make(1.7, 2);
    struct time_model x, y;

    (void)state;
    serve_many(&a, 300, 5);
    serve_many(&b, 300, 5);
    x = fit_time(&a.fit);
    y = fit_time(&b.fit);
    assert_memory_equal(&x, &y, sizeof(x));
    assert_int_equal(a.fit.prefill.moves, b.fit.prefill.moves);
}

/* Fills up to `size`, then goes on: what comes pushes something out. */
static void churn(struct fit *f, double *resident, double size, double told_size, unsigned steps)
{
    for (unsigned i = 0; i < steps; i++) {
        if (*resident + 5000 > size) {
            fit_resident(f, *resident, 20000, told_size);
            *resident -= 20000;
        }
        *resident += 5000;
        fit_resident(f, *resident, 0, told_size);
    }
}

static void capacity_follows_what_is_resident(void **state)
{
    static const double factors[] = {.2, .5, .8, 1.25, 2, 6};
    double resident = 0;
    struct fit f;

    (void)state;
    fit_init(&f, &told);
    churn(&f, &resident, 400000, 400000, 2000);
    assert_true(fit_room(&f) == 1);
    for (unsigned i = 0; i < 6; i++) {
        fit_init(&f, &told);
        resident = 0;
        churn(&f, &resident, 400000 * factors[i], 400000, 4000);
        assert_true(off(fit_room(&f), factors[i]) < 1.06);
    }
}

static void one_odd_removal_does_not_shrink_it(void **state)
{
    double resident = 0;
    struct fit f;

    (void)state;
    fit_init(&f, &told);
    churn(&f, &resident, 400000, 400000, 500);
    fit_resident(&f, 1000, 150000, 400000); /* a large part goes at once */
    fit_resident(&f, 1000, 1000, 400000);
    assert_true(fit_room(&f) == 1);
}

static void another_told_capacity_starts_anew(void **state)
{
    double resident = 0;
    struct fit f;

    (void)state;
    fit_init(&f, &told);
    churn(&f, &resident, 200000, 400000, 4000);
    assert_true(fit_room(&f) < .6);
    fit_resident(&f, resident, 0, 200000);
    assert_true(fit_room(&f) == 1);
    churn(&f, &resident, 200000, 200000, 4000);
    assert_true(fit_room(&f) == 1);
}

static void missed_tokens_shrink_it_and_found_ones_bring_it_back(void **state)
{
    struct fit f;
    double low;

    (void)state;
    fit_init(&f, &told);
    for (unsigned i = 0; i < 320; i++)
        fit_hit(&f, 10000, 9500, 400000);
    assert_true(fit_room(&f) == 1); /* a little is always missed */
    for (unsigned i = 0; i < 320; i++)
        fit_hit(&f, 10000, i % 2 ? 10000 : 3000, 400000);
    low = fit_room(&f);
    assert_true(low < .6 && low >= .125);
    for (unsigned i = 0; i < 32; i++)
        fit_hit(&f, 10000, 10000, 400000);
    assert_true(fit_room(&f) > low && fit_room(&f) < 1.1 * low);
    for (unsigned i = 0; i < 32 * 100; i++)
        fit_hit(&f, 10000, 10000, 400000);
    assert_true(fit_room(&f) == 1);
}

static void silence_about_cached_tokens_is_noticed(void **state)
{
    struct fit f;

    (void)state;
    fit_init(&f, &told);
    for (unsigned i = 0; i < 100; i++)
        fit_usage(&f, false, 0); /* nothing was expected: 0 is often left out */
    assert_int_equal(fit_cached(&f), FIT_CACHED_UNKNOWN);
    for (unsigned i = 0; i < 8; i++)
        fit_usage(&f, false, 5000);
    assert_int_equal(fit_cached(&f), FIT_CACHED_NEVER);
    fit_usage(&f, true, 5000);
    assert_int_equal(fit_cached(&f), FIT_CACHED_TOLD);
    for (unsigned i = 0; i < 8; i++)
        fit_usage(&f, false, 5000); /* it was restarted without the flag */
    assert_int_equal(fit_cached(&f), FIT_CACHED_NEVER);
}

static void the_ratio_is_learned_and_no_report_moves_it_far(void **state)
{
    double ratio = 4;
    uint64_t seen = 0;

    (void)state;
    for (unsigned i = 0; i < 60; i++)
        ratio = fit_ratio(ratio, seen++, 3000, i % 7 == 0 ? 1 : 1000);
    assert_true(off(ratio, 3) < 1.1);
    for (unsigned i = 0; i < 3; i++)
        ratio = fit_ratio(ratio, seen++, 4e9, 1);
    assert_true(off(ratio, 3) < 1.2);
    assert_true(fit_ratio(ratio, seen, 0, 10) == ratio);
    assert_true(fit_ratio(ratio, seen, 10, 0) == ratio);
    for (unsigned i = 0; i < 10000; i++)
        ratio = fit_ratio(ratio, seen++, 4e9, 1);
    assert_true(ratio <= 32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_right_model_is_left_as_it_was_told),
        cmocka_unit_test(nothing_is_believed_before_enough_samples),
        cmocka_unit_test(a_wrong_model_is_put_right),
        cmocka_unit_test(a_queue_does_not_look_like_slowness),
        cmocka_unit_test(outliers_are_clipped),
        cmocka_unit_test(waits_for_memory_weigh_less),
        cmocka_unit_test(prompts_of_one_step_make_one_sample),
        cmocka_unit_test(what_was_cached_is_corrected_at_the_end),
        cmocka_unit_test(an_engine_that_changes_is_followed_and_comes_back),
        cmocka_unit_test(noise_does_not_make_it_flap),
        cmocka_unit_test(decode_times_are_put_right),
        cmocka_unit_test(factors_stay_in_bounds_whatever_is_reported),
        cmocka_unit_test(the_same_reports_give_the_same_fit),
        cmocka_unit_test(capacity_follows_what_is_resident),
        cmocka_unit_test(one_odd_removal_does_not_shrink_it),
        cmocka_unit_test(another_told_capacity_starts_anew),
        cmocka_unit_test(missed_tokens_shrink_it_and_found_ones_bring_it_back),
        cmocka_unit_test(silence_about_cached_tokens_is_noticed),
        cmocka_unit_test(the_ratio_is_learned_and_no_report_moves_it_far),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
