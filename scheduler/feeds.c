/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/feeds.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/must.h"
#include "scheduler/server.h"

#define KV_TOKENS_MAX 1e9 /* no cache is larger; the index of an engine grows up to its size */

/* NULL: news of an engine that is gone. */
static struct feed_state *feed_find(struct server *s, uint32_t index, uint32_t generation)
{
    const struct engine *e = core_engine(s->core, index);
    struct feed_state *f = &s->feeds.engines[index];

    if (e == NULL || e->generation != generation)
        return NULL;
    if (f->generation != generation)
        *f = (struct feed_state){.generation = generation};
    return f;
}

/* ---- KV events ---- */

/* unknown: its size is, from now on; else it is empty, and its size known. */
static void kv_cleared(struct server *s, uint32_t index, uint32_t generation, bool unknown)
{
    struct event ev = {.type = EV_KV_CLEARED};

    ev.kv = (struct kv_event){.index = index, .generation = generation, .unknown = unknown};
    server_step(s, &ev);
}

/* The core hears of the difference. */
static void kv_resize(struct server *s, struct feed_state *f, uint32_t index, uint64_t tokens)
{
    struct event ev = {.type = tokens >= f->kv_tokens ? EV_KV_STORED : EV_KV_REMOVED};
    uint64_t by = tokens >= f->kv_tokens ? tokens - f->kv_tokens : f->kv_tokens - tokens;

    f->kv_tokens = tokens;
    while (by > 0) {
        uint32_t part = by < UINT32_MAX ? (uint32_t)by : UINT32_MAX;

        ev.kv = (struct kv_event){.index = index, .generation = f->generation, .tokens = part};
        server_step(s, &ev);
        by -= part;
    }
}

static void kv_content(struct server *s, struct feed_state *f, const struct kv_news *n)
{
    for (size_t i = 0; i < n->op_count; i++) {
        const struct kv_op *op = &n->ops[i];
        struct event ev = {.type = op->stored ? EV_KV_STORED : EV_KV_REMOVED};

        ev.kv = (struct kv_event){.index = n->index,
                                  .generation = n->generation,
                                  .parent = op->parent,
                                  .digests = op->digests,
                                  .count = op->count,
                                  .content = true};
        server_step(s, &ev);
        if (op->stored)
            f->kv_digests += op->count;
        else
            f->kv_digests -= op->count < f->kv_digests ? op->count : f->kv_digests;
        f->kv_digests_flood = f->kv_digests_flood || f->kv_digests > KV_VIEW_MAX;
    }
}

/* Whether the core may take the engine's content from its events. */
static void kv_exact_set(struct server *s, uint32_t index, bool exact)
{
    struct seat *seat = &s->fleet.seats[index];
    struct event ev = {.type = EV_ENGINE_SET};

    if (seat->kv_exact == exact)
        return;
    seat->kv_exact = exact;
    fleet_table_event(&s->fleet, index, &ev.engine);
    server_step(s, &ev);
    kv_cleared(s, index, seat->generation, !exact);
    s->feeds.engines[index].kv_tokens = s->feeds.engines[index].kv_digests = 0;
    log_info("kv_content", "engine=%s known=%d", seat->id, exact);
}

static void on_news(void *arg, const struct kv_news *n)
{
    struct server *s = arg;
    struct feed_state *f = feed_find(s, n->index, n->generation);
    struct seat *seat = &s->fleet.seats[n->index];
    bool was_known;

    if (f == NULL)
        return;
    was_known = f->kv_known;
    f->kv_known = n->known;
    f->kv_connected = n->connected;
    f->kv = n->count;
    if (n->cleared || !n->known)
        f->kv_tokens = 0;
    if (n->cleared) {
        f->kv_digests = 0;
        kv_cleared(s, n->index, n->generation, false);
    }
    if (!n->known && (n->cleared || was_known))
        kv_cleared(s, n->index, n->generation, true);
    if (was_known != n->known)
        log_info("kv_size", "engine=%s known=%d tokens=%llu", seat->id, n->known,
                 (unsigned long long)n->tokens);
    kv_exact_set(s, n->index, seat->kv.content && n->known && n->whole && !f->kv_digests_flood);
    if (!n->known)
        return;
    kv_resize(s, f, n->index, n->tokens);
    if (seat->kv_exact)
        kv_content(s, f, n);
    if (f->kv_digests_flood && f->kv_digests > 0) {
        log_warn("kv_content", "engine=%s reason=\"more digests than any cache has\"", seat->id);
        kv_cleared(s, n->index, n->generation, false);
        kv_exact_set(s, n->index, false);
    }
}

