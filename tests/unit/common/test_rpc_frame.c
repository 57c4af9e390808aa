/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/rpc_frame.h"
#include "proto/shared.pb-c.h"

static struct buf calls, frame;

static int teardown(void **state)
{
    (void)state;
    buf_fini(&calls);
    buf_fini(&frame);
    return 0;
}

static void frame_make(const struct frame_head *h)
{
    uint8_t head[FRAME_HEAD_BYTES];

    frame_write_head(head, h);
    buf_clear(&frame);
    buf_add(&frame, head, sizeof(head));
    buf_add(&frame, calls.base, calls.len);
}

static void what_is_written_by_hand_is_the_frame_of_the_proto_file(void **state)
{
    const struct frame_call call = {.id = 77,
                                    .method = 300,
                                    .status = 5,
                                    .timeout_ms = 123456,
                                    .event = 9,
                                    .body = (const uint8_t *)"body",
                                    .len = 4};
    Slipstream__V1__Frame *f;

    (void)state;
    frame_add_call(&calls, &call, NULL);
    frame_add_call(&calls, &(struct frame_call){.id = 1}, NULL);
    frame_make(&(struct frame_head){.proto = 1, .epoch = UINT64_MAX, .seq = 3});
    f = slipstream__v1__frame__unpack(NULL, frame.len, (uint8_t *)frame.base);
    assert_non_null(f);
    assert_int_equal(f->proto, 1);
    assert_int_equal(f->epoch, UINT64_MAX);
    assert_int_equal(f->seq, 3);
    assert_int_equal(f->n_calls, 2);
    assert_int_equal(f->calls[0]->id, 77);
    assert_int_equal(f->calls[0]->method, 300);
    assert_int_equal(f->calls[0]->status, 5);
    assert_int_equal(f->calls[0]->timeout_ms, 123456);
    assert_int_equal(f->calls[0]->event, 9);
    assert_int_equal(f->calls[0]->body.len, 4);
    assert_memory_equal(f->calls[0]->body.data, "body", 4);
    assert_int_equal(f->calls[1]->id, 1);
    slipstream__v1__frame__free_unpacked(f, NULL);
}

static void what_protobuf_packs_is_read_by_hand(void **state)
{
    Slipstream__V1__Frame f;
    Slipstream__V1__Call call, *list[] = {&call};
    struct frame_reader r;
    struct frame_head head;
    struct frame_call got;
    uint8_t packed[200], text[] = "hello";
    size_t n;

    (void)state;
    slipstream__v1__frame__init(&f);
    slipstream__v1__call__init(&call);
    f.seq = 11;
    f.calls = list;
    f.n_calls = 1;
    call.id = 0xdeadbeef;
    call.method = 17;
    call.body.data = text;
    call.body.len = 5;
    n = slipstream__v1__frame__pack(&f, packed);
    assert_int_equal(frame_open(&r, packed, n, &head), ERR_OK);
    assert_int_equal(head.proto, 0);
    assert_int_equal(head.seq, 11);
    assert_true(frame_next(&r, &got));
    assert_int_equal(got.id, 0xdeadbeef);
    assert_int_equal(got.method, 17);
    assert_int_equal(got.len, 5);
    assert_memory_equal(got.body, "hello", 5);
    assert_false(frame_next(&r, &got));
}

static void fields_of_a_later_version_are_skipped(void **state)
{
    static const uint8_t later[] = {0x08, 1, 0x2a, 2, 'x', 'y',  0x30, 5,   0x22, 9,
                                    0x0d, 7, 0,    0, 0,   0x3a, 2,    'a', 'b'};
    struct frame_reader r;
    struct frame_head head;
    struct frame_call call;

    (void)state;
    assert_int_equal(frame_open(&r, later, sizeof(later), &head), ERR_OK);
    assert_true(frame_next(&r, &call));
    assert_int_equal(call.id, 7);
    assert_int_equal(call.len, 0);
    assert_false(frame_next(&r, &call));
}

