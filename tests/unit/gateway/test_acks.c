/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "gateway/acks.h"

#define MS UINT64_C(1000000)

/* Pieces gap_ms apart. Returns how often delayed acknowledgements were asked for. */
static unsigned pieces(struct acks *a, struct acks_engine *e, uint64_t *now, unsigned count,
                       uint64_t gap_ms)
{
    unsigned asked = 0;

    for (unsigned i = 0; i < count; i++) {
        *now += gap_ms * MS;
        asked += acks_on_piece(a, e, *now);
    }
    return asked;
}

static void asks_once_while_pieces_are_quick(void **state)
{
    struct acks a = {0};
    struct acks_engine e = {0};
    uint64_t now = 1000 * MS;

    (void)state;
    assert_int_equal(pieces(&a, &e, &now, 1, 20), 1);
    assert_int_equal(pieces(&a, &e, &now, 1000, 20), 0);
    assert_int_equal(e.failed, 0);
}

static void asks_again_after_a_stumble_once_pieces_are_quick_again(void **state)
{
    struct acks a = {0};
    struct acks_engine e = {0};
    uint64_t now = 1000 * MS;

    (void)state;
    (void)pieces(&a, &e, &now, 100, 20);
    assert_int_equal(pieces(&a, &e, &now, 1, 200), 0);
    assert_int_equal(pieces(&a, &e, &now, ACKS_RUN - 1, 20), 0);
    assert_int_equal(pieces(&a, &e, &now, 1, 20), 1);
}

static void an_engine_that_holds_writes_back_is_left_alone(void **state)
{
    struct acks_engine e = {0};
    uint64_t now = 1000 * MS;
    unsigned asked = 0;

    (void)state;
    for (unsigned stream = 0; stream < 100; stream++) {
        struct acks a = {0};
        bool held = false;

        for (unsigned i = 0; i < 100; i++) {
            unsigned got = pieces(&a, &e, &now, 1, held ? 40 : 5);

            held = got != 0; /* the next piece stays behind until the kernel gives in */
            asked += got;
        }
    }
    assert_int_equal(asked, ACKS_TRIALS);
}

static void an_engine_left_alone_gets_one_trial_a_minute(void **state)
{
    struct acks_engine e = {.failed = ACKS_TRIALS, .retry_ns = 5000 * MS};
    uint64_t now = 4000 * MS;
    struct acks a = {0}, b = {0}, c = {0};

    (void)state;
    assert_int_equal(pieces(&a, &e, &now, 1, 1), 0);
    now = 5000 * MS;
    assert_int_equal(pieces(&b, &e, &now, 1, 1), 1);
    assert_int_equal(pieces(&b, &e, &now, 1, 40), 0);
    assert_int_equal(pieces(&c, &e, &now, 1, 1), 0);
    assert_true(e.retry_ns > now + ACKS_RETRY_NS - 1000 * MS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(asks_once_while_pieces_are_quick),
        cmocka_unit_test(asks_again_after_a_stumble_once_pieces_are_quick_again),
        cmocka_unit_test(an_engine_that_holds_writes_back_is_left_alone),
        cmocka_unit_test(an_engine_left_alone_gets_one_trial_a_minute),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
