/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_MAILBOX_METHODS_H
#define SLIP_MAILBOX_METHODS_H

#include "mailbox/server.h"

/*
 * From packed requests to events of the core, and from its actions to answers. methods.c has the
 * table and the small ones, methods_send.c and methods_take.c the two directions of a message.
 */
struct call {
    struct server *s;
    struct peer *peer;
    uint64_t token;
};

void methods_check_service(void); /* the table here and mailbox.proto agree, or must() */
void methods_call(struct server *s, struct peer *p, unsigned method, uint64_t token,
                  const uint8_t *body, size_t len);

/* What methods share. */
void call_refuse(const struct call *c, enum err e); /* at once */
const char *call_tenant(const struct call *c, const char *named);
/* One step; its MBOX_REPLY, good until the next step. */
const struct mbox_action *call_step(const struct call *c, const struct mbox_event *e);
/* An answer with the turn's commit; body's memory is the turn's. */
void call_hold(const struct call *c, const ProtobufCMessage *body);
void call_hold_empty(const struct call *c);
char *unconst(const char *s); /* protobuf-c wants char * for what it only reads */

/* request: unpacked, good during the call */
void method_send(const struct call *c, const void *request);
void method_receive(const struct call *c, const void *request);
void method_settle(const struct call *c, const void *request);
void method_unpark(const struct call *c, const void *request);
void method_ack(const struct call *c, const void *request);
void method_hold(const struct call *c, const void *request);
void method_list_dead(const struct call *c, const void *request);
void method_redrive(const struct call *c, const void *request);

#endif
