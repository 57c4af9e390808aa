/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_STREAM_H
#define GW_STREAM_H

#include "gateway/engine_link.h"
#include "gateway/request.h"

/*
 * The answer on its way from the engine to the client: headers, bytes with back-pressure, the tap
 * that reads along, the end.
 */
extern const struct exchange_ops stream_ops; /* arg: struct gw_request */

/*
 * The scheduler has given up the engine of r, which is DIALING or STREAMING. Without a byte for the
 * client so far, another engine is tried or e is the answer; else the connection to the engine says
 * how it ends: one that stops properly takes no new ones, and answers those it has. r may be gone
 * afterwards.
 */
void stream_engine_lost(struct gw_request *r, enum err e);
void stream_on_proceed(h2o_generator_t *generator, h2o_req_t *req);
void stream_on_stop(h2o_generator_t *generator, h2o_req_t *req);

#endif
