/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/mailbox/fixture.h"

static void a_parked_reader_gets_the_next_message(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    const struct mbox_action *a;

    (void)state;
    assert_int_equal(park(f, "a", 3, 77, 5000), ERR_OK);
    assert_int_equal(totals(f).waiting, 1);
    f->now += 2 * SEC;
    send_to(f, "a", "hi");
    a = poll_end(f, 0);
    assert_non_null(a);
    assert_int_equal(a->peer, 3);
    assert_int_equal(a->poll, 77);
    assert_int_equal(a->waited_ns, 2 * SEC);
    assert_int_equal(a->count, 1);
    assert_string_equal(payload(f, a, 0), "hi");
    assert_int_equal(settle(f, 3, a->delivery, true), ERR_OK);
    assert_int_equal(totals(f).waiting, 0);
    fixture_free(f);
}

static void a_parked_reader_is_remembered_for_what_it_can_unpack(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    struct mbox_event e = {.kind = MBOX_RECEIVE, .peer = 1};
    uint64_t poll;

    (void)state;
    for (poll = 1; poll <= 2; poll++) {
        e.receive.box = (struct mbox_key){"t", "w", "a"};
        e.receive.wait_ms = 1000;
        e.receive.max = 1;
        e.receive.poll = poll;
        e.receive.lz4 = poll == 2;
        step(f, &e);
        assert_true(reply(f)->parked);
        assert_int_equal(reply(f)->lz4, poll == 2);
    }
    for (poll = 1; poll <= 2; poll++) {
        send_to(f, "a", "1");
        assert_int_equal(poll_end(f, 0)->poll, poll);
        assert_int_equal(poll_end(f, 0)->lz4, poll == 2);
    }
    fixture_free(f);
}

static void parked_readers_are_served_first_come_first_served(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());

    (void)state;
    park(f, "a", 1, 1, 5000);
    park(f, "a", 2, 2, 5000);
    park(f, "a", 1, 1, 9000); /* restated: keeps its place */
    assert_int_equal(totals(f).waiting, 2);
    send_to(f, "a", "x");
    assert_int_equal(poll_end(f, 0)->peer, 1);
    assert_null(poll_end(f, 1));
    send_to(f, "a", "y");
    assert_int_equal(poll_end(f, 0)->peer, 2);
    fixture_free(f);
}

static void a_parked_reader_ends_empty_at_its_deadline(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());

    (void)state;
    park(f, "a", 1, 1, 5000);
    park(f, "b", 1, 2, 600000); /* cut to max_wait */
    tick(f, 5 * SEC - 1);
    assert_null(poll_end(f, 0));
    tick(f, 1);
    assert_int_equal(poll_end(f, 0)->poll, 1);
    assert_int_equal(poll_end(f, 0)->count, 0);
    assert_int_equal(poll_end(f, 0)->delivery, 0);
    tick(f, 55 * SEC);
    assert_int_equal(poll_end(f, 0)->poll, 2);
    fixture_free(f);
}

static void a_parked_reader_can_leave(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    struct mbox_event e = {.kind = MBOX_UNPARK, .peer = 1};

    (void)state;
    park(f, "a", 1, 1, 5000);
    e.unpark.poll = 1;
    step(f, &e);
    assert_int_equal(reply(f)->err, ERR_OK);
    step(f, &e);
    assert_int_equal(reply(f)->err, ERR_NOT_FOUND);
    send_to(f, "a", "x");
    assert_null(poll_end(f, 0));
    assert_int_equal(receive(f, "a", 1)->count, 1);
    fixture_free(f);
}

static void readers_of_a_gone_peer_get_nothing_and_others_get_what_it_held(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());

    (void)state;
    send_to(f, "a", "x");
    receive(f, "a", 1);
    park(f, "a", 1, 1, 5000);
    park(f, "a", 2, 2, 5000);
    peer_gone(f, 1);
    assert_int_equal(poll_end(f, 0)->peer, 2);
    assert_string_equal(payload(f, poll_end(f, 0), 0), "x");
    assert_int_equal(view(f, poll_end(f, 0), 0)->attempt, 2);
    assert_null(poll_end(f, 1));
    fixture_free(f);
}

