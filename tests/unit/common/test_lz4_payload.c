/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/lz4_payload.h"
#include "common/must.h"

static uint32_t next_random(uint64_t *x)
{
    *x = *x * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (uint32_t)(*x >> 33);
}

/* JSON-like text that shrinks, or noise that does not. */
static char *sample(size_t len, bool shrinks, uint64_t seed)
{
    char *p = malloc(len + 1), line[64];
    size_t at = 0;

    must(p != NULL);
    while (at < len) {
        if (!shrinks) {
            p[at++] = (char)next_random(&seed);
            continue;
        }
        size_t n = (size_t)snprintf(line, sizeof(line), "{\"row\":%u,\"text\":\"the same\"},",
                                    next_random(&seed) % 1000);
        n = n < len - at ? n : len - at;
        memcpy(p + at, line, n);
        at += n;
    }
    return p;
}

static void a_payload_of_any_size_comes_back_and_a_block_is_always_smaller(void **state)
{
    static const size_t sizes[] = {0, 1, 2, 13, 4095, 4096, 65536, 1 << 20, PAYLOAD_MAX};
    struct packer packer = {.compress_from = 0};
    size_t i;

    (void)state;
    for (i = 0; i < 2 * sizeof(sizes) / sizeof(sizes[0]); i++) {
        size_t len = sizes[i / 2];
        char *raw = sample(len, i % 2 == 0, i + 1);
        struct packed p, claimed;
        struct buf out = {0};

        buf_adds(&out, "before");
        assert_int_equal(payload_pack(&packer, raw, len, &p), ERR_OK);
        assert_int_equal(p.raw_len, len);
        assert_true(p.is_packed ? p.len < len : p.len == len && p.bytes == raw);
        assert_true(p.is_packed || i % 2 == 1 || len < 4095);
        assert_int_equal(
            payload_claim(p.bytes, p.len, p.is_packed ? p.raw_len : 0, PAYLOAD_MAX, &claimed),
            ERR_OK);
        assert_int_equal(claimed.is_packed, p.is_packed);
        assert_int_equal(claimed.raw_len, len);
        assert_int_equal(payload_unpack(&claimed, &out), ERR_OK);
        assert_int_equal(out.len, 6 + len);
        assert_memory_equal(out.base + 6, raw, len);
        buf_fini(&out);
        free(raw);
    }
    packer_fini(&packer);
}

static void a_payload_beyond_the_ceiling_is_refused(void **state)
{
    struct packer packer = {.compress_from = 64};
    char *raw = sample(PAYLOAD_MAX + 1, true, 1);
    struct packed p;

    (void)state;
    assert_int_equal(payload_pack(&packer, raw, PAYLOAD_MAX + 1, &p), ERR_TOO_LARGE);
    free(raw);
}

static void small_payloads_stay_as_they_are(void **state)
{
    struct packer packer = {.compress_from = 64};
    char raw[64];
    struct packed p;

    (void)state;
    memset(raw, 'x', sizeof(raw));
    assert_int_equal(payload_pack(&packer, raw, 63, &p), ERR_OK);
    assert_false(p.is_packed);
    assert_int_equal(payload_pack(&packer, raw, 64, &p), ERR_OK);
    assert_true(p.is_packed);
    packer_fini(&packer);
}

static void a_claim_that_cannot_be_is_refused_before_anything_is_allocated(void **state)
{
    static const struct {
        size_t len;
        uint32_t raw_len;
        enum err err;
    } rows[] = {
        {10, 0, ERR_OK},
        {1000, 0, ERR_OK},
        {1001, 0, ERR_TOO_LARGE},
        {0, 0, ERR_OK},
        {0, 5, ERR_PACKED},
        {10, 11, ERR_OK},
        {10, 10, ERR_PACKED}, /* not smaller */
        {11, 10, ERR_PACKED},
        {10, 1000, ERR_OK},
        {3, 1000, ERR_PACKED}, /* no three bytes make a thousand */
        {4, 1000, ERR_OK},
        {10, 1001, ERR_TOO_LARGE},
        {10, UINT32_MAX, ERR_TOO_LARGE},
        {0, UINT32_MAX, ERR_TOO_LARGE},
    };
    static const char bytes[2000];
    struct packed p;
    size_t i;

    (void)state;
    for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        assert_int_equal(payload_claim(bytes, rows[i].len, rows[i].raw_len, 1000, &p), rows[i].err);
    assert_int_equal(payload_claim(bytes, 2000, PAYLOAD_MAX + 1, SIZE_MAX, &p), ERR_TOO_LARGE);
}

/* Every length but the right one, every cut, and bits turned: refused, or as long as it was said to
 * be; never a byte beyond, which the sanitizers would see. */
static void a_block_that_lies_is_refused_and_appends_nothing(void **state)
{
    struct packer packer = {.compress_from = 64};
    char *raw = sample(5000, true, 7);
    struct packed good, p;
    unsigned i, unpacked = 0;

    (void)state;
    assert_int_equal(payload_pack(&packer, raw, 5000, &good), ERR_OK);
    assert_true(good.is_packed);
    for (i = good.len + 1; i < 6000; i++) {
        struct buf out = {0};

        p = good;
        p.raw_len = i;
        assert_int_equal(payload_unpack(&p, &out), i == 5000 ? ERR_OK : ERR_IO);
        assert_int_equal(out.len, i == 5000 ? 5000 : 0);
        buf_fini(&out);
    }
    for (i = 0; i < good.len; i++) {
        char *exact = malloc(good.len);
        struct buf out = {0};

        must(exact != NULL);
        memcpy(exact, good.bytes, good.len);
        exact[i] ^= (char)(1 << i % 8);
        p = good;
        p.bytes = exact;
        unpacked += payload_unpack(&p, &out) == ERR_OK;
        assert_true(out.len == 0 || out.len == 5000);
        buf_fini(&out);
        exact = realloc(exact, i + 1);
        must(exact != NULL);
        memcpy(exact, good.bytes, i);
        p.bytes = exact;
        p.len = i;
        assert_int_equal(payload_unpack(&p, &out), ERR_IO);
        buf_fini(&out);
        free(exact);
    }
    assert_true(unpacked < good.len);
    packer_fini(&packer);
    free(raw);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_payload_of_any_size_comes_back_and_a_block_is_always_smaller),
        cmocka_unit_test(a_payload_beyond_the_ceiling_is_refused),
        cmocka_unit_test(small_payloads_stay_as_they_are),
        cmocka_unit_test(a_claim_that_cannot_be_is_refused_before_anything_is_allocated),
        cmocka_unit_test(a_block_that_lies_is_refused_and_appends_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
