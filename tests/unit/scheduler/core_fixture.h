/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CORE_FIXTURE_H
#define CORE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/clock.h"
#include "scheduler/state.h"

/* A core with a few engines and one worker, driven by hand. */
struct fixture {
    struct core *core;
    struct actions out;
    uint64_t now;
    uint64_t next_handle;
    uint64_t digests[8][7]; /* of the last few prompts */
};

static inline struct text text_of(const char *s)
{
    return (struct text){s, (uint32_t)strlen(s)};
}

static inline struct core_conf fixture_conf(void)
{
    return (struct core_conf){.max_workflows = 64,
                              .max_agents = 8,
                              .max_leases = 256,
                              .max_workers = 8,
                              .workflow_ttl_ns = 1800 * NS_PER_S,
                              .agent_active_ns = 60 * NS_PER_S,
                              .lease_slack_ns = 10 * NS_PER_S,
                              .probe_failures = 2,
                              .policy = "workflow",
                              .default_policy = "least"};
}

static inline enum err step(struct fixture *f, const struct event *ev)
{
    return core_step(f->core, f->now, ev, &f->out);
}

static inline enum err engine_put(struct fixture *f, uint32_t index, uint32_t generation,
                                  const char *id, const char *model, bool draining)
{
    struct text m = text_of(model != NULL ? model : "");

    return step(f, &(struct event){.type = EV_ENGINE_SET,
                                   .engine = {.index = index,
                                              .generation = generation,
                                              .id = text_of(id),
                                              .models = &m,
                                              .model_count = 1,
                                              .models_known = model != NULL,
                                              .draining = draining}});
}

static inline enum err engine_gone(struct fixture *f, uint32_t index, uint32_t generation)
{
    return step(f, &(struct event){.type = EV_ENGINE_GONE,
                                   .engine = {.index = index, .generation = generation}});
}

static inline enum err probe(struct fixture *f, uint32_t index, bool ok, bool unreachable)
{
    const struct engine *e = core_engine(f->core, index);

    return step(f, &(struct event){.type = EV_ENGINE_HEALTH,
                                   .health = {.index = index,
                                              .generation = e != NULL ? e->generation : 0,
                                              .ok = ok,
                                              .unreachable = unreachable}});
}

static inline enum err worker_event(struct fixture *f, enum event_type type, uint32_t worker)
{
    return step(f, &(struct event){.type = type, .worker = worker});
}

static inline void fixture_open(struct fixture *f, const struct core_conf *conf, unsigned engines)
{
    static const char *const ids[] = {"e0", "e1", "e2", "e3", "e4", "e5", "e6", "e7"};

    *f = (struct fixture){.now = NS_PER_S, .next_handle = 1};
    assert_int_equal(core_new(conf, &f->core), ERR_OK);
    for (unsigned i = 0; i < engines; i++) {
        assert_int_equal(engine_put(f, i, 1, ids[i], "m", false), ERR_OK);
        assert_int_equal(probe(f, i, true, false), ERR_OK);
    }
    assert_int_equal(worker_event(f, EV_WORKER_HELLO, 0), ERR_OK);
}

static inline void fixture_close(struct fixture *f)
{
    core_check(f->core);
    core_free(f->core);
    actions_fini(&f->out);
}

/* All prompts of one workflow are the same 4000 bytes. */
static inline struct query query_of(struct fixture *f, const char *workflow, const char *agent)
{
    uint64_t *digests = f->digests[f->next_handle % 8];

    for (uint64_t i = 0, d = 1; i < 7; i++) {
        for (const char *p = workflow; *p != '\0'; p++)
            d = table_mix(d + (unsigned char)*p);
        digests[i] = d = table_mix(d + f->next_handle * (*workflow == '\0'));
    }
    return (struct query){.handle = f->next_handle++,
                          .workflow = text_of(workflow),
                          .agent = text_of(agent),
                          .model = text_of("m"),
                          .stream = true,
                          .prompt_bytes = 4000,
                          .digests = digests,
                          .digest_count = 7,
                          .remaining_ns = 60 * NS_PER_S};
}

static inline const struct action *action_of(const struct fixture *f, enum action_type type)
{
    for (size_t i = 0; i < f->out.count; i++)
        if (f->out.items[i].type == type)
            return &f->out.items[i];
    return NULL;
}

/* The answer: ACT_GO or ACT_NO, exactly one of them. */
static inline const struct action *ask(struct fixture *f, const struct query *q)
{
    const struct action *found = NULL;

    step(f, &(struct event){.type = EV_QUERY, .query = *q});
    for (size_t i = 0; i < f->out.count; i++)
        if (f->out.items[i].type == ACT_GO || f->out.items[i].type == ACT_NO) {
            assert_null(found);
            found = &f->out.items[i];
        }
    assert_non_null(found);
    assert_true(found->handle == q->handle && found->worker == q->worker);
    return found;
}

static inline struct action place(struct fixture *f, const char *workflow, const char *agent)
{
    struct query q = query_of(f, workflow, agent);

    return *ask(f, &q);
}

static inline enum err finish(struct fixture *f, uint64_t handle, uint32_t prompt, uint32_t cached,
                              uint32_t completion)
{
    return step(f, &(struct event){.type = EV_DONE,
                                   .report = {.handle = handle,
                                              .has_usage = true,
                                              .has_cached = true,
                                              .prompt_tokens = prompt,
                                              .cached_tokens = cached,
                                              .completion_tokens = completion,
                                              .latency_ns = 100 * NS_PER_MS}});
}

static inline enum err fail_with(struct fixture *f, uint64_t handle, enum err err)
{
    return step(f, &(struct event){.type = EV_DONE, .report = {.handle = handle, .err = err}});
}

static inline const struct workflow *workflow(struct fixture *f, const char *id)
{
    return core_workflow_find(f->core, text_of(""), text_of(id));
}

#endif
