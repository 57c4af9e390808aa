/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "client/client.h"
#include "common/lz4_payload.h"
#include "common/must.h"

/* Sending, settling, dead letters, boxes: calls that are answered at once. */
#define SEND_MESSAGES 1000u
#define SEND_BYTES (3u << 20)

/* ---- sending ---- */

static void message_fill(Slipstream__V1__Message *to, const struct slipstream_message *m)
{
    union {
        const char *in;
        uint8_t *out;
    } payload = {m->payload};

    slipstream__v1__message__init(to);
    to->message_id = unconst(or_empty(m->id));
    to->source_agent = unconst(or_empty(m->source));
    to->target_agent = unconst(or_empty(m->target));
    to->message_type = unconst(or_empty(m->type));
    to->correlation_id = unconst(or_empty(m->correlation_id));
    to->reply_to = unconst(or_empty(m->reply_to));
    to->group = unconst(or_empty(m->group));
    to->payload.data = payload.out;
    to->payload.len = m->payload_len;
    to->priority = m->priority;
    to->ttl_ms = m->ttl_ms;
    to->delay_ms = m->delay_ms;
}

static bool sent_read(void *root, const ProtobufCMessage *answer, size_t expected)
{
    const Slipstream__V1__SendReply *r = (const Slipstream__V1__SendReply *)answer;
    struct slipstream_sent *items = result_more(root, (r->n_results + 1) * sizeof(*items));
    struct slipstream_sent_list *list = root;
    size_t i;

    for (i = 0; i < r->n_results; i++) {
        const Slipstream__V1__SendResult *from = r->results[i];

        items[i].error = (int)err_from_wire(from->status);
        items[i].id = from->message_id;
        items[i].queued_for = (const char *const *)from->queued_for;
        items[i].queued_for_count = from->n_queued_for;
        items[i].retry_ms = from->retry_ms;
    }
    list->count = r->n_results;
    list->items = items;
    list->replayed = r->replayed;
    return r->n_results == expected;
}

static enum err send_check(struct slipstream *s, const struct slipstream_send_options *o,
                           const struct slipstream_message *messages, size_t count)
{
    size_t bytes = 0, i;

    if (count == 0 || count > SEND_MESSAGES || o->workflow == NULL)
        return client_fail(s, ERR_INVALID, "a workflow and 1 to %u messages", SEND_MESSAGES);
    for (i = 0; i < count; i++) {
        if (messages[i].payload_len > SEND_BYTES - bytes)
            return client_fail(s, ERR_TOO_LARGE, "at most %u bytes of payload at once", SEND_BYTES);
        bytes += messages[i].payload_len;
    }
    return ERR_OK;
}

int slipstream_send_start(struct slipstream *s, const struct slipstream_send_options *o,
                          const struct slipstream_message *messages, size_t count,
                          slipstream_done *done, void *arg)
{
    Slipstream__V1__SendRequest request;
    Slipstream__V1__Message one, *all = &one, *pointer = &one, **pointers = &pointer;
    enum err e = send_check(s, o, messages, count);
    size_t i;

    if (e != ERR_OK)
        return (int)e;
    if (count > 1) {
        all = calloc(count, sizeof(*all));
        pointers = calloc(count, sizeof(*pointers));
        must(all != NULL && pointers != NULL);
    }
    for (i = 0; i < count; i++) {
        message_fill(&all[i], &messages[i]);
        pointers[i] = &all[i];
    }
    slipstream__v1__send_request__init(&request);
    request.tenant = s->tenant;
    request.workflow_id = unconst(o->workflow);
    request.messages = pointers;
    request.n_messages = count;
    request.ttl_ms = o->ttl_ms;
    request.idempotency_key = unconst(or_empty(o->idempotency_key));
    request.n_agents = o->agent_count;
    request.agents = strings_of(o->agents);
    e = unary_start(s, MAILBOX_SEND, &request.base, sent_read, count, done, arg);
    if (count > 1) {
        free(all);
        free(pointers);
    }
    return (int)e;
}

int slipstream_send(struct slipstream *s, const struct slipstream_send_options *o,
                    const struct slipstream_message *messages, size_t count,
                    struct slipstream_sent_list **out)
{
    struct blocked b = {0};
    void *result = NULL;
    int e = (int)may_block(s);

