/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "client/ctl.h"

/* explain [REQUEST], policy [SPEC] */
enum { OPT_WORKFLOW = 2000, OPT_LIMIT, OPT_MODEL, OPT_ROUTE, OPT_DEFAULT, OPT_REMOVE };

/* ---- explain ---- */

struct explain_arguments {
    struct ctl *ctl;
    const char *workflow, *request;
    uint32_t limit;
};

static const struct argp_option explain_options[] = {
    {"workflow", OPT_WORKFLOW, "ID", 0, "Only requests of this workflow", 1},
    {"limit", OPT_LIMIT, "N", 0, "At most so many (default 20, 200 at most)", 1},
    {0},
};

static error_t on_explain(int key, char *arg, struct argp_state *state)
{
    struct explain_arguments *a = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        ctl_hand_down(state, a->ctl);
        return 0;
    case OPT_WORKFLOW:
        a->workflow = arg;
        return 0;
    case OPT_LIMIT:
        a->limit = (uint32_t)ctl_number(state, arg, "--limit", 200);
        return 0;
    case ARGP_KEY_ARG:
        if (state->arg_num > 0)
            argp_error(state, "too many arguments: %s", arg);
        a->request = arg;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void candidate_json(struct json *j, const struct slipstream_candidate *c)
{
    json_begin(j, NULL, '{');
    json_text(j, "engine", c->engine);
    if (isnan(c->cost))
        json_raw(j, "cost", "null", 4);
    else
        json_number(j, "cost", c->cost);
    json_number(j, "queue_seconds", c->queue_seconds);
    json_count(j, "cached_tokens", c->cached_tokens);
    json_count(j, "workflows", c->workflows);
    json_end(j, '}');
}

static void explanation_json(struct json *j, const struct slipstream_explanation *d)
{
    json_begin(j, NULL, '{');
    json_text(j, "request_id", d->request_id);
    json_count(j, "at_ms", d->at_ms);
    json_text(j, "kind", d->kind);
    json_text(j, "tenant", d->tenant);
    json_text(j, "workflow_id", d->workflow_id);
    json_text(j, "agent_id", d->agent_id);
    json_text(j, "parent_request_id", d->parent_request_id);
    json_text(j, "model", d->model);
    json_text(j, "route", d->route);
    json_text(j, "priority", d->priority);
    json_text(j, "group_id", d->group_id);
    json_count(j, "group_size", d->group_size);
    json_count(j, "prompt_bytes", d->prompt_bytes);
    json_text(j, "policy", d->policy);
    json_text(j, "reason", d->reason);
    json_text(j, "engine", d->engine);
    json_number(j, "hit", d->hit);
    json_count(j, "waited_ms", d->waited_ms);
    json_text(j, "wait_reason", d->wait_reason);
    json_text(j, "error", d->error);
    json_begin(j, "candidates", '[');
    for (size_t i = 0; i < d->candidate_count; i++)
        candidate_json(j, &d->candidates[i]);
    json_end(j, ']');
    json_end(j, '}');
}

static void outcome_print(const struct slipstream_explanation *d)
{
    if (strcmp(d->kind, "go") == 0)
        printf("  went to    %s, policy %s, because: %s; expected hit %.0f%%\n", d->engine,
               d->policy, d->reason, 100 * d->hit);
    else if (strcmp(d->kind, "no") == 0)
        printf("  refused    %s\n", d->error);
    else
        printf("  waits\n");
    if (d->wait_reason[0] != '\0')
        printf("  waited     %.3fs, because: %s\n", (double)d->waited_ms / 1e3, d->wait_reason);
}

static void explanation_print(const struct slipstream_explanation *d)
{
    static const char *const titles[] = {"  ENGINE", ">COST", ">QUEUE", ">CACHED", ">WORKFLOWS"};
    char time[24];
    struct table t;

    printf("%s  %s\n", d->request_id[0] != '\0' ? d->request_id : "-", time_text(d->at_ms, time));
    printf("  of         %s, agent %s, model %s, %s, %u bytes of prompt\n",
           d->workflow_id[0] != '\0' ? d->workflow_id : "no workflow",
           d->agent_id[0] != '\0' ? d->agent_id : "-", d->model, d->priority, d->prompt_bytes);
    outcome_print(d);
    if (d->candidate_count == 0)
        return;
    table_start(&t, 5, titles);
    for (size_t i = 0; i < d->candidate_count; i++) {
        const struct slipstream_candidate *c = &d->candidates[i];

        table_add(&t, "%s %s", strcmp(c->engine, d->engine) == 0 ? "*" : " ", c->engine);
        if (isnan(c->cost))
            table_add(&t, "-");
        else
            table_add(&t, "%.3fs", c->cost);
        table_add(&t, "%.3fs", c->queue_seconds);
        table_add(&t, "%u", c->cached_tokens);
        table_add(&t, "%u", c->workflows);
    }
    table_print(&t);
}

enum ctl_exit ctl_explain(struct ctl *ctl, int argc, char **argv)
{
    static const struct argp argp = {
        explain_options,
        on_explain,
        "[REQUEST]",
        "Why requests went where they went, or wait: the last decisions that the scheduler "
        "remembers, newest first. REQUEST is the answer's X-Request-Id.",
        NULL,
        NULL,
        NULL};
    struct explain_arguments a = {.ctl = ctl};
    struct slipstream_explanations *list;
    struct json j = {0};
    size_t i;
    int e;

    ctl_parse(&argp, argc, argv, &a);
    if (!ctl_open(ctl))
        return CTL_FAILED;
    e = slipstream_explain(ctl->s, a.workflow, a.request, a.limit, &list);
    if (e != 0)
        return ctl_fail(ctl, e, "explain");
    if (ctl->json) {
        json_begin(&j, NULL, '{');
        json_begin(&j, "decisions", '[');
        for (i = 0; i < list->count; i++)
            explanation_json(&j, &list->items[i]);
        json_end(&j, ']');
        json_end(&j, '}');
        json_print(&j);
    } else {
        for (i = 0; i < list->count; i++)
            explanation_print(&list->items[i]);
    }
    if (list->count == 0 && !ctl->json)
        fprintf(stderr, "slipctl: no such decision is remembered\n");
    e = list->count == 0 && a.request != NULL ? CTL_FAILED : CTL_OK;
    slipstream_free(list);
    return (enum ctl_exit)e;
}

/* ---- policy ---- */

struct policy_arguments {
    struct ctl *ctl;
    struct slipstream_policy_change change;
};

static const struct argp_option policy_options[] = {
    {"model", OPT_MODEL, "NAME", 0, "Only for requests of this model", 1},
    {"route", OPT_ROUTE, "PATH", 0, "Only for requests of this route, as /v1/chat/completions", 1},
    {"default", OPT_DEFAULT, NULL, 0, "For requests without a workflow", 1},
    {"remove", OPT_REMOVE, NULL, 0, "Drop the rule of this model and route", 1},
    {0},
};

static error_t on_policy(int key, char *arg, struct argp_state *state)
{
    struct policy_arguments *a = state->input;
    struct slipstream_policy_change *c = &a->change;
    bool is_rule = c->model != NULL || c->route != NULL;

    switch (key) {
    case ARGP_KEY_INIT:
        ctl_hand_down(state, a->ctl);
        return 0;
    case OPT_MODEL:
        c->model = arg;
        return 0;
    case OPT_ROUTE:
        c->route = arg;
        return 0;
    case OPT_DEFAULT:
        c->is_default = true;
        return 0;
    case OPT_REMOVE:
        c->remove = true;
        return 0;
    case ARGP_KEY_ARG:
        if (state->arg_num > 0)
            argp_error(state, "too many arguments: %s", arg);
        c->policy = arg;
        return 0;
    case ARGP_KEY_END:
        if (c->is_default && (is_rule || c->remove))
            argp_error(state, "--default goes with no other option");
        if (c->remove && (!is_rule || c->policy != NULL))
            argp_error(state, "--remove takes --model or --route, and no policy");
        if (c->policy == NULL && !c->remove && (is_rule || c->is_default))
            argp_error(state, "a policy is needed");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void policies_json(struct json *j, const struct slipstream_policies *p)
{
    json_begin(j, NULL, '{');
    json_text(j, "policy", p->policy);
    json_text(j, "default_policy", p->default_policy);
    json_begin(j, "rules", '[');
    for (size_t i = 0; i < p->rule_count; i++) {
        json_begin(j, NULL, '{');
        json_text(j, "model", p->rules[i].model);
        json_text(j, "route", p->rules[i].route);
        json_text(j, "policy", p->rules[i].policy);
        json_end(j, '}');
    }
    json_end(j, ']');
    json_end(j, '}');
}

static void policies_print(const struct slipstream_policies *p)
{
    printf("workflows  %s\n", p->policy);
    printf("others     %s\n", p->default_policy);
    for (size_t i = 0; i < p->rule_count; i++)
        printf("rule       %s%s%s%s: %s\n", p->rules[i].model,
               p->rules[i].model[0] != '\0' && p->rules[i].route[0] != '\0' ? ", " : "",
               p->rules[i].route,
               p->rules[i].model[0] != '\0' || p->rules[i].route[0] != '\0' ? "" : "all",
               p->rules[i].policy);
}

enum ctl_exit ctl_policy(struct ctl *ctl, int argc, char **argv)
{
    static const struct argp argp = {
        policy_options,
        on_policy,
        "[SPEC]",
        "Shows the placement policies in force, or sets one: NAME[:KEY=VALUE]... A change holds "
        "until the scheduler reads its settings again. Needs the scheduler's socket.",
        NULL,
        NULL,
        NULL};
    struct policy_arguments a = {.ctl = ctl};
    struct slipstream_policies *now;
    struct json j = {0};
    int e;

    ctl_parse(&argp, argc, argv, &a);
    if (!ctl_open(ctl))
        return CTL_FAILED;
    if (a.change.policy == NULL && !a.change.remove)
        e = slipstream_policies_get(ctl->s, &now);
    else
        e = slipstream_policy_set(ctl->s, &a.change, &now);
    if (e != 0)
        return ctl_fail(ctl, e, "policy");
    if (ctl->json) {
        policies_json(&j, now);
        json_print(&j);
    } else {
        policies_print(now);
    }
    slipstream_free(now);
    return CTL_OK;
}
