/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/scheduler/core_fixture.h"
#include "tests/unit/scheduler/policy_vectors.h"

#include <math.h>
#include <stdlib.h>

#include "scheduler/turn.h"

static void open_with(struct fixture *f, const char *policy, unsigned engines)
{
    struct core_conf conf = fixture_conf();

    conf.policy = policy;
    conf.text_block = 256;
    conf.ratio = 4;
    conf.ratio_fixed = true;
    fixture_open(f, &conf, engines);
}

/* One decision of the policy, beside the core's books: cached comes from the caller. */
struct scene {
    struct ask ask;
    struct query query;
    uint32_t cached[ENGINES_MAX], cached_blocks[ENGINES_MAX];
    double cost[ENGINES_MAX];
};

static void scene_set(struct scene *s, struct fixture *f, uint32_t tokens, uint32_t blocks)
{
    struct core *c = f->core;

    *s = (struct scene){.query = query_of(f, "", "")};
    s->ask = (struct ask){.query = &s->query,
                          .spec = &c->policies->items[0].spec,
                          .state = c->policies->items[0].state,
                          .model = fleet_model(&c->fleet, text_of("m")),
                          .tokens = tokens,
                          .blocks = blocks,
                          .able = c->fleet.alive,
                          .may = c->fleet.alive,
                          .cached = s->cached,
                          .cached_blocks = s->cached_blocks,
                          .cost = s->cost};
}

static void cached_at(struct scene *s, uint32_t engine, uint32_t blocks)
{
    s->cached_blocks[engine] = blocks;
    s->cached[engine] = blocks * 64;
}

static struct choice decide(struct fixture *f, struct scene *s)
{
    struct choice out = {0};

    for (unsigned i = 0; i < ENGINES_MAX; i++)
        s->cost[i] = NAN;
    assert_true(f->core->policies->items[0].policy->place(f->core, &s->ask, &out));
    assert_non_null(out.engine);
    return out;
}

static void vector_check(const char *policy, const struct policy_vector *v, uint32_t expected)
{
    struct fixture f;
    struct scene s;

    open_with(&f, policy, v->engines > 7 ? 7 : v->engines);
    scene_set(&s, &f, v->tokens, v->blocks);
    s.ask.model->dispatches = v->dispatches;
    for (uint32_t i = 0; i < v->engines; i++) {
        struct engine *e = &f.core->fleet.engines[i];

        e->running = v->running[i];
        e->q_seconds = v->queue_seconds[i];
        e->kv_conf = 4000 * 64;
        e->stats = (struct engine_stats){.has_waiting = true,
                                         .has_kv_used = true,
                                         .waiting = v->waiting[i],
                                         .kv_used_tokens = (uint64_t)v->used_blocks[i] * 64};
        cached_at(&s, i, v->cached_blocks[i]);
    }
    assert_int_equal(decide(&f, &s).engine->index, expected);
    for (uint32_t i = 0; i < v->engines; i++) {
        f.core->fleet.engines[i].running = 0;
        f.core->fleet.engines[i].q_seconds = 0;
    }
    fixture_close(&f);
}

static void rules_decide_as_the_reference_model(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(policy_vectors) / sizeof(policy_vectors[0]); i++) {
        const struct policy_vector *v = &policy_vectors[i];

        vector_check("least", v, v->least);
        vector_check("cost", v, v->cost);
        vector_check("dynamo", v, v->dynamo);
        vector_check("dynamo:w=2.5", v, v->dynamo_w);
        vector_check("llmd:weights", v, v->weights);
    }
}

