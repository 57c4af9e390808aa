/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_JSON_H
#define SLIP_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

/*
 * Strict JSON (RFC 8259): whole texts, and the words of one - strings with their UTF-8, numbers,
 * literals - for those who go through a text themselves. Pure, allocates nothing.
 */
#define JSON_DEPTH 128 /* open containers */

/* Is this exactly one value, white space around it allowed? ERR_JSON, ERR_DEPTH; *err_at is the
 * first byte that is wrong, or len: the text ends too early. Lone surrogate escapes are let
 * through: the grammar has them. */
enum err json_verify(const char *text, size_t len, size_t *err_at);

/* Moves *at over the white space and the one value that come there, inside open containers that the
 * caller keeps track of. ERR_JSON, ERR_DEPTH; *at stands at the byte that is wrong then. */
enum err json_skip(const char **at, const char *end, unsigned open);

/*
 * Scanners move *p. stop <= end: a scanner that reaches stop may pause there with JSON_MORE and is
 * called again; it may look, and go, a few bytes further. end is the end of the text.
 */
enum json_scan {
    JSON_DONE, /* *at is behind the word */
    JSON_MORE, /* *at has reached stop */
    JSON_BAD   /* *at is at the byte that is wrong, or at end: the text ends too early */
};

/* *at is behind the opening quote. *escaped becomes true if there is a backslash. Lone surrogate
 * escapes are let through. */
enum json_scan json_string(const char **at, const char *stop, const char *end, bool *escaped);

/* state is 0 at the first byte. DONE leaves *at at the first byte behind the number. */
enum json_scan json_number(const char **at, const char *stop, const char *end, uint8_t *state);

/* "true", "false" or "null" at p? Returns its length, 0 for anything else. */
size_t json_literal(const char *p, const char *end);

/* Undoes the escapes of a string that json_string() has accepted (without its quotes). false: more
 * than cap bytes, or half a surrogate pair. out may have been written to then. */
bool json_unescape(const char *raw, size_t len, char *out, size_t cap, size_t *n);

/* A number text without fraction and exponent; too large ones become INT64_MIN / INT64_MAX. */
bool json_integer(const char *s, size_t len, int64_t *value);

bool json_is_utf8(const char *s, size_t len);

static inline bool json_is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

#endif
