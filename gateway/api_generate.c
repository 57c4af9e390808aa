/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "gateway/finish.h"
#include "gateway/keys.h"
#include "gateway/look.h"
#include "gateway/routes.h"
#include "gateway/worker.h"

#define BIG_BODY_BYTES (64u << 10)

static void header_get(const h2o_req_t *req, const char *name, const char **value, size_t *len)
{
    ssize_t at = h2o_find_header_by_str(&req->headers, name, strlen(name), -1);

    if (at >= 0) {
        *value = req->headers.entries[at].value.base;
        *len = req->headers.entries[at].value.len;
    }
}

static enum err identity_from_headers(struct gw_request *r)
{
    struct identity_headers h = {0};

    header_get(r->req, "x-workflow-id", &h.workflow_id, &h.workflow_id_len);
    header_get(r->req, "x-agent-id", &h.agent_id, &h.agent_id_len);
    header_get(r->req, "x-parent-request-id", &h.parent_request_id, &h.parent_request_id_len);
    header_get(r->req, "x-context-sharing", &h.context_sharing, &h.context_sharing_len);
    header_get(r->req, "x-workflow-priority", &h.priority, &h.priority_len);
    header_get(r->req, "x-workflow-final", &h.final, &h.final_len);
    return identity_headers_add(r->identity, &h);
}

/* The SDKs' own time-out, told in seconds. */
static uint32_t patience_of(const struct gw_request *r)
{
    const char *value = NULL;
    size_t len = 0, i = 0;
    uint64_t ms = 0, unit = 1000;

    header_get(r->req, "x-stainless-timeout", &value, &len);
    for (; i < len && value[i] >= '0' && value[i] <= '9' && ms < UINT32_MAX; i++)
        ms = ms * 10 + (uint64_t)(value[i] - '0') * 1000;
    if (i == 0)
        return 0;
    if (i < len && value[i] == '.')
        for (i++; i < len && value[i] >= '0' && value[i] <= '9'; i++)
            ms += (uint64_t)(value[i] - '0') * (unit /= 10);
    return i == len && ms < UINT32_MAX ? (uint32_t)ms : 0;
}

/* Every generation, pooling and token call, and unknown paths that name a model. */
void api_generate(struct gw_request *r)
{
    struct gw *gw = r->gw;
    enum err e = keys_check(r);

    if (e == ERR_OK &&
        (gw->body_bytes > gw->body_budget ||
         (r->req->entity.len > BIG_BODY_BYTES && gw->body_bytes > gw->body_budget / 10 * 8)))
        e = ERR_BUDGET;
    if (e != ERR_OK) {
        respond_error(r, e, NULL, NULL);
        return;
    }
    e = identity_from_headers(r);
    if (e != ERR_OK) {
        respond_error(r, e, r->identity->err_param, NULL);
        return;
    }
    r->patience_ms = patience_of(r);
    look_start(r);
}

/* The union over healthy engines, as the engines named them to the scheduler. */
void api_models(struct gw_request *r)
{
    struct fleet *f = &r->gw->fleet;
    struct buf b = {0};
    enum err e = keys_check(r);
    bool first = true;
    uint32_t i;

    if (e != ERR_OK) {
        respond_error(r, e, NULL, NULL);
        return;
    }
    fleet_refresh(f, r->arrived_ns);
    buf_adds(&b, "{\"object\":\"list\",\"data\":[");
    for (i = 0; i < f->count; i++)
        for (unsigned m = 0; m < FLEET_ENGINE_MODELS; m++) {
            const struct fleet_engine *en = &f->engines[i];
            const char *id = en->models[m];
            bool seen = false;

            if (!(en->flags & FLEET_USED) || !(en->flags & FLEET_HEALTHY) || id[0] == '\0')
                continue;
            for (uint32_t k = 0; k < i && !seen; k++)
                seen = (f->engines[k].flags & FLEET_HEALTHY) &&
                       (f->engines[k].flags & FLEET_USED) &&
                       fleet_serves(&f->engines[k], id, strlen(id));
            if (seen)
                continue;
            buf_adds(&b, first ? "{\"id\":" : ",{\"id\":");
            buf_add_json(&b, id, strlen(id));
            buf_adds(&b, ",\"object\":\"model\",\"created\":0,\"owned_by\":\"slipstream\"}");
            first = false;
        }
    buf_adds(&b, "]}");
    respond_buf(r, 200, "application/json", &b);
}
