/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "tests/unit/scheduler/door_fixture.h"

/* The door of the policy "workflow": who waits, for how long, and how a wait ends. */

static void request_that_finds_no_room_waits_until_there_is_some(void **state)
{
    struct fixture f;
    uint64_t handle;

    (void)state;
    door_open(&f, "workflow:gate=1:tax=0", 1, 0);
    served(&f, "v");
    handle = hold(&f, "w");
    f.now += 7 * NS_PER_S;
    end(&f, "v");
    assert_true(action_of(&f, ACT_GO)->handle == handle);
    assert_true(action_of(&f, ACT_GO)->waited_ns == 7 * NS_PER_S);
    assert_int_equal(core_receipt(f.core, action_of(&f, ACT_GO)->receipt)->why_waited, REASON_DOOR);
    assert_int_equal(core_stats_get(f.core)->waiting, 0);
    assert_int_equal(finish(&f, handle, 1000, 0, 10), ERR_OK);
    assert_int_equal(workflow(&f, "w")->waits, 1);
    fixture_close(&f);
}

static void what_has_its_kv_passes_and_so_does_what_has_no_workflow(void **state)
{
    struct fixture f;

    (void)state;
    door_open(&f, "workflow:gate=1:tax=0", 1, 0);
    served(&f, "v");
    hold(&f, "w");
    for (int i = 0; i < 5; i++) {
        assert_int_equal(served(&f, "v").reason, REASON_HOME);
        assert_int_equal(served(&f, "").type, ACT_GO);
    }
    assert_int_equal(core_stats_get(f.core)->waiting, 1);
    fixture_close(&f);
}

static void next_to_nothing_passes(void **state)
{
    struct fixture f;
    struct query q;

    (void)state;
    door_open(&f, "workflow:gate=1:tax=0", 1, 0);
    served(&f, "v");
    small_engine(&f, 0, 1000);
    q = query_of(&f, "w", "a");
    q.prompt_bytes = 80; /* 20 tokens: 2 % of the cache */
    q.digest_count = 0;
    assert_int_equal(ask(&f, &q)->reason, REASON_SMALL);
    q = query_of(&f, "x", "a");
    q.prompt_bytes = 84;
    q.digest_count = 0;
    held(&f, q);
    fixture_close(&f);
}

static void wait_ends_at_its_deadline_and_a_retry_keeps_its_place(void **state)
{
    struct fixture f;
    struct action no;
    uint64_t first, second;

    (void)state;
    door_open(&f, "workflow:gate=1:tax=0", 1, 300 * NS_PER_S);
    stays_busy(&f, "v");
    first = hold(&f, "w");
    f.now += 299 * NS_PER_S;
    step(&f, &(struct event){.type = EV_TICK});
    assert_null(action_of(&f, ACT_NO));
    second = hold(&f, "u");
    f.now += NS_PER_S;
    step(&f, &(struct event){.type = EV_TICK});
    no = *action_of(&f, ACT_NO);
    assert_true(no.handle == first);
    assert_int_equal(no.err, ERR_GATE_WAIT);
    assert_true(no.retry_ns > 0);

    f.now += no.retry_ns + NS_PER_S;
    first = hold(&f, "w");
    assert_true(action_of(&f, ACT_WAIT)->waited_ns == 301 * NS_PER_S + no.retry_ns);
    end(&f, "v"); /* w is older than u, too, but it is the wait that its retry kept */
    assert_true(action_of(&f, ACT_GO)->handle == first);
    step(&f, &(struct event){.type = EV_CANCEL, .report = {.handle = second}});
    fixture_close(&f);
}

static void retry_that_comes_late_waits_afresh(void **state)
{
    struct fixture f;
    uint64_t retry;

    (void)state;
    door_open(&f, "workflow:gate=1:tax=0", 1, 300 * NS_PER_S);
    stays_busy(&f, "v");
    hold(&f, "w");
    f.now += 300 * NS_PER_S;
    step(&f, &(struct event){.type = EV_TICK});
    retry = action_of(&f, ACT_NO)->retry_ns;
    f.now += 2 * retry;
    hold(&f, "w");
    assert_true(action_of(&f, ACT_WAIT)->waited_ns == 0);
    fixture_close(&f);
}

