/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/scheduler/core_fixture.h"

/* ---- leases ---- */

static void lease_ends_once_when_worker_and_deadline_race(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;
    struct action go;

    (void)state;
    conf.policy = "least";
    fixture_open(&f, &conf, 1);
    go = place(&f, "w", "a");
    assert_int_equal(core_engine(f.core, 0)->running, 1);
    assert_true(core_next_deadline(f.core) == f.now + 70 * NS_PER_S);
    f.now += 70 * NS_PER_S;
    worker_event(&f, EV_WORKER_GONE, 0);
    step(&f, &(struct event){.type = EV_TICK});
    assert_int_equal(finish(&f, go.handle, 10, 0, 1), ERR_NOT_FOUND);
    assert_int_equal(core_engine(f.core, 0)->running, 0);
    assert_int_equal(core_stats_get(f.core)->leases_ended[CAUSE_WORKER_GONE], 1);
    assert_int_equal(core_stats_get(f.core)->leases_ended[CAUSE_DEADLINE], 0);
    assert_int_equal(core_stats_get(f.core)->leases_ended[CAUSE_RETURNED], 0);
    assert_int_equal(workflow_requests(workflow(&f, "w")), 1);
    fixture_close(&f);
}

static void lease_that_nobody_returns_ends_at_its_deadline(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;

    (void)state;
    fixture_open(&f, &conf, 1);
    place(&f, "w", "a");
    f.now += 70 * NS_PER_S - 1;
    step(&f, &(struct event){.type = EV_TICK});
    assert_int_equal(core_engine(f.core, 0)->running, 1);
    f.now += 1;
    step(&f, &(struct event){.type = EV_TICK});
    assert_int_equal(core_engine(f.core, 0)->running, 0);
    assert_int_equal(core_stats_get(f.core)->leases_ended[CAUSE_DEADLINE], 1);
    fixture_close(&f);
}

static void dead_worker_takes_only_its_own_leases(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;
    struct query q;

    (void)state;
    fixture_open(&f, &conf, 1);
    worker_event(&f, EV_WORKER_HELLO, 1);
    q = query_of(&f, "w", "a");
    ask(&f, &q);
    q.worker = 1; /* the same handle of another worker is another request */
    ask(&f, &q);
    assert_int_equal(core_engine(f.core, 0)->running, 2);
    worker_event(&f, EV_WORKER_GONE, 1);
    assert_int_equal(core_engine(f.core, 0)->running, 1);
    assert_int_equal(finish(&f, q.handle, 10, 0, 1), ERR_OK);
    fixture_close(&f);
}

static void same_handle_again_replaces_the_lease(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;
    struct query q;

    (void)state;
    fixture_open(&f, &conf, 1);
    q = query_of(&f, "w", "a");
    ask(&f, &q);
    ask(&f, &q);
    assert_int_equal(core_engine(f.core, 0)->running, 1);
    assert_int_equal(core_stats_get(f.core)->leases_ended[CAUSE_REPLACED], 1);
    fixture_close(&f);
}

static void full_lease_table_refuses_and_recovers(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;
    struct action act;
    uint64_t first;

    (void)state;
    conf.max_leases = 2;
    fixture_open(&f, &conf, 1);
    first = place(&f, "w", "a").handle;
    place(&f, "w", "a");
    act = place(&f, "w", "a");
    assert_int_equal(act.type, ACT_NO);
    assert_int_equal(act.err, ERR_BUSY);
    assert_true(act.retry_ns > 0);
    finish(&f, first, 1, 0, 1);
    assert_int_equal(place(&f, "w", "a").type, ACT_GO);
    fixture_close(&f);
}

static void unknown_worker_is_told_to_say_hello(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;
    struct query q;

    (void)state;
    fixture_open(&f, &conf, 1);
    q = query_of(&f, "w", "a");
    q.worker = 3;
    assert_int_equal(ask(&f, &q)->err, ERR_HELLO);
    q.worker = 1000;
    assert_int_equal(ask(&f, &q)->err, ERR_HELLO);
    assert_null(workflow(&f, "w"));
    fixture_close(&f);
}

