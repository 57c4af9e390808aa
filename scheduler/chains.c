/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/chains.h"

#include <stdlib.h>
#include <string.h>

#include "common/must.h"

#define CHAIN_SMALLEST 16u

struct chain {
    struct list all, spare;
    uint32_t size;
    uint64_t digests[];
};

void chains_init(struct chains *cs)
{
    list_init(&cs->all);
    for (uint32_t i = 0; i < CHAIN_SIZES; i++)
        list_init(&cs->spare[i]);
}

void chains_fini(struct chains *cs)
{
    struct list *at;

    while ((at = list_take(&cs->all)) != NULL)
        free(container_of(at, struct chain, all));
}

uint64_t *chain_keep(struct chains *cs, const uint64_t *d, uint32_t n)
{
    uint32_t size = 0;
    struct list *at;
    struct chain *ch;

    if (n == 0)
        return NULL;
    while (CHAIN_SMALLEST << size < n)
        size++;
    must(size < CHAIN_SIZES);
    at = list_take(&cs->spare[size]);
    if (at != NULL) {
        ch = container_of(at, struct chain, spare);
    } else {
        ch = malloc(sizeof(*ch) + sizeof(*d) * (CHAIN_SMALLEST << size));
        must(ch != NULL);
        ch->size = size;
        list_init(&ch->spare);
        list_push(&cs->all, &ch->all);
    }
    memcpy(ch->digests, d, n * sizeof(*d));
    return ch->digests;
}

void chain_drop(struct chains *cs, uint64_t *chain)
{
    struct chain *ch;

    if (chain == NULL)
        return;
    ch = container_of(chain, struct chain, digests);
    list_push_front(&cs->spare[ch->size], &ch->spare);
}
