/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/mailbox/fixture.h"

static void closing_keeps_messages_until_delivered_and_ends_idle_readers(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    const struct mbox_action *a;

    (void)state;
    send_to(f, "a", "1");
    park(f, "b", 1, 1, 5000);
    a = close_workflow(f, "w", false);
    assert_int_equal(a->err, ERR_OK);
    assert_int_equal(a->left, 1);
    assert_int_equal(a->dropped, 0);
    assert_int_equal(poll_end(f, 0)->poll, 1);
    assert_int_equal(totals(f).boxes, 1);
    assert_int_equal(settle(f, 1, receive(f, "a", 1)->delivery, true), ERR_OK);
    assert_int_equal(totals(f).boxes, 0);
    assert_int_equal(totals(f).workflows, 0);
    assert_int_equal(close_workflow(f, "w", false)->err, ERR_WORKFLOW);
    fixture_free(f);
}

static void a_reader_of_a_closing_box_waits_for_what_may_come_back(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    const struct mbox_action *a;
    uint64_t delivery;

    (void)state;
    send_to(f, "a", "1");
    delivery = receive(f, "a", 1)->delivery;
    close_workflow(f, "w", false);
    assert_int_equal(park(f, "a", 2, 1, 60000), ERR_OK);
    assert_null(poll_end(f, 0));
    settle(f, 1, delivery, false);
    a = poll_end(f, 0);
    assert_int_equal(a->count, 1);
    delivery = a->delivery;
    assert_int_equal(park(f, "a", 3, 1, 60000), ERR_OK);
    settle(f, 2, delivery, true);
    assert_int_equal(poll_end(f, 0)->count, 0);
    assert_int_equal(totals(f).boxes, 0);
    fixture_free(f);
}

static void purging_drops_everything_handed_out_or_not(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    const struct mbox_action *a;
    uint64_t d;

    (void)state;
    send_to(f, "a", "1");
    send_to(f, "a", "2");
    send_as(f, (struct sending){.workflow = "other", .to = "a", .payload = "3"});
    d = receive(f, "a", 1)->delivery;
    park(f, "b", 1, 1, 5000);
    a = close_workflow(f, "w", true);
    assert_int_equal(a->dropped, 2);
    assert_int_equal(a->left, 0);
    assert_int_equal(poll_end(f, 0)->poll, 1);
    assert_int_equal(settle(f, 1, d, false), ERR_NOT_FOUND);
    assert_int_equal(totals(f).purged, 2);
    assert_int_equal(totals(f).boxes, 1);
    assert_int_equal(totals(f).queued, 1);
    fixture_free(f);
}

static void an_idle_box_is_forgotten(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    struct mbox_change change;

    (void)state;
    send_to(f, "a", "1");
    assert_true(mbox_take_change(f->core, &change));
    assert_string_equal(change.key.agent, "a");
    assert_int_equal(change.depth, 1);
    *change.user = f;
    assert_false(mbox_take_change(f->core, &change));
    settle(f, 1, receive(f, "a", 1)->delivery, true);
    tick(f, 1800 * SEC - 1);
    assert_int_equal(totals(f).boxes, 1);
    tick(f, 1);
    assert_int_equal(totals(f).boxes, 0);
    assert_true(mbox_take_change(f->core, &change));
    assert_true(change.gone);
    assert_ptr_equal(*change.user, f);
    fixture_free(f);
}

static void the_oldest_idle_box_makes_room_and_used_ones_stay(void **state)
{
    struct mbox_limits limits = fixture_limits();
    struct fixture *f;
    struct mbox_box_info info;

    (void)state;
    limits.max_boxes = 3;
    limits.max_agents = 2;
    f = fixture_new(limits);
    receive(f, "a", 1);
    receive(f, "b", 1);
    assert_int_equal(send_to(f, "c", "1"), ERR_AGENT_LIMIT);
    receive_as(f, (struct reading){.workflow = "v", .agent = "c"});
    receive(f, "a", 1); /* b is the oldest now */
    assert_int_equal(send_as(f, (struct sending){.workflow = "v", .to = "d", .payload = "1"})->err,
                     ERR_OK);
    assert_false(mbox_box_find(f->core, f->now, (struct mbox_key){"t", "w", "b"}, &info));
    assert_true(mbox_box_find(f->core, f->now, (struct mbox_key){"t", "w", "a"}, &info));
    assert_int_equal(send_to(f, "a", "1"), ERR_OK);
    assert_int_equal(send_as(f, (struct sending){.workflow = "v", .to = "c", .payload = "1"})->err,
                     ERR_OK);
    assert_int_equal(send_as(f, (struct sending){.workflow = "x", .to = "c", .payload = "1"})->err,
                     ERR_MAILBOX_FULL);
    fixture_free(f);
}

