/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "scheduler/engine.h"
#include "scheduler/prefix.h"
#include "scheduler/table.h"

#define LONGEST 1600u

/* Block i of conversation c; the first from blocks are those of conversation 0. */
static void chat(uint64_t *d, uint32_t c, uint32_t from, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        d[i] = table_mix((uint64_t)(i < from ? 0 : c) << 32 | (i + 1));
}

static struct prefix_hit hit_of(const struct prefix *p, uint32_t engine, const uint64_t *d,
                                uint32_t n)
{
    struct prefix_hit hits[ENGINES_MAX];
    struct engine_set who = {0};

    set_add(&who, engine);
    (void)prefix_match(p, d, n, &who, hits);
    prefix_check(p);
    return hits[engine];
}

static uint32_t blocks_of(const struct prefix *p, uint32_t engine, const uint64_t *d, uint32_t n)
{
    return hit_of(p, engine, d, n).blocks;
}

static void a_hit_is_the_longest_prefix_that_the_engine_holds(void **state)
{
    struct prefix *p = prefix_new(1);
    struct prefix_hit hits[ENGINES_MAX];
    struct engine_set who = {0};
    uint64_t a[20], b[20];

    (void)state;
    chat(a, 0, 0, 20);
    chat(b, 1, 8, 20);
    prefix_enter(p, 3, a, 15, 1);
    prefix_enter(p, 255, b, 20, 2);
    set_add(&who, 3);
    set_add(&who, 4);
    set_add(&who, 255);
    assert_int_equal(prefix_match(p, a, 20, &who, hits), 15);
    assert_int_equal(hits[3].blocks, 15);
    assert_int_equal(hits[4].blocks, 0);
    assert_int_equal(hits[255].blocks, 8);
    set_remove(&who, 3);
    assert_int_equal(prefix_match(p, a, 20, &who, hits), 8);
    assert_int_equal(hits[3].blocks, 0);
    assert_int_equal(prefix_match(p, a, 0, &who, hits), 0);
    prefix_check(p);
    prefix_free(p);
}

static void the_least_recently_used_go_first_and_of_one_use_the_tail(void **state)
{
    struct prefix *p = prefix_new(1);
    uint64_t a[10], b[10];

    (void)state;
    chat(a, 1, 0, 10);
    chat(b, 2, 0, 10);
    prefix_enter(p, 0, a, 10, 1);
    prefix_enter(p, 0, b, 10, 2);
    prefix_bound(p, 0, 16);
    assert_int_equal(blocks_of(p, 0, a, 10), 6);
    assert_int_equal(blocks_of(p, 0, b, 10), 10);
    prefix_refresh(p, 0, a, 6, 3);
    prefix_bound(p, 0, 9);
    assert_int_equal(blocks_of(p, 0, a, 10), 6);
    assert_int_equal(blocks_of(p, 0, b, 10), 3);
    assert_int_equal(prefix_blocks(p, 0), 9);
    prefix_free(p);
}

static void entering_known_blocks_does_not_make_them_younger(void **state)
{
    struct prefix *p = prefix_new(1);
    uint64_t a[12], b[4];

    (void)state;
    chat(a, 1, 0, 12);
    chat(b, 2, 0, 4);
    prefix_enter(p, 0, a, 8, 1);
    prefix_enter(p, 0, b, 4, 2);
    prefix_enter(p, 0, a, 12, 3);
    assert_int_equal(prefix_stamp(p, 0, a, 8), 1);
    assert_int_equal(prefix_stamp(p, 0, a, 9), 3);
    prefix_drop_older(p, 0, 2);
    assert_int_equal(blocks_of(p, 0, a, 12), 0); /* its head is gone, its tail is still there */
    assert_int_equal(prefix_stamp(p, 0, a, 12), 3);
    assert_int_equal(prefix_blocks(p, 0), 8);
    prefix_refresh(p, 0, a, 12, 4);
    assert_int_equal(blocks_of(p, 0, a, 12), 12);
    prefix_free(p);
}

static void an_answer_counts_where_the_match_ends_right_before_it(void **state)
{
    struct prefix *p = prefix_new(1);
    uint64_t a[12], b[12];

    (void)state;
    chat(a, 0, 0, 12);
    chat(b, 1, 8, 12);
    prefix_enter(p, 0, a, 8, 1);
    prefix_output(p, 0, a, 8, 300);
    assert_int_equal(hit_of(p, 0, a, 12).gen_tokens, 300);
    assert_int_equal(hit_of(p, 0, b, 12).gen_tokens, 300);
    assert_int_equal(hit_of(p, 0, a, 7).gen_tokens, 0);
    assert_int_equal(hit_of(p, 1, a, 12).gen_tokens, 0);

    /* The next turn goes on behind it. */
    prefix_enter(p, 0, a, 12, 2);
    prefix_output(p, 0, a, 12, 40);
    assert_int_equal(hit_of(p, 0, a, 12).gen_tokens, 40);
    prefix_refresh(p, 0, a, 12, 3);
    assert_int_equal(hit_of(p, 0, a, 12).gen_tokens, 40);
    prefix_bound(p, 0, 11);
    assert_int_equal(hit_of(p, 0, a, 12).gen_tokens, 0);
    prefix_refresh(p, 0, a, 12, 4);
    assert_int_equal(hit_of(p, 0, a, 12).gen_tokens, 0); /* the block is new */
    prefix_output(p, 7, a, 12, 9);                       /* nothing is there */
    assert_int_equal(hit_of(p, 7, a, 12).gen_tokens, 0);
    prefix_free(p);
}

