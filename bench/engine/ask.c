/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/engine/ask.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "bench/engine/json.h"
#include "bench/engine/sample.h"
#include "bench/engine/text.h"

__attribute__((format(printf, 5, 6))) static bool
refuse(struct ask_error *e, int status, const char *type, const char *param, const char *fmt, ...)
{
    va_list ap;

    *e = (struct ask_error){.status = status, .type = type, .param = param};
    va_start(ap, fmt);
    vsnprintf(e->message, sizeof e->message, fmt, ap);
    va_end(ap);
    return false;
}

#define BAD(e, param, ...) refuse(e, 400, "BadRequestError", param, __VA_ARGS__)

static bool take_model(struct ask *a, const struct json *v, const struct ask_limits *l,
                       struct ask_error *e)
{
    if (v->type == JSON_NONE) {
        buf_adds(&a->model, l->models[0]); /* vLLM: the first one served */
        return true;
    }
    if (v->type != JSON_STRING)
        return BAD(e, "model", "Input should be a valid string");
    json_text(v, &a->model);
    for (size_t i = 0; l->models[i] != NULL; i++) {
        if (strcmp(buf_cstr(&a->model), l->models[i]) == 0)
            return true;
    }
    return refuse(e, 404, "NotFoundError", "model", "The model `%.128s` does not exist.",
                  buf_cstr(&a->model));
}

/* Text of a message: a string, or an array of parts whose text is joined. */
static void add_content(struct ask *a, const struct json *content)
{
    struct json part, text;

    if (content->type == JSON_STRING)
        json_text(content, &a->tokens);
    for (size_t pos = 0; json_next_element(content, &pos, &part);) {
        text = json_member(&part, "text");
        if (text.type == JSON_STRING)
            json_text(&text, &a->tokens);
        else
            buf_add(&a->tokens, part.at, part.len); /* images, tool results: as they stand */
    }
}

static bool take_message(struct ask *a, const struct json *message, struct ask_error *e)
{
    struct json key, value, role = {0}, content = {0}, calls = {0};

    for (size_t pos = 0; json_next_member(message, &pos, &key, &value);) {
        if (json_is(&key, "role"))
            role = value;
        else if (json_is(&key, "content"))
            content = value;
        else if (json_is(&key, "tool_calls"))
            calls = value;
    }
    if (role.type != JSON_STRING)
        return BAD(e, "messages", "Every message needs a role");
    text_role(&a->tokens, role.at + 1, role.len - 2);
    add_content(a, &content);
    if (calls.type == JSON_ARRAY)
        buf_add(&a->tokens, calls.at, calls.len);
    text_end(&a->tokens);
    return true;
}

static void take_block(struct ask *a, const char *role, const struct json *v)
{
    if (v->type == JSON_NONE || v->type == JSON_NULL)
        return;
    text_role(&a->tokens, role, strlen(role));
    if (v->type == JSON_STRING || strcmp(role, "tools") != 0)
        add_content(a, v);
    else
        buf_add(&a->tokens, v->at, v->len);
    text_end(&a->tokens);
}

static bool take_messages(struct ask *a, const struct json *tools, const struct json *system,
                          const struct json *messages, struct ask_error *e)
{
    struct json message;
    bool any = false;

    if (messages->type != JSON_ARRAY)
        return BAD(e, "messages", "messages: Input should be a valid list");
    take_block(a, "tools", tools);
    take_block(a, "system", system);
    for (size_t pos = 0; json_next_element(messages, &pos, &message); any = true) {
        if (!take_message(a, &message, e))
            return false;
    }
    if (!any)
        return BAD(e, "messages", "messages: List should have at least 1 item");
    text_role(&a->tokens, "assistant", strlen("assistant"));
    return true;
}

/* A prompt or input: text, token numbers, or one or more of either in a list. */
static bool take_prompt(struct ask *a, const struct json *v, const char *param, bool many,
                        struct ask_error *e)
{
    struct json item;
    int64_t token;
    size_t texts = 0;

