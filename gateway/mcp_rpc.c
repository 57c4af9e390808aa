/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/mcp_rpc.h"

#include <string.h>

#include "common/json.h"

#define KEY_BYTES 64 /* longer names are none of ours */

/* Is this raw key the name, whichever way it is escaped? */
static bool key_is(const struct member *m, const char *name, size_t len)
{
    char text[KEY_BYTES];
    size_t n;

    if (memchr(m->key, '\\', m->key_len) == NULL)
        return m->key_len == len && memcmp(m->key, name, len) == 0;
    return json_unescape(m->key, m->key_len, text, sizeof(text), &n) && n == len &&
           memcmp(text, name, len) == 0;
}

static bool keys_are_equal(const struct member *a, const struct member *b)
{
    char text[KEY_BYTES];
    size_t n;

    if (memchr(b->key, '\\', b->key_len) == NULL)
        return key_is(a, b->key, b->key_len);
    return json_unescape(b->key, b->key_len, text, sizeof(text), &n) && key_is(a, text, n);
}

enum err rpc_members(const char *text, size_t len, struct member *out, size_t *count)
{
    enum err e = members_split(text, len, out, RPC_MEMBERS, count);
    size_t i, k;

    for (i = 0; i < *count && e == ERR_OK; i++)
        for (k = 0; k < i; k++)
            if (keys_are_equal(&out[i], &out[k]))
                e = ERR_DUPLICATE_KEY;
    return e;
}

const struct member *rpc_member(const struct member *members, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (key_is(&members[i], name, strlen(name)))
            return &members[i];
    return NULL;
}

bool rpc_is_object(const struct member *m)
{
    return m->value_len > 0 && m->value[0] == '{';
}

static bool is_id(const struct member *m)
{
    char c = m->value[0];

    return c == '"' || c == '-' || (c >= '0' && c <= '9');
}

static void broken(struct rpc_message *m, const char *why)
{
    m->kind = RPC_BROKEN;
    m->why = why;
}

static void part_find(const struct member *members, size_t count, const char *name,
                      struct member *out)
{
    const struct member *m = rpc_member(members, count, name);

    if (m != NULL)
        *out = *m;
}

static void params_read(const struct member *params, struct rpc_message *m)
{
    struct member members[RPC_MEMBERS];
    size_t n = 0;
    enum err e = rpc_members(params->value, params->value_len, members, &n);

    if (e != ERR_OK) {
        broken(m, e == ERR_TYPE   ? "The member \"params\" must be an object."
                  : e == ERR_BUSY ? "The member \"params\" has too many members."
                                  : "A member of \"params\" appears twice.");
        return;
    }
    m->params = params->value;
    m->params_len = params->value_len;
    part_find(members, n, "name", &m->name);
    part_find(members, n, "arguments", &m->arguments);
    part_find(members, n, "_meta", &m->meta);
}

static void message_read(const char *text, size_t len, struct rpc_message *m)
{
    struct member members[RPC_MEMBERS];
    const struct member *version, *id, *method, *params;
    size_t count = 0;
    enum err e = rpc_members(text, len, members, &count);

    *m = (struct rpc_message){.kind = RPC_NOTIFICATION};
    if (e == ERR_TYPE) {
        broken(m, "A message is a JSON object.");
        return;
    }
    version = rpc_member(members, count, "jsonrpc");
    id = rpc_member(members, count, "id");
    method = rpc_member(members, count, "method");
    params = rpc_member(members, count, "params");
    if (id != NULL && is_id(id)) {
        m->id = id->value;
        m->id_len = id->value_len;
        m->kind = RPC_REQUEST;
    }
    if (e != ERR_OK)
        broken(m, e == ERR_BUSY ? "A message has too many members." : "A member appears twice.");
    else if (version == NULL || version->value_len != 5 ||
             memcmp(version->value, "\"2.0\"", 5) != 0)
        broken(m, "The member \"jsonrpc\" must be \"2.0\".");
    else if (id != NULL && !is_id(id))
        broken(m, "An id is a string or a number.");
    else if (method == NULL && id != NULL &&
             (rpc_member(members, count, "result") != NULL ||
              rpc_member(members, count, "error") != NULL))
        m->kind = RPC_ANSWER;
    else if (method == NULL || method->value[0] != '"')
        broken(m, "The member \"method\" must be a string.");
    else if (params != NULL)
        params_read(params, m);
    if (m->kind == RPC_BROKEN || m->kind == RPC_ANSWER)
        return;
    if (member_string(method->value, method->value_len, m->method, sizeof(m->method)) != ERR_OK)
        m->method[0] = '\0';
}

enum err rpc_parse(const char *body, size_t len, struct rpc_message *out, size_t max, size_t *count,
                   bool *is_batch)
{
    struct member rows[RPC_MEMBERS];
    size_t at = 0, i, n = 0;
    enum err e = len > 0 ? json_verify(body, len, &at) : ERR_JSON;

    *count = 0;
    *is_batch = false;
    if (e != ERR_OK)
        return e;
    for (i = 0; json_is_space(body[i]); i++)
        ;
    if (body[i] != '[') {
        message_read(body, len, &out[0]);
        *count = 1;
        return ERR_OK;
    }
    *is_batch = true;
    e = elements_split(body, len, rows, max < RPC_MEMBERS ? max : RPC_MEMBERS, &n);
    if (e != ERR_OK)
        return e == ERR_BUSY ? ERR_TOO_LARGE : e;
    for (i = 0; i < n; i++)
        message_read(rows[i].value, rows[i].value_len, &out[i]);
    *count = n;
    return ERR_OK;
}

void rpc_begin(struct buf *out, const char *id, size_t id_len)
{
    buf_adds(out, "{\"jsonrpc\":\"2.0\"");
    if (id != NULL) {
        buf_adds(out, ",\"id\":");
        buf_add(out, id, id_len);
    }
    buf_adds(out, ",");
}

void rpc_error(struct buf *out, const char *id, size_t id_len, int code, const char *text,
               const char *data)
{
    rpc_begin(out, id, id_len);
    buf_addf(out, "\"error\":{\"code\":%d,\"message\":", code);
    buf_add_json(out, text, strlen(text));
    if (data != NULL) {
        buf_adds(out, ",\"data\":");
        buf_adds(out, data);
    }
    buf_adds(out, "}}");
}

int rpc_code_of(enum err e)
{
    if (e == ERR_JSON || e == ERR_DEPTH)
        return RPC_PARSE;
    if (e == ERR_ID || e == ERR_VALUE || e == ERR_TYPE)
        return RPC_INVALID_REQUEST;
    return err_http(e) >= 500 && err_retry_ms(e) < 0 ? RPC_INTERNAL : RPC_OURS;
}

void rpc_error_data(struct buf *out, enum err e, const char *param, int retry_ms)
{
    buf_addf(out, "{\"code\":\"%s\"", err_code(e));
    if (param != NULL && param[0] != '\0') {
        buf_adds(out, ",\"param\":");
        buf_add_json(out, param, strlen(param));
    }
    if (retry_ms >= 0)
        buf_addf(out, ",\"retry_after\":%.3f", (double)retry_ms / 1000.0);
    buf_adds(out, "}");
}