static void an_answer_stays_with_its_block_when_a_run_is_cut(void **state)
{
    struct prefix *p = prefix_new(1);
    uint64_t a[12], b[12];

    (void)state;
    chat(a, 0, 0, 12);
    chat(b, 1, 5, 12);
    prefix_enter(p, 0, a, 12, 1);
    prefix_output(p, 0, a, 12, 70);
    prefix_enter(p, 1, b, 12, 2);
    prefix_refresh(p, 0, b, 12, 3);
    assert_int_equal(hit_of(p, 0, a, 12).gen_tokens, 70);
    assert_int_equal(hit_of(p, 0, b, 12).gen_tokens, 0);
    prefix_free(p);
}

static void pins_are_counted_and_outlive_the_rest(void **state)
{
    struct prefix *p = prefix_new(1);
    struct prefix_stats stats;
    uint64_t a[20], b[20], first, second, empty;

    (void)state;
    chat(a, 0, 0, 20);
    chat(b, 1, 9, 20);
    first = prefix_pin(p, 2, a, 20);
    second = prefix_pin(p, 2, b, 20);
    empty = prefix_pin(p, 2, a, 0);
    prefix_enter(p, 2, a, 20, 1);
    prefix_enter(p, 5, a, 4, 1); /* cuts them */
    prefix_clear(p, 2);
    assert_int_equal(prefix_blocks(p, 2), 0);
    assert_int_equal(blocks_of(p, 2, a, 20), 20);
    prefix_unpin(p, first);
    prefix_unpin(p, first);
    prefix_unpin(p, 0);
    prefix_unpin(p, UINT64_MAX);
    assert_int_equal(blocks_of(p, 2, a, 20), 9);
    assert_int_equal(blocks_of(p, 2, b, 20), 20);
    prefix_unpin(p, empty);
    prefix_unpin(p, second);
    assert_int_equal(blocks_of(p, 2, b, 20), 0);
    prefix_clear(p, 5);
    prefix_stats_get(p, &stats);
    assert_int_equal(stats.blocks, 0);
    assert_int_equal(stats.pins, 0);
    prefix_free(p);
}

static void what_an_engine_tells_is_kept_apart_from_the_list(void **state)
{
    struct prefix *p = prefix_new(1);
    struct prefix_stats stats;
    uint64_t a[10], gone[3], unknown = 12345;

    (void)state;
    chat(a, 0, 0, 10);
    prefix_stored(p, 0, 0, a, 6);
    prefix_stored(p, 0, a[5], a + 6, 4);
    prefix_stored(p, 0, unknown, &unknown, 1);
    assert_int_equal(prefix_told(p, 0), 10);
    assert_int_equal(prefix_blocks(p, 0), 0);
    prefix_bound(p, 0, 0);
    assert_int_equal(blocks_of(p, 0, a, 10), 10);
    gone[0] = a[9];
    gone[1] = a[4];
    gone[2] = unknown;
    prefix_removed(p, 0, gone, 3);
    assert_int_equal(prefix_told(p, 0), 8);
    assert_int_equal(blocks_of(p, 0, a, 10), 4);
    prefix_stored(p, 0, a[3], a + 4, 1);
    assert_int_equal(blocks_of(p, 0, a, 10), 9);
    prefix_stats_get(p, &stats);
    assert_int_equal(stats.unknown_parents, 1);
    prefix_free(p);
}

static void a_footprint_counts_each_block_once_per_engine(void **state)
{
    struct prefix *p = prefix_new(1);
    struct foot f = {0}, g = {0};
    uint64_t a[20], b[20];

    (void)state;
    chat(a, 0, 0, 20);
    chat(b, 1, 10, 20);
    assert_int_equal(foot_add(p, &f, 1, a, 12), 12);
    assert_int_equal(foot_add(p, &f, 1, a, 20), 8);
    assert_int_equal(foot_add(p, &f, 1, b, 20), 10);
    assert_int_equal(foot_add(p, &f, 2, b, 15), 15);
    assert_int_equal(foot_blocks(p, &f, 1), 30);
    assert_int_equal(foot_total(&f), 45);
    assert_int_equal(foot_known(p, &f, b, 20), 20);
    assert_int_equal(foot_known(p, &g, b, 20), 0);
    assert_int_equal(blocks_of(p, 1, a, 20), 0); /* used once, but who knows whether it is there */
    foot_drop(p, &f, 1);
    foot_drop(p, &f, 9);
    assert_int_equal(foot_known(p, &f, a, 20), 10);
    assert_int_equal(foot_total(&f), 15);
    foot_clear(p, &f);
    assert_int_equal(foot_total(&f), 0);
    prefix_check(p);
    prefix_free(p);
}