/* ---- workflows ---- */

static void workflow_ends_after_its_time_to_live(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;
    uint64_t handle;

    (void)state;
    conf.policy = "least";
    fixture_open(&f, &conf, 2);
    handle = place(&f, "w", "a").handle;
    f.now += 30 * NS_PER_S;
    finish(&f, handle, 100, 0, 10);
    assert_true(core_next_deadline(f.core) == f.now + conf.workflow_ttl_ns);
    f.now += conf.workflow_ttl_ns - 1;
    step(&f, &(struct event){.type = EV_TICK});
    assert_non_null(workflow(&f, "w"));
    f.now += 1;
    step(&f, &(struct event){.type = EV_TICK});
    assert_null(workflow(&f, "w"));
    assert_non_null(action_of(&f, ACT_HOME_ENDED));
    assert_int_equal(core_engine(f.core, 0)->home_tokens + core_engine(f.core, 1)->home_tokens, 0);
    assert_true(core_next_deadline(f.core) == UINT64_MAX);
    fixture_close(&f);
}

static void final_request_ends_the_workflow_when_the_last_one_is_done(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;
    struct query q;
    uint64_t other;

    (void)state;
    fixture_open(&f, &conf, 1);
    other = place(&f, "w", "a").handle;
    q = query_of(&f, "w", "a");
    q.final = true;
    ask(&f, &q);
    finish(&f, q.handle, 10, 0, 1);
    assert_non_null(workflow(&f, "w")); /* a sibling is still under way */
    finish(&f, other, 10, 0, 1);
    assert_null(workflow(&f, "w"));

    q = query_of(&f, "v", "a");
    q.final = true;
    ask(&f, &q);
    other = place(&f, "v", "a").handle; /* a later request takes the end back */
    finish(&f, q.handle, 10, 0, 1);
    finish(&f, other, 10, 0, 1);
    assert_non_null(workflow(&f, "v"));
    fixture_close(&f);
}

static void deleted_workflow_leaves_its_requests_running(void **state)
{
    struct core_conf conf = fixture_conf();
    struct event end = {.type = EV_WF_END, .workflow = {.id = text_of("w")}};
    struct fixture f;
    uint64_t handle;

    (void)state;
    fixture_open(&f, &conf, 1);
    handle = place(&f, "w", "a").handle;
    assert_int_equal(step(&f, &end), ERR_OK);
    assert_null(action_of(&f, ACT_REVOKE));
    assert_int_equal(step(&f, &end), ERR_WORKFLOW);
    assert_int_equal(core_engine(f.core, 0)->running, 1);
    assert_int_equal(core_engine(f.core, 0)->home_tokens, 0);
    assert_int_equal(finish(&f, handle, 10, 0, 1), ERR_OK);
    assert_null(workflow(&f, "w"));

    handle = place(&f, "w", "a").handle;
    end.workflow.purge = true;
    step(&f, &end);
    assert_true(action_of(&f, ACT_REVOKE)->handle == handle);
    fixture_close(&f);
}

static void full_table_ends_the_workflow_that_was_idle_longest(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;
    uint64_t a, b;

    (void)state;
    conf.max_workflows = 2;
    fixture_open(&f, &conf, 1);
    a = place(&f, "a", "x").handle;
    b = place(&f, "b", "x").handle;
    assert_int_equal(place(&f, "c", "x").err, ERR_WORKFLOW_LIMIT); /* both are busy */
    f.now += NS_PER_S;
    finish(&f, b, 1, 0, 1);
    f.now += NS_PER_S;
    finish(&f, a, 1, 0, 1);
    assert_int_equal(place(&f, "c", "x").type, ACT_GO);
    assert_null(workflow(&f, "b"));
    assert_non_null(workflow(&f, "a"));
    assert_int_equal(core_stats_get(f.core)->workflows_evicted, 1);
    fixture_close(&f);
}

