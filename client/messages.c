/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "client/client.h"
#include "common/clock.h"
#include "common/must.h"

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
    to->message_id = unconst(m->id != NULL ? m->id : "");
    to->source_agent = unconst(m->source != NULL ? m->source : "");
    to->target_agent = unconst(m->target != NULL ? m->target : "");
    to->message_type = unconst(m->type != NULL ? m->type : "");
    to->correlation_id = unconst(m->correlation_id != NULL ? m->correlation_id : "");
    to->reply_to = unconst(m->reply_to != NULL ? m->reply_to : "");
    to->group = unconst(m->group != NULL ? m->group : "");
    to->payload.data = payload.out;
    to->payload.len = m->payload_len;
    to->priority = m->priority;
    to->ttl_ms = m->ttl_ms;
}

static struct slipstream_sent_list *sent_list(const Slipstream__V1__SendReply *r)
{
    struct slipstream_sent_list *list = result_new(sizeof(*list));
    struct slipstream_sent *items = result_more(list, (r->n_results + 1) * sizeof(*items));
    size_t i;

    for (i = 0; i < r->n_results; i++) {
        const Slipstream__V1__SendResult *from = r->results[i];

        items[i].error = (int)err_from_wire(from->status);
        items[i].id = result_text(list, from->message_id);
        items[i].queued_for = result_texts(list, from->queued_for, from->n_queued_for);
        items[i].queued_for_count = from->n_queued_for;
        items[i].retry_ms = from->retry_ms;
    }
    list->count = r->n_results;
    list->items = items;
    return list;
}

int slipstream_send(struct slipstream *s, const char *workflow,
                    const struct slipstream_message *messages, size_t count,
                    struct slipstream_sent_list **out)
{
    Slipstream__V1__SendRequest request;
    Slipstream__V1__Message *items, **pointers;
    ProtobufCMessage *reply;
    size_t bytes = 0, i;
    enum err e;

    slipstream__v1__send_request__init(&request);
    if (count == 0 || count > SEND_MESSAGES || workflow == NULL)
        return (int)client_fail(s, ERR_INVALID, "1 to %u messages at once", SEND_MESSAGES);
    for (i = 0; i < count; i++) {
        if (messages[i].payload_len > SEND_BYTES - bytes)
            return (int)client_fail(s, ERR_TOO_LARGE, "at most %u bytes of payload at once",
                                    SEND_BYTES);
        bytes += messages[i].payload_len;
    }
    items = calloc(count, sizeof(*items));
    pointers = calloc(count, sizeof(*pointers));
    must(items != NULL && pointers != NULL);
    for (i = 0; i < count; i++) {
        message_fill(&items[i], &messages[i]);
        pointers[i] = &items[i];
    }
    request.tenant = s->tenant;
    request.workflow_id = unconst(workflow);
    request.messages = pointers;
    request.n_messages = count;
    e = client_call(s, SIDE_MAILBOX, MAILBOX_SEND, &request.base, deadline_after(s->timeout_ms),
                    &reply);
    free(items);
    free(pointers);
    if (e != ERR_OK)
        return (int)e;
    if (((Slipstream__V1__SendReply *)reply)->n_results == count)
        *out = sent_list((Slipstream__V1__SendReply *)reply);
    else
        e = client_fail(s, ERR_PROTO, "the mailbox answered for another number of messages");
    protobuf_c_message_free_unpacked(reply, NULL);
    return (int)e;
}

/* ---- receiving ---- */

static void settle_request(Slipstream__V1__SettleRequest *r, uint64_t delivery, bool done)
{
    slipstream__v1__settle_request__init(r);
    r->delivery = delivery;
    r->done = done;
}

/* What nobody waits for any more goes back to its mailbox. */
static void give_back(struct slipstream *s, const Slipstream__V1__ReceiveReply *r)
{
    Slipstream__V1__SettleRequest request;

    if (r->delivery == 0)
        return;
    settle_request(&request, r->delivery, false);
    client_tell(s, SIDE_MAILBOX, MAILBOX_SETTLE, &request.base);
}

