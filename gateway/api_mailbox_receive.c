/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/id.h"
#include "common/lz4_payload.h"
#include "gateway/api_mailbox.h"
#include "gateway/ask.h"
#include "gateway/client.h"
#include "gateway/finish.h"
#include "gateway/mailbox_link.h"
#include "gateway/methods.h"
#include "gateway/routes.h"
#include "gateway/worker.h"

/*
 * GET /v1/workflows/{id}/agents/{agent}/messages
 *
 * A poll that waits is a registration in the mailbox process, ended by an event. What is handed out
 * rests in a delivery there until all of the answer has been written.
 */
#define WAIT_MAX_S 60.0
#define POLL_SLACK_MS 1000u /* then nobody will end this poll any more */
#define TYPES_MAX 16u

static void on_dispose(struct gw_request *r)
{
    if (r->polling)
        mail_unpark(r->gw, r->handle);
    mail_settle(r, !r->mail->is_stream && r->end == ERR_OK && r->finished, 0);
}

static void id_note(struct gw_request *r, size_t at)
{
    struct gw_mail *m = r->mail;
    uint32_t *more;

    if (m->id_count == m->id_cap) {
        m->id_cap = m->id_cap > 0 ? m->id_cap * 2 : 16;
        more = request_alloc(r, m->id_cap * sizeof(*more));
        if (m->id_count > 0)
            memcpy(more, m->ids, m->id_count * sizeof(*more));
        m->ids = more;
    }
    m->ids[m->id_count++] = (uint32_t)at;
}

bool mail_message_add(struct gw_request *r, const struct mail_view *m, bool is_event)
{
    size_t at = r->out.len;
    bool is_whole = is_event ? mail_show_event(&r->out, m, &at) : mail_show(&r->out, m, false);

    id_note(r, at + MAIL_SHOW_ID_AT);
    return is_whole;
}

static void receive_failed(struct gw_request *r, enum err e)
{
    if (r->on_receive == NULL)
        respond_error(r, e, e == ERR_VALUE && r->receive_lease_ms > 0 ? "lease" : NULL, NULL);
    else
        r->on_receive(r, e, NULL);
}

/* What was handed out with a damaged payload among it goes back, all of it. */
static void receive_unreadable(struct gw_request *r)
{
    mail_settle(r, false, 0);
    receive_failed(r, ERR_PROTO);
}

static void answer_own(struct gw_request *r, struct mail_reply *reply)
{
    bool is_whole = true;
    struct mail_view m;

    buf_clear(&r->out);
    buf_reserve(&r->out, (size_t)(reply->end - reply->at) + 128 * reply->count + 64);
    buf_adds(&r->out, "{\"messages\":[");
    while (mail_reply_next(reply, &m)) {
        if (r->mail->id_count > 0)
            buf_add(&r->out, ",", 1);
        is_whole = mail_message_add(r, &m, false) && is_whole;
    }
    buf_adds(&r->out, reply->more > 0 ? "],\"next\":true}" : "],\"next\":null}");
    if (!is_whole)
        mailbox_avoid_blocks(r->gw);
    if (!is_whole && r->delivery != 0) {
        receive_unreadable(r);
        return;
    }
    respond_out(r, 200, "application/json");
}

/* Of messages that somebody else writes out. */
static void ids_keep(struct gw_request *r, const Slipstream__V1__ReceiveReply *reply)
{
    struct gw_mail *m = r->mail;
    size_t i;

    m->id_count = reply->n_messages;
    m->id_texts = request_alloc(r, (m->id_count + 1) * sizeof(m->id_texts[0]));
    for (i = 0; i < m->id_count; i++) {
        const char *id = reply->messages[i]->message_id;

        m->id_texts[i] = request_strdup(r, id, strlen(id));
    }
}

/* Payloads as they were; one that is damaged is none. */
static bool payloads_unpack(Slipstream__V1__ReceiveReply *reply)
{
    bool is_whole = true;
    size_t i;

    for (i = 0; i < reply->n_messages; i++) {
        Slipstream__V1__Message *m = reply->messages[i];
        struct buf raw = {0};
        struct packed p;

        if (m->raw_len == 0)
            continue;
        is_whole =
            payload_claim(m->payload.data, m->payload.len, m->raw_len, PAYLOAD_MAX, &p) == ERR_OK &&
            payload_unpack(&p, &raw) == ERR_OK && is_whole;
        free(m->payload.data);
        m->payload = (ProtobufCBinaryData){raw.len, (uint8_t *)raw.base};
        m->raw_len = 0;
    }
    return is_whole;
}

