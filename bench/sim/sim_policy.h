/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SIM_POLICY_H
#define SIM_POLICY_H

#include <stdbool.h>

#include "common/buf.h"
#include "common/err.h"

/*
 * A policy as named on the command line: name[:key=value]... Some keys take information away from
 * any policy; they are the simulator's business and are cut before the scheduler sees the rest.
 */
struct sim_policy {
    const char *name;   /* as given; borrowed */
    char *spec;         /* for the scheduler */
    double lag;         /* lag=S: KV events come S seconds late */
    double tok_factor;  /* terr=F: what is told about prefill time is off by this factor */
    double kv_factor;   /* kerr=F: about decode time */
    double size_factor; /* cerr=F: about KV capacity */
    bool end;           /* end=0: no workflow says that it is over */
    bool priority;      /* prio=0|1: engines with priorities; only the workflow policy sets any */
    bool cached_tokens; /* ct=0: no engine reports how much was cached */
    bool exact;         /* view=approx: no KV events */
    bool fit;           /* fit=1: what is told may be wrong, and is corrected */
};

/* ERR_INVALID: a wrong value of a key above. ERR_CONF: no such policy, or it has no such option. On
 * failure `why` has one line about it. */
enum err sim_policy_parse(const char *text, struct sim_policy *out, struct buf *why);
void sim_policy_fini(struct sim_policy *p);

#endif
