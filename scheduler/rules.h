/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_RULES_H
#define SCHED_RULES_H

#include "common/conf.h"
#include "common/policy_spec.h"
#include "scheduler/core.h"

/*
 * The policies in force: those of the settings, and what operators have changed since they were
 * read. Plain data.
 */
struct rules {
    char general[SPEC_MAX + 1], others[SPEC_MAX + 1]; /* others: requests without a workflow */
    struct rule {
        char model[MODEL_MAX + 1], route[ROUTE_MAX + 1], policy[SPEC_MAX + 1];
    } items[POLICY_RULES_MAX];
    uint32_t count;
};

struct rule_change {
    const char *model, *route, *policy;
    bool is_default, remove;
};

void rules_load(struct rules *r, const struct conf *conf);
/* ERR_VALUE: no such policy, or not for this place; ERR_NOT_FOUND: no rule to remove; ERR_BUSY: too
 * many rules. r is untouched on failure. why: the reason in words. */
enum err rules_change(struct rules *r, const struct rule_change *change, char *why, size_t size);
/* What the core wants of it: general, others and the rules, whose array (POLICY_RULES_MAX) the
 * caller lends. */
void rules_conf(const struct rules *r, struct policy_rule *array, struct core_conf *out);

#endif
