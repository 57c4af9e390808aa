/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/must.h"
#include "common/ring.h"
#include "common/rpc_client.h"
#include "common/shm.h"
#include "proto/shared.pb-c.h"

/*
 * The client's link: hello, attaching the ring, frames coming in, going down and coming back.
 *
 * A link is an nng pipe, a hello answered on it, and where one was offered a ring. Whatever breaks
 * takes the whole link down through client_down(), and a new hello makes the next one; so calls
 * never move from one carrier to the other, and there is one place where they end.
 */
#define REDIAL_LOCAL_NS NS_PER_S /* so long without a word from the server: dial anew */
#define REDIAL_REMOTE_NS (10 * NS_PER_S)
#define TROUBLE_LOOK_NS NS_PER_S
#define HELLO_AGAIN_NS (20 * NS_PER_MS)
#define REFUSED_AGAIN_NS NS_PER_S
#define ATTACH_TIMEOUT_NS (500 * NS_PER_MS)
#define ACK_WAIT_NS (5 * NS_PER_MS)
#define ACK_BATCH 64u
#define HELLO_REPLY_MAX (1u << 20)

static void hello_try(struct rpc_client *c);
static void next_send(struct rpc_client *c);

bool client_slot_is_free(const struct rpc_client *c, enum nngc_slot slot)
{
    return nngc_is_idle(c->wire, slot) && !(c->has_held && c->held_slot == slot);
}

/* ---- down ---- */

static void hello_later(struct rpc_client *c, uint64_t wait_ns)
{
    timer_start(c->host.timers, &c->hello_timer, clock_ns() + wait_ns);
}

static void redial_later(struct rpc_client *c)
{
    timer_start(c->host.timers, &c->dial_timer,
                clock_ns() + (c->is_local ? REDIAL_LOCAL_NS : REDIAL_REMOTE_NS));
}

static void link_stop(struct rpc_client *c)
{
    c->state = CLIENT_DOWN;
    ring_dial_cancel(c->dial);
    c->dial = NULL;
    ring_link_free(c->ring);
    c->ring = NULL;
    c->has_held = false;
    timer_stop(c->host.timers, &c->attach_timer);
    timer_stop(c->host.timers, &c->fail_timer);
    timer_stop(c->host.timers, &c->busy_timer);
    timer_stop(c->host.timers, &c->ack_timer);
}

static void client_down(struct rpc_client *c, const char *reason, uint64_t again_ns)
{
    bool was_up = c->state == CLIENT_UP;

    link_stop(c);
    nngc_cancel(c->wire);
    if (c->has_pipe)
        hello_later(c, again_ns);
    if (!timer_is_running(&c->dial_timer))
        redial_later(c);
    if (!was_up)
        return;
    client_drop_unary(c, ERR_OK); /* they end below, with those under way */
    client_end_calls(c, ERR_GONE);
    c->conf.on_down(c->conf.arg, reason);
}

static void on_fail_timer(struct timer *t)
{
    struct rpc_client *c = container_of(t, struct rpc_client, fail_timer);

    client_down(c, c->failure, HELLO_AGAIN_NS);
}

void client_fail_later(struct rpc_client *c, const char *reason)
{
    c->failure = reason;
    timer_start(c->host.timers, &c->fail_timer, clock_ns());
}

/* On one host a server that is not there is about to start. On another one there are more reasons,
 * and people who look for them. */
static void trouble_watch(struct rpc_client *c)
{
    if (!c->is_local)
        timer_start(c->host.timers, &c->trouble_timer, clock_ns() + TROUBLE_LOOK_NS);
}

static void on_trouble_timer(struct timer *t)
{
    struct rpc_client *c = container_of(t, struct rpc_client, trouble_timer);
    const char *why = nngc_trouble(c->wire);

    trouble_watch(c);
    if (why == NULL || why == c->trouble)
        return;
    c->trouble = why;
    c->conf.on_down(c->conf.arg, why);
}

static void on_dial_timer(struct timer *t)
{
    struct rpc_client *c = container_of(t, struct rpc_client, dial_timer);
    bool is_refused = c->state == CLIENT_DOWN && c->has_pipe && timer_is_running(&c->hello_timer);

    redial_later(c);
    if (is_refused || c->state == CLIENT_ATTACH || c->state == CLIENT_UP)
        return;
    c->has_pipe = false;
    client_down(c, "the server does not answer", 0);
    trouble_watch(c);
    nngc_redial(c->wire);
}

static void client_refused(struct rpc_client *c, const char *reason)
{
    client_down(c, reason, REFUSED_AGAIN_NS);
    c->conf.on_down(c->conf.arg, reason);
}

