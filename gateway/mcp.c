/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/mcp.h"

#include <string.h>

#include "gateway/finish.h"
#include "gateway/keys.h"
#include "gateway/routes.h"
#include "gateway/worker.h"

#define BODY_BYTES ((3u << 20) + 65536u) /* the largest payload, and what goes with it */
#define LIST_TTL_MS 300000u              /* the tools change with the program only */

static const char instructions[] =
    "Agents of one workflow talk through mailboxes. Send with send_message; take what came for you "
    "with receive_messages (wait blocks until something comes). Use lease and ack_message where a "
    "message must not be lost if you fail while working on it. list_agents says who there is.";

void mcp_error_write(const struct gw_request *r, struct buf *out, enum err e, const char *param,
                     const char *detail, int retry_ms)
{
    const struct mcp *m = r->mcp;
    const struct rpc_message *msg =
        m != NULL && !m->is_batch && m->count == 1 ? &m->messages[0] : NULL;
    struct buf data = {0};

    rpc_error_data(&data, e, param, retry_ms);
    rpc_error(out, msg != NULL ? msg->id : NULL, msg != NULL ? msg->id_len : 0, rpc_code_of(e),
              detail != NULL ? detail : err_text(e), buf_cstr(&data));
    buf_fini(&data);
}

/* ---- answers ---- */

static void mcp_run(struct gw_request *r);

/* The current message is through; what it is answered with is in r->out. */
static void message_end(struct gw_request *r)
{
    struct mcp *m = r->mcp;

    m->waiting = false;
    m->at++;
    if (!m->running)
        mcp_run(r);
}

/* Between the answers of a batch. */
static void answer_begin(struct gw_request *r)
{
    if (r->out.len > 0)
        buf_adds(&r->out, ",");
}

static void answer_error(struct gw_request *r, int code, const char *text, const char *data)
{
    const struct rpc_message *msg = &r->mcp->messages[r->mcp->at];

    answer_begin(r);
    /* In a batch nobody could tell whose error it is, so JSON-RPC's null stands there. */
    rpc_error(&r->out, msg->id == NULL && r->mcp->is_batch ? "null" : msg->id,
              msg->id == NULL ? 4 : msg->id_len, code, text, data);
}

static void result_begin(struct gw_request *r)
{
    const struct rpc_message *msg = &r->mcp->messages[r->mcp->at];

    answer_begin(r);
    rpc_begin(&r->out, msg->id, msg->id_len);
    buf_adds(&r->out, "\"result\":{");
}

static void server_info_write(struct buf *b)
{
    buf_adds(b, "{\"name\":\"slipstream\",\"version\":\"" SLIP_VERSION "\"}");
}

/* The rest of a result whose last member has no comma behind it. */
static void result_end(struct gw_request *r)
{
    struct buf *b = &r->out;

    if (mcp_version_is_modern(r->mcp->version)) {
        buf_adds(b,
                 ",\"resultType\":\"complete\",\"_meta\":{\"io.modelcontextprotocol/serverInfo\":");
        server_info_write(b);
        buf_adds(b, "}");
    }
    buf_adds(b, "}}");
}

static void cache_write(struct gw_request *r)
{
    if (mcp_version_is_modern(r->mcp->version))
        buf_addf(&r->out, ",\"ttlMs\":%u,\"cacheScope\":\"public\"", LIST_TTL_MS);
}

void mcp_tool_done(struct gw_request *r, struct buf *result)
{
    result_begin(r);
    buf_adds(&r->out, "\"content\":[{\"type\":\"text\",\"text\":");
    buf_add_json(&r->out, result->base, result->len);
    buf_adds(&r->out, "}]");
    if (mcp_version_has_structure(r->mcp->version)) {
        buf_adds(&r->out, ",\"structuredContent\":");
        buf_add(&r->out, result->base, result->len);
    }
    buf_adds(&r->out, ",\"isError\":false");
    buf_fini(result);
    result_end(r);
    message_end(r);
}

void mcp_tool_failed(struct gw_request *r, enum err e, const char *param, const char *text,
                     int retry_ms)
{
    struct buf b = {0};

    worker_error_count(r->gw, e);
    buf_addf(&b, "{\"error\":{\"code\":\"%s\",\"message\":", err_code(e));
    text = text != NULL ? text : err_text(e);
    buf_add_json(&b, text, strlen(text));
    if (param != NULL) {
        buf_adds(&b, ",\"param\":");
        buf_add_json(&b, param, strlen(param));
    }
    if (retry_ms >= 0)
        buf_addf(&b, ",\"retry_after\":%.3f", (double)retry_ms / 1000.0);
    buf_adds(&b, "}}");
    result_begin(r);
    buf_adds(&r->out, "\"content\":[{\"type\":\"text\",\"text\":");
    buf_add_json(&r->out, b.base, b.len);
    buf_adds(&r->out, "}],\"isError\":true");
    buf_fini(&b);
    result_end(r);
    message_end(r);
}

