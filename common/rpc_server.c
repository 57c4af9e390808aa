/* SPDX-License-Identifier: Apache-2.0 */
#include "common/rpc_server.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/must.h"
#include "common/ring.h"
#include "proto/shared.pb-c.h"

/*
 * The server's end of a channel: peers, their calls, their answers and events.
 *
 * A peer is a session, not a connection: it outlives its pipe for half a second, so that a client
 * that lost only the link finds its leases and unconfirmed events again. Answers gather in out,
 * events in events until they are confirmed; peer_deliver() moves both to whatever carrier the
 * peer has. A call that its owner does not answer at once is deferred: its token is good until the
 * next flush, and over nng the slot of its frame waits as long.
 *
 * Not here: hello, pipes and rings (rpc_peer.c).
 */
#define OUT_BYTES_MAX (16u << 20)
#define EVENT_BYTES_MAX (16u << 20)
#define EVENT_SMALL_BYTES 256u /* such events have more room: they say that something is over */
#define EVENT_SMALL_ROOM (4u << 20)
#define RETRY_NS NS_PER_MS
#define DEFERRED_KEPT 4096u

static size_t peer_frame_max(const struct rpc_peer *p)
{
    return p->ring != NULL ? ring_link_frame_max(p->ring) : RPC_NNG_FRAME_MAX;
}

/* What is sent again may have to go over another carrier. */
static size_t frame_max_of_all(const struct rpc_server *s)
{
    size_t ring = ring_record_max(s->conf.ring_bytes);

    return s->door != NULL && ring < RPC_NNG_FRAME_MAX ? ring : RPC_NNG_FRAME_MAX;
}

/* ---- answers ---- */

static enum err answer_add(struct rpc_peer *p, uint32_t id, enum err status,
                           const ProtobufCMessage *body)
{
    struct frame_call answer = {.id = id, .status = status};
    size_t max, before;
    enum err e = ERR_OK;

    if (fault_hits(FAULT_rpc_answer_lost))
        return ERR_OK;
    max = peer_frame_max(p) - FRAME_HEAD_BYTES;
    before = p->out.len;
    if (before >= OUT_BYTES_MAX) {
        e = ERR_BUSY;
    } else {
        frame_add_call(&p->out, &answer, body);
        if (p->out.len - before > max)
            e = ERR_TOO_LARGE;
    }
    if (e != ERR_OK) {
        p->out.len = before;
        answer.status = e;
        frame_add_call(&p->out, &answer, NULL);
    }
    return e;
}

static void peer_mark(struct rpc_peer *p) /* the flush looks at it */
{
    if (list_is_empty(&p->dirty_link))
        list_push(&p->server->dirty, &p->dirty_link);
}

static void asked_answer(struct rpc_peer *p)
{
    struct nngs_slot *slot = p->asked;

    p->asked = NULL;
    if (slot != NULL)
        peer_answer_slot(p, slot);
}

static void defer(struct rpc_server *s, struct rpc_peer *p)
{
    if (s->deferred_count == s->deferred_max) {
        s->deferred_max = s->deferred_max > 0 ? 2 * s->deferred_max : 64;
        s->deferred = realloc(s->deferred, s->deferred_max * sizeof(*s->deferred));
        must(s->deferred != NULL);
    }
    s->deferred[s->deferred_count++] =
        (struct deferred_call){.token = s->current_token, .peer = p, .id = s->current_id};
    p->deferred++;
    peer_mark(p);
}

static struct deferred_call *deferred_find(const struct rpc_server *s, uint64_t token)
{
    size_t low = 0, high = s->deferred_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (s->deferred[middle].token < token)
            low = middle + 1;
        else
            high = middle;
    }
    return low < s->deferred_count && s->deferred[low].token == token ? &s->deferred[low] : NULL;
}

void peer_forget_deferred(struct rpc_peer *p)
{
    struct rpc_server *s = p->server;

    for (size_t i = 0; i < s->deferred_count && p->deferred > 0; i++)
        if (s->deferred[i].peer == p) {
            s->deferred[i].peer = NULL;
            p->deferred--;
        }
}