static void a_frame_cut_anywhere_else_than_between_fields_is_refused(void **state)
{
    struct frame_reader r;
    struct frame_head head;
    size_t len, good = 0;

    (void)state;
    frame_add_call(&calls,
                   &(struct frame_call){
                       .id = 1, .method = 20, .body = (const uint8_t *)"0123456789", .len = 10},
                   NULL);
    frame_make(&(struct frame_head){.proto = 1, .epoch = 2, .seq = 3});
    for (len = 0; len <= frame.len; len++) {
        uint8_t *copy = malloc(len + 1); /* so that ASan sees a read behind the end */

        memcpy(copy, frame.base, len);
        good += frame_open(&r, copy, len, &head) == ERR_OK;
        free(copy);
    }
    assert_int_equal(good, 5); /* nothing, proto, epoch, seq, all */
}

static void noise_is_read_without_harm(void **state)
{
    struct frame_reader r;
    struct frame_head head;
    struct frame_call call;
    unsigned i, opened = 0;
    size_t k;

    (void)state;
    srand(5);
    for (i = 0; i < 20000; i++) {
        size_t len = (size_t)(rand() % 40);
        uint8_t *p = malloc(len + 1);

        for (k = 0; k < len; k++)
            p[k] = rand() % 2 != 0
                       ? (uint8_t) "\x08\x11\x19\x22\x0d\x10\x18\x20\x2a\x31\x02"[rand() % 11]
                       : (uint8_t)rand();
        if (frame_open(&r, p, len, &head) == ERR_OK) {
            opened++;
            while (frame_next(&r, &call))
                assert_true(call.len <= len && call.body >= p && call.body + call.len <= p + len);
        }
        free(p);
    }
    assert_true(opened > 0);
}

static void too_many_calls_are_refused_and_a_sender_splits(void **state)
{
    struct frame_reader r;
    struct frame_head head;
    unsigned i;

    (void)state;
    for (i = 0; i < FRAME_CALLS_MAX; i++)
        frame_add_call(&calls, &(struct frame_call){.id = 1}, NULL);
    frame_make(&(struct frame_head){0});
    assert_int_equal(frame_open(&r, (uint8_t *)frame.base, frame.len, &head), ERR_OK);
    assert_int_equal(frame_cut((uint8_t *)calls.base, calls.len, 1u << 20), calls.len);
    frame_add_call(&calls, &(struct frame_call){.id = 1}, NULL);
    frame_make(&(struct frame_head){0});
    assert_int_equal(frame_open(&r, (uint8_t *)frame.base, frame.len, &head), ERR_PROTO);
    assert_int_equal(frame_cut((uint8_t *)calls.base, calls.len, 1u << 20), calls.len - 7);
}

static void a_cut_falls_between_calls(void **state)
{
    static uint8_t body[1000];
    struct frame_call call;
    size_t n, one;

    (void)state;
    frame_add_call(&calls, &(struct frame_call){.id = 1, .body = body, .len = sizeof(body)}, NULL);
    one = calls.len;
    frame_add_call(&calls, &(struct frame_call){.id = 2, .body = body, .len = sizeof(body)}, NULL);
    assert_int_equal(frame_cut((uint8_t *)calls.base, calls.len, 1500), one);
    assert_int_equal(frame_cut((uint8_t *)calls.base, calls.len, 100), one); /* at least one */
    n = frame_peek((uint8_t *)calls.base, calls.len, &call);
    assert_int_equal(n, one);
    assert_int_equal(call.id, 1);
    frame_peek((uint8_t *)calls.base + n, calls.len - n, &call);
    assert_int_equal(call.id, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(what_is_written_by_hand_is_the_frame_of_the_proto_file, teardown),
        cmocka_unit_test_teardown(what_protobuf_packs_is_read_by_hand, teardown),
        cmocka_unit_test_teardown(fields_of_a_later_version_are_skipped, teardown),
        cmocka_unit_test_teardown(a_frame_cut_anywhere_else_than_between_fields_is_refused,
                                  teardown),
        cmocka_unit_test_teardown(noise_is_read_without_harm, teardown),
        cmocka_unit_test_teardown(too_many_calls_are_refused_and_a_sender_splits, teardown),
        cmocka_unit_test_teardown(a_cut_falls_between_calls, teardown),
    };

    return cmocka_run_group_tests_name("rpc_frame", tests, NULL, NULL);
}