/* ---- methods ---- */

static void on_initialize(struct gw_request *r)
{
    const struct rpc_message *msg = &r->mcp->messages[r->mcp->at];
    struct member params[RPC_MEMBERS];
    const struct member *v = NULL;
    size_t n = 0;

    if (msg->params != NULL && rpc_members(msg->params, msg->params_len, params, &n) == ERR_OK)
        v = rpc_member(params, n, "protocolVersion");
    if (v == NULL || v->value[0] != '"') {
        answer_error(r, RPC_PARAMS, "params.protocolVersion must be a string.", NULL);
        message_end(r);
        return;
    }
    r->mcp->version = mcp_version_agree(v->value + 1, v->value_len - 2);
    result_begin(r);
    buf_addf(&r->out, "\"protocolVersion\":\"%s\",\"capabilities\":{\"tools\":{}},\"serverInfo\":",
             mcp_version_text(r->mcp->version));
    server_info_write(&r->out);
    buf_addf(&r->out, ",\"instructions\":\"%s\"", instructions);
    result_end(r);
    message_end(r);
}

static void on_discover(struct gw_request *r)
{
    result_begin(r);
    buf_adds(&r->out, "\"supportedVersions\":");
    mcp_versions_write(&r->out);
    buf_addf(&r->out, ",\"capabilities\":{\"tools\":{}},\"instructions\":\"%s\"", instructions);
    cache_write(r);
    result_end(r);
    message_end(r);
}

static void on_ping(struct gw_request *r)
{
    result_begin(r);
    result_end(r);
    message_end(r);
}

static void on_list(struct gw_request *r)
{
    const struct rpc_message *msg = &r->mcp->messages[r->mcp->at];
    struct member params[RPC_MEMBERS];
    size_t n = 0;

    if (msg->params != NULL && rpc_members(msg->params, msg->params_len, params, &n) == ERR_OK &&
        rpc_member(params, n, "cursor") != NULL) {
        answer_error(r, RPC_PARAMS, "There is one page only; this cursor is not ours.", NULL);
        message_end(r);
        return;
    }
    result_begin(r);
    buf_adds(&r->out, "\"tools\":");
    mcp_tools_write(&r->out, r->mcp->version);
    cache_write(r);
    result_end(r);
    message_end(r);
}

static void on_call(struct gw_request *r)
{
    const struct rpc_message *msg = &r->mcp->messages[r->mcp->at];
    struct member raw = msg->arguments;
    enum mcp_tool tool = MCP_TOOLS;
    struct mcp_fault fault;
    struct mcp_args args;
    char text[64];
    enum err e;

    if (raw.value != NULL && raw.value[0] == 'n')
        raw = (struct member){.value = NULL};
    if (msg->name.value != NULL &&
        member_string(msg->name.value, msg->name.value_len, text, sizeof(text)) == ERR_OK)
        tool = mcp_tool_find(text);
    if (tool == MCP_TOOLS || (raw.value != NULL && !rpc_is_object(&raw))) {
        answer_error(r, RPC_PARAMS,
                     tool == MCP_TOOLS ? "There is no tool of this name; tools/list says which "
                                         "there are."
                                       : "params.arguments must be an object.",
                     NULL);
        message_end(r);
        return;
    }
    worker_label_count(r->gw, GW_M_mcp_calls, mcp_tool_name(tool), 1);
    e = mcp_args_read(tool, raw.value, raw.value_len, &r->mcp->defaults,
                      request_alloc(r, mcp_args_room(raw.value_len)), &args, &fault);
    if (e != ERR_OK)
        mcp_tool_failed(r, e, fault.param, fault.text, -1);
    else
        mcp_tool_start(r, tool, &args);
}

/*
 * Clients of the handshake era tell that they have given up a call, and leave its connection open;
 * what is put into that later nobody reads. There are no sessions to tell whose call it was, so
 * tenant, workflow, agent and id must be the same, and it must be with this worker: a help against
 * lost messages, no promise. Newer clients just hang up.
 */
