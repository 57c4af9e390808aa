/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/mcp_era.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "common/json.h"

#define META "io.modelcontextprotocol/"
#define NAME_BYTES 512 /* longer names in headers agree with nothing */

static const struct row {
    const char *text;
    bool is_modern, batches, structured;
} rows[] = {
#define VERSION(id, text, is_modern, batches, structured) {text, is_modern, batches, structured},
#include "gateway/mcp_versions.def"
#undef VERSION
};

const char *mcp_version_text(enum mcp_version v)
{
    return rows[v].text;
}

bool mcp_version_is_modern(enum mcp_version v)
{
    return rows[v].is_modern;
}

bool mcp_version_has_structure(enum mcp_version v)
{
    return rows[v].structured;
}

enum mcp_version mcp_version_find(const char *s, size_t len)
{
    enum mcp_version v = 0;

    while (v < MCP_VERSIONS && (strlen(rows[v].text) != len || memcmp(rows[v].text, s, len) != 0))
        v++;
    return v;
}

enum mcp_version mcp_version_agree(const char *s, size_t len)
{
    enum mcp_version v = mcp_version_find(s, len), newest = MCP_VERSIONS;

    if (v < MCP_VERSIONS && !rows[v].is_modern)
        return v;
    while (newest > 0 && rows[newest - 1].is_modern)
        newest--;
    return newest - 1;
}

void mcp_versions_write(struct buf *out)
{
    bool first = true;

    buf_adds(out, "[");
    for (enum mcp_version v = 0; v < MCP_VERSIONS; v++) {
        if (!rows[v].is_modern)
            continue;
        buf_addf(out, "%s\"%s\"", first ? "" : ",", rows[v].text);
        first = false;
    }
    buf_adds(out, "]");
}

static void refuse(struct mcp_verdict *out, int code, const char *text)
{
    out->code = code;
    out->http = 400;
    out->text = text;
}

/* requested: raw, perhaps with characters that may not stand in JSON. */
static void refuse_version(struct mcp_verdict *out, const char *requested, size_t len)
{
    struct buf b = {0};
    size_t i = 0;

    refuse(out, RPC_VERSION, "This revision of the protocol is not supported.");
    while (i < len && requested[i] > 0x20 && requested[i] < 0x7f && requested[i] != '"' &&
           requested[i] != '\\')
        i++;
    buf_adds(&b, "{\"supported\":");
    mcp_versions_write(&b);
    if (i == len && len < 64)
        buf_addf(&b, ",\"requested\":\"%.*s\"", (int)len, requested);
    buf_adds(&b, "}");
    snprintf(out->data, sizeof(out->data), "%s", buf_cstr(&b));
    buf_fini(&b);
}

/* ---- params._meta ---- */

struct claim {
    bool is_there, is_text, has_capabilities, info_is_wrong;
    char version[64]; /* longer ones are none of ours */
    size_t version_len;
    char name[NAME_BYTES]; /* params.name, for tools/call */
    bool has_name;
};

static void claim_read(const struct rpc_message *m, struct claim *c)
{
    struct member meta[RPC_MEMBERS];
    const struct member *v;
    size_t n = 0;

    *c = (struct claim){.is_there = false};
    c->has_name = m->name.value != NULL && member_string(m->name.value, m->name.value_len, c->name,
                                                         sizeof(c->name)) == ERR_OK;
    if (m->meta.value == NULL || !rpc_is_object(&m->meta) ||
        rpc_members(m->meta.value, m->meta.value_len, meta, &n) != ERR_OK)
        return;
    v = rpc_member(meta, n, META "protocolVersion");
    c->is_there = v != NULL;
    c->is_text = v != NULL &&
                 member_string(v->value, v->value_len, c->version, sizeof(c->version)) == ERR_OK;
    c->version_len = c->is_text ? strlen(c->version) : 0;
    v = rpc_member(meta, n, META "clientCapabilities");
    c->has_capabilities = v != NULL && rpc_is_object(v);
    v = rpc_member(meta, n, META "clientInfo");
    c->info_is_wrong = v != NULL && !rpc_is_object(v);
}

