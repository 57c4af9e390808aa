/* SPDX-License-Identifier: Apache-2.0 */
#include "common/lz4_payload.h"
#include "tests/unit/mailbox/durable.h"

/* What a send promises holds with the commit; idempotency keys. */

static void a_message_is_seen_with_its_commit_and_not_before(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());

    (void)state;
    assert_false(mbox_needs_commit(f->core));
    park(f, "a", 1, 1, 60000);
    send_as(f, (struct sending){.to = "a", .payload = "1", .uncommitted = true});
    assert_true(mbox_needs_commit(f->core));
    assert_null(poll_end(f, 0));
    assert_int_equal(receive(f, "a", 1)->count, 0);
    assert_int_equal(totals(f).sent, 0);
    commit(f, true);
    assert_false(mbox_needs_commit(f->core));
    assert_int_equal(poll_end(f, 0)->count, 1);
    assert_int_equal(totals(f).sent, 1);
    fixture_free(f);
}

static void after_a_failed_commit_there_never_was_a_message(void **state)
{
    struct fixture *f = durable_new(fixture_limits());
    struct durable *d = durable_of(f->store);

    (void)state;
    send_as(f, (struct sending){.to = "b", .payload = "0"});
    d->store.ops->commit(&d->store);
    send_as(f, (struct sending){.to = "a", .payload = "1", .uncommitted = true});
    send_as(f, (struct sending){.to = "*", .payload = "2", .uncommitted = true});
    assert_int_equal(totals(f).bytes > 0, 1);
    d->fail_commit = true;
    assert_int_equal(d->store.ops->commit(&d->store), ERR_STORE);
    commit(f, false);
    assert_int_equal(receive(f, "a", 9)->count, 0);
    assert_int_equal(receive(f, "b", 9)->count, 1);
    assert_int_equal(totals(f).sent, 1);
    settle(f, 1, reply(f)->delivery, true);
    assert_int_equal(totals(f).bytes, 0);
    fixture_free(f);
}

static void what_a_failed_send_would_have_pushed_out_stays(void **state)
{
    struct mbox_limits limits = fixture_limits();
    struct fixture *f;
    int i;

    (void)state;
    limits.drop_oldest = true;
    limits.box_messages = 3;
    f = fixture_new(limits);
    for (i = 0; i < 3; i++)
        assert_int_equal(send_to(f, "a", "old"), ERR_OK);
    for (i = 0; i < 3; i++)
        assert_int_equal(
            send_as(f, (struct sending){.to = "a", .payload = "new", .uncommitted = true})->err,
            ERR_OK);
    assert_int_equal(
        send_as(f, (struct sending){.to = "a", .payload = "new", .uncommitted = true})->err,
        ERR_MAILBOX_FULL); /* nothing old is left to make room for a fourth */
    commit(f, false);
    assert_int_equal(box_info(f, "a").depth, 3);
    assert_int_equal(box_info(f, "a").dead, 0);
    for (i = 0; i < 2; i++)
        assert_int_equal(
            send_as(f, (struct sending){.to = "a", .payload = "new", .uncommitted = true})->err,
            ERR_OK);
    assert_int_equal(box_info(f, "a").dead, 0);
    commit(f, true);
    assert_int_equal(box_info(f, "a").depth, 3);
    assert_int_equal(box_info(f, "a").dead, 2);
    assert_string_equal(payload(f, receive(f, "a", 1), 0), "old");
    fixture_free(f);
}

static void what_a_reader_took_before_the_commit_is_not_pushed_out(void **state)
{
    struct mbox_limits limits = fixture_limits();
    struct fixture *f;

    (void)state;
    limits.drop_oldest = true;
    limits.box_messages = 2;
    f = fixture_new(limits);
    send_to(f, "a", "1");
    send_to(f, "a", "2");
    send_as(f, (struct sending){.to = "a", .payload = "3", .uncommitted = true});
    receive(f, "a", 2);
    commit(f, true);
    assert_int_equal(box_info(f, "a").depth, 1); /* one too many for a while */
    assert_int_equal(box_info(f, "a").unsettled, 2);
    assert_int_equal(box_info(f, "a").dead, 0);
    assert_int_equal(send_to(f, "a", "4"), ERR_MAILBOX_FULL);
    fixture_free(f);
}

