/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bench/engine/core.h"
#include "tests/unit/engine/vectors.h"

#define REQS 128
#define NEVER 1e18

/* A workload on one engine, driven by its own deadlines. */
struct run {
    struct engine *e;
    struct engine_event *ev;
    size_t cap, count;
    struct engine_req reqs[REQS];
    uint64_t *ids[REQS];
    double done_s[REQS];
    uint32_t firsts[REQS], tokens[REQS], dones[REQS];
    uint64_t next_id;
    int64_t resident, hosted; /* by on_block */
};

static void on_block(void *arg, const struct engine_block *b)
{
    struct run *r = arg;

    assert_true(b->id != 0);
    assert_true((b->req != NULL) == (b->stored && !b->host));
    if (b->req != NULL) {
        assert_int_equal(b->req->ids[b->index], b->id);
        assert_int_equal(b->parent, b->index > 0 ? b->req->ids[b->index - 1] : 0);
    }
    if (b->host)
        r->hosted += b->stored ? 1 : -1;
    else
        r->resident += b->stored ? 1 : -1;
}

static struct run *run_new(const struct engine_conf *conf)
{
    struct run *r = calloc(1, sizeof *r);
    struct engine_conf c = *conf;

    assert_non_null(r);
    c.on_block = on_block;
    c.hook_arg = r;
    r->e = engine_new(&c);
    r->cap = engine_events_max(r->e);
    r->ev = calloc(r->cap, sizeof *r->ev);
    assert_non_null(r->ev);
    return r;
}

static void run_free(struct run *r)
{
    engine_free(r->e);
    for (size_t i = 0; i < r->count; i++)
        free(r->ids[i]);
    free(r->ev);
    free(r);
}

static size_t run_prepare(struct run *r, uint32_t block, uint32_t nin, uint32_t nout, int ref,
                          uint32_t shared)
{
    size_t i = r->count++;
    uint32_t n = (nin + nout) / block;

    assert_true(i < REQS);
    r->ids[i] = calloc(n + 1, sizeof **r->ids);
    assert_non_null(r->ids[i]);
    for (uint32_t b = 0; b < n; b++)
        r->ids[i][b] = ref >= 0 && b < shared ? r->ids[ref][b] : ++r->next_id;
    r->reqs[i] = (struct engine_req){.handle = i,
                                     .ids = r->ids[i],
                                     .np = nin / block < n ? nin / block : n,
                                     .n_ids = n,
                                     .nin = nin,
                                     .nout = nout};
    return i;
}

/* Everything that is due by now_s. */
static void run_until(struct run *r, double now_s)
{
    size_t n;

    while ((n = engine_step(r->e, now_s, r->ev, r->cap)) > 0) {
        for (size_t i = 0; i < n; i++) {
            size_t who = r->ev[i].req->handle;

            assert_true(r->ev[i].at_s <= now_s);
            switch (r->ev[i].kind) {
            case ENGINE_FIRST:
                r->firsts[who]++;
                r->tokens[who]++;
                break;
            case ENGINE_TOKENS:
                assert_int_equal(r->firsts[who], 1);
                r->tokens[who] += r->ev[i].tokens;
                break;
            case ENGINE_DONE:
                r->dones[who]++;
                r->done_s[who] = r->ev[i].at_s;
                break;
            }
        }
    }
}

/* Step by step, as a simulator in virtual time would. */
static void run_to(struct run *r, double until_s)
{
    double at;

    while ((at = engine_next_deadline(r->e)) < until_s)
        run_until(r, at);
}

static void run_add(struct run *r, double at_s, size_t i)
{
    assert_int_equal(engine_add(r->e, at_s, &r->reqs[i]), ERR_OK);
    run_until(r, at_s);
}

static struct engine_stats stats_of(struct run *r)
{
    struct engine_stats s;

    engine_stats_get(r->e, &s);
    return s;
}

static void assert_idle_and_clean(struct run *r)
{
    struct engine_stats s = stats_of(r);

    assert_int_equal(s.blocks_held, 0);
    assert_int_equal(s.running, 0);
    assert_int_equal(s.waiting, 0);
    assert_int_equal(s.blocks_cached, r->resident);
    assert_true(isinf(engine_next_deadline(r->e)));
}

