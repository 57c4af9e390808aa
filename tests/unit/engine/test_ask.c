/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bench/engine/ask.h"
#include "bench/engine/json.h"
#include "bench/engine/text.h"

static const char *const models[] = {"sim", "other", NULL};
static const struct ask_limits limits = {.models = models, .max_len = 1000};

static bool parse(struct ask *a, enum ask_kind kind, const char *body, struct ask_error *e)
{
    memset(a, 0, sizeof *a);
    memset(e, 0, sizeof *e);
    return ask_parse(a, kind, body, strlen(body), &limits, e);
}

/* ids of the full blocks of 16 tokens of what was asked and `output` behind it */
static uint32_t chain(struct ask *a, const char *output, uint64_t *ids)
{
    buf_adds(&a->tokens, output);
    return text_ids(&a->tokens, 16, a->root, ids);
}

static void a_turn_with_its_output_is_a_token_prefix_of_the_next(void **state)
{
    struct ask a, b;
    struct ask_error e;
    uint64_t first[64], second[64];
    uint32_t n, m;
    struct buf out = {0}, body = {0};

    (void)state;
    text_make(&out, 100, 7);
    assert_true(parse(&a, ASK_CHAT,
                      "{\"model\":\"sim\",\"messages\":[{\"role\":\"system\",\"content\":\"Be "
                      "br\\u00eaf\"},{\"role\":\"user\",\"content\":\"Say something long\"}]}",
                      &e));
    buf_adds(&body, "{\"messages\":[{\"content\":[{\"type\":\"text\",\"text\":\"Be br\xc3\xaa\"},{"
                    "\"type\":\"text\",\"text\":\"f\"}],\"role\":\"system\"},{\"role\":\"user\","
                    "\"content\":\"Say something long\"},{\"role\":\"assistant\",\"content\":");
    buf_add_json(&body, out.base, out.len);
    buf_adds(&body, "},{\"role\":\"user\",\"content\":\"More\"}],\"model\":\"sim\"}");
    assert_true(parse(&b, ASK_CHAT, buf_cstr(&body), &e));
    n = chain(&a, buf_cstr(&out), first);
    m = chain(&b, "", second);
    assert_true(n > 5 && m >= n);
    assert_memory_equal(first, second, n * sizeof *first);
    ask_fini(&a);
    ask_fini(&b);
    buf_fini(&out);
    buf_fini(&body);
}

static void every_message_costs_a_role_and_an_end(void **state)
{
    struct ask a;
    struct ask_error e;

    (void)state;
    assert_true(
        parse(&a, ASK_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"12345\"}]}", &e));
    assert_int_equal(text_count(&a.tokens), 1 + 2 + 1 + 1); /* and the answer's role */
    ask_fini(&a);
    assert_true(parse(&a, ASK_COMPLETION, "{\"prompt\":\"12345\"}", &e));
    assert_int_equal(text_count(&a.tokens), 2);
    assert_int_equal(a.max_tokens, 16);
    ask_fini(&a);
    assert_true(parse(&a, ASK_COMPLETION, "{\"prompt\":[1,2,3],\"max_tokens\":7}", &e));
    assert_int_equal(text_count(&a.tokens), 3);
    assert_int_equal(a.max_tokens, 7);
    ask_fini(&a);
}

static void salt_and_model_separate_caches(void **state)
{
    static const char *const bodies[] = {
        "{\"prompt\":\"x\"}", "{\"prompt\":\"x\",\"model\":\"other\"}",
        "{\"prompt\":\"x\",\"cache_salt\":\"s\"}", "{\"prompt\":\"x\",\"model\":\"sim\"}"};
    uint64_t roots[4];

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        struct ask a;
        struct ask_error e;

        assert_true(parse(&a, ASK_COMPLETION, bodies[i], &e));
        roots[i] = a.root;
        ask_fini(&a);
    }
    assert_int_equal(roots[0], roots[3]);
    assert_true(roots[0] != roots[1] && roots[0] != roots[2] && roots[1] != roots[2]);
}