static void what_is_not_committed_counts_against_the_limits(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    int i;

    (void)state;
    for (i = 0; i < 10; i++)
        assert_int_equal(
            send_as(f, (struct sending){.to = "a", .payload = "1", .uncommitted = true})->err,
            ERR_OK);
    assert_int_equal(
        send_as(f, (struct sending){.to = "a", .payload = "1", .uncommitted = true})->err,
        ERR_MAILBOX_FULL);
    commit(f, false);
    assert_int_equal(send_to(f, "a", "1"), ERR_OK);
    fixture_free(f);
}

static void a_store_that_takes_nothing_is_told_as_it_is(void **state)
{
    struct fixture *f = durable_new(fixture_limits());
    const struct mbox_action *a;

    (void)state;
    durable_of(f->store)->fail_append = true;
    a = send_as(f, (struct sending){.to = "a", .payload = "1", .key = "k"});
    assert_int_equal(a->err, ERR_STORE);
    assert_true(a->retry_ms > 0);
    assert_string_equal(a->message_id, "");
    assert_int_equal(totals(f).keys, 0);
    assert_int_equal(totals(f).bytes, 0);
    fixture_free(f);
}

static void a_purge_before_the_commit_takes_the_message_after_it(void **state)
{
    struct fixture *f = durable_new(fixture_limits());

    (void)state;
    send_as(f, (struct sending){.to = "a", .payload = "1", .uncommitted = true});
    assert_int_equal(close_workflow(f, "w", true)->dropped, 1);
    assert_int_equal(totals(f).purged, 0);
    f->store->ops->commit(f->store);
    commit(f, true);
    assert_int_equal(totals(f).purged, 1);
    assert_true(mbox_needs_commit(f->core));
    assert_int_equal(totals(f).boxes, 0);
    fixture_free(f);
}

static void a_message_that_expired_before_its_commit_is_a_dead_letter(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());

    (void)state;
    park(f, "a", 1, 1, 60000);
    send_as(f, (struct sending){.to = "a", .payload = "1", .ttl_ms = 10, .uncommitted = true});
    f->now += SEC;
    commit(f, true);
    assert_null(poll_end(f, 0));
    assert_int_equal(totals(f).dead_now, 1);
    fixture_free(f);
}

static void limits_of_workflow_and_total_refuse_dead_letters_counted(void **state)
{
    struct mbox_limits limits = fixture_limits();
    struct fixture *f;

    (void)state;
    limits.workflow_messages = 3;
    limits.total_messages = 5;
    f = fixture_new(limits);
    send_as(f, (struct sending){.to = "a", .payload = "1", .ttl_ms = 100});
    tick(f, SEC);
    assert_int_equal(send_to(f, "b", "1"), ERR_OK);
    assert_int_equal(send_to(f, "c", "1"), ERR_OK);
    assert_int_equal(send_to(f, "d", "1"), ERR_MAILBOX_FULL);
    assert_int_equal(send_as(f, (struct sending){.workflow = "v", .to = "a", .payload = "1"})->err,
                     ERR_OK);
    assert_int_equal(send_as(f, (struct sending){.workflow = "v", .to = "b", .payload = "1"})->err,
                     ERR_OK);
    assert_int_equal(send_as(f, (struct sending){.workflow = "v", .to = "b", .payload = "1"})->err,
                     ERR_MAILBOX_FULL);
    fixture_free(f);
    limits = fixture_limits();
    limits.workflow_bytes = 10;
    f = fixture_new(limits);
    assert_int_equal(send_to(f, "a", "123456"), ERR_OK);
    assert_int_equal(send_to(f, "b", "12345"), ERR_MAILBOX_FULL);
    assert_int_equal(send_to(f, "b", "1234"), ERR_OK);
    fixture_free(f);
}

static void one_id_is_taken_so_often_in_a_box_and_no_more(void **state)
{
    struct mbox_limits limits = fixture_limits();
    struct sending s = {.to = "a", .payload = "1", .id = "same"};
    char id[300];
    struct fixture *f;
    int i;

    (void)state;
    limits.box_messages = 1000;
    f = fixture_new(limits);
    for (i = 0; i < 64; i++)
        assert_int_equal(send_as(f, s)->err, ERR_OK);
    assert_int_equal(send_as(f, s)->err, ERR_VALUE);
    s.to = "b";
    assert_int_equal(send_as(f, s)->err, ERR_OK);
    memset(id, 'x', sizeof(id));
    id[257] = '\0';
    s.id = id;
    assert_int_equal(send_as(f, s)->err, ERR_ID);
    id[256] = '\0';
    assert_int_equal(send_as(f, s)->err, ERR_OK);
    fixture_free(f);
}

