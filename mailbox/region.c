/* SPDX-License-Identifier: Apache-2.0 */
#include "mailbox/region.h"

#include <stdlib.h>
#include <string.h>

#include "common/must.h"

#define ALIGN 16u
#define BLOCK_BYTES (64u << 10)

struct region_block {
    struct region_block *next;
    size_t cap;
    _Alignas(ALIGN) char bytes[];
};

static struct region_block *block_new(size_t cap, struct region_block *next)
{
    struct region_block *b = malloc(sizeof(*b) + cap);

    must(b != NULL);
    b->next = next;
    b->cap = cap;
    return b;
}

static void *on_alloc(void *arg, size_t bytes)
{
    return region_take(arg, bytes);
}

static void on_free(void *arg, void *p)
{
    (void)arg;
    (void)p;
}

void region_init(struct region *r, size_t stays, size_t max)
{
    *r = (struct region){.blocks = block_new(stays, NULL),
                         .total = stays,
                         .max = max,
                         .allocator = {on_alloc, on_free, r}};
}

void region_clear(struct region *r)
{
    struct region_block *b;

    while ((b = r->blocks)->next != NULL) {
        r->blocks = b->next;
        free(b);
    }
    r->used = 0;
    r->total = r->blocks->cap;
}

void region_fini(struct region *r)
{
    if (r->blocks == NULL)
        return;
    region_clear(r);
    free(r->blocks);
    r->blocks = NULL;
}

void *region_take(struct region *r, size_t bytes)
{
    size_t need, cap;
    void *p;

    if (bytes > r->max)
        return NULL;
    need = (bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    if (need > r->blocks->cap - r->used) {
        cap = need > BLOCK_BYTES ? need : BLOCK_BYTES;
        if (r->total + cap > r->max)
            return NULL;
        r->blocks = block_new(cap, r->blocks);
        r->total += cap;
        r->used = 0;
    }
    p = r->blocks->bytes + r->used;
    r->used += need;
    return p;
}

void *region_get(struct region *r, size_t bytes)
{
    void *p = region_take(r, bytes);

    must(p != NULL);
    return p;
}

char *region_text(struct region *r, const char *s)
{
    size_t len = strlen(s) + 1;

    return memcpy(region_get(r, len), s, len);
}