static void refuses_in_vllms_words(void **state)
{
    static const struct {
        enum ask_kind kind;
        const char *body;
        int status;
        const char *type, *param;
    } rows[] = {
        {ASK_CHAT, "{\"messages\":[", 400, "BadRequestError", NULL},
        {ASK_CHAT, "[]", 400, "BadRequestError", NULL},
        {ASK_CHAT, "{}", 400, "BadRequestError", "messages"},
        {ASK_CHAT, "{\"messages\":[]}", 400, "BadRequestError", "messages"},
        {ASK_CHAT, "{\"messages\":[{\"content\":\"x\"}]}", 400, "BadRequestError", "messages"},
        {ASK_CHAT, "{\"messages\":[5]}", 400, "BadRequestError", "messages"},
        {ASK_COMPLETION, "{\"prompt\":\"x\",\"model\":\"gpt\"}", 404, "NotFoundError", "model"},
        {ASK_COMPLETION, "{\"prompt\":\"x\",\"model\":5}", 400, "BadRequestError", "model"},
        {ASK_COMPLETION, "{\"prompt\":\"x\",\"workflow_metadata\":{}}", 400, "BadRequestError",
         "workflow_metadata"},
        {ASK_COMPLETION, "{\"prompt\":\"x\",\"workflow\\u005fmetadata\":{}}", 400,
         "BadRequestError", "workflow_metadata"},
        {ASK_COMPLETION, "{\"prompt\":\"x\",\"max_tokens\":0}", 400, "BadRequestError",
         "max_tokens"},
        {ASK_COMPLETION, "{\"prompt\":\"x\",\"max_tokens\":1000}", 400, "BadRequestError",
         "prompt"},
        {ASK_COMPLETION, "{\"prompt\":\"x\",\"n\":2}", 400, "BadRequestError", "n"},
        {ASK_COMPLETION, "{\"prompt\":\"x\",\"priority\":2}", 400, "BadRequestError", NULL},
        {ASK_COMPLETION, "{\"prompt\":\"\"}", 400, "BadRequestError", NULL},
        {ASK_COMPLETION, "{\"prompt\":[\"a\",\"b\"]}", 400, "BadRequestError", "prompt"},
        {ASK_COMPLETION, "{\"prompt\":[-1]}", 400, "BadRequestError", "prompt"},
        {ASK_COMPLETION, "{\"prompt\":\"x\",\"stream_options\":{}}", 400, "BadRequestError",
         "stream_options"},
        {ASK_EMBEDDING, "{\"input\":\"x\",\"dimensions\":100000}", 400, "BadRequestError",
         "dimensions"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct ask a;
        struct ask_error e;

        if (parse(&a, rows[i].kind, rows[i].body, &e))
            fail_msg("accepted: %s", rows[i].body);
        assert_int_equal(e.status, rows[i].status);
        assert_string_equal(e.type, rows[i].type);
        if (rows[i].param == NULL)
            assert_null(e.param);
        else
            assert_string_equal(e.param, rows[i].param);
        assert_true(e.message[0] != '\0');
        ask_fini(&a);
    }
}

static void forced_tools_and_formats_fix_the_answer(void **state)
{
    static const struct {
        const char *rest, *tool, *text; /* text NULL: free */
    } rows[] = {
        {"\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{"
         "\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\"},\"n\":{\"type\":"
         "\"integer\",\"minimum\":3},\"u\":{\"enum\":[\"c\",\"f\"]},\"l\":{\"type\":\"array\","
         "\"items\":{\"$ref\":\"#/$defs/P\"}}},\"$defs\":{\"P\":{\"type\":\"object\","
         "\"properties\":{\"ok\":{\"anyOf\":[{\"type\":\"boolean\"}]}}}}}}}],\"tool_choice\":{"
         "\"type\":\"function\",\"function\":{\"name\":\"f\"}}",
         "f", "{\"city\": \"simulated\", \"n\": 3, \"u\": \"c\", \"l\": [{\"ok\": true}]}"},
        {"\"tools\":[{\"name\":\"a\"},{\"name\":\"b\",\"input_schema\":{}}],\"tool_choice\":{"
         "\"type\":\"tool\",\"name\":\"b\"}",
         "b", "{}"},
        {"\"tools\":[{\"name\":\"a\"}],\"tool_choice\":\"auto\"", "", NULL},
        {"\"tools\":[{\"name\":\"a\"}],\"tool_choice\":\"required\"", "a", "{}"},
        {"\"response_format\":{\"type\":\"json_object\"}", "", "{\"simulated\": true}"},
        {"\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"schema\":{\"type\":"
         "\"object\",\"properties\":{\"x\":{\"const\":5}}}}}",
         "", "{\"x\": 5}"},
        {"\"response_format\":{\"type\":\"text\"}", "", NULL},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct ask a;
        struct ask_error e;
        struct buf body = {0};

        buf_addf(&body, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],%s}", rows[i].rest);
        assert_true(parse(&a, ASK_CHAT, buf_cstr(&body), &e));
        assert_string_equal(buf_cstr(&a.tool), rows[i].tool);
        if (rows[i].text == NULL) {
            assert_int_equal(a.fixed.len, 0);
        } else {
            assert_memory_equal(a.fixed.base, rows[i].text, strlen(rows[i].text));
            assert_int_equal(a.fixed.len, (strlen(rows[i].text) + 3) / 4 * 4);
            assert_int_equal(a.max_tokens, a.fixed.len / 4);
        }
        ask_fini(&a);
        buf_fini(&body);
    }
}