static struct run *run_scenario(const struct scenario *sc, bool stream)
{
    struct engine_conf conf = {.profile = *engine_profile_find(sc->profile),
                               .cache_tokens = sc->cache,
                               .block_tokens = sc->block,
                               .budget_tokens = sc->budget,
                               .seqs_max = sc->seqs,
                               .priority = sc->priority,
                               .stream_tokens = stream};
    struct run *r = run_new(&conf);

    for (size_t i = 0; i < sc->count; i++) {
        const struct row *w = &sc->rows[i];
        size_t id = run_prepare(r, sc->block, w->nin, w->nout, w->ref, w->shared);

        r->reqs[id].priority = w->priority;
        run_to(r, w->at_s);
        run_add(r, w->at_s, id);
    }
    run_to(r, NEVER);
    return r;
}

static void gives_what_the_reference_model_gives(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof scenarios / sizeof *scenarios; k++) {
        const struct scenario *sc = &scenarios[k];
        struct run *r = run_scenario(sc, false);

        for (size_t i = 0; i < sc->count; i++) {
            const struct row *w = &sc->rows[i];

            if (r->reqs[i].hit_tokens != w->hit || fabs(r->reqs[i].first_s - w->first_s) > 1e-9 ||
                fabs(r->done_s[i] - w->done_s) > 1e-9)
                fail_msg("%s, request %zu: hit %u first %.9f done %.9f, not %u %.9f %.9f", sc->name,
                         i, r->reqs[i].hit_tokens, r->reqs[i].first_s, r->done_s[i], w->hit,
                         w->first_s, w->done_s);
        }
        assert_int_equal(stats_of(r).computed_tokens, sc->computed);
        assert_true(fabs(stats_of(r).busy_s - sc->busy_s) < 1e-6);
        assert_idle_and_clean(r);
        run_free(r);
    }
}

static void tokens_streamed_one_by_one_take_the_same_time(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof scenarios / sizeof *scenarios; k++) {
        const struct scenario *sc = &scenarios[k];
        struct run *r = run_scenario(sc, true);

        for (size_t i = 0; i < sc->count; i++) {
            assert_int_equal(r->firsts[i], 1);
            assert_int_equal(r->tokens[i], sc->rows[i].nout);
            assert_int_equal(r->dones[i], 1);
        }
        assert_true(fabs(stats_of(r).busy_s / sc->busy_s - 1) < 0.01);
        run_free(r);
    }
}

static const struct engine_profile *p70b(void)
{
    return engine_profile_find("70b");
}

static struct run *run_small(uint32_t cache, bool stream)
{
    return run_new(&(struct engine_conf){
        .profile = *p70b(), .cache_tokens = cache, .block_tokens = 16, .stream_tokens = stream});
}

static void a_full_hit_still_computes_one_token(void **state)
{
    struct run *r = run_small(1600, false);

    (void)state;
    run_prepare(r, 16, 160, 16, -1, 0);
    run_prepare(r, 16, 160, 16, 0, 11);
    run_add(r, 0, 0);
    run_to(r, 10);
    run_add(r, 10, 1);
    run_to(r, NEVER);
    assert_int_equal(r->reqs[1].hit_tokens, 159);
    assert_int_equal(r->reqs[1].hit_blocks, 10);
    run_free(r);
}

static void the_tail_is_evicted_before_the_head(void **state)
{
    struct run *r = run_small(320, false); /* 20 blocks */

    (void)state;
    run_prepare(r, 16, 160, 16, -1, 0); /* 11 blocks */
    run_prepare(r, 16, 160, 32, -1, 0); /* 12: pushes 3 out */
    run_add(r, 0, 0);
    run_to(r, 10);
    assert_int_equal(engine_match(r->e, r->ids[0], 11), 11);
    run_add(r, 10, 1);
    run_to(r, NEVER);
    assert_int_equal(engine_match(r->e, r->ids[0], 11), 8);
    run_free(r);
}

