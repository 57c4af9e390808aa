/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "mailbox/core.h"
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
    Slipstream__V1__Message m;

    slipstream__v1__message__init(&m);
    m.source_agent = me;
    m.target_agent = you;
    m.message_type = type;
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
    assert_int_equal(door_check_payload("{}", 2), ERR_OK);
    assert_int_equal(door_check_payload("{}", 1), ERR_JSON);
    assert_int_equal(door_check_payload("{}", 0), ERR_JSON);
    assert_int_equal(door_check_payload(NULL, 0), ERR_JSON);
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
    assert_int_equal(door_check_receive(&r, 1000), ERR_OK);
    r.wait_ms = 1;
    assert_int_equal(door_check_receive(&r, 1000), ERR_INVALID); /* a poll without a name */
    r.poll = 1;
    assert_int_equal(door_check_receive(&r, 1000), ERR_OK);
    r.n_types = DOOR_TYPES + 1;
    assert_int_equal(door_check_receive(&r, 1000), ERR_INVALID);
    r.n_types = 0;
    r.agent_id = everybody;
    assert_int_equal(door_check_receive(&r, 1000), ERR_ID);
}

static void times_and_priorities_have_bounds(void **state)
{
    static char id[] = "w", json[] = "1";
    Slipstream__V1__SendRequest s;
    Slipstream__V1__ReceiveRequest r;
    Slipstream__V1__Message m;

    slipstream__v1__send_request__init(&s);
    slipstream__v1__receive_request__init(&r);
    slipstream__v1__message__init(&m);
    (void)state;
    m.source_agent = m.target_agent = m.message_type = id;
    m.payload = (ProtobufCBinaryData){1, (uint8_t *)json};
    m.priority = DOOR_PRIORITY_MAX;
    m.ttl_ms = m.delay_ms = DOOR_MS_MAX;
    assert_int_equal(door_check_message(&m), ERR_OK);
    m.priority++;
    assert_int_equal(door_check_message(&m), ERR_VALUE);
    m.priority = 0;
    m.ttl_ms++;
    assert_int_equal(door_check_message(&m), ERR_VALUE);
    m.ttl_ms = 0;
    m.delay_ms++;
    assert_int_equal(door_check_message(&m), ERR_VALUE);
    s.workflow_id = id;
    s.n_messages = 1;
    s.ttl_ms = DOOR_MS_MAX + 1;
    assert_int_equal(door_check_send(&s), ERR_VALUE);
    r.workflow_id = r.agent_id = id;
    r.lease_ms = 1000;
    assert_int_equal(door_check_receive(&r, 1000), ERR_OK);
    r.peek = true; /* looks, and cannot hold */
    assert_int_equal(door_check_receive(&r, 1000), ERR_INVALID);
    r.peek = false;
    r.lease_ms = 1001;
    assert_int_equal(door_check_receive(&r, 1000), ERR_VALUE);
}

static void receipts_and_keys_have_a_form(void **state)
{
    char id[] = "w", receipt[MBOX_RECEIPT_MAX + 1], bad[] = "a b", control[] = "k\n";
    Slipstream__V1__SendRequest s;
    Slipstream__V1__Ack a;

    slipstream__v1__send_request__init(&s);
    slipstream__v1__ack__init(&a);
    (void)state;
    s.workflow_id = id;
    s.n_messages = 1;
    s.idempotency_key = control;
    assert_int_equal(door_check_send(&s), ERR_ID);
    memset(receipt, 'x', sizeof(receipt));
    receipt[MBOX_RECEIPT_MAX] = '\0';
    a.message_id = id;
    assert_int_equal(door_check_ack(&a, 1000), ERR_INVALID);
    a.receipt = receipt;
    assert_int_equal(door_check_ack(&a, 1000), ERR_INVALID); /* one byte too long */
    receipt[MBOX_RECEIPT_MAX - 1] = '\0';
    assert_int_equal(door_check_ack(&a, 1000), ERR_OK);
    a.receipt = bad;
    assert_int_equal(door_check_ack(&a, 1000), ERR_INVALID);
    a.receipt = receipt;
    a.delay_ms = 1; /* of what is done there is no later */
    assert_int_equal(door_check_ack(&a, 1000), ERR_INVALID);
    a.kind = SLIPSTREAM__V1__ACK_KIND__ACK_RETURN;
    assert_int_equal(door_check_ack(&a, 1000), ERR_OK);
    a.delay_ms = 0;
    a.lease_ms = 1001;
    assert_int_equal(door_check_ack(&a, 1000), ERR_INVALID);
    a.kind = SLIPSTREAM__V1__ACK_KIND__ACK_EXTEND;
    assert_int_equal(door_check_ack(&a, 1000), ERR_VALUE);
    a.lease_ms = 1000;
    assert_int_equal(door_check_ack(&a, 1000), ERR_OK);
    a.kind = (Slipstream__V1__AckKind)7;
    assert_int_equal(door_check_ack(&a, 1000), ERR_VALUE);
    a.message_id = control;
    assert_int_equal(door_check_ack(&a, 1000), ERR_ID);
}

