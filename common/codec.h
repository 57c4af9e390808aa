/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_CODEC_H
#define SLIP_CODEC_H

#include <stddef.h>
#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

#include "common/arena.h"
#include "common/buf.h"

/*
 * Protocol buffers for the hot path, after protobuf-c's descriptors and in its structs: proto3
 * without oneof, optional and groups. protobuf-c walks a message twice to pack it and allocates for
 * each string and twice for each message to unpack it; here it is one walk each, a third of the
 * instructions.
 */

/* Appends what protobuf_c_message_pack() would write. */
void codec_pack(struct buf *to, const ProtobufCMessage *m);
/* As protobuf_c_message_unpack(), but all memory is the arena's, and unknown fields are passed
 * over. NULL: malformed, or the arena is full. */
void *codec_unpack(const ProtobufCMessageDescriptor *type, struct arena *memory, const uint8_t *p,
                   size_t len);

#endif
