/* SPDX-License-Identifier: Apache-2.0 */
#include "common/ring.h"

#include <sched.h>
#include <string.h>

#include "common/fault.h"
#include "common/must.h"

#define RECORD_HEAD 4u         /* length; records start at multiples of 8 */
#define LEN_RESTART UINT32_MAX /* in a length's place: the next record is at the ring's start */

static uint64_t record_size(uint64_t len)
{
    return (RECORD_HEAD + len + 7) & ~UINT64_C(7);
}

bool ring_bytes_can_be(uint32_t bytes)
{
    return bytes >= RING_BYTES_MIN && bytes <= RING_BYTES_MAX && (bytes & (bytes - 1)) == 0;
}

void ring_init(struct ring *r, struct ring_shared *shared, uint32_t bytes)
{
    must(ring_bytes_can_be(bytes));
    *r = (struct ring){.shared = shared, .bytes = bytes};
}

size_t ring_record_max(uint32_t bytes)
{
    return bytes / 4;
}

size_t ring_segment_bytes(uint32_t bytes)
{
    return sizeof(struct shm_head) + 2 * (sizeof(struct ring_shared) + bytes);
}

struct ring_shared *ring_in_segment(struct shm_head *segment, uint32_t bytes, bool is_to_server)
{
    uint8_t *first = (uint8_t *)(segment + 1);

    return (struct ring_shared *)(void *)(is_to_server
                                              ? first
                                              : first + sizeof(struct ring_shared) + bytes);
}

static size_t place_of(const struct ring *r, uint64_t at)
{
    return (size_t)(at & (r->bytes - 1));
}

static void copy_in(struct ring *r, uint64_t at, const void *p, size_t len)
{
    size_t from = place_of(r, at), first = r->bytes - from;

    if (len == 0)
        return;
    if (first > len)
        first = len;
    memcpy(r->shared->data + from, p, first);
    memcpy(r->shared->data, (const uint8_t *)p + first, len - first);
}

static void copy_out(const struct ring *r, uint64_t at, void *p, size_t len)
{
    size_t from = place_of(r, at), first = r->bytes - from;

    if (first > len)
        first = len;
    memcpy(p, r->shared->data + from, first);
    memcpy((uint8_t *)p + first, r->shared->data, len - first);
}

/* False: the consumer's index cannot be. */
static bool tail_look(struct ring *r)
{
    uint64_t tail = atomic_load_explicit(&r->shared->tail, memory_order_acquire);

    /* Between what we saw last and what we wrote, or it is not an index. */
    if (tail - r->limit > r->at - r->limit)
        return false;
    r->limit = tail;
    return true;
}

/* Everything has been read: goes back to the start. Until the consumer has followed there is room
 * for as much as lies before here. */
static void restart(struct ring *r)
{
    uint32_t len = LEN_RESTART, used = (uint32_t)place_of(r, r->at);

    if (r->at - r->started > used)
        used = r->bytes; /* it went round */
    if (used > RING_KEPT) {
        r->touched = used > r->touched ? used : r->touched;
        r->quiet = 0;
    } else if (r->touched > 0 && ++r->quiet == RING_QUIET) {
        shm_give_back(r->shared->data + RING_KEPT, r->touched - RING_KEPT);
        r->touched = 0;
    }
    copy_in(r, r->at, &len, RECORD_HEAD);
    r->at += r->bytes - place_of(r, r->at);
    r->started = r->at;
}

enum err ring_write(struct ring *r, const void *a, size_t a_len, const void *b, size_t b_len)
{
    const size_t max = ring_record_max(r->bytes);
    uint64_t need;
    uint32_t len;

    if (a_len > max || b_len > max - a_len)
        return ERR_TOO_LARGE;
    if (fault_hits(FAULT_ring_full))
        return ERR_BUSY;
    len = (uint32_t)(a_len + b_len);
    need = record_size(len);
    if (place_of(r, r->at) >= RING_WARM && need <= place_of(r, r->at)) {
        if (!tail_look(r))
            return ERR_PROTO;
        if (r->limit == r->at)
            restart(r);
    }
    if (r->at + need - r->limit > r->bytes) {
        if (!tail_look(r))
            return ERR_PROTO;
        if (r->at + need - r->limit > r->bytes)
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
        if (head - r->at > r->bytes || head % 8 != 0)
            return ERR_PROTO;
        r->limit = head;
    }
    copy_out(r, r->at, &len, RECORD_HEAD);
    if (len == LEN_RESTART) { /* a record follows in the same breath */
        if (r->bytes - place_of(r, r->at) >= r->limit - r->at)
            return ERR_PROTO;
        r->at += r->bytes - place_of(r, r->at);
        copy_out(r, r->at, &len, RECORD_HEAD);
    }
    if (len > ring_record_max(r->bytes) || record_size(len) > r->limit - r->at)
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
