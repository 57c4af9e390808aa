/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "proto/mailbox.pb-c.h"
#include "proto/scheduler.pb-c.h"

#include "gateway/api_mailbox.h"
#include "gateway/api_workflow.h"
#include "gateway/ask.h"
#include "gateway/client.h"
#include "gateway/mailbox_link.h"
#include "gateway/mcp.h"
#include "gateway/methods.h"
#include "gateway/worker.h"

static char *text_of(const struct mcp_args *args, enum mcp_arg a)
{
    return (char *)(uintptr_t)args->v[a].text;
}

static uint32_t ms_of(const struct mcp_args *args, enum mcp_arg a)
{
    double ms = args->v[a].number * 1000;

    return ms > 0 && ms < 1 ? 1 : (uint32_t)ms;
}

static void failed(struct gw_request *r, enum err e)
{
    mcp_tool_failed(r, e, NULL, NULL, err_retry_ms(e));
}

static void text_add(struct buf *b, const char *before, const char *text)
{
    buf_adds(b, before);
    buf_add_json(b, text, strlen(text));
}

/* ---- send_message ---- */

static void on_sent(struct gw_request *r, enum err status, const uint8_t *body, size_t len)
{
    Slipstream__V1__SendReply *reply =
        status == ERR_OK ? slipstream__v1__send_reply__unpack(NULL, len, body) : NULL;
    const Slipstream__V1__SendResult *s =
        reply != NULL && reply->n_results > 0 ? reply->results[0] : NULL;
    struct buf b = {0};
    enum err e = status != ERR_OK ? status : s == NULL ? ERR_PROTO : err_from_wire(s->status);
    int retry_ms = s != NULL && s->retry_ms > 0 ? (int)s->retry_ms : err_retry_ms(e);

    if (e == ERR_OK) {
        text_add(&b, "{\"message_id\":", s->message_id);
        buf_adds(&b, ",\"queued_for\":[");
        for (size_t i = 0; i < s->n_queued_for; i++)
            text_add(&b, i > 0 ? "," : "", s->queued_for[i]);
        buf_addf(&b, "],\"replayed\":%s}", reply->replayed ? "true" : "false");
    }
    if (reply != NULL)
        slipstream__v1__send_reply__free_unpacked(reply, NULL);
    if (e == ERR_OK)
        mcp_tool_done(r, &b);
    else
        mcp_tool_failed(r, e, NULL, NULL, retry_ms);
}

static void send_start(struct gw_request *r, const struct mcp_args *args)
{
    Slipstream__V1__SendRequest *q = request_alloc(r, sizeof(*q));
    Slipstream__V1__Message *m = request_alloc(r, sizeof(*m));
    const struct mcp_value *payload = &args->v[MCP_SEND_payload];

    slipstream__v1__message__init(m);
    m->source_agent = text_of(args, MCP_SEND_source_agent);
    m->target_agent = text_of(args, MCP_SEND_target_agent);
    m->message_type = text_of(args, MCP_SEND_message_type);
    m->correlation_id = text_of(args, MCP_SEND_correlation_id);
    m->reply_to = text_of(args, MCP_SEND_reply_to);
    m->group = text_of(args, MCP_SEND_group);
    m->priority = (uint32_t)args->v[MCP_SEND_priority].number;
    m->ttl_ms = ms_of(args, MCP_SEND_ttl);
    m->delay_ms = ms_of(args, MCP_SEND_delay);
    m->payload.data = (uint8_t *)(uintptr_t)payload->text;
    m->payload.len = payload->len;
    slipstream__v1__send_request__init(q);
    q->messages = request_alloc(r, sizeof(*q->messages));
    q->messages[0] = m;
    q->n_messages = 1;
    q->idempotency_key = text_of(args, MCP_SEND_idempotency_key);
    message_send_start(r, q, on_sent);
}

/* ---- receive_messages ---- */

