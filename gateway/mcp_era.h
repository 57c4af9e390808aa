/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_MCP_ERA_H
#define GW_MCP_ERA_H

#include <stdbool.h>
#include <stddef.h>

#include "common/buf.h"
#include "gateway/mcp_rpc.h"

/*
 * Which revision of MCP does a message speak, and does what it says of itself agree?
 *
 * Until 2025-11-25 a client shakes hands (initialize) and then names the agreed revision in a
 * header; none at all means 2025-03-26. From 2026-07-28 on there is no handshake: every request
 * carries its revision and its client's capabilities in params._meta, and headers repeat method and
 * name for those on the way, who must be able to trust them. Pure.
 */
enum mcp_version {
#define VERSION(id, text, is_modern, batches, structured) MCP_##id,
#include "gateway/mcp_versions.def"
#undef VERSION
    MCP_VERSIONS
};

struct mcp_head { /* header values as they came; NULL: absent */
    const char *version, *method, *name;
    size_t version_len, method_len, name_len;
};

struct mcp_verdict {
    enum mcp_version version;
    int code;         /* 0: go on, else an rpc_code: the message is refused */
    unsigned http;    /* status of a refusal */
    const char *text; /* static */
    char data[200];   /* JSON for error.data; empty: none */
};

const char *mcp_version_text(enum mcp_version v);
bool mcp_version_is_modern(enum mcp_version v);
bool mcp_version_has_structure(enum mcp_version v);
/* MCP_VERSIONS: none of ours. */
enum mcp_version mcp_version_find(const char *s, size_t len);
/* What initialize is answered with: the revision asked for, or the newest that has a handshake. */
enum mcp_version mcp_version_agree(const char *s, size_t len);
/* ["2026-07-28"]: those that need no handshake. */
void mcp_versions_write(struct buf *out);

/* One message that stands alone. BROKEN ones are the caller's business. */
void mcp_judge(const struct rpc_message *m, const struct mcp_head *head, struct mcp_verdict *out);
/* A batch, by its messages. */
void mcp_judge_batch(const struct rpc_message *m, size_t count, const struct mcp_head *head,
                     struct mcp_verdict *out);

/*
 * May a page of this origin use us? A browser sends Origin and nobody else does. What DNS rebinding
 * can make look right is not enough: allowed are loopback names, the configured ones ("*": all),
 * and the address we were asked under (host) if it is an IP address or came over TLS.
 */
bool mcp_origin_is_allowed(const char *origin, size_t len, const char *host, size_t host_len,
                           bool is_tls, char *const *allowed, size_t allowed_count);

/* Does an Accept header let us answer with this type ("application/json")? */
bool mcp_accepts(const char *accept, size_t len, const char *type);

#endif
