/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/replay/random.h"

#define N 624U
#define M 397U

static void seed_plain(struct mt *m, uint32_t s)
{
    m->word[0] = s;
    for (uint32_t i = 1; i < N; i++)
        m->word[i] = 1812433253U * (m->word[i - 1] ^ (m->word[i - 1] >> 30)) + i;
    m->next = N;
}

/* The reference "init_by_array" with a key of one word. */
void mt_seed(struct mt *m, uint32_t seed)
{
    uint32_t i = 1, *w = m->word;

    seed_plain(m, 19650218U);
    for (uint32_t k = N; k > 0; k--) {
        w[i] = (w[i] ^ ((w[i - 1] ^ (w[i - 1] >> 30)) * 1664525U)) + seed;
        if (++i >= N) {
            w[0] = w[N - 1];
            i = 1;
        }
    }
    for (uint32_t k = N - 1; k > 0; k--) {
        w[i] = (w[i] ^ ((w[i - 1] ^ (w[i - 1] >> 30)) * 1566083941U)) - i;
        if (++i >= N) {
            w[0] = w[N - 1];
            i = 1;
        }
    }
    w[0] = 0x80000000U;
}

uint32_t mt_word(struct mt *m)
{
    uint32_t y;

    if (m->next >= N) {
        for (uint32_t k = 0; k < N; k++) {
            y = (m->word[k] & 0x80000000U) | (m->word[(k + 1) % N] & 0x7fffffffU);
            m->word[k] = m->word[(k + M) % N] ^ (y >> 1) ^ ((y & 1U) != 0 ? 0x9908b0dfU : 0U);
        }
        m->next = 0;
    }
    y = m->word[m->next++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680U;
    y ^= (y << 15) & 0xefc60000U;
    y ^= y >> 18;
    return y;
}

double mt_unit(struct mt *m)
{
    uint32_t a = mt_word(m) >> 5, b = mt_word(m) >> 6;

    return (a * 67108864.0 + b) / 9007199254740992.0;
}

uint32_t mt_below(struct mt *m, uint32_t n)
{
    unsigned bits = 32U - (unsigned)__builtin_clz(n);
    uint32_t r;

    do {
        r = mt_word(m) >> (32U - bits);
    } while (r >= n);
    return r;
}

void mt_shuffle(struct mt *m, uint32_t *items, uint32_t count)
{
    for (uint32_t i = count; i-- > 1;) {
        uint32_t j = mt_below(m, i + 1), x = items[i];

        items[i] = items[j];
        items[j] = x;
    }
}
