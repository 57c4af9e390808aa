/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/conf.h"
#include "common/conf_table.h"
#include "common/log.h"
#include "common/rpc.h"

static struct conf *good(const char *text)
{
    struct buf errors = {0};
    struct conf *c = NULL;

    if (conf_parse(text, strlen(text), "f", &c, &errors) != ERR_OK)
        fail_msg("refused:\n%s", buf_cstr(&errors));
    assert_int_equal(errors.len, 0);
    return c;
}

/* The messages for a file that must be refused; good until the next call. */
static const char *bad(const char *text)
{
    static struct buf errors;
    struct conf *c = NULL;

    buf_fini(&errors);
    assert_int_equal(conf_parse(text, strlen(text), "f", &c, &errors), ERR_CONF);
    assert_null(c);
    return buf_cstr(&errors);
}

static void refused(const char *text, const char *messages)
{
    assert_string_equal(bad(text), messages);
}

static unsigned lines_of(const char *text)
{
    unsigned n = 0;

    for (; *text != '\0'; text++)
        n += *text == '\n';
    return n;
}

static void empty_file_is_all_defaults(void **state)
{
    static const char *const files[] = {"", "# nothing\n", "---\n", "common:\ngateway:\nengines:\n",
                                        "{}"};
    size_t i;

    (void)state;
    for (i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        struct conf *c = good(files[i]);

        assert_string_equal(c->common.run_dir, "/run/slipstream");
        assert_int_equal(c->common.channel, RPC_AUTO);
        assert_int_equal(c->common.log_level, LOG_LEVEL_INFO);
        assert_true(c->common.time_scale == 1.0);
        assert_int_equal(c->gateway.listen.count, 1);
        assert_string_equal(c->gateway.listen.items[0], "127.0.0.1:8080");
        assert_int_equal(c->gateway.max_body_bytes, 32 << 20);
        assert_int_equal(c->gateway.head_timeout_ms, 10000);
        assert_int_equal(c->gateway.admin_listen.count, 0);
        assert_int_equal(c->mailbox.ttl_ms, 3600000);
        assert_int_equal(c->engine_count, 0);
        conf_free(c);
    }
}

static void values_are_read_with_their_units(void **state)
{
    struct conf *c = good("common: {channel: shm, log_level: debug, time_scale: 2.5e1}\n"
                          "gateway:\n"
                          "  max_body_bytes: 64M\n"
                          "  max_head_bytes: 4096\n"
                          "  head_timeout_ms: 250\n"
                          "  body_timeout_ms: 250ms\n"
                          "  keepalive_timeout_ms: 1.5m\n"
                          "  total_timeout_ms: '2h'\n"
                          "  http2: true\n"
                          "  listen: 0.0.0.0:80\n"
                          "  admin_hosts: [a, \"b\"]\n"
                          "scheduler: {digest_seed: 18446744073709551615}\n"
                          "engines:\n"
                          "  - {id: e1, url: 'http://[::1]:9000', models: [m1, m2]}\n"
                          "  - {url: 'http://gpu-7.lan:1', id: e2, usage: never}\n"
                          "keys: [{file: /k, tenant: t}]\n"
                          "profiles:\n- name: p\n");

    (void)state;
    assert_int_equal(c->common.channel, RPC_SHM);
    assert_int_equal(c->common.log_level, LOG_LEVEL_DEBUG);
    assert_true(c->common.time_scale == 25.0);
    assert_int_equal(c->gateway.max_body_bytes, 64 << 20);
    assert_int_equal(c->gateway.max_head_bytes, 4096);
    assert_int_equal(c->gateway.head_timeout_ms, 250);
    assert_int_equal(c->gateway.body_timeout_ms, 250);
    assert_int_equal(c->gateway.keepalive_timeout_ms, 90000);
    assert_int_equal(c->gateway.total_timeout_ms, 7200000);
    assert_true(c->gateway.http2);
    assert_int_equal(c->gateway.listen.count, 1);
    assert_string_equal(c->gateway.admin_hosts.items[1], "b");
    assert_true(c->scheduler.digest_seed == UINT64_MAX);
    assert_int_equal(c->engine_count, 2);
    assert_string_equal(c->engines[0].models.items[1], "m2");
    assert_int_equal(c->engines[1].usage, CONF_USAGE_NEVER);
    assert_string_equal(c->keys[0].tenant, "t");
    assert_int_equal(c->profiles[0].ttl_ms, 1800000);
    conf_free(c);
}

