/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/id.h"
#include "common/json.h"
#include "common/must.h"
#include "gateway/mcp_era.h"
#include "gateway/mcp_rpc.h"
#include "gateway/mcp_tools.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void json_must(struct buf *b)
{
    size_t at;

    must(json_verify(b->base, b->len, &at) == ERR_OK);
    buf_clear(b);
}

/* Whatever was asked: the answer is JSON, and what a tool gets is as its table says. */
static void call(const struct rpc_message *m, struct buf *b)
{
    static const struct mcp_defaults defaults = {"w", ""};
    const struct member *a = m->arguments.value != NULL ? &m->arguments : NULL;
    struct mcp_args *args = malloc(sizeof(*args));
    struct mcp_fault fault;
    char *room;

    must(args != NULL);
    if (a != NULL && !rpc_is_object(a))
        a = NULL;
    room = malloc(mcp_args_room(a != NULL ? a->value_len : 0));
    must(room != NULL);
    for (enum mcp_tool t = 0; t < MCP_TOOLS; t++) {
        enum err e = mcp_args_read(t, a != NULL ? a->value : NULL, a != NULL ? a->value_len : 0,
                                   &defaults, room, args, &fault);

        must(e == ERR_OK || fault.text[0] != '\0');
        if (e == ERR_OK && t == MCP_TOOL_SEND) {
            const char *to = args->v[MCP_SEND_target_agent].text;
            size_t at;

            must(id_is_valid(to, strlen(to)) && args->v[MCP_SEND_priority].number <= 9);
            must(json_verify(args->v[MCP_SEND_payload].text, args->v[MCP_SEND_payload].len, &at) ==
                 ERR_OK);
        }
        rpc_error_data(b, e == ERR_OK ? ERR_BUG : e, fault.param, 1);
        json_must(b);
    }
    free(room);
    free(args);
}

static void messages(const char *body, size_t len, const struct mcp_head *head)
{
    struct rpc_message m[RPC_MEMBERS];
    struct mcp_verdict v;
    struct buf b = {0};
    bool is_batch;
    size_t count, i;

    if (rpc_parse(body, len, m, RPC_MEMBERS, &count, &is_batch) != ERR_OK)
        return;
    must(is_batch || count == 1);
    if (is_batch)
        mcp_judge_batch(m, count, head, &v);
    for (i = 0; i < count; i++) {
        must((m[i].kind != RPC_REQUEST && m[i].kind != RPC_ANSWER) || m[i].id != NULL);
        must(m[i].kind != RPC_BROKEN || m[i].why != NULL);
        mcp_judge(&m[i], head, &v);
        must(v.code != 0 || v.version < MCP_VERSIONS);
        rpc_error(&b, m[i].id, m[i].id_len, v.code, v.text != NULL ? v.text : "",
                  v.data[0] != '\0' ? v.data : NULL);
        json_must(&b);
        if (m[i].kind == RPC_REQUEST)
            call(&m[i], &b);
    }
    buf_fini(&b);
}

/* Lines: a header each - version, method, name, origin, host, accept ("-": absent) - and then the
 * body. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1), *at = text;
    const char *values[6] = {NULL};
    size_t lens[6] = {0}, i;
    struct mcp_head head;
    static char *const allowed[] = {(char *)(uintptr_t) "https://a.example"};

    must(text != NULL);
    memcpy(text, data, size);
    for (i = 0; i < 6; i++) {
        char *end = memchr(at, '\n', (size_t)(text + size - at));

        if (end == NULL)
            break;
        values[i] = end - at == 1 && *at == '-' ? NULL : at;
        lens[i] = (size_t)(end - at);
        at = end + 1;
    }
    head = (struct mcp_head){values[0], values[1], values[2], lens[0], lens[1], lens[2]};
    if (values[3] != NULL)
        mcp_origin_is_allowed(values[3], lens[3], values[4] != NULL ? values[4] : "", lens[4],
                              lens[3] % 2 == 0, allowed, 1);
    if (values[5] != NULL)
        mcp_accepts(values[5], lens[5], "application/json");
    {
        size_t n = (size_t)(text + size - at);
        char *body = malloc(n + 1); /* of its own, so that reading past its end is seen */

        must(body != NULL);
        memcpy(body, at, n);
        body = realloc(body, n > 0 ? n : 1);
        messages(body, n, &head);
        free(body);
    }
    free(text);
    return 0;
}
