/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_PLACEMENT_H
#define GW_PLACEMENT_H

#include "common/err.h"
#include "gateway/request.h"

/*
 * Asking the scheduler where a request goes, telling it what became of it, and deciding alone when
 * it is dead (not when it is slow: its heart beats in the fleet segment).
 */
enum err placement_open(struct gw *gw);
void placement_close(struct gw *gw);

/* Asks, or decides alone. Ends in gw_goto(DIALING or WAITING) or an error answer; never from inside
 * this call. */
void placement_ask(struct gw_request *r);
/* When tickets are worth nothing any more because the scheduler has been away too long; UINT64_MAX:
 * the link is up. */
uint64_t placement_ticket_end(const struct gw *gw);
/* The scheduler is silent: alone if its heart has stopped. false: it lives, go on waiting. */
bool placement_try_alone(struct gw_request *r);

/* Gives back what the scheduler holds for r, if anything. */
void placement_cancel(struct gw_request *r);
void placement_first_byte(struct gw_request *r);
void placement_failed(struct gw_request *r,
                      enum err e); /* this attempt failed at the engine; a new one may follow */
void placement_end(struct gw_request *r,
                   uint64_t now_ns); /* the last word about r; from request_dispose() only */

#endif
