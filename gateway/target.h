/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_TARGET_H
#define GW_TARGET_H

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"

/*
 * Request targets in absolute form, "http://host/path?query", as clients send them that take us for
 * their proxy; servers must understand them (RFC 9112, 3.2.2). Pure.
 */
struct target { /* points into what was parsed */
    const char *authority, *rest;
    size_t authority_len, rest_len; /* rest: path and query; may lack the slash at its beginning */
};

/* Is it one at all? Whatever begins with a scheme and "://". */
bool target_is_absolute(const char *raw, size_t len);

/* ERR_HEAD, with *why in words (static): its scheme is not the connection's, or it has no host, or
 * one that cannot be. */
enum err target_parse(const char *raw, size_t len, bool is_tls, struct target *out,
                      const char **why);

#endif
