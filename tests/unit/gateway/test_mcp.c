/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/json.h"
#include "gateway/mcp_era.h"
#include "gateway/mcp_rpc.h"
#include "gateway/mcp_tools.h"

static struct rpc_message parse_one(const char *body)
{
    struct rpc_message m[RPC_MEMBERS];
    size_t count;
    bool is_batch;

    assert_int_equal(rpc_parse(body, strlen(body), m, RPC_MEMBERS, &count, &is_batch), ERR_OK);
    assert_int_equal(count, 1);
    assert_false(is_batch);
    return m[0];
}

static void kinds_of_messages(void **state)
{
    static const struct {
        const char *body;
        enum rpc_kind kind;
        const char *id;
    } rows[] = {
        {"{\"jsonrpc\":\"2.0\",\"id\":1.50,\"method\":\"ping\"}", RPC_REQUEST, "1.50"},
        {" {\"method\":\"x\",\"jsonrpc\":\"2.0\"} ", RPC_NOTIFICATION, NULL},
        {"{\"jsonrpc\":\"2.0\",\"id\":\"\\u0061\",\"result\":{}}", RPC_ANSWER, "\"\\u0061\""},
        {"{\"jsonrpc\":\"2.0\",\"id\":null,\"method\":\"x\"}", RPC_BROKEN, NULL},
        {"{\"jsonrpc\":\"2.0\",\"id\":7}", RPC_BROKEN, "7"},
        {"{\"id\":7,\"method\":\"x\"}", RPC_BROKEN, "7"},
        {"{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"x\",\"params\":[]}", RPC_BROKEN, "7"},
        {"7", RPC_BROKEN, NULL},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct rpc_message m = parse_one(rows[i].body);

        assert_int_equal(m.kind, rows[i].kind);
        if (rows[i].id == NULL) {
            assert_null(m.id);
        } else {
            assert_int_equal(m.id_len, strlen(rows[i].id));
            assert_memory_equal(m.id, rows[i].id, m.id_len);
        }
    }
}

static void names_are_one_name_however_they_are_escaped(void **state)
{
    static const char text[] = "{\"a\\u0062\":1,\"c\":2,\"ab\":3}";
    struct member members[RPC_MEMBERS];
    size_t count;

    (void)state;
    assert_int_equal(rpc_members(text, sizeof(text) - 1, members, &count), ERR_DUPLICATE_KEY);
    assert_ptr_equal(rpc_member(members, 2, "ab"), &members[0]);
    assert_null(rpc_member(members, 2, "b"));
}

static void a_version_is_agreed_on(void **state)
{
    (void)state;
    assert_int_equal(mcp_version_agree("2025-03-26", 10), MCP_2025_03_26);
    assert_int_equal(mcp_version_agree("2025-11-25", 10), MCP_2025_11_25);
    assert_int_equal(mcp_version_agree("2024-11-05", 10), MCP_2025_11_25);
    assert_int_equal(mcp_version_agree("2026-07-28", 10), MCP_2025_11_25);
    assert_int_equal(mcp_version_agree("", 0), MCP_2025_11_25);
}

#define META                                \
    "\"_meta\":{\"io.modelcontextprotocol/" \
    "protocolVersion\":\"2026-07-28\",\"io.modelcontextprotocol/clientCapabilities\":{}}"
#define CALL(more)                                      \
    "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/" \
    "call\",\"params\":{\"name\":\"list_agents\"" more "}}"