/* ---- headers ---- */

static int sextet(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c != '\0' ? strchr(digits, c) : NULL;

    return at != NULL ? (int)(at - digits) : -1;
}

/* Standard base64 with its padding. */
static bool base64_decode(const char *s, size_t len, char *out, size_t cap, size_t *n)
{
    size_t pad = len >= 4 && s[len - 1] == '=' ? 1u + (s[len - 2] == '=') : 0, i;
    unsigned bits = 0;

    *n = 0;
    if (len % 4 != 0 || len / 4 * 3 > cap)
        return false;
    for (i = 0; i < len; i++) {
        int v = i + pad >= len ? 0 : sextet(s[i]);

        if (v < 0)
            return false;
        bits = bits << 6 | (unsigned)v;
        if (i % 4 == 3)
            for (int shift = 16; shift >= 0; shift -= 8)
                out[(*n)++] = (char)(bits >> shift & 0xff);
    }
    *n -= pad;
    return true;
}

static void trim(const char **s, size_t *len)
{
    while (*len > 0 && (**s == ' ' || **s == '\t')) {
        (*s)++;
        (*len)--;
    }
    while (*len > 0 && ((*s)[*len - 1] == ' ' || (*s)[*len - 1] == '\t'))
        (*len)--;
}

/* A header's value against the body's; names that are not ASCII come as =?base64?...?=. */
static bool value_is(const char *s, size_t len, const char *body)
{
    static const char open[] = "=?base64?", close[] = "?=";
    const size_t o = sizeof(open) - 1, c = sizeof(close) - 1;
    char plain[NAME_BYTES];
    size_t n;

    trim(&s, &len);
    if (len >= o + c && strncasecmp(s, open, o) == 0 && memcmp(s + len - c, close, c) == 0) {
        if (!base64_decode(s + o, len - o - c, plain, sizeof(plain), &n))
            return false;
        s = plain;
        len = n;
    }
    return strlen(body) == len && memcmp(s, body, len) == 0;
}

static void headers_compare(const struct rpc_message *m, const struct mcp_head *h,
                            const struct claim *c, struct mcp_verdict *out)
{
    if (h->method == NULL)
        refuse(out, RPC_HEADER_MISMATCH, "The header Mcp-Method is missing.");
    else if (!value_is(h->method, h->method_len, m->method))
        refuse(out, RPC_HEADER_MISMATCH, "The header Mcp-Method and the body's method differ.");
    else if (strcmp(m->method, "tools/call") != 0 || !c->has_name)
        return;
    else if (h->name == NULL)
        refuse(out, RPC_HEADER_MISMATCH, "The header Mcp-Name is missing.");
    else if (!value_is(h->name, h->name_len, c->name))
        refuse(out, RPC_HEADER_MISMATCH, "The header Mcp-Name and the body's params.name differ.");
}

/* ---- messages ---- */

/* The revision that a client has agreed on before, or none. */
static void judge_legacy(const struct mcp_head *h, enum mcp_version header, struct mcp_verdict *out)
{
    out->version = MCP_2025_03_26;
    if (h->version == NULL)
        return;
    if (header == MCP_VERSIONS)
        refuse_version(out, h->version, h->version_len);
    else
        out->version = header;
}

static void judge_modern(const struct rpc_message *m, const struct mcp_head *h,
                         enum mcp_version claimed, const struct claim *c, struct mcp_verdict *out)
{
    if (h->version == NULL)
        refuse(out, RPC_HEADER_MISMATCH, "The header MCP-Protocol-Version is missing.");
    else if (h->version_len != c->version_len ||
             memcmp(h->version, c->version, c->version_len) != 0)
        refuse(out, RPC_HEADER_MISMATCH,
               "The header MCP-Protocol-Version and the body's _meta differ.");
    else if (claimed == MCP_VERSIONS || !rows[claimed].is_modern)
        refuse_version(out, c->version, c->version_len);
    if (out->code != 0)
        return;
    out->version = claimed;
    headers_compare(m, h, c, out);
    if (out->code != 0)
        return;
    if (!c->has_capabilities)
        refuse(out, RPC_PARAMS,
               "params._meta must have the object \"" META "clientCapabilities\".");
    else if (c->info_is_wrong)
        refuse(out, RPC_PARAMS, "In params._meta, \"" META "clientInfo\" must be an object.");
}

