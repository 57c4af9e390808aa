/* SPDX-License-Identifier: Apache-2.0 */
#include "common/clock.h"

#include <stdatomic.h>
#include <time.h>

static _Atomic uint64_t manual;

static uint64_t read_clock(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

uint64_t clock_ns(void)
{
    uint64_t m = atomic_load_explicit(&manual, memory_order_relaxed);

    return m != 0 ? m : read_clock(CLOCK_MONOTONIC);
}

uint64_t clock_ms(void)
{
    return clock_ns() / NS_PER_MS;
}

uint64_t clock_wall_ms(void)
{
    return read_clock(CLOCK_REALTIME) / NS_PER_MS;
}

void clock_set(uint64_t ns)
{
    atomic_store(&manual, ns);
}

void clock_advance(uint64_t ns)
{
    atomic_fetch_add(&manual, ns);
}
