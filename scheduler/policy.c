/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/policy.h"

#include <stdlib.h>
#include <string.h>

#include "common/must.h"
#include "scheduler/state.h"

static const struct policy *const policies[] = {
#define POLICY(symbol, name, needs_workflow, help) &policy_##symbol,
#include "common/policies.def"
};

const struct policy *policy_get(const struct policy_spec *spec)
{
    must(spec->symbol < POLICY_COUNT);
    return policies[spec->symbol];
}

static void *state_start(struct core *c, const struct policy_spec *spec)
{
    const struct policy *p = policy_get(spec);

    return p->start != NULL ? p->start(c, spec) : NULL;
}

static void state_stop(struct core *c, const struct policy *p, void *state)
{
    if (state != NULL)
        p->stop(c, state);
}

static bool is_same(const struct policy_spec *a, const struct policy_spec *b)
{
    return strcmp(a->text, b->text) == 0;
}

void policies_set(struct core *c, const struct policy_spec *spec,
                  const struct policy_spec *fallback)
{
    const struct policy *old[2] = {c->policy, c->fallback};
    void *was[2] = {c->state, c->fallback_state};
    bool kept[2] = {is_same(&c->spec, spec) || is_same(&c->spec, fallback),
                    is_same(&c->fallback_spec, spec) || is_same(&c->fallback_spec, fallback)};
    void *first, *second;

    first = is_same(spec, &c->spec)            ? was[0]
            : is_same(spec, &c->fallback_spec) ? was[1]
                                               : state_start(c, spec);
    second = is_same(fallback, spec)                ? first
             : is_same(fallback, &c->spec)          ? was[0]
             : is_same(fallback, &c->fallback_spec) ? was[1]
                                                    : state_start(c, fallback);
    if (!kept[0])
        state_stop(c, old[0], was[0]);
    if (!kept[1] && was[1] != was[0])
        state_stop(c, old[1], was[1]);
    c->policy = policy_get(spec);
    c->fallback = policy_get(fallback);
    c->spec = *spec;
    c->fallback_spec = *fallback;
    c->state = first;
    c->fallback_state = second;
}

void policies_stop(struct core *c)
{
    state_stop(c, c->policy, c->state);
    if (c->fallback_state != c->state)
        state_stop(c, c->fallback, c->fallback_state);
    c->state = c->fallback_state = NULL;
}

void policies_cleared(struct core *c, const struct engine *e)
{
    if (c->policy->cleared != NULL)
        c->policy->cleared(c, c->state, e);
    if (c->fallback->cleared != NULL && c->fallback_state != c->state)
        c->fallback->cleared(c, c->fallback_state, e);
}

void plain_stop(struct core *c, void *state)
{
    (void)c;
    free(state);
}
