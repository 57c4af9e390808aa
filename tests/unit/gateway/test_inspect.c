/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/inspect.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/buf.h"
#include "gateway/splice.h"
#include "proto/scheduler.pb-c.h"

static struct inspection in;
static char *exact; /* the body, in memory of exactly its size */

static void inspect_bytes(enum inspect_shape shape, const char *body, size_t len, size_t budget)
{
    free(exact);
    exact = malloc(len + (len == 0));
    assert_non_null(exact);
    memcpy(exact, body, len);
    inspect_start(&in, shape, exact, len);
    while (!inspect_run(&in, budget))
        continue;
}

static void inspect(enum inspect_shape shape, const char *body)
{
    inspect_bytes(shape, body, strlen(body), SIZE_MAX);
}

static int teardown(void **state)
{
    (void)state;
    inspect_fini(&in);
    free(exact);
    exact = NULL;
    return 0;
}

static void assert_span(struct span s, const char *expected)
{
    assert_int_equal(s.len, strlen(expected));
    assert_memory_equal(exact + s.at, expected, s.len);
}

#define FULL                                                                             \
    "{\"model\":\"org/m\",\"stream\":true,\"stream_options\":{\"include_usage\":false}," \
    "\"tools\":[{\"name\":\"t\"}],\"max_tokens\":77,\"cache_salt\":\"s\",\"messages\":[" \
    "{\"role\":\"system\",\"content\":\"\\u4e2d "                                        \
    "\xe4\xb8\xad\",\"cache_control\":{\"type\":\"e\"}}"                                 \
    ",{\"role\":\"user\",\"content\":[]}],\"priority\":-5,\"workflow_metadata\":{"       \
    "\"workflow_id\":\"w\\u00e9\",\"agent_id\":\"a/1\",\"parent_request_id\":\"p\","     \
    "\"context_sharing_strategy\":\"strict\",\"priority\":\"batch\",\"group_id\":\"g\"," \
    "\"group_size\":8,\"profile\":\"f\",\"tool\":\"bash\",\"final\":true,\"other\":[1]},\"n\":1}"

static void assert_full(void)
{
    const struct inspect_metadata *md = &in.metadata;

    assert_int_equal(in.err, ERR_OK);
    assert_string_equal(in.model.bytes, "org/m");
    assert_span(in.model_value, "\"org/m\"");
    assert_int_equal(in.stream, INSPECT_TRUE);
    assert_int_equal(in.include_usage, INSPECT_FALSE);
    assert_span(in.stream_options, "{\"include_usage\":false}");
    assert_false(in.stream_options_empty || in.stream_options_null || in.object_empty);
    assert_span(in.tools, "[{\"name\":\"t\"}]");
    assert_int_equal(in.max_tokens, 77);
    assert_string_equal(in.cache_salt.bytes, "s");
    assert_int_equal(in.element_count, 2);
    assert_int_equal(in.messages, 2);
    assert_span(in.elements[1], "{\"role\":\"user\",\"content\":[]}");
    assert_int_equal(in.skip_count, 1);
    assert_span(in.skips[0], ",\"cache_control\":{\"type\":\"e\"}");
    assert_span(in.priority, ",\"priority\":-5");
    assert_int_equal(in.priority_value, -5);
    assert_int_equal(in.object_open, 1);
    assert_true(md->present && md->final && md->has_final);
    assert_string_equal(md->workflow_id.bytes, "w\xc3\xa9");
    assert_string_equal(md->agent_id.bytes, "a/1");
    assert_string_equal(md->parent_request_id.bytes, "p");
    assert_string_equal(md->group_id.bytes, "g");
    assert_string_equal(md->profile.bytes, "f");
    assert_string_equal(md->tool.bytes, "bash");
    assert_int_equal(md->strategy, SLIPSTREAM__V1__STRATEGY__STRATEGY_STRICT);
    assert_int_equal(md->priority, SLIPSTREAM__V1__PRIORITY__PRIORITY_BATCH);
    assert_int_equal(md->group_size, 8);
}

static void one_pass_finds_all_that_the_gateway_needs(void **state)
{
    (void)state;
    inspect(INSPECT_CHAT, FULL);
    assert_full();
}

static void any_budget_gives_the_same_result(void **state)
{
    (void)state;
    for (size_t budget = 0; budget < sizeof(FULL); budget++) {
        inspect_bytes(INSPECT_CHAT, FULL, sizeof(FULL) - 1, budget);
        assert_full();
    }
}

