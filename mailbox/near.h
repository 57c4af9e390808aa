/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_NEAR_H
#define SLIP_NEAR_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Which CPU a process that has little to do should keep to: the one where whoever waits for its
 * answers sleeps. The two take turns then, and waking each other is a switch; on different CPUs
 * every call and every answer has to wake a CPU that rests. As soon as this one has much to do, has
 * to wait for the CPU longer than elsewhere, or its callers sleep here and there, it goes wherever
 * the kernel wants.
 *
 * Pure: told of answers and beats, says a CPU.
 */
#define NEAR_ANYWHERE UINT32_MAX
#define NEAR_STREAK 16u     /* answers to readers on the same CPU before it is followed */
#define NEAR_BUSY 10u       /* a tenth of its time is much to do */
#define NEAR_WAIT_NS 50000u /* mean time from being woken to running: somebody is in the way */
#define NEAR_PAUSE_BEATS 4u /* after it had to let go; twice as long each time */
#define NEAR_PAUSE_BEATS_MAX 256u /* until it went well for as long */

struct near_use { /* of the thread, since it began */
    uint64_t ran_ns, waited_ns, turns;
};

struct near {
    uint32_t cpu;      /* followed; NEAR_ANYWHERE: none */
    uint32_t seen_cpu; /* of the last readers */
    uint32_t streak, answers, elsewhere;
    uint32_t pause, pause_next, good; /* beats */
    uint64_t free_wait_ns;            /* mean of the last beat in which it went anywhere */
    struct near_use use;
};

void near_init(struct near *n);
/* An answer went to a reader that sleeps on cpu. Returns the CPU to keep to. */
uint32_t near_answered(struct near *n, uint32_t cpu);
/* span_ns: since the beat before. Returns the CPU to keep to. */
uint32_t near_beat(struct near *n, const struct near_use *use, uint64_t span_ns);

#endif
