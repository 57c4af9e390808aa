/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/mailbox/fixture.h"

static void a_message_dies_at_its_expiry_queued_or_delayed_and_can_be_read(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    const struct mbox_action *a;

    (void)state;
    send_as(f, (struct sending){.to = "a", .payload = "1", .ttl_ms = 1000});
    send_as(f, (struct sending){.to = "a", .payload = "2", .ttl_ms = 2000, .delay_ms = 60000});
    tick(f, 2 * SEC);
    a = list_dead(f, "a", 10, NULL);
    assert_int_equal(a->count, 2);
    assert_int_equal(a->more, 0);
    assert_string_equal(payload(f, a, 0), "1");
    assert_int_equal(view(f, a, 0)->dead, MBOX_DEAD_EXPIRED);
    assert_int_equal(view(f, a, 1)->dead_ns, f->now);
    assert_int_equal(totals(f).expired, 2);
    assert_int_equal(totals(f).dead, 2);
    assert_int_equal(box_info(f, "a").dead, 2);
    assert_int_equal(receive(f, "a", 9)->count, 0);
    fixture_free(f);
}

static void a_handed_out_message_that_expires_dies_when_it_comes_back_and_not_before(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    uint64_t d;

    (void)state;
    send_as(f, (struct sending){.to = "a", .payload = "1", .ttl_ms = 1000});
    send_as(f, (struct sending){.to = "b", .payload = "2", .ttl_ms = 1000});
    d = receive(f, "a", 1)->delivery;
    tick(f, 5 * SEC);
    assert_int_equal(settle(f, 1, d, true), ERR_OK);
    assert_int_equal(totals(f).delivered, 1);
    assert_int_equal(totals(f).dead, 1);
    fixture_free(f);
}

static void a_message_nobody_wants_dies_after_its_last_delivery(void **state)
{
    struct mbox_limits limits = fixture_limits();
    struct fixture *f;
    uint32_t i;

    (void)state;
    limits.max_deliveries = 3;
    f = fixture_new(limits);
    send_to(f, "a", "1");
    for (i = 1; i <= 3; i++) {
        const struct mbox_action *a = receive(f, "a", 1);

        assert_int_equal(view(f, a, 0)->attempt, i);
        settle(f, 1, a->delivery, false);
    }
    assert_int_equal(receive(f, "a", 1)->count, 0);
    assert_int_equal(view(f, list_dead(f, "a", 1, NULL), 0)->dead, MBOX_DEAD_ATTEMPTS);
    assert_int_equal(view(f, reply(f), 0)->attempt, 3);
    fixture_free(f);
}

static void a_full_box_drops_its_oldest_of_least_priority(void **state)
{
    struct mbox_limits limits = fixture_limits();
    const struct mbox_action *a;
    struct fixture *f;
    int i;

    (void)state;
    limits.drop_oldest = true;
    limits.box_messages = 3;
    f = fixture_new(limits);
    send_as(f, (struct sending){.to = "a", .payload = "1", .priority = 5});
    send_to(f, "a", "2");
    send_to(f, "a", "3");
    assert_int_equal(send_to(f, "a", "4"), ERR_OK);
    a = list_dead(f, "a", 9, NULL);
    assert_int_equal(a->count, 1);
    assert_string_equal(payload(f, a, 0), "2");
    assert_int_equal(view(f, a, 0)->dead, MBOX_DEAD_OVERFLOW);
    receive(f, "a", 3); /* what is in somebody's hands cannot be dropped */
    assert_int_equal(send_to(f, "a", "5"), ERR_MAILBOX_FULL);
    for (i = 0; i < 3; i++)
        assert_int_equal(send_to(f, "b", "5"), ERR_OK);
    assert_int_equal(send_to(f, "*", "6"), ERR_MAILBOX_FULL); /* nobody loses one for nothing */
    assert_int_equal(box_info(f, "b").depth, 3);
    fixture_free(f);
}

static void dead_letters_are_bounded_and_end(void **state)
{
    struct mbox_limits limits = fixture_limits();
    struct fixture *f;
    char text[16];
    int i;

    (void)state;
    f = fixture_new(limits); /* five of them, 1000 s */
    for (i = 0; i < 8; i++) {
        snprintf(text, sizeof(text), "%d", i);
        send_as(f, (struct sending){.to = "a", .payload = text, .ttl_ms = 100 + (uint32_t)i});
    }
    tick(f, SEC);
    assert_int_equal(box_info(f, "a").dead, 5);
    assert_string_equal(payload(f, list_dead(f, "a", 9, NULL), 0), "3");
    assert_int_equal(totals(f).forgotten, 3);
    tick(f, 1000 * SEC);
    assert_int_equal(box_info(f, "a").dead, 0);
    assert_int_equal(totals(f).forgotten, 8);
    assert_int_equal(totals(f).bytes, 0);
    fixture_free(f);
}