static void on_received(struct gw_request *r, enum err status,
                        const Slipstream__V1__ReceiveReply *reply)
{
    struct buf b = {0};

    if (status != ERR_OK) { /* all else has been checked before it was asked */
        mcp_tool_failed(r, status, status == ERR_VALUE ? "lease" : NULL, NULL,
                        err_retry_ms(status));
        return;
    }
    buf_adds(&b, "{\"messages\":[");
    for (size_t i = 0; i < reply->n_messages; i++) {
        if (i > 0)
            buf_adds(&b, ",");
        message_write(&b, reply->messages[i]);
    }
    buf_addf(&b, "],\"more\":%u}", reply->more);
    mcp_tool_done(r, &b);
}

static const char *const *types_keep(struct gw_request *r, const struct mcp_args *args)
{
    const char **types;
    size_t n = 0;

    while (args->list[n] != NULL)
        n++;
    if (n == 0)
        return NULL;
    types = request_alloc(r, (n + 1) * sizeof(*types));
    memcpy(types, args->list, (n + 1) * sizeof(*types));
    return types;
}

/* Waiting calls are many, so they do not keep what is not needed any more. */
static void body_drop(struct gw_request *r)
{
    struct rpc_message *msg = &r->mcp->messages[0];

    if (r->mcp->is_batch)
        return;
    msg->id = request_strdup(r, msg->id, msg->id_len);
    msg->params = NULL;
    client_drop_body(r);
}

static void receive_start(struct gw_request *r, const struct mcp_args *args)
{
    if (r->delivery != 0) {
        mcp_tool_failed(r, ERR_VALUE, NULL, "Only one call of a batch may receive messages.", -1);
        return;
    }
    r->agent_id = text_of(args, MCP_RECEIVE_agent_id);
    r->receive_max = (uint32_t)args->v[MCP_RECEIVE_max].number;
    r->peek = args->v[MCP_RECEIVE_peek].flag;
    r->receive_wait_ms = r->peek ? 0 : ms_of(args, MCP_RECEIVE_wait);
    r->receive_lease_ms = r->peek ? 0 : ms_of(args, MCP_RECEIVE_lease);
    r->types = types_keep(r, args);
    if (r->receive_wait_ms > 0)
        body_drop(r);
    message_receive_start(r, on_received);
}

/* ---- ack_message ---- */

static void on_acked(struct gw_request *r, enum err status, const uint8_t *body, size_t len)
{
    Slipstream__V1__AckReply *reply =
        status == ERR_OK ? slipstream__v1__ack_reply__unpack(NULL, len, body) : NULL;
    enum err e = status != ERR_OK ? status
                 : reply == NULL || reply->n_results == 0
                     ? ERR_PROTO
                     : err_from_wire(reply->results[0]->status);
    struct buf b = {0};
    char time[40];

    if (e == ERR_OK) {
        text_add(&b, "{\"message_id\":", r->mcp->message_id);
        text_add(&b, ",\"action\":", r->mcp->action);
        if (reply->results[0]->lease_expires_ms != 0)
            text_add(&b, ",\"lease_expires_at\":",
                     ask_time(reply->results[0]->lease_expires_ms, time, sizeof(time)));
        buf_adds(&b, "}");
    }
    if (reply != NULL)
        slipstream__v1__ack_reply__free_unpacked(reply, NULL);
    if (e == ERR_OK)
        mcp_tool_done(r, &b);
    else
        mcp_tool_failed(r, e, mail_acked_param(e), NULL, err_retry_ms(e));
}

static void ack_start(struct gw_request *r, const struct mcp_args *args)
{
    const char *action = text_of(args, MCP_ACK_action);
    Slipstream__V1__AckRequest q;
    Slipstream__V1__Ack a, *rows[1] = {&a};

    slipstream__v1__ack__init(&a);
    a.message_id = text_of(args, MCP_ACK_message_id);
    a.receipt = text_of(args, MCP_ACK_receipt);
    a.kind = action[0] == 'n'   ? SLIPSTREAM__V1__ACK_KIND__ACK_RETURN
             : action[0] == 'e' ? SLIPSTREAM__V1__ACK_KIND__ACK_EXTEND
                                : SLIPSTREAM__V1__ACK_KIND__ACK_DONE;
    a.delay_ms = ms_of(args, MCP_ACK_delay);
    a.lease_ms = ms_of(args, MCP_ACK_lease);
    slipstream__v1__ack_request__init(&q);
    q.tenant = (char *)(uintptr_t)r->tenant;
    q.workflow_id = (char *)(uintptr_t)r->workflow_id;
    q.agent_id = text_of(args, MCP_ACK_agent_id);
    q.n_acks = 1;
    q.acks = rows;
    r->mcp->message_id = a.message_id;
    r->mcp->action = action;
    ask_mailbox(r, MBOX_ACK, &q.base, on_acked);
}

