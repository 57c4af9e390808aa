/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/must.h"
#include "common/rpc_server.h"
#include "common/shm.h"
#include "proto/shared.pb-c.h"

/*
 * Peers coming and going: pipes, hello, rings, the half second of grace.
 *
 * A pipe belongs to nobody until a hello on it names a session. A peer whose pipe or ring has gone
 * is given GONE_NS to say hello again; then on_gone ends it. The sweep is the net under nng's
 * notices: it finds pipes that ended unseen and peers that fell silent. A pipe that sent garbage is
 * not closed (rpc_nng.c says why) but never listened to again.
 */
#define GONE_NS (500 * NS_PER_MS)
#define PARK_NS (20 * NS_PER_S)
#define SILENT_NS (45 * NS_PER_S)
#define SWEEP_NS (500 * NS_PER_MS)
#define HELLO_BYTES_MAX 4096u

/* ---- peers ---- */

static void unpark(struct rpc_peer *p)
{
    struct nngs_slot *slot = p->parked;

    if (slot == NULL)
        return;
    p->parked = NULL;
    if (!p->server->is_closing) /* an answer now would only bring the next request */
        peer_answer_slot(p, slot);
}

static void unask(struct rpc_peer *p)
{
    struct nngs_slot *slot = p->asked;

    peer_forget_deferred(p);
    p->asked = NULL;
    if (slot != NULL && !p->server->is_closing)
        peer_answer_slot(p, slot);
}

static void on_park_timer(struct timer *t)
{
    unpark(container_of(t, struct rpc_peer, park_timer));
}

static void on_retry_timer(struct timer *t)
{
    peer_deliver(container_of(t, struct rpc_peer, retry_timer));
}

void peer_park(struct rpc_peer *p, struct nngs_slot *slot)
{
    unpark(p);
    p->parked = slot;
    timer_start(p->server->host.timers, &p->park_timer, clock_ns() + PARK_NS);
}

static void peer_link_lost(struct rpc_peer *p)
{
    if (!timer_is_running(&p->gone_timer))
        timer_start(p->server->host.timers, &p->gone_timer, clock_ns() + GONE_NS);
}

void peer_ring_lost(struct rpc_peer *p)
{
    struct ring_link *ring = p->ring;

    p->ring = NULL;
    ring_link_free(ring);
    timer_stop(p->server->host.timers, &p->retry_timer);
    peer_link_lost(p);
}

static struct rpc_pipe *pipe_find(const struct rpc_server *s, uint32_t id)
{
    list_for(n, &s->pipes)
    {
        struct rpc_pipe *pipe = container_of(n, struct rpc_pipe, link);

        if (pipe->id == id)
            return pipe;
    }
    return NULL;
}

static void peer_leave_pipe(struct rpc_peer *p)
{
    struct rpc_pipe *pipe = p->pipe != 0 ? pipe_find(p->server, p->pipe) : NULL;

    unask(p);
    unpark(p);
    timer_stop(p->server->host.timers, &p->park_timer);
    p->pipe = 0;
    if (pipe != NULL)
        pipe->peer = NULL;
}

static void peer_free(struct rpc_peer *p, bool is_known)
{
    struct rpc_server *s = p->server;

    buf_clear(&p->out);
    peer_leave_pipe(p);
    timer_stop(s->host.timers, &p->gone_timer);
    timer_stop(s->host.timers, &p->retry_timer);
    ring_link_free(p->ring);
    list_remove(&p->link);
    list_remove(&p->dirty_link);
    s->peer_count--;
    if (is_known)
        s->conf.on_gone(s->conf.arg, p);
    list_remove(&p->dirty_link); /* on_gone may have sent it an event */
    buf_fini(&p->out);
    buf_fini(&p->events);
    free(p);
}

static void on_gone_timer(struct timer *t)
{
    peer_free(container_of(t, struct rpc_peer, gone_timer), true);
}

static struct rpc_peer *peer_new(struct rpc_server *s, uint64_t session)
{
    struct rpc_peer *p = calloc(1, sizeof(*p));

