/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/common/rpc_both.h"

static void a_call_is_answered(void **state)
{
    (void)state;
    server_start(7);
    client_start();
    assert_int_equal(up_epoch, 7);
    assert_int_equal(rpc_client_epoch(client), 7);
    assert_int_equal(place(1, 1000, NULL), ERR_OK);
    assert_int_equal(done_ok, 0);
    turn_until(done_ok == 1);
    assert_int_equal(rpc_server_peers(server), 1);
    assert_string_equal(rpc_peer_name(peer), "test");
    assert_true(rpc_peer_is_local(peer));
}

static void many_calls_in_flight_are_answered_in_order(void **state)
{
    unsigned i;

    (void)state;
    server_start(7);
    client_start();
    for (i = 0; i < CALLS; i++) {
        assert_int_equal(place(i + 1, 10000, NULL), ERR_OK);
        if (i % 50 == 0)
            loop_turn(loop, 0);
    }
    turn_until(done_ok == CALLS);
    assert_int_equal(served, CALLS);
    assert_int_equal(disorder, 0);
}

static void calls_may_be_answered_until_the_flush_and_in_any_order(void **state)
{
    unsigned i;

    (void)state;
    server_start(7);
    client_start();
    for (habit = KEEPS_ODD; habit <= KEEPS_ALL; habit++) {
        for (i = 0; i < 100; i++)
            assert_int_equal(place(i + 1, 10000, NULL), ERR_OK);
        last_handle = 0;
        turn_until(done_ok == 100 * (unsigned)habit);
    }
    assert_int_equal(served, 200);
    assert_int_equal(disorder, 0);
    habit = ANSWERS_AT_ONCE;
    assert_int_equal(place(1, 10000, NULL), ERR_OK);
    turn_until(done_ok == 201);
}

static void a_call_that_is_not_answered_by_the_flush_holds_up_no_other(void **state)
{
    (void)state;
    server_start(7);
    client_start();
    habit = KEEPS_ODD;
    is_lazy = true;
    place(1, 50, on_late);
    place(2, 10000, NULL);
    place(3, 50, NULL);
    turn_until(done_ok == 1 && kept_count == 2);
    while (kept_count > 0)
        assert_int_equal(answer_kept(), ERR_GONE);
    turn_until(done_timeout == 2);
    assert_int_equal(lates, 0);
    habit = ANSWERS_AT_ONCE;
    place(4, 10000, NULL);
    turn_until(done_ok == 2);
    assert_int_equal(downs, 0);
}

static void a_token_is_good_for_one_answer(void **state)
{
    (void)state;
    server_start(7);
    client_start();
    habit = KEEPS_ALL;
    is_doubtful = true;
    place(1, 10000, NULL);
    turn_until(done_ok == 1);
    assert_int_equal(refused, 1);
}

static void calls_without_room_are_refused_and_those_with_room_answered(void **state)
{
    unsigned taken = 0;
    enum err e;

    (void)state;
    server_start(7);
    client_start();
    while ((e = place(taken + 1, 10000, NULL)) == ERR_OK)
        taken++;
    assert_int_equal(e, ERR_BUSY);
    assert_true(taken > 1000);
    turn_until(done_ok + done_other == taken);
    assert_int_equal(done_other, 0);
}

static void statuses_travel_and_what_is_unknown_or_too_large_is_said_so(void **state)
{
    Slipstream__V1__Empty empty;

    slipstream__v1__empty__init(&empty);
    (void)state;
    server_start(7);
    client_start();
    rpc_call(client, 3, &empty.base, 1000, on_done, NULL, 1, NULL);
    turn_until(done_other == 1);
    assert_int_equal(last_status, ERR_MODEL);
    rpc_call(client, 60, &empty.base, 1000, on_done, NULL, 1, NULL);
    turn_until(done_other == 2);
    assert_int_equal(last_status, ERR_UNIMPLEMENTED);
    rpc_call(client, GET_STATUS, &empty.base, 1000, on_done, NULL, 1, NULL);
    turn_until(done_other == 3);
    assert_int_equal(last_status, ERR_TOO_LARGE);
    assert_int_equal(downs, 0);
}

