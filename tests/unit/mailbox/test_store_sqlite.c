/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/mailbox/sqlite_fixture.h"

/* ---- round trips ---- */

static void check_sizes(struct fixture *f)
{
    static const size_t sizes[] = {0, 1, 4095, 4096, 9000, MBOX_PAYLOAD_MAX};
    enum { COUNT = sizeof(sizes) / sizeof(sizes[0]) };
    char *random = malloc(MBOX_PAYLOAD_MAX), *even = malloc(MBOX_PAYLOAD_MAX);
    uint64_t refs[2 * COUNT];
    size_t i;

    must(random != NULL && even != NULL);
    noise(random, MBOX_PAYLOAD_MAX, 7);
    memset(even, 'e', MBOX_PAYLOAD_MAX);
    open_store(f);
    for (i = 0; i < 2 * COUNT; i++)
        refs[i] = put(f, i + 1, i % 2 ? even : random, sizes[i / 2]);
    for (i = 0; i < 2 * COUNT; i++)
        check_payload(f, refs[i], i % 2 ? even : random, sizes[i / 2]);
    assert_int_equal(commit(f), ERR_OK);
    for (i = 0; i < 2 * COUNT; i++)
        check_payload(f, refs[i], i % 2 ? even : random, sizes[i / 2]);
    reopen(f);
    assert_int_equal(f->seen.count, 2 * COUNT);
    for (i = 0; i < 2 * COUNT; i++) {
        const struct seen_message *m = &f->seen.messages[i];

        assert_int_equal(m->id, i + 1);
        assert_int_equal(m->payload_len, sizes[i / 2]);
        if (i % 2 == 0 || sizes[i / 2] < 4096)
            assert_int_equal(m->stored, m->payload_len);
        else
            assert_true(m->stored < m->payload_len / 50);
        check_payload(f, m->ref, i % 2 ? even : random, sizes[i / 2]);
        f->s->ops->remove(f->s, m->ref, m->id, true);
    }
    assert_int_equal(stats_of(f).payload_bytes, 0);
    assert_int_equal(commit(f), ERR_OK);
    reopen(f);
    assert_int_equal(f->seen.count, 0);
    free(random);
    free(even);
}

static void payloads_of_every_size_come_back_from_the_cache(void **state)
{
    struct fixture *f = *state;

    f->conf.cache_bytes = 64u << 20;
    check_sizes(f);
}

static void payloads_of_every_size_come_back_from_the_file(void **state)
{
    struct fixture *f = *state;

    f->conf.cache_bytes = 0;
    check_sizes(f);
}

static void a_payload_beyond_the_ceiling_is_refused(void **state)
{
    struct fixture *f = *state;
    char *big = calloc(1, MBOX_PAYLOAD_MAX + 1);
    uint64_t ref;

    open_store(f);
    assert_int_equal(put_of(f, 1, big, MBOX_PAYLOAD_MAX + 1, &ref), ERR_TOO_LARGE);
    assert_int_equal(commit(f), ERR_OK);
    free(big);
}

