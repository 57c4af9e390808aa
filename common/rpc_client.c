/* SPDX-License-Identifier: Apache-2.0 */
#include "common/rpc_client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/must.h"
#include "common/ring.h"
#include "proto/shared.pb-c.h"

/*
 * The client's end of a channel: calls and their fates.
 *
 * What the owner asks for gathers in out, as it stands in a frame. A flush moves it to the carrier:
 * the ring at once, nng when its one message has been answered. A call lives in the pool until its
 * answer comes, also past its deadline when somebody wants the late answer; the id on the wire is
 * its handle, cut to 32 bits.
 *
 * Not here: how a link comes up and goes down (rpc_link.c).
 */
#define RING_FRAME_BYTES \
    (64u << 10)         /* of several calls, so that a server may turn to others between them */
#define CALLS_MAX 8191u /* 13 bits of the id */
#define ID_SLOT_BITS 13u
#define OUT_BYTES_MAX (16u << 20)
#define ONEWAY_BATCH 64u
#define ONEWAY_WAIT_NS (5 * NS_PER_MS)
#define BUSY_WAIT_NS NS_PER_MS

struct call { /* in flight, or on client.lates when its deadline has passed */
    struct timer timer;
    struct list late_link;
    struct rpc_client *client;
    uint64_t handle;
    rpc_done_fn *done, *late;
    void *arg;
    uint64_t token;
};

static void on_call_timeout(struct timer *t);

static uint32_t id_of(uint64_t handle)
{
    return (uint32_t)(handle >> 32) << ID_SLOT_BITS | (uint32_t)handle;
}

static struct call *call_find(struct rpc_client *c, uint32_t id)
{
    uint32_t slot = id & ((1u << ID_SLOT_BITS) - 1);

    if (slot == 0 || id_of(c->handles[slot - 1]) != id)
        return NULL;
    return pool_find(&c->calls, c->handles[slot - 1]);
}

/* Gives the object back and then calls, so that the callback may use the slot again. */
static void call_end(struct call *k, enum err status, const uint8_t *body, size_t len)
{
    struct rpc_client *c = k->client;
    bool is_late = !list_is_empty(&k->late_link);
    rpc_done_fn *fn = is_late ? k->late : k->done;
    void *arg = k->arg;
    uint64_t token = k->token;

    timer_stop(c->host.timers, &k->timer);
    list_remove(&k->late_link);
    pool_give(&c->calls, k->handle);
    must(fn != NULL);
    fn(arg, token, status, body, len);
}

static void late_forget(struct call *k)
{
    list_remove(&k->late_link);
    pool_give(&k->client->calls, k->handle);
}

static struct call *call_new(struct rpc_client *c)
{
    uint64_t handle;
    struct call *k = pool_take(&c->calls, &handle);

    if (k == NULL && !list_is_empty(&c->lates)) {
        late_forget(container_of(list_first(&c->lates), struct call, late_link));
        k = pool_take(&c->calls, &handle);
    }
    if (k == NULL)
        return NULL;
    k->client = c;
    k->handle = handle;
    k->timer.fire = on_call_timeout;
    list_init(&k->late_link);
    c->handles[(uint32_t)handle - 1] = handle;
    return k;
}

static void on_call_timeout(struct timer *t)
{
    struct call *k = container_of(t, struct call, timer);

    if (k->late == NULL) {
        call_end(k, ERR_TIMEOUT, NULL, 0);
        return;
    }
    list_push(&k->client->lates, &k->late_link);
    k->done(k->arg, k->token, ERR_TIMEOUT, NULL, 0);
}

void client_take_answer(struct rpc_client *c, const struct frame_call *answer)
{
    struct call *k = call_find(c, answer->id);

    if (k != NULL)
        call_end(k, err_from_wire(answer->status), answer->body, answer->len);
}

void client_end_calls(struct rpc_client *c, enum err status)
{
    uint32_t cursor = 0;
    uint64_t handle;
    struct call *k;

    while (!list_is_empty(&c->lates))
        late_forget(container_of(list_first(&c->lates), struct call, late_link));
    if (c->calls.used == 0)
        return;
    /* The link is down: callbacks cannot start new calls meanwhile. */
    while ((k = pool_next(&c->calls, &cursor, &handle)) != NULL)
        call_end(k, status, NULL, 0);
}

