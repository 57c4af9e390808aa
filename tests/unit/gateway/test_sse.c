/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/sse.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Feeds text in pieces of step bytes (0: at once), each in memory of its exact size. */
static void feed(struct tap *t, const char *text, size_t len, size_t step, struct buf *got)
{
    struct buf out = {0};
    bool rewritten;

    if (step == 0)
        step = len;
    for (size_t i = 0; i < len; i += step) {
        size_t n = len - i < step ? len - i : step;
        char *piece = malloc(n);

        assert_non_null(piece);
        memcpy(piece, text + i, n);
        buf_clear(&out);
        rewritten = true;
        tap_feed(t, piece, n, &out, &rewritten);
        if (rewritten)
            buf_add(got, out.base, out.len);
        else
            buf_add(got, piece, n);
        free(piece);
    }
    buf_clear(&out);
    tap_end(t, &out);
    buf_add(got, out.base, out.len);
    buf_fini(&out);
}

static void run(struct tap *t, const char *text, bool is_sse, bool drop, size_t step,
                const char *expected)
{
    struct buf got = {0};

    tap_start(t, is_sse, drop);
    feed(t, text, strlen(text), step, &got);
    assert_string_equal(buf_cstr(&got), expected);
    buf_fini(&got);
}

#define CHUNK(delta)                                                                      \
    "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0," \
    "\"delta\":" delta ",\"finish_reason\":null}]}"
#define USAGE                                                                                   \
    "data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":120,\"total_tokens\":127," \
    "\"completion_tokens\":7,\"prompt_tokens_details\":{\"cached_tokens\":96}}}"
#define ROLE CHUNK("{\"role\":\"assistant\",\"content\":\"\"}")
#define HELLO CHUNK("{\"content\":\"a \\\"choices\\\":[] \\\\\"}")

static void usage_event_is_taken_out_whatever_the_pieces(void **state)
{
    static const char *const ends[] = {"\n", "\r\n", "\r"};
    char in[4096], expected[4096];

    (void)state;
    for (size_t e = 0; e < 3; e++) {
        const char *n = ends[e];

        snprintf(in, sizeof(in), ROLE "%s%s" HELLO "%s%s: ping%s%s" USAGE "%s%sdata: [DONE]%s%s", n,
                 n, n, n, n, n, n, n, n, n);
        snprintf(expected, sizeof(expected), ROLE "%s%s" HELLO "%s%s: ping%s%sdata: [DONE]%s%s", n,
                 n, n, n, n, n, n, n);
        for (size_t step = 0; step <= strlen(in); step++) {
            struct tap t = {0};

            run(&t, in, true, true, step, expected);
            assert_true(t.seen_token && t.seen_done && !t.seen_error);
            assert_true(t.usage.has_usage && t.usage.has_cached);
            assert_int_equal(t.usage.prompt_tokens, 120);
            assert_int_equal(t.usage.cached_tokens, 96);
            assert_int_equal(t.usage.completion_tokens, 7);
            assert_int_equal(t.events, 4);
            tap_fini(&t);
        }
    }
}