static void client_may_bear_less_than_the_longest_wait(void **state)
{
    struct fixture f;
    struct query q;

    (void)state;
    door_open(&f, "workflow:gate=1:tax=0", 1, 300 * NS_PER_S);
    stays_busy(&f, "v");
    q = query_of(&f, "w", "a");
    q.wait_ns = 20 * NS_PER_S;
    held(&f, q);
    assert_true(action_of(&f, ACT_WAIT)->deadline_ns == 20 * NS_PER_S);
    f.now += 20 * NS_PER_S;
    step(&f, &(struct event){.type = EV_TICK});
    assert_int_equal(action_of(&f, ACT_NO)->err, ERR_GATE_WAIT);
    fixture_close(&f);
}

static void whoever_waits_longest_is_let_in_at_last(void **state)
{
    struct fixture f;
    uint64_t handle, start;

    (void)state;
    door_open(&f, "workflow:gate=1", 1, 0);
    served(&f, "v");
    handle = hold(&f, "w");
    start = f.now;
    while (action_of(&f, ACT_GO) == NULL)
        sleep_on(&f);
    assert_true(action_of(&f, ACT_GO)->handle == handle);
    assert_int_equal(action_of(&f, ACT_GO)->reason, REASON_TURN);
    /* One refill of .13 s, at a patience of 100 refills: sqrt(2 * 13 * .13) s and a little. */
    assert_true(f.now - start > NS_PER_S && f.now - start < 4 * NS_PER_S);
    fixture_close(&f);
}

static void no_wait_is_without_end_however_much_is_wasted(void **state)
{
    static const char *const policies[] = {"workflow:gate=1", "workflow:gate=1:view=approx:ct=0"};

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        struct fixture f;
        uint64_t start;

        door_open(&f, policies[i], 1, 0);
        served(&f, "v");
        (void)hold(&f, "w");
        start = f.now;
        while (action_of(&f, ACT_GO) == NULL) {
            f.core->brain.wfrac = 1;
            sleep_on(&f);
            assert_true(f.now - start < 60 * NS_PER_S);
        }
        assert_int_equal(action_of(&f, ACT_GO)->reason, REASON_TURN);
        /* A refill of .13 s: the tenth is reached after 10 of them, and pays for one in 10 more. */
        assert_true(f.now - start < 4 * NS_PER_S);
        fixture_close(&f);
    }
}

static void class_goes_first_then_the_oldest_workflow(void **state)
{
    static const char *const names[] = {"batch", "young", "old"};
    uint64_t handles[3];
    struct fixture f;
    struct query q;

    (void)state;
    door_open(&f, "workflow:gate=1:tax=0", 1, 0);
    served(&f, "old");
    f.now += NS_PER_S;
    end(&f, "old");
    served(&f, "v");
    for (unsigned i = 0; i < 3; i++) {
        f.now += NS_PER_S;
        if (i == 2) /* known before the others came */
            step(&f, &(struct event){.type = EV_TICK});
        q = query_of(&f, names[i], "a");
        q.class = i == 0 ? CLASS_BATCH : CLASS_DEFAULT;
        handles[i] = held(&f, q);
    }
    end(&f, "v");
    assert_true(action_of(&f, ACT_GO)->handle == handles[1]);
    finish(&f, handles[1], 1000, 0, 10);
    end(&f, "young");
    assert_true(action_of(&f, ACT_GO)->handle == handles[2]);
    finish(&f, handles[2], 1000, 0, 10);
    end(&f, "old");
    assert_true(action_of(&f, ACT_GO)->handle == handles[0]);
    fixture_close(&f);
}

