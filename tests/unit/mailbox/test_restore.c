/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/mailbox/durable.h"

/* Restarts, and streams that come again. */

static struct fixture *new_durable(void)
{
    return durable_new(fixture_limits());
}

static void durably(struct fixture *f)
{
    assert_int_equal(f->store->ops->commit(f->store), ERR_OK);
    commit(f, true);
}

static void restart(struct fixture *f, uint64_t later_ns)
{
    durable_restart(f, fixture_limits(), later_ns, 4711);
}

static void assert_gets(struct fixture *f, const char *expected)
{
    const struct mbox_action *a = receive(f, "a", 9);
    char got[64] = "";
    uint32_t i;

    for (i = 0; i < a->count; i++)
        strcat(got, payload(f, a, i));
    assert_string_equal(got, expected);
}

static void what_was_committed_is_there_in_order_and_nothing_else(void **state)
{
    struct fixture *f = new_durable();
    const struct mbox_action *a;

    (void)state;
    send_to(f, "a", "1");
    send_as(f, (struct sending){.to = "a", .payload = "2", .priority = 9});
    send_as(f, (struct sending){.from = "z", .to = "*", .payload = "3", .ttl_ms = 50000});
    durably(f);
    send_as(f, (struct sending){.to = "a", .payload = "4", .uncommitted = true});
    restart(f, 10 * SEC);
    assert_int_equal(totals(f).restored, 3);
    assert_int_equal(totals(f).sent, 0);
    send_to(f, "a", "5");
    a = receive_as(f, (struct reading){.agent = "a", .peek = true, .max = 9});
    assert_int_equal(a->count, 4);
    assert_int_equal(view(f, a, 2)->letter.expires_ms, 1000 * 1000 + 50000);
    assert_int_equal(view(f, a, 2)->letter.created_ns, f->now - 10 * SEC);
    assert_gets(f, "2135");
    tick(f, 40 * SEC); /* lives go on over a restart */
    assert_int_equal(totals(f).expired, 0);
    fixture_free(f);
}

static void what_was_handed_out_is_back_with_the_attempts_that_came_back(void **state)
{
    struct fixture *f = new_durable();
    const struct mbox_action *a;

    (void)state;
    send_to(f, "a", "1");
    send_to(f, "a", "2");
    settle(f, 1, receive(f, "a", 2)->delivery, false);
    settle(f, 1, receive(f, "a", 1)->delivery, true);
    lease(f, "a", 60000);
    durably(f);
    restart(f, SEC);
    a = receive(f, "a", 9);
    assert_int_equal(a->count, 1);
    assert_string_equal(payload(f, a, 0), "2");
    assert_int_equal(view(f, a, 0)->attempt, 2);
    fixture_free(f);
}

static void a_receipt_of_the_time_before_is_good_until_somebody_takes_the_message(void **state)
{
    struct fixture *f = new_durable();
    struct leased l[2];
    int i;

    (void)state;
    for (i = 0; i < 2; i++) {
        send_to(f, "a", "1");
        l[i] = lease(f, "a", 60000);
        settle(f, 1, l[i].delivery, true);
    }
    durably(f);
    restart(f, SEC);
    assert_int_equal(ack_leased(f, "a", &l[1], MBOX_ACK_RETURN), ERR_RECEIPT);
    assert_int_equal(ack_leased(f, "a", &l[1], MBOX_ACK_EXTEND), ERR_RECEIPT);
    assert_int_equal(ack_leased(f, "a", &l[1], MBOX_ACK_DONE), ERR_OK);
    assert_int_equal(receive(f, "a", 9)->count, 1);
    assert_int_equal(ack_leased(f, "a", &l[0], MBOX_ACK_DONE), ERR_RECEIPT);
    fixture_free(f);
}

static void delayed_ones_keep_their_time_and_arrive_among_the_others(void **state)
{
    struct fixture *f = new_durable();

    (void)state;
    send_as(f, (struct sending){.to = "a", .payload = "1", .delay_ms = 3000});
    send_as(f, (struct sending){.to = "a", .payload = "2", .delay_ms = 20000});
    send_to(f, "a", "3");
    durably(f);
    tick(f, 5 * SEC);
    send_to(f, "a", "4");
    durably(f);
    restart(f, 0);
    assert_int_equal(totals(f).delayed, 1);
    assert_gets(f, "314");
    tick(f, 15 * SEC);
    assert_gets(f, "2");
    fixture_free(f);
}

