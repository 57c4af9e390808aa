/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include <xxhash.h>

#include "tests/unit/scheduler/core_fixture.h"

/* Random events, hostile ones among them: whatever comes, the tables stay true to each other. */
#define EVENTS 200000u
#define CHECK_EVERY 997u
#define ENGINES 6u
#define WORKERS 5u

struct world {
    struct fixture f;
    uint64_t seed;
    uint32_t generation[ENGINES];
    uint64_t digests[64];
    XXH3_state_t *hash; /* of all actions */
    char workflow[32], agent[32], engine[16];
    struct text models[2];
    uint32_t avoid[2];
};

static uint32_t draw(struct world *w, uint32_t below)
{
    w->seed += UINT64_C(0x9e3779b97f4a7c15);
    return (uint32_t)(table_mix(w->seed) >> 33) % below;
}

static struct text text_draw(struct world *w, char *dst, size_t size, const char *prefix,
                             uint32_t below)
{
    uint32_t n = draw(w, below);

    /* Some are too long to be kept in place. */
    if (n % 17 == 0)
        snprintf(dst, size, "%s%u-ffffffffffffff", prefix, n);
    else
        snprintf(dst, size, "%s%u", prefix, n);
    return text_of(dst);
}

static void draw_query(struct world *w, struct query *q)
{
    uint32_t i;

    *q = (struct query){.worker = draw(w, WORKERS + 1),
                        .handle = draw(w, 400),
                        .tenant = text_of(draw(w, 4) == 0 ? "t" : ""),
                        .model = text_of(draw(w, 10) == 0   ? "n"
                                         : draw(w, 30) == 0 ? "?"
                                                            : "m"),
                        .strategy = (enum strategy)draw(w, 4),
                        .final = draw(w, 12) == 0,
                        .prompt_bytes = draw(w, 200000),
                        .remaining_ns = draw(w, 100) * NS_PER_S,
                        .waited_ns = draw(w, 3) * NS_PER_S,
                        .digests = w->digests,
                        .digest_count = draw(w, 65),
                        .placed = draw(w, ENGINES + 2),
                        .first_byte = draw(w, 2) == 0};
    if (draw(w, 5) != 0)
        q->workflow = text_draw(w, w->workflow, sizeof(w->workflow), "workflow-", 90);
    if (draw(w, 3) != 0)
        q->agent = text_draw(w, w->agent, sizeof(w->agent), "agent-", 10);
    w->avoid[0] = draw(w, ENGINES);
    w->avoid[1] = draw(w, 1000);
    q->avoid = w->avoid;
    q->avoid_count = draw(w, 8) == 0 ? 2 : 0;
    for (i = 0; i < 64; i++)
        w->digests[i] = table_mix(draw(w, 3) + i);
}

static void draw_engine(struct world *w, struct event *ev)
{
    uint32_t index = draw(w, ENGINES + 1), what = draw(w, 12);
    struct engine_event *e = &ev->engine;

    ev->type = EV_ENGINE_HEALTH;
    ev->health = (struct health_event){.index = index,
                                       .generation = w->generation[index % ENGINES],
                                       .ok = draw(w, 3) != 0,
                                       .unreachable = draw(w, 2) == 0};
    if (what > 3)
        return;
    w->models[0] = text_of("m");
    w->models[1] = text_of(draw(w, 2) == 0 ? "n" : "o");
    snprintf(w->engine, sizeof(w->engine), "engine-%u", index);
    *e = (struct engine_event){.index = index,
                               .generation = w->generation[index % ENGINES],
                               .id = text_of(w->engine),
                               .models = w->models,
                               .model_count = draw(w, 3),
                               .models_known = draw(w, 3) != 0,
                               .draining = draw(w, 5) == 0,
                               .priority = draw(w, 2) == 0};
    ev->type = what == 0 ? EV_ENGINE_GONE : what == 1 ? EV_ENGINE_MODELS : EV_ENGINE_SET;
    if (what == 0)
        w->generation[index % ENGINES]++;
}

static void draw_event(struct world *w, struct event *ev)
{
    uint32_t n = draw(w, 1000);

    memset(ev, 0, sizeof(*ev));
    if (n < 420) {
        ev->type = EV_QUERY;
        draw_query(w, &ev->query);
    } else if (n < 880) {
        ev->type = n < 500 ? EV_FIRST_BYTE : n < 560 ? EV_CANCEL : EV_DONE;
        ev->report =
            (struct report_event){.worker = draw(w, WORKERS + 1),
                                  .handle = draw(w, 400),
                                  .err = draw(w, 10) == 0 ? (enum err)draw(w, ERR_COUNT) : ERR_OK,
                                  .declined = draw(w, 8) == 0,
                                  .has_usage = draw(w, 4) != 0,
                                  .has_cached = draw(w, 2) == 0,
                                  .prompt_tokens = draw(w, 50000),
                                  .cached_tokens = draw(w, 80000),
                                  .completion_tokens = draw(w, 9000),
                                  .latency_ns = draw(w, 100000) * NS_PER_MS};
    } else if (n < 920) {
        ev->type = n < 900 ? EV_DISPATCHED : EV_RESUME;
        draw_query(w, &ev->query);
    } else if (n < 940) {
        draw_engine(w, ev);
    } else if (n < 944) {
        ev->type = draw(w, 3) == 0   ? EV_WORKER_GONE
                   : draw(w, 3) == 0 ? EV_RESUME_LAST
                                     : EV_WORKER_HELLO;
        ev->worker = draw(w, 10);
    } else if (n < 970) {
        ev->type = n < 960 ? EV_AGENT_NOTE : EV_WF_END;
        ev->workflow = (struct workflow_event){
            .id = text_draw(w, w->workflow, sizeof(w->workflow), "workflow-", 90),
            .agent = text_draw(w, w->agent, sizeof(w->agent), "agent-", 12),
            .purge = draw(w, 2) == 0};
    } else if (n < 975) {
        ev->type = EV_WF_RESTORE;
        ev->restore = (struct restore_event){.engine = draw(w, ENGINES + 3),
                                             .last_ns = w->f.now - draw(w, 1000000),
                                             .requests = draw(w, 9),
                                             .home_tokens = draw(w, 90000)};
        workflow_key(text_of(""), text_draw(w, w->workflow, sizeof(w->workflow), "workflow-", 90),
                     &ev->restore.key_lo, &ev->restore.key_hi);
    } else if (n < 980) {
        ev->type = EV_MAIL;
        ev->mail = (struct mail_event){
            .id = text_draw(w, w->workflow, sizeof(w->workflow), "workflow-", 90),
            .agent = text_draw(w, w->agent, sizeof(w->agent), "agent-", 12),
            .messages = draw(w, 5)};
    } else {
        ev->type = EV_TICK;
    }
}

