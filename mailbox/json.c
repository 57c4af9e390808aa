/* SPDX-License-Identifier: Apache-2.0 */
#include "mailbox/json.h"

#include <stdint.h>
#include <string.h>

struct scan {
    const unsigned char *p, *end;
};

static bool is_digit(const struct scan *s)
{
    return s->p < s->end && *s->p >= '0' && *s->p <= '9';
}

static void skip_space(struct scan *s)
{
    while (s->p < s->end && (*s->p == ' ' || *s->p == '\t' || *s->p == '\n' || *s->p == '\r'))
        s->p++;
}

static bool take(struct scan *s, unsigned char c)
{
    if (s->p == s->end || *s->p != c)
        return false;
    s->p++;
    return true;
}

static bool take_word(struct scan *s, const char *word)
{
    size_t len = strlen(word);

    if ((size_t)(s->end - s->p) < len || memcmp(s->p, word, len) != 0)
        return false;
    s->p += len;
    return true;
}

/* One character of two bytes or more; overlong forms and surrogates are none. */
static bool take_utf8(struct scan *s)
{
    unsigned char lead = *s->p;
    unsigned char low = 0x80, high = 0xbf;
    size_t more, i;

    if (lead >= 0xc2 && lead <= 0xdf)
        more = 1;
    else if (lead >= 0xe0 && lead <= 0xef)
        more = 2;
    else if (lead >= 0xf0 && lead <= 0xf4)
        more = 3;
    else
        return false;
    if (lead == 0xe0)
        low = 0xa0;
    else if (lead == 0xed)
        high = 0x9f;
    else if (lead == 0xf0)
        low = 0x90;
    else if (lead == 0xf4)
        high = 0x8f;
    if ((size_t)(s->end - s->p) <= more)
        return false;
    for (i = 1; i <= more; i++) {
        if (s->p[i] < low || s->p[i] > high)
            return false;
        low = 0x80;
        high = 0xbf;
    }
    s->p += more + 1;
    return true;
}

static bool take_escape(struct scan *s)
{
    int i;

    if (s->p == s->end)
        return false;
    if (*s->p != 'u')
        return memchr("\"\\/bfnrt", *s->p++, 8) != NULL;
    s->p++;
    for (i = 0; i < 4; i++, s->p++)
        if (s->p == s->end ||
            !((*s->p >= '0' && *s->p <= '9') || ((*s->p | 0x20) >= 'a' && (*s->p | 0x20) <= 'f')))
            return false;
    return true;
}

static bool take_string(struct scan *s)
{
    if (!take(s, '"'))
        return false;
    while (s->p < s->end) {
        unsigned char c = *s->p;

        if (c < 0x20)
            return false;
        if (c >= 0x80) {
            if (!take_utf8(s))
                return false;
            continue;
        }
        s->p++;
        if (c == '"')
            return true;
        if (c == '\\' && !take_escape(s))
            return false;
    }
    return false;
}

static bool take_digits(struct scan *s)
{
    if (!is_digit(s))
        return false;
    while (is_digit(s))
        s->p++;
    return true;
}

static bool take_number(struct scan *s)
{
    take(s, '-');
    if (!take(s, '0') && !take_digits(s))
        return false;
    if (take(s, '.') && !take_digits(s))
        return false;
    if (take(s, 'e') || take(s, 'E')) {
        if (!take(s, '+'))
            take(s, '-');
        return take_digits(s);
    }
    return true;
}

static bool take_scalar(struct scan *s)
{
    if (s->p == s->end)
        return false;
    switch (*s->p) {
    case '"':
        return take_string(s);
    case 't':
        return take_word(s, "true");
    case 'f':
        return take_word(s, "false");
    case 'n':
        return take_word(s, "null");
    default:
        return take_number(s);
    }
}

static bool take_key(struct scan *s)
{
    skip_space(s);
    if (!take_string(s))
        return false;
    skip_space(s);
    return take(s, ':');
}

/* After a value: the commas and closing brackets up to where the next value starts. *depth is 0
 * when the outermost value is complete. */
static bool take_closings(struct scan *s, const char *open, size_t *depth)
{
    while (*depth > 0) {
        char bracket = open[*depth - 1];

        skip_space(s);
        if (take(s, ','))
            return bracket == '[' || take_key(s);
        if (!take(s, bracket == '[' ? ']' : '}'))
            return false;
        --*depth;
    }
    return true;
}

bool json_is_value(const char *text, size_t len)
{
    struct scan s = {(const unsigned char *)text, (const unsigned char *)text + len};
    char open[JSON_DEPTH];
    size_t depth = 0;

    do {
        skip_space(&s);
        if (s.p < s.end && (*s.p == '[' || *s.p == '{')) {
            char bracket = (char)*s.p++;

            if (depth == JSON_DEPTH)
                return false;
            skip_space(&s);
            if (!take(&s, bracket == '[' ? ']' : '}')) {
                open[depth++] = bracket;
                if (bracket == '{' && !take_key(&s))
                    return false;
                continue;
            }
        } else if (!take_scalar(&s)) {
            return false;
        }
        if (!take_closings(&s, open, &depth))
            return false;
    } while (depth > 0);
    skip_space(&s);
    return s.p == s.end;
}

bool id_is_valid(const char *text)
{
    struct scan s;
    size_t len;

    if (text == NULL)
        return false;
    len = strnlen(text, 257);
    if (len == 0 || len > 256)
        return false;
    s = (struct scan){(const unsigned char *)text, (const unsigned char *)text + len};
    while (s.p < s.end) {
        if (*s.p >= 0x80) {
            /* U+0080 to U+009F are control characters as well. */
            if ((*s.p == 0xc2 && s.p + 1 < s.end && s.p[1] < 0xa0) || !take_utf8(&s))
                return false;
            continue;
        }
        if (*s.p < 0x20 || *s.p == 0x7f)
            return false;
        s.p++;
    }
    return true;
}
