/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_IDENTITY_H
#define GW_IDENTITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "gateway/inspect.h"

/*
 * Who is this request part of? First source that is present wins: body workflow_metadata, headers
 * X-Workflow-ID ..., path prefix /wf/{workflow}[/agents/{agent}]. Compared by equality only. Pure.
 */
enum identity_source { IDENTITY_NONE, IDENTITY_BODY, IDENTITY_HEADER, IDENTITY_PATH };

struct identity {
    enum identity_source source;
    bool conflict; /* a weaker source named another workflow */
    struct inspect_id workflow_id, agent_id, parent_request_id, group_id, profile;
    uint8_t strategy, priority; /* proto enums */
    uint32_t group_size;
    bool final;
    const char *err_param; /* header or member that is wrong, when a function failed; static */
};

struct identity_headers { /* values as they came; NULL = absent */
    const char *workflow_id, *agent_id, *parent_request_id, *context_sharing, *priority, *final;
    size_t workflow_id_len, agent_id_len, parent_request_id_len, context_sharing_len, priority_len,
        final_len;
};

/* Splits /wf/{workflow}[/agents/{agent}]/v1/... and .../mcp: ids percent-decoded exactly once (%2f,
 * %00, "." and ".." refused: ERR_ID), rest = what follows, from "/v1" or "/mcp". A path without the
 * prefix is fine: rest = path. path may carry a query string. */
enum err identity_path(const char *path, size_t len, struct identity *id, const char **rest,
                       size_t *rest_len);
/* Adds headers (stronger than the path) and then the body's metadata (stronger than both). md may
 * be NULL. */
enum err identity_headers_add(struct identity *id, const struct identity_headers *h);
enum err identity_body_add(struct identity *id, const struct inspect_metadata *md);

/* Percent-decodes one path segment once; refuses %00, %2f, control characters, "." and "..", more
 * than 256 bytes, bad UTF-8. */
enum err identity_segment(const char *s, size_t len, struct inspect_id *out);

#endif