static void a_budget_bounds_the_work_even_inside_a_long_string(void **state)
{
    struct buf b = {0};
    unsigned runs = 0;
    uint32_t last = 0;

    (void)state;
    buf_adds(&b, "{\"a\":\"");
    while (b.len < 100000)
        buf_adds(&b, "\xe4\xb8\xad\\n");
    buf_adds(&b, "\",\"b\":1");
    while (b.len < 200000)
        buf_adds(&b, "0");
    while (b.len < 300000)
        buf_adds(&b, " ");
    buf_adds(&b, "}");
    inspect_start(&in, INSPECT_CHAT, b.base, b.len);
    for (; !inspect_run(&in, 1000); runs++) {
        assert_in_range(in.pos - last, 1, 1100);
        last = in.pos;
    }
    assert_int_equal(in.err, ERR_OK);
    assert_true(runs > 250);
    buf_fini(&b);
}

static void every_truncated_body_is_an_error(void **state)
{
    (void)state;
    for (size_t len = 0; len < sizeof(FULL) - 1; len++) {
        inspect_bytes(INSPECT_CHAT, FULL, len, SIZE_MAX);
        assert_int_equal(in.err, ERR_JSON);
        assert_int_equal(in.err_at <= len, 1);
        assert_string_equal(in.err_param, "");
    }
}

static void malformed_json_is_refused_where_it_is(void **state)
{
    static const struct {
        const char *body;
        uint32_t at;
    } cases[] = {
        {"", 0},
        {"  ", 2},
        {"\xef\xbb\xbf{}", 0},
        {"{}x", 2},
        {"{}{}", 2},
        {"{\"a\":1,}", 7},
        {"{\"a\":[1,]}", 8},
        {"{\"a\":[,1]}", 6},
        {"{\"a\" 1}", 5},
        {"{\"a\":1 \"b\":2}", 7},
        {"{a:1}", 1},
        {"{'a':1}", 1},
        {"{\"a\":tru}", 5},
        {"{\"a\":True}", 5},
        {"{\"a\":NaN}", 5},
        {"{\"a\":01}", 6},
        {"{\"a\":1.}", 7},
        {"{\"a\":+1}", 5},
        {"{\"a\":\"\t\"}", 6},
        {"{\"a\":\"\xff\"}", 6},
        {"{\"a\":\"\xc0\xaf\"}", 6},
        {"{\"a\":\"\xed\xa0\x80\"}", 6},
        {"{\"a\":\"\\x\"}", 6},
        {"{\"a\":\"\\u12\"}", 6},
        {"{\"a\":[1}", 7},
        {"{\"a\":{]}", 6},
        {"{\"a\":1]", 6},
        {"{,}", 1},
        {"{\"a\"}", 4},
        {"{\"a\":}", 5},
        {"{\"a\":/**/1}", 5},
        {"{\"\xc3\":1}", 2},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (size_t budget = 1; budget < 16; budget++) {
            inspect_bytes(INSPECT_CHAT, cases[i].body, strlen(cases[i].body), budget);
            assert_int_equal(in.err, ERR_JSON);
            assert_int_equal(in.err_at, cases[i].at);
        }
    }
    inspect_bytes(INSPECT_CHAT, "{\"a\":1}\0", 8, 100);
    assert_int_equal(in.err, ERR_JSON);
    inspect_bytes(INSPECT_CHAT, "{\"a\":\"\0\"}", 9, 100);
    assert_int_equal(in.err, ERR_JSON);
    inspect_bytes(INSPECT_CHAT, "\0", 1, 100);
    assert_int_equal(in.err, ERR_JSON);
}

static void only_an_object_is_a_body(void **state)
{
    static const char *const bodies[] = {"[]", "\"a\"", " 1", "-1", "true", "null"};

    (void)state;
    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
        inspect(INSPECT_OTHER, bodies[i]);
        assert_int_equal(in.err, ERR_TYPE);
    }
    inspect(INSPECT_OTHER, " {} ");
    assert_int_equal(in.err, ERR_OK);
    assert_true(in.object_empty);
    assert_int_equal(in.object_open, 2);
}

