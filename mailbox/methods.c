/* SPDX-License-Identifier: Apache-2.0 */
#include "mailbox/methods.h"

#include <string.h>

#include "common/clock.h"
#include "common/codec.h"
#include "common/must.h"
#include "proto/mailbox.pb-c.h"
#include "mailbox/door.h"

#define AGENTS_SHOWN 4096u /* of a workflow, in one answer */

void call_refuse(const struct call *c, enum err e)
{
    Slipstream__V1__Failure f;
    int retry_ms = err_retry_ms(e);

    slipstream__v1__failure__init(&f);
    f.message = unconst(err_text(e));
    f.retry_ms = retry_ms > 0 ? (uint32_t)retry_ms : 0;
    rpc_reply(c->s->rpc, c->token, e, &f.base);
}

const char *call_tenant(const struct call *c, const char *named)
{
    if (!c->peer->worker)
        return c->peer->tenant;
    return named != NULL ? named : "";
}

const struct mbox_action *call_step(const struct call *c, const struct mbox_event *e)
{
    const struct mbox_actions *out = &c->s->out;
    size_t i = 0;

    mbox_step(c->s->core, clock_ns(), e, &c->s->out);
    while (i < out->len && out->items[i].kind != MBOX_REPLY)
        i++;
    must(i < out->len);
    return &out->items[i];
}

void call_hold(const struct call *c, const ProtobufCMessage *body)
{
    turn_hold(&c->s->turn, c->token, false, 1, body);
}

void call_hold_empty(const struct call *c)
{
    static const Slipstream__V1__Empty empty = {
        .base = {.descriptor = &slipstream__v1__empty__descriptor}};

    call_hold(c, &empty.base);
}

/* ---- looking, and closing ---- */

