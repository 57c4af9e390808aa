/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/identity.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static enum err path_of(const char *path, struct identity *id, char rest[256])
{
    size_t len = strlen(path), n = 0;
    char *copy = malloc(len + 1);
    const char *r = NULL;
    enum err e;

    assert_non_null(copy);
    memcpy(copy, path, len);
    *id = (struct identity){0};
    e = identity_path(copy, len, id, &r, &n);
    if (e == ERR_OK) {
        assert_true(n < 256);
        memcpy(rest, r, n);
        rest[n] = '\0';
    }
    free(copy);
    return e;
}

static void a_path_may_name_workflow_and_agent(void **state)
{
    static const struct {
        const char *path, *workflow, *agent, *rest;
    } cases[] = {
        {"/v1/chat/completions", "", "", "/v1/chat/completions"},
        {"/wfx/v1", "", "", "/wfx/v1"},
        {"/", "", "", "/"},
        {"", "", "", ""},
        {"/wf/w/v1", "w", "", "/v1"},
        {"/wf/w/v1/models?a=/b", "w", "", "/v1/models?a=/b"},
        {"/wf/w/v1?x", "w", "", "/v1?x"},
        {"/wf/w/agents/a/mcp", "w", "a", "/mcp"},
        {"/wf/a%20b%25/v1/x", "a b%", "", "/v1/x"},
        {"/wf/%C3%A9/agents/a%3Fb/v1/x", "\xc3\xa9", "a?b", "/v1/x"},
        {"/wf/w+1/agents/v1/v1/y", "w+1", "v1", "/v1/y"},
        {"/wf/agents/v1/z", "agents", "", "/v1/z"},
        {"/wf/%2541/v1", "%41", "", "/v1"},
        {"/wf/.../v1", "...", "", "/v1"},
    };
    struct identity id;
    char rest[256];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(path_of(cases[i].path, &id, rest), ERR_OK);
        assert_string_equal(id.workflow_id.bytes, cases[i].workflow);
        assert_string_equal(id.agent_id.bytes, cases[i].agent);
        assert_string_equal(rest, cases[i].rest);
        assert_int_equal(id.source, cases[i].workflow[0] != 0 ? IDENTITY_PATH : IDENTITY_NONE);
    }
}

static void bad_segments_are_refused_by_name(void **state)
{
    static const struct {
        const char *path;
        enum err err;
        const char *param;
    } cases[] = {
        {"/wf/a%2fb/v1", ERR_ID, "workflow_id"},
        {"/wf/a%2Fb/v1", ERR_ID, "workflow_id"},
        {"/wf/a%00/v1", ERR_ID, "workflow_id"},
        {"/wf/./v1", ERR_ID, "workflow_id"},
        {"/wf/../v1", ERR_ID, "workflow_id"},
        {"/wf/%2e%2E/v1", ERR_ID, "workflow_id"},
        {"/wf//v1", ERR_ID, "workflow_id"},
        {"/wf", ERR_ID, "workflow_id"},
        {"/wf/", ERR_ID, "workflow_id"},
        {"/wf?x", ERR_ID, "workflow_id"},
        {"/wf/a%/v1", ERR_ID, "workflow_id"},
        {"/wf/a%4/v1", ERR_ID, "workflow_id"},
        {"/wf/a%zz/v1", ERR_ID, "workflow_id"},
        {"/wf/%ff/v1", ERR_ID, "workflow_id"},
        {"/wf/%0a/v1", ERR_ID, "workflow_id"},
        {"/wf/%c2%85/v1", ERR_ID, "workflow_id"},
        {"/wf/w/agents//v1", ERR_ID, "agent_id"},
        {"/wf/w/agents/%2F/v1", ERR_ID, "agent_id"},
        {"/wf/w/agents/../v1", ERR_ID, "agent_id"},
        {"/wf/w/agents/v1", ERR_PATH, NULL},
        {"/wf/w", ERR_PATH, NULL},
        {"/wf/w/health", ERR_PATH, NULL},
        {"/wf/w/v12", ERR_PATH, NULL},
        {"/wf/w/agents", ERR_PATH, NULL},
        {"/wf/w?/v1", ERR_PATH, NULL},
    };
    struct identity id;
    char rest[256];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(path_of(cases[i].path, &id, rest), cases[i].err);
        assert_int_equal(id.source, IDENTITY_NONE);
        assert_int_equal(id.workflow_id.len, 0);
        if (cases[i].param != NULL)
            assert_string_equal(id.err_param, cases[i].param);
        else
            assert_null(id.err_param);
    }
}

static void a_segment_is_256_bytes_after_decoding_at_most(void **state)
{
    struct inspect_id id = {0};
    char s[257 * 3];

    (void)state;
    for (unsigned i = 0; i < 257; i++)
        memcpy(s + (size_t)i * 3, "%41", 3);
    assert_int_equal(identity_segment(s, 256 * 3, &id), ERR_OK);
    assert_int_equal(id.len, 256);
    assert_int_equal(identity_segment(s, 257 * 3, &id), ERR_ID);
    assert_int_equal(identity_segment("", 0, &id), ERR_ID);
}

#define H(member, text) .member = (text), .member##_len = sizeof(text) - 1

