/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ENGINE_JSON_H
#define ENGINE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"

/*
 * JSON in place: one validating pass, then walks over the text. No tree, so that a prompt of
 * hundreds of kilobytes costs one memcpy and not a million nodes. Pure.
 */
enum json_type {
    JSON_NONE, /* absent */
    JSON_NULL,
    JSON_FALSE,
    JSON_TRUE,
    JSON_NUMBER,
    JSON_STRING,
    JSON_ARRAY,
    JSON_OBJECT
};

struct json { /* raw text of one value, quotes and brackets included */
    enum json_type type;
    const char *at;
    size_t len;
};

#define JSON_DEPTH 128

/* One value and nothing behind it? Else where the error is. */
bool json_check(const char *text, size_t len, struct json *out, size_t *err_at);

/* The rest works on checked text. Walks start with pos = 0 and end with false. */
bool json_next_member(const struct json *object, size_t *pos, struct json *key, struct json *value);
bool json_next_element(const struct json *array, size_t *pos, struct json *value);
struct json json_member(const struct json *object, const char *name); /* JSON_NONE: absent */
bool json_is(const struct json *string, const char *text);            /* compares unescaped keys */
void json_text(const struct json *string, struct buf *out);           /* appends, unescaped */
bool json_int(const struct json *number, int64_t *out); /* false: not an integer in range */

#endif
