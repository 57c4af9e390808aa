/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_MAILBOX_JSON_H
#define SLIP_MAILBOX_JSON_H

#include <stdbool.h>
#include <stddef.h>

#define JSON_DEPTH 128

/* Is this exactly one JSON value (RFC 8259, valid UTF-8, at most JSON_DEPTH levels), white space
 * around it allowed? Payloads are embedded raw in answers, so this is what keeps them apart. */
bool json_is_value(const char *s, size_t len);

/* 1 to 256 bytes of UTF-8 without control characters. s may be NULL. */
bool id_is_valid(const char *s);

#endif
