/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/replay/perfect.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "common/must.h"

void perfect_init(struct perfect *p)
{
    p->room = 1U << 16;
    p->used = 0;
    p->slots = calloc(p->room, sizeof(*p->slots));
    must(p->slots != NULL);
}

void perfect_fini(struct perfect *p)
{
    free(p->slots);
    memset(p, 0, sizeof(*p));
}

/* The slot that holds name, or the free one where it belongs. */
static uint64_t *slot_of(const struct perfect *p, uint64_t name)
{
    size_t i = name & (p->room - 1);

    while (p->slots[i] != 0 && p->slots[i] != name)
        i = (i + 1) & (p->room - 1);
    return &p->slots[i];
}

static void grow(struct perfect *p)
{
    uint64_t *old = p->slots;
    size_t room = p->room;

    p->room *= 2;
    p->slots = calloc(p->room, sizeof(*p->slots));
    must(p->slots != NULL);
    for (size_t i = 0; i < room; i++)
        if (old[i] != 0)
            *slot_of(p, old[i]) = old[i];
    free(old);
}

size_t perfect_match(const struct perfect *p, const struct chain *c)
{
    size_t n = 0;

    while (n < c->count && *slot_of(p, c->names[n]) != 0)
        n++;
    return n;
}

void perfect_learn(struct perfect *p, const struct chain *c)
{
    for (size_t i = 0; i < c->count; i++) {
        uint64_t *slot = slot_of(p, c->names[i]);

        if (*slot != 0)
            continue;
        *slot = c->names[i];
        if (++p->used * 2 > p->room)
            grow(p);
    }
}

static void add_block(struct chain *c, const uint32_t *tokens)
{
    uint64_t before = c->count > 0 ? c->names[c->count - 1] : 0, name;

    if (c->count == c->room) {
        c->room = c->room == 0 ? 256 : c->room * 2;
        c->names = realloc(c->names, c->room * sizeof(*c->names));
        must(c->names != NULL);
    }
    name = XXH3_64bits_withSeed(tokens, PERFECT_BLOCK * sizeof(*tokens), before);
    c->names[c->count++] = name != 0 ? name : 1;
}

void chain_add(struct chain *c, const uint32_t *tokens, size_t count)
{
    while (count > 0) {
        size_t n = PERFECT_BLOCK - c->tail_count;

        if (c->tail_count == 0 && count >= PERFECT_BLOCK) {
            add_block(c, tokens);
            tokens += PERFECT_BLOCK;
            count -= PERFECT_BLOCK;
            continue;
        }
        n = n < count ? n : count;
        memcpy(c->tail + c->tail_count, tokens, n * sizeof(*tokens));
        c->tail_count += (uint32_t)n;
        tokens += n;
        count -= n;
        if (c->tail_count == PERFECT_BLOCK) {
            add_block(c, c->tail);
            c->tail_count = 0;
        }
    }
}

void chain_fini(struct chain *c)
{
    free(c->names);
    memset(c, 0, sizeof(*c));
}