static void a_group_waits_on_for_a_message_that_was_put_off(void **state)
{
    struct fixture *f = new_durable();
    struct leased l;

    (void)state;
    send_as(f, (struct sending){.to = "a", .payload = "1", .group = "g"});
    send_as(f, (struct sending){.to = "a", .payload = "2", .group = "g"});
    l = lease(f, "a", 60000);
    settle(f, 1, l.delivery, true);
    assert_int_equal(ack(f, "a",
                         (struct mbox_ack){.message_id = l.id,
                                           .receipt = l.receipt,
                                           .kind = MBOX_ACK_RETURN,
                                           .delay_ms = 9000}),
                     ERR_OK);
    durably(f);
    restart(f, SEC);
    assert_gets(f, "");
    tick(f, 8 * SEC);
    assert_gets(f, "12");
    fixture_free(f);
}

static void dead_letters_lie_as_they_died_and_redriven_ones_are_alive(void **state)
{
    struct fixture *f = new_durable();
    const struct mbox_action *a;
    char id[64];

    (void)state;
    send_as(f, (struct sending){.to = "a", .payload = "1", .ttl_ms = 2000});
    send_as(f, (struct sending){.to = "a", .payload = "2", .ttl_ms = 1000});
    strcpy(id, send_as(f, (struct sending){.to = "a", .payload = "3", .ttl_ms = 1500})->message_id);
    tick(f, SEC);
    tick(f, SEC / 2);
    tick(f, SEC);
    assert_int_equal(redrive(f, "a", id, false)->dropped, 1);
    durably(f);
    restart(f, SEC);
    a = list_dead(f, "a", 9, NULL);
    assert_int_equal(a->count, 2);
    assert_string_equal(payload(f, a, 0), "2");
    assert_string_equal(payload(f, a, 1), "1");
    assert_int_equal(view(f, a, 0)->dead, MBOX_DEAD_EXPIRED);
    assert_int_equal(f->now - view(f, a, 0)->dead_ns, 2 * SEC + SEC / 2);
    assert_gets(f, "3");
    fixture_free(f);
}

static void what_expired_meanwhile_is_dead_at_the_first_step(void **state)
{
    struct fixture *f = new_durable();

    (void)state;
    send_as(f, (struct sending){.to = "a", .payload = "1", .ttl_ms = 2000});
    durably(f);
    restart(f, 3600 * SEC);
    assert_gets(f, "");
    assert_int_equal(totals(f).dead_now, 1);
    fixture_free(f);
}

static void a_key_is_known_after_a_restart_as_long_as_its_window(void **state)
{
    struct fixture *f = new_durable();
    struct sending s = {.to = "a", .payload = "1", .key = "k"};
    char id[64];

    (void)state;
    strcpy(id, send_as(f, s)->message_id);
    durably(f);
    restart(f, 200 * SEC);
    send_as(f, s);
    assert_true(f->sent.replayed);
    assert_string_equal(f->sent.message_id, id);
    restart(f, 100 * SEC);
    assert_int_equal(totals(f).keys, 0);
    send_as(f, s);
    assert_false(f->sent.replayed);
    fixture_free(f);
}

static void an_answer_that_is_damaged_is_forgotten(void **state)
{
    struct fixture *f = new_durable();

    (void)state;
    send_as(f, (struct sending){.to = "a", .payload = "1", .key = "k"});
    durably(f);
    durable_of(f->store)->answers[0]->r.answer_len -= 1;
    restart(f, SEC);
    assert_int_equal(totals(f).keys, 0);
    assert_true(mbox_needs_commit(f->core));
    fixture_free(f);
}

