/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_STATE_H
#define SCHED_STATE_H

#include "common/pool.h"
#include "scheduler/brain.h"
#include "scheduler/chains.h"
#include "scheduler/group.h"
#include "scheduler/load.h"
#include "scheduler/policy.h"
#include "scheduler/receipt.h"
#include "scheduler/view.h"
#include "scheduler/wait.h"

/* All state of the core; for its own files and its tests. */
struct core {
    struct core_conf conf; /* without the policy names */
    struct placements *policies;
    uint64_t now; /* of the step under way */
    struct actions *out;
    struct fleet fleet;
    struct worker *workers; /* conf.max_workers */
    struct pool workflows, agents, leases, names;
    struct table workflow_index, agent_index, lease_index;
    struct list by_age; /* every workflow, oldest first */
    struct list idle;   /* workflows with nothing in flight, longest idle first */
    struct timers timers;
    struct load load;
    struct receipts receipts;
    struct chains chains;
    struct view view;
    struct waits waits;
    struct groups groups;
    struct brain brain;
    bool fits;           /* what was learned of engines is used */
    double priority_age; /* share of a workflow's age that counts for it in engines; < 0: none do */
    struct look {        /* what ask.cached, cached_blocks and cost point to */
        uint32_t tokens[ENGINES_MAX], blocks[ENGINES_MAX];
        double cost[ENGINES_MAX];
        uint32_t known;
        struct prefix_hit hits[ENGINES_MAX];
    } look;
    uint64_t workflow_seq, lease_seq, restored;
    struct core_stats stats;
};

#define AGENTS_PER_WORKFLOW 4u /* the agent table's size per allowed workflow */
#define NAME_LONG 512u
#define SEQ_FIRST (UINT64_C(1) << 40) /* restored workflows count down from here */

struct action *action_add(struct core *c, enum action_type type);
void action_engine(struct core *c, const struct engine *e);
void action_home(struct core *c, const struct workflow *w);

static inline uint32_t pool_slot_of(uint64_t handle)
{
    return (uint32_t)handle - 1;
}

#endif
