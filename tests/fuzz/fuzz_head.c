/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/must.h"
#include "gateway/head.h"
#include "gateway/identity.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void id_check(const struct inspect_id *id)
{
    struct inspect_id copy;

    must(id->len <= INSPECT_ID_MAX && id->bytes[id->len] == '\0');
    must(id->len == 0 || inspect_id_set(&copy, id->bytes, id->len));
}

static void path_check(const char *s, size_t len)
{
    struct identity id = {0};
    const char *rest;
    size_t rest_len;

    if (identity_path(s, len, &id, &rest, &rest_len) != ERR_OK) {
        must(id.source == IDENTITY_NONE);
        return;
    }
    must(rest + rest_len == s + len);
    must(memchr(id.workflow_id.bytes, '/', id.workflow_id.len) == NULL);
    id_check(&id.workflow_id);
    id_check(&id.agent_id);
}

/* The input is read as a request head, as a path, and as a header. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *s = (const char *)data;
    const char *colon = size > 0 ? memchr(s, ':', size) : NULL;
    struct head_facts facts;
    enum err e = head_check(s, size, 8192, &facts);

    must(e == ERR_OK || e == ERR_HEAD || e == ERR_HEAD_TOO_LARGE);
    must((e == ERR_OK) == (facts.why == NULL));
    if (e == ERR_OK) {
        must(facts.head_bytes <= size && facts.head_bytes <= 8192);
        must(!(facts.chunked && facts.has_length));
        /* What comes behind the head cannot change it. */
        must(head_check(s, facts.head_bytes, 8192, &facts) == ERR_OK);
    }
    path_check(s, size);
    if (colon != NULL) {
        size_t name_len = (size_t)(colon - s), value_len = size - name_len - 1;
        struct identity id = {0};
        const struct identity_headers h = {.workflow_id = colon + 1,
                                           .workflow_id_len = value_len,
                                           .context_sharing = s,
                                           .context_sharing_len = name_len};

        if (head_may_forward(s, name_len, colon + 1, value_len, NULL, 0)) {
            must(memchr(s, '\n', size) == NULL && memchr(s, '\r', size) == NULL);
            must(!head_may_forward(s, name_len, colon + 1, value_len, s, name_len));
        }
        head_may_forward(s, name_len, "", 0, colon + 1, value_len);
        head_may_return(s, name_len, colon + 1, value_len);
        if (identity_headers_add(&id, &h) == ERR_OK)
            id_check(&id.workflow_id);
    }
    return 0;
}