static void workflows_stay_where_they_began_with_wfleast(void **state)
{
    struct fixture f;

    (void)state;
    open_with(&f, "wfleast", 3);
    assert_int_equal(place(&f, "a", "1").engine, 0);
    assert_int_equal(place(&f, "b", "1").engine, 1);
    for (unsigned i = 0; i < 4; i++) {
        struct action go = place(&f, "a", "2");

        assert_int_equal(go.engine, 0);
        assert_int_equal(go.reason, REASON_HOME);
    }
    assert_int_equal(place(&f, "c", "1").engine, 2);
    assert_int_equal(probe(&f, 0, false, true), ERR_OK);
    assert_int_equal(probe(&f, 0, false, true), ERR_OK);
    assert_int_equal(place(&f, "a", "1").reason, REASON_REHOMED);
    assert_int_equal(place(&f, "a", "1").reason, REASON_HOME);
    assert_int_equal(probe(&f, 0, true, false), ERR_OK);
    assert_int_not_equal(place(&f, "a", "1").engine, 0); /* it has moved */
    fixture_close(&f);
}

static void a_home_that_failed_is_avoided_once_with_wfleast(void **state)
{
    static const uint32_t avoid[] = {0};
    struct query q;
    struct fixture f;

    (void)state;
    open_with(&f, "wfleast", 3);
    assert_int_equal(place(&f, "a", "1").engine, 0);
    q = query_of(&f, "a", "1");
    q.avoid = avoid;
    q.avoid_count = 1;
    assert_int_equal(ask(&f, &q)->reason, REASON_RETRY);
    assert_int_equal(place(&f, "a", "1").engine, 0);
    fixture_close(&f);
}

static void random_reaches_all_and_repeats_with_its_seed(void **state)
{
    uint32_t first[3][64], counts[3] = {0};
    static const char *const specs[] = {"random", "random", "random:seed=5"};
    bool differs = false;

    (void)state;
    for (unsigned run = 0; run < 3; run++) {
        struct fixture f;

        open_with(&f, specs[run], 3);
        for (unsigned i = 0; i < 64; i++) {
            first[run][i] = place(&f, "w", "a").engine;
            counts[first[run][i]]++;
            differs |= run == 2 && first[2][i] != first[0][i];
        }
        fixture_close(&f);
    }
    assert_memory_equal(first[0], first[1], sizeof(first[0]));
    assert_true(differs);
    for (unsigned i = 0; i < 3; i++)
        assert_in_range(counts[i], 40, 88);
}

static void only_workflows_of_a_dead_engine_move_with_wfhash(void **state)
{
    uint32_t at[200], moved = 0, counts[4] = {0};
    struct core_conf conf = fixture_conf();
    struct fixture f;
    char id[16];

    (void)state;
    conf.policy = "wfhash";
    conf.max_workflows = 256;
    conf.max_leases = 1024;
    fixture_open(&f, &conf, 4);
    for (unsigned i = 0; i < 200; i++) {
        snprintf(id, sizeof(id), "w%u", i);
        at[i] = place(&f, id, "a").engine;
        counts[at[i]]++;
        assert_int_equal(place(&f, id, "b").engine, at[i]);
    }
    for (unsigned i = 0; i < 4; i++)
        assert_in_range(counts[i], 30, 70);
    probe(&f, 2, false, true);
    probe(&f, 2, false, true);
    for (unsigned i = 0; i < 200; i++) {
        uint32_t now;

        snprintf(id, sizeof(id), "w%u", i);
        now = place(&f, id, "a").engine;
        assert_int_not_equal(now, 2);
        moved += now != at[i];
    }
    assert_int_equal(moved, counts[2]);
    fixture_close(&f);
}