static void world_open(struct world *w, const char *policy, uint64_t seed)
{
    struct core_conf conf = fixture_conf();

    memset(w, 0, sizeof(*w));
    conf.policy = policy;
    conf.max_workflows = 40;
    conf.max_leases = 60;
    conf.max_agents = 4;
    conf.workflow_ttl_ns = 60 * NS_PER_S;
    fixture_open(&w->f, &conf, 0);
    w->seed = seed;
    w->hash = XXH3_createState();
    XXH3_64bits_reset(w->hash);
}

static void world_step(struct world *w, unsigned i)
{
    unsigned answers = 0;
    struct event ev;

    draw_event(w, &ev);
    w->f.now += draw(w, 400) * NS_PER_MS;
    step(&w->f, &ev);
    for (size_t n = 0; n < w->f.out.count; n++) {
        struct action act = w->f.out.items[n];

        answers += act.type == ACT_GO || act.type == ACT_NO;
        if (act.type == ACT_GO)
            assert_non_null(core_engine(w->f.core, act.engine));
        act.policy = NULL; /* an address */
        XXH3_64bits_update(w->hash, &act, sizeof(act));
    }
    assert_int_equal(answers, ev.type == EV_QUERY);
    if (i % CHECK_EVERY == 0)
        core_check(w->f.core);
}

static uint64_t world_run(const char *policy, uint64_t seed, unsigned events,
                          struct core_stats *stats)
{
    struct world *w = malloc(sizeof(*w));
    uint64_t hash;

    world_open(w, policy, seed);
    for (unsigned i = 0; i < events; i++)
        world_step(w, i);
    *stats = *core_stats_get(w->f.core);
    hash = XXH3_64bits_digest(w->hash);
    XXH3_freeState(w->hash);
    fixture_close(&w->f);
    free(w);
    return hash;
}

static void random_events_break_no_invariant(void **state)
{
    static const char *const policies[] = {"workflow", "roundrobin", "least"};
    struct core_stats stats;

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        world_run(policies[i], i + 1, EVENTS, &stats);
        /* The dice did reach the corners. */
        for (int cause = 0; cause < CAUSE_COUNT; cause++)
            assert_true(stats.leases_ended[cause] > 0);
        assert_true(stats.workflows_evicted > 0 && stats.workflows_expired > 0);
        assert_true(stats.refused[ERR_AGENT_LIMIT] > 0 && stats.refused[ERR_MODEL] > 0);
        assert_true(stats.refused[ERR_NO_ENGINE] > 0 && stats.refused[ERR_BUSY] > 0);
        assert_true(stats.reports_unknown > 0);
    }
}

static void two_runs_of_one_seed_are_identical(void **state)
{
    struct core_stats a, b;

    (void)state;
    assert_true(world_run("workflow", 42, EVENTS, &a) == world_run("workflow", 42, EVENTS, &b));
    assert_memory_equal(&a, &b, sizeof(a));
    assert_true(a.decisions[REASON_HOME] > 0 && a.decisions[REASON_OVERLOAD] > 0);
    assert_true(a.decisions[REASON_REHOMED] > 0 && a.decisions[REASON_OTHER_MODEL] > 0);
    assert_true(world_run("workflow", 43, EVENTS, &b) != world_run("workflow", 42, EVENTS, &a));
}

static void every_policy_bears_random_events_and_repeats_itself(void **state)
{
    struct core_stats a, b;
    struct buf names = {0};

    (void)state;
    spec_names(&names);
    for (char *rest = NULL, *name = strtok_r((char *)(uintptr_t)buf_cstr(&names), ", ", &rest);
         name != NULL; name = strtok_r(NULL, ", ", &rest)) {
        assert_true(world_run(name, 5, EVENTS / 10, &a) == world_run(name, 5, EVENTS / 10, &b));
        assert_memory_equal(&a, &b, sizeof(a));
    }
    buf_fini(&names);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_events_break_no_invariant),
        cmocka_unit_test(two_runs_of_one_seed_are_identical),
        cmocka_unit_test(every_policy_bears_random_events_and_repeats_itself),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
