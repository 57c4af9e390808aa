/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_FINISH_H
#define GW_FINISH_H

#include "common/err.h"
#include "gateway/request.h"

/*
 * How requests end: with an answer of our own, with an error, because the client left, and at last
 * in request_dispose().
 */

/* Sends a complete answer of our own and goes to CLOSING. r may be gone afterwards. body is copied.
 */
void respond(struct gw_request *r, unsigned status, const char *content_type, const char *body,
             size_t len); /* content_type "": there is no body */
void respond_out(struct gw_request *r, unsigned status,
                 const char *content_type); /* what r->out holds, without a copy */
void respond_buf(struct gw_request *r, unsigned status, const char *content_type,
                 struct buf *body); /* frees body */
/*
 * Sends an error in the dialect of the route: OpenAI, Anthropic or problem+json. param: member or
 * header that is wrong, or NULL. detail: one sentence, NULL for the error's own text. r may be gone
 * afterwards.
 */
void respond_error(struct gw_request *r, enum err e, const char *param, const char *detail);
void respond_error_retry(struct gw_request *r, enum err e, const char *param, const char *detail,
                         int retry_ms);
/*
 * The kernel took all of an answer whose fate matters (r->confirming): it ends, unless it is a big
 * one of which the client has not got everything yet. Then this is asked again a little later. r
 * may be gone afterwards.
 */
#define RESPOND_CONFIRM_BYTES 16384u /* smaller ones fit the client's own buffer anyway */
#define RESPOND_CONFIRM_NS (2 * NS_PER_MS)
void respond_confirm(struct gw_request *r);
/* The request cannot go on: an error answer if none has begun, else the answer is broken off so
 * that nobody takes it for whole. */
void request_fail(struct gw_request *r, enum err e);
/* The client has left: the engine is told at once. */
void request_gone(struct gw_request *r);
/* h2o has let go of its request: reports, gives everything back, frees r. */
void request_dispose(struct gw_request *r);

void respond_retry_after(struct gw_request *r, int retry_ms);
void respond_add_header(struct gw_request *r, const char *name,
                        const char *value);          /* name: static; value: copied */
void respond_standard_headers(struct gw_request *r); /* X-Request-Id, receipt, Server-Timing */
const char *respond_reason(unsigned status);
/* An error body alone, for answers that h2o itself makes. */
void respond_error_body(struct buf *out, enum dialect d, enum err e, const char *param,
                        const char *detail, const char *id);

#endif
