/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_CLOCK_H
#define SLIP_CLOCK_H

#include <stdint.h>

#define NS_PER_US UINT64_C(1000)
#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S UINT64_C(1000000000)

/* Nanoseconds of CLOCK_MONOTONIC, or the manual clock once a test has set one. Any thread. */
uint64_t clock_ns(void);
uint64_t clock_ms(void);

/* Milliseconds since 1970, for messages that people read. */
uint64_t clock_wall_ms(void);

/* Tests move time by hand: from the first call on, clock_ns() answers what was set. ns must not be
 * 0. */
void clock_set(uint64_t ns);
void clock_advance(uint64_t ns);

#endif
