/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/mailbox_link.h"

#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "proto/mailbox.pb-c.h"
#include "proto/scheduler.pb-c.h"

#include "common/clock.h"
#include "common/id.h"
#include "common/json.h"
#include "common/log.h"
#include "common/must.h"
#include "gateway/api_mailbox.h"
#include "gateway/ask.h"
#include "gateway/methods.h"
#include "gateway/worker.h"

#define RING_BUSY_MS                                                             \
    1000u /* payloads of megabytes fill a ring faster than its reader empties it \
           */
#define RAW_NS (60 * NS_PER_S)     /* so long blocks are avoided after a damaged one */
#define PAYLOAD_DEFAULT (1u << 20) /* until the mailbox process has told */
#define NOTED_BITS 10u
#define NOTED_NS (200 * NS_PER_MS)
#define HOLD_TIMEOUT_MS 5000u
#define AGAIN_CALLS 1000u /* polls registered anew in one go: a channel has its limits */
#define AGAIN_NS (5 * NS_PER_MS)

struct noted { /* an agent that the scheduler has just heard of */
    uint64_t hash, until_ns;
};

struct mail_link {
    uint64_t epoch; /* of the last link; 0: there was none */
    uint64_t max_payload, raw_until_ns;
    uint32_t compress_from;
    struct list holds; /* struct mail_hold */
    struct gw *gw;
    struct timer again;
    uint32_t cursor; /* of requests whose polls are not registered again yet */
    struct noted noted[1u << NOTED_BITS];
};

/* A delivery that the mailbox process was killed over: claimed from its successor by message id, so
 * that what was written out completely does not come again. */
struct mail_hold {
    struct list node;
    struct gw *gw;
    uint64_t handle; /* of the request that still writes it; 0: over */
    bool calling, done;
    uint32_t keep_ms;
    const char *tenant, *workflow, *agent; /* in memory */
    char **ids;
    size_t count;
    char memory[];
};

bool mailbox_is_up(const struct gw *gw)
{
    return gw->mailbox != NULL && rpc_client_is_up(gw->mailbox);
}

uint64_t mailbox_max_payload(const struct gw *gw)
{
    return gw->mail->max_payload;
}

uint32_t mailbox_compress_from(const struct gw *gw)
{
    return mailbox_is_up(gw) ? gw->mail->compress_from : 0;
}

bool mailbox_takes_blocks(const struct gw *gw)
{
    return clock_ns() >= gw->mail->raw_until_ns;
}

void mailbox_avoid_blocks(struct gw *gw)
{
    log_error("payload_damaged",
              "reason=\"a compressed payload of the mailbox cannot be unpacked\"");
    worker_count(gw, GW_M_mail_damaged, 1);
    gw->mail->raw_until_ns = clock_ns() + RAW_NS;
}

/* ---- deliveries ---- */

static void settle_send(struct gw *gw, uint64_t delivery, bool done, uint32_t keep_ms)
{
    Slipstream__V1__SettleRequest q;

    slipstream__v1__settle_request__init(&q);
    q.delivery = delivery;
    q.done = done;
    q.keep_ms = keep_ms;
    if (delivery != 0 && gw->mailbox != NULL)
        rpc_send(gw->mailbox, MBOX_SETTLE, &q.base);
}

void mail_settle_other(struct gw *gw, uint64_t delivery, bool done)
{
    settle_send(gw, delivery, done, 0);
}

void mail_unpark(struct gw *gw, uint64_t poll)
{
    Slipstream__V1__UnparkRequest q;

    slipstream__v1__unpark_request__init(&q);
    q.poll = poll;
    if (gw->mailbox != NULL)
        rpc_send(gw->mailbox, MBOX_UNPARK, &q.base);
}

static void hold_free(struct mail_hold *h)
{
    list_remove(&h->node);
    free(h->ids);
    free(h);
}

static char *put(char **at, const char *s)
{
    char *from = *at;
    size_t n = strlen(s) + 1;

    memcpy(from, s, n);
    *at += n;
    return from;
}

/* Undoes buf_add_json() for the id at s; returns behind its end. */
static char *id_put(char **at, const char *s, const char *end)
{
    char *from = *at;
    const char *close = ++s;
    size_t n = 0;

    while (close < end && *close != '"')
        close += *close == '\\' ? 2 : 1;
    must(json_unescape(s, (size_t)(close - s), from, (size_t)(close - s), &n));
    from[n] = '\0';
    *at += n + 1;
    return from;
}