void receive_late(struct slipstream *s, enum err status, const uint8_t *body, size_t len)
{
    Slipstream__V1__ReceiveReply *r;

    if (status != ERR_OK)
        return;
    r = slipstream__v1__receive_reply__unpack(NULL, len, body);
    if (r == NULL)
        return;
    give_back(s, r);
    slipstream__v1__receive_reply__free_unpacked(r, NULL);
}

void mailbox_event(struct slipstream *s, unsigned method, const uint8_t *body, size_t len)
{
    Slipstream__V1__ReceiveReply *r;

    if (method != SLIPSTREAM__V1__MAILBOX_EVENT__EVENT_DELIVERY)
        return;
    r = slipstream__v1__receive_reply__unpack(NULL, len, body);
    if (r == NULL)
        return;
    if (s->poll != 0 && r->poll == s->poll && s->poll_reply == NULL) {
        s->poll_reply = r;
        return;
    }
    give_back(s, r);
    slipstream__v1__receive_reply__free_unpacked(r, NULL);
}

static void message_read(void *root, struct slipstream_message *to,
                         const Slipstream__V1__Message *m)
{
    char *payload = result_more(root, m->payload.len + 1);

    if (m->payload.len > 0)
        memcpy(payload, m->payload.data, m->payload.len);
    to->id = result_text(root, m->message_id);
    to->source = result_text(root, m->source_agent);
    to->target = result_text(root, m->target_agent);
    to->type = result_text(root, m->message_type);
    to->payload = payload;
    to->payload_len = m->payload.len;
    to->correlation_id = result_text(root, m->correlation_id);
    to->reply_to = result_text(root, m->reply_to);
    to->group = result_text(root, m->group);
    to->priority = m->priority;
    to->attempt = m->attempt;
    to->created_ms = m->created_ms;
    to->expires_ms = m->expires_ms;
}

static struct slipstream_messages *messages_read(const Slipstream__V1__ReceiveReply *r)
{
    struct slipstream_messages *list = result_new(sizeof(*list));
    struct slipstream_message *items = result_more(list, (r->n_messages + 1) * sizeof(*items));
    size_t i;

    for (i = 0; i < r->n_messages; i++)
        message_read(list, &items[i], r->messages[i]);
    list->count = r->n_messages;
    list->items = items;
    list->more = r->more;
    return list;
}

/* The messages are here: the mailbox may forget them. If it does not hear of it they come again,
 * which is what at least once means, so a failure here is none of the receive. */
static void settle(struct slipstream *s, uint64_t delivery)
{
    Slipstream__V1__SettleRequest request;
    ProtobufCMessage *reply;

    settle_request(&request, delivery, true);
    if (client_call(s, SIDE_MAILBOX, MAILBOX_SETTLE, &request.base, deadline_after(s->timeout_ms),
                    &reply) == ERR_OK)
        protobuf_c_message_free_unpacked(reply, NULL);
}

/* Until the event, the end of the wait, or the loss of the link. */
static void poll_wait(struct slipstream *s, uint64_t deadline_ns)
{
    const struct link *l = &s->links[SIDE_MAILBOX];
    unsigned downs = l->downs;

    while (s->poll_reply == NULL && l->downs == downs && clock_ns() < deadline_ns)
        client_turn(s, deadline_ns);
}

static void unpark(struct slipstream *s)
{
    Slipstream__V1__UnparkRequest request = SLIPSTREAM__V1__UNPARK_REQUEST__INIT;
    ProtobufCMessage *reply;

    request.poll = s->poll;
    if (client_call(s, SIDE_MAILBOX, MAILBOX_UNPARK, &request.base, deadline_after(s->timeout_ms),
                    &reply) == ERR_OK)
        protobuf_c_message_free_unpacked(reply, NULL);
}

/* Asks, waits where there is nothing, and asks again under the same name after a lost link. *reply
 * stays NULL when the wait ended without an answer. */