static void a_request_larger_than_a_frame_is_refused(void **state)
{
    Slipstream__V1__Query q;
    size_t n = channel == RPC_NNG || ring_bytes > 0 ? RPC_NNG_FRAME_MAX : RPC_RING_BYTES / 4;
    unsigned i;

    slipstream__v1__query__init(&q);
    (void)state;
    server_start(7);
    client_start();
    q.model = malloc(n);
    memset(q.model, 'm', n);
    q.model[n - 1] = '\0';
    assert_int_equal(rpc_call(client, PLACE, &q.base, 1000, on_done, NULL, 1, NULL), ERR_TOO_LARGE);
    q.model[n - 200] = '\0';
    for (i = 0; i < 3; i++)
        assert_int_equal(rpc_call(client, PLACE, &q.base, ANY_MS, on_done, NULL, 0, NULL), ERR_OK);
    turn_until(done_ok == 3);
    free(q.model);
}

static void a_server_may_offer_rings_for_frames_as_large_as_over_nng(void **state)
{
    ring_bytes = 4 * RPC_NNG_FRAME_MAX;
    a_request_larger_than_a_frame_is_refused(state);
}

static void answers_of_many_megabytes_travel_in_a_large_ring(void **state)
{
    Slipstream__V1__Empty empty;
    unsigned i;

    slipstream__v1__empty__init(&empty);
    (void)state;
    ring_bytes = 4 * RPC_NNG_FRAME_MAX;
    server_start(7);
    client_start();
    status_bytes = 3u << 20;
    for (i = 0; i < 5; i++)
        rpc_call(client, GET_STATUS, &empty.base, ANY_MS, on_status, NULL, 1, NULL);
    turn_until(done_ok == 5);
    assert_int_equal(downs, 0);
}

static void one_way_calls_arrive_all_and_batched(void **state)
{
    unsigned i;

    (void)state;
    server_start(7);
    client_start();
    for (i = 1; i <= 500; i++) {
        assert_int_equal(report(i), ERR_OK);
        if (i % 7 == 0)
            loop_turn(loop, 0);
    }
    turn_until(reports == 500);
    assert_int_equal(report_sum, 500 * 501 / 2);
}

/* Each link may be served for so long, then it is the next one's turn. */
static void a_ring_full_of_calls_holds_up_no_other_ring(void **state)
{
    struct rpc_client *flood, *other;
    const unsigned all = 60000;
    unsigned i;

    (void)state;
    ring_bytes = 4u << 20;
    server_start(7);
    client_start();
    flood = client;
    client = other = client_new(NULL);
    turn_until(ups == 2);
    client = flood;
    for (i = 1; i <= all; i++) {
        assert_int_equal(report(i), ERR_OK);
        if (i % 500 == 0)
            rpc_client_flush(flood);
    }
    client = other;
    assert_int_equal(place(1, 10000, NULL), ERR_OK);
    rpc_client_flush(other);
    turn_until(done_ok == 1);
    assert_in_range(reports_before_place, 0, all / 3);
    turn_until(reports == all); /* and the rest needs no ringing */
    rpc_client_close(flood);
}

static void a_late_answer_goes_to_who_wanted_it(void **state)
{
    (void)state;
    server_start(7);
    client_start();
    /* No turn in between: the deadline has passed before the loop looks. */
    assert_int_equal(place(1, 0, on_late), ERR_OK);
    assert_int_equal(place(2, 0, NULL), ERR_OK);
    turn_until(done_timeout == 2);
    turn_until(lates == 1);
    assert_int_equal(place(3, 1000, NULL), ERR_OK);
    turn_until(done_ok == 1);
    assert_int_equal(downs, 0);
}

static void a_call_that_nobody_answers_times_out(void **state)
{
    (void)state;
    server_start(7);
    client_start();
    is_mute = true;
    assert_int_equal(place(1, 5, on_late), ERR_OK);
    turn_until(done_timeout == 1 && served == 1);
    is_mute = false;
    assert_int_equal(place(2, 1000, NULL), ERR_OK);
    turn_until(done_ok == 1);
    assert_int_equal(lates, 0);
}

static void events_arrive_once_and_in_order(void **state)
{
    unsigned i;

    (void)state;
    server_start(7);
    client_start();
    grants_per_call = 3;
    for (i = 0; i < 300; i++) {
        assert_int_equal(place(i + 1, 10000, NULL), ERR_OK);
        loop_turn(loop, 0);
    }
    turn_until(done_ok == 300 && events == 900);
    assert_int_equal(event_sum, 900 * 901 / 2);
    assert_int_equal(disorder, 0);
}

