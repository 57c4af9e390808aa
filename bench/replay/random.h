/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REPLAY_RANDOM_H
#define REPLAY_RANDOM_H

#include <stdint.h>

/*
 * MT19937 seeded with one integer, and the draws of Python's random.Random(seed): whoever selects
 * sessions of a trace with that, as most analysis scripts do, selects the same ones in the same
 * order as we do.
 */
struct mt {
    uint32_t word[624];
    uint32_t next;
};

void mt_seed(struct mt *m, uint32_t seed);
uint32_t mt_word(struct mt *m);
double mt_unit(struct mt *m);                /* [0, 1), 53 bits */
uint32_t mt_below(struct mt *m, uint32_t n); /* n > 0 */
void mt_shuffle(struct mt *m, uint32_t *items, uint32_t count);

#endif