/* ---- frames coming in ---- */

static enum err take_event(struct rpc_client *c, const struct frame_call *call)
{
    if (call->event <= c->last_event)
        return ERR_OK; /* sent again; it was handled before */
    if (call->event != c->last_event + 1)
        return ERR_PROTO;
    c->last_event = call->event;
    c->conf.on_event(c->conf.arg, call->method - RPC_EVENT_BASE, call->body, call->len);
    return ERR_OK;
}

static enum err take_calls(struct rpc_client *c, struct frame_reader *r)
{
    struct frame_call call;
    enum err e = ERR_OK;

    while (e == ERR_OK && c->state == CLIENT_UP && frame_next(r, &call)) {
        if (call.id != 0)
            client_take_answer(c, &call);
        else if (call.method >= RPC_EVENT_BASE)
            e = take_event(c, &call);
    }
    return e;
}

/* A frame that is no answer but says: not this epoch, not this session. */
static bool is_hello_wanted(const struct frame_reader *r)
{
    struct frame_reader copy = *r;
    struct frame_call call;

    return frame_next(&copy, &call) && call.id == 0 && call.method == FRAME_HELLO;
}

static enum err ring_on_frame(void *arg, const uint8_t *p, size_t len)
{
    struct rpc_client *c = arg;
    struct frame_reader r;
    struct frame_head head;

    if (frame_open(&r, p, len, &head) != ERR_OK || head.epoch != c->epoch ||
        head.seq != c->rx_seq + 1)
        return ERR_PROTO;
    c->rx_seq++;
    return take_calls(c, &r);
}

static void ring_on_drained(void *arg)
{
    struct rpc_client *c = arg;

    if (c->last_event == c->acked_event || c->state != CLIENT_UP)
        return;
    if (c->last_event - c->acked_event >= ACK_BATCH)
        client_on_ack_timer(&c->ack_timer);
    else if (!timer_is_running(&c->ack_timer))
        timer_start(c->host.timers, &c->ack_timer, clock_ns() + ACK_WAIT_NS);
}

static void ring_on_dead(void *arg, const char *reason)
{
    client_down(arg, reason, HELLO_AGAIN_NS);
}

/* What a slot is used for next, once its answer has been handled. */
static void slot_go_on(struct rpc_client *c, enum nngc_slot slot)
{
    if (c->state != CLIENT_UP || c->ring != NULL)
        return;
    if (slot == NNGC_NEXT) {
        next_send(c);
        return;
    }
    buf_clear(&c->sent);
    rpc_client_flush(c);
}

/* nng completes on several threads, so the answers of the two slots may overtake each other: one
 * is held until the other, which it follows, has come. */
static void wire_take(struct rpc_client *c, enum nngc_slot slot, const uint8_t *p, size_t len)
{
    enum nngc_slot other = slot == NNGC_CALLS ? NNGC_NEXT : NNGC_CALLS;
    struct frame_reader r;
    struct frame_head head;

    if (frame_open(&r, p, len, &head) != ERR_OK) {
        client_down(c, "a malformed frame", HELLO_AGAIN_NS);
        return;
    }
    if (is_hello_wanted(&r)) {
        client_down(c, "the server wants a new hello", HELLO_AGAIN_NS);
        return;
    }
    if (head.epoch == c->epoch && head.seq > c->rx_seq + 1 && !c->has_held &&
        !nngc_is_idle(c->wire, other)) {
        buf_clear(&c->held);
        buf_add(&c->held, p, len);
        c->held_slot = slot;
        c->has_held = true;
        return;
    }
    if (head.epoch != c->epoch || head.seq != c->rx_seq + 1) {
        client_down(c, "frames out of order", HELLO_AGAIN_NS);
        return;
    }
    c->rx_seq++;
    if (take_calls(c, &r) != ERR_OK)
        client_down(c, "events out of order", HELLO_AGAIN_NS);
    else
        slot_go_on(c, slot);
}

static void wire_take_held(struct rpc_client *c)
{
    struct buf held = c->held;

    c->held = (struct buf){0};
    c->has_held = false;
    wire_take(c, c->held_slot, (uint8_t *)held.base, held.len);
    if (c->has_held) { /* still not its turn: a copy lies there */
        buf_fini(&held);
        return;
    }
    c->held = held; /* the memory */
}

/* ---- up ---- */

