/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/answer.h"

#include <string.h>
#include <strings.h>

struct framing_facts {
    bool has_length, chunked, close, keep_alive;
    uint64_t length;
};

static bool is_word(const char *s, size_t len, const char *word)
{
    return len == strlen(word) && strncasecmp(s, word, len) == 0;
}

/* Decimal digits only, and no more than 2^63. */
static bool length_read(const char *s, size_t len, uint64_t *out)
{
    uint64_t v = 0;
    size_t i;

    if (len == 0 || len > 18)
        return false;
    for (i = 0; i < len; i++) {
        if (s[i] < '0' || s[i] > '9')
            return false;
        v = v * 10 + (uint64_t)(s[i] - '0');
    }
    *out = v;
    return true;
}

static void connection_read(const char *s, size_t len, struct framing_facts *f)
{
    size_t at = 0;

    while (at < len) {
        size_t end = at;

        while (end < len && s[end] != ',')
            end++;
        while (at < end && (s[at] == ' ' || s[at] == '\t'))
            at++;
        size_t n = end - at;
        while (n > 0 && (s[at + n - 1] == ' ' || s[at + n - 1] == '\t'))
            n--;
        if (is_word(s + at, n, "close"))
            f->close = true;
        if (is_word(s + at, n, "keep-alive"))
            f->keep_alive = true;
        at = end + 1;
    }
}

static bool header_read(struct phr_header *h, struct answer *a, struct framing_facts *f)
{
    uint64_t length;

    while (h->value_len > 0 &&
           (h->value[h->value_len - 1] == ' ' || h->value[h->value_len - 1] == '\t'))
        h->value_len--; /* libh2o's parser leaves them there */

    if (h->name == NULL || h->name_len == 0)
        return false; /* a folded line */
    if (is_word(h->name, h->name_len, "content-length")) {
        if (!length_read(h->value, h->value_len, &length) || f->has_length)
            return false;
        f->has_length = true;
        f->length = length;
    } else if (is_word(h->name, h->name_len, "transfer-encoding")) {
        if (!is_word(h->value, h->value_len, "chunked") || f->chunked)
            return false;
        f->chunked = true;
    } else if (is_word(h->name, h->name_len, "connection")) {
        connection_read(h->value, h->value_len, f);
    } else if (is_word(h->name, h->name_len, "content-type")) {
        a->is_event_stream =
            h->value_len >= 17 && strncasecmp(h->value, "text/event-stream", 17) == 0;
        a->is_json = h->value_len >= 16 && strncasecmp(h->value, "application/json", 16) == 0;
    }
    return true;
}

enum err answer_parse(const char *buf, size_t len, size_t last_len, bool to_head, struct answer *a)
{
    struct framing_facts f = {0};
    int minor, n;
    size_t i;

    a->header_count = ANSWER_HEADERS;
    a->is_event_stream = a->is_json = false;
    n = phr_parse_response(buf, len, &minor, &a->status, &a->reason, &a->reason_len, a->headers,
                           &a->header_count, last_len);
    if (n == -2)
        return len < ANSWER_HEAD_MAX ? ERR_BUSY : ERR_ENGINE_PROTO;
    if (n < 0 || n > ANSWER_HEAD_MAX || a->status < 100 || a->status > 599)
        return ERR_ENGINE_PROTO;
    a->head_bytes = (size_t)n;
    if (a->status < 200)
        return a->status == 101 ? ERR_ENGINE_PROTO : ERR_OK; /* we never ask for an upgrade */
    for (i = 0; i < a->header_count; i++)
        if (!header_read(&a->headers[i], a, &f))
            return ERR_ENGINE_PROTO;
    if (f.chunked && (f.has_length || minor == 0))
        return ERR_ENGINE_PROTO;
    a->keep_alive = minor >= 1 ? !f.close : f.keep_alive;
    a->length = f.length;
    if (to_head || a->status == 204 || a->status == 304)
        a->framing = ANSWER_NO_BODY;
    else if (f.chunked)
        a->framing = ANSWER_CHUNKED;
    else if (f.has_length)
        a->framing = f.length > 0 ? ANSWER_LENGTH : ANSWER_NO_BODY;
    else
        a->framing = ANSWER_UNTIL_CLOSE;
    return ERR_OK;
}
