/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_RPC_CLIENT_H
#define SLIP_RPC_CLIENT_H

#include "common/buf.h"
#include "common/list.h"
#include "common/pool.h"
#include "common/rpc.h"
#include "common/rpc_frame.h"
#include "common/rpc_nng.h"
#include "common/rpc_ring.h"
#include "common/timers.h"

/*
 * What the two files of the client's end share: rpc_client.c (calls) and rpc_link.c (the link).
 * Channel internal.
 */
enum client_state {
    CLIENT_DOWN,   /* no pipe, or waiting to say hello again */
    CLIENT_HELLO,  /* hello sent */
    CLIENT_ATTACH, /* hello answered, waiting for the ring */
    CLIENT_UP
};

struct rpc_client {
    struct rpc_client_conf conf; /* strings: name and key only, owned below */
    char *name, *key;
    struct rpc_host host;
    enum client_state state;

    struct nngc *wire;
    bool has_pipe, is_local;
    bool avoid_ring; /* attaching failed on this pipe: carry on without */
    struct ring_dial *dial;
    struct ring_link *ring;

    uint32_t ring_bytes;     /* as the server offered last */
    uint64_t session, epoch; /* epoch: of the last hello that was answered, also while down */
    uint64_t tx_seq, rx_seq;
    uint64_t last_event, acked_event;

    struct pool calls;
    uint64_t *handles; /* by slot, for ids on the wire */
    struct list lates; /* calls past their deadline whose answer somebody still wants; oldest first;
                          they leave with the answer, the link, or when the pool is full */

    struct buf out;          /* calls that wait for the carrier */
    unsigned oneway_count;   /* one-way calls gathered in out since it was last empty */
    uint64_t busy_ns;        /* the ring is full and has not moved since */
    bool is_urgent;          /* out holds something that must not wait for company */
    uint64_t looks_until_ns; /* somebody looks for answers without being rung; 0: no */
    struct buf sent;         /* one-way calls of the nng message under way */
    uint64_t sent_seq;

    struct buf held; /* an nng answer that overtook the other slot's */
    enum nngc_slot held_slot;
    bool has_held;

    struct buf info; /* the service's words of the hello, until the link is up */
    const char *failure;
    const char *trouble; /* why there is no pipe, as the owner was told last */
    struct timer oneway_timer, busy_timer, ack_timer, hello_timer, attach_timer, fail_timer,
        dial_timer, trouble_timer;
};

/* rpc_client.c */
void client_take_answer(struct rpc_client *c, const struct frame_call *answer);
void client_end_calls(struct rpc_client *c, enum err status); /* in flight and late */
void client_drop_unary(struct rpc_client *c, enum err status);
void client_on_oneway_timer(struct timer *t);
void client_on_busy_timer(struct timer *t);
void client_on_ack_timer(struct timer *t);

/* rpc_link.c */
void client_link_init(struct rpc_client *c, struct nngc_calls *wire_calls);
void client_link_close(struct rpc_client *c);
bool client_slot_is_free(const struct rpc_client *c, enum nngc_slot slot);
/* Takes the link down in the next turn: for places that must not call back. */
void client_fail_later(struct rpc_client *c, const char *reason);

#endif