static size_t frame_max(const struct rpc_client *c)
{
    /* What is said while down may come to travel in a ring. */
    bool is_ring = c->ring != NULL || (c->state != CLIENT_UP && c->conf.channel != RPC_NNG);
    size_t max = is_ring ? ring_record_max(c->ring_bytes) : RPC_NNG_FRAME_MAX;

    return max < RPC_NNG_FRAME_MAX ? max : RPC_NNG_FRAME_MAX;
}

static enum err out_add(struct rpc_client *c, const struct frame_call *call,
                        const ProtobufCMessage *message)
{
    size_t before = c->out.len;

    if (before >= OUT_BYTES_MAX)
        return ERR_BUSY;
    frame_add_call(&c->out, call, message);
    if (c->out.len - before > frame_max(c) - FRAME_HEAD_BYTES) {
        c->out.len = before;
        return ERR_TOO_LARGE;
    }
    return ERR_OK;
}

enum err rpc_call(struct rpc_client *c, unsigned method, const ProtobufCMessage *request,
                  uint32_t timeout_ms, rpc_done_fn *done, void *arg, uint64_t token,
                  rpc_done_fn *late)
{
    struct call *k;
    enum err e;

    if (c->state != CLIENT_UP)
        return ERR_GONE;
    k = call_new(c);
    if (k == NULL)
        return ERR_BUSY;
    e = out_add(c,
                &(struct frame_call){.id = id_of(k->handle),
                                     .method = method + RPC_METHOD_BASE,
                                     .timeout_ms = timeout_ms},
                request);
    if (e != ERR_OK) {
        pool_give(&c->calls, k->handle);
        return e;
    }
    k->done = done;
    k->late = late;
    k->arg = arg;
    k->token = token;
    c->is_urgent = true;
    timer_start(c->host.timers, &k->timer, clock_ns() + timeout_ms * NS_PER_MS);
    return ERR_OK;
}

enum err rpc_send(struct rpc_client *c, unsigned method, const ProtobufCMessage *request)
{
    enum err e;

    if (c->epoch == 0)
        return ERR_GONE; /* never up: there is nothing that the hello will not say */
    e = out_add(c, &(struct frame_call){.method = method + RPC_METHOD_BASE}, request);
    if (e != ERR_OK)
        return e;
    if (++c->oneway_count >= ONEWAY_BATCH)
        c->is_urgent = true;
    else if (!timer_is_running(&c->oneway_timer))
        timer_start(c->host.timers, &c->oneway_timer, clock_ns() + ONEWAY_WAIT_NS);
    return ERR_OK;
}

void client_on_oneway_timer(struct timer *t)
{
    /* With the turn's flush: what others wait for may go first. */
    container_of(t, struct rpc_client, oneway_timer)->is_urgent = true;
}

/* Rebuilds out without calls that wait for an answer; those end with status, or silently when
 * status is ERR_OK. */
void client_drop_unary(struct rpc_client *c, enum err status)
{
    struct buf old = c->out;
    struct frame_call call;
    struct call *k;
    size_t at = 0, n;

    c->out = (struct buf){0};
    for (; at < old.len; at += n) {
        n = frame_peek((uint8_t *)old.base + at, old.len - at, &call);
        if (call.id == 0 && (call.method != FRAME_NEXT || status != ERR_OK))
            buf_add(&c->out, old.base + at, n);
    }
    for (at = 0; status != ERR_OK && at < old.len; at += n) {
        n = frame_peek((uint8_t *)old.base + at, old.len - at, &call);
        k = call.id != 0 ? call_find(c, call.id) : NULL;
        if (k != NULL && list_is_empty(&k->late_link))
            call_end(k, status, NULL, 0);
    }
    buf_fini(&old);
}

/* Copies of the one-way calls of the frame under way, for the case that the link breaks. */
static void sent_keep(struct rpc_client *c, size_t len)
{
    struct frame_call call;
    size_t at, n;

    buf_clear(&c->sent);
    c->sent_seq = c->tx_seq;
    if (c->oneway_count == 0)
        return;
    for (at = 0; at < len; at += n) {
        n = frame_peek((uint8_t *)c->out.base + at, len - at, &call);
        if (call.id == 0 && call.method != FRAME_NEXT)
            buf_add(&c->sent, c->out.base + at, n);
    }
}