static void next_send(struct rpc_client *c)
{
    Slipstream__V1__Next next;
    uint8_t head[FRAME_HEAD_BYTES];
    struct buf call = {0};

    slipstream__v1__next__init(&next);
    if (!client_slot_is_free(c, NNGC_NEXT))
        return;
    next.acked = c->acked_event = c->last_event;
    frame_write_head(
        head, &(struct frame_head){.proto = RPC_PROTO_MAX, .epoch = c->epoch, .seq = ++c->tx_seq});
    frame_add_call(&call, &(struct frame_call){.id = 1, .method = FRAME_NEXT}, &next.base);
    if (nngc_send(c->wire, NNGC_NEXT, head, sizeof(head), call.base, call.len) != ERR_OK)
        client_fail_later(c, "the carrier refused a frame");
    buf_fini(&call);
}

static void link_up(struct rpc_client *c)
{
    timer_stop(c->host.timers, &c->attach_timer);
    timer_stop(c->host.timers, &c->dial_timer);
    c->state = CLIENT_UP;
    if (c->ring == NULL)
        next_send(c);
    c->conf.on_up(c->conf.arg, c->epoch, (uint8_t *)c->info.base, c->info.len);
    c->is_urgent = c->out.len > 0;
    rpc_client_flush(c);
}

static void ring_failed(struct rpc_client *c)
{
    if (c->conf.channel == RPC_SHM) {
        client_refused(c, "the ring could not be attached");
        return;
    }
    /* The server may have counted the ring as ours, so a new hello puts it right. */
    c->avoid_ring = true;
    client_down(c, "the ring could not be attached", HELLO_AGAIN_NS);
}

static void on_attach_timer(struct timer *t)
{
    ring_failed(container_of(t, struct rpc_client, attach_timer));
}

static void on_dial_end(void *arg, struct ring_link *link)
{
    struct rpc_client *c = arg;

    c->dial = NULL;
    c->ring = link;
    if (link == NULL)
        ring_failed(c);
    else
        link_up(c);
}

static void ring_attach(struct rpc_client *c, const Slipstream__V1__HelloReply *reply)
{
    const struct ring_link_calls calls = {.arg = c,
                                          .on_frame = ring_on_frame,
                                          .on_drained = ring_on_drained,
                                          .on_dead = ring_on_dead};

    c->state = CLIENT_ATTACH;
    timer_start(c->host.timers, &c->attach_timer, clock_ns() + ATTACH_TIMEOUT_NS);
    c->ring_bytes = reply->ring_bytes;
    if (ring_dial_start(reply->ring_path, c->session, reply->ring_token, c->ring_bytes, c->host,
                        &calls, on_dial_end, &c->dial) != ERR_OK)
        ring_failed(c);
}

/* What is known from before the break: kept for the same server, dropped for its successor. */
static void link_resume(struct rpc_client *c, const Slipstream__V1__HelloReply *reply)
{
    struct buf out = {0};

    if (reply->epoch != c->epoch) {
        buf_clear(&c->out);
        buf_clear(&c->sent);
        c->oneway_count = 0;
    } else if (c->sent.len > 0 && !(reply->resumed && reply->acked >= c->sent_seq)) {
        buf_add(&out, c->sent.base, c->sent.len);
        buf_add(&out, c->out.base, c->out.len);
        buf_fini(&c->out);
        c->out = out;
    }
    buf_clear(&c->sent);
    if (reply->epoch != c->epoch || !reply->resumed)
        c->last_event = c->acked_event = 0;
    c->epoch = reply->epoch;
}

static void hello_accepted(struct rpc_client *c, const Slipstream__V1__HelloReply *reply,
                           uint64_t seq)
{
    bool has_ring = reply->ring_path[0] != '\0' && reply->ring_token != 0 &&
                    ring_bytes_can_be(reply->ring_bytes);

    if (reply->proto < RPC_PROTO_MIN || reply->proto > RPC_PROTO_MAX || reply->epoch == 0) {
        client_refused(c, err_text(ERR_VERSION));
        return;
    }
    link_resume(c, reply);
    c->rx_seq = seq;
    buf_clear(&c->info);
    buf_add(&c->info, reply->info.data, reply->info.len);
    if (has_ring && c->conf.channel != RPC_NNG && !c->avoid_ring)
        ring_attach(c, reply);
    else if (c->conf.channel == RPC_SHM)
        client_refused(c, "the server offers no ring");
    else
        link_up(c);
}

