/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_RPC_RING_H
#define SLIP_RPC_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/rpc.h"

/*
 * The ring carrier: a SOCK_SEQPACKET socket, and two rings in a sealed segment and two eventfds
 * that came over it. The eventfds are the doorbells, rung only when the other side sleeps: waking
 * by one takes two thirds of the time that a byte in the socket takes. The socket's end of file is
 * the death notice. A client shows the session and the token of its hello before it is given these.
 * Channel internal; owner's thread.
 */
struct ring_link;
struct ring_link_calls {
    void *arg;
    /* One frame, valid during the call. Anything but ERR_OK ends the link. */
    enum err (*on_frame)(void *arg, const uint8_t *p, size_t len);
    void (*on_drained)(void *arg); /* after the last frame of a batch: send what they caused */
    void (*on_dead)(void *arg, const char *reason); /* once; free the link, here or later */
};

size_t ring_link_frame_max(const struct ring_link *l);
enum err ring_link_write(struct ring_link *l, const void *a, size_t a_len, const void *b,
                         size_t b_len);    /* as ring_write() */
void ring_link_kick(struct ring_link *l);  /* after writes: rings if the other side sleeps */
void ring_link_drain(struct ring_link *l); /* handles what is there now; on_frame only */
/*
 * Looking instead of sleeping. From ring_link_stay_awake() on the other side need not ring, and
 * ring_link_look() handles what has come; ring_link_doze() ends it, before the owner sleeps. Worth
 * it only while the other side can run meanwhile: ring_link_is_elsewhere().
 */
bool ring_link_is_elsewhere(const struct ring_link *l);
void ring_link_stay_awake(struct ring_link *l);
void ring_link_look(struct ring_link *l);
void ring_link_doze(struct ring_link *l);
void ring_link_free(struct ring_link *l); /* also from inside its callbacks; NULL is fine */

/* ---- client ---- */
struct ring_dial;
/* Starts to attach to rings of that size; on_end(arg, link or NULL) comes later, once, on which the
 * dial is freed; the link then calls link_calls. */
enum err ring_dial_start(const char *path, uint64_t session, uint64_t token, uint32_t bytes,
                         struct rpc_host host, const struct ring_link_calls *link_calls,
                         void (*on_end)(void *arg, struct ring_link *link), struct ring_dial **out);
void ring_dial_cancel(struct ring_dial *d); /* before on_end; NULL is fine */

/* ---- server ---- */
struct ring_door;
/* on_guest: somebody showed (session, token); take fd (ring_link_serve() or close it). */
enum err ring_door_open(const char *path, struct rpc_host host, void *arg,
                        void (*on_guest)(void *arg, uint64_t session, uint64_t token, int fd),
                        struct ring_door **out);
void ring_door_close(struct ring_door *d); /* NULL is fine */
/* Makes a segment with rings of that size, passes it through fd, serves it. Takes fd, also on
 * failure. */
enum err ring_link_serve(int fd, uint32_t bytes, struct rpc_host host,
                         const struct ring_link_calls *calls, struct ring_link **out);

#endif