static void types_filter_what_a_reader_gets(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    static const char *const types[] = {"result", "error"};
    struct reading r = {.agent = "a", .peer = 1, .types = types, .type_count = 2};
    const struct mbox_action *a;

    (void)state;
    send_to(f, "a", "1");
    send_as(f, (struct sending){.to = "a", .type = "result", .payload = "2"});
    send_to(f, "a", "3");
    send_as(f, (struct sending){.to = "a", .type = "error", .payload = "4"});
    a = receive_as(f, r);
    assert_int_equal(a->count, 2);
    assert_int_equal(a->more, 2);
    assert_string_equal(payload(f, a, 0), "2");
    assert_string_equal(payload(f, a, 1), "4");
    r.wait_ms = 1000;
    r.poll = 9;
    assert_true(receive_as(f, r)->parked);
    send_to(f, "a", "5");
    assert_null(poll_end(f, 0));
    send_as(f, (struct sending){.to = "a", .type = "error", .payload = "6"});
    assert_int_equal(poll_end(f, 0)->count, 1);
    assert_string_equal(payload(f, poll_end(f, 0), 0), "6");
    a = receive(f, "a", 9);
    assert_int_equal(a->count, 3);
    fixture_free(f);
}

static void peek_takes_nothing_and_makes_no_box(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    struct reading r = {.agent = "a", .peer = 1, .peek = true, .max = 1, .wait_ms = 1000};

    (void)state;
    assert_int_equal(receive_as(f, r)->count, 0);
    assert_false(reply(f)->parked);
    assert_int_equal(totals(f).boxes, 0);
    send_to(f, "a", "1");
    send_to(f, "a", "2");
    assert_int_equal(receive_as(f, r)->count, 1);
    assert_int_equal(reply(f)->more, 1);
    assert_int_equal(reply(f)->delivery, 0);
    assert_int_equal(receive(f, "a", 9)->count, 2);
    fixture_free(f);
}

static void a_receive_stops_at_its_bytes_but_gives_one_message(void **state)
{
    struct mbox_limits limits = fixture_limits();
    struct fixture *f;
    size_t len = MBOX_PAYLOAD_MAX / 2 - 4096;
    char *text = malloc(MBOX_PAYLOAD_MAX + 1);

    (void)state;
    limits.box_bytes = limits.total_bytes = limits.max_payload_bytes = 64 << 20;
    f = fixture_new(limits);
    memset(text, '7', MBOX_PAYLOAD_MAX);
    text[len] = '\0';
    send_to(f, "a", text);
    send_to(f, "a", text);
    send_to(f, "a", text);
    assert_int_equal(receive(f, "a", 9)->count, 2);
    text[len] = '7';
    text[MBOX_PAYLOAD_MAX] = '\0';
    send_to(f, "b", text);
    send_to(f, "b", text);
    assert_int_equal(receive(f, "b", 9)->count, 1);
    assert_int_equal(strlen(payload(f, reply(f), 0)), MBOX_PAYLOAD_MAX);
    free(text);
    fixture_free(f);
}

static void readers_are_bounded(void **state)
{
    struct mbox_limits limits = fixture_limits();
    struct fixture *f;
    uint64_t i;

    (void)state;
    f = fixture_new(limits);
    for (i = 1; i <= 20; i++)
        assert_int_equal(park(f, "a", 1, i, 1000), ERR_OK);
    assert_int_equal(park(f, "b", 1, 21, 1000), ERR_BUSY);
    assert_int_equal(park(f, "a", 1, 20, 1000), ERR_OK);
    fixture_free(f);
    limits.max_waiting = 1000;
    f = fixture_new(limits);
    for (i = 1; i <= MBOX_BOX_WAITING; i++)
        assert_int_equal(park(f, "a", 1, i, 1000), ERR_OK);
    assert_int_equal(park(f, "a", 1, i, 1000), ERR_TOO_MANY);
    assert_int_equal(park(f, "b", 1, i, 1000), ERR_OK);
    fixture_free(f);
}

static void a_drain_ends_all_polls_and_parks_no_more(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    struct mbox_event e = {.kind = MBOX_DRAIN};

    (void)state;
    park(f, "a", 1, 1, 1000);
    park(f, "b", 2, 1, 1000);
    step(f, &e);
    assert_int_equal(poll_end(f, 0)->peer, 1);
    assert_int_equal(poll_end(f, 1)->peer, 2);
    assert_false(
        receive_as(f, (struct reading){.agent = "a", .peer = 1, .poll = 3, .wait_ms = 1000})
            ->parked);
    assert_int_equal(totals(f).waiting, 0);
    fixture_free(f);
}

