/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/replay/answer.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define LINE_MAX_BYTES (4U << 20)
#define HEAD_MAX_BYTES (64U << 10)
#define BODY_KEEP_BYTES (1U << 20)

void answer_start(struct answer *a)
{
    struct buf line = a->line, frame = a->frame, text = a->text, body = a->body;

    buf_clear(&line);
    buf_clear(&frame);
    buf_clear(&text);
    buf_clear(&body);
    memset(a, 0, sizeof(*a));
    a->line = line;
    a->frame = frame;
    a->text = text;
    a->body = body;
}

void answer_fini(struct answer *a)
{
    buf_fini(&a->line);
    buf_fini(&a->frame);
    buf_fini(&a->text);
    buf_fini(&a->body);
}

static uint32_t get_u32(const json_t *o, const char *key)
{
    json_int_t n = json_integer_value(json_object_get(o, key));

    return n > 0 && n <= (json_int_t)UINT32_MAX ? (uint32_t)n : 0;
}

static void take_usage(struct answer *a, const json_t *usage)
{
    const json_t *details = json_object_get(usage, "prompt_tokens_details");

    if (!json_is_object(usage))
        return;
    a->has_usage = true;
    a->prompt_tokens = get_u32(usage, "prompt_tokens");
    a->completion_tokens = get_u32(usage, "completion_tokens");
    a->cached_tokens = get_u32(details, "cached_tokens");
}

static void take_event(struct answer *a, const char *data, size_t n)
{
    json_t *v;
    const json_t *choice;
    const char *text, *error;

    if (n == 6 && memcmp(data, "[DONE]", 6) == 0) {
        a->seen_done = true;
        return;
    }
    v = json_loadb(data, n, 0, NULL);
    error = json_string_value(json_object_get(json_object_get(v, "error"), "message"));
    if (error != NULL)
        strncpy(a->error, error, sizeof(a->error) - 1);
    take_usage(a, json_object_get(v, "usage"));
    choice = json_array_get(json_object_get(v, "choices"), 0);
    text = json_string_value(json_object_get(json_object_get(choice, "delta"), "content"));
    if (text != NULL && *text != '\0') {
        a->text_events++;
        buf_adds(&a->text, text);
    }
    json_decref(v);
}

static void take_line(struct answer *a, const char *line, size_t n)
{
    if (n > 0 && line[n - 1] == '\r')
        n--;
    if (n < 5 || memcmp(line, "data:", 5) != 0)
        return;
    line += 5;
    n -= 5;
    if (n > 0 && *line == ' ') {
        line++;
        n--;
    }
    take_event(a, line, n);
}

/* Decoded body bytes. */
static enum err take_body(struct answer *a, const char *p, size_t n)
{
    const char *end;

    if (!a->is_sse) {
        if (a->body.len < BODY_KEEP_BYTES)
            buf_add(&a->body, p, n);
        return ERR_OK;
    }
    while ((end = memchr(p, '\n', n)) != NULL) {
        size_t part = (size_t)(end - p);

        if (a->line.len > 0) {
            buf_add(&a->line, p, part);
            take_line(a, a->line.base, a->line.len);
            buf_clear(&a->line);
        } else {
            take_line(a, p, part);
        }
        p += part + 1;
        n -= part + 1;
    }
    buf_add(&a->line, p, n);
    return a->line.len <= LINE_MAX_BYTES ? ERR_OK : ERR_PROTO;
}

static void take_header(struct answer *a, char *name, bool *chunked)
{
    char *value = strchr(name, ':');

    if (value == NULL)
        return;
    *value++ = '\0';
    value += strspn(value, " \t");
    if (strcasecmp(name, "content-length") == 0) {
        a->left = strtoull(value, NULL, 10);
        a->state = ANSWER_LENGTH;
    } else if (strcasecmp(name, "transfer-encoding") == 0) {
        *chunked = strcasecmp(value, "chunked") == 0;
    } else if (strcasecmp(name, "content-type") == 0) {
        a->is_sse = strncasecmp(value, "text/event-stream", 17) == 0;
    } else if (strcasecmp(name, "connection") == 0) {
        a->keep_alive = strcasecmp(value, "close") != 0;
    } else if (strcasecmp(name, "x-slipstream-engine") == 0) {
        strncpy(a->engine, value, sizeof(a->engine) - 1);
    }
}

static enum err take_head(struct answer *a)
{
    char *save = NULL, *head, *line;
    bool chunked = false;