/* Recorded from uhashring 2.3: HashRing(["e0" .. "e4"]).get_node("wf-<i>"), then without e1, e3. */
static void sessions_go_where_uhashring_says(void **state)
{
    static const char all[] = "4430140220222442443320113131432211034210041311101301330322043143",
                      even[] = "4420440220222442440020244402402224044200044200402204220222042442";
    struct core_conf conf = fixture_conf();
    struct fixture f;
    char id[16];

    (void)state;
    conf.policy = "session";
    fixture_open(&f, &conf, 5);
    for (unsigned i = 0; i < 64; i++) {
        struct action go;

        snprintf(id, sizeof(id), "wf-%u", i);
        go = place(&f, id, "a");
        assert_int_equal(go.engine, all[i] - '0');
        assert_int_equal(go.reason, REASON_HASH);
        finish(&f, go.handle, 10, 0, 1);
    }
    engine_gone(&f, 1, 1);
    probe(&f, 3, false, true);
    probe(&f, 3, false, true);
    for (unsigned i = 0; i < 64; i++) {
        struct action go;

        snprintf(id, sizeof(id), "wf-%u", i);
        go = place(&f, id, "a");
        assert_int_equal(go.engine, even[i] - '0');
        finish(&f, go.handle, 10, 0, 1);
    }
    assert_int_equal(place(&f, "", "").reason, REASON_LEAST);
    fixture_close(&f);
}

static void sessions_may_be_agents(void **state)
{
    static const char all[] = "44301402202224424433";
    struct fixture f;
    char id[16];

    (void)state;
    open_with(&f, "session:key=agent", 5);
    for (unsigned i = 0; i < 20; i++) {
        char w[16];

        snprintf(id, sizeof(id), "wf-%u", i);
        snprintf(w, sizeof(w), "w%u", i);
        assert_int_equal(place(&f, w, id).engine, all[i] - '0');
    }
    fixture_close(&f);
}

static void llmd_sticks_to_warm_engines_until_they_are_saturated(void **state)
{
    struct fixture f;
    struct choice got;
    struct scene s;

    (void)state;
    open_with(&f, "llmd:rate=1000:penalty=10", 3);
    scene_set(&s, &f, 6400, 100);
    cached_at(&s, 1, 80); /* just warm */
    cached_at(&s, 2, 79);
    f.core->fleet.engines[1].q_tokens = 10000;
    got = decide(&f, &s);
    assert_int_equal(got.engine->index, 1);
    assert_int_equal(got.reason, REASON_CACHE);
    f.core->fleet.engines[1].q_tokens = 10001; /* 10.001 s behind the others */
    got = decide(&f, &s);
    assert_int_equal(got.engine->index, 2);
    assert_int_equal(got.reason, REASON_BALANCE);
    f.core->fleet.engines[0].q_tokens = f.core->fleet.engines[2].q_tokens = 5000;
    got = decide(&f, &s);
    assert_int_equal(got.engine->index, 1);
    cached_at(&s, 0, 100); /* two warm ones: tokens in flight and of its own */
    got = decide(&f, &s);
    assert_int_equal(got.engine->index, 0);
    assert_true(s.cost[0] == 5000 && s.cost[1] == 10001 + 20 * 64 && s.cost[2] == 5000 + 21 * 64);
    for (unsigned i = 0; i < 3; i++)
        f.core->fleet.engines[i].q_tokens = 0;
    fixture_close(&f);
}

static void llmd_without_warm_engines_takes_the_least_uncached_tokens(void **state)
{
    struct fixture f;
    struct scene s;

    (void)state;
    open_with(&f, "llmd", 3);
    scene_set(&s, &f, 6400, 100);
    cached_at(&s, 0, 10);
    cached_at(&s, 1, 50);
    assert_int_equal(decide(&f, &s).engine->index, 1);
    assert_int_equal(decide(&f, &s).reason, REASON_SCORE);
    f.core->fleet.engines[1].q_tokens = 41 * 64;
    assert_int_equal(decide(&f, &s).engine->index, 0);
    f.core->fleet.engines[1].q_tokens = 0;
    fixture_close(&f);
}

