/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_RPC_H
#define SLIP_RPC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

#include "common/err.h"

/*
 * One channel for any service, client and server side, over two carriers: nng (always) and, on one
 * host, a pair of shared-memory rings that the server offers in its hello.
 *
 * Three call shapes. Unary: answered at once, calls of one loop turn travel together. One-way:
 * batched (5 ms or 64). Events: from server to client, numbered, confirmed, sent again until
 * confirmed. Nothing that may wait is unary.
 *
 * Bodies are packed protobuf. All callbacks run on the owner's loop thread, never inside the call
 * that caused them.
 */
#define RPC_PROTO_MIN 1u
#define RPC_PROTO_MAX 1u
#define RPC_METHOD_BASE 16u                    /* wire number of a service's first method */
#define RPC_EVENT_BASE (RPC_METHOD_BASE + 64u) /* wire number of a service's first event */
#define RPC_NNG_FRAME_MAX (4u << 20)
#define RPC_RING_BYTES (1u << 20) /* of each of the two rings, where a server says nothing else */

enum rpc_channel { RPC_AUTO, RPC_NNG, RPC_SHM, RPC_NONE }; /* setting common.channel */

/* How a channel meets its owner's loop. watch: level-triggered readability. timers: common/timers.h
 * of the owner. */
struct timers;
struct rpc_host {
    void *ctx;
    void *(*watch)(void *ctx, int fd, void (*on_readable)(void *arg), void *arg);
    void (*unwatch)(void *ctx, void *watch);
    struct timers *timers;
};
struct loop;
struct rpc_host rpc_host_loop(struct loop *l); /* for owners that run common/loop.c */

/* ---- client ---- */
struct rpc_client;

struct rpc_client_conf {
    const char *url;                          /* ipc://..., tcp://..., tls+tcp://... */
    const char *name, *key;                   /* told in the hello; key may be NULL */
    const char *tls_ca_file;                  /* for tls+tcp, NULL otherwise */
    const char *tls_cert_file, *tls_key_file; /* where the server asks for one; else NULL */
    bool allow_plain_tcp;                     /* tcp:// is refused without; setting insecure */
    enum rpc_channel channel; /* RPC_SHM: down until a ring is up; RPC_AUTO: ring where offered */
    uint32_t ring_busy_ms;    /* so long a ring may stand still and full; 0: one loop turn */
    uint32_t look_us; /* over a ring, answers are looked for this long before sleeping; 0: never */
    /* Callbacks; each may be NULL. */
    void *arg;
    /* The link is usable: hello answered (and again with a new epoch after the server was
     * restarted). info: the service's words. */
    void (*on_up)(void *arg, uint64_t epoch, const uint8_t *info, size_t info_len);
    /* The link is not usable; every call in flight has been answered with ERR_GONE before this.
     * Also, without an on_up before it, when the server refuses the hello, and with each new reason
     * for which a server on another host cannot be reached; the channel keeps trying. */
    void (*on_down)(void *arg, const char *reason);
    void (*on_event)(void *arg, unsigned method, const uint8_t *body,
                     size_t len); /* method: wire number - RPC_EVENT_BASE */
};

typedef void rpc_done_fn(void *arg, uint64_t token, enum err status, const uint8_t *body,
                         size_t len);

/* ERR_CONF: the address cannot be (log says why), or channel is RPC_NONE. Strings are copied. */
enum err rpc_client_open(const struct rpc_client_conf *conf, struct rpc_host host,
                         struct rpc_client **out);
/* Calls in flight are answered with ERR_CANCELLED first. Not from inside a callback of the
 * channel. */
void rpc_client_close(struct rpc_client *c);
bool rpc_client_is_up(const struct rpc_client *c);
bool rpc_client_is_ring(const struct rpc_client *c);
uint64_t rpc_client_epoch(const struct rpc_client *c); /* 0 while down */

/*
 * Unary. done(arg, token, ...) comes exactly once, with ERR_TIMEOUT after timeout_ms. An answer
 * that arrives later goes to late (may be NULL), with the same arg and token, so that what it
 * brought can be given back: with late, arg must outlive the channel. Fails at once with ERR_GONE
 * (down), ERR_BUSY (too many) or ERR_TOO_LARGE; done is not called then. A ring that stays full for
 * a loop turn (ring_busy_ms) answers ERR_BUSY through done.
 */
