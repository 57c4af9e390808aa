/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/mailbox/fixture.h"

#include <time.h>

/*
 * Nothing an event does costs as much as the queue is long. Each case does its work on N messages
 * and on 16 N: what is linear takes 16 times as long, or a few times that where N fits a cache that
 * others use as well and 16 N does not; what is quadratic takes 256 times as long.
 */
#define SMALL 2000u
#define BIG (16u * SMALL)
#define MOST 90.0
#define TRIES 5

static struct mbox_limits large_limits(void)
{
    struct mbox_limits limits = fixture_limits();

    limits.box_messages = BIG + 10;
    limits.box_bytes = limits.total_bytes = UINT64_C(1) << 40;
    limits.dead_messages = BIG + 10;
    limits.ttl_ns = 1000000 * SEC;
    limits.max_deliveries = 0;
    limits.max_waiting = BIG;
    limits.max_lease_ns = limits.ttl_ns;
    return limits;
}

struct many {
    struct fixture *f;
    struct leased *leased;
    unsigned count;
};

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void send_many(struct many *m, const char *type, const char *group, uint32_t ttl_ms)
{
    struct mbox_event e = {.kind = MBOX_SEND};
    struct mbox_draft d = {.source = "s",
                           .target = "a",
                           .type = type,
                           .group = group,
                           .ttl_ms = ttl_ms,
                           .payload = "1",
                           .payload_len = 1};
    unsigned i;

    e.send.tenant = "t";
    e.send.workflow = "w";
    e.send.drafts = &d;
    e.send.draft_count = 1;
    for (i = 0; i < m->count; i++) {
        step(m->f, &e);
        assert_int_equal(m->f->out.items[0].err, ERR_OK);
    }
    commit(m->f, true);
}

static void lease_many(struct many *m)
{
    unsigned got = 0, i;

    while (got < m->count) {
        const struct mbox_action *a = receive_as(
            m->f, (struct reading){.agent = "a", .peer = 1, .max = 1000, .lease_ms = 600000000});

        for (i = 0; i < a->count; i++, got++) {
            strcpy(m->leased[got].id, view(m->f, a, i)->letter.id);
            strcpy(m->leased[got].receipt, view(m->f, a, i)->receipt);
        }
        settle(m->f, 1, a->delivery, true);
    }
}

/* ---- the cases ---- */

static void prepare_leased(struct many *m)
{
    send_many(m, "t", NULL, 0);
    lease_many(m);
}

static void nack_backwards(struct many *m)
{
    unsigned i;

    for (i = m->count; i > 0; i--)
        assert_int_equal(ack_leased(m->f, "a", &m->leased[i - 1], MBOX_ACK_RETURN), ERR_OK);
}

static void nack_here_and_there(struct many *m)
{
    unsigned i;

    for (i = 0; i < m->count; i++)
        assert_int_equal(ack_leased(m->f, "a", &m->leased[i * 7919u % m->count], MBOX_ACK_RETURN),
                         ERR_OK);
}

static void prepare_many_of_one_type(struct many *m)
{
    send_many(m, "common", NULL, 0);
}

static void look_for_what_is_not_there(struct many *m)
{
    static const char *const types[] = {"rare"};
    unsigned i;

    for (i = 0; i < m->count; i++)
        assert_int_equal(
            receive_as(m->f,
                       (struct reading){.agent = "a", .peer = 1, .types = types, .type_count = 1})
                ->count,
            0);
}

/* So many types that their bits tell nothing any more. */
static void send_all_kinds(struct many *m, const char *kind, unsigned count)
{
    char type[32];
    unsigned i;

    for (i = 0; i < count; i++) {
        snprintf(type, sizeof(type), "%s%u", kind, i);
        send_as(m->f, (struct sending){.to = "a", .payload = "1", .type = type});
    }
}

static void prepare_picky_readers(struct many *m)
{
    static const char *const types[] = {"rare"};
    uint64_t i;

    send_all_kinds(m, "old", m->count / 8);
    for (i = 1; i <= 20; i++)
        receive_as(m->f, (struct reading){.agent = "a",
                                          .peer = 1,
                                          .poll = i,
                                          .wait_ms = 60000,
                                          .types = types,
                                          .type_count = 1});
}

static void send_past_them(struct many *m)
{
    send_all_kinds(m, "new", m->count / 8);
    assert_int_equal(totals(m->f).waiting, 20);
    send_as(m->f, (struct sending){.to = "a", .payload = "1", .type = "rare"});
    assert_int_equal(poll_end(m->f, 0)->poll, 1);
}

static void prepare_group(struct many *m)
{
    send_many(m, "t", "g", 0);
}

