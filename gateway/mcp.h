/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_MCP_H
#define GW_MCP_H

#include "gateway/mcp_tools.h"
#include "gateway/request.h"

/*
 * POST /mcp: the mailbox and workflow API as tools of the Model Context Protocol. There are no
 * sessions: whatever worker gets a request can answer it. mcp.c is the door (HTTP, messages,
 * methods), mcp_call.c what the tools do.
 */
struct mcp { /* one POST; in the request's memory */
    struct rpc_message *messages;
    size_t count, at; /* at: the one that is being answered */
    bool is_batch, running, waiting;
    enum mcp_version version;
    struct mcp_defaults defaults;
    const char *part;       /* of an answer that takes two calls */
    const char *message_id; /* ack_message: what is being settled, */
    const char *action;     /* and how */
};

/* Starts a tool. It ends in one of the two below, perhaps at once. args is not kept, its texts are
 * r's memory. */
void mcp_tool_start(struct gw_request *r, enum mcp_tool tool, const struct mcp_args *args);
/* The call's result: a JSON object; freed here. r may be gone afterwards. */
void mcp_tool_done(struct gw_request *r, struct buf *result);
/* The call has failed; the model reads why. text: NULL for the error's own. r may be gone. */
void mcp_tool_failed(struct gw_request *r, enum err e, const char *param, const char *text,
                     int retry_ms);

/* The body of an error answer to the whole POST, with the id that it belongs to if there is just
 * one. */
void mcp_error_write(const struct gw_request *r, struct buf *out, enum err e, const char *param,
                     const char *detail, int retry_ms);

#endif
