/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "scheduler/hash_ring.h"
#include "scheduler/md5.h"

/* RFC 1321, A.5. */
static void md5_gives_the_values_of_its_standard(void **state)
{
    static const struct {
        const char *text;
        uint64_t hi, lo;
    } rows[] = {
        {"", 0xd41d8cd98f00b204, 0xe9800998ecf8427e},
        {"a", 0x0cc175b9c0f1b6a8, 0x31c399e269772661},
        {"abc", 0x900150983cd24fb0, 0xd6963f7d28e17f72},
        {"message digest", 0xf96b697d7cb7938d, 0x525a2f31aaf161d0},
        {"abcdefghijklmnopqrstuvwxyz", 0xc3fcd3d76192e400, 0x7dfb496cca67e13b},
        {"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", 0xd174ab98d277d9f5,
         0xa5611c2c9f419d9f},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct md5 m = md5_of(rows[i].text, strlen(rows[i].text));

        assert_true(m.hi == rows[i].hi && m.lo == rows[i].lo);
    }
}

/* So many times 'x', by another implementation. */
static void md5_is_right_at_the_borders_of_its_blocks(void **state)
{
    static const struct {
        size_t len;
        uint64_t hi, lo;
    } rows[] = {
        {55, 0x04364420e25c512f, 0xd958a70738aa8f72},
        {56, 0x668a72d5ba17f08e, 0x62dabcafad6db14b},
        {63, 0x7dc2ca208106a2f7, 0x03567bdff99d8981},
        {64, 0xc1bb4f81d892b2d5, 0x7947682aeb252456},
        {65, 0x1bc932052302d074, 0xbdec39795fe00cf6},
        {119, 0xab347a5f68c8a443, 0xcfcddc633f12c24f},
        {120, 0xfb98667f98096de9, 0x2620b64f46e1c5b5},
        {1000, 0x398533d48111e9f6, 0x64b1f64cb10c4b63},
    };
    char text[1000];

    (void)state;
    memset(text, 'x', sizeof(text));
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct md5 m = md5_of(text, rows[i].len);

        assert_true(m.hi == rows[i].hi && m.lo == rows[i].lo);
    }
}

struct bench {
    struct fleet *fleet;
    struct hash_ring ring;
};

static int bench_open(void **state)
{
    struct bench *b = calloc(1, sizeof(*b));

    assert_non_null(b);
    b->fleet = calloc(1, sizeof(*b->fleet));
    assert_non_null(b->fleet);
    *state = b;
    return 0;
}

static int bench_close(void **state)
{
    struct bench *b = *state;

    ring_fini(&b->ring);
    free(b->fleet);
    free(b);
    return 0;
}

static void put(struct bench *b, uint32_t index, uint32_t generation, const char *id)
{
    struct engine *e = &b->fleet->engines[index];

    e->index = index;
    e->generation = generation;
    snprintf(e->id, sizeof(e->id), "%s", id);
    set_add(&b->fleet->used, index);
}

static uint32_t find(struct bench *b, const char *key, const struct engine_set *set)
{
    ring_sync(&b->ring, b->fleet, set);
    return ring_find(&b->ring, key, strlen(key), set);
}

/* Recorded from uhashring 2.3: HashRing(nodes), get_node(key), remove_node("...8002"). */
static void places_urls_as_uhashring_does(void **state)
{
    static const struct {
        const char *key;
        uint32_t all, without_8002;
    } rows[] = {
        {"alice", 2, 3},
        {"bob", 2, 1},
        {"carol", 2, 1},
        {"user-1", 1, 1},
        {"user-2", 2, 3},
        {"session-42", 3, 3},
        {"550e8400-e29b-41d4-a716-446655440000", 1, 1},
        {"", 3, 3},
    };
    struct bench *b = *state;
    struct engine_set all, some;

    put(b, 1, 0, "http://localhost:8001");
    put(b, 2, 0, "http://localhost:8002");
    put(b, 3, 0, "http://localhost:8003");
    all = some = b->fleet->used;
    set_remove(&some, 2);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        assert_int_equal(find(b, rows[i].key, &all), rows[i].all);
        assert_int_equal(find(b, rows[i].key, &some), rows[i].without_8002);
    }
    set_remove(&b->fleet->used, 2);
    put(b, 1, 1, "http://localhost:8001"); /* rebuilt without 8002 */
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        assert_int_equal(find(b, rows[i].key, &some), rows[i].without_8002);
}

/* Recorded from uhashring 2.3: keys wf-0 .. wf-63. */
static void places_names_as_uhashring_does(void **state)
{
    static const char all[] = "4430140220222442443320113131432211034210041311101301330322043143",
                      even[] = "4420440220222442440020244402402224044200044200402204220222042442",
                      wide[] = "13420312041043432024231141101033"; /* not ASCII */
    struct bench *b = *state;
    struct engine_set everybody = {{0x1f}}, some = {{0x15}}, one = {{0x1}};
    char key[16];

    for (uint32_t i = 0; i < 5; i++)
        put(b, i, 0, (const char *[]){"e0", "e1", "e2", "e3", "e4"}[i]);
    for (unsigned i = 0; i < 64; i++) {
        snprintf(key, sizeof(key), "wf-%u", i);
        assert_int_equal(find(b, key, &everybody), all[i] - '0');
        assert_int_equal(find(b, key, &some), even[i] - '0');
        assert_int_equal(find(b, key, &one), 0);
    }
    for (unsigned i = 0; i < 32; i++) {
        snprintf(key, sizeof(key), "\xc3\xa9\xe4\xb8\x96%u", i);
        assert_int_equal(find(b, key, &everybody), wide[i] - '0');
    }
}

static void an_index_used_again_gets_its_own_points(void **state)
{
    static const char all[] = "4430140220222442443320113131432211034210041311101301330322043143";
    struct bench *b = *state;
    struct engine_set everybody = {{0x1f}};
    char key[16];

    for (uint32_t i = 0; i < 5; i++)
        put(b, i, 0, (const char *[]){"e0", "e1", "gone", "e3", "e4"}[i]);
    find(b, "x", &everybody);
    put(b, 2, 1, "e2");
    for (unsigned i = 0; i < 64; i++) {
        snprintf(key, sizeof(key), "wf-%u", i);
        assert_int_equal(find(b, key, &everybody), all[i] - '0');
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(md5_gives_the_values_of_its_standard),
        cmocka_unit_test(md5_is_right_at_the_borders_of_its_blocks),
        cmocka_unit_test_setup_teardown(places_urls_as_uhashring_does, bench_open, bench_close),
        cmocka_unit_test_setup_teardown(places_names_as_uhashring_does, bench_open, bench_close),
        cmocka_unit_test_setup_teardown(an_index_used_again_gets_its_own_points, bench_open,
                                        bench_close),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
