/* SPDX-License-Identifier: Apache-2.0 */
#include "common/json.h"

#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* One character that is not ASCII. NULL: not UTF-8 (overlong, surrogate, beyond U+10FFFF, cut). */
static const char *utf8_char(const char *p, const char *end)
{
    const unsigned char *s = (const unsigned char *)p;
    size_t left = (size_t)(end - p);

    if (s[0] < 0xc2 || left < 2 || (s[1] & 0xc0) != 0x80)
        return NULL;
    if (s[0] < 0xe0)
        return p + 2;
    if (left < 3 || (s[2] & 0xc0) != 0x80)
        return NULL;
    if (s[0] < 0xf0)
        return (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ? NULL : p + 3;
    if (left < 4 || (s[3] & 0xc0) != 0x80 || s[0] > 0xf4)
        return NULL;
    return (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f) ? NULL : p + 4;
}

#ifdef __SSE2__
static inline unsigned bits_equal(__m128i x, char mask, char value)
{
    x = _mm_and_si128(x, _mm_set1_epi8(mask));
    return (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(x, _mm_set1_epi8(value)));
}

/*
 * Goes over plain bytes and characters of two and three bytes, 16 bytes at a time, one bit a byte.
 * What a block's last character still wants is carried to the next, so that no block waits for the
 * one before. Returns where a closer look is needed, always the begin of a character: something
 * else comes, or only plain bytes, or the end or stop is near.
 */
static const char *utf8_blocks(const char *start, const char *stop, const char *end)
{
    unsigned carry = 0, carry_e0 = 0, carry_ed = 0, bad = 0;
    const char *p = start;

    while (end - p >= 16 && p < stop) {
        __m128i x = _mm_loadu_si128((const __m128i *)(const void *)p);
        unsigned high = (unsigned)_mm_movemask_epi8(x);
        unsigned bit5 = (unsigned)_mm_movemask_epi8(_mm_slli_epi16(x, 2));
        unsigned lead2 = bits_equal(x, (char)0xe0, (char)0xc0);
        unsigned lead3 = bits_equal(x, (char)0xf0, (char)0xe0);
        unsigned e0 = bits_equal(x, (char)0xff, (char)0xe0) << 1 | carry_e0;
        unsigned ed = bits_equal(x, (char)0xff, (char)0xed) << 1 | carry_ed;
        unsigned follow = (lead2 | lead3) << 1 | lead3 << 2 | carry;

        if ((high | carry) == 0)
            return p;
        bad = bits_equal(x, (char)0xe0, 0) | bits_equal(x, (char)0xff, '"') |
              bits_equal(x, (char)0xff, '\\') | bits_equal(x, (char)0xfe, (char)0xc0);
        /* Characters of four bytes are for the closer look. E0 wants A0..BF behind it (nothing
         * overlong), ED 80..9F (no surrogates): that is bit 5. */
        bad |= bits_equal(x, (char)0xf0, (char)0xf0);
        bad |= ((high & ~lead2 & ~lead3) ^ follow) | (e0 & ~bit5) | (ed & bit5);
        bad &= 0xffff;
        if (bad != 0)
            break;
        carry = follow >> 16;
        carry_e0 = e0 >> 16;
        carry_ed = ed >> 16;
        p += 16;
    }
    if (bad != 0)
        p += __builtin_ctz(bad);
    /* The last character may be cut. */
    if (p > start && *(const signed char *)(p - 1) < 0) {
        do
            p--;
        while (p > start && ((unsigned char)*p & 0xc0) == 0x80);
    }
    return p;
}
#endif

/* Plain bytes and characters until something else comes, or a little beyond stop. NULL: not UTF-8;
 * *bad tells where. */
static const char *utf8_run(const char *p, const char *stop, const char *end, const char **bad)
{
    const char *next;

    while (p < stop && *(const signed char *)p < 0) {
#ifdef __SSE2__
        p = utf8_blocks(p, stop, end);
        if (p >= end || *(const signed char *)p >= 0)
            break;
#endif
        next = utf8_char(p, end);
        if (next == NULL) {
            *bad = p;
            return NULL;
        }
        p = next;
    }
    return p;
}

static bool is_hex4(const char *p)
{
    for (int i = 0; i < 4; i++) {
        char c = p[i];

        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')))
            return false;
    }
    return true;
}

static const bool is_escape[256] = {['"'] = true, ['\\'] = true, ['/'] = true, ['b'] = true,
                                    ['f'] = true, ['n'] = true,  ['r'] = true, ['t'] = true};

#ifdef __SSE2__
/* Quotes, backslashes, control characters and, as the comparison is signed, all that is not ASCII.
 */
static inline __m128i odd_bytes(const char *p)
{
    __m128i x = _mm_loadu_si128((const __m128i *)(const void *)p);

    return _mm_or_si128(
        _mm_or_si128(_mm_cmpeq_epi8(x, _mm_set1_epi8('"')), _mm_cmpeq_epi8(x, _mm_set1_epi8('\\'))),
        _mm_cmplt_epi8(x, _mm_set1_epi8(' ')));
}
#endif

/* Behind the plain bytes of a string; with fewer than 16 left it may stop at a plain one. */
static inline const char *plain_run(const char *p, const char *stop, const char *end)
{
#ifdef __SSE2__
    for (; stop - p >= 64; p += 64) {
        __m128i low = _mm_or_si128(odd_bytes(p), odd_bytes(p + 16));
        __m128i high = _mm_or_si128(odd_bytes(p + 32), odd_bytes(p + 48));

        if (_mm_movemask_epi8(_mm_or_si128(low, high)) != 0)
            break;
    }
    while (end - p >= 16 && p < stop) {
        unsigned mask = (unsigned)_mm_movemask_epi8(odd_bytes(p));

        if (mask != 0)
            return p + __builtin_ctz(mask);
        p += 16;
    }
#endif
    while (p < stop && *p != '"' && *p != '\\' && *(const signed char *)p >= ' ')
        p++;
    return p;
}

enum json_scan json_string(const char **at, const char *stop, const char *end, bool *escaped)
{
    const char *p = *at;
    const char *bad = NULL;

    for (;;) {
        p = plain_run(p, stop, end);
        if (p >= stop) {
            *at = p;
            return stop < end ? JSON_MORE : JSON_BAD;
        }
        if (*p == '\\') {
            *escaped = true;
            if (end - p < 2)
                break;
            if (is_escape[(unsigned char)p[1]]) {
                p += 2;
            } else if (p[1] == 'u' && end - p >= 6 && is_hex4(p + 2)) {
                p += 6;
            } else {
                break;
            }
        } else if (*p == '"') {
            *at = p + 1;
            return JSON_DONE;
        } else if (*(const signed char *)p < 0) {
            p = utf8_run(p, stop, end, &bad);
            if (p == NULL) {
                p = bad;
                break;
            }
        } else {
            break; /* a control character */
        }
    }
    *at = p;
    return JSON_BAD;
}

/* A number as a machine: what has been read so far. */
enum number_state { BEGIN, MINUS, ZERO, INTEGER, POINT, FRACTION, E, E_SIGN, EXPONENT, WRONG };

static enum number_state number_next(enum number_state s, char c)
{
    bool digit = c >= '0' && c <= '9';

    switch (s) {
    case BEGIN:
        if (c == '-')
            return MINUS;
        return digit ? (c == '0' ? ZERO : INTEGER) : WRONG;
    case MINUS:
        return digit ? (c == '0' ? ZERO : INTEGER) : WRONG;
    case ZERO:
    case INTEGER:
        if (digit)
            return s == INTEGER ? INTEGER : WRONG;
        if (c == '.')
            return POINT;
        return c == 'e' || c == 'E' ? E : WRONG;
    case POINT:
        return digit ? FRACTION : WRONG;
    case FRACTION:
        if (digit)
            return FRACTION;
        return c == 'e' || c == 'E' ? E : WRONG;
    case E:
        if (c == '+' || c == '-')
            return E_SIGN;
        return digit ? EXPONENT : WRONG;
    case E_SIGN:
    case EXPONENT:
        return digit ? EXPONENT : WRONG;
    case WRONG:
        break;
    }
    return WRONG;
}

enum json_scan json_number(const char **at, const char *stop, const char *end, uint8_t *state)
{
    enum number_state s = (enum number_state) * state, next;
    const char *p = *at;

    while (p < stop) {
        next = number_next(s, *p);
        if (next == WRONG)
            break;
        s = next;
        p++;
    }
    *at = p;
    *state = (uint8_t)s;
    if (p == stop && stop < end)
        return JSON_MORE;
    return s == ZERO || s == INTEGER || s == FRACTION || s == EXPONENT ? JSON_DONE : JSON_BAD;
}

size_t json_literal(const char *p, const char *end)
{
    size_t left = (size_t)(end - p);

    if (left >= 4 && (memcmp(p, "true", 4) == 0 || memcmp(p, "null", 4) == 0))
        return 4;
    return left >= 5 && memcmp(p, "false", 5) == 0 ? 5 : 0;
}

static uint32_t hex4(const char *p)
{
    uint32_t v = 0;

    for (int i = 0; i < 4; i++) {
        char c = p[i];

        v = v << 4 | (uint32_t)(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    return v;
}

static size_t utf8_put(char out[4], uint32_t c)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3f));
        out[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3f));
    out[2] = (char)(0x80 | (c >> 6 & 0x3f));
    out[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

/* The escape at *p (a backslash); moves *p behind it. false: half a surrogate pair. */
static bool escape_take(const char **p, const char *end, uint32_t *c)
{
    static const char plain[] = "b\bf\fn\nr\rt\t";
    const char *s = *p;
    uint32_t low;

    if (s[1] != 'u') {
        const char *found = strchr(plain, s[1]);

        *c = (unsigned char)(found != NULL ? found[1] : s[1]);
        *p = s + 2;
        return true;
    }
    *c = hex4(s + 2);
    *p = s + 6;
    if (*c < 0xd800 || *c > 0xdfff)
        return true;
    if (*c > 0xdbff || end - *p < 6 || (*p)[0] != '\\' || (*p)[1] != 'u')
        return false;
    low = hex4(*p + 2);
    if (low < 0xdc00 || low > 0xdfff)
        return false;
    *c = 0x10000 + ((*c - 0xd800) << 10) + (low - 0xdc00);
    *p += 6;
    return true;
}

bool json_unescape(const char *raw, size_t len, char *out, size_t cap, size_t *n)
{
    const char *p = raw, *end = raw + len;
    char bytes[4];
    size_t used = 0;

    while (p < end) {
        uint32_t c;
        size_t k = 1;

        if (*p != '\\') {
            bytes[0] = *p++;
        } else {
            if (!escape_take(&p, end, &c))
                return false;
            k = utf8_put(bytes, c);
        }
        if (cap - used < k)
            return false;
        memcpy(out + used, bytes, k);
        used += k;
    }
    *n = used;
    return true;
}

bool json_integer(const char *s, size_t len, int64_t *value)
{
    bool negative = len > 0 && s[0] == '-';
    uint64_t v = 0;

    for (size_t i = negative; i < len; i++) {
        if (s[i] < '0' || s[i] > '9')
            return false;
        if (v <= (uint64_t)INT64_MAX)
            v = v > (uint64_t)INT64_MAX / 10 ? UINT64_MAX : v * 10 + (uint64_t)(s[i] - '0');
    }
    if (v > (uint64_t)INT64_MAX)
        *value = negative ? INT64_MIN : INT64_MAX;
    else
        *value = negative ? -(int64_t)v : (int64_t)v;
    return len > negative;
}

bool json_is_utf8(const char *s, size_t len)
{
    const char *end = s + len, *bad;

    while (s < end) {
        if (*(const signed char *)s >= 0) {
            s++;
            continue;
        }
        s = utf8_run(s, end, end, &bad);
        if (s == NULL)
            return false;
    }
    return true;
}

/* ---- whole texts ---- */

/* What is open is a stack of one bit a container. */
struct walk {
    const char *p, *end;
    uint8_t is_object[JSON_DEPTH / 8];
    unsigned depth, limit;
};

static void skip_space(struct walk *w)
{
    while (w->p < w->end && json_is_space(*w->p))
        w->p++;
}

static bool is_next(const struct walk *w, char c)
{
    return w->p < w->end && *w->p == c;
}

static bool take(struct walk *w, char c)
{
    if (!is_next(w, c))
        return false;
    w->p++;
    return true;
}

static bool in_object(const struct walk *w)
{
    unsigned top = w->depth - 1;

    return (w->is_object[top / 8] & 1u << top % 8) != 0;
}

static void open_container(struct walk *w, bool is_object)
{
    uint8_t bit = (uint8_t)(1u << w->depth % 8);

    if (is_object)
        w->is_object[w->depth / 8] |= bit;
    else
        w->is_object[w->depth / 8] &= (uint8_t)~bit;
    w->depth++;
}

static bool take_string(struct walk *w)
{
    bool escaped;

    return take(w, '"') && json_string(&w->p, w->end, w->end, &escaped) == JSON_DONE;
}

static bool take_key(struct walk *w)
{
    skip_space(w);
    if (!take_string(w))
        return false;
    skip_space(w);
    return take(w, ':');
}

static bool take_scalar(struct walk *w)
{
    uint8_t state = 0;
    size_t n;

    if (is_next(w, '"'))
        return take_string(w);
    if (is_next(w, '-') || (w->p < w->end && *w->p >= '0' && *w->p <= '9'))
        return json_number(&w->p, w->end, w->end, &state) == JSON_DONE;
    n = json_literal(w->p, w->end);
    if (n == 0)
        return false;
    w->p += n;
    return true;
}

/* Behind a value: brackets that close, and the comma (and key) before the next value. depth is 0
 * when the outermost value is complete. */
static bool take_closings(struct walk *w)
{
    while (w->depth > 0) {
        bool is_object = in_object(w);

        skip_space(w);
        if (take(w, ','))
            return !is_object || take_key(w);
        if (!take(w, is_object ? '}' : ']'))
            return false;
        w->depth--;
    }
    return true;
}

static enum err take_value(struct walk *w)
{
    do {
        skip_space(w);
        if (is_next(w, '{') || is_next(w, '[')) {
            bool is_object = *w->p == '{';

            if (w->depth == w->limit)
                return ERR_DEPTH;
            w->p++;
            skip_space(w);
            if (!take(w, is_object ? '}' : ']')) {
                open_container(w, is_object);
                if (is_object && !take_key(w))
                    return ERR_JSON;
                continue;
            }
        } else if (!take_scalar(w)) {
            return ERR_JSON;
        }
        if (!take_closings(w))
            return ERR_JSON;
    } while (w->depth > 0);
    return ERR_OK;
}

enum err json_verify(const char *text, size_t len, size_t *err_at)
{
    struct walk w = {.p = text, .end = len > 0 ? text + len : text, .limit = JSON_DEPTH};
    enum err e = take_value(&w);

    if (e == ERR_OK) {
        skip_space(&w);
        e = w.p == w.end ? ERR_OK : ERR_JSON;
    }
    if (e != ERR_OK)
        *err_at = (size_t)(w.p - text);
    return e;
}

enum err json_skip(const char **at, const char *end, unsigned open)
{
    struct walk w = {.p = *at, .end = end, .limit = open < JSON_DEPTH ? JSON_DEPTH - open : 0};
    enum err e = take_value(&w);

    *at = w.p;
    return e;
}
