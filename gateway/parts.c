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

/* The key at *p, its colon, and the white space behind it. */
static bool key_take(const char **p, const char *end, struct member *m)
{
    bool escaped;

    if (*p == end || **p != '"')
        return false;
    m->key = ++*p;
    if (json_string(p, end, end, &escaped) != JSON_DONE)
        return false;
    m->key_len = (size_t)(*p - m->key) - 1;
    *p = space_skip(*p, end);
    if (*p == end || **p != ':')
        return false;
    *p = space_skip(*p + 1, end);
    return true;
}

/* Another kind of value, or none. */
static enum err not_split(const char *p, const char *end)
{
    enum err e = json_skip(&p, end, 0);

    return e != ERR_OK ? e : space_skip(p, end) == end ? ERR_TYPE : ERR_JSON;
}

static enum err split(const char *text, size_t len, char open, struct member *out, size_t max,
                      size_t *count)
{
    const char *end = text + len, *p = space_skip(text, end);
    char close = open == '{' ? '}' : ']';
    enum err e;

    *count = 0;
    if (p == end || *p != open)
        return not_split(p, end);
    p = space_skip(p + 1, end);
    while (p < end && (*p != close || *count > 0)) {
        struct member m = {NULL, NULL, 0, 0};

        if (*count == max)
            return ERR_BUSY;
        if (open == '{' && !key_take(&p, end, &m))
            return ERR_JSON;
        m.value = p;
        e = json_skip(&p, end, 1);
        if (e != ERR_OK)
            return e;
        m.value_len = (size_t)(p - m.value);
        out[(*count)++] = m;
        p = space_skip(p, end);
        if (p == end || *p != ',')
            break;
        p = space_skip(p + 1, end);
    }
    if (p == end || *p != close)
        return ERR_JSON;
    return space_skip(p + 1, end) == end ? ERR_OK : ERR_JSON;
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
