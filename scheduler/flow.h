/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_FLOW_H
#define SCHED_FLOW_H

#include "common/list.h"
#include "scheduler/prefix.h"

/* What the policy "workflow" keeps of one; see brain.h. */
enum flow_state { FLOW_NEW, FLOW_LIVE, FLOW_LAPSED, FLOW_PAUSED };

#define CLAIM_UNIT 1024u /* of a block */

struct flow { /* of a workflow */
    struct foot foot;
    struct list
        idle; /* brain.rents while LIVE, brain.lapsed while LAPSED, with nothing in flight */
    uint64_t done_ns; /* last end of a request */
    float block;      /* tokens behind one digest, as its latest model counts */
    uint32_t bias;    /* CLAIM_UNIT, unless token counts are wrong on purpose */
    enum flow_state state;
};

#endif
