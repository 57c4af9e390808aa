/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl.h"

/* workflows [list | show ID | end ID [--purge]] */
enum { OPT_STATE = 2000, OPT_LIMIT, OPT_PURGE };

struct arguments {
    struct ctl *ctl;
    const char *verb, *id, *state;
    uint32_t limit;
    bool purge;
};

static const struct argp_option options[] = {
    {"state", OPT_STATE, "STATE", 0, "list: only active or idle ones", 1},
    {"limit", OPT_LIMIT, "N", 0, "list: at most so many (default 100)", 1},
    {"purge", OPT_PURGE, NULL, 0, "end: drop its undelivered messages", 1},
    {0},
};

static error_t on_option(int key, char *arg, struct argp_state *state)
{
    struct arguments *a = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        ctl_hand_down(state, a->ctl);
        return 0;
    case OPT_STATE:
        if (strcmp(arg, "active") != 0 && strcmp(arg, "idle") != 0)
            argp_error(state, "--state takes active or idle");
        a->state = arg;
        return 0;
    case OPT_LIMIT:
        a->limit = (uint32_t)ctl_number(state, arg, "--limit", 1000000);
        return 0;
    case OPT_PURGE:
        a->purge = true;
        return 0;
    case ARGP_KEY_ARG:
        if (state->arg_num == 0)
            a->verb = arg;
        else if (state->arg_num == 1 && strcmp(a->verb, "list") != 0)
            a->id = arg;
        else
            argp_error(state, "too many arguments: %s", arg);
        return 0;
    case ARGP_KEY_END:
        if (strcmp(a->verb, "list") != 0 && strcmp(a->verb, "show") != 0 &&
            strcmp(a->verb, "end") != 0)
            argp_error(state, "list, show or end, not %s", a->verb);
        if (strcmp(a->verb, "list") != 0 && a->id == NULL)
            argp_error(state, "%s needs the id of a workflow", a->verb);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* ---- output ---- */

static void agents_json(struct json *j, const struct slipstream_workflow *w)
{
    size_t i;

    json_begin(j, "agents", '[');
    for (i = 0; i < w->agent_count; i++) {
        const struct slipstream_agent *a = &w->agents[i];

        json_begin(j, NULL, '{');
        json_text(j, "id", a->id);
        json_flag(j, "active", a->active);
        json_count(j, "inflight", a->inflight);
        json_count(j, "idle_ms", a->idle_ms);
        json_count(j, "requests", a->requests);
        json_count(j, "prompt_tokens", a->prompt_tokens);
        json_count(j, "cached_tokens", a->cached_tokens);
        json_count(j, "completion_tokens", a->completion_tokens);
        json_end(j, '}');
    }
    json_end(j, ']');
}

static void workflow_json(struct json *j, const struct slipstream_workflow *w, bool agents)
{
    json_begin(j, NULL, '{');
    json_text(j, "workflow_id", w->id);
    json_text(j, "tenant", w->tenant);
    json_text(j, "state", w->state);
    json_count(j, "active_agents", w->active_agents);
    json_count(j, "total_requests", w->total_requests);
    json_number(j, "cache_hit_rate", w->cache_hit_rate);
    if (w->cache_hit_estimated)
        json_flag(j, "cache_hit_estimated", true);
    if (w->assigned_instance[0] != '\0')
        json_text(j, "assigned_instance", w->assigned_instance);
    else
        json_raw(j, "assigned_instance", "null", 4);
    json_count(j, "inflight", w->inflight);
    json_count(j, "ttl_ms", w->ttl_ms);
    json_count(j, "created_ms", w->created_ms);
    json_count(j, "last_activity_ms", w->last_activity_ms);
    json_count(j, "prompt_tokens", w->prompt_tokens);
    json_count(j, "cached_tokens", w->cached_tokens);
    json_count(j, "completion_tokens", w->completion_tokens);
    json_count(j, "recomputed_tokens", w->recomputed_tokens);
    json_number(j, "latency_mean", w->latency_mean);
    json_number(j, "latency_p50", w->latency_p50);
    json_number(j, "latency_p99", w->latency_p99);
    json_count(j, "waits", w->waits);
    json_number(j, "waited_mean", w->waited_mean);
    json_text(j, "admission", w->admission);
    json_count(j, "waiting", w->waiting);
    json_number(j, "waiting_longest", w->waiting_longest);
    if (agents)
        agents_json(j, w);
    json_end(j, '}');
}

static void list_row(struct table *t, const struct slipstream_workflow *w)
{
    char time[24];

    table_add(t, "%s", w->id);
    table_add(t, "%s", w->state);
    table_add(t, "%u", w->active_agents);
    table_add(t, "%llu", (unsigned long long)w->total_requests);
    table_add(t, "%.1f%%%s", 100 * w->cache_hit_rate, w->cache_hit_estimated ? "~" : "");
    table_add(t, "%s", w->assigned_instance[0] != '\0' ? w->assigned_instance : "-");
    table_add(t, "%s", time_text(w->last_activity_ms, time));
}

static void workflow_print(const struct slipstream_workflow *w)
{
    static const char *const titles[] = {"AGENT",   "STATE",   ">RUNNING", ">REQUESTS",
                                         ">PROMPT", ">CACHED", ">OUTPUT",  ">IDLE"};
    char created[24], last[24], span[24];
    struct table t;
    size_t i;

    printf("workflow   %s (%s)\n", w->id, w->state);
    printf("instance   %s\n", w->assigned_instance[0] != '\0' ? w->assigned_instance : "-");
    printf("since      %s, last active %s, ends after %s idle\n", time_text(w->created_ms, created),
           time_text(w->last_activity_ms, last), span_text(w->ttl_ms, span));
    printf("requests   %llu, %u running, %llu waited\n", (unsigned long long)w->total_requests,
           w->inflight, (unsigned long long)w->waits);
    if (w->admission[0] != '\0')
        printf("door       %s%s", w->admission, w->waiting > 0 ? "" : "\n");
    if (w->admission[0] != '\0' && w->waiting > 0)
        printf(", %u waiting, for up to %.1fs\n", w->waiting, w->waiting_longest);
    printf("cache hit  %.1f%%%s\n", 100 * w->cache_hit_rate,
           w->cache_hit_estimated ? " (estimated)" : "");
    printf("tokens     %llu prompt, %llu cached, %llu recomputed, %llu output\n",
           (unsigned long long)w->prompt_tokens, (unsigned long long)w->cached_tokens,
           (unsigned long long)w->recomputed_tokens, (unsigned long long)w->completion_tokens);
    printf("latency    mean %.3fs, median %.3fs, p99 %.3fs\n\n", w->latency_mean, w->latency_p50,
           w->latency_p99);
    table_start(&t, 8, titles);
    for (i = 0; i < w->agent_count; i++) {
        const struct slipstream_agent *a = &w->agents[i];

        table_add(&t, "%s", a->id);
        table_add(&t, "%s", a->active ? "active" : "idle");
        table_add(&t, "%u", a->inflight);
        table_add(&t, "%llu", (unsigned long long)a->requests);
        table_add(&t, "%llu", (unsigned long long)a->prompt_tokens);
        table_add(&t, "%llu", (unsigned long long)a->cached_tokens);
        table_add(&t, "%llu", (unsigned long long)a->completion_tokens);
        table_add(&t, "%s", span_text(a->idle_ms, span));
    }
    table_print(&t);
}

/* ---- verbs ---- */

static enum ctl_exit list(struct ctl *ctl, const struct arguments *a)
{
    static const char *const titles[] = {"WORKFLOW",   "STATE",    ">AGENTS",    ">REQUESTS",
                                         ">CACHE HIT", "INSTANCE", "LAST ACTIVE"};
    uint32_t left = a->limit != 0 ? a->limit : 100;
    struct slipstream_workflows *page = NULL, *next;
    struct json j = {0};
    struct table t;
    size_t i;
    int e = 0;

    table_start(&t, 7, titles);
    json_begin(&j, NULL, '{');
    json_begin(&j, "workflows", '[');
    do {
        e = slipstream_workflows_list(ctl->s, a->state, left, page != NULL ? page->cursor : NULL,
                                      &next);
        if (e != 0)
            break;
        slipstream_free(page);
        page = next;
        for (i = 0; i < page->count && left > 0; i++, left--) {
            if (ctl->json)
                workflow_json(&j, &page->items[i], false);
            else
                list_row(&t, &page->items[i]);
        }
    } while (left > 0 && page->count > 0 && page->cursor[0] != '\0');
    json_end(&j, ']');
    if (e == 0)
        json_text(&j, "cursor", page->cursor);
    json_end(&j, '}');
    slipstream_free(page);
    if (e == 0 && ctl->json)
        json_print(&j);
    buf_fini(&j.text);
    if (e == 0 && !ctl->json)
        table_print(&t);
    else
        table_drop(&t);
    return e == 0 ? CTL_OK : ctl_fail(ctl, e, "workflows");
}

static enum ctl_exit show(struct ctl *ctl, const struct arguments *a)
{
    struct slipstream_workflow *w;
    struct json j = {0};
    int e = slipstream_workflow_get(ctl->s, a->id, &w);

    if (e != 0)
        return ctl_fail(ctl, e, a->id);
    if (ctl->json) {
        workflow_json(&j, w, true);
        json_print(&j);
    } else {
        workflow_print(w);
    }
    slipstream_free(w);
    return CTL_OK;
}

static enum ctl_exit end(struct ctl *ctl, const struct arguments *a)
{
    struct slipstream_ended ended;
    struct json j = {0};
    int e = slipstream_workflow_end(ctl->s, a->id, a->purge, &ended);

    if (e != 0)
        return ctl_fail(ctl, e, a->id);
    if (ctl->json) {
        json_begin(&j, NULL, '{');
        json_text(&j, "workflow_id", a->id);
        json_count(&j, "messages_dropped", ended.messages_dropped);
        json_count(&j, "messages_left", ended.messages_left);
        json_end(&j, '}');
        json_print(&j);
    } else {
        printf("%s ended; messages dropped: %u, left to be received: %u\n", a->id,
               ended.messages_dropped, ended.messages_left);
    }
    return CTL_OK;
}

enum ctl_exit ctl_workflows(struct ctl *ctl, int argc, char **argv)
{
    static const struct argp argp = {
        options, on_option, "[list]\nshow ID\nend ID", "Lists, shows or ends workflows.", NULL,
        NULL,    NULL};
    struct arguments a = {.ctl = ctl, .verb = "list"};

    ctl_parse(&argp, argc, argv, &a);
    if (!ctl_open(ctl))
        return CTL_FAILED;
    if (strcmp(a.verb, "show") == 0)
        return show(ctl, &a);
    if (strcmp(a.verb, "end") == 0)
        return end(ctl, &a);
    return list(ctl, &a);
}
