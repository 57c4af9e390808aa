/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/codec.h"
#include "proto/mailbox.pb-c.h"
#include "proto/scheduler.pb-c.h"
#include "proto/shared.pb-c.h"

/* protobuf-c is the judge: what one packs the other reads alike. */
#define ROUNDS 400

static struct arena memory;
static struct buf wire, again;

static int setup(void **state)
{
    (void)state;
    memory = (struct arena){.size = 8u << 20, .base = malloc(8u << 20)};
    srand(11);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    free(memory.base);
    buf_fini(&wire);
    buf_fini(&again);
    return 0;
}

static void put_varint(uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        buf_add(&wire, &(uint8_t){(uint8_t)(v | 0x80)}, 1);
    buf_add(&wire, &(uint8_t){(uint8_t)v}, 1);
}

static uint64_t any_number(void)
{
    static const uint64_t some[] = {
        0,          1,        127, 128, 300, UINT32_MAX, UINT64_C(1) << 31, UINT64_C(1) << 63,
        UINT64_MAX, INT32_MAX};

    return rand() % 2 ? some[(size_t)rand() % 10] : (uint64_t)rand() << (rand() % 33);
}

static void any_message(const ProtobufCMessageDescriptor *type, unsigned depth);

static bool is_fixed(ProtobufCType t, unsigned *bytes)
{
    *bytes =
        t == PROTOBUF_C_TYPE_FIXED32 || t == PROTOBUF_C_TYPE_SFIXED32 || t == PROTOBUF_C_TYPE_FLOAT
            ? 4
            : 8;
    return *bytes == 4 || t == PROTOBUF_C_TYPE_FIXED64 || t == PROTOBUF_C_TYPE_SFIXED64 ||
           t == PROTOBUF_C_TYPE_DOUBLE;
}

static void any_value(const ProtobufCFieldDescriptor *f)
{
    uint64_t v = any_number();
    unsigned bytes;

    if (is_fixed(f->type, &bytes))
        buf_add(&wire, &v, bytes);
    else if (f->type == PROTOBUF_C_TYPE_BOOL)
        put_varint(v & 1);
    else if (f->type == PROTOBUF_C_TYPE_UINT32 || f->type == PROTOBUF_C_TYPE_SINT32 ||
             f->type == PROTOBUF_C_TYPE_ENUM || f->type == PROTOBUF_C_TYPE_INT32)
        put_varint((uint32_t)v);
    else
        put_varint(v);
}

static void tag(const ProtobufCFieldDescriptor *f, unsigned kind)
{
    put_varint((uint64_t)f->id << 3 | kind);
}

static void any_span(const ProtobufCFieldDescriptor *f, unsigned depth, bool is_packed)
{
    struct buf outer = wire;
    unsigned n = (unsigned)rand() % 200;
    struct buf inner;

    wire = (struct buf){0};
    if (is_packed)
        for (n = n % 20; n > 0; n--)
            any_value(f);
    else if (f->type == PROTOBUF_C_TYPE_MESSAGE)
        any_message(f->descriptor, depth + 1);
    else
        for (; n > 0; n--)
            buf_add(&wire, &(char){(char)('a' + rand() % 26)}, 1);
    inner = wire;
    wire = outer;
    put_varint(inner.len);
    buf_add(&wire, inner.base, inner.len);
    buf_fini(&inner);
}

static void any_field(const ProtobufCFieldDescriptor *f, unsigned depth)
{
    bool is_span = f->type == PROTOBUF_C_TYPE_STRING || f->type == PROTOBUF_C_TYPE_BYTES ||
                   f->type == PROTOBUF_C_TYPE_MESSAGE;
    bool is_repeated = f->label == PROTOBUF_C_LABEL_REPEATED;
    unsigned times = is_repeated ? (unsigned)rand() % 12 : 1, bytes;

    if (f->type == PROTOBUF_C_TYPE_MESSAGE && depth > 2)
        return;
    for (; times > 0; times--)
        if (is_span) {
            tag(f, 2);
            any_span(f, depth, false);
        } else if (is_repeated && rand() % 3 == 0) {
            tag(f, 2);
            any_span(f, depth, true);
        } else {
            tag(f, is_fixed(f->type, &bytes) ? (bytes == 4 ? 5 : 1) : 0);
            any_value(f);
        }
}

