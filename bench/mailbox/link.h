/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_BENCH_LINK_H
#define SLIP_BENCH_LINK_H

#include <protobuf-c/protobuf-c.h>

#include "common/loop.h"
#include "common/rpc.h"
#include "proto/mailbox.pb-c.h"

/* One channel to a mailbox, on a loop of its own. */
struct link {
    struct loop *loop;
    struct rpc_client *rpc;
};

/* Returns when the channel is up; ends the program after ten seconds. */
void link_open(struct link *l, const char *url);
void link_close(struct link *l);

/* An answer, unpacked; ends the program when it is none. Free with
 * protobuf_c_message_free_unpacked(). */
void *link_answer(const ProtobufCMessageDescriptor *type, const char *what, enum err status,
                  const uint8_t *body, size_t len);

/* Begins a call; ends the program when the channel refuses it. */
void link_call(struct link *l, unsigned method, const ProtobufCMessage *request, rpc_done_fn *done,
               void *arg);

/* Methods by their index in the service. */
enum link_method { LINK_SEND = 0, LINK_RECEIVE = 1, LINK_STATUS = 7, LINK_ACK = 8 };

/* Names as wrk's scripts write them: workflow wf-00000001, agent agent-0. */
#define LINK_NAME 24
void link_workflow_name(char to[LINK_NAME], unsigned index);
void link_agent_name(char to[LINK_NAME], unsigned index);

#endif
