/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "common/clock.h"
#include "proto/mailbox.pb-c.h"
#include "mailbox/door.h"
#include "mailbox/methods.h"

static uint64_t max_lease_ms(const struct call *c)
{
    return c->s->conf->mailbox.max_lease_ms;
}

/* Answers of receives do not wait for the commit: what they hand out was committed before. */
static void give(const struct call *c, const struct mbox_event *e, bool lz4, bool hands_out)
{
    const struct mbox_action *a = call_step(c, e);
    Slipstream__V1__ReceiveReply reply;
    enum err err;

    if (a->err != ERR_OK) {
        call_refuse(c, a->err);
    } else {
        answer_fill(c->s, a, lz4, &reply);
        err = rpc_reply(c->s->rpc, c->token, ERR_OK, &reply.base);
        if (hands_out)
            answer_given(c->s, a, e->peer, err);
    }
    server_finish_step(c->s);
}

void method_receive(const struct call *c, const void *request)
{
    const Slipstream__V1__ReceiveRequest *r = request;
    struct mbox_event e = {.kind = MBOX_RECEIVE, .peer = c->peer->hash.key};
    enum err err = door_check_receive(r, max_lease_ms(c));

    if (err != ERR_OK) {
        call_refuse(c, err);
        return;
    }
    e.receive.box = (struct mbox_key){call_tenant(c, r->tenant), r->workflow_id, r->agent_id};
    e.receive.max = r->max;
    e.receive.wait_ms = r->wait_ms;
    e.receive.poll = r->poll;
    e.receive.types = (const char *const *)r->types;
    e.receive.type_count = r->n_types;
    e.receive.peek = r->peek;
    e.receive.settle = r->settle;
    e.receive.lz4 = r->lz4;
    e.receive.lease_ms = r->lease_ms;
    e.receive.resume_after = r->resume_after;
    give(c, &e, r->lz4, !r->peek);
}

void method_list_dead(const struct call *c, const void *request)
{
    const Slipstream__V1__DeadRequest *r = request;
    struct mbox_event e = {.kind = MBOX_DEAD};
    enum err err = door_check_dead(r);

    if (err != ERR_OK) {
        call_refuse(c, err);
        return;
    }
    e.dead.box = (struct mbox_key){call_tenant(c, r->tenant), r->workflow_id, r->agent_id};
    e.dead.max = r->max;
    e.dead.after = r->after;
    give(c, &e, r->lz4, false);
}

/* A step whose reply is its status alone. */
static void step_and_hold(const struct call *c, const struct mbox_event *e)
{
    enum err err = call_step(c, e)->err;

    if (err == ERR_OK)
        call_hold_empty(c);
    else
        call_refuse(c, err);
    server_finish_step(c->s);
}

void method_settle(const struct call *c, const void *request)
{
    const Slipstream__V1__SettleRequest *r = request;
    struct mbox_event e = {.kind = MBOX_SETTLE, .peer = c->peer->hash.key};
    enum err err = door_check_settle(r);

    if (err != ERR_OK) {
        call_refuse(c, err);
        return;
    }
    e.settle.delivery = r->delivery;
    e.settle.done = r->done;
    e.settle.keep_ms = r->keep_ms;
    step_and_hold(c, &e);
}

void method_unpark(const struct call *c, const void *request)
{
    const Slipstream__V1__UnparkRequest *r = request;
    struct mbox_event e = {.kind = MBOX_UNPARK, .peer = c->peer->hash.key};

    e.unpark.poll = r->poll;
    step_and_hold(c, &e);
}

/* ---- leases ---- */

static enum mbox_ack_kind ack_kind_of(Slipstream__V1__AckKind kind)
{
    if (kind == SLIPSTREAM__V1__ACK_KIND__ACK_EXTEND)
        return MBOX_ACK_EXTEND;
    return kind == SLIPSTREAM__V1__ACK_KIND__ACK_RETURN ? MBOX_ACK_RETURN : MBOX_ACK_DONE;
}

