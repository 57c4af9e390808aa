/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/sim/sim_kv.h"

#include <stdlib.h>
#include <string.h>

#include "common/must.h"

void sim_kv_init(struct sim_kv *k, uint32_t blocks)
{
    memset(k, 0, sizeof(*k));
    k->copies = calloc((size_t)blocks + 1, sizeof(*k->copies));
    k->users = calloc((size_t)blocks + 1, sizeof(*k->users));
    k->ever = calloc((size_t)blocks + 1, sizeof(*k->ever));
    must(k->copies != NULL && k->users != NULL && k->ever != NULL);
}

void sim_kv_fini(struct sim_kv *k)
{
    free(k->copies);
    free(k->users);
    free(k->ever);
}

static void residency_until(struct sim_kv *k, double now)
{
    double d = now - k->changed_at;

    if (!(d > 0))
        return;
    k->all_time += d * (double)k->all;
    k->distinct_time += d * (double)k->distinct;
    k->changed_at = now;
}

static void held_until(struct sim_kv *k, double now)
{
    k->held_time += (now - k->held_at) * (double)k->held;
    k->held_at = now;
}

void sim_kv_come(struct sim_kv *k, double now, uint32_t block)
{
    residency_until(k, now);
    held_until(k, now);
    k->ever[block] = true;
    k->all++;
    k->distinct += k->copies[block]++ == 0;
    k->held += k->users[block] > 0;
    if (k->all > k->all_peak)
        k->all_peak = k->all;
    if (k->distinct > k->distinct_peak)
        k->distinct_peak = k->distinct;
}

void sim_kv_go(struct sim_kv *k, double now, uint32_t block)
{
    must(k->copies[block] > 0);
    residency_until(k, now);
    held_until(k, now);
    k->all--;
    k->distinct -= --k->copies[block] == 0;
    k->held -= k->users[block] > 0;
}

void sim_kv_use(struct sim_kv *k, double now, const uint32_t *blocks, uint32_t count)
{
    held_until(k, now);
    for (uint32_t i = 0; i < count; i++)
        if (k->users[blocks[i]]++ == 0)
            k->held += k->copies[blocks[i]];
}

void sim_kv_unuse(struct sim_kv *k, double now, const uint32_t *blocks, uint32_t count)
{
    held_until(k, now);
    for (uint32_t i = 0; i < count; i++)
        if (--k->users[blocks[i]] == 0)
            k->held -= k->copies[blocks[i]];
}

double sim_kv_duplicates(const struct sim_kv *k)
{
    return k->all_time > 0 ? 100 * (1 - k->distinct_time / k->all_time) : 0;
}

double sim_kv_held(struct sim_kv *k, double end)
{
    held_until(k, end);
    return end > 0 ? k->held_time / end : 0;
}
