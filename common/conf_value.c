/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/conf_table.h"
#include "common/log.h"
#include "common/must.h"
#include "common/rpc.h"

/*
 * One setting: text to value, value to text.
 *
 * libyaml knows nothing but text; what a number, a time or a truth value looks like is decided
 * here, strictly: "5" for a time is 5 ms, "yes" is not a truth value, "10x" is not 10.
 */
#define ITEM_MAX 200 /* bytes of one string of a list */

static const struct word {
    enum conf_type type;
    const char *word;
    int value;
} words[] = {
#define CONF_WORD(type, word, value) {CONF_IS_##type, word, value},
#include "common/conf_enums.def"
#undef CONF_WORD
};
#define WORD_COUNT (sizeof(words) / sizeof(words[0]))

static const struct unit {
    const char *suffix;
    uint64_t times;
} time_units[] = {{"ms", 1}, {"h", 3600000}, {"m", 60000}, {"s", 1000}},
  byte_units[] = {{"G", 1u << 30}, {"M", 1u << 20}, {"K", 1u << 10}};

static void *field(const struct conf_row *row, void *base)
{
    return (char *)base + row->offset;
}

static enum err refuse(struct buf *why, const char *text, size_t len, const char *what)
{
    char quoted[80];

    buf_addf(why, "%s %s", log_quote(quoted, sizeof(quoted), text, len), what);
    return ERR_CONF;
}

static double type_max(const struct conf_row *row)
{
    if (row->type == CONF_IS_u32 || row->type == CONF_IS_ms)
        return UINT32_MAX;
    return row->type == CONF_IS_f64 ? 1e300 : 18446744073709551615.0;
}

static enum err range_check(const struct conf_row *row, double v, const char *text, size_t len,
                            struct buf *why)
{
    double max = row->max > 0 ? row->max : type_max(row);

    if (v >= row->min && v <= max)
        return ERR_OK;
    refuse(why, text, len, "is out of range: ");
    conf_range_print(row, why);
    return ERR_CONF;
}

/* A run of digits; false on overflow or none. */
static bool digits_read(const char **p, const char *end, uint64_t *out)
{
    const char *start = *p;
    uint64_t v = 0;

    for (; *p < end && **p >= '0' && **p <= '9'; (*p)++) {
        unsigned digit = (unsigned)(**p - '0');

        if (v > (UINT64_MAX - digit) / 10)
            return false;
        v = v * 10 + digit;
    }
    *out = v;
    return *p > start;
}

static bool unit_read(const char *p, size_t len, const struct unit *units, size_t count,
                      uint64_t *times)
{
    size_t i;

    for (i = 0; i < count; i++)
        if (strlen(units[i].suffix) == len && memcmp(units[i].suffix, p, len) == 0) {
            *times = units[i].times;
            return true;
        }
    return false;
}

static enum err count_set(const struct conf_row *row, void *base, const char *text, size_t len,
                          struct buf *why)
{
    bool bytes = conf_row_is_bytes(row);
    const char *p = text, *end = text + len, *form;
    uint64_t v, times = 1;

    form = bytes ? "is not a number of bytes (like 4096, 64K, 32M or 1G)"
                 : "is not a whole number of 0 or more";
    if (!digits_read(&p, end, &v))
        return refuse(why, text, len, form);
    if (p < end && (!bytes || !unit_read(p, (size_t)(end - p), byte_units, 3, &times)))
        return refuse(why, text, len, form);
    if (v > UINT64_MAX / times)
        return refuse(why, text, len, "is out of range");
    v *= times;
    if (range_check(row, (double)v, text, len, why) != ERR_OK)
        return ERR_CONF;
    if (row->type == CONF_IS_u32)
        *(uint32_t *)field(row, base) = (uint32_t)v;
    else
        *(uint64_t *)field(row, base) = v;
    return ERR_OK;
}