static void llmd_explores_as_often_as_told(void **state)
{
    uint32_t elsewhere = 0;
    struct fixture f;
    struct scene s;

    (void)state;
    open_with(&f, "llmd:explore=.25", 2);
    scene_set(&s, &f, 6400, 100);
    cached_at(&s, 0, 100);
    f.core->fleet.engines[0].q_tokens = 10000; /* less than the penalty */
    for (unsigned i = 0; i < 1000; i++) {
        struct choice got = decide(&f, &s);

        assert_int_equal(got.reason, got.engine->index == 0 ? REASON_CACHE : REASON_RANDOM);
        elsewhere += got.engine->index == 1;
    }
    assert_in_range(elsewhere, 200, 300);
    f.core->fleet.engines[0].q_tokens = 0;
    fixture_close(&f);
}

static void lmetric_multiplies_new_tokens_and_batch(void **state)
{
    struct fixture f;
    struct scene s;

    (void)state;
    open_with(&f, "lmetric", 2);
    scene_set(&s, &f, 6400, 100);
    cached_at(&s, 0, 75); /* 1600 new tokens there, 6400 here */
    f.core->fleet.engines[0].running = 3;
    assert_int_equal(decide(&f, &s).engine->index, 1); /* 1601 * 4 > 6401 * 1 */
    assert_true(s.cost[0] == 1601.0 * 4 && s.cost[1] == 6401);
    f.core->fleet.engines[0].running = 2;
    assert_int_equal(decide(&f, &s).engine->index, 0);
    f.core->fleet.engines[0].q_tokens = 1000; /* those ahead count alike */
    assert_int_equal(decide(&f, &s).engine->index, 1);
    f.core->fleet.engines[0].running = 0;
    f.core->fleet.engines[0].q_tokens = 0;
    fixture_close(&f);
}

static void every_policy_lives_with_one_engine_and_with_none(void **state)
{
    struct buf names = {0};

    (void)state;
    spec_names(&names);
    for (char *rest = NULL, *name = strtok_r((char *)(uintptr_t)buf_cstr(&names), ", ", &rest);
         name != NULL; name = strtok_r(NULL, ", ", &rest)) {
        static const uint64_t digests[] = {11, 12, 13, 14, 15, 16, 17};
        struct fixture f;
        struct query q;

        open_with(&f, name, 1);
        for (unsigned i = 0; i < 3; i++) {
            q = query_of(&f, "w", "a");
            q.digests = digests;
            q.digest_count = 7;
            assert_int_equal(ask(&f, &q)->type, ACT_GO);
        }
        finish(&f, q.handle, 400, 100, 10);
        engine_gone(&f, 0, 1);
        q = query_of(&f, "w", "a");
        assert_int_equal(ask(&f, &q)->err, ERR_NO_ENGINE);
        engine_put(&f, 5, 1, "late", "m", false);
        probe(&f, 5, true, false);
        q = query_of(&f, "w", "a");
        q.digests = digests;
        q.digest_count = 7;
        assert_int_equal(ask(&f, &q)->engine, 5);
        fixture_close(&f);
    }
    buf_fini(&names);
}

struct cache_run {
    struct fixture f;
    uint64_t digests[64], handles[160];
};

static struct query conversation(struct cache_run *r, uint32_t conv, uint32_t blocks)
{
    struct query q = query_of(&r->f, "w", "");

    for (uint32_t i = 0; i < blocks; i++)
        r->digests[i] = i < 8 ? 1000 * (conv % 3 + 1) + i : 100000 * (conv + 1) + i;
    q.digests = r->digests;
    q.digest_count = blocks;
    q.prompt_bytes = blocks * 256 + 12;
    return q;
}

static void sglang_check(const char *policy, const struct sglang_step *steps, unsigned count)
{
    struct cache_run r;

    open_with(&r.f, policy, 4);
    for (unsigned i = 0; i < 4; i++)
        r.f.core->fleet.engines[i].kv_conf = 40 * 64;
    for (unsigned i = 0; i < count; i++) {
        struct query q = conversation(&r, steps[i].conversation, steps[i].blocks);

        r.handles[i] = q.handle;
        assert_int_equal(ask(&r.f, &q)->engine, steps[i].engine);
        if (steps[i].ends >= 0)
            finish(&r.f, r.handles[steps[i].ends], 100, 0, 1);
    }
    fixture_close(&r.f);
}

