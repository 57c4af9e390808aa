/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_BESIDE_H
#define SLIP_BESIDE_H

#include <stdbool.h>
#include <stdint.h>

/* Does what near.h says with the CPU affinity of the calling thread. Never leaves the CPUs that the
 * process was started with. Where the kernel does not tell how long a thread waits, it does
 * nothing. */
struct beside;

struct beside *beside_new(bool wanted); /* setting mailbox.follow_worker */
void beside_free(struct beside *b);
void beside_want(struct beside *b, bool wanted);
void beside_answered(struct beside *b, uint32_t cpu); /* as near_answered() */
void beside_beat(struct beside *b, uint64_t now_ns);

#endif