static void on_cancelled(struct gw_request *r, const struct rpc_message *msg)
{
    struct member params[RPC_MEMBERS];
    const struct member *id = NULL;
    struct gw_request *other;
    uint32_t cursor = 0;
    uint64_t handle;
    size_t n = 0;

    if (msg->params != NULL && rpc_members(msg->params, msg->params_len, params, &n) == ERR_OK)
        id = rpc_member(params, n, "requestId");
    if (id == NULL || r->mcp->defaults.agent_id[0] == '\0')
        return;
    while ((other = pool_next(&r->gw->requests, &cursor, &handle)) != NULL) {
        const struct mcp *m = other->mcp;

        if (m == NULL || !other->polling || m->is_batch || m->messages[0].id_len != id->value_len ||
            memcmp(m->messages[0].id, id->value, id->value_len) != 0 ||
            strcmp(other->tenant, r->tenant) != 0 ||
            strcmp(m->defaults.workflow_id, r->mcp->defaults.workflow_id) != 0 ||
            strcmp(m->defaults.agent_id, r->mcp->defaults.agent_id) != 0)
            continue;
        respond_error(other, ERR_CANCELLED, NULL, NULL);
        return;
    }
}

static const struct method {
    const char *name;
    bool legacy, modern;
    void (*run)(struct gw_request *r);
} methods[] = {
    {"initialize", true, false, on_initialize},    {"ping", true, false, on_ping},
    {"server/discover", false, true, on_discover}, {"tools/list", true, true, on_list},
    {"tools/call", true, true, on_call},
};

static void message_start(struct gw_request *r)
{
    struct mcp *m = r->mcp;
    const struct rpc_message *msg = &m->messages[m->at];
    bool modern = mcp_version_is_modern(m->version);

    if (msg->kind == RPC_BROKEN) {
        answer_error(r, RPC_INVALID_REQUEST, msg->why, NULL);
        message_end(r);
        return;
    }
    if (msg->kind != RPC_REQUEST) {
        if (msg->kind == RPC_NOTIFICATION && strcmp(msg->method, "notifications/cancelled") == 0)
            on_cancelled(r, msg);
        message_end(r);
        return;
    }
    for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++)
        if (strcmp(methods[i].name, msg->method) == 0 &&
            (modern ? methods[i].modern : methods[i].legacy)) {
            methods[i].run(r);
            return;
        }
    answer_error(r, RPC_NO_METHOD, "There is no such method.", NULL);
    message_end(r);
}

/* One message after the other; those that have to wait come back through message_end(). */
static void mcp_run(struct gw_request *r)
{
    struct mcp *m = r->mcp;
    struct buf body = {0};

    m->running = true;
    while (m->at < m->count && !m->waiting) {
        m->waiting = true;
        message_start(r);
    }
    m->running = false;
    if (m->waiting)
        return;
    if (r->out.len == 0) {
        respond(r, 202, "", "", 0);
        return;
    }
    if (!m->is_batch) {
        respond(r, 200, "application/json", r->out.base, r->out.len);
        return;
    }
    buf_adds(&body, "[");
    buf_add(&body, r->out.base, r->out.len);
    buf_adds(&body, "]");
    respond_buf(r, 200, "application/json", &body);
}

/* ---- the door ---- */

static void header_get(const struct gw_request *r, const char *name, const char **value,
                       size_t *len)
{
    ssize_t at = h2o_find_header_by_str(&r->req->headers, name, strlen(name), -1);

    *value = at >= 0 ? r->req->headers.entries[at].value.base : NULL;
    *len = at >= 0 ? r->req->headers.entries[at].value.len : 0;
}

/* A page that has no business here learns nothing, not even if it has a key; one that has may read
 * the answer. */
static enum err origin_check(struct gw_request *r)
{
    const struct conf_list *allowed = &r->gw->conf->gateway.mcp_origins;
    const char *value;
    size_t len;

    respond_add_header(r, "vary", "Origin");
    header_get(r, "origin", &value, &len);
    if (value == NULL)
        return ERR_OK;
    if (!mcp_origin_is_allowed(value, len, r->req->authority.base, r->req->authority.len,
                               r->req->scheme == &H2O_URL_SCHEME_HTTPS, allowed->items,
                               allowed->count))
        return ERR_ORIGIN;
    respond_add_header(r, "access-control-allow-origin", request_strdup(r, value, len));
    respond_add_header(r, "access-control-expose-headers", "x-request-id, retry-after");
    return ERR_OK;
}

/* What browsers ask before a page's POST. Keys are not theirs to have yet. */
void api_mcp_options(struct gw_request *r)
{
    enum err e = origin_check(r);
    const char *value;
    size_t len;

    if (e != ERR_OK) {
        respond_error(r, e, NULL, NULL);
        return;
    }
    respond_add_header(r, "allow", "POST, OPTIONS");
    respond_add_header(r, "access-control-allow-methods", "POST");
    respond_add_header(r, "access-control-allow-headers", "*, authorization");
    respond_add_header(r, "access-control-max-age", "600");
    header_get(r, "access-control-request-private-network", &value, &len);
    if (value != NULL)
        respond_add_header(r, "access-control-allow-private-network", "true");
    respond(r, 200, "", "", 0);
}