static void events_of_a_turn_may_be_many_megabytes(void **state)
{
    Slipstream__V1__Decision d;
    unsigned sent = 0;

    slipstream__v1__decision__init(&d);
    (void)state;
    server_start(7);
    client_start();
    d.reason = malloc(200000);
    memset(d.reason, 'r', 200000);
    d.reason[199999] = '\0';
    for (;;) {
        d.handle = ++next_grant;
        if (rpc_event(server, peer, 0, &d.base) != ERR_OK)
            break;
        sent++;
    }
    assert_true(sent > 60);
    turn_until(events == sent);
    assert_int_equal(disorder, 0);
    free(d.reason);
}

static void a_restarted_server_is_found_again_with_its_new_epoch(void **state)
{
    (void)state;
    server_start(7);
    client_start();
    is_mute = true;
    assert_int_equal(place(1, 10000, on_late), ERR_OK);
    turn_until(served == 1);
    server_stop();
    turn_until(downs == 1);
    assert_int_equal(done_gone, 1); /* before on_down */
    assert_false(rpc_client_is_up(client));
    assert_int_equal(rpc_client_epoch(client), 0);
    assert_int_equal(place(2, 10, NULL), ERR_GONE);
    assert_int_equal(report(5), ERR_OK); /* dropped: the next server is another */
    is_mute = false;
    server_start(8);
    turn_until(ups == 2);
    assert_int_equal(up_epoch, 8);
    assert_int_equal(place(3, 10000, NULL), ERR_OK);
    turn_until(done_ok == 1);
    assert_int_equal(reports, 0);
    assert_int_equal(gones, 1);
    assert_int_equal(resumed, 0);
}

static void a_peer_that_leaves_is_gone_after_its_grace(void **state)
{
    uint64_t start;

    (void)state;
    server_start(7);
    client_start();
    rpc_client_close(client);
    client = NULL;
    start = clock_ms();
    turn_until(gones == 1);
    assert_true(clock_ms() - start >= 400);
    assert_int_equal(rpc_server_peers(server), 0);
}

static void calls_under_way_end_when_the_client_closes(void **state)
{
    (void)state;
    server_start(7);
    client_start();
    assert_int_equal(place(1, 10000, on_late), ERR_OK);
    rpc_client_close(client);
    client = NULL;
    assert_int_equal(done_other, 1);
    assert_int_equal(last_status, ERR_CANCELLED);
}

static void a_refused_hello_is_told_with_its_reason(void **state)
{
    (void)state;
    server_start(7);
    refuse_hello = true;
    client = client_new("wrong");
    turn_until(downs == 1);
    assert_string_equal(down_reason, "refused: not today");
    assert_false(rpc_client_is_up(client));
    assert_int_equal(rpc_server_peers(server), 0);
    assert_int_equal(gones, 0);
    assert_int_equal(place(1, 100, NULL), ERR_GONE);
    assert_int_equal(report(1), ERR_GONE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        both_carriers(a_call_is_answered),
        both_carriers(many_calls_in_flight_are_answered_in_order),
        both_carriers(calls_may_be_answered_until_the_flush_and_in_any_order),
        both_carriers(a_call_that_is_not_answered_by_the_flush_holds_up_no_other),
        both_carriers(a_token_is_good_for_one_answer),
        both_carriers(calls_without_room_are_refused_and_those_with_room_answered),
        both_carriers(statuses_travel_and_what_is_unknown_or_too_large_is_said_so),
        both_carriers(a_request_larger_than_a_frame_is_refused),
        over_ring(a_server_may_offer_rings_for_frames_as_large_as_over_nng),
        over_ring(answers_of_many_megabytes_travel_in_a_large_ring),
        both_carriers(one_way_calls_arrive_all_and_batched),
        over_ring(a_ring_full_of_calls_holds_up_no_other_ring),
        both_carriers(a_late_answer_goes_to_who_wanted_it),
        both_carriers(a_call_that_nobody_answers_times_out),
        both_carriers(events_arrive_once_and_in_order),
        both_carriers(events_of_a_turn_may_be_many_megabytes),
        both_carriers(a_restarted_server_is_found_again_with_its_new_epoch),
        both_carriers(a_peer_that_leaves_is_gone_after_its_grace),
        both_carriers(calls_under_way_end_when_the_client_closes),
        both_carriers(a_refused_hello_is_told_with_its_reason),
    };

    return cmocka_run_group_tests_name("rpc", tests, group_setup, group_teardown);
}
