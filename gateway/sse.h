/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_SSE_H
#define GW_SSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "gateway/scan.h"

/*
 * Reads along with an engine's answer, event stream or JSON, in pieces of any size: sees the first
 * token, the usage counts, the end mark, and takes out the one usage event that the client did not
 * ask for. Never delays a byte of an event that goes through unless the event may be the one to
 * drop, and then only until that is decided. Pure.
 *
 * Dialects: OpenAI chunks (data: {...}, data: [DONE]), the Responses API, and Anthropic events
 * (message_start / message_delta usage).
 */
struct tap {
    bool is_sse;
    bool drop_usage; /* the event with empty choices and a usage is not for the client */
    bool seen_token; /* an event with content has gone through (SSE), or any byte (JSON) */
    bool seen_done;  /* [DONE], message_stop, or a finish_reason in plain JSON */
    bool seen_error; /* an event whose data is an error object */
    uint64_t events; /* with data, the dropped one included */
    struct tap_usage usage;
    struct buf
        held; /* with drop_usage: the start of an event that may be the one, 64 KiB at most */

    struct scan scan; /* of the current event's data, or of a whole JSON answer */
    uint8_t line;     /* where in the current line */
    uint8_t done;     /* how much of "[DONE]" the data was so far */
    bool line_begun, has_data, is_decided, after_cr, drop_lf;
};

void tap_start(struct tap *t, bool is_sse, bool drop_usage);
/*
 * Looks at the next n bytes of the decoded answer. What goes to the client is exactly [in, in + n)
 * when *rewritten is false; else the bytes appended to out, perhaps none. Call tap_end() for what
 * is left at the end of a stream.
 */
void tap_feed(struct tap *t, const char *in, size_t n, struct buf *out, bool *rewritten);
void tap_end(struct tap *t, struct buf *out);
void tap_fini(struct tap *t);

#endif
