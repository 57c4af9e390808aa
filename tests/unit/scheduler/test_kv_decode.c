/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "scheduler/kv_decode.h"
#include "tests/unit/scheduler/kv_pack.h"

static const uint64_t three[] = {11, UINT64_C(0xfedcba9876543210), 13};
static const struct pack_stored sample = {.hashes = three,
                                          .count = 3,
                                          .tokens = 48,
                                          .block = 16,
                                          .parent = 10,
                                          .medium = "GPU",
                                          .group = -1};

static int setup(void **state)
{
    *state = kv_decoder_new();
    return 0;
}

static int teardown(void **state)
{
    kv_decoder_free(*state);
    return 0;
}

static enum err decode(void **state, struct pack *p, struct kv_batch *out)
{
    const char *why = NULL;
    char *exact = malloc(p->buf.size + 1); /* so that a read behind the end is seen */
    enum err err;

    memcpy(exact, p->buf.data, p->buf.size);
    err = kv_decode(*state, exact, p->buf.size, out, &why);
    assert_true((err == ERR_OK) == (why == NULL));
    free(exact);
    pack_fini(p);
    return err;
}

static void assert_sample(const struct kv_record *r)
{
    assert_int_equal(r->kind, KV_STORED);
    assert_int_equal(r->medium, KV_GPU);
    assert_int_equal(r->count, 3);
    assert_memory_equal(r->hashes, three, sizeof(three));
    assert_true(r->has_parent);
    assert_int_equal(r->parent, 10);
    assert_int_equal(r->token_count, 48);
    assert_int_equal(r->block_size, 16);
    assert_int_equal(r->group, -1);
    assert_false(r->partial_view);
}

static void arrays_of_every_release_say_the_same(void **state)
{
    static const unsigned levels[] = {PACK_2025_05, PACK_MEDIUM, PACK_LORA_NAME, PACK_EXTRA_KEYS,
                                      PACK_GROUP,   PACK_SPEC,   PACK_FUTURE};

    for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++) {
        struct pack p;
        struct kv_batch b;

        pack_init(&p);
        pack_batch(&p, 12.5, 1, false);
        pack_stored_array(&p, &sample, levels[i]);
        assert_int_equal(decode(state, &p, &b), ERR_OK);
        assert_int_equal(b.count, 1);
        assert_true(b.ts > 12.4 && b.ts < 12.6);
        assert_int_equal(b.rank, -1);
        assert_sample(&b.events[0]);
    }
}

static void maps_say_the_same_as_arrays(void **state)
{
    for (int full = 0; full < 2; full++) {
        struct pack p;
        struct kv_batch b;

        pack_init(&p);
        pack_batch(&p, 1, 1, true);
        pack_stored_map(&p, &sample, full == 1);
        msgpack_pack_int(&p.to, 3);
        assert_int_equal(decode(state, &p, &b), ERR_OK);
        assert_int_equal(b.rank, 3);
        assert_sample(&b.events[0]);
    }
}

static void a_batch_may_be_a_map_itself(void **state)
{
    struct pack p;
    struct kv_batch b;

    pack_init(&p);
    msgpack_pack_map(&p.to, 3);
    pack_text(&p, "events");
    msgpack_pack_array(&p.to, 1);
    pack_stored_map(&p, &sample, false);
    pack_text(&p, "ts");
    msgpack_pack_int(&p.to, 7);
    pack_text(&p, "data_parallel_rank");
    msgpack_pack_nil(&p.to);
    assert_int_equal(decode(state, &p, &b), ERR_OK);
    assert_int_equal(b.rank, -1);
    assert_true(b.ts > 6.9 && b.ts < 7.1);
    assert_sample(&b.events[0]);
}

static void hashes_are_integers_of_either_sign_or_the_tail_of_bytes(void **state)
{
    for (int how = 0; how < 3; how++) {
        struct pack p;
        struct kv_batch b;
        struct pack_stored s = sample;

        s.bytes = how == 1;
        s.is_signed = how == 2;
        pack_init(&p);
        pack_batch(&p, 1, 2, false);
        pack_stored_array(&p, &s, PACK_SPEC);
        pack_removed_array(&p, &s, 3);
        assert_int_equal(decode(state, &p, &b), ERR_OK);
        assert_int_equal(b.count, 2);
        assert_sample(&b.events[0]);
        assert_int_equal(b.events[1].kind, KV_REMOVED);
        assert_memory_equal(b.events[1].hashes, three, sizeof(three));
    }
}

