/* SPDX-License-Identifier: Apache-2.0 */
#include "common/buf.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/must.h"

void buf_fini(struct buf *b)
{
    free(b->base);
    *b = (struct buf){0};
}

void buf_clear(struct buf *b)
{
    b->len = 0;
}

char *buf_reserve(struct buf *b, size_t more)
{
    must(more <= SIZE_MAX / 4 && b->len <= SIZE_MAX / 4);
    if (b->base == NULL || b->cap - b->len < more) {
        size_t cap = b->cap != 0 ? b->cap * 2 : 256;

        while (cap < b->len + more)
            cap *= 2;
        b->base = realloc(b->base, cap);
        must(b->base != NULL);
        b->cap = cap;
    }
    return b->base + b->len;
}

void buf_add(struct buf *b, const void *p, size_t n)
{
    if (n == 0)
        return;
    memcpy(buf_reserve(b, n), p, n);
    b->len += n;
}

void buf_adds(struct buf *b, const char *s)
{
    buf_add(b, s, strlen(s));
}

void buf_add_number(struct buf *b, uint64_t v)
{
    char digits[20], *at = digits + sizeof(digits);

    do
        *--at = (char)('0' + v % 10);
    while ((v /= 10) > 0);
    buf_add(b, at, (size_t)(digits + sizeof(digits) - at));
}

void buf_vaddf(struct buf *b, const char *fmt, va_list ap)
{
    char *at = buf_reserve(b, 64);
    size_t room = b->cap - b->len;
    va_list again;
    int n;

    va_copy(again, ap);
    n = vsnprintf(at, room, fmt, ap);
    must(n >= 0);
    if ((size_t)n >= room)
        vsnprintf(buf_reserve(b, (size_t)n + 1), (size_t)n + 1, fmt, again);
    va_end(again);
    b->len += (size_t)n;
}

void buf_addf(struct buf *b, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    buf_vaddf(b, fmt, ap);
    va_end(ap);
}

static bool is_plain(unsigned char c)
{
    return c >= 0x20 && c != '"' && c != '\\' && c != 0x7f;
}

void buf_add_json(struct buf *b, const char *s, size_t n)
{
    static const char hex[] = "0123456789abcdef";
    static const char u00[4] = {'\\', 'u', '0', '0'};
    size_t i = 0, from;
    char *o;

    buf_add(b, "\"", 1);
    while (i < n) {
        unsigned char c;

        for (from = i; i < n && is_plain((unsigned char)s[i]); i++)
            ;
        buf_add(b, s + from, i - from);
        if (i == n)
            break;
        c = (unsigned char)s[i++];
        o = buf_reserve(b, 6);
        if (c == '"' || c == '\\') {
            o[0] = '\\';
            o[1] = (char)c;
            b->len += 2;
        } else if (c == '\n') {
            o[0] = '\\';
            o[1] = 'n';
            b->len += 2;
        } else {
            memcpy(o, u00, sizeof(u00));
            o[4] = hex[c >> 4];
            o[5] = hex[c & 15];
            b->len += 6;
        }
    }
    buf_add(b, "\"", 1);
}

void buf_consume(struct buf *b, size_t n)
{
    must(n <= b->len);
    if (n == 0)
        return;
    memmove(b->base, b->base + n, b->len - n);
    b->len -= n;
}

const char *buf_cstr(struct buf *b)
{
    *buf_reserve(b, 1) = '\0';
    return b->base;
}
