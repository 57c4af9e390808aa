/* SPDX-License-Identifier: Apache-2.0 */
#include "mailbox/turn.h"

#include <stdlib.h>

#include "common/clock.h"
#include "common/list.h"
#include "common/log.h"
#include "common/must.h"
#include "proto/shared.pb-c.h"
#include "mailbox/flow.h"
#include "mailbox/meters.h"
#include "mailbox/methods.h"
#include "mailbox/server.h"

#define MEM_STAYS (256u << 10)
#define RETRY_NS (250 * NS_PER_MS)
/* What nobody waits for (a hand-over that was settled while others were answered) goes to the store
 * with the next turn, but not later than this. */
#define LAZY_NS (5 * NS_PER_MS)

static void on_retry(struct timer *t)
{
    (void)t; /* that the loop turned is enough */
}

void turn_init(struct turn *t, struct server *s)
{
    *t = (struct turn){.server = s, .retry = {.fire = on_retry}};
    region_init(&t->mem, MEM_STAYS, SIZE_MAX / 2);
}

void turn_fini(struct turn *t)
{
    region_fini(&t->mem);
    free(t->answers);
    free(t->flows);
    t->answers = NULL;
    t->flows = NULL;
}

void turn_hold(struct turn *t, uint64_t token, bool promise, uint32_t weight,
               const ProtobufCMessage *body)
{
    if (t->len == t->cap) {
        t->cap = t->cap != 0 ? t->cap * 2 : 64;
        t->answers = realloc(t->answers, t->cap * sizeof(t->answers[0]));
        must(t->answers != NULL);
    }
    t->answers[t->len++] = (struct turn_answer){token, promise, body};
    t->weight += weight;
}

void turn_flow(struct turn *t, struct flow *f)
{
    if (t->flow_len == t->flow_cap) {
        t->flow_cap = t->flow_cap != 0 ? t->flow_cap * 2 : 256;
        t->flows = realloc(t->flows, t->flow_cap * sizeof(t->flows[0]));
        must(t->flows != NULL);
    }
    t->flows[t->flow_len++] = f;
}

bool turn_is_full(const struct turn *t)
{
    return t->weight >= TURN_WEIGHT_MAX;
}

static void answers_send(struct turn *t, bool ok)
{
    struct server *s = t->server;
    size_t i;

    for (i = 0; i < t->len; i++) {
        const struct turn_answer *a = &t->answers[i];
        const struct call c = {.s = s, .token = a->token};

        if (a->promise && !ok)
            call_refuse(&c, ERR_STORE);
        else
            rpc_reply(s->rpc, a->token, ERR_OK, a->body);
    }
    for (i = 0; ok && i < t->flow_len; i++)
        flow_add(t->flows[i]);
    t->len = t->flow_len = t->weight = 0;
    region_clear(&t->mem);
}

static void tell_failing(struct turn *t, bool failing)
{
    if (failing && !t->failing)
        log_error("sends_refused", "reason=\"the store cannot be written\"");
    if (!failing && t->failing)
        log_info("sends_taken", "reason=\"the store can be written again\"");
    t->failing = failing;
}

void turn_commit(struct turn *t)
{
    struct server *s = t->server;
    struct mbox_event e = {.kind = MBOX_COMMIT, .commit = {.ok = true}};
    struct mbox_store_stats stats;
    uint64_t start;

    if (t->shut || mbox_needs_commit(s->core)) {
        start = clock_ns();
        e.commit.ok = s->store->ops->commit(s->store) == ERR_OK;
        meters_committed(s->meters, clock_ns() - start, e.commit.ok);
        t->shut = !e.commit.ok;
        s->store->ops->stats(s->store, &stats); /* where nothing was written nothing was learned */
        tell_failing(t, t->shut || stats.failing);
        mbox_step(s->core, clock_ns(), &e, &s->out);
        server_finish_step(s);
    }
    answers_send(t, e.commit.ok);
}

void turn_end(struct turn *t)
{
    struct server *s = t->server;
    struct timers *timers = loop_timers(s->loop);

    if (t->shut && timer_is_running(&t->retry))
        answers_send(t, false);
    else if (t->shut || t->len > 0 || mbox_needs_commit(s->core))
        turn_commit(t);
    if (!t->shut && !mbox_needs_commit(s->core))
        timer_stop(timers, &t->retry);
    else if (!timer_is_running(&t->retry))
        timer_start(timers, &t->retry, clock_ns() + (t->shut ? RETRY_NS : LAZY_NS));
}
