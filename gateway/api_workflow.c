/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "proto/scheduler.pb-c.h"

#include "common/must.h"
#include "gateway/api_workflow.h"
#include "gateway/ask.h"
#include "gateway/finish.h"
#include "gateway/keys.h"
#include "gateway/mailbox_link.h"
#include "gateway/methods.h"
#include "gateway/routes.h"
#include "gateway/worker.h"

#define LIST_MAX 1000u

typedef Slipstream__V1__Workflow workflow_msg;
typedef Slipstream__V1__Agent agent_msg;

static void add_text(struct buf *b, const char *key, const char *value)
{
    buf_addf(b, "\"%s\":", key);
    buf_add_json(b, value, strlen(value));
}

static void add_time(struct buf *b, const char *key, uint64_t wall_ms)
{
    char text[40];

    buf_addf(b, "\"%s\":\"%s\"", key, ask_time(wall_ms, text, sizeof(text)));
}

void workflow_agent_write(struct buf *b, const agent_msg *a)
{
    buf_adds(b, "{");
    add_text(b, "agent_id", a->id);
    buf_addf(b,
             ",\"active\":%s,\"inflight\":%u,\"requests\":%llu,\"tokens\":{\"prompt\":%llu,"
             "\"cached\":%llu,\"completion\":%llu},"
             "\"idle_seconds\":%.3f}",
             a->active ? "true" : "false", a->inflight, (unsigned long long)a->requests,
             (unsigned long long)a->prompt_tokens, (unsigned long long)a->cached_tokens,
             (unsigned long long)a->completion_tokens, (double)a->idle_ms / 1000.0);
}

void workflow_write(struct buf *b, const workflow_msg *w)
{
    size_t i;

    buf_adds(b, "{");
    add_text(b, "workflow_id", w->workflow_id);
    buf_addf(b, ",\"active_agents\":%u,\"total_requests\":%llu,\"cache_hit_rate\":%.4f,",
             w->active_agents, (unsigned long long)w->total_requests, w->cache_hit_rate);
    if (w->assigned_instance[0] != '\0')
        add_text(b, "assigned_instance", w->assigned_instance);
    else
        buf_adds(b, "\"assigned_instance\":null");
    if (w->cache_hit_estimated)
        buf_adds(b, ",\"cache_hit_estimated\":true");
    buf_adds(b, ",");
    add_text(b, "state", w->state);
    buf_adds(b, ",");
    if (w->admission[0] != '\0') {
        add_text(b, "admission", w->admission);
        buf_adds(b, ",");
    }
    add_time(b, "created", w->created_ms);
    buf_adds(b, ",");
    add_time(b, "last_activity", w->last_activity_ms);
    buf_addf(b, ",\"ttl\":%.0f,\"inflight\":%u,\"agents\":[", (double)w->ttl_ms / 1000.0,
             w->inflight);
    for (i = 0; i < w->n_agents; i++) {
        if (i > 0)
            buf_adds(b, ",");
        workflow_agent_write(b, w->agents[i]);
    }
    buf_addf(
        b,
        "],\"tokens\":{\"prompt\":%llu,\"cached\":%llu,\"completion\":%llu,\"recomputed\":%llu},"
        "\"latency\":{\"mean\":%.6f,\"p50\":%.6f,\"p99\":%.6f},\"waits\":{\"count\":%llu,\"mean\":%"
        ".6f,\"now\":%u,\"longest\":%.3f}",
        (unsigned long long)w->prompt_tokens, (unsigned long long)w->cached_tokens,
        (unsigned long long)w->completion_tokens, (unsigned long long)w->recomputed_tokens,
        w->latency_mean, w->latency_p50, w->latency_p99, (unsigned long long)w->waits,
        w->waited_mean, w->waiting, w->waiting_longest);
}

/* The mailbox's counts are the last thing asked for; without a mailbox process the answer does
 * without them. */
static void on_counts(struct gw_request *r, enum err status, uint64_t queued, uint64_t delivered)
{
    struct buf b = {0};

    buf_add(&b, r->out.base, r->out.len);
    if (status == ERR_OK)
        buf_addf(&b, ",\"messages\":{\"queued\":%llu,\"delivered\":%llu}",
                 (unsigned long long)queued, (unsigned long long)delivered);
    buf_adds(&b, "}");
    respond_buf(r, 200, "application/json", &b);
}

static void on_workflow(struct gw_request *r, enum err status, const uint8_t *body, size_t len)
{
    workflow_msg *w;

    if (status != ERR_OK) {
        respond_error(r, status == ERR_NOT_FOUND ? ERR_WORKFLOW : status, NULL, NULL);
        return;
    }
    w = slipstream__v1__workflow__unpack(NULL, len, body);
    if (w == NULL) {
        respond_error(r, ERR_PROTO, NULL, NULL);
        return;
    }
    buf_clear(&r->out);
    workflow_write(&r->out, w);
    slipstream__v1__workflow__free_unpacked(w, NULL);
    mailbox_counts(r, on_counts);
}

static void on_ended(struct gw_request *r, enum err status, const uint8_t *body, size_t len)
{
    if (status == ERR_OK || status == ERR_NOT_FOUND) /* mail alone does not make a workflow */
        mailbox_close_workflow(r, r->purge);
    on_workflow(r, status, body, len);
}

