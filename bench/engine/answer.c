/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/engine/answer.h"

#include <string.h>

#include "bench/engine/text.h"

#define FINGERPRINT ",\"system_fingerprint\":\"slipstream-engine-simulated\""

static void add_uint(struct buf *b, uint64_t v)
{
    char text[24];
    size_t i = sizeof text;

    do
        text[--i] = (char)('0' + v % 10);
    while ((v /= 10) > 0);
    buf_add(b, text + i, sizeof text - i);
}

static void add_text(const struct answer *a, uint32_t from, uint32_t n, struct buf *out)
{
    const char *p = a->text + (size_t)from * TEXT_TOKEN;

    if (a->fixed) {
        buf_add_json(out, p, (size_t)n * TEXT_TOKEN);
        return;
    }
    buf_adds(out, "\"");
    buf_add(out, p, (size_t)n * TEXT_TOKEN);
    buf_adds(out, "\"");
}

static bool has_tool(const struct answer *a)
{
    return a->tool != NULL && a->tool[0] != '\0';
}

static const char *finish(const struct answer *a)
{
    if (has_tool(a))
        return a->kind == ASK_MESSAGES ? "tool_use" : "tool_calls";
    if (a->fixed)
        return a->kind == ASK_MESSAGES ? "end_turn" : "stop";
    return a->kind == ASK_MESSAGES ? "max_tokens" : "length";
}

static void add_envelope(const struct answer *a, const char *object, struct buf *out)
{
    buf_adds(out, "{\"id\":\"");
    buf_adds(out, a->id);
    buf_adds(out, "\",\"object\":\"");
    buf_adds(out, object);
    buf_adds(out, "\",\"created\":");
    add_uint(out, a->created_s);
    buf_adds(out, ",\"model\":");
    buf_adds(out, a->model);
}

static void add_usage(const struct answer *a, struct buf *out)
{
    uint32_t made = a->kind == ASK_EMBEDDING ? 0 : a->out_tokens;

    buf_adds(out, "\"usage\":{\"prompt_tokens\":");
    add_uint(out, a->prompt_tokens);
    buf_adds(out, ",\"total_tokens\":");
    add_uint(out, (uint64_t)a->prompt_tokens + made);
    buf_adds(out, ",\"completion_tokens\":");
    add_uint(out, made);
    buf_adds(out, ",\"prompt_tokens_details\":{\"cached_tokens\":");
    add_uint(out, a->cached_tokens);
    buf_adds(out, "}}");
}

