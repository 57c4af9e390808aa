/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/list.h"
#include "common/log.h"
#include "common/must.h"
#include "proto/mailbox.pb-c.h"
#include "mailbox/door.h"
#include "mailbox/meters.h"
#include "mailbox/server.h"

/*
 * From packed requests to events of the core, and from its actions to packed answers. The only file
 * that knows both.
 */
struct answer_scratch {
    Slipstream__V1__Message *messages;
    Slipstream__V1__Message **pointers;
    size_t *offsets; /* of payloads, which move while they are gathered */
    size_t cap;
    struct buf payloads;
};

struct answer_scratch *answer_scratch_new(void)
{
    struct answer_scratch *a = calloc(1, sizeof(*a));

    must(a != NULL);
    return a;
}

void answer_scratch_free(struct answer_scratch *a)
{
    if (a == NULL)
        return;
    free(a->messages);
    free(a->pointers);
    free(a->offsets);
    buf_fini(&a->payloads);
    free(a);
}

/* ---- answers ---- */

static void scratch_reserve(struct answer_scratch *a, size_t count)
{
    if (count <= a->cap)
        return;
    free(a->messages);
    free(a->pointers);
    free(a->offsets);
    a->cap = count < 16 ? 16 : count;
    a->messages = calloc(a->cap, sizeof(a->messages[0]));
    a->pointers = calloc(a->cap, sizeof(a->pointers[0]));
    a->offsets = calloc(a->cap, sizeof(a->offsets[0]));
    must(a->messages != NULL && a->pointers != NULL && a->offsets != NULL);
}

/* protobuf-c wants char * for what it only reads. */
static char *unconst(const char *s)
{
    union {
        const char *in;
        char *out;
    } u = {s};

    return u.out;
}

static void message_fill(Slipstream__V1__Message *m, const struct mbox_view *v)
{
    const struct mbox_letter *l = &v->letter;

    slipstream__v1__message__init(m);
    m->message_id = unconst(l->id);
    m->source_agent = unconst(l->source);
    m->target_agent = unconst(v->target);
    m->message_type = unconst(l->type);
    m->created_ms = l->created_ms;
    m->expires_ms = l->expires_ms;
    m->attempt = v->attempt;
    m->priority = l->priority;
    m->correlation_id = unconst(l->correlation_id);
    m->reply_to = unconst(l->reply_to);
    m->group = unconst(l->group);
}

static void payload_gather(struct server *s, const struct mbox_view *v)
{
    struct buf *to = &s->scratch->payloads;
    size_t before = to->len;
    enum err e = s->store->ops->get(s->store, v->letter.payload, to);

    if (e == ERR_OK)
        return;
    log_error("payload_lost", "message=%s error=%s", v->letter.id, err_code(e));
    to->len = before;
    buf_adds(to, "null");
}

/* r points into the core and the scratch: good until the next step or answer. */
static void reply_fill(struct server *s, const struct mbox_action *a,
                       Slipstream__V1__ReceiveReply *r)
{
    struct answer_scratch *x = s->scratch;
    uint32_t i;

    scratch_reserve(x, a->count);
    buf_clear(&x->payloads);
    for (i = 0; i < a->count; i++) {
        const struct mbox_view *v = &s->out.views[a->first + i];

        message_fill(&x->messages[i], v);
        x->pointers[i] = &x->messages[i];
        x->offsets[i] = x->payloads.len;
        payload_gather(s, v);
        x->messages[i].payload.len = x->payloads.len - x->offsets[i];
    }
    for (i = 0; i < a->count; i++)
        x->messages[i].payload.data = (uint8_t *)x->payloads.base + x->offsets[i];
    slipstream__v1__receive_reply__init(r);
    r->messages = x->pointers;
    r->n_messages = a->count;
    r->parked = a->parked;
    r->poll = a->poll;
    r->delivery = a->settle ? a->delivery : 0;
    r->more = a->more;
}

/* After the answer went to the channel, or did not. */
static void handed_over(struct server *s, const struct mbox_action *a, uint64_t peer, enum err e)
{
    uint64_t now = clock_ns();
    uint32_t i;

    if (e == ERR_OK)
        for (i = 0; i < a->count; i++)
            meters_delivered(s->meters, now - s->out.views[a->first + i].letter.created_ns);
    if (a->delivery == 0 || (a->settle && e == ERR_OK))
        return;
    if (s->due_len == s->due_cap) {
        s->due_cap = s->due_cap != 0 ? s->due_cap * 2 : 16;
        s->due = realloc(s->due, s->due_cap * sizeof(s->due[0]));
        must(s->due != NULL);
    }
    s->due[s->due_len++] = (struct settle_due){peer, a->delivery, e == ERR_OK};
}