static void unknown_name_tells_its_line_and_the_nearest_known_one(void **state)
{
    (void)state;
    refused("scheduler:\n  # comment\n  polcy: workflow\n",
            "f:3: scheduler.polcy: no such setting; did you mean \"policy\"?\n");
    refused("gateway:\n  policy: least\n",
            "f:2: gateway.policy: no such setting; did you mean \"scheduler.policy\"?\n");
    refused("gateway: {max_bdy_byte: 1, zzzzzzzz: 1}\n",
            "f:1: gateway.max_bdy_byte: no such setting; did you mean \"max_body_bytes\"?\n"
            "f:1: gateway.zzzzzzzz: no such setting\n");
    refused("engines:\n- id: a\n  url: http://a:1\n  adress: b\n  modles: [x]\n",
            "f:4: engines[0].adress: no such setting\n"
            "f:5: engines[0].modles: no such setting; did you mean \"models\"?\n");
    refused("schduler: {policy: 1, nested: {deeply: [1, 2]}}\nq: 1\n",
            "f:1: schduler: no such section; did you mean \"scheduler\"?\n"
            "f:2: q: no such section\n");
}

static void names_given_twice_are_refused(void **state)
{
    (void)state;
    refused("gateway:\n  http2: true\n\n  http2: true\n",
            "f:4: gateway.http2: given twice, first on line 2\n");
    refused("gateway:\n  http2: true\ncommon:\ngateway:\n  http2: false\n",
            "f:4: gateway: given twice, first on line 1\n");
}

static void numbers_out_of_range_are_refused(void **state)
{
    (void)state;
    refused("gateway: {retry_max: 11}",
            "f:1: gateway.retry_max: \"11\" is out of range: 0 to 10\n");
    refused("gateway: {max_body_bytes: 2G}",
            "f:1: gateway.max_body_bytes: \"2G\" is out of range: 1K to 1G\n");
    refused("gateway: {head_timeout_ms: 11m}",
            "f:1: gateway.head_timeout_ms: \"11m\" is out of range: 100ms to 10m\n");
    refused("common: {time_scale: 0}",
            "f:1: common.time_scale: \"0\" is out of range: 0.01 to 1000\n");
    assert_non_null(strstr(bad("mailbox: {box_bytes: 18446744073709551616}"), "not a number"));
    assert_non_null(strstr(bad("mailbox: {box_bytes: 18446744073709551615K}"), "out of range"));
    assert_non_null(strstr(bad("mailbox: {ttl_ms: 99999999999999999999h}"), "not a time"));
    assert_non_null(strstr(bad("scheduler: {max_agents: 4294967297}"), "out of range"));
}