/* Nothing is required of these but that they do not contradict themselves. */
static void judge_notification(const struct rpc_message *m, const struct mcp_head *h,
                               const struct claim *c, struct mcp_verdict *out)
{
    if (c->is_there && h->version != NULL &&
        (h->version_len != c->version_len || memcmp(h->version, c->version, c->version_len) != 0))
        refuse(out, RPC_HEADER_MISMATCH,
               "The header MCP-Protocol-Version and the body's _meta differ.");
    else if ((c->is_there || rows[out->version].is_modern) && h->method != NULL &&
             !value_is(h->method, h->method_len, m->method))
        refuse(out, RPC_HEADER_MISMATCH, "The header Mcp-Method and the body's method differ.");
}

void mcp_judge(const struct rpc_message *m, const struct mcp_head *head, struct mcp_verdict *out)
{
    struct mcp_head h = *head;
    struct claim c;
    enum mcp_version header = MCP_VERSIONS;

    *out = (struct mcp_verdict){.version = MCP_2025_03_26};
    claim_read(m, &c);
    if (h.version != NULL) {
        trim(&h.version, &h.version_len);
        header = mcp_version_find(h.version, h.version_len);
    }
    if (c.is_there && !c.is_text) {
        refuse(out, RPC_PARAMS, "In params._meta, \"" META "protocolVersion\" must be a string.");
    } else if (m->kind != RPC_REQUEST) {
        judge_legacy(&h, header, out);
        if (out->code == 0 && m->kind == RPC_NOTIFICATION)
            judge_notification(m, &h, &c, out);
    } else if (c.is_there) {
        judge_modern(m, &h, mcp_version_find(c.version, c.version_len), &c, out);
    } else if (header < MCP_VERSIONS && rows[header].is_modern) {
        if (strcmp(m->method, "initialize") == 0)
            refuse(out, RPC_HEADER_MISMATCH,
                   "The revision in the header MCP-Protocol-Version has no initialize.");
        else
            refuse(out, RPC_PARAMS, "params._meta must have \"" META "protocolVersion\".");
    } else if (strcmp(m->method, "initialize") != 0) {
        judge_legacy(&h, header, out);
    }
}

void mcp_judge_batch(const struct rpc_message *m, size_t count, const struct mcp_head *head,
                     struct mcp_verdict *out)
{
    struct mcp_head h = *head;
    struct claim c;
    size_t i;

    *out = (struct mcp_verdict){.version = MCP_2025_03_26};
    if (h.version != NULL)
        trim(&h.version, &h.version_len);
    judge_legacy(&h, h.version != NULL ? mcp_version_find(h.version, h.version_len) : MCP_VERSIONS,
                 out);
    if (out->code == 0 && !rows[out->version].batches)
        refuse(out, RPC_INVALID_REQUEST, "This revision of the protocol has no batches.");
    if (out->code == 0 && count == 0)
        refuse(out, RPC_INVALID_REQUEST, "The batch is empty.");
    for (i = 0; i < count && out->code == 0; i++) {
        claim_read(&m[i], &c);
        if (c.is_there)
            refuse(out, RPC_INVALID_REQUEST, "This revision of the protocol has no batches.");
        else if (m[i].kind == RPC_REQUEST && strcmp(m[i].method, "initialize") == 0)
            refuse(out, RPC_INVALID_REQUEST, "initialize must not be part of a batch.");
    }
}
