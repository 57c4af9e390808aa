/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ENGINE_SAMPLE_H
#define ENGINE_SAMPLE_H

#include <stdbool.h>

#include "bench/engine/json.h"

/*
 * Values that satisfy a JSON schema, for forced tool calls and structured answers. Understands
 * type, properties, items, enum, const, anyOf / oneOf / allOf (the first), and local $ref. Pure.
 */

/* If the choice forces a tool: its name and arguments (JSON text). OpenAI's and Anthropic's shapes.
 */
bool sample_tool(const struct json *tools, const struct json *choice, struct buf *name,
                 struct buf *arguments);

/* response_format json_object or json_schema; text formats leave out as it is. */
void sample_format(const struct json *format, struct buf *out);

#endif
