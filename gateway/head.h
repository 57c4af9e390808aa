/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_HEAD_H
#define GW_HEAD_H

#include <stdbool.h>
#include <stddef.h>

#include "common/err.h"

/*
 * h2o 2.2.5 lets several malformed heads through (two Content-Lengths, Content-Length with
 * Transfer-Encoding, no or two Hosts, folded lines, TE in HTTP/1.0, any size up to its own limit),
 * so the raw head is parsed again, strictly. Pure; picohttpparser is libh2o's.
 */
struct head_facts {
    size_t head_bytes;
    bool chunked, has_length, has_body;
    const char *why; /* what is wrong, in words; static */
};

/* raw: the bytes of the connection from the request line on. ERR_OK, ERR_HEAD (400 and close) or
 * ERR_HEAD_TOO_LARGE (431). */
enum err head_check(const char *raw, size_t len, size_t max_bytes, struct head_facts *facts);

/* May this request header go upstream? Deny-list: hop-by-hop, framing, X-Slipstream-*,
 * engine-internal ones; names must be tokens and values free of control characters. connection:
 * value of the Connection header (names more), NULL when absent. */
bool head_may_forward(const char *name, size_t name_len, const char *value, size_t value_len,
                      const char *connection, size_t connection_len);
/* The same for a header that head_check() has seen: only its name matters. */
bool head_passes(const char *name, size_t name_len, const char *connection, size_t connection_len);
/* The same for answer headers on the way back (hop-by-hop, framing, X-Request-Id of the engine). */
bool head_may_return(const char *name, size_t name_len, const char *value, size_t value_len);

#endif
