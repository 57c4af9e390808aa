/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "common/clock.h"
#include "common/lz4_payload.h"
#include "common/rpc.h"
#include "proto/mailbox.pb-c.h"
#include "mailbox/door.h"
#include "mailbox/meters.h"
#include "mailbox/methods.h"

/* Names in one answer: with ids of 256 bytes it still fits a frame. */
#define NAMES_MAX 12288u

/* Payloads of one call, unpacked: no more than a frame could bring raw. */
#define UNPACKED_MAX RPC_NNG_FRAME_MAX
/* And of one peer in one turn of the loop, whatever number of calls it packs into its frames. */
#define UNPACKED_TURN_MAX (64u << 20)

/* ---- compressed payloads ---- */

/*
 * What messages claim about compressed payloads, before any memory is taken for them; one without
 * is left zeroed, as is one that is too large. ERR_TOO_LARGE, ERR_BUSY: the whole call.
 */
static enum err payloads_claim(const struct call *c, const Slipstream__V1__SendRequest *r,
                               struct packed *payloads, enum err *status)
{
    uint64_t max = c->s->conf->mailbox.max_payload_bytes, total = 0;
    struct peer *p = c->peer;
    size_t i;

    for (i = 0; i < r->n_messages; i++) {
        const Slipstream__V1__Message *m = r->messages[i];
        enum err e;

        payloads[i] = (struct packed){.is_packed = false};
        if (status[i] != ERR_OK || m->raw_len == 0)
            continue;
        e = payload_claim(m->payload.data, m->payload.len, m->raw_len, max, &payloads[i]);
        if (e == ERR_OK)
            total += m->raw_len;
        else
            meters_packed(c->s->meters, PACKED_REFUSED);
        if (e == ERR_PACKED)
            status[i] = e;
    }
    if (total > UNPACKED_MAX)
        return ERR_TOO_LARGE;
    if (p->unpacked_turn != c->s->turns)
        p->unpacked = 0;
    p->unpacked_turn = c->s->turns;
    if (total > 0 && p->unpacked + total > UNPACKED_TURN_MAX)
        return ERR_BUSY;
    p->unpacked += total;
    buf_clear(&c->s->unpacked);
    buf_reserve(&c->s->unpacked, total); /* so that it does not move any more */
    return ERR_OK;
}

/* ERR_PACKED, ERR_JSON. A compressed payload that is too large goes on as a length and nothing
 * else: the core refuses it as it refuses a raw one. */
static enum err payload_take(const struct call *c, const Slipstream__V1__Message *m,
                             const struct packed *p, struct mbox_draft *d)
{
    struct buf *to = &c->s->unpacked;

    if (m->raw_len == 0) {
        d->payload = m->payload.data;
        d->payload_len = m->payload.len;
        return door_check_payload(d->payload, d->payload_len);
    }
    d->payload_len = m->raw_len;
    if (!p->is_packed)
        return ERR_OK;
    d->payload = to->base + to->len;
    d->block = p->bytes;
    d->block_len = p->len;
    if (payload_unpack(p, to) != ERR_OK) {
        meters_packed(c->s->meters, PACKED_REFUSED);
        return ERR_PACKED;
    }
    meters_packed(c->s->meters, PACKED_TAKEN);
    return door_check_payload(d->payload, d->payload_len);
}

/* ---- sending ---- */

static struct mbox_draft draft_of(const Slipstream__V1__Message *m)
{
    return (struct mbox_draft){
        .message_id = m->message_id,
        .source = m->source_agent,
        .target = m->target_agent,
        .type = m->message_type,
        .correlation_id = m->correlation_id,
        .reply_to = m->reply_to,
        .group = m->group,
        .priority = m->priority,
        .ttl_ms = m->ttl_ms,
        .delay_ms = m->delay_ms,
    };
}

/* Broadcasts multiply: what they would make must be answerable before anything is queued. */
static bool is_answerable(const struct call *c, const struct mbox_event *e)
{
    struct mbox_workflow_info info = {0};
    uint64_t names = 0;
    size_t i;

    mbox_workflow_find(c->s->core, e->send.tenant, e->send.workflow, &info);
    for (i = 0; i < e->send.draft_count; i++)
        names += strcmp(e->send.drafts[i].target, "*") == 0
                     ? info.boxes + (uint64_t)e->send.agent_count
                     : 1;
    return names <= NAMES_MAX;
}

static void result_fill(const struct call *c, const struct mbox_event *e,
                        const struct mbox_draft *d, const struct mbox_action *a,
                        Slipstream__V1__SendResult *r)
{
    struct turn *t = &c->s->turn;
    uint32_t i;

    r->status = a->err;
    r->retry_ms = a->retry_ms;
    r->message_id = region_text(&t->mem, a->message_id);
    r->n_queued_for = a->count;
    r->queued_for = region_get(&t->mem, a->count * sizeof(char *));
    for (i = 0; i < a->count; i++) {
        const char *name = c->s->out.names[a->first + i];

        r->queued_for[i] = region_text(&t->mem, name);
        if (!a->replayed)
            turn_flow(t,
                      meters_flow(c->s->meters, e->send.tenant, e->send.workflow, d->source, name));
    }
}

