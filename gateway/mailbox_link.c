/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/mailbox_link.h"

#include <string.h>

#include "proto/mailbox.pb-c.h"
#include "proto/scheduler.pb-c.h"

#include "common/log.h"
#include "gateway/api_mailbox.h"
#include "gateway/ask.h"
#include "gateway/methods.h"
#include "gateway/worker.h"

/* Payloads of megabytes fill a ring faster than their reader empties it. */
#define RING_BUSY_MS 1000u

static void on_up(void *arg, uint64_t epoch, const uint8_t *info, size_t len)
{
    struct gw *gw = arg;
    uint32_t cursor = 0;
    uint64_t handle;
    struct gw_request *r;

    (void)info;
    (void)len;
    log_info("mailbox_up", "epoch=%016llx ring=%d", (unsigned long long)epoch,
             rpc_client_is_ring(gw->mailbox));
    while ((r = pool_next(&gw->requests, &cursor, &handle)) != NULL)
        if (r->polling)
            message_poll_again(r);
}

static void on_down(void *arg, const char *reason)
{
    (void)arg;
    log_warn("mailbox_down", "reason=\"%s\"", reason);
}

static void on_event(void *arg, unsigned event, const uint8_t *body, size_t len)
{
    if (event == MBOX_EVENT_DELIVERY)
        message_delivered(arg, body, len);
}

enum err mailbox_open(struct gw *gw)
{
    static char url[256];
    struct rpc_client_conf conf = {.url = conf_mailbox_url(gw->conf, url, sizeof(url)),
                                   .name = gw->name,
                                   .channel = (enum rpc_channel)gw->conf->common.channel,
                                   .ring_busy_ms = RING_BUSY_MS,
                                   .key = gw->rpc_key,
                                   .tls_ca_file = gw->conf->common.rpc_tls_ca_file,
                                   .allow_plain_tcp = gw->conf->common.insecure,
                                   .arg = gw,
                                   .on_up = on_up,
                                   .on_down = on_down,
                                   .on_event = on_event};

    if (conf.channel == RPC_NONE) /* placing is what that leaves out */
        conf.channel = RPC_NNG;
    return rpc_client_open(&conf, gw->rpc_host, &gw->mailbox);
}

void mailbox_close(struct gw *gw)
{
    if (gw->mailbox != NULL)
        rpc_client_close(gw->mailbox);
    gw->mailbox = NULL;
}

static void on_counts(struct gw_request *r, enum err status, const uint8_t *body, size_t len)
{
    Slipstream__V1__Counts *c =
        status == ERR_OK ? slipstream__v1__counts__unpack(NULL, len, body) : NULL;

    if (c == NULL) {
        r->on_counts(r, status != ERR_OK ? status : ERR_PROTO, 0, 0);
        return;
    }
    uint64_t queued = c->queued, delivered = c->delivered;
    slipstream__v1__counts__free_unpacked(c, NULL);
    r->on_counts(r, ERR_OK, queued, delivered);
}

void mailbox_counts(struct gw_request *r, void (*done)(struct gw_request *r, enum err status,
                                                       uint64_t queued, uint64_t delivered))
{
    Slipstream__V1__CountsRequest q;

    slipstream__v1__counts_request__init(&q);
    q.tenant = (char *)(uintptr_t)r->tenant;
    q.workflow_id = (char *)(uintptr_t)r->workflow_id;
    r->on_counts = done;
    ask_mailbox(r, MBOX_GET_COUNTS, &q.base, on_counts);
}

void mailbox_close_workflow(struct gw_request *r, bool purge)
{
    Slipstream__V1__CloseRequest q;

    slipstream__v1__close_request__init(&q);
    if (r->gw->mailbox == NULL)
        return;
    q.tenant = (char *)(uintptr_t)r->tenant;
    q.workflow_id = (char *)(uintptr_t)r->workflow_id;
    q.purge = purge;
    rpc_send(r->gw->mailbox, MBOX_CLOSE_WORKFLOW, &q.base);
}

void mailbox_note_agent(struct gw_request *r, const char *agent)
{
    Slipstream__V1__AgentNote n;

    slipstream__v1__agent_note__init(&n);
    if (r->gw->scheduler == NULL)
        return;
    n.tenant = (char *)(uintptr_t)r->tenant;
    n.workflow_id = (char *)(uintptr_t)r->workflow_id;
    n.agent_id = (char *)(uintptr_t)agent;
    rpc_send(r->gw->scheduler, SCHED_NOTE_AGENT, &n.base);
}