static void poll_end_send(struct server *s, const struct mbox_action *a)
{
    struct hash_node *n = hash_find(&s->peers, a->peer);
    Slipstream__V1__ReceiveReply r;
    enum err e = ERR_GONE;

    meters_waited(s->meters, a->waited_ns);
    if (n != NULL) {
        reply_fill(s, a, &r);
        e = rpc_event(s->rpc, container_of(n, struct peer, hash)->rpc,
                      SLIPSTREAM__V1__MAILBOX_EVENT__EVENT_DELIVERY, &r.base);
    }
    handed_over(s, a, a->peer, e);
}

static void poll_ends_send(struct server *s)
{
    size_t i;

    for (i = 0; i < s->out.len; i++)
        if (s->out.items[i].kind == MBOX_POLL_END)
            poll_end_send(s, &s->out.items[i]);
}

/* What came in becomes visible. */
static void commit(struct server *s)
{
    struct mbox_event e = {.kind = MBOX_COMMIT};

    if (!mbox_needs_commit(s->core))
        return;
    e.commit.ok = s->store->ops->commit(s->store) == ERR_OK;
    mbox_step(s->core, clock_ns(), &e, &s->out);
    server_finish_step(s);
}

void server_finish_step(struct server *s)
{
    struct mbox_event e = {.kind = MBOX_SETTLE};

    poll_ends_send(s);
    while (s->due_len > 0) {
        struct settle_due due = s->due[--s->due_len];

        e.peer = due.peer;
        e.settle.delivery = due.delivery;
        e.settle.done = due.done;
        mbox_step(s->core, clock_ns(), &e, &s->out);
        poll_ends_send(s);
    }
    commit(s);
}

void server_step(struct server *s, const struct mbox_event *e)
{
    mbox_step(s->core, clock_ns(), e, &s->out);
    server_finish_step(s);
}

static const struct mbox_action *reply_of(const struct server *s)
{
    size_t i = 0;

    while (i < s->out.len && s->out.items[i].kind != MBOX_REPLY)
        i++;
    must(i < s->out.len); /* every event of ours but MBOX_SEND gets one */
    return &s->out.items[i];
}

/* ---- methods ---- */

struct call {
    struct server *s;
    struct peer *peer;
    uint64_t token;
};

static void refuse(const struct call *c, enum err e)
{
    Slipstream__V1__Failure f;
    int retry_ms = err_retry_ms(e);

    slipstream__v1__failure__init(&f);
    f.message = unconst(err_text(e));
    f.retry_ms = retry_ms > 0 ? (uint32_t)retry_ms : 0;
    rpc_reply(c->s->rpc, c->token, e, &f.base);
}

/* A step whose reply is its status alone. */
static void step_and_answer(const struct call *c, const struct mbox_event *e)
{
    Slipstream__V1__Empty empty = SLIPSTREAM__V1__EMPTY__INIT;
    enum err err;

    mbox_step(c->s->core, clock_ns(), e, &c->s->out);
    err = reply_of(c->s)->err;
    if (err == ERR_OK)
        rpc_reply(c->s->rpc, c->token, ERR_OK, &empty.base);
    else
        refuse(c, err);
    server_finish_step(c->s);
}

static const char *tenant_of(const struct call *c, const char *named)
{
    if (!c->peer->worker)
        return c->peer->tenant;
    return named != NULL ? named : "";
}

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
        .payload = m->payload.data,
        .payload_len = m->payload.len,
    };
}

/* status[i]: why message i never reached the core; the results of the others are in order. */
static void send_answer(const struct call *c, const enum err *status, size_t count)
{
    Slipstream__V1__SendReply reply = SLIPSTREAM__V1__SEND_REPLY__INIT;
    Slipstream__V1__SendResult *results = calloc(count, sizeof(*results));
    Slipstream__V1__SendResult **pointers = calloc(count, sizeof(*pointers));
    size_t at = 0, i;

    must(results != NULL && pointers != NULL);
    for (i = 0; i < count; i++) {
        slipstream__v1__send_result__init(&results[i]);
        pointers[i] = &results[i];
        results[i].status = status[i];
        if (status[i] != ERR_OK)
            continue;
        while (c->s->out.items[at].kind != MBOX_SENT)
            at++;
        results[i].status = c->s->out.items[at].err;
        results[i].retry_ms = c->s->out.items[at].retry_ms;
        results[i].message_id = c->s->out.items[at].message_id;
        results[i].n_queued_for = c->s->out.items[at].count;
        results[i].queued_for = calloc(results[i].n_queued_for + 1, sizeof(char *));
        must(results[i].queued_for != NULL);
        for (size_t j = 0; j < results[i].n_queued_for; j++)
            results[i].queued_for[j] = unconst(c->s->out.names[c->s->out.items[at].first + j]);
        at++;
    }
    reply.results = pointers;
    reply.n_results = count;
    rpc_reply(c->s->rpc, c->token, ERR_OK, &reply.base);
    for (i = 0; i < count; i++)
        free(results[i].queued_for);
    free(pointers);
    free(results);
}