static void turn_goes_first_whatever_its_class(void **state)
{
    struct fixture f;
    struct query q;
    uint64_t batch;

    (void)state;
    door_open(&f, "workflow:gate=1", 1, 0);
    served(&f, "v");
    q = query_of(&f, "b", "a");
    q.class = CLASS_BATCH;
    batch = held(&f, q);
    f.now += NS_PER_S / 100;
    hold(&f, "w");
    while (action_of(&f, ACT_GO) == NULL)
        sleep_on(&f);
    assert_true(action_of(&f, ACT_GO)->handle == batch);
    fixture_close(&f);
}

static void dead_client_frees_the_turn(void **state)
{
    struct fixture f;
    struct query q;
    uint64_t other;

    (void)state;
    door_open(&f, "workflow:gate=1", 1, 0);
    worker_event(&f, EV_WORKER_HELLO, 1);
    served(&f, "v");
    q = query_of(&f, "w", "a");
    q.worker = 1;
    held(&f, q);
    f.now += NS_PER_S / 100;
    other = hold(&f, "x");
    step(&f, &(struct event){.type = EV_TICK});
    assert_true(pool_find(&f.core->waits.pool, f.core->brain.turn) != NULL);
    worker_event(&f, EV_WORKER_GONE, 1);
    assert_int_equal(core_stats_get(f.core)->waiting, 1);
    while (action_of(&f, ACT_GO) == NULL)
        sleep_on(&f);
    assert_true(action_of(&f, ACT_GO)->handle == other);
    fixture_close(&f);
}

static void cancelled_wait_needs_no_answer(void **state)
{
    struct fixture f;
    uint64_t handle;

    (void)state;
    door_open(&f, "workflow:gate=1:tax=0", 1, 0);
    served(&f, "v");
    handle = hold(&f, "w");
    assert_int_equal(step(&f, &(struct event){.type = EV_CANCEL, .report = {.handle = handle}}),
                     ERR_OK);
    end(&f, "v");
    assert_null(action_of(&f, ACT_GO));
    assert_int_equal(step(&f, &(struct event){.type = EV_CANCEL, .report = {.handle = handle}}),
                     ERR_NOT_FOUND);
    fixture_close(&f);
}

static void asking_again_under_the_same_name_replaces_the_wait(void **state)
{
    struct fixture f;
    struct query q;

    (void)state;
    door_open(&f, "workflow:gate=1:tax=0", 1, 0);
    served(&f, "v");
    q = query_of(&f, "w", "a");
    held(&f, q);
    f.now += 5 * NS_PER_S;
    q.waited_ns = 5 * NS_PER_S; /* the link was down: it keeps its place */
    held(&f, q);
    assert_int_equal(core_stats_get(f.core)->waiting, 1);
    end(&f, "v");
    assert_true(action_of(&f, ACT_GO)->waited_ns == 5 * NS_PER_S);
    fixture_close(&f);
}

static void purged_workflow_takes_its_waits_along(void **state)
{
    struct event purge = {.type = EV_WF_END, .workflow = {.id = text_of("w"), .purge = true}};
    struct fixture f;
    uint64_t handle;

    (void)state;
    door_open(&f, "workflow:gate=1:tax=0", 1, 0);
    served(&f, "v");
    handle = hold(&f, "w");
    assert_int_equal(step(&f, &purge), ERR_OK);
    assert_true(action_of(&f, ACT_NO)->handle == handle);
    assert_int_equal(action_of(&f, ACT_NO)->err, ERR_CANCELLED);
    assert_null(workflow(&f, "w"));

    handle = hold(&f, "w"); /* ended, not purged: it runs on as one without a workflow */
    end(&f, "w");
    assert_true(action_of(&f, ACT_GO)->handle == handle);
    fixture_close(&f);
}

