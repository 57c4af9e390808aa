/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/api_mailbox.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/mailbox.pb-c.h"
#include "proto/scheduler.pb-c.h"

#include "common/clock.h"
#include "gateway/ask.h"
#include "gateway/finish.h"
#include "gateway/mailbox_link.h"
#include "gateway/parts.h"
#include "gateway/methods.h"
#include "gateway/routes.h"
#include "gateway/worker.h"

#define BULK_MAX 256u
#define MEMBERS_MAX 32u
#define BULK_BYTES (3u << 20) /* what fits one frame with room to spare */
#define RECEIVE_DEFAULT 10u
#define RECEIVE_MAX 1000u
#define WAIT_MAX_S 60.0
#define POLL_SLACK_MS 1000u /* then nobody will end this poll any more */

typedef Slipstream__V1__Message message_msg;

/* ---- POST /v1/workflows/{id}/messages ---- */

struct post {
    bool bulk;
    unsigned count;
    message_msg *messages, **ptrs;
};

static const struct field {
    const char *name;
    bool is_id, required;
    size_t offset;
} fields[] = {
    {"source_agent", true, true, offsetof(message_msg, source_agent)},
    {"target_agent", true, true, offsetof(message_msg, target_agent)},
    {"message_type", true, false, offsetof(message_msg, message_type)},
    {"correlation_id", true, false, offsetof(message_msg, correlation_id)},
    {"reply_to", true, false, offsetof(message_msg, reply_to)},
    {"group", true, false, offsetof(message_msg, group)},
};
#define FIELD_COUNT (sizeof(fields) / sizeof(fields[0]))

static bool key_is(const struct member *m, const char *name)
{
    return m->key_len == strlen(name) && memcmp(m->key, name, m->key_len) == 0;
}

static enum err field_take(struct gw_request *r, const struct field *f, const struct member *m,
                           message_msg *out)
{
    struct inspect_id id;
    char text[2048];
    char *kept;
    enum err e = member_string(m->value, m->value_len, text, sizeof(text));

    if (e == ERR_OK && (text[0] != '\0' || f->required) && !inspect_id_set(&id, text, strlen(text)))
        e = ERR_ID;
    if (e != ERR_OK)
        return e;
    kept = request_alloc(r, strlen(text) + 1);
    memcpy(kept, text, strlen(text) + 1);
    memcpy((char *)out + f->offset, &kept, sizeof(kept));
    return ERR_OK;
}

static enum err ttl_take(const struct member *m, message_msg *out)
{
    double seconds;

    if (member_number(m->value, m->value_len, &seconds) != ERR_OK)
        return ERR_TYPE;
    if (seconds <= 0 || seconds > 30 * 86400.0)
        return ERR_VALUE;
    out->ttl_ms = seconds < 0.001 ? 1 : (uint32_t)(seconds * 1000); /* 0 would be the default */
    return ERR_OK;
}

/* Everything but the payload is checked here; the payload only has to be JSON, and the whole body
 * is. */
static enum err message_read(struct gw_request *r, const char *text, size_t len, message_msg *out,
                             const char **param)
{
    struct member members[MEMBERS_MAX];
    size_t count, i, k;
    enum err e = members_split(text, len, members, MEMBERS_MAX, &count);

    slipstream__v1__message__init(out);
    if (e != ERR_OK)
        return e == ERR_BUSY ? ERR_VALUE : e;
    for (i = 0; i < count && e == ERR_OK; i++) {
        const struct member *m = &members[i];

        for (k = 0; k < i; k++)
            if (members[k].key_len == m->key_len &&
                memcmp(members[k].key, m->key, m->key_len) == 0) {
                *param = request_strdup(r, m->key, m->key_len);
                return ERR_DUPLICATE_KEY;
            }
        *param = request_strdup(r, m->key, m->key_len < 64 ? m->key_len : 64);
        if (key_is(m, "payload")) {
            out->payload.data = (uint8_t *)(uintptr_t)m->value;
            out->payload.len = m->value_len;
        } else if (key_is(m, "ttl")) {
            e = ttl_take(m, out);
        } else {
            for (k = 0; k < FIELD_COUNT && !key_is(m, fields[k].name); k++)
                ;
            e = k < FIELD_COUNT ? field_take(r, &fields[k], m, out) : ERR_VALUE;
        }
    }
    if (e != ERR_OK)
        return e;
    for (k = 0; k < FIELD_COUNT; k++) {
        const char *v;

        memcpy(&v, (const char *)out + fields[k].offset, sizeof(v));
        *param = fields[k].name;
        if (fields[k].required && v[0] == '\0')
            return ERR_VALUE;
    }
    *param = "payload";
    return out->payload.len > 0 ? ERR_OK : ERR_VALUE;
}