static void sglang_decides_as_the_reference_model(void **state)
{
    (void)state;
    sglang_check("sglang:idx=1:abs=3:rel=1.5", sglang_ideal,
                 sizeof(sglang_ideal) / sizeof(sglang_ideal[0]));
    sglang_check("sglang:abs=4:thr=.3", sglang_shipped,
                 sizeof(sglang_shipped) / sizeof(sglang_shipped[0]));
}

static void sglang_counts_answers_that_are_known_beforehand(void **state)
{
    static const uint64_t chain[] = {1, 2, 3, 4, 5, 6, 7, 8};

    (void)state;
    for (unsigned told = 0; told < 2; told++) {
        struct cache_run r;
        struct query q;

        open_with(&r.f, "sglang", 2);
        q = query_of(&r.f, "w", "a");
        q.digests = chain;
        q.digest_count = 2;
        q.answer_digests = told ? 6 : 0;
        assert_int_equal(ask(&r.f, &q)->engine, 0);
        finish(&r.f, q.handle, 10, 0, 1);
        q = query_of(&r.f, "w", "a"); /* 2 of 8 blocks match, or all */
        q.digests = chain;
        q.digest_count = 8;
        assert_int_equal(ask(&r.f, &q)->engine, told ? 0 : 1);
        fixture_close(&r.f);
    }
}

static void sglang_forgets_an_engine_that_died(void **state)
{
    struct cache_run r;
    struct query q;

    (void)state;
    open_with(&r.f, "sglang", 2);
    for (unsigned i = 0; i < 2; i++) {
        q = conversation(&r, i, 20);
        assert_int_equal(ask(&r.f, &q)->engine, i);
        finish(&r.f, q.handle, 100, 0, 1);
    }
    q = conversation(&r, 1, 20);
    assert_int_equal(ask(&r.f, &q)->reason, REASON_CACHE);
    probe(&r.f, 1, false, true);
    probe(&r.f, 1, false, true);
    probe(&r.f, 1, true, false);
    q = conversation(&r, 1, 20);
    assert_int_equal(ask(&r.f, &q)->reason, REASON_SCORE); /* the smallest index: it is empty */
    assert_int_equal(action_of(&r.f, ACT_GO)->engine, 1);
    fixture_close(&r.f);
}

static void prefixaware_stays_with_engines_that_were_sent_the_prefix(void **state)
{
    uint32_t first = 0, others = 0;
    struct cache_run r;
    struct query q;

    (void)state;
    open_with(&r.f, "prefixaware", 8);
    q = conversation(&r, 0, 20);
    first = ask(&r.f, &q)->engine;
    assert_int_equal(action_of(&r.f, ACT_GO)->reason, REASON_RANDOM);
    for (unsigned i = 0; i < 20; i++) {
        q = conversation(&r, 0, 20 + i); /* grows: only that engine knows any of it */
        assert_int_equal(ask(&r.f, &q)->engine, first);
        assert_int_equal(action_of(&r.f, ACT_GO)->reason, REASON_CACHE);
    }
    for (uint64_t i = 1; i < 40; i++) { /* strangers to it and to each other */
        q = query_of(&r.f, "w", "a");
        q.digests = &i;
        q.digest_count = 1;
        others |= 1u << ask(&r.f, &q)->engine;
    }
    assert_int_equal(others, 0xff);
    fixture_close(&r.f);
}

