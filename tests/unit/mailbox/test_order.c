/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/mailbox/fixture.h"

/* Priorities, delays, groups. */

static void assert_gets(struct fixture *f, uint32_t max, const char *expected)
{
    const struct mbox_action *a = receive(f, "a", max);
    char got[64] = "";
    uint32_t i;

    for (i = 0; i < a->count; i++)
        strcat(got, payload(f, a, i));
    assert_string_equal(got, expected);
}

static void send_group(struct fixture *f, const char *group, const char *text)
{
    assert_int_equal(send_as(f, (struct sending){.to = "a", .payload = text, .group = group})->err,
                     ERR_OK);
}

static void higher_priorities_go_first_and_each_keeps_its_order(void **state)
{
    static const uint32_t priorities[] = {0, 9, 5, 0, 9, 5};
    struct fixture *f = fixture_new(fixture_limits());
    char text[2] = "a";
    int i;

    (void)state;
    for (i = 0; i < 6; i++, text[0]++)
        send_as(f, (struct sending){.to = "a", .payload = text, .priority = priorities[i]});
    assert_int_equal(send_as(f, (struct sending){.to = "a", .payload = text, .priority = 10})->err,
                     ERR_VALUE);
    assert_gets(f, 9, "becfad");
    fixture_free(f);
}

static void a_delayed_message_arrives_when_it_is_due(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());

    (void)state;
    send_as(f, (struct sending){.to = "a", .payload = "1", .delay_ms = 2000});
    send_to(f, "a", "2");
    assert_int_equal(box_info(f, "a").delayed, 1);
    tick(f, 2 * SEC);
    send_to(f, "a", "3");
    assert_gets(f, 9, "213");
    send_as(f, (struct sending){.to = "a", .payload = "4", .delay_ms = 2000});
    park(f, "a", 2, 2, 60000);
    tick(f, 2 * SEC);
    assert_int_equal(poll_end(f, 0)->count, 1);
    fixture_free(f);
}

static void later_ones_of_a_group_wait_for_what_is_handed_out(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    uint64_t d;

    (void)state;
    send_group(f, "g", "1");
    send_group(f, "g", "2");
    send_to(f, "a", "3");
    send_group(f, "h", "4");
    d = receive(f, "a", 1)->delivery;
    assert_int_equal(box_info(f, "a").depth, 3);
    assert_gets(f, 9, "34");
    assert_int_equal(settle(f, 1, d, true), ERR_OK);
    assert_gets(f, 9, "2");
    fixture_free(f);
}

static void one_receive_takes_several_of_a_group_in_order(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    uint64_t d;

    (void)state;
    send_group(f, "g", "1");
    send_group(f, "g", "2");
    send_group(f, "g", "3");
    send_to(f, "a", "x");
    assert_int_equal(receive_as(f, (struct reading){.agent = "a", .peek = true, .max = 3})->count,
                     3);
    d = receive(f, "a", 2)->delivery;
    assert_int_equal(reply(f)->count, 2);
    assert_gets(f, 9, "x");
    assert_int_equal(settle(f, 1, d, false), ERR_OK);
    assert_gets(f, 9, "123");
    fixture_free(f);
}

static void a_group_is_in_order_whatever_priorities_its_messages_have(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());

    (void)state;
    send_group(f, "g", "1");
    send_as(f, (struct sending){.to = "a", .payload = "2", .group = "g", .priority = 9});
    send_as(f, (struct sending){.to = "a", .payload = "3", .priority = 5});
    assert_gets(f, 9, "312");
    fixture_free(f);
}

static void a_group_waits_for_a_leased_and_for_a_put_off_message(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    struct leased l;

    (void)state;
    send_group(f, "g", "1");
    send_group(f, "g", "2");
    l = lease(f, "a", 30000);
    settle(f, 1, l.delivery, true);
    assert_gets(f, 9, "");
    assert_int_equal(ack(f, "a",
                         (struct mbox_ack){.message_id = l.id,
                                           .receipt = l.receipt,
                                           .kind = MBOX_ACK_RETURN,
                                           .delay_ms = 5000}),
                     ERR_OK);
    assert_gets(f, 9, "");
    tick(f, 5 * SEC);
    assert_gets(f, 9, "12");
    fixture_free(f);
}

static void the_end_of_a_wait_wakes_a_reader_for_the_next_of_the_group(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    uint64_t d;

    (void)state;
    send_group(f, "g", "1");
    send_group(f, "g", "2");
    d = receive(f, "a", 1)->delivery;
    park(f, "a", 2, 2, 1000);
    assert_int_equal(settle(f, 1, d, true), ERR_OK);
    assert_int_equal(poll_end(f, 0)->count, 1);
    assert_string_equal(payload(f, poll_end(f, 0), 0), "2");
    fixture_free(f);
}

static void a_dead_message_holds_up_no_group(void **state)
{
    struct mbox_limits limits = fixture_limits();
    struct fixture *f;

    (void)state;
    limits.max_deliveries = 1;
    f = fixture_new(limits);
    send_group(f, "g", "1");
    send_as(f, (struct sending){.to = "a", .payload = "2", .group = "g", .ttl_ms = 500});
    send_group(f, "g", "3");
    settle(f, 1, receive(f, "a", 1)->delivery, false);
    tick(f, SEC);
    assert_gets(f, 9, "3");
    fixture_free(f);
}

static void groups_of_other_boxes_are_other_groups(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());

    (void)state;
    send_group(f, "g", "1");
    send_as(f, (struct sending){.to = "b", .payload = "2", .group = "g"});
    assert_gets(f, 9, "1");
    assert_int_equal(receive(f, "b", 9)->count, 1);
    fixture_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(higher_priorities_go_first_and_each_keeps_its_order),
        cmocka_unit_test(a_delayed_message_arrives_when_it_is_due),
        cmocka_unit_test(later_ones_of_a_group_wait_for_what_is_handed_out),
        cmocka_unit_test(one_receive_takes_several_of_a_group_in_order),
        cmocka_unit_test(a_group_is_in_order_whatever_priorities_its_messages_have),
        cmocka_unit_test(a_group_waits_for_a_leased_and_for_a_put_off_message),
        cmocka_unit_test(the_end_of_a_wait_wakes_a_reader_for_the_next_of_the_group),
        cmocka_unit_test(a_dead_message_holds_up_no_group),
        cmocka_unit_test(groups_of_other_boxes_are_other_groups),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
