/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "common/fault.h"
#include "common/ring.h"

#define RECORDS 200000u
#define RING_BYTES RING_BYTES_MIN
#define RING_RECORD_MAX (RING_BYTES / 4)
#define LARGE_BYTES (16u << 20)

static struct ring_shared *shared;
static struct ring in, out;
static struct buf got;

static int setup(void **state)
{
    (void)state;
    shared = aligned_alloc(64, sizeof(*shared) + RING_BYTES);
    memset(shared, 0, sizeof(*shared) + RING_BYTES);
    ring_init(&in, shared, RING_BYTES);
    ring_init(&out, shared, RING_BYTES);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    buf_fini(&got);
    free(shared);
    return 0;
}

static void a_record_comes_out_as_it_went_in(void **state)
{
    (void)state;
    assert_int_equal(ring_read(&in, &got), ERR_NOT_FOUND);
    assert_int_equal(ring_write(&out, "hel", 3, "lo", 2), ERR_OK);
    assert_int_equal(ring_write(&out, "", 0, NULL, 0), ERR_OK);
    assert_int_equal(ring_read(&in, &got), ERR_OK);
    assert_int_equal(got.len, 5);
    assert_memory_equal(got.base, "hello", 5);
    assert_int_equal(ring_read(&in, &got), ERR_OK);
    assert_int_equal(got.len, 0);
    assert_int_equal(ring_read(&in, &got), ERR_NOT_FOUND);
}

static void records_of_every_length_survive_the_wrap(void **state)
{
    static uint8_t bytes[5000];
    size_t i, len;

    (void)state;
    for (i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i * 7);
    for (i = 0; i < 3000; i++) {
        len = i * 13 % sizeof(bytes);
        assert_int_equal(ring_write(&out, bytes, len / 3, bytes + len / 3, len - len / 3), ERR_OK);
        assert_int_equal(ring_read(&in, &got), ERR_OK);
        assert_int_equal(got.len, len);
        assert_memory_equal(got.base, bytes, len);
    }
}

static void a_full_ring_is_busy_until_something_was_read(void **state)
{
    static uint8_t bytes[RING_RECORD_MAX];
    unsigned written = 0;

    (void)state;
    assert_int_equal(ring_write(&out, bytes, sizeof(bytes), bytes, 1), ERR_TOO_LARGE);
    while (ring_write(&out, bytes, sizeof(bytes), NULL, 0) == ERR_OK)
        written++;
    assert_int_equal(written, 3); /* lengths take room, too */
    assert_int_equal(ring_write(&out, bytes, sizeof(bytes), NULL, 0), ERR_BUSY);
    assert_int_equal(ring_read(&in, &got), ERR_OK);
    assert_int_equal(ring_write(&out, bytes, sizeof(bytes), NULL, 0), ERR_OK);
}

static void pass(size_t len)
{
    static uint8_t bytes[LARGE_BYTES / 4];

    assert_int_equal(ring_write(&out, bytes, len, NULL, 0), ERR_OK);
    assert_int_equal(ring_read(&in, &got), ERR_OK);
    assert_int_equal(got.len, len);
}

static void a_ring_with_little_in_it_stays_at_its_start(void **state)
{
    unsigned i;

    (void)state;
    for (i = 0; i < 20000; i++) {
        memset(shared->data + RING_WARM + 1024, 0xee, 64); /* nobody writes there */
        pass(i % 1000);
    }
    for (i = 0; i < 64; i++)
        assert_int_equal(shared->data[RING_WARM + 1024 + i], 0xee);
    assert_true(out.at > 5 * RING_BYTES);
}

static void a_ring_that_starts_over_has_room_for_a_record_and_loses_none(void **state)
{
    static uint8_t bytes[RING_RECORD_MAX];
    unsigned i, written = 0;

    (void)state;
    while (out.at < RING_WARM)
        pass(1000);
    for (i = 0; i < RING_RECORD_MAX; i++)
        bytes[i] = (uint8_t)(i * 7);
    while (ring_write(&out, bytes, 100000, bytes, written) == ERR_OK)
        written++;
    assert_true(written >= 2);
    for (i = 0; i < written; i++) {
        assert_int_equal(ring_read(&in, &got), ERR_OK);
        assert_int_equal(got.len, 100000 + i);
        assert_memory_equal(got.base, bytes, 100000);
        assert_memory_equal(got.base + 100000, bytes, i);
    }
    assert_true(ring_is_empty(&in));
    pass(RING_RECORD_MAX);
}