static void values_of_the_wrong_form_are_refused(void **state)
{
    static const char *const files[] = {
        "gateway: {http2: yes}",
        "gateway: {http2: True}",
        "gateway: {http2: 1}",
        "gateway: {http2: }",
        "gateway: {retry_max: -1}",
        "gateway: {retry_max: +1}",
        "gateway: {retry_max: 1.0}",
        "gateway: {retry_max: 0x1}",
        "gateway: {retry_max: 1K}",
        "gateway: {retry_max: ' 1'}",
        "gateway: {retry_max: [1]}",
        "gateway: {retry_max: {a: 1}}",
        "gateway: {max_body_bytes: 1k}",
        "gateway: {max_body_bytes: 1MB}",
        "gateway: {max_body_bytes: 2.5M}",
        "gateway: {head_timeout_ms: 5 s}",
        "gateway: {head_timeout_ms: 5S}",
        "gateway: {head_timeout_ms: 1.0001s}",
        "gateway: {head_timeout_ms: 1.s}",
        "gateway: {head_timeout_ms: 1d}",
        "gateway: {head_timeout_ms: -5s}",
        "gateway: {retry_budget: nan}",
        "gateway: {retry_budget: inf}",
        "gateway: {retry_budget: 0x1p1}",
        "gateway: {retry_budget: 1e}",
        "gateway: {retry_budget: 1e999}",
        "gateway: {usage: sometimes}",
        "common: {channel: rings}",
        "gateway: {listen: []}",
        "gateway: {listen: [[a]]}",
        "gateway: {listen: {a: b}}",
        "gateway: {access_log: \"a\\nb\"}",
        "gateway: {access_log: \"a\\0b\"}",
        "gateway: {access_log: \"\\u2028\"}",
        "gateway: {[a]: b}",
        "gateway: [a]",
        "engines: {id: a}",
        "engines: [a]",
        "gateway: &x {http2: true}",
        "gateway: {http2: &x true}",
        "gateway: {http2: *x}",
        "<<: {gateway: {}}",
        "- a",
        "just text",
        "common: {}\n---\ncommon: {}",
        "gateway: {http2: true",
        "gateway:\n\thttp2: true",
        "gateway: {http2: \"\\xff",
        "\xff\xfe",
        "common: {run_dir: \"\xc3\"}",
    };
    size_t i;

    (void)state;
    for (i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        const char *messages = bad(files[i]);

        if (lines_of(messages) < 1 || strncmp(messages, "f:", 2) != 0)
            fail_msg("%s gave %s", files[i], messages);
    }
}

static void errors_are_gathered_with_their_lines(void **state)
{
    refused("common:\n"
            "  log_level: loud\n"
            "gateway:\n"
            "  listen: [localhost:80]\n"
            "  tls_cert_file: /c\n"
            "engines:\n"
            "  - id: e1\n"
            "  - id: e 2\n"
            "    url: https://e:1\n"
            "  - id: e2\n"
            "    url: http://e:1/v1\n"
            "  - id: e2\n"
            "    url: http://e:70000\n",
            "f:2: common.log_level: \"loud\" is none of error, warn, info or debug\n"
            "f:7: engines[0].url: is required\n"
            "f:4: gateway.listen: must be ip:port or [ip6]:port\n"
            "f:5: gateway.tls_cert_file: needs tls_key_file, too\n"
            "f:8: engines[1].id: takes letters, digits, '.', '_' and '-' only\n"
            "f:9: engines[1].url: must be http://host:port\n"
            "f:11: engines[2].url: must be http://host:port\n"
            "f:13: engines[3].url: must be http://host:port\n"
            "f:12: engines[3].id: is the id of another engine, too\n");
    (void)state;
}

static void endpoints_of_kv_events_are_checked(void **state)
{
    static const char form[] = "must be tcp://host:port, or ipc:///path where kv_ranks is 1\n";
    char messages[800];

    (void)state;
    conf_free(good("engines:\n"
                   "- {id: a, url: 'http://a:1', kv_events: 'tcp://a:1', kv_replay: 'tcp://a:2',"
                   " kv_ranks: 8}\n"
                   "- {id: b, url: 'http://b:1', kv_events: 'tcp://*:5557', kv_bind: true}\n"
                   "- {id: c, url: 'http://c:1', kv_events: 'ipc:///run/kv', kv_content: true,"
                   " metrics_path: ''}\n"
                   "- {id: d, url: 'http://d:1', kv_events: 'tcp://[::1]:5557', kv_bind: true}\n"));
    snprintf(messages, sizeof(messages),
             "f:2: engines[0].kv_events: %sf:3: engines[1].kv_events: %s"
             "f:4: engines[2].kv_events: %sf:5: engines[3].kv_replay: %s"
             "f:6: engines[4].kv_replay: needs kv_events, too\n"
             "f:7: engines[5].kv_content: goes with one rank only\n"
             "f:9: engines[7].kv_events: is opened for another engine, too\n"
             "f:10: engines[8].metrics_path: must begin with a slash\n",
             form, form, form, form);
    refused("engines:\n"
            "- {id: a, url: 'http://a:1', kv_events: 'tcp://*:5557'}\n" /* not bound */
            "- {id: b, url: 'http://b:1', kv_events: 'udp://b:5557'}\n"
            "- {id: c, url: 'http://c:1', kv_events: 'ipc:///run/kv', kv_ranks: 2}\n"
            "- {id: d, url: 'http://d:1', kv_events: 'tcp://d:1', kv_replay: 'tcp://d'}\n"
            "- {id: e, url: 'http://e:1', kv_replay: 'tcp://e:1'}\n"
            "- {id: f, url: 'http://f:1', kv_events: 'tcp://f:1', kv_ranks: 2,"
            " kv_content: true}\n"
            "- {id: g, url: 'http://g:1', kv_events: 'tcp://*:1', kv_bind: true}\n"
            "- {id: h, url: 'http://h:1', kv_events: 'tcp://*:1', kv_bind: true}\n"
            "- {id: i, url: 'http://i:1', metrics_path: metrics}\n",
            messages);
}