static void on_send(const struct call *c, void *request)
{
    const Slipstream__V1__SendRequest *r = request;
    struct mbox_event e = {.kind = MBOX_SEND};
    struct mbox_draft *drafts;
    enum err *status, err = door_check_send(r);
    size_t i;

    if (err == ERR_OK && c->s->draining)
        err = ERR_DRAINING;
    if (err != ERR_OK) {
        refuse(c, err);
        return;
    }
    drafts = calloc(r->n_messages, sizeof(*drafts));
    status = calloc(r->n_messages, sizeof(*status));
    must(drafts != NULL && status != NULL);
    e.send.drafts = drafts;
    for (i = 0; i < r->n_messages; i++) {
        status[i] = door_check_message(r->messages[i]);
        if (status[i] == ERR_OK)
            drafts[e.send.draft_count++] = draft_of(r->messages[i]);
    }
    e.send.tenant = tenant_of(c, r->tenant);
    e.send.workflow = r->workflow_id;
    e.send.agents = (const char *const *)r->agents;
    e.send.agent_count = r->n_agents;
    e.send.ttl_ms = r->ttl_ms;
    e.send.wall_ms = clock_wall_ms();
    mbox_step(c->s->core, clock_ns(), &e, &c->s->out);
    send_answer(c, status, r->n_messages);
    free(drafts);
    free(status);
    server_finish_step(c->s);
}

static void on_receive(const struct call *c, void *request)
{
    const Slipstream__V1__ReceiveRequest *r = request;
    struct mbox_event e = {.kind = MBOX_RECEIVE, .peer = c->peer->hash.key};
    Slipstream__V1__ReceiveReply reply;
    enum err err = door_check_receive(r);
    const struct mbox_action *a;

    if (err != ERR_OK) {
        refuse(c, err);
        return;
    }
    e.receive.box = (struct mbox_key){tenant_of(c, r->tenant), r->workflow_id, r->agent_id};
    e.receive.max = r->max;
    e.receive.wait_ms = r->wait_ms;
    e.receive.poll = r->poll;
    e.receive.types = (const char *const *)r->types;
    e.receive.type_count = r->n_types;
    e.receive.peek = r->peek;
    e.receive.settle = r->settle;
    mbox_step(c->s->core, clock_ns(), &e, &c->s->out);
    a = reply_of(c->s);
    if (a->err != ERR_OK) {
        refuse(c, a->err);
    } else {
        reply_fill(c->s, a, &reply);
        err = rpc_reply(c->s->rpc, c->token, ERR_OK, &reply.base);
        if (!r->peek)
            handed_over(c->s, a, e.peer, err);
    }
    server_finish_step(c->s);
}

static void on_settle(const struct call *c, void *request)
{
    const Slipstream__V1__SettleRequest *r = request;
    struct mbox_event e = {.kind = MBOX_SETTLE, .peer = c->peer->hash.key};

    e.settle.delivery = r->delivery;
    e.settle.done = r->done;
    step_and_answer(c, &e);
}

static void on_unpark(const struct call *c, void *request)
{
    const Slipstream__V1__UnparkRequest *r = request;
    struct mbox_event e = {.kind = MBOX_UNPARK, .peer = c->peer->hash.key};

    e.unpark.poll = r->poll;
    step_and_answer(c, &e);
}