static enum err receive_loop(struct slipstream *s, Slipstream__V1__ReceiveRequest *request,
                             Slipstream__V1__ReceiveReply **reply)
{
    uint64_t wait_end = deadline_after(request->wait_ms), now;
    ProtobufCMessage *answer;
    bool parked;
    enum err e;

    do {
        e = client_call(s, SIDE_MAILBOX, MAILBOX_RECEIVE, &request->base,
                        deadline_after(s->timeout_ms), &answer);
        now = clock_ns();
        if (e == ERR_GONE && request->wait_ms != 0 && now < wait_end)
            continue;
        if (e != ERR_OK)
            return e;
        parked = ((Slipstream__V1__ReceiveReply *)answer)->parked;
        if (!parked) {
            *reply = (Slipstream__V1__ReceiveReply *)answer;
            return ERR_OK;
        }
        protobuf_c_message_free_unpacked(answer, NULL);
        poll_wait(s, wait_end + s->timeout_ms * NS_PER_MS);
        if (s->poll_reply != NULL) {
            *reply = s->poll_reply;
            s->poll_reply = NULL;
            return ERR_OK;
        }
        now = clock_ns();
        request->wait_ms = now < wait_end ? (uint32_t)((wait_end - now) / NS_PER_MS) + 1 : 0;
    } while (now < wait_end);
    unpark(s);
    *reply = s->poll_reply;
    s->poll_reply = NULL;
    return ERR_OK;
}

/* After a lost link the poll may be parked once more than it was answered, and be answered twice.
 */
static void poll_end(struct slipstream *s, unsigned downs)
{
    Slipstream__V1__UnparkRequest request = SLIPSTREAM__V1__UNPARK_REQUEST__INIT;

    if (s->poll_reply != NULL) {
        give_back(s, s->poll_reply);
        slipstream__v1__receive_reply__free_unpacked(s->poll_reply, NULL);
        s->poll_reply = NULL;
    }
    if (s->links[SIDE_MAILBOX].downs != downs) {
        request.poll = s->poll;
        client_tell(s, SIDE_MAILBOX, MAILBOX_UNPARK, &request.base);
    }
    s->poll = 0;
}

int slipstream_receive(struct slipstream *s, const struct slipstream_receive_options *o,
                       struct slipstream_messages **out)
{
    Slipstream__V1__ReceiveRequest request;
    Slipstream__V1__ReceiveReply none = SLIPSTREAM__V1__RECEIVE_REPLY__INIT, *reply = NULL;
    char **types = calloc(o->type_count + 1, sizeof(*types));
    unsigned downs = s->links[SIDE_MAILBOX].downs;
    enum err e;
    size_t i;

    slipstream__v1__receive_request__init(&request);
    must(types != NULL);
    for (i = 0; i < o->type_count; i++)
        types[i] = unconst(o->types[i]);
    request.tenant = s->tenant;
    request.workflow_id = unconst(o->workflow != NULL ? o->workflow : "");
    request.agent_id = unconst(o->agent != NULL ? o->agent : "");
    request.max = o->max;
    request.wait_ms = o->peek ? 0 : o->wait_ms;
    request.types = types;
    request.n_types = o->type_count;
    request.peek = o->peek;
    request.settle = true;
    s->poll = request.poll = ++s->next_token;
    e = receive_loop(s, &request, &reply);
    poll_end(s, downs);
    free(types);
    if (e != ERR_OK)
        return (int)e;
    *out = messages_read(reply != NULL ? reply : &none);
    if (reply != NULL && reply->delivery != 0)
        settle(s, reply->delivery);
    if (reply != NULL)
        slipstream__v1__receive_reply__free_unpacked(reply, NULL);
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
    request.workflow_id = unconst(workflow);
    request.agent_id = unconst(agent);
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
    };
    strncpy(out->version, m->version, sizeof(out->version) - 1);
    protobuf_c_message_free_unpacked(reply, NULL);
    return ERR_OK;
}
