/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include <cmocka.h>

#include "common/snapshot.h"

#define WORDS 64
#define WRITES 100000u

struct row {
    uint64_t words[WORDS];
};

static _Atomic uint64_t seq, shared[WORDS];
static atomic_bool is_over;

static struct row row_of(uint64_t n)
{
    struct row r;
    int i;

    for (i = 0; i < WORDS; i++)
        r.words[i] = n * 1000 + (uint64_t)i;
    return r;
}

static int setup(void **state)
{
    struct row r = row_of(0);

    (void)state;
    atomic_store(&seq, 0);
    atomic_store(&is_over, false);
    snapshot_write(&seq, shared, &r, sizeof(r));
    return 0;
}

static void a_copy_is_what_was_written(void **state)
{
    struct row r = row_of(42), copy;

    (void)state;
    snapshot_write(&seq, shared, &r, sizeof(r));
    assert_true(snapshot_read(&seq, shared, &copy, sizeof(copy)));
    assert_memory_equal(&r, &copy, sizeof(r));
    assert_int_equal(atomic_load(&seq) % 2, 0);
}

static void a_reader_does_not_wait_for_a_writer_that_died_in_between(void **state)
{
    struct row r = row_of(7), copy;

    (void)state;
    atomic_fetch_add(&seq, 1); /* odd: the writer is, or was, at it */
    assert_false(snapshot_read(&seq, shared, &copy, sizeof(copy)));
    snapshot_write(&seq, shared, &r, sizeof(r)); /* its successor */
    assert_true(snapshot_read(&seq, shared, &copy, sizeof(copy)));
    assert_memory_equal(&r, &copy, sizeof(r));
}

static void *write_rows(void *arg)
{
    uint64_t n;

    (void)arg;
    for (n = 1; n <= WRITES; n++) {
        struct row r = row_of(n);

        snapshot_write(&seq, shared, &r, sizeof(r));
    }
    atomic_store(&is_over, true);
    return NULL;
}

static void no_copy_is_torn_and_none_goes_back(void **state)
{
    pthread_t thread;
    struct row copy, expected;
    uint64_t last = 0, n;

    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, write_rows, NULL), 0);
    while (!atomic_load(&is_over)) {
        if (!snapshot_read(&seq, shared, &copy, sizeof(copy)))
            continue;
        n = copy.words[0] / 1000;
        assert_true(n >= last);
        last = n;
        expected = row_of(n);
        assert_memory_equal(&copy, &expected, sizeof(copy));
    }
    pthread_join(thread, NULL);
    assert_true(snapshot_read(&seq, shared, &copy, sizeof(copy)));
    assert_int_equal(copy.words[0], WRITES * UINT64_C(1000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_copy_is_what_was_written, setup),
        cmocka_unit_test_setup(a_reader_does_not_wait_for_a_writer_that_died_in_between, setup),
        cmocka_unit_test_setup(no_copy_is_torn_and_none_goes_back, setup),
    };

    return cmocka_run_group_tests_name("snapshot", tests, NULL, NULL);
}
