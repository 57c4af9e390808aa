/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/mailbox/fixture.h"

#include <stdio.h>

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
        cmocka_unit_test(a_full_box_refuses_with_retry_advice_and_counts),
        cmocka_unit_test(a_box_holds_its_bytes_and_a_message_its_length),
        cmocka_unit_test(the_total_counts_stored_bytes_and_records),
        cmocka_unit_test(
            a_broadcast_reaches_every_known_agent_but_the_sender_and_shares_its_payload),
        cmocka_unit_test(a_broadcast_is_taken_whole_or_refused_whole),
        cmocka_unit_test(a_broadcast_to_nobody_is_fine_and_keeps_nothing),
        cmocka_unit_test(message_ids_are_unique_sorted_and_the_same_in_every_run),
        cmocka_unit_test(a_parked_reader_gets_the_next_message),
        cmocka_unit_test(parked_readers_are_served_first_come_first_served),
        cmocka_unit_test(a_parked_reader_ends_empty_at_its_deadline),
        cmocka_unit_test(a_parked_reader_can_leave),
        cmocka_unit_test(readers_of_a_gone_peer_get_nothing_and_others_get_what_it_held),
        cmocka_unit_test(types_filter_what_a_reader_gets),
        cmocka_unit_test(peek_takes_nothing_and_makes_no_box),
        cmocka_unit_test(a_receive_stops_at_its_bytes_but_gives_one_message),
        cmocka_unit_test(closing_keeps_messages_until_delivered_and_ends_idle_readers),
        cmocka_unit_test(purging_drops_everything_handed_out_or_not),
        cmocka_unit_test(an_idle_box_is_forgotten),
        cmocka_unit_test(the_oldest_idle_box_makes_room_and_used_ones_stay),
        cmocka_unit_test(a_broadcast_does_not_evict_its_own_targets),
        cmocka_unit_test(readers_are_bounded),
        cmocka_unit_test(a_drain_ends_all_polls_and_parks_no_more),
        cmocka_unit_test(one_event_of_many_messages_serves_a_reader_once_with_all),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
