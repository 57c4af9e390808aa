/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REPLAY_ANSWER_H
#define REPLAY_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"

/*
 * Reads one HTTP/1.1 answer in pieces of any size: framing, a few headers, and of an event stream
 * of chat completions the text, the usage and the end. Pure.
 */
enum answer_state {
    ANSWER_HEAD,
    ANSWER_LENGTH, /* so many bytes to come */
    ANSWER_CHUNK_SIZE,
    ANSWER_CHUNK_DATA,
    ANSWER_CHUNK_END,
    ANSWER_TRAILER,
    ANSWER_TO_CLOSE, /* body ends with the connection */
    ANSWER_DONE
};

struct answer {
    enum answer_state state;
    unsigned status;
    bool is_sse, keep_alive;
    bool has_usage, seen_done; /* a usage object; data: [DONE] */
    uint32_t prompt_tokens, cached_tokens, completion_tokens;
    uint64_t text_events; /* events with content */
    char engine[64];      /* X-Slipstream-Engine */
    uint64_t left;        /* of the body or the chunk */
    struct buf line;      /* head or event line so far */
    struct buf frame;     /* chunk line so far */
    struct buf text;      /* content so far */
    struct buf body;      /* of an answer that is no event stream, cut at 1 MiB */
    char error[256];      /* message of an error object in the stream */
};

void answer_start(struct answer *a);
void answer_fini(struct answer *a);
/* Takes n bytes; *used < n only when the answer is complete. ERR_PROTO: no HTTP. */
enum err answer_feed(struct answer *a, const char *p, size_t n, size_t *used);
/* The connection ended. ERR_TRUNCATED unless the answer may end so. */
enum err answer_close(struct answer *a);

#endif
