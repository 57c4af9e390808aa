/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_SNAPSHOT_H
#define SLIP_SNAPSHOT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/*
 * A record with one writer that many processes copy out (a seqlock). seq is odd while a write is in
 * progress; a copy counts only if seq was even and unchanged. A reader never waits: after a few
 * tries it keeps the copy it has. A writer that died mid-write leaves seq odd; its successor
 * rewrites everything and makes it even. Records are moved in 64-bit relaxed atomics, so that the
 * race is defined and TSan agrees.
 */
static inline void snapshot_write(_Atomic uint64_t *seq, _Atomic uint64_t *to, const void *from,
                                  size_t bytes)
{
    uint64_t s = atomic_load_explicit(seq, memory_order_relaxed) | 1, word;
    size_t i;

    atomic_store_explicit(seq, s, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    for (i = 0; i < bytes / 8; i++) {
        memcpy(&word, (const char *)from + i * 8, 8);
        atomic_store_explicit(&to[i], word, memory_order_relaxed);
    }
    atomic_store_explicit(seq, s + 1, memory_order_release);
}

static inline bool snapshot_read(const _Atomic uint64_t *seq, const _Atomic uint64_t *from,
                                 void *to, size_t bytes)
{
    int tries;
    size_t i;

    for (tries = 0; tries < 8; tries++) {
        uint64_t s = atomic_load_explicit(seq, memory_order_acquire), word;

        if (s & 1)
            continue;
        for (i = 0; i < bytes / 8; i++) {
            word = atomic_load_explicit(&from[i], memory_order_relaxed);
            memcpy((char *)to + i * 8, &word, 8);
        }
        atomic_thread_fence(memory_order_acquire);
        if (atomic_load_explicit(seq, memory_order_relaxed) == s)
            return true;
    }
    return false;
}

#endif
