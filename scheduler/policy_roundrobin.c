/* SPDX-License-Identifier: Apache-2.0 */
#include "common/must.h"
#include "scheduler/state.h"

/* One turn per model, so that two models on different engines do not disturb each other. */
static bool roundrobin_place(struct core *c, const struct ask *ask, struct choice *out)
{
    uint32_t i = set_next(&ask->may, ask->model->turn + 1);

    if (i == ENGINE_NONE)
        i = set_next(&ask->may, 0);
    must(i != ENGINE_NONE);
    ask->model->turn = i;
    out->engine = &c->fleet.engines[i];
    out->reason = REASON_ROUNDROBIN;
    return true;
}

const struct policy policy_roundrobin = {.name = "roundrobin", .place = roundrobin_place};
