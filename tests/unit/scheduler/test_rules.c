/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/must.h"
#include "scheduler/rules.h"

static char why[400];

static struct rules fresh(const char *text)
{
    struct buf errors = {0};
    struct rules r;
    struct conf *c;

    must(conf_parse(text, strlen(text), "f", &c, &errors) == ERR_OK);
    rules_load(&r, c);
    conf_free(c);
    return r;
}

static enum err change(struct rules *r, const char *model, const char *route, const char *policy)
{
    struct rule_change what = {.model = model, .route = route, .policy = policy};

    return rules_change(r, &what, why, sizeof(why));
}

static void settings_are_what_is_in_force_at_first(void **state)
{
    struct rules r =
        fresh("scheduler: {policy: 'workflow:tax=.1', default_policy: roundrobin}\n"
              "policies: [{model: m, policy: least}, {route: /v1/x, policy: random}]\n");
    struct policy_rule array[POLICY_RULES_MAX];
    struct core_conf conf;

    (void)state;
    rules_conf(&r, array, &conf);
    assert_string_equal(conf.policy, "workflow:tax=.1");
    assert_string_equal(conf.default_policy, "roundrobin");
    assert_int_equal(conf.rule_count, 2);
    assert_string_equal(conf.rules[0].model, "m");
    assert_string_equal(conf.rules[0].route, "");
    assert_string_equal(conf.rules[1].route, "/v1/x");
    assert_string_equal(conf.rules[1].policy, "random");
}

static void change_replaces_adds_and_removes_one_rule(void **state)
{
    struct rules r = fresh("policies: [{model: m, policy: least}]\n");
    struct rule_change drop = {.model = "m", .route = "", .policy = "", .remove = true};

    (void)state;
    assert_int_equal(change(&r, "m", "", "random"), ERR_OK);
    assert_int_equal(r.count, 1);
    assert_string_equal(r.items[0].policy, "random");
    assert_int_equal(change(&r, "m", "/v1/x", "roundrobin"), ERR_OK);
    assert_int_equal(r.count, 2);
    assert_int_equal(rules_change(&r, &drop, why, sizeof(why)), ERR_OK);
    assert_int_equal(r.count, 1);
    assert_string_equal(r.items[0].route, "/v1/x");
    assert_int_equal(rules_change(&r, &drop, why, sizeof(why)), ERR_NOT_FOUND);
    assert_int_equal(change(&r, "", "", "least"), ERR_OK);
    assert_string_equal(r.general, "least");
    assert_string_equal(r.others, "least");
}

static void bad_policy_is_refused_in_words_and_changes_nothing(void **state)
{
    struct rules r = fresh(""), before = r;
    struct rule_change others = {
        .model = "", .route = "", .policy = "astrology", .is_default = true};

    (void)state;
    assert_int_equal(change(&r, "", "", "astrology"), ERR_VALUE);
    assert_non_null(strstr(why, "astrology"));
    assert_int_equal(change(&r, "m", "", "workflow:stars=1"), ERR_VALUE);
    assert_non_null(strstr(why, "stars"));
    assert_int_equal(rules_change(&r, &others, why, sizeof(why)), ERR_VALUE);
    assert_non_null(strstr(why, "astrology"));
    assert_memory_equal(&r, &before, sizeof(r));
}

static void names_with_control_characters_are_refused(void **state)
{
    struct rules r = fresh("");

    (void)state;
    assert_int_equal(change(&r, "m\x1b[2J", "", "least"), ERR_VALUE);
    assert_int_equal(change(&r, "", "\x7f", "least"), ERR_VALUE);
    assert_int_equal(r.count, 0);
    assert_int_equal(change(&r, "\xc3\xbc", "", "least"), ERR_OK);
}

static void rules_are_bounded(void **state)
{
    struct rules r = fresh("");
    char model[20], long_one[MODEL_MAX + 2];

    (void)state;
    for (unsigned i = 0; i < POLICY_RULES_MAX; i++) {
        snprintf(model, sizeof(model), "m%u", i);
        assert_int_equal(change(&r, model, "", "least"), ERR_OK);
    }
    assert_int_equal(change(&r, "one more", "", "least"), ERR_BUSY);
    assert_int_equal(change(&r, "m7", "", "random"), ERR_OK);
    memset(long_one, 'x', sizeof(long_one) - 1);
    long_one[sizeof(long_one) - 1] = '\0';
    assert_int_equal(change(&r, long_one, "", "least"), ERR_TOO_LARGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(settings_are_what_is_in_force_at_first),
        cmocka_unit_test(change_replaces_adds_and_removes_one_rule),
        cmocka_unit_test(bad_policy_is_refused_in_words_and_changes_nothing),
        cmocka_unit_test(names_with_control_characters_are_refused),
        cmocka_unit_test(rules_are_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
