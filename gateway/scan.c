/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/scan.h"

#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum place { BETWEEN, IN_STRING, IN_SCALAR };

/* Which container this is. All that is not on the list is dull and only counted. */
enum zone {
    ZONE_ROOT,
    ZONE_CHOICES,     /* the array */
    ZONE_CHOICE,      /* one of them */
    ZONE_DELTA,       /* its delta */
    ZONE_DELTA_VALUE, /* a container in there: tool calls */
    ZONE_HOLDER,      /* "message" of Anthropic's first event, "response" of the Responses API */
    ZONE_USAGE,
    ZONE_DETAILS, /* of the prompt tokens */
    ZONE_DULL
};

/* K(n, key, text) for each key of interest; n is passed on. */
#define KEYS(K, n)                                    \
    K(n, KEY_CHOICES, "choices")                      \
    K(n, KEY_USAGE, "usage")                          \
    K(n, KEY_ERROR, "error")                          \
    K(n, KEY_TYPE, "type")                            \
    K(n, KEY_STOP_REASON, "stop_reason")              \
    K(n, KEY_MESSAGE, "message")                      \
    K(n, KEY_RESPONSE, "response")                    \
    K(n, KEY_DELTA, "delta")                          \
    K(n, KEY_TEXT, "text")                            \
    K(n, KEY_ROLE, "role")                            \
    K(n, KEY_FINISH_REASON, "finish_reason")          \
    K(n, KEY_PROMPT_TOKENS, "prompt_tokens")          \
    K(n, KEY_INPUT_TOKENS, "input_tokens")            \
    K(n, KEY_COMPLETION_TOKENS, "completion_tokens")  \
    K(n, KEY_OUTPUT_TOKENS, "output_tokens")          \
    K(n, KEY_CACHE_READ, "cache_read_input_tokens")   \
    K(n, KEY_PROMPT_DETAILS, "prompt_tokens_details") \
    K(n, KEY_INPUT_DETAILS, "input_tokens_details")   \
    K(n, KEY_CACHED_TOKENS, "cached_tokens")

enum key {
    KEY_OTHER,
#define NAME(n, key, text) key,
    KEYS(NAME, 0)
#undef NAME
        KEY_COUNT
};

#define KEY_LEN_MAX 23u

static const char *const keys[KEY_COUNT] = {
#define ROW(n, key, text) [key] = text,
    KEYS(ROW, 0)
#undef ROW
};

/* Which keys have that many characters: most that come by are none of them. */
static const uint32_t keys_of_len[KEY_LEN_MAX + 1] = {
#define BIT(n, key, text) | (sizeof(text) - 1 == (n) ? 1u << (key) : 0)
#define OF(n) [n] = 0 KEYS(BIT, n)
    OF(4),  OF(5),  OF(6),  OF(7),  OF(8),  OF(9),  OF(10), OF(11), OF(12), OF(13),
    OF(14), OF(15), OF(16), OF(17), OF(18), OF(19), OF(20), OF(21), OF(22), OF(23),
#undef OF
#undef BIT
};
#define FITS(n, key, text) &&sizeof(text) - 1 >= 4 && sizeof(text) - 1 <= KEY_LEN_MAX
_Static_assert(KEY_COUNT <= 32 KEYS(FITS, 0), "a row of keys_of_len[] for each key");
#undef FITS

void scan_start(struct scan *s)
{
    memset(s, 0, offsetof(struct scan, word));
}

static enum zone zone_of(enum zone up, enum key key)
{
    switch (up) {
    case ZONE_ROOT:
        if (key == KEY_CHOICES)
            return ZONE_CHOICES;
        if (key == KEY_USAGE)
            return ZONE_USAGE;
        return key == KEY_MESSAGE || key == KEY_RESPONSE ? ZONE_HOLDER : ZONE_DULL;
    case ZONE_CHOICES:
        return ZONE_CHOICE;
    case ZONE_CHOICE:
        return key == KEY_DELTA ? ZONE_DELTA : ZONE_DULL;
    case ZONE_DELTA:
        return key == KEY_ROLE ? ZONE_DULL : ZONE_DELTA_VALUE;
    case ZONE_HOLDER:
        return key == KEY_USAGE ? ZONE_USAGE : ZONE_DULL;
    case ZONE_USAGE:
        return key == KEY_PROMPT_DETAILS || key == KEY_INPUT_DETAILS ? ZONE_DETAILS : ZONE_DULL;
    case ZONE_DELTA_VALUE:
    case ZONE_DETAILS:
    case ZONE_DULL:
        break;
    }
    return ZONE_DULL;
}

