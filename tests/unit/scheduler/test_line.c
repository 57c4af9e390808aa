/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/scheduler/door_fixture.h"

/* The line at the door: who is tried first where several tenants wait. */

static struct query query_by(struct fixture *f, const char *tenant, const char *workflow)
{
    struct query q = query_of(f, workflow, "a");

    q.tenant = text_of(tenant);
    q.class = CLASS_DEFAULT;
    q.remaining_ns = 0;
    return q;
}

static uint64_t hold_by(struct fixture *f, const char *tenant, const char *workflow)
{
    return held(f, query_by(f, tenant, workflow));
}

static void serve_by(struct fixture *f, const char *tenant, const char *workflow)
{
    struct query q = query_by(f, tenant, workflow);

    assert_int_equal(ask(f, &q)->type, ACT_GO);
    assert_int_equal(finish(f, q.handle, 1000, 0, 10), ERR_OK);
}

static void end_by(struct fixture *f, const char *tenant, const char *workflow)
{
    struct event ev = {.type = EV_WF_END,
                       .workflow = {.tenant = text_of(tenant), .id = text_of(workflow)}};

    assert_int_equal(step(f, &ev), ERR_OK);
    core_check(f->core);
}

/* Who was let in by the last step; 0: nobody. */
static uint64_t let_in(const struct fixture *f)
{
    const struct action *go = action_of(f, ACT_GO);

    return go != NULL ? go->handle : 0;
}

static uint32_t tenants(const struct fixture *f)
{
    return f->core->waits.lines.tenants.used;
}

static void flood_of(struct fixture *f, const char *tenant, unsigned count, uint64_t *handles)
{
    for (unsigned i = 0; i < count; i++) {
        char name[16];

        snprintf(name, sizeof(name), "f%u", i);
        f->now += NS_PER_MS;
        handles[i] = hold_by(f, tenant, name);
    }
}

static void one_room_open(struct fixture *f, const char *policy)
{
    struct core_conf conf = fixture_conf();

    conf.policy = policy;
    conf.max_workflows = 256;
    fixture_open(f, &conf, 1);
    assert_int_equal(small_engine(f, 0, SMALL_KV), ERR_OK);
}

static void flood_of_one_tenant_does_not_keep_the_other_waiting(void **state)
{
    uint64_t flood[100], other;
    struct fixture f;

    (void)state;
    one_room_open(&f, "workflow:gate=1:tax=0");
    serve_by(&f, "a", "v");
    flood_of(&f, "a", 100, flood);
    f.now += NS_PER_S;
    other = hold_by(&f, "b", "w");
    end_by(&f, "a", "v");
    assert_true(let_in(&f) == other);
    assert_int_equal(finish(&f, other, 1000, 0, 10), ERR_OK);
    end_by(&f, "b", "w");
    assert_true(let_in(&f) == flood[0]); /* who is alone again loses nothing */
    fixture_close(&f);
}

static void without_shares_the_oldest_workflow_comes_first(void **state)
{
    uint64_t flood[20], other;
    struct fixture f;

    (void)state;
    one_room_open(&f, "workflow:gate=1:tax=0:share=0");
    serve_by(&f, "a", "v");
    flood_of(&f, "a", 20, flood);
    f.now += NS_PER_S;
    other = hold_by(&f, "b", "w");
    end_by(&f, "a", "v");
    for (unsigned i = 0; i < 20; i++) {
        char name[16];

        assert_true(let_in(&f) == flood[i]);
        assert_int_equal(finish(&f, flood[i], 1000, 0, 10), ERR_OK);
        snprintf(name, sizeof(name), "f%u", i);
        end_by(&f, "a", name);
    }
    assert_true(let_in(&f) == other);
    fixture_close(&f);
}

static void shares_can_be_switched_while_others_wait(void **state)
{
    struct event set = {.type = EV_POLICY_SET, .conf = fixture_conf()};
    uint64_t flood[3], other;
    struct fixture f;

    (void)state;
    one_room_open(&f, "workflow:gate=1:tax=0:share=0");
    serve_by(&f, "a", "v");
    flood_of(&f, "a", 3, flood);
    other = hold_by(&f, "b", "w");
    set.conf.policy = "workflow:gate=1:tax=0";
    assert_int_equal(step(&f, &set), ERR_OK);
    core_check(f.core);
    end_by(&f, "a", "v");
    assert_true(let_in(&f) == other);
    fixture_close(&f);
}

