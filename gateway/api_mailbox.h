/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_API_MAILBOX_H
#define GW_API_MAILBOX_H

#include "gateway/ask.h"
#include "gateway/request.h"

struct Slipstream__V1__Message;
struct Slipstream__V1__SendRequest;

void message_poll_again(struct gw_request *r); /* after a new hello */
void message_delivered(struct gw *gw, const uint8_t *body,
                       size_t len); /* the event that ends a parked poll */

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
 * it goes back. Takes r->on_dispose. */
void message_receive_start(struct gw_request *r, receive_done_fn *done);

/* Ends a delivery, 0: none. done: its messages reached their reader. */
void message_settle(struct gw *gw, uint64_t delivery, bool done);
void message_write(struct buf *b, const struct Slipstream__V1__Message *m); /* as JSON */

#endif