static void a_start_over_without_a_record_kills_the_ring(void **state)
{
    static const uint32_t restart = UINT32_MAX;

    (void)state;
    memcpy(shared->data + 8, &restart, sizeof(restart));
    in.at = in.limit = 8;
    atomic_store(&shared->head, RING_BYTES);
    assert_int_equal(ring_read(&in, &got), ERR_PROTO);
    ring_init(&in, shared, RING_BYTES);
    in.at = in.limit = 8;
    memcpy(shared->data, &restart, sizeof(restart)); /* and over again */
    atomic_store(&shared->head, RING_BYTES + 8);
    assert_int_equal(ring_read(&in, &got), ERR_PROTO);
}

static uint64_t held(const struct shm *s)
{
    struct stat st;

    assert_int_equal(fstat(s->fd, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

static void a_large_ring_takes_memory_for_what_lies_there_only(void **state)
{
    struct shm s;
    unsigned i;

    (void)state;
    assert_int_equal(shm_memfd("test", ring_segment_bytes(LARGE_BYTES), &s), ERR_OK);
    ring_init(&out, ring_in_segment(s.head, LARGE_BYTES, true), LARGE_BYTES);
    ring_init(&in, ring_in_segment(s.head, LARGE_BYTES, true), LARGE_BYTES);
    for (i = 0; i < 100000; i++)
        pass(1000);
    assert_in_range(held(&s), 1, RING_WARM + (16u << 10));
    for (i = 0; i < 3; i++) {
        pass(LARGE_BYTES / 4);
        pass(LARGE_BYTES / 4);
        assert_true(held(&s) >= LARGE_BYTES / 4);
        for (unsigned k = 0; k < (RING_QUIET + 2) * RING_WARM / 1000; k++)
            pass(1000);
        assert_in_range(held(&s), 1, RING_KEPT + (16u << 10));
    }
    shm_close(&s);
}

static void a_sleeper_is_rung_for_once(void **state)
{
    (void)state;
    assert_int_equal(ring_write(&out, "x", 1, NULL, 0), ERR_OK);
    assert_false(ring_must_ring(&out)); /* nobody sleeps */
    assert_false(ring_sleep(&in));      /* there is something to read */
    assert_int_equal(ring_read(&in, &got), ERR_OK);
    assert_true(ring_sleep(&in));
    assert_int_equal(ring_write(&out, "y", 1, NULL, 0), ERR_OK);
    assert_int_equal(ring_write(&out, "z", 1, NULL, 0), ERR_OK);
    assert_true(ring_must_ring(&out));
    assert_false(ring_must_ring(&out));
}

static void whoever_woke_by_himself_is_not_rung_for(void **state)
{
    (void)state;
    assert_true(ring_is_empty(&in));
    assert_true(ring_sleep(&in));
    ring_wake(&in);
    assert_int_equal(ring_write(&out, "a", 1, NULL, 0), ERR_OK);
    assert_false(ring_must_ring(&out));
    assert_false(ring_is_empty(&in));
    assert_false(ring_sleep(&in));
    assert_int_equal(ring_read(&in, &got), ERR_OK);
    assert_true(ring_is_empty(&in));
    assert_true(ring_sleep(&in));
    assert_int_equal(ring_write(&out, "b", 1, NULL, 0), ERR_OK);
    assert_true(ring_must_ring(&out));
}

static void indices_that_cannot_be_kill_the_ring(void **state)
{
    static const uint64_t bad[] = {4, RING_BYTES + 8, UINT64_MAX - 7, UINT64_C(1) << 63};
    size_t i;

    (void)state;
    for (i = 0; i < 4; i++) {
        ring_init(&in, shared, RING_BYTES);
        atomic_store(&shared->head, bad[i]);
        assert_int_equal(ring_read(&in, &got), ERR_PROTO);
    }
    atomic_store(&shared->head, 0);
    atomic_store(&shared->tail, 4096); /* more than was ever written */
    out.limit = 0;
    out.at = RING_BYTES - 8;
    assert_int_equal(ring_write(&out, "0123456789abcdef", 16, NULL, 0), ERR_OK);
    atomic_store(&shared->tail, RING_BYTES * 3);
    assert_int_equal(ring_write(&out, "0123456789abcdef", 16, NULL, 0), ERR_OK);
    out.at = out.limit + RING_BYTES;
    assert_int_equal(ring_write(&out, "0123456789abcdef", 16, NULL, 0), ERR_PROTO);
}

static void lengths_that_cannot_be_kill_the_ring(void **state)
{
    static const uint32_t bad[] = {13, 1000, RING_RECORD_MAX + 1, UINT32_MAX};
    size_t i;

    (void)state;
    for (i = 0; i < 4; i++) {
        ring_init(&in, shared, RING_BYTES);
        memcpy(shared->data, &bad[i], sizeof(bad[i]));
        atomic_store(&shared->head, 16);
        assert_int_equal(ring_read(&in, &got), ERR_PROTO);
    }
}

/* Whatever stands in the shared memory, reading ends and stays inside. */
static void a_ring_full_of_noise_is_read_without_harm(void **state)
{
    unsigned round, reads;
    size_t i;

    (void)state;
    srand(3);
    for (round = 0; round < 50; round++) {
        for (i = 0; i < RING_BYTES; i += 1 + (size_t)(rand() % 64))
            shared->data[i] = (uint8_t)(rand() % 3);
        ring_init(&in, shared, RING_BYTES);
        in.at = in.limit = (uint64_t)rand() * 8;
        atomic_store(&shared->head, in.at + (uint64_t)(rand() % (int)RING_BYTES) / 8 * 8);
        for (reads = 0; ring_read(&in, &got) == ERR_OK; reads++)
            assert_true(reads <= RING_BYTES / 8 && got.len <= RING_RECORD_MAX);
    }
}

#ifdef SLIP_FAULTS
static void an_armed_fault_finds_the_ring_full_once(void **state)
{
    (void)state;
    fault_arm("ring_full", 1);
    assert_int_equal(ring_write(&out, "x", 1, NULL, 0), ERR_BUSY);
    assert_int_equal(ring_write(&out, "x", 1, NULL, 0), ERR_OK);
}
#endif

/* ---- two threads: the wake protocol, with a flag for the bell ---- */

static pthread_mutex_t bell_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t bell = PTHREAD_COND_INITIALIZER;
static bool is_rung;

static void ring_bell(void)
{
    pthread_mutex_lock(&bell_lock);
    is_rung = true;
    pthread_cond_signal(&bell);
    pthread_mutex_unlock(&bell_lock);
}

static void wait_for_bell(void)
{
    pthread_mutex_lock(&bell_lock);
    while (!is_rung)
        pthread_cond_wait(&bell, &bell_lock);
    is_rung = false;
    pthread_mutex_unlock(&bell_lock);
}

static void *produce(void *arg)
{
    uint32_t i;
    uint8_t fill[64];

    (void)arg;
    for (i = 0; i < RECORDS; i++) {
        memset(fill, (int)(i & 0xff), sizeof(fill));
        while (ring_write(&out, &i, sizeof(i), fill, i % sizeof(fill)) == ERR_BUSY)
            if (ring_must_ring(&out))
                ring_bell();
        if (i % 3 == 0 && ring_must_ring(&out))
            ring_bell();
    }
    if (ring_must_ring(&out))
        ring_bell();
    return NULL;
}

static void every_record_reaches_a_consumer_that_sleeps_between(void **state)
{
    pthread_t thread;
    uint32_t next = 0, number, k;
    enum err e;

    (void)state;
    is_rung = false;
    assert_int_equal(pthread_create(&thread, NULL, produce, NULL), 0);
    while (next < RECORDS) {
        while ((e = ring_read(&in, &got)) == ERR_OK) {
            memcpy(&number, got.base, sizeof(number));
            assert_int_equal(number, next);
            assert_int_equal(got.len, sizeof(number) + next % 64);
            for (k = sizeof(number); k < got.len; k++)
                assert_int_equal((uint8_t)got.base[k], next & 0xff);
            next++;
        }
        assert_int_equal(e, ERR_NOT_FOUND);
        if (next < RECORDS && ring_sleep(&in))
            wait_for_bell(); /* a lost wake-up would hang here */
    }
    pthread_join(thread, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_record_comes_out_as_it_went_in, setup, teardown),
        cmocka_unit_test_setup_teardown(records_of_every_length_survive_the_wrap, setup, teardown),
        cmocka_unit_test_setup_teardown(a_full_ring_is_busy_until_something_was_read, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_ring_with_little_in_it_stays_at_its_start, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(
            a_ring_that_starts_over_has_room_for_a_record_and_loses_none, setup, teardown),
        cmocka_unit_test_setup_teardown(a_start_over_without_a_record_kills_the_ring, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_large_ring_takes_memory_for_what_lies_there_only, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_sleeper_is_rung_for_once, setup, teardown),
        cmocka_unit_test_setup_teardown(whoever_woke_by_himself_is_not_rung_for, setup, teardown),
        cmocka_unit_test_setup_teardown(indices_that_cannot_be_kill_the_ring, setup, teardown),
        cmocka_unit_test_setup_teardown(lengths_that_cannot_be_kill_the_ring, setup, teardown),
        cmocka_unit_test_setup_teardown(a_ring_full_of_noise_is_read_without_harm, setup, teardown),
#ifdef SLIP_FAULTS
        cmocka_unit_test_setup_teardown(an_armed_fault_finds_the_ring_full_once, setup, teardown),
#endif
        cmocka_unit_test_setup_teardown(every_record_reaches_a_consumer_that_sleeps_between, setup,
                                        teardown),
    };

    return cmocka_run_group_tests_name("ring", tests, NULL, NULL);
}