static void workflow_with_a_request_that_waits_is_neither_idle_nor_ended(void **state)
{
    struct core_conf conf = fixture_conf();
    struct fixture f;
    struct query q;

    (void)state;
    conf.policy = "workflow:gate=1:tax=0";
    conf.max_workflows = 2;
    conf.workflow_ttl_ns = 60 * NS_PER_S;
    fixture_open(&f, &conf, 1);
    small_engine(&f, 0, SMALL_KV);
    served(&f, "v");
    q = query_of(&f, "w", "a");
    q.remaining_ns = 0;
    held(&f, q);
    f.now += 61 * NS_PER_S; /* v goes; w does not, and gets its room */
    step(&f, &(struct event){.type = EV_TICK});
    assert_null(workflow(&f, "v"));
    assert_true(action_of(&f, ACT_GO)->handle == q.handle);
    fixture_close(&f);
}

static void last_request_ends_its_workflow_though_an_earlier_one_was_let_in_after_it(void **state)
{
    struct fixture f;
    struct query early, last;

    (void)state;
    door_open(&f, "workflow:gate=1:tax=0", 1, 0);
    served(&f, "v");
    early = query_of(&f, "w", "a");
    early.class = 2;
    held(&f, early);
    last = query_of(&f, "w", "b");
    last.class = 0;
    last.final = true;
    held(&f, last);
    end(&f, "v");
    assert_true(action_of(&f, ACT_GO)->handle == last.handle); /* the other one's GO follows it */
    assert_int_equal(finish(&f, last.handle, 1000, 0, 10), ERR_OK);
    assert_non_null(workflow(&f, "w"));
    assert_int_equal(finish(&f, early.handle, 1000, 0, 10), ERR_OK);
    assert_null(workflow(&f, "w"));
    fixture_close(&f);
}

static void held_requests_hear_when_no_engine_is_left(void **state)
{
    struct fixture f;
    uint64_t handle;

    (void)state;
    door_open(&f, "workflow:gate=1:tax=0", 1, 0);
    served(&f, "v");
    handle = hold(&f, "w");
    probe(&f, 0, false, false);
    probe(&f, 0, false, false);
    assert_true(action_of(&f, ACT_NO)->handle == handle);
    assert_int_equal(action_of(&f, ACT_NO)->err, ERR_NO_ENGINE);
    fixture_close(&f);
}

static void engine_that_dies_loses_its_claims_and_makes_way(void **state)
{
    struct fixture f;
    struct action v, u;
    uint64_t handle;

    (void)state;
    door_open(&f, "workflow:gate=1:tax=0", 2, 0);
    v = served(&f, "v");
    u = served(&f, "u");
    assert_int_not_equal(v.engine, u.engine);
    handle = hold(&f, "w");
    probe(&f, v.engine, false, false);
    probe(&f, v.engine, false, false);
    assert_int_equal(core_engine(f.core, v.engine)->claims, 0);
    assert_int_equal(workflow(&f, "v")->home, ENGINE_NONE);
    assert_null(action_of(&f, ACT_GO)); /* u's engine is full */
    probe(&f, v.engine, true, false);
    assert_true(action_of(&f, ACT_GO)->handle == handle);
    assert_int_equal(action_of(&f, ACT_GO)->engine, v.engine);
    fixture_close(&f);
}

static void workflow_that_lost_its_kv_holds_nothing_while_it_waits(void **state)
{
    struct fixture f;
    struct core *c;

    (void)state;
    door_open(&f, "workflow:gate=1:tax=0", 1, 0);
    c = f.core;
    served(&f, "v");
    end(&f, "v");
    served(&f, "w");
    assert_true(core_engine(c, 0)->claims > 0);
    prefix_clear(c->view.prefix, 0); /* its KV is gone, and somebody else has come */
    end(&f, "w");
    served(&f, "w");
    prefix_clear(c->view.prefix, 0);
    c->fleet.engines[0].kv_conf = 900; /* room for less than its own claim and a prompt */
    hold(&f, "w");
    assert_int_equal(workflow(&f, "w")->flow.state, FLOW_PAUSED);
    assert_int_equal(core_engine(c, 0)->claims, 0);
    fixture_close(&f);
}