static void what_is_evicted_is_found_in_host_memory(void **state)
{
    struct run *r = run_new(&(struct engine_conf){.profile = *p70b(),
                                                  .cache_tokens = 192, /* 12 blocks */
                                                  .host_tokens = 256,  /* 16 */
                                                  .block_tokens = 16});

    (void)state;
    run_prepare(r, 16, 160, 16, -1, 0); /* 11 blocks */
    run_prepare(r, 16, 176, 16, -1, 0); /* 12: pushes all of them out */
    run_prepare(r, 16, 176, 16, 0, 11); /* of the first, only the head is left then */
    run_add(r, 0, 0);
    run_to(r, 10);
    run_add(r, 10, 1);
    run_to(r, 20);
    assert_int_equal(r->hosted, 11);
    assert_true(engine_has(r->e, r->ids[0][0]) && engine_has(r->e, r->ids[1][0]));
    assert_int_equal(engine_match(r->e, r->ids[0], 11), 0);
    run_add(r, 20, 2);
    assert_int_equal(r->hosted, 16);
    assert_int_equal(r->reqs[2].hit_blocks, 4);
    assert_int_equal(r->reqs[2].host_blocks, 4);
    run_to(r, NEVER);
    assert_int_equal(r->reqs[2].hit_tokens, 64);
    assert_true(fabs(r->reqs[2].first_s - 20 -
                     (.018 + 64 * 3.3e-6 + 112 * 1.25e-4 + 1.6e-9 * 112 * 120)) < 1e-9);
    assert_idle_and_clean(r);
    engine_reset(r->e);
    assert_int_equal(r->hosted, 0);
    assert_int_equal(r->resident, 0);
    run_free(r);
}

static void a_block_is_dropped_only_when_nobody_holds_it(void **state)
{
    struct run *r = run_small(1600, false);

    (void)state;
    run_prepare(r, 16, 160, 16, -1, 0);
    run_add(r, 0, 0);
    assert_false(engine_forget(r->e, r->ids[0][9]));
    run_to(r, NEVER);
    assert_true(engine_forget(r->e, r->ids[0][9]));
    assert_false(engine_forget(r->e, r->ids[0][9]));
    assert_int_equal(engine_match(r->e, r->ids[0], 9), 9);
    assert_idle_and_clean(r);
    run_free(r);
}

static void output_is_cached_for_the_next_turn(void **state)
{
    struct run *r = run_small(1600, false);

    (void)state;
    run_prepare(r, 16, 100, 60, -1, 0);
    run_prepare(r, 16, 200, 10, 0, 10);
    run_add(r, 0, 0);
    run_to(r, 20);
    run_add(r, 20, 1);
    run_to(r, NEVER);
    assert_int_equal(r->reqs[1].hit_tokens, 160);
    run_free(r);
}

/* Cancels request 1 of three after `steps` step ends and expects nothing to be left behind. */
static void cancel_after(int steps, bool stream)
{
    struct run *r = run_small(1600, stream);

    run_prepare(r, 16, 100, 40, -1, 0);
    run_prepare(r, 16, 700, 40, -1, 0);
    run_prepare(r, 16, 900, 20, -1, 0); /* has to wait for memory while 1 is there */
    run_add(r, 0, 0);
    run_add(r, 0.001, 1);
    run_add(r, 0.002, 2);
    for (int i = 0; i < steps; i++)
        run_until(r, engine_next_deadline(r->e));
    engine_cancel(r->e, engine_next_deadline(r->e) - 0.0001, &r->reqs[1]);
    engine_cancel(r->e, 1, &r->reqs[1]); /* twice is once */
    assert_int_equal(r->reqs[1].state, ENGINE_REQ_OUT);
    run_to(r, NEVER);
    assert_int_equal(r->dones[0], 1);
    assert_int_equal(r->dones[2], 1);
    assert_int_equal(r->tokens[0], stream ? 40 : 1);
    if (stats_of(r).cancelled == 1)
        assert_int_equal(r->dones[1], 0);
    else
        assert_int_equal(r->dones[1], 1);
    assert_idle_and_clean(r);
    run_free(r);
}

static void a_cancelled_request_frees_all_it_held_at_any_moment(void **state)
{
    (void)state;
    for (int steps = 0; steps < 45; steps++)
        cancel_after(steps, true);
    for (int steps = 0; steps < 4; steps++)
        cancel_after(steps, false);
}