enum err rpc_reply(struct rpc_server *s, uint64_t token, enum err status,
                   const ProtobufCMessage *body)
{
    struct deferred_call *d;
    struct rpc_peer *p;
    enum err e;

    if (token == 0)
        return ERR_GONE;
    if (token == s->current_token) {
        s->current_token = 0;
        return answer_add(s->current, s->current_id, status, body);
    }
    d = deferred_find(s, token);
    p = d != NULL ? d->peer : NULL;
    if (p == NULL)
        return ERR_GONE;
    d->peer = NULL;
    p->deferred--;
    e = answer_add(p, d->id, status, body);
    if (p->deferred == 0)
        asked_answer(p);
    return e;
}

static void answer_unknown(struct rpc_peer *p, uint32_t id)
{
    if (id != 0 && p->out.len < OUT_BYTES_MAX)
        frame_add_call(&p->out, &(struct frame_call){.id = id, .status = ERR_UNIMPLEMENTED}, NULL);
}

/* ---- events ---- */

static bool event_fits(const struct rpc_peer *p, const ProtobufCMessage *body)
{
    size_t held = p->events.len - p->events_start;

    if (held < EVENT_BYTES_MAX)
        return true;
    return held < EVENT_BYTES_MAX + EVENT_SMALL_ROOM &&
           protobuf_c_message_get_packed_size(body) <= EVENT_SMALL_BYTES;
}

enum err rpc_event(struct rpc_server *s, struct rpc_peer *p, unsigned event,
                   const ProtobufCMessage *body)
{
    struct frame_call call = {.method = event + RPC_EVENT_BASE, .event = p->next_event};
    size_t before = p->events.len;

    if (!event_fits(p, body))
        return ERR_BUSY;
    frame_add_call(&p->events, &call, body);
    if (p->events.len - before > frame_max_of_all(s) - FRAME_HEAD_BYTES) {
        p->events.len = before;
        return ERR_TOO_LARGE;
    }
    p->next_event++;
    peer_mark(p);
    return ERR_OK;
}

static void events_confirm(struct rpc_peer *p, uint64_t acked)
{
    struct frame_call call;
    size_t n;

    /* Only what was sent on this link can have been handled there. */
    while (p->events_start < p->events_sent) {
        n = frame_peek((uint8_t *)p->events.base + p->events_start,
                       p->events_sent - p->events_start, &call);
        if (call.event > acked)
            break;
        p->events_start += n;
    }
    if (p->events_start < p->events.len && p->events_start < (1u << 16))
        return;
    buf_consume(&p->events, p->events_start);
    p->events_sent -= p->events_start;
    p->events_start = 0;
}

/* ---- frames going out ---- */

static void head_write(struct rpc_peer *p, uint8_t to[FRAME_HEAD_BYTES])
{
    frame_write_head(to, &(struct frame_head){.proto = RPC_PROTO_MAX,
                                              .epoch = p->server->conf.epoch,
                                              .seq = p->tx_seq + 1});
}

/* Answers a slot with as many answers as fit one frame. */
void peer_answer_slot(struct rpc_peer *p, struct nngs_slot *slot)
{
    uint8_t head[FRAME_HEAD_BYTES];
    size_t n =
        p->out.len > 0 ? frame_cut((uint8_t *)p->out.base, p->out.len, RPC_NNG_FRAME_MAX) : 0;

    head_write(p, head);
    p->tx_seq++;
    nngs_answer(slot, head, sizeof(head), p->out.base, n);
    buf_consume(&p->out, n);
}

static void deliver_events_nng(struct rpc_peer *p)
{
    uint8_t head[FRAME_HEAD_BYTES];
    const char *from = p->events.base + p->events_sent;
    size_t n = frame_cut((const uint8_t *)from, p->events.len - p->events_sent, RPC_NNG_FRAME_MAX);
    struct nngs_slot *slot = p->parked;

    p->parked = NULL;
    head_write(p, head);
    p->tx_seq++;
    p->events_sent += n;
    nngs_answer(slot, head, sizeof(head), from, n);
}

