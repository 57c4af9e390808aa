/* SPDX-License-Identifier: Apache-2.0 */
#include "common/must.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "common/log.h"

static atomic_ulong found;

_Noreturn void must_failed(const char *expr, const char *file, int line)
{
    log_error("must_failed", "expr=\"%s\" at=%s:%d", expr, file, line);
    abort();
}

bool broken_found(const char *expr, const char *file, int line)
{
    atomic_fetch_add(&found, 1);
    log_error("broken", "expr=\"%s\" at=%s:%d", expr, file, line);
#if defined(SLIP_FAULTS) || defined(SLIP_SANITIZED)
    abort();
#endif
    return true;
}

unsigned long broken_count(void)
{
    return atomic_load(&found);
}