static void data_that_begins_like_the_end_mark_goes_through_whatever_the_pieces(void **state)
{
    static const char *const texts[] = {
        "data: []{\"choices\":[],\"usage\":{}}\n\n",
        "data: [DONE]{\"choices\":[],\"usage\":{}}\n\n",
        "data: [DO\ndata: {\"choices\":[],\"usage\":{}}\n\n",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        for (size_t step = 0; step <= strlen(texts[i]); step++) {
            struct tap t = {0};

            run(&t, texts[i], true, true, step, texts[i]);
            assert_false(t.seen_done);
            tap_fini(&t);
        }
}

static void usage_event_that_was_asked_for_stays(void **state)
{
    static const char text[] = HELLO "\n\n" USAGE "\n\ndata: [DONE]\n\n";

    (void)state;
    for (size_t step = 0; step < sizeof(text); step++) {
        struct tap t = {0};

        run(&t, text, true, false, step, text);
        assert_int_equal(t.usage.cached_tokens, 96);
        assert_int_equal(t.held.cap, 0); /* nothing was ever copied */
        tap_fini(&t);
    }
}

static void usage_event_at_the_very_end_is_taken_out_without_its_empty_line(void **state)
{
    struct tap t = {0};

    (void)state;
    run(&t, HELLO "\n\n" USAGE, true, true, 0, HELLO "\n\n");
    assert_int_equal(t.usage.prompt_tokens, 120);
    run(&t, HELLO "\n\n" USAGE "\n", true, true, 5, HELLO "\n\n");
    tap_fini(&t);
}

static void continuous_usage_counts_last_and_drops_nothing_with_choices(void **state)
{
    static const char text[] =
        "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}],\"usage\":{\"prompt_tokens\":5,"
        "\"completion_tokens\":1}}\n\n"
        "data: {\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2},\"choices\":[{\"delta\":{"
        "\"content\":\"y\"}}]}\n\n";
    struct tap t = {0};

    (void)state;
    for (size_t step = 0; step < sizeof(text); step++) {
        run(&t, text, true, true, step, text);
        assert_int_equal(t.usage.completion_tokens, 2);
        assert_int_equal(t.usage.prompt_tokens, 5);
        assert_false(t.usage.has_cached);
    }
    tap_fini(&t);
}

static void events_that_only_look_like_usage_go_through(void **state)
{
    static const char *const texts[] = {
        "data: {\"choices\":[],\"usage\":null}\n\n",
        "data: {\"choices\":[],\"prompt_filter_results\":[]}\n\n",
        "data: {\"choices\":[{\"text\":\"\\\"choices\\\":[],\\\"usage\\\":{}\"}]}\n\n",
        "data: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":3}}\n\n",
        "data: {\"x\":{\"choices\":[],\"usage\":{\"prompt_tokens\":1}}}\n\n",
        "event: note\ndata: no json\n\n",
        ": only a comment\n\n",
        "\n\n\r\n\r\r",
        "data\ndata:\n\n",
        "data: {\"choices\":[],\"usage\":{},\"error\":{\"message\":\"m\"}}\n\n",
    };
    struct tap t = {0};

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        for (size_t step = 0; step <= strlen(texts[i]); step++)
            run(&t, texts[i], true, true, step, texts[i]);
    }
    tap_fini(&t);
}

static void an_event_of_several_data_lines_is_one_document(void **state)
{
    struct tap t = {0};

    (void)state;
    run(&t, "data: {\"choices\":[],\ndata: \"usage\":{\"prompt_tokens\":\ndata: 7}}\n\n", true,
        true, 3, "");
    assert_int_equal(t.usage.prompt_tokens, 7);
    assert_int_equal(t.events, 1);
    tap_fini(&t);
}

static void a_decided_event_is_not_held_back(void **state)
{
    static const char start[] = "data: {\"id\":\"c\",\"choices\":[{\"delta\":{\"content\":\"long";
    struct tap t = {0};
    struct buf out = {0};
    bool rewritten = true;

    (void)state;
    tap_start(&t, true, true);
    tap_feed(&t, start, sizeof(start) - 1, &out, &rewritten);
    assert_false(rewritten); /* a choice has begun: this is not the usage event */
    tap_feed(&t, " story", 6, &out, &rewritten);
    assert_false(rewritten);
    tap_fini(&t);
    buf_fini(&out);
}

static void an_undecided_event_beyond_64_KiB_is_let_through(void **state)
{
    struct buf in = {0}, got = {0};
    struct tap t = {0};

    (void)state;
    buf_adds(&in, "data: {\"id\":\"");
    while (in.len < 200000)
        buf_adds(&in, "0123456789");
    buf_adds(&in, "\",\"choices\":[],\"usage\":{\"prompt_tokens\":9}}\n\n");
    tap_start(&t, true, true);
    feed(&t, in.base, in.len, 1000, &got);
    assert_int_equal(got.len, in.len);
    assert_memory_equal(got.base, in.base, in.len);
    assert_int_equal(t.usage.prompt_tokens, 9);
    assert_true(t.held.cap <= 131072);
    tap_fini(&t);
    buf_fini(&in);
    buf_fini(&got);
}

static void first_token_is_the_first_event_with_content(void **state)
{
    static const struct {
        const char *event;
        bool is_token;
    } cases[] = {
        {ROLE "\n\n", false},
        {CHUNK("{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[]}") "\n\n", false},
        {CHUNK("{\"content\":\"x\"}") "\n\n", true},
        {CHUNK("{\"reasoning_content\":\"x\"}") "\n\n", true},
        {CHUNK("{\"tool_calls\":[{\"index\":0}]}") "\n\n", true},
        {"data: {\"choices\":[{\"text\":\"\"}]}\n\n", false},
        {"data: {\"choices\":[{\"text\":\"t\"}]}\n\n", true},
        {"data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n", true},
        {"event: message_start\ndata: {\"type\":\"message_start\",\"message\":{}}\n\n", false},
        {"data: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"H\"}}\n\n", true},
        {"data: {\"type\":\"response.output_text.delta\",\"delta\":\"H\"}\n\n", true},
        {"data: {\"type\":\"response.created\"}\n\n", false},
        {"data: [DONE]\n\n", false},
    };
    struct tap t = {0};

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        run(&t, cases[i].event, true, true, 4, cases[i].event);
        assert_int_equal(t.seen_token, cases[i].is_token);
    }
    tap_fini(&t);
}

