/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/common/stranger.h"

/* ---- hello ---- */

static void a_hello_without_a_common_version_is_refused(void **state)
{
    Slipstream__V1__Hello hello = good_hello();
    int fd = stranger_new();

    (void)state;
    hello.proto_min = RPC_PROTO_MAX + 1;
    hello.proto_max = RPC_PROTO_MAX + 9;
    assert_int_equal(stranger_hello(fd, &hello, NULL), ERR_VERSION);
    hello = good_hello();
    hello.session = 0;
    assert_int_equal(stranger_hello(fd, &hello, NULL), ERR_PROTO);
    assert_int_equal(rpc_server_peers(server), 0);
    assert_int_equal(hellos, 0);
    close(fd);
}

static void peers_above_the_limit_are_refused(void **state)
{
    Slipstream__V1__Hello hello = good_hello();
    int fd[5], i;

    (void)state;
    for (i = 0; i < 5; i++) {
        fd[i] = stranger_new();
        hello.session = SESSION + (uint64_t)i;
        assert_int_equal(stranger_hello(fd[i], &hello, NULL), i < 4 ? ERR_OK : ERR_BUSY);
    }
    for (i = 0; i < 5; i++)
        close(fd[i]);
    turn_until(gones == 4);
}

static void a_frame_before_the_hello_or_of_another_epoch_is_told_to_say_hello(void **state)
{
    Slipstream__V1__Hello hello = good_hello();
    struct frame_call call = {.id = 5, .method = RPC_METHOD_BASE};
    struct buf b = {0};
    int fd = stranger_new();

    (void)state;
    stranger_ask(fd, EPOCH, 1, &call, NULL);
    stranger_receive(fd, &b);
    assert_int_equal(first_call(&b).status, ERR_HELLO);
    assert_int_equal(stranger_hello(fd, &hello, NULL), ERR_OK);
    stranger_ask(fd, EPOCH - 1, 1, &call, NULL);
    stranger_receive(fd, &b);
    assert_int_equal(first_call(&b).status, ERR_HELLO);
    assert_int_equal(served, 0);
    stranger_ask(fd, EPOCH, 1, &call, NULL);
    stranger_receive(fd, &b);
    assert_int_equal(first_call(&b).id, 5);
    assert_int_equal(served, 1);
    buf_fini(&b);
    close(fd);
}

static void a_frame_is_handled_once_even_if_it_comes_twice(void **state)
{
    Slipstream__V1__Hello hello = good_hello();
    Slipstream__V1__HelloReply *reply;
    struct buf b = {0};
    int fd = stranger_new(), i;

    (void)state;
    assert_int_equal(stranger_hello(fd, &hello, NULL), ERR_OK);
    for (i = 0; i < 2; i++) {
        stranger_ask(fd, EPOCH, 4, &(struct frame_call){.id = 5, .method = RPC_METHOD_BASE}, NULL);
        stranger_receive(fd, &b);
    }
    assert_int_equal(served, 1);
    assert_int_equal(stranger_hello(fd, &hello, &reply), ERR_OK);
    assert_int_equal(reply->acked, 4);
    assert_true(reply->resumed);
    slipstream__v1__hello_reply__free_unpacked(reply, NULL);
    buf_fini(&b);
    close(fd);
}

static void stranger_asks_and_is_kept(int fd, uint64_t seq)
{
    unsigned before = kept_count;

    stranger_ask(fd, EPOCH, seq,
                 &(struct frame_call){.id = (uint32_t)seq, .method = RPC_METHOD_BASE}, NULL);
    turn_until(kept_count == before + 1);
}

static void who_asks_again_before_the_answer_gets_both(void **state)
{
    Slipstream__V1__Hello hello = good_hello();
    unsigned seen = 0;
    struct buf b = {0};
    int fd = stranger_new(), i;

    (void)state;
    assert_int_equal(stranger_hello(fd, &hello, NULL), ERR_OK);
    keeps = true;
    awaits = 3; /* no flush until the test lets it */
    stranger_asks_and_is_kept(fd, 1);
    stranger_asks_and_is_kept(fd, 2);
    for (i = 0; i < 2; i++)
        assert_int_equal(rpc_reply(server, kept[i], ERR_OK, NULL), ERR_OK);
    for (i = 0; i < 2; i++) {
        struct frame_reader r;
        struct frame_head head;
        struct frame_call call;

        stranger_receive(fd, &b);
        assert_int_equal(frame_open(&r, (uint8_t *)b.base, b.len, &head), ERR_OK);
        while (frame_next(&r, &call))
            seen |= 1u << call.id;
    }
    assert_int_equal(seen, 1u << 1 | 1u << 2);
    buf_fini(&b);
    close(fd);
}

static void nobody_waits_for_an_answer_after_a_new_hello_or_the_end_of_a_peer(void **state)
{
    Slipstream__V1__Hello hello = good_hello();
    int fd = stranger_new();

    (void)state;
    assert_int_equal(stranger_hello(fd, &hello, NULL), ERR_OK);
    keeps = true;
    awaits = 3;
    stranger_asks_and_is_kept(fd, 1);
    stranger_asks_and_is_kept(fd, 2);
    stranger_ask(fd, 0, 0, &(struct frame_call){.id = 1, .method = FRAME_HELLO}, &hello.base);
    turn_until(hellos == 2);
    assert_int_equal(rpc_reply(server, kept[0], ERR_OK, NULL), ERR_GONE);
    kept_count--;
    stranger_asks_and_is_kept(fd, 3);
    hello.session++;
    stranger_ask(fd, 0, 0, &(struct frame_call){.id = 1, .method = FRAME_HELLO}, &hello.base);
    turn_until(gones == 1);
    assert_int_equal(rpc_reply(server, kept[1], ERR_OK, NULL), ERR_GONE);
    close(fd);
    client_start(RPC_NNG);
    keeps = false;
    awaits = 0;
    good_client_is_served();
}