/* The longest known prefix counts, however short it is, and whatever the load. */
static void prefixaware_prefers_known_prefixes_to_idle_engines(void **state)
{
    uint32_t at[2];
    struct cache_run r;
    struct query q;

    (void)state;
    open_with(&r.f, "prefixaware:seed=2", 8);
    for (unsigned i = 0; i < 2; i++) {
        q = conversation(&r, i, 30);
        at[i] = ask(&r.f, &q)->engine;
    }
    assert_int_not_equal(at[0], at[1]); /* by this seed */
    for (unsigned i = 0; i < 30; i++) {
        q = conversation(&r, 6 + i % 2 + 3 * i, 9); /* eight blocks of family 0 or 1 */
        assert_int_equal(ask(&r.f, &q)->engine, at[i % 2]);
    }
    fixture_close(&r.f);
}

#define TRIE_STEPS 400u

struct trie_step {
    uint64_t digests[64];
    uint32_t blocks, engine;
};

/* What production-stack's trie gives, found the slow way: the engines among may that were sent the
 * longest prefix of these blocks that any of them was sent; all of may when none was sent any. */
static struct engine_set trie_set(const struct trie_step *steps, uint32_t count,
                                  const struct trie_step *q, const struct engine_set *may)
{
    struct engine_set best = *may;
    uint32_t most = 0;

    for (uint32_t i = 0; i < count; i++) {
        uint32_t same = 0;

        while (same < steps[i].blocks && same < q->blocks &&
               steps[i].digests[same] == q->digests[same])
            same++;
        if (same == 0 || same < most || !set_has(may, steps[i].engine))
            continue;
        if (same > most)
            best = (struct engine_set){{0}};
        most = same;
        set_add(&best, steps[i].engine);
    }
    return best;
}

static void prefixaware_chooses_among_those_of_the_trie(void **state)
{
    struct trie_step *steps = calloc(TRIE_STEPS, sizeof(*steps));
    uint32_t others = 0, seed = 1;
    struct cache_run r;

    (void)state;
    open_with(&r.f, "prefixaware", 5);
    for (uint32_t i = 0; i < TRIE_STEPS; i++) {
        uint32_t avoid[2] = {(seed >> 8) % 5, (seed >> 12) % 5}, count;
        struct query q = conversation(&r, (seed >> 16) % 12, 1 + (seed >> 20) % 20);
        struct engine_set may = {{0x1f}}, best;

        q.avoid = avoid;
        q.avoid_count = i % 2 * 2;
        for (uint32_t k = 0; k < q.avoid_count; k++)
            set_remove(&may, avoid[k]);
        memcpy(steps[i].digests, r.digests, sizeof(r.digests));
        steps[i].blocks = q.digest_count;
        best = trie_set(steps, i, &steps[i], &may);
        steps[i].engine = ask(&r.f, &q)->engine;
        assert_true(set_has(&best, steps[i].engine));
        count = set_count(&best);
        others += count > 1 && steps[i].engine != set_next(&best, 0);
        finish(&r.f, q.handle, 100, 0, 1);
        seed = seed * 1664525 + 1013904223;
    }
    assert_true(others > 20); /* it is not always the first of them */
    free(steps);
    fixture_close(&r.f);
}

static void prefixaware_forgets_beyond_its_bound(void **state)
{
    struct cache_run r;
    struct query q;

    (void)state;
    open_with(&r.f, "prefixaware:blocks=40", 1);
    q = conversation(&r, 0, 20);
    ask(&r.f, &q);
    q = conversation(&r, 1, 20);
    ask(&r.f, &q);
    q = conversation(&r, 0, 20);
    assert_int_equal(ask(&r.f, &q)->reason, REASON_CACHE);
    q = conversation(&r, 2, 40);
    ask(&r.f, &q);
    q = conversation(&r, 0, 20);
    assert_int_equal(ask(&r.f, &q)->reason, REASON_RANDOM);
    fixture_close(&r.f);
}

static enum err choose(struct fixture *f, const char *policy, const char *fallback)
{
    struct event set = {.type = EV_POLICY_SET, .conf = fixture_conf()};

    set.conf.policy = policy;
    set.conf.default_policy = fallback;
    return step(f, &set);
}

