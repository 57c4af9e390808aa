/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "client/client.h"

static const struct slipstream_candidate *candidates_read(void *root,
                                                          const Slipstream__V1__Explanation *d)
{
    struct slipstream_candidate *items = result_more(root, (d->n_engines + 1) * sizeof(*items));

    for (size_t i = 0; i < d->n_engines; i++)
        items[i] = (struct slipstream_candidate){
            .engine = result_text(root, d->engines[i]->id),
            .cost = d->engines[i]->no_cost ? (double)NAN : d->engines[i]->cost,
            .queue_seconds = d->engines[i]->queue,
            .cached_tokens = d->engines[i]->cached_tokens,
            .workflows = d->engines[i]->workflows,
        };
    return items;
}

static const char *kind_word(Slipstream__V1__DecisionKind kind)
{
    switch (kind) {
    case SLIPSTREAM__V1__DECISION_KIND__DECISION_GO:
        return "go";
    case SLIPSTREAM__V1__DECISION_KIND__DECISION_WAIT:
        return "wait";
    case SLIPSTREAM__V1__DECISION_KIND__DECISION_NO:
    case _SLIPSTREAM__V1__DECISION_KIND_IS_INT_SIZE:
    default:
        return "no";
    }
}

static const char *priority_word(Slipstream__V1__Priority p)
{
    return p == SLIPSTREAM__V1__PRIORITY__PRIORITY_INTERACTIVE ? "interactive"
           : p == SLIPSTREAM__V1__PRIORITY__PRIORITY_BATCH     ? "batch"
                                                               : "default";
}

static void explanation_read(void *root, struct slipstream_explanation *to,
                             const Slipstream__V1__Explanation *d)
{
    *to = (struct slipstream_explanation){
        .kind = kind_word(d->kind),
        .request_id = result_text(root, d->request_id),
        .tenant = result_text(root, d->tenant),
        .workflow_id = result_text(root, d->workflow_id),
        .agent_id = result_text(root, d->agent_id),
        .parent_request_id = result_text(root, d->parent_request_id),
        .model = result_text(root, d->model),
        .route = result_text(root, d->route),
        .priority = priority_word(d->priority),
        .group_id = result_text(root, d->group_id),
        .policy = result_text(root, d->policy),
        .reason = result_text(root, d->reason),
        .engine = result_text(root, d->engine),
        .wait_reason = result_text(root, d->wait_reason),
        .error = d->err != 0 ? slipstream_error_code((int)d->err) : "",
        .at_ms = d->at_ms,
        .waited_ms = d->waited_ms,
        .prompt_bytes = d->prompt_bytes,
        .group_size = d->group_size,
        .hit = (double)d->hit,
        .candidates = candidates_read(root, d),
        .candidate_count = d->n_engines,
    };
}

int slipstream_explain(struct slipstream *s, const char *workflow, const char *request,
                       uint32_t limit, struct slipstream_explanations **out)
{
    Slipstream__V1__ExplainQuery query;
    struct slipstream_explanations *list;
    struct slipstream_explanation *items;
    const Slipstream__V1__Explanations *m;
    ProtobufCMessage *reply;
    enum err e;

    slipstream__v1__explain_query__init(&query);
    query.tenant = s->tenant;
    query.all_tenants = s->tenant[0] == '\0';
    query.workflow_id = unconst(workflow != NULL ? workflow : "");
    query.request_id = unconst(request != NULL ? request : "");
    query.limit = limit;
    e = scheduler_call(s, SCHEDULER_EXPLAIN, &query.base, &reply);
    if (e != ERR_OK)
        return (int)e;
    m = (const Slipstream__V1__Explanations *)reply;
    list = result_new(sizeof(*list));
    items = result_more(list, (m->n_items + 1) * sizeof(*items));
    for (size_t i = 0; i < m->n_items; i++)
        explanation_read(list, &items[i], m->items[i]);
    list->count = m->n_items;
    list->items = items;
    *out = list;
    protobuf_c_message_free_unpacked(reply, NULL);
    return ERR_OK;
}

static struct slipstream_policies *policies_read(const Slipstream__V1__Policies *m)
{
    struct slipstream_policies *out = result_new(sizeof(*out));
    struct slipstream_policy_rule *rules = result_more(out, (m->n_rules + 1) * sizeof(*rules));

    for (size_t i = 0; i < m->n_rules; i++)
        rules[i] = (struct slipstream_policy_rule){.model = result_text(out, m->rules[i]->model),
                                                   .route = result_text(out, m->rules[i]->route),
                                                   .policy = result_text(out, m->rules[i]->policy)};
    out->policy = result_text(out, m->policy);
    out->default_policy = result_text(out, m->default_policy);
    out->rules = rules;
    out->rule_count = m->n_rules;
    return out;
}

int slipstream_policies_get(struct slipstream *s, struct slipstream_policies **out)
{
    Slipstream__V1__Empty request = SLIPSTREAM__V1__EMPTY__INIT;
    ProtobufCMessage *reply;
    enum err e = scheduler_call(s, SCHEDULER_GET_POLICIES, &request.base, &reply);

    if (e != ERR_OK)
        return (int)e;
    *out = policies_read((const Slipstream__V1__Policies *)reply);
    protobuf_c_message_free_unpacked(reply, NULL);
    return ERR_OK;
}

int slipstream_policy_set(struct slipstream *s, const struct slipstream_policy_change *change,
                          struct slipstream_policies **out)
{
    Slipstream__V1__PolicyChange request;
    Slipstream__V1__PolicyRule rule;
    ProtobufCMessage *reply;
    enum err e;

    slipstream__v1__policy_change__init(&request);
    slipstream__v1__policy_rule__init(&rule);
    rule.model = unconst(change->model != NULL ? change->model : "");
    rule.route = unconst(change->route != NULL ? change->route : "");
    rule.policy = unconst(change->policy != NULL ? change->policy : "");
    request.rule = &rule;
    request.remove = change->remove;
    request.is_default = change->is_default;
    e = scheduler_call(s, SCHEDULER_SET_POLICY, &request.base, &reply);
    if (e != ERR_OK)
        return (int)e;
    if (out != NULL)
        *out = policies_read((const Slipstream__V1__Policies *)reply);
    protobuf_c_message_free_unpacked(reply, NULL);
    return ERR_OK;
}
