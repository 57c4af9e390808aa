/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/scheduler/core_fixture.h"

static void workflow_keeps_home_while_engine_lives(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;
    struct action first, go;

    (void)state;
    fixture_open(&f, &conf, 4);
    first = place(&f, "w", "a");
    assert_int_equal(first.reason, REASON_NEW);
    assert_string_equal(first.policy, "workflow");
    for (int i = 0; i < 50; i++) {
        finish(&f, first.handle + (uint64_t)i, 100, 0, 10);
        go = place(&f, "w", i % 2 != 0 ? "a" : "b");
        assert_int_equal(go.engine, first.engine);
        assert_int_equal(go.reason, REASON_HOME);
    }
    /* One failed probe is not a death. */
    probe(&f, first.engine, false, true);
    assert_int_equal(place(&f, "w", "a").engine, first.engine);
    fixture_close(&f);
}

static void new_workflows_go_where_live_ones_hold_least(void **state)
{
    struct core_conf conf = fixture_conf();
    struct event end = {.type = EV_WF_END, .workflow = {.id = text_of("a")}};
    struct fixture f;
    struct action a, b;

    (void)state;
    fixture_open(&f, &conf, 2);
    a = place(&f, "a", "x");
    finish(&f, a.handle, 1000, 0, 100);
    b = place(&f, "b", "x");
    assert_int_not_equal(b.engine, a.engine);
    finish(&f, b.handle, 1000, 0, 100);
    step(&f, &end);
    assert_int_equal(place(&f, "c", "x").engine, a.engine);
    fixture_close(&f);
}

static void dead_engine_rehomes(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;
    struct action first, go;

    (void)state;
    fixture_open(&f, &conf, 4);
    first = place(&f, "w", "a");
    finish(&f, first.handle, 1000, 0, 10);
    probe(&f, first.engine, false, true);
    probe(&f, first.engine, false, true);
    go = place(&f, "w", "a");
    assert_int_equal(go.type, ACT_GO);
    assert_int_not_equal(go.engine, first.engine);
    assert_int_equal(go.reason, REASON_REHOMED);
    assert_int_equal(core_engine(f.core, first.engine)->home_tokens, 0);
    assert_true(core_engine(f.core, go.engine)->home_tokens >= 1010);
    /* One that returns does not get its workflows back. */
    probe(&f, first.engine, true, false);
    assert_int_equal(place(&f, "w", "a").engine, go.engine);
    fixture_close(&f);
}

static void engine_that_returns_gets_workflows_back_only_where_that_is_cheaper(void **state)
{
    static const char *const names[] = {"a", "b", "c", "d", "e", "f", "g", "h"};
    struct core_conf conf = fixture_conf();
    uint32_t lost = 0;
    struct fixture f;

    (void)state;
    fixture_open(&f, &conf, 2);
    for (int i = 0; i < 8; i++) {
        struct action go = place(&f, names[i], "x");

        lost += go.engine == 0;
        finish(&f, go.handle, 1000, 0, 10);
    }
    assert_true(lost > 0);
    probe(&f, 0, false, true);
    probe(&f, 0, false, true);
    for (int i = 0; i < 8; i++)
        finish(&f, place(&f, names[i], "x").handle, 1000, 1000, 10);
    probe(&f, 0, true, false);
    assert_int_equal(core_engine(f.core, 0)->homed_workflows, 0);
    for (int i = 0; i < 8; i++) {
        struct action go = place(&f, names[i], "x");

        assert_int_equal(go.engine, 1);
        assert_int_equal(go.reason, REASON_HOME);
        finish(&f, go.handle, 1000, 1000, 10);
    }
    for (int i = 0; i < 20; i++) { /* the new home is in trouble */
        struct query q = query_of(&f, "h", "x");

        q.strategy = PLACE_STRICT;
        q.prompt_bytes = 200000;
        q.digest_count = 0;
        assert_int_equal(ask(&f, &q)->engine, 1);
    }
    assert_int_equal(place(&f, "a", "x").engine, 0);
    fixture_close(&f);
}

