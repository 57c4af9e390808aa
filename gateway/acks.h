/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_ACKS_H
#define GW_ACKS_H

#include <stdbool.h>
#include <stdint.h>

/*
 * When to ask the kernel for delayed acknowledgements on an engine connection.
 *
 * A stream brings small pieces and nothing goes back that could carry their acknowledgements, so
 * the kernel sends a packet of its own for each piece read: a third of what an event costs. In
 * delayed mode (TCP_QUICKACK 0) it sends one for every second piece; it leaves that mode by itself
 * after 40 ms without a second one.
 *
 * An engine whose sockets hold small writes back until the last one is acknowledged (Nagle) would
 * then deliver late, up to those 40 ms. So each request is a trial: a pause right after it is a
 * failure, a run of quick pieces a success. After ACKS_TRIALS failures without a success the engine
 * is left alone for ACKS_RETRY_NS. A slow engine ends there too; it gains nothing anyway.
 *
 * Pure: no sockets, no clock.
 */
#define ACKS_TRIALS 3u
#define ACKS_RUN 16u
#define ACKS_PAUSE_NS UINT64_C(35000000)
#define ACKS_RETRY_NS UINT64_C(60000000000)

struct acks_engine { /* zeroed: nothing known */
    unsigned failed;
    uint64_t retry_ns;
};

struct acks { /* one stream; zeroed at its start */
    uint64_t last_ns;
    unsigned quick;
    bool delayed;
};

/* A piece of the stream was read at now_ns. true: ask for delayed acknowledgements now. */
bool acks_on_piece(struct acks *a, struct acks_engine *e, uint64_t now_ns);

#endif