static void answer(struct gw_request *r, struct mail_reply *reply)
{
    Slipstream__V1__ReceiveReply *whole;
    bool is_whole;

    r->delivery = reply->delivery;
    if (r->on_receive == NULL) {
        answer_own(r, reply);
        return;
    }
    whole =
        slipstream__v1__receive_reply__unpack(NULL, (size_t)(reply->end - reply->at), reply->at);
    is_whole = whole == NULL || payloads_unpack(whole);
    if (!is_whole)
        mailbox_avoid_blocks(r->gw);
    if (whole != NULL && reply->delivery != 0)
        ids_keep(r, whole);
    if (!is_whole && reply->delivery != 0)
        receive_unreadable(r);
    else
        r->on_receive(r, whole != NULL ? ERR_OK : ERR_PROTO, whole);
    if (whole != NULL)
        slipstream__v1__receive_reply__free_unpacked(whole, NULL);
}

static void answer_empty(struct gw_request *r)
{
    static const uint8_t none = 0;
    struct mail_reply nothing = {.at = &none, .end = &none};

    answer(r, &nothing);
}

static void poll_parked(struct gw_request *r)
{
    r->polling = true;
    if (r->gw->draining) {
        answer_empty(r);
        return;
    }
    r->deadline_ns = clock_ns() + (r->receive_wait_ms + POLL_SLACK_MS) * NS_PER_MS;
    timer_start(&r->gw->timers, &r->timer, r->deadline_ns);
    if (r->on_receive == NULL)
        client_shrink(r);
}

static void receive_ask(struct gw_request *r);

static void on_received(struct gw_request *r, enum err status, const uint8_t *body, size_t len)
{
    bool missed = r->mail->missed;
    struct mail_reply reply;

    r->mail->missed = false;
    if (status != ERR_OK || !mail_reply_read(body, len, &reply))
        receive_failed(r, status != ERR_OK ? status : ERR_PROTO);
    else if (reply.parked && missed)
        receive_ask(r);
    else if (r->mail->is_stream)
        mail_stream_start(r, &reply);
    else if (reply.parked)
        poll_parked(r);
    else
        answer(r, &reply);
}

/* Its reader has left, or had its time: what came goes back. */
void mail_received_late(void *arg, uint64_t handle, enum err status, const uint8_t *body,
                        size_t len)
{
    struct mail_reply reply;

    if (status != ERR_OK || !mail_reply_read(body, len, &reply))
        return;
    if (reply.parked)
        mail_unpark(arg, handle);
    mail_settle_other(arg, reply.delivery, false);
}

static void on_receive_answer(void *arg, uint64_t handle, enum err status, const uint8_t *body,
                              size_t len)
{
    if (!ask_answer(arg, handle, status, body, len))
        mail_received_late(arg, handle, status, body, len);
}

/*
 * Answers and events travel apart, so the end of a poll may overtake the word that it is parked.
 * True: it is the answer then. Where r goes on asking under the same name it cannot be: what came
 * goes back and is asked for again.
 */
static bool is_early(struct gw_request *r)
{
    bool asking = r->state == GW_ASKING && r->asked == on_received;

    if (r->mail == NULL || r->polling || (!asking && !r->mail->calling))
        return false;
    if (asking && !r->mail->is_stream && r->on_receive == NULL) {
        r->asked = NULL;
        return true;
    }
    r->mail->missed = true;
    return false;
}

void mail_delivered(struct gw *gw, const uint8_t *body, size_t len)
{
    struct gw_request *r;
    struct mail_reply reply;

    if (!mail_reply_read(body, len, &reply))
        return;
    r = request_find(gw, reply.poll);
    if (r != NULL && is_early(r)) {
        answer(r, &reply);
        return;
    }
    if (r == NULL || !r->polling || (r->state != GW_ASKING && r->state != GW_PUSHING)) {
        mail_settle_other(gw, reply.delivery, false); /* nobody waits any more: it goes back */
        return;
    }
    r->polling = false;
    if (r->state == GW_PUSHING)
        mail_stream_delivered(r, &reply);
    else
        answer(r, &reply);
}

