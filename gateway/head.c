/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/head.h"

#include <stdint.h>
#include <string.h>
#include <strings.h>

#include "gateway/phr.h"

#define HEADERS_MAX 128 /* h2o itself stops at 100 */

/* RFC 9110's token characters. */
static const bool token_chars[256] = {
    ['!'] = true,         ['#'] = true,         ['$'] = true,         ['%'] = true, ['&'] = true,
    ['\''] = true,        ['*'] = true,         ['+'] = true,         ['-'] = true, ['.'] = true,
    ['^'] = true,         ['_'] = true,         ['`'] = true,         ['|'] = true, ['~'] = true,
    ['0' ... '9'] = true, ['A' ... 'Z'] = true, ['a' ... 'z'] = true,
};

static bool is_token(const char *s, size_t len)
{
    bool all = len > 0;

    for (size_t i = 0; i < len; i++)
        all &= token_chars[(unsigned char)s[i]];
    return all;
}

#define EACH(byte) (UINT64_C(0x0101010101010101) * (byte))

/* Whether one of eight bytes is below 0x20, or 0x7f. */
static inline bool has_control(uint64_t x)
{
    uint64_t low = (x - EACH(0x20)) & ~x, del = x ^ EACH(0x7f);

    return ((low | ((del - EACH(1)) & ~del)) & EACH(0x80)) != 0;
}

/* No control characters, the tab excepted. */
static bool is_field_value(const char *s, size_t len)
{
    bool bad = false;
    size_t i = 0;
    uint64_t x;

    for (; len - i >= sizeof(x); i += sizeof(x)) {
        memcpy(&x, s + i, sizeof(x));
        if (has_control(x))
            break;
    }
    for (; i < len; i++) {
        unsigned char c = (unsigned char)s[i];

        bad |= (c < 0x20) & (c != '\t');
        bad |= c == 0x7f;
    }
    return !bad;
}

/* expected: lower case. Lengths and first letters tell most names apart. */
static inline bool is_name(const char *name, size_t len, const char *expected)
{
    return len == strlen(expected) && (name[0] | 0x20) == expected[0] &&
           strncasecmp(name, expected, len) == 0;
}

static bool is_length(const char *s, size_t len)
{
    uint64_t v = 0;

    for (size_t i = 0; i < len; i++) {
        if (s[i] < '0' || s[i] > '9' || v > (UINT64_MAX >> 1) / 10 - 1)
            return false;
        v = v * 10 + (uint64_t)(s[i] - '0');
    }
    return len > 0;
}

static bool is_host(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)s[i];

        if (c <= 0x20 || c >= 0x7f || strchr("/?#@\\,<>\"", c) != NULL)
            return false;
    }
    return true;
}

struct seen {
    unsigned hosts, lengths, codings;
    bool length_zero;
};

/* One header. NULL or what is wrong with it. */
static const char *header_look(struct phr_header *h, int minor, struct seen *seen)
{
    while (h->value_len > 0 &&
           (h->value[h->value_len - 1] == ' ' || h->value[h->value_len - 1] == '\t'))
        h->value_len--; /* libh2o's parser leaves them there */
    if (h->name == NULL || h->name_len == 0)
        return "a header is folded over several lines";
    if (!is_token(h->name, h->name_len))
        return "a header name is not a token";
    if (!is_field_value(h->value, h->value_len))
        return "a header value has control characters";
    if (is_name(h->name, h->name_len, "host")) {
        if (seen->hosts++ > 0)
            return "more than one Host";
        if (!is_host(h->value, h->value_len))
            return "the Host is not valid";
    } else if (is_name(h->name, h->name_len, "content-length")) {
        if (seen->lengths++ > 0)
            return "more than one Content-Length";
        if (!is_length(h->value, h->value_len))
            return "the Content-Length is not a number";
        seen->length_zero = strspn(h->value, "0") >= h->value_len;
    } else if (is_name(h->name, h->name_len, "transfer-encoding")) {
        if (seen->codings++ > 0)
            return "more than one Transfer-Encoding";
        if (minor < 1)
            return "Transfer-Encoding in HTTP/1.0";
        if (!is_name(h->value, h->value_len, "chunked"))
            return "a Transfer-Encoding other than chunked";
    }
    return NULL;
}

static enum err head_refuse(struct head_facts *facts, const char *why)
{
    facts->why = why;
    return ERR_HEAD;
}

enum err head_check(const char *raw, size_t len, size_t max_bytes, struct head_facts *facts)
{
    struct phr_header headers[HEADERS_MAX];
    size_t count = HEADERS_MAX, method_len, path_len;
    const char *method, *path, *why;
    struct seen seen = {0};
    int minor, n;

