/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_RPC_SERVER_H
#define SLIP_RPC_SERVER_H

#include "common/buf.h"
#include "common/list.h"
#include "common/rpc.h"
#include "common/rpc_frame.h"
#include "common/rpc_nng.h"
#include "common/rpc_ring.h"
#include "common/timers.h"

/*
 * What the two files of the server's end share: rpc_server.c (calls, answers, events) and
 * rpc_peer.c (hello, pipes, rings, the end of a peer). Channel internal.
 */
struct rpc_pipe { /* an nng connection; on rpc_server.pipes until it is closed */
    struct list link;
    uint32_t id;
    bool is_local;
    bool is_bad;           /* sent garbage: not listened to any more */
    struct rpc_peer *peer; /* NULL: has not said hello */
};

struct rpc_peer { /* a session; on rpc_server.peers from hello to on_gone */
    struct list link;
    struct list dirty_link; /* on rpc_server.dirty while it has events that were not flushed */
    struct rpc_server *server;
    uint64_t session;
    char name[64];
    void *data;
    bool is_local, is_resumed;

    uint32_t pipe;          /* 0: none */
    struct ring_link *ring; /* NULL: none */
    uint64_t ring_token;    /* 0: no ring is on offer */
    struct nngs_slot *parked;
    struct nngs_slot *asked; /* of the frame whose calls are not all answered; NULL: none */
    unsigned deferred;       /* its entries in rpc_server.deferred */
    uint64_t heard_ns;

    uint64_t tx_seq, rx_seq;
    struct buf out;    /* answers */
    struct buf events; /* from the oldest that is not confirmed; bytes before events_start are */
    size_t events_start, events_sent;
    uint64_t next_event; /* number of the next one */

    struct timer park_timer;  /* a parked Next is answered empty */
    struct timer gone_timer;  /* runs while the link is down */
    struct timer retry_timer; /* the ring was full */
};

struct deferred_call { /* its owner has not answered it in on_call and may until the next flush */
    uint64_t token;
    struct rpc_peer *peer; /* NULL: answered, or the peer's link has ended */
    uint32_t id;
};

struct rpc_server {
    struct rpc_server_conf conf;
    struct rpc_host host;
    struct nngs *wire;
    struct ring_door *door;
    struct list peers, pipes, dirty;
    uint32_t peer_count;
    bool is_closing;
    struct timer sweep_timer;

    struct rpc_peer *current; /* whose call is being handled */
    uint32_t current_id;
    uint64_t current_token, last_token;

    struct deferred_call *deferred; /* by token, ascending */
    size_t deferred_count, deferred_max;
};

/* rpc_server.c */
void peer_answer_slot(struct rpc_peer *p, struct nngs_slot *slot);
void peer_deliver(struct rpc_peer *p); /* sends what waits, as far as the carrier takes it */
enum err peer_take_ring_frame(struct rpc_peer *p, const uint8_t *data, size_t len);
void peer_forget_deferred(struct rpc_peer *p); /* nobody waits for these answers any more */
void peer_take_nng_frame(struct rpc_peer *p, struct nngs_slot *slot, struct frame_reader *r,
                         const struct frame_head *head);

/* rpc_peer.c */
void server_peers_init(struct rpc_server *s, struct nngs_calls *wire_calls);
void server_peers_close(struct rpc_server *s);
void server_on_guest(void *arg, uint64_t session, uint64_t token, int fd);
void peer_park(struct rpc_peer *p, struct nngs_slot *slot);
void peer_ring_lost(struct rpc_peer *p);

#endif
