/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/mailbox/fixture.h"

static void messages_come_out_in_the_order_they_went_in(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    const struct mbox_action *a;

    (void)state;
    assert_int_equal(send_to(f, "a", "1"), ERR_OK);
    assert_int_equal(send_to(f, "a", "2"), ERR_OK);
    assert_int_equal(send_to(f, "a", "3"), ERR_OK);
    a = receive(f, "a", 2);
    assert_int_equal(a->count, 2);
    assert_int_equal(a->more, 1);
    assert_string_equal(payload(f, a, 0), "1");
    assert_string_equal(payload(f, a, 1), "2");
    assert_string_equal(view(f, a, 0)->target, "a");
    assert_string_equal(view(f, a, 0)->letter.source, "src");
    assert_int_equal(view(f, a, 0)->attempt, 1);
    a = receive(f, "a", 2);
    assert_int_equal(a->count, 1);
    assert_string_equal(payload(f, a, 0), "3");
    fixture_free(f);
}

static void a_box_belongs_to_its_tenant_and_workflow(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    struct mbox_event e = {.kind = MBOX_RECEIVE};

    (void)state;
    send_to(f, "a", "1");
    assert_int_equal(
        receive_as(f, (struct reading){.workflow = "v", .agent = "a", .peer = 1})->count, 0);
    e.receive.box = (struct mbox_key){"other", "w", "a"};
    step(f, &e);
    assert_int_equal(reply(f)->count, 0);
    assert_int_equal(receive(f, "a", 1)->count, 1);
    fixture_free(f);
}

static void a_settled_delivery_is_gone_for_good(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    uint64_t d;

    (void)state;
    send_to(f, "a", "1");
    d = receive(f, "a", 1)->delivery;
    assert_int_equal(totals(f).unsettled, 1);
    assert_int_equal(settle(f, 1, d, true), ERR_OK);
    assert_int_equal(settle(f, 1, d, true), ERR_NOT_FOUND);
    assert_int_equal(receive(f, "a", 1)->count, 0);
    assert_int_equal(totals(f).delivered, 1);
    assert_int_equal(totals(f).bytes, 0);
    fixture_free(f);
}

static void an_unsettled_delivery_returns_to_its_place_with_the_next_attempt(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    const struct mbox_action *a;
    uint64_t first, second;

    (void)state;
    send_to(f, "a", "1");
    send_to(f, "a", "2");
    send_to(f, "a", "3");
    first = receive(f, "a", 1)->delivery;
    second = receive(f, "a", 1)->delivery;
    assert_int_equal(settle(f, 1, second, false), ERR_OK);
    assert_int_equal(settle(f, 1, first, false), ERR_OK);
    a = receive(f, "a", 3);
    assert_int_equal(a->count, 3);
    assert_string_equal(payload(f, a, 0), "1");
    assert_string_equal(payload(f, a, 1), "2");
    assert_string_equal(payload(f, a, 2), "3");
    assert_int_equal(view(f, a, 0)->attempt, 2);
    assert_int_equal(view(f, a, 2)->attempt, 1);
    assert_int_equal(totals(f).redelivered, 2);
    fixture_free(f);
}

static void an_unsettled_delivery_returns_when_its_peer_is_gone(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());

    (void)state;
    send_to(f, "a", "1");
    receive(f, "a", 1);
    peer_gone(f, 2);
    assert_int_equal(receive(f, "a", 1)->count, 0);
    peer_gone(f, 1);
    assert_int_equal(receive(f, "a", 1)->count, 1);
    fixture_free(f);
}

static void an_unsettled_delivery_returns_after_its_time(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    uint64_t d;

    (void)state;
    send_to(f, "a", "1");
    d = receive(f, "a", 1)->delivery;
    tick(f, 60 * SEC - 1);
    assert_int_equal(totals(f).queued, 0);
    tick(f, 1);
    assert_int_equal(totals(f).queued, 1);
    assert_int_equal(settle(f, 1, d, true), ERR_NOT_FOUND);
    fixture_free(f);
}

static void a_delivery_is_settled_by_its_own_peer_only(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    uint64_t d;

    (void)state;
    send_to(f, "a", "1");
    d = receive(f, "a", 1)->delivery;
    assert_int_equal(settle(f, 2, d, true), ERR_NOT_FOUND);
    assert_int_equal(settle(f, 1, d, true), ERR_OK);
    fixture_free(f);
}

static void a_message_expires_after_its_ttl_and_is_counted(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    struct mbox_box_info info;

    (void)state;
    send_as(f, (struct sending){.to = "a", .payload = "1", .ttl_ms = 500});
    send_to(f, "a", "2");
    assert_int_equal(mbox_next_deadline(f->core), f->now + 500 * MS);
    tick(f, 500 * MS);
    assert_true(mbox_box_find(f->core, f->now, (struct mbox_key){"t", "w", "a"}, &info));
    assert_int_equal(info.depth, 1);
    assert_int_equal(info.expired, 1);
    assert_int_equal(info.oldest_ns, 500 * MS);
    assert_string_equal(payload(f, receive(f, "a", 9), 0), "2");
    tick(f, 100 * SEC);
    assert_int_equal(totals(f).expired, 2); /* the second on its way back from the delivery */
    assert_int_equal(totals(f).dead_now, 2);
    tick(f, 1000 * SEC);
    assert_int_equal(totals(f).forgotten, 2);
    assert_int_equal(totals(f).bytes, 0);
    fixture_free(f);
}

