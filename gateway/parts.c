/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/parts.h"

#include <stdlib.h>
#include <string.h>

#include "common/json.h"

static const char *space_skip(const char *p, const char *end)
{
    while (p < end && json_is_space(*p))
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
        if (depth == 0 && (c == ',' || json_is_space(c)))
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

enum err member_string(const char *value, size_t len, char *dst, size_t size)
{
    size_t n;

    if (len < 2 || value[0] != '"')
        return ERR_TYPE;
    if (!json_unescape(value + 1, len - 2, dst, size - 1, &n) || memchr(dst, '\0', n) != NULL)
        return ERR_ID;
    dst[n] = '\0';
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