static void *state_of(const struct fixture *f, bool has_workflow)
{
    return policies_choose(f->core, &(struct query){.worker = 0}, has_workflow)->state;
}

static void what_a_policy_keeps_survives_a_reload_of_the_same(void **state)
{
    struct fixture f;
    void *kept;

    (void)state;
    open_with(&f, "random:seed=3", 2);
    kept = state_of(&f, true);
    assert_non_null(kept);
    assert_int_equal(choose(&f, "random:seed=3", "least"), ERR_OK);
    assert_ptr_equal(state_of(&f, true), kept);
    assert_int_equal(choose(&f, "least", "random:seed=3"), ERR_OK);
    assert_ptr_equal(state_of(&f, false), kept);
    assert_int_equal(choose(&f, "random:seed=3", "random:seed=3"), ERR_OK);
    assert_ptr_equal(state_of(&f, true), kept);
    assert_ptr_equal(state_of(&f, false), kept); /* two of the same share it */
    assert_int_equal(choose(&f, "session", "random:seed=4"), ERR_OK);
    assert_int_equal(choose(&f, "random:seed=4", "session"), ERR_OK);
    assert_int_equal(choose(&f, "random:seed=4", "random:seed=5"), ERR_OK);
    fixture_close(&f);
}

static struct action place_by(struct fixture *f, const char *workflow, const char *model,
                              const char *route)
{
    struct query q = query_of(f, workflow, "a");

    q.model = text_of(model);
    q.route = text_of(route);
    return *ask(f, &q);
}

static void rules_choose_by_model_and_route(void **state)
{
    static const struct policy_rule rules[] = {
        {.model = "m", .route = "/v1/embeddings", .policy = "roundrobin"},
        {.model = "n", .route = "", .policy = "workflow"},
        {.model = "", .route = "/v1/completions", .policy = "random"},
    };
    struct text models[] = {text_of("m"), text_of("n")};
    struct core_conf conf = fixture_conf();
    struct fixture f;

    (void)state;
    conf.policy = "session";
    conf.default_policy = "least";
    conf.rules = rules;
    conf.rule_count = 3;
    fixture_open(&f, &conf, 0);
    step(&f, &(struct event){.type = EV_ENGINE_SET,
                             .engine = {.generation = 1,
                                        .id = text_of("e0"),
                                        .models = models,
                                        .model_count = 2,
                                        .models_known = true}});
    probe(&f, 0, true, false);
    assert_string_equal(place_by(&f, "w", "m", "/v1/embeddings").policy, "roundrobin");
    assert_string_equal(place_by(&f, "", "m", "/v1/embeddings").policy, "roundrobin");
    assert_string_equal(place_by(&f, "w", "m", "/v1/embedding").policy, "session");
    assert_string_equal(place_by(&f, "w", "n", "/v1/embeddings").policy, "workflow");
    assert_string_equal(place_by(&f, "w", "n", "").policy, "workflow");
    assert_string_equal(place_by(&f, "", "n", "").policy, "workflow"); /* without one, too */
    assert_string_equal(place_by(&f, "", "n", "/v1/completions").policy,
                        "workflow"); /* the first that fits */
    assert_string_equal(place_by(&f, "w", "m", "/v1/completions").policy, "random");
    assert_string_equal(place_by(&f, "w", "m", "").policy, "session");
    assert_string_equal(core_policy_name(f.core), "session");
    engine_gone(&f, 0, 1);
    fixture_close(&f);
}

static void rules_that_do_not_fit_are_refused(void **state)
{
    struct policy_rule rule = {.model = "m", .route = "", .policy = "leest"};
    struct event set = {.type = EV_POLICY_SET, .conf = fixture_conf()};
    struct fixture f;

    (void)state;
    open_with(&f, "random", 1);
    set.conf.rules = &rule;
    set.conf.rule_count = 1;
    assert_int_equal(step(&f, &set), ERR_CONF);
    rule.policy = "workflow:gate=off"; /* but the fixture's general policy is "workflow" */
    assert_int_equal(step(&f, &set), ERR_CONF);
    assert_string_equal(core_policy_name(f.core), "random");
    set.conf.policy = rule.policy;
    assert_int_equal(step(&f, &set), ERR_OK);
    assert_string_equal(core_policy_name(f.core), "workflow");
    fixture_close(&f);
}