static enum err post_read(struct gw_request *r, struct post *p, const char **param)
{
    const char *body = r->req->entity.base;
    size_t len = r->req->entity.len, count = 0, at, i;
    struct member top[MEMBERS_MAX], *rows;
    enum err e = json_verify(body, len, &at);

    *param = NULL;
    if (e != ERR_OK)
        return e;
    if (len > BULK_BYTES + 65536)
        return ERR_TOO_LARGE;
    e = members_split(body, len, top, MEMBERS_MAX, &count);
    if (e != ERR_OK)
        return e == ERR_BUSY ? ERR_VALUE : e;
    rows = request_alloc(r, BULK_MAX * sizeof(*rows));
    rows[0] = (struct member){.value = body, .value_len = len};
    p->bulk = count == 1 && key_is(&top[0], "messages");
    count = 1;
    if (p->bulk) {
        *param = "messages";
        e = elements_split(top[0].value, top[0].value_len, rows, BULK_MAX, &count);
        if (e != ERR_OK || count == 0)
            return e == ERR_BUSY ? ERR_TOO_LARGE : e != ERR_OK ? e : ERR_VALUE;
    }
    p->count = (unsigned)count;
    p->messages = request_alloc(r, count * sizeof(*p->messages));
    p->ptrs = request_alloc(r, count * sizeof(*p->ptrs));
    for (i = 0; i < count; i++) {
        p->ptrs[i] = &p->messages[i];
        e = message_read(r, rows[i].value, rows[i].value_len, &p->messages[i], param);
        if (e != ERR_OK)
            return e;
    }
    return ERR_OK;
}

static void result_add(struct gw_request *r, struct buf *b, const Slipstream__V1__SendResult *s)
{
    size_t i;

    if (s->status != ERR_OK) {
        buf_adds(b, "{\"error\":");
        respond_error_body(b, DIALECT_PROBLEM, err_from_wire(s->status), NULL, NULL, r->id);
        buf_adds(b, "}");
        return;
    }
    buf_adds(b, "{\"message_id\":");
    buf_add_json(b, s->message_id, strlen(s->message_id));
    buf_adds(b, ",\"queued_for\":[");
    for (i = 0; i < s->n_queued_for; i++) {
        if (i > 0)
            buf_adds(b, ",");
        buf_add_json(b, s->queued_for[i], strlen(s->queued_for[i]));
    }
    buf_adds(b, "]}");
}

static void on_sent(struct gw_request *r, enum err status, const uint8_t *body, size_t len)
{
    Slipstream__V1__SendReply *reply =
        status == ERR_OK ? slipstream__v1__send_reply__unpack(NULL, len, body) : NULL;
    struct buf b = {0};
    size_t i;

    if (reply == NULL || reply->n_results == 0) {
        if (reply != NULL)
            slipstream__v1__send_reply__free_unpacked(reply, NULL);
        respond_error(r, status != ERR_OK ? status : ERR_PROTO, NULL, NULL);
        return;
    }
    if (!r->bulk) {
        const Slipstream__V1__SendResult *s = reply->results[0];

        if (s->status != ERR_OK) {
            enum err e = err_from_wire(s->status);
            int retry_ms = s->retry_ms > 0 ? (int)s->retry_ms : err_retry_ms(e);

            slipstream__v1__send_reply__free_unpacked(reply, NULL);
            respond_error_retry(r, e, NULL, NULL, retry_ms);
            return;
        }
        result_add(r, &b, s);
    } else {
        buf_adds(&b, "{\"results\":[");
        for (i = 0; i < reply->n_results; i++) {
            if (i > 0)
                buf_adds(&b, ",");
            result_add(r, &b, reply->results[i]);
        }
        buf_adds(&b, "]}");
    }
    slipstream__v1__send_reply__free_unpacked(reply, NULL);
    respond_buf(r, 202, "application/json", &b);
}

static void send_ask(struct gw_request *r)
{
    ask_mailbox(r, MBOX_SEND, &r->send->base, r->on_sent);
}

