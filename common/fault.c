/* SPDX-License-Identifier: Apache-2.0 */
#include "common/fault.h"

#ifdef SLIP_FAULTS
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/must.h"

static _Atomic unsigned armed[FAULT_COUNT];
static const char *const names[] = {
#define FAULT(name, help) #name,
#include "common/faults.def"
#undef FAULT
};

bool fault_hits(enum fault f)
{
    unsigned left = atomic_load(&armed[f]);

    while (left > 0)
        if (atomic_compare_exchange_weak(&armed[f], &left, left - 1))
            return true;
    return false;
}

void fault_arm(const char *name, unsigned count)
{
    unsigned i;

    for (i = 0; i < FAULT_COUNT; i++)
        if (strcmp(names[i], name) == 0) {
            atomic_store(&armed[i], count);
            return;
        }
    must(i < FAULT_COUNT); /* a name that faults.def lacks */
}

void fault_init(void)
{
    const char *env = getenv("SLIPSTREAM_FAULTS");
    char name[64];
    unsigned count;
    int used;

    while (env != NULL && sscanf(env, "%63[a-z_]=%u%n", name, &count, &used) == 2) {
        fault_arm(name, count);
        env += used;
        if (*env == ',')
            env++;
    }
}
#else
typedef int fault_is_empty_here;
#endif
