/* SPDX-License-Identifier: Apache-2.0 */
#include "common/arena.h"

#include <string.h>

void arena_clear(struct arena *a)
{
    a->used = 0;
}

void *arena_room(struct arena *a, size_t bytes)
{
    void *p;

    if (bytes > a->size)
        return NULL;
    bytes = (bytes + 15) & ~(size_t)15;
    if (bytes > a->size - a->used)
        return NULL;
    p = a->base + a->used;
    a->used += bytes;
    return p;
}

void *arena_take(struct arena *a, size_t bytes)
{
    void *p = arena_room(a, bytes);

    return p != NULL ? memset(p, 0, bytes) : NULL;
}
