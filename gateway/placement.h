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
 * this call. digests may be NULL. */
void placement_ask(struct gw_request *r, const uint64_t *digests, uint32_t count,
                   uint32_t tail_bytes);
/* The scheduler is silent: alone if its heart has stopped. false: it lives, go on waiting. */
bool placement_try_alone(struct gw_request *r);

void placement_first_byte(struct gw_request *r);
void placement_failed(struct gw_request *r,
                      enum err e); /* this attempt failed at the engine; a new one may follow */
void placement_end(struct gw_request *r,
                   uint64_t now_ns); /* the last word about r; from request_dispose() only */

#endif