    must(p != NULL);
    p->server = s;
    p->session = session;
    p->next_event = 1;
    p->park_timer.fire = on_park_timer;
    p->gone_timer.fire = on_gone_timer;
    p->retry_timer.fire = on_retry_timer;
    list_init(&p->link);
    list_init(&p->dirty_link);
    list_push(&s->peers, &p->link);
    s->peer_count++;
    return p;
}

static struct rpc_peer *peer_find(const struct rpc_server *s, uint64_t session)
{
    list_for(n, &s->peers)
    {
        struct rpc_peer *p = container_of(n, struct rpc_peer, link);

        if (p->session == session)
            return p;
    }
    return NULL;
}

/* ---- pipes ---- */

static void pipe_free(struct rpc_pipe *pipe)
{
    struct rpc_peer *p = pipe->peer;

    if (p != NULL) {
        peer_leave_pipe(p);
        peer_link_lost(p);
    }
    list_remove(&pipe->link);
    free(pipe);
}

/* NULL: it has ended already. */
static struct rpc_pipe *pipe_get(struct rpc_server *s, uint32_t id)
{
    struct rpc_pipe *pipe = pipe_find(s, id);
    bool is_local;

    if (pipe != NULL || !nngs_pipe_is_alive(s->wire, id, &is_local))
        return pipe;
    pipe = calloc(1, sizeof(*pipe));
    must(pipe != NULL);
    *pipe = (struct rpc_pipe){.id = id, .is_local = is_local};
    list_init(&pipe->link);
    list_push(&s->pipes, &pipe->link);
    return pipe;
}

static void wire_on_pipe(void *arg, uint32_t id, bool is_up)
{
    struct rpc_server *s = arg;
    struct rpc_pipe *pipe;

    if (is_up) {
        pipe_get(s, id);
        return;
    }
    pipe = pipe_find(s, id);
    if (pipe != NULL)
        pipe_free(pipe);
}

static void sweep_pipe(struct rpc_server *s, struct rpc_pipe *pipe, uint64_t now)
{
    bool is_local;

    if (!nngs_pipe_is_alive(s->wire, pipe->id, &is_local)) {
        pipe_free(pipe);
    } else if (pipe->peer != NULL && pipe->peer->ring == NULL && pipe->peer->parked == NULL &&
               now - pipe->peer->heard_ns > SILENT_NS) {
        peer_link_lost(pipe->peer);
        peer_leave_pipe(pipe->peer);
    }
}

static void on_sweep(struct timer *t)
{
    struct rpc_server *s = container_of(t, struct rpc_server, sweep_timer);
    uint64_t now = clock_ns();

    nngs_check(s->wire);
    list_for_safe(n, &s->pipes)
    {
        sweep_pipe(s, container_of(n, struct rpc_pipe, link), now);
    }
    timer_start(s->host.timers, t, now + SWEEP_NS);
}

/* ---- rings ---- */

static enum err ring_on_frame(void *arg, const uint8_t *data, size_t len)
{
    return peer_take_ring_frame(arg, data, len);
}

static void ring_on_drained(void *arg)
{
    peer_deliver(arg);
}

static void ring_on_dead(void *arg, const char *reason)
{
    struct rpc_peer *p = arg;

    log_debug("rpc_ring_closed", "peer=\"%s\" reason=\"%s\"", p->name, reason);
    peer_ring_lost(p);
}

void server_on_guest(void *arg, uint64_t session, uint64_t token, int fd)
{
    struct rpc_server *s = arg;
    struct rpc_peer *p = peer_find(s, session);
    const struct ring_link_calls calls = {.arg = p,
                                          .on_frame = ring_on_frame,
                                          .on_drained = ring_on_drained,
                                          .on_dead = ring_on_dead};

    if (p == NULL || p->ring_token == 0 || p->ring_token != token || p->ring != NULL) {
        close(fd);
        return;
    }
    p->ring_token = 0; /* good for one ring */
    if (ring_link_serve(fd, s->conf.ring_bytes, s->host, &calls, &p->ring) != ERR_OK)
        p->ring = NULL;
}

/* ---- hello ---- */

