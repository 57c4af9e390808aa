/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include <xxhash.h>

#include "tests/unit/scheduler/core_fixture.h"

/*
 * Random lives of workflows at a door that is nearly always shut. After every event the claims are
 * counted afresh (core_check), every wait has exactly one end, and none outlives its deadline.
 */
#ifdef SLIP_SANITIZED
#define EVENTS 5000u
#else
#define EVENTS 12000u
#endif
#define ENGINES 3u
#define WORKERS 3u
#define WORKFLOWS 14u
#define AGENTS 3u
#define CALLS 200u
#define BLOCKS_MAX 40u
#define KV_TOKENS 9000u
#define WAIT_NS (90 * NS_PER_S)

enum stage { FREE, WAITING, RUNNING, ANSWERING };

struct call {
    enum stage stage;
    uint32_t worker, workflow, agent, blocks;
    uint64_t asked_ns;
};

struct talk { /* of one agent: it grows, and now and then starts again */
    uint64_t digests[BLOCKS_MAX];
    uint32_t blocks;
};

struct world {
    struct fixture f;
    uint64_t seed, fresh;
    struct call calls[CALLS];
    struct talk talks[WORKFLOWS][AGENTS];
    uint64_t waits, turns, refused, paused;
    XXH3_state_t *hash;
    bool exact;
};

static uint32_t draw(struct world *w, uint32_t below)
{
    w->seed += UINT64_C(0x9e3779b97f4a7c15);
    return (uint32_t)(table_mix(w->seed) >> 33) % below;
}

static void engine_there(struct world *w, uint32_t i, bool draining)
{
    struct text m = text_of("m");
    char id[8];

    snprintf(id, sizeof(id), "e%u", i);
    step(&w->f, &(struct event){.type = EV_ENGINE_SET,
                                .engine = {.index = i,
                                           .generation = 1,
                                           .id = text_of(id),
                                           .models = &m,
                                           .model_count = 1,
                                           .models_known = true,
                                           .kv_tokens = KV_TOKENS,
                                           .content = w->exact,
                                           .draining = draining}});
}

/* The first half is of the first one, the rest of three others. */
static struct text tenant_of(uint32_t workflow)
{
    static const char *const tenants[] = {"", "t1", "t2", "t3"};

    return text_of(tenants[workflow < WORKFLOWS / 2 ? 0 : 1 + workflow % 3]);
}

static void talk_grow(struct world *w, struct talk *t)
{
    uint32_t more = 1 + draw(w, 8);

    if (t->blocks + more > BLOCKS_MAX || draw(w, 25) == 0)
        t->blocks = draw(w, 3); /* what it shares with nobody else goes */
    while (more-- > 0)
        t->digests[t->blocks++] = table_mix(++w->fresh);
}

static void ask_one(struct world *w)
{
    uint32_t n = draw(w, CALLS), avoid = draw(w, ENGINES);
    struct call *call = &w->calls[n];
    char workflow[16], agent[16];
    struct talk *t;
    struct event ev = {.type = EV_QUERY};

    if (call->stage != FREE)
        return;
    call->worker = draw(w, WORKERS);
    call->workflow = draw(w, WORKFLOWS);
    call->agent = draw(w, AGENTS);
    t = &w->talks[call->workflow][call->agent];
    talk_grow(w, t);
    call->blocks = t->blocks;
    snprintf(workflow, sizeof(workflow), "w%u", call->workflow);
    snprintf(agent, sizeof(agent), "a%u", call->agent);
    ev.query = (struct query){.worker = call->worker,
                              .handle = n + 1,
                              .tenant = tenant_of(call->workflow),
                              .workflow = text_of(draw(w, 12) == 0 ? "" : workflow),
                              .agent = text_of(draw(w, 5) == 0 ? "" : agent),
                              .model = text_of("m"),
                              .strategy = draw(w, 10) == 0 ? (enum strategy)draw(w, 4) : PLACE_AUTO,
                              .final = draw(w, 40) == 0,
                              .stream = draw(w, 4) != 0,
                              .class = (uint8_t)draw(w, CLASS_COUNT),
                              .group = text_of(draw(w, 6) == 0 ? workflow : ""),
                              .group_size = draw(w, 5),
                              .prompt_bytes = t->blocks * 512,
                              .digests = t->digests,
                              .digest_count = t->blocks,
                              .remaining_ns = draw(w, 10) == 0 ? draw(w, 200) * NS_PER_S : 0,
                              .avoid = &avoid,
                              .avoid_count = draw(w, 12) == 0};
    call->asked_ns = w->f.now;
    step(&w->f, &ev);
}

