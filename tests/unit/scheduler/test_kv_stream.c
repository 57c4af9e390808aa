/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "scheduler/kv_stream.h"

/* A stream driven by hand, and a publisher whose blocks are 16 tokens. */
struct fixture {
    struct kv_stream s;
    struct kv_delta delta;
    uint64_t now;
};

static int setup_replay(void **state)
{
    static struct fixture f;

    f = (struct fixture){.now = 1000};
    kv_stream_init(&f.s, true);
    *state = &f;
    return 0;
}

static int setup_alone(void **state)
{
    setup_replay(state);
    ((struct fixture *)*state)->s.has_replay = false;
    return 0;
}

static int teardown(void **state)
{
    kv_stream_fini(&((struct fixture *)*state)->s);
    return 0;
}

static bool give(struct fixture *f, uint64_t seq, double ts, enum kv_kind kind, uint64_t hash,
                 bool live)
{
    const struct kv_record r = {.kind = kind,
                                .hashes = &hash,
                                .count = 1,
                                .token_count = 16,
                                .block_size = 16,
                                .group = -1};
    const struct kv_batch b = {.ts = ts, .events = &r, .count = 1};

    return kv_stream_batch(&f->s, f->now, seq, &b, live, &f->delta);
}

static bool live(struct fixture *f, uint64_t seq, double ts)
{
    return give(f, seq, ts, KV_STORED, seq * 1000 + (uint64_t)ts, true);
}

static bool replayed(struct fixture *f, uint64_t seq, double ts)
{
    return give(f, seq, ts, KV_STORED, seq * 1000 + (uint64_t)ts, false);
}

static void assert_asks(struct fixture *f, uint64_t from)
{
    assert_true(f->s.ask);
    assert_int_equal(f->s.ask_from, from);
    assert_false(kv_stream_is_live(&f->s));
    f->s.ask = false;
}

/* Connects and takes a history of n batches with times 10, 11, ... */
static void begin(struct fixture *f, uint64_t n)
{
    kv_stream_up(&f->s, f->now);
    assert_asks(f, 0);
    for (uint64_t i = 0; i < n; i++)
        assert_true(replayed(f, i, 10 + (double)i));
    kv_stream_replay_end(&f->s, f->now);
    assert_true(kv_stream_is_live(&f->s));
}

static void a_late_joiner_gets_the_whole_history(void **state)
{
    struct fixture *f = *state;

    begin(f, 5);
    assert_true(f->s.view.complete && f->s.view.whole);
    assert_int_equal(f->s.view.tokens, 80);
    /* What it had heard meanwhile comes once more, and then news. */
    assert_false(live(f, 3, 13));
    assert_false(live(f, 4, 14));
    assert_true(live(f, 5, 15));
    assert_int_equal(f->s.view.tokens, 96);
    assert_int_equal(f->s.count.gaps + f->s.count.restarts + f->s.count.lost, 0);
}

static void an_empty_history_is_a_whole_one(void **state)
{
    struct fixture *f = *state;

    begin(f, 0);
    assert_true(f->s.view.complete && f->s.view.whole);
    assert_true(live(f, 0, 10));
    assert_true(f->s.view.whole);
}

static void a_batch_before_the_subscription_is_fetched(void **state)
{
    struct fixture *f = *state;

    begin(f, 0);
    assert_false(live(f, 2, 12));
    assert_asks(f, 0);
    for (uint64_t i = 0; i < 3; i++)
        assert_true(replayed(f, i, 10 + (double)i));
    kv_stream_replay_end(&f->s, f->now);
    assert_true(f->s.view.whole);
    assert_int_equal(f->s.view.tokens, 48);
}

static void a_gap_is_closed_by_a_replay_from_the_last_batch(void **state)
{
    struct fixture *f = *state;

    begin(f, 3);
    assert_false(live(f, 6, 16));
    assert_asks(f, 2);
    assert_false(replayed(f, 2, 12)); /* proves that the publisher is the same */
    for (uint64_t i = 3; i < 7; i++)
        assert_true(replayed(f, i, 10 + (double)i));
    kv_stream_replay_end(&f->s, f->now);
    assert_true(f->s.view.whole);
    assert_int_equal(f->s.view.tokens, 7 * 16);
    assert_int_equal(f->s.count.gaps, 1);
    assert_true(live(f, 7, 17));
}