enum err rpc_call(struct rpc_client *c, unsigned method, const ProtobufCMessage *request,
                  uint32_t timeout_ms, rpc_done_fn *done, void *arg, uint64_t token,
                  rpc_done_fn *late);
/* One-way. Kept through a short outage of the same epoch, dropped with a new epoch (the resume
 * restates everything). */
enum err rpc_send(struct rpc_client *c, unsigned method, const ProtobufCMessage *request);
/* Sends what this loop turn gathered. Call at the end of each turn. */
void rpc_client_flush(struct rpc_client *c);
/*
 * For owners that set look_us. Over a ring an answer comes within microseconds, and being woken
 * takes longer. So while this is true after a flush, the owner must not sleep: it turns again and
 * calls rpc_client_look(), which handles what has come and, when nothing is due or the time is up,
 * ends it.
 */
bool rpc_client_is_looking(const struct rpc_client *c);
void rpc_client_look(struct rpc_client *c);

/* ---- server ---- */
struct rpc_server;
struct rpc_peer; /* valid until on_gone */

struct rpc_server_conf {
    const char *const *urls; /* nng addresses to listen on */
    size_t url_count;
    const char *ring_path; /* SOCK_SEQPACKET socket to offer; NULL: no rings */
    /* Of each ring, 0: RPC_RING_BYTES; a power of two. A frame takes a quarter of it at most;
     * memory is only taken by what lies there. */
    uint32_t ring_bytes;
    const char *tls_cert_file, *tls_key_file; /* for tls+tcp */
    const char *tls_ca_file;                  /* set: clients must show a certificate of it */
    bool allow_plain_tcp;
    const ProtobufCServiceDescriptor *service;
    uint64_t epoch;
    uint32_t max_peers;
    void *arg;
    /* Accept or refuse (err, reason: static or in the message) a peer; fill info (freed by the
     * channel with free()). */
    enum err (*on_hello)(void *arg, struct rpc_peer *peer, const char *name, const char *key,
                         uint8_t **info, size_t *info_len, const char **reason);
    /* One call, of a method that the service has. Answer it with rpc_reply() before returning or,
     * keeping the token, until the next rpc_server_flush() (one-way: token 0, no answer). */
    void (*on_call)(void *arg, struct rpc_peer *peer, unsigned method, uint64_t token,
                    uint32_t timeout_ms, const uint8_t *body, size_t len);
    /* The peer's link is down for good (no new hello of the same session within 500 ms). */
    void (*on_gone)(void *arg, struct rpc_peer *peer);
};

/* urls, ring_path and service are borrowed until close. ERR_CONF, ERR_IO (address in use); the log
 * says why. */
enum err rpc_server_open(const struct rpc_server_conf *conf, struct rpc_host host,
                         struct rpc_server **out);
void rpc_server_close(struct rpc_server *s); /* on_gone comes for every peer; not from a callback */
/* Sends what events and late answers this loop turn gathered, and ends the tokens of calls that
 * nobody answered. Call at the end of each turn, not from inside a callback. */
void rpc_server_flush(struct rpc_server *s);
/*
 * Once per token, inside on_call or later, until the next rpc_server_flush(): so a server may work
 * once for all calls of a loop turn and then answer them. Over nng the answers to one frame travel
 * together, when the last of its calls is answered or with the flush. body may be NULL.
 * ERR_TOO_LARGE, ERR_BUSY (the peer reads too slowly): the caller got that status instead of the
 * body. ERR_GONE: nobody waits for it, as the peer's link has ended or the token has. A call that
 * is not answered times out at the caller.
 */
enum err rpc_reply(struct rpc_server *s, uint64_t token, enum err status,
                   const ProtobufCMessage *body);
/* Delivered once and in order while the peer lives, also over a reconnect. ERR_TOO_LARGE, ERR_BUSY
 * (too much unconfirmed; events of a few bytes have room of their own, to say that something is
 * over). */
enum err rpc_event(struct rpc_server *s, struct rpc_peer *peer, unsigned event,
                   const ProtobufCMessage *body);

void *rpc_peer_data(const struct rpc_peer *p);
void rpc_peer_set_data(struct rpc_peer *p, void *data);
const char *rpc_peer_name(const struct rpc_peer *p);
bool rpc_peer_is_local(
    const struct rpc_peer *p); /* came by ipc or ring: guarded by socket permissions */
bool rpc_peer_is_resumed(
    const struct rpc_peer *p); /* in on_hello: the same session was here before in this epoch */
uint32_t rpc_server_peers(const struct rpc_server *s);

#endif