    if (v->type == JSON_STRING) {
        json_text(v, &a->tokens);
        text_close(&a->tokens);
        return true;
    }
    if (v->type != JSON_ARRAY)
        return BAD(e, param, "%s: Input should be a valid string or list", param);
    for (size_t pos = 0; json_next_element(v, &pos, &item);) {
        if (item.type == JSON_NUMBER) {
            if (!json_int(&item, &token) || token < 0 || token > UINT32_MAX)
                return BAD(e, param, "%s: token ids must be non-negative integers", param);
            text_add_token(&a->tokens, (uint32_t)token);
        } else if (++texts > 1 && !many) {
            return BAD(e, param, "The simulated engine takes one prompt per request");
        } else if (!take_prompt(a, &item, param, many, e)) {
            return false;
        }
    }
    return true;
}

static bool take_count(const struct json *v, const char *param, uint32_t *out, struct ask_error *e)
{
    int64_t n;

    if (v->type == JSON_NONE || v->type == JSON_NULL)
        return true;
    if (!json_int(v, &n) || n < 1 || n > UINT32_MAX / 8)
        return BAD(e, param, "%s must be at least 1, got %.*s.", param,
                   (int)(v->len < 40 ? v->len : 40), v->at);
    *out = (uint32_t)n;
    return true;
}

/* The members that decide how to answer, found in one walk over the body. */
struct members {
    struct json model, messages, prompt, input, tokens, tools, system, tool_choice, stream;
    struct json stream_options, max_tokens, max_completion_tokens, priority, cache_salt, n;
    struct json response_format, encoding_format, dimensions, workflow_metadata;
};

static void find_members(const struct json *body, struct members *m)
{
    static const struct {
        const char *name;
        size_t at;
    } rows[] = {
#define ROW(member) {#member, offsetof(struct members, member)}
        ROW(model),           ROW(messages),    ROW(prompt),
        ROW(input),           ROW(tokens),      ROW(tools),
        ROW(system),          ROW(tool_choice), ROW(stream),
        ROW(max_tokens),      ROW(priority),    ROW(max_completion_tokens),
        ROW(stream_options),  ROW(cache_salt),  ROW(n),
        ROW(response_format), ROW(dimensions),  ROW(workflow_metadata),
        ROW(encoding_format),
#undef ROW
    };
    struct json key, value;

    for (size_t pos = 0; json_next_member(body, &pos, &key, &value);) {
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            if (json_is(&key, rows[i].name))
                memcpy((char *)m + rows[i].at, &value, sizeof value);
        }
    }
}

static bool take_options(struct ask *a, const struct members *m, const struct ask_limits *l,
                         struct ask_error *e)
{
    struct json usage = json_member(&m->stream_options, "include_usage");
    uint32_t n = 1;

    a->stream = m->stream.type == JSON_TRUE;
    a->include_usage = usage.type == JSON_TRUE;
    if (!a->stream && m->stream_options.type == JSON_OBJECT && a->kind != ASK_MESSAGES)
        return BAD(e, "stream_options", "Stream options can only be defined when `stream=True`.");
    a->max_tokens = 16;
    if (!take_count(&m->max_tokens, "max_tokens", &a->max_tokens, e) ||
        !take_count(&m->max_completion_tokens, "max_completion_tokens", &a->max_tokens, e) ||
        !take_count(&m->n, "n", &n, e))
        return false;
    if (n != 1)
        return BAD(e, "n", "The simulated engine answers with n = 1 only");
    if (m->priority.type != JSON_NONE && m->priority.type != JSON_NULL &&
        !json_int(&m->priority, &a->priority))
        return BAD(e, "priority", "priority: Input should be a valid integer");
    if (a->priority != 0 && !l->priority)
        return BAD(e, NULL, "Got priority %lld but Priority scheduling is not enabled.",
                   (long long)a->priority);
    return true;
}

/* A forced tool or a JSON format fixes the text of the answer. */
static void take_shape(struct ask *a, const struct members *m)
{
    if (a->kind == ASK_CHAT || a->kind == ASK_MESSAGES) {
        if (!sample_tool(&m->tools, &m->tool_choice, &a->tool, &a->fixed) && a->kind == ASK_CHAT)
            sample_format(&m->response_format, &a->fixed);
    }
    if (a->fixed.len == 0)
        return;
    while (a->fixed.len % TEXT_TOKEN != 0)
        buf_adds(&a->fixed, " ");
    a->max_tokens = (uint32_t)(a->fixed.len / TEXT_TOKEN);
}