static void an_answer_is_never_given_to_a_request_of_another_length(void **state)
{
    const struct mbox_draft drafts[2] = {
        {.source = "s", .target = "a", .type = "t", .payload = "1", .payload_len = 1},
        {.source = "s", .target = "a", .type = "t", .payload = "2", .payload_len = 1},
    };
    struct fixture *f = new_durable();
    struct mbox_event e = {.kind = MBOX_SEND};
    struct mbox_answer_record *r;

    (void)state;
    e.send.tenant = "t";
    e.send.workflow = "w";
    e.send.drafts = drafts;
    e.send.draft_count = 2;
    e.send.idempotency_key = "k";
    e.send.wall_ms = f->now / MS;
    step(f, &e);
    durably(f);
    r = &durable_of(f->store)->answers[0]->r;
    assert_int_equal(r->answer_len % 2, 0);
    r->answer_len /= 2; /* as a request of one message with the same hash would have left it */
    restart(f, SEC);
    e.send.wall_ms = f->now / MS;
    step(f, &e);
    assert_int_equal(f->out.len, 1);
    assert_int_equal(reply(f)->err, ERR_IDEMPOTENCY);
    fixture_free(f);
}

static void ids_of_copies_are_never_used_again(void **state)
{
    struct fixture *f = new_durable();
    uint64_t last;

    (void)state;
    send_to(f, "a", "1");
    send_to(f, "a", "2");
    durably(f);
    last = durable_of(f->store)->messages[1]->copies[0].r.id;
    restart(f, SEC);
    send_to(f, "a", "3");
    durably(f);
    assert_true(durable_of(f->store)->messages[2]->copies[0].r.id > last);
    fixture_free(f);
}

static void what_is_still_being_written_out_is_held_for_its_writer(void **state)
{
    struct fixture *f = new_durable();
    struct mbox_event e = {.kind = MBOX_HOLD, .peer = 5};
    const char *ids[3] = {"gone", NULL, NULL};
    char text[2][64];
    int i;

    (void)state;
    for (i = 0; i < 2; i++) {
        strcpy(text[i],
               send_as(f, (struct sending){.to = "a", .payload = "1", .group = "g"})->message_id);
        ids[i + 1] = text[i];
    }
    receive(f, "a", 2);
    durably(f);
    restart(f, SEC);
    e.hold.box = (struct mbox_key){"t", "w", "a"};
    e.hold.message_ids = ids;
    e.hold.id_count = 3;
    step(f, &e);
    assert_int_equal(reply(f)->dropped, 2);
    assert_int_equal(totals(f).unsettled, 2);
    assert_int_equal(settle(f, 5, reply(f)->delivery, true), ERR_OK);
    assert_int_equal(totals(f).delivered, 2);
    step(f, &e);
    assert_int_equal(reply(f)->delivery, 0);
    fixture_free(f);
}

/* ---- streams ---- */

static void keep(struct fixture *f, uint32_t max, uint32_t keep_ms)
{
    struct mbox_event e = {.kind = MBOX_SETTLE, .peer = 1};

    e.settle.delivery = receive(f, "a", max)->delivery;
    e.settle.done = true;
    e.settle.keep_ms = keep_ms;
    step(f, &e);
}

static void a_stream_that_comes_again_gets_what_it_did_not_see(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    const struct mbox_action *a;
    char ids[3][64];
    int i;

    (void)state;
    for (i = 0; i < 3; i++)
        strcpy(ids[i], send_as(f, (struct sending){.to = "a", .payload = "1"})->message_id);
    keep(f, 2, 30000);
    keep(f, 1, 30000);
    assert_int_equal(totals(f).kept, 3);
    assert_int_equal(receive(f, "a", 9)->count, 0);
    a = receive_as(f, (struct reading){.agent = "a", .max = 9, .resume_after = "unknown"});
    assert_int_equal(a->count, 0);
    a = receive_as(f, (struct reading){.agent = "a", .max = 9, .resume_after = ids[0]});
    assert_int_equal(a->count, 2);
    assert_string_equal(view(f, a, 0)->letter.id, ids[1]);
    assert_int_equal(view(f, a, 0)->attempt, 2);
    assert_int_equal(totals(f).kept, 1);
    fixture_free(f);
}

