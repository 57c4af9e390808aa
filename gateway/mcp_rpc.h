/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_MCP_RPC_H
#define GW_MCP_RPC_H

#include <stdbool.h>
#include <stddef.h>

#include "common/buf.h"
#include "common/err.h"
#include "gateway/parts.h"

/*
 * JSON-RPC 2.0 as MCP has it: what a body says, and how answers are put down. Ids are echoed byte
 * for byte, so they are kept as they came. Pure.
 */
#define RPC_MEMBERS 32
#define RPC_METHOD_BYTES 64

enum rpc_code { /* JSON-RPC's, MCP's, and one for everything that is ours */
                RPC_PARSE = -32700,
                RPC_INVALID_REQUEST = -32600,
                RPC_NO_METHOD = -32601,
                RPC_PARAMS = -32602,
                RPC_INTERNAL = -32603,
                RPC_OURS = -32000,
                RPC_HEADER_MISMATCH = -32020,
                RPC_VERSION = -32022
};

enum rpc_kind {
    RPC_REQUEST,
    RPC_NOTIFICATION,
    RPC_ANSWER, /* to a question that we never ask */
    RPC_BROKEN  /* see why */
};

struct rpc_message {
    enum rpc_kind kind;
    const char *id; /* raw: a string with its quotes, or a number; NULL: none that can be echoed */
    size_t id_len;
    char method[RPC_METHOD_BYTES]; /* unescaped; longer ones are "", which no method is called */
    const char *params;            /* raw, an object; NULL: absent */
    size_t params_len;
    struct member name, arguments, meta; /* of params; value NULL: absent */
    const char *why;                     /* static */
};

/*
 * Takes a body apart: one message, or a batch of at most max. ERR_JSON, ERR_DEPTH: the whole body
 * is not usable; ERR_TOO_LARGE: more than max. A message that is JSON but no JSON-RPC is BROKEN; an
 * empty batch has count 0. out points into body.
 */
enum err rpc_parse(const char *body, size_t len, struct rpc_message *out, size_t max, size_t *count,
                   bool *is_batch);

/* Splits a verified object into at most RPC_MEMBERS members; a name that comes twice, escaped or
 * not, is ERR_DUPLICATE_KEY. ERR_TYPE, ERR_BUSY as members_split(). */
enum err rpc_members(const char *text, size_t len, struct member *out, size_t *count);
/* NULL: there is none of that name. */
const struct member *rpc_member(const struct member *members, size_t count, const char *name);
bool rpc_is_object(const struct member *m);

/* {"jsonrpc":"2.0","id":ID,   without an id: nothing in its place */
void rpc_begin(struct buf *out, const char *id, size_t id_len);
/* A complete error answer; data: raw JSON for error.data, NULL: none. */
void rpc_error(struct buf *out, const char *id, size_t id_len, int code, const char *text,
               const char *data);
int rpc_code_of(enum err e); /* for errors of the HTTP layer */
/* error.data of one of our errors: its stable code, the member, and when to try again. */
void rpc_error_data(struct buf *out, enum err e, const char *param, int retry_ms);

#endif