static void report_one(struct world *w)
{
    uint32_t n = draw(w, CALLS), what = draw(w, 10);
    struct call *call = &w->calls[n];
    struct talk *t = &w->talks[call->workflow][call->agent];
    struct event ev = {.type = what < 4 ? EV_FIRST_BYTE : what == 9 ? EV_CANCEL : EV_DONE};

    if (call->stage == FREE)
        return;
    ev.report = (struct report_event){.worker = call->worker,
                                      .handle = n + 1,
                                      .err = draw(w, 15) == 0 ? ERR_STALL : ERR_OK,
                                      .has_usage = draw(w, 8) != 0,
                                      .has_cached = draw(w, 3) != 0,
                                      .prompt_tokens = call->blocks * 128,
                                      .cached_tokens = draw(w, call->blocks * 128 + 1),
                                      .completion_tokens = draw(w, 900),
                                      .final = draw(w, 30) == 0};
    if (draw(w, 2) == 0) {
        ev.report.digests = t->digests;
        ev.report.digest_count = t->blocks;
    }
    if (call->stage == WAITING && ev.type != EV_CANCEL)
        return;
    if (ev.type != EV_FIRST_BYTE)
        call->stage = FREE; /* before the step: its end may let others in, never itself */
    step(&w->f, &ev);
}

static void engine_event(struct world *w)
{
    uint32_t i = draw(w, ENGINES), what = draw(w, 10);
    struct talk *t = &w->talks[draw(w, WORKFLOWS)][draw(w, AGENTS)];
    struct event ev = {.type = EV_KV_STORED};

    ev.kv = (struct kv_event){.index = i,
                              .generation = 1,
                              .digests = t->digests,
                              .count = t->blocks,
                              .tokens = t->blocks * 128,
                              .content = w->exact};
    if (what < 5) {
        step(&w->f, &ev);
    } else if (what < 8) {
        ev.type = EV_KV_REMOVED;
        step(&w->f, &ev);
    } else if (what == 8) {
        probe(&w->f, i, draw(w, 3) != 0, draw(w, 2) == 0);
    } else if (draw(w, 3) == 0) {
        engine_there(w, i, draw(w, 3) == 0);
    } else {
        ev.type = EV_KV_CLEARED;
        step(&w->f, &ev);
    }
}

static void other_event(struct world *w)
{
    char workflow[16];
    struct event end = {.type = EV_WF_END};
    uint32_t worker, which;

    switch (draw(w, 5)) {
    case 0:
        which = draw(w, WORKFLOWS);
        snprintf(workflow, sizeof(workflow), "w%u", which);
        end.workflow = (struct workflow_event){
            .tenant = tenant_of(which), .id = text_of(workflow), .purge = draw(w, 2) == 0};
        step(&w->f, &end);
        break;
    case 1:
        if (draw(w, 10) != 0)
            break;
        worker = draw(w, WORKERS);
        for (uint32_t n = 0; n < CALLS; n++)
            if (w->calls[n].worker == worker)
                w->calls[n].stage = FREE;
        worker_event(&w->f, EV_WORKER_GONE, worker);
        break;
    default:
        w->f.now += draw(w, 20) * NS_PER_S;
        step(&w->f, &(struct event){.type = EV_TICK});
        for (size_t i = 0; i < w->f.core->waits.by_age.len; i++)
            assert_true(
                container_of(w->f.core->waits.by_age.heap[i], struct wait, since)->deadline.at_ns >
                w->f.now);
    }
}

/* What the actions say about the calls. */
static void actions_read(struct world *w)
{
    for (size_t i = 0; i < w->f.out.count; i++) {
        struct action act = w->f.out.items[i];
        struct call *call;

        act.policy = NULL; /* an address */
        XXH3_64bits_update(w->hash, &act, sizeof(act));
        if (act.type != ACT_GO && act.type != ACT_NO && act.type != ACT_WAIT &&
            act.type != ACT_REVOKE)
            continue;
        call = &w->calls[act.handle - 1];
        assert_true(call->worker == act.worker);
        if (act.type == ACT_REVOKE) {
            assert_true(call->stage == RUNNING);
            call->stage = FREE;
            continue;
        }
        assert_true(call->stage == FREE || call->stage == WAITING);
        if (act.type == ACT_WAIT) {
            assert_true(call->stage == FREE);
            w->waits++;
        }
        w->turns += act.type == ACT_GO && act.reason == REASON_TURN;
        w->refused += act.type == ACT_NO && act.err == ERR_GATE_WAIT;
        call->stage = act.type == ACT_GO ? RUNNING : act.type == ACT_WAIT ? WAITING : FREE;
    }
}