/* Conversations as agents have them: a shared start, then 5 to 10 blocks a turn. */
static void a_block_costs_at_most_64_bytes_all_included(void **state)
{
    enum { CHATS = 250, SHARED = 40, FIRST = 100, FULL = 1563 };
    struct prefix *p = prefix_new(1);
    struct foot *feet = calloc(CHATS, sizeof(*feet));
    struct prefix_stats stats;
    uint64_t d[LONGEST], pin, now = 0;
    uint32_t len = FIRST, c;

    (void)state;
    assert_non_null(feet);
    while (len < FULL) {
        len += 5 + (uint32_t)(table_mix(len) % 6);
        len = len < FULL ? len : FULL;
        for (c = 0; c < CHATS; c++) {
            chat(d, c, SHARED, len);
            (void)foot_add(p, &feet[c], c % 16, d, len);
            pin = prefix_pin(p, c % 16, d, len);
            prefix_enter(p, c % 16, d, len, ++now);
            prefix_refresh(p, c % 16, d, len, ++now);
            prefix_unpin(p, pin);
            prefix_refresh(p, c % 16, d, len, ++now);
        }
        if (len < FIRST + 30 || len == FULL) {
            prefix_stats_get(p, &stats);
            assert_int_equal(stats.blocks, SHARED + (uint64_t)CHATS * (len - SHARED));
            assert_true(stats.bytes < 64 * stats.blocks + 200000);
            assert_true(stats.runs <= 2 * CHATS);
        }
    }
    prefix_check(p);
    for (c = 0; c < CHATS; c++)
        foot_clear(p, &feet[c]);
    prefix_free(p);
    free(feet);
}

/* Chunk by chunk as they are computed, the answer before the footprint knows of it. */
static void what_an_engine_tells_of_one_conversation_becomes_one_run(void **state)
{
    struct prefix *p = prefix_new(1);
    struct foot f = {0};
    struct prefix_stats stats;
    uint64_t d[LONGEST], pin;
    uint32_t len = 40, told = 0, turn, n;

    (void)state;
    chat(d, 1, 0, LONGEST);
    for (turn = 0; turn < 60; turn++) {
        pin = prefix_pin(p, 6, d, len);
        (void)foot_add(p, &f, 6, d, len);
        for (; told < len; told += n) {
            n = len - told < 7 ? len - told : 7;
            prefix_stored(p, 6, told > 0 ? d[told - 1] : 0, d + told, n);
        }
        prefix_unpin(p, pin);
        prefix_stored(p, 6, d[told - 1], d + told, 2);
        told += 2;
        (void)foot_add(p, &f, 6, d, told);
        prefix_stats_get(p, &stats);
        assert_int_equal(stats.runs, 1);
        assert_int_equal(blocks_of(p, 6, d, LONGEST), told);
        len = told + 1 + turn % 20;
    }
    assert_int_equal(foot_total(&f), told);
    for (n = told; n-- > 0;)
        prefix_removed(p, 6, &d[n], 1);
    assert_int_equal(prefix_told(p, 6), 0);
    foot_clear(p, &f);
    prefix_check(p);
    prefix_free(p);
}

static void nothing_is_allocated_once_warm(void **state)
{
    struct prefix *p = prefix_new(1);
    struct prefix_stats stats;
    uint64_t d[LONGEST], bytes = 0;

    (void)state;
    prefix_reserve(p, 20000);
    for (uint32_t i = 0; i < 2000; i++) {
        uint32_t c = i % 300, n = 100 + c * 5;

        chat(d, c, 20, n);
        prefix_enter(p, 0, d, n, i);
        prefix_bound(p, 0, 10000);
        prefix_stats_get(p, &stats);
        assert_true(stats.blocks <= 10000);
        if (i == 900)
            bytes = stats.bytes;
    }
    assert_int_equal(stats.bytes, bytes);
    prefix_check(p);
    prefix_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_hit_is_the_longest_prefix_that_the_engine_holds),
        cmocka_unit_test(the_least_recently_used_go_first_and_of_one_use_the_tail),
        cmocka_unit_test(entering_known_blocks_does_not_make_them_younger),
        cmocka_unit_test(an_answer_counts_where_the_match_ends_right_before_it),
        cmocka_unit_test(an_answer_stays_with_its_block_when_a_run_is_cut),
        cmocka_unit_test(pins_are_counted_and_outlive_the_rest),
        cmocka_unit_test(what_an_engine_tells_is_kept_apart_from_the_list),
        cmocka_unit_test(a_footprint_counts_each_block_once_per_engine),
        cmocka_unit_test(a_block_costs_at_most_64_bytes_all_included),
        cmocka_unit_test(what_an_engine_tells_of_one_conversation_becomes_one_run),
        cmocka_unit_test(nothing_is_allocated_once_warm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