/* "*" reaches every agent that the workflow has, also those that have never touched a mailbox. */
static void on_agents(struct gw_request *r, enum err status, const uint8_t *body, size_t len)
{
    Slipstream__V1__Agents *as =
        status == ERR_OK ? slipstream__v1__agents__unpack(NULL, len, body) : NULL;
    size_t count = as != NULL ? as->n_agents : 0, i;
    char **names = request_alloc(r, (count + 1) * sizeof(*names));

    for (i = 0; i < count; i++)
        names[i] =
            (char *)(uintptr_t)request_strdup(r, as->agents[i]->id, strlen(as->agents[i]->id));
    if (as != NULL)
        slipstream__v1__agents__free_unpacked(as, NULL);
    r->send->n_agents = count;
    r->send->agents = names;
    send_ask(r);
}

void message_send_start(struct gw_request *r, Slipstream__V1__SendRequest *q, ask_done_fn *done)
{
    bool broadcast = false;
    size_t i;

    q->tenant = (char *)(uintptr_t)r->tenant;
    q->workflow_id = (char *)(uintptr_t)r->workflow_id;
    r->send = q;
    r->on_sent = done;
    for (i = 0; i < q->n_messages; i++) {
        mailbox_note_agent(r, q->messages[i]->source_agent);
        if (strcmp(q->messages[i]->target_agent, "*") == 0)
            broadcast = true;
        else
            mailbox_note_agent(r, q->messages[i]->target_agent);
    }
    if (broadcast) {
        Slipstream__V1__WorkflowRef ref;

        slipstream__v1__workflow_ref__init(&ref);
        ref.tenant = (char *)(uintptr_t)r->tenant;
        ref.workflow_id = (char *)(uintptr_t)r->workflow_id;
        ask_scheduler(r, SCHED_LIST_AGENTS, &ref.base, on_agents);
        return;
    }
    send_ask(r);
}

void api_message_send(struct gw_request *r)
{
    static const char *const params[] = {NULL};
    Slipstream__V1__SendRequest *q;
    struct post p = {0};
    const char *param = NULL;
    enum err e;

    if (!api_begin(r, params, NULL))
        return;
    e = r->req->entity.len > 0 ? post_read(r, &p, &param) : ERR_JSON;
    if (e != ERR_OK) {
        respond_error(r, e, param, NULL);
        return;
    }
    r->bulk = p.bulk;
    q = request_alloc(r, sizeof(*q));
    slipstream__v1__send_request__init(q);
    q->n_messages = p.count;
    q->messages = p.ptrs;
    message_send_start(r, q, on_sent);
}

/* ---- GET /v1/workflows/{id}/agents/{agent}/messages ---- */

void message_write(struct buf *b, const message_msg *m)
{
    static const struct {
        const char *name;
        size_t offset;
    } texts[] = {{"message_id", offsetof(message_msg, message_id)},
                 {"source_agent", offsetof(message_msg, source_agent)},
                 {"target_agent", offsetof(message_msg, target_agent)},
                 {"message_type", offsetof(message_msg, message_type)},
                 {"correlation_id", offsetof(message_msg, correlation_id)},
                 {"reply_to", offsetof(message_msg, reply_to)},
                 {"group", offsetof(message_msg, group)}};
    char time[40];
    size_t i;

    for (i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        const char *v;

        memcpy(&v, (const char *)m + texts[i].offset, sizeof(v));
        if (i >= 4 && v[0] == '\0')
            continue;
        buf_addf(b, "%s\"%s\":", i > 0 ? "," : "{", texts[i].name);
        buf_add_json(b, v, strlen(v));
    }
    buf_addf(b, ",\"created_at\":\"%s\",\"attempt\":%u",
             ask_time(m->created_ms, time, sizeof(time)), m->attempt);
    if (m->expires_ms != 0)
        buf_addf(b, ",\"expires_at\":\"%s\"", ask_time(m->expires_ms, time, sizeof(time)));
    buf_adds(b, ",\"payload\":");
    buf_add(b, m->payload.data, m->payload.len);
    buf_adds(b, "}");
}

void message_settle(struct gw *gw, uint64_t delivery, bool done)
{
    Slipstream__V1__SettleRequest q;

    slipstream__v1__settle_request__init(&q);
    if (delivery == 0)
        return;
    q.delivery = delivery;
    q.done = done;
    rpc_send(gw->mailbox, MBOX_SETTLE, &q.base);
}

static void unpark(struct gw *gw, uint64_t poll)
{
    Slipstream__V1__UnparkRequest q;

    slipstream__v1__unpark_request__init(&q);
    q.poll = poll;
    rpc_send(gw->mailbox, MBOX_UNPARK, &q.base);
}