static enum err deliver_part(struct rpc_peer *p, const char *from, size_t len, size_t *done)
{
    uint8_t head[FRAME_HEAD_BYTES];
    enum err e = ERR_OK;
    size_t n;

    *done = 0;
    while (*done < len && e == ERR_OK) {
        n = frame_cut((const uint8_t *)from + *done, len - *done, ring_link_frame_max(p->ring));
        head_write(p, head);
        e = ring_link_write(p->ring, head, sizeof(head), from + *done, n);
        if (e == ERR_OK) {
            p->tx_seq++;
            *done += n;
        }
    }
    return e;
}

static void deliver_ring(struct rpc_peer *p)
{
    size_t n;
    enum err e = deliver_part(p, p->out.base, p->out.len, &n);

    buf_consume(&p->out, n);
    if (e == ERR_OK && p->events_sent < p->events.len) {
        e = deliver_part(p, p->events.base + p->events_sent, p->events.len - p->events_sent, &n);
        p->events_sent += n;
    }
    ring_link_kick(p->ring);
    if (e == ERR_BUSY)
        timer_start(p->server->host.timers, &p->retry_timer, clock_ns() + RETRY_NS);
    else if (e != ERR_OK)
        peer_ring_lost(p);
}

void peer_deliver(struct rpc_peer *p)
{
    if (p->ring != NULL) {
        if (p->out.len > 0 || p->events_sent < p->events.len)
            deliver_ring(p);
        return;
    }
    /* An event may be about a call whose answer still waits for its frame: that comes first. */
    if (p->parked == NULL || p->asked != NULL)
        return;
    if (p->out.len > 0) { /* answers that did not fit the frame they belonged to */
        struct nngs_slot *slot = p->parked;

        p->parked = NULL;
        peer_answer_slot(p, slot);
    } else if (p->events_sent < p->events.len) {
        deliver_events_nng(p);
    }
}

void rpc_server_flush(struct rpc_server *s)
{
    struct list *n;

    s->deferred_count = 0;
    if (s->deferred_max > DEFERRED_KEPT) {
        free(s->deferred);
        s->deferred = NULL;
        s->deferred_max = 0;
    }
    while ((n = list_take(&s->dirty)) != NULL) {
        struct rpc_peer *p = container_of(n, struct rpc_peer, dirty_link);

        p->deferred = 0;
        asked_answer(p);
        peer_deliver(p);
    }
}

/* ---- frames coming in ---- */

static void take_next(struct rpc_peer *p, const struct frame_call *call)
{
    Slipstream__V1__Next *next;

    if (call->len > 64)
        return;
    next = slipstream__v1__next__unpack(NULL, call->len, call->body);
    if (next == NULL)
        return;
    events_confirm(p, next->acked);
    slipstream__v1__next__free_unpacked(next, NULL);
}

static void take_call(struct rpc_peer *p, const struct frame_call *call)
{
    struct rpc_server *s = p->server;
    uint32_t method = call->method - RPC_METHOD_BASE;

    if (call->method < RPC_METHOD_BASE || method >= s->conf.service->n_methods) {
        answer_unknown(p, call->id);
        return;
    }
    s->current = p;
    s->current_id = call->id;
    s->current_token = call->id != 0 ? ++s->last_token : 0;
    s->conf.on_call(s->conf.arg, p, method, s->current_token, call->timeout_ms, call->body,
                    call->len);
    if (s->current_token != 0)
        defer(s, p);
    s->current = NULL;
    s->current_token = 0;
}

/* True: the frame holds a Next. */
static bool take_calls(struct rpc_peer *p, struct frame_reader *r)
{
    struct frame_call call;
    bool has_next = false;

    while (frame_next(r, &call)) {
        if (call.method == FRAME_NEXT) {
            take_next(p, &call);
            has_next = true;
        } else {
            take_call(p, &call);
        }
    }
    return has_next;
}

