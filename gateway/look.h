/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_LOOK_H
#define GW_LOOK_H

#include <stdbool.h>

#include "gateway/request.h"

/*
 * Looking at request bodies: validity, model, identity, digests. Small ones at once; big ones a
 * piece per loop turn, one after the other, so that no body holds the loop and small ones overtake
 * big ones.
 */
void look_init(struct gw *gw);
void look_fini(struct gw *gw);
void look_start(struct gw_request *r); /* ends in gw_goto(PLACING) or an error answer */
bool look_turn(struct gw *gw); /* the next piece of a big body; true: there is more to do at once */
/* In enter_PLACING only: the digests of r, if they are at hand. */
bool look_digests(struct gw_request *r, const uint64_t **digests, uint32_t *count,
                  uint32_t *tail_bytes);

#endif