static enum err time_set(const struct conf_row *row, void *base, const char *text, size_t len,
                         struct buf *why)
{
    static const char form[] = "is not a time (like 250ms, 5s, 1.5m or 1h; a bare number is ms)";
    const char *p = text, *end = text + len;
    uint64_t whole, part = 0, scale = 1, times = 1, v;

    if (!digits_read(&p, end, &whole) || whole > UINT32_MAX)
        return refuse(why, text, len, form);
    if (p < end && *p == '.') {
        const char *start = ++p;

        if (!digits_read(&p, end, &part) || p - start > 6)
            return refuse(why, text, len, form);
        for (; start < p; start++)
            scale *= 10;
    }
    if (p < end && !unit_read(p, (size_t)(end - p), time_units, 4, &times))
        return refuse(why, text, len, form);
    if (part * times % scale != 0)
        return refuse(why, text, len, "is not a whole number of milliseconds");
    v = whole * times + part * times / scale;
    if (range_check(row, (double)v, text, len, why) != ERR_OK)
        return ERR_CONF;
    *(uint32_t *)field(row, base) = (uint32_t)v;
    return ERR_OK;
}

static enum err float_set(const struct conf_row *row, void *base, const char *text, size_t len,
                          struct buf *why)
{
    char copy[48], *end;
    double v;

    if (len == 0 || len >= sizeof(copy) || strspn(text, "0123456789.") < 1 ||
        strspn(text, "0123456789.eE+-") != len)
        return refuse(why, text, len, "is not a number of 0 or more");
    memcpy(copy, text, len);
    copy[len] = '\0';
    v = strtod(copy, &end);
    if (*end != '\0' || end == copy || !isfinite(v))
        return refuse(why, text, len, "is not a number of 0 or more");
    if (range_check(row, v, text, len, why) != ERR_OK)
        return ERR_CONF;
    *(double *)field(row, base) = v;
    return ERR_OK;
}

static enum err flag_set(const struct conf_row *row, void *base, const char *text, size_t len,
                         struct buf *why)
{
    bool on = len == 4 && memcmp(text, "true", 4) == 0;

    if (!on && (len != 5 || memcmp(text, "false", 5) != 0))
        return refuse(why, text, len, "is neither true nor false");
    *(bool *)field(row, base) = on;
    return ERR_OK;
}

static enum err word_set(const struct conf_row *row, void *base, const char *text, size_t len,
                         struct buf *why)
{
    size_t i;

    for (i = 0; i < WORD_COUNT; i++)
        if (words[i].type == row->type && strlen(words[i].word) == len &&
            memcmp(words[i].word, text, len) == 0) {
            *(int *)field(row, base) = words[i].value;
            return ERR_OK;
        }
    refuse(why, text, len, "is none of ");
    conf_words_print(row, why);
    return ERR_CONF;
}

/* Control characters, line separators and non-characters have no place in a setting, and would not
 * survive conf_print(). The text is UTF-8: libyaml has seen to that. */
static bool text_is_plain(const char *text, size_t len)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t i;

    for (i = 0; i < len; i++) {
        unsigned char b = i + 1 < len ? s[i + 1] : 0, c = i + 2 < len ? s[i + 2] : 0;

        if (s[i] < 0x20 || s[i] == 0x7f)
            return false;
        if (s[i] == 0xc2 && b < 0xa0)
            return false;
        if (s[i] == 0xe2 && b == 0x80 && (c == 0xa8 || c == 0xa9))
            return false;
        if (s[i] == 0xef && ((b == 0xbb && c == 0xbf) || (b == 0xbf && c >= 0xbe)))
            return false;
    }
    return true;
}

static enum err string_check(const char *text, size_t len, double min, double max, struct buf *why)
{
    if (!text_is_plain(text, len))
        return refuse(why, text, len, "has control characters");
    if ((double)len < min)
        return refuse(why, text, len, "is too short");
    if ((double)len > max) {
        refuse(why, text, len, "is too long: ");
        buf_addf(why, "at most %.0f bytes", max);
        return ERR_CONF;
    }
    return ERR_OK;
}

