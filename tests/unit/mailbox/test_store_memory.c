/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <malloc.h>

#include "common/fault.h"
#include "mailbox/store.h"
#include "tests/unit/mailbox/blocks.h"

static enum err put(struct mbox_store *s, const void *payload, size_t len, uint64_t *ref,
                    size_t *stored)
{
    const struct mbox_copy_record copy = {.id = 1, .agent = "a"};
    const struct mbox_record r = {
        .payload = payload, .payload_len = len, .copies = &copy, .copy_count = 1};

    return s->ops->append(s, &r, ref, stored);
}

static uint64_t bytes_of(const struct mbox_store *s)
{
    struct mbox_store_stats stats;

    s->ops->stats(s, &stats);
    return stats.payload_bytes;
}

static void check_round_trip(struct mbox_store *s, const char *bytes, size_t len, uint64_t id)
{
    struct buf b = {0};

    assert_int_equal(s->ops->get(s, id, &b), ERR_OK);
    assert_int_equal(b.len, len);
    assert_memory_equal(b.base, bytes, len);
    buf_fini(&b);
}

static void payloads_come_back_byte_for_byte(void **state)
{
    static char bytes[3][9000];
    struct mbox_store *s = store_memory_open(4096);
    uint64_t ids[3], random = 1;
    size_t stored[3], i;

    (void)state;
    memset(bytes[0], 'x', 9000); /* shrinks */
    for (i = 0; i < 9000; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        bytes[1][i] = (char)(random >> 56); /* does not */
        bytes[2][i] = 'y';
    }
    assert_int_equal(put(s, bytes[0], 9000, &ids[0], &stored[0]), ERR_OK);
    assert_int_equal(put(s, bytes[1], 9000, &ids[1], &stored[1]), ERR_OK);
    assert_int_equal(put(s, bytes[2], 4095, &ids[2], &stored[2]), ERR_OK);
    assert_true(stored[0] < 200);
    assert_int_equal(stored[1], 9000);
    assert_int_equal(stored[2], 4095); /* below the threshold */
    assert_int_equal(bytes_of(s), stored[0] + stored[1] + stored[2]);
    check_round_trip(s, bytes[0], 9000, ids[0]);
    check_round_trip(s, bytes[1], 9000, ids[1]);
    check_round_trip(s, bytes[2], 4095, ids[2]);
    s->ops->close(s);
}

static void a_block_is_kept_as_it_came_and_given_as_it_is(void **state)
{
    struct mbox_store *s = store_memory_open(4096);
    uint64_t refs[4];

    (void)state;
    check_blocks(s, 1, refs);
    check_stored(s, refs);
    s->ops->close(s);
}

static void a_dropped_id_finds_nothing_even_when_its_slot_is_used_again(void **state)
{
    struct mbox_store *s = store_memory_open(4096);
    struct buf b = {0};
    uint64_t first, second;
    size_t stored;

    (void)state;
    assert_int_equal(put(s, "one", 3, &first, &stored), ERR_OK);
    s->ops->remove(s, first, 0, true);
    s->ops->remove(s, first, 0, true);
    s->ops->remove(s, 12345, 0, true);
    s->ops->remove(s, 0, 0, true);
    assert_int_equal(put(s, "two", 3, &second, &stored), ERR_OK);
    assert_int_not_equal(first, second);
    assert_int_equal(s->ops->get(s, first, &b), ERR_NOT_FOUND);
    assert_int_equal(b.len, 0);
    check_round_trip(s, "two", 3, second);
    assert_int_equal(bytes_of(s), 3);
    s->ops->close(s);
}

static void a_payload_beyond_the_ceiling_is_refused(void **state)
{
    struct mbox_store *s = store_memory_open(64);
    char *big = calloc(1, MBOX_PAYLOAD_MAX + 1);
    uint64_t id;
    size_t stored;

    (void)state;
    assert_int_equal(put(s, big, MBOX_PAYLOAD_MAX + 1, &id, &stored), ERR_TOO_LARGE);
    assert_int_equal(put(s, big, MBOX_PAYLOAD_MAX, &id, &stored), ERR_OK);
    check_round_trip(s, big, MBOX_PAYLOAD_MAX, id);
    free(big);
    s->ops->close(s);
}

