/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/policy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/must.h"
#include "scheduler/state.h"

static const struct policy *const policies[] = {
#define POLICY(symbol, name, single, help) &policy_##symbol,
#include "common/policies.def"
};

const struct policy *policy_get(const struct policy_spec *spec)
{
    must(spec->symbol < POLICY_COUNT);
    return policies[spec->symbol];
}

/* ---- which ones ---- */

static struct placement *text_find(struct placements *p, const char *text)
{
    for (uint32_t i = 0; i < p->count; i++)
        if (strcmp(p->items[i].spec.text, text) == 0)
            return &p->items[i];
    return NULL;
}

static enum err text_add(struct placements *p, const char *text, uint32_t *out)
{
    struct placement *at = text_find(p, text), fresh = {.hears = true};
    enum err err;

    if (at != NULL) {
        *out = (uint32_t)(at - p->items);
        return ERR_OK;
    }
    err = spec_parse(text, &fresh.spec, NULL, 0);
    if (err != ERR_OK)
        return err;
    fresh.policy = policy_get(&fresh.spec);
    for (uint32_t i = 0; i < p->count; i++)
        fresh.hears &= p->items[i].policy != fresh.policy;
    if (!fresh.hears && fresh.policy->opened != NULL)
        return ERR_CONF;
    *out = p->count++;
    p->items[*out] = fresh;
    return ERR_OK;
}

/* Without options a policy that is in force once is meant as it is in force. */
static bool is_same_single(const struct policy_spec *s, const char *text)
{
    return spec_is_single(s) && strcmp(spec_name(s), text) == 0;
}

static enum err placements_read(struct placements *p, const struct core_conf *conf)
{
    uint32_t general;
    enum err err = text_add(p, conf->policy, &general);

    if (err == ERR_OK && !is_same_single(&p->items[general].spec, conf->default_policy))
        err = text_add(p, conf->default_policy, &p->fallback);
    if (conf->rule_count > POLICY_RULES_MAX)
        err = ERR_CONF;
    for (uint32_t i = 0; err == ERR_OK && i < conf->rule_count; i++) {
        const struct policy_rule *told = &conf->rules[i];
        struct placement_rule *r = &p->rules[p->rule_count++];

        if (strlen(told->model) >= sizeof(r->model) || strlen(told->route) >= sizeof(r->route))
            return ERR_CONF;
        snprintf(r->model, sizeof(r->model), "%s", told->model);
        snprintf(r->route, sizeof(r->route), "%s", told->route);
        err = text_add(p, told->policy, &r->item);
    }
    return err;
}

static bool fits(const char *wanted, struct text told)
{
    return *wanted == '\0' || (strlen(wanted) == told.len && memcmp(wanted, told.p, told.len) == 0);
}

const struct placement *policies_choose(const struct core *c, const struct query *q,
                                        bool has_workflow)
{
    const struct placements *p = c->policies;

    for (uint32_t i = 0; i < p->rule_count; i++) {
        const struct placement *at = &p->items[p->rules[i].item];

        if (fits(p->rules[i].model, q->model) && fits(p->rules[i].route, q->route))
            return at;
    }
    return &p->items[has_workflow ? 0 : p->fallback];
}

/* ---- their coming and going ---- */

static bool has_policy(const struct placements *p, const struct policy *policy)
{
    for (uint32_t i = 0; i < p->count; i++)
        if (p->items[i].policy == policy)
            return true;
    return false;
}

/* States that nobody took over. */
static void placements_drop(struct core *c, struct placements *p)
{
    for (uint32_t i = 0; i < p->count; i++)
        if (p->items[i].state != NULL)
            p->items[i].policy->stop(c, p->items[i].state);
    free(p);
}

enum err policies_set(struct core *c, const struct core_conf *conf)
{
    struct placements *was = c->policies, *p = calloc(1, sizeof(*p));
    enum err err;

    must(p != NULL);
    err = placements_read(p, conf);
    if (err != ERR_OK) {
        free(p);
        return err;
    }
    for (uint32_t i = 0; i < p->count; i++) {
        struct placement *at = &p->items[i],
                         *old = was != NULL ? text_find(was, at->spec.text) : NULL;

        if (old != NULL) {
            at->state = old->state;
            old->state = NULL;
        } else if (at->policy->start != NULL) {
            at->state = at->policy->start(c, &at->spec);
        }
    }
    c->policies = p;
    if (was == NULL)
        return ERR_OK;
    for (uint32_t i = 0; i < was->count; i++)
        if (was->items[i].hears && !has_policy(p, was->items[i].policy) &&
            was->items[i].policy->closed != NULL)
            was->items[i].policy->closed(c);
    placements_drop(c, was);
    return ERR_OK;
}

void policies_open(struct core *c)
{
    policies_tell(c, opened, &told->spec);
}

void policies_stop(struct core *c)
{
    if (c->policies != NULL)
        placements_drop(c, c->policies);
    c->policies = NULL;
}

/* ---- what they hear ---- */

void policies_cleared(struct core *c, const struct engine *e)
{
    for (uint32_t i = 0; i < c->policies->count; i++) {
        const struct placement *p = &c->policies->items[i];

        if (p->policy->cleared != NULL)
            p->policy->cleared(c, p->state, e);
    }
}

void policies_drain(struct core *c)
{
    bool drains = false;
    struct wait *w;

    for (uint32_t i = 0; i < c->policies->count; i++)
        drains |= c->policies->items[i].policy->drain != NULL;
    policies_tell(c, drain);
    if (drains)
        return;
    while ((w = lines_take(&c->waits.lines, 1)) != NULL)
        if (!wait_try(c, w)) { /* no room for another lease */
            line_put(&c->waits.lines, w);
            return;
        }
}

uint64_t policies_next_deadline(const struct core *c)
{
    uint64_t next = UINT64_MAX;

    for (uint32_t i = 0; i < c->policies->count; i++) {
        const struct placement *p = &c->policies->items[i];
        uint64_t other =
            p->hears && p->policy->next_deadline != NULL ? p->policy->next_deadline(c) : UINT64_MAX;

        next = other < next ? other : next;
    }
    return next;
}

void plain_stop(struct core *c, void *state)
{
    (void)c;
    free(state);
}
