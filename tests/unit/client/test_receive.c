/* SPDX-License-Identifier: Apache-2.0 */
#include <poll.h>

#include "tests/unit/client/scripted_mailbox.h"

static void a_parked_receive_ends_with_its_event(void **state)
{
    const struct slipstream_messages *list;

    (void)state;
    box.parks = true;
    box.delivery = 6;
    assert_int_equal(slipstream_receive_start(s, &waiting, on_done, NULL, NULL), 0);
    TURN_UNTIL(box.parked == 1);
    messages_answer(0, box.poll);
    TURN_UNTIL(ended.count == 1);
    list = ended.result;
    assert_int_equal(list->count, 1);
    TURN_UNTIL(strstr(story(), "settle") != NULL);
    assert_string_equal(story(), "receive:a settle:6+ ");
    forget();
}

static void many_readers_park_at_once_and_each_gets_its_own(void **state)
{
    uint64_t polls[50];
    unsigned i;

    (void)state;
    box.parks = true;
    for (i = 0; i < 50; i++) {
        assert_int_equal(slipstream_receive_start(s, &waiting, on_done, NULL, NULL), 0);
        TURN_UNTIL(box.parked == i + 1);
        polls[i] = box.poll;
    }
    for (i = 50; i-- > 0;) {
        messages_answer(0, polls[i]);
        TURN_UNTIL(ended.count == 50 - i);
        assert_int_equal(((struct slipstream_messages *)ended.result)->count, 1);
    }
    forget();
}

static void a_receive_that_waits_is_asked_again_after_a_restart(void **state)
{
    uint64_t poll;

    (void)state;
    box.parks = true;
    assert_int_equal(slipstream_receive_start(s, &waiting, on_done, NULL, NULL), 0);
    TURN_UNTIL(box.parked == 1);
    poll = box.poll;
    mailbox_close();
    mailbox_open(2);
    TURN_UNTIL(box.parked == 2);
    assert_int_equal(box.poll, poll);
    assert_in_range(box.receive->wait_ms, 1, 60000);
    assert_int_equal(ended.count, 0);
    messages_answer(0, box.poll);
    TURN_UNTIL(ended.count == 1);
    assert_int_equal(ended.error, 0);
    TURN_UNTIL(box.unparks == 1); /* it may be parked twice */
    forget();
}

static void what_arrived_is_held_in_a_mailbox_that_was_started_anew(void **state)
{
    (void)state;
    box.delivery = 5;
    box.messages = 2;
    box.mute_settle = true;
    assert_int_equal(slipstream_receive_start(s, &from_a, on_done, NULL, NULL), 0);
    TURN_UNTIL(ended.count == 1 && strstr(story(), "settle:5+") != NULL);
    box.parks = true;
    assert_int_equal(slipstream_receive_start(s, &waiting, on_done, NULL, NULL), 0);
    TURN_UNTIL(box.parked == 1);
    mailbox_close();
    buf_clear(&seen);
    box.mute_settle = false;
    mailbox_open(2);
    TURN_UNTIL(box.parked == 2 && strstr(story(), "settle") != NULL);
    /* Before the other receive is parked there, which would be given the same messages. */
    assert_string_equal(story(), "hold:w/a/m0/m1 receive:a settle:77+ ");
    forget();
}

static void that_it_arrived_is_said_again_to_a_mailbox_that_still_knows(void **state)
{
    (void)state;
    box.delivery = 5;
    box.mute_settle = true;
    assert_int_equal(slipstream_receive_start(s, &from_a, on_done, NULL, NULL), 0);
    TURN_UNTIL(ended.count == 1 && strstr(story(), "settle:5+") != NULL);
    mailbox_close();
    buf_clear(&seen);
    box.mute_settle = false;
    mailbox_open(1);
    TURN_UNTIL(s->settling_count == 0);
    assert_string_equal(story(), "settle:5+ ");
    forget();
}

static void what_nobody_waits_for_goes_back(void **state)
{
    (void)state;
    box.delivery = 9;
    assert_int_equal(send_start("m"), 0);
    TURN_UNTIL(ended.count == 1);
    messages_answer(0, 12345);
    TURN_UNTIL(strstr(story(), "settle") != NULL);
    assert_string_equal(story(), "send:m settle:9- ");
    forget();
}

static void a_receive_that_is_stopped_ends_soon_and_loses_nothing(void **state)
{
    const struct slipstream_messages *list;
    uint64_t call;

    (void)state;
    box.parks = true;
    box.delivery = 9;
    assert_int_equal(slipstream_receive_start(s, &waiting, on_done, NULL, &call), 0);
    TURN_UNTIL(box.parked == 1);
    slipstream_receive_stop(s, call);
    slipstream_receive_stop(s, call);
    TURN_UNTIL(ended.count == 1);
    assert_int_equal(ended.error, 0);
    assert_int_equal(((struct slipstream_messages *)ended.result)->count, 0);
    assert_int_equal(box.unparks, 1);
    slipstream_receive_stop(s, call); /* ended long ago */

    box.event_on_unpark = true; /* a message crosses the stop */
    assert_int_equal(slipstream_receive_start(s, &waiting, on_done, NULL, &call), 0);
    TURN_UNTIL(box.parked == 2);
    slipstream_receive_stop(s, call);
    TURN_UNTIL(ended.count == 2 && strstr(story(), "settle:9") != NULL);
    list = ended.result; /* it is here, or it went back */
    assert_non_null(strstr(story(), list->count == 1 ? "settle:9+" : "settle:9-"));
    forget();
}