static void headers_are_read_and_checked(void **state)
{
    struct identity id = {0};
    struct identity_headers h = {H(workflow_id, "w"),        H(agent_id, "a"),
                                 H(parent_request_id, "p"),  H(context_sharing, "spread"),
                                 H(priority, "interactive"), H(final, "True")};
    static const struct {
        struct identity_headers h;
        enum err err;
        const char *param;
    } bad[] = {
        {{H(workflow_id, "")}, ERR_ID, "X-Workflow-ID"},
        {{H(workflow_id, "a\tb")}, ERR_ID, "X-Workflow-ID"},
        {{H(agent_id, "\xff")}, ERR_ID, "X-Agent-ID"},
        {{H(parent_request_id, "\x7f")}, ERR_ID, "X-Parent-Request-ID"},
        {{H(context_sharing, "none")}, ERR_VALUE, "X-Context-Sharing"},
        {{H(priority, "")}, ERR_VALUE, "X-Workflow-Priority"},
        {{H(final, "yes")}, ERR_VALUE, "X-Workflow-Final"},
    };

    (void)state;
    assert_int_equal(identity_headers_add(&id, &h), ERR_OK);
    assert_int_equal(id.source, IDENTITY_HEADER);
    assert_string_equal(id.workflow_id.bytes, "w");
    assert_string_equal(id.agent_id.bytes, "a");
    assert_string_equal(id.parent_request_id.bytes, "p");
    assert_int_equal(id.strategy, 2);
    assert_int_equal(id.priority, 1);
    assert_true(id.final && !id.conflict && id.err_param == NULL);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        id = (struct identity){0};
        assert_int_equal(identity_headers_add(&id, &bad[i].h), bad[i].err);
        assert_string_equal(id.err_param, bad[i].param);
        assert_int_equal(id.source, IDENTITY_NONE);
    }
}

static void set(struct inspect_id *id, const char *s)
{
    assert_true(inspect_id_set(id, s, strlen(s)));
}

static void the_stronger_source_wins_and_the_conflict_is_told(void **state)
{
    const struct identity_headers h = {H(workflow_id, "from-header"), H(agent_id, "b"),
                                       H(priority, "batch"), H(final, "1")};
    struct inspect_metadata md = {.present = true};
    struct identity id;
    char rest[256];

    (void)state;
    assert_int_equal(path_of("/wf/from-path/agents/a/v1", &id, rest), ERR_OK);
    assert_int_equal(identity_headers_add(&id, &h), ERR_OK);
    assert_true(id.conflict);
    assert_int_equal(id.source, IDENTITY_HEADER);
    set(&md.workflow_id, "from-body");
    assert_int_equal(identity_body_add(&id, &md), ERR_OK);
    assert_true(id.conflict);
    assert_int_equal(id.source, IDENTITY_BODY);
    assert_string_equal(id.workflow_id.bytes, "from-body");
    assert_int_equal(id.agent_id.len, 0); /* b is an agent of another workflow */
    assert_false(id.final);
    assert_int_equal(id.priority, 0);
}

static void sources_that_agree_complete_each_other(void **state)
{
    const struct identity_headers h = {H(agent_id, "from-header"), H(context_sharing, "strict"),
                                       H(priority, "batch")};
    struct inspect_metadata md = {.present = true, .has_priority = true, .group_size = 4};
    struct identity id;
    char rest[256];

    (void)state;
    assert_int_equal(path_of("/wf/w/agents/a/v1", &id, rest), ERR_OK);
    assert_int_equal(identity_headers_add(&id, &h), ERR_OK);
    assert_int_equal(id.source, IDENTITY_PATH);
    assert_string_equal(id.agent_id.bytes, "from-header");
    set(&md.workflow_id, "w");
    set(&md.group_id, "g");
    assert_int_equal(identity_body_add(&id, &md), ERR_OK);
    assert_false(id.conflict);
    assert_int_equal(id.source, IDENTITY_BODY);
    assert_string_equal(id.agent_id.bytes, "from-header");
    assert_string_equal(id.group_id.bytes, "g");
    assert_int_equal(id.group_size, 4);
    assert_int_equal(id.strategy, 1);
    assert_int_equal(id.priority, 0); /* "default" was said, which is more than silence */
    assert_int_equal(identity_body_add(&id, NULL), ERR_OK);
    md = (struct inspect_metadata){0};
    set(&md.workflow_id, "not-present");
    assert_int_equal(identity_body_add(&id, &md), ERR_OK);
    assert_string_equal(id.workflow_id.bytes, "w");
}

static void ids_are_compared_by_equality_only(void **state)
{
    const struct identity_headers h = {H(workflow_id, "w1")};
    struct identity id;
    char rest[256];

    (void)state;
    assert_int_equal(path_of("/wf/w/v1", &id, rest), ERR_OK);
    assert_int_equal(identity_headers_add(&id, &h), ERR_OK);
    assert_true(id.conflict);
    assert_string_equal(id.workflow_id.bytes, "w1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_path_may_name_workflow_and_agent),
        cmocka_unit_test(bad_segments_are_refused_by_name),
        cmocka_unit_test(a_segment_is_256_bytes_after_decoding_at_most),
        cmocka_unit_test(headers_are_read_and_checked),
        cmocka_unit_test(the_stronger_source_wins_and_the_conflict_is_told),
        cmocka_unit_test(sources_that_agree_complete_each_other),
        cmocka_unit_test(ids_are_compared_by_equality_only),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