static void claims_lapse_when_holding_has_cost_a_refill(void **state)
{
    struct fixture f;

    (void)state;
    door_open(&f, "workflow", 1, 0);
    served(&f, "w");
    assert_int_equal(workflow(&f, "w")->flow.state, FLOW_LIVE);
    assert_true(core_engine(f.core, 0)->claims > 0);
    /* 2000 tokens * 125 us: lapsed by the first tick after that */
    f.now += 11 * NS_PER_S;
    step(&f, &(struct event){.type = EV_TICK});
    assert_int_equal(workflow(&f, "w")->flow.state, FLOW_LAPSED);
    assert_int_equal(core_engine(f.core, 0)->claims, 0);
    assert_int_equal(served(&f, "w").reason, REASON_HOME); /* not gated: it is all there */
    assert_int_equal(workflow(&f, "w")->flow.state, FLOW_LIVE);
    fixture_close(&f);
}

static unsigned live_count(struct fixture *f, unsigned workflows)
{
    unsigned live = 0;
    char id[16];

    for (unsigned i = 0; i < workflows; i++) {
        snprintf(id, sizeof(id), "w%u", i);
        live += workflow(f, id)->flow.state == FLOW_LIVE;
    }
    return live;
}

static void many_claims_lapse_a_few_hundred_a_step_and_at_once_all_the_same(void **state)
{
    struct core_conf conf = fixture_conf();
    unsigned before, live = 700;
    struct fixture f;
    uint64_t now;
    char id[16];

    (void)state;
    conf.max_workflows = live;
    conf.policy = "workflow:gate=off";
    fixture_open(&f, &conf, 2);
    for (unsigned i = 0; i < live; i++) {
        snprintf(id, sizeof(id), "w%u", i);
        served(&f, id);
    }
    assert_int_equal(live_count(&f, 700), live);
    f.now = now = f.now + 3600 * NS_PER_S / 4; /* less than their time to live */
    step(&f, &(struct event){.type = EV_TICK});
    do {
        before = live;
        live = live_count(&f, 700);
        assert_true(live < before && before - live <= 256);
        sleep_on(&f);
    } while (live > 0);
    assert_true(core_engine(f.core, 0)->claims == 0 && core_engine(f.core, 1)->claims == 0);
    step(&f, &(struct event){.type = EV_TICK});
    assert_true(f.now == now && core_next_deadline(f.core) > now);
    fixture_close(&f);
}

static void silent_workflows_are_forgotten_and_others_when_memory_is_short(void **state)
{
    struct fixture f;
    int forgets = 0;

    (void)state;
    door_open(&f, "workflow", 1, 0);
    served(&f, "w");
    f.now += 11 * NS_PER_S;
    step(&f, &(struct event){.type = EV_TICK});
    f.now += 580 * NS_PER_S;
    step(&f, &(struct event){.type = EV_TICK});
    assert_int_equal(workflow(&f, "w")->flow.state, FLOW_LAPSED);
    f.now += 10 * NS_PER_S;
    step(&f, &(struct event){.type = EV_TICK});
    assert_int_equal(workflow(&f, "w")->flow.state, FLOW_NEW);
    assert_int_equal(workflow(&f, "w")->home, ENGINE_NONE);

    served(&f, "v");
    end(&f, "v"); /* from now on an end is said */
    served(&f, "w");
    f.now += 700 * NS_PER_S;
    for (; forgets < 2; forgets++) {
        f.core->brain.blocks_max = forgets == 0 ? 1000 : 1;
        f.now += 11 * NS_PER_S;
        step(&f, &(struct event){.type = EV_TICK});
        assert_int_equal(workflow(&f, "w")->flow.state, forgets == 0 ? FLOW_LAPSED : FLOW_NEW);
    }
    fixture_close(&f);
}