static void add_usage_anthropic(const struct answer *a, uint32_t made, struct buf *out)
{
    buf_adds(out, "\"usage\":{\"input_tokens\":");
    add_uint(out, a->prompt_tokens - a->cached_tokens);
    buf_adds(out, ",\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":");
    add_uint(out, a->cached_tokens);
    buf_adds(out, ",\"output_tokens\":");
    add_uint(out, made);
    buf_adds(out, "}");
}

static void add_quoted(struct buf *out, const char *s)
{
    buf_add_json(out, s, strlen(s));
}

static void whole_chat(const struct answer *a, struct buf *out)
{
    add_envelope(a, "chat.completion", out);
    buf_adds(out, ",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":");
    if (has_tool(a)) {
        buf_adds(out, "null,\"tool_calls\":[{\"id\":\"call_");
        buf_adds(out, a->id);
        buf_adds(out, "\",\"type\":\"function\",\"function\":{\"name\":");
        add_quoted(out, a->tool);
        buf_adds(out, ",\"arguments\":");
        add_text(a, 0, a->out_tokens, out);
        buf_adds(out, "}}]");
    } else {
        add_text(a, 0, a->out_tokens, out);
    }
    buf_adds(out, "},\"logprobs\":null,\"finish_reason\":\"");
    buf_adds(out, finish(a));
    buf_adds(out, "\"}],");
    add_usage(a, out);
    buf_adds(out, FINGERPRINT "}");
}

static void whole_completion(const struct answer *a, struct buf *out)
{
    add_envelope(a, "text_completion", out);
    buf_adds(out, ",\"choices\":[{\"index\":0,\"text\":");
    add_text(a, 0, a->out_tokens, out);
    buf_adds(out, ",\"logprobs\":null,\"finish_reason\":\"");
    buf_adds(out, finish(a));
    buf_adds(out, "\"}],");
    add_usage(a, out);
    buf_adds(out, FINGERPRINT "}");
}

static void message_envelope(const struct answer *a, struct buf *out)
{
    buf_adds(out, "{\"id\":\"");
    buf_adds(out, a->id);
    buf_adds(out, "\",\"type\":\"message\",\"role\":\"assistant\",\"model\":");
    buf_adds(out, a->model);
    buf_adds(out, FINGERPRINT);
}

/* The content block's opening members, up to where its text or input goes. */
static void message_block(const struct answer *a, struct buf *out)
{
    if (!has_tool(a)) {
        buf_adds(out, "{\"type\":\"text\",\"text\":");
        return;
    }
    buf_adds(out, "{\"type\":\"tool_use\",\"id\":\"toolu_");
    buf_adds(out, a->id);
    buf_adds(out, "\",\"name\":");
    add_quoted(out, a->tool);
    buf_adds(out, ",\"input\":");
}

static void whole_message(const struct answer *a, struct buf *out)
{
    message_envelope(a, out);
    buf_adds(out, ",\"content\":[");
    message_block(a, out);
    if (has_tool(a))
        buf_add(out, a->text, (size_t)a->out_tokens * TEXT_TOKEN); /* an object, not a string */
    else
        add_text(a, 0, a->out_tokens, out);
    buf_adds(out, "}],\"stop_reason\":\"");
    buf_adds(out, finish(a));
    buf_adds(out, "\",\"stop_sequence\":null,");
    add_usage_anthropic(a, a->out_tokens, out);
    buf_adds(out, "}");
}

static void add_base64(const unsigned char *p, size_t n, struct buf *out)
{
    static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    for (size_t i = 0; i < n; i += 3) {
        unsigned v = (unsigned)p[i] << 16 | (i + 1 < n ? (unsigned)p[i + 1] << 8 : 0) |
                     (i + 2 < n ? p[i + 2] : 0);
        char q[4] = {set[v >> 18], set[v >> 12 & 63], i + 1 < n ? set[v >> 6 & 63] : '=',
                     i + 2 < n ? set[v & 63] : '='};

        buf_add(out, q, sizeof q);
    }
}

static void add_vector(const struct answer *a, uint32_t input, struct buf *out)
{
    uint64_t seed = input == 0 ? a->seed : text_hash(&input, sizeof input, a->seed);
    struct buf raw = {0};

    for (uint32_t i = 0; i < a->dimensions; i++) {
        uint64_t h = text_hash(&i, sizeof i, seed);
        float v = (float)(int)(h % 2001) / 1000.0F - 1.0F;

        if (a->base64)
            buf_add(&raw, &v, sizeof v);
        else
            buf_addf(out, "%s%.3f", i > 0 ? "," : "", (double)v);
    }
    if (a->base64)
        add_base64((const unsigned char *)raw.base, raw.len, out);
    buf_fini(&raw);
}

static void whole_embedding(const struct answer *a, struct buf *out)
{
    add_envelope(a, "list", out);
    buf_adds(out, ",\"data\":[");
    for (uint32_t i = 0; i < a->inputs; i++) {
        buf_addf(out, "%s{\"index\":%u,\"object\":\"embedding\",\"embedding\":%s", i > 0 ? "," : "",
                 i, a->base64 ? "\"" : "[");
        add_vector(a, i, out);
        buf_adds(out, a->base64 ? "\"}" : "]}");
    }
    buf_adds(out, "],");
    add_usage(a, out);
    buf_adds(out, FINGERPRINT "}");
}

void answer_whole(const struct answer *a, struct buf *out)
{
    switch (a->kind) {
    case ASK_CHAT:
        whole_chat(a, out);
        break;
    case ASK_COMPLETION:
        whole_completion(a, out);
        break;
    case ASK_MESSAGES:
        whole_message(a, out);
        break;
    case ASK_EMBEDDING:
        whole_embedding(a, out);
        break;
    case ASK_TOKENIZE:
    case ASK_DETOKENIZE:
        break;
    }
}

/* streams */

static void chunk_open(const struct answer *a, struct buf *out)
{
    buf_adds(out, "data: ");
    add_envelope(a, a->kind == ASK_CHAT ? "chat.completion.chunk" : "text_completion", out);
    buf_adds(out, FINGERPRINT ",\"choices\":[");
}

static void chunk_close(struct buf *out)
{
    buf_adds(out, "]}\n\n");
}

static void event(struct buf *out, const char *name)
{
    buf_adds(out, "event: ");
    buf_adds(out, name);
    buf_adds(out, "\ndata: {\"type\":\"");
    buf_adds(out, name);
    buf_adds(out, "\"");
}

static void begin_message(const struct answer *a, struct buf *out)
{
    event(out, "message_start");
    buf_adds(out, ",\"message\":");
    message_envelope(a, out);
    buf_adds(out, ",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,");
    add_usage_anthropic(a, 0, out);
    buf_adds(out, "}}\n\n");
    event(out, "content_block_start");
    buf_adds(out, ",\"index\":0,\"content_block\":");
    message_block(a, out);
    buf_adds(out, has_tool(a) ? "{}}}\n\n" : "\"\"}}\n\n");
}

void answer_begin(const struct answer *a, struct buf *out)
{
    if (a->kind == ASK_MESSAGES) {
        begin_message(a, out);
        return;
    }
    if (a->kind != ASK_CHAT)
        return;
    chunk_open(a, out);
    buf_adds(out, "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":");
    if (has_tool(a)) {
        buf_adds(out, "null,\"tool_calls\":[{\"index\":0,\"id\":\"call_");
        buf_adds(out, a->id);
        buf_adds(out, "\",\"type\":\"function\",\"function\":{\"name\":");
        add_quoted(out, a->tool);
        buf_adds(out, ",\"arguments\":\"\"}}]");
    } else {
        buf_adds(out, "\"\"");
    }
    buf_adds(out, "},\"logprobs\":null,\"finish_reason\":null}");
    chunk_close(out);
}

void answer_tokens(const struct answer *a, uint32_t from, uint32_t n, struct buf *out)
{
    if (n == 0)
        return;
    if (a->kind == ASK_MESSAGES) {
        event(out, "content_block_delta");
        buf_adds(out,
                 has_tool(a)
                     ? ",\"index\":0,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":"
                     : ",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":");
        add_text(a, from, n, out);
        buf_adds(out, "}}\n\n");
        return;
    }
    chunk_open(a, out);
    if (a->kind == ASK_COMPLETION) {
        buf_adds(out, "{\"index\":0,\"text\":");
        add_text(a, from, n, out);
        buf_adds(out, ",\"logprobs\":null,\"finish_reason\":null}");
    } else if (has_tool(a)) {
        buf_adds(
            out,
            "{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":");
        add_text(a, from, n, out);
        buf_adds(out, "}}]},\"logprobs\":null,\"finish_reason\":null}");
    } else {
        buf_adds(out, "{\"index\":0,\"delta\":{\"content\":");
        add_text(a, from, n, out);
        buf_adds(out, "},\"logprobs\":null,\"finish_reason\":null}");
    }
    chunk_close(out);
}

static void end_message(const struct answer *a, struct buf *out)
{
    event(out, "content_block_stop");
    buf_adds(out, ",\"index\":0}\n\n");
    event(out, "message_delta");
    buf_adds(out, ",\"delta\":{\"stop_reason\":\"");
    buf_adds(out, finish(a));
    buf_adds(out, "\",\"stop_sequence\":null},");
    add_usage_anthropic(a, a->out_tokens, out);
    buf_adds(out, "}\n\n");
    event(out, "message_stop");
    buf_adds(out, "}\n\n");
}

void answer_end(const struct answer *a, struct buf *out)
{
    if (a->kind == ASK_MESSAGES) {
        end_message(a, out);
        return;
    }
    chunk_open(a, out);
    buf_adds(out, a->kind == ASK_CHAT ? "{\"index\":0,\"delta\":{},\"logprobs\":null,"
                                      : "{\"index\":0,\"text\":\"\",\"logprobs\":null,");
    buf_adds(out, "\"finish_reason\":\"");
    buf_adds(out, finish(a));
    buf_adds(out, "\"}");
    chunk_close(out);
    if (a->include_usage) {
        chunk_open(a, out);
        buf_adds(out, "],");
        add_usage(a, out);
        buf_adds(out, "}\n\n");
    }
    buf_adds(out, "data: [DONE]\n\n");
}

void answer_refusal(const struct ask_error *e, bool anthropic, struct buf *out)
{
    if (anthropic) {
        buf_adds(out, "{\"type\":\"error\",\"error\":{\"type\":");
        buf_adds(out, e->status == 404 ? "\"not_found_error\"" : "\"invalid_request_error\"");
        buf_adds(out, ",\"message\":");
        add_quoted(out, e->message);
        buf_adds(out, "}}");
        return;
    }
    buf_adds(out, "{\"error\":{\"message\":");
    add_quoted(out, e->message);
    buf_adds(out, ",\"type\":");
    add_quoted(out, e->type);
    buf_adds(out, ",\"param\":");
    if (e->param != NULL)
        add_quoted(out, e->param);
    else
        buf_adds(out, "null");
    buf_addf(out, ",\"code\":%d}}", e->status);
}
