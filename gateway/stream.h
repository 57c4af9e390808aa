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

void stream_on_proceed(h2o_generator_t *generator, h2o_req_t *req);
void stream_on_stop(h2o_generator_t *generator, h2o_req_t *req);

#endif