static uint32_t to_u32(uint64_t n)
{
    return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

/* A box that nobody used yet is an empty one. */
static void method_get_box(const struct call *c, const void *request)
{
    const Slipstream__V1__BoxRef *r = request;
    Slipstream__V1__Box box = SLIPSTREAM__V1__BOX__INIT;
    const struct conf_mailbox *m = &c->s->conf->mailbox;
    struct mbox_box_info info = {0};
    struct mbox_key key = {call_tenant(c, r->tenant), r->workflow_id, r->agent_id};
    enum err e = door_check_ids(r->tenant, r->workflow_id, r->agent_id);

    if (e != ERR_OK) {
        call_refuse(c, e);
        return;
    }
    mbox_box_find(c->s->core, clock_ns(), key, &info);
    box.depth = info.depth;
    box.bytes = info.bytes;
    box.oldest_ms = to_u32(info.oldest_ns / NS_PER_MS);
    box.sent = info.sent;
    box.delivered = info.delivered;
    box.expired = info.expired;
    box.rejected = info.rejected;
    box.waiting = info.waiting;
    box.redelivered = info.redelivered;
    box.unsettled = info.unsettled;
    box.leased = info.leased;
    box.delayed = info.delayed;
    box.dead = info.dead;
    box.kept = info.kept;
    box.limit_messages = m->box_messages;
    box.limit_bytes = m->box_bytes;
    box.max_deliveries = m->max_deliveries;
    box.drop_oldest = m->overflow == CONF_OVERFLOW_DROP_OLDEST;
    rpc_reply(c->s->rpc, c->token, ERR_OK, &box.base);
}

static void method_close(const struct call *c, const void *request)
{
    const Slipstream__V1__CloseRequest *r = request;
    struct mbox_event e = {.kind = MBOX_CLOSE};
    Slipstream__V1__CloseReply *reply;
    enum err err = door_check_ids(r->tenant, r->workflow_id, NULL);
    const struct mbox_action *a;

    if (err != ERR_OK) {
        call_refuse(c, err);
        return;
    }
    e.close.tenant = call_tenant(c, r->tenant);
    e.close.workflow = r->workflow_id;
    e.close.purge = r->purge;
    a = call_step(c, &e);
    if (a->err != ERR_OK) {
        call_refuse(c, a->err);
    } else {
        reply = region_get(&c->s->turn.mem, sizeof(*reply));
        slipstream__v1__close_reply__init(reply);
        reply->dropped = a->dropped;
        reply->left = a->left;
        call_hold(c, &reply->base);
    }
    server_finish_step(c->s);
}

static void method_get_counts(const struct call *c, const void *request)
{
    const Slipstream__V1__CountsRequest *r = request;
    Slipstream__V1__Counts counts = SLIPSTREAM__V1__COUNTS__INIT;
    const char *tenant = call_tenant(c, r->tenant);
    struct mbox_workflow_info info = {0};
    const char *names[AGENTS_SHOWN];
    enum err e = door_check_ids(r->tenant, r->workflow_id, NULL);
    size_t n;

    if (e != ERR_OK) {
        call_refuse(c, e);
        return;
    }
    if (mbox_workflow_find(c->s->core, tenant, r->workflow_id, &info)) {
        n = mbox_workflow_agents(c->s->core, tenant, r->workflow_id, names, AGENTS_SHOWN);
        counts.n_agents = n < AGENTS_SHOWN ? n : AGENTS_SHOWN;
        counts.agents = (char **)(void *)names;
    }
    counts.queued = info.queued;
    counts.delivered = info.delivered;
    rpc_reply(c->s->rpc, c->token, ERR_OK, &counts.base);
}

static void method_get_status(const struct call *c, const void *request)
{
    Slipstream__V1__MailboxStatus status;
    char version[] = SLIP_VERSION;
    struct mbox_store_stats stats;
    struct mbox_totals t;

    slipstream__v1__mailbox_status__init(&status);
    (void)request;
    mbox_totals(c->s->core, &t);
    c->s->store->ops->stats(c->s->store, &stats);
    status.uptime_ms = (clock_ns() - c->s->start_ns) / NS_PER_MS;
    status.boxes = t.boxes;
    status.workflows = t.workflows;
    status.messages = t.queued + t.unsettled + t.leased + t.delayed;
    status.bytes = t.bytes;
    status.waiting = t.waiting;
    status.version = version;
    status.dead = t.dead_now;
    status.delayed = t.delayed;
    status.leased = t.leased;
    status.store = unconst(c->s->store->ops->name);
    status.store_bytes = stats.disk_bytes;
    status.store_failing = c->s->turn.failing;
    rpc_reply(c->s->rpc, c->token, ERR_OK, &status.base);
}

/* ---- the table: mailbox.proto, in its order ---- */

static const struct method {
    const char *name;
    uint32_t nested;   /* field with submessages */
    size_t max_fields; /* elements of the whole request */
    void (*run)(const struct call *c, const void *request);
} methods[] = {
    {"Send", 3, DOOR_MESSAGES * 20 + DOOR_AGENTS, method_send},
    {"Receive", 0, 64, method_receive},
    {"Settle", 0, 8, method_settle},
    {"Unpark", 0, 8, method_unpark},
    {"GetBox", 0, 8, method_get_box},
    {"CloseWorkflow", 0, 8, method_close},
    {"GetCounts", 0, 8, method_get_counts},
    {"GetStatus", 0, 8, method_get_status},
    {"Ack", 4, DOOR_MESSAGES * 6 + 8, method_ack},
    {"Hold", 0, DOOR_MESSAGES + 8, method_hold},
    {"ListDead", 0, 8, method_list_dead},
    {"Redrive", 0, DOOR_MESSAGES + 8, method_redrive},
};
#define METHODS (sizeof(methods) / sizeof(methods[0]))

void methods_check_service(void)
{
    const ProtobufCServiceDescriptor *d = &slipstream__v1__mailbox__descriptor;
    unsigned i;

    must(d->n_methods == METHODS);
    for (i = 0; i < METHODS; i++)
        must(strcmp(d->methods[i].name, methods[i].name) == 0);
}

/* What does not fit the kept memory is large: the slower way does not matter there. */
static const void *request_unpack(struct server *s, const ProtobufCMessageDescriptor *type,
                                  const uint8_t *body, size_t len)
{
    const void *request;

    arena_clear(&s->hot);
    request = len < s->hot.size ? codec_unpack(type, &s->hot, body, len) : NULL;
    if (request == NULL)
        request = protobuf_c_message_unpack(type, &s->request.allocator, len, body);
    return request;
}

void methods_call(struct server *s, struct peer *p, unsigned method, uint64_t token,
                  const uint8_t *body, size_t len)
{
    const struct call c = {s, p, token};
    const void *request;

    if (method >= METHODS) {
        call_refuse(&c, ERR_UNIMPLEMENTED);
        return;
    }
    if (!door_is_bounded(body, len, methods[method].nested, methods[method].max_fields)) {
        call_refuse(&c, ERR_PROTO);
        return;
    }
    request =
        request_unpack(s, slipstream__v1__mailbox__descriptor.methods[method].input, body, len);
    if (request == NULL)
        call_refuse(&c, ERR_PROTO);
    else
        methods[method].run(&c, request);
    region_clear(&s->request);
    if (turn_is_full(&s->turn))
        turn_commit(&s->turn);
}
