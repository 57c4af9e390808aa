/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "tests/unit/scheduler/core_fixture.h"

/* What engines lie about, and requests that stand in each other's way. */

static void engine_of(struct fixture *f, uint32_t index, const char *model, uint64_t kv_tokens)
{
    struct text m = text_of(model);
    char id[8];

    snprintf(id, sizeof(id), "e%u", index);
    assert_int_equal(step(f, &(struct event){.type = EV_ENGINE_SET,
                                             .engine = {.index = index,
                                                        .generation = 1,
                                                        .id = text_of(id),
                                                        .models = &m,
                                                        .model_count = 1,
                                                        .models_known = true,
                                                        .kv_tokens = kv_tokens}}),
                     ERR_OK);
}

static struct query query_for(struct fixture *f, const char *workflow, const char *model)
{
    struct query q = query_of(f, workflow, "a");

    q.model = text_of(model);
    q.remaining_ns = 3600 * NS_PER_S;
    return q;
}

static void must_wait(struct fixture *f, const struct query *q)
{
    step(f, &(struct event){.type = EV_QUERY, .query = *q});
    assert_non_null(action_of(f, ACT_WAIT));
}

static void requests_for_one_model_do_not_stand_in_the_way_of_another(void **state)
{
    struct core_conf conf = fixture_conf();
    char names[40][8];
    struct query q, other;
    struct fixture f;
    uint64_t busy;

    (void)state;
    conf.policy = "workflow:gate=1:tax=0";
    fixture_open(&f, &conf, 0);
    engine_of(&f, 0, "a", 2000);
    engine_of(&f, 1, "b", 2000);
    q = query_for(&f, "va", "a");
    assert_int_equal(ask(&f, &q)->type, ACT_GO);
    q = query_for(&f, "vb", "b");
    busy = q.handle;
    assert_int_equal(ask(&f, &q)->type, ACT_GO);
    for (int i = 0; i < 40; i++) {
        f.now += NS_PER_MS;
        snprintf(names[i], sizeof(names[i]), "w%d", i);
        q = query_for(&f, names[i], "a");
        must_wait(&f, &q);
    }
    f.now += NS_PER_MS;
    other = query_for(&f, "wb", "b");
    must_wait(&f, &other);
    core_check(f.core);
    finish(&f, busy, 1000, 0, 10);
    step(&f, &(struct event){.type = EV_WF_END, .workflow = {.id = text_of("vb")}});
    assert_non_null(action_of(&f, ACT_GO));
    assert_true(action_of(&f, ACT_GO)->handle == other.handle);
    assert_int_equal(core_stats_get(f.core)->waiting, 40);
    fixture_close(&f);
}

static void siblings_that_stay_away_do_not_use_up_the_patience_of_those_that_came(void **state)
{
    struct core_conf conf = fixture_conf();
    struct query patient, q;
    struct fixture f;

    (void)state;
    conf.group_wait_ms = 1000;
    fixture_open(&f, &conf, 1);
    patient = query_for(&f, "w", "m");
    patient.group = text_of("g");
    must_wait(&f, &patient);
    q = query_for(&f, "w", "m");
    q.group = text_of("g");
    q.group_size = 1000;
    q.wait_ns = 100 * NS_PER_MS;
    must_wait(&f, &q);
    f.now = core_next_deadline(f.core);
    assert_true(f.now < NS_PER_S + 100 * NS_PER_MS);
    step(&f, &(struct event){.type = EV_TICK});
    assert_null(action_of(&f, ACT_NO));
    assert_int_equal(core_stats_get(f.core)->leases, 2);
    assert_int_equal(core_stats_get(f.core)->waiting, 0);
    fixture_close(&f);
}

