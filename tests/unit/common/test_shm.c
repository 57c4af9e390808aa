/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/shm.h"

#define BYTES 8192u

static char dir[] = "/tmp/slip-shm-XXXXXX";
static char path[64];

static int group_setup(void **state)
{
    (void)state;
    if (mkdtemp(dir) == NULL)
        return -1;
    snprintf(path, sizeof(path), "%s/fleet", dir);
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    return rmdir(dir);
}

static int teardown(void **state)
{
    (void)state;
    unlink(path);
    return 0;
}

static char *body(struct shm *s)
{
    return (char *)(s->head + 1);
}

static void a_segment_is_seen_only_once_published(void **state)
{
    struct shm w, r;

    (void)state;
    assert_int_equal(shm_create(path, SHM_FLEET, 3, BYTES, &w), ERR_OK);
    assert_int_equal(shm_open_ro(path, SHM_FLEET, 3, BYTES, &r), ERR_NOT_FOUND);
    strcpy(body(&w), "hello");
    assert_int_equal(shm_publish(&w), ERR_OK);
    assert_int_equal(shm_open_ro(path, SHM_FLEET, 3, 0, &r), ERR_OK);
    assert_int_equal(r.bytes, BYTES);
    assert_string_equal(body(&r), "hello");
    strcpy(body(&w), "later");
    assert_string_equal(body(&r), "later");
    shm_close(&w);
    shm_close(&r);
    shm_close(&r);
}

static void a_reader_learns_of_the_successor_and_keeps_what_it_has(void **state)
{
    struct shm a, b, r;

    (void)state;
    assert_int_equal(shm_create(path, SHM_FLEET, 3, BYTES, &a), ERR_OK);
    strcpy(body(&a), "old");
    assert_int_equal(shm_publish(&a), ERR_OK);
    assert_int_equal(shm_open_ro(path, SHM_FLEET, 3, BYTES, &r), ERR_OK);
    assert_true(shm_is_current(&r));
    shm_close(&a);
    assert_int_equal(shm_create(path, SHM_FLEET, 3, BYTES, &b), ERR_OK);
    assert_true(shm_is_current(&r));
    assert_int_equal(shm_publish(&b), ERR_OK);
    assert_false(shm_is_current(&r));
    assert_string_equal(body(&r), "old");
    shm_close(&r);
    assert_int_equal(shm_open_ro(path, SHM_FLEET, 3, BYTES, &r), ERR_OK);
    assert_true(shm_is_current(&r));
    assert_int_equal(r.head->generation, b.head->generation);
    shm_close(&b);
    shm_close(&r);
}

static void a_writer_adopts_what_its_predecessor_left(void **state)
{
    struct shm w, next;
    uint64_t generation;

    (void)state;
    assert_int_equal(shm_adopt(path, SHM_METRICS, 1, BYTES, &next), ERR_NOT_FOUND);
    assert_int_equal(shm_create(path, SHM_METRICS, 1, BYTES, &w), ERR_OK);
    strcpy(body(&w), "counters");
    generation = w.head->generation;
    assert_int_equal(shm_publish(&w), ERR_OK);
    shm_close(&w);
    assert_int_equal(shm_adopt(path, SHM_METRICS, 1, BYTES, &next), ERR_OK);
    assert_string_equal(body(&next), "counters");
    assert_int_equal(next.head->generation, generation);
    assert_int_equal(next.head->writer_pid, getpid());
    shm_close(&next);
}

static void overwrite(off_t at, const char *bytes, size_t n)
{
    int fd = open(path, O_RDWR);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, n, at), n);
    close(fd);
}

static void publish_one(void)
{
    struct shm w;

    assert_int_equal(shm_create(path, SHM_FLEET, 3, BYTES, &w), ERR_OK);
    assert_int_equal(shm_publish(&w), ERR_OK);
    shm_close(&w);
}

static void segments_that_are_not_as_they_must_be_are_refused(void **state)
{
    struct shm r;

    (void)state;
    publish_one();
    assert_int_equal(shm_open_ro(path, SHM_METRICS, 3, BYTES, &r), ERR_LAYOUT);
    assert_int_equal(shm_open_ro(path, SHM_FLEET, 4, BYTES, &r), ERR_LAYOUT);
    assert_int_equal(shm_open_ro(path, SHM_FLEET, 3, BYTES * 2, &r), ERR_LAYOUT);
    overwrite(offsetof(struct shm_head, bytes), "\xff\xff", 2);
    assert_int_equal(shm_open_ro(path, SHM_FLEET, 3, 0, &r), ERR_LAYOUT);
    publish_one();
    overwrite(offsetof(struct shm_head, boot_id), "other", 5);
    assert_int_equal(shm_open_ro(path, SHM_FLEET, 3, BYTES, &r), ERR_LAYOUT);
    assert_int_equal(shm_adopt(path, SHM_FLEET, 3, BYTES, &r), ERR_LAYOUT);
    publish_one();
    overwrite(0, "junk", 4);
    assert_int_equal(shm_open_ro(path, SHM_FLEET, 3, BYTES, &r), ERR_LAYOUT);
    publish_one();
    assert_int_equal(truncate(path, 100), 0);
    assert_int_equal(shm_open_ro(path, SHM_FLEET, 3, 0, &r), ERR_LAYOUT);
    publish_one(); /* over a predecessor too short to retire */
    assert_int_equal(shm_open_ro(path, SHM_FLEET, 3, 0, &r), ERR_OK);
    shm_close(&r);
}

static void the_beat_has_an_age(void **state)
{
    struct shm w;

    (void)state;
    clock_set(5000 * NS_PER_MS);
    assert_int_equal(shm_create(path, SHM_FLEET, 3, BYTES, &w), ERR_OK);
    assert_int_equal(shm_publish(&w), ERR_OK);
    clock_advance(400 * NS_PER_MS);
    assert_int_equal(shm_beat_age_ms(&w), 400);
    shm_beat(&w);
    assert_int_equal(shm_beat_age_ms(&w), 0);
    shm_close(&w);
}

static void a_sealed_segment_cannot_shrink_under_its_peer(void **state)
{
    struct shm a, b;
    int fd;

    (void)state;
    assert_int_equal(shm_memfd("ring", BYTES, &a), ERR_OK);
    assert_int_equal(ftruncate(a.fd, 100), -1);
    assert_int_equal(ftruncate(a.fd, BYTES * 2), -1);
    assert_int_equal(shm_map_fd(dup(a.fd), BYTES * 2, &b), ERR_LAYOUT);
    assert_int_equal(shm_map_fd(dup(a.fd), BYTES, &b), ERR_OK);
    strcpy(body(&a), "same memory");
    assert_string_equal(body(&b), "same memory");
    shm_close(&a);
    shm_close(&b);
    fd = memfd_create("loose", MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(fd, BYTES), 0);
    assert_int_equal(shm_map_fd(fd, BYTES, &b), ERR_LAYOUT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(a_segment_is_seen_only_once_published, teardown),
        cmocka_unit_test_teardown(a_reader_learns_of_the_successor_and_keeps_what_it_has, teardown),
        cmocka_unit_test_teardown(a_writer_adopts_what_its_predecessor_left, teardown),
        cmocka_unit_test_teardown(segments_that_are_not_as_they_must_be_are_refused, teardown),
        cmocka_unit_test_teardown(the_beat_has_an_age, teardown),
        cmocka_unit_test_teardown(a_sealed_segment_cannot_shrink_under_its_peer, teardown),
    };

    return cmocka_run_group_tests_name("shm", tests, group_setup, group_teardown);
}
