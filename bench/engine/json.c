/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/engine/json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* First byte at or behind p that ends a run of plain string bytes: quote, backslash, control. */
static const char *plain_end(const char *p, const char *end)
{
#ifdef __SSE2__
    const __m128i quote = _mm_set1_epi8('"'), slash = _mm_set1_epi8('\\'),
                  ctl = _mm_set1_epi8(0x1f);

    for (; end - p >= 16; p += 16) {
        __m128i x = _mm_loadu_si128((const __m128i *)(const void *)p);
        __m128i hit = _mm_or_si128(_mm_cmpeq_epi8(x, quote), _mm_cmpeq_epi8(x, slash));
        int mask;

        hit = _mm_or_si128(hit, _mm_cmpeq_epi8(_mm_min_epu8(x, ctl), x));
        mask = _mm_movemask_epi8(hit);
        if (mask != 0)
            return p + __builtin_ctz((unsigned)mask);
    }
#endif
    while (p < end && *p != '"' && *p != '\\' && (unsigned char)*p >= 0x20)
        p++;
    return p;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static const char *skip_space(const char *p, const char *end)
{
    while (p < end && is_space(*p))
        p++;
    return p;
}

static int hex4(const char *p, const char *end)
{
    int v = 0;

    if (end - p < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        char c = p[i];

        if (c >= '0' && c <= '9')
            v = v * 16 + (c - '0');
        else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
            v = v * 16 + ((c | 0x20) - 'a' + 10);
        else
            return -1;
    }
    return v;
}

/* p is behind the opening quote; returns behind the closing one, NULL when malformed. */
static const char *skip_string(const char *p, const char *end)
{
    for (;;) {
        p = plain_end(p, end);
        if (p >= end || (unsigned char)*p < 0x20)
            return NULL;
        if (*p == '"')
            return p + 1;
        if (end - p < 2)
            return NULL;
        if (p[1] == 'u') {
            if (hex4(p + 2, end) < 0)
                return NULL;
            p += 6;
        } else if (strchr("\"\\/bfnrt", p[1]) != NULL && p[1] != '\0') {
            p += 2;
        } else {
            return NULL;
        }
    }
}

static const char *digits(const char *p, const char *end)
{
    const char *start = p;

    while (p < end && *p >= '0' && *p <= '9')
        p++;
    return p > start ? p : NULL;
}

static const char *skip_number(const char *p, const char *end)
{
    if (p < end && *p == '-')
        p++;
    if (p < end && *p == '0')
        p++;
    else if ((p = digits(p, end)) == NULL)
        return NULL;
    if (p < end && *p == '.' && (p = digits(p + 1, end)) == NULL)
        return NULL;
    if (p < end && (*p == 'e' || *p == 'E')) {
        p++;
        if (p < end && (*p == '+' || *p == '-'))
            p++;
        p = digits(p, end);
    }
    return p;
}

static const char *skip_word(const char *p, const char *end, const char *word)
{
    size_t n = strlen(word);

    return (size_t)(end - p) >= n && memcmp(p, word, n) == 0 ? p + n : NULL;
}

static enum json_type type_of(char c)
{
    switch (c) {
    case '{':
        return JSON_OBJECT;
    case '[':
        return JSON_ARRAY;
    case '"':
        return JSON_STRING;
    case 't':
        return JSON_TRUE;
    case 'f':
        return JSON_FALSE;
    case 'n':
        return JSON_NULL;
    default:
        return JSON_NUMBER;
    }
}

static const char *skip_scalar(const char *p, const char *end)
{
    switch (*p) {
    case '"':
        return skip_string(p + 1, end);
    case 't':
        return skip_word(p, end, "true");
    case 'f':
        return skip_word(p, end, "false");
    case 'n':
        return skip_word(p, end, "null");
    default:
        return skip_number(p, end);
    }
}

/* A key with its colon and the space around. */
static const char *skip_key(const char *p, const char *end)
{
    if (p >= end || *p != '"' || (p = skip_string(p + 1, end)) == NULL)
        return NULL;
    p = skip_space(p, end);
    return p < end && *p == ':' ? skip_space(p + 1, end) : NULL;
}

/* Behind one value; NULL when malformed, with *bad where. Iterative: open[] are the closers due. */
static const char *skip_value(const char *p, const char *end, const char **bad)
{
    char open[JSON_DEPTH];
    int depth = 0;
    const char *q;

    for (;;) {
        *bad = p;
        if (p >= end)
            return NULL;
        if (*p == '{' || *p == '[') {
            char closer = *p == '{' ? '}' : ']';

            if (depth == JSON_DEPTH)
                return NULL;
            p = skip_space(p + 1, end);
            if (p >= end || *p != closer) {
                open[depth++] = closer;
                if (closer == '}' && (p = skip_key(*bad = p, end)) == NULL)
                    return NULL;
                continue;
            }
            p++; /* empty */
        } else {
            if ((q = skip_scalar(p, end)) == NULL)
                return NULL;
            p = q;
        }
        for (;;) { /* what may follow a value */
            if (depth == 0)
                return p;
            p = skip_space(p, end);
            *bad = p;
            if (p < end && *p == open[depth - 1]) {
                depth--;
                p++;
                continue;
            }
            if (p >= end || *p != ',')
                return NULL;
            p = skip_space(p + 1, end);
            *bad = p;
            if (open[depth - 1] == '}' && (p = skip_key(p, end)) == NULL)
                return NULL;
            break;
        }
    }
}

bool json_check(const char *text, size_t len, struct json *out, size_t *err_at)
{
    const char *end = text + len, *bad = text, *p = skip_space(text, end), *q;

    q = skip_value(p, end, &bad);
    if (q == NULL) {
        *err_at = (size_t)(bad - text);
        return false;
    }
    *out = (struct json){type_of(*p), p, (size_t)(q - p)};
    q = skip_space(q, end);
    *err_at = (size_t)(q - text);
    return q == end;
}

static const char *take_value(const char *p, const char *end, struct json *value)
{
    const char *bad, *q = skip_value(p, end, &bad);

    if (q != NULL)
        *value = (struct json){type_of(*p), p, (size_t)(q - p)};
    return q;
}

static const char *next_item(const struct json *v, size_t *pos)
{
    const char *end = v->at + v->len, *p = skip_space(v->at + (*pos == 0 ? 1 : *pos), end);

    if (p < end && *p == ',')
        p = skip_space(p + 1, end);
    return p < end && *p != '}' && *p != ']' ? p : NULL;
}

bool json_next_member(const struct json *object, size_t *pos, struct json *key, struct json *value)
{
    const char *end, *p, *colon;

    if (object->type != JSON_OBJECT || (p = next_item(object, pos)) == NULL)
        return false;
    end = object->at + object->len;
    if ((colon = skip_key(p, end)) == NULL || take_value(p, end, key) == NULL ||
        (p = take_value(colon, end, value)) == NULL)
        return false;
    *pos = (size_t)(p - object->at);
    return true;
}

bool json_next_element(const struct json *array, size_t *pos, struct json *value)
{
    const char *p = array->type == JSON_ARRAY ? next_item(array, pos) : NULL;

    if (p == NULL || (p = take_value(p, array->at + array->len, value)) == NULL)
        return false;
    *pos = (size_t)(p - array->at);
    return true;
}

struct json json_member(const struct json *object, const char *name)
{
    struct json key, value, found = {0};

    for (size_t pos = 0; json_next_member(object, &pos, &key, &value);) {
        if (json_is(&key, name))
            found = value; /* the last one wins, as in Python */
    }
    return found;
}

bool json_is(const struct json *string, const char *text)
{
    size_t n = strlen(text);
    struct buf plain = {0};
    bool same;

    if (string->type != JSON_STRING)
        return false;
    if (memchr(string->at, '\\', string->len) == NULL)
        return string->len == n + 2 && memcmp(string->at + 1, text, n) == 0;
    json_text(string, &plain);
    same = plain.len == n && memcmp(plain.base, text, n) == 0;
    buf_fini(&plain);
    return same;
}

static size_t utf8(char *dst, unsigned c)
{
    if (c < 0x80) {
        dst[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        dst[0] = (char)(0xc0 | c >> 6);
        dst[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        dst[0] = (char)(0xe0 | c >> 12);
        dst[1] = (char)(0x80 | (c >> 6 & 0x3f));
        dst[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    dst[0] = (char)(0xf0 | c >> 18);
    dst[1] = (char)(0x80 | (c >> 12 & 0x3f));
    dst[2] = (char)(0x80 | (c >> 6 & 0x3f));
    dst[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

static const char *unescape(const char *p, const char *end, char *dst, size_t *len)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    unsigned c;

    *len = 1;
    if (p[1] != 'u') {
        *dst = to[strchr(from, p[1]) - from];
        return p + 2;
    }
    c = (unsigned)hex4(p + 2, end);
    p += 6;
    if (c >= 0xd800 && c < 0xdc00 && end - p >= 6 && p[0] == '\\' && p[1] == 'u') {
        int low = hex4(p + 2, end);

        if (low >= 0xdc00 && low < 0xe000) {
            c = 0x10000 + ((c - 0xd800) << 10) + ((unsigned)low - 0xdc00);
            p += 6;
        }
    }
    if (c >= 0xd800 && c < 0xe000)
        c = 0xfffd;
    *len = utf8(dst, c);
    return p;
}

void json_text(const struct json *string, struct buf *out)
{
    const char *p = string->at + 1, *end = string->at + string->len - 1;
    char *dst = buf_reserve(out, string->len);
    size_t n;

    while (p < end) {
        const char *q = plain_end(p, end);

        memcpy(dst, p, (size_t)(q - p));
        dst += q - p;
        p = q;
        if (p < end) {
            p = unescape(p, end, dst, &n);
            dst += n;
        }
    }
    out->len = (size_t)(dst - out->base);
}

bool json_int(const struct json *number, int64_t *out)
{
    char text[32], *rest;
    long long v;

    if (number->type != JSON_NUMBER || number->len >= sizeof text)
        return false;
    memcpy(text, number->at, number->len);
    text[number->len] = '\0';
    errno = 0;
    v = strtoll(text, &rest, 10);
    if (errno != 0 || *rest != '\0')
        return false;
    *out = v;
    return true;
}
