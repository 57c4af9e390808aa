/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/pb.h"

/* In memory of their own, so that no byte behind them may be read. */
static uint8_t *held;

static struct pb_reader reader(const void *bytes, size_t len)
{
    free(held);
    held = malloc(len > 0 ? len : 1);
    assert_non_null(held);
    memcpy(held, bytes, len);
    return (struct pb_reader){held, held + len};
}

static int teardown(void **state)
{
    (void)state;
    free(held);
    held = NULL;
    return 0;
}

static void numbers_come_back_as_they_were_put(void **state)
{
    (void)state;
    for (unsigned bit = 0; bit < 64; bit++)
        for (int off = -1; off <= 1; off++) {
            uint64_t v = (UINT64_C(1) << bit) + (uint64_t)(int64_t)off, back = 7;
            uint8_t bytes[PB_VARINT_MAX];
            size_t n = (size_t)(pb_put_varint(bytes, v) - bytes);
            struct pb_reader r = reader(bytes, n);

            assert_int_equal(pb_varint_size(v), n);
            assert_true(pb_read_varint(&r, &back));
            assert_true(back == v);
            assert_ptr_equal(r.at, r.end);
        }
}

static void numbers_have_the_bytes_of_the_specification(void **state)
{
    uint8_t bytes[PB_VARINT_MAX];

    (void)state;
    assert_int_equal(pb_put_varint(bytes, 150) - bytes, 2);
    assert_memory_equal(bytes, "\x96\x01", 2);
    assert_int_equal(pb_put_varint(bytes, UINT64_MAX) - bytes, 10);
    assert_memory_equal(bytes, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 10);
    assert_int_equal(pb_put_tag(bytes, 2, PB_BYTES) - bytes, 1);
    assert_int_equal(bytes[0], 0x12);
    assert_int_equal(pb_put_fixed(bytes, 0x0102, 4) - bytes, 4);
    assert_memory_equal(bytes, "\x02\x01\0\0", 4);
}

static void a_number_that_ends_early_or_never_is_none(void **state)
{
    uint64_t v = 7;
    struct pb_reader r;

    (void)state;
    for (size_t n = 0; n < 11; n++) {
        r = reader("\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", n);
        assert_false(pb_read_varint(&r, &v));
    }
    r = reader("\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", 11);
    assert_false(pb_read_varint(&r, &v));
    assert_true(v == 7);
    r = reader("\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", 10); /* longer than it need be */
    assert_true(pb_read_varint(&r, &v));
    assert_true(v == UINT64_C(1) << 63);
    r = reader("\x81\0", 2);
    assert_true(pb_read_varint(&r, &v));
    assert_true(v == 1);
}

static void every_kind_of_field_is_read(void **state)
{
    static const char bytes[] = "\x08\x96\x01"                         /* 1: 150 */
                                "\x11\x08\x07\x06\x05\x04\x03\x02\x01" /* 2: a word of eight */
                                "\x1a\x03"
                                "abc"                   /* 3: a span */
                                "\x25\x04\x03\x02\x81"  /* 4: a word of four */
                                "\xfa\xff\xff\xff\x0f"; /* the last number, an empty span */
    struct pb_reader r = reader(bytes, sizeof(bytes));
    struct pb_field f;

    (void)state;
    assert_true(pb_read_field(&r, &f));
    assert_true(f.number == 1 && f.kind == PB_VARINT && f.value == 150);
    assert_true(pb_read_field(&r, &f));
    assert_true(f.number == 2 && f.kind == PB_64 && f.value == UINT64_C(0x0102030405060708));
    assert_true(pb_read_field(&r, &f));
    assert_true(f.number == 3 && f.kind == PB_BYTES && f.value == 0);
    assert_int_equal(f.span.end - f.span.at, 3);
    assert_memory_equal(f.span.at, "abc", 3);
    assert_true(pb_read_field(&r, &f));
    assert_true(f.number == 4 && f.kind == PB_32 && f.value == 0x81020304);
    assert_ptr_equal(f.span.at, f.span.end);
    assert_true(pb_read_field(&r, &f));
    assert_true(f.number == 0x1fffffff && f.kind == PB_BYTES);
    assert_ptr_equal(f.span.at, f.span.end);
    assert_ptr_equal(r.at, r.end);
}

static void fields_that_are_none_are_refused(void **state)
{
#define BYTES(s)         \
    {                    \
        s, sizeof(s) - 1 \
    }
    static const struct {
        const char *bytes;
        size_t len;
    } bad[] = {
        BYTES("\x02"),                 /* number 0 */
        BYTES("\x0b"),                 /* the start of a group */
        BYTES("\x0c"),                 /* its end */
        BYTES("\x0e\x01"),             /* kinds that do not exist */
        BYTES("\x0f\x01"),             /* */
        BYTES("\x80\x80\x80\x80\x10"), /* a number over the largest */
        BYTES("\x08"),                 /* a value that is missing */
        BYTES("\x0d\x01\x02\x03"),     /* a word cut off */
        BYTES("\x09\x01\x02\x03\x04\x05\x06\x07"),
        BYTES("\x0a\x02\x41"), /* a span cut off */
        BYTES("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x41"),
    };
    struct pb_field f;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct pb_reader r = reader(bad[i].bytes, bad[i].len);

        if (pb_read_field(&r, &f))
            fail_msg("row %zu was read", i);
        assert_true(r.at <= r.end);
    }
#undef BYTES
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_come_back_as_they_were_put),
        cmocka_unit_test(numbers_have_the_bytes_of_the_specification),
        cmocka_unit_test(a_number_that_ends_early_or_never_is_none),
        cmocka_unit_test(every_kind_of_field_is_read),
        cmocka_unit_test(fields_that_are_none_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, teardown);
}
