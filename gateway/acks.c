/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/acks.h"

static bool try_again(struct acks *a, struct acks_engine *e, uint64_t now_ns)
{
    if (e->failed >= ACKS_TRIALS) {
        if (now_ns < e->retry_ns)
            return false;
        e->failed = ACKS_TRIALS - 1;
    }
    a->delayed = true;
    return true;
}

bool acks_on_piece(struct acks *a, struct acks_engine *e, uint64_t now_ns)
{
    uint64_t pause = now_ns - a->last_ns;
    bool first = a->last_ns == 0;

    a->last_ns = now_ns;
    if (first)
        return try_again(a, e, now_ns);
    if (pause >= ACKS_PAUSE_NS) {
        a->quick = 0;
        if (a->delayed && ++e->failed >= ACKS_TRIALS)
            e->retry_ns = now_ns + ACKS_RETRY_NS;
        a->delayed = false;
        return false;
    }
    if (++a->quick < ACKS_RUN)
        return false;
    a->quick = 0;
    if (!a->delayed)
        return try_again(a, e, now_ns);
    e->failed = 0;
    return false;
}