static void headers_and_body_must_agree(void **state)
{
    static const struct {
        const char *body, *version, *method, *name;
        int code;
        enum mcp_version v;
    } rows[] = {
        {CALL(""), NULL, NULL, NULL, 0, MCP_2025_03_26},
        {CALL(""), "2025-06-18", "nonsense", "nonsense", 0, MCP_2025_06_18},
        {CALL(""), "1999-01-01", NULL, NULL, RPC_VERSION, 0},
        {CALL(""), "2026-07-28", "tools/call", "list_agents", RPC_PARAMS, 0},
        {CALL("," META), "2026-07-28", "tools/call", "list_agents", 0, MCP_2026_07_28},
        {CALL("," META), " 2026-07-28\t", " tools/call", "list_agents ", 0, MCP_2026_07_28},
        {CALL("," META), "2026-07-28", "tools/call", "=?base64?bGlzdF9hZ2VudHM=?=", 0,
         MCP_2026_07_28},
        {CALL("," META), "2026-07-28", "tools/call",
         "=?base64?bGlzdF9hZ2VudHM?=", RPC_HEADER_MISMATCH, 0},
        {CALL("," META), NULL, "tools/call", "list_agents", RPC_HEADER_MISMATCH, 0},
        {CALL("," META), "2026-07-28", NULL, "list_agents", RPC_HEADER_MISMATCH, 0},
        {CALL("," META), "2026-07-28", "tools/call", NULL, RPC_HEADER_MISMATCH, 0},
        {CALL("," META), "2026-07-28", "TOOLS/CALL", "list_agents", RPC_HEADER_MISMATCH, 0},
        {CALL("," META), "2025-11-25", "tools/call", "list_agents", RPC_HEADER_MISMATCH, 0},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"initialize\"}", "2026-07-28", "initialize",
         NULL, RPC_HEADER_MISMATCH, 0},
        {"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"initialize\"}", "1999-01-01", NULL, NULL, 0,
         MCP_2025_03_26},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct rpc_message m = parse_one(rows[i].body);
        struct mcp_head h = {
            .version = rows[i].version, .method = rows[i].method, .name = rows[i].name};
        struct mcp_verdict v;

        h.version_len = h.version != NULL ? strlen(h.version) : 0;
        h.method_len = h.method != NULL ? strlen(h.method) : 0;
        h.name_len = h.name != NULL ? strlen(h.name) : 0;
        mcp_judge(&m, &h, &v);
        assert_int_equal(v.code, rows[i].code);
        if (v.code == 0)
            assert_int_equal(v.version, rows[i].v);
        else
            assert_int_equal(v.http, 400);
    }
}

static bool origin(const char *o, const char *host, bool tls)
{
    static char one[] = "https://app.example:8443";
    static char *const allowed[] = {one};

    return mcp_origin_is_allowed(o, strlen(o), host, strlen(host), tls, allowed, 1);
}

static void pages_of_other_origins_are_kept_out(void **state)
{
    static char all[] = "*";
    static char *const any[] = {all};

    (void)state;
    assert_true(origin("http://localhost", "x", false));
    assert_true(origin("https://127.9.0.1:1", "x", false));
    assert_true(origin("http://[::1]:80", "x", false));
    assert_true(origin("https://APP.example:8443", "x", false));
    assert_false(origin("https://app.example", "x", false));
    /* What DNS rebinding makes look right: the name is the attacker's, the address ours. */
    assert_false(origin("http://evil.example:8080", "evil.example:8080", false));
    assert_true(origin("https://here.example", "here.example", true));
    assert_false(origin("http://here.example", "here.example", true));
    assert_true(origin("http://192.0.2.1:8080", "192.0.2.1:8080", false));
    assert_false(origin("http://192.0.2.1:8080", "192.0.2.1:8081", false));
    assert_false(origin("null", "null", false));
    assert_false(origin("http://", "", false));
    assert_false(origin("http://localhost@evil", "x", false));
    assert_false(origin("http://127.0.0.1.evil", "x", false));
    assert_false(origin("http://[::1", "x", false));
    assert_true(mcp_origin_is_allowed("null", 4, "x", 1, false, any, 1));
}

static bool accepts(const char *accept)
{
    return mcp_accepts(accept, strlen(accept), "application/json");
}

