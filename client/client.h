/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_CLIENT_CLIENT_H
#define SLIP_CLIENT_CLIENT_H

#include "client/slipstream.h"
#include "common/err.h"
#include "common/loop.h"
#include "common/rpc.h"
#include "proto/mailbox.pb-c.h"
#include "proto/scheduler.pb-c.h"

/* What the files of the library share. */
enum side { SIDE_SCHEDULER, SIDE_MAILBOX, SIDES };

/* One connection; opened with the first call that needs it. */
struct link {
    struct slipstream *owner;
    struct rpc_client *rpc;
    char *url;
    bool up;
    unsigned downs;   /* how often it went down */
    char reason[160]; /* why it is down */
};

struct slipstream {
    struct loop *loop;
    struct link links[SIDES];
    char *key, *tls_ca_file, *name, *tenant;
    bool allow_plain_tcp;
    uint32_t timeout_ms;
    uint64_t next_token, last_turn_ns;
    struct waiting *waiting; /* the call in flight */
    uint64_t poll;           /* the long poll in flight, 0: none */
    Slipstream__V1__ReceiveReply *poll_reply;
    char error[400];
};

/* Method numbers: the order in the .proto files. */
enum scheduler_method {
    SCHEDULER_LIST_ENGINES = 3,
    SCHEDULER_GET_WORKFLOW,
    SCHEDULER_LIST_WORKFLOWS,
    SCHEDULER_END_WORKFLOW,
    SCHEDULER_GET_STATUS,
    SCHEDULER_LIST_AGENTS,
    SCHEDULER_NOTE_AGENT,
    SCHEDULER_EXPLAIN,
    SCHEDULER_GET_POLICIES,
    SCHEDULER_SET_POLICY
};
enum mailbox_method {
    MAILBOX_SEND,
    MAILBOX_RECEIVE,
    MAILBOX_SETTLE,
    MAILBOX_UNPARK,
    MAILBOX_GET_BOX,
    MAILBOX_CLOSE_WORKFLOW,
    MAILBOX_GET_COUNTS,
    MAILBOX_GET_STATUS
};

/* client.c */
uint64_t deadline_after(uint32_t ms);
/* One call, answered by deadline_ns. *reply: protobuf_c_message_free_unpacked(). Notes failures in
 * s->error. */
enum err client_call(struct slipstream *s, enum side side, unsigned method,
                     const ProtobufCMessage *request, uint64_t deadline_ns,
                     ProtobufCMessage **reply);
/* Nobody waits for the answer. */
void client_tell(struct slipstream *s, enum side side, unsigned method,
                 const ProtobufCMessage *request);
void client_turn(struct slipstream *s, uint64_t deadline_ns); /* one turn of the loop */
enum err client_fail(struct slipstream *s, enum err e, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* protobuf-c wants char * for what it only reads. */
char *unconst(const char *s);

/* workflows.c */
enum err scheduler_call(struct slipstream *s, unsigned method, const ProtobufCMessage *request,
                        ProtobufCMessage **reply);

/* messages.c */
void mailbox_event(struct slipstream *s, unsigned method, const uint8_t *body, size_t len);
void receive_late(struct slipstream *s, enum err status, const uint8_t *body, size_t len);

/* results.c: a result is one root and what hangs on it; slipstream_free() takes the root. */
void *result_new(size_t bytes); /* zeroed */
void *result_more(void *root, size_t bytes);
const char *result_text(void *root, const char *s);
const char *const *result_texts(void *root, char *const *items, size_t count);

#endif