static enum err string_set(const struct conf_row *row, void *base, const char *text, size_t len,
                           struct buf *why)
{
    char **at = field(row, base), *copy;

    if (string_check(text, len, row->min, row->max, why) != ERR_OK)
        return ERR_CONF;
    copy = strndup(text, len);
    must(copy != NULL);
    free(*at);
    *at = copy;
    return ERR_OK;
}

static enum err list_add(const struct conf_row *row, void *base, const char *text, size_t len,
                         struct buf *why)
{
    struct conf_list *list = field(row, base);

    if (string_check(text, len, 1, ITEM_MAX, why) != ERR_OK)
        return ERR_CONF;
    list->items = realloc(list->items, (list->count + 1) * sizeof(*list->items));
    must(list->items != NULL);
    list->items[list->count] = strndup(text, len);
    must(list->items[list->count] != NULL);
    list->count++;
    return ERR_OK;
}

enum err conf_value_set(const struct conf_row *row, void *base, const char *text, size_t len,
                        struct buf *why)
{
    switch (row->type) {
    case CONF_IS_u32:
    case CONF_IS_u64:
        return count_set(row, base, text, len, why);
    case CONF_IS_ms:
        return time_set(row, base, text, len, why);
    case CONF_IS_f64:
        return float_set(row, base, text, len, why);
    case CONF_IS_flag:
        return flag_set(row, base, text, len, why);
    case CONF_IS_str:
        return string_set(row, base, text, len, why);
    case CONF_IS_list:
        return list_add(row, base, text, len, why);
    case CONF_IS_channel:
    case CONF_IS_level:
    case CONF_IS_usage:
    case CONF_IS_overflow:
    case CONF_IS_store:
        return word_set(row, base, text, len, why);
    }
    return ERR_BUG;
}

/* The table's default without its C quotes. */
static const char *default_text(const struct conf_row *row, size_t *len)
{
    *len = strlen(row->dflt);
    if (*len < 2 || row->dflt[0] != '"')
        return row->dflt;
    *len -= 2;
    return row->dflt + 1;
}

void conf_value_default(const struct conf_row *row, void *base)
{
    struct buf why = {0};
    const char *text;
    size_t len;

    text = default_text(row, &len);
    if (row->type == CONF_IS_str) {
        /* "" where one is required: the loader asks for it afterwards. */
        char **at = field(row, base);

        free(*at);
        *at = strndup(text, len);
        must(*at != NULL);
        return;
    }
    if (row->type == CONF_IS_list && len == 0)
        return;
    must(conf_value_set(row, base, text, len, &why) == ERR_OK);
    buf_fini(&why);
}

void conf_value_free(const struct conf_row *row, void *base)
{
    size_t i;

    if (row->type == CONF_IS_str) {
        char **at = field(row, base);

        free(*at);
        *at = NULL;
    }
    if (row->type == CONF_IS_list) {
        struct conf_list *list = field(row, base);

        for (i = 0; i < list->count; i++)
            free(list->items[i]);
        free(list->items);
        *list = (struct conf_list){0};
    }
}

static void print_scaled(uint64_t v, const struct unit *units, size_t count, struct buf *out)
{
    const struct unit *best = NULL;
    size_t i;

    for (i = 0; i < count; i++)
        if (v != 0 && v % units[i].times == 0 && (best == NULL || units[i].times > best->times))
            best = &units[i];
    buf_addf(out, "%llu%s", (unsigned long long)(best != NULL ? v / best->times : v),
             best != NULL ? best->suffix : "");
}

static void print_number(const struct conf_row *row, uint64_t v, struct buf *out)
{
    if (row->type == CONF_IS_ms)
        print_scaled(v, time_units, 4, out);
    else if (conf_row_is_bytes(row))
        print_scaled(v, byte_units, 3, out);
    else
        buf_addf(out, "%llu", (unsigned long long)v);
}

