/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_FAULT_H
#define SLIP_FAULT_H

#include <stdbool.h>

/*
 * Named failures that tests arm; the list is faults.def. Absent from release builds: fault_hits()
 * is then false and costs nothing. A process reads SLIPSTREAM_FAULTS="name=count,name=count" at
 * start; units call fault_arm().
 */
enum fault {
#define FAULT(name, help) FAULT_##name,
#include "common/faults.def"
#undef FAULT
    FAULT_COUNT
};

#ifdef SLIP_FAULTS
bool fault_hits(enum fault f); /* true count times after arming */
void fault_arm(const char *name, unsigned count);
void fault_init(void);
#else
#define fault_hits(f) false
#define fault_init() ((void)0)
#endif

#endif