static void refused_connections_count_as_failed_probes(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;
    struct action first, second, waiting;

    (void)state;
    fixture_open(&f, &conf, 2);
    first = place(&f, "w", "a");
    second = place(&f, "w", "a");
    waiting = place(&f, "w", "a");
    fail_with(&f, first.handle, ERR_CONNECT);
    assert_true(core_engine(f.core, first.engine)->healthy);
    fail_with(&f, second.handle, ERR_CONNECT);
    assert_false(core_engine(f.core, first.engine)->healthy);
    assert_int_equal(core_engine(f.core, first.engine)->failures, 2);
    /* A request there that has no answer yet is called back, to be placed elsewhere. */
    assert_true(action_of(&f, ACT_REVOKE)->handle == waiting.handle);
    assert_int_equal(place(&f, "w", "a").reason, REASON_REHOMED);
    fixture_close(&f);
}

static void slow_engine_keeps_the_requests_it_has(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;
    struct action go;

    (void)state;
    fixture_open(&f, &conf, 1);
    go = place(&f, "w", "a");
    probe(&f, go.engine, false, false);
    probe(&f, go.engine, false, false);
    assert_false(core_engine(f.core, go.engine)->healthy);
    assert_null(action_of(&f, ACT_REVOKE));
    fixture_close(&f);
}

static void home_is_left_when_its_queue_costs_more_than_a_refill(void **state)
{
    struct core_conf conf = fixture_conf();
    struct event busy = {.type = EV_DISPATCHED};
    struct fixture f;
    struct action home, go;
    struct query q;

    (void)state;
    fixture_open(&f, &conf, 4);
    home = place(&f, "w", "a");
    finish(&f, home.handle, 1000, 0, 10);
    busy.query = query_of(&f, "", "");
    busy.query.prompt_bytes = 400000;
    busy.query.placed = home.engine;
    assert_int_equal(step(&f, &busy), ERR_OK);
    assert_true(core_engine(f.core, home.engine)->q_seconds > 10);

    q = query_of(&f, "w", "a");
    q.strategy = PLACE_STRICT;
    assert_int_equal(ask(&f, &q)->engine, home.engine);
    go = place(&f, "w", "b");
    assert_int_equal(go.reason, REASON_OVERLOAD);
    assert_int_not_equal(go.engine, home.engine);
    assert_int_equal(workflow(&f, "w")->home, home.engine); /* it is the other agent's */

    go = place(&f, "w", "a"); /* its own agent takes it along */
    assert_int_not_equal(go.engine, home.engine);
    assert_int_equal(workflow(&f, "w")->home, go.engine);
    fixture_close(&f);
}

static void only_engine_is_never_too_busy(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;

    (void)state;
    fixture_open(&f, &conf, 1);
    for (int i = 0; i < 20; i++)
        assert_int_equal(place(&f, "w", "a").type, ACT_GO);
    fixture_close(&f);
}

static void roundrobin_rotates_exactly(void **state)
{
    struct core_conf conf = fixture_conf();
    uint32_t avoid = 1;
    struct fixture f;
    struct query q;

    (void)state;
    conf.policy = conf.default_policy = "roundrobin";
    fixture_open(&f, &conf, 4);
    for (unsigned i = 0; i < 40; i++) {
        struct action go = place(&f, i % 3 != 0 ? "w" : "", "a");

        assert_int_equal(go.engine, i % 4);
        assert_int_equal(go.reason, REASON_ROUNDROBIN);
        if (i % 2 != 0)
            finish(&f, go.handle, 10, 0, 1);
    }
    place(&f, "w", "a"); /* 0 */
    q = query_of(&f, "w", "a");
    q.avoid = &avoid;
    q.avoid_count = 1;
    assert_int_equal(ask(&f, &q)->engine, 2);
    probe(&f, 3, false, false);
    probe(&f, 3, false, false);
    assert_int_equal(place(&f, "w", "a").engine, 0);
    fixture_close(&f);
}