/* Mostly from what r->out holds: only now is it worth naming them. */
static struct mail_hold *hold_make(struct gw_request *r)
{
    const struct gw_mail *m = r->mail;
    const char *end = r->out.base + r->out.len;
    size_t bytes = strlen(r->tenant) + strlen(r->workflow_id) + strlen(r->agent_id) + 3, i;
    struct mail_hold *h;
    char *at;

    bytes += m->id_count * (6 * ID_BYTES_MAX + 1);
    h = calloc(1, sizeof(*h) + bytes);
    must(h != NULL);
    h->ids = calloc(m->id_count + 1, sizeof(h->ids[0]));
    must(h->ids != NULL);
    h->gw = r->gw;
    at = h->memory;
    h->tenant = put(&at, r->tenant);
    h->workflow = put(&at, r->workflow_id);
    h->agent = put(&at, r->agent_id);
    for (i = 0; i < m->id_count; i++)
        h->ids[h->count++] = m->id_texts != NULL ? put(&at, m->id_texts[i])
                                                 : id_put(&at, r->out.base + m->ids[i], end);
    list_push(&r->gw->mail->holds, &h->node);
    return h;
}

static void on_held(void *arg, uint64_t token, enum err status, const uint8_t *body, size_t len)
{
    struct mail_hold *h = arg;
    struct gw_request *r = request_find(h->gw, h->handle);
    Slipstream__V1__HoldReply *reply =
        status == ERR_OK ? slipstream__v1__hold_reply__unpack(NULL, len, body) : NULL;
    uint64_t delivery = reply != NULL ? reply->delivery : 0;

    (void)token;
    h->calling = false;
    if (reply != NULL)
        slipstream__v1__hold_reply__free_unpacked(reply, NULL);
    if (r != NULL && r->mail != NULL && r->mail->hold == h) {
        r->mail->hold = NULL;
        r->delivery = delivery;
    } else {
        settle_send(h->gw, delivery, h->done, h->keep_ms);
    }
    hold_free(h);
}

static void hold_call(struct mail_hold *h)
{
    Slipstream__V1__HoldRequest q;

    slipstream__v1__hold_request__init(&q);
    q.tenant = (char *)(uintptr_t)h->tenant;
    q.workflow_id = (char *)(uintptr_t)h->workflow;
    q.agent_id = (char *)(uintptr_t)h->agent;
    q.message_ids = h->ids;
    q.n_message_ids = h->count;
    h->calling = rpc_call(h->gw->mailbox, MBOX_HOLD, &q.base, HOLD_TIMEOUT_MS, on_held, h, 0,
                          NULL) == ERR_OK;
}

/* A lease lives on without us; a delivery does not. */
void mail_hold_ask(struct gw_request *r)
{
    struct gw_mail *m = r->mail;

    if (r->delivery == 0 || m->hold != NULL)
        return;
    r->delivery = 0;
    if (r->receive_lease_ms > 0 || m->id_count == 0)
        return;
    m->hold = hold_make(r);
    m->hold->handle = r->handle;
}

void mail_settle(struct gw_request *r, bool done, uint32_t keep_ms)
{
    struct gw_mail *m = r->mail;
    struct mail_hold *h = m->hold;

    if (h == NULL && done && r->delivery != 0 && m->id_count > 0 && r->receive_lease_ms == 0 &&
        !mailbox_is_up(r->gw))
        h = hold_make(r); /* in case that it is another process when it is back */
    if (h != NULL) {
        h->handle = 0;
        h->done = done;
        h->keep_ms = keep_ms;
    }
    settle_send(r->gw, r->delivery, done, keep_ms);
    m->hold = NULL;
    r->delivery = 0;
}

/* ---- the link ---- */

/* Polls of ours that the mailbox process does not know any more, some thousand at a time. */
static void polls_again(struct gw *gw)
{
    struct mail_link *l = gw->mail;
    struct gw_request *r = NULL;
    unsigned count = 0;
    uint64_t handle;

    while (count < AGAIN_CALLS && (r = pool_next(&gw->requests, &l->cursor, &handle)) != NULL)
        if (r->mail != NULL && (r->polling || r->mail->in_doubt)) {
            mail_poll_again(r);
            count++;
        }
    if (r != NULL)
        timer_start(&gw->timers, &l->again, clock_ns() + AGAIN_NS);
}

static void on_again(struct timer *t)
{
    struct mail_link *l = container_of(t, struct mail_link, again);

    if (mailbox_is_up(l->gw))
        polls_again(l->gw);
}

