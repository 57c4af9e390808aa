/* SPDX-License-Identifier: Apache-2.0 */
#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>

#include "common/fault.h"
#include "tests/unit/common/rpc_both.h"

static void run_on(int cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET((unsigned)cpu, &set);
    assert_int_equal(sched_setaffinity(0, sizeof(set), &set), 0);
}

/* The server's end goes to sleep on one CPU, the client then asks from another. */
static void ask_from_elsewhere(const cpu_set_t *cpus)
{
    int first = 0, second;

    while (!CPU_ISSET((unsigned)first, cpus))
        first++;
    second = first + 1;
    while (!CPU_ISSET((unsigned)second, cpus))
        second++;
    server_start(7);
    client_start();
    run_on(first);
    assert_int_equal(place(1, ANY_MS, NULL), ERR_OK);
    rpc_client_flush(client);
    while (done_ok == 0) {
        rpc_client_look(client);
        loop_turn(loop, 1);
    }
    run_on(second);
    assert_int_equal(place(2, ANY_MS, NULL), ERR_OK);
    rpc_client_flush(client);
}

static void an_answer_is_looked_for_while_the_server_runs_elsewhere(void **state)
{
    cpu_set_t cpus;

    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof(cpus), &cpus), 0);
    if (CPU_COUNT(&cpus) < 2)
        skip();
    look_us = ANY_MS * 1000;
    ask_from_elsewhere(&cpus);
    assert_true(rpc_client_is_looking(client));
    while (served < 2)
        loop_turn(loop, 100);
    loop_turn(loop, 0);
    assert_int_equal(done_ok, 1); /* nobody rang */
    rpc_client_look(client);
    assert_int_equal(done_ok, 2);
    assert_false(rpc_client_is_looking(client));
    grant(peer); /* asleep again, and rung for */
    turn_until(events == 1);
    assert_int_equal(sched_setaffinity(0, sizeof(cpus), &cpus), 0);
}

static void looking_ends_and_a_late_answer_rings(void **state)
{
    cpu_set_t cpus;

    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof(cpus), &cpus), 0);
    if (CPU_COUNT(&cpus) < 2)
        skip();
    look_us = 1;
    ask_from_elsewhere(&cpus);
    while (rpc_client_is_looking(client))
        rpc_client_look(client);
    turn_until(done_ok == 2);
    assert_int_equal(sched_setaffinity(0, sizeof(cpus), &cpus), 0);
}

static void a_ring_that_is_full_for_a_moment_loses_nothing(void **state)
{
    Slipstream__V1__Query q;
    unsigned i;

    (void)state;
    slipstream__v1__query__init(&q);
    server_start(7);
    client_start();
    q.model = malloc(200000);
    memset(q.model, 'm', 200000);
    q.model[199999] = '\0';
    for (i = 0; i < 20; i++)
        assert_int_equal(rpc_call(client, PLACE, &q.base, 10000, on_done, NULL, 0, NULL), ERR_OK);
    turn_until(done_ok == 20);
    free(q.model);
}

#ifdef SLIP_FAULTS
static void a_ring_that_stays_full_is_busy_for_calls_and_keeps_reports(void **state)
{
    (void)state;
    server_start(7);
    client_start();
    fault_arm("ring_full", 1000000);
    assert_int_equal(report(5), ERR_OK);
    assert_int_equal(place(1, 10000, NULL), ERR_OK);
    turn_until(done_other == 1);
    assert_int_equal(last_status, ERR_BUSY);
    fault_arm("ring_full", 0);
    turn_until(reports == 1);
    assert_int_equal(served, 0);
    assert_int_equal(downs, 0);
}

static void a_ring_that_may_stand_still_keeps_its_calls(void **state)
{
    uint64_t until = clock_ms() + 20;

    (void)state;
    ring_busy_ms = ANY_MS;
    server_start(7);
    client_start();
    fault_arm("ring_full", 1000000);
    assert_int_equal(place(1, ANY_MS, NULL), ERR_OK);
    while (clock_ms() < until)
        loop_turn(loop, 5);
    assert_int_equal(done_ok + done_other, 0);
    fault_arm("ring_full", 0);
    turn_until(done_ok == 1);
    assert_int_equal(downs, 0);
}

