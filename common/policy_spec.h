/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_POLICY_SPEC_H
#define SLIP_POLICY_SPEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"

/*
 * A policy as settings name it: name[:key=value]..., checked against policies.def. A name may hold
 * a colon itself ("llmd:weights"); the longest one of the table counts. A key without a value
 * means 1. Plain data: a copy is as good as the original.
 */
#define SPEC_MAX 200u
#define SPEC_OPTIONS_MAX 24u

struct policy_spec {
    char text[SPEC_MAX + 1];  /* as given */
    char split[SPEC_MAX + 1]; /* the same, every key and value with a NUL behind it */
    uint8_t symbol;           /* enum policy_symbol */
    uint8_t count;
    struct spec_option {
        uint8_t key, value; /* where they start in split */
        bool is_number;
        double number;
    } options[SPEC_OPTIONS_MAX];
};

enum policy_symbol {
#define POLICY(symbol, name, single, help) POLICY_##symbol,
#include "common/policies.def"
    POLICY_COUNT
};

/* ERR_CONF: an unknown policy or option, a value that is not allowed, an option given twice. why
 * gets the reason in one line, cut to size; it may be NULL with size 0. */
enum err spec_parse(const char *text, struct policy_spec *out, char *why, size_t size);

const char *spec_name(const struct policy_spec *s); /* static; without the options */
bool spec_is_single(const struct policy_spec *s);   /* in force with one set of options only */

bool spec_has(const struct policy_spec *s, const char *key); /* given */
/* The number given; dflt where the key or a number is missing. */
double spec_f64(const struct policy_spec *s, const char *key, double dflt);
/* What was given, dflt when nothing was. Lives as long as s. */
const char *spec_str(const struct policy_spec *s, const char *key, const char *dflt);
/* The number given, else the default of policies.def. The key must be in the table. */
double spec_number(const struct policy_spec *s, const char *key);

/* docs/reference/policies.md. */
void spec_reference(struct buf *out);
void spec_names(struct buf *out); /* "a, b, c": the names of all policies */

#endif