static void the_end_mark_is_seen_in_every_dialect(void **state)
{
    static const struct {
        const char *event;
        bool is_done;
    } cases[] = {
        {"data: [DONE]\n\n", true},
        {"data:[DONE]\n\n", true},
        {"data: [DONE]", true},
        {"data: [DONE!]\n\n", false},
        {"data: [DONE]]\n\n", false},
        {"data: [DON\n\n", false},
        {"data: {\"type\":\"message_stop\"}\n\n", true},
        {"data: {\"type\":\"response.completed\",\"response\":{}}\n\n", true},
        {"data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\n", false},
    };
    struct tap t = {0};

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (size_t step = 0; step < 9; step++) {
            run(&t, cases[i].event, true, true, step, cases[i].event);
            assert_int_equal(t.seen_done, cases[i].is_done);
        }
    }
    tap_fini(&t);
}

static void anthropic_counts_come_from_two_events(void **state)
{
    static const char text[] =
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\","
        "\"usage\":{\"input_tokens\":25,\"cache_read_input_tokens\":100,\"output_tokens\":1}}}\n\n"
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,"
        "\"delta\":{\"type\":\"text_delta\",\"text\":\"Hi\"}}\n\n"
        "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":"
        "\"end_turn\"},\"usage\":{\"output_tokens\":15}}\n\n"
        "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    struct tap t = {0};

    (void)state;
    for (size_t step = 0; step < sizeof(text); step++) {
        run(&t, text, true, true, step, text);
        assert_int_equal(t.usage.prompt_tokens, 125);
        assert_int_equal(t.usage.cached_tokens, 100);
        assert_int_equal(t.usage.completion_tokens, 15);
        assert_true(t.seen_token && t.seen_done);
        assert_int_equal(t.events, 4);
    }
    tap_fini(&t);
}

static void an_error_in_the_stream_is_seen(void **state)
{
    struct tap t = {0};

    (void)state;
    run(&t, "data: {\"error\":{\"message\":\"boom\",\"code\":500}}\n\ndata: [DONE]\n\n", true, true,
        7, "data: {\"error\":{\"message\":\"boom\",\"code\":500}}\n\ndata: [DONE]\n\n");
    assert_true(t.seen_error && t.seen_done && !t.seen_token);
    run(&t, "data: {\"type\":\"error\",\"error\":{\"type\":\"x\"}}\n\n", true, true, 0,
        "data: {\"type\":\"error\",\"error\":{\"type\":\"x\"}}\n\n");
    assert_true(t.seen_error);
    run(&t, "data: {\"choices\":[{\"delta\":{\"content\":\"error\"}}],\"error\":null}\n\n", true,
        true, 0, "data: {\"choices\":[{\"delta\":{\"content\":\"error\"}}],\"error\":null}\n\n");
    assert_false(t.seen_error);
    tap_fini(&t);
}

static void json_answers_tell_their_usage_in_pieces_of_any_size(void **state)
{
    static const char text[] =
        "{\"id\":\"c\",\"choices\":[{\"message\":{\"role\":\"assistant\",\"content\":"
        "\"\\\"usage\\\":{\\\"prompt_tokens\\\":1}\",\"usage\":{\"prompt_tokens\":2}},"
        "\"logprobs\":{\"usage\":[[{}],3]},\"finish_reason\":\"stop\"}],"
        "\"usage\":{\"prompt_tokens\":4294967299,\"completion_tokens\":12,"
        "\"prompt_tokens_details\":{\"audio_tokens\":0,\"cached_tokens\":64}},\"kv\":null}";
    struct tap t = {0};

    (void)state;
    for (size_t step = 0; step < sizeof(text); step++) {
        run(&t, text, false, true, step, text);
        assert_true(t.seen_token && t.seen_done && t.usage.has_usage && t.usage.has_cached);
        assert_int_equal(t.usage.prompt_tokens, UINT32_MAX);
        assert_int_equal(t.usage.completion_tokens, 12);
        assert_int_equal(t.usage.cached_tokens, 64);
    }
    run(&t, "{\"type\":\"message\",\"usage\":{\"input_tokens\":9,\"output_tokens\":2},\"x\":1}",
        false, false, 2,
        "{\"type\":\"message\",\"usage\":{\"input_tokens\":9,\"output_tokens\":2},\"x\":1}");
    assert_int_equal(t.usage.prompt_tokens, 9);
    assert_int_equal(t.usage.completion_tokens, 2);
    tap_fini(&t);
}