struct hello { /* one hello on its way through the checks */
    struct rpc_server *server;
    struct rpc_pipe *pipe;
    struct nngs_slot *slot;
    const Slipstream__V1__Hello *words;
    uint32_t id;
};

static void hello_reply(const struct hello *h, struct rpc_peer *p, enum err status,
                        Slipstream__V1__HelloReply *reply)
{
    struct frame_head head = {.seq = p != NULL ? ++p->tx_seq : 0};
    uint8_t head_bytes[FRAME_HEAD_BYTES];
    static char version[] = SLIP_VERSION;
    struct buf call = {0};

    reply->proto = RPC_PROTO_MAX;
    reply->epoch = h->server->conf.epoch;
    reply->build = version;
    frame_write_head(head_bytes, &head);
    frame_add_call(&call,
                   &(struct frame_call){.id = h->id, .method = FRAME_HELLO, .status = status},
                   &reply->base);
    nngs_answer(h->slot, head_bytes, sizeof(head_bytes), call.base, call.len);
    buf_fini(&call);
}

static void hello_refuse(const struct hello *h, enum err status, const char *reason)
{
    Slipstream__V1__HelloReply reply;
    char text[200];

    slipstream__v1__hello_reply__init(&reply);
    snprintf(text, sizeof(text), "%s", reason);
    reply.refused = text;
    hello_reply(h, NULL, status, &reply);
}

static bool may_have_ring(const struct hello *h)
{
    return h->server->door != NULL && h->words->want_ring && h->pipe->is_local &&
           strcmp(h->words->boot_id, shm_boot_id()) == 0;
}

static void hello_accept(const struct hello *h, struct rpc_peer *p, uint8_t *info, size_t info_len)
{
    Slipstream__V1__HelloReply reply;
    char path[128];

    slipstream__v1__hello_reply__init(&reply);
    reply.info.data = info;
    reply.info.len = info_len;
    reply.resumed = p->is_resumed;
    reply.acked = p->rx_seq;
    p->ring_token = 0;
    if (may_have_ring(h) && strlen(h->server->conf.ring_path) < sizeof(path)) {
        must(getrandom(&p->ring_token, sizeof(p->ring_token), 0) == (ssize_t)sizeof(p->ring_token));
        strcpy(path, h->server->conf.ring_path);
        reply.ring_path = path;
        reply.ring_token = p->ring_token;
        reply.ring_bytes = h->server->conf.ring_bytes;
    }
    hello_reply(h, p, ERR_OK, &reply);
}

/* A link of the same session before this one ends here; what it still brought counts. */
static void peer_rebind(struct rpc_peer *p, const struct hello *h)
{
    struct ring_link *ring = p->ring;

    if (ring != NULL) {
        ring_link_drain(ring);
        p->ring = NULL;
        ring_link_free(ring);
    }
    buf_clear(&p->out); /* nobody waits for these answers any more */
    peer_leave_pipe(p);
    timer_stop(p->server->host.timers, &p->gone_timer);
    timer_stop(p->server->host.timers, &p->retry_timer);
    p->tx_seq = 0;
    p->events_sent = p->events_start;
    if (p->events.len > p->events_sent && list_is_empty(&p->dirty_link))
        list_push(&p->server->dirty, &p->dirty_link);
    p->pipe = h->pipe->id;
    p->is_local = h->pipe->is_local;
    p->heard_ns = clock_ns();
    h->pipe->peer = p;
}