    *facts = (struct head_facts){0};
    n = phr_parse_request(raw, len, &method, &method_len, &path, &path_len, &minor, headers, &count,
                          0);
    if (n > 0 ? (size_t)n > max_bytes : n == -2 && len > max_bytes) {
        facts->why = "the request head is too large";
        return ERR_HEAD_TOO_LARGE;
    }
    if (n <= 0)
        return head_refuse(facts, n == -2 ? "the request head is not complete"
                                          : "the request head cannot be parsed");
    facts->head_bytes = (size_t)n;
    if (!is_token(method, method_len))
        return head_refuse(facts, "the method is not a token");
    if (path_len == 0 || !is_field_value(path, path_len) || memchr(path, '\t', path_len) != NULL)
        return head_refuse(facts, "the request target is not valid");
    for (size_t i = 0; i < count; i++) {
        why = header_look(&headers[i], minor, &seen);
        if (why != NULL)
            return head_refuse(facts, why);
    }
    if (seen.hosts == 0 && minor >= 1)
        return head_refuse(facts, "no Host");
    if (seen.codings > 0 && seen.lengths > 0)
        return head_refuse(facts, "Content-Length together with Transfer-Encoding");
    facts->chunked = seen.codings > 0;
    facts->has_length = seen.lengths > 0;
    facts->has_body = facts->chunked || (facts->has_length && !seen.length_zero);
    return ERR_OK;
}

/* ---- which headers go through ---- */

/* Names in lower case, and which lengths they have. */
struct names {
    uint32_t lengths;
    const char *const *list; /* NULL ends it */
};
#define NAME(text) text,
#define LENGTH(text) | UINT32_C(1) << (sizeof(text) - 1)
#define NAMES(variable, ROWS)                                       \
    static const char *const variable##_list[] = {ROWS(NAME) NULL}; \
    static const struct names variable = {0 ROWS(LENGTH), variable##_list}

static bool is_listed(const char *name, size_t len, const struct names *names)
{
    if (len > 31 || (names->lengths >> len & 1) == 0)
        return false;
    for (const char *const *n = names->list; *n != NULL; n++) {
        if ((name[0] | 0x20) == **n && is_name(name, len, *n))
            return true;
    }
    return false;
}

/* Is name one of the comma-separated words of a Connection header? */
static bool is_named_by(const char *connection, size_t len, const char *name, size_t name_len)
{
    size_t i = 0;

    while (i < len) {
        size_t begin, end;

        while (i < len && (connection[i] == ' ' || connection[i] == '\t' || connection[i] == ','))
            i++;
        begin = i;
        while (i < len && connection[i] != ',')
            i++;
        end = i;
        while (end > begin && (connection[end - 1] == ' ' || connection[end - 1] == '\t'))
            end--;
        if (end - begin == name_len && strncasecmp(connection + begin, name, name_len) == 0)
            return true;
    }
    return false;
}

static bool is_ours(const char *name, size_t len)
{
    static const char prefix[] = "x-slipstream-";

    return len >= sizeof(prefix) - 1 && (name[0] | 0x20) == 'x' &&
           strncasecmp(name, prefix, sizeof(prefix) - 1) == 0;
}

/* Of one connection only, or saying where a message ends: both sides set their own. */
#define HOP_BY_HOP(X)       \
    X("connection")         \
    X("keep-alive")         \
    X("proxy-connection")   \
    X("proxy-authenticate") \
    X("te") X("trailer") X("transfer-encoding") X("upgrade") X("content-length")
NAMES(hop_by_hop, HOP_BY_HOP);

#define NOT_FORWARDED(X) \
    X("host")            \
    X("expect")          \
    X("proxy-authorization") X("http2-settings") X("x-vllm-priority") X("x-data-parallel-rank")
NAMES(not_forwarded, NOT_FORWARDED);

/* h2o writes a Date and a Server of its own. */
#define NOT_RETURNED(X) X("x-request-id") X("date") X("server") X("alt-svc")
NAMES(not_returned, NOT_RETURNED);

bool head_passes(const char *name, size_t name_len, const char *connection, size_t connection_len)
{
    return !is_listed(name, name_len, &hop_by_hop) && !is_listed(name, name_len, &not_forwarded) &&
           !is_ours(name, name_len) &&
           (connection == NULL || !is_named_by(connection, connection_len, name, name_len));
}

bool head_may_forward(const char *name, size_t name_len, const char *value, size_t value_len,
                      const char *connection, size_t connection_len)
{
    return is_token(name, name_len) && is_field_value(value, value_len) &&
           head_passes(name, name_len, connection, connection_len);
}

bool head_may_return(const char *name, size_t name_len, const char *value, size_t value_len)
{
    return is_token(name, name_len) && is_field_value(value, value_len) &&
           !is_listed(name, name_len, &hop_by_hop) && !is_listed(name, name_len, &not_returned) &&
           !is_ours(name, name_len);
}