static void container_begin(struct scan *s, bool is_object)
{
    enum zone up, zone = is_object ? ZONE_ROOT : ZONE_DULL;
    enum key key;

    if (s->level_count > 0) {
        up = (enum zone)s->levels[s->level_count - 1].zone;
        key = (enum key)s->levels[s->level_count - 1].key;
        zone = zone_of(up, key);
        if (up == ZONE_CHOICES)
            s->has_choice = true;
        if (up == ZONE_DELTA_VALUE)
            s->is_token = true;
        if (up == ZONE_ROOT && key == KEY_ERROR)
            s->is_error = true;
        if (zone == ZONE_CHOICES)
            s->has_choices = true;
        if (zone == ZONE_USAGE)
            s->has_usage = true;
    }
    if (zone == ZONE_DULL || s->level_count == SCAN_LEVELS) {
        s->dull = 1;
        return;
    }
    s->levels[s->level_count].zone = (uint8_t)zone;
    s->levels[s->level_count].key = KEY_OTHER;
    s->levels[s->level_count].is_object = is_object;
    s->level_count++;
    s->expects_key = is_object;
}

/* A string's bytes: in the piece where it is whole there, else as kept in s->word. */
struct word {
    const char *at;
    size_t len;
};

static bool word_ends(struct word w, const char *tail)
{
    size_t n = strlen(tail);

    return w.len <= SCAN_WORD && w.len >= n && memcmp(w.at + w.len - n, tail, n) == 0;
}

static bool word_is(struct word w, const char *word)
{
    return w.len == strlen(word) && word_ends(w, word);
}

/* The value of a top-level "type". */
static void type_take(struct scan *s, struct word w)
{
    s->has_type = true;
    if (word_ends(w, "delta"))
        s->is_token = true;
    if (word_is(w, "error"))
        s->is_error = true;
    if (word_is(w, "message_stop") || word_is(w, "response.completed") ||
        word_is(w, "response.incomplete") || word_is(w, "response.failed"))
        s->is_finished = true;
}

/* A string, number or literal where levels[] says it stands. */
static void value_take(struct scan *s, bool is_string, struct word w)
{
    enum key key;
    bool is_null = !is_string && s->scalar == 'n';
    bool is_something = is_string ? w.len > 0 : !is_null;

    if (s->level_count == 0)
        return;
    key = (enum key)s->levels[s->level_count - 1].key;
    switch ((enum zone)s->levels[s->level_count - 1].zone) {
    case ZONE_ROOT:
        if (key == KEY_TYPE && is_string)
            type_take(s, w);
        if (key == KEY_ERROR && !is_null)
            s->is_error = true;
        if (key == KEY_STOP_REASON && !is_null)
            s->is_finished = true;
        break;
    case ZONE_CHOICES:
        s->has_choice = true;
        break;
    case ZONE_CHOICE:
        if (key == KEY_TEXT && is_something)
            s->is_token = true;
        if (key == KEY_FINISH_REASON && !is_null)
            s->is_token = s->is_finished = true;
        break;
    case ZONE_DELTA:
        if (key != KEY_ROLE && is_something)
            s->is_token = true;
        break;
    case ZONE_DELTA_VALUE:
        s->is_token = true;
        break;
    case ZONE_HOLDER:
    case ZONE_USAGE:
    case ZONE_DETAILS:
    case ZONE_DULL:
        break;
    }
}

static void number_take(struct scan *s, struct tap_usage *u)
{
    uint32_t v = s->number > UINT32_MAX ? UINT32_MAX : (uint32_t)s->number;
    enum zone zone;
    enum key key;

    if (!s->is_integer || s->level_count == 0)
        return;
    zone = (enum zone)s->levels[s->level_count - 1].zone;
    key = (enum key)s->levels[s->level_count - 1].key;
    if (zone != ZONE_USAGE && zone != ZONE_DETAILS)
        return;
    if (zone == ZONE_DETAILS ? key == KEY_CACHED_TOKENS : key == KEY_CACHE_READ) {
        u->cached_tokens = v;
        u->has_cached = true;
    } else if (zone == ZONE_USAGE && (key == KEY_PROMPT_TOKENS || key == KEY_INPUT_TOKENS)) {
        u->prompt_tokens = v;
        u->has_usage = true;
    } else if (zone == ZONE_USAGE && (key == KEY_COMPLETION_TOKENS || key == KEY_OUTPUT_TOKENS)) {
        u->completion_tokens = v;
        u->has_usage = true;
    }
}

