/* SPDX-License-Identifier: Apache-2.0 */
#include "common/ring.h"

#include <sched.h>
#include <string.h>

#include "common/fault.h"

#define RECORD_HEAD 4u /* length; records start at multiples of 8 */

static uint64_t record_size(uint64_t len)
{
    return (RECORD_HEAD + len + 7) & ~UINT64_C(7);
}

void ring_init(struct ring *r, struct ring_shared *shared)
{
    *r = (struct ring){.shared = shared};
}

static void copy_in(struct ring *r, uint64_t at, const void *p, size_t len)
{
    size_t from = (size_t)(at % RING_BYTES), first = RING_BYTES - from;

    if (len == 0)
        return;
    if (first > len)
        first = len;
    memcpy(r->shared->data + from, p, first);
    memcpy(r->shared->data, (const uint8_t *)p + first, len - first);
}

static void copy_out(const struct ring *r, uint64_t at, void *p, size_t len)
{
    size_t from = (size_t)(at % RING_BYTES), first = RING_BYTES - from;

    if (first > len)
        first = len;
    memcpy(p, r->shared->data + from, first);
    memcpy((uint8_t *)p + first, r->shared->data, len - first);
}

enum err ring_write(struct ring *r, const void *a, size_t a_len, const void *b, size_t b_len)
{
    uint64_t need, tail;
    uint32_t len;

    if (a_len > RING_RECORD_MAX || b_len > RING_RECORD_MAX - a_len)
        return ERR_TOO_LARGE;
    if (fault_hits(FAULT_ring_full))
        return ERR_BUSY;
    len = (uint32_t)(a_len + b_len);
    need = record_size(len);
    if (r->at + need - r->limit > RING_BYTES) {
        tail = atomic_load_explicit(&r->shared->tail, memory_order_acquire);
        /* Between what we saw last and what we wrote, or it is not an index. */
        if (tail - r->limit > r->at - r->limit)
            return ERR_PROTO;
        r->limit = tail;
        if (r->at + need - tail > RING_BYTES)
            return ERR_BUSY;
    }
    copy_in(r, r->at, &len, RECORD_HEAD);
    copy_in(r, r->at + RECORD_HEAD, a, a_len);
    copy_in(r, r->at + RECORD_HEAD + a_len, b, b_len);
    r->at += need;
    atomic_store_explicit(&r->shared->head, r->at, memory_order_release);
    return ERR_OK;
}

bool ring_must_ring(struct ring *r)
{
    atomic_thread_fence(memory_order_seq_cst);
    return atomic_load_explicit(&r->shared->is_sleeping, memory_order_relaxed) != 0 &&
           atomic_exchange_explicit(&r->shared->is_sleeping, 0, memory_order_relaxed) != 0;
}

enum err ring_read(struct ring *r, struct buf *to)
{
    uint64_t head;
    uint32_t len;

    if (r->limit == r->at) {
        head = atomic_load_explicit(&r->shared->head, memory_order_acquire);
        if (head == r->at)
            return ERR_NOT_FOUND;
        if (head - r->at > RING_BYTES || head % 8 != 0)
            return ERR_PROTO;
        r->limit = head;
    }
    copy_out(r, r->at, &len, RECORD_HEAD);
    if (len > RING_RECORD_MAX || record_size(len) > r->limit - r->at)
        return ERR_PROTO;
    buf_clear(to);
    copy_out(r, r->at + RECORD_HEAD, buf_reserve(to, len), len);
    to->len = len;
    r->at += record_size(len);
    atomic_store_explicit(&r->shared->tail, r->at, memory_order_release);
    return ERR_OK;
}

bool ring_sleep(struct ring *r)
{
    atomic_store_explicit(&r->shared->sleeper_cpu, (uint32_t)sched_getcpu(), memory_order_relaxed);
    atomic_store_explicit(&r->shared->is_sleeping, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    if (r->limit == r->at && atomic_load_explicit(&r->shared->head, memory_order_relaxed) == r->at)
        return true;
    atomic_store_explicit(&r->shared->is_sleeping, 0, memory_order_relaxed);
    return false;
}

void ring_wake(struct ring *r)
{
    atomic_store_explicit(&r->shared->is_sleeping, 0, memory_order_relaxed);
}

bool ring_is_empty(const struct ring *r)
{
    return r->limit == r->at &&
           atomic_load_explicit(&r->shared->head, memory_order_relaxed) == r->at;
}

bool ring_reader_is_elsewhere(const struct ring *r)
{
    return atomic_load_explicit(&r->shared->sleeper_cpu, memory_order_relaxed) !=
           (uint32_t)sched_getcpu();
}
