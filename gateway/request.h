/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_REQUEST_H
#define GW_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

#include <h2o.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/list.h"
#include "common/timers.h"
#include "gateway/engine_link.h"
#include "gateway/identity.h"
#include "gateway/inspect.h"
#include "gateway/splice.h"
#include "gateway/sse.h"

/*
 * One client request from its complete body to its last byte. Its memory is a slot of gw->requests;
 * it ends when h2o disposes of its own request (answered, client gone, stream reset), in
 * request_dispose(), the only place. Whoever answers later finds it by handle, or finds nobody.
 */
enum gw_state {
#define STATE(name, waits, limit, err, next) GW_##name,
#include "gateway/states.def"
#undef STATE
    GW_STATES
};

enum dialect { DIALECT_OPENAI, DIALECT_ANTHROPIC, DIALECT_PROBLEM, DIALECT_JSONRPC };
enum listener { LISTENER_DATA = 1, LISTENER_ADMIN = 2, LISTENER_BOTH = 3 };

struct gw;
struct client;
struct gw_key;
struct gw_mail;
struct mcp;
struct gw_request;
struct Slipstream__V1__SendRequest;
struct Slipstream__V1__ReceiveReply;
typedef void receive_done_fn(struct gw_request *r, enum err status,
                             const struct Slipstream__V1__ReceiveReply *reply);

struct route {
    enum listener listener;
    const char *method, *path;
    void (*handle)(struct gw_request *r);
    enum dialect dialect;
    enum inspect_shape shape;
};

#define GW_AVOID_MAX 8

struct gw_placement {
    uint32_t engine, generation;
    char engine_id[64], policy[32], reason[32], wait_reason[32];
    const char *costs; /* for the access log: "e1:0.2,e2:1.4"; NULL: not told */
    float hit;
    uint32_t waited_ms;     /* as the scheduler counts: model time */
    uint32_t ticket_ms;     /* WAITING: the grant comes within this; 0: no limit */
    uint64_t wait_start_ns; /* 0: does not wait */
    uint64_t waited_ns;     /* before that */
    int64_t priority;
    bool held;        /* the scheduler holds a lease or a ticket for us under wire */
    bool granted;     /* the end of a ticket came, perhaps before the ticket did */
    bool wants_fleet; /* asks again when the fleet has been told */
    bool alone;       /* we decided it */
    uint32_t avoid[GW_AVOID_MAX];
    unsigned avoid_count, tries;
    enum err last_err; /* why the last try failed */
    bool retried_fresh;
};

struct gw_look {
    struct span metadata_cut, stream_options, priority;
    uint32_t object_open;
    bool may_add_usage, stream_options_empty, stream_options_null;
};

struct gw_request {
    struct gw *gw;
    uint64_t handle, wire; /* wire: handle and attempt, as the scheduler knows it */
    unsigned attempt;
    h2o_req_t *req;
    struct client *client; /* HTTP/1 only: the connection, for the disconnect watch */
    const struct route *route;
    enum listener listener;
    enum gw_state state;
    struct timer timer;
    struct list node; /* on gw->ready or gw->patient, or on nothing */
    h2o_generator_t generator;
    char id[72];                                          /* X-Request-Id */
    uint64_t arrived_ns, since_ns, deadline_ns, total_ns; /* since: entered the state */

    const char *tenant; /* "" without keys */
    const struct gw_key *key;
    const char *path; /* upstream path with its query, or the path of an API call */
    size_t path_len;
    h2o_iovec_t segments[3];   /* what {x} of the route matched, raw */
    struct identity *identity; /* from path and headers; READING only, the body may be stronger */
    const char *workflow_id, *agent_id, *parent_id, *group_id; /* in the h2o pool; "" = none */
    uint8_t strategy, priority;
    uint32_t group_size;
    bool final, conflict, looked;
    const char *model;
    size_t model_len;
    uint32_t max_tokens, prompt_bytes;
    uint64_t *digests; /* kept until the answer begins: whoever asks again needs them; owned */
    uint32_t digest_count, tail_bytes;
    uint32_t patience_ms; /* the client's own time-out; 0: it does not say */
    bool stream, drop_usage;
    struct gw_look facts; /* where the body may have to change */
    struct splice_list splices;
    uint64_t held_bytes; /* of gw->body_bytes */

    struct gw_placement place;
    uint64_t placed_ns, dispatched_ns, first_byte_ns, first_token_ns;
    struct exchange x;
    h2o_iovec_t *upstream; /* head and body pieces */
    struct tap tap;
    struct buf out; /* what the tap has rewritten; the rest of a relayed piece */
    h2o_buffer_t *sending_buffer;
    uint64_t sending_since_ns;
    uint64_t answer_length; /* UINT64_MAX: not known */
    uint64_t sent_bytes;
    bool head_ready, started, sending, upstream_done, finished, abort, tapping, body_dropped,
        event_stream, until_close; /* until_close: the answer ends with its connection */
    bool relaying;                 /* pieces of the answer go round h2o */
    enum err end;                  /* why it ended; ERR_OK: answered */
    void (*asked)(struct gw_request *r, enum err status, const uint8_t *body,
                  size_t len); /* ask.c */
    enum err asked_down;
    const char *bad_param;
    uint64_t delivery; /* mailbox_link.c: to be settled */
    void (*on_counts)(struct gw_request *r, enum err status, uint64_t queued, uint64_t delivered);
    const char *const *types; /* api_mailbox.c, to here from the next line on */
    struct Slipstream__V1__SendRequest *send;
    void (*on_sent)(struct gw_request *r, enum err status, const uint8_t *body, size_t len);
    receive_done_fn *on_receive;
    uint64_t receive_ns; /* it began */
    uint32_t receive_max, receive_wait_ms, receive_lease_ms;
    void (*patient)(struct gw_request *r); /* answers it when its turn on gw->patient has come */
    const uint8_t *sent;                   /* what the mailbox process said, until then */
    size_t sent_len;
    enum err sent_status;
    bool bulk, peek;
    struct gw_mail *mail; /* api_mailbox.h; NULL for those who have no mail */
    bool purge;
    void (*on_dispose)(struct gw_request *r); /* an API's own tidying up */
    struct mcp *mcp;                          /* POST /mcp only */
    bool polling;                             /* ASKING, PUSHING: parked in the mailbox process */
    bool confirming; /* all is sent; the end follows when it has been written */
};

struct gw_request *request_new(struct gw *gw, h2o_req_t *req);
struct gw_request *request_find(struct gw *gw, uint64_t handle);
struct gw_request *request_find_wire(struct gw *gw,
                                     uint64_t wire); /* NULL when it is another attempt by now */

/* The only function that writes r->state. */
void gw_goto(struct gw_request *r, enum gw_state next, const char *why);
void request_new_attempt(struct gw_request *r);
void *request_alloc(struct gw_request *r, size_t bytes);
const char *request_strdup(struct gw_request *r, const char *s, size_t len);
const char *state_name(enum gw_state s);

/* Entering a state; steps.c. */
#define STATE(name, waits, limit, err, next) void enter_##name(struct gw_request *r);
#include "gateway/states.def"
#undef STATE
void on_state_timer(
    struct gw_request *r); /* steps.c: the state's limit, or the total one, may have passed */

#endif
