/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "bench/sim/patterns.h"
#include "bench/sim/sim_kv.h"
#include "bench/sim/sim_policy.h"
#include "bench/sim/sim_work.h"

static void a_policys_lies_are_cut_and_the_rest_is_kept(void **state)
{
    struct sim_policy p;
    struct buf why = {0};

    (void)state;
    assert_int_equal(sim_policy_parse("workflow:lag=2.5:gate=off:end=0:terr=2", &p, &why), ERR_OK);
    assert_string_equal(p.spec, "workflow:gate=off");
    assert_string_equal(p.name, "workflow:lag=2.5:gate=off:end=0:terr=2");
    assert_true(p.lag > 2.4 && p.lag < 2.6 && p.tok_factor > 1.9);
    assert_true(!p.end && p.priority && p.exact && p.cached_tokens);
    sim_policy_fini(&p);
    assert_int_equal(sim_policy_parse("workflow:view=approx:ct=0", &p, &why), ERR_OK);
    assert_string_equal(p.spec, "workflow:view=approx");
    assert_true(!p.exact && !p.cached_tokens);
    sim_policy_fini(&p);
    assert_int_equal(sim_policy_parse("llmd:weights", &p, &why), ERR_OK);
    assert_string_equal(p.spec, "llmd:weights");
    assert_false(p.priority);
    sim_policy_fini(&p);
    buf_fini(&why);
}

static void a_wrong_policy_is_explained(void **state)
{
    static const char *const wrong[] = {"",
                                        "nonesuch",
                                        "least:nonesuch=1",
                                        "workflow:lag=",
                                        "workflow:lag=x",
                                        "workflow:lag=-1",
                                        "workflow:lag=nan",
                                        "workflow:end=2",
                                        "workflow:lag=1111111111111111111111111111111111111111"};

    (void)state;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
        struct sim_policy p;
        struct buf why = {0};

        assert_int_not_equal(sim_policy_parse(wrong[i], &p, &why), ERR_OK);
        assert_true(why.len > 0);
        buf_fini(&why);
    }
}

static void ids_and_numbers_of_blocks_are_one_to_one(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 100000; i++) {
        assert_true(sim_block_id(i * 42949U) != 0);
        assert_int_equal(sim_block_of(sim_block_id(i * 42949U)), i * 42949U);
    }
    assert_int_equal(sim_block_of(sim_block_id(UINT32_MAX)), UINT32_MAX);
}

static void copies_and_their_users_are_counted_over_time(void **state)
{
    static const uint32_t first[] = {0, 1}, second[] = {1, 2};
    struct sim_kv k;

    (void)state;
    sim_kv_init(&k, 3);
    sim_kv_use(&k, 0, first, 2);
    sim_kv_come(&k, 0, 0);
    sim_kv_come(&k, 0, 1);
    sim_kv_come(&k, 1, 1); /* until 1: two copies; then three, one of them a second one */
    sim_kv_use(&k, 2, second, 2);
    sim_kv_come(&k, 2, 2);         /* four copies */
    sim_kv_unuse(&k, 3, first, 2); /* block 0 is nobody's: three */
    sim_kv_go(&k, 4, 1);           /* two */
    sim_kv_unuse(&k, 5, second, 2);
    assert_int_equal(k.all_peak, 4);
    assert_int_equal(k.distinct_peak, 3);
    assert_true(fabs(sim_kv_held(&k, 10) - (2 + 3 + 4 + 3 + 2) / 10.0) < 1e-12);
    sim_kv_go(&k, 10, 2);
    /* 0-1: 2 of 2, 1-2: 3 of 2, 2-4: 4 of 3, 4-10: 3 of 3 */
    assert_true(fabs(sim_kv_duplicates(&k) - 100 * (1 - (2 + 2 + 6 + 18) / (2.0 + 3 + 8 + 18))) <
                1e-9);
    sim_kv_fini(&k);
}

/* Figures of the reference model's generators for the same seed. */
static const struct known {
    const char *spec;
    uint32_t workflows, seed;
    size_t calls;
    uint64_t in, out, shared, deps;
} KNOWN[] = {
#include "tests/unit/sim/patterns.inc"
};

static void patterns_are_those_of_a_plain_script(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(KNOWN) / sizeof(*KNOWN); i++) {
        const struct known *k = &KNOWN[i];
        struct trace *t = NULL;
        struct buf why = {0};
        uint64_t in = 0, out = 0, shared = 0;

        assert_int_equal(pattern_make(k->spec, k->workflows, k->seed, &t, &why), ERR_OK);
        for (size_t c = 0; c < t->call_count; c++) {
            assert_true(t->calls[c].ref < (int32_t)c);
            in += t->calls[c].in;
            out += t->calls[c].out;
            shared += t->calls[c].shared;
        }
        if (t->call_count != k->calls || in != k->in || out != k->out || shared != k->shared ||
            t->dep_count != k->deps)
            fail_msg("%s: %zu calls, %llu in, %llu out, %llu shared, %zu deps", k->spec,
                     t->call_count, (unsigned long long)in, (unsigned long long)out,
                     (unsigned long long)shared, t->dep_count);
        trace_free(t);
        buf_fini(&why);
    }
}

static void a_wrong_pattern_is_explained(void **state)
{
    static const char *const wrong[] = {"",        "nonesuch",   "tree:",        "tree:b",
                                        "tree:b=", "tree:b=x",   "tree:b=1e9",   "tree:b=nan",
                                        "tree:=1", "tree:fan=3", "tree:b=3,,c=1"};

    (void)state;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
        struct trace *t = NULL;
        struct buf why = {0};
        bool fine = strcmp(wrong[i], "tree:") == 0; /* no options is none wrong */

        assert_int_equal(pattern_make(wrong[i], 1, 1, &t, &why) == ERR_OK, fine);
        assert_int_equal(why.len > 0, !fine);
        trace_free(t);
        buf_fini(&why);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_policys_lies_are_cut_and_the_rest_is_kept),
        cmocka_unit_test(a_wrong_policy_is_explained),
        cmocka_unit_test(ids_and_numbers_of_blocks_are_one_to_one),
        cmocka_unit_test(copies_and_their_users_are_counted_over_time),
        cmocka_unit_test(patterns_are_those_of_a_plain_script),
        cmocka_unit_test(a_wrong_pattern_is_explained),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