static void agents_of_a_workflow_are_limited(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;
    char name[16];

    (void)state;
    fixture_open(&f, &conf, 1);
    for (unsigned i = 0; i < conf.max_agents; i++) {
        snprintf(name, sizeof(name), "a%u", i);
        assert_int_equal(place(&f, "w", name).type, ACT_GO);
    }
    assert_int_equal(place(&f, "w", "one-more").err, ERR_AGENT_LIMIT);
    assert_int_equal(place(&f, "w", "a0").type, ACT_GO);
    assert_int_equal(workflow(&f, "w")->agent_count, conf.max_agents);
    fixture_close(&f);
}

static void agent_is_active_for_a_minute_after_its_last_request(void **state)
{
    struct core_conf conf = fixture_conf();
    struct event note = {.type = EV_AGENT_NOTE,
                         .workflow = {.id = text_of("w"), .agent = text_of("listener")}};
    struct fixture f;
    uint64_t a;

    (void)state;
    fixture_open(&f, &conf, 1);
    a = place(&f, "w", "a").handle;
    place(&f, "w", "b");
    step(&f, &note); /* known, but it has not asked for anything */
    finish(&f, a, 10, 0, 1);
    assert_int_equal(workflow_active_agents(f.core, workflow(&f, "w"), f.now), 2);
    assert_int_equal(workflow(&f, "w")->agent_count, 3);
    f.now += 60 * NS_PER_S;
    assert_int_equal(workflow_active_agents(f.core, workflow(&f, "w"), f.now), 1);
    fixture_close(&f);
}

static void mail_is_noted_on_an_agent_that_is_known_and_makes_nobody_known(void **state)
{
    struct core_conf conf = fixture_conf();
    struct event mail = {
        .type = EV_MAIL,
        .mail = {.id = text_of("w"), .agent = text_of("a"), .messages = MAILS_MAX - 2}};
    struct fixture f;
    const struct agent *a;

    (void)state;
    fixture_open(&f, &conf, 1);
    assert_int_equal(step(&f, &mail), ERR_OK);
    assert_null(workflow(&f, "w"));
    place(&f, "w", "a");
    f.now += NS_PER_S;
    assert_int_equal(step(&f, &mail), ERR_OK);
    a = agent_find(f.core, workflow(&f, "w"), text_of("a"));
    assert_int_equal(a->mails, MAILS_MAX - 2);
    assert_int_equal(a->mail_ticks, 1000 / MAIL_TICK_MS);
    mail.mail.messages = 7; /* a count that is full stays full */
    step(&f, &mail);
    assert_int_equal(a->mails, MAILS_MAX);
    mail.mail.messages = UINT32_MAX;
    step(&f, &mail);
    assert_int_equal(a->mails, MAILS_MAX);
    mail.mail.agent = text_of("nobody");
    assert_int_equal(step(&f, &mail), ERR_OK);
    assert_int_equal(workflow(&f, "w")->agent_count, 1);
    fixture_close(&f);
}

static void mail_is_counted_for_each_agent_until_it_asks(void **state)
{
    struct core_conf conf = fixture_conf();
    struct event mail = {.type = EV_MAIL, .mail = {.id = text_of("w"), .messages = 3}};
    struct fixture f;
    const struct agent *a, *b;
    struct action first;

    (void)state;
    fixture_open(&f, &conf, 1);
    first = place(&f, "w", "a");
    place(&f, "w", "b");
    a = agent_find(f.core, workflow(&f, "w"), text_of("a"));
    b = agent_find(f.core, workflow(&f, "w"), text_of("b"));
    mail.mail.agent = text_of("a");
    step(&f, &mail);
    step(&f, &mail);
    assert_int_equal(a->mails, 6);
    assert_int_equal(b->mails, 0);
    finish(&f, first.handle, 10, 0, 1); /* the end of a request is none */
    assert_int_equal(a->mails, 6);
    place(&f, "w", "b");
    assert_int_equal(a->mails, 6);
    place(&f, "w", "a");
    assert_int_equal(a->mails, 0);
    fixture_close(&f);
}