    if (e == 0)
        e = blocked_wait(s, &b, slipstream_send_start(s, o, messages, count, on_blocked, &b),
                         &result);
    if (e == 0)
        *out = result;
    return e;
}

/* ---- what comes back ---- */

/* A NUL is behind it. */
static bool payload_read(void *root, struct slipstream_message *to,
                         const Slipstream__V1__Message *m)
{
    const union {
        const uint8_t *in;
        const char *out;
    } payload = {m->payload.data};
    struct packed p;
    char *raw;

    to->payload = m->payload.len > 0 ? payload.out : "";
    to->payload_len = m->payload.len;
    if (m->raw_len == 0)
        return true;
    if (payload_claim(payload.out, m->payload.len, m->raw_len, PAYLOAD_MAX, &p) != ERR_OK)
        return false;
    raw = result_more(root, (size_t)p.raw_len + 1);
    to->payload = raw;
    to->payload_len = p.raw_len;
    return payload_unpack_to(&p, raw);
}

static void message_read(struct slipstream_message *to, const Slipstream__V1__Message *m)
{
    to->id = m->message_id;
    to->source = m->source_agent;
    to->target = m->target_agent;
    to->type = m->message_type;
    to->correlation_id = m->correlation_id;
    to->reply_to = m->reply_to;
    to->group = m->group;
    to->priority = m->priority;
    to->attempt = m->attempt;
    to->created_ms = m->created_ms;
    to->expires_ms = m->expires_ms;
    to->receipt = m->receipt;
    to->lease_expires_ms = m->lease_expires_ms;
    to->dead_reason = m->dead_reason;
    to->dead_ms = m->dead_ms;
}

bool messages_read(void *root, const Slipstream__V1__ReceiveReply *r)
{
    struct slipstream_message *items = result_more(root, (r->n_messages + 1) * sizeof(*items));
    struct slipstream_messages *list = root;
    size_t i;

    for (i = 0; i < r->n_messages; i++) {
        message_read(&items[i], r->messages[i]);
        if (!payload_read(root, &items[i], r->messages[i]))
            return false;
    }
    list->count = r->n_messages;
    list->items = items;
    list->more = r->more;
    return true;
}

/* ---- settling ---- */

static bool settled_read(void *root, const ProtobufCMessage *answer, size_t expected)
{
    const Slipstream__V1__AckReply *r = (const Slipstream__V1__AckReply *)answer;
    struct slipstream_settled *items = result_more(root, (r->n_results + 1) * sizeof(*items));
    struct slipstream_settled_list *list = root;
    size_t i;

    for (i = 0; i < r->n_results; i++) {
        items[i].error = (int)err_from_wire(r->results[i]->status);
        items[i].lease_expires_ms = r->results[i]->lease_expires_ms;
    }
    list->count = r->n_results;
    list->items = items;
    return r->n_results == expected;
}

static void ack_fill(Slipstream__V1__Ack *to, const struct slipstream_settling *from)
{
    slipstream__v1__ack__init(to);
    to->message_id = unconst(or_empty(from->message_id));
    to->receipt = unconst(or_empty(from->receipt));
    to->kind = (Slipstream__V1__AckKind)from->action;
    to->delay_ms = from->delay_ms;
    to->lease_ms = from->lease_ms;
}

_Static_assert((int)SLIPSTREAM_ACK == (int)SLIPSTREAM__V1__ACK_KIND__ACK_DONE, "");
_Static_assert((int)SLIPSTREAM_NACK == (int)SLIPSTREAM__V1__ACK_KIND__ACK_RETURN, "");
_Static_assert((int)SLIPSTREAM_EXTEND == (int)SLIPSTREAM__V1__ACK_KIND__ACK_EXTEND, "");

