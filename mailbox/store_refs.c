/* SPDX-License-Identifier: Apache-2.0 */
#include "mailbox/store_refs.h"

#include <stdlib.h>
#include <string.h>

#include "common/must.h"

#define PART 1024u /* slots in one part */

static struct ref_slot *slot_at(const struct refs *r, uint32_t i)
{
    return (struct ref_slot *)(void *)(r->parts[i / PART] + (i % PART) * r->item_size);
}

void refs_init(struct refs *r, size_t item_size)
{
    must(item_size >= sizeof(struct ref_slot) && item_size % sizeof(void *) == 0);
    *r = (struct refs){.item_size = item_size};
}

void refs_fini(struct refs *r)
{
    uint32_t i;

    for (i = 0; i < r->part_count; i++)
        free(r->parts[i]);
    free(r->parts);
    *r = (struct refs){0};
}

static void part_add(struct refs *r)
{
    if (r->part_count == r->part_cap) {
        r->part_cap = r->part_cap != 0 ? r->part_cap * 2 : 16;
        r->parts = realloc(r->parts, r->part_cap * sizeof(r->parts[0]));
        must(r->parts != NULL);
    }
    r->parts[r->part_count] = calloc(PART, r->item_size);
    must(r->parts[r->part_count] != NULL);
    r->part_count++;
}

void *refs_take(struct refs *r, uint64_t *ref)
{
    struct ref_slot *s;
    uint32_t i, generation;

    if (r->free_head != 0) {
        i = r->free_head - 1;
        s = slot_at(r, i);
        r->free_head = s->word;
    } else {
        must(r->len < UINT32_MAX - 1);
        if (r->len == r->part_count * PART)
            part_add(r);
        i = r->len++;
        s = slot_at(r, i);
    }
    generation = s->generation + 1;
    memset(s, 0, r->item_size);
    s->generation = generation;
    *ref = (uint64_t)generation << 32 | (i + 1);
    return s;
}

void *refs_find(const struct refs *r, uint64_t ref)
{
    uint32_t at = (uint32_t)ref, generation = (uint32_t)(ref >> 32);
    struct ref_slot *s;

    if (at == 0 || at > r->len || generation % 2 == 0)
        return NULL;
    s = slot_at(r, at - 1);
    return s->generation == generation ? s : NULL;
}

void refs_give(struct refs *r, void *item, uint64_t ref)
{
    struct ref_slot *s = item;

    s->generation++;
    s->word = r->free_head;
    r->free_head = (uint32_t)ref;
}

void *refs_at(const struct refs *r, uint32_t i)
{
    struct ref_slot *s = slot_at(r, i);

    return s->generation % 2 == 1 ? s : NULL;
}