static void tenants_are_separate(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;
    struct query q;

    (void)state;
    fixture_open(&f, &conf, 2);
    q = query_of(&f, "w", "a");
    q.tenant = text_of("one");
    ask(&f, &q);
    assert_null(workflow(&f, "w"));
    assert_null(core_workflow_find(f.core, text_of("two"), text_of("w")));
    assert_null(core_workflow_find(f.core, text_of("on"), text_of("ew")));
    assert_non_null(core_workflow_find(f.core, text_of("one"), text_of("w")));
    q = query_of(&f, "w", "a");
    q.tenant = text_of("two");
    ask(&f, &q);
    assert_int_equal(core_stats_get(f.core)->workflows, 2);
    assert_int_equal(
        step(&f, &(struct event){.type = EV_WF_END,
                                 .workflow = {.tenant = text_of("three"), .id = text_of("w")}}),
        ERR_WORKFLOW);
    fixture_close(&f);
}

static void long_names_are_kept_whole(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;
    char tenant[TENANT_MAX], id[ID_MAX], agent[ID_MAX];
    struct query q;
    const struct workflow *w;

    (void)state;
    memset(tenant, 't', sizeof(tenant));
    memset(id, 'i', sizeof(id));
    memset(agent, 'a', sizeof(agent));
    fixture_open(&f, &conf, 1);
    q = query_of(&f, "", "");
    q.tenant = (struct text){tenant, sizeof(tenant)};
    q.workflow = (struct text){id, sizeof(id)};
    q.agent = (struct text){agent, sizeof(agent)};
    assert_int_equal(ask(&f, &q)->type, ACT_GO);
    w = core_workflow_find(f.core, q.tenant, q.workflow);
    assert_non_null(w);
    assert_int_equal(workflow_id(f.core, w).len, ID_MAX);
    assert_memory_equal(workflow_id(f.core, w).p, id, ID_MAX);
    assert_memory_equal(workflow_tenant(f.core, w).p, tenant, TENANT_MAX);
    q.workflow.len--;
    assert_null(core_workflow_find(f.core, q.tenant, q.workflow));
    q.agent.len--;
    assert_null(agent_find(f.core, w, q.agent));
    fixture_close(&f);
}

static void listing_goes_from_the_newest_to_the_oldest(void **state)
{
    struct core_conf conf = fixture_conf();
    const struct workflow *w;
    struct fixture f;
    uint64_t seq;

    (void)state;
    fixture_open(&f, &conf, 1);
    place(&f, "a", "x");
    place(&f, "b", "x");
    place(&f, "c", "x");
    w = core_workflow_older(f.core, NULL);
    assert_int_equal(workflow_id(f.core, w).p[0], 'c');
    w = core_workflow_older(f.core, w);
    assert_int_equal(workflow_id(f.core, w).p[0], 'b');
    seq = w->seq;
    step(&f, &(struct event){.type = EV_WF_END, .workflow = {.id = text_of("b")}});
    w = core_workflow_before(f.core, seq);
    assert_int_equal(workflow_id(f.core, w).p[0], 'a');
    assert_null(core_workflow_older(f.core, w));
    fixture_close(&f);
}

/* ---- counting ---- */