/* A list of numbers is one input, a list of anything else as many as it has elements. */
static uint32_t input_count(const struct json *v)
{
    struct json item;
    uint32_t n = 0;
    size_t pos = 0;

    if (v->type != JSON_ARRAY)
        return 1;
    while (json_next_element(v, &pos, &item)) {
        if (item.type == JSON_NUMBER)
            return 1;
        n++;
    }
    return n;
}

static bool take_content(struct ask *a, const struct members *m, struct ask_error *e)
{
    switch (a->kind) {
    case ASK_CHAT:
        return take_messages(a, &m->tools, &(struct json){0}, &m->messages, e);
    case ASK_MESSAGES:
        return take_messages(a, &m->tools, &m->system, &m->messages, e);
    case ASK_COMPLETION:
        return take_prompt(a, &m->prompt, "prompt", false, e);
    case ASK_EMBEDDING:
        a->base64 = json_is(&m->encoding_format, "base64");
        a->dimensions = 16;
        if (!take_count(&m->dimensions, "dimensions", &a->dimensions, e))
            return false;
        if (a->dimensions > 4096)
            return BAD(e, "dimensions", "dimensions must be at most 4096");
        a->inputs = input_count(&m->input);
        return take_prompt(a, &m->input, "input", true, e);
    case ASK_TOKENIZE:
        if (m->messages.type != JSON_NONE)
            return take_messages(a, &m->tools, &m->system, &m->messages, e);
        return take_prompt(a, &m->prompt, "prompt", false, e);
    case ASK_DETOKENIZE:
        return take_prompt(a, &m->tokens, "tokens", false, e);
    }
    return false;
}

static bool check_length(const struct ask *a, const struct ask_limits *l, struct ask_error *e)
{
    size_t prompt = text_count(&a->tokens);

    if (a->kind == ASK_TOKENIZE || a->kind == ASK_DETOKENIZE)
        return true;
    if (prompt == 0)
        return BAD(e, NULL, "The decoder prompt cannot be empty");
    if (prompt + a->max_tokens > l->max_len)
        return BAD(e, a->kind == ASK_COMPLETION ? "prompt" : "messages",
                   "This model's maximum context length is %u tokens. However, you requested %zu "
                   "tokens (%zu in the prompt, %u in the completion). Please reduce the length of "
                   "the prompt or the completion.",
                   l->max_len, prompt + a->max_tokens, prompt, a->max_tokens);
    return true;
}

bool ask_parse(struct ask *a, enum ask_kind kind, const char *body, size_t len,
               const struct ask_limits *limits, struct ask_error *error)
{
    struct json root = {0};
    struct members m = {0};
    size_t at = 0;

    a->kind = kind;
    if (!json_check(body, len, &root, &at))
        return BAD(error, NULL, "JSON decode error at byte %zu", at);
    if (root.type != JSON_OBJECT)
        return BAD(error, NULL, "Input should be a valid dictionary");
    find_members(&root, &m);
    if (m.workflow_metadata.type != JSON_NONE && !limits->lenient)
        return BAD(error, "workflow_metadata", "Extra inputs are not permitted");
    if (!take_model(a, &m.model, limits, error) || !take_options(a, &m, limits, error) ||
        !take_content(a, &m, error))
        return false;
    if (kind == ASK_EMBEDDING) {
        a->max_tokens = 1;
        a->stream = false;
    }
    take_shape(a, &m);
    a->root = text_hash(a->model.base, a->model.len, 0);
    if (m.cache_salt.type == JSON_STRING)
        a->root = text_hash(m.cache_salt.at, m.cache_salt.len, a->root);
    return check_length(a, limits, error);
}

void ask_fini(struct ask *a)
{
    buf_fini(&a->model);
    buf_fini(&a->tokens);
    buf_fini(&a->fixed);
    buf_fini(&a->tool);
}
