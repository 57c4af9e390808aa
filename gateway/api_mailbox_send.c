/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "proto/mailbox.pb-c.h"
#include "proto/scheduler.pb-c.h"

#include "common/id.h"
#include "gateway/api_mailbox.h"
#include "gateway/ask.h"
#include "gateway/finish.h"
#include "gateway/mailbox_link.h"
#include "gateway/methods.h"
#include "gateway/routes.h"
#include "gateway/worker.h"
#include "proto/send_packed.h"

/* POST /v1/workflows/{id}/messages */

static void result_show(struct gw_request *r, struct buf *b, const Slipstream__V1__SendResult *s)
{
    size_t i;

    if (s->status != ERR_OK) {
        mail_error_show(r, b, err_from_wire(s->status));
        return;
    }
    buf_adds(b, "{\"message_id\":");
    buf_add_json(b, s->message_id, strlen(s->message_id));
    buf_adds(b, ",\"queued_for\":[");
    for (i = 0; i < s->n_queued_for; i++) {
        if (i > 0)
            buf_add(b, ",", 1);
        buf_add_json(b, s->queued_for[i], strlen(s->queued_for[i]));
    }
    buf_adds(b, "]}");
}

/* The advice of the one that needs most patience; 0: none has any. */
static int retry_of(const Slipstream__V1__SendReply *reply)
{
    int most = 0;
    size_t i;

    for (i = 0; i < reply->n_results; i++) {
        const Slipstream__V1__SendResult *s = reply->results[i];
        enum err e = err_from_wire(s->status);
        int ms = s->retry_ms > 0 ? (int)s->retry_ms : err_retry_ms(e);

        if (e != ERR_OK && ms > most)
            most = ms;
    }
    return most;
}

static void reply_show(struct gw_request *r, const Slipstream__V1__SendReply *reply)
{
    size_t i;

    buf_clear(&r->out);
    if (!r->bulk) {
        result_show(r, &r->out, reply->results[0]);
        return;
    }
    buf_adds(&r->out, "{\"results\":[");
    for (i = 0; i < reply->n_results; i++) {
        if (i > 0)
            buf_add(&r->out, ",", 1);
        result_show(r, &r->out, reply->results[i]);
    }
    buf_adds(&r->out, "]}");
}

static void answer_sent(struct gw_request *r)
{
    Slipstream__V1__SendReply *reply =
        r->sent_status == ERR_OK ? slipstream__v1__send_reply__unpack(NULL, r->sent_len, r->sent)
                                 : NULL;
    enum err e = r->sent_status != ERR_OK ? r->sent_status : ERR_PROTO;
    bool replayed;
    int retry_ms;

    if (reply != NULL && reply->n_results > 0)
        e = r->bulk ? ERR_OK : err_from_wire(reply->results[0]->status);
    retry_ms = reply != NULL && e != ERR_PROTO ? retry_of(reply) : err_retry_ms(e);
    replayed = reply != NULL && reply->replayed;
    if (e == ERR_OK)
        reply_show(r, reply);
    if (reply != NULL)
        slipstream__v1__send_reply__free_unpacked(reply, NULL);
    if (replayed)
        respond_add_header(r, "idempotent-replayed", "true");
    if (e != ERR_OK) {
        respond_error_retry(r, e, e == ERR_IDEMPOTENCY ? "idempotency-key" : NULL, NULL, retry_ms);
        return;
    }
    if (retry_ms > 0)
        respond_retry_after(r, retry_ms);
    respond_out(r, 202, "application/json");
}

static void on_sent(struct gw_request *r, enum err status, const uint8_t *body, size_t len)
{
    uint8_t *copy = request_alloc(r, len + 1);

    if (len > 0)
        memcpy(copy, body, len);
    r->sent = copy;
    r->sent_len = len;
    r->sent_status = status;
    worker_answer_soon(r, answer_sent);
}

static void send_ask(struct gw_request *r)
{
    Slipstream__V1__SendRequest *packed = send_packed(r->send, mailbox_compress_from(r->gw));

    ask_mailbox(r, MBOX_SEND, packed != NULL ? &packed->base : &r->send->base, r->on_sent);
    free(packed);
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

/* The value of the header; NULL: it has been refused. */
static const char *key_read(struct gw_request *r)
{
    static const char name[] = "idempotency-key";
    const h2o_headers_t *hs = &r->req->headers;
    ssize_t at = h2o_find_header_by_str(hs, name, sizeof(name) - 1, -1);
    h2o_iovec_t v;

    if (at < 0)
        return "";
    v = hs->entries[at].value;
    if (h2o_find_header_by_str(hs, name, sizeof(name) - 1, at) >= 0) {
        respond_error(r, ERR_ID, name, "There is more than one of it.");
        return NULL;
    }
    if (!id_is_valid(v.base, v.len)) {
        respond_error(r, ERR_ID, name, NULL);
        return NULL;
    }
    return request_strdup(r, v.base, v.len);
}

void api_message_send(struct gw_request *r)
{
    static const char *const params[] = {NULL};
    struct mail_memory mem = mail_memory_of(r);
    Slipstream__V1__SendRequest *q;
    struct mail_fault fault;
    struct mail_post post;
    const char *key;
    enum err e;

    if (!api_begin(r, params, NULL) || (key = key_read(r)) == NULL)
        return;
    e = mail_post_read(&mem, mail_body(r).base, mail_body(r).len, mailbox_max_payload(r->gw), &post,
                       &fault);
    if (e != ERR_OK) {
        mail_fault_respond(r, e, &fault);
        return;
    }
    r->bulk = post.bulk;
    q = request_alloc(r, sizeof(*q));
    slipstream__v1__send_request__init(q);
    q->n_messages = post.count;
    q->messages = post.messages;
    q->idempotency_key = (char *)(uintptr_t)key;
    message_send_start(r, q, on_sent);
}
