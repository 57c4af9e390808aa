/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "mailbox/door.h"

#define BOUNDED(literal, nested, max) \
    door_is_bounded((const uint8_t *)(literal), sizeof(literal) - 1, nested, max)

static void elements_are_counted_before_anything_is_unpacked(void **state)
{
    (void)state;
    assert_true(door_is_bounded(NULL, 0, 3, 0));
    assert_true(BOUNDED("\x1a\x00\x1a\x00\x1a\x00", 3, 3));
    assert_false(BOUNDED("\x1a\x00\x1a\x00\x1a\x00", 3, 2));
    /* field 3 with four fields inside */
    assert_true(BOUNDED("\x1a\x08\x60\x01\x60\x02\x60\x03\x60\x04", 3, 5));
    assert_false(BOUNDED("\x1a\x08\x60\x01\x60\x02\x60\x03\x60\x04", 3, 4));
    assert_true(BOUNDED("\x1a\x08\x60\x01\x60\x02\x60\x03\x60\x04", 0, 1));
    /* of other fields the inside does not count */
    assert_true(BOUNDED("\x22\x04\x60\x01\x60\x02", 3, 1));
    assert_true(BOUNDED("\x09"
                        "12345678\x0d"
                        "1234",
                        0, 2));
}

static void what_is_cut_off_or_no_field_is_refused(void **state)
{
    (void)state;
    assert_false(BOUNDED("\x0a", 0, 9));
    assert_false(BOUNDED("\x0a\x05"
                         "1234",
                         0, 9));
    assert_false(BOUNDED("\x08\x80\x80", 0, 9));
    assert_false(BOUNDED("\x09"
                         "1234567",
                         0, 9));
    assert_false(BOUNDED("\x0d"
                         "123",
                         0, 9));
    assert_false(BOUNDED("\x0b\x0c", 0, 9)); /* groups */
    assert_false(BOUNDED("\x0f", 0, 9));
    assert_false(BOUNDED("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 0, 9));
    assert_false(BOUNDED("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 0, 9));
    assert_false(BOUNDED("\x1a\x02\x0a\x05", 3, 9)); /* the inside says more than there is */
}

static Slipstream__V1__Message good_message(void)
{
    static char me[] = "me", you[] = "you", type[] = "task";
    static uint8_t payload[] = "{}";
    Slipstream__V1__Message m;

    slipstream__v1__message__init(&m);
    m.source_agent = me;
    m.target_agent = you;
    m.message_type = type;
    m.payload.data = payload;
    m.payload.len = 2;
    return m;
}

static void a_message_needs_its_parts_in_good_shape(void **state)
{
    static char everybody[] = "*", control[] = "a\tb";
    Slipstream__V1__Message m = good_message();

    (void)state;
    assert_int_equal(door_check_message(&m), ERR_OK);
    m.target_agent = everybody;
    assert_int_equal(door_check_message(&m), ERR_OK);
    m.source_agent = everybody;
    assert_int_equal(door_check_message(&m), ERR_ID);
    m = good_message();
    m.message_type = control;
    assert_int_equal(door_check_message(&m), ERR_ID);
    m = good_message();
    m.correlation_id = control;
    assert_int_equal(door_check_message(&m), ERR_ID);
    m = good_message();
    m.payload.len = 1;
    assert_int_equal(door_check_message(&m), ERR_JSON);
    m.payload.len = 0;
    assert_int_equal(door_check_message(&m), ERR_JSON);
}

static void a_request_keeps_its_limits(void **state)
{
    Slipstream__V1__SendRequest s;
    Slipstream__V1__ReceiveRequest r;
    static char id[] = "w", everybody[] = "*";

    slipstream__v1__send_request__init(&s);
    slipstream__v1__receive_request__init(&r);
    (void)state;
    s.workflow_id = id;
    assert_int_equal(door_check_send(&s), ERR_INVALID); /* nothing to send */
    s.n_messages = DOOR_MESSAGES;
    assert_int_equal(door_check_send(&s), ERR_OK);
    s.n_messages++;
    assert_int_equal(door_check_send(&s), ERR_INVALID);
    r.workflow_id = id;
    r.agent_id = id;
    assert_int_equal(door_check_receive(&r), ERR_OK);
    r.wait_ms = 1;
    assert_int_equal(door_check_receive(&r), ERR_INVALID); /* a poll without a name */
    r.poll = 1;
    assert_int_equal(door_check_receive(&r), ERR_OK);
    r.n_types = DOOR_TYPES + 1;
    assert_int_equal(door_check_receive(&r), ERR_INVALID);
    r.n_types = 0;
    r.agent_id = everybody;
    assert_int_equal(door_check_receive(&r), ERR_ID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(elements_are_counted_before_anything_is_unpacked),
        cmocka_unit_test(what_is_cut_off_or_no_field_is_refused),
        cmocka_unit_test(a_message_needs_its_parts_in_good_shape),
        cmocka_unit_test(a_request_keeps_its_limits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
