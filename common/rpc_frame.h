/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_RPC_FRAME_H
#define SLIP_RPC_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/pb.h"

/*
 * Frame and Call of proto/shared.proto, read and written by hand: nothing is allocated, and what a
 * peer sent is looked at in place, inside its bounds. Channel internal.
 */
#define FRAME_HEAD_BYTES 20u
#define FRAME_CALLS_MAX 4096u /* a sender splits, a reader refuses */
#define FRAME_CALL_HEAD_MAX 56u

enum frame_method { FRAME_HELLO = 1, FRAME_NEXT = 2 }; /* the channel's own */

struct frame_head {
    uint32_t proto;
    uint64_t epoch, seq;
};

struct frame_call {
    uint32_t id, method, status, timeout_ms;
    uint64_t event; /* number of an event, 0 otherwise */
    const uint8_t *body;
    size_t len;
};

struct frame_reader {
    struct pb_reader in;
};

/* Checks the whole frame (shape, bounds, number of calls) and fills head; ERR_PROTO. */
enum err frame_open(struct frame_reader *r, const uint8_t *p, size_t len, struct frame_head *head);
/* The next call; false at the end. After frame_open() only. body points into the frame. */
bool frame_next(struct frame_reader *r, struct frame_call *call);

void frame_write_head(uint8_t to[FRAME_HEAD_BYTES], const struct frame_head *head);
/* Appends one call as it stands in a frame. call->body and len are used when message is NULL. */
void frame_add_call(struct buf *to, const struct frame_call *call, const ProtobufCMessage *message);

/* How many bytes of calls (as frame_add_call() wrote them) fit one frame of at most max bytes,
 * head included. At least one call. */
size_t frame_cut(const uint8_t *calls, size_t len, size_t max);
/* Reads the call at the front of our own bytes; returns its size. */
size_t frame_peek(const uint8_t *calls, size_t len, struct frame_call *call);

#endif