static void a_hole_in_a_replay_is_asked_for_again(void **state)
{
    struct fixture *f = *state;

    kv_stream_up(&f->s, f->now);
    assert_asks(f, 0);
    assert_true(replayed(f, 0, 10));
    assert_true(replayed(f, 1, 11));
    assert_false(replayed(f, 9, 19));
    assert_asks(f, 1);
    assert_false(replayed(f, 1, 11));
    for (uint64_t i = 2; i < 10; i++)
        assert_true(replayed(f, i, 10 + (double)i));
    kv_stream_replay_end(&f->s, f->now);
    assert_true(f->s.view.whole);
    assert_int_equal(f->s.view.tokens, 160);
}

static void a_replay_that_never_gets_on_is_given_up(void **state)
{
    struct fixture *f = *state;

    kv_stream_up(&f->s, f->now);
    for (unsigned i = 0; i < KV_REPLAY_TRIES; i++) {
        assert_asks(f, 0);
        f->now = kv_stream_deadline(&f->s);
        kv_stream_tick(&f->s, f->now);
    }
    assert_false(f->s.ask);
    assert_true(kv_stream_is_live(&f->s));
    assert_false(f->s.view.complete);
    assert_int_equal(kv_stream_deadline(&f->s), UINT64_MAX);
    /* It goes on with what it hears, and asks again only after a while. */
    assert_true(live(f, 7, 17));
    assert_true(live(f, 9, 19));
    assert_false(f->s.ask);
    assert_false(f->s.view.complete);
    f->now += KV_RETRY_NS;
    assert_false(live(f, 12, 22));
    assert_asks(f, 9);
}

static void a_history_that_begins_in_the_middle_is_not_whole(void **state)
{
    struct fixture *f = *state;

    kv_stream_up(&f->s, f->now);
    assert_asks(f, 0);
    assert_true(replayed(f, 40, 50));
    assert_true(replayed(f, 41, 51));
    kv_stream_replay_end(&f->s, f->now);
    assert_false(f->s.view.complete || f->s.view.whole);
    assert_int_equal(f->s.view.tokens, 32);
}

static void a_view_is_complete_again_once_the_cache_has_turned_over(void **state)
{
    struct fixture *f = *state;
    uint64_t seq = 41, n;

    kv_stream_up(&f->s, f->now);
    f->s.ask = false;
    assert_true(replayed(f, 40, 50));
    kv_stream_replay_end(&f->s, f->now);
    for (n = 0; n < KV_TURNOVER; n++)
        assert_true(give(f, seq++, 60, KV_STORED, 5000 + n, true));
    for (n = 0; n < KV_TURNOVER / 2; n++)
        assert_true(give(f, seq++, 60, KV_REMOVED, 5000 + n, true));
    assert_true(give(f, seq++, 60, KV_REMOVED, 77, true)); /* from before: none of ours */
    for (n = KV_TURNOVER / 2; n < KV_TURNOVER; n++)
        assert_true(give(f, seq++, 60, KV_REMOVED, 5000 + n, true));
    assert_false(f->s.view.complete);
    for (n = 0; n < KV_TURNOVER; n++)
        assert_true(give(f, seq++, 60, KV_STORED, 9000 + n, true));
    for (n = 0; n < KV_TURNOVER / 2; n++)
        assert_true(give(f, seq++, 60, KV_REMOVED, 9000 + n, true));
    assert_true(f->s.view.complete);
    assert_false(f->s.view.whole);
}

static void a_restart_is_seen_on_the_live_socket(void **state)
{
    struct fixture *f = *state;

    begin(f, 5);
    assert_true(live(f, 5, 15));
    assert_true(live(f, 0, 100));
    assert_true(f->s.cleared && f->s.view.whole);
    assert_int_equal(f->s.count.restarts, 1);
    assert_int_equal(f->s.view.tokens, 16);
}

static void a_restart_that_was_missed_is_seen_by_the_clock(void **state)
{
    struct fixture *f = *state;

    begin(f, 5);
    assert_false(live(f, 2, 100)); /* newer than number 4, so no repetition */
    assert_true(f->s.cleared);
    assert_asks(f, 0);
    assert_int_equal(f->s.view.tokens, 0);
}

