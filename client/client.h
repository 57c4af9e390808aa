/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_CLIENT_CLIENT_H
#define SLIP_CLIENT_CLIENT_H

#include "client/slipstream.h"
#include "common/err.h"
#include "common/list.h"
#include "common/loop.h"
#include "common/pool.h"
#include "common/rpc.h"
#include "common/timers.h"
#include "proto/mailbox.pb-c.h"
#include "proto/scheduler.pb-c.h"

/* What the files of the library share. */
enum side { SIDE_SCHEDULER, SIDE_MAILBOX, SIDES };

/* One connection; opened with the first call that needs it. */
struct link {
    struct slipstream *owner;
    struct rpc_client *rpc;
    enum side side;
    char *url;
    bool up;
    unsigned downs; /* how often it went down */
    uint64_t epoch; /* of the server that was last heard of */
    /* Asks that came while it was down, in their order; each leaves when the link comes up, at its
     * deadline, or with the handle. */
    struct list waiting;
    size_t waiting_count;
    char reason[160]; /* why it is down */
    /* Payloads from here on may be sent compressed, as the mailbox told; 0: none. */
    uint32_t compress_from;
};

struct slipstream {
    struct loop *loop;
    struct link links[SIDES];
    char *key, *tls_ca_file, *name, *tenant;
    bool allow_plain_tcp, closing, uncompressed;
    bool in_done; /* a callback of the program is running */
    uint32_t timeout_ms;
    uint64_t last_turn_ns;
    uint64_t raw_until_ns; /* payloads are received uncompressed until then */
    size_t under_way;      /* ops whose done has not been called */
    struct list ended;     /* ops whose done is called at the end of the turn */
    struct pool receives;  /* struct receive; the handle is the name of its poll */
    struct list parked;    /* receives that wait for an event */
    size_t settling_count; /* receives whose messages are here, and the mailbox was not heard */
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
    MAILBOX_GET_STATUS,
    MAILBOX_ACK,
    MAILBOX_HOLD,
    MAILBOX_LIST_DEAD,
    MAILBOX_REDRIVE
};

/* ---- client.c ---- */

typedef void ask_done_fn(void *arg, enum err status, const uint8_t *body, size_t len);

/*
 * One call on a link, or the wait for it. Memory of the caller, which must last until done was
 * called: once, from inside a turn. body: of the answer, or a packed Failure.
 */
struct ask {
    struct list link;   /* link.waiting, or none */
    struct timer timer; /* runs while it is on link.waiting */
    struct link *to;
    unsigned method;
    uint64_t deadline_ns;
    uint64_t epoch;  /* not 0: only for that server; ERR_HELLO when there is another one */
    bool first;      /* before all that waits for the link */
    uint8_t *packed; /* the request, while it waits */
    size_t packed_len;
    ask_done_fn *done;
    void *arg;
};
/* Fails without done, noted in s->error. done, arg, epoch and first are the caller's, the rest is
 * set here. */
enum err ask_start(struct slipstream *s, struct ask *a, enum side side, unsigned method,
                   const ProtobufCMessage *request, uint64_t deadline_ns);
/* True: it was still waiting for its link, and is forgotten, without done. */
bool ask_withdraw(struct ask *a);

/* Why an ask failed, in words, into dst. */
void ask_explain(const struct ask *a, enum err status, const uint8_t *body, size_t len, char *dst,
                 size_t size);

uint64_t deadline_after(uint32_t ms);
/* One call, answered by deadline_ns. *reply: protobuf_c_message_free_unpacked(). Notes failures in
 * s->error. */
enum err client_call(struct slipstream *s, enum side side, unsigned method,
                     const ProtobufCMessage *request, uint64_t deadline_ns,
                     ProtobufCMessage **reply);
/* Nobody waits for the answer. */
void client_tell(struct slipstream *s, enum side side, unsigned method,
                 const ProtobufCMessage *request);
/* One turn of the loop; wait_ms -1: until something happens. */
void client_turn(struct slipstream *s, int wait_ms);
enum err client_fail(struct slipstream *s, enum err e, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
char *unconst(const char *s); /* protobuf-c wants char * for what it only reads */
char **strings_of(const char *const *strings);
static inline const char *or_empty(const char *s)
{
    return s != NULL ? s : "";
}

/* ---- calls.c ---- */

/* Something that the program asked for and that ends in its done. The first member of what it
 * belongs to. */
struct op {
    struct list link; /* s->ended, or none */
    struct slipstream *s;
    struct ask ask;
    slipstream_done *done;
    void *arg;
    int error;
    void *result;
    char *text; /* of the error */
    void (*free)(struct op *o);
};
void op_init(struct op *o, struct slipstream *s, slipstream_done *done, void *arg,
             void (*free)(struct op *o));
/* Ends it; done comes at the end of the turn. result: NULL on failure. text may be NULL. */
void op_end(struct op *o, enum err e, void *result, const char *text);
void ops_deliver(struct slipstream *s);

/* What a blocking call waits for. */
struct blocked {
    bool done;
    int error;
    void *result;
};
void on_blocked(void *arg, int error, void *result); /* a slipstream_done */
/* started: what the start said. */
int blocked_wait(struct slipstream *s, struct blocked *b, int started, void **out);
/* ERR_INVALID inside a callback. */
enum err may_block(struct slipstream *s);

/* Unary calls whose answer becomes a result: read fills the root from the unpacked answer, and
 * says whether it makes sense. */
typedef bool answer_read_fn(void *root, const ProtobufCMessage *answer, size_t expected);
enum err unary_start(struct slipstream *s, unsigned method, const ProtobufCMessage *request,
                     answer_read_fn *read, size_t expected, slipstream_done *done, void *arg);

/* ---- workflows.c ---- */
enum err scheduler_call(struct slipstream *s, unsigned method, const ProtobufCMessage *request,
                        ProtobufCMessage **reply);

/* ---- messages.c ---- */
/* Into a root that result_for_answer() made, in whose memory r lives. False: a compressed payload
 * is damaged. */
bool messages_read(void *root, const Slipstream__V1__ReceiveReply *r);

/* ---- receive.c ---- */
/* May payloads come compressed? */
bool takes_blocks(const struct slipstream *s);
/* One was damaged: for a while the mailbox unpacks them, finds that one and puts it aside. */
enum err blocks_avoid(struct slipstream *s);
void receives_init(struct slipstream *s);
void receives_fini(struct slipstream *s);
void mailbox_event(struct slipstream *s, unsigned method, const uint8_t *body, size_t len);
void mailbox_down(struct slipstream *s);
void receive_late(struct slipstream *s, enum err status, const uint8_t *body, size_t len);
/* Ends all that waits, with ERR_CANCELLED. */
void receives_cancel(struct slipstream *s);

/* ---- results.c: a result is one root and what hangs on it; slipstream_free() takes the root ----
 */
void *result_new(size_t bytes);              /* zeroed */
void *result_more(void *root, size_t bytes); /* zeroed */
const char *result_text(void *root, const char *s);
const char *const *result_texts(void *root, char *const *items, size_t count);
/* A root with the largest of the structs below at its front, and the answer unpacked into the same
 * memory; bytes in it have a NUL behind them. NULL: it cannot be unpacked. */
void *result_for_answer(const ProtobufCMessageDescriptor *type, const uint8_t *body, size_t len,
                        ProtobufCMessage **answer);

#endif