static void a_full_store_says_so_and_keeps_nothing(void **state)
{
#ifdef SLIP_FAULTS
    struct mbox_store *s = store_memory_open(64);
    uint64_t id;
    size_t stored;

    (void)state;
    fault_arm("store_full", 1);
    assert_int_equal(put(s, "x", 1, &id, &stored), ERR_STORE);
    assert_int_equal(bytes_of(s), 0);
    assert_int_equal(put(s, "x", 1, &id, &stored), ERR_OK);
    s->ops->close(s);
#else
    (void)state;
    skip();
#endif
}

static void a_failed_commit_drops_what_came_since_the_last(void **state)
{
#ifdef SLIP_FAULTS
    struct mbox_store *s = store_memory_open(64);
    struct mbox_store_stats stats;
    struct buf b = {0};
    uint64_t kept, dropped;
    size_t stored;

    (void)state;
    assert_int_equal(put(s, "kept", 4, &kept, &stored), ERR_OK);
    assert_int_equal(s->ops->commit(s), ERR_OK);
    assert_int_equal(put(s, "dropped", 7, &dropped, &stored), ERR_OK);
    fault_arm("store_commit_fails", 1);
    assert_int_equal(s->ops->commit(s), ERR_STORE);
    assert_int_equal(s->ops->get(s, dropped, &b), ERR_NOT_FOUND);
    check_round_trip(s, "kept", 4, kept);
    s->ops->stats(s, &stats);
    assert_true(stats.failing);
    assert_int_equal(stats.failed_commits, 1);
    assert_int_equal(s->ops->commit(s), ERR_OK);
    s->ops->stats(s, &stats);
    assert_false(stats.failing);
    s->ops->close(s);
#else
    (void)state;
    skip();
#endif
}

static void refs_of_the_past_find_nothing_however_slots_are_used_again(void **state)
{
    enum { COUNT = 3000 };
    struct mbox_store *s = store_memory_open(4096);
    uint64_t *live = calloc(COUNT, sizeof(live[0])), *past = calloc(COUNT, sizeof(past[0]));
    uint64_t random = 1;
    struct buf b = {0};
    size_t stored;
    uint32_t i, at;

    (void)state;
    for (i = 0; i < 20 * COUNT; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        at = (uint32_t)(random >> 33) % COUNT;
        if (live[at] == 0) {
            assert_int_equal(put(s, &at, sizeof(at), &live[at], &stored), ERR_OK);
            continue;
        }
        check_round_trip(s, (const char *)&at, sizeof(at), live[at]);
        if (past[at] != 0) {
            s->ops->remove(s, past[at], 0, true);
            assert_int_equal(s->ops->get(s, past[at], &b), ERR_NOT_FOUND);
        }
        s->ops->remove(s, live[at], 0, true);
        past[at] = live[at];
        live[at] = 0;
    }
    for (at = 0, stored = 0; at < COUNT; at++)
        stored += live[at] != 0 ? sizeof(at) : 0;
    assert_int_equal(bytes_of(s), stored);
    free(live);
    free(past);
    s->ops->close(s);
}

static void a_payload_costs_at_most_40_bytes_beside_its_own(void **state)
{
#ifndef SLIP_SANITIZED
    enum { COUNT = 100000, LEN = 1024 };
    struct mbox_store *s = store_memory_open(4096);
    static char payload[LEN];
    struct mallinfo2 before = mallinfo2(), after;
    uint64_t ref;
    size_t stored, i;

    (void)state;
    for (i = 0; i < COUNT; i++) {
        assert_int_equal(put(s, payload, LEN, &ref, &stored), ERR_OK);
        assert_int_equal(s->ops->commit(s), ERR_OK);
    }
    after = mallinfo2();
    assert_in_range(after.uordblks + after.hblkhd - before.uordblks - before.hblkhd, COUNT * LEN,
                    COUNT * (LEN + 40));
    s->ops->close(s);
#else
    (void)state;
    skip();
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(payloads_come_back_byte_for_byte),
        cmocka_unit_test(a_block_is_kept_as_it_came_and_given_as_it_is),
        cmocka_unit_test(a_dropped_id_finds_nothing_even_when_its_slot_is_used_again),
        cmocka_unit_test(a_payload_beyond_the_ceiling_is_refused),
        cmocka_unit_test(a_full_store_says_so_and_keeps_nothing),
        cmocka_unit_test(a_failed_commit_drops_what_came_since_the_last),
        cmocka_unit_test(refs_of_the_past_find_nothing_however_slots_are_used_again),
        cmocka_unit_test(a_payload_costs_at_most_40_bytes_beside_its_own),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