static void a_receive_without_a_link_can_be_stopped(void **state)
{
    uint64_t call;

    (void)state;
    mailbox_close();
    assert_int_equal(slipstream_receive_start(s, &waiting, on_done, NULL, &call), 0);
    slipstream_receive_stop(s, call);
    assert_int_equal(slipstream_turn(s, 0), 0);
    assert_int_equal(ended.count, 1);
    assert_int_equal(ended.error, 0);
    forget();
    mailbox_open(1);
}

static void closing_ends_all_that_is_under_way(void **state)
{
    (void)state;
    box.parks = true;
    assert_int_equal(slipstream_receive_start(s, &waiting, on_done, NULL, NULL), 0);
    TURN_UNTIL(box.parked == 1);
    box.mute = true;
    assert_int_equal(send_start("m"), 0);
    assert_int_equal(slipstream_receive_start(s, &from_a, on_done, NULL, NULL), 0);
    TURN_UNTIL(strstr(story(), "0 1 ") != NULL);
    slipstream_close(s);
    assert_int_equal(ended.count, 3);
    assert_int_equal(ended.ok, 0);
    assert_int_equal(ended.error, SLIPSTREAM_CANCELLED);
    forget();

    open_handle(20000);
    mailbox_close();
    assert_int_equal(send_start("m"), 0); /* waits for the link */
    slipstream_close(s);
    assert_int_equal(ended.count, 1);
    assert_int_equal(ended.error, SLIPSTREAM_CANCELLED);
    forget();
    mailbox_open(1);
    s = NULL;
}

static unsigned chain;

static void on_chain(void *arg, int error, void *result)
{
    struct slipstream_box b;

    assert_int_equal(error, 0);
    slipstream_free(result);
    assert_int_equal(slipstream_box_get(s, "w", "a", &b), SLIPSTREAM_INVALID);
    assert_int_equal(slipstream_send(s, &to_w, &small, 1, arg), SLIPSTREAM_INVALID);
    if (--chain > 0)
        assert_int_equal(slipstream_send_start(s, &to_w, &small, 1, on_chain, NULL), 0);
}

static void a_callback_may_start_calls_but_not_block(void **state)
{
    (void)state;
    chain = 100;
    assert_int_equal(slipstream_send_start(s, &to_w, &small, 1, on_chain, NULL), 0);
    TURN_UNTIL(chain == 0);
    assert_int_equal(box.sends, 100);
}

static void a_blocking_call_serves_those_under_way(void **state)
{
    struct slipstream_box b;

    (void)state;
    assert_int_equal(send_start("m"), 0);
    serve_start();
    assert_int_equal(slipstream_box_get(s, "w", "a", &b), 0);
    serve_end();
    assert_int_equal(ended.count, 1);
    forget();
}

static void a_handle_fits_into_a_loop_of_the_program(void **state)
{
    struct pollfd fd = {.fd = slipstream_fd(s), .events = POLLIN};

    (void)state;
    assert_int_equal(send_start("m"), 0);
    serve_start();
    while (slipstream_turn(s, 0) > 0)
        assert_true(poll(&fd, 1, slipstream_wait_ms(s)) >= 0);
    serve_end();
    assert_int_equal(ended.ok, 1);
    assert_int_equal(slipstream_fd(s), fd.fd);
    forget();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        MAIL_TEST(a_parked_receive_ends_with_its_event),
        MAIL_TEST(many_readers_park_at_once_and_each_gets_its_own),
        MAIL_TEST(a_receive_that_waits_is_asked_again_after_a_restart),
        MAIL_TEST(what_arrived_is_held_in_a_mailbox_that_was_started_anew),
        MAIL_TEST(that_it_arrived_is_said_again_to_a_mailbox_that_still_knows),
        MAIL_TEST(what_nobody_waits_for_goes_back),
        MAIL_TEST(a_receive_that_is_stopped_ends_soon_and_loses_nothing),
        MAIL_TEST(a_receive_without_a_link_can_be_stopped),
        MAIL_TEST(closing_ends_all_that_is_under_way),
        MAIL_TEST(a_callback_may_start_calls_but_not_block),
        MAIL_TEST(a_blocking_call_serves_those_under_way),
        MAIL_TEST(a_handle_fits_into_a_loop_of_the_program),
    };

    RUN_OVER_BOTH(tests);
}