static void hello_take(const struct hello *h)
{
    struct rpc_server *s = h->server;
    struct rpc_peer *p = peer_find(s, h->words->session);
    const char *reason = "refused";
    uint8_t *info = NULL;
    size_t info_len = 0;
    enum err e;

    if (h->words->proto_min > RPC_PROTO_MAX || h->words->proto_max < RPC_PROTO_MIN) {
        hello_refuse(h, ERR_VERSION, err_text(ERR_VERSION));
        return;
    }
    if (h->words->session == 0) {
        hello_refuse(h, ERR_PROTO, "a hello without a session");
        return;
    }
    if (p == NULL && s->peer_count >= s->conf.max_peers) {
        hello_refuse(h, ERR_BUSY, "no room for another peer");
        return;
    }
    if (h->pipe->peer != NULL && h->pipe->peer != p) /* another session on the same pipe */
        peer_free(h->pipe->peer, true);
    if (p != NULL)
        p->is_resumed = true;
    else
        p = peer_new(s, h->words->session);
    peer_rebind(p, h);
    snprintf(p->name, sizeof(p->name), "%s", h->words->name);
    e = s->conf.on_hello(s->conf.arg, p, p->name, h->words->key, &info, &info_len, &reason);
    if (e == ERR_OK) {
        hello_accept(h, p, info, info_len);
    } else {
        hello_refuse(h, e, reason);
        peer_free(p, p->is_resumed);
    }
    free(info);
}

static bool has_hello(struct frame_reader r, struct frame_call *call)
{
    return frame_next(&r, call) && call->method == FRAME_HELLO && call->id != 0 &&
           call->len <= HELLO_BYTES_MAX;
}

static void on_hello(struct rpc_server *s, struct rpc_pipe *pipe, struct nngs_slot *slot,
                     const struct frame_call *call)
{
    Slipstream__V1__Hello *words = slipstream__v1__hello__unpack(NULL, call->len, call->body);
    const struct hello h = {
        .server = s, .pipe = pipe, .slot = slot, .words = words, .id = call->id};

    if (words == NULL)
        hello_refuse(&h, ERR_PROTO, err_text(ERR_PROTO));
    else
        hello_take(&h);
    slipstream__v1__hello__free_unpacked(words, NULL);
}

/* Not an answer: says that this link must begin with a hello. */
static void want_hello(struct rpc_server *s, struct nngs_slot *slot)
{
    uint8_t head[FRAME_HEAD_BYTES];
    struct buf call = {0};

    frame_write_head(head, &(struct frame_head){.epoch = s->conf.epoch});
    frame_add_call(&call, &(struct frame_call){.method = FRAME_HELLO, .status = ERR_HELLO}, NULL);
    nngs_answer(slot, head, sizeof(head), call.base, call.len);
    buf_fini(&call);
}

static void pipe_give_up(struct rpc_pipe *pipe)
{
    struct rpc_peer *p = pipe->peer;

    pipe->is_bad = true;
    if (p != NULL) {
        peer_leave_pipe(p);
        peer_link_lost(p);
    }
}

static void wire_on_frame(void *arg, struct nngs_slot *slot, uint32_t id, const uint8_t *data,
                          size_t len)
{
    struct rpc_server *s = arg;
    struct rpc_pipe *pipe = pipe_get(s, id);
    struct frame_reader r;
    struct frame_head head;
    struct frame_call call;

    if (pipe == NULL || pipe->is_bad) {
        nngs_answer(slot, NULL, 0, NULL, 0); /* frees the slot */
    } else if (len > RPC_NNG_FRAME_MAX || frame_open(&r, data, len, &head) != ERR_OK) {
        pipe_give_up(pipe);
        nngs_answer(slot, NULL, 0, NULL, 0);
    } else if (has_hello(r, &call)) {
        on_hello(s, pipe, slot, &call);
    } else if (pipe->peer == NULL || head.epoch != s->conf.epoch) {
        want_hello(s, slot);
    } else {
        peer_take_nng_frame(pipe->peer, slot, &r, &head);
    }
}

void server_peers_init(struct rpc_server *s, struct nngs_calls *wire_calls)
{
    *wire_calls = (struct nngs_calls){.arg = s, .on_pipe = wire_on_pipe, .on_frame = wire_on_frame};
    s->sweep_timer.fire = on_sweep;
    timer_start(s->host.timers, &s->sweep_timer, clock_ns() + SWEEP_NS);
}

void server_peers_close(struct rpc_server *s)
{
    s->is_closing = true;
    while (!list_is_empty(&s->peers))
        peer_free(container_of(list_first(&s->peers), struct rpc_peer, link), true);
    while (!list_is_empty(&s->pipes))
        pipe_free(container_of(list_first(&s->pipes), struct rpc_pipe, link));
}
