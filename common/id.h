/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_ID_H
#define SLIP_ID_H

#include <stdbool.h>
#include <stddef.h>

/* What may name a workflow, an agent, a tenant: 1 to ID_BYTES_MAX bytes of UTF-8 without control
 * characters (U+0000 to U+001F, U+007F to U+009F). */
#define ID_BYTES_MAX 256

bool id_is_valid(const char *s, size_t len);

#endif
