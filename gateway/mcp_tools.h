/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_MCP_TOOLS_H
#define GW_MCP_TOOLS_H

#include <stdbool.h>
#include <stddef.h>

#include "common/buf.h"
#include "common/err.h"
#include "gateway/mcp_era.h"

/* The tools of POST /mcp as mcp_tools.def has them: their list, and their arguments. Pure. */
enum mcp_tool {
#define TOOL(id, ...) MCP_TOOL_##id,
#define ARG(...)
#define OUT(...)
#include "gateway/mcp_tools.def"
#undef TOOL
#undef ARG
#undef OUT
    MCP_TOOLS
};

enum mcp_arg { /* MCP_SEND_payload and so on */
#define TOOL(...)
#define ARG(tool, name, ...) MCP_##tool##_##name,
#define OUT(...)
#include "gateway/mcp_tools.def"
#undef TOOL
#undef ARG
#undef OUT
               MCP_ARGS
};

#define MCP_LIST_MAX 16

struct mcp_value {
    bool given;       /* by the caller, not by a default */
    const char *text; /* ID, WORD: unescaped, "" when absent; ANY: raw, not terminated */
    size_t len;
    double number; /* SECONDS, INTEGER */
    bool flag;
};

struct mcp_args {
    struct mcp_value v[MCP_ARGS]; /* only those of the tool that was asked for mean anything */
    const char *list[MCP_LIST_MAX + 1]; /* IDS, ended by NULL */
};

struct mcp_defaults { /* "" = none */
    const char *workflow_id, *agent_id;
};

struct mcp_fault { /* what is wrong with arguments */
    const char *param;
    char text[256]; /* one sentence that helps to do better */
};

const char *mcp_tool_name(enum mcp_tool t);
enum mcp_tool mcp_tool_find(const char *name); /* MCP_TOOLS: no such tool */

/* room: at least mcp_args_room(len) bytes that live as long as out. raw: an object, NULL: none was
 * sent. out also points into raw and d. ERR_VALUE, ERR_TYPE, ERR_ID, ERR_DUPLICATE_KEY with fault
 * set. */
enum err mcp_args_read(enum mcp_tool t, const char *raw, size_t len, const struct mcp_defaults *d,
                       char *room, struct mcp_args *out, struct mcp_fault *fault);
size_t mcp_args_room(size_t len);

/* The array for tools/list; in the order of the table, always. */
void mcp_tools_write(struct buf *out, enum mcp_version version);
void mcp_tools_reference(struct buf *out); /* docs/reference/mcp.md */

#endif
