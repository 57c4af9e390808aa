/* SPDX-License-Identifier: Apache-2.0 */
#include "mailbox/near.h"

#define FEW 16u /* too few to say anything */

void near_init(struct near *n)
{
    *n = (struct near){.cpu = NEAR_ANYWHERE,
                       .seen_cpu = NEAR_ANYWHERE,
                       .pause = 1, /* the first beat only learns where use stands */
                       .pause_next = NEAR_PAUSE_BEATS};
}

uint32_t near_answered(struct near *n, uint32_t cpu)
{
    n->answers++;
    n->elsewhere += cpu != n->cpu;
    n->streak = cpu == n->seen_cpu ? n->streak + 1 : 1;
    n->seen_cpu = cpu;
    if (n->pause == 0 && cpu != n->cpu && n->streak >= NEAR_STREAK) {
        n->cpu = cpu;
        n->answers = n->elsewhere = 0;
    }
    return n->cpu;
}

static void let_go(struct near *n)
{
    n->cpu = NEAR_ANYWHERE;
    n->streak = n->good = 0;
    n->pause = n->pause_next;
    if (n->pause_next < NEAR_PAUSE_BEATS_MAX)
        n->pause_next *= 2;
}

uint32_t near_beat(struct near *n, const struct near_use *use, uint64_t span_ns)
{
    uint64_t ran = use->ran_ns - n->use.ran_ns, waited = use->waited_ns - n->use.waited_ns,
             turns = use->turns - n->use.turns;
    bool is_busy = ran > span_ns / NEAR_BUSY;
    uint64_t wait_ns = turns >= FEW ? waited / turns : 0;
    bool is_kept = wait_ns > NEAR_WAIT_NS && wait_ns > 2 * n->free_wait_ns;
    bool is_torn = n->answers >= 2 * FEW && n->elsewhere > n->answers / 4;

    if (n->cpu != NEAR_ANYWHERE && (is_busy || is_kept || is_torn)) {
        let_go(n);
    } else if (n->cpu == NEAR_ANYWHERE) {
        n->free_wait_ns = turns >= FEW ? wait_ns : n->free_wait_ns;
        n->pause -= n->pause > 0;
        if (is_busy && n->pause == 0)
            n->pause = 1;
    } else if (++n->good >= n->pause_next) {
        n->pause_next = NEAR_PAUSE_BEATS;
    }
    n->answers = n->elsewhere = 0;
    n->use = *use;
    return n->cpu;
}