static void removals_and_clears_of_every_form(void **state)
{
    struct pack p;
    struct kv_batch b;

    pack_init(&p);
    pack_batch(&p, 1, 6, true);
    pack_removed_array(&p, &sample, 2);
    pack_removed_array(&p, &sample, 3);
    pack_removed_array(&p, &sample, 4);
    pack_removed_map(&p, &sample);
    pack_cleared(&p, false);
    pack_cleared(&p, true);
    msgpack_pack_nil(&p.to);
    assert_int_equal(decode(state, &p, &b), ERR_OK);
    assert_int_equal(b.count, 6);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(b.events[i].kind, KV_REMOVED);
        assert_int_equal(b.events[i].medium, KV_GPU);
        assert_int_equal(b.events[i].count, 3);
        assert_memory_equal(b.events[i].hashes, three, sizeof(three));
    }
    assert_int_equal(b.events[4].kind, KV_CLEARED);
    assert_int_equal(b.events[5].kind, KV_CLEARED);
}

static enum kv_medium medium_of(void **state, const char *medium)
{
    struct pack p;
    struct kv_batch b;
    struct pack_stored s = sample;

    s.medium = medium;
    pack_init(&p);
    pack_batch(&p, 1, 1, false);
    pack_stored_array(&p, &s, PACK_MEDIUM);
    assert_int_equal(decode(state, &p, &b), ERR_OK);
    return b.events[0].medium;
}

static void media_are_told_apart(void **state)
{
    assert_int_equal(medium_of(state, NULL), KV_GPU);
    assert_int_equal(medium_of(state, "GPU"), KV_GPU);
    assert_int_equal(medium_of(state, "CPU"), KV_ELSEWHERE);
    assert_int_equal(medium_of(state, "CPU_PINNED"), KV_ELSEWHERE);
    assert_int_equal(medium_of(state, "DISK"), KV_ELSEWHERE);
    assert_int_equal(medium_of(state, "PROMPT_DIGEST"), KV_DIGEST);
}

static void layers_that_forget_are_told_apart(void **state)
{
    static const struct {
        const char *kind;
        bool partial;
    } kinds[] = {{NULL, false},
                 {"full_attention", false},
                 {"mla_attention", false},
                 {"sliding_window", true},
                 {"sliding_window_mla", true},
                 {"mamba", true},
                 {"chunked_local_attention", true}};

    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        struct pack p;
        struct kv_batch b;
        struct pack_stored s = sample;

        s.kind = kinds[i].kind;
        s.group = 2;
        pack_init(&p);
        pack_batch(&p, 1, 1, false);
        pack_stored_array(&p, &s, PACK_SPEC);
        assert_int_equal(decode(state, &p, &b), ERR_OK);
        assert_int_equal(b.events[0].partial_view, kinds[i].partial);
        assert_int_equal(b.events[0].group, 2);
    }
}

static void unknown_events_are_counted_and_left_out(void **state)
{
    struct pack p;
    struct kv_batch b;

    pack_init(&p);
    pack_batch(&p, 1, 3, false);
    msgpack_pack_array(&p.to, 2);
    pack_text(&p, "BlockMoved");
    msgpack_pack_int(&p.to, 1);
    pack_cleared(&p, true);
    msgpack_pack_map(&p.to, 1);
    pack_text(&p, "type");
    pack_text(&p, "BlockDreamt");
    assert_int_equal(decode(state, &p, &b), ERR_OK);
    assert_int_equal(b.count, 1);
    assert_int_equal(b.unknown, 2);
}

