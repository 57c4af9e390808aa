/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_SSE_H
#define GW_SSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"

/*
 * Reads along with an engine's answer, event stream or JSON, in pieces of any size: sees the first
 * token, the usage counts, the end mark, and takes out the one usage event that the client did not
 * ask for. Never delays a byte of an event that goes through unless the event may be the one to
 * drop, and then only until that is decided. Pure.
 *
 * Dialects: OpenAI chunks (data: {...}, data: [DONE]) and Anthropic events (message_start /
 * message_delta usage).
 */
struct tap_usage {
    bool has_usage, has_cached;
    uint32_t prompt_tokens, cached_tokens,
        completion_tokens; /* cached: prompt_tokens_details.cached_tokens, cache_read_input_tokens
                            */
};

struct tap {
    bool is_sse;
    bool drop_usage; /* the event with empty choices and a usage is not for the client */
    bool seen_token; /* an event with content has gone through (SSE), or any byte (JSON) */
    bool seen_done;  /* [DONE], message_stop, or a finish_reason in plain JSON */
    bool seen_error; /* an event whose data is an error object */
    uint64_t events;
    struct tap_usage usage;
    struct buf held; /* start of an undecided event, or the tail of a JSON answer */
    uint32_t state[8];
};

void tap_start(struct tap *t, bool is_sse, bool drop_usage);
/*
 * Looks at the next n bytes of the decoded answer. What goes to the client is [in, in + *keep) when
 * *rewritten is false (and *keep == n: nothing was changed); else the bytes appended to out. Call
 * tap_end() for what is left at the end of a stream.
 */
void tap_feed(struct tap *t, const char *in, size_t n, struct buf *out, bool *rewritten);
void tap_end(struct tap *t, struct buf *out);
void tap_fini(struct tap *t);

#endif
