/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_MAIL_READ_H
#define GW_MAIL_READ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/mailbox.pb-c.h"

#include "common/err.h"

/*
 * What clients of the mailbox API send, verified in one pass and turned into messages of the
 * channel. Payloads point into the body; all else is in memory that the caller hands out and frees
 * as a whole. Pure.
 */
#define MAIL_BULK_MAX 256u
#define MAIL_BULK_BYTES \
    (3u << 20)                 /* payloads of one request: what fits a frame with room to spare */
#define MAIL_ROOM_BYTES 65536u /* what a body may have besides its payloads */
#define MAIL_ACKS_MAX 1000u
#define MAIL_TTL_MAX_S (30 * 86400.0)
#define MAIL_LEASE_MAX_S 86400.0

struct mail_memory {
    void *(*alloc)(void *arg, size_t bytes); /* never NULL */
    void *arg;
};

struct mail_fault { /* of a body that was refused; both NULL where there is nothing to say */
    const char *param, *detail;
};

struct mail_post {
    bool bulk;
    size_t count;
    Slipstream__V1__Message **messages;
};

/* One message, or {"messages": [...]}. max_payload: of a single message (those of a bulk have
 * their own results). ERR_JSON, ERR_DEPTH, ERR_TYPE, ERR_VALUE, ERR_ID, ERR_DUPLICATE_KEY,
 * ERR_TOO_LARGE. */
enum err mail_post_read(const struct mail_memory *mem, const char *body, size_t len,
                        uint64_t max_payload, struct mail_post *out, struct mail_fault *fault);

/* {"receipt": "..."} */
enum err mail_receipt_read(const struct mail_memory *mem, const char *body, size_t len,
                           char **receipt, struct mail_fault *fault);

/* {"acks": [{"message_id", "receipt", "action", "delay", "lease"}]} */
enum err mail_acks_read(const struct mail_memory *mem, const char *body, size_t len,
                        Slipstream__V1__Ack ***acks, size_t *count, struct mail_fault *fault);

/* {"message_ids": [...]}, or nothing, or {}: count 0. An empty list is ERR_VALUE. */
enum err mail_ids_read(const struct mail_memory *mem, const char *body, size_t len, char ***ids,
                       size_t *count, struct mail_fault *fault);

/* Seconds, fractions allowed, of a query string: 0 to max. What is more than nothing is at least a
 * millisecond. */
bool mail_seconds_read(const char *text, double max, uint32_t *ms);

/* The preference wait=N of a header Prefer (RFC 7240); false: it has none that can be read. */
bool mail_prefer_wait(const char *value, size_t len, uint32_t *ms);

/* Does this Accept header ask for an event stream, and not for JSON as well? */
bool mail_wants_stream(const char *accept, size_t len);

#endif
