/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "scheduler/scrape.h"

static bool read_exact(const char *text, struct scrape *out)
{
    size_t len = strlen(text);
    char *exact = malloc(len + (len == 0)); /* so that a read behind the end is seen */
    bool any;

    assert_non_null(exact);
    memcpy(exact, text, len);
    any = scrape_read(exact, len, out);
    free(exact);
    return any;
}

static struct scrape page(const char *text)
{
    struct scrape s;

    assert_true(read_exact(text, &s));
    return s;
}

static void assert_fact(const struct scrape *s, enum scrape_fact fact, double value)
{
    assert_true(s->has[fact]);
    assert_true(s->value[fact] > value - 1e-6 && s->value[fact] < value + 1e-6);
}

static void vllm_of_today(void **state)
{
    struct scrape s = page(
        "# HELP vllm:num_requests_running Number of requests in model execution batches.\n"
        "# TYPE vllm:num_requests_running gauge\n"
        "vllm:num_requests_running{engine=\"0\",model_name=\"m\"} 7.0\n"
        "vllm:num_requests_waiting{engine=\"0\",model_name=\"m\"} 3.0\n"
        "vllm:num_requests_waiting_by_reason{engine=\"0\",model_name=\"m\",reason=\"capacity\"} "
        "2.0\n"
        "vllm:num_requests_waiting_by_reason{engine=\"0\",model_name=\"m\",reason=\"deferred\"} "
        "1.0\n"
        "vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"m\"} 0.25\n"
        "vllm:prompt_tokens_total{engine=\"0\",model_name=\"m\"} 1.2345e+06\n"
        "vllm:prompt_tokens_created{engine=\"0\",model_name=\"m\"} 1.7e+09\n"
        "vllm:generation_tokens_total{engine=\"0\",model_name=\"m\"} 5000.0\n"
        "vllm:cache_config_info{block_size=\"16\",cache_dtype=\"auto\",cpu_kvcache_space_bytes="
        "\"None\",engine=\"0\",num_cpu_blocks=\"None\",num_gpu_blocks=\"27000\","
        "num_gpu_blocks_override=\"None\"} 1.0\n"
        "process_start_time_seconds 1.76e+09\n");
    uint64_t used;

    (void)state;
    assert_fact(&s, SCRAPE_running, 7);
    assert_fact(&s, SCRAPE_waiting, 3);
    assert_fact(&s, SCRAPE_usage, .25);
    assert_fact(&s, SCRAPE_capacity, 432000);
    assert_fact(&s, SCRAPE_counted, 1234500);
    assert_fact(&s, SCRAPE_generated, 5000);
    assert_fact(&s, SCRAPE_start, 1.76e9);
    assert_true(scrape_used_tokens(&s, &used));
    assert_int_equal(used, 108000);
}

static void vllm_before_0_11_named_its_usage_after_the_gpu(void **state)
{
    struct scrape s = page("vllm:num_requests_running{model_name=\"m\"} 1\n"
                           "vllm:num_requests_waiting{model_name=\"m\"} 2\n"
                           "vllm:gpu_cache_usage_perc{model_name=\"m\"} 0.5\n"
                           "vllm:cache_config_info{block_size=\"32\",num_gpu_blocks=\"100\"} 1\n");

    (void)state;
    assert_fact(&s, SCRAPE_running, 1);
    assert_fact(&s, SCRAPE_waiting, 2);
    assert_fact(&s, SCRAPE_usage, .5);
    assert_fact(&s, SCRAPE_capacity, 3200);
}

static void vllm_that_shows_both_names_counts_once(void **state)
{
    struct scrape s = page("vllm:gpu_cache_usage_perc{model_name=\"m\"} 0.5\n"
                           "vllm:kv_cache_usage_perc{model_name=\"m\"} 0.125\n");

    (void)state;
    assert_fact(&s, SCRAPE_usage, .125);
}