static enum err head_check_mcp(struct gw_request *r)
{
    const char *value;
    size_t len;
    enum err e = origin_check(r);

    if (e == ERR_OK)
        e = keys_check(r);
    if (e != ERR_OK)
        return e;
    header_get(r, "content-type", &value, &len);
    if (value == NULL || len < 16 || !h2o_lcstris(value, 16, H2O_STRLIT("application/json")) ||
        (len > 16 && value[16] != ';' && value[16] != ' '))
        return ERR_MEDIA_TYPE;
    header_get(r, "accept", &value, &len);
    if (value != NULL && !mcp_accepts(value, len, "application/json"))
        return ERR_ACCEPT;
    return r->req->entity.len > BODY_BYTES ? ERR_TOO_LARGE : ERR_OK;
}

/* Whose tools these are, where a call does not say: headers, else the path. */
static enum err defaults_take(struct gw_request *r, struct mcp_defaults *d)
{
    struct identity_headers h = {0};
    enum err e;

    header_get(r, "x-workflow-id", &h.workflow_id, &h.workflow_id_len);
    header_get(r, "x-agent-id", &h.agent_id, &h.agent_id_len);
    e = identity_headers_add(r->identity, &h);
    d->workflow_id =
        request_strdup(r, r->identity->workflow_id.bytes, r->identity->workflow_id.len);
    d->agent_id = request_strdup(r, r->identity->agent_id.bytes, r->identity->agent_id.len);
    r->workflow_id = d->workflow_id;
    r->agent_id = d->agent_id;
    return e;
}

static void refuse(struct gw_request *r, const struct mcp_verdict *v)
{
    const struct rpc_message *msg = &r->mcp->messages[0];
    bool alone = !r->mcp->is_batch;
    struct buf b = {0};

    r->end = v->code == RPC_PARSE ? ERR_JSON : ERR_VALUE;
    worker_error_count(r->gw, r->end);
    rpc_error(&b, alone ? msg->id : NULL, alone ? msg->id_len : 0, v->code, v->text,
              v->data[0] != '\0' ? v->data : NULL);
    respond_buf(r, v->http, "application/json", &b);
}

/* What must be told with a status of its own can be told only where one message stands alone. */
static void judge(struct gw_request *r)
{
    struct mcp *m = r->mcp;
    struct mcp_verdict v;
    struct mcp_head h;

    header_get(r, "mcp-protocol-version", &h.version, &h.version_len);
    header_get(r, "mcp-method", &h.method, &h.method_len);
    header_get(r, "mcp-name", &h.name, &h.name_len);
    if (m->is_batch)
        mcp_judge_batch(m->messages, m->count, &h, &v);
    else if (m->messages[0].kind == RPC_BROKEN)
        v = (struct mcp_verdict){
            .code = RPC_INVALID_REQUEST, .http = 400, .text = m->messages[0].why};
    else
        mcp_judge(&m->messages[0], &h, &v);
    m->version = v.version;
    if (v.code == 0 && !m->is_batch && m->messages[0].kind == RPC_REQUEST &&
        mcp_version_is_modern(v.version)) {
        bool known = false;

        for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++)
            known |= methods[i].modern && strcmp(methods[i].name, m->messages[0].method) == 0;
        if (!known)
            v = (struct mcp_verdict){
                .code = RPC_NO_METHOD, .http = 404, .text = "There is no such method."};
    }
    if (v.code != 0)
        refuse(r, &v);
    else
        mcp_run(r);
}

void api_mcp(struct gw_request *r)
{
    struct rpc_message messages[RPC_MEMBERS];
    struct mcp *m;
    enum err e = head_check_mcp(r);

    if (e != ERR_OK) {
        respond_error(r, e, NULL, NULL);
        return;
    }
    m = request_alloc(r, sizeof(*m));
    *m = (struct mcp){.count = 0};
    e = defaults_take(r, &m->defaults);
    if (e != ERR_OK) {
        respond_error(r, e, r->identity->err_param, NULL);
        return;
    }
    e = rpc_parse(r->req->entity.base, r->req->entity.len, messages, RPC_MEMBERS, &m->count,
                  &m->is_batch);
    if (e != ERR_OK) {
        respond_error(r, e, NULL, e == ERR_TOO_LARGE ? "A batch has at most 32 messages." : NULL);
        return;
    }
    /* Waiting calls are many: each keeps only what it has. */
    m->messages = request_alloc(r, (m->count > 0 ? m->count : 1) * sizeof(*m->messages));
    memcpy(m->messages, messages, m->count * sizeof(*messages));
    r->mcp = m;
    judge(r);
}