/* Common start of all calls here: key, id of the path, query string. */
static bool workflow_begin(struct gw_request *r, const char *const *params, const char **values)
{
    const char *param = NULL;
    struct inspect_id id;
    enum err e = keys_check(r);

    if (e == ERR_OK) {
        e = ask_query(r, params, values);
        param = e != ERR_OK ? ask_bad_param(r) : NULL;
    }
    if (e == ERR_OK && r->segments[0].base != NULL) {
        param = "workflow_id";
        e = identity_segment(r->segments[0].base, r->segments[0].len, &id);
        if (e == ERR_OK)
            r->workflow_id = request_strdup(r, id.bytes, id.len);
    }
    if (e == ERR_OK && r->segments[1].base != NULL) {
        param = "agent_id";
        e = identity_segment(r->segments[1].base, r->segments[1].len, &id);
        if (e == ERR_OK && id.len == 1 && id.bytes[0] == '*')
            e = ERR_ID; /* everybody, so nobody can be called that */
        if (e == ERR_OK)
            r->agent_id = request_strdup(r, id.bytes, id.len);
    }
    if (e != ERR_OK)
        respond_error(r, e, param, NULL);
    return e == ERR_OK;
}

bool api_begin(struct gw_request *r, const char *const *params, const char **values)
{
    return workflow_begin(r, params, values);
}

static void ref_ask(struct gw_request *r, unsigned method, bool purge, ask_done_fn *done)
{
    Slipstream__V1__WorkflowRef ref;

    slipstream__v1__workflow_ref__init(&ref);
    ref.tenant = (char *)(uintptr_t)r->tenant;
    ref.workflow_id = (char *)(uintptr_t)r->workflow_id;
    ref.purge = purge;
    ask_scheduler(r, method, &ref.base, done);
}

void api_workflow_status(struct gw_request *r)
{
    static const char *const params[] = {NULL};

    if (workflow_begin(r, params, NULL))
        ref_ask(r, SCHED_GET_WORKFLOW, false, on_workflow);
}

void api_workflow_end(struct gw_request *r)
{
    static const char *const params[] = {"purge", NULL};
    const char *values[1] = {NULL};

    if (!workflow_begin(r, params, values))
        return;
    if (values[0] != NULL && strcmp(values[0], "true") != 0 && strcmp(values[0], "false") != 0) {
        respond_error(r, ERR_VALUE, "purge", "purge is true or false.");
        return;
    }
    r->purge = values[0] != NULL && values[0][0] == 't';
    ref_ask(r, SCHED_END_WORKFLOW, r->purge, on_ended);
}

static void on_list(struct gw_request *r, enum err status, const uint8_t *body, size_t len)
{
    Slipstream__V1__Workflows *ws;
    struct buf b = {0};
    size_t i;

    if (status != ERR_OK) { /* all else has been checked before it was asked */
        respond_error(r, status, status == ERR_VALUE ? "cursor" : NULL, NULL);
        return;
    }
    ws = slipstream__v1__workflows__unpack(NULL, len, body);
    if (ws == NULL) {
        respond_error(r, ERR_PROTO, NULL, NULL);
        return;
    }
    buf_adds(&b, "{\"workflows\":[");
    for (i = 0; i < ws->n_workflows; i++) {
        if (i > 0)
            buf_adds(&b, ",");
        workflow_write(&b, ws->workflows[i]);
        buf_adds(&b, "}");
    }
    buf_adds(&b, "],\"next_cursor\":");
    if (ws->cursor[0] != '\0')
        buf_add_json(&b, ws->cursor, strlen(ws->cursor));
    else
        buf_adds(&b, "null");
    buf_adds(&b, "}");
    slipstream__v1__workflows__free_unpacked(ws, NULL);
    respond_buf(r, 200, "application/json", &b);
}

void api_workflow_list(struct gw_request *r)
{
    static const char *const params[] = {"state", "limit", "cursor", NULL};
    Slipstream__V1__WorkflowQuery q;
    const char *values[3] = {NULL, NULL, NULL};
    char *end = NULL;
    long limit = 50;

    slipstream__v1__workflow_query__init(&q);
    if (!workflow_begin(r, params, values))
        return;
    if (values[0] != NULL && strcmp(values[0], "active") != 0 && strcmp(values[0], "idle") != 0) {
        respond_error(r, ERR_VALUE, "state", "state is active or idle.");
        return;
    }
    if (values[1] != NULL)
        limit = strtol(values[1], &end, 10);
    if (values[1] != NULL && (values[1][0] < '0' || values[1][0] > '9'))
        limit = 0;
    if (limit < 1 || limit > (long)LIST_MAX || (end != NULL && *end != '\0')) {
        respond_error(r, ERR_VALUE, "limit", "limit is 1 to 1000.");
        return;
    }
    q.tenant = (char *)(uintptr_t)r->tenant;
    q.state = (char *)(uintptr_t)(values[0] != NULL ? values[0] : "");
    q.limit = (uint32_t)limit;
    q.cursor = (char *)(uintptr_t)(values[2] != NULL ? values[2] : "");
    ask_scheduler(r, SCHED_LIST_WORKFLOWS, &q.base, on_list);
}