/* A message is gone only once the answer was written out; if the client broke off it goes back. */
static void on_receive_dispose(struct gw_request *r)
{
    if (r->polling)
        unpark(r->gw, r->handle);
    message_settle(r->gw, r->delivery, r->end == ERR_OK && r->finished);
}

static void receive_answer(struct gw_request *r, enum err status,
                           const Slipstream__V1__ReceiveReply *reply)
{
    struct buf b = {0};
    size_t i;

    if (status != ERR_OK) {
        respond_error(r, status, NULL, NULL);
        return;
    }
    buf_adds(&b, "{\"messages\":[");
    for (i = 0; i < reply->n_messages; i++) {
        if (i > 0)
            buf_adds(&b, ",");
        message_write(&b, reply->messages[i]);
    }
    buf_addf(&b, "],\"next\":%s}", reply->more > 0 ? "true" : "null");
    respond_buf(r, 200, "application/json", &b);
}

static void receive_end(struct gw_request *r, const Slipstream__V1__ReceiveReply *reply)
{
    r->polling = false;
    r->delivery = reply->delivery;
    r->on_receive(r, ERR_OK, reply);
}

static void on_received(struct gw_request *r, enum err status, const uint8_t *body, size_t len)
{
    Slipstream__V1__ReceiveReply *reply =
        status == ERR_OK ? slipstream__v1__receive_reply__unpack(NULL, len, body) : NULL;

    if (reply == NULL) {
        r->on_receive(r, status != ERR_OK ? status : ERR_PROTO, NULL);
        return;
    }
    if (reply->parked) {
        r->polling = true;
        r->deadline_ns = clock_ns() + (r->receive_wait_ms + POLL_SLACK_MS) * NS_PER_MS;
        timer_start(&r->gw->timers, &r->timer, r->deadline_ns);
    } else {
        receive_end(r, reply);
    }
    slipstream__v1__receive_reply__free_unpacked(reply, NULL);
}

/* Its reader has left, or had its time: what came goes back. */
static void on_received_late(void *arg, uint64_t handle, enum err status, const uint8_t *body,
                             size_t len)
{
    Slipstream__V1__ReceiveReply *reply =
        status == ERR_OK ? slipstream__v1__receive_reply__unpack(NULL, len, body) : NULL;

    if (reply == NULL)
        return;
    if (reply->parked)
        unpark(arg, handle);
    message_settle(arg, reply->delivery, false);
    slipstream__v1__receive_reply__free_unpacked(reply, NULL);
}

static void on_receive_answer(void *arg, uint64_t handle, enum err status, const uint8_t *body,
                              size_t len)
{
    if (!ask_answer(arg, handle, status, body, len))
        on_received_late(arg, handle, status, body, len);
}

void message_delivered(struct gw *gw, const uint8_t *body, size_t len)
{
    Slipstream__V1__ReceiveReply *reply = slipstream__v1__receive_reply__unpack(NULL, len, body);
    struct gw_request *r;

    if (reply == NULL)
        return;
    r = request_find(gw, reply->poll);
    if (r != NULL && r->state == GW_ASKING && r->polling)
        receive_end(r, reply);
    else
        message_settle(gw, reply->delivery, false); /* nobody waits any more: it goes back */
    slipstream__v1__receive_reply__free_unpacked(reply, NULL);
}

static void receive_ask(struct gw_request *r)
{
    Slipstream__V1__ReceiveRequest q;
    uint64_t waited_ms = (clock_ns() - r->receive_ns) / NS_PER_MS;
    size_t n = 0;

    slipstream__v1__receive_request__init(&q);
    q.tenant = (char *)(uintptr_t)r->tenant;
    q.workflow_id = (char *)(uintptr_t)r->workflow_id;
    q.agent_id = (char *)(uintptr_t)r->agent_id;
    q.max = r->receive_max;
    q.wait_ms = r->receive_wait_ms > waited_ms ? (uint32_t)(r->receive_wait_ms - waited_ms) : 0;
    q.poll = r->handle;
    q.lease_ms = r->receive_lease_ms;
    q.peek = r->peek;
    q.settle = !r->peek;
    while (r->types != NULL && r->types[n] != NULL)
        n++;
    q.n_types = n;
    q.types = (char **)(uintptr_t)r->types;
    ask_mailbox_keep(r, MBOX_RECEIVE, &q.base, on_received, on_receive_answer, on_received_late);
}