static void cancelling_the_head_of_a_blocked_queue_lets_the_next_in(void **state)
{
    struct run *r = run_small(1600, true);

    (void)state;
    run_prepare(r, 16, 800, 400, -1, 0);
    run_prepare(r, 16, 900, 20, -1, 0); /* does not fit beside 0 */
    run_prepare(r, 16, 100, 20, -1, 0); /* would, but is behind */
    run_add(r, 0, 0);
    run_add(r, 0.01, 1);
    run_add(r, 0.02, 2);
    run_to(r, 1);
    assert_int_equal(stats_of(r).waiting, 2);
    engine_cancel(r->e, 1, &r->reqs[1]);
    run_to(r, 2);
    assert_int_equal(stats_of(r).waiting, 0);
    assert_int_equal(r->firsts[2], 1);
    run_to(r, NEVER);
    assert_idle_and_clean(r);
    run_free(r);
}

static void lateness_never_adds_up(void **state)
{
    struct run *r = run_small(1600, true), *late = run_small(1600, true);

    (void)state;
    run_prepare(r, 16, 500, 50, -1, 0);
    run_prepare(late, 16, 500, 50, -1, 0);
    run_add(r, 0, 0);
    run_add(late, 0, 0);
    run_to(r, NEVER);
    for (double t = 0.7; t < 100; t += 0.7) /* wakes up far too rarely */
        run_until(late, t);
    assert_true(late->done_s[0] == r->done_s[0]);
    run_free(r);
    run_free(late);
}

static void what_cannot_ever_fit_is_refused(void **state)
{
    struct run *r = run_small(1600, true);
    struct engine_req none = {.nin = 0, .nout = 5};

    (void)state;
    run_prepare(r, 16, 1590, 11, -1, 0);
    assert_int_equal(engine_add(r->e, 0, &r->reqs[0]), ERR_TOO_LARGE);
    r->reqs[0].nout = 10;
    assert_int_equal(engine_add(r->e, 0, &none), ERR_INVALID);
    assert_int_equal(engine_add(r->e, 0, &r->reqs[0]), ERR_OK);
    run_to(r, NEVER);
    assert_int_equal(r->dones[0], 1);
    run_free(r);
}

static void reset_forgets_what_nobody_holds(void **state)
{
    struct run *r = run_small(1600, false);

    (void)state;
    run_prepare(r, 16, 100, 60, -1, 0);
    run_add(r, 0, 0);
    run_to(r, NEVER);
    assert_int_equal(stats_of(r).blocks_cached, 10);
    engine_reset(r->e);
    assert_int_equal(stats_of(r).blocks_cached, 0);
    assert_int_equal(stats_of(r).requests, 0);
    assert_int_equal(engine_match(r->e, r->ids[0], 10), 0);
    run_free(r);
}

static void profiles_are_those_of_the_table(void **state)
{
    (void)state;
    assert_non_null(engine_profile_find("8b"));
    assert_null(engine_profile_find("9b"));
    assert_true(engine_profile_find("8b")->base == 0.008);
    assert_true(p70b()->cache_tokens == 450000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_what_the_reference_model_gives),
        cmocka_unit_test(tokens_streamed_one_by_one_take_the_same_time),
        cmocka_unit_test(a_full_hit_still_computes_one_token),
        cmocka_unit_test(the_tail_is_evicted_before_the_head),
        cmocka_unit_test(what_is_evicted_is_found_in_host_memory),
        cmocka_unit_test(a_block_is_dropped_only_when_nobody_holds_it),
        cmocka_unit_test(output_is_cached_for_the_next_turn),
        cmocka_unit_test(a_cancelled_request_frees_all_it_held_at_any_moment),
        cmocka_unit_test(cancelling_the_head_of_a_blocked_queue_lets_the_next_in),
        cmocka_unit_test(lateness_never_adds_up),
        cmocka_unit_test(what_cannot_ever_fit_is_refused),
        cmocka_unit_test(reset_forgets_what_nobody_holds),
        cmocka_unit_test(profiles_are_those_of_the_table),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
