/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_RING_H
#define SLIP_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/shm.h"

/*
 * Records from one producer to one consumer through shared memory.
 *
 * Each side keeps its own index privately and believes nothing of what the other wrote until it
 * has checked it; a record is copied out before anybody parses it. The consumer that is about to
 * sleep says so, fences and looks again; the producer publishes, fences and looks whether somebody
 * sleeps. So one of the two always sees the other. The bell itself is the caller's.
 *
 * A ring has the size that its server wants; a record takes a quarter of it at most. A producer
 * that finds it empty behind RING_WARM bytes goes back to its start, so that a large ring with
 * little in it costs no more memory, and no more cache, than a small one. What was used beyond
 * RING_KEPT is given back to the system when RING_QUIET such rounds needed none of it.
 */
#define RING_BYTES_MIN (UINT32_C(1) << 20)
#define RING_BYTES_MAX (UINT32_C(64) << 20)
#define RING_WARM (UINT32_C(256) << 10)
#define RING_KEPT (UINT32_C(1) << 20)
#define RING_QUIET 16u

struct ring_shared {                           /* each word on a cache line of its own */
    _Alignas(64) _Atomic uint64_t head;        /* bytes written; by the producer */
    _Alignas(64) _Atomic uint64_t tail;        /* bytes read; by the consumer */
    _Alignas(64) _Atomic uint32_t is_sleeping; /* set by the consumer, cleared by both */
    _Atomic uint32_t sleeper_cpu;              /* where the consumer went to sleep last */
    _Alignas(64) uint8_t data[];
};

struct ring { /* one end; zeroed shared memory is an empty ring */
    struct ring_shared *shared;
    uint32_t bytes;
    uint64_t at;    /* our own index */
    uint64_t limit; /* last index of the other side that was seen and found good */
    /* of the producer: */
    uint64_t started;        /* where it began the last time */
    uint32_t touched, quiet; /* bytes used beyond RING_KEPT, 0: none; rounds without since */
};

/* bytes: a power of two, RING_BYTES_MIN to RING_BYTES_MAX. */
bool ring_bytes_can_be(uint32_t bytes);
void ring_init(struct ring *r, struct ring_shared *shared, uint32_t bytes);
size_t ring_record_max(uint32_t bytes);

/* A segment holds the ring to the server and then the one to the client. */
size_t ring_segment_bytes(uint32_t bytes);
struct ring_shared *ring_in_segment(struct shm_head *segment, uint32_t bytes, bool is_to_server);

/* Producer. Writes one record of two parts. ERR_BUSY: no room; ERR_PROTO: the consumer's index
 * cannot be, the ring is dead; ERR_TOO_LARGE. */
enum err ring_write(struct ring *r, const void *a, size_t a_len, const void *b, size_t b_len);
/* After one or more writes: true when the consumer sleeps and must be rung. True once per sleep. */
bool ring_must_ring(struct ring *r);

/* Consumer. Replaces to's content with the next record. ERR_NOT_FOUND: empty; ERR_PROTO: dead. */
enum err ring_read(struct ring *r, struct buf *to);
/* True: asleep, a write will ring. False: something came meanwhile, still awake. */
bool ring_sleep(struct ring *r);
/* Awake without having been rung: no write rings until the next ring_sleep(). */
void ring_wake(struct ring *r);
bool ring_is_empty(const struct ring *r);
/* Producer: the consumer slept last on another CPU than this one, so that it can run while we
 * wait. A hint. */
bool ring_reader_is_elsewhere(const struct ring *r);

#endif
