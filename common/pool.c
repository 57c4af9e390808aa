/* SPDX-License-Identifier: Apache-2.0 */
#include "common/pool.h"

#include <stdlib.h>
#include <string.h>

#include "common/must.h"

struct pool_slot {
    void *object; /* NULL while free */
    uint32_t generation;
    uint32_t next_free; /* slot + 1, 0 = end */
};

void pool_init(struct pool *p, size_t object_bytes, uint32_t capacity)
{
    *p = (struct pool){.object_bytes = (object_bytes + 15) & ~(size_t)15, .capacity = capacity};
    p->slots = calloc(capacity, sizeof(*p->slots));
    must(p->slots != NULL);
#ifndef SLIP_SANITIZED
    p->memory = calloc(capacity, p->object_bytes); /* untouched pages cost nothing */
    must(p->memory != NULL);
#endif
}

void pool_fini(struct pool *p)
{
    uint32_t i;

    if (p->memory == NULL && p->slots != NULL)
        for (i = 0; i < p->fresh; i++)
            free(p->slots[i].object);
    free(p->memory);
    free(p->slots);
    *p = (struct pool){0};
}

void *pool_take(struct pool *p, uint64_t *handle)
{
    struct pool_slot *s;
    uint32_t slot;

    if (p->free_head != 0) {
        slot = p->free_head - 1;
        s = &p->slots[slot];
        p->free_head = s->next_free;
    } else if (p->fresh < p->capacity) {
        slot = p->fresh++;
        s = &p->slots[slot];
        s->generation = 1;
    } else {
        return NULL;
    }
    if (p->memory != NULL) {
        s->object = p->memory + (size_t)slot * p->object_bytes;
        memset(s->object, 0, p->object_bytes);
    } else {
        s->object = calloc(1, p->object_bytes);
        must(s->object != NULL);
    }
    p->used++;
    *handle = (uint64_t)s->generation << 32 | (slot + 1);
    return s->object;
}

static struct pool_slot *slot_find(const struct pool *p, uint64_t handle)
{
    uint32_t slot = (uint32_t)handle;
    struct pool_slot *s;

    if (slot == 0 || slot > p->fresh)
        return NULL;
    s = &p->slots[slot - 1];
    return s->object != NULL && s->generation == handle >> 32 ? s : NULL;
}

void pool_give(struct pool *p, uint64_t handle)
{
    struct pool_slot *s = slot_find(p, handle);

    must(s != NULL);
    if (p->memory == NULL)
        free(s->object);
    s->object = NULL;
    s->generation++;
    if (s->generation == 0)
        s->generation = 1;
    s->next_free = p->free_head;
    p->free_head = (uint32_t)handle;
    p->used--;
}

void *pool_find(const struct pool *p, uint64_t handle)
{
    struct pool_slot *s = slot_find(p, handle);

    return s != NULL ? s->object : NULL;
}

void *pool_slot_object(const struct pool *p, uint32_t slot)
{
    return p->slots[slot].object;
}

void *pool_next(const struct pool *p, uint32_t *cursor, uint64_t *handle)
{
    for (; *cursor < p->fresh; (*cursor)++) {
        struct pool_slot *s = &p->slots[*cursor];

        if (s->object != NULL) {
            *handle = (uint64_t)s->generation << 32 | (*cursor + 1);
            (*cursor)++;
            return s->object;
        }
    }
    return NULL;
}
