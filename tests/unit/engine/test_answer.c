/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "bench/engine/answer.h"
#include "bench/engine/json.h"
#include "bench/engine/metrics.h"

static struct answer sample(enum ask_kind kind, bool tool)
{
    return (struct answer){.kind = kind,
                           .id = "id-1",
                           .model = "\"sim\"",
                           .created_s = 1,
                           .prompt_tokens = 20,
                           .cached_tokens = 16,
                           .out_tokens = 3,
                           .text = tool ? "{\"a\": \"\\\"\"} " : "abc def ghi ",
                           .fixed = tool,
                           .tool = tool ? "f\"" : NULL,
                           .include_usage = true,
                           .dimensions = 3};
}

static void every_whole_answer_is_json_and_says_that_it_is_simulated(void **state)
{
    static const enum ask_kind kinds[] = {ASK_CHAT, ASK_COMPLETION, ASK_MESSAGES, ASK_EMBEDDING};

    (void)state;
    for (size_t i = 0; i < 8; i++) {
        struct answer a = sample(kinds[i / 2], i % 2 == 1);
        struct buf out = {0};
        struct json v;
        size_t at;

        a.base64 = i % 2 == 1;
        answer_whole(&a, &out);
        if (!json_check(out.base, out.len, &v, &at))
            fail_msg("not JSON at %zu: %s", at, buf_cstr(&out));
        assert_non_null(strstr(buf_cstr(&out), "slipstream-engine-simulated"));
        assert_non_null(strstr(buf_cstr(&out), "16")); /* cached tokens */
        buf_fini(&out);
    }
}

static void every_event_of_a_stream_is_json(void **state)
{
    static const enum ask_kind kinds[] = {ASK_CHAT, ASK_COMPLETION, ASK_MESSAGES};

    (void)state;
    for (size_t i = 0; i < 6; i++) {
        struct answer a = sample(kinds[i / 2], i % 2 == 1);
        struct buf out = {0};
        char *line, *rest;
        int events = 0;

        answer_begin(&a, &out);
        answer_tokens(&a, 0, 1, &out);
        answer_tokens(&a, 1, 2, &out);
        answer_tokens(&a, 3, 0, &out);
        answer_end(&a, &out);
        (void)buf_cstr(&out);
        for (line = strtok_r(out.base, "\n", &rest); line != NULL;
             line = strtok_r(NULL, "\n", &rest)) {
            struct json v;
            size_t at;

            if (strncmp(line, "event: ", 7) == 0 || strcmp(line, "data: [DONE]") == 0)
                continue;
            assert_memory_equal(line, "data: ", 6);
            if (!json_check(line + 6, strlen(line + 6), &v, &at))
                fail_msg("not JSON at %zu: %s", at, line);
            events++;
        }
        assert_true(events >= 4);
        buf_fini(&out);
    }
}

static void refusals_have_the_shape_of_their_api(void **state)
{
    struct ask_error e = {.status = 404, .type = "NotFoundError", .param = "model"};
    struct buf out = {0};

    (void)state;
    strcpy(e.message, "The \"x\" does not exist.");
    answer_refusal(&e, false, &out);
    assert_string_equal(buf_cstr(&out),
                        "{\"error\":{\"message\":\"The \\\"x\\\" does not exist.\",\"type\":"
                        "\"NotFoundError\",\"param\":\"model\",\"code\":404}}");
    buf_clear(&out);
    answer_refusal(&e, true, &out);
    assert_string_equal(buf_cstr(&out),
                        "{\"type\":\"error\",\"error\":{\"type\":\"not_found_error\",\"message\":"
                        "\"The \\\"x\\\" does not exist.\"}}");
    buf_fini(&out);
}

static void histograms_are_cumulative(void **state)
{
    struct metrics m = {0};
    struct engine_stats s = {.running = 3};
    struct buf out = {0};

    (void)state;
    histogram_add(&m.ttft, 0.0005);
    histogram_add(&m.ttft, 0.3);
    histogram_add(&m.ttft, 99999);
    metrics_print(&m, &s, "\"sim\"", &out);
    (void)buf_cstr(&out);
#define LINE(rest) "vllm:time_to_first_token_seconds_" rest "\n"
    assert_non_null(
        strstr(out.base, LINE("bucket{model_name=\"sim\",engine=\"0\",le=\"0.001\"} 1")));
    assert_non_null(strstr(out.base, LINE("bucket{model_name=\"sim\",engine=\"0\",le=\"0.5\"} 2")));
    assert_non_null(
        strstr(out.base, LINE("bucket{model_name=\"sim\",engine=\"0\",le=\"2560\"} 2")));
    assert_non_null(
        strstr(out.base, LINE("bucket{model_name=\"sim\",engine=\"0\",le=\"+Inf\"} 3")));
    assert_non_null(
        strstr(out.base, "vllm:num_requests_running{model_name=\"sim\",engine=\"0\"} 3\n"));
    buf_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_whole_answer_is_json_and_says_that_it_is_simulated),
        cmocka_unit_test(every_event_of_a_stream_is_json),
        cmocka_unit_test(refusals_have_the_shape_of_their_api),
        cmocka_unit_test(histograms_are_cumulative),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