static void nesting_stops_at_128_levels(void **state)
{
    struct buf b = {0};
    size_t at;

    (void)state;
    for (unsigned depth = 128; depth <= 129; depth++) {
        buf_clear(&b);
        buf_adds(&b, "{\"a\":");
        for (unsigned i = 1; i < depth; i++)
            buf_adds(&b, "[");
        for (unsigned i = 1; i < depth; i++)
            buf_adds(&b, "]");
        buf_adds(&b, "}");
        inspect_bytes(INSPECT_CHAT, b.base, b.len, 50);
        assert_int_equal(in.err, depth == 128 ? ERR_OK : ERR_DEPTH);
        assert_int_equal(json_verify(b.base, b.len, &at), depth == 128 ? ERR_OK : ERR_DEPTH);
    }
    buf_clear(&b);
    for (unsigned i = 0; i < 100000; i++)
        buf_adds(&b, "[");
    assert_int_equal(json_verify(b.base, b.len, &at), ERR_DEPTH);
    assert_int_equal(at, 128);
    buf_fini(&b);
}

static void wrong_members_are_named(void **state)
{
    static const struct {
        const char *body;
        enum err err;
        const char *param;
    } cases[] = {
        {"{\"model\":1}", ERR_TYPE, "model"},
        {"{\"model\":null}", ERR_TYPE, "model"},
        {"{\"model\":\"a\\u0000\"}", ERR_VALUE, "model"},
        {"{\"stream\":\"true\"}", ERR_TYPE, "stream"},
        {"{\"stream\":1}", ERR_TYPE, "stream"},
        {"{\"stream_options\":[]}", ERR_TYPE, "stream_options"},
        {"{\"stream_options\":{\"include_usage\":0}}", ERR_TYPE, "stream_options.include_usage"},
        {"{\"cache_salt\":{}}", ERR_TYPE, "cache_salt"},
        {"{\"workflow_metadata\":\"w\"}", ERR_TYPE, "workflow_metadata"},
        {"{\"workflow_metadata\":{\"workflow_id\":7}}", ERR_TYPE, "workflow_metadata.workflow_id"},
        {"{\"workflow_metadata\":{\"agent_id\":\"\"}}", ERR_ID, "workflow_metadata.agent_id"},
        {"{\"workflow_metadata\":{\"agent_id\":\"a\\n\"}}", ERR_ID, "workflow_metadata.agent_id"},
        {"{\"workflow_metadata\":{\"agent_id\":\"\\u007f\"}}", ERR_ID,
         "workflow_metadata.agent_id"},
        {"{\"workflow_metadata\":{\"agent_id\":\"\\u0085\"}}", ERR_ID,
         "workflow_metadata.agent_id"},
        {"{\"workflow_metadata\":{\"group_id\":\"\\ud800\"}}", ERR_ID,
         "workflow_metadata.group_id"},
        {"{\"workflow_metadata\":{\"profile\":[]}}", ERR_TYPE, "workflow_metadata.profile"},
        {"{\"workflow_metadata\":{\"context_sharing_strategy\":\"Auto\"}}", ERR_VALUE,
         "workflow_metadata.context_sharing_strategy"},
        {"{\"workflow_metadata\":{\"context_sharing_strategy\":true}}", ERR_TYPE,
         "workflow_metadata.context_sharing_strategy"},
        {"{\"workflow_metadata\":{\"priority\":\"urgent-and-very-long-word\"}}", ERR_VALUE,
         "workflow_metadata.priority"},
        {"{\"workflow_metadata\":{\"priority\":1}}", ERR_TYPE, "workflow_metadata.priority"},
        {"{\"workflow_metadata\":{\"group_size\":0}}", ERR_VALUE, "workflow_metadata.group_size"},
        {"{\"workflow_metadata\":{\"group_size\":100001}}", ERR_VALUE,
         "workflow_metadata.group_size"},
        {"{\"workflow_metadata\":{\"group_size\":2.0}}", ERR_TYPE, "workflow_metadata.group_size"},
        {"{\"workflow_metadata\":{\"group_size\":\"2\"}}", ERR_TYPE,
         "workflow_metadata.group_size"},
        {"{\"workflow_metadata\":{\"final\":\"yes\"}}", ERR_TYPE, "workflow_metadata.final"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        inspect(INSPECT_CHAT, cases[i].body);
        assert_int_equal(in.err, cases[i].err);
        assert_string_equal(in.err_param, cases[i].param);
    }
}

static void ids_are_1_to_256_bytes_after_unescaping(void **state)
{
    struct buf b = {0};

    (void)state;
    for (unsigned n = 255; n <= 257; n++) {
        buf_clear(&b);
        buf_adds(&b, "{\"workflow_metadata\":{\"workflow_id\":\"");
        for (unsigned i = 0; i < n; i++)
            buf_adds(&b, i % 2 == 0 ? "a" : "\\u0062");
        buf_adds(&b, "\"}}");
        inspect_bytes(INSPECT_CHAT, b.base, b.len, 7);
        assert_int_equal(in.err, n <= 256 ? ERR_OK : ERR_ID);
        if (n <= 256)
            assert_int_equal(in.metadata.workflow_id.len, n);
    }
    buf_fini(&b);
}

static void null_counts_as_absent(void **state)
{
    (void)state;
    inspect(INSPECT_ANTHROPIC, "{\"stream\":null,\"stream_options\":null,\"cache_salt\":null,"
                               "\"tools\":null,\"system\":null,\"messages\":null,\"priority\":null,"
                               "\"workflow_metadata\":{\"agent_id\":null,\"final\":null}}");
    assert_int_equal(in.err, ERR_OK);
    assert_int_equal(in.stream, INSPECT_ABSENT);
    assert_true(in.stream_options_null);
    assert_span(in.stream_options, "null");
    assert_int_equal(in.cache_salt.len + in.tools.len + in.system.len + in.element_count, 0);
    assert_int_equal(in.metadata.agent_id.len, 0);
    assert_true(in.metadata.present && !in.metadata.has_final);
    inspect(INSPECT_CHAT, "{\"workflow_metadata\":null,\"a\":1}");
    assert_false(in.metadata.present);
    assert_span(in.metadata.cut, "\"workflow_metadata\":null,");
}

static void a_second_member_that_we_read_is_refused_in_any_spelling(void **state)
{
    static const struct {
        const char *body, *param;
    } cases[] = {
        {"{\"model\":\"a\",\"model\":\"a\"}", "model"},
        {"{\"model\":\"a\",\"\\u006dodel\":\"b\"}", "model"},
        {"{\"\\u006d\\u006f\\u0064\\u0065\\u006c\":\"b\",\"model\":\"a\"}", "model"},
        {"{\"messages\":[],\"messages\":[]}", "messages"},
        {"{\"priority\":1,\"x\":2,\"priority\":1}", "priority"},
        {"{\"max_tokens\":1,\"max_tokens\":2}", "max_tokens"},
        {"{\"workflow_metadata\":{},\"workflow_metadata\":{}}", "workflow_metadata"},
        {"{\"workflow_metadata\":{\"tool\":\"a\",\"t\\u006fol\":\"b\"}}", "workflow_metadata.tool"},
        {"{\"stream_options\":{\"include_usage\":true,\"include_usage\":true}}",
         "stream_options.include_usage"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        inspect(INSPECT_COMPLETION, cases[i].body);
        assert_int_equal(in.err, ERR_DUPLICATE_KEY);
        assert_string_equal(in.err_param, cases[i].param);
    }
    inspect(INSPECT_CHAT, "{\"user\":1,\"user\":2,\"a\":{\"model\":1,\"model\":2},\"model\":\"m\","
                          "\"workflow_metadata\":{\"x\":1,\"x\":2,\"model\":3}}");
    assert_int_equal(in.err, ERR_OK);
}

static void prompts_of_every_dialect_are_found(void **state)
{
    static const struct {
        enum inspect_shape shape;
        const char *body;
        unsigned count;
        const char *first, *last;
    } cases[] = {
        {INSPECT_COMPLETION, "{\"prompt\":\"a\\nb\"}", 1, "a\\nb", "a\\nb"},
        {INSPECT_COMPLETION, "{\"prompt\":[ 1, 2,3 ]}", 1, "1, 2,3", "1, 2,3"},
        {INSPECT_COMPLETION, "{\"prompt\":[\"a\",\"b\"]}", 1, "a", "a"},
        {INSPECT_COMPLETION, "{\"prompt\":[[1,2],[3]]}", 1, "1,2", "1,2"},
        {INSPECT_COMPLETION, "{\"prompt\":[[],[3]]}", 0, "", ""},
        {INSPECT_COMPLETION, "{\"prompt\":\"\"}", 0, "", ""},
        {INSPECT_COMPLETION, "{\"messages\":[1],\"input\":\"x\"}", 0, "", ""},
        {INSPECT_INPUT, "{\"input\":\"text\"}", 1, "text", "text"},
        {INSPECT_INPUT, "{\"input\":[\"a\",\"b\"]}", 2, "\"a\"", "\"b\""},
        {INSPECT_INPUT, "{\"input\":[1,2]}", 1, "1,2", "1,2"},
        {INSPECT_INPUT, "{\"input\":[[1,2],[3]]}", 2, "[1,2]", "[3]"},
        {INSPECT_CHAT, "{\"messages\":[{\"a\":[{}]} , \"x\", null]}", 3, "{\"a\":[{}]}", "null"},
        {INSPECT_CHAT, "{\"messages\":{}}", 0, "", ""},
        {INSPECT_CHAT, "{\"a\":{\"messages\":[1]}}", 0, "", ""},
        {INSPECT_OTHER, "{\"messages\":[{}],\"input\":\"x\",\"prompt\":\"p\"}", 0, "", ""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        inspect_bytes(cases[i].shape, cases[i].body, strlen(cases[i].body), 3);
        assert_int_equal(in.err, ERR_OK);
        assert_int_equal(in.element_count, cases[i].count);
        if (in.element_count > 0) {
            assert_span(in.elements[0], cases[i].first);
            assert_span(in.elements[in.element_count - 1], cases[i].last);
        }
    }
    inspect(INSPECT_ANTHROPIC, "{\"messages\":[{}],\"system\":\"s\",\"tools\":[1]}");
    assert_span(in.system, "\"s\"");
    assert_span(in.tools, "[1]");
    inspect(INSPECT_INPUT, "{\"instructions\":\"i\",\"system\":\"s\"}");
    assert_span(in.system, "\"i\"");
}

static void max_completion_tokens_goes_before_max_tokens(void **state)
{
    (void)state;
    inspect(INSPECT_CHAT, "{\"max_tokens\":5,\"max_completion_tokens\":9}");
    assert_int_equal(in.max_tokens, 9);
    inspect(INSPECT_CHAT, "{\"max_completion_tokens\":9,\"max_tokens\":5}");
    assert_int_equal(in.max_tokens, 9);
    inspect(INSPECT_INPUT, "{\"max_output_tokens\":99999999999}");
    assert_int_equal(in.max_tokens, UINT32_MAX);
    inspect(INSPECT_CHAT, "{\"max_tokens\":-1}");
    assert_int_equal(in.max_tokens, 0);
    inspect(INSPECT_CHAT, "{\"max_tokens\":\"5\"}");
    assert_int_equal(in.err, ERR_OK);
    assert_int_equal(in.max_tokens, 0);
}

/* ---- cutting ---- */

static void body_spliced(struct buf *out, bool cut_metadata, bool cut_priority)
{
    struct splice_list list = {0};
    struct iovec pieces[SPLICE_PIECES];
    size_t n;

    if (cut_metadata)
        assert_true(splice_add(&list, in.metadata.cut.at, in.metadata.cut.len, NULL, 0));
    if (cut_priority)
        assert_true(splice_add(&list, in.priority.at, in.priority.len, NULL, 0));
    buf_clear(out);
    n = splice_apply(&list, exact, in.len, pieces);
    for (size_t i = 0; i < n; i++)
        buf_add(out, pieces[i].iov_base, pieces[i].iov_len);
    assert_int_equal(out->len, splice_length(&list, in.len));
}

/* members in this order, those of the mask left out */
static void body_join(struct buf *b, const char *const *members, const unsigned order[4],
                      unsigned without)
{
    bool first = true;

    buf_clear(b);
    buf_adds(b, "{");
    for (unsigned i = 0; i < 4; i++) {
        if ((without >> order[i] & 1) != 0)
            continue;
        buf_addf(b, "%s%s", first ? "" : ",", members[order[i]]);
        first = false;
    }
    buf_adds(b, "}");
}

static void cuts_leave_every_other_byte_as_it_was(void **state)
{
    static const char *const members[] = {"\"workflow_metadata\":{\"workflow_id\":\"w,}\"}",
                                          "\"priority\":7", "\"model\":\"m\"",
                                          "\"messages\":[{\"workflow_metadata\":{}}]"};
    struct buf whole = {0}, expected = {0}, got = {0};

    (void)state;
    for (unsigned code = 0; code < 256; code++) {
        unsigned order[4] = {code & 3, code >> 2 & 3, code >> 4 & 3, code >> 6};

        if (((1u << order[0]) | (1u << order[1]) | (1u << order[2]) | (1u << order[3])) != 15)
            continue;
        body_join(&whole, members, order, 0);
        inspect_bytes(INSPECT_CHAT, whole.base, whole.len, 1 + code);
        assert_int_equal(in.err, ERR_OK);
        for (unsigned cut = 0; cut < 4; cut++) {
            body_join(&expected, members, order, cut);
            body_spliced(&got, (cut & 1) != 0, (cut & 2) != 0);
            assert_string_equal(buf_cstr(&got), buf_cstr(&expected));
        }
    }
    buf_fini(&whole);
    buf_fini(&expected);
    buf_fini(&got);
}

static void cuts_of_spaced_bodies_leave_valid_json(void **state)
{
    static const struct {
        const char *body, *after;
    } cases[] = {
        {"{ \"workflow_metadata\" : {} , \"a\" : 1 }", "{ \"a\" : 1 }"},
        {"{ \"a\" : 1 , \"workflow_metadata\" : {} }", "{ \"a\" : 1  }"},
        {"{ \"a\" : 1 ,\n \"workflow_metadata\" : {} ,\n \"b\" : 2 }",
         "{ \"a\" : 1  ,\n \"b\" : 2 }"},
        {"{\n \"workflow_metadata\" : {}\n}", "{\n \n}"},
        {"{\"workflow_\\u006detadata\":{},\"a\":1}", "{\"a\":1}"},
    };
    struct buf got = {0};
    size_t at;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        inspect(INSPECT_CHAT, cases[i].body);
        body_spliced(&got, true, false);
        assert_string_equal(buf_cstr(&got), cases[i].after);
        assert_int_equal(json_verify(got.base, got.len, &at), ERR_OK);
    }
    buf_fini(&got);
}

static void without_skips(struct buf *out)
{
    uint32_t at = 0;

    buf_clear(out);
    for (uint32_t i = 0; i < in.skip_count; i++) {
        assert_true(in.skips[i].at >= at);
        buf_add(out, exact + at, in.skips[i].at - at);
        at = in.skips[i].at + in.skips[i].len;
    }
    buf_add(out, exact + at, in.len - at);
}

static void cache_control_is_skipped_at_any_depth(void **state)
{
    static const struct {
        const char *prompt, *after;
    } cases[] = {
        {"[{\"cache_control\":{\"a\":[]}}]", "[{}]"},
        {"[{\"cache_control\":1,\"a\":2}]", "[{\"a\":2}]"},
        {"[{\"a\":2,\"cache_control\":1}]", "[{\"a\":2}]"},
        {"[{\"a\":1,\"cache_control\":1,\"b\":2}]", "[{\"a\":1,\"b\":2}]"},
        {"[{\"cache_control\":1, \"cache_control\":2, \"a\":1}]", "[{\"a\":1}]"},
        {"[{\"cache_control\":1,\"cache_control\":2}]", "[{}]"},
        {"[{\"a\":1,\"cache_control\":1,\"cache_control\":2}]", "[{\"a\":1}]"},
        {"[{\"cache_control\":{\"cache_control\":{\"cache_control\":1}},\"b\":1}]", "[{\"b\":1}]"},
        {"[{\"x\":[{\"y\":{\"\\u0063ache_control\":\"e\",\"z\":1}}]}]",
         "[{\"x\":[{\"y\":{\"z\":1}}]}]"},
        {"[\"cache_control\",{\"a\":\"cache_control\"}]",
         "[\"cache_control\",{\"a\":\"cache_control\"}]"},
    };
    static const char *const places[] = {"{\"messages\":%s}", "{\"tools\":%s}", "{\"system\":%s}"};
    struct buf b = {0}, got = {0}, expected = {0};

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]) * 3; i++) {
        const char *place = places[i % 3];
        size_t front = strcspn(place, "%");

        buf_clear(&b);
        buf_add(&b, place, front);
        buf_addf(&b, "%s}", cases[i / 3].prompt);
        inspect_bytes(INSPECT_ANTHROPIC, b.base, b.len, 1 + i);
        assert_int_equal(in.err, ERR_OK);
        without_skips(&got);
        buf_clear(&expected);
        buf_add(&expected, place, front);
        buf_addf(&expected, "%s}", cases[i / 3].after);
        assert_string_equal(buf_cstr(&got), buf_cstr(&expected));
    }
    inspect(INSPECT_ANTHROPIC, "{\"cache_control\":1,\"x\":[{\"cache_control\":1}]}");
    assert_int_equal(in.skip_count, 0);
    buf_fini(&b);
    buf_fini(&got);
    buf_fini(&expected);
}