static void accept_is_read_with_its_weights(void **state)
{
    (void)state;
    assert_true(accepts("application/json, text/event-stream"));
    assert_true(accepts("text/html,*/*;q=0.1"));
    assert_true(accepts("Application/*"));
    assert_true(accepts("application/json ; q=0.001"));
    assert_false(accepts("text/event-stream"));
    assert_false(accepts("application/json;q=0"));
    assert_false(accepts("application/json;q=0.00, text/html"));
    assert_false(accepts("application/jsonx"));
    assert_false(accepts(""));
}

static enum err args_read(enum mcp_tool t, const char *raw, struct mcp_args *out,
                          struct mcp_fault *fault, char **room)
{
    static const struct mcp_defaults d = {"w", ""};

    *room = malloc(mcp_args_room(strlen(raw)));
    return mcp_args_read(t, raw, strlen(raw), &d, *room, out, fault);
}

static void arguments_have_defaults_and_bounds(void **state)
{
    struct mcp_args a;
    struct mcp_fault f;
    char *room;

    (void)state;
    assert_int_equal(args_read(MCP_TOOL_RECEIVE,
                               "{\"agent_id\":\"\\u00e9\",\"types\":[\"x\",\"y\"]}", &a, &f, &room),
                     ERR_OK);
    assert_string_equal(a.v[MCP_RECEIVE_workflow_id].text, "w");
    assert_string_equal(a.v[MCP_RECEIVE_agent_id].text, "\xc3\xa9");
    assert_string_equal(a.list[1], "y");
    assert_null(a.list[2]);
    assert_true(a.v[MCP_RECEIVE_max].number == 10 && !a.v[MCP_RECEIVE_max].given);
    free(room);
    assert_int_equal(args_read(MCP_TOOL_RECEIVE, "{}", &a, &f, &room), ERR_VALUE);
    assert_string_equal(f.param, "agent_id");
    free(room);
    assert_int_equal(
        args_read(MCP_TOOL_RECEIVE, "{\"agent_id\":\"a\",\"wait\":60.5}", &a, &f, &room),
        ERR_VALUE);
    assert_string_equal(f.text, "wait must be a number of seconds from 0 to 60.");
    free(room);
    assert_int_equal(args_read(MCP_TOOL_RECEIVE, "{\"agent_id\":\"a\",\"agent\":1}", &a, &f, &room),
                     ERR_VALUE);
    assert_null(f.param);
    free(room);
    assert_int_equal(args_read(MCP_TOOL_ACK,
                               "{\"agent_id\":\"a\",\"message_id\":\"m\",\"receipt\":\"r\"}", &a,
                               &f, &room),
                     ERR_OK);
    assert_string_equal(a.v[MCP_ACK_action].text, "ack");
    free(room);
}

static void the_list_is_json_and_always_the_same(void **state)
{
    struct buf a = {0}, b = {0};
    size_t at;

    (void)state;
    for (enum mcp_version v = 0; v < MCP_VERSIONS; v++) {
        buf_clear(&a);
        buf_clear(&b);
        mcp_tools_write(&a, v);
        mcp_tools_write(&b, v);
        assert_int_equal(json_verify(a.base, a.len, &at), ERR_OK);
        assert_int_equal(a.len, b.len);
        assert_memory_equal(a.base, b.base, a.len);
        assert_int_equal(strstr(buf_cstr(&a), "outputSchema") != NULL,
                         mcp_version_has_structure(v));
    }
    for (enum mcp_tool t = 0; t < MCP_TOOLS; t++)
        assert_int_equal(mcp_tool_find(mcp_tool_name(t)), t);
    assert_int_equal(mcp_tool_find("send"), MCP_TOOLS);
    buf_fini(&a);
    buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kinds_of_messages),
        cmocka_unit_test(names_are_one_name_however_they_are_escaped),
        cmocka_unit_test(a_version_is_agreed_on),
        cmocka_unit_test(headers_and_body_must_agree),
        cmocka_unit_test(pages_of_other_origins_are_kept_out),
        cmocka_unit_test(accept_is_read_with_its_weights),
        cmocka_unit_test(arguments_have_defaults_and_bounds),
        cmocka_unit_test(the_list_is_json_and_always_the_same),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
