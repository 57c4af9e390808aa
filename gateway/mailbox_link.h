/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_MAILBOX_LINK_H
#define GW_MAILBOX_LINK_H

#include "gateway/request.h"

/* The channel to the mailbox process: its link, parked polls, deliveries over a restart, and what
 * other parts of the worker ask of it. */
enum err mailbox_open(struct gw *gw);
void mailbox_close(struct gw *gw);
void mailbox_drain(struct gw *gw); /* ends parked polls and streams, well */

bool mailbox_is_up(const struct gw *gw);
uint64_t mailbox_max_payload(const struct gw *gw); /* as the mailbox process has told */
/* Payloads from here on go there compressed; 0: none. */
uint32_t mailbox_compress_from(const struct gw *gw);
/* May payloads come compressed? Not for a while after a damaged one: then the mailbox process
 * unpacks them, finds that one and puts it aside, and the others arrive. */
bool mailbox_takes_blocks(const struct gw *gw);
void mailbox_avoid_blocks(struct gw *gw);

/* Counts of r's workflow; done comes once, with an error when there is no mailbox process. r is in
 * ASKING. */
void mailbox_counts(struct gw_request *r, void (*done)(struct gw_request *r, enum err status,
                                                       uint64_t queued, uint64_t delivered));
void mailbox_close_workflow(struct gw_request *r, bool purge); /* one-way */
/* The scheduler learns of agents that only send or receive; of the same one a few times a second at
 * most. */
void mailbox_note_agent(struct gw_request *r, const char *agent);

#endif