static void totals_add_up_and_rates_follow(void **state)
{
    struct core_conf conf = fixture_conf();
    const struct workflow *w;
    struct fixture f;
    uint64_t h;

    (void)state;
    fixture_open(&f, &conf, 1);
    h = place(&f, "w", "a").handle;
    finish(&f, h, 1000, 0, 50);
    h = place(&f, "w", "a").handle;
    finish(&f, h, 1000, 800, 50);
    w = workflow(&f, "w");
    assert_int_equal(w->prompt_tokens, 2000);
    assert_int_equal(w->cached_tokens, 800);
    assert_int_equal(w->completion_tokens, 100);
    assert_float_equal(workflow_hit_rate(w), 0.4, 1e-9);
    assert_false(w->estimated);
    assert_int_equal(w->home_tokens, 1050);
    assert_int_equal(core_engine(f.core, 0)->home_tokens, 1050);
    assert_float_equal(latency_quantile(&w->latency, 0.5), 0.1, 0.013);
    assert_float_equal(latency_mean(&w->latency), 0.1, 1e-6);
    place(&f, "w", "b"); /* in flight: counted, its context estimated at 4 bytes a token or so */
    assert_int_equal(workflow_requests(w), 3);
    assert_true(w->home_tokens > 1050 + 900 && w->home_tokens < 1050 + 1100);
    fixture_close(&f);
}

static void another_attempt_is_not_another_request(void **state)
{
    struct core_conf conf = fixture_conf();
    uint32_t avoid = 0;
    struct fixture f;
    struct query q;
    struct action go;

    (void)state;
    fixture_open(&f, &conf, 2);
    go = place(&f, "w", "a");
    avoid = go.engine;
    fail_with(&f, go.handle, ERR_ENGINE_GONE);
    q = query_of(&f, "w", "a");
    q.avoid = &avoid;
    q.avoid_count = 1;
    go = *ask(&f, &q);
    assert_int_not_equal(go.engine, avoid);
    assert_int_equal(go.reason, REASON_RETRY);
    assert_int_equal(workflow_requests(workflow(&f, "w")), 1);
    finish(&f, go.handle, 10, 0, 1);
    assert_int_equal(workflow_requests(workflow(&f, "w")), 1);
    fixture_close(&f);
}

static void declined_request_counts_but_says_nothing_about_caches(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;
    struct event done = {.type = EV_DONE};

    (void)state;
    fixture_open(&f, &conf, 1);
    done.report.handle = place(&f, "w", "a").handle;
    done.report.declined = true;
    assert_int_equal(step(&f, &done), ERR_OK);
    assert_int_equal(workflow_requests(workflow(&f, "w")), 1);
    assert_int_equal(workflow(&f, "w")->prompt_tokens, 0);
    assert_int_equal(workflow(&f, "w")->latency.count, 0);
    assert_false(workflow(&f, "w")->estimated);
    assert_int_equal(core_stats_get(f.core)->leases_ended[CAUSE_RETURNED], 1);
    fixture_close(&f);
}

static void digests_of(uint64_t *d, uint32_t count, uint64_t seed)
{
    for (uint32_t i = 0; i < count; i++)
        d[i] = seed = table_mix(seed + i + 1);
}

static void receipt_estimates_what_is_cached_where(void **state)
{
    struct core_conf conf = fixture_conf();
    uint64_t d[100];
    struct fixture f;
    struct query q;
    struct action go;

    (void)state;
    digests_of(d, 100, 7);
    fixture_open(&f, &conf, 2);
    q = query_of(&f, "w", "a");
    q.digests = d;
    q.digest_count = 50;
    q.prompt_bytes = 50 * 512;
    go = *ask(&f, &q);
    assert_float_equal(go.hit, 0, 1e-6);
    finish(&f, go.handle, 6400, 0, 0);

    q.handle = f.next_handle++; /* the conversation has grown */
    q.digest_count = 100;
    q.prompt_bytes = 100 * 512;
    go = *ask(&f, &q);
    assert_float_equal(go.hit, 0.5, 1e-6);
    finish(&f, go.handle, 12800, 6400, 0);
    assert_int_equal(workflow(&f, "w")->recomputed_tokens, 0);

    q.handle = f.next_handle++; /* a sibling shares it */
    q.agent = text_of("b");
    go = *ask(&f, &q);
    assert_float_equal(go.hit, 1, 1e-6);
    finish(&f, go.handle, 12800, 1000, 0); /* but the engine had dropped it */
    assert_int_equal(workflow(&f, "w")->recomputed_tokens, 64 * 128 - 1000);
    fixture_close(&f);
}