/* status[i]: why message i never reached the core; the results of the others are in order. */
static void send_answer(const struct call *c, const struct mbox_event *e, const enum err *status,
                        size_t count)
{
    struct region *mem = &c->s->turn.mem;
    Slipstream__V1__SendReply *reply = region_get(mem, sizeof(*reply));
    Slipstream__V1__SendResult *results = region_get(mem, count * sizeof(*results));
    const struct mbox_action *a = c->s->out.items;
    size_t sent = 0, i;
    bool promise = false;

    slipstream__v1__send_reply__init(reply);
    reply->results = region_get(mem, count * sizeof(reply->results[0]));
    reply->n_results = count;
    for (i = 0; i < count; i++) {
        slipstream__v1__send_result__init(&results[i]);
        reply->results[i] = &results[i];
        results[i].status = status[i];
        if (status[i] != ERR_OK)
            continue;
        while (a->kind != MBOX_SENT)
            a++;
        result_fill(c, e, &e->send.drafts[sent++], a, &results[i]);
        promise = promise || a->err == ERR_OK;
        reply->replayed = reply->replayed || a->replayed;
        a++;
    }
    turn_hold(&c->s->turn, c->token, promise, (uint32_t)count, &reply->base);
}

/* The reason for which the whole request was refused, or ERR_OK. */
static enum err refusal_of(const struct server *s)
{
    size_t i;

    for (i = 0; i < s->out.len; i++)
        if (s->out.items[i].kind == MBOX_REPLY)
            return s->out.items[i].err;
    return ERR_OK;
}

static enum err may_send(const struct server *s, const Slipstream__V1__SendRequest *r)
{
    enum err e = door_check_send(r);

    if (e == ERR_OK && s->draining)
        e = ERR_DRAINING;
    if (e == ERR_OK && s->turn.shut)
        e = ERR_STORE;
    return e;
}

/* Its life would be over before anybody could have it. */
static bool dies_unseen(const struct call *c, const Slipstream__V1__SendRequest *r,
                        const Slipstream__V1__Message *m)
{
    uint64_t ttl_ms = m->ttl_ms != 0   ? m->ttl_ms
                      : r->ttl_ms != 0 ? r->ttl_ms
                                       : c->s->conf->mailbox.ttl_ms;

    return m->delay_ms >= ttl_ms;
}

/* Of those messages that nothing was found against; returns how many. */
static size_t drafts_make(const struct call *c, const Slipstream__V1__SendRequest *r,
                          const struct packed *payloads, enum err *status,
                          struct mbox_draft *drafts)
{
    size_t n = 0, i;

    for (i = 0; i < r->n_messages; i++) {
        if (status[i] != ERR_OK)
            continue;
        drafts[n] = draft_of(r->messages[i]);
        status[i] = payload_take(c, r->messages[i], &payloads[i], &drafts[n]);
        n += status[i] == ERR_OK;
    }
    return n;
}

void method_send(const struct call *c, const void *request)
{
    const Slipstream__V1__SendRequest *r = request;
    struct mbox_event e = {.kind = MBOX_SEND};
    struct mbox_draft *drafts;
    struct packed *payloads;
    enum err *status, err = may_send(c->s, r);
    size_t i;

    if (err != ERR_OK) {
        call_refuse(c, err);
        return;
    }
    drafts = region_get(&c->s->request, r->n_messages * sizeof(*drafts));
    status = region_get(&c->s->request, r->n_messages * sizeof(*status));
    payloads = region_get(&c->s->request, r->n_messages * sizeof(*payloads));
    for (i = 0; i < r->n_messages; i++) {
        status[i] = door_check_message(r->messages[i]);
        if (status[i] == ERR_OK && dies_unseen(c, r, r->messages[i]))
            status[i] = ERR_VALUE;
    }
    err = payloads_claim(c, r, payloads, status);
    if (err != ERR_OK) {
        call_refuse(c, err);
        return;
    }
    e.send.drafts = drafts;
    e.send.draft_count = drafts_make(c, r, payloads, status, drafts);
    e.send.tenant = call_tenant(c, r->tenant);
    e.send.workflow = r->workflow_id;
    e.send.agents = (const char *const *)r->agents;
    e.send.agent_count = r->n_agents;
    e.send.ttl_ms = r->ttl_ms;
    e.send.idempotency_key = r->idempotency_key;
    e.send.wall_ms = clock_wall_ms();
    if (!is_answerable(c, &e)) {
        call_refuse(c, ERR_TOO_LARGE);
        return;
    }
    mbox_step(c->s->core, clock_ns(), &e, &c->s->out);
    err = refusal_of(c->s);
    if (err != ERR_OK)
        call_refuse(c, err);
    else
        send_answer(c, &e, status, r->n_messages);
    server_finish_step(c->s);
}
