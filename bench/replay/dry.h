/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REPLAY_DRY_H
#define REPLAY_DRY_H

#include "bench/replay/prompt.h"
#include "bench/replay/trace.h"

struct dry {
    double trace_hit;   /* percent: what the trace says one endless cache would hit */
    double text_hit;    /* percent: what one would hit on the prompts made from it */
    double tokens_off;  /* percent: how far prompt lengths are from the trace's, all together */
    uint32_t worst_off; /* tokens: worst shared prefix against the trace, shorter or longer */
};

/* Without engines: the selected calls in file order through a cache that never forgets. Pure. */
void dry_run(const struct plans *p, const struct selection *sel, struct dry *out);

#endif