/* ---- keys ---- */

static void a_repeated_request_gets_its_first_answer_and_does_nothing(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    struct sending s = {.to = "*", .payload = "1", .key = "k"};
    char id[64];

    (void)state;
    receive(f, "a", 1);
    receive(f, "b", 1);
    strcpy(id, send_as(f, s)->message_id);
    assert_int_equal(f->sent.count, 2);
    receive(f, "c", 1); /* would be a target now */
    tick(f, 299 * SEC);
    send_as(f, s);
    assert_true(f->sent.replayed);
    assert_string_equal(f->sent.message_id, id);
    assert_int_equal(f->sent.count, 2);
    assert_string_equal(f->names[0], "a");
    assert_string_equal(f->names[1], "b");
    assert_int_equal(totals(f).sent, 2);
    assert_int_equal(totals(f).replayed, 1);
    tick(f, SEC); /* the window is over */
    send_as(f, s);
    assert_false(f->sent.replayed);
    assert_int_equal(totals(f).sent, 5);
    fixture_free(f);
}

static void a_key_with_another_body_is_refused_and_elsewhere_is_another_key(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    struct sending s = {.to = "a", .payload = "1", .key = "k"};

    (void)state;
    assert_int_equal(send_as(f, s)->err, ERR_OK);
    s.payload = "2";
    assert_int_equal(send_as(f, s)->kind, MBOX_REPLY);
    assert_int_equal(f->sent.err, ERR_IDEMPOTENCY);
    s.payload = "1";
    s.priority = 1;
    assert_int_equal(send_as(f, s)->err, ERR_IDEMPOTENCY);
    s.workflow = "v";
    assert_int_equal(send_as(f, s)->err, ERR_OK);
    assert_int_equal(totals(f).sent, 2);
    fixture_free(f);
}

static void a_request_in_which_nothing_was_taken_is_tried_again(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    struct sending s = {.to = "a", .payload = "1", .key = "k"};
    uint64_t d;
    int i;

    (void)state;
    for (i = 0; i < 10; i++)
        send_to(f, "a", "1");
    assert_int_equal(send_as(f, s)->err, ERR_MAILBOX_FULL);
    assert_int_equal(totals(f).keys, 0);
    d = receive(f, "a", 1)->delivery;
    settle(f, 1, d, true);
    assert_int_equal(send_as(f, s)->err, ERR_OK);
    fixture_free(f);
}

static void a_key_goes_with_the_failed_commit_of_its_messages(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    struct sending s = {.to = "a", .payload = "1", .key = "k", .uncommitted = true};

    (void)state;
    assert_int_equal(send_as(f, s)->err, ERR_OK);
    send_as(f, s); /* the same turn: one promise, given twice */
    assert_true(f->sent.replayed);
    commit(f, false);
    assert_int_equal(totals(f).keys, 0);
    send_as(f, s);
    assert_false(f->sent.replayed);
    commit(f, true);
    assert_int_equal(totals(f).queued, 1);
    fixture_free(f);
}

static void a_bulk_answer_is_given_again_message_by_message(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    struct mbox_draft d[3] = {
        {.source = "s", .target = "a", .type = "t", .payload = "1", .payload_len = 1},
        {.source = "s", .target = "a", .type = "t", .payload = "22", .payload_len = 5000},
        {.source = "s", .target = "b", .type = "t", .payload = "3", .payload_len = 1},
    };
    struct mbox_event e = {.kind = MBOX_SEND};
    char ids[2][64], text[5000] = "22";

    (void)state;
    d[1].payload = text;
    e.send.tenant = "t";
    e.send.workflow = "w";
    e.send.drafts = d;
    e.send.draft_count = 3;
    e.send.idempotency_key = "k";
    step(f, &e);
    strcpy(ids[0], f->out.items[0].message_id);
    strcpy(ids[1], f->out.items[2].message_id);
    commit(f, true);
    step(f, &e);
    assert_int_equal(f->out.len, 3);
    assert_string_equal(f->out.items[0].message_id, ids[0]);
    assert_int_equal(f->out.items[1].err, ERR_TOO_LARGE);
    assert_int_equal(f->out.items[1].count, 0);
    assert_string_equal(f->out.items[2].message_id, ids[1]);
    assert_string_equal(f->out.names[f->out.items[2].first], "b");
    assert_true(f->out.items[2].replayed);
    assert_int_equal(totals(f).queued, 2);
    fixture_free(f);
}

