/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/api_mailbox.h"

#include <stdlib.h>
#include <string.h>

#include "common/id.h"
#include "gateway/ask.h"
#include "gateway/finish.h"
#include "gateway/mailbox_link.h"
#include "gateway/methods.h"
#include "gateway/routes.h"
#include "gateway/worker.h"

#define LIST_DEFAULT 10u

static void *memory_take(void *arg, size_t bytes)
{
    return request_alloc(arg, bytes);
}

struct mail_memory mail_memory_of(struct gw_request *r)
{
    return (struct mail_memory){memory_take, r};
}

struct gw_mail *mail_of(struct gw_request *r)
{
    if (r->mail == NULL) {
        r->mail = request_alloc(r, sizeof(*r->mail));
        memset(r->mail, 0, sizeof(*r->mail));
        r->mail->resume_after = "";
    }
    return r->mail;
}

h2o_iovec_t mail_body(const struct gw_request *r)
{
    return r->req->entity.base != NULL ? r->req->entity : h2o_iovec_init(H2O_STRLIT(""));
}

bool mail_max_read(struct gw_request *r, const char *text, uint32_t *max)
{
    char *end;
    long v = LIST_DEFAULT;

    if (text != NULL) {
        v = strtol(text, &end, 10);
        if (*end != '\0' || text[0] < '0' || text[0] > '9')
            v = 0;
    }
    *max = (uint32_t)v;
    if (v >= 1 && v <= (long)MAIL_RECEIVE_MAX)
        return true;
    respond_error(r, ERR_VALUE, "max", "max is 1 to 1000.");
    return false;
}

void mail_fault_respond(struct gw_request *r, enum err e, const struct mail_fault *fault)
{
    respond_error(r, e, fault->param, fault->detail);
}

void mail_error_show(struct gw_request *r, struct buf *b, enum err e)
{
    buf_adds(b, "{\"error\":");
    respond_error_body(b, DIALECT_PROBLEM, e, NULL, NULL, r->id);
    buf_adds(b, "}");
}

static char *text(const char *s)
{
    return (char *)(uintptr_t)s;
}

/* The path's third part, which names a message. */
static bool message_id_read(struct gw_request *r, const char **out)
{
    struct inspect_id id;
    enum err e = identity_segment(r->segments[2].base, r->segments[2].len, &id);

    if (e == ERR_OK)
        *out = request_strdup(r, id.bytes, id.len);
    else
        respond_error(r, e, "message_id", NULL);
    return e == ERR_OK;
}

/* ---- POST .../messages/{mid}:ack, :nack, :extend and .../messages:settle ---- */

static Slipstream__V1__AckReply *acked_unpack(struct gw_request *r, enum err status,
                                              const uint8_t *body, size_t len)
{
    Slipstream__V1__AckReply *reply =
        status == ERR_OK ? slipstream__v1__ack_reply__unpack(NULL, len, body) : NULL;

    if (reply != NULL && reply->n_results == r->mail->ack_count)
        return reply;
    if (reply != NULL)
        slipstream__v1__ack_reply__free_unpacked(reply, NULL);
    respond_error(r, status != ERR_OK ? status : ERR_PROTO, NULL, NULL);
    return NULL;
}

const char *mail_acked_param(enum err e)
{
    if (e == ERR_VALUE)
        return "lease";
    return e == ERR_RECEIPT || e == ERR_INVALID ? "receipt" : NULL;
}

static void acked_show(struct gw_request *r, const Slipstream__V1__Ack *a,
                       const Slipstream__V1__AckResult *result)
{
    enum err e = err_from_wire(result->status);
    struct buf *b = &r->out;

    buf_adds(b, "{\"message_id\":");
    buf_add_json(b, a->message_id, strlen(a->message_id));
    if (result->status != ERR_OK) {
        buf_adds(b, ",\"error\":");
        respond_error_body(b, DIALECT_PROBLEM, e, mail_acked_param(e), NULL, r->id);
    } else if (result->lease_expires_ms != 0) {
        buf_adds(b, ",\"lease_expires_at\":");
        mail_show_time(b, result->lease_expires_ms);
    }
    buf_add(b, "}", 1);
}

static void on_acked(struct gw_request *r, enum err status, const uint8_t *body, size_t len)
{
    Slipstream__V1__AckReply *reply = acked_unpack(r, status, body, len);
    enum err e;

    if (reply == NULL)
        return;
    e = err_from_wire(reply->results[0]->status);
    buf_clear(&r->out);
    if (e == ERR_OK)
        acked_show(r, r->mail->acks[0], reply->results[0]);
    slipstream__v1__ack_reply__free_unpacked(reply, NULL);
    if (e == ERR_OK)
        respond_out(r, 200, "application/json");
    else
        respond_error(r, e, mail_acked_param(e), NULL);
}