static void gate_opens_when_holding_kv_is_not_worth_it(void **state)
{
    struct fixture f;
    struct brain *b;

    (void)state;
    door_open(&f, "workflow", 1, 0);
    b = &f.core->brain;
    b->gate = 1; /* as agents had left it */
    b->wfrac = .4;
    b->known = 1; /* and now prompts that share nothing */
    b->all = 10;
    served(&f, "v");
    for (int i = 0; b->gate < GATE_OPEN; i++) {
        assert_true(i < 250);
        sleep_on(&f);
    }
    assert_true(b->wfrac < .15);
    fixture_close(&f);
}

static void credit_is_at_most_the_refill_of_the_turn_and_is_spent(void **state)
{
    struct fixture f;
    struct brain_fleet fleet;
    double refill;

    (void)state;
    door_open(&f, "workflow:gate=1", 1, 0);
    stays_busy(&f, "v");
    hold(&f, "w");
    fleet = brain_fleet(f.core);
    refill = brain_refill_s(&fleet, 1000);
    /* No lease is left for it: it could pay, and may not go. */
    f.core->leases.capacity = f.core->leases.used;
    for (int i = 0; i < 30; i++) {
        f.now += NS_PER_S;
        step(&f, &(struct event){.type = EV_TICK});
        assert_true(f.core->brain.credit <= refill);
    }
    assert_true(f.core->brain.credit >= refill);
    f.core->leases.capacity = 256;
    step(&f, &(struct event){.type = EV_TICK});
    assert_int_equal(action_of(&f, ACT_GO)->reason, REASON_TURN);
    assert_true(f.core->brain.credit <= 0);
    fixture_close(&f);
}

static void credit_does_not_grow_at_an_empty_door(void **state)
{
    struct fixture f;

    (void)state;
    door_open(&f, "workflow:gate=1", 1, 0);
    served(&f, "v");
    f.now += 1000 * NS_PER_S;
    served(&f, "v");
    assert_true(f.core->brain.credit <= 0);
    fixture_close(&f);
}

/* ---- where ---- */

#define LONG_TOKENS 128000u
#define LONG_BLOCKS (LONG_TOKENS * 4 / 512)

/* One of 64 siblings of one workflow: shared blocks first, then its own. Returns its engine. */
static uint32_t sibling(struct fixture *f, uint64_t *digests, uint32_t i, uint32_t shared,
                        uint32_t blocks)
{
    char agent[16];
    struct query q;

    snprintf(agent, sizeof(agent), "agent-%u", i);
    for (uint32_t b = 0; b < blocks; b++)
        digests[b] = table_mix(b < shared ? b + 1 : (uint64_t)(i + 1) << 32 | b);
    q = query_of(f, "fan", agent);
    q.digests = digests;
    q.digest_count = blocks;
    q.prompt_bytes = blocks * 512;
    return ask(f, &q)->engine;
}

static unsigned engines_touched(struct fixture *f, uint32_t shared, uint32_t blocks)
{
    uint64_t *digests = malloc(LONG_BLOCKS * sizeof(*digests));
    unsigned touched = 0;
    uint32_t set = 0;

    for (uint32_t i = 0; i < 64; i++)
        set |= 1u << sibling(f, digests, i, shared, blocks);
    for (; set != 0; set &= set - 1)
        touched++;
    free(digests);
    return touched;
}

static void fleet_of_eight(struct fixture *f)
{
    struct core_conf conf = fixture_conf();

    conf.max_agents = 100;
    fixture_open(f, &conf, 8);
}

