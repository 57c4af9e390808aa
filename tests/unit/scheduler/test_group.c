/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/scheduler/core_fixture.h"

/* Siblings that are placed together. */

static void groups_open(struct fixture *f, const char *policy)
{
    struct core_conf conf = fixture_conf();

    conf.policy = policy;
    conf.group_wait_ms = 20;
    fixture_open(f, &conf, 4);
}

static struct query sibling(struct fixture *f, const char *agent, uint32_t size)
{
    struct query q = query_of(f, "w", agent);

    q.group = text_of("step-1");
    q.group_size = size;
    return q;
}

static uint64_t waits(struct fixture *f, const char *agent, uint32_t size)
{
    struct query q = sibling(f, agent, size);

    step(f, &(struct event){.type = EV_QUERY, .query = q});
    assert_int_equal(action_of(f, ACT_WAIT)->reason, REASON_GROUP);
    assert_null(action_of(f, ACT_GO));
    core_check(f->core);
    return q.handle;
}

static unsigned granted(const struct fixture *f)
{
    unsigned n = 0;

    for (size_t i = 0; i < f->out.count; i++)
        n += f->out.items[i].type == ACT_GO;
    return n;
}

static void group_is_placed_when_the_last_of_it_has_come(void **state)
{
    static const char *const policies[] = {"workflow", "least"};
    struct fixture f;
    struct query q;

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        groups_open(&f, policies[i]);
        waits(&f, "a", 3);
        waits(&f, "b", 3);
        q = sibling(&f, "c", 3);
        step(&f, &(struct event){.type = EV_QUERY, .query = q});
        assert_int_equal(granted(&f), 3);
        assert_int_equal(core_stats_get(f.core)->waiting, 0);
        if (i == 0) { /* the same prompt: to the same engine */
            const struct action *first = action_of(&f, ACT_GO);

            for (size_t n = 0; n < f.out.count; n++)
                assert_true(f.out.items[n].type != ACT_GO ||
                            f.out.items[n].engine == first->engine);
        }
        fixture_close(&f);
    }
}

static void group_does_not_wait_longer_than_it_may(void **state)
{
    struct fixture f;

    (void)state;
    groups_open(&f, "workflow");
    waits(&f, "a", 3);
    f.now += 15 * NS_PER_MS;
    waits(&f, "b", 0);
    assert_true(core_next_deadline(f.core) == f.now + 5 * NS_PER_MS);
    f.now += 5 * NS_PER_MS;
    step(&f, &(struct event){.type = EV_TICK});
    assert_int_equal(granted(&f), 2);
    waits(&f, "c", 3); /* late: the first of another round */
    fixture_close(&f);
}

static void sibling_that_leaves_is_not_waited_for(void **state)
{
    struct fixture f;
    uint64_t first;
    struct query q;

    (void)state;
    groups_open(&f, "workflow");
    first = waits(&f, "a", 2);
    assert_int_equal(step(&f, &(struct event){.type = EV_CANCEL, .report = {.handle = first}}),
                     ERR_OK);
    core_check(f.core);
    assert_int_equal(f.core->groups.pool.used, 0);
    waits(&f, "a", 2);
    q = sibling(&f, "b", 2);
    step(&f, &(struct event){.type = EV_QUERY, .query = q});
    assert_int_equal(granted(&f), 2);
    fixture_close(&f);
}

static void siblings_without_room_wait_at_the_door(void **state)
{
    struct text m = text_of("m");
    struct fixture f;
    struct query q;

    (void)state;
    groups_open(&f, "workflow:gate=1:tax=0");
    for (uint32_t i = 1; i < 4; i++)
        probe(&f, i, false, false), probe(&f, i, false, false);
    step(&f, &(struct event){.type = EV_ENGINE_SET,
                             .engine = {.index = 0,
                                        .generation = 1,
                                        .id = text_of("e0"),
                                        .models = &m,
                                        .model_count = 1,
                                        .models_known = true,
                                        .kv_tokens = 1500}});
    place(&f, "v", "a");
    waits(&f, "a", 2);
    q = sibling(&f, "b", 2);
    step(&f, &(struct event){.type = EV_QUERY, .query = q});
    assert_int_equal(granted(&f), 0);
    assert_int_equal(action_of(&f, ACT_WAIT)->reason, REASON_DOOR);
    assert_int_equal(core_stats_get(f.core)->waiting, 2);
    step(&f, &(struct event){.type = EV_WF_END, .workflow = {.id = text_of("v")}});
    assert_int_equal(granted(&f), 2);
    fixture_close(&f);
}

