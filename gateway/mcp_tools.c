/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/mcp_tools.h"

#include <stdio.h>
#include <string.h>

#include "common/id.h"
#include "common/json.h"

enum kind { KIND_ID, KIND_SECONDS, KIND_INTEGER, KIND_FLAG, KIND_IDS, KIND_WORD, KIND_ANY };
enum need { NEED_REQUIRED, NEED_OPTIONAL, NEED_WORKFLOW, NEED_AGENT };

static const struct tool_row {
    const char *name, *title, *help;
    bool only_looks, takes, is_idempotent;
} tools[] = {
#define TOOL(id, name, title, only_looks, takes, idempotent, help) \
    {name, title, help, only_looks, takes, idempotent},
#define ARG(...)
#define OUT(...)
#include "gateway/mcp_tools.def"
#undef TOOL
#undef ARG
#undef OUT
};

static const struct arg_row {
    enum mcp_tool tool;
    const char *name;
    enum kind kind;
    double min, max;
    const char *dflt, *words;
    enum need need;
    const char *help;
} args[] = {
#define TOOL(...)
#define ARG(tool, name, kind, min, max, dflt, words, need, help) \
    {MCP_TOOL_##tool, #name, KIND_##kind, min, max, dflt, words, NEED_##need, help},
#define OUT(...)
#include "gateway/mcp_tools.def"
#undef TOOL
#undef ARG
#undef OUT
};

static const struct out_row {
    enum mcp_tool tool;
    const char *name;
    bool always;
    const char *schema, *help;
} outs[] = {
#define TOOL(...)
#define ARG(...)
#define OUT(tool, name, always, schema, help) {MCP_TOOL_##tool, #name, always, schema, help},
#include "gateway/mcp_tools.def"
#undef TOOL
#undef ARG
#undef OUT
};
#define OUT_COUNT (sizeof(outs) / sizeof(outs[0]))

const char *mcp_tool_name(enum mcp_tool t)
{
    return tools[t].name;
}

enum mcp_tool mcp_tool_find(const char *name)
{
    enum mcp_tool t = 0;

    while (t < MCP_TOOLS && strcmp(tools[t].name, name) != 0)
        t++;
    return t;
}

/* ---- arguments ---- */

struct reading {
    char *room;
    struct mcp_args *out;
    struct mcp_fault *fault;
};

static enum err fail(const struct reading *g, const struct arg_row *a, enum err e, const char *want)
{
    g->fault->param = a->name;
    snprintf(g->fault->text, sizeof(g->fault->text), "%s must be %s.", a->name, want);
    return e;
}

static enum err text_take(struct reading *g, const struct arg_row *a, const char *value, size_t len,
                          const char **text)
{
    enum err e = member_string(value, len, g->room, len + 1);

    if (e == ERR_TYPE)
        return fail(g, a, ERR_TYPE, "a string");
    if (e != ERR_OK || !id_is_valid(g->room, strlen(g->room)))
        return fail(g, a, ERR_ID, "1 to 256 bytes of text without control characters");
    *text = g->room;
    g->room += strlen(g->room) + 1;
    return ERR_OK;
}

static enum err number_take(struct reading *g, const struct arg_row *a, const struct member *m,
                            struct mcp_value *v)
{
    char want[96];
    double n = 0;

    snprintf(want, sizeof(want), "%s from %g to %.10g",
             a->kind == KIND_INTEGER ? "a whole number" : "a number of seconds", a->min, a->max);
    if (member_number(m->value, m->value_len, &n) != ERR_OK)
        return fail(g, a, ERR_TYPE, want);
    if (!(n >= a->min && n <= a->max) || (a->kind == KIND_INTEGER && n != (double)(long)n))
        return fail(g, a, ERR_VALUE, want);
    v->number = n;
    return ERR_OK;
}

static bool is_one_of(const char *word, const char *words)
{
    size_t n = strlen(word);

    while (*words != '\0') {
        size_t k = strcspn(words, " ");

        if (k == n && memcmp(words, word, n) == 0)
            return true;
        words += k + (words[k] == ' ');
    }
    return false;
}

static enum err list_take(struct reading *g, const struct arg_row *a, const struct member *m)
{
    struct member items[MCP_LIST_MAX];
    size_t n = 0, i;
    enum err e = elements_split(m->value, m->value_len, items, MCP_LIST_MAX, &n);

    for (i = 0; i < n && e == ERR_OK; i++)
        e = text_take(g, a, items[i].value, items[i].value_len, &g->out->list[i]);
    g->out->list[i] = NULL;
    return e == ERR_OK ? ERR_OK
                       : fail(g, a, e == ERR_BUSY ? ERR_VALUE : e, "a list of at most 16 strings");
}

static enum err value_take(struct reading *g, const struct arg_row *a, const struct member *m,
                           struct mcp_value *v)
{
    char want[64];
    enum err e;

    switch (a->kind) {
    case KIND_ANY:
        v->text = m->value;
        v->len = m->value_len;
        return ERR_OK;
    case KIND_FLAG:
        v->flag = m->value[0] == 't';
        return m->value[0] == 't' || m->value[0] == 'f' ? ERR_OK
                                                        : fail(g, a, ERR_TYPE, "true or false");
    case KIND_SECONDS:
    case KIND_INTEGER:
        return number_take(g, a, m, v);
    case KIND_IDS:
        return list_take(g, a, m);
    case KIND_ID:
    case KIND_WORD:
        break;
    }
    e = text_take(g, a, m->value, m->value_len, &v->text);
    if (e == ERR_OK && a->kind == KIND_WORD && !is_one_of(v->text, a->words)) {
        snprintf(want, sizeof(want), "one of: %s", a->words);
        return fail(g, a, ERR_VALUE, want);
    }
    return e;
}

static void default_take(const struct arg_row *a, const struct mcp_defaults *d, struct mcp_value *v)
{
    double n = 0;

    *v = (struct mcp_value){.text = a->kind == KIND_WORD || a->kind == KIND_ID ? a->dflt : ""};
    if (member_number(a->dflt, strlen(a->dflt), &n) == ERR_OK)
        v->number = n;
    if (a->need == NEED_WORKFLOW)
        v->text = d->workflow_id;
    if (a->need == NEED_AGENT)
        v->text = d->agent_id;
}

static enum err missing(const struct arg_row *a, struct mcp_fault *fault)
{
    const char *header = a->need == NEED_WORKFLOW ? "X-Workflow-ID"
                         : a->need == NEED_AGENT  ? "X-Agent-ID"
                                                  : NULL;

    fault->param = a->name;
    if (header != NULL)
        snprintf(fault->text, sizeof(fault->text),
                 "%s is missing: give it here, or have the client send the header %s.", a->name,
                 header);
    else
        snprintf(fault->text, sizeof(fault->text), "%s is missing.", a->name);
    return ERR_VALUE;
}

/* The arguments must be ours, each of them. */
static enum err names_check(enum mcp_tool t, const struct member *members, size_t count,
                            struct mcp_fault *fault)
{
    size_t known = 0, i;

    for (i = 0; i < MCP_ARGS; i++)
        known += args[i].tool == t && rpc_member(members, count, args[i].name) != NULL;
    if (known == count)
        return ERR_OK;
    snprintf(fault->text, sizeof(fault->text),
             "There is an argument that is not known. %s takes:", tools[t].name);
    for (i = 0; i < MCP_ARGS; i++)
        if (args[i].tool == t) {
            size_t n = strlen(fault->text);

            snprintf(fault->text + n, sizeof(fault->text) - n, " %s", args[i].name);
        }
    return ERR_VALUE;
}

enum err mcp_args_read(enum mcp_tool t, const char *raw, size_t len, const struct mcp_defaults *d,
                       char *room, struct mcp_args *out, struct mcp_fault *fault)
{
    struct reading g = {room, out, fault};
    struct member members[RPC_MEMBERS];
    size_t count = 0, i;
    enum err e = raw != NULL ? rpc_members(raw, len, members, &count) : ERR_OK;

    *fault = (struct mcp_fault){.param = NULL};
    out->list[0] = NULL;
    if (e != ERR_OK) {
        snprintf(fault->text, sizeof(fault->text), "%s",
                 e == ERR_DUPLICATE_KEY ? "An argument appears twice."
                                        : "The arguments must be an object of a few members.");
        return e == ERR_BUSY ? ERR_VALUE : e;
    }
    e = names_check(t, members, count, fault);
    for (i = 0; i < MCP_ARGS && e == ERR_OK; i++) {
        const struct arg_row *a = &args[i];
        const struct member *m = rpc_member(members, count, a->name);
        struct mcp_value *v = &out->v[i];

        if (a->tool != t)
            continue;
        default_take(a, d, v);
        /* Models like to say null for what they leave out. */
        if (m != NULL && (a->kind == KIND_ANY || m->value[0] != 'n')) {
            v->given = true;
            e = value_take(&g, a, m, v);
        } else if (a->need != NEED_OPTIONAL && v->text[0] == '\0') {
            e = missing(a, fault);
        }
    }
    return e;
}

size_t mcp_args_room(size_t len)
{
    return len + MCP_ARGS + MCP_LIST_MAX + 1;
}

/* ---- tools/list ---- */

static void text_write(struct buf *out, const char *key, const char *text)
{
    buf_addf(out, "\"%s\":", key);
    buf_add_json(out, text, strlen(text));
}

/* Schemas stand in the table with ' for ". */
static void schema_write(struct buf *out, const char *schema)
{
    for (; *schema != '\0'; schema++)
        buf_add(out, *schema == '\'' ? "\"" : schema, 1);
}

static void words_write(struct buf *out, const char *words)
{
    const char *sep = "\"enum\":[";

    while (*words != '\0') {
        size_t k = strcspn(words, " ");

        buf_addf(out, "%s\"%.*s\"", sep, (int)k, words);
        sep = ",";
        words += k + (words[k] == ' ');
    }
    buf_adds(out, "],");
}

static void arg_schema_write(struct buf *out, const struct arg_row *a)
{
    static const char *const types[] = {
        [KIND_ID] = "'type':'string','minLength':1,'maxLength':256,",
        [KIND_SECONDS] = "'type':'number',",
        [KIND_INTEGER] = "'type':'integer',",
        [KIND_FLAG] = "'type':'boolean',",
        [KIND_IDS] = "'type':'array','items':{'type':'string','minLength':1,'maxLength':256},",
        [KIND_WORD] = "'type':'string',",
        [KIND_ANY] = ""};
    bool is_number = a->kind == KIND_SECONDS || a->kind == KIND_INTEGER;
    bool is_text = a->kind == KIND_WORD || a->kind == KIND_ID;
    struct buf help = {0};

    buf_addf(out, "\"%s\":{", a->name);
    schema_write(out, types[a->kind]);
    if (is_number)
        buf_addf(out, "\"minimum\":%g,\"maximum\":%.10g,", a->min, a->max);
    if (a->kind == KIND_IDS)
        buf_addf(out, "\"maxItems\":%d,", MCP_LIST_MAX);
    if (a->words[0] != '\0')
        words_write(out, a->words);
    if (a->dflt[0] != '\0')
        buf_addf(out, is_text ? "\"default\":\"%s\"," : "\"default\":%s,", a->dflt);
    buf_adds(&help, a->help);
    if (a->need == NEED_WORKFLOW)
        buf_adds(&help, " May be left out if the connection sends the header X-Workflow-ID.");
    if (a->need == NEED_AGENT)
        buf_adds(&help, " May be left out if the connection sends the header X-Agent-ID.");
    text_write(out, "description", buf_cstr(&help));
    buf_fini(&help);
    buf_adds(out, "}");
}

static void input_write(struct buf *out, enum mcp_tool t)
{
    const char *sep = "";
    size_t i;

    buf_adds(out, "\"inputSchema\":{\"type\":\"object\",\"properties\":{");
    for (i = 0; i < MCP_ARGS; i++) {
        if (args[i].tool != t)
            continue;
        buf_adds(out, sep);
        arg_schema_write(out, &args[i]);
        sep = ",";
    }
    buf_adds(out, "},\"required\":[");
    for (i = 0, sep = ""; i < MCP_ARGS; i++) {
        if (args[i].tool != t || args[i].need != NEED_REQUIRED)
            continue;
        buf_addf(out, "%s\"%s\"", sep, args[i].name);
        sep = ",";
    }
    buf_adds(out, "],\"additionalProperties\":false}");
}

static void output_write(struct buf *out, enum mcp_tool t)
{
    const char *sep = "";
    size_t i;

    buf_adds(out, ",\"outputSchema\":{\"type\":\"object\",\"properties\":{");
    for (i = 0; i < OUT_COUNT; i++) {
        if (outs[i].tool != t)
            continue;
        buf_addf(out, "%s\"%s\":{", sep, outs[i].name);
        schema_write(out, outs[i].schema);
        buf_adds(out, ",");
        text_write(out, "description", outs[i].help);
        buf_adds(out, "}");
        sep = ",";
    }
    buf_adds(out, "},\"required\":[");
    for (i = 0, sep = ""; i < OUT_COUNT; i++) {
        if (outs[i].tool != t || !outs[i].always)
            continue;
        buf_addf(out, "%s\"%s\"", sep, outs[i].name);
        sep = ",";
    }
    buf_adds(out, "]}");
}

void mcp_tools_write(struct buf *out, enum mcp_version version)
{
    bool structured = mcp_version_has_structure(version);

    buf_adds(out, "[");
    for (enum mcp_tool t = 0; t < MCP_TOOLS; t++) {
        const struct tool_row *row = &tools[t];

        buf_adds(out, t > 0 ? ",{" : "{");
        text_write(out, "name", row->name);
        buf_adds(out, ",");
        if (structured) {
            text_write(out, "title", row->title);
            buf_adds(out, ",");
        }
        text_write(out, "description", row->help);
        buf_adds(out, ",");
        input_write(out, t);
        if (structured)
            output_write(out, t);
        buf_adds(out, ",\"annotations\":{");
        text_write(out, "title", row->title);
        buf_addf(out,
                 ",\"readOnlyHint\":%s,\"destructiveHint\":%s,\"idempotentHint\":%s,"
                 "\"openWorldHint\":false}}",
                 row->only_looks ? "true" : "false", row->takes ? "true" : "false",
                 row->is_idempotent ? "true" : "false");
    }
    buf_adds(out, "]");
}

/* ---- the page ---- */

static void arg_line(struct buf *out, const struct arg_row *a)
{
    static const char *const kinds[] = {[KIND_ID] = "text, 1 to 256 bytes",
                                        [KIND_SECONDS] = "seconds",
                                        [KIND_INTEGER] = "integer",
                                        [KIND_FLAG] = "boolean",
                                        [KIND_IDS] = "list of texts",
                                        [KIND_WORD] = "one of",
                                        [KIND_ANY] = "any JSON"};
    static const char *const needs[] = {[NEED_REQUIRED] = "yes",
                                        [NEED_OPTIONAL] = "",
                                        [NEED_WORKFLOW] = "or header `X-Workflow-ID`",
                                        [NEED_AGENT] = "or header `X-Agent-ID`"};

    buf_addf(out, "| `%s` | %s", a->name, kinds[a->kind]);
    if (a->kind == KIND_SECONDS || a->kind == KIND_INTEGER)
        buf_addf(out, ", %g to %.10g", a->min, a->max);
    if (a->words[0] != '\0')
        buf_addf(out, " `%s`", a->words);
    buf_addf(out, " | %s | %s%s%s | %s |\n", needs[a->need], a->dflt[0] != '\0' ? "`" : "", a->dflt,
             a->dflt[0] != '\0' ? "`" : "", a->help);
}

void mcp_tools_reference(struct buf *out)
{
    buf_adds(out, "# MCP tools\n\n"
                  "What `POST /mcp` offers; how to connect: [MCP](../mcp.md).\n\n"
                  "Printed from the table `gateway/mcp_tools.def`.\n");
    for (enum mcp_tool t = 0; t < MCP_TOOLS; t++) {
        buf_addf(out,
                 "\n## %s\n\n%s\n\n| argument | type | required | default | meaning |\n"
                 "|---|---|---|---|---|\n",
                 tools[t].name, tools[t].help);
        for (size_t i = 0; i < MCP_ARGS; i++)
            if (args[i].tool == t)
                arg_line(out, &args[i]);
        buf_adds(out, "\n| result | meaning |\n|---|---|\n");
        for (size_t i = 0; i < OUT_COUNT; i++)
            if (outs[i].tool == t)
                buf_addf(out, "| `%s`%s | %s |\n", outs[i].name,
                         outs[i].always ? "" : " (not always)", outs[i].help);
    }
}
