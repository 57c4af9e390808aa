/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/policy.h"

#include "common/must.h"

static const struct policy *const policies[] = {
#define POLICY(symbol, name, needs_workflow, help) &policy_##symbol,
#include "scheduler/policies.def"
};

const struct policy *policy_get(const struct policy_spec *spec)
{
    must(spec->symbol < POLICY_COUNT);
    return policies[spec->symbol];
}