static void a_scan_gives_back_everything_that_was_said(void **state)
{
    struct fixture *f = *state;
    const struct mbox_answer_record a = {.id = 6,
                                         .tenant = "t",
                                         .workflow = "w",
                                         .key = "k",
                                         .body_hash = {UINT64_MAX, 77},
                                         .expires_ms = 9,
                                         .answer = "yes",
                                         .answer_len = 3};
    struct mbox_copy_record change = {.id = 2,
                                      .agent = "bob",
                                      .expires_ms = 8,
                                      .due_ms = 7,
                                      .attempts = 3,
                                      .dead = MBOX_DEAD_ATTEMPTS,
                                      .dead_ms = 6};
    const struct seen_message *m;
    uint64_t ref[3];

    open_store(f);
    ref[0] = put_broadcast(f, 1, 3, "to all");
    ref[1] = put(f, 4, "one", 3);
    ref[2] = put(f, 5, "two", 3);
    f->s->ops->remember(f->s, &a);
    f->s->ops->mark(f->s, ref[0], &change);
    assert_int_equal(commit(f), ERR_OK);
    change.id = 4;
    change.agent = "reader";
    f->s->ops->mark(f->s, ref[1], &change);
    change.attempts = 4;
    f->s->ops->mark(f->s, ref[1], &change);
    f->s->ops->remove(f->s, ref[0], 1, false);
    assert_int_equal(commit(f), ERR_OK);
    check_payload(f, ref[0], "to all", 6);

    reopen(f);
    assert_int_equal(f->seen.count, 3);
    m = &f->seen.messages[0];
    assert_string_equal(m->texts, "|w2|b|s||c|r|g");
    assert_int_equal(m->priority, 9);
    assert_int_equal(m->copy_count, 2);
    assert_int_equal(m->copies[0].id, 2);
    assert_string_equal(m->agents[0], "bob");
    assert_int_equal(m->copies[0].attempts, 3);
    assert_int_equal(m->copies[0].dead, MBOX_DEAD_ATTEMPTS);
    assert_int_equal(m->copies[1].id, 3);
    assert_int_equal(m->copies[1].expires_ms, 102);
    m = &f->seen.messages[1];
    assert_string_equal(m->texts, "t|w|m|s|y|||");
    assert_int_equal(m->created_ms, 4);
    assert_int_equal(m->ttl_ms, 10);
    assert_int_equal(m->copies[0].id, 4);
    assert_int_equal(m->copies[0].attempts, 4);
    assert_int_equal(m->copies[0].due_ms, 7);
    assert_int_equal(m->copies[0].expires_ms, 8);
    assert_int_equal(m->copies[0].dead_ms, 6);
    assert_int_equal(f->seen.messages[2].copies[0].expires_ms, 5005);
    assert_int_equal(f->seen.answer_count, 1);
    assert_int_equal(f->seen.answers[0].id, 6);
    assert_true(f->seen.answers[0].body_hash[0] == UINT64_MAX);
    assert_int_equal(f->seen.answers[0].body_hash[1], 77);
    assert_string_equal(f->seen.answer_texts[0], "t|w|k|yes");

    f->s->ops->remove(f->s, f->seen.messages[0].ref, 2, false);
    f->s->ops->remove(f->s, f->seen.messages[0].ref, 3, true);
    f->s->ops->remove(f->s, f->seen.messages[1].ref, 4, true);
    f->s->ops->forget(f->s, 6);
    assert_int_equal(commit(f), ERR_OK);
    reopen(f);
    assert_int_equal(f->seen.count, 1);
    assert_int_equal(f->seen.answer_count, 0);
    assert_string_equal(f->seen.messages[0].agents[0], "reader");
}

static void what_is_kept_comes_back_as_kept_until_it_is_marked_otherwise(void **state)
{
    struct fixture *f = *state;
    struct mbox_copy_record change = {
        .id = 1, .agent = "bob", .expires_ms = 8, .attempts = 3, .kept_ms = 77, .kept_order = 9};
    uint64_t ref[2];

    open_store(f);
    ref[0] = put_broadcast(f, 1, 2, "to all");
    ref[1] = put(f, 3, "one", 3);
    assert_int_equal(commit(f), ERR_OK);
    f->s->ops->mark(f->s, ref[0], &change);
    change.id = 3;
    change.kept_order = 10;
    f->s->ops->mark(f->s, ref[1], &change);
    assert_int_equal(commit(f), ERR_OK);

    reopen(f);
    assert_int_equal(f->seen.messages[0].copies[0].kept_ms, 77);
    assert_int_equal(f->seen.messages[0].copies[0].kept_order, 9);
    assert_int_equal(f->seen.messages[0].copies[0].dead, MBOX_ALIVE);
    assert_int_equal(f->seen.messages[0].copies[1].kept_ms, 0);
    assert_int_equal(f->seen.messages[1].copies[0].kept_order, 10);
    assert_int_equal(f->seen.messages[1].copies[0].due_ms, 0);
    assert_int_equal(f->seen.messages[1].copies[0].dead_ms, 0);
    assert_int_equal(f->seen.messages[1].copies[0].attempts, 3);
    change.kept_ms = change.kept_order = 0;
    f->s->ops->mark(f->s, f->seen.messages[1].ref, &change);
    assert_int_equal(commit(f), ERR_OK);

    reopen(f);
    assert_int_equal(f->seen.messages[1].copies[0].kept_ms, 0);
    f->s->ops->remove(f->s, f->seen.messages[1].ref, 3, true);
    assert_int_equal(commit(f), ERR_OK);
    reopen(f);
    assert_int_equal(f->seen.count, 1);
}

