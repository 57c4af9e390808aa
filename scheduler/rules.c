/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/rules.h"

#include <stdio.h>
#include <string.h>

static void copy(char *dst, size_t size, const char *src)
{
    snprintf(dst, size, "%s", src);
}

void rules_load(struct rules *r, const struct conf *conf)
{
    *r = (struct rules){0};
    copy(r->general, sizeof(r->general), conf->scheduler.policy);
    copy(r->others, sizeof(r->others), conf->scheduler.default_policy);
    for (size_t i = 0; i < conf->policy_count && i < POLICY_RULES_MAX; i++) {
        struct rule *to = &r->items[r->count++];

        copy(to->model, sizeof(to->model), conf->policies[i].model);
        copy(to->route, sizeof(to->route), conf->policies[i].route);
        copy(to->policy, sizeof(to->policy), conf->policies[i].policy);
    }
}

static uint32_t rule_find(const struct rules *r, const struct rule_change *change)
{
    uint32_t i = 0;

    while (i < r->count && (strcmp(r->items[i].model, change->model) != 0 ||
                            strcmp(r->items[i].route, change->route) != 0))
        i++;
    return i;
}

static enum err rule_remove(struct rules *r, const struct rule_change *change)
{
    uint32_t at = rule_find(r, change);

    if (at == r->count)
        return ERR_NOT_FOUND;
    r->count--;
    memmove(&r->items[at], &r->items[at + 1], (r->count - at) * sizeof(r->items[0]));
    return ERR_OK;
}

static enum err rule_set(struct rules *r, const struct rule_change *change)
{
    uint32_t at = rule_find(r, change);

    if (strlen(change->model) > MODEL_MAX || strlen(change->route) >= sizeof(r->items[0].route))
        return ERR_TOO_LARGE;
    if (at == POLICY_RULES_MAX)
        return ERR_BUSY;
    r->count += at == r->count;
    copy(r->items[at].model, sizeof(r->items[at].model), change->model);
    copy(r->items[at].route, sizeof(r->items[at].route), change->route);
    copy(r->items[at].policy, sizeof(r->items[at].policy), change->policy);
    return ERR_OK;
}

/* It is shown to people: nothing that a terminal takes for an order. */
static bool is_printable(const char *s)
{
    for (; *s != '\0'; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            return false;
    return true;
}

enum err rules_change(struct rules *r, const struct rule_change *change, char *why, size_t size)
{
    bool is_rule = *change->model != '\0' || *change->route != '\0';
    struct policy_spec spec;

    *why = '\0';
    if (change->remove)
        return rule_remove(r, change);
    if (!is_printable(change->model) || !is_printable(change->route)) {
        snprintf(why, size, "control characters are in no model's and no route's name");
        return ERR_VALUE;
    }
    if (spec_parse(change->policy, &spec, why, size) != ERR_OK)
        return ERR_VALUE;
    if (is_rule)
        return rule_set(r, change);
    copy(change->is_default ? r->others : r->general, sizeof(r->others), change->policy);
    return ERR_OK;
}

void rules_conf(const struct rules *r, struct policy_rule *array, struct core_conf *out)
{
    out->policy = r->general;
    out->default_policy = r->others;
    out->rules = array;
    out->rule_count = r->count;
    for (uint32_t i = 0; i < r->count; i++)
        array[i] = (struct policy_rule){
            .model = r->items[i].model, .route = r->items[i].route, .policy = r->items[i].policy};
}