static uint32_t to_u32(uint64_t n)
{
    return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

/* A box that nobody used yet is an empty one. */
static void on_get_box(const struct call *c, void *request)
{
    const Slipstream__V1__BoxRef *r = request;
    Slipstream__V1__Box box = SLIPSTREAM__V1__BOX__INIT;
    struct mbox_box_info info = {0};
    struct mbox_key key = {tenant_of(c, r->tenant), r->workflow_id, r->agent_id};
    enum err e = door_check_ids(r->tenant, r->workflow_id, r->agent_id);

    if (e != ERR_OK) {
        refuse(c, e);
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
    box.limit_messages = c->s->conf->mailbox.box_messages;
    box.limit_bytes = c->s->conf->mailbox.box_bytes;
    rpc_reply(c->s->rpc, c->token, ERR_OK, &box.base);
}

static void on_close(const struct call *c, void *request)
{
    const Slipstream__V1__CloseRequest *r = request;
    Slipstream__V1__CloseReply reply = SLIPSTREAM__V1__CLOSE_REPLY__INIT;
    struct mbox_event e = {.kind = MBOX_CLOSE};
    enum err err = door_check_ids(r->tenant, r->workflow_id, NULL);
    const struct mbox_action *a;

    if (err != ERR_OK) {
        refuse(c, err);
        return;
    }
    e.close.tenant = tenant_of(c, r->tenant);
    e.close.workflow = r->workflow_id;
    e.close.purge = r->purge;
    mbox_step(c->s->core, clock_ns(), &e, &c->s->out);
    a = reply_of(c->s);
    if (a->err != ERR_OK) {
        refuse(c, a->err);
    } else {
        reply.dropped = a->dropped;
        reply.left = a->left;
        rpc_reply(c->s->rpc, c->token, ERR_OK, &reply.base);
    }
    server_finish_step(c->s);
}

static void on_get_counts(const struct call *c, void *request)
{
    const Slipstream__V1__CountsRequest *r = request;
    Slipstream__V1__Counts counts = SLIPSTREAM__V1__COUNTS__INIT;
    const char *tenant = tenant_of(c, r->tenant);
    struct mbox_workflow_info info = {0};
    const char **names;
    enum err e = door_check_ids(r->tenant, r->workflow_id, NULL);
    size_t n;

    if (e != ERR_OK) {
        refuse(c, e);
        return;
    }
    names = calloc(DOOR_AGENTS, sizeof(*names));
    must(names != NULL);
    if (mbox_workflow_find(c->s->core, tenant, r->workflow_id, &info)) {
        n = mbox_workflow_agents(c->s->core, tenant, r->workflow_id, names, DOOR_AGENTS);
        counts.n_agents = n < DOOR_AGENTS ? n : DOOR_AGENTS;
        counts.agents = (char **)(void *)names;
    }
    counts.queued = info.queued;
    counts.delivered = info.delivered;
    rpc_reply(c->s->rpc, c->token, ERR_OK, &counts.base);
    free(names);
}

static void on_get_status(const struct call *c, void *request)
{
    Slipstream__V1__MailboxStatus status;
    char version[] = SLIP_VERSION;
    struct mbox_totals t;

    slipstream__v1__mailbox_status__init(&status);
    (void)request;
    mbox_totals(c->s->core, &t);
    status.uptime_ms = (clock_ns() - c->s->start_ns) / NS_PER_MS;
    status.boxes = t.boxes;
    status.workflows = t.workflows;
    status.messages = t.queued + t.unsettled;
    status.bytes = t.bytes;
    status.waiting = t.waiting;
    status.version = version;
    rpc_reply(c->s->rpc, c->token, ERR_OK, &status.base);
}

static void on_unimplemented(const struct call *c, void *request)
{
    (void)request;
    refuse(c, ERR_UNIMPLEMENTED);
}

/* ---- the table: mailbox.proto, in its order ---- */

static const struct method {
    const char *name;
    uint32_t nested;   /* field with submessages */
    size_t max_fields; /* elements of the whole request */
    void (*run)(const struct call *c, void *request);
} methods[] = {
    {"Send", 3, DOOR_MESSAGES * 16 + DOOR_AGENTS, on_send},
    {"Receive", 0, 64, on_receive},
    {"Settle", 0, 8, on_settle},
    {"Unpark", 0, 8, on_unpark},
    {"GetBox", 0, 8, on_get_box},
    {"CloseWorkflow", 0, 8, on_close},
    {"GetCounts", 0, 8, on_get_counts},
    {"GetStatus", 0, 8, on_get_status},
    {"Ack", 4, DOOR_MESSAGES * 6 + 8, on_unimplemented},
    {"Hold", 0, DOOR_MESSAGES + 8, on_unimplemented},
    {"ListDead", 0, 8, on_unimplemented},
    {"Redrive", 0, DOOR_MESSAGES + 8, on_unimplemented},
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

void methods_call(struct server *s, struct peer *p, unsigned method, uint64_t token,
                  const uint8_t *body, size_t len)
{
    const struct call c = {s, p, token};
    ProtobufCMessage *request;

    if (method >= METHODS) {
        refuse(&c, ERR_UNIMPLEMENTED);
        return;
    }
    if (!door_is_bounded(body, len, methods[method].nested, methods[method].max_fields)) {
        refuse(&c, ERR_PROTO);
        return;
    }
    request = protobuf_c_message_unpack(slipstream__v1__mailbox__descriptor.methods[method].input,
                                        NULL, len, body);
    if (request == NULL) {
        refuse(&c, ERR_PROTO);
        return;
    }
    methods[method].run(&c, request);
    protobuf_c_message_free_unpacked(request, NULL);
}