/* ---- followers ---- */

static void shares_late(struct fixture *f, bool late)
{
    struct core_conf conf = fixture_conf();
    struct text m = text_of("m");

    fixture_open(f, &conf, 1);
    step(f, &(struct event){.type = EV_ENGINE_SET,
                            .engine = {.index = 0,
                                       .generation = 1,
                                       .id = text_of("e0"),
                                       .models = &m,
                                       .model_count = 1,
                                       .models_known = true,
                                       .late_share = late}});
}

static void sibling_follows_where_blocks_are_shared_late(void **state)
{
    struct fixture f;
    struct action leader;
    struct query q;

    (void)state;
    shares_late(&f, true);
    leader = place(&f, "w", "a");
    q = query_of(&f, "w", "b");
    step(&f, &(struct event){.type = EV_QUERY, .query = q});
    assert_int_equal(action_of(&f, ACT_WAIT)->reason, REASON_FOLLOW);
    assert_int_equal(place(&f, "v", "a").type, ACT_GO); /* shares nothing */
    step(&f, &(struct event){.type = EV_FIRST_BYTE, .report = {.handle = leader.handle}});
    assert_true(action_of(&f, ACT_GO)->handle == q.handle);
    fixture_close(&f);
}

static void nobody_follows_where_blocks_are_shared_at_once(void **state)
{
    struct fixture f;

    (void)state;
    shares_late(&f, false);
    place(&f, "w", "a");
    assert_int_equal(place(&f, "w", "b").type, ACT_GO);
    fixture_close(&f);
}

static void leader_that_fails_or_dawdles_is_not_followed(void **state)
{
    struct fixture f;
    struct action leader;
    struct query q;

    (void)state;
    shares_late(&f, true);
    leader = place(&f, "w", "a");
    q = query_of(&f, "w", "b");
    step(&f, &(struct event){.type = EV_QUERY, .query = q});
    assert_non_null(action_of(&f, ACT_WAIT));
    fail_with(&f, leader.handle, ERR_STALL);
    assert_true(action_of(&f, ACT_GO)->handle == q.handle);

    q = query_of(&f, "w", "c"); /* b leads now, and takes its time */
    step(&f, &(struct event){.type = EV_QUERY, .query = q});
    assert_non_null(action_of(&f, ACT_WAIT));
    f.now += 6 * NS_PER_S;
    step(&f, &(struct event){.type = EV_TICK});
    assert_true(action_of(&f, ACT_GO)->handle == q.handle);
    fixture_close(&f);
}

static void lonely_requests_wait_for_nobody(void **state)
{
    struct fixture f;
    struct query q;

    (void)state;
    groups_open(&f, "workflow");
    q = sibling(&f, "a", 1);
    assert_int_equal(ask(&f, &q)->type, ACT_GO);
    q = sibling(&f, "a", 2);
    q.workflow = text_of("");
    assert_int_equal(ask(&f, &q)->type, ACT_GO);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(group_is_placed_when_the_last_of_it_has_come),
        cmocka_unit_test(group_does_not_wait_longer_than_it_may),
        cmocka_unit_test(sibling_that_leaves_is_not_waited_for),
        cmocka_unit_test(siblings_without_room_wait_at_the_door),
        cmocka_unit_test(sibling_follows_where_blocks_are_shared_late),
        cmocka_unit_test(nobody_follows_where_blocks_are_shared_at_once),
        cmocka_unit_test(leader_that_fails_or_dawdles_is_not_followed),
        cmocka_unit_test(lonely_requests_wait_for_nobody),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
