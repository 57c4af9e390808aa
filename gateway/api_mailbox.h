/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_API_MAILBOX_H
#define GW_API_MAILBOX_H

#include "gateway/ask.h"
#include "gateway/mail_read.h"
#include "gateway/mail_show.h"
#include "gateway/request.h"

/*
 * What the mailbox endpoints share. Sending: api_mailbox_send.c. Receiving in one answer:
 * api_mailbox_receive.c; as a stream of events: api_mailbox_stream.c. Acknowledging, dead letters
 * and figures: api_mailbox.c.
 */
#define MAIL_RECEIVE_MAX 1000u

struct mail_hold;

struct gw_mail { /* of one request; in its memory */
    Slipstream__V1__Ack **acks;
    size_t ack_count;
    const char *resume_after; /* "" = none */
    bool is_stream;
    bool missed; /* the end of the poll came before the word that it is parked */
    /* of what is being written */
    struct mail_hold *hold; /* asked for anew after a restart; owned by mailbox_link.c */
    uint32_t *ids;          /* where in r->out its message ids stand, as JSON strings */
    const char **id_texts;  /* the ids themselves; NULL: ids says where they are */
    size_t id_count, id_cap;
    /* streams */
    bool calling;    /* a Receive is under way */
    bool in_doubt;   /* nobody waits for us in the mailbox process: ask again when it is there */
    bool pending;    /* r->out waits for the write before it */
    bool writing;    /* r->out is being written */
    bool confirming; /* the kernel has it all, the client not yet */
    bool ending;
    uint64_t ask_ns, beat_ns; /* when to ask again, 0: not by time; when to say that we are alive */
};

struct gw_mail *mail_of(struct gw_request *r);     /* made when first asked for */
h2o_iovec_t mail_body(const struct gw_request *r); /* never NULL */
bool mail_max_read(struct gw_request *r, const char *text, uint32_t *max); /* false: answered */
struct mail_memory mail_memory_of(struct gw_request *r);
void mail_fault_respond(struct gw_request *r, enum err e, const struct mail_fault *fault);
/* Status and body of a failed entry of a list: a problem. */
void mail_error_show(struct gw_request *r, struct buf *b, enum err e);

/* What the mailbox finds fault with, of an acknowledgement that has been read well: the receipt, a
 * lease over its limit. NULL: nothing that has a name. */
const char *mail_acked_param(enum err e);

/* Appends a message to r->out and notes where its id stands. False: see mail_show(). */
bool mail_message_add(struct gw_request *r, const struct mail_view *m, bool is_event);
void mail_settle(struct gw_request *r, bool done, uint32_t keep_ms); /* r's delivery, if any */
void mail_settle_other(struct gw *gw, uint64_t delivery, bool done);
void mail_unpark(struct gw *gw, uint64_t poll);
void mail_hold_ask(struct gw_request *r); /* after a restart */

/* The call of a receive; its answer comes to done, to late where nobody waits any more. */
enum err mail_receive_call(struct gw_request *r, rpc_done_fn *done, rpc_done_fn *late);
void mail_received_late(void *arg, uint64_t handle, enum err status, const uint8_t *body,
                        size_t len);

/* mailbox_link.c tells: */
void mail_poll_again(struct gw_request *r);                          /* a new mailbox process */
void mail_poll_drain(struct gw_request *r);                          /* we shut down */
void mail_delivered(struct gw *gw, const uint8_t *body, size_t len); /* a parked poll ends */

/* The first answer of the mailbox process turns r into a stream. */
void mail_stream_start(struct gw_request *r, struct mail_reply *reply);
void mail_stream_delivered(struct gw_request *r, struct mail_reply *reply);
void mail_stream_again(struct gw_request *r);
void mail_stream_drain(struct gw_request *r);
/* PUSHING's time is up, in one way or another; false: it goes on. */
bool mail_stream_is_over(struct gw_request *r, uint64_t now_ns, enum err *e);

/*
 * What stands behind the endpoints, for those who answer in another form. r->tenant and
 * r->workflow_id are set; done comes once, perhaps at once, unless r is gone before.
 */

/* The agents become known, "*" is looked up, q goes to the mailbox: done gets a SendReply. q and
 * its messages are r's memory; tenant, workflow and agents are filled in here. */
void message_send_start(struct gw_request *r, struct Slipstream__V1__SendRequest *q,
                        ask_done_fn *done);

/* Receives for r->agent_id as r->receive_max, receive_wait_ms, receive_lease_ms, types and peek
 * say; may park. What came is settled when r ends: it is gone if the answer was written out, else
 * it goes back. Takes r->on_dispose. done NULL: the answer of the REST endpoint. */
void message_receive_start(struct gw_request *r, receive_done_fn *done);

void message_write(struct buf *b, const struct Slipstream__V1__Message *m); /* as JSON */

#endif