static void requests_that_a_policy_held_go_when_another_one_is_chosen(void **state)
{
    struct fixture f;
    struct query q;

    (void)state;
    open_with(&f, "workflow:gate=.01", 1);
    q = query_of(&f, "a", "1");
    q.prompt_bytes = 400000;
    assert_int_equal(ask(&f, &q)->type, ACT_GO);
    q = query_of(&f, "b", "1");
    q.prompt_bytes = 400000;
    step(&f, &(struct event){.type = EV_QUERY, .query = q});
    assert_non_null(action_of(&f, ACT_WAIT));
    assert_int_equal(core_stats_get(f.core)->waiting, 1);
    assert_int_equal(choose(&f, "least", "least"), ERR_OK);
    assert_non_null(action_of(&f, ACT_GO));
    assert_true(action_of(&f, ACT_GO)->handle == q.handle);
    assert_string_equal(action_of(&f, ACT_GO)->policy, "least");
    assert_int_equal(core_stats_get(f.core)->waiting, 0);
    fixture_close(&f);
}

static void a_refused_policy_changes_nothing(void **state)
{
    struct fixture f;
    void *kept;

    (void)state;
    open_with(&f, "random:seed=3", 2);
    kept = state_of(&f, true);
    assert_int_equal(choose(&f, "random:sed=3", "least"), ERR_CONF);
    assert_int_equal(choose(&f, "fastest", "least"), ERR_CONF);
    assert_int_equal(choose(&f, "least", "astrology"), ERR_CONF);
    assert_ptr_equal(state_of(&f, true), kept);
    assert_string_equal(core_policy_name(f.core), "random");
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rules_decide_as_the_reference_model),
        cmocka_unit_test(workflows_stay_where_they_began_with_wfleast),
        cmocka_unit_test(a_home_that_failed_is_avoided_once_with_wfleast),
        cmocka_unit_test(random_reaches_all_and_repeats_with_its_seed),
        cmocka_unit_test(only_workflows_of_a_dead_engine_move_with_wfhash),
        cmocka_unit_test(sessions_go_where_uhashring_says),
        cmocka_unit_test(sessions_may_be_agents),
        cmocka_unit_test(llmd_sticks_to_warm_engines_until_they_are_saturated),
        cmocka_unit_test(llmd_without_warm_engines_takes_the_least_uncached_tokens),
        cmocka_unit_test(llmd_explores_as_often_as_told),
        cmocka_unit_test(lmetric_multiplies_new_tokens_and_batch),
        cmocka_unit_test(sglang_decides_as_the_reference_model),
        cmocka_unit_test(sglang_counts_answers_that_are_known_beforehand),
        cmocka_unit_test(sglang_forgets_an_engine_that_died),
        cmocka_unit_test(prefixaware_stays_with_engines_that_were_sent_the_prefix),
        cmocka_unit_test(prefixaware_prefers_known_prefixes_to_idle_engines),
        cmocka_unit_test(prefixaware_chooses_among_those_of_the_trie),
        cmocka_unit_test(prefixaware_forgets_beyond_its_bound),
        cmocka_unit_test(every_policy_lives_with_one_engine_and_with_none),
        cmocka_unit_test(what_a_policy_keeps_survives_a_reload_of_the_same),
        cmocka_unit_test(rules_choose_by_model_and_route),
        cmocka_unit_test(rules_that_do_not_fit_are_refused),
        cmocka_unit_test(requests_that_a_policy_held_go_when_another_one_is_chosen),
        cmocka_unit_test(a_refused_policy_changes_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