static void a_carrier_that_refuses_a_frame_is_replaced_and_reports_survive(void **state)
{
    (void)state;
    server_start(7);
    client_start();
    turn_until(peer != NULL);
    loop_turn(loop, 5);
    assert_int_equal(place(1, 10000, NULL), ERR_OK);
    turn_until(done_ok == 1);
    assert_int_equal(report(5), ERR_OK);
    assert_int_equal(place(2, 10000, NULL), ERR_OK);
    fault_arm("rpc_send_fails", 1);
    turn_until(downs == 1 && ups == 2);
    assert_int_equal(done_gone, 1);
    assert_int_equal(resumed, 1);
    turn_until(reports == 1);
    assert_int_equal(served, 1);
}

static void a_lost_answer_is_a_timeout_and_no_more(void **state)
{
    (void)state;
    server_start(7);
    client_start();
    fault_arm("rpc_answer_lost", 1);
    assert_int_equal(place(1, 20, on_late), ERR_OK);
    turn_until(done_timeout == 1 && served == 1);
    assert_int_equal(place(2, 10000, NULL), ERR_OK);
    turn_until(done_ok == 1);
    assert_int_equal(downs + lates, 0);
}
#endif

static void without_a_ring_auto_carries_on_and_shm_says_why_not(void **state)
{
    (void)state;
    channel = RPC_SHM;
    server_start(7);
    channel = RPC_AUTO;
    assert_int_equal(unlink(ring_path), 0);
    client = client_new(NULL);
    turn_until(ups == 1);
    assert_false(rpc_client_is_ring(client));
    assert_int_equal(place(1, 10000, NULL), ERR_OK);
    turn_until(done_ok == 1);
    rpc_client_close(client);
    channel = RPC_SHM;
    client = client_new(NULL);
    turn_until(downs == 1);
    assert_string_equal(down_reason, "the ring could not be attached");
    assert_int_equal(ups, 1);
}

static void a_call_is_answered_over_tcp_where_it_is_allowed(void **state)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    char before[sizeof(url)];

    (void)state;
    /* A port that the kernel thinks free; nobody else asks for it between the two lines. */
    assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
    close(fd);
    strcpy(before, url);
    snprintf(url, sizeof(url), "tcp://127.0.0.1:%u", ntohs(addr.sin_port));
    is_tcp = true;
    server_start(7);
    client_start();
    strcpy(url, before);
    is_tcp = false;
    assert_int_equal(place(1, 10000, NULL), ERR_OK);
    turn_until(done_ok == 1);
    assert_false(rpc_peer_is_local(peer));
}

static void addresses_that_cannot_be_are_refused(void **state)
{
    struct rpc_client_conf conf = {.url = "tcp://127.0.0.1:1", .name = "test"};
    const char *bad[] = {"tcp://127.0.0.1:0"};
    struct rpc_server_conf sconf = {.urls = bad,
                                    .url_count = 1,
                                    .service = &slipstream__v1__scheduler__descriptor,
                                    .epoch = 1,
                                    .max_peers = 1};
    struct rpc_client *c;
    struct rpc_server *s;

    (void)state;
    server_start(7);
    assert_int_equal(rpc_client_open(&conf, rpc_host_loop(loop), &c), ERR_CONF);
    assert_int_equal(rpc_server_open(&sconf, rpc_host_loop(loop), &s), ERR_CONF);
    conf.url = "gopher://x";
    assert_int_equal(rpc_client_open(&conf, rpc_host_loop(loop), &c), ERR_CONF);
    conf.url = url;
    conf.channel = RPC_NONE;
    assert_int_equal(rpc_client_open(&conf, rpc_host_loop(loop), &c), ERR_CONF);
    sconf.urls = urls; /* in use */
    assert_int_equal(rpc_server_open(&sconf, rpc_host_loop(loop), &s), ERR_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        over_ring(an_answer_is_looked_for_while_the_server_runs_elsewhere),
        over_ring(looking_ends_and_a_late_answer_rings),
        over_ring(a_ring_that_is_full_for_a_moment_loses_nothing),
#ifdef SLIP_FAULTS
        over_ring(a_ring_that_stays_full_is_busy_for_calls_and_keeps_reports),
        over_ring(a_ring_that_may_stand_still_keeps_its_calls),
        over_nng(a_carrier_that_refuses_a_frame_is_replaced_and_reports_survive),
        both_carriers(a_lost_answer_is_a_timeout_and_no_more),
#endif
        over_nng(without_a_ring_auto_carries_on_and_shm_says_why_not),
        over_nng(a_call_is_answered_over_tcp_where_it_is_allowed),
        over_nng(addresses_that_cannot_be_are_refused),
    };

    return cmocka_run_group_tests_name("rpc_carrier", tests, group_setup, group_teardown);
}
