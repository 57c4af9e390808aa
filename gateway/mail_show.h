/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_MAIL_SHOW_H
#define GW_MAIL_SHOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"

/*
 * Messages from the mailbox process, read in place as they stand in its answer (ReceiveReply of
 * mailbox.proto) and written as JSON: their payloads are copied once. Pure.
 */
struct mail_text {
    const char *at; /* not terminated */
    size_t len;
};

struct mail_view {
    struct mail_text message_id, source_agent, target_agent, message_type, correlation_id, reply_to,
        group, receipt, dead_reason, payload;
    uint64_t created_ms, expires_ms, lease_expires_ms, dead_ms; /* wall clock; 0: none */
    uint32_t attempt, priority, raw_len;                        /* raw_len: as in mailbox.proto */
};

struct mail_reply {
    bool parked;
    uint64_t poll, delivery;
    uint32_t more;
    size_t count;            /* of messages */
    const uint8_t *at, *end; /* for mail_reply_next() */
};

/* False: not such an answer. body is borrowed. */
bool mail_reply_read(const uint8_t *body, size_t len, struct mail_reply *out);
/* The next message; false at the end, or where it is none. */
bool mail_reply_next(struct mail_reply *r, struct mail_view *out);

#define MAIL_SHOW_ID_AT 14u /* where in the object the value of message_id begins */

/* The JSON object of the API. one_line: without CR and LF, which in a payload can only be white
 * space that means nothing. False: its payload is compressed and damaged, and null stands in its
 * place. */
bool mail_show(struct buf *b, const struct mail_view *m, bool one_line);
/* The lines of a server-sent event, and the empty one that ends it; at: where in b the object
 * begins. */
bool mail_show_event(struct buf *b, const struct mail_view *m, size_t *at);

/* RFC 3339 in UTC with milliseconds, as a JSON string. */
void mail_show_time(struct buf *b, uint64_t wall_ms);

#endif