static void who_holds_less_comes_first_and_class_before_that(void **state)
{
    uint64_t a, b, urgent;
    struct fixture f;
    struct query q;

    (void)state;
    one_room_open(&f, "workflow:gate=1:tax=0");
    small_engine(&f, 0, 3000); /* room for two: 896 tokens each, and 1200 of the next */
    serve_by(&f, "b", "b1");
    serve_by(&f, "a", "a1");
    serve_by(&f, "c", "c1");
    a = hold_by(&f, "a", "a2");
    f.now += NS_PER_S;
    b = hold_by(&f, "d", "d1");
    f.now += NS_PER_S;
    q = query_by(&f, "a", "a3");
    q.class = CLASS_INTERACTIVE;
    urgent = held(&f, q);
    end_by(&f, "b", "b1");
    assert_true(let_in(&f) == urgent); /* of the one who holds most */
    end_by(&f, "c", "c1");
    assert_true(let_in(&f) == b); /* nothing so far, and the younger workflow */
    end_by(&f, "a", "a1");
    assert_true(let_in(&f) == a);
    fixture_close(&f);
}

/* The one that holds the least waits with what nobody has room for. */
static void nobody_blocks_the_line_with_what_cannot_be_let_in(void **state)
{
    struct fixture f;
    uint64_t small;

    (void)state;
    one_room_open(&f, "workflow:gate=1:tax=0");
    small_engine(&f, 0, 2500);
    serve_by(&f, "b", "v");
    serve_by(&f, "c", "u");
    for (unsigned i = 0; i < 40; i++) {
        struct query q;
        char name[16];

        snprintf(name, sizeof(name), "f%u", i);
        q = query_by(&f, "a", name);
        q.prompt_bytes = 8000;
        held(&f, q);
    }
    small = hold_by(&f, "b", "w");
    end_by(&f, "c", "u");
    assert_true(let_in(&f) == small);
    assert_int_equal(core_stats_get(f.core)->waiting, 40);
    fixture_close(&f);
}

static void longest_wait_has_its_turn_however_much_its_tenant_holds(void **state)
{
    uint64_t longest;
    struct fixture f;

    (void)state;
    one_room_open(&f, "workflow:gate=1");
    serve_by(&f, "a", "v");
    longest = hold_by(&f, "a", "w");
    f.now += NS_PER_S / 100;
    hold_by(&f, "b", "x");
    while (let_in(&f) == 0)
        sleep_on(&f);
    assert_true(let_in(&f) == longest);
    assert_int_equal(action_of(&f, ACT_GO)->reason, REASON_TURN);
    fixture_close(&f);
}

static void tenant_that_leaves_is_forgotten(void **state)
{
    struct event cancel = {.type = EV_CANCEL};
    struct fixture f;

    (void)state;
    one_room_open(&f, "workflow:gate=1:tax=0");
    serve_by(&f, "a", "v");
    assert_int_equal(tenants(&f), 1);
    cancel.report.handle = hold_by(&f, "b", "w");
    assert_int_equal(tenants(&f), 2);
    assert_int_equal(step(&f, &cancel), ERR_OK);
    core_check(f.core);
    assert_int_equal(tenants(&f), 1); /* what only waited */
    hold_by(&f, "b", "w");
    end_by(&f, "b", "w"); /* runs on, of no workflow and no tenant */
    assert_true(let_in(&f) != 0);
    assert_int_equal(tenants(&f), 1);
    end_by(&f, "a", "v");
    assert_int_equal(tenants(&f), 0);
    fixture_close(&f);
}

static void more_tenants_than_the_table_has_are_all_served(void **state)
{
    enum { MANY = TENANTS_MAX + 50 };
    struct core_conf conf = fixture_conf();
    struct fixture f;
    uint32_t served = 0;
    char name[16];

    (void)state;
    conf.policy = "workflow:gate=1:tax=0";
    conf.max_workflows = conf.max_leases = 2 * TENANTS_MAX;
    fixture_open(&f, &conf, 1);
    small_engine(&f, 0, 1850); /* room for one even when short answers are expected */
    serve_by(&f, "first", "w");
    for (uint32_t i = 0; i < MANY; i++) {
        struct query q;

        snprintf(name, sizeof(name), "t%u", i);
        q = query_by(&f, name, "w");
        step(&f, &(struct event){.type = EV_QUERY, .query = q});
        assert_non_null(action_of(&f, ACT_WAIT));
    }
    assert_int_equal(tenants(&f), TENANTS_MAX);
    core_check(f.core);
    snprintf(name, sizeof(name), "first");
    for (const struct action *go = NULL;; served++) {
        struct event ev = {.type = EV_WF_END,
                           .workflow = {.tenant = text_of(name), .id = text_of("w")}};

        assert_int_equal(step(&f, &ev), ERR_OK);
        go = action_of(&f, ACT_GO);
        if (go == NULL)
            break;
        snprintf(name, sizeof(name), "%.*s",
                 (int)workflow_tenant(f.core, core_workflow(f.core, go->workflow)).len,
                 workflow_tenant(f.core, core_workflow(f.core, go->workflow)).p);
        assert_int_equal(finish(&f, go->handle, 1000, 0, 10), ERR_OK);
    }
    assert_int_equal(served, MANY);
    assert_int_equal(tenants(&f), 0);
    fixture_close(&f);
}