static void any_message(const ProtobufCMessageDescriptor *type, unsigned depth)
{
    for (unsigned i = 0; i < type->n_fields; i++)
        if (rand() % 3 != 0)
            any_field(&type->fields[i], depth);
    if (type->n_fields > 0 && rand() % 4 == 0) { /* once more: the last one counts */
        const ProtobufCFieldDescriptor *f = &type->fields[(unsigned)rand() % type->n_fields];

        if (f->type != PROTOBUF_C_TYPE_MESSAGE || f->label == PROTOBUF_C_LABEL_REPEATED)
            any_field(f, depth);
    }
}

/* Both read wire; what both write again is the same. */
static void judge(const ProtobufCMessageDescriptor *type)
{
    ProtobufCMessage *theirs =
        protobuf_c_message_unpack(type, NULL, wire.len, (const uint8_t *)wire.base);
    ProtobufCMessage *ours;
    uint8_t *expected;
    size_t len;

    assert_non_null(theirs);
    arena_clear(&memory);
    ours = codec_unpack(type, &memory, (const uint8_t *)wire.base, wire.len);
    assert_non_null(ours);
    len = protobuf_c_message_get_packed_size(theirs);
    expected = malloc(len + 1);
    assert_int_equal(protobuf_c_message_pack(theirs, expected), len);
    buf_clear(&again);
    codec_pack(&again, theirs);
    assert_int_equal(again.len, len);
    assert_memory_equal(again.base, expected, len);
    assert_int_equal(protobuf_c_message_get_packed_size(ours), len);
    assert_int_equal(protobuf_c_message_pack(ours, expected), len);
    assert_memory_equal(again.base, expected, len);
    free(expected);
    protobuf_c_message_free_unpacked(theirs, NULL);
}

static const ProtobufCServiceDescriptor *const services[] = {&slipstream__v1__scheduler__descriptor,
                                                             &slipstream__v1__mailbox__descriptor};

static void all_messages_of_the_services_read_and_write_like_protobuf_c(void **state)
{
    (void)state;
    for (unsigned s = 0; s < 2; s++)
        for (unsigned m = 0; m < services[s]->n_methods; m++)
            for (unsigned i = 0; i < ROUNDS / 2; i++) {
                buf_clear(&wire);
                buf_reserve(&wire, 1);
                any_message(services[s]->methods[m].input, 0);
                judge(services[s]->methods[m].input);
                buf_clear(&wire);
                any_message(services[s]->methods[m].output, 0);
                judge(services[s]->methods[m].output);
            }
}

static void a_long_packed_list_and_long_texts_survive(void **state)
{
    static uint64_t digests[5000];
    Slipstream__V1__Query q, *back;
    Slipstream__V1__ReportItem item, *items[] = {&item};
    Slipstream__V1__Reports r;
    char *model = malloc(70000);

    (void)state;
    slipstream__v1__query__init(&q);
    slipstream__v1__report_item__init(&item);
    slipstream__v1__reports__init(&r);
    for (unsigned i = 0; i < 5000; i++)
        digests[i] = any_number();
    memset(model, 'm', 70000);
    model[69999] = '\0';
    q.model = model;
    q.digests = digests;
    q.n_digests = 5000;
    item.query = &q;
    r.items = items;
    r.n_items = 1;
    buf_clear(&wire);
    codec_pack(&wire, &r.base);
    judge(&slipstream__v1__reports__descriptor);
    back = ((Slipstream__V1__Reports *)codec_unpack(&slipstream__v1__reports__descriptor, &memory,
                                                    (uint8_t *)wire.base, wire.len))
               ->items[0]
               ->query;
    assert_int_equal(back->n_digests, 5000);
    assert_memory_equal(back->digests, digests, sizeof(digests));
    assert_string_equal(back->model, model);
    free(model);
}