/* ---- list_agents, workflow_status ---- */

static void workflow_ask(struct gw_request *r, unsigned method, ask_done_fn *done)
{
    Slipstream__V1__WorkflowRef ref;

    slipstream__v1__workflow_ref__init(&ref);
    ref.tenant = (char *)(uintptr_t)r->tenant;
    ref.workflow_id = (char *)(uintptr_t)r->workflow_id;
    ask_scheduler(r, method, &ref.base, done);
}

static void on_agents(struct gw_request *r, enum err status, const uint8_t *body, size_t len)
{
    Slipstream__V1__Agents *as =
        status == ERR_OK ? slipstream__v1__agents__unpack(NULL, len, body) : NULL;
    struct buf b = {0};

    if (as == NULL) {
        failed(r, status == ERR_NOT_FOUND ? ERR_WORKFLOW : status != ERR_OK ? status : ERR_PROTO);
        return;
    }
    text_add(&b, "{\"workflow_id\":", r->workflow_id);
    buf_adds(&b, ",\"agents\":[");
    for (size_t i = 0; i < as->n_agents; i++) {
        if (i > 0)
            buf_adds(&b, ",");
        workflow_agent_write(&b, as->agents[i]);
    }
    buf_adds(&b, "]}");
    slipstream__v1__agents__free_unpacked(as, NULL);
    mcp_tool_done(r, &b);
}

static void on_counts(struct gw_request *r, enum err status, uint64_t queued, uint64_t delivered)
{
    struct buf b = {0};

    buf_adds(&b, r->mcp->part);
    if (status == ERR_OK)
        buf_addf(&b, ",\"messages\":{\"queued\":%llu,\"delivered\":%llu}",
                 (unsigned long long)queued, (unsigned long long)delivered);
    buf_adds(&b, "}");
    mcp_tool_done(r, &b);
}

static void on_workflow(struct gw_request *r, enum err status, const uint8_t *body, size_t len)
{
    Slipstream__V1__Workflow *w =
        status == ERR_OK ? slipstream__v1__workflow__unpack(NULL, len, body) : NULL;
    struct buf b = {0};

    if (w == NULL) {
        failed(r, status == ERR_NOT_FOUND ? ERR_WORKFLOW : status != ERR_OK ? status : ERR_PROTO);
        return;
    }
    workflow_write(&b, w);
    slipstream__v1__workflow__free_unpacked(w, NULL);
    r->mcp->part = request_strdup(r, b.base, b.len);
    buf_fini(&b);
    mailbox_counts(r, on_counts);
}

void mcp_tool_start(struct gw_request *r, enum mcp_tool tool, const struct mcp_args *args)
{
    switch (tool) {
    case MCP_TOOL_SEND:
        r->workflow_id = text_of(args, MCP_SEND_workflow_id);
        send_start(r, args);
        break;
    case MCP_TOOL_RECEIVE:
        r->workflow_id = text_of(args, MCP_RECEIVE_workflow_id);
        receive_start(r, args);
        break;
    case MCP_TOOL_ACK:
        r->workflow_id = text_of(args, MCP_ACK_workflow_id);
        ack_start(r, args);
        break;
    case MCP_TOOL_AGENTS:
        r->workflow_id = text_of(args, MCP_AGENTS_workflow_id);
        workflow_ask(r, SCHED_LIST_AGENTS, on_agents);
        break;
    case MCP_TOOL_STATUS:
        r->workflow_id = text_of(args, MCP_STATUS_workflow_id);
        workflow_ask(r, SCHED_GET_WORKFLOW, on_workflow);
        break;
    case MCP_TOOLS:
        break;
    }
}
