/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/mailbox/fixture.h"

static void a_lease_is_ended_by_its_ack_and_by_that_alone(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    struct leased l;

    (void)state;
    send_to(f, "a", "1");
    l = lease(f, "a", 30000);
    assert_int_equal(settle(f, 1, l.delivery, true), ERR_OK);
    assert_int_equal(totals(f).leased, 1);
    assert_int_equal(totals(f).delivered, 0);
    peer_gone(f, 1); /* whoever wrote it out may go */
    assert_int_equal(receive(f, "a", 1)->count, 0);
    assert_int_equal(ack_leased(f, "a", &l, MBOX_ACK_DONE), ERR_OK);
    assert_int_equal(totals(f).delivered, 1);
    assert_int_equal(ack_leased(f, "a", &l, MBOX_ACK_DONE), ERR_RECEIPT);
    assert_int_equal(totals(f).bytes, 0);
    fixture_free(f);
}

static void a_lease_that_ends_gives_the_message_to_the_next_and_its_receipt_is_stale(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    const struct mbox_action *a;
    struct leased l;

    (void)state;
    send_to(f, "a", "1");
    l = lease(f, "a", 30000);
    settle(f, 1, l.delivery, true);
    tick(f, 30 * SEC - 1);
    assert_int_equal(totals(f).queued, 0);
    tick(f, 1);
    a = receive(f, "a", 1);
    assert_int_equal(a->count, 1);
    assert_int_equal(view(f, a, 0)->attempt, 2);
    assert_string_equal(view(f, a, 0)->receipt, "");
    assert_int_equal(ack_leased(f, "a", &l, MBOX_ACK_DONE), ERR_RECEIPT);
    assert_int_equal(ack_leased(f, "a", &l, MBOX_ACK_RETURN), ERR_RECEIPT);
    assert_int_equal(ack_leased(f, "a", &l, MBOX_ACK_EXTEND), ERR_RECEIPT);
    fixture_free(f);
}

static void a_late_ack_counts_while_nobody_took_the_message_again(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    struct leased l;

    (void)state;
    send_to(f, "a", "1");
    l = lease(f, "a", 1000);
    settle(f, 1, l.delivery, true);
    tick(f, 2 * SEC);
    assert_int_equal(totals(f).queued, 1);
    assert_int_equal(ack_leased(f, "a", &l, MBOX_ACK_EXTEND), ERR_RECEIPT);
    assert_int_equal(ack_leased(f, "a", &l, MBOX_ACK_DONE), ERR_OK);
    assert_int_equal(totals(f).queued, 0);
    assert_int_equal(totals(f).delivered, 1);
    fixture_free(f);
}

static void a_message_given_back_is_at_its_place_at_once_or_after_its_delay(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    const struct mbox_action *a;
    struct leased l;

    (void)state;
    send_to(f, "a", "1");
    send_to(f, "a", "2");
    l = lease(f, "a", 30000);
    settle(f, 1, l.delivery, true);
    assert_int_equal(ack(f, "a",
                         (struct mbox_ack){.message_id = l.id,
                                           .receipt = l.receipt,
                                           .kind = MBOX_ACK_RETURN,
                                           .delay_ms = 5000}),
                     ERR_OK);
    assert_int_equal(box_info(f, "a").delayed, 1);
    assert_int_equal(ack_leased(f, "a", &l, MBOX_ACK_DONE), ERR_RECEIPT);
    assert_int_equal(receive_as(f, (struct reading){.agent = "a", .peek = true})->count, 1);
    tick(f, 5 * SEC);
    a = receive(f, "a", 9);
    assert_int_equal(a->count, 2);
    assert_string_equal(payload(f, a, 0), "1");
    assert_int_equal(view(f, a, 0)->attempt, 2);
    assert_string_equal(payload(f, a, 1), "2");
    fixture_free(f);
}

static void an_extended_lease_lasts_from_then_on_but_not_longer_than_allowed(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    struct mbox_ack extend = {.kind = MBOX_ACK_EXTEND, .lease_ms = 0};
    struct leased l;

    (void)state;
    send_as(f, (struct sending){.to = "a", .payload = "1", .ttl_ms = 10000000});
    l = lease(f, "a", 10000);
    settle(f, 1, l.delivery, true);
    extend.message_id = l.id;
    extend.receipt = l.receipt;
    f->now += 9 * SEC;
    assert_int_equal(ack(f, "a", extend), ERR_OK);
    assert_int_equal(f->out.items[0].lease_end_ns, f->now + 10 * SEC);
    tick(f, 10 * SEC - 1);
    assert_int_equal(totals(f).leased, 1);
    extend.lease_ms = 3600000;
    assert_int_equal(ack(f, "a", extend), ERR_OK);
    assert_int_equal(f->out.items[0].lease_end_ns, f->now + 600 * SEC);
    tick(f, 600 * SEC);
    assert_int_equal(totals(f).leased, 0);
    assert_int_equal(totals(f).queued, 1);
    fixture_free(f);
}