static void a_stream_that_breaks_again_before_it_was_read_loses_nothing(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    const struct mbox_action *a;
    struct mbox_event e = {.kind = MBOX_SETTLE, .peer = 1};
    char first[64];
    int i;

    (void)state;
    strcpy(first, send_as(f, (struct sending){.to = "a", .payload = "1"})->message_id);
    send_to(f, "a", "2");
    keep(f, 2, 30000);
    for (i = 0; i < 3; i++) {
        a = receive_as(f,
                       (struct reading){.agent = "a", .peer = 1, .max = 9, .resume_after = first});
        assert_int_equal(a->count, 1);
        e.settle.delivery = a->delivery;
        e.settle.done = true;
        e.settle.keep_ms = 30000;
        step(f, &e);
        assert_int_equal(totals(f).kept, 2);
    }
    tick(f, 30 * SEC);
    assert_int_equal(totals(f).kept, 0);
    assert_int_equal(totals(f).delivered, 2);
    fixture_free(f);
}

/* What a stream gets that saw this one last: payloads and attempts. */
static void assert_resumes(struct fixture *f, const char *after, const char *expected)
{
    const struct mbox_action *a =
        receive_as(f, (struct reading){.agent = "a", .peer = 1, .max = 9, .resume_after = after});
    char got[128] = "";
    uint32_t i;

    for (i = 0; i < a->count; i++)
        sprintf(got + strlen(got), "%s/%u ", payload(f, a, i), view(f, a, i)->attempt);
    assert_string_equal(got, expected);
}

static void what_was_kept_is_kept_over_a_restart_as_it_was_handed_out(void **state)
{
    struct fixture *f = new_durable();
    char first[64];

    (void)state;
    send_as(f, (struct sending){.to = "a", .payload = "3"});
    strcpy(first,
           send_as(f, (struct sending){.to = "a", .payload = "1", .priority = 9})->message_id);
    send_as(f, (struct sending){.to = "a", .payload = "2", .priority = 5});
    keep(f, 2, 30000);
    keep(f, 1, 20000);
    send_to(f, "a", "4");
    durably(f);
    restart(f, SEC);
    assert_int_equal(totals(f).kept, 3);
    assert_int_equal(totals(f).delivered, 0);
    assert_gets(f, "4"); /* nobody gets what was written, and is only kept */
    restart(f, SEC);
    assert_resumes(f, first, "2/2 3/2 4/1 ");
    assert_int_equal(totals(f).kept, 1);
    durably(f);
    restart(f, SEC); /* what came back is queued, what was not asked for is kept on */
    assert_int_equal(totals(f).kept, 1);
    assert_int_equal(totals(f).queued, 3);
    fixture_free(f);
}

static void what_was_kept_is_done_when_its_time_ends_over_a_restart(void **state)
{
    struct fixture *f = new_durable();
    int i;

    (void)state;
    for (i = 0; i < 3; i++)
        send_to(f, "a", "1");
    keep(f, 1, 10000);
    keep(f, 2, 30000);
    durably(f);
    restart(f, 15 * SEC);
    tick(f, 0);
    assert_int_equal(totals(f).kept, 2);
    assert_int_equal(totals(f).delivered, 1);
    tick(f, 15 * SEC);
    assert_int_equal(totals(f).kept, 0);
    assert_int_equal(totals(f).delivered, 3);
    durably(f);
    restart(f, SEC);
    assert_int_equal(totals(f).restored, 0);
    fixture_free(f);
}

static void a_clock_that_went_back_keeps_nothing_for_longer_than_allowed(void **state)
{
    const struct mbox_limits limits = fixture_limits();
    struct fixture *f = new_durable();

    (void)state;
    send_to(f, "a", "1");
    keep(f, 1, 30000);
    durably(f);
    durable_undo(durable_of(f->store), true);
    mbox_free(f->core);
    f->core = mbox_new(&limits, f->store, 4711);
    assert_int_equal(mbox_restore(f->core, f->now, f->now / MS - 900 * 1000), ERR_OK);
    assert_int_equal(totals(f).kept, 1);
    tick(f, limits.max_keep_ns);
    assert_int_equal(totals(f).kept, 0);
    assert_int_equal(totals(f).delivered, 1);
    fixture_free(f);
}