static void syntax_error_comes_with_what_was_wrong_before_it(void **state)
{
    const char *messages = bad("gateway:\n  http3: true\n  listen: [a\n");

    (void)state;
    assert_non_null(strstr(messages, "f:2: gateway.http3: no such setting"));
    assert_non_null(strstr(messages, ": not YAML: "));
}

static void settings_must_agree(void **state)
{
    (void)state;
    refused("common: {scheduler_url: 'tcp://h:1'}",
            "f:1: common.scheduler_url: plain tcp:// needs insecure: true\n");
    conf_free(good("common: {scheduler_url: 'tcp://h:1', insecure: true}"));
    conf_free(good("common: {scheduler_url: 'tls+tcp://h:1', rpc_tls_ca_file: /ca}"));
    assert_non_null(strstr(bad("common: {scheduler_url: 'tls+tcp://h:1'}"), "needs"));
    assert_non_null(strstr(bad("common: {mailbox_url: 'http://h:1'}"), "must be ipc:///path"));
    assert_non_null(strstr(bad("common: {run_dir: run}"), "absolute"));
    assert_non_null(strstr(bad("common: {rpc_tls_key_file: /k}"), "needs rpc_tls_cert_file, too"));
    assert_non_null(strstr(bad("mailbox: {box_bytes: 1K}"), "max_payload_bytes"));
    assert_non_null(strstr(bad("gateway: {listen: ['[::1]:80', '[::1]:80']}"), "twice"));
    assert_non_null(strstr(bad("profiles: [{name: a}, {name: a}]"), "another profile"));
    assert_non_null(strstr(bad("keys: [{file: a}, {file: a}]"), "another key"));
}

static void flood_of_errors_is_cut_short(void **state)
{
    struct buf text = {0};
    unsigned i;

    (void)state;
    buf_adds(&text, "gateway:\n");
    for (i = 0; i < 1000; i++)
        buf_addf(&text, "  zz%u: 1\n", i);
    assert_int_equal(lines_of(bad(buf_cstr(&text))), 51);
    buf_fini(&text);
}

static void lists_are_bounded(void **state)
{
    struct buf text = {0};
    unsigned i;

    (void)state;
    buf_adds(&text, "engines:\n");
    for (i = 0; i < 256; i++)
        buf_addf(&text, "- {id: e%u, url: 'http://h:1'}\n", i);
    conf_free(good(buf_cstr(&text)));
    buf_addf(&text, "- {id: e256, url: 'http://h:1'}\n- {id: e257, url: 'http://h:1'}\n");
    refused(buf_cstr(&text), "f:258: engines: takes at most 256 items\n");
    assert_non_null(strstr(bad("engines: [{id: e, url: 'http://h:1', models: [a, b, c, d, e]}]"),
                           "takes 0 to 4 items"));
    buf_fini(&text);
}

static void messages_escape_what_the_file_says(void **state)
{
    (void)state;
    refused("gateway: {\"a\\e[31m\\n\": 1, usage: \"\\e[31m\"}",
            "f:1: gateway.a\\x1b[31m\\x0a: no such setting\n"
            "f:1: gateway.usage: \"\\x1b[31m\" is none of workflow, always or never\n");
}