static void vllm_with_waiting_by_reason_only(void **state)
{
    struct scrape s = page("vllm:num_requests_waiting_by_reason{reason=\"capacity\"} 2\n"
                           "vllm:num_requests_waiting_by_reason{reason=\"deferred\"} 5\n");

    (void)state;
    assert_fact(&s, SCRAPE_waiting, 7);
}

static void data_parallel_ranks_are_put_together(void **state)
{
    struct scrape s = page("vllm:num_requests_running{engine=\"0\"} 4\n"
                           "vllm:num_requests_running{engine=\"1\"} 6\n"
                           "vllm:kv_cache_usage_perc{engine=\"0\"} 0.2\n"
                           "vllm:kv_cache_usage_perc{engine=\"1\"} 0.4\n"
                           "vllm:cache_config_info{engine=\"0\",num_gpu_blocks=\"100\"} 1\n"
                           "vllm:cache_config_info{engine=\"1\",num_gpu_blocks=\"100\","
                           "kv_cache_size_tokens=\"1700\"} 1\n");

    (void)state;
    assert_fact(&s, SCRAPE_running, 10);
    assert_fact(&s, SCRAPE_usage, .3);
    assert_fact(&s, SCRAPE_capacity, 1600 + 1700);
}

static void an_unknown_capacity_is_not_zero(void **state)
{
    struct scrape s = page("vllm:num_requests_running 0\n"
                           "vllm:kv_cache_usage_perc 0.2\n"
                           "vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"None\"} 1\n");
    uint64_t used;

    (void)state;
    assert_false(s.has[SCRAPE_capacity]);
    assert_false(scrape_used_tokens(&s, &used));
}

static void sglang(void **state)
{
    struct scrape s = page("sglang:num_running_reqs{model_name=\"m\",tp_rank=\"0\"} 16.0\n"
                           "sglang:num_queue_reqs{model_name=\"m\",tp_rank=\"0\"} 4.0\n"
                           "sglang:token_usage{model_name=\"m\",tp_rank=\"0\"} 0.28\n"
                           "sglang:num_used_tokens{model_name=\"m\",tp_rank=\"0\"} 123859.0\n"
                           "sglang:max_total_num_tokens{model_name=\"m\",tp_rank=\"0\"} 442353.0\n"
                           "sglang:cache_hit_rate{model_name=\"m\",tp_rank=\"0\"} 0.007\n"
                           "sglang:prompt_tokens_total{model_name=\"m\"} 8.128902e+06\n"
                           "sglang:generation_tokens_total{model_name=\"m\"} 7.557572e+06\n");
    uint64_t used;

    (void)state;
    assert_fact(&s, SCRAPE_running, 16);
    assert_fact(&s, SCRAPE_waiting, 4);
    assert_fact(&s, SCRAPE_capacity, 442353);
    assert_true(scrape_used_tokens(&s, &used));
    assert_int_equal(used, 123859);
}

static void llama_cpp_of_today_and_before(void **state)
{
    struct scrape s = page("# TYPE llamacpp:requests_processing gauge\n"
                           "llamacpp:requests_processing 2\n"
                           "llamacpp:requests_deferred 1\n"
                           "llamacpp:prompt_tokens_total 100\n"
                           "llamacpp:tokens_predicted_total 200\n");
    uint64_t used;

    (void)state;
    assert_fact(&s, SCRAPE_running, 2);
    assert_fact(&s, SCRAPE_waiting, 1);
    assert_fact(&s, SCRAPE_generated, 200);
    assert_false(s.has[SCRAPE_usage]);
    s = page("llamacpp:kv_cache_usage_ratio 0.5\nllamacpp:kv_cache_tokens 2048\n");
    assert_fact(&s, SCRAPE_usage, .5);
    assert_true(scrape_used_tokens(&s, &used));
    assert_int_equal(used, 2048);
}

