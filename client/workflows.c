/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "client/client.h"

enum err scheduler_call(struct slipstream *s, unsigned method, const ProtobufCMessage *request,
                        ProtobufCMessage **reply)
{
    return client_call(s, SIDE_SCHEDULER, method, request, deadline_after(s->timeout_ms), reply);
}

int slipstream_scheduler_status(struct slipstream *s, struct slipstream_scheduler_status *out)
{
    Slipstream__V1__Empty request = SLIPSTREAM__V1__EMPTY__INIT;
    const Slipstream__V1__SchedulerStatus *m;
    ProtobufCMessage *reply;
    enum err e = scheduler_call(s, SCHEDULER_GET_STATUS, &request.base, &reply);

    if (e != ERR_OK)
        return (int)e;
    m = (const Slipstream__V1__SchedulerStatus *)reply;
    *out = (struct slipstream_scheduler_status){
        .epoch = m->epoch,
        .uptime_ms = m->uptime_ms,
        .decisions = m->decisions,
        .workflows = m->workflows,
        .leases = m->leases,
        .waiting = m->waiting,
        .clients = m->peers,
        .engines = m->engines,
        .engines_healthy = m->engines_healthy,
        .waits = m->waits,
        .gate = m->gate,
        .waste = m->waste,
        .credit = m->credit,
    };
    strncpy(out->policy, m->policy, sizeof(out->policy) - 1);
    strncpy(out->version, m->version, sizeof(out->version) - 1);
    protobuf_c_message_free_unpacked(reply, NULL);
    return ERR_OK;
}

/* A scheduler that does not tell leaves the configured figures. */
static void engine_fit(void *root, const Slipstream__V1__EngineFit *from,
                       struct slipstream_engine *to)
{
    to->prefill_factor = to->decode_factor = to->kv_factor = 1;
    to->cached_tokens = "unknown";
    if (from == NULL)
        return;
    to->prefill_seconds = from->prefill_seconds;
    to->prefill_factor = from->prefill_factor;
    to->decode_factor = from->decode_factor;
    to->kv_factor = from->kv_factor;
    to->prefill_samples = from->prefill_samples;
    to->decode_samples = from->decode_samples;
    to->cached_tokens = result_text(root, from->cached_tokens);
}

int slipstream_engines_list(struct slipstream *s, struct slipstream_engines **out)
{
    Slipstream__V1__Empty request = SLIPSTREAM__V1__EMPTY__INIT;
    struct slipstream_engines *list;
    struct slipstream_engine *items;
    const Slipstream__V1__Engines *m;
    ProtobufCMessage *reply;
    enum err e = scheduler_call(s, SCHEDULER_LIST_ENGINES, &request.base, &reply);
    size_t i;

    if (e != ERR_OK)
        return (int)e;
    m = (const Slipstream__V1__Engines *)reply;
    list = result_new(sizeof(*list));
    items = result_more(list, (m->n_engines + 1) * sizeof(*items));
    for (i = 0; i < m->n_engines; i++) {
        const Slipstream__V1__Engine *from = m->engines[i];

        items[i] = (struct slipstream_engine){
            .id = result_text(list, from->id),
            .address = result_text(list, from->address),
            .health_reason = result_text(list, from->health_reason),
            .models = result_texts(list, from->models, from->n_models),
            .model_count = from->n_models,
            .healthy = from->healthy,
            .draining = from->draining,
            .priority = from->priority,
            .running = from->running,
            .homed_workflows = from->homed_workflows,
            .home_tokens = from->home_tokens,
            .requests = from->requests,
            .failures = from->failures,
            .kv_tokens = from->kv_tokens,
            .claimed_tokens = from->claimed_tokens,
            .queue_seconds = from->queue,
        };
        engine_fit(list, from->fit, &items[i]);
    }
    list->count = m->n_engines;
    list->items = items;
    *out = list;
    protobuf_c_message_free_unpacked(reply, NULL);
    return ERR_OK;
}

static const struct slipstream_agent *agents_read(void *root, const Slipstream__V1__Workflow *w)
{
    struct slipstream_agent *items = result_more(root, (w->n_agents + 1) * sizeof(*items));
    size_t i;

    for (i = 0; i < w->n_agents; i++)
        items[i] = (struct slipstream_agent){
            .id = result_text(root, w->agents[i]->id),
            .active = w->agents[i]->active,
            .inflight = w->agents[i]->inflight,
            .idle_ms = w->agents[i]->idle_ms,
            .requests = w->agents[i]->requests,
            .prompt_tokens = w->agents[i]->prompt_tokens,
            .cached_tokens = w->agents[i]->cached_tokens,
            .completion_tokens = w->agents[i]->completion_tokens,
        };
    return items;
}