static void printed_configuration_reads_back_as_itself(void **state)
{
    struct conf *c =
        good("common: {run_dir: \"/tmp/\\\"q\\\\ \xc3\xa4\", time_scale: 0.1}\n"
             "gateway: {retry_budget: 0.3333333333333333, admin_hosts: ['a: #b', '-']}\n"
             "mailbox: {box_bytes: 20000001, ttl_ms: 61s}\n"
             "engines: [{id: e1, url: 'http://h:1'}, {id: e2, url: 'http://h:2'}]\n"
             "keys: [{file: /k}]\n");
    struct buf once = {0}, twice = {0};
    struct conf *again;

    (void)state;
    conf_print(c, &once);
    again = good(buf_cstr(&once));
    conf_print(again, &twice);
    assert_string_equal(buf_cstr(&once), buf_cstr(&twice));
    assert_non_null(strstr(buf_cstr(&once), "  ttl_ms: 61s\n"));
    conf_free(c);
    conf_free(again);
    buf_fini(&once);
    buf_fini(&twice);
}

static void policies_of_models_and_routes_are_read_and_checked_with_their_lines(void **state)
{
    struct conf *c = good("policies:\n"
                          "  - {model: m, route: /v1/completions, policy: 'llmd:weights'}\n"
                          "  - {policy: roundrobin}\n");

    (void)state;
    assert_int_equal(c->policy_count, 2);
    assert_string_equal(c->policies[0].route, "/v1/completions");
    assert_string_equal(c->policies[0].policy, "llmd:weights");
    assert_string_equal(c->policies[1].model, "");
    conf_free(c);
    assert_non_null(strstr(bad("policies:\n  - model: m\n    policy: astrology\n"),
                           "f:3: policies[0].policy: no policy \"astrology\""));
    assert_non_null(strstr(bad("policies:\n  - policy: least\n    route: v1\n"),
                           "f:3: policies[0].route: must begin with a slash"));
    assert_non_null(
        strstr(bad("policies: [{policy: least}, {policy: roundrobin}]"), "another item"));
    assert_non_null(strstr(bad("policies:\n- {model: a, policy: workflow}\n- {model: b, policy: "
                               "'workflow:tax=.1'}\n"),
                           "one set of options only"));
    assert_non_null(strstr(bad("policies: [{model: m}]"), "policies[0].policy: is required"));
    assert_non_null(
        strstr(bad("scheduler:\n  policy: workflow:gate=x\n"), "f:2: scheduler.policy"));
}

/* Takes the # away from every setting: what the example shows as defaults is what they are. */
static void example_shows_every_setting_with_its_default(void **state)
{
    struct buf example = {0}, live = {0}, a = {0}, b = {0};
    const char *p;
    struct conf *c, *d;
    size_t i, j;

    (void)state;
    conf_example(&example);
    c = good(buf_cstr(&example));
    assert_int_equal(c->engine_count, 1);
    for (p = buf_cstr(&example); *p != '\0'; p++)
        if (*p != '#' || p[1] == ' ')
            buf_add(&live, p, 1);
    d = good(buf_cstr(&live));
    assert_int_equal(d->key_count, 1);
    assert_int_equal(d->profile_count, 1);
    assert_int_equal(d->policy_count, 1);
    d->key_count = d->profile_count = d->policy_count = 0;
    conf_print(c, &a);
    conf_print(d, &b);
    assert_string_equal(buf_cstr(&a), buf_cstr(&b));
    for (i = 0; i < CONF_SECTIONS; i++)
        for (j = 0; j < conf_sections[i].row_count; j++)
            assert_non_null(strstr(buf_cstr(&live), conf_sections[i].rows[j].name));
    d->key_count = d->profile_count = d->policy_count = 1;
    conf_free(c);
    conf_free(d);
    buf_fini(&example);
    buf_fini(&live);
    buf_fini(&a);
    buf_fini(&b);
}

