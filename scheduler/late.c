/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/late.h"

#include "common/clock.h"

#define LATE_MOST (60 * NS_PER_S)

static void see(struct late *l, uint64_t ns)
{
    l->seen_ns[l->seen++ % LATE_SEEN] = ns < LATE_MOST ? ns : LATE_MOST;
    l->ns = 0;
    for (uint32_t i = 0; i < LATE_SEEN; i++)
        l->ns = l->seen_ns[i] > l->ns ? l->seen_ns[i] : l->ns;
}

void late_computed(struct late *l, uint64_t digest, bool told, uint64_t now)
{
    if (l->awaited != 0 && now - l->since_ns > LATE_MOST) {
        l->awaited = 0; /* it never came */
        see(l, LATE_MOST);
    }
    if (told) {
        see(l, 0);
    } else if (l->awaited == 0) {
        l->awaited = digest;
        l->since_ns = now;
    }
}

void late_stored(struct late *l, const uint64_t *ids, uint32_t n, uint64_t now)
{
    if (l->awaited == 0)
        return;
    for (uint32_t i = 0; i < n; i++) {
        if (ids[i] != l->awaited)
            continue;
        see(l, now - l->since_ns);
        l->awaited = 0;
        return;
    }
}