static void take_a_group_one_by_one(struct many *m)
{
    unsigned i;

    for (i = 0; i < m->count; i++)
        settle(m->f, 1, receive(m->f, "a", 1)->delivery, true);
}

static void prepare_deliveries(struct many *m)
{
    unsigned i;

    send_many(m, "t", NULL, 0);
    for (i = 0; i < m->count; i++)
        receive_as(m->f, (struct reading){.agent = "a", .peer = 2 + i, .max = 1});
}

static void peers_go(struct many *m)
{
    unsigned i;

    for (i = m->count; i > 0; i--)
        peer_gone(m->f, 1 + i);
}

static void prepare_dead(struct many *m)
{
    send_many(m, "t", NULL, 100);
    while (totals(m->f).dead_now < m->count)
        tick(m->f, SEC);
}

static void read_and_drive_back(struct many *m)
{
    char after[64] = "";
    unsigned i;

    for (i = 0; i < m->count; i += 10) {
        const struct mbox_action *a = list_dead(m->f, "a", 10, after);

        assert_int_equal(a->count, 10);
        strcpy(after, view(m->f, a, 9)->letter.id);
    }
    while (totals(m->f).dead_now > 0)
        redrive(m->f, "a", NULL, false);
}

static void prepare_nothing(struct many *m)
{
    (void)m;
}

static void close_one_of_many_boxes(struct many *m)
{
    char workflow[16];
    unsigned i;

    for (i = 0; i < m->count; i++) {
        snprintf(workflow, sizeof(workflow), "w%u", i);
        send_as(m->f, (struct sending){.workflow = workflow, .to = "a", .payload = "1"});
        receive_as(m->f, (struct reading){.workflow = workflow, .agent = "a", .peer = 1});
    }
    for (i = 0; i < m->count; i++) {
        snprintf(workflow, sizeof(workflow), "w%u", i);
        assert_int_equal(close_workflow(m->f, workflow, true)->dropped, 1);
    }
}

static double timed(unsigned count, void (*prepare)(struct many *m), void (*work)(struct many *m))
{
    struct mbox_limits limits = large_limits();
    struct many m = {.count = count};
    double began, took;

    limits.max_boxes = limits.max_agents = count + 10;
    m.f = fixture_new(limits);
    m.leased = calloc(count, sizeof(m.leased[0]));
    assert_non_null(m.leased);
    prepare(&m);
    began = seconds();
    work(&m);
    took = seconds() - began;
    fixture_free(m.f);
    free(m.leased);
    return took;
}

/* The best of a few tries: somebody else may need the caches, too. */
static void assert_linear(void (*prepare)(struct many *m), void (*work)(struct many *m))
{
    double ratio = 0;
    int i;

    for (i = 0; i < TRIES; i++) {
        double small = timed(SMALL, prepare, work), big = timed(BIG, prepare, work);

        ratio = big / small;
        if (ratio <= MOST)
            return;
    }
    fail_msg("16 times as much takes %.1f times as long", ratio);
}

static void leases_end_in_any_order_at_the_same_cost(void **state)
{
    (void)state;
    assert_linear(prepare_leased, nack_backwards);
    assert_linear(prepare_leased, nack_here_and_there);
}

static void a_reader_of_rare_types_walks_past_nothing(void **state)
{
    (void)state;
    assert_linear(prepare_many_of_one_type, look_for_what_is_not_there);
}

static void readers_who_wait_for_rare_types_look_at_what_is_new_alone(void **state)
{
    (void)state;
    assert_linear(prepare_picky_readers, send_past_them);
}

static void a_long_group_costs_no_more_than_a_short_one(void **state)
{
    (void)state;
    assert_linear(prepare_group, take_a_group_one_by_one);
}

static void a_peer_that_goes_looks_at_its_own_deliveries_alone(void **state)
{
    (void)state;
    assert_linear(prepare_deliveries, peers_go);
}

static void dead_letters_are_read_and_driven_back_at_the_same_cost(void **state)
{
    (void)state;
    assert_linear(prepare_dead, read_and_drive_back);
}

static void a_workflow_that_ends_looks_at_its_own_boxes_alone(void **state)
{
    (void)state;
    assert_linear(prepare_nothing, close_one_of_many_boxes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(leases_end_in_any_order_at_the_same_cost),
        cmocka_unit_test(a_reader_of_rare_types_walks_past_nothing),
        cmocka_unit_test(readers_who_wait_for_rare_types_look_at_what_is_new_alone),
        cmocka_unit_test(a_long_group_costs_no_more_than_a_short_one),
        cmocka_unit_test(a_peer_that_goes_looks_at_its_own_deliveries_alone),
        cmocka_unit_test(dead_letters_are_read_and_driven_back_at_the_same_cost),
        cmocka_unit_test(a_workflow_that_ends_looks_at_its_own_boxes_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
