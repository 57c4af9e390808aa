/* SPDX-License-Identifier: Apache-2.0 */
#include "common/policy_spec.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/must.h"

static const struct policy_row {
    const char *name, *help;
    bool single;
} policy_rows[] = {
#define POLICY(symbol, name, single, help) {name, help, single},
#include "common/policies.def"
};

static const struct option_row {
    enum policy_symbol symbol;
    const char *key, *dflt;
    double min, max;
    const char *words, *help;
} option_rows[] = {
#define OPTION(symbol, key, dflt, min, max, words, help) \
    {POLICY_##symbol, key, dflt, min, max, words, help},
#include "common/policies.def"
    {POLICY_COUNT, "", "", 0, 0, "", ""},
};

static const struct option_row *option_find(enum policy_symbol symbol, const char *key)
{
    for (const struct option_row *o = option_rows; o->symbol != POLICY_COUNT; o++)
        if (o->symbol == symbol && strcmp(o->key, key) == 0)
            return o;
    return NULL;
}

static bool word_is_listed(const char *words, const char *word)
{
    size_t len = strlen(word);

    while (*words != '\0') {
        size_t n = strcspn(words, "|");

        if (n == len && memcmp(words, word, n) == 0)
            return true;
        words += n + (words[n] == '|');
    }
    return false;
}

static bool number_parse(const char *text, double *out)
{
    char *end;

    if (strchr("0123456789.-", *text) == NULL || *text == '\0' || strpbrk(text, "xX") != NULL)
        return false;
    *out = strtod(text, &end);
    return *end == '\0' && end != text && isfinite(*out);
}

static __attribute__((format(printf, 3, 4))) enum err refuse(char *why, size_t size,
                                                             const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(why, size, fmt, ap);
    va_end(ap);
    return ERR_CONF;
}

static void option_keys(enum policy_symbol symbol, struct buf *out)
{
    for (const struct option_row *o = option_rows; o->symbol != POLICY_COUNT; o++)
        if (o->symbol == symbol)
            buf_addf(out, "%s%s", out->len > 0 ? ", " : "", o->key);
}

static enum err refuse_key(enum policy_symbol symbol, const char *key, char *why, size_t size)
{
    struct buf known = {0};

    option_keys(symbol, &known);
    refuse(why, size, "policy %s has no option \"%s\"%s%s%s", policy_rows[symbol].name, key,
           known.len > 0 ? " (it has " : "", known.len > 0 ? buf_cstr(&known) : "",
           known.len > 0 ? ")" : "");
    buf_fini(&known);
    return ERR_CONF;
}

/* One option; at: where it starts in split, NUL-terminated. */
static enum err option_parse(struct policy_spec *s, size_t at, char *why, size_t size)
{
    const char *name = policy_rows[s->symbol].name;
    struct spec_option *o = &s->options[s->count];
    char *key = s->split + at, *value = strchr(key, '=');
    const struct option_row *row;

    if (value != NULL)
        *value++ = '\0';
    row = option_find((enum policy_symbol)s->symbol, key);
    if (row == NULL)
        return refuse_key((enum policy_symbol)s->symbol, key, why, size);
    if (spec_has(s, key))
        return refuse(why, size, "option %s of policy %s is given twice", key, name);
    if (s->count == SPEC_OPTIONS_MAX)
        return refuse(why, size, "policy %s: too many options", name);
    *o = (struct spec_option){.key = (uint8_t)at, .is_number = true, .number = 1};
    o->value = (uint8_t)(value != NULL ? value - s->split : key + strlen(key) - s->split);
    if (value != NULL)
        o->is_number = number_parse(value, &o->number);
    if (o->is_number ? o->number < row->min || o->number > row->max
                     : !word_is_listed(row->words, value)) {
        if (row->min > row->max)
            return refuse(why, size, "option %s of policy %s is one of %s", key, name, row->words);
        return refuse(why, size, "option %s of policy %s is a number from %g to %g%s%s", key, name,
                      row->min, row->max, *row->words != '\0' ? ", or " : "", row->words);
    }
    s->count++;
    return ERR_OK;
}

/* The longest name of the table that text starts with, up to its end or a colon. */
static enum policy_symbol symbol_find(const char *text, size_t *len)
{
    enum policy_symbol best = POLICY_COUNT;

    *len = 0;
    for (unsigned i = 0; i < POLICY_COUNT; i++) {
        size_t n = strlen(policy_rows[i].name);

        if (n <= *len || strncmp(text, policy_rows[i].name, n) != 0 ||
            (text[n] != '\0' && text[n] != ':'))
            continue;
        best = (enum policy_symbol)i;
        *len = n;
    }
    return best;
}

static enum err refuse_name(const char *text, char *why, size_t size)
{
    struct buf known = {0};

    spec_names(&known);
    refuse(why, size, "no policy \"%.*s\" (there are %s)", (int)strcspn(text, ":"), text,
           buf_cstr(&known));
    buf_fini(&known);
    return ERR_CONF;
}

enum err spec_parse(const char *text, struct policy_spec *out, char *why, size_t size)
{
    struct policy_spec s = {0};
    enum policy_symbol symbol;
    size_t at, len = strlen(text);
    enum err err = ERR_OK;

    if (len > SPEC_MAX)
        return refuse(why, size, "a policy has at most %u characters", SPEC_MAX);
    symbol = symbol_find(text, &at);
    if (symbol == POLICY_COUNT)
        return refuse_name(text, why, size);
    s.symbol = (uint8_t)symbol;
    memcpy(s.text, text, len + 1);
    memcpy(s.split, text, len + 1);
    while (err == ERR_OK && at < len) { /* at: a colon */
        size_t n = strcspn(text + at + 1, ":");

        s.split[at + 1 + n] = '\0';
        err = option_parse(&s, at + 1, why, size);
        at += 1 + n;
    }
    if (err == ERR_OK)
        *out = s;
    return err;
}

const char *spec_name(const struct policy_spec *s)
{
    return policy_rows[s->symbol].name;
}

bool spec_is_single(const struct policy_spec *s)
{
    return policy_rows[s->symbol].single;
}

static const struct spec_option *spec_find(const struct policy_spec *s, const char *key)
{
    for (unsigned i = 0; i < s->count; i++)
        if (strcmp(s->split + s->options[i].key, key) == 0)
            return &s->options[i];
    return NULL;
}

bool spec_has(const struct policy_spec *s, const char *key)
{
    return spec_find(s, key) != NULL;
}

double spec_f64(const struct policy_spec *s, const char *key, double dflt)
{
    const struct spec_option *o = spec_find(s, key);

    return o != NULL && o->is_number ? o->number : dflt;
}

const char *spec_str(const struct policy_spec *s, const char *key, const char *dflt)
{
    const struct spec_option *o = spec_find(s, key);

    return o != NULL ? s->split + o->value : dflt;
}

double spec_number(const struct policy_spec *s, const char *key)
{
    const struct option_row *row = option_find((enum policy_symbol)s->symbol, key);
    double dflt;

    must(row != NULL);
    if (!number_parse(row->dflt, &dflt))
        dflt = 0;
    return spec_f64(s, key, dflt);
}

/* ---- the printed page ---- */

void spec_names(struct buf *out)
{
    const char *between = "";

    for (unsigned i = 0; i < POLICY_COUNT; i++) {
        buf_addf(out, "%s%s", between, policy_rows[i].name);
        between = ", ";
    }
}

static void words_print(const char *words, const char *between, struct buf *out)
{
    while (*words != '\0') {
        size_t n = strcspn(words, "|");

        buf_addf(out, "%s`%.*s`", between, (int)n, words);
        between = ", ";
        words += n + (words[n] == '|');
    }
}

static void options_print(enum policy_symbol symbol, struct buf *out)
{
    for (const struct option_row *o = option_rows; o->symbol != POLICY_COUNT; o++) {
        if (o->symbol != symbol)
            continue;
        buf_addf(out, "| `%s` | %s | ", o->key, o->dflt);
        if (o->min <= o->max)
            buf_addf(out, "%.10g to %.10g", o->min, o->max);
        words_print(o->words, o->min <= o->max ? ", " : "", out);
        buf_addf(out, " | %s |\n", o->help);
    }
}

void spec_reference(struct buf *out)
{
    buf_adds(out, "# Policies\n\n"
                  "How requests are placed: the settings `policy` and `default_policy`. "
                  "A policy is written `name[:key=value]...`; a key without "
                  "a value means 1. What each of them computes: [policies.md](../policies.md).\n\n"
                  "Printed from the table `common/policies.def`.\n\n"
                  "| policy | what it does |\n|---|---|\n");
    for (unsigned i = 0; i < POLICY_COUNT; i++)
        buf_addf(out, "| `%s` | %s |\n", policy_rows[i].name, policy_rows[i].help);
    for (unsigned i = 0; i < POLICY_COUNT; i++) {
        struct buf keys = {0};

        option_keys((enum policy_symbol)i, &keys);
        if (keys.len > 0) {
            buf_addf(out, "\n## %s\n\n| option | default | values | meaning |\n|---|---|---|---|\n",
                     policy_rows[i].name);
            options_print((enum policy_symbol)i, out);
        }
        buf_fini(&keys);
    }
}