static void key_take(struct scan *s, struct word w)
{
    uint32_t some = w.len <= KEY_LEN_MAX ? keys_of_len[w.len] : 0;
    enum key key = KEY_OTHER;

    for (; some != 0; some &= some - 1) {
        enum key k = (enum key)__builtin_ctz(some);

        if (keys[k][0] == w.at[0] && memcmp(keys[k], w.at, w.len) == 0)
            key = k;
    }
    s->levels[s->level_count - 1].key = (uint8_t)key;
}

#ifdef __SSE2__
static inline __m128i quotes_and_slashes(const char *p)
{
    __m128i x = _mm_loadu_si128((const __m128i *)(const void *)p);

    return _mm_or_si128(_mm_cmpeq_epi8(x, _mm_set1_epi8('"')),
                        _mm_cmpeq_epi8(x, _mm_set1_epi8('\\')));
}
#endif

/* To the next quote or backslash, or a few bytes before the end. */
static const char *string_skip(const char *p, const char *end)
{
#ifdef __SSE2__
    for (; end - p >= 64; p += 64) {
        __m128i low = _mm_or_si128(quotes_and_slashes(p), quotes_and_slashes(p + 16));
        __m128i high = _mm_or_si128(quotes_and_slashes(p + 32), quotes_and_slashes(p + 48));

        if (_mm_movemask_epi8(_mm_or_si128(low, high)) != 0)
            break;
    }
    while (end - p >= 16) {
        unsigned mask = (unsigned)_mm_movemask_epi8(quotes_and_slashes(p));

        if (mask != 0)
            return p + __builtin_ctz(mask);
        p += 16;
    }
#endif
    while (p < end && *p != '"' && *p != '\\')
        p++;
    return p;
}

static void word_add(struct scan *s, const char *p, size_t n)
{
    if (s->word_len < SCAN_WORD) {
        size_t room = SCAN_WORD - s->word_len;

        memcpy(s->word + s->word_len, p, n < room ? n : room);
    }
    s->word_len = n > UINT32_MAX - s->word_len ? UINT32_MAX : s->word_len + (uint32_t)n;
}

static void string_end(struct scan *s, struct word w)
{
    if (s->is_key)
        key_take(s, w);
    else
        value_take(s, true, w);
}

static const char *string_go_on(struct scan *s, const char *p, const char *end)
{
    const char *next;

    if (s->after_slash) {
        s->after_slash = false;
        word_add(s, p, 1);
        return p + 1;
    }
    next = string_skip(p, end);
    if (next < end && *next == '"' && s->word_len == 0) {
        s->place = BETWEEN;
        if (s->dull == 0)
            string_end(s, (struct word){p, (size_t)(next - p)});
        return next + 1;
    }
    if (s->dull == 0)
        word_add(s, p, (size_t)(next - p));
    if (next == end)
        return end;
    if (*next == '\\') {
        if (s->dull == 0)
            word_add(s, next, 1);
        s->after_slash = true;
        return next + 1;
    }
    s->place = BETWEEN;
    if (s->dull == 0)
        string_end(s, (struct word){s->word, s->word_len});
    return next + 1;
}

static const bool ends_scalar[256] = {
    [','] = true,  ['}'] = true, [']'] = true, [' '] = true, ['\n'] = true, ['\r'] = true,
    ['\t'] = true, ['"'] = true, [':'] = true, ['{'] = true, ['['] = true};

static const char *scalar_go_on(struct scan *s, struct tap_usage *u, const char *p, const char *end)
{
    uint64_t number = s->number;

    for (; p < end && *p >= '0' && *p <= '9'; p++)
        if (number <= UINT32_MAX)
            number = number * 10 + (uint64_t)(*p - '0');
    s->number = number;
    for (; p < end && !ends_scalar[(unsigned char)*p]; p++)
        s->is_integer = false;
    if (p < end) {
        s->place = BETWEEN;
        value_take(s, false, (struct word){NULL, 0});
        number_take(s, u);
    }
    return p;
}

/* Over all that is neither a string nor a bracket. */
static const char *dull_skip(const char *p, const char *end)
{
#ifdef __SSE2__
    while (end - p >= 16) {
        __m128i x = _mm_loadu_si128((const __m128i *)(const void *)p);
        __m128i folded = _mm_or_si128(x, _mm_set1_epi8(0x20)); /* [ ] become { } */
        unsigned mask = (unsigned)_mm_movemask_epi8(
            _mm_or_si128(_mm_cmpeq_epi8(x, _mm_set1_epi8('"')),
                         _mm_or_si128(_mm_cmpeq_epi8(folded, _mm_set1_epi8('{')),
                                      _mm_cmpeq_epi8(folded, _mm_set1_epi8('}')))));

        if (mask != 0)
            return p + __builtin_ctz(mask);
        p += 16;
    }
#endif
    while (p < end && *p != '"' && (*p | 0x20) != '{' && (*p | 0x20) != '}')
        p++;
    return p;
}