/* What decides is the payload, not how it travelled; also where it is too large to be looked at. */
static void a_repeat_is_one_whether_it_comes_compressed_or_not(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    struct mbox_draft d[] = {
        {.source = "s", .target = "a", .type = "t", .payload_len = 1000},
        {.source = "s", .target = "a", .type = "t", .payload_len = 5000},
    };
    char text[5000], block[1000];
    struct mbox_event e = {.kind = MBOX_SEND};

    (void)state;
    memset(text, '1', sizeof(text));
    d[0].payload = text;
    d[1].payload = text;
    e.send.tenant = "t";
    e.send.workflow = "w";
    e.send.drafts = d;
    e.send.draft_count = 2;
    e.send.idempotency_key = "k";
    step(f, &e);
    commit(f, true);
    d[0].block = block;
    d[0].block_len = payload_block(text, 1000, block);
    d[1].payload = NULL;
    step(f, &e);
    assert_int_equal(f->out.len, 2);
    assert_true(f->out.items[0].replayed);
    assert_int_equal(f->out.items[0].err, ERR_OK);
    assert_int_equal(f->out.items[1].err, ERR_TOO_LARGE);
    text[999] = '2';
    step(f, &e);
    assert_int_equal(reply(f)->err, ERR_IDEMPOTENCY);
    assert_int_equal(totals(f).queued, 1);
    fixture_free(f);
}

static void a_huge_answer_is_remembered_without_its_targets(void **state)
{
    static char names[20][240];
    static struct mbox_draft d[300];
    const char *agents[20];
    struct mbox_limits limits = fixture_limits();
    struct mbox_event e = {.kind = MBOX_SEND};
    struct fixture *f;
    int i;

    (void)state;
    limits.box_messages = 1000;
    limits.total_bytes = 64 << 20;
    f = fixture_new(limits);
    for (i = 0; i < 20; i++) {
        memset(names[i], 'a' + i, sizeof(names[i]) - 1);
        agents[i] = names[i];
    }
    for (i = 0; i < 300; i++)
        d[i] = (struct mbox_draft){
            .source = "s", .target = "*", .type = "t", .payload = "1", .payload_len = 1};
    e.send.tenant = "t";
    e.send.workflow = "w";
    e.send.drafts = d;
    e.send.draft_count = 300;
    e.send.agents = agents;
    e.send.agent_count = 20;
    e.send.idempotency_key = "k";
    step(f, &e);
    assert_int_equal(f->out.items[299].count, 20);
    commit(f, true);
    step(f, &e);
    assert_int_equal(f->out.len, 300);
    assert_true(f->out.items[299].replayed);
    assert_int_equal(f->out.items[299].count, 0);
    assert_int_equal(strlen(f->out.items[299].message_id), MBOX_ID_LEN);
    fixture_free(f);
}

static void keys_never_take_the_room_of_messages(void **state)
{
    struct mbox_limits limits = fixture_limits();
    struct fixture *f;
    char key[16];
    int i;

    (void)state;
    limits.max_keys = 1000000;
    limits.total_bytes = 64 << 10;
    f = fixture_new(limits);
    for (i = 0; i < 2000; i++) {
        snprintf(key, sizeof(key), "k%d", i);
        send_as(f, (struct sending){.to = "a", .payload = "1", .key = key});
        assert_int_equal(f->sent.err, ERR_OK);
        settle(f, 1, receive(f, "a", 1)->delivery, true);
        assert_true(totals(f).bytes < (64 << 10) / 4);
    }
    assert_in_range(totals(f).keys, 10, 500);
    send_as(f, (struct sending){.to = "a", .payload = "1", .key = key});
    assert_true(f->sent.replayed);
    fixture_free(f);
}

static void the_oldest_keys_give_way(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    struct sending s = {.to = "a", .payload = "1"};
    char key[16];
    int i;

    (void)state;
    for (i = 0; i < 12; i++) { /* ten fit */
        snprintf(key, sizeof(key), "k%d", i);
        s.key = key;
        s.to = i < 8 ? "a" : "b";
        assert_int_equal(send_as(f, s)->err, ERR_OK);
    }
    assert_int_equal(totals(f).keys, 10);
    send_as(f, s);
    assert_true(f->sent.replayed);
    s.key = "k1";
    s.to = "a";
    send_as(f, s);
    assert_false(f->sent.replayed);
    fixture_free(f);
}