static void a_successor_that_is_ahead_is_seen_by_its_replay(void **state)
{
    struct fixture *f = *state;

    begin(f, 5);
    kv_stream_up(&f->s, f->now); /* the connection broke and came back */
    assert_asks(f, 4);
    assert_false(replayed(f, 4, 104)); /* another number 4 than ours */
    assert_true(f->s.cleared);
    assert_asks(f, 0);
    for (uint64_t i = 0; i < 9; i++)
        assert_true(replayed(f, i, 100 + (double)i));
    kv_stream_replay_end(&f->s, f->now);
    assert_true(f->s.view.whole);
    assert_int_equal(f->s.view.tokens, 9 * 16);
    assert_int_equal(f->s.count.restarts, 1);
}

static void a_successor_that_is_behind_is_seen_by_its_silence(void **state)
{
    struct fixture *f = *state;

    begin(f, 5);
    kv_stream_up(&f->s, f->now);
    assert_asks(f, 4);
    kv_stream_replay_end(&f->s, f->now);
    assert_true(f->s.cleared);
    assert_asks(f, 0);
    kv_stream_replay_end(&f->s, f->now);
    assert_true(kv_stream_is_live(&f->s));
    assert_true(f->s.view.whole);
    assert_int_equal(f->s.view.tokens, 0);
}

static void a_connection_that_comes_back_to_the_same_publisher_changes_nothing(void **state)
{
    struct fixture *f = *state;

    begin(f, 5);
    kv_stream_up(&f->s, f->now);
    assert_asks(f, 4);
    assert_false(replayed(f, 4, 14));
    kv_stream_replay_end(&f->s, f->now);
    assert_false(f->s.cleared);
    assert_true(f->s.view.whole);
    assert_int_equal(f->s.view.tokens, 80);
}

static void what_the_publisher_has_not_kept_makes_the_view_incomplete(void **state)
{
    struct fixture *f = *state;

    begin(f, 3);
    assert_false(live(f, 90, 100));
    assert_asks(f, 2);
    assert_true(replayed(f, 80, 90));
    assert_false(f->s.view.complete);
    assert_int_equal(f->s.count.lost, 1);
    assert_int_equal(f->s.view.tokens, 16);
    assert_false(f->s.cleared); /* the engine still has what it had */
}

static void without_replay_a_gap_is_a_loss_and_a_clear_mends_it(void **state)
{
    struct fixture *f = *state;

    kv_stream_up(&f->s, f->now);
    assert_true(live(f, 0, 10));
    assert_true(f->s.view.whole);
    assert_true(live(f, 2, 12));
    assert_false(f->s.view.complete || f->s.ask);
    assert_int_equal(f->s.count.gaps, 1);
    assert_true(give(f, 3, 13, KV_CLEARED, 0, true));
    assert_true(f->s.view.whole && f->s.cleared);
    assert_int_equal(f->s.view.tokens, 0);
}

static void without_replay_a_late_joiner_knows_that_it_is_late(void **state)
{
    struct fixture *f = *state;

    kv_stream_up(&f->s, f->now);
    assert_true(live(f, 500, 10));
    assert_false(f->s.view.complete || f->s.ask);
    assert_true(live(f, 0, 20)); /* a restart makes it whole */
    assert_true(f->s.view.whole && f->s.cleared);
}

static void garbage_is_a_loss_but_only_where_something_was_said(void **state)
{
    struct fixture *f = *state;

    begin(f, 3);
    kv_stream_garbage(&f->s, f->now, KV_SEQ_END, true, "no number");
    assert_true(f->s.view.whole);
    kv_stream_garbage(&f->s, f->now, 1, true, "old");
    assert_true(f->s.view.whole);
    kv_stream_garbage(&f->s, f->now, 3, true, "news");
    assert_false(f->s.view.complete);
    assert_int_equal(f->s.count.garbage, 3);
    assert_true(live(f, 4, 14)); /* and on it goes */
}

static void a_block_counts_once_however_often_it_is_announced(void **state)
{
    struct fixture *f = *state;

    begin(f, 0);
    assert_true(give(f, 0, 10, KV_STORED, 7, true));
    assert_true(give(f, 1, 11, KV_STORED, 7, true));
    assert_int_equal(f->s.view.tokens, 16);
    assert_true(give(f, 2, 12, KV_REMOVED, 7, true));
    assert_int_equal(f->s.view.tokens, 0);
    assert_true(give(f, 3, 13, KV_REMOVED, 7, true));
    assert_int_equal(f->s.view.tokens, 0);
}

