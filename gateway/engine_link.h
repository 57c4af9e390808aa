/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_ENGINE_LINK_H
#define GW_ENGINE_LINK_H

#include <stdbool.h>
#include <stdint.h>

#include <h2o.h>

#include "common/err.h"
#include "gateway/answer.h"

/*
 * Exchanges with inference engines: one request and its answer over a kept HTTP/1.1 connection.
 *
 * h2o's own HTTP client takes five more system calls for each request, aborts on odd answer heads
 * and takes a cut answer for a whole one. Here idle connections stay registered in the loop, so a
 * dead one is never picked; the answer is read while the request is still being written; framing is
 * strict; and an end that comes too early is an error.
 *
 * Not here: which engine, and whether to try another one (steps.c).
 */
struct gw;
struct link;

struct exchange_ops {
    /* The final head has arrived. Strings live until the callback returns. Must not end the
     * exchange. */
    void (*on_head)(void *arg, const struct answer *a);
    /* More of the body may be taken with exchange_take(). */
    void (*on_data)(void *arg);
    /* The answer is complete; bytes not taken yet stay until exchange_end(). */
    void (*on_end)(void *arg);
    /* No complete answer will come. unread: the engine cannot have run the request (connect failed,
     * or a kept connection closed unread). */
    void (*on_fail)(void *arg, enum err e, bool unread);
};

struct exchange { /* embedded in its owner; zeroed = idle */
    struct link *link;
    const struct exchange_ops *ops;
    void *arg;
    uint64_t body_bytes; /* decoded so far */
    bool head_seen, ended;
};

/* Starts; callbacks come later, never from inside. bufs stay valid until the head of the answer has
 * come or the exchange has ended; they lose what has been written. */
void exchange_start(struct exchange *x, struct gw *gw, uint32_t engine, uint32_t generation,
                    h2o_iovec_t *bufs, size_t count, bool is_head, bool fresh,
                    const struct exchange_ops *ops, void *arg);
/*
 * Takes the decoded bytes so far: *buffer owns them (h2o_buffer_dispose), *len bytes at
 * (*buffer)->bytes. false: nothing there.
 */
bool exchange_take(struct exchange *x, h2o_buffer_t **buffer, size_t *len);
size_t exchange_waiting(const struct exchange *x); /* decoded bytes not taken */
void exchange_pause(struct exchange *x);           /* back-pressure: stop reading */
void exchange_resume(struct exchange *x);
bool exchange_is_writing(const struct exchange *x);    /* the request is not written out yet */
bool exchange_is_connecting(const struct exchange *x); /* the engine has seen nothing of it */
/* Gives the connection back, or closes it where the answer was not read to its end. Safe to call
 * twice. */
void exchange_end(struct exchange *x);

enum err engine_pools_init(struct gw *gw);
void engine_pools_fini(struct gw *gw);
void engine_pools_sweep(struct gw *gw, uint64_t now_ns); /* closes idle connections in time */

#endif
