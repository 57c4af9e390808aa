/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "gateway/finish.h"
#include "gateway/keys.h"
#include "gateway/routes.h"
#include "gateway/worker.h"

static bool is_loopback_name(const char *host, size_t len)
{
    static const char *const names[] = {"localhost", "127.0.0.1", "[::1]"};
    size_t i;

    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        size_t n = strlen(names[i]);

        if (len >= n && strncasecmp(host, names[i], n) == 0 && (len == n || host[n] == ':'))
            return true;
    }
    return false;
}

/* A web page that rebinds its name to a loopback address still sends its own name: such a Host is
 * refused. */
static bool host_is_refused(struct gw_request *r)
{
    const struct conf_list *more = &r->gw->conf->gateway.admin_hosts;
    h2o_iovec_t host = r->req->authority;
    size_t i;

    if (is_loopback_name(host.base, host.len))
        return false;
    for (i = 0; i < more->count; i++)
        if (h2o_memis(host.base, host.len, more->items[i], strlen(more->items[i])))
            return false;
    respond_error(r, ERR_DENIED, "host",
                  "This Host is not allowed on the admin listener; see gateway.admin_hosts.");
    return true;
}

bool admin_is_refused(struct gw_request *r, bool changes)
{
    enum err e;

    if (host_is_refused(r))
        return true;
    e = changes ? keys_check_admin(r) : ERR_OK;
    if (e == ERR_OK)
        return false;
    if (e == ERR_TWO_KEYS)
        respond_error(r, e, NULL, NULL);
    else if (r->gw->conf->gateway.admin_key_file[0] != '\0')
        respond_error(r, ERR_AUTH, NULL, "Changes on the admin listener need the admin key.");
    else
        respond_error(r, ERR_DENIED, NULL,
                      "Changes on the admin listener need gateway.admin_key_file.");
    return true;
}

void api_health(struct gw_request *r)
{
    respond(r, 200, "application/json", "{\"status\":\"ok\"}", 15);
}

void api_version(struct gw_request *r)
{
    static const char body[] = "{\"version\":\"" SLIP_VERSION "\",\"server\":\"slipstream\"}";

    respond(r, 200, "application/json", body, sizeof(body) - 1);
}

/* Ready: there is a scheduler, or a fleet to decide on alone, and at least one live engine. */
void api_ready(struct gw_request *r)
{
    struct gw *gw = r->gw;
    const char *why = NULL;
    unsigned alive = 0;
    struct buf b = {0};
    uint32_t i;

    fleet_refresh(&gw->fleet, clock_ns());
    for (i = 0; i < gw->fleet.count; i++)
        alive += (gw->fleet.engines[i].flags & FLEET_USED) &&
                 (gw->fleet.engines[i].flags & FLEET_HEALTHY);
    if (gw->draining)
        why = "draining";
    else if (gw->fleet.count == 0)
        why = "no fleet is known: has the scheduler started?";
    else if (alive == 0)
        why = "no engine is alive";
    else if (gw->conf->common.channel != RPC_NONE && !rpc_client_is_up(gw->scheduler))
        why = fleet_is_fresh(&gw->fleet) ? "the channel to the scheduler is not up yet"
                                         : "the scheduler is down; placing alone";
    buf_addf(&b, "{\"ready\":%s,\"engines_alive\":%u,\"scheduler\":\"%s\"",
             why == NULL ? "true" : "false", alive,
             gw->scheduler != NULL && rpc_client_is_up(gw->scheduler)
                 ? (rpc_client_is_ring(gw->scheduler) ? "ring" : "nng")
                 : "down");
    if (why != NULL) {
        buf_adds(&b, ",\"reason\":");
        buf_add_json(&b, why, strlen(why));
    }
    buf_adds(&b, "}");
    respond_buf(r, why == NULL ? 200 : 503, "application/json", &b);
}

void api_metrics(struct gw_request *r)
{
    struct buf b = {0};
    enum err e;

    if (r->listener == LISTENER_DATA && !r->gw->conf->gateway.public_metrics) {
        respond_error(r, ERR_PATH, NULL, NULL);
        return;
    }
    e = metric_expose(r->gw->conf->common.run_dir,
                      r->listener == LISTENER_DATA ? "workflow_id" : NULL, &b);
    if (e != ERR_OK) {
        buf_fini(&b);
        respond_error(r, e, NULL, NULL);
        return;
    }
    respond_buf(r, 200, "text/plain; version=0.0.4; charset=utf-8", &b);
}

void api_engines(struct gw_request *r)
{
    struct fleet *f = &r->gw->fleet;
    struct buf b = {0};
    bool first = true;
    uint32_t i;

    fleet_reread(f, clock_ns());
    buf_adds(&b, "{\"engines\":[");
    for (i = 0; i < f->count; i++) {
        const struct fleet_engine *e = &f->engines[i];

        if (!(e->flags & FLEET_USED))
            continue;
        buf_adds(&b, first ? "{\"id\":" : ",{\"id\":");
        buf_add_json(&b, e->id, strlen(e->id));
        buf_addf(&b,
                 ",\"address\":\"%s\",\"port\":%u,\"healthy\":%s,\"draining\":%s,\"running\":%u,"
                 "\"home_tokens\":%llu,\"models\":[",
                 e->address, e->port, e->flags & FLEET_HEALTHY ? "true" : "false",
                 e->flags & FLEET_DRAINING ? "true" : "false", e->running,
                 (unsigned long long)e->home_tokens);
        for (unsigned m = 0, k = 0; m < FLEET_ENGINE_MODELS; m++)
            if (e->models[m][0] != '\0') {
                buf_adds(&b, k++ > 0 ? "," : "");
                buf_add_json(&b, e->models[m], strlen(e->models[m]));
            }
        buf_adds(&b, "]}");
        first = false;
    }
    buf_adds(&b, "]}");
    respond_buf(r, 200, "application/json", &b);
}

void api_config(struct gw_request *r)
{
    struct buf b = {0};

    conf_print(r->gw->conf, &b);
    respond_buf(r, 200, "application/yaml", &b);
}