static void arrays_of_spans_do_not_grow_without_bound(void **state)
{
    struct buf b = {0};

    (void)state;
    buf_adds(&b, "{\"messages\":[\"\"");
    while (b.len < 3000000)
        buf_adds(&b, ",\"\"");
    buf_adds(&b, "]}");
    inspect_bytes(INSPECT_CHAT, b.base, b.len, 100000);
    assert_int_equal(in.err, ERR_TOO_LARGE);
    inspect(INSPECT_CHAT, "{}");
    assert_true(in.element_cap <= 4096);
    buf_clear(&b);
    buf_adds(&b, "{\"input\":[1");
    while (b.len < 3000000)
        buf_adds(&b, ",1");
    buf_adds(&b, "]}");
    inspect_bytes(INSPECT_INPUT, b.base, b.len, 100000);
    assert_int_equal(in.err, ERR_OK); /* token ids are one element */
    buf_fini(&b);
}

static void words_have_the_numbers_of_the_wire(void **state)
{
    static const char *const strategies[] = {[SLIPSTREAM__V1__STRATEGY__STRATEGY_AUTO] = "auto",
                                             [SLIPSTREAM__V1__STRATEGY__STRATEGY_STRICT] = "strict",
                                             [SLIPSTREAM__V1__STRATEGY__STRATEGY_SPREAD] = "spread",
                                             [SLIPSTREAM__V1__STRATEGY__STRATEGY_ISOLATED] =
                                                 "isolated"};
    static const char *const priorities[] = {
        [SLIPSTREAM__V1__PRIORITY__PRIORITY_DEFAULT] = "default",
        [SLIPSTREAM__V1__PRIORITY__PRIORITY_INTERACTIVE] = "interactive",
        [SLIPSTREAM__V1__PRIORITY__PRIORITY_BATCH] = "batch"};
    struct buf b = {0};

    (void)state;
    for (unsigned i = 0; i < 12; i++) {
        buf_clear(&b);
        buf_addf(
            &b, "{\"workflow_metadata\":{\"context_sharing_strategy\":\"%s\",\"priority\":\"%s\"}}",
            strategies[i % 4], priorities[i % 3]);
        inspect_bytes(INSPECT_CHAT, b.base, b.len, 100);
        assert_int_equal(in.err, ERR_OK);
        assert_int_equal(in.metadata.strategy, i % 4);
        assert_int_equal(in.metadata.priority, i % 3);
    }
    buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_pass_finds_all_that_the_gateway_needs),
        cmocka_unit_test(any_budget_gives_the_same_result),
        cmocka_unit_test(a_budget_bounds_the_work_even_inside_a_long_string),
        cmocka_unit_test(every_truncated_body_is_an_error),
        cmocka_unit_test(malformed_json_is_refused_where_it_is),
        cmocka_unit_test(only_an_object_is_a_body),
        cmocka_unit_test(nesting_stops_at_128_levels),
        cmocka_unit_test(wrong_members_are_named),
        cmocka_unit_test(ids_are_1_to_256_bytes_after_unescaping),
        cmocka_unit_test(null_counts_as_absent),
        cmocka_unit_test(a_second_member_that_we_read_is_refused_in_any_spelling),
        cmocka_unit_test(prompts_of_every_dialect_are_found),
        cmocka_unit_test(max_completion_tokens_goes_before_max_tokens),
        cmocka_unit_test(cuts_leave_every_other_byte_as_it_was),
        cmocka_unit_test(cuts_of_spaced_bodies_leave_valid_json),
        cmocka_unit_test(cache_control_is_skipped_at_any_depth),
        cmocka_unit_test(arrays_of_spans_do_not_grow_without_bound),
        cmocka_unit_test(words_have_the_numbers_of_the_wire),
    };

    return cmocka_run_group_tests(tests, NULL, teardown);
}