/* How long the client still wants to wait. */
static uint32_t wait_left(const struct gw_request *r)
{
    uint64_t waited_ms = (clock_ns() - r->receive_ns) / NS_PER_MS;

    if (r->mail->is_stream)
        return r->receive_wait_ms;
    return r->receive_wait_ms > waited_ms ? (uint32_t)(r->receive_wait_ms - waited_ms) : 0;
}

static void request_fill(struct gw_request *r, Slipstream__V1__ReceiveRequest *q)
{
    size_t n = 0;

    slipstream__v1__receive_request__init(q);
    q->tenant = (char *)(uintptr_t)r->tenant;
    q->workflow_id = (char *)(uintptr_t)r->workflow_id;
    q->agent_id = (char *)(uintptr_t)r->agent_id;
    q->max = r->receive_max;
    q->wait_ms = wait_left(r);
    q->poll = r->handle;
    q->peek = r->peek;
    q->settle = !r->peek;
    q->lz4 = mailbox_takes_blocks(r->gw);
    q->lease_ms = r->receive_lease_ms;
    q->resume_after = (char *)(uintptr_t)r->mail->resume_after;
    while (r->types != NULL && r->types[n] != NULL)
        n++;
    q->n_types = n;
    q->types = (char **)(uintptr_t)r->types;
}

static void receive_ask(struct gw_request *r)
{
    Slipstream__V1__ReceiveRequest q;

    request_fill(r, &q);
    ask_mailbox_keep(r, MBOX_RECEIVE, &q.base, on_received, on_receive_answer, mail_received_late);
}

enum err mail_receive_call(struct gw_request *r, rpc_done_fn *done, rpc_done_fn *late)
{
    Slipstream__V1__ReceiveRequest q;

    request_fill(r, &q);
    return rpc_call(r->gw->mailbox, MBOX_RECEIVE, &q.base, 5000, done, r->gw, r->handle, late);
}

void mail_poll_again(struct gw_request *r)
{
    r->polling = false;
    if (r->state == GW_PUSHING)
        mail_stream_again(r);
    else if (r->state == GW_ASKING)
        receive_ask(r);
}

void mail_poll_drain(struct gw_request *r)
{
    if (r->state == GW_PUSHING)
        mail_stream_drain(r);
    else if (r->state == GW_ASKING && r->polling)
        answer_empty(r);
}

void message_receive_start(struct gw_request *r, receive_done_fn *done)
{
    mail_of(r);
    r->receive_ns = clock_ns();
    r->on_receive = done;
    r->on_dispose = on_dispose;
    mailbox_note_agent(r, r->agent_id);
    receive_ask(r);
}

void message_write(struct buf *b, const Slipstream__V1__Message *m)
{
    const struct mail_view v = {.message_id = {m->message_id, strlen(m->message_id)},
                                .source_agent = {m->source_agent, strlen(m->source_agent)},
                                .target_agent = {m->target_agent, strlen(m->target_agent)},
                                .message_type = {m->message_type, strlen(m->message_type)},
                                .correlation_id = {m->correlation_id, strlen(m->correlation_id)},
                                .reply_to = {m->reply_to, strlen(m->reply_to)},
                                .group = {m->group, strlen(m->group)},
                                .receipt = {m->receipt, strlen(m->receipt)},
                                .dead_reason = {m->dead_reason, strlen(m->dead_reason)},
                                .payload = {(const char *)m->payload.data, m->payload.len},
                                .created_ms = m->created_ms,
                                .expires_ms = m->expires_ms,
                                .lease_expires_ms = m->lease_expires_ms,
                                .dead_ms = m->dead_ms,
                                .attempt = m->attempt,
                                .priority = m->priority,
                                .raw_len = m->raw_len};

    mail_show(b, &v, false);
}

/* ---- what is asked for ---- */