static void print_float(double v, struct buf *out)
{
    char text[40];
    int digits;

    for (digits = 6; digits < 18; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, v);
        if (strtod(text, NULL) == v)
            break;
    }
    buf_adds(out, text);
}

static void print_list(const struct conf_list *list, struct buf *out)
{
    size_t i;

    buf_adds(out, "[");
    for (i = 0; i < list->count; i++) {
        buf_adds(out, i > 0 ? ", " : "");
        buf_add_json(out, list->items[i], strlen(list->items[i]));
    }
    buf_adds(out, "]");
}

static const char *word_of(const struct conf_row *row, int value)
{
    size_t i;

    for (i = 0; i < WORD_COUNT; i++)
        if (words[i].type == row->type && words[i].value == value)
            break;
    must(i < WORD_COUNT);
    return words[i].word;
}

void conf_value_print(const struct conf_row *row, const void *base, struct buf *out)
{
    const void *at = (const char *)base + row->offset;

    switch (row->type) {
    case CONF_IS_u32:
    case CONF_IS_ms:
        print_number(row, *(const uint32_t *)at, out);
        break;
    case CONF_IS_u64:
        print_number(row, *(const uint64_t *)at, out);
        break;
    case CONF_IS_f64:
        print_float(*(const double *)at, out);
        break;
    case CONF_IS_flag:
        buf_adds(out, *(const bool *)at ? "true" : "false");
        break;
    case CONF_IS_str: {
        const char *s = *(char *const *)at;

        buf_add_json(out, s, strlen(s));
        break;
    }
    case CONF_IS_list:
        print_list(at, out);
        break;
    case CONF_IS_channel:
    case CONF_IS_level:
    case CONF_IS_usage:
    case CONF_IS_overflow:
    case CONF_IS_store:
        buf_adds(out, word_of(row, *(const int *)at));
        break;
    }
}

void conf_range_print(const struct conf_row *row, struct buf *out)
{
    switch (row->type) {
    case CONF_IS_u32:
    case CONF_IS_u64:
    case CONF_IS_ms:
        if (row->max > 0) {
            print_number(row, (uint64_t)row->min, out);
            buf_adds(out, " to ");
            print_number(row, (uint64_t)row->max, out);
        } else if (row->min > 0) {
            buf_adds(out, "at least ");
            print_number(row, (uint64_t)row->min, out);
        }
        break;
    case CONF_IS_f64:
        print_float(row->min, out);
        buf_adds(out, " to ");
        print_float(row->max, out);
        break;
    case CONF_IS_str:
        buf_addf(out, "%.0f to %.0f bytes", row->min, row->max);
        break;
    case CONF_IS_list:
        buf_addf(out, "%.0f to %.0f items", row->min, row->max);
        break;
    case CONF_IS_flag:
    case CONF_IS_channel:
    case CONF_IS_level:
    case CONF_IS_usage:
    case CONF_IS_overflow:
    case CONF_IS_store:
        break;
    }
}

void conf_words_print(const struct conf_row *row, struct buf *out)
{
    size_t i, left = 0;

    for (i = 0; i < WORD_COUNT; i++)
        left += words[i].type == row->type;
    for (i = 0; i < WORD_COUNT; i++) {
        if (words[i].type != row->type)
            continue;
        left--;
        buf_addf(out, "%s%s", words[i].word, left > 1 ? ", " : left == 1 ? " or " : "");
    }
}

void conf_default_print(const struct conf_row *row, struct buf *out)
{
    size_t len;
    const char *text = default_text(row, &len);

    if (row->type == CONF_IS_str) {
        buf_add_json(out, text, len);
    } else if (row->type == CONF_IS_list) {
        buf_adds(out, "[");
        if (len > 0)
            buf_add_json(out, text, len);
        buf_adds(out, "]");
    } else {
        buf_add(out, text, len);
    }
}