static void one_event_of_many_messages_serves_a_reader_once_with_all(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    struct mbox_draft d[3] = {
        {.source = "s", .target = "a", .type = "t", .payload = "1", .payload_len = 1},
        {.source = "s", .target = "a", .type = "t", .payload = "22", .payload_len = 5000},
        {.message_id = "mine",
         .source = "s",
         .target = "a",
         .type = "t",
         .payload = "3",
         .payload_len = 1},
    };
    struct mbox_event e = {.kind = MBOX_SEND};

    (void)state;
    park(f, "a", 1, 1, 1000);
    e.send.tenant = "t";
    e.send.workflow = "w";
    e.send.drafts = d;
    e.send.draft_count = 3;
    step(f, &e);
    assert_int_equal(f->out.len, 3);
    assert_int_equal(f->out.items[0].err, ERR_OK);
    assert_int_equal(f->out.items[1].err, ERR_TOO_LARGE);
    assert_int_equal(f->out.items[2].err, ERR_OK);
    assert_string_equal(f->out.items[2].message_id, "mine");
    assert_int_equal(totals(f).queued, 0);
    commit(f, true);
    assert_int_equal(poll_end(f, 0)->count, 2);
    assert_string_equal(view(f, poll_end(f, 0), 1)->letter.id, "mine");
    fixture_free(f);
}

static void a_hand_over_that_never_left_is_no_delivery(void **state)
{
    struct mbox_limits limits = fixture_limits();
    struct fixture *f;
    struct mbox_event e = {.kind = MBOX_SETTLE, .peer = 1};
    const struct mbox_action *a;
    uint64_t delivery;
    int i;

    (void)state;
    limits.max_deliveries = 2;
    f = fixture_new(limits);
    send_to(f, "a", "x");
    e.settle.unsent = true;
    for (i = 0; i < 5; i++) {
        a = receive(f, "a", 1);
        assert_int_equal(view(f, a, 0)->attempt, 1);
        e.settle.delivery = a->delivery;
        step(f, &e);
        assert_int_equal(reply(f)->err, ERR_OK);
    }
    delivery = receive(f, "a", 1)->delivery;
    assert_int_equal(settle(f, 1, delivery, false), ERR_OK);
    e.settle.delivery = receive(f, "a", 1)->delivery;
    step(f, &e);
    a = receive(f, "a", 1);
    assert_int_equal(view(f, a, 0)->attempt, 2);
    assert_int_equal(totals(f).redelivered, 1);
    delivery = a->delivery;
    settle(f, 1, delivery, false);
    assert_int_equal(totals(f).dead, 1);
    fixture_free(f);
}

static void a_message_that_cannot_be_read_comes_back_alone(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    struct mbox_event e = {.kind = MBOX_LOST};
    const struct mbox_action *a;
    uint64_t delivery;

    (void)state;
    send_to(f, "a", "1");
    send_to(f, "a", "2");
    send_to(f, "a", "3");
    a = receive(f, "a", 3);
    delivery = e.lost.delivery = a->delivery;
    e.lost.payload = view(f, a, 1)->letter.payload;
    step(f, &e);
    assert_int_equal(settle(f, 1, delivery, true), ERR_OK);
    assert_int_equal(totals(f).delivered, 2);
    assert_int_equal(receive(f, "a", 3)->count, 0);
    tick(f, MBOX_LOST_MS * MS);
    a = receive(f, "a", 3);
    assert_int_equal(a->count, 1);
    assert_string_equal(payload(f, a, 0), "2");
    assert_int_equal(view(f, a, 0)->attempt, 2);
    step(f, &e); /* of a delivery that is over: nothing */
    assert_int_equal(totals(f).unsettled, 1);
    fixture_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_parked_reader_gets_the_next_message),
        cmocka_unit_test(a_parked_reader_is_remembered_for_what_it_can_unpack),
        cmocka_unit_test(parked_readers_are_served_first_come_first_served),
        cmocka_unit_test(a_parked_reader_ends_empty_at_its_deadline),
        cmocka_unit_test(a_parked_reader_can_leave),
        cmocka_unit_test(readers_of_a_gone_peer_get_nothing_and_others_get_what_it_held),
        cmocka_unit_test(types_filter_what_a_reader_gets),
        cmocka_unit_test(peek_takes_nothing_and_makes_no_box),
        cmocka_unit_test(a_receive_stops_at_its_bytes_but_gives_one_message),
        cmocka_unit_test(readers_are_bounded),
        cmocka_unit_test(a_drain_ends_all_polls_and_parks_no_more),
        cmocka_unit_test(one_event_of_many_messages_serves_a_reader_once_with_all),
        cmocka_unit_test(a_hand_over_that_never_left_is_no_delivery),
        cmocka_unit_test(a_message_that_cannot_be_read_comes_back_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
