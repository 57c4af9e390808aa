/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REPLAY_LIVE_H
#define REPLAY_LIVE_H

#include <stdbool.h>
#include <stdint.h>

#include "bench/replay/flow.h"
#include "bench/replay/prompt.h"
#include "bench/replay/report.h"
#include "bench/replay/trace.h"

enum live_identity { LIVE_HEADER, LIVE_METADATA, LIVE_NONE };

struct live_conf {
    const char *urls, *engine_urls;   /* engine_urls may be NULL */
    const char *model, *policy, *tag; /* tag: prefix of workflow ids, so that runs do not meet */
    enum live_identity identity;
    bool final_mark; /* the last call of a workflow says so */
    bool progress;
    double time_scale; /* model seconds per real second */
    uint32_t timeout_ms;
    struct flow_rule rule;
};

/* Replays over HTTP until every call has ended; false: interrupted. kv, engine_hit: see
 * report_label. */
bool live_run(const struct live_conf *conf, struct plans *plans, const struct selection *sel,
              struct report *report, struct report_label *label);

#endif