static void workflow_read(void *root, struct slipstream_workflow *to,
                          const Slipstream__V1__Workflow *w)
{
    *to = (struct slipstream_workflow){
        .id = result_text(root, w->workflow_id),
        .tenant = result_text(root, w->tenant),
        .state = result_text(root, w->state),
        .assigned_instance = result_text(root, w->assigned_instance),
        .active_agents = w->active_agents,
        .inflight = w->inflight,
        .ttl_ms = w->ttl_ms,
        .total_requests = w->total_requests,
        .waits = w->waits,
        .cache_hit_rate = w->cache_hit_rate,
        .cache_hit_estimated = w->cache_hit_estimated,
        .created_ms = w->created_ms,
        .last_activity_ms = w->last_activity_ms,
        .prompt_tokens = w->prompt_tokens,
        .cached_tokens = w->cached_tokens,
        .completion_tokens = w->completion_tokens,
        .recomputed_tokens = w->recomputed_tokens,
        .latency_mean = w->latency_mean,
        .latency_p50 = w->latency_p50,
        .latency_p99 = w->latency_p99,
        .waited_mean = w->waited_mean,
        .admission = result_text(root, w->admission),
        .waiting = w->waiting,
        .waiting_longest = w->waiting_longest,
        .agents = agents_read(root, w),
        .agent_count = w->n_agents,
    };
}

int slipstream_workflow_get(struct slipstream *s, const char *id, struct slipstream_workflow **out)
{
    Slipstream__V1__WorkflowRef request;
    struct slipstream_workflow *w;
    ProtobufCMessage *reply;
    enum err e;

    slipstream__v1__workflow_ref__init(&request);
    request.tenant = s->tenant;
    request.workflow_id = unconst(id);
    e = scheduler_call(s, SCHEDULER_GET_WORKFLOW, &request.base, &reply);
    if (e != ERR_OK)
        return (int)e;
    w = result_new(sizeof(*w));
    workflow_read(w, w, (const Slipstream__V1__Workflow *)reply);
    *out = w;
    protobuf_c_message_free_unpacked(reply, NULL);
    return ERR_OK;
}

int slipstream_workflows_list(struct slipstream *s, const char *state, uint32_t limit,
                              const char *cursor, struct slipstream_workflows **out)
{
    Slipstream__V1__WorkflowQuery request;
    struct slipstream_workflows *list;
    struct slipstream_workflow *items;
    const Slipstream__V1__Workflows *m;
    ProtobufCMessage *reply;
    enum err e;
    size_t i;

    slipstream__v1__workflow_query__init(&request);
    request.tenant = s->tenant;
    request.state = unconst(state != NULL ? state : "");
    request.limit = limit != 0 ? limit : 100;
    request.cursor = unconst(cursor != NULL ? cursor : "");
    e = scheduler_call(s, SCHEDULER_LIST_WORKFLOWS, &request.base, &reply);
    if (e != ERR_OK)
        return (int)e;
    m = (const Slipstream__V1__Workflows *)reply;
    list = result_new(sizeof(*list));
    items = result_more(list, (m->n_workflows + 1) * sizeof(*items));
    for (i = 0; i < m->n_workflows; i++)
        workflow_read(list, &items[i], m->workflows[i]);
    list->count = m->n_workflows;
    list->items = items;
    list->cursor = result_text(list, m->cursor);
    *out = list;
    protobuf_c_message_free_unpacked(reply, NULL);
    return ERR_OK;
}

/* A workflow that only ever sent messages is known to the mailbox alone, and the other way round.
 */
int slipstream_workflow_end(struct slipstream *s, const char *id, bool purge,
                            struct slipstream_ended *out)
{
    Slipstream__V1__WorkflowRef end;
    Slipstream__V1__CloseRequest close;
    struct slipstream_ended ended = {0};
    ProtobufCMessage *reply;
    enum err ended_there, closed_here;

    slipstream__v1__workflow_ref__init(&end);
    slipstream__v1__close_request__init(&close);
    end.tenant = close.tenant = s->tenant;
    end.workflow_id = close.workflow_id = unconst(id);
    end.purge = close.purge = purge;
    ended_there = scheduler_call(s, SCHEDULER_END_WORKFLOW, &end.base, &reply);
    if (ended_there == ERR_OK)
        protobuf_c_message_free_unpacked(reply, NULL);
    else if (ended_there != ERR_WORKFLOW)
        return (int)ended_there;
    closed_here = client_call(s, SIDE_MAILBOX, MAILBOX_CLOSE_WORKFLOW, &close.base,
                              deadline_after(s->timeout_ms), &reply);
    if (closed_here == ERR_OK) {
        ended.messages_dropped = ((Slipstream__V1__CloseReply *)reply)->dropped;
        ended.messages_left = ((Slipstream__V1__CloseReply *)reply)->left;
        protobuf_c_message_free_unpacked(reply, NULL);
    } else if (closed_here != ERR_WORKFLOW || ended_there == ERR_WORKFLOW) {
        return (int)closed_here;
    }
    s->error[0] = '\0';
    if (out != NULL)
        *out = ended;
    return ERR_OK;
}