static void on_settled(struct gw_request *r, enum err status, const uint8_t *body, size_t len)
{
    Slipstream__V1__AckReply *reply = acked_unpack(r, status, body, len);
    size_t i;

    if (reply == NULL)
        return;
    buf_clear(&r->out);
    buf_adds(&r->out, "{\"results\":[");
    for (i = 0; i < reply->n_results; i++) {
        if (i > 0)
            buf_add(&r->out, ",", 1);
        acked_show(r, r->mail->acks[i], reply->results[i]);
    }
    buf_adds(&r->out, "]}");
    slipstream__v1__ack_reply__free_unpacked(reply, NULL);
    respond_out(r, 200, "application/json");
}

static void acks_ask(struct gw_request *r, Slipstream__V1__Ack **acks, size_t count,
                     ask_done_fn *done)
{
    Slipstream__V1__AckRequest q;

    slipstream__v1__ack_request__init(&q);
    q.tenant = text(r->tenant);
    q.workflow_id = text(r->workflow_id);
    q.agent_id = text(r->agent_id);
    q.acks = mail_of(r)->acks = acks;
    q.n_acks = r->mail->ack_count = count;
    ask_mailbox(r, MBOX_ACK, &q.base, done);
}

/* name: of the one query parameter, NULL: there is none; max: of its seconds. */
static void settle_one(struct gw_request *r, Slipstream__V1__AckKind kind, const char *name,
                       double max)
{
    const char *const params[] = {name, NULL};
    const char *values[1] = {NULL};
    const char *id;
    struct mail_memory mem = mail_memory_of(r);
    struct mail_fault fault;
    Slipstream__V1__Ack *ack, **list;
    uint32_t ms = 0;
    enum err e;

    if (!api_begin(r, params, values) || !message_id_read(r, &id))
        return;
    if (values[0] != NULL && !mail_seconds_read(values[0], max, &ms)) {
        respond_error(r, ERR_VALUE, name, "This takes seconds, up to a limit.");
        return;
    }
    ack = request_alloc(r, sizeof(*ack));
    list = request_alloc(r, sizeof(*list));
    slipstream__v1__ack__init(ack);
    e = mail_receipt_read(&mem, mail_body(r).base, mail_body(r).len, &ack->receipt, &fault);
    if (e != ERR_OK) {
        mail_fault_respond(r, e, &fault);
        return;
    }
    ack->message_id = text(id);
    ack->kind = kind;
    ack->delay_ms = kind == SLIPSTREAM__V1__ACK_KIND__ACK_RETURN ? ms : 0;
    ack->lease_ms = kind == SLIPSTREAM__V1__ACK_KIND__ACK_EXTEND ? ms : 0;
    list[0] = ack;
    acks_ask(r, list, 1, on_acked);
}

void api_message_ack(struct gw_request *r)
{
    settle_one(r, SLIPSTREAM__V1__ACK_KIND__ACK_DONE, NULL, 0);
}

void api_message_nack(struct gw_request *r)
{
    settle_one(r, SLIPSTREAM__V1__ACK_KIND__ACK_RETURN, "delay", MAIL_TTL_MAX_S);
}

void api_message_extend(struct gw_request *r)
{
    settle_one(r, SLIPSTREAM__V1__ACK_KIND__ACK_EXTEND, "lease", MAIL_LEASE_MAX_S);
}

void api_message_settle(struct gw_request *r)
{
    static const char *const params[] = {NULL};
    struct mail_memory mem = mail_memory_of(r);
    struct mail_fault fault;
    Slipstream__V1__Ack **acks;
    size_t count;
    enum err e;

    if (!api_begin(r, params, NULL))
        return;
    e = mail_acks_read(&mem, mail_body(r).base, mail_body(r).len, &acks, &count, &fault);
    if (e != ERR_OK)
        mail_fault_respond(r, e, &fault);
    else
        acks_ask(r, acks, count, on_settled);
}

/* ---- GET, DELETE .../dead-letters and POST .../dead-letters:redrive ---- */

static enum err box_err(enum err status)
{
    return status == ERR_NOT_FOUND ? ERR_AGENT : status != ERR_OK ? status : ERR_PROTO;
}

static void on_dead(struct gw_request *r, enum err status, const uint8_t *body, size_t len)
{
    struct mail_view m = {.attempt = 0};
    struct mail_reply reply;
    bool is_whole = true;
    size_t count = 0;

    if (status != ERR_OK || !mail_reply_read(body, len, &reply)) {
        respond_error(r, box_err(status), NULL, NULL);
        return;
    }
    buf_clear(&r->out);
    buf_adds(&r->out, "{\"messages\":[");
    while (mail_reply_next(&reply, &m)) {
        if (count++ > 0)
            buf_add(&r->out, ",", 1);
        is_whole = mail_show(&r->out, &m, false) && is_whole;
    }
    if (!is_whole)
        mailbox_avoid_blocks(r->gw);
    buf_adds(&r->out, "],\"next\":");
    if (reply.more > 0 && count > 0)
        buf_add_json(&r->out, m.message_id.at, m.message_id.len);
    else
        buf_adds(&r->out, "null");
    buf_adds(&r->out, "}");
    respond_out(r, 200, "application/json");
}