static void out_sent(struct rpc_client *c, size_t len)
{
    buf_consume(&c->out, len);
    if (c->out.len > 0)
        return;
    c->is_urgent = false;
    c->oneway_count = 0;
    timer_stop(c->host.timers, &c->oneway_timer);
}

static void head_write(struct rpc_client *c, uint8_t to[FRAME_HEAD_BYTES])
{
    frame_write_head(
        to, &(struct frame_head){.proto = RPC_PROTO_MAX, .epoch = c->epoch, .seq = c->tx_seq + 1});
}

static void flush_nng(struct rpc_client *c)
{
    uint8_t head[FRAME_HEAD_BYTES];
    size_t n;
    enum err e;

    if (!client_slot_is_free(c, NNGC_CALLS))
        return; /* what waits goes with the next message, after the answer */
    n = frame_cut((uint8_t *)c->out.base, c->out.len, RPC_NNG_FRAME_MAX);
    head_write(c, head);
    e = nngc_send(c->wire, NNGC_CALLS, head, sizeof(head), c->out.base, n);
    if (e != ERR_OK) {
        client_fail_later(c, "the carrier refused a frame");
        return;
    }
    c->tx_seq++;
    sent_keep(c, n);
    out_sent(c, n);
}

static void ack_add(struct rpc_client *c)
{
    Slipstream__V1__Next next;

    slipstream__v1__next__init(&next);
    next.acked = c->acked_event = c->last_event;
    frame_add_call(&c->out, &(struct frame_call){.method = FRAME_NEXT}, &next.base);
    timer_stop(c->host.timers, &c->ack_timer);
}

/* False: the ring is full. */
static bool flush_ring(struct rpc_client *c)
{
    size_t room = ring_link_frame_max(c->ring);
    size_t frame_max = room < RING_FRAME_BYTES ? room : RING_FRAME_BYTES;
    uint8_t head[FRAME_HEAD_BYTES];
    enum err e = ERR_OK;
    size_t done = 0, n;

    if (c->last_event != c->acked_event)
        ack_add(c);
    if (c->conf.look_us > 0 && c->calls.used > 0 && ring_link_is_elsewhere(c->ring)) {
        c->looks_until_ns = clock_ns() + c->conf.look_us * NS_PER_US;
        ring_link_stay_awake(c->ring);
    }
    while (done < c->out.len && e == ERR_OK) {
        n = frame_cut((uint8_t *)c->out.base + done, c->out.len - done, frame_max);
        head_write(c, head);
        e = ring_link_write(c->ring, head, sizeof(head), c->out.base + done, n);
        if (e == ERR_OK)
            c->tx_seq++;
        if (e == ERR_TOO_LARGE)
            e = ERR_OK; /* a one-way call from before the link had a ring: dropped */
        if (e == ERR_OK)
            done += n;
    }
    out_sent(c, done); /* at once: what stays is moved, and it may be long */
    ring_link_kick(c->ring);
    if (e != ERR_OK && e != ERR_BUSY)
        client_fail_later(c, "the ring is damaged");
    return e != ERR_BUSY;
}

void rpc_client_flush(struct rpc_client *c)
{
    if (c->state != CLIENT_UP || !c->is_urgent || c->out.len == 0 ||
        timer_is_running(&c->fail_timer))
        return;
    if (c->ring == NULL)
        flush_nng(c);
    else if (!timer_is_running(&c->busy_timer) && !flush_ring(c)) {
        c->busy_ns = clock_ns();
        timer_start(c->host.timers, &c->busy_timer, c->busy_ns);
    }
}

bool rpc_client_is_looking(const struct rpc_client *c)
{
    return c->looks_until_ns != 0;
}

void rpc_client_look(struct rpc_client *c)
{
    if (c->ring != NULL)
        ring_link_look(c->ring);
    /* Handling an answer may have taken the link down. */
    if (c->ring != NULL && c->calls.used > 0 && clock_ns() < c->looks_until_ns)
        return;
    c->looks_until_ns = 0;
    if (c->ring != NULL)
        ring_link_doze(c->ring);
}

/* The ring was full at the end of the last turn. While it moves, so do we; if it stood still for
 * long enough, whoever waits for an answer is told. */