static void every_default_is_one_that_the_file_may_state(void **state)
{
    size_t i, j;

    (void)state;
    for (i = 0; i < CONF_SECTIONS; i++)
        for (j = 0; j < conf_sections[i].row_count; j++) {
            const struct conf_row *row = &conf_sections[i].rows[j];
            struct buf text = {0};

            if (conf_sections[i].count_max > 0 || conf_row_is_required(row))
                continue;
            buf_addf(&text, "%s: {%s: ", conf_sections[i].name, row->name);
            conf_default_print(row, &text);
            buf_adds(&text, "}");
            conf_free(good(buf_cstr(&text)));
            buf_fini(&text);
        }
}

static void empty_urls_mean_sockets_in_the_run_folder(void **state)
{
    struct conf *c = good("common: {run_dir: /r, mailbox_url: 'ipc:///m'}");
    char url[200];

    (void)state;
    assert_string_equal(conf_scheduler_url(c, url, sizeof(url)), "ipc:///r/sock/scheduler");
    assert_string_equal(conf_mailbox_url(c, url, sizeof(url)), "ipc:///m");
    conf_free(c);
}

static void file_that_is_not_there_is_named(void **state)
{
    struct buf errors = {0};
    struct conf *c = NULL;

    (void)state;
    assert_int_equal(conf_load("/nonexistent/s.yaml", &c, &errors), ERR_NOT_FOUND);
    assert_string_equal(buf_cstr(&errors), "/nonexistent/s.yaml: No such file or directory\n");
    buf_clear(&errors);
    assert_int_equal(conf_load("/", &c, &errors), ERR_IO);
    assert_null(c);
    buf_fini(&errors);
}

static void file_is_read_with_its_name_in_messages(void **state)
{
    char path[] = "/tmp/slip-conf-XXXXXX", want[80];
    int fd = mkstemp(path);
    struct buf errors = {0};
    struct conf *c = NULL;

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "mailbox: {max_boxes: 7}\n", 24), 24);
    assert_int_equal(conf_load(path, &c, &errors), ERR_OK);
    assert_int_equal(c->mailbox.max_boxes, 7);
    assert_string_equal(c->path, path);
    conf_free(c);
    assert_int_equal(write(fd, "q: 1\n", 5), 5);
    assert_int_equal(conf_load(path, &c, &errors), ERR_CONF);
    snprintf(want, sizeof(want), "%s:2: q: no such section\n", path);
    assert_string_equal(buf_cstr(&errors), want);
    assert_int_equal(ftruncate(fd, 5 << 20), 0);
    assert_int_equal(conf_load(path, &c, &errors), ERR_TOO_LARGE);
    close(fd);
    unlink(path);
    buf_fini(&errors);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(empty_file_is_all_defaults),
        cmocka_unit_test(values_are_read_with_their_units),
        cmocka_unit_test(unknown_name_tells_its_line_and_the_nearest_known_one),
        cmocka_unit_test(names_given_twice_are_refused),
        cmocka_unit_test(numbers_out_of_range_are_refused),
        cmocka_unit_test(values_of_the_wrong_form_are_refused),
        cmocka_unit_test(errors_are_gathered_with_their_lines),
        cmocka_unit_test(endpoints_of_kv_events_are_checked),
        cmocka_unit_test(syntax_error_comes_with_what_was_wrong_before_it),
        cmocka_unit_test(settings_must_agree),
        cmocka_unit_test(flood_of_errors_is_cut_short),
        cmocka_unit_test(lists_are_bounded),
        cmocka_unit_test(messages_escape_what_the_file_says),
        cmocka_unit_test(printed_configuration_reads_back_as_itself),
        cmocka_unit_test(policies_of_models_and_routes_are_read_and_checked_with_their_lines),
        cmocka_unit_test(example_shows_every_setting_with_its_default),
        cmocka_unit_test(every_default_is_one_that_the_file_may_state),
        cmocka_unit_test(empty_urls_mean_sockets_in_the_run_folder),
        cmocka_unit_test(file_that_is_not_there_is_named),
        cmocka_unit_test(file_is_read_with_its_name_in_messages),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
