/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_MAILBOX_LINK_H
#define GW_MAILBOX_LINK_H

#include "gateway/request.h"

/* The channel to the mailbox process: its link, parked polls, and what the workflow API asks of it.
 */
enum err mailbox_open(struct gw *gw);
void mailbox_close(struct gw *gw);

/* Counts of r's workflow; done comes once, with an error when there is no mailbox process. r is in
 * ASKING. */
void mailbox_counts(struct gw_request *r, void (*done)(struct gw_request *r, enum err status,
                                                       uint64_t queued, uint64_t delivered));
void mailbox_close_workflow(struct gw_request *r, bool purge); /* one-way */
/* The scheduler learns of agents that only send or receive. */
void mailbox_note_agent(struct gw_request *r, const char *agent);

#endif