    buf_cstr(&a->line);
    head = a->line.base;
    line = strtok_r(head, "\r\n", &save);
    if (line == NULL || strncmp(line, "HTTP/1.", 7) != 0 || strlen(line) < 12)
        return ERR_PROTO;
    a->status = (unsigned)strtoul(line + 9, NULL, 10);
    if (a->status < 100 || a->status > 599)
        return ERR_PROTO;
    a->keep_alive = line[7] == '1';
    a->state = ANSWER_TO_CLOSE;
    while ((line = strtok_r(NULL, "\r\n", &save)) != NULL)
        take_header(a, line, &chunked);
    buf_clear(&a->line);
    if (a->status < 200) {
        a->state = ANSWER_HEAD;
    } else if (chunked) {
        a->state = ANSWER_CHUNK_SIZE;
    } else if (a->status == 204 || (a->state == ANSWER_LENGTH && a->left == 0)) {
        a->state = ANSWER_DONE;
    }
    if (a->state == ANSWER_TO_CLOSE)
        a->keep_alive = false;
    return ERR_OK;
}

/* Gathers into a->line up to the end of the head; *used bytes of p belong to it. */
static enum err feed_head(struct answer *a, const char *p, size_t n, size_t *used)
{
    for (size_t i = 0; i < n; i++) {
        const struct buf *l = &a->line;

        buf_add(&a->line, p + i, 1);
        if (p[i] == '\n' && l->len >= 4 && memcmp(l->base + l->len - 4, "\r\n\r\n", 4) == 0) {
            *used = i + 1;
            return take_head(a);
        }
    }
    *used = n;
    return a->line.len <= HEAD_MAX_BYTES ? ERR_OK : ERR_PROTO;
}

/* One framing line (chunk size, end of chunk, trailer), without holding more than 1 KiB of it. */
static enum err feed_frame_line(struct answer *a, char ch)
{
    struct buf *l = &a->frame;
    char *end = NULL;

    if (ch != '\n') {
        buf_add(l, &ch, 1);
        return l->len <= 1024 ? ERR_OK : ERR_PROTO;
    }
    if (l->len > 0 && l->base[l->len - 1] == '\r')
        l->len--;
    if (a->state == ANSWER_TRAILER) {
        a->state = l->len == 0 ? ANSWER_DONE : ANSWER_TRAILER;
    } else if (a->state == ANSWER_CHUNK_END) {
        if (l->len != 0)
            return ERR_PROTO;
        a->state = ANSWER_CHUNK_SIZE;
    } else {
        a->left = strtoull(buf_cstr(l), &end, 16);
        if (end == l->base || (*end != '\0' && *end != ';'))
            return ERR_PROTO;
        a->state = a->left == 0 ? ANSWER_TRAILER : ANSWER_CHUNK_DATA;
    }
    buf_clear(l);
    return ERR_OK;
}

static enum err feed_data(struct answer *a, const char *p, size_t n, size_t *used)
{
    if (a->state != ANSWER_TO_CLOSE && n > a->left)
        n = (size_t)a->left;
    *used = n;
    if (a->state != ANSWER_TO_CLOSE) {
        a->left -= n;
        if (a->left == 0)
            a->state = a->state == ANSWER_LENGTH ? ANSWER_DONE : ANSWER_CHUNK_END;
    }
    return take_body(a, p, n);
}

enum err answer_feed(struct answer *a, const char *p, size_t n, size_t *used)
{
    size_t at = 0, part;
    enum err e = ERR_OK;

    while (at < n && a->state != ANSWER_DONE && e == ERR_OK) {
        part = 1;
        switch (a->state) {
        case ANSWER_HEAD:
            e = feed_head(a, p + at, n - at, &part);
            break;
        case ANSWER_CHUNK_SIZE:
        case ANSWER_CHUNK_END:
        case ANSWER_TRAILER:
            e = feed_frame_line(a, p[at]);
            break;
        case ANSWER_LENGTH:
        case ANSWER_CHUNK_DATA:
        case ANSWER_TO_CLOSE:
            e = feed_data(a, p + at, n - at, &part);
            break;
        case ANSWER_DONE:
            break;
        }
        at += part;
    }
    *used = at;
    return e;
}

enum err answer_close(struct answer *a)
{
    if (a->state == ANSWER_TO_CLOSE)
        a->state = ANSWER_DONE;
    return a->state == ANSWER_DONE ? ERR_OK : ERR_TRUNCATED;
}