static void unknown_fields_are_passed_over(void **state)
{
    static const uint8_t bytes[] = {0xfa, 0x3f, 2, 'x', 'y', 0xf8, 0x3f, 0x96, 1, 0xf9,
                                    0x3f, 1,    2, 3,   4,   5,    6,    7,    8, 0xfd,
                                    0x3f, 1,    2, 3,   4,   0x12, 1,    't'};
    Slipstream__V1__Query *q;

    (void)state;
    q = codec_unpack(&slipstream__v1__query__descriptor, &memory, bytes, sizeof(bytes));
    assert_non_null(q);
    assert_string_equal(q->tenant, "t");
    assert_string_equal(q->model, "");
}

static void what_is_malformed_is_refused(void **state)
{
    static const struct {
        uint8_t bytes[12];
        size_t len;
    } bad[] = {
        {{0x12, 5, 'a'}, 3},                 /* longer than what there is */
        {{0x12}, 1},                         /* ends in a tag */
        {{0x09, 1, 2}, 3},                   /* half a number */
        {{0x10, 1}, 2},                      /* a text that is a number */
        {{0x0b}, 1},                         /* a group */
        {{0x02, 0}, 2},                      /* field 0 */
        {{0x72, 7, 1, 2, 3, 4, 5, 6, 7}, 9}, /* packed digests that do not come out even */
        {{0x48, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80}, 12},
    };
    static const uint8_t cut[] = {0x60, 0x80};

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        arena_clear(&memory);
        assert_null(
            codec_unpack(&slipstream__v1__query__descriptor, &memory, bad[i].bytes, bad[i].len));
    }
    assert_null(codec_unpack(&slipstream__v1__query__descriptor, &memory, cut, sizeof(cut)));
}

/* Whatever comes, reading ends inside its bounds; what it takes for good can be written. */
static void noise_does_no_harm(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 20000; i++) {
        const ProtobufCServiceDescriptor *s = services[i % 2];
        const ProtobufCMessageDescriptor *type = s->methods[(unsigned)rand() % s->n_methods].input;
        ProtobufCMessage *m;
        uint8_t *exact;

        buf_clear(&wire);
        buf_reserve(&wire, 1);
        any_message(type, 0);
        for (unsigned k = 0; wire.len > 0 && k < 1 + i % 4; k++)
            wire.base[(size_t)rand() % wire.len] = (char)rand();
        if (i % 3 == 0 && wire.len > 0)
            wire.len = (size_t)rand() % wire.len;
        exact = malloc(wire.len + 1); /* so that a step outside is seen */
        memcpy(exact + 1, wire.base, wire.len);
        arena_clear(&memory);
        m = codec_unpack(type, &memory, exact + 1, wire.len);
        buf_clear(&again);
        if (m != NULL)
            codec_pack(&again, m);
        free(exact);
    }
}

static void a_message_larger_than_the_arena_is_refused(void **state)
{
    struct arena small = {.base = memory.base, .size = 4096};
    unsigned refused = 0;

    (void)state;
    for (unsigned i = 0; i < 200; i++) {
        buf_clear(&wire);
        buf_reserve(&wire, 1);
        any_message(&slipstream__v1__send_request__descriptor, 0);
        arena_clear(&small);
        refused += codec_unpack(&slipstream__v1__send_request__descriptor, &small,
                                (uint8_t *)wire.base, wire.len) == NULL;
        assert_true(small.used <= small.size);
    }
    assert_in_range(refused, 20, 199);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_messages_of_the_services_read_and_write_like_protobuf_c),
        cmocka_unit_test(a_long_packed_list_and_long_texts_survive),
        cmocka_unit_test(unknown_fields_are_passed_over),
        cmocka_unit_test(what_is_malformed_is_refused),
        cmocka_unit_test(noise_does_no_harm),
        cmocka_unit_test(a_message_larger_than_the_arena_is_refused),
    };

    return cmocka_run_group_tests_name("codec", tests, setup, teardown);
}