void client_on_busy_timer(struct timer *t)
{
    struct rpc_client *c = container_of(t, struct rpc_client, busy_timer);
    size_t before = c->out.len;
    uint64_t now = clock_ns();

    if (c->state != CLIENT_UP || c->ring == NULL || before == 0 || flush_ring(c))
        return;
    if (c->out.len < before) {
        c->busy_ns = now;
        timer_start(c->host.timers, &c->busy_timer, now);
        return;
    }
    timer_start(c->host.timers, &c->busy_timer, now + BUSY_WAIT_NS);
    if (now - c->busy_ns >= c->conf.ring_busy_ms * NS_PER_MS)
        client_drop_unary(c, ERR_BUSY);
}

void client_on_ack_timer(struct timer *t)
{
    struct rpc_client *c = container_of(t, struct rpc_client, ack_timer);

    if (c->state != CLIENT_UP || c->ring == NULL || c->last_event == c->acked_event)
        return;
    ack_add(c);
    c->is_urgent = true;
    rpc_client_flush(c);
}

bool rpc_client_is_up(const struct rpc_client *c)
{
    return c->state == CLIENT_UP;
}

bool rpc_client_is_ring(const struct rpc_client *c)
{
    return c->state == CLIENT_UP && c->ring != NULL;
}

uint64_t rpc_client_epoch(const struct rpc_client *c)
{
    return c->state == CLIENT_UP ? c->epoch : 0;
}

static char *copy(const char *s)
{
    char *t = s != NULL ? strdup(s) : NULL;

    must(s == NULL || t != NULL);
    return t;
}

static void client_free(struct rpc_client *c)
{
    pool_fini(&c->calls);
    free(c->handles);
    buf_fini(&c->out);
    buf_fini(&c->sent);
    buf_fini(&c->held);
    buf_fini(&c->info);
    free(c->name);
    free(c->key);
    free(c);
}

static void ignore_up(void *arg, uint64_t epoch, const uint8_t *info, size_t len)
{
    (void)arg, (void)epoch, (void)info, (void)len;
}

static void ignore_down(void *arg, const char *reason)
{
    (void)arg, (void)reason;
}

static void ignore_event(void *arg, unsigned method, const uint8_t *body, size_t len)
{
    (void)arg, (void)method, (void)body, (void)len;
}

static void conf_take(struct rpc_client *c, const struct rpc_client_conf *conf)
{
    c->conf = *conf;
    c->conf.url = c->conf.tls_ca_file = c->conf.tls_cert_file = c->conf.tls_key_file = NULL;
    c->conf.name = c->name = copy(conf->name != NULL ? conf->name : "");
    c->conf.key = c->key = copy(conf->key);
    if (c->conf.on_up == NULL)
        c->conf.on_up = ignore_up;
    if (c->conf.on_down == NULL)
        c->conf.on_down = ignore_down;
    if (c->conf.on_event == NULL)
        c->conf.on_event = ignore_event;
}

enum err rpc_client_open(const struct rpc_client_conf *conf, struct rpc_host host,
                         struct rpc_client **out)
{
    const struct nng_security sec = {conf->tls_ca_file, conf->tls_cert_file, conf->tls_key_file,
                                     conf->allow_plain_tcp};
    struct nngc_calls wire_calls;
    struct rpc_client *c;
    const char *why = "";
    enum err e;

    if (conf->channel == RPC_NONE)
        return ERR_CONF;
    c = calloc(1, sizeof(*c));
    must(c != NULL);
    conf_take(c, conf);
    c->host = host;
    c->ring_bytes = RPC_RING_BYTES;
    must(getrandom(&c->session, sizeof(c->session), 0) == (ssize_t)sizeof(c->session));
    pool_init(&c->calls, sizeof(struct call), CALLS_MAX);
    c->handles = calloc(CALLS_MAX, sizeof(*c->handles));
    must(c->handles != NULL);
    list_init(&c->lates);
    c->is_local = strncmp(conf->url, "ipc:", 4) == 0;
    client_link_init(c, &wire_calls);
    e = nngc_open(conf->url, &sec, host, &wire_calls, &c->wire, &why);
    if (e != ERR_OK) {
        log_error("rpc_client_open", "url=\"%s\" reason=\"%s\"", conf->url, why);
        client_link_close(c);
        client_free(c);
        return e;
    }
    *out = c;
    return ERR_OK;
}

void rpc_client_close(struct rpc_client *c)
{
    if (c == NULL)
        return;
    client_link_close(c);
    client_end_calls(c, ERR_CANCELLED);
    nngc_close(c->wire);
    client_free(c);
}