static void tgi(void **state)
{
    struct scrape s = page("tgi_queue_size 3\ntgi_batch_current_size 5\n");

    (void)state;
    assert_fact(&s, SCRAPE_waiting, 3);
    assert_fact(&s, SCRAPE_running, 5);
}

static void labels_may_hold_anything(void **state)
{
    struct scrape s =
        page("vllm:num_requests_running{model_name=\"a}b\\\"c,engine=\\\"9\"} 3 1700000\r\n"
             "vllm:cache_config_info{x=\"num_gpu_blocks=\\\"7\\\"\", num_gpu_blocks=\"10\"} 1\n");

    (void)state;
    assert_fact(&s, SCRAPE_running, 3);
    assert_fact(&s, SCRAPE_capacity, 160);
}

static void what_is_no_page_says_nothing(void **state)
{
    static const char *const bad[] = {"",
                                      "\n\n",
                                      "<html>vllm:num_requests_running 3</html>",
                                      "vllm:num_requests_running",
                                      "vllm:num_requests_running ",
                                      "vllm:num_requests_running x\n",
                                      "vllm:num_requests_running NaN\n",
                                      "vllm:num_requests_running +Inf\n",
                                      "vllm:num_requests_running{ 3\n",
                                      "vllm:num_requests_running{a=\"b 3\n",
                                      "vllm:num_requests_running{a=\"\\",
                                      "vllm:cache_config_info{num_gpu_blocks 1\n",
                                      "vllm:cache_config_info{num_gpu_blocks=\"} 1\n",
                                      "vllm:cache_config_info{num_gpu_blocks=} 1\n",
                                      "vllm:cache_config_info{} 1\n",
                                      "vllm:cache_config_info 1\n",
                                      "# vllm:num_requests_running 3\n",
                                      "xvllm:num_requests_running 3\n",
                                      "process_start_time_seconds 5\n"};

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct scrape s;

        assert_false(read_exact(bad[i], &s));
    }
}

static void restarts_are_seen_by_start_time_or_counters(void **state)
{
    struct scrape a = page("vllm:prompt_tokens_total 100\nvllm:generation_tokens_total 9\n"
                           "process_start_time_seconds 1000\n");
    struct scrape grown = page("vllm:prompt_tokens_total 150\nvllm:generation_tokens_total 9\n"
                               "process_start_time_seconds 1000.5\n");
    struct scrape later = page("vllm:prompt_tokens_total 150\nprocess_start_time_seconds 1100\n");
    struct scrape fewer = page("vllm:prompt_tokens_total 99\n");
    struct scrape fewer_out =
        page("vllm:prompt_tokens_total 100\nvllm:generation_tokens_total 8\n");
    struct scrape other = page("vllm:num_requests_running 1\n");

    (void)state;
    assert_false(scrape_is_restart(&a, &a));
    assert_false(scrape_is_restart(&a, &grown));
    assert_true(scrape_is_restart(&a, &later));
    assert_true(scrape_is_restart(&a, &fewer));
    assert_true(scrape_is_restart(&a, &fewer_out));
    assert_false(scrape_is_restart(&a, &other));
    assert_false(scrape_is_restart(&other, &a));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vllm_of_today),
        cmocka_unit_test(vllm_before_0_11_named_its_usage_after_the_gpu),
        cmocka_unit_test(vllm_that_shows_both_names_counts_once),
        cmocka_unit_test(vllm_with_waiting_by_reason_only),
        cmocka_unit_test(data_parallel_ranks_are_put_together),
        cmocka_unit_test(an_unknown_capacity_is_not_zero),
        cmocka_unit_test(sglang),
        cmocka_unit_test(llama_cpp_of_today_and_before),
        cmocka_unit_test(tgi),
        cmocka_unit_test(labels_may_hold_anything),
        cmocka_unit_test(what_is_no_page_says_nothing),
        cmocka_unit_test(restarts_are_seen_by_start_time_or_counters),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