static void only_one_group_of_layers_counts(void **state)
{
    struct fixture *f = *state;
    const uint64_t hash = 1, other = 2;
    const struct kv_record r[] = {
        {.kind = KV_STORED, .hashes = &hash, .count = 1, .token_count = 32, .block_size = 16},
        {.kind = KV_STORED,
         .hashes = &hash,
         .count = 1,
         .token_count = 16,
         .block_size = 16,
         .partial_view = true,
         .group = 1},
        {.kind = KV_STORED,
         .hashes = &hash,
         .count = 1,
         .token_count = 16,
         .block_size = 16,
         .group = 2},
        {.kind = KV_STORED,
         .hashes = &other,
         .count = 1,
         .token_count = 16,
         .block_size = 16,
         .group = 3},
        {.kind = KV_STORED,
         .hashes = &other,
         .count = 1,
         .token_count = 16,
         .block_size = 16,
         .group = 2,
         .medium = KV_ELSEWHERE},
        {.kind = KV_REMOVED, .hashes = &hash, .count = 1, .group = 3},
    };
    const struct kv_batch b = {.ts = 1, .events = r, .count = sizeof(r) / sizeof(r[0])};

    begin(f, 0);
    assert_true(kv_stream_batch(&f->s, f->now, 0, &b, true, &f->delta));
    assert_int_equal(f->s.view.tokens, 16);
    assert_int_equal(f->s.view.group, 2);
    assert_int_equal(f->delta.ignored, 5);
}

static void a_million_blocks_come_and_go(void **state)
{
    struct fixture *f = *state;
    enum { COUNT = 1000000 };
    uint64_t *hashes = calloc(COUNT, sizeof(*hashes));
    struct kv_record r = {
        .hashes = hashes, .count = COUNT, .block_size = 16, .group = -1, .token_count = COUNT * 16};
    const struct kv_batch b = {.ts = 1, .events = &r, .count = 1};

    assert_non_null(hashes);
    for (uint64_t i = 0; i < COUNT; i++)
        hashes[i] = i * 3;
    begin(f, 0);
    assert_true(kv_stream_batch(&f->s, f->now, 0, &b, true, &f->delta));
    assert_int_equal(f->s.view.tokens, UINT64_C(16) * COUNT);
    r.kind = KV_REMOVED;
    assert_true(kv_stream_batch(&f->s, f->now, 1, &b, true, &f->delta));
    assert_int_equal(f->s.view.tokens, 0);
    assert_int_equal(f->s.view.blocks, 0);
    free(hashes);
}

#define WITH_REPLAY(test) cmocka_unit_test_setup_teardown(test, setup_replay, teardown)
#define ALONE(test) cmocka_unit_test_setup_teardown(test, setup_alone, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_REPLAY(a_late_joiner_gets_the_whole_history),
        WITH_REPLAY(an_empty_history_is_a_whole_one),
        WITH_REPLAY(a_batch_before_the_subscription_is_fetched),
        WITH_REPLAY(a_gap_is_closed_by_a_replay_from_the_last_batch),
        WITH_REPLAY(a_hole_in_a_replay_is_asked_for_again),
        WITH_REPLAY(a_replay_that_never_gets_on_is_given_up),
        WITH_REPLAY(a_history_that_begins_in_the_middle_is_not_whole),
        WITH_REPLAY(a_view_is_complete_again_once_the_cache_has_turned_over),
        WITH_REPLAY(a_restart_is_seen_on_the_live_socket),
        WITH_REPLAY(a_restart_that_was_missed_is_seen_by_the_clock),
        WITH_REPLAY(a_successor_that_is_ahead_is_seen_by_its_replay),
        WITH_REPLAY(a_successor_that_is_behind_is_seen_by_its_silence),
        WITH_REPLAY(a_connection_that_comes_back_to_the_same_publisher_changes_nothing),
        WITH_REPLAY(what_the_publisher_has_not_kept_makes_the_view_incomplete),
        ALONE(without_replay_a_gap_is_a_loss_and_a_clear_mends_it),
        ALONE(without_replay_a_late_joiner_knows_that_it_is_late),
        WITH_REPLAY(garbage_is_a_loss_but_only_where_something_was_said),
        WITH_REPLAY(a_block_counts_once_however_often_it_is_announced),
        WITH_REPLAY(only_one_group_of_layers_counts),
        WITH_REPLAY(a_million_blocks_come_and_go),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