void message_poll_again(struct gw_request *r)
{
    r->polling = false;
    receive_ask(r);
}

void message_receive_start(struct gw_request *r, receive_done_fn *done)
{
    r->receive_ns = clock_ns();
    r->on_receive = done;
    r->on_dispose = on_receive_dispose;
    mailbox_note_agent(r, r->agent_id);
    receive_ask(r);
}

static bool seconds_read(const char *text, double max, uint32_t *out_ms)
{
    char *end;
    double v = strtod(text, &end);

    if (text[0] == '\0' || *end != '\0' || !(v >= 0 && v <= max))
        return false;
    *out_ms = (uint32_t)(v * 1000);
    return true;
}

static const char *const *types_split(struct gw_request *r, const char *text)
{
    const char **list = request_alloc(r, 17 * sizeof(*list));
    size_t n = 0;

    while (*text != '\0' && n < 16) {
        size_t len = strcspn(text, ",");

        if (len > 0)
            list[n++] = request_strdup(r, text, len);
        text += len + (text[len] == ',');
    }
    list[n] = NULL;
    return list;
}

void api_message_receive(struct gw_request *r)
{
    static const char *const params[] = {"max", "wait", "types", "peek", NULL};
    const char *values[4] = {NULL, NULL, NULL, NULL};
    char *end = NULL;
    long max = RECEIVE_DEFAULT;

    if (!api_begin(r, params, values))
        return;
    if (values[0] != NULL)
        max = strtol(values[0], &end, 10);
    if (max < 1 || max > (long)RECEIVE_MAX || (end != NULL && (*end != '\0' || end == values[0]))) {
        respond_error(r, ERR_VALUE, "max", "max is 1 to 1000.");
        return;
    }
    if (values[1] != NULL && !seconds_read(values[1], WAIT_MAX_S, &r->receive_wait_ms)) {
        respond_error(r, ERR_VALUE, "wait", "wait is 0 to 60 seconds.");
        return;
    }
    if (values[3] != NULL && strcmp(values[3], "true") != 0 && strcmp(values[3], "false") != 0) {
        respond_error(r, ERR_VALUE, "peek", "peek is true or false.");
        return;
    }
    r->receive_max = (uint32_t)max;
    r->peek = values[3] != NULL && values[3][0] == 't';
    if (r->peek)
        r->receive_wait_ms = 0;
    if (values[2] != NULL)
        r->types = types_split(r, values[2]);
    message_receive_start(r, receive_answer);
}

/* ---- GET /v1/workflows/{id}/agents/{agent}/mailbox ---- */

static void on_box(struct gw_request *r, enum err status, const uint8_t *body, size_t len)
{
    Slipstream__V1__Box *x = status == ERR_OK ? slipstream__v1__box__unpack(NULL, len, body) : NULL;
    struct buf b = {0};

    if (x == NULL) {
        respond_error(r,
                      status == ERR_NOT_FOUND ? ERR_AGENT
                      : status != ERR_OK      ? status
                                              : ERR_PROTO,
                      NULL, NULL);
        return;
    }
    buf_addf(&b,
             "{\"depth\":%u,\"bytes\":%llu,\"oldest_age_seconds\":%.3f,\"sent\":%llu,\"delivered\":"
             "%llu,\"expired\":%llu,\"rejected\":%llu,"
             "\"waiting\":%u,\"limits\":{\"messages\":%u,\"bytes\":%llu}}",
             x->depth, (unsigned long long)x->bytes, (double)x->oldest_ms / 1000.0,
             (unsigned long long)x->sent, (unsigned long long)x->delivered,
             (unsigned long long)x->expired, (unsigned long long)x->rejected, x->waiting,
             x->limit_messages, (unsigned long long)x->limit_bytes);
    slipstream__v1__box__free_unpacked(x, NULL);
    respond_buf(r, 200, "application/json", &b);
}

void api_message_box(struct gw_request *r)
{
    static const char *const params[] = {NULL};
    Slipstream__V1__BoxRef ref;

    slipstream__v1__box_ref__init(&ref);
    if (!api_begin(r, params, NULL))
        return;
    ref.tenant = (char *)(uintptr_t)r->tenant;
    ref.workflow_id = (char *)(uintptr_t)r->workflow_id;
    ref.agent_id = (char *)(uintptr_t)r->agent_id;
    ask_mailbox(r, MBOX_GET_BOX, &ref.base, on_box);
}