static void lists_of_ids_keep_their_limits(void **state)
{
    static char id[] = "w", control[] = "a\n";
    static char *ids[DOOR_MESSAGES + 1];
    Slipstream__V1__HoldRequest h;
    Slipstream__V1__RedriveRequest d;
    Slipstream__V1__AckRequest a;
    Slipstream__V1__DeadRequest l;
    size_t i;

    slipstream__v1__hold_request__init(&h);
    slipstream__v1__redrive_request__init(&d);
    slipstream__v1__ack_request__init(&a);
    slipstream__v1__dead_request__init(&l);
    (void)state;
    for (i = 0; i <= DOOR_MESSAGES; i++)
        ids[i] = id;
    h.workflow_id = h.agent_id = d.workflow_id = d.agent_id = id;
    a.workflow_id = a.agent_id = l.workflow_id = l.agent_id = id;
    h.message_ids = d.message_ids = ids;
    assert_int_equal(door_check_hold(&h), ERR_INVALID); /* of nothing */
    assert_int_equal(door_check_redrive(&d), ERR_OK);   /* of all */
    assert_int_equal(door_check_acks(&a), ERR_INVALID);
    h.n_message_ids = d.n_message_ids = a.n_acks = DOOR_MESSAGES;
    assert_int_equal(door_check_hold(&h), ERR_OK);
    assert_int_equal(door_check_redrive(&d), ERR_OK);
    assert_int_equal(door_check_acks(&a), ERR_OK);
    h.n_message_ids = d.n_message_ids = a.n_acks = DOOR_MESSAGES + 1;
    assert_int_equal(door_check_hold(&h), ERR_INVALID);
    assert_int_equal(door_check_redrive(&d), ERR_INVALID);
    assert_int_equal(door_check_acks(&a), ERR_INVALID);
    h.n_message_ids = d.n_message_ids = 1;
    ids[0] = control;
    assert_int_equal(door_check_hold(&h), ERR_ID);
    assert_int_equal(door_check_redrive(&d), ERR_ID);
    assert_int_equal(door_check_dead(&l), ERR_OK);
    l.after = control;
    assert_int_equal(door_check_dead(&l), ERR_ID);
}

static void only_what_is_done_is_kept(void **state)
{
    Slipstream__V1__SettleRequest s;

    slipstream__v1__settle_request__init(&s);
    (void)state;
    s.keep_ms = 1;
    assert_int_equal(door_check_settle(&s), ERR_INVALID);
    s.done = true;
    assert_int_equal(door_check_settle(&s), ERR_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(elements_are_counted_before_anything_is_unpacked),
        cmocka_unit_test(what_is_cut_off_or_no_field_is_refused),
        cmocka_unit_test(a_message_needs_its_parts_in_good_shape),
        cmocka_unit_test(a_request_keeps_its_limits),
        cmocka_unit_test(times_and_priorities_have_bounds),
        cmocka_unit_test(receipts_and_keys_have_a_form),
        cmocka_unit_test(lists_of_ids_keep_their_limits),
        cmocka_unit_test(only_what_is_done_is_kept),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