static void what_came_and_went_between_two_commits_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    const struct mbox_answer_record a = {
        .id = 9, .tenant = "", .workflow = "w", .key = "k", .answer = "", .answer_len = 0};
    uint64_t ref[2];

    open_store(f);
    ref[0] = put(f, 1, "x", 1);
    ref[1] = put_broadcast(f, 2, 2, "y");
    f->s->ops->remove(f->s, ref[1], 2, false);
    f->s->ops->remove(f->s, ref[1], 3, true);
    f->s->ops->remove(f->s, ref[0], 1, true);
    f->s->ops->remove(f->s, ref[0], 1, true);
    f->s->ops->remember(f->s, &a);
    f->s->ops->forget(f->s, 9);
    check_gone(f, ref[0]);
    assert_int_equal(commit(f), ERR_OK);
    assert_int_equal(stats_of(f).payload_bytes, 0);
    reopen(f);
    assert_int_equal(f->seen.count, 0);
    assert_int_equal(f->seen.answer_count, 0);
}

static void what_was_not_committed_is_not_there_after_a_restart(void **state)
{
    struct fixture *f = *state;

    open_store(f);
    put(f, 1, "kept", 4);
    assert_int_equal(commit(f), ERR_OK);
    put(f, 2, "not", 3);
    reopen(f);
    assert_int_equal(f->seen.count, 1);
    check_payload(f, f->seen.messages[0].ref, "kept", 4);
}

/* ---- commits that fail ---- */

static void a_failed_commit_drops_what_came_and_keeps_what_left(void **state)
{
#ifdef SLIP_FAULTS
    struct fixture *f = *state;
    struct mbox_copy_record change = {.id = 3, .agent = "reader", .attempts = 1};
    const struct mbox_answer_record a = {
        .id = 5, .tenant = "", .workflow = "w", .key = "k", .answer = "a", .answer_len = 1};
    uint64_t ref[4], i;

    open_store(f);
    for (i = 0; i < 3; i++)
        ref[i] = put(f, i + 1, "x", 1);
    assert_int_equal(commit(f), ERR_OK);
    ref[3] = put(f, 4, "new", 3);
    f->s->ops->remember(f->s, &a);
    f->s->ops->remove(f->s, ref[0], 1, true);
    f->s->ops->mark(f->s, ref[2], &change);
    fault_arm("store_commit_fails", 2);
    assert_int_equal(commit(f), ERR_STORE);
    assert_true(stats_of(f).failing);
    check_gone(f, ref[3]);
    assert_int_equal(stats_of(f).payload_bytes, 2);
    f->s->ops->remove(f->s, ref[3], 4, true);
    f->s->ops->remove(f->s, ref[1], 2, true);
    change.attempts = 2;
    f->s->ops->mark(f->s, ref[2], &change);
    assert_int_equal(commit(f), ERR_STORE);
    assert_int_equal(stats_of(f).failed_commits, 2);
    put(f, 6, "later", 5);
    assert_int_equal(commit(f), ERR_OK);
    assert_false(stats_of(f).failing);
    reopen(f);
    assert_int_equal(f->seen.count, 2);
    assert_int_equal(f->seen.messages[0].id, 3);
    assert_int_equal(f->seen.messages[0].copies[0].attempts, 2);
    assert_int_equal(f->seen.messages[1].id, 6);
    assert_int_equal(f->seen.answer_count, 0);
#else
    (void)state;
    skip();
#endif
}

static void a_full_store_says_so_and_keeps_nothing(void **state)
{
#ifdef SLIP_FAULTS
    struct fixture *f = *state;
    uint64_t ref;

    open_store(f);
    fault_arm("store_full", 1);
    assert_int_equal(put_of(f, 1, "x", 1, &ref), ERR_STORE);
    assert_int_equal(stats_of(f).payload_bytes, 0);
    assert_int_equal(put_of(f, 2, "x", 1, &ref), ERR_OK);
    assert_int_equal(commit(f), ERR_OK);
    reopen(f);
    assert_int_equal(f->seen.count, 1);
#else
    (void)state;
    skip();
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(payloads_of_every_size_come_back_from_the_cache),
        TEST(payloads_of_every_size_come_back_from_the_file),
        TEST(a_payload_beyond_the_ceiling_is_refused),
        TEST(a_scan_gives_back_everything_that_was_said),
        TEST(what_is_kept_comes_back_as_kept_until_it_is_marked_otherwise),
        TEST(what_came_and_went_between_two_commits_leaves_nothing),
        TEST(what_was_not_committed_is_not_there_after_a_restart),
        TEST(a_failed_commit_drops_what_came_and_keeps_what_left),
        TEST(a_full_store_says_so_and_keeps_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