static void a_model_name_that_no_engine_can_have_is_refused_and_never_held(void **state)
{
    struct core_conf conf = fixture_conf();
    char name[MODEL_MAX + 2];
    struct fixture f;
    struct query q;

    (void)state;
    memset(name, 'm', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    conf.group_wait_ms = 1000;
    fixture_open(&f, &conf, 0);
    step(&f, &(struct event){.type = EV_ENGINE_SET,
                             .engine = {.index = 0, .generation = 1, .id = text_of("e0")}});
    q = query_for(&f, "w", name);
    q.group = text_of("g");
    step(&f, &(struct event){.type = EV_QUERY, .query = q});
    assert_non_null(action_of(&f, ACT_NO));
    assert_int_equal(action_of(&f, ACT_NO)->err, ERR_MODEL);
    q = query_for(&f, "w", name + 1); /* one that nobody knows yet may be served */
    q.group = text_of("g");
    must_wait(&f, &q);
    core_check(f.core);
    fixture_close(&f);
}

static void absurd_usage_hardly_moves_what_outputs_are_expected(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;
    struct query q;

    (void)state;
    fixture_open(&f, &conf, 0);
    engine_of(&f, 0, "m", 10000);
    q = query_for(&f, "liar", "m");
    assert_int_equal(ask(&f, &q)->type, ACT_GO);
    assert_int_equal(finish(&f, q.handle, UINT32_MAX, UINT32_MAX, UINT32_MAX), ERR_OK);
    assert_true(f.core->load.mout < 500);
    fixture_close(&f);
}

static void lie(struct fixture *f)
{
    static const uint64_t sizes[] = {1, 7, 0, 100000, 999999999};
    struct event ev = {.type = EV_ENGINE_STATS};
    uint32_t index = (uint32_t)random() % 3;

    ev.stats = (struct stats_event){.index = index,
                                    .generation = 1,
                                    .has_running = true,
                                    .has_waiting = true,
                                    .has_kv_tokens = true,
                                    .has_kv_used = true,
                                    .running = (uint32_t)random(),
                                    .waiting = UINT32_MAX,
                                    .kv_tokens = sizes[random() % 5],
                                    .kv_used_tokens = UINT64_MAX};
    step(f, &ev);
    ev.type = random() % 2 == 0 ? EV_KV_STORED : EV_KV_REMOVED;
    ev.kv = (struct kv_event){.index = index, .generation = 1, .tokens = UINT32_MAX};
    step(f, &ev);
    probe(f, index, random() % 8 != 0, random() % 2 == 0);
}

static void lies_and_changes_of_policy_break_nothing(void **state)
{
    static const char *const policies[] = {"workflow",
                                           "least",
                                           "workflow:view=approx",
                                           "sglang",
                                           "llmd",
                                           "dynamo",
                                           "workflow:gate=1:tax=0",
                                           "cost",
                                           "session",
                                           "wfleast",
                                           "prefixaware"};
    struct core_conf conf = fixture_conf();
    struct fixture f;

    (void)state;
    conf.gate_wait_ns = 5 * NS_PER_S;
    conf.group_wait_ms = 100;
    fixture_open(&f, &conf, 3);
    srandom(1);
    for (int i = 0; i < 6000; i++) {
        struct query q;
        char name[8];

        f.now += NS_PER_MS * (uint64_t)(random() % 50);
        snprintf(name, sizeof(name), "x%ld", random() % 40);
        q = query_for(&f, name, "m");
        q.group = text_of(random() % 4 == 0 ? "g" : "");
        q.group_size = (uint32_t)random() % 5;
        q.prompt_bytes = random() % 10 == 0 ? UINT32_MAX : 4000;
        step(&f, &(struct event){.type = EV_QUERY, .query = q});
        if (random() % 2 == 0)
            finish(&f, q.handle - (uint64_t)random() % 30, (uint32_t)random() * 4,
                   (uint32_t)random() * 4, (uint32_t)random() * 4);
        if (random() % 10 == 0)
            lie(&f);
        if (random() % 20 == 0)
            step(&f, &(struct event){.type = EV_TICK});
        if (random() % 300 == 0) {
            conf.policy = policies[random() % 11];
            assert_int_equal(step(&f, &(struct event){.type = EV_POLICY_SET, .conf = conf}),
                             ERR_OK);
        }
        if (i % 100 == 0)
            core_check(f.core);
    }
    f.now += 3 * 3600 * NS_PER_S;
    step(&f, &(struct event){.type = EV_TICK});
    assert_int_equal(core_stats_get(f.core)->waiting, 0);
    assert_int_equal(core_stats_get(f.core)->leases, 0);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_for_one_model_do_not_stand_in_the_way_of_another),
        cmocka_unit_test(siblings_that_stay_away_do_not_use_up_the_patience_of_those_that_came),
        cmocka_unit_test(a_model_name_that_no_engine_can_have_is_refused_and_never_held),
        cmocka_unit_test(absurd_usage_hardly_moves_what_outputs_are_expected),
        cmocka_unit_test(lies_and_changes_of_policy_break_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