static void hello_answered(struct rpc_client *c, const uint8_t *p, size_t len)
{
    Slipstream__V1__HelloReply *reply;
    struct frame_reader r;
    struct frame_head head;
    struct frame_call call;
    char reason[200];

    if (frame_open(&r, p, len, &head) != ERR_OK || !frame_next(&r, &call) ||
        call.method != FRAME_HELLO || call.len > HELLO_REPLY_MAX ||
        (reply = slipstream__v1__hello_reply__unpack(NULL, call.len, call.body)) == NULL) {
        client_down(c, "a malformed answer to the hello", HELLO_AGAIN_NS);
        return;
    }
    if (call.status == ERR_OK) {
        hello_accepted(c, reply, head.seq);
    } else {
        snprintf(reason, sizeof(reason), "refused: %s",
                 reply->refused[0] != '\0' ? reply->refused : err_text(err_from_wire(call.status)));
        client_refused(c, reason);
    }
    slipstream__v1__hello_reply__free_unpacked(reply, NULL);
}

static void hello_send(struct rpc_client *c)
{
    Slipstream__V1__Hello hello;
    uint8_t head[FRAME_HEAD_BYTES];
    struct buf call = {0};
    char version[] = SLIP_VERSION, boot_id[40];

    slipstream__v1__hello__init(&hello);
    snprintf(boot_id, sizeof(boot_id), "%s", shm_boot_id());
    hello.proto_min = RPC_PROTO_MIN;
    hello.proto_max = RPC_PROTO_MAX;
    hello.build = version;
    hello.name = c->name;
    if (c->key != NULL)
        hello.key = c->key;
    hello.pid = (uint32_t)getpid();
    hello.boot_id = boot_id;
    hello.want_ring = c->conf.channel != RPC_NNG && !c->avoid_ring;
    hello.session = c->session;
    frame_write_head(head, &(struct frame_head){0});
    frame_add_call(&call, &(struct frame_call){.id = 1, .method = FRAME_HELLO}, &hello.base);
    if (nngc_send(c->wire, NNGC_CALLS, head, sizeof(head), call.base, call.len) == ERR_OK)
        c->state = CLIENT_HELLO;
    else
        hello_later(c, REFUSED_AGAIN_NS);
    buf_fini(&call);
}

static void hello_try(struct rpc_client *c)
{
    if (c->state != CLIENT_DOWN || !c->has_pipe || timer_is_running(&c->hello_timer))
        return;
    if (nngc_is_idle(c->wire, NNGC_CALLS) && nngc_is_idle(c->wire, NNGC_NEXT))
        hello_send(c);
    else
        nngc_cancel(c->wire); /* on_done comes, and we are here again */
}

static void on_hello_timer(struct timer *t)
{
    hello_try(container_of(t, struct rpc_client, hello_timer));
}

static void wire_on_pipe(void *arg, bool is_up)
{
    struct rpc_client *c = arg;

    c->has_pipe = is_up;
    c->avoid_ring = false;
    if (is_up) {
        timer_stop(c->host.timers, &c->trouble_timer);
        c->trouble = NULL;
        hello_try(c);
        return;
    }
    trouble_watch(c);
    client_down(c, "the connection was closed", 0);
}

static void wire_on_done(void *arg, enum nngc_slot slot, enum err e, const uint8_t *p, size_t len)
{
    struct rpc_client *c = arg;

    switch (c->state) {
    case CLIENT_DOWN:
        hello_try(c);
        return;
    case CLIENT_HELLO:
        if (e == ERR_OK)
            hello_answered(c, p, len);
        else
            client_down(c, err_text(e), HELLO_AGAIN_NS);
        return;
    case CLIENT_ATTACH:
        return;
    case CLIENT_UP:
        break;
    }
    if (e != ERR_OK) {
        client_down(c, e == ERR_TIMEOUT ? "the server does not answer" : err_text(e),
                    HELLO_AGAIN_NS);
        return;
    }
    wire_take(c, slot, p, len);
    if (c->state == CLIENT_UP && c->has_held && c->held_slot != slot)
        wire_take_held(c);
}

void client_link_init(struct rpc_client *c, struct nngc_calls *wire_calls)
{
    c->oneway_timer.fire = client_on_oneway_timer;
    c->busy_timer.fire = client_on_busy_timer;
    c->ack_timer.fire = client_on_ack_timer;
    c->hello_timer.fire = on_hello_timer;
    c->attach_timer.fire = on_attach_timer;
    c->fail_timer.fire = on_fail_timer;
    c->dial_timer.fire = on_dial_timer;
    c->trouble_timer.fire = on_trouble_timer;
    redial_later(c);
    trouble_watch(c);
    *wire_calls = (struct nngc_calls){.arg = c, .on_pipe = wire_on_pipe, .on_done = wire_on_done};
}

void client_link_close(struct rpc_client *c)
{
    link_stop(c);
    timer_stop(c->host.timers, &c->oneway_timer);
    timer_stop(c->host.timers, &c->hello_timer);
    timer_stop(c->host.timers, &c->dial_timer);
    timer_stop(c->host.timers, &c->trouble_timer);
}