static void two_models_rotate_apart(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;
    struct query q;

    (void)state;
    conf.default_policy = "roundrobin";
    fixture_open(&f, &conf, 2);
    engine_put(&f, 2, 1, "x2", "n", false);
    engine_put(&f, 3, 1, "x3", "n", false);
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(place(&f, "", "").engine, i % 2);
        q = query_of(&f, "", "");
        q.model = text_of("n");
        assert_int_equal(ask(&f, &q)->engine, 2 + i % 2);
    }
    fixture_close(&f);
}

static void least_takes_the_least_loaded_and_rotates_ties(void **state)
{
    struct core_conf conf = fixture_conf();
    struct action go[4];
    struct fixture f;

    (void)state;
    fixture_open(&f, &conf, 4);
    for (unsigned i = 0; i < 4; i++) {
        go[i] = place(&f, "", "");
        assert_int_equal(go[i].engine, i);
        assert_int_equal(go[i].reason, REASON_LEAST);
    }
    finish(&f, go[2].handle, 10, 0, 1);
    assert_int_equal(place(&f, "", "").engine, 2);
    assert_int_equal(place(&f, "", "").engine, 1); /* all equal again: 5 mod 4 is first */
    fixture_close(&f);
}

static void strategies_choose_their_engines(void **state)
{
    struct core_conf conf = fixture_conf();
    uint32_t seen = 0;
    struct fixture f;
    struct query q;

    (void)state;
    fixture_open(&f, &conf, 4);
    for (int i = 0; i < 4; i++) {
        q = query_of(&f, "w", "a");
        q.strategy = i % 2 != 0 ? PLACE_SPREAD : PLACE_ISOLATED;
        seen |= 1u << ask(&f, &q)->engine;
        assert_int_equal(action_of(&f, ACT_GO)->reason,
                         i % 2 != 0 ? REASON_SPREAD : REASON_ISOLATED);
    }
    assert_int_equal(seen, 15);
    assert_int_equal(workflow(&f, "w")->home, ENGINE_NONE);
    fixture_close(&f);
}

static void draining_engine_takes_nothing_new(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;
    struct action first, go;
    struct query q;

    (void)state;
    fixture_open(&f, &conf, 2);
    first = place(&f, "w", "a");
    engine_put(&f, first.engine, 1, first.engine == 0 ? "e0" : "e1", "m", true);
    q = query_of(&f, "w", "a");
    q.strategy = PLACE_STRICT;
    assert_int_equal(ask(&f, &q)->engine, first.engine);
    go = place(&f, "w", "a");
    assert_int_equal(go.reason, REASON_REHOMED);
    assert_int_not_equal(go.engine, first.engine);
    /* Better there than nowhere. */
    engine_put(&f, 0, 1, "e0", "m", true);
    engine_put(&f, 1, 1, "e1", "m", true);
    assert_int_equal(place(&f, "v", "a").type, ACT_GO);
    fixture_close(&f);
}

static void second_model_does_not_move_the_home(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;
    struct action home, again;
    struct query q;

    (void)state;
    fixture_open(&f, &conf, 2);
    engine_put(&f, 2, 1, "x2", "n", false);
    engine_put(&f, 3, 1, "x3", "n", false);
    home = place(&f, "w", "a");
    for (int i = 0; i < 6; i++) {
        const struct action *go;

        q = query_of(&f, "w", "a");
        q.model = text_of("n");
        go = ask(&f, &q);
        assert_int_equal(go->reason, REASON_OTHER_MODEL);
        assert_true(go->engine == 2 || go->engine == 3);
        finish(&f, q.handle, 1000, 0, 1);
        finish(&f, home.handle, 1000, 0, 1);
        again = place(&f, "w", "a");
        assert_int_equal(again.engine, home.engine);
        home = again;
    }
    fixture_close(&f);
}