static void siblings_touch_few_engines_while_long_prefills_are_about(void **state)
{
    uint64_t *digests = malloc(LONG_BLOCKS * sizeof(*digests));
    struct fixture f;
    unsigned touched;

    (void)state;
    fleet_of_eight(&f);
    for (uint32_t i = 0; i < 6; i++) {
        struct query q = query_of(&f, "long", "a");
        char name[16];

        snprintf(name, sizeof(name), "long-%u", i);
        q.workflow = text_of(name);
        for (uint32_t b = 0; b < LONG_BLOCKS; b++)
            digests[b] = table_mix((uint64_t)(i + 1000) << 32 | b);
        q.digests = digests;
        q.digest_count = LONG_BLOCKS;
        q.prompt_bytes = LONG_TOKENS * 4;
        assert_int_equal(ask(&f, &q)->type, ACT_GO);
        step(&f, &(struct event){.type = EV_FIRST_BYTE, .report = {.handle = q.handle}});
        finish(&f, q.handle, LONG_TOKENS, 0, 10);
    }
    touched = engines_touched(&f, 0, 16);
    assert_true(touched <= 5);
    free(digests);
    fixture_close(&f);
}

static void siblings_on_a_shared_document_spread(void **state)
{
    struct fixture f;

    (void)state;
    fleet_of_eight(&f);
    assert_true(engines_touched(&f, 90, 94) >= 4);
    fixture_close(&f);
}

static void time_alone_brings_no_tick_where_the_reference_model_is_followed(void **state)
{
    const char *policies[] = {"workflow", "workflow:reference=1"};

    (void)state;
    for (unsigned follows = 0; follows < 2; follows++) {
        struct core_conf conf = fixture_conf();
        struct fixture f;

        conf.policy = policies[follows];
        fixture_open(&f, &conf, 2);
        assert_int_equal(place(&f, "w", "a").type, ACT_GO);
        assert_int_equal(core_next_deadline(f.core) > f.now + 10 * NS_PER_S, follows);
        fixture_close(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(request_that_finds_no_room_waits_until_there_is_some),
        cmocka_unit_test(what_has_its_kv_passes_and_so_does_what_has_no_workflow),
        cmocka_unit_test(next_to_nothing_passes),
        cmocka_unit_test(wait_ends_at_its_deadline_and_a_retry_keeps_its_place),
        cmocka_unit_test(retry_that_comes_late_waits_afresh),
        cmocka_unit_test(client_may_bear_less_than_the_longest_wait),
        cmocka_unit_test(whoever_waits_longest_is_let_in_at_last),
        cmocka_unit_test(no_wait_is_without_end_however_much_is_wasted),
        cmocka_unit_test(class_goes_first_then_the_oldest_workflow),
        cmocka_unit_test(turn_goes_first_whatever_its_class),
        cmocka_unit_test(dead_client_frees_the_turn),
        cmocka_unit_test(cancelled_wait_needs_no_answer),
        cmocka_unit_test(asking_again_under_the_same_name_replaces_the_wait),
        cmocka_unit_test(purged_workflow_takes_its_waits_along),
        cmocka_unit_test(workflow_with_a_request_that_waits_is_neither_idle_nor_ended),
        cmocka_unit_test(last_request_ends_its_workflow_though_an_earlier_one_was_let_in_after_it),
        cmocka_unit_test(held_requests_hear_when_no_engine_is_left),
        cmocka_unit_test(engine_that_dies_loses_its_claims_and_makes_way),
        cmocka_unit_test(workflow_that_lost_its_kv_holds_nothing_while_it_waits),
        cmocka_unit_test(claims_lapse_when_holding_has_cost_a_refill),
        cmocka_unit_test(many_claims_lapse_a_few_hundred_a_step_and_at_once_all_the_same),
        cmocka_unit_test(silent_workflows_are_forgotten_and_others_when_memory_is_short),
        cmocka_unit_test(gate_opens_when_holding_kv_is_not_worth_it),
        cmocka_unit_test(credit_is_at_most_the_refill_of_the_turn_and_is_spent),
        cmocka_unit_test(credit_does_not_grow_at_an_empty_door),
        cmocka_unit_test(siblings_touch_few_engines_while_long_prefills_are_about),
        cmocka_unit_test(siblings_on_a_shared_document_spread),
        cmocka_unit_test(time_alone_brings_no_tick_where_the_reference_model_is_followed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
