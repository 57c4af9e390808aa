/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "bench/engine/kv_content.h"
#include "bench/engine/kv_encode.h"
#include "scheduler/kv_decode.h"

/* What the encoder writes, the scheduler's decoder reads. */

static void assert_hashes(const struct kv_record *r, uint64_t first, uint32_t count)
{
    assert_int_equal(r->count, count);
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(r->hashes[i], first + i);
}

static void check_form(enum kv_form form)
{
    static const uint32_t tokens[4] = {1, 0xffffffff, 3, 4};
    struct kv_encode *k = kv_encode_new(form, 4);
    struct kv_decoder *d = kv_decoder_new();
    struct kv_batch b;
    const char *why;
    size_t len;
    void *p;

    assert_null(kv_encode_batch(k, 1, &len));
    kv_encode_stored(k, 100, 0, tokens);
    kv_encode_stored(k, 101, 100, tokens);
    kv_encode_stored(k, 102, 101, tokens);
    kv_encode_stored(k, 200, 50, tokens); /* another chain */
    kv_encode_removed(k, 7);
    kv_encode_removed(k, 8);
    kv_encode_digest(k, 900, 0, true);
    kv_encode_digest(k, 901, 900, true);
    kv_encode_digest(k, 800, 0, false);
    kv_encode_cleared(k);
    kv_encode_cleared(k);
    p = kv_encode_batch(k, 12.5, &len);
    assert_non_null(p);
    assert_int_equal(kv_decode(d, p, len, &b, &why), ERR_OK);
    assert_int_equal(b.rank, 0);
    assert_int_equal(b.count, 7);
    assert_hashes(&b.events[0], 100, 3);
    assert_int_equal(b.events[0].token_count, 12);
    assert_int_equal(b.events[0].block_size, 4);
    assert_false(b.events[0].has_parent);
    assert_hashes(&b.events[1], 200, 1);
    assert_int_equal(b.events[1].parent, 50);
    assert_int_equal(b.events[2].kind, KV_REMOVED);
    assert_hashes(&b.events[2], 7, 2);
    assert_int_equal(b.events[3].medium, KV_DIGEST);
    assert_int_equal(b.events[3].kind, KV_STORED);
    assert_hashes(&b.events[3], 900, 2);
    assert_int_equal(b.events[4].medium, KV_DIGEST);
    assert_int_equal(b.events[4].kind, KV_REMOVED);
    assert_int_equal(b.events[5].kind, KV_CLEARED);
    assert_int_equal(b.events[6].kind, KV_CLEARED);
    assert_null(kv_encode_batch(k, 1, &len)); /* it is empty again */
    free(p);
    kv_decoder_free(d);
    kv_encode_free(k);
}

static void both_forms_are_read_as_they_were_meant(void **state)
{
    (void)state;
    check_form(KV_FORM_ARRAY);
    check_form(KV_FORM_MAP);
}

static void a_digest_belongs_to_the_first_block_that_it_was_found_in(void **state)
{
    struct kv_content *c = kv_content_new();
    uint64_t digest;

    (void)state;
    assert_true(kv_content_add(c, 1, 10));
    assert_true(kv_content_add(c, 2, 10));
    assert_false(kv_content_add(c, 1, 11));
    assert_false(kv_content_take(c, 11, &digest));
    assert_true(kv_content_take(c, 10, &digest) && kv_content_take(c, 10, &digest));
    assert_false(kv_content_take(c, 10, &digest));
    assert_true(kv_content_add(c, 1, 11));
    assert_int_equal(kv_content_count(c), 1);
    kv_content_free(c);
}

static void many_digests_come_and_go(void **state)
{
    enum { COUNT = 50000 };
    struct kv_content *c = kv_content_new();
    uint64_t digest;

    (void)state;
    for (unsigned round = 0; round < 3; round++) {
        for (uint64_t i = 0; i < COUNT; i++)
            assert_true(kv_content_add(c, i << 32, i / 3));
        assert_int_equal(kv_content_count(c), COUNT);
        for (uint64_t i = 0; i < COUNT; i++) {
            assert_true(kv_content_take(c, i / 3, &digest));
            assert_int_equal((digest >> 32) / 3, i / 3);
        }
        assert_int_equal(kv_content_count(c), 0);
    }
    kv_content_free(c);
}

static void text_blocks_end_in_the_token_block_of_their_last_token(void **state)
{
    (void)state;
    /* 512 bytes are 128 tokens are 8 blocks of 16. */
    assert_int_equal(kv_content_block(0, 512, 1024, 256, 16), 7);
    assert_int_equal(kv_content_block(1, 512, 1024, 256, 16), 15);
    assert_int_equal(kv_content_block(0, 512, 513, 1, 16), 0);
    assert_int_equal(kv_content_block(0, 512, 1000, 250, 16), 7);
    assert_int_equal(kv_content_block(4095, 512, 4096 * 512, 1 << 30, 16), (1 << 26) - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_forms_are_read_as_they_were_meant),
        cmocka_unit_test(a_digest_belongs_to_the_first_block_that_it_was_found_in),
        cmocka_unit_test(many_digests_come_and_go),
        cmocka_unit_test(text_blocks_end_in_the_token_block_of_their_last_token),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
