/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DOOR_FIXTURE_H
#define DOOR_FIXTURE_H

#include "tests/unit/scheduler/core_fixture.h"

/* Prompts of the fixture are 1000 tokens, 7 blocks of 128: one workflow fits into such a cache, and
 * a second one does not. */
#define SMALL_KV 2000u

static inline enum err small_engine(struct fixture *f, uint32_t index, uint64_t kv_tokens)
{
    struct text m = text_of("m");
    char id[8];

    snprintf(id, sizeof(id), "e%u", index);
    return step(f, &(struct event){.type = EV_ENGINE_SET,
                                   .engine = {.index = index,
                                              .generation = 1,
                                              .id = text_of(id),
                                              .models = &m,
                                              .model_count = 1,
                                              .models_known = true,
                                              .kv_tokens = kv_tokens}});
}

static inline void door_open(struct fixture *f, const char *policy, unsigned engines,
                             uint64_t wait_ns)
{
    struct core_conf conf = fixture_conf();

    conf.policy = policy;
    conf.gate_wait_ns = wait_ns;
    fixture_open(f, &conf, engines);
    for (unsigned i = 0; i < engines; i++)
        assert_int_equal(small_engine(f, i, SMALL_KV), ERR_OK);
}

/* Asks; the answer is a wait. Returns the handle. */
static inline uint64_t held(struct fixture *f, struct query q)
{
    const struct action *act;

    step(f, &(struct event){.type = EV_QUERY, .query = q});
    act = action_of(f, ACT_WAIT);
    assert_non_null(act);
    assert_null(action_of(f, ACT_GO));
    assert_null(action_of(f, ACT_NO));
    assert_true(act->handle == q.handle);
    assert_int_equal(act->reason, REASON_DOOR);
    core_check(f->core);
    return q.handle;
}

static inline uint64_t hold(struct fixture *f, const char *workflow)
{
    struct query q = query_of(f, workflow, "a");

    q.remaining_ns = 3600 * NS_PER_S;
    return held(f, q);
}

static inline struct action served(struct fixture *f, const char *workflow)
{
    struct action go = place(f, workflow, "a");

    assert_int_equal(go.type, ACT_GO);
    step(f, &(struct event){.type = EV_FIRST_BYTE, .report = {.handle = go.handle}});
    assert_int_equal(finish(f, go.handle, 1000, 0, 10), ERR_OK);
    return go;
}

/* A request that runs on: the claim of its workflow does not lapse. */
static inline void stays_busy(struct fixture *f, const char *workflow)
{
    struct query q = query_of(f, workflow, "a");

    q.remaining_ns = 3600 * NS_PER_S;
    assert_int_equal(ask(f, &q)->type, ACT_GO);
}

static inline void end(struct fixture *f, const char *workflow)
{
    struct event ev = {.type = EV_WF_END, .workflow = {.id = text_of(workflow)}};

    assert_int_equal(step(f, &ev), ERR_OK);
}

/* Lets time pass up to the core's next deadline. */
static inline void sleep_on(struct fixture *f)
{
    uint64_t next = core_next_deadline(f->core);

    assert_true(next != UINT64_MAX);
    if (next > f->now)
        f->now = next;
    step(f, &(struct event){.type = EV_TICK});
    core_check(f->core);
}

#endif