static void refusals_say_why(void **state)
{
    struct core_conf conf = fixture_conf();
    const struct action *no;
    struct fixture f;
    struct query q;
    uint32_t avoid[2] = {0, 1};

    (void)state;
    fixture_open(&f, &conf, 2);
    q = query_of(&f, "w", "a");
    q.model = text_of("unheard-of");
    assert_int_equal(ask(&f, &q)->err, ERR_MODEL);
    q = query_of(&f, "w", "a");
    q.avoid = avoid;
    q.avoid_count = 2;
    assert_int_equal(ask(&f, &q)->err, ERR_NO_ENGINE);
    for (uint32_t i = 0; i < 4; i++)
        probe(&f, i / 2, false, true);
    q = query_of(&f, "w", "a");
    no = ask(&f, &q);
    assert_int_equal(no->err, ERR_NO_ENGINE);
    assert_true(no->retry_ns == 2 * NS_PER_S);
    assert_null(workflow(&f, "w")); /* what cannot run leaves no record */
    assert_int_equal(core_stats_get(f.core)->refused[ERR_NO_ENGINE], 2);
    fixture_close(&f);
}

static void engine_with_unknown_models_serves_what_nobody_else_does(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;
    struct text models[2] = {text_of("m"), text_of("n")};
    struct query q;

    (void)state;
    fixture_open(&f, &conf, 1);
    engine_put(&f, 1, 1, "new", NULL, false); /* never probed: alive until proven otherwise */
    for (int i = 0; i < 4; i++)
        assert_int_equal(place(&f, "", "").engine, 0);
    q = query_of(&f, "", "");
    q.model = text_of("n");
    assert_int_equal(ask(&f, &q)->engine, 1);
    step(&f, &(struct event){
                 .type = EV_ENGINE_MODELS,
                 .engine = {.index = 1, .generation = 1, .models = models, .model_count = 2}});
    assert_int_equal(place(&f, "", "").engine, 1); /* the less loaded one of two */
    q.model = text_of("o");
    assert_int_equal(ask(&f, &q)->err, ERR_MODEL);
    q.model = text_of("");
    assert_int_equal(ask(&f, &q)->type, ACT_GO); /* names none: anybody */
    fixture_close(&f);
}

static void first_failed_probe_of_a_new_engine_is_enough(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;

    (void)state;
    fixture_open(&f, &conf, 0);
    engine_put(&f, 0, 1, "e0", "m", false);
    assert_int_equal(place(&f, "", "").type, ACT_GO);
    probe(&f, 0, false, true);
    assert_int_equal(place(&f, "", "").err, ERR_NO_ENGINE);
    probe(&f, 0, true, false);
    assert_int_equal(place(&f, "", "").type, ACT_GO);
    fixture_close(&f);
}

static void removed_engine_lets_its_requests_end(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;
    struct action go;

    (void)state;
    fixture_open(&f, &conf, 1);
    go = place(&f, "w", "a");
    assert_int_equal(engine_gone(&f, 0, 1), ERR_OK);
    assert_null(core_engine(f.core, 0));
    core_check(f.core);
    assert_int_equal(engine_put(&f, 0, 2, "other", "m", false), ERR_OK);
    assert_int_equal(core_engine(f.core, 0)->running, 0);
    assert_int_equal(finish(&f, go.handle, 100, 0, 10), ERR_OK);
    assert_int_equal(place(&f, "w", "a").reason, REASON_REHOMED);
    assert_int_equal(core_engine(f.core, 0)->running, 1);
    fixture_close(&f);
}

static void policy_can_be_changed_in_flight(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;
    struct event set = {.type = EV_POLICY_SET};

    (void)state;
    fixture_open(&f, &conf, 2);
    place(&f, "w", "a");
    set.conf = conf;
    set.conf.policy = "roundrobin";
    assert_int_equal(step(&f, &set), ERR_OK);
    assert_string_equal(core_policy_name(f.core), "roundrobin");
    assert_int_equal(place(&f, "w", "a").engine, 0);
    assert_int_equal(place(&f, "w", "a").engine, 1);
    set.conf.policy = "nonsense";
    assert_int_equal(step(&f, &set), ERR_CONF);
    set.conf.policy = "workflow";
    set.conf.default_policy = "workflow:tax=.1"; /* with other options than for workflows */
    assert_int_equal(step(&f, &set), ERR_CONF);
    assert_string_equal(core_policy_name(f.core), "roundrobin");
    fixture_close(&f);
}