void api_dead_list(struct gw_request *r)
{
    static const char *const params[] = {"max", "after", NULL};
    const char *values[2] = {NULL, NULL};
    Slipstream__V1__DeadRequest q;

    slipstream__v1__dead_request__init(&q);
    if (!api_begin(r, params, values) || !mail_max_read(r, values[0], &q.max))
        return;
    if (values[1] != NULL && values[1][0] != '\0' && !id_is_valid(values[1], strlen(values[1]))) {
        respond_error(r, ERR_ID, "after", NULL);
        return;
    }
    q.tenant = text(r->tenant);
    q.workflow_id = text(r->workflow_id);
    q.agent_id = text(r->agent_id);
    q.after = text(values[1] != NULL ? values[1] : "");
    q.lz4 = mailbox_takes_blocks(r->gw);
    ask_mailbox(r, MBOX_LIST_DEAD, &q.base, on_dead);
}

static void on_redriven(struct gw_request *r, enum err status, const uint8_t *body, size_t len)
{
    Slipstream__V1__RedriveReply *reply =
        status == ERR_OK ? slipstream__v1__redrive_reply__unpack(NULL, len, body) : NULL;

    if (reply == NULL) {
        respond_error(r, box_err(status), NULL, NULL);
        return;
    }
    buf_clear(&r->out);
    buf_addf(&r->out, "{\"%s\":%u,\"left\":%u}", r->purge ? "dropped" : "redriven", reply->moved,
             reply->left);
    slipstream__v1__redrive_reply__free_unpacked(reply, NULL);
    respond_out(r, 200, "application/json");
}

static void redrive_ask(struct gw_request *r, bool drop)
{
    static const char *const params[] = {NULL};
    struct mail_memory mem = mail_memory_of(r);
    struct mail_fault fault;
    Slipstream__V1__RedriveRequest q;
    enum err e;

    if (!api_begin(r, params, NULL))
        return;
    slipstream__v1__redrive_request__init(&q);
    e = mail_ids_read(&mem, mail_body(r).base, mail_body(r).len, &q.message_ids, &q.n_message_ids,
                      &fault);
    if (e != ERR_OK) {
        mail_fault_respond(r, e, &fault);
        return;
    }
    q.tenant = text(r->tenant);
    q.workflow_id = text(r->workflow_id);
    q.agent_id = text(r->agent_id);
    q.drop = r->purge = drop;
    ask_mailbox(r, MBOX_REDRIVE, &q.base, on_redriven);
}

void api_dead_redrive(struct gw_request *r)
{
    redrive_ask(r, false);
}

void api_dead_drop(struct gw_request *r)
{
    redrive_ask(r, true);
}

/* ---- GET .../mailbox ---- */

static void on_box(struct gw_request *r, enum err status, const uint8_t *body, size_t len)
{
    Slipstream__V1__Box *x = status == ERR_OK ? slipstream__v1__box__unpack(NULL, len, body) : NULL;
    typedef unsigned long long ull;

    if (x == NULL) {
        respond_error(r, box_err(status), NULL, NULL);
        return;
    }
    buf_clear(&r->out);
    buf_addf(&r->out,
             "{\"depth\":%u,\"bytes\":%llu,\"oldest_age_seconds\":%.3f,\"waiting\":%u,"
             "\"unsettled\":%u,\"leased\":%u,\"delayed\":%u,\"dead\":%u,\"kept\":%u,",
             x->depth, (ull)x->bytes, (double)x->oldest_ms / 1000.0, x->waiting, x->unsettled,
             x->leased, x->delayed, x->dead, x->kept);
    buf_addf(&r->out,
             "\"sent\":%llu,\"delivered\":%llu,\"redelivered\":%llu,\"expired\":%llu,"
             "\"rejected\":%llu,",
             (ull)x->sent, (ull)x->delivered, (ull)x->redelivered, (ull)x->expired,
             (ull)x->rejected);
    buf_addf(&r->out,
             "\"limits\":{\"messages\":%u,\"bytes\":%llu,\"payload_bytes\":%llu,"
             "\"max_deliveries\":%u,\"overflow\":\"%s\"}}",
             x->limit_messages, (ull)x->limit_bytes, (ull)mailbox_max_payload(r->gw),
             x->max_deliveries, x->drop_oldest ? "drop_oldest" : "reject");
    slipstream__v1__box__free_unpacked(x, NULL);
    respond_out(r, 200, "application/json");
}

void api_message_box(struct gw_request *r)
{
    static const char *const params[] = {NULL};
    Slipstream__V1__BoxRef ref;

    slipstream__v1__box_ref__init(&ref);
    if (!api_begin(r, params, NULL))
        return;
    ref.tenant = text(r->tenant);
    ref.workflow_id = text(r->workflow_id);
    ref.agent_id = text(r->agent_id);
    ask_mailbox(r, MBOX_GET_BOX, &ref.base, on_box);
}