static void cached_tokens_are_estimated_where_nobody_reports_them(void **state)
{
    struct core_conf conf = fixture_conf();
    uint64_t d[64];
    struct fixture f;
    struct query q;

    (void)state;
    digests_of(d, 64, 7);
    fixture_open(&f, &conf, 1);
    q = query_of(&f, "w", "a");
    q.digests = d;
    q.digest_count = 64;
    q.prompt_bytes = 64 * 512;
    for (int i = 0; i < 2; i++) {
        q.handle = f.next_handle++;
        ask(&f, &q);
        step(&f, &(struct event){
                     .type = EV_DONE,
                     .report = {.handle = q.handle, .has_usage = true, .prompt_tokens = 8000}});
    }
    assert_true(workflow(&f, "w")->estimated);
    assert_float_equal(workflow_hit_rate(workflow(&f, "w")), 0.5, 1e-3);
    fixture_close(&f);
}

static void batch_efficiency_falls_when_overlapping_siblings_prefill_the_same(void **state)
{
    struct core_conf conf = fixture_conf();
    uint64_t d[64];
    struct fixture f;
    struct query q;
    uint64_t first;

    (void)state;
    digests_of(d, 64, 7);
    fixture_open(&f, &conf, 2);
    q = query_of(&f, "w", "a");
    q.digests = d;
    q.digest_count = 64;
    q.prompt_bytes = 64 * 512;
    ask(&f, &q);
    first = q.handle;
    q.handle = f.next_handle++;
    q.agent = text_of("b");
    ask(&f, &q);
    finish(&f, first, 8192, 0, 1);
    finish(&f, q.handle, 8192, 0, 1); /* prefilled the whole of it again */
    assert_float_equal(workflow_batch_efficiency(workflow(&f, "w")), 0.5, 1e-9);

    q.handle = f.next_handle++; /* alone: says nothing about batching */
    ask(&f, &q);
    finish(&f, q.handle, 8192, 0, 1);
    assert_float_equal(workflow_batch_efficiency(workflow(&f, "w")), 0.5, 1e-9);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lease_ends_once_when_worker_and_deadline_race),
        cmocka_unit_test(lease_that_nobody_returns_ends_at_its_deadline),
        cmocka_unit_test(dead_worker_takes_only_its_own_leases),
        cmocka_unit_test(same_handle_again_replaces_the_lease),
        cmocka_unit_test(full_lease_table_refuses_and_recovers),
        cmocka_unit_test(unknown_worker_is_told_to_say_hello),
        cmocka_unit_test(workflow_ends_after_its_time_to_live),
        cmocka_unit_test(final_request_ends_the_workflow_when_the_last_one_is_done),
        cmocka_unit_test(deleted_workflow_leaves_its_requests_running),
        cmocka_unit_test(full_table_ends_the_workflow_that_was_idle_longest),
        cmocka_unit_test(agents_of_a_workflow_are_limited),
        cmocka_unit_test(agent_is_active_for_a_minute_after_its_last_request),
        cmocka_unit_test(mail_is_noted_on_an_agent_that_is_known_and_makes_nobody_known),
        cmocka_unit_test(mail_is_counted_for_each_agent_until_it_asks),
        cmocka_unit_test(tenants_are_separate),
        cmocka_unit_test(long_names_are_kept_whole),
        cmocka_unit_test(listing_goes_from_the_newest_to_the_oldest),
        cmocka_unit_test(totals_add_up_and_rates_follow),
        cmocka_unit_test(another_attempt_is_not_another_request),
        cmocka_unit_test(declined_request_counts_but_says_nothing_about_caches),
        cmocka_unit_test(receipt_estimates_what_is_cached_where),
        cmocka_unit_test(cached_tokens_are_estimated_where_nobody_reports_them),
        cmocka_unit_test(batch_efficiency_falls_when_overlapping_siblings_prefill_the_same),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