static void an_expired_message_is_not_handed_out_by_a_late_step(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    static const char *const types[] = {"x", "y"};
    struct reading other = {
        .agent = "a", .peer = 2, .poll = 7, .wait_ms = 60000, .types = types, .type_count = 2};

    (void)state;
    send_as(f, (struct sending){.to = "a", .type = "y", .payload = "1", .ttl_ms = 90000});
    receive(f, "a", 1); /* until 60 s */
    send_as(f, (struct sending){.to = "a", .type = "z", .payload = "2", .ttl_ms = 30000});
    tick(f, 20 * SEC);
    assert_true(receive_as(f, other)->parked);
    tick(f, 50 * SEC);
    assert_int_equal(poll_end(f, 0)->count, 1);
    assert_string_equal(payload(f, poll_end(f, 0), 0), "1");
    assert_int_equal(totals(f).expired, 1);
    fixture_free(f);
}

static void
a_broadcast_reaches_every_known_agent_but_the_sender_and_shares_its_payload(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    static const char *const agents[] = {"b", "me", "c", "*", "c"};
    const struct mbox_action *a;
    uint64_t stored;
    char text[201];

    (void)state;
    memset(text, '5', 200);
    text[200] = '\0';
    receive(f, "a", 1);
    receive(f, "me", 1);
    a = send_as(f,
                (struct sending){
                    .from = "me", .to = "*", .payload = text, .agents = agents, .agent_count = 5});
    assert_int_equal(a->err, ERR_OK);
    assert_int_equal(a->count, 3);
    assert_string_equal(f->names[0], "a");
    assert_string_equal(f->names[1], "b");
    assert_string_equal(f->names[2], "c");
    stored = stored_bytes(f);
    assert_int_equal(stored, 200);
    assert_int_equal(receive(f, "me", 1)->count, 0);
    assert_int_equal(settle(f, 1, receive(f, "a", 1)->delivery, true), ERR_OK);
    assert_int_equal(settle(f, 1, receive(f, "b", 1)->delivery, true), ERR_OK);
    assert_int_equal(stored_bytes(f), 200);
    a = receive(f, "c", 1);
    assert_string_equal(payload(f, a, 0), text);
    assert_string_equal(view(f, a, 0)->target, "c");
    assert_int_equal(settle(f, 1, a->delivery, true), ERR_OK);
    tick(f, 1);
    assert_int_equal(stored_bytes(f), 0);
    fixture_free(f);
}

static void a_broadcast_is_taken_whole_or_refused_whole(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    int i;

    (void)state;
    receive(f, "b", 1);
    for (i = 0; i < 10; i++)
        send_to(f, "a", "1");
    assert_int_equal(send_to(f, "*", "2"), ERR_MAILBOX_FULL);
    assert_int_equal(receive(f, "b", 1)->count, 0);
    assert_int_equal(totals(f).queued, 10);
    fixture_free(f);
}

static void a_broadcast_to_nobody_is_fine_and_keeps_nothing(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    const struct mbox_action *a = send_as(f, (struct sending){.to = "*", .payload = "2"});

    (void)state;
    assert_int_equal(a->err, ERR_OK);
    assert_int_equal(a->count, 0);
    assert_int_equal(totals(f).bytes, 0);
    fixture_free(f);
}

static void message_ids_are_unique_sorted_and_the_same_in_every_run(void **state)
{
    struct fixture *f = fixture_new(fixture_limits()), *g = fixture_new(fixture_limits());
    char last[64] = "";
    int i;

    (void)state;
    for (i = 0; i < 30; i++) {
        const struct mbox_action *a;
        const struct mbox_action *b;

        a = send_as(f, (struct sending){.workflow = i < 10   ? "x"
                                                    : i < 20 ? "y"
                                                             : "z",
                                        .to = "a",
                                        .payload = "1"});
        assert_int_equal(a->err, ERR_OK);
        assert_int_equal(strlen(a->message_id), MBOX_ID_LEN);
        assert_true(strcmp(a->message_id, last) > 0);
        strcpy(last, a->message_id);
        b = send_as(g, (struct sending){.to = "b", .payload = "1"});
        assert_true(i >= 10 || strcmp(b->message_id, last) == 0);
        tick(f, (uint64_t)(i % 3) * MS);
        tick(g, (uint64_t)(i % 3) * MS);
    }
    fixture_free(f);
    fixture_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_come_out_in_the_order_they_went_in),
        cmocka_unit_test(a_box_belongs_to_its_tenant_and_workflow),
        cmocka_unit_test(a_settled_delivery_is_gone_for_good),
        cmocka_unit_test(an_unsettled_delivery_returns_to_its_place_with_the_next_attempt),
        cmocka_unit_test(an_unsettled_delivery_returns_when_its_peer_is_gone),
        cmocka_unit_test(an_unsettled_delivery_returns_after_its_time),
        cmocka_unit_test(a_delivery_is_settled_by_its_own_peer_only),
        cmocka_unit_test(a_message_expires_after_its_ttl_and_is_counted),
        cmocka_unit_test(an_expired_message_is_not_handed_out_by_a_late_step),
        cmocka_unit_test(
            a_broadcast_reaches_every_known_agent_but_the_sender_and_shares_its_payload),
        cmocka_unit_test(a_broadcast_is_taken_whole_or_refused_whole),
        cmocka_unit_test(a_broadcast_to_nobody_is_fine_and_keeps_nothing),
        cmocka_unit_test(message_ids_are_unique_sorted_and_the_same_in_every_run),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