static void what_is_no_batch_is_refused_in_words(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
    } bad[] = {
        {"", 0},
        {"\xc1", 1},                             /* no type */
        {"\x01", 1},                             /* a number */
        {"\x92\x01\x01", 3},                     /* events are none */
        {"\x91\x01", 2},                         /* no events */
        {"\x92\xa1t\x90", 4},                    /* the time is a text */
        {"\x92\x01\x91\x90", 4},                 /* an event of nothing */
        {"\x92\x01\x91\xc0", 4},                 /* an event that is nil */
        {"\x92\x01\x91\x91\x01", 5},             /* its type is a number */
        {"\x92\x01\x90\xc0", 4},                 /* something follows */
        {"\x92\x01\xdd\xff\xff\xff\xff", 7},     /* four billion events */
        {"\x92\x01\xdf\xff\xff\xff\xff", 7},     /* and pairs */
        {"\x92\x01\xc6\xff\xff\xff\xff", 7},     /* and bytes */
        {"\x92\x01\xc9\xff\xff\xff\xff\x01", 8}, /* and an extension */
        {"\x93\x01\x90\xa1r", 5},                /* the rank is a text */
        {"\x92\x01\x91\x91\xac"
         "BlockRemoved",
         17}, /* without hashes */
        {"\x92\x01\x91\x92\xac"
         "BlockRemoved\x91\xc0",
         19}, /* a hash that is nil */
        {"\x92\x01\x91\x92\xac"
         "BlockRemoved\x91\xc4\x00",
         20}, /* of no bytes */
        {"\x92\x01\x91\x92\xac"
         "BlockRemoved\x01",
         18}, /* that are a number */
        {"\x92\x01\x91\x94\xab"
         "BlockStored\x90\xc0\x90",
         19}, /* without a block size */
        {"\x92\x01\x91\x95\xab"
         "BlockStored\x90\xc0\x90\xff",
         20}, /* a negative one */
        {"\x92\x01\x91\x95\xab"
         "BlockStored\x90\xc0\x01\x10",
         20}, /* tokens are a number */
        {"\x92\x01\x91\x95\xab"
         "BlockStored\x90\xa1p\x90\x10",
         21}, /* the parent is a text */
    };

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct kv_batch b = {.count = 99};
        const char *why = NULL;

        assert_int_equal(kv_decode(*state, bad[i].bytes, bad[i].len, &b, &why), ERR_INVALID);
        assert_non_null(why);
        assert_int_equal(b.count, 99);
    }
}

static void every_cut_of_a_batch_is_refused(void **state)
{
    struct pack p;
    struct kv_batch b;
    const char *why;

    pack_init(&p);
    pack_batch(&p, 1, 2, true);
    pack_stored_map(&p, &sample, true);
    pack_removed_array(&p, &sample, 4);
    msgpack_pack_int(&p.to, 1);
    for (size_t len = 0; len < p.buf.size; len++) {
        char *exact = malloc(len + 1);

        memcpy(exact, p.buf.data, len);
        assert_int_equal(kv_decode(*state, exact, len, &b, &why), ERR_INVALID);
        free(exact);
    }
    assert_int_equal(kv_decode(*state, p.buf.data, p.buf.size, &b, &why), ERR_OK);
    pack_fini(&p);
}

static void deep_nesting_is_refused(void **state)
{
    unsigned char deep[400];
    struct kv_batch b;
    const char *why;

    memset(deep, 0x91, sizeof(deep) - 1);
    deep[sizeof(deep) - 1] = 0xc0;
    assert_int_equal(kv_decode(*state, deep, sizeof(deep), &b, &why), ERR_INVALID);
    assert_string_equal(why, "it is nested too deeply");
}

static void what_is_too_long_is_not_looked_at(void **state)
{
    struct kv_batch b;
    const char *why;

    assert_int_equal(kv_decode(*state, "", KV_PAYLOAD_MAX + 1, &b, &why), ERR_INVALID);
    assert_string_equal(why, "it is too long");
}

static void numbers_of_batches_are_big_endian(void **state)
{
    unsigned char frame[8] = {0, 0, 0, 0, 0, 0, 1, 2};
    uint64_t seq = 0;

    (void)state;
    assert_true(kv_seq_read(frame, 8, &seq));
    assert_int_equal(seq, 258);
    assert_false(kv_seq_read(frame, 7, &seq));
    assert_false(kv_seq_read(frame, 0, &seq));
    kv_seq_write(UINT64_C(0x0102030405060708), frame);
    assert_memory_equal(frame, "\1\2\3\4\5\6\7\10", 8);
    kv_seq_write(KV_SEQ_END, frame);
    assert_true(kv_seq_read(frame, 8, &seq) && seq == KV_SEQ_END);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(arrays_of_every_release_say_the_same, setup, teardown),
        cmocka_unit_test_setup_teardown(maps_say_the_same_as_arrays, setup, teardown),
        cmocka_unit_test_setup_teardown(a_batch_may_be_a_map_itself, setup, teardown),
        cmocka_unit_test_setup_teardown(hashes_are_integers_of_either_sign_or_the_tail_of_bytes,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(removals_and_clears_of_every_form, setup, teardown),
        cmocka_unit_test_setup_teardown(media_are_told_apart, setup, teardown),
        cmocka_unit_test_setup_teardown(layers_that_forget_are_told_apart, setup, teardown),
        cmocka_unit_test_setup_teardown(unknown_events_are_counted_and_left_out, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_no_batch_is_refused_in_words, setup, teardown),
        cmocka_unit_test_setup_teardown(every_cut_of_a_batch_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(deep_nesting_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_too_long_is_not_looked_at, setup, teardown),
        cmocka_unit_test(numbers_of_batches_are_big_endian),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