int slipstream_settle_start(struct slipstream *s, const char *workflow, const char *agent,
                            const struct slipstream_settling *settlings, size_t count,
                            slipstream_done *done, void *arg)
{
    Slipstream__V1__AckRequest request;
    Slipstream__V1__Ack one, *all = &one, *pointer = &one, **pointers = &pointer;
    enum err e;
    size_t i;

    if (count == 0 || count > SEND_MESSAGES || workflow == NULL || agent == NULL)
        return (int)client_fail(s, ERR_INVALID, "a workflow, an agent and 1 to %u messages",
                                SEND_MESSAGES);
    if (count > 1) {
        all = calloc(count, sizeof(*all));
        pointers = calloc(count, sizeof(*pointers));
        must(all != NULL && pointers != NULL);
    }
    for (i = 0; i < count; i++) {
        ack_fill(&all[i], &settlings[i]);
        pointers[i] = &all[i];
    }
    slipstream__v1__ack_request__init(&request);
    request.tenant = s->tenant;
    request.workflow_id = unconst(workflow);
    request.agent_id = unconst(agent);
    request.acks = pointers;
    request.n_acks = count;
    e = unary_start(s, MAILBOX_ACK, &request.base, settled_read, count, done, arg);
    if (count > 1) {
        free(all);
        free(pointers);
    }
    return (int)e;
}

int slipstream_settle(struct slipstream *s, const char *workflow, const char *agent,
                      const struct slipstream_settling *settlings, size_t count,
                      struct slipstream_settled_list **out)
{
    struct blocked b = {0};
    void *result = NULL;
    int e = (int)may_block(s);

    if (e == 0)
        e = blocked_wait(
            s, &b, slipstream_settle_start(s, workflow, agent, settlings, count, on_blocked, &b),
            &result);
    if (e == 0)
        *out = result;
    return e;
}

static int settle_one(struct slipstream *s, const char *workflow,
                      const struct slipstream_message *m, struct slipstream_settling settling,
                      uint64_t *lease_expires_ms)
{
    struct slipstream_settled_list *list;
    int e;

    settling.message_id = m->id;
    settling.receipt = m->receipt;
    e = slipstream_settle(s, workflow, m->target, &settling, 1, &list);
    if (e != 0)
        return e;
    e = list->items[0].error;
    if (e != 0)
        client_fail(s, (enum err)e, "%s", err_text((enum err)e));
    else if (lease_expires_ms != NULL)
        *lease_expires_ms = list->items[0].lease_expires_ms;
    slipstream_free(list);
    return e;
}

int slipstream_ack(struct slipstream *s, const char *workflow, const struct slipstream_message *m)
{
    return settle_one(s, workflow, m, (struct slipstream_settling){.action = SLIPSTREAM_ACK}, NULL);
}

int slipstream_nack(struct slipstream *s, const char *workflow, const struct slipstream_message *m,
                    uint32_t delay_ms)
{
    return settle_one(s, workflow, m,
                      (struct slipstream_settling){.action = SLIPSTREAM_NACK, .delay_ms = delay_ms},
                      NULL);
}

int slipstream_extend(struct slipstream *s, const char *workflow,
                      const struct slipstream_message *m, uint32_t lease_ms,
                      uint64_t *lease_expires_ms)
{
    return settle_one(
        s, workflow, m,
        (struct slipstream_settling){.action = SLIPSTREAM_EXTEND, .lease_ms = lease_ms},
        lease_expires_ms);
}

/* ---- dead letters ---- */

static bool dead_read(void *root, const ProtobufCMessage *answer, size_t expected)
{
    (void)expected;
    return messages_read(root, (const Slipstream__V1__ReceiveReply *)answer);
}

int slipstream_dead_letters(struct slipstream *s, const char *workflow, const char *agent,
                            uint32_t max, const char *after, struct slipstream_messages **out)
{
    Slipstream__V1__DeadRequest request;
    struct blocked b = {0};
    void *result = NULL;
    int e = (int)may_block(s);

    slipstream__v1__dead_request__init(&request);
    request.tenant = s->tenant;
    request.workflow_id = unconst(or_empty(workflow));
    request.agent_id = unconst(or_empty(agent));
    request.max = max;
    request.after = unconst(or_empty(after));
    request.lz4 = takes_blocks(s);
    if (e == 0)
        e = blocked_wait(
            s, &b,
            (int)unary_start(s, MAILBOX_LIST_DEAD, &request.base, dead_read, 0, on_blocked, &b),
            &result);
    if (e == 0)
        *out = result;
    else if (e == (int)ERR_PROTO)
        (void)blocks_avoid(s);
    return e;
}