/* ---- events ---- */

static uint64_t stranger_next(int fd, uint64_t seq, uint64_t acked)
{
    Slipstream__V1__Next next;
    struct buf b = {0};
    uint64_t event;

    slipstream__v1__next__init(&next);
    next.acked = acked;
    stranger_ask(fd, EPOCH, seq, &(struct frame_call){.id = 1, .method = FRAME_NEXT}, &next.base);
    stranger_receive(fd, &b);
    event = first_call(&b).event;
    buf_fini(&b);
    return event;
}

static void an_event_is_sent_again_until_it_is_confirmed(void **state)
{
    Slipstream__V1__Hello hello = good_hello();
    int fd = stranger_new();

    (void)state;
    assert_int_equal(stranger_hello(fd, &hello, NULL), ERR_OK);
    event_send(stranger_peer, 1);
    assert_int_equal(stranger_next(fd, 1, 0), 1);
    close(fd); /* the link breaks, the session does not */
    fd = stranger_new();
    assert_int_equal(stranger_hello(fd, &hello, NULL), ERR_OK);
    assert_int_equal(resumed, 1);
    assert_int_equal(stranger_next(fd, 1, 0), 1);
    event_send(stranger_peer, 2);
    assert_int_equal(stranger_next(fd, 2, 1), 2);
    assert_int_equal(gones, 0);
    close(fd);
    turn_until(gones == 1);
}

static void stranger_park(int fd, uint64_t seq)
{
    Slipstream__V1__Next next;

    slipstream__v1__next__init(&next);
    stranger_ask(fd, EPOCH, seq, &(struct frame_call){.id = 1, .method = FRAME_NEXT}, &next.base);
}

static void no_event_overtakes_the_answer_that_a_call_of_its_turn_still_waits_for(void **state)
{
    Slipstream__V1__Hello hello = good_hello();
    struct buf b = {0};
    int fd = stranger_new();

    (void)state;
    assert_int_equal(stranger_hello(fd, &hello, NULL), ERR_OK);
    stranger_park(fd, 1);
    turn_until(stranger_peer->parked != NULL);
    keeps = tells = true;
    awaits = 2;
    stranger_asks_and_is_kept(fd, 2);
    assert_int_equal(rpc_reply(server, kept[0], ERR_OK, NULL), ERR_OK);
    stranger_receive(fd, &b);
    assert_int_equal(first_call(&b).id, 2);
    assert_int_equal(first_call(&b).event, 0);
    awaits = 1; /* the flush */
    stranger_receive(fd, &b);
    assert_int_equal(first_call(&b).event, 1);
    buf_fini(&b);
    close(fd);
}

static void a_parked_next_is_answered_empty_after_a_while(void **state)
{
    Slipstream__V1__Hello hello = good_hello();
    struct buf b = {0};
    uint8_t byte;
    int fd = stranger_new();

    (void)state;
    assert_int_equal(stranger_hello(fd, &hello, NULL), ERR_OK);
    clock_set(clock_ns());
    stranger_park(fd, 1);
    while (recv(fd, &byte, 1, MSG_PEEK) != 1) { /* nothing, until the clock has moved */
        clock_advance(NS_PER_S);
        loop_turn(loop, 1);
        usleep(1000);
    }
    assert_true(clock_ns() >= 20 * NS_PER_S);
    clock_set(0);
    stranger_receive(fd, &b);
    assert_int_equal(b.len, FRAME_HEAD_BYTES);
    buf_fini(&b);
    close(fd);
}

static void a_peer_that_falls_silent_is_given_up(void **state)
{
    Slipstream__V1__Hello hello = good_hello();
    int fd = stranger_new();

    (void)state;
    assert_int_equal(stranger_hello(fd, &hello, NULL), ERR_OK);
    clock_set(clock_ns());
    for (unsigned i = 0; i < 40; i++) {
        clock_advance(NS_PER_S);
        loop_turn(loop, 0);
    }
    assert_int_equal(gones, 0);
    for (unsigned i = 0; i < 10; i++) {
        clock_advance(NS_PER_S);
        loop_turn(loop, 0);
    }
    assert_int_equal(gones, 1);
    clock_set(0);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        peer_test(a_hello_without_a_common_version_is_refused),
        peer_test(peers_above_the_limit_are_refused),
        peer_test(a_frame_before_the_hello_or_of_another_epoch_is_told_to_say_hello),
        peer_test(a_frame_is_handled_once_even_if_it_comes_twice),
        peer_test(who_asks_again_before_the_answer_gets_both),
        peer_test(nobody_waits_for_an_answer_after_a_new_hello_or_the_end_of_a_peer),
        peer_test(an_event_is_sent_again_until_it_is_confirmed),
        peer_test(no_event_overtakes_the_answer_that_a_call_of_its_turn_still_waits_for),
        peer_test(a_parked_next_is_answered_empty_after_a_while),
        peer_test(a_peer_that_falls_silent_is_given_up),
    };

    return cmocka_run_group_tests_name("rpc_peer", tests, group_setup, group_teardown);
}