static void
a_lease_runs_while_it_is_written_out_and_a_reader_may_ack_before_that_is_told(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    struct leased l, m;

    (void)state;
    send_to(f, "a", "1");
    send_to(f, "a", "2");
    l = lease(f, "a", 1000);
    m = lease(f, "a", 30000);
    assert_int_equal(totals(f).unsettled, 2);
    assert_int_equal(ack_leased(f, "a", &m, MBOX_ACK_DONE), ERR_OK);
    assert_int_equal(settle(f, 1, m.delivery, false), ERR_OK); /* too late to matter */
    assert_int_equal(totals(f).delivered, 1);
    tick(f, 1 * SEC);
    assert_int_equal(totals(f).queued, 1);
    assert_int_equal(settle(f, 1, l.delivery, true), ERR_OK);
    assert_int_equal(totals(f).queued, 1);
    fixture_free(f);
}

static void a_reader_that_broke_off_has_no_leases(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    struct leased l;

    (void)state;
    send_to(f, "a", "1");
    l = lease(f, "a", 30000);
    assert_int_equal(settle(f, 1, l.delivery, false), ERR_OK);
    assert_int_equal(totals(f).queued, 1);
    l = lease(f, "a", 30000);
    peer_gone(f, 1);
    assert_int_equal(totals(f).queued, 1);
    fixture_free(f);
}

static void a_receipt_that_is_none_is_told_from_a_stale_one(void **state)
{
    static const char *const malformed[] = {"", "x", "not a receipt at all, is it? no, it is not",
                                            "uuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuu"};
    struct fixture *f = fixture_new(fixture_limits());
    struct leased l;
    unsigned i;

    (void)state;
    send_to(f, "a", "1");
    l = lease(f, "a", 30000);
    for (i = 0; i < 4; i++)
        assert_int_equal(
            ack(f, "a", (struct mbox_ack){.message_id = l.id, .receipt = malformed[i]}),
            ERR_INVALID);
    assert_int_equal(ack(f, "a", (struct mbox_ack){.message_id = l.id}), ERR_INVALID);
    assert_int_equal(ack(f, "a", (struct mbox_ack){.message_id = "other", .receipt = l.receipt}),
                     ERR_RECEIPT);
    assert_int_equal(ack_leased(f, "b", &l, MBOX_ACK_DONE), ERR_RECEIPT); /* another box */
    l.receipt[strlen(l.receipt) - 1] ^= 1;
    assert_int_equal(ack_leased(f, "a", &l, MBOX_ACK_DONE), ERR_RECEIPT);
    l.receipt[strlen(l.receipt) - 1] ^= 1;
    assert_int_equal(ack_leased(f, "a", &l, MBOX_ACK_DONE), ERR_OK);
    fixture_free(f);
}

static void receipts_of_before_a_redrive_are_stale(void **state)
{
    struct mbox_limits limits = fixture_limits();
    struct fixture *f;
    struct leased l, m;

    (void)state;
    limits.max_deliveries = 1;
    f = fixture_new(limits);
    send_to(f, "a", "1");
    l = lease(f, "a", 30000);
    settle(f, 1, l.delivery, true);
    assert_int_equal(ack_leased(f, "a", &l, MBOX_ACK_RETURN), ERR_OK);
    assert_int_equal(redrive(f, "a", NULL, false)->dropped, 1);
    m = lease(f, "a", 30000);
    assert_int_equal(ack_leased(f, "a", &l, MBOX_ACK_DONE), ERR_RECEIPT);
    assert_int_equal(ack_leased(f, "a", &m, MBOX_ACK_DONE), ERR_OK);
    fixture_free(f);
}

static void many_acks_of_one_event_are_answered_in_order(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    struct mbox_event e = {.kind = MBOX_ACK};
    struct leased l[3];
    struct mbox_ack acks[4];
    int i;

    (void)state;
    for (i = 0; i < 3; i++) {
        send_to(f, "a", "1");
        l[i] = lease(f, "a", 30000);
        settle(f, 1, l[i].delivery, true);
        acks[i] = (struct mbox_ack){.message_id = l[i].id, .receipt = l[i].receipt};
    }
    acks[1].kind = MBOX_ACK_RETURN;
    acks[2].receipt = "?";
    acks[3] = acks[0];
    park(f, "a", 2, 7, 1000);
    e.ack.box = (struct mbox_key){"t", "w", "a"};
    e.ack.acks = acks;
    e.ack.ack_count = 4;
    step(f, &e);
    assert_int_equal(f->out.items[0].err, ERR_OK);
    assert_int_equal(f->out.items[1].err, ERR_OK);
    assert_int_equal(f->out.items[2].err, ERR_INVALID);
    assert_int_equal(f->out.items[3].err, ERR_RECEIPT);
    assert_int_equal(poll_end(f, 0)->count, 1); /* gets what was given back */
    fixture_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_lease_is_ended_by_its_ack_and_by_that_alone),
        cmocka_unit_test(a_lease_that_ends_gives_the_message_to_the_next_and_its_receipt_is_stale),
        cmocka_unit_test(a_late_ack_counts_while_nobody_took_the_message_again),
        cmocka_unit_test(a_message_given_back_is_at_its_place_at_once_or_after_its_delay),
        cmocka_unit_test(an_extended_lease_lasts_from_then_on_but_not_longer_than_allowed),
        cmocka_unit_test(
            a_lease_runs_while_it_is_written_out_and_a_reader_may_ack_before_that_is_told),
        cmocka_unit_test(a_reader_that_broke_off_has_no_leases),
        cmocka_unit_test(a_receipt_that_is_none_is_told_from_a_stale_one),
        cmocka_unit_test(receipts_of_before_a_redrive_are_stale),
        cmocka_unit_test(many_acks_of_one_event_are_answered_in_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