static void holds_again(struct gw *gw, bool is_new)
{
    uint32_t cursor = 0;
    uint64_t handle;
    struct gw_request *r;

    if (!is_new) { /* the channel has kept what was settled meanwhile */
        list_for_safe(n, &gw->mail->holds)
        {
            hold_free(container_of(n, struct mail_hold, node));
        }
        return;
    }
    while ((r = pool_next(&gw->requests, &cursor, &handle)) != NULL)
        if (r->mail != NULL)
            mail_hold_ask(r);
    list_for_safe(n, &gw->mail->holds)
    {
        struct mail_hold *h = container_of(n, struct mail_hold, node);

        if (!h->calling)
            hold_call(h);
    }
}

static void on_up(void *arg, uint64_t epoch, const uint8_t *info, size_t len)
{
    struct gw *gw = arg;
    struct mail_link *l = gw->mail;
    Slipstream__V1__MailboxInfo *told = slipstream__v1__mailbox_info__unpack(NULL, len, info);

    log_info("mailbox_up", "epoch=%016llx ring=%d", (unsigned long long)epoch,
             rpc_client_is_ring(gw->mailbox));
    if (told != NULL && told->max_payload_bytes > 0)
        l->max_payload = told->max_payload_bytes;
    l->compress_from = told != NULL ? told->compress_bytes : 0;
    if (told != NULL)
        slipstream__v1__mailbox_info__free_unpacked(told, NULL);
    holds_again(gw, l->epoch != 0 && l->epoch != epoch);
    l->epoch = epoch;
    l->cursor = 0;
    polls_again(gw);
}

static void on_down(void *arg, const char *reason)
{
    (void)arg;
    log_warn("mailbox_down", "reason=\"%s\"", reason);
}

static void on_event(void *arg, unsigned event, const uint8_t *body, size_t len)
{
    if (event == MBOX_EVENT_DELIVERY)
        mail_delivered(arg, body, len);
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
    gw->mail = calloc(1, sizeof(*gw->mail));
    if (gw->mail == NULL)
        return ERR_NOMEM;
    gw->mail->gw = gw;
    gw->mail->max_payload = PAYLOAD_DEFAULT;
    gw->mail->again.fire = on_again;
    list_init(&gw->mail->holds);
    return rpc_client_open(&conf, gw->rpc_host, &gw->mailbox);
}

void mailbox_close(struct gw *gw)
{
    if (gw->mailbox != NULL)
        rpc_client_close(gw->mailbox);
    gw->mailbox = NULL;
    if (gw->mail == NULL)
        return;
    list_for_safe(n, &gw->mail->holds)
    {
        hold_free(container_of(n, struct mail_hold, node));
    }
    timer_stop(&gw->timers, &gw->mail->again);
    free(gw->mail);
    gw->mail = NULL;
}

void mailbox_drain(struct gw *gw)
{
    uint32_t cursor = 0;
    uint64_t handle;
    struct gw_request *r;

    while ((r = pool_next(&gw->requests, &cursor, &handle)) != NULL)
        if (r->mail != NULL)
            mail_poll_drain(r);
}

/* ---- for others ---- */

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

    if (r->gw->mailbox == NULL)
        return;
    slipstream__v1__close_request__init(&q);
    q.tenant = (char *)(uintptr_t)r->tenant;
    q.workflow_id = (char *)(uintptr_t)r->workflow_id;
    q.purge = purge;
    memset(r->gw->mail->noted, 0, sizeof(r->gw->mail->noted));
    rpc_send(r->gw->mailbox, MBOX_CLOSE_WORKFLOW, &q.base);
}

static uint64_t agent_hash(struct gw_request *r, const char *agent)
{
    uint64_t h = rpc_client_epoch(r->gw->scheduler);

    h = XXH3_64bits_withSeed(r->tenant, strlen(r->tenant) + 1, h);
    h = XXH3_64bits_withSeed(r->workflow_id, strlen(r->workflow_id) + 1, h);
    return XXH3_64bits_withSeed(agent, strlen(agent) + 1, h);
}

void mailbox_note_agent(struct gw_request *r, const char *agent)
{
    Slipstream__V1__AgentNote n;
    uint64_t hash, now = clock_ns();
    struct noted *slot;

    if (r->gw->scheduler == NULL)
        return;
    hash = agent_hash(r, agent);
    slot = &r->gw->mail->noted[hash >> (64 - NOTED_BITS)];
    if (slot->hash == hash && now < slot->until_ns)
        return;
    *slot = (struct noted){hash, now + NOTED_NS};
    slipstream__v1__agent_note__init(&n);
    n.tenant = (char *)(uintptr_t)r->tenant;
    n.workflow_id = (char *)(uintptr_t)r->workflow_id;
    n.agent_id = (char *)(uintptr_t)agent;
    rpc_send(r->gw->scheduler, SCHED_NOTE_AGENT, &n.base);
}