static void requests_without_a_workflow_go_where_the_social_cost_is_least(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;
    struct action first;

    (void)state;
    conf.policy = "workflow:gate=1:tax=.1";
    conf.default_policy = "workflow";
    fixture_open(&f, &conf, 2);
    first = place(&f, "", "");
    assert_string_equal(first.policy, "workflow");
    assert_int_equal(first.reason, REASON_SCORE);
    assert_int_equal(core_engine(f.core, first.engine)->workflows, 1); /* counts as one, */
    assert_true(core_engine(f.core, first.engine)->claims == 0);       /* and claims nothing */
    assert_int_equal(place(&f, "", "").engine, 1 - first.engine);
    for (int i = 0; i < 6; i++) { /* the queue of the other one is shorter */
        struct query q = query_of(&f, "w", "a");

        q.strategy = PLACE_STRICT;
        q.prompt_bytes = 200000;
        q.digest_count = 0;
        (void)ask(&f, &q);
    }
    first.engine = (uint32_t)workflow(&f, "w")->home;
    for (int i = 0; i < 3; i++)
        assert_int_equal(place(&f, "", "").engine, 1 - first.engine);
    fixture_close(&f);
}

static void old_workflows_get_a_bounded_bonus_where_engines_take_priorities(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;
    struct text m = text_of("m");

    (void)state;
    fixture_open(&f, &conf, 1);
    f.now = 1000 * NS_PER_S;
    assert_int_equal(place(&f, "w", "a").priority, 0);
    step(&f, &(struct event){.type = EV_ENGINE_SET,
                             .engine = {.index = 0,
                                        .generation = 1,
                                        .id = text_of("e0"),
                                        .models = &m,
                                        .model_count = 1,
                                        .models_known = true,
                                        .priority = true}});
    f.now += 100 * NS_PER_S;
    assert_int_equal(place(&f, "w", "a").priority, 1100000 - 10000);
    assert_int_equal(place(&f, "", "").priority, 1100000);
    f.now += 1000 * NS_PER_S;
    assert_int_equal(place(&f, "w", "a").priority, 2100000 - 60000);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(workflow_keeps_home_while_engine_lives),
        cmocka_unit_test(new_workflows_go_where_live_ones_hold_least),
        cmocka_unit_test(dead_engine_rehomes),
        cmocka_unit_test(engine_that_returns_gets_workflows_back_only_where_that_is_cheaper),
        cmocka_unit_test(refused_connections_count_as_failed_probes),
        cmocka_unit_test(slow_engine_keeps_the_requests_it_has),
        cmocka_unit_test(home_is_left_when_its_queue_costs_more_than_a_refill),
        cmocka_unit_test(only_engine_is_never_too_busy),
        cmocka_unit_test(roundrobin_rotates_exactly),
        cmocka_unit_test(two_models_rotate_apart),
        cmocka_unit_test(least_takes_the_least_loaded_and_rotates_ties),
        cmocka_unit_test(strategies_choose_their_engines),
        cmocka_unit_test(draining_engine_takes_nothing_new),
        cmocka_unit_test(second_model_does_not_move_the_home),
        cmocka_unit_test(refusals_say_why),
        cmocka_unit_test(engine_with_unknown_models_serves_what_nobody_else_does),
        cmocka_unit_test(first_failed_probe_of_a_new_engine_is_enough),
        cmocka_unit_test(removed_engine_lets_its_requests_end),
        cmocka_unit_test(policy_can_be_changed_in_flight),
        cmocka_unit_test(requests_without_a_workflow_go_where_the_social_cost_is_least),
        cmocka_unit_test(old_workflows_get_a_bounded_bonus_where_engines_take_priorities),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