static void broken_json_does_no_harm(void **state)
{
    static const char *const texts[] = {"]]]}}}",
                                        "{\"usage\":{\"prompt_tokens\":-1}}",
                                        "{\"usage\":{\"prompt_tokens\":1.5}}",
                                        "[[[[[[{{{{{{\"",
                                        "{\"choices\":[{\"delta\":[[[[[1",
                                        "{{{{{{{{{{{\"a\":1"};
    struct tap t = {0};

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        for (size_t step = 0; step < 8; step++) {
            run(&t, texts[i], false, false, step, texts[i]);
            assert_false(t.usage.has_usage);
        }
    }
    tap_fini(&t);
}

static void assert_same_facts(const struct tap *a, const struct tap *b)
{
    assert_int_equal(a->seen_token, b->seen_token);
    assert_int_equal(a->seen_done, b->seen_done);
    assert_int_equal(a->seen_error, b->seen_error);
    assert_int_equal(a->events, b->events);
    assert_int_equal(a->usage.has_usage, b->usage.has_usage);
    assert_int_equal(a->usage.has_cached, b->usage.has_cached);
    assert_int_equal(a->usage.prompt_tokens, b->usage.prompt_tokens);
    assert_int_equal(a->usage.completion_tokens, b->usage.completion_tokens);
    assert_int_equal(a->usage.cached_tokens, b->usage.cached_tokens);
}

/* Events that are whole in a piece are passed over where they tell nothing; byte by byte, none is.
 */
static void events_in_one_piece_tell_what_they_tell_byte_by_byte(void **state)
{
    static const char *const kinds[] = {
        HELLO "\n\n",
        ROLE "\n\n",
        USAGE "\n\n",
        "data: {\"choices\":[],\"usage\":null}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"\\\"usage\\\"\"}}],\"usage\":null}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"usage\"}}]}\n\n",
        "data: {\"choices\":[],\ndata: \"usage\":{\"prompt_tokens\":5}}\n\n",
        "data: {\"choices\":[{}],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3}}\n\n",
        "data: {\"choices\":[]}\r\n\r\n",
        "data: {\"choices\":\r[],\"a\":1}\n\n",
        "data: {\"error\":{\"message\":\"no\"}}\n\n",
        "data: {\"type\":\"message_stop\"}\n\n",
        "data: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":4}}}\n\n",
        "data: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":2}}}\n\n",
        ": a comment\n\n",
        "data: {\n\n",
        "data: [DONE]\n\n",
    };
    const size_t count = sizeof(kinds) / sizeof(kinds[0]);
    char text[2048];

    (void)state;
    for (size_t i = 0; i < count * count * count; i++) {
        for (unsigned drop = 0; drop < 2; drop++) {
            struct tap whole = {0}, bytes = {0};
            struct buf a = {0}, b = {0};

            snprintf(text, sizeof(text), "%s%s%s%s", HELLO "\n\n", kinds[i % count],
                     kinds[i / count % count], kinds[i / count / count]);
            tap_start(&whole, true, drop);
            tap_start(&bytes, true, drop);
            feed(&whole, text, strlen(text), 0, &a);
            feed(&bytes, text, strlen(text), 1, &b);
            assert_string_equal(buf_cstr(&a), buf_cstr(&b));
            assert_same_facts(&whole, &bytes);
            tap_fini(&whole);
            tap_fini(&bytes);
            buf_fini(&a);
            buf_fini(&b);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(usage_event_is_taken_out_whatever_the_pieces),
        cmocka_unit_test(data_that_begins_like_the_end_mark_goes_through_whatever_the_pieces),
        cmocka_unit_test(usage_event_that_was_asked_for_stays),
        cmocka_unit_test(usage_event_at_the_very_end_is_taken_out_without_its_empty_line),
        cmocka_unit_test(continuous_usage_counts_last_and_drops_nothing_with_choices),
        cmocka_unit_test(events_that_only_look_like_usage_go_through),
        cmocka_unit_test(an_event_of_several_data_lines_is_one_document),
        cmocka_unit_test(a_decided_event_is_not_held_back),
        cmocka_unit_test(an_undecided_event_beyond_64_KiB_is_let_through),
        cmocka_unit_test(first_token_is_the_first_event_with_content),
        cmocka_unit_test(the_end_mark_is_seen_in_every_dialect),
        cmocka_unit_test(anthropic_counts_come_from_two_events),
        cmocka_unit_test(an_error_in_the_stream_is_seen),
        cmocka_unit_test(json_answers_tell_their_usage_in_pieces_of_any_size),
        cmocka_unit_test(broken_json_does_no_harm),
        cmocka_unit_test(events_in_one_piece_tell_what_they_tell_byte_by_byte),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