enum err peer_take_ring_frame(struct rpc_peer *p, const uint8_t *data, size_t len)
{
    struct frame_reader r;
    struct frame_head head;

    if (frame_open(&r, data, len, &head) != ERR_OK || head.epoch != p->server->conf.epoch ||
        head.seq <= p->rx_seq)
        return ERR_PROTO;
    p->rx_seq = head.seq;
    take_calls(p, &r);
    return ERR_OK;
}

static bool starts_with_next(const struct frame_reader *r)
{
    struct frame_reader copy = *r;
    struct frame_call call;

    return frame_next(&copy, &call) && call.method == FRAME_NEXT;
}

void peer_take_nng_frame(struct rpc_peer *p, struct nngs_slot *slot, struct frame_reader *r,
                         const struct frame_head *head)
{
    p->heard_ns = clock_ns();
    if (starts_with_next(r)) {
        take_calls(p, r);
        peer_park(p, slot);
    } else if (head->seq > p->rx_seq) {
        p->rx_seq = head->seq;
        asked_answer(p); /* of a client that did not wait for it */
        take_calls(p, r);
        if (p->deferred > 0)
            p->asked = slot;
        else
            peer_answer_slot(p, slot);
    } else {
        nngs_answer(slot, NULL, 0, NULL, 0); /* handled before: nobody may send a frame twice */
    }
    peer_deliver(p);
}

/* ---- open and close ---- */

static void server_free(struct rpc_server *s)
{
    timer_stop(s->host.timers, &s->sweep_timer);
    ring_door_close(s->door);
    nngs_close(s->wire);
    free(s->deferred);
    free(s);
}

enum err rpc_server_open(const struct rpc_server_conf *conf, struct rpc_host host,
                         struct rpc_server **out)
{
    const struct nng_security sec = {conf->tls_ca_file, conf->tls_cert_file, conf->tls_key_file,
                                     conf->allow_plain_tcp};
    struct rpc_server *s = calloc(1, sizeof(*s));
    struct nngs_calls wire_calls;
    const char *why = "";
    enum err e;

    must(s != NULL && conf->epoch != 0 && conf->max_peers > 0);
    s->conf = *conf;
    if (s->conf.ring_bytes == 0)
        s->conf.ring_bytes = RPC_RING_BYTES;
    must(ring_bytes_can_be(s->conf.ring_bytes));
    s->host = host;
    list_init(&s->peers);
    list_init(&s->pipes);
    list_init(&s->dirty);
    server_peers_init(s, &wire_calls);
    e = nngs_open(conf->urls, conf->url_count, &sec, 2 * conf->max_peers, 4 * conf->max_peers + 16,
                  host, &wire_calls, &s->wire, &why);
    if (e == ERR_OK && conf->ring_path != NULL) {
        why = "the ring socket cannot be bound, or another server listens there";
        e = ring_door_open(conf->ring_path, host, s, server_on_guest, &s->door);
    }
    if (e != ERR_OK) {
        log_error("rpc_server_open", "url=\"%s\" ring=\"%s\" reason=\"%s\"",
                  conf->url_count > 0 ? conf->urls[0] : "",
                  conf->ring_path != NULL ? conf->ring_path : "", why);
        server_free(s);
        return e;
    }
    *out = s;
    return ERR_OK;
}

void rpc_server_close(struct rpc_server *s)
{
    if (s == NULL)
        return;
    rpc_server_flush(s);
    server_peers_close(s);
    server_free(s);
}

void *rpc_peer_data(const struct rpc_peer *p)
{
    return p->data;
}

void rpc_peer_set_data(struct rpc_peer *p, void *data)
{
    p->data = data;
}

const char *rpc_peer_name(const struct rpc_peer *p)
{
    return p->name;
}

bool rpc_peer_is_local(const struct rpc_peer *p)
{
    return p->is_local;
}

bool rpc_peer_is_resumed(const struct rpc_peer *p)
{
    return p->is_resumed;
}

uint32_t rpc_server_peers(const struct rpc_server *s)
{
    return s->peer_count;
}