/* ---- metrics pages ---- */

static void scrape_tell(struct server *s, const struct probe_result *r)
{
    const struct scrape *p = &r->scrape;
    struct event ev = {.type = EV_ENGINE_STATS};
    struct stats_event *st = &ev.stats;

    *st = (struct stats_event){.index = r->index, .generation = r->generation};
    st->has_running = p->has[SCRAPE_running] && p->value[SCRAPE_running] < 1e9;
    st->has_waiting = p->has[SCRAPE_waiting] && p->value[SCRAPE_waiting] < 1e9;
    st->has_kv_tokens = p->value[SCRAPE_capacity] >= 1 && p->value[SCRAPE_capacity] < KV_TOKENS_MAX;
    if (st->has_running && p->value[SCRAPE_running] > 0)
        st->running = (uint32_t)p->value[SCRAPE_running];
    if (st->has_waiting && p->value[SCRAPE_waiting] > 0)
        st->waiting = (uint32_t)p->value[SCRAPE_waiting];
    if (st->has_kv_tokens)
        st->kv_tokens = (uint64_t)p->value[SCRAPE_capacity];
    st->has_kv_used = scrape_used_tokens(p, &st->kv_used_tokens);
    server_step(s, &ev);
}

void feeds_on_scrape(struct server *s, const struct probe_result *r)
{
    struct feed_state *f = feed_find(s, r->index, r->generation);
    const char *id = s->fleet.seats[r->index].id;

    if (f == NULL)
        return;
    if (f->scrape_failed == r->ok && (!r->ok || f->scrape_failures > 0))
        log_info("engine_metrics", "engine=%s ok=%d reason=\"%s\"", id, r->ok, r->reason);
    f->scrape_failed = !r->ok;
    f->scrapes += r->ok;
    f->scrape_failures += !r->ok;
    if (!r->ok)
        return;
    if (f->scraped && scrape_is_restart(&f->last, &r->scrape)) {
        f->restarts++;
        log_warn("engine_restarted", "engine=%s reason=\"its counters began anew\"", id);
        /* Its KV events tell that themselves, and in order with what came after it. */
        if (!f->kv_known) {
            kv_cleared(s, r->index, r->generation, false);
            kv_cleared(s, r->index, r->generation, true);
        }
    }
    f->scraped = true;
    f->last = r->scrape;
    scrape_tell(s, r);
}

/* ---- life ---- */

void feeds_open(struct server *s)
{
    s->feeds.sub = kv_sub_start(s->inbox, on_news, s);
    feeds_set(s);
}

void feeds_set(struct server *s)
{
    struct kv_target *targets = calloc(ENGINES_MAX, sizeof(*targets));
    size_t count = 0;

    must(targets != NULL);
    for (uint32_t i = 0; i < ENGINES_MAX; i++) {
        struct seat *seat = &s->fleet.seats[i];
        struct kv_target *t = &targets[count];
        const struct feed_state *f;

        if (!seat->used)
            continue;
        if (!seat->kv.content)
            kv_exact_set(s, i, false);
        if (seat->kv.events[0] == '\0')
            continue;
        count++;
        f = feed_find(s, i, seat->generation);
        t->index = i;
        t->generation = seat->generation;
        t->bind = seat->kv.bind;
        t->content = seat->kv.content;
        t->ranks = seat->kv.ranks;
        t->serial = f != NULL ? f->serial : 0;
        memcpy(t->id, seat->id, sizeof(t->id));
        memcpy(t->events, seat->kv.events, sizeof(t->events));
        memcpy(t->replay, seat->kv.replay, sizeof(t->replay));
        memcpy(t->topic, seat->kv.topic, sizeof(t->topic));
    }
    kv_sub_set(s->feeds.sub, targets, count);
    free(targets);
}

void feeds_engine_down(struct server *s, uint32_t index)
{
    if (!s->fleet.seats[index].kv_exact)
        return;
    s->feeds.engines[index].serial++;
    feeds_set(s);
}

void feeds_close(struct server *s)
{
    kv_sub_stop(s->feeds.sub);
    s->feeds.sub = NULL;
}