static void a_broadcast_does_not_evict_its_own_targets(void **state)
{
    struct mbox_limits limits = fixture_limits();
    static const char *const agents[] = {"x", "y"};
    struct fixture *f;
    const struct mbox_action *a;

    (void)state;
    limits.max_boxes = 2;
    f = fixture_new(limits);
    receive(f, "a", 1);
    a = send_as(f, (struct sending){.to = "*", .payload = "1", .agents = agents, .agent_count = 2});
    assert_int_equal(a->err, ERR_MAILBOX_FULL);
    assert_int_equal(totals(f).queued, 0);
    a = send_as(f, (struct sending){.to = "*", .payload = "1", .agents = agents, .agent_count = 1});
    assert_int_equal(a->count, 2);
    fixture_free(f);
}

static void a_full_box_refuses_with_retry_advice_and_counts(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    const struct mbox_action *a;
    struct mbox_box_info info;
    int i;

    (void)state;
    for (i = 0; i < 10; i++)
        assert_int_equal(send_to(f, "a", "1"), ERR_OK);
    a = send_as(f, (struct sending){.to = "a", .payload = "1"});
    assert_int_equal(a->err, ERR_MAILBOX_FULL);
    assert_true(a->retry_ms > 0);
    receive(f, "a", 10); /* handed out still counts */
    assert_int_equal(send_to(f, "a", "1"), ERR_MAILBOX_FULL);
    mbox_box_find(f->core, f->now, (struct mbox_key){"t", "w", "a"}, &info);
    assert_int_equal(info.rejected, 2);
    assert_int_equal(info.unsettled, 10);
    assert_int_equal(totals(f).rejected, 2);
    assert_int_equal(send_to(f, "b", "1"), ERR_OK);
    fixture_free(f);
}

static void a_box_holds_its_bytes_and_a_message_its_length(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    char text[2050];

    (void)state;
    memset(text, '1', sizeof(text) - 1);
    text[2049] = '\0';
    assert_int_equal(send_to(f, "a", text), ERR_TOO_LARGE);
    text[2048] = '\0';
    assert_int_equal(send_to(f, "a", text), ERR_OK);
    assert_int_equal(send_to(f, "a", text), ERR_OK);
    assert_int_equal(send_to(f, "a", "1"), ERR_MAILBOX_FULL);
    fixture_free(f);
}

static void the_total_counts_stored_bytes_and_records(void **state)
{
    struct mbox_limits limits = fixture_limits();
    struct fixture *f;
    uint64_t one;
    int sent = 0;
    char agent[16];

    (void)state;
    f = fixture_new(limits);
    send_to(f, "a", "12345");
    one = totals(f).bytes;
    assert_true(one > 5 && one < 1024);
    fixture_free(f);
    limits.total_bytes = 7 * one + 1;
    f = fixture_new(limits);
    for (;;) {
        snprintf(agent, sizeof(agent), "a%d", sent);
        if (send_to(f, agent, "12345") != ERR_OK)
            break;
        sent++;
    }
    assert_int_equal(sent, 7);
    assert_true(totals(f).bytes <= limits.total_bytes);
    fixture_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(closing_keeps_messages_until_delivered_and_ends_idle_readers),
        cmocka_unit_test(a_reader_of_a_closing_box_waits_for_what_may_come_back),
        cmocka_unit_test(purging_drops_everything_handed_out_or_not),
        cmocka_unit_test(an_idle_box_is_forgotten),
        cmocka_unit_test(the_oldest_idle_box_makes_room_and_used_ones_stay),
        cmocka_unit_test(a_broadcast_does_not_evict_its_own_targets),
        cmocka_unit_test(a_full_box_refuses_with_retry_advice_and_counts),
        cmocka_unit_test(a_box_holds_its_bytes_and_a_message_its_length),
        cmocka_unit_test(the_total_counts_stored_bytes_and_records),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