int slipstream_redrive(struct slipstream *s, const char *workflow, const char *agent,
                       const char *const *message_ids, size_t count, bool drop,
                       struct slipstream_redriven *out)
{
    Slipstream__V1__RedriveRequest request;
    const Slipstream__V1__RedriveReply *r;
    ProtobufCMessage *reply;
    enum err e;

    if (message_ids != NULL && count == 0)
        return (int)ERR_INVALID;
    slipstream__v1__redrive_request__init(&request);
    request.tenant = s->tenant;
    request.workflow_id = unconst(or_empty(workflow));
    request.agent_id = unconst(or_empty(agent));
    request.message_ids = strings_of(message_ids);
    request.n_message_ids = count;
    request.drop = drop;
    e = client_call(s, SIDE_MAILBOX, MAILBOX_REDRIVE, &request.base, deadline_after(s->timeout_ms),
                    &reply);
    if (e != ERR_OK)
        return (int)e;
    r = (const Slipstream__V1__RedriveReply *)reply;
    if (out != NULL)
        *out = (struct slipstream_redriven){.moved = r->moved, .left = r->left};
    protobuf_c_message_free_unpacked(reply, NULL);
    return ERR_OK;
}

/* ---- boxes ---- */

int slipstream_box_get(struct slipstream *s, const char *workflow, const char *agent,
                       struct slipstream_box *out)
{
    Slipstream__V1__BoxRef request;
    ProtobufCMessage *reply;
    const Slipstream__V1__Box *b;
    enum err e;

    slipstream__v1__box_ref__init(&request);
    request.tenant = s->tenant;
    request.workflow_id = unconst(or_empty(workflow));
    request.agent_id = unconst(or_empty(agent));
    e = client_call(s, SIDE_MAILBOX, MAILBOX_GET_BOX, &request.base, deadline_after(s->timeout_ms),
                    &reply);
    if (e != ERR_OK)
        return (int)e;
    b = (const Slipstream__V1__Box *)reply;
    *out = (struct slipstream_box){
        .depth = b->depth,
        .waiting = b->waiting,
        .oldest_ms = b->oldest_ms,
        .limit_messages = b->limit_messages,
        .bytes = b->bytes,
        .limit_bytes = b->limit_bytes,
        .sent = b->sent,
        .delivered = b->delivered,
        .expired = b->expired,
        .rejected = b->rejected,
        .redelivered = b->redelivered,
        .unsettled = b->unsettled,
        .leased = b->leased,
        .delayed = b->delayed,
        .dead = b->dead,
        .kept = b->kept,
        .max_deliveries = b->max_deliveries,
        .drop_oldest = b->drop_oldest,
    };
    protobuf_c_message_free_unpacked(reply, NULL);
    return ERR_OK;
}

int slipstream_mailbox_status(struct slipstream *s, struct slipstream_mailbox_status *out)
{
    Slipstream__V1__Empty request = SLIPSTREAM__V1__EMPTY__INIT;
    const Slipstream__V1__MailboxStatus *m;
    ProtobufCMessage *reply;
    enum err e = client_call(s, SIDE_MAILBOX, MAILBOX_GET_STATUS, &request.base,
                             deadline_after(s->timeout_ms), &reply);

    if (e != ERR_OK)
        return (int)e;
    m = (const Slipstream__V1__MailboxStatus *)reply;
    *out = (struct slipstream_mailbox_status){
        .uptime_ms = m->uptime_ms,
        .messages = m->messages,
        .bytes = m->bytes,
        .boxes = m->boxes,
        .workflows = m->workflows,
        .waiting = m->waiting,
        .dead = m->dead,
        .delayed = m->delayed,
        .leased = m->leased,
        .store_bytes = m->store_bytes,
        .store_failing = m->store_failing,
    };
    strncpy(out->version, m->version, sizeof(out->version) - 1);
    strncpy(out->store, m->store, sizeof(out->store) - 1);
    protobuf_c_message_free_unpacked(reply, NULL);
    return ERR_OK;
}