static bool is_remembered(struct fixture *f, const char *workflow, const char *key)
{
    send_as(f, (struct sending){.workflow = workflow, .to = "a", .payload = "1", .key = key});
    assert_int_equal(f->sent.err, ERR_OK);
    settle(f, 1,
           receive_as(f, (struct reading){.workflow = workflow, .agent = "a", .peer = 1, .max = 9})
               ->delivery,
           true);
    return f->sent.replayed;
}

static void a_flood_of_keys_ends_the_window_of_its_own_workflow_alone(void **state)
{
    struct fixture *f = fixture_new(fixture_limits());
    char key[16];
    int i;

    (void)state; /* ten keys fit */
    is_remembered(f, "quiet", "k1");
    is_remembered(f, "quiet", "k2");
    for (i = 0; i < 100; i++) {
        snprintf(key, sizeof(key), "f%d", i);
        assert_false(is_remembered(f, "flood", key));
    }
    assert_int_equal(totals(f).keys, 10);
    assert_true(is_remembered(f, "quiet", "k1"));
    assert_true(is_remembered(f, "quiet", "k2"));
    assert_true(is_remembered(f, "flood", "f99"));
    assert_true(is_remembered(f, "flood", "f92"));
    assert_false(is_remembered(f, "flood", "f91"));
    fixture_free(f);
}

static void huge_answers_of_one_workflow_leave_the_keys_of_others(void **state)
{
    static char agents_text[40][240];
    const char *agents[40];
    struct mbox_limits limits = fixture_limits();
    struct fixture *f;
    char key[16];
    int i;

    (void)state;
    limits.max_keys = 1000000;
    limits.total_bytes = 4 << 20; /* half a megabyte for answers */
    f = fixture_new(limits);
    for (i = 0; i < 40; i++) {
        memset(agents_text[i], 'a' + i % 26, sizeof(agents_text[i]) - 1);
        agents_text[i][i] = '-';
        agents[i] = agents_text[i];
    }
    for (i = 0; i < 20; i++) {
        snprintf(key, sizeof(key), "k%d", i);
        assert_false(is_remembered(f, "quiet", key));
    }
    for (i = 0; i < 100; i++) {
        snprintf(key, sizeof(key), "f%d", i);
        send_as(f, (struct sending){.workflow = "flood",
                                    .to = "*",
                                    .payload = "1",
                                    .key = key,
                                    .agents = agents,
                                    .agent_count = 40});
        assert_int_equal(f->sent.count, 40);
        close_workflow(f, "flood", true);
        assert_true(totals(f).bytes < 1 << 20);
    }
    assert_in_range(totals(f).keys, 30, 100);
    for (i = 0; i < 20; i++) {
        snprintf(key, sizeof(key), "k%d", i);
        assert_true(is_remembered(f, "quiet", key));
    }
    fixture_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_message_is_seen_with_its_commit_and_not_before),
        cmocka_unit_test(after_a_failed_commit_there_never_was_a_message),
        cmocka_unit_test(what_is_not_committed_counts_against_the_limits),
        cmocka_unit_test(a_store_that_takes_nothing_is_told_as_it_is),
        cmocka_unit_test(a_purge_before_the_commit_takes_the_message_after_it),
        cmocka_unit_test(a_message_that_expired_before_its_commit_is_a_dead_letter),
        cmocka_unit_test(limits_of_workflow_and_total_refuse_dead_letters_counted),
        cmocka_unit_test(one_id_is_taken_so_often_in_a_box_and_no_more),
        cmocka_unit_test(a_repeated_request_gets_its_first_answer_and_does_nothing),
        cmocka_unit_test(a_key_with_another_body_is_refused_and_elsewhere_is_another_key),
        cmocka_unit_test(a_request_in_which_nothing_was_taken_is_tried_again),
        cmocka_unit_test(a_key_goes_with_the_failed_commit_of_its_messages),
        cmocka_unit_test(a_bulk_answer_is_given_again_message_by_message),
        cmocka_unit_test(a_repeat_is_one_whether_it_comes_compressed_or_not),
        cmocka_unit_test(a_huge_answer_is_remembered_without_its_targets),
        cmocka_unit_test(keys_never_take_the_room_of_messages),
        cmocka_unit_test(the_oldest_keys_give_way),
        cmocka_unit_test(a_flood_of_keys_ends_the_window_of_its_own_workflow_alone),
        cmocka_unit_test(huge_answers_of_one_workflow_leave_the_keys_of_others),
        cmocka_unit_test(what_a_reader_took_before_the_commit_is_not_pushed_out),
        cmocka_unit_test(what_a_failed_send_would_have_pushed_out_stays),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