static void world_check(struct world *w)
{
    const struct core *c = w->f.core;
    struct brain_fleet fleet = brain_fleet(c);
    uint32_t waiting = 0;

    core_check(c);
    for (uint32_t n = 0; n < CALLS; n++) {
        const struct call *call = &w->calls[n];
        const struct wait *held = wait_find(w->f.core, call->worker, n + 1);

        assert_true((call->stage == WAITING) == (held != NULL));
        waiting += held != NULL;
        /* Time that has passed is known to the core by its next deadline. */
        if (held != NULL && call->asked_ns + WAIT_NS <= w->f.now)
            assert_true(core_next_deadline(c) <= w->f.now);
    }
    assert_int_equal(waiting, c->stats.waiting);
    /* Never more than the refill of whoever was the turn; and nobody's prompt is longer. Without an
     * engine nothing has a price. */
    assert_true(set_is_empty(&c->fleet.alive) ||
                c->brain.credit <= brain_refill_s(&fleet, BLOCKS_MAX * 128 * 1.3));
    assert_true(c->brain.credit >= 0);
    list_for(pos, &c->by_age) w->paused +=
        container_of(pos, struct workflow, by_age)->flow.state == FLOW_PAUSED;
}

static void world_step(struct world *w)
{
    uint32_t what = draw(w, 100);

    w->f.now += draw(w, 300) * NS_PER_MS;
    for (uint32_t i = 0; i < WORKERS; i++)
        if (!w->f.core->workers[i].known) {
            worker_event(&w->f, EV_WORKER_HELLO, i);
            actions_read(w);
        }
    w->f.out.count = 0;
    if (what < 40)
        ask_one(w);
    else if (what < 85)
        report_one(w);
    else if (what < 96)
        engine_event(w);
    else
        other_event(w);
    actions_read(w);
    world_check(w);
}

static uint64_t world_run(const char *policy, bool exact, uint64_t seed, struct world *w)
{
    struct core_conf conf = fixture_conf();
    uint64_t hash;

    memset(w, 0, sizeof(*w));
    conf.policy = policy;
    conf.default_policy = "least";
    conf.max_leases = 64;
    conf.workflow_ttl_ns = 300 * NS_PER_S;
    conf.gate_wait_ns = WAIT_NS;
    conf.group_wait_ms = 3000;
    w->seed = seed;
    w->exact = exact;
    w->hash = XXH3_createState();
    XXH3_64bits_reset(w->hash);
    fixture_open(&w->f, &conf, 0);
    for (uint32_t i = 0; i < ENGINES; i++)
        engine_there(w, i, false);
    for (uint32_t i = 0; i < EVENTS; i++)
        world_step(w);
    hash = XXH3_64bits_digest(w->hash);
    XXH3_freeState(w->hash);
    fixture_close(&w->f);
    return hash;
}

static void claims_and_waits_are_true_whatever_happens(void **state)
{
    static const char *const policies[] = {"workflow:gate=1", "workflow:gate=1:view=approx",
                                           "workflow:gate=1:tax=0:err=.3", "workflow"};
    struct world *w = malloc(sizeof(*w));

    (void)state;
    for (uint64_t i = 0; i < 4; i++) {
        world_run(policies[i], i != 1, i + 1, w);
        if (i == 3)
            continue;
        assert_true(w->waits > 30);
#ifndef SLIP_SANITIZED /* a shorter run */
        assert_true(w->refused > 0 && w->paused > 0);
        assert_true(i == 2 || w->turns > 0);
#endif
    }
    free(w);
}

static void two_runs_of_one_seed_are_identical(void **state)
{
    struct world *w = malloc(sizeof(*w));
    uint64_t first;

    (void)state;
    first = world_run("workflow:gate=1", true, 7, w);
    assert_true(first == world_run("workflow:gate=1", true, 7, w));
    assert_true(first != world_run("workflow:gate=1", true, 8, w));
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(claims_and_waits_are_true_whatever_happens),
        cmocka_unit_test(two_runs_of_one_seed_are_identical),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