/* NULL: it has been refused. */
static const char *const *types_split(struct gw_request *r, const char *text)
{
    const char **list = request_alloc(r, (TYPES_MAX + 1) * sizeof(*list));
    size_t n = 0;

    while (*text != '\0') {
        size_t len = strcspn(text, ",");

        if (len > 0 && n == TYPES_MAX) {
            respond_error(r, ERR_VALUE, "types", "types names at most 16.");
            return NULL;
        }
        if (len > 0 && !id_is_valid(text, len)) {
            respond_error(r, ERR_ID, "types", NULL);
            return NULL;
        }
        if (len > 0)
            list[n++] = request_strdup(r, text, len);
        text += len + (text[len] == ',');
    }
    list[n] = NULL;
    return list;
}

static h2o_iovec_t header_find(const struct gw_request *r, const char *name)
{
    const h2o_headers_t *hs = &r->req->headers;
    ssize_t at = h2o_find_header_by_str(hs, name, strlen(name), -1);

    return at >= 0 ? hs->entries[at].value : h2o_iovec_init(H2O_STRLIT(""));
}

/* wait=N of the query is what counts; a preference is a wish, cut to what there is. */
static bool wait_read(struct gw_request *r, const char *value)
{
    h2o_iovec_t prefer = header_find(r, "prefer");
    char text[32];

    if (value != NULL) {
        if (!r->mail->is_stream && mail_seconds_read(value, WAIT_MAX_S, &r->receive_wait_ms))
            return true;
        respond_error(r, ERR_VALUE, "wait",
                      r->mail->is_stream ? "A stream waits anyway." : "wait is 0 to 60 seconds.");
        return false;
    }
    if (r->mail->is_stream || r->peek ||
        !mail_prefer_wait(prefer.base, prefer.len, &r->receive_wait_ms))
        return true;
    if (r->receive_wait_ms > (uint32_t)(WAIT_MAX_S * 1000))
        r->receive_wait_ms = (uint32_t)(WAIT_MAX_S * 1000);
    snprintf(text, sizeof(text), "wait=%u", r->receive_wait_ms / 1000);
    respond_add_header(r, "preference-applied", text);
    return true;
}

static bool peek_read(struct gw_request *r, const char *value)
{
    r->peek = value != NULL && strcmp(value, "true") == 0;
    if (value != NULL && !r->peek && strcmp(value, "false") != 0)
        respond_error(r, ERR_VALUE, "peek", "peek is true or false.");
    else if (r->peek && (r->mail->is_stream || r->receive_lease_ms > 0))
        respond_error(r, ERR_VALUE, "peek", "A look takes no lease and makes no stream.");
    else
        return true;
    return false;
}

static bool lease_read(struct gw_request *r, const char *value)
{
    if (value == NULL || (mail_seconds_read(value, MAIL_LEASE_MAX_S, &r->receive_lease_ms) &&
                          r->receive_lease_ms > 0))
        return true;
    respond_error(r, ERR_VALUE, "lease", "lease is more than 0 and up to 86400 seconds.");
    return false;
}

static bool resume_read(struct gw_request *r)
{
    h2o_iovec_t id = header_find(r, "last-event-id");

    if (!r->mail->is_stream || id.len == 0)
        return true;
    if (id_is_valid(id.base, id.len)) {
        r->mail->resume_after = request_strdup(r, id.base, id.len);
        return true;
    }
    respond_error(r, ERR_ID, "last-event-id", NULL);
    return false;
}

void api_message_receive(struct gw_request *r)
{
    static const char *const params[] = {"max", "wait", "types", "peek", "lease", NULL};
    const char *values[5] = {NULL, NULL, NULL, NULL, NULL};
    h2o_iovec_t accept = header_find(r, "accept");
    struct gw_mail *m = mail_of(r);

    m->is_stream = mail_wants_stream(accept.base, accept.len);
    if (!api_begin(r, params, values) || !mail_max_read(r, values[0], &r->receive_max) ||
        !lease_read(r, values[4]) || !peek_read(r, values[3]) || !wait_read(r, values[1]) ||
        !resume_read(r))
        return;
    if (values[2] != NULL && (r->types = types_split(r, values[2])) == NULL)
        return;
    if (r->listener == LISTENER_ADMIN && !r->peek && admin_is_refused(r, true))
        return;
    if (m->is_stream)
        r->receive_wait_ms = (uint32_t)(WAIT_MAX_S * 1000);
    message_receive_start(r, NULL);
}
