/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_PARTS_H
#define GW_PARTS_H

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"

/*
 * JSON bodies of our own API, verified and taken apart in one pass without losing a byte of their
 * values: a mailbox payload comes back as it was sent. Pure.
 */
struct member {
    const char *key, *value; /* raw: key without its quotes, value as it stands */
    size_t key_len, value_len;
};

/* Splits an object; ERR_TYPE: not an object, ERR_BUSY: more than max members, ERR_JSON and
 * ERR_DEPTH: no JSON text. */
enum err members_split(const char *text, size_t len, struct member *out, size_t max, size_t *count);
/* Splits an array into its elements (key_len 0). */
enum err elements_split(const char *text, size_t len, struct member *out, size_t max,
                        size_t *count);
/* Unescapes a JSON string value (quotes included) into dst, NUL-terminated; ERR_TYPE: no string,
 * ERR_ID: too long or not text. */
enum err member_string(const char *value, size_t len, char *dst, size_t size);
/* A number >= 0; ERR_TYPE otherwise. */
enum err member_number(const char *value, size_t len, double *out);

#endif