static void dead_letters_are_listed_page_by_page(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    const struct mbox_action *a;
    char id[64];
    int i;

    (void)state;
    for (i = 0; i < 5; i++)
        send_as(f, (struct sending){.to = "a", .payload = "1", .ttl_ms = 100 + (uint32_t)i});
    tick(f, SEC);
    a = list_dead(f, "a", 2, NULL);
    assert_int_equal(a->count, 2);
    assert_int_equal(a->more, 3);
    strcpy(id, view(f, a, 1)->letter.id);
    a = list_dead(f, "a", 2, id);
    assert_int_equal(a->count, 2);
    assert_int_equal(a->more, 1);
    strcpy(id, view(f, a, 1)->letter.id);
    assert_int_equal(list_dead(f, "a", 2, id)->count, 1);
    assert_int_equal(reply(f)->more, 0);
    assert_int_equal(list_dead(f, "nobody", 2, NULL)->count, 0);
    fixture_free(f);
}

static void a_redriven_message_is_new_again_at_the_tail(void **state)
{
    struct mbox_limits limits = fixture_limits();
    const struct mbox_action *a;
    struct fixture *f;
    char id[64];

    (void)state;
    limits.max_deliveries = 1;
    f = fixture_new(limits);
    strcpy(id, send_as(f, (struct sending){.to = "a", .payload = "1", .ttl_ms = 5000})->message_id);
    settle(f, 1, receive(f, "a", 1)->delivery, false);
    send_to(f, "a", "2");
    tick(f, 4 * SEC);
    assert_int_equal(redrive(f, "a", "unknown", false)->dropped, 0);
    assert_int_equal(reply(f)->left, 1);
    assert_int_equal(redrive(f, "a", id, false)->dropped, 1);
    assert_int_equal(totals(f).redriven, 1);
    tick(f, 4 * SEC); /* its first life is over */
    a = receive(f, "a", 9);
    assert_int_equal(a->count, 2);
    assert_string_equal(payload(f, a, 1), "1");
    assert_int_equal(view(f, a, 1)->attempt, 1);
    assert_int_equal(view(f, a, 1)->letter.expires_ms, f->now / MS + 1000);
    assert_int_equal(view(f, a, 1)->dead, MBOX_ALIVE);
    fixture_free(f);
}

static void redriving_stops_at_a_full_box_and_dropping_does_not(void **state)
{
    struct mbox_limits limits = fixture_limits();
    struct fixture *f;
    int i;

    (void)state;
    limits.box_messages = 4;
    f = fixture_new(limits);
    for (i = 0; i < 4; i++)
        send_as(f, (struct sending){.to = "a", .payload = "1", .ttl_ms = 100});
    tick(f, SEC);
    send_to(f, "a", "2");
    send_to(f, "a", "3");
    park(f, "b", 1, 1, 1000);
    assert_int_equal(redrive(f, "a", NULL, false)->dropped, 2);
    assert_int_equal(reply(f)->left, 2);
    assert_int_equal(redrive(f, "a", NULL, true)->dropped, 2);
    assert_int_equal(reply(f)->left, 0);
    assert_int_equal(totals(f).forgotten, 2);
    assert_int_equal(box_info(f, "a").depth, 4);
    fixture_free(f);
}

static void a_redriven_message_wakes_a_reader(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());

    (void)state;
    send_as(f, (struct sending){.to = "a", .payload = "1", .ttl_ms = 100});
    tick(f, SEC);
    park(f, "a", 1, 1, 1000);
    redrive(f, "a", NULL, false);
    assert_int_equal(poll_end(f, 0)->count, 1);
    fixture_free(f);
}

static void a_closing_box_forgets_its_dead_and_ends(void **state)
{
    struct mbox_limits limits = fixture_limits();
    struct fixture *f;

    (void)state;
    limits.max_deliveries = 1;
    f = fixture_new(limits);
    send_as(f, (struct sending){.to = "a", .payload = "1", .ttl_ms = 100});
    send_to(f, "a", "2");
    tick(f, SEC);
    close_workflow(f, "w", false);
    assert_int_equal(totals(f).forgotten, 1);
    assert_int_equal(totals(f).boxes, 1);
    settle(f, 1, receive(f, "a", 1)->delivery, false); /* its last delivery */
    assert_int_equal(totals(f).forgotten, 2);
    assert_int_equal(totals(f).boxes, 0);
    fixture_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_message_dies_at_its_expiry_queued_or_delayed_and_can_be_read),
        cmocka_unit_test(a_handed_out_message_that_expires_dies_when_it_comes_back_and_not_before),
        cmocka_unit_test(a_message_nobody_wants_dies_after_its_last_delivery),
        cmocka_unit_test(a_full_box_drops_its_oldest_of_least_priority),
        cmocka_unit_test(dead_letters_are_bounded_and_end),
        cmocka_unit_test(dead_letters_are_listed_page_by_page),
        cmocka_unit_test(a_redriven_message_is_new_again_at_the_tail),
        cmocka_unit_test(redriving_stops_at_a_full_box_and_dropping_does_not),
        cmocka_unit_test(a_redriven_message_wakes_a_reader),
        cmocka_unit_test(a_closing_box_forgets_its_dead_and_ends),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
