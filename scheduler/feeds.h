/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_FEEDS_H
#define SCHED_FEEDS_H

#include "scheduler/core.h"
#include "scheduler/kv_sub.h"
#include "scheduler/probe.h"

/*
 * What engines tell of themselves, beside their health: KV events and metrics pages become the
 * core's events. On the loop's thread.
 *
 * An engine's KV events count while they are known to be complete: before that, and after a loss
 * that no replay could mend, the core hears that the size of its cache is unknown. Content is told
 * only of engines that are configured so, and only while not one batch has been missed.
 */
struct feed_state {
    uint32_t generation; /* of the engine that this is about */
    uint32_t serial;
    bool kv_known;
    uint64_t kv_tokens; /* that the core knows of */
    uint32_t kv_connected;
    uint64_t kv_digests;   /* told and not taken back */
    bool kv_digests_flood; /* more than any cache has: its content is not listened to any more */
    struct kv_counters kv;
    bool scraped, scrape_failed; /* ever; the last time */
    struct scrape last;
    uint64_t scrapes, scrape_failures, restarts;
};

struct feeds {
    struct kv_sub *sub;
    struct feed_state engines[ENGINES_MAX];
};

struct server;
struct stats;

void feeds_open(struct server *s);
void feeds_set(struct server *s); /* the fleet may have changed */
void feeds_close(struct server *s);
/* The core has given up what it knew of an engine that seems dead: content has to be told again. */
void feeds_engine_down(struct server *s, uint32_t index);
void feeds_on_scrape(struct server *s, const struct probe_result *r);

/* stats_feeds.c: all of it as metrics. */
void stats_feeds(struct stats *st, const struct core *c, const struct feeds *feeds);

#endif