static void tick(struct fixture *f)
{
    step(f, &(struct event){.type = EV_TICK});
    core_check(f->core);
}

static void advice_to_come_back_follows_the_rate_at_which_the_door_lets_in(void **state)
{
    static const char *const names[] = {"f0", "f1", "f2", "f3", "f4", "f5"};
    uint64_t flood[6];
    struct fixture f;
    struct query q;

    (void)state;
    one_room_open(&f, "workflow:gate=1:tax=0");
    serve_by(&f, "a", "v");
    flood_of(&f, "a", 6, flood);
    end_by(&f, "a", "v");
    for (unsigned i = 0; i < 5; i++) { /* one every 4 s */
        assert_true(let_in(&f) == flood[i]);
        f.now += 4 * NS_PER_S;
        assert_int_equal(finish(&f, flood[i], 1000, 0, 10), ERR_OK);
        end_by(&f, "a", names[i]);
    }
    assert_true(let_in(&f) == flood[5]);

    q = query_by(&f, "a", "x"); /* alone in line: the next gap will do */
    q.wait_ns = NS_PER_S;
    held(&f, q);
    f.now += NS_PER_S;
    tick(&f);
    assert_int_equal(action_of(&f, ACT_NO)->err, ERR_GATE_WAIT);
    assert_true(action_of(&f, ACT_NO)->retry_ns > NS_PER_S &&
                action_of(&f, ACT_NO)->retry_ns <= 4 * NS_PER_S);

    for (unsigned i = 0; i < 5; i++) { /* five others were there before it */
        hold_by(&f, "a", names[i]);
        f.now += NS_PER_S / 2;
    }
    q = query_by(&f, "a", "y");
    q.wait_ns = NS_PER_S / 100;
    held(&f, q);
    f.now += NS_PER_S / 100;
    tick(&f);
    assert_true(action_of(&f, ACT_NO)->retry_ns > 12 * NS_PER_S &&
                action_of(&f, ACT_NO)->retry_ns < 24 * NS_PER_S);
    fixture_close(&f);
}

static void advice_to_come_back_is_between_a_second_and_a_minute(void **state)
{
    struct fixture f;
    struct query q;

    (void)state;
    one_room_open(&f, "workflow:gate=1:tax=0");
    stays_busy(&f, "v");
    q = query_by(&f, "a", "x");
    q.wait_ns = NS_PER_S / 10;
    held(&f, q);
    f.now += NS_PER_S / 10;
    tick(&f);
    assert_true(action_of(&f, ACT_NO)->retry_ns == NS_PER_S);
    q = query_by(&f, "a", "y");
    q.wait_ns = 300 * NS_PER_S;
    held(&f, q);
    f.now += 299 * NS_PER_S;
    tick(&f);
    assert_null(action_of(&f, ACT_NO));
    f.now += NS_PER_S;
    tick(&f);
    assert_true(action_of(&f, ACT_NO)->retry_ns == 60 * NS_PER_S); /* nobody is let in */
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flood_of_one_tenant_does_not_keep_the_other_waiting),
        cmocka_unit_test(without_shares_the_oldest_workflow_comes_first),
        cmocka_unit_test(shares_can_be_switched_while_others_wait),
        cmocka_unit_test(who_holds_less_comes_first_and_class_before_that),
        cmocka_unit_test(nobody_blocks_the_line_with_what_cannot_be_let_in),
        cmocka_unit_test(longest_wait_has_its_turn_however_much_its_tenant_holds),
        cmocka_unit_test(tenant_that_leaves_is_forgotten),
        cmocka_unit_test(advice_to_come_back_follows_the_rate_at_which_the_door_lets_in),
        cmocka_unit_test(advice_to_come_back_is_between_a_second_and_a_minute),
        cmocka_unit_test(more_tenants_than_the_table_has_are_all_served),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