/* status[i]: why ack i never reached the core; the results of the others are in order. */
static void ack_answer(const struct call *c, uint64_t wall_ms, const enum err *status, size_t count)
{
    struct region *mem = &c->s->turn.mem;
    Slipstream__V1__AckReply *reply = region_get(mem, sizeof(*reply));
    Slipstream__V1__AckResult *results = region_get(mem, count * sizeof(*results));
    const struct mbox_action *a = c->s->out.items;
    uint64_t now = clock_ns();
    size_t i;

    slipstream__v1__ack_reply__init(reply);
    reply->results = region_get(mem, count * sizeof(reply->results[0]));
    reply->n_results = count;
    for (i = 0; i < count; i++) {
        slipstream__v1__ack_result__init(&results[i]);
        reply->results[i] = &results[i];
        results[i].status = status[i];
        if (status[i] != ERR_OK)
            continue;
        while (a->kind != MBOX_ACKED)
            a++;
        results[i].status = a->err;
        if (a->lease_end_ns != 0)
            results[i].lease_expires_ms = answer_wall_ms(a->lease_end_ns, now, wall_ms);
        a++;
    }
    turn_hold(&c->s->turn, c->token, false, (uint32_t)count, &reply->base);
}

void method_ack(const struct call *c, const void *request)
{
    const Slipstream__V1__AckRequest *r = request;
    struct mbox_event e = {.kind = MBOX_ACK, .peer = c->peer->hash.key};
    enum err *status, err = door_check_acks(r);
    struct mbox_ack *acks;
    size_t i;

    if (err != ERR_OK) {
        call_refuse(c, err);
        return;
    }
    acks = region_get(&c->s->request, r->n_acks * sizeof(*acks));
    status = region_get(&c->s->request, r->n_acks * sizeof(*status));
    e.ack.box = (struct mbox_key){call_tenant(c, r->tenant), r->workflow_id, r->agent_id};
    e.ack.acks = acks;
    e.ack.wall_ms = clock_wall_ms();
    for (i = 0; i < r->n_acks; i++) {
        const Slipstream__V1__Ack *a = r->acks[i];

        status[i] = door_check_ack(a, max_lease_ms(c));
        if (status[i] == ERR_OK)
            acks[e.ack.ack_count++] = (struct mbox_ack){
                a->message_id, a->receipt, ack_kind_of(a->kind), a->delay_ms, a->lease_ms};
    }
    mbox_step(c->s->core, clock_ns(), &e, &c->s->out);
    ack_answer(c, e.ack.wall_ms, status, r->n_acks);
    server_finish_step(c->s);
}

/* ---- after a restart of ours: what a gateway still writes out ---- */

void method_hold(const struct call *c, const void *request)
{
    const Slipstream__V1__HoldRequest *r = request;
    struct mbox_event e = {.kind = MBOX_HOLD, .peer = c->peer->hash.key};
    Slipstream__V1__HoldReply *reply;
    enum err err = door_check_hold(r);
    const struct mbox_action *a;

    if (err != ERR_OK) {
        call_refuse(c, err);
        return;
    }
    e.hold.box = (struct mbox_key){call_tenant(c, r->tenant), r->workflow_id, r->agent_id};
    e.hold.message_ids = (const char *const *)r->message_ids;
    e.hold.id_count = r->n_message_ids;
    a = call_step(c, &e);
    if (a->err != ERR_OK) {
        call_refuse(c, a->err);
    } else {
        reply = region_get(&c->s->turn.mem, sizeof(*reply));
        slipstream__v1__hold_reply__init(reply);
        reply->delivery = a->delivery;
        reply->held = a->dropped;
        call_hold(c, &reply->base);
    }
    server_finish_step(c->s);
}

/* ---- dead letters ---- */

void method_redrive(const struct call *c, const void *request)
{
    const Slipstream__V1__RedriveRequest *r = request;
    struct mbox_event e = {.kind = MBOX_REDRIVE};
    Slipstream__V1__RedriveReply *reply;
    enum err err = door_check_redrive(r);
    const struct mbox_action *a;

    if (err != ERR_OK) {
        call_refuse(c, err);
        return;
    }
    e.redrive.box = (struct mbox_key){call_tenant(c, r->tenant), r->workflow_id, r->agent_id};
    e.redrive.message_ids = (const char *const *)r->message_ids;
    e.redrive.id_count = r->n_message_ids;
    e.redrive.drop = r->drop;
    a = call_step(c, &e);
    if (a->err != ERR_OK) {
        call_refuse(c, a->err);
    } else {
        reply = region_get(&c->s->turn.mem, sizeof(*reply));
        slipstream__v1__redrive_reply__init(reply);
        reply->moved = a->dropped;
        reply->left = a->left;
        call_hold(c, &reply->base);
    }
    server_finish_step(c->s);
}