static void a_crash_before_the_commit_gives_what_was_written_once_more(void **state)
{
    struct fixture *f = new_durable();

    (void)state;
    send_to(f, "a", "1");
    durably(f);
    keep(f, 1, 30000);
    assert_true(mbox_needs_commit(f->core));
    restart(f, SEC);
    assert_gets(f, "1");
    fixture_free(f);
}

static void copies_of_a_broadcast_are_kept_each_for_itself(void **state)
{
    const char *const agents[] = {"a", "b"};
    struct fixture *f = new_durable();

    (void)state;
    send_as(f, (struct sending){
                   .from = "z", .to = "*", .payload = "1", .agents = agents, .agent_count = 2});
    keep(f, 1, 30000);
    durably(f);
    restart(f, SEC);
    assert_int_equal(box_info(f, "a").kept, 1);
    assert_int_equal(box_info(f, "b").depth, 1);
    fixture_free(f);
}

static void kept_messages_are_done_in_time_and_bounded(void **state)
{
    struct mbox_limits limits = fixture_limits();
    struct fixture *f;
    char text[2001];
    int i;

    (void)state;
    limits.box_messages = 1000;
    limits.box_bytes = 4 << 20;
    limits.total_bytes = 8 << 20;
    f = fixture_new(limits);
    for (i = 0; i < 300; i++)
        send_to(f, "a", "1");
    keep(f, 1000, 30000);
    assert_int_equal(totals(f).kept, 256);
    assert_int_equal(totals(f).delivered, 44);
    tick(f, 30 * SEC);
    assert_int_equal(totals(f).kept, 0);
    memset(text, '1', 2000);
    text[2000] = '\0';
    for (i = 0; i < 250; i++) {
        memset(text, '1' + i % 9, 2000);
        send_to(f, "a", text);
        send_to(f, "a", text);
        send_to(f, "a", text);
    }
    for (i = 0; i < 10; i++)
        keep(f, 75, 30000);
    assert_int_equal(totals(f).kept, 256);
    assert_int_equal(box_info(f, "a").bytes, 0);
    close_workflow(f, "w", false);
    assert_int_equal(totals(f).boxes, 0);
    assert_int_equal(totals(f).delivered, 300 + 750);
    fixture_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_committed_is_there_in_order_and_nothing_else),
        cmocka_unit_test(what_was_handed_out_is_back_with_the_attempts_that_came_back),
        cmocka_unit_test(a_receipt_of_the_time_before_is_good_until_somebody_takes_the_message),
        cmocka_unit_test(delayed_ones_keep_their_time_and_arrive_among_the_others),
        cmocka_unit_test(a_group_waits_on_for_a_message_that_was_put_off),
        cmocka_unit_test(dead_letters_lie_as_they_died_and_redriven_ones_are_alive),
        cmocka_unit_test(what_expired_meanwhile_is_dead_at_the_first_step),
        cmocka_unit_test(a_key_is_known_after_a_restart_as_long_as_its_window),
        cmocka_unit_test(an_answer_that_is_damaged_is_forgotten),
        cmocka_unit_test(an_answer_is_never_given_to_a_request_of_another_length),
        cmocka_unit_test(ids_of_copies_are_never_used_again),
        cmocka_unit_test(what_is_still_being_written_out_is_held_for_its_writer),
        cmocka_unit_test(a_stream_that_comes_again_gets_what_it_did_not_see),
        cmocka_unit_test(a_stream_that_breaks_again_before_it_was_read_loses_nothing),
        cmocka_unit_test(what_was_kept_is_kept_over_a_restart_as_it_was_handed_out),
        cmocka_unit_test(what_was_kept_is_done_when_its_time_ends_over_a_restart),
        cmocka_unit_test(a_clock_that_went_back_keeps_nothing_for_longer_than_allowed),
        cmocka_unit_test(a_crash_before_the_commit_gives_what_was_written_once_more),
        cmocka_unit_test(copies_of_a_broadcast_are_kept_each_for_itself),
        cmocka_unit_test(kept_messages_are_done_in_time_and_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
