/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/common/stranger.h"

/* ---- a link of the good client that breaks ---- */

static int ring_socket_of_the_client(void)
{
    socklen_t len;
    int fd, type, found = -1;

    for (fd = 3; fd < 200; fd++) {
        struct sockaddr_un addr;

        len = sizeof(type);
        if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) != 0 || type != SOCK_SEQPACKET)
            continue;
        len = sizeof(addr);
        if (getpeername(fd, (struct sockaddr *)&addr, &len) == 0)
            found = fd;
    }
    return found;
}

static void a_ring_that_breaks_is_made_anew_and_nothing_is_lost(void **state)
{
    unsigned i;

    (void)state;
    client_start(RPC_AUTO);
    assert_true(rpc_client_is_ring(client));
    for (i = 1; i <= 10; i++)
        event_send(client_peer, i);
    turn_until(events == 10);
    place();
    assert_int_equal(shutdown(ring_socket_of_the_client(), SHUT_RDWR), 0);
    for (i = 11; i <= 20; i++)
        event_send(client_peer, i);
    turn_until(ups == 2);
    assert_int_equal(downs, 1);
    assert_int_equal(done + done_gone, 1);
    assert_true(rpc_client_is_ring(client));
    assert_int_equal(resumed, 1);
    place();
    turn_until(events == 20 && done + done_gone == 2);
    assert_int_equal(gones, 0);
}

/* ---- hostility ---- */

static void garbage_costs_only_its_own_connection(void **state)
{
    uint8_t junk[600];
    struct buf b = {0};
    unsigned i, k;
    int fd;

    (void)state;
    client_start(RPC_NNG);
    srand(11);
    for (i = 0; i < 40; i++) {
        fd = stranger_new();
        for (k = 0; k < sizeof(junk); k++)
            junk[k] = (uint8_t)rand();
        stranger_send(fd, junk, (size_t)rand() % sizeof(junk));
        loop_turn(loop, 1);
        stranger_ask(fd, 0, 0, &(struct frame_call){.id = 1, .method = FRAME_HELLO}, NULL);
        loop_turn(loop, 1);
        close(fd);
    }
    fd = stranger_new(); /* more calls than a frame may hold */
    for (i = 0; i <= FRAME_CALLS_MAX; i++)
        frame_add_call(&b, &(struct frame_call){.id = 1, .method = RPC_METHOD_BASE}, NULL);
    stranger_send(fd, b.base, b.len);
    stranger_receive(fd, &b);
    assert_int_equal(b.len, 0);
    close(fd);
    buf_fini(&b);
    good_client_is_served();
    assert_int_equal(stranger_served, 0);
}

static void callers_who_hang_up_at_once_do_not_close_the_door(void **state)
{
    unsigned i;

    (void)state;
    for (i = 0; i < 300; i++)
        close(dial(ipc_path, SOCK_STREAM));
    client_start(RPC_NNG);
    good_client_is_served();
}

/* Each of them can end nng's listener; more ends than listeners fit into the server's table. */
static void the_door_opens_again_however_often_it_closes(void **state)
{
    unsigned ends = 0, tries = 0, i;
    struct stat was, now;

    (void)state;
    clock_set(clock_ns());
    assert_int_equal(stat(ipc_path, &was), 0);
    for (; ends < 80; tries++) {
        assert_true(tries < 20000);
        for (i = 0; i < 5; i++)
            close(dial(ipc_path, SOCK_STREAM));
        clock_advance(NS_PER_S / 2);
        for (i = 0; i < 3; i++)
            loop_turn(loop, 1);
        assert_int_equal(stat(ipc_path, &now), 0);
        ends += now.st_ino != was.st_ino;
        was = now;
    }
    clock_set(0);
    client_start(RPC_NNG);
    good_client_is_served();
}

static void strangers_at_the_ring_door_are_turned_away(void **state)
{
    uint64_t ticket[3] = {UINT64_C(0x31676e6972706c73), SESSION, 12345};
    int fd[20], i;
    char byte;

    (void)state;
    for (i = 0; i < 20; i++) {
        fd[i] = dial(ring_path, SOCK_SEQPACKET);
        if (i % 3 == 0)
            assert_int_equal(send(fd[i], ticket, sizeof(ticket), 0), sizeof(ticket));
        else if (i % 3 == 1)
            assert_int_equal(send(fd[i], "who are you", 11, 0), 11);
    }
    client_start(RPC_SHM);
    good_client_is_served();
    turn_until(recv(fd[0], &byte, 1, 0) == 0 && recv(fd[1], &byte, 1, 0) == 0);
    for (i = 0; i < 20; i++)
        close(fd[i]);
}

static int take_segment(int fd)
{
    char control[CMSG_SPACE(sizeof(int))], byte;
    struct iovec iov = {&byte, 1};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control,
                       .msg_controllen = sizeof(control)};
    uint64_t deadline = clock_ms() + ANY_MS;
    int got;

    while (recvmsg(fd, &m, 0) != 1) {
        assert_true(clock_ms() < deadline);
        loop_turn(loop, 1);
    }
    memcpy(&got, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(got));
    return got;
}

static void a_peer_that_damages_its_ring_loses_it(void **state)
{
    Slipstream__V1__Hello hello = good_hello();
    Slipstream__V1__HelloReply *reply;
    uint64_t ticket[3] = {UINT64_C(0x31676e6972706c73), SESSION, 0};
    char boot_id[40], byte;
    struct ring_shared *to_server;
    struct shm segment;
    int fd = stranger_new(), ring;

    (void)state;
    client_start(RPC_SHM);
    snprintf(boot_id, sizeof(boot_id), "%s", shm_boot_id());
    hello.boot_id = boot_id;
    hello.want_ring = true;
    assert_int_equal(stranger_hello(fd, &hello, &reply), ERR_OK);
    assert_string_equal(reply->ring_path, ring_path);
    ticket[2] = reply->ring_token;
    slipstream__v1__hello_reply__free_unpacked(reply, NULL);
    ring = dial(ring_path, SOCK_SEQPACKET);
    assert_int_equal(send(ring, ticket, sizeof(ticket), 0), sizeof(ticket));
    assert_int_equal(shm_map_fd(take_segment(ring), ring_segment_bytes(RPC_RING_BYTES), &segment),
                     ERR_OK);
    to_server = ring_in_segment(segment.head, RPC_RING_BYTES, true);
    memset(to_server->data, 0xff, RPC_RING_BYTES);
    atomic_store(&to_server->head, 800);
    assert_int_equal(send(ring, "", 1, 0), 1);
    turn_until(gones == 1); /* he says no hello again */
    assert_int_equal(recv(ring, &byte, 1, 0), 0);
    good_client_is_served();
    assert_int_equal(stranger_served, 0);
    shm_close(&segment);
    close(ring);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        peer_test(a_ring_that_breaks_is_made_anew_and_nothing_is_lost),
        peer_test(garbage_costs_only_its_own_connection),
        peer_test(callers_who_hang_up_at_once_do_not_close_the_door),
        peer_test(the_door_opens_again_however_often_it_closes),
        peer_test(strangers_at_the_ring_door_are_turned_away),
        peer_test(a_peer_that_damages_its_ring_loses_it),
    };

    return cmocka_run_group_tests_name("rpc_hostile", tests, group_setup, group_teardown);
}