static void a_schema_that_contains_itself_ends(void **state)
{
    static const char body[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"response_format\":{\"type\":"
        "\"json_"
        "schema\",\"json_schema\":{\"schema\":{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":"
        "\"#\"},\"b\":{\"$ref\":\"#\"},\"c\":{\"$ref\":\"#\"}}}}},\"max_tokens\":1}";
    static const struct ask_limits wide = {.models = models, .max_len = 1 << 20};
    struct ask a = {0};
    struct ask_error e;
    struct json v;
    size_t at;

    (void)state;
    assert_true(ask_parse(&a, ASK_CHAT, body, sizeof body - 1, &wide, &e));
    assert_true(a.fixed.len < 200000);
    assert_true(json_check(a.fixed.base, a.fixed.len, &v, &at));
    ask_fini(&a);
}

static void tokens_go_back_to_text(void **state)
{
    static const char text[] = "hello w\xc3\xb6rld";
    struct ask a;
    struct ask_error e;
    struct buf back = {0};

    (void)state;
    assert_true(parse(&a, ASK_TOKENIZE, "{\"prompt\":\"hello w\\u00f6rld\"}", &e));
    for (size_t i = 0; i < text_count(&a.tokens); i++)
        text_from_token(text_token(&a.tokens, i), &back);
    assert_string_equal(buf_cstr(&back), text);
    buf_fini(&back);
    ask_fini(&a);
}

static void hostile_bodies_do_no_harm(void **state)
{
    static const char body[] =
        "{\"model\":\"sim\",\"messages\":[{\"role\":\"user\",\"content\":[{\"text\":\"a\\n\"},{"
        "\"x\":"
        "1}],\"tool_calls\":[]}],\"tools\":[{\"function\":{\"name\":\"f\",\"parameters\":{\"type\":"
        "["
        "\"object\"],\"properties\":{\"p\":{\"$ref\":\"#/a/b\"}}}}}],\"tool_choice\":\"required\","
        "\"stream\":true,\"stream_options\":{\"include_usage\":true},\"max_tokens\":5}";

    (void)state;
    for (size_t i = 0; i < sizeof body - 1; i++) { /* each byte replaced, and each cut */
        for (const char *with = "\"{}[]:,\\\x01 0"; *with != '\0'; with++) {
            char *copy = malloc(sizeof body - 1);
            struct ask a = {0};
            struct ask_error e;

            assert_non_null(copy);
            memcpy(copy, body, sizeof body - 1);
            copy[i] = *with;
            (void)ask_parse(&a, ASK_CHAT, copy, sizeof body - 1, &limits, &e);
            ask_fini(&a);
            (void)ask_parse(&a, ASK_EMBEDDING, copy, i + 1, &limits, &e);
            ask_fini(&a);
            free(copy);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_turn_with_its_output_is_a_token_prefix_of_the_next),
        cmocka_unit_test(every_message_costs_a_role_and_an_end),
        cmocka_unit_test(salt_and_model_separate_caches),
        cmocka_unit_test(refuses_in_vllms_words),
        cmocka_unit_test(forced_tools_and_formats_fix_the_answer),
        cmocka_unit_test(a_schema_that_contains_itself_ends),
        cmocka_unit_test(tokens_go_back_to_text),
        cmocka_unit_test(hostile_bodies_do_no_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