static void string_begin(struct scan *s)
{
    s->place = IN_STRING;
    s->is_key = s->expects_key;
    s->after_slash = false;
    s->word_len = 0;
}

static const char *dull_go_on(struct scan *s, const char *p, const char *end)
{
    p = dull_skip(p, end);
    if (p == end)
        return end;
    if (*p == '"')
        string_begin(s);
    else if ((*p | 0x20) == '{')
        s->dull += s->dull < UINT32_MAX;
    else if (--s->dull == 0)
        s->expects_key = false;
    return p + 1;
}

/* To where a string or scalar begins, or a dull part. */
static const char *between_go_on(struct scan *s, const char *p, const char *end)
{
    for (; p < end; p++) {
        switch (*p) {
        case ' ':
        case '\n':
        case '\r':
        case '\t':
            break;
        case '{':
        case '[':
            container_begin(s, *p == '{');
            if (s->dull > 0)
                return p + 1;
            break;
        case '}':
        case ']':
            if (s->level_count > 0)
                s->level_count--;
            s->expects_key = false;
            break;
        case ',':
            s->expects_key = s->level_count > 0 && s->levels[s->level_count - 1].is_object;
            break;
        case ':':
            s->expects_key = false;
            break;
        case '"':
            string_begin(s);
            return p + 1;
        default:
            s->place = IN_SCALAR;
            s->scalar = *p;
            s->number = 0;
            s->is_integer = *p >= '0' && *p <= '9';
            return p; /* scalar_go_on() reads it again */
        }
    }
    return p;
}

void scan_feed(struct scan *s, struct tap_usage *u, const char *p, size_t n)
{
    const char *end = p + n;

    while (p < end) {
        if (s->place == IN_STRING)
            p = string_go_on(s, p, end);
        else if (s->place == IN_SCALAR)
            p = scalar_go_on(s, u, p, end);
        else if (s->dull > 0)
            p = dull_go_on(s, p, end);
        else
            p = between_go_on(s, p, end);
    }
}

/* at: behind a quote. */
static bool is_telling(const char *at, const char *end)
{
    static const char *const telling[] = {"usage\"", "error\"", "type\"", "message\"",
                                          "response\""};
    size_t left = (size_t)(end - at);

    for (size_t i = 0; i < sizeof(telling) / sizeof(telling[0]); i++) {
        size_t n = strlen(telling[i]);

        if (telling[i][0] != *at || left < n || memcmp(at, telling[i], n) != 0)
            continue;
        return i != 0 || left < n + 5 || memcmp(at + n, ":null", 5) != 0;
    }
    return false;
}

static bool is_first_letter(char c)
{
    return c == 'u' || c == 'e' || c == 't' || c == 'm' || c == 'r';
}

bool scan_may_tell(const char *p, size_t n)
{
    const char *end = p + n;

#ifdef __SSE2__
    const __m128i quote = _mm_set1_epi8('"'), cr = _mm_set1_epi8('\r');

    for (; end - p >= 17; p += 16) {
        __m128i x = _mm_loadu_si128((const __m128i *)(const void *)p);
        __m128i y = _mm_loadu_si128((const __m128i *)(const void *)(p + 1));
        __m128i first =
            _mm_or_si128(_mm_or_si128(_mm_cmpeq_epi8(y, _mm_set1_epi8('u')),
                                      _mm_cmpeq_epi8(y, _mm_set1_epi8('e'))),
                         _mm_or_si128(_mm_cmpeq_epi8(y, _mm_set1_epi8('t')),
                                      _mm_or_si128(_mm_cmpeq_epi8(y, _mm_set1_epi8('m')),
                                                   _mm_cmpeq_epi8(y, _mm_set1_epi8('r')))));
        unsigned mask = (unsigned)_mm_movemask_epi8(
            _mm_or_si128(_mm_and_si128(_mm_cmpeq_epi8(x, quote), first), _mm_cmpeq_epi8(x, cr)));

        for (; mask != 0; mask &= mask - 1) {
            const char *at = p + __builtin_ctz(mask);

            if (*at == '\r' || is_telling(at + 1, end))
                return true;
        }
    }
#endif
    for (; p < end; p++)
        if (*p == '\r' ||
            (*p == '"' && end - p > 1 && is_first_letter(p[1]) && is_telling(p + 1, end)))
            return true;
    return false;
}
