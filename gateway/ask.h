/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_ASK_H
#define GW_ASK_H

#include <protobuf-c/protobuf-c.h>

#include "common/rpc.h"
#include "gateway/request.h"

/* Calls to scheduler and mailbox for the API endpoints, and the little parsing that these share. */
typedef void ask_done_fn(struct gw_request *r, enum err status, const uint8_t *body, size_t len);

/* r goes to ASKING; done comes later, unless r is gone by then. A process that is not there is
 * answered as such. */
void ask_scheduler(struct gw_request *r, unsigned method, const ProtobufCMessage *request,
                   ask_done_fn *done);
void ask_mailbox(struct gw_request *r, unsigned method, const ProtobufCMessage *request,
                 ask_done_fn *done);

/* The same where the answer brings something that must not be lost: it comes to answer, which hands
 * it to ask_answer(), and to late when nobody waits for it any more. */
void ask_mailbox_keep(struct gw_request *r, unsigned method, const ProtobufCMessage *request,
                      ask_done_fn *done, rpc_done_fn *answer, rpc_done_fn *late);
/* Hands an answer to the request that asked. false: that is gone, or wants it no more. */
bool ask_answer(struct gw *gw, uint64_t handle, enum err status, const uint8_t *body, size_t len);

/*
 * Query string of r->path. params: allowed names, ended by NULL; values: as many, NULL = absent,
 * percent-decoded. An unknown or doubled one is ERR_QUERY_PARAM and named by ask_bad_param().
 */
enum err ask_query(struct gw_request *r, const char *const *params, const char **values);
const char *ask_bad_param(const struct gw_request *r);
bool api_begin(struct gw_request *r, const char *const *params,
               const char **values); /* key, ids of the path, query; false: answered */

const char *ask_time(uint64_t wall_ms, char *dst, size_t size); /* RFC 3339, UTC, milliseconds */

#endif
