/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/parts.h"

#include <stdlib.h>
#include <string.h>

static const char *space_skip(const char *p, const char *end)
{
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r'))
        p++;
    return p;
}

/* Behind the string that begins at p. */
static const char *string_skip(const char *p, const char *end)
{
    for (p++; p < end && *p != '"'; p++)
        if (*p == '\\')
            p++;
    return p < end ? p + 1 : end;
}

static const char *value_skip(const char *p, const char *end)
{
    unsigned depth = 0;

    while (p < end) {
        char c = *p;

        if (c == '"') {
            p = string_skip(p, end);
            if (depth == 0)
                return p;
            continue;
        }
        if (c == '{' || c == '[')
            depth++;
        if (c == '}' || c == ']') {
            if (depth == 0)
                return p;
            if (--depth == 0)
                return p + 1;
        }
        if (depth == 0 && (c == ',' || c == ' ' || c == '\t' || c == '\n' || c == '\r'))
            return p;
        p++;
    }
    return p;
}

static enum err split(const char *text, size_t len, char open, struct member *out, size_t max,
                      size_t *count)
{
    const char *end = text + len, *p = space_skip(text, end);

    *count = 0;
    if (p == end || *p != open)
        return ERR_TYPE;
    p = space_skip(p + 1, end);
    while (p < end && *p != '}' && *p != ']') {
        struct member m = {NULL, NULL, 0, 0};

        if (*count == max)
            return ERR_BUSY;
        if (open == '{') {
            const char *after = string_skip(p, end);

            m.key = p + 1;
            m.key_len = (size_t)(after - p) - 2;
            p = space_skip(after, end);
            p = space_skip(p + 1, end); /* the colon */
        }
        m.value = p;
        p = value_skip(p, end);
        m.value_len = (size_t)(p - m.value);
        out[(*count)++] = m;
        p = space_skip(p, end);
        if (p < end && *p == ',')
            p = space_skip(p + 1, end);
    }
    return ERR_OK;
}

enum err members_split(const char *text, size_t len, struct member *out, size_t max, size_t *count)
{
    return split(text, len, '{', out, max, count);
}

enum err elements_split(const char *text, size_t len, struct member *out, size_t max, size_t *count)
{
    return split(text, len, '[', out, max, count);
}

static int hex4(const char *p)
{
    int v = 0, i;

    for (i = 0; i < 4; i++) {
        char c = p[i];

        v = v * 16 + (c <= '9' ? c - '0' : (c | 32) - 'a' + 10);
    }
    return v;
}

static size_t utf8_put(unsigned cp, char *o)
{
    if (cp < 0x80) {
        o[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        o[0] = (char)(0xc0 | cp >> 6);
        o[1] = (char)(0x80 | (cp & 63));
        return 2;
    }
    if (cp < 0x10000) {
        o[0] = (char)(0xe0 | cp >> 12);
        o[1] = (char)(0x80 | (cp >> 6 & 63));
        o[2] = (char)(0x80 | (cp & 63));
        return 3;
    }
    o[0] = (char)(0xf0 | cp >> 18);
    o[1] = (char)(0x80 | (cp >> 12 & 63));
    o[2] = (char)(0x80 | (cp >> 6 & 63));
    o[3] = (char)(0x80 | (cp & 63));
    return 4;
}

/* One escape at p (behind the backslash); returns bytes used, 0 for a lone surrogate. */
static size_t escape_read(const char *p, const char *end, unsigned *cp)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *at = strchr(from, *p);
    unsigned hi, lo;

    if (at != NULL && *p != '\0') {
        *cp = (unsigned char)to[at - from];
        return 1;
    }
    hi = (unsigned)hex4(p + 1);
    *cp = hi;
    if (hi < 0xd800 || hi > 0xdfff)
        return 5;
    if (hi > 0xdbff || end - p < 11 || p[5] != '\\' || p[6] != 'u')
        return 0;
    lo = (unsigned)hex4(p + 7);
    if (lo < 0xdc00 || lo > 0xdfff)
        return 0;
    *cp = 0x10000 + ((hi - 0xd800) << 10) + (lo - 0xdc00);
    return 11;
}

enum err member_string(const char *value, size_t len, char *dst, size_t size)
{
    const char *p = value + 1, *end = value + len - 1;
    size_t o = 0, n;
    unsigned cp;

    if (len < 2 || value[0] != '"')
        return ERR_TYPE;
    while (p < end) {
        if (o + 5 > size)
            return ERR_ID;
        if (*p != '\\') {
            dst[o++] = *p++;
            continue;
        }
        n = escape_read(p + 1, end, &cp);
        if (n == 0 || cp == 0)
            return ERR_ID;
        o += utf8_put(cp, dst + o);
        p += n + 1;
    }
    dst[o] = '\0';
    return ERR_OK;
}

enum err member_number(const char *value, size_t len, double *out)
{
    char text[40], *end;
    double v;

    if (len == 0 || len >= sizeof(text) || (value[0] != '-' && (value[0] < '0' || value[0] > '9')))
        return ERR_TYPE;
    memcpy(text, value, len);
    text[len] = '\0';
    v = strtod(text, &end);
    if (*end != '\0' || v < 0)
        return ERR_TYPE;
    *out = v;
    return ERR_OK;
}
