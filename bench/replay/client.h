/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REPLAY_CLIENT_H
#define REPLAY_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#include "bench/replay/answer.h"
#include "common/buf.h"
#include "common/err.h"
#include "common/loop.h"

/*
 * HTTP/1.1 client on the small loop: one request at a time per connection, idle connections kept
 * per address, requests spread over addresses in turn. A kept connection that turns out to be
 * closed is replaced once. One thread.
 */
struct client;
struct exchange;

struct exchange_calls {
    void (*on_bytes)(void *arg, struct answer *a); /* more of the answer was read; may be NULL */
    /* The end, once: ERR_OK with a complete answer of any status, or why not. The exchange and the
     * answer are gone afterwards. */
    void (*on_end)(void *arg, enum err e, struct answer *a);
    void *arg;
};

/* urls: http://host:port[,http://host:port ...]. timeout_ms: longest life of an exchange. */
enum err client_new(struct loop *l, const char *urls, uint32_t timeout_ms, struct client **out,
                    struct buf *why);
void client_free(struct client *c); /* open exchanges end with ERR_CANCELLED */
uint32_t client_targets(const struct client *c);

/* headers: complete lines, "Name: value\r\n", may be "". body is taken over. target < 0: the next
 * in turn. */
void client_send(struct client *c, int target, const char *method, const char *path,
                 const char *headers, struct buf *body, const struct exchange_calls *calls);

#endif
