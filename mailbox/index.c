/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "common/must.h"
#include "mailbox/box.h"

/*
 * Copies by (box, message id): linear hashing. Each copy more adds one bucket and splits one, so
 * that no send ever pays for rehashing a million. The number of copies that share an id in a box is
 * bounded where they are sent.
 */
#define FIRST_BUCKETS 64u

void index_fini(struct index *x)
{
    free(x->buckets);
    *x = (struct index){0};
}

/* The largest power of two that is not above len. */
static uint32_t level_of(uint32_t len)
{
    return UINT32_C(0x80000000) >> __builtin_clz(len);
}

static struct copy **bucket_of(const struct index *x, uint32_t hash)
{
    uint32_t level = level_of(x->len), at = hash & (2 * level - 1);

    return &x->buckets[at < x->len ? at : at - level];
}

static void reserve(struct index *x)
{
    if (x->len < x->cap)
        return;
    x->cap = x->cap != 0 ? x->cap + x->cap / 4 : FIRST_BUCKETS;
    x->buckets = realloc(x->buckets, x->cap * sizeof(struct copy *));
    must(x->buckets != NULL);
    if (x->len == 0) {
        memset(x->buckets, 0, FIRST_BUCKETS * sizeof(struct copy *));
        x->len = FIRST_BUCKETS;
    }
}

static void split(struct index *x)
{
    uint32_t level, from;
    struct copy *k, **keep, **move;

    reserve(x);
    if (x->len == x->cap)
        return;
    level = level_of(x->len);
    from = x->len - level;
    move = &x->buckets[x->len];
    *move = NULL;
    keep = &x->buckets[from];
    while ((k = *keep) != NULL) {
        if ((k->hash & (2 * level - 1)) == from) {
            keep = &k->next_same;
            continue;
        }
        *keep = k->next_same;
        k->next_same = *move;
        *move = k;
    }
    x->len++;
}

void index_add(struct index *x, struct copy *k)
{
    struct copy **b;

    if (x->count >= x->len)
        split(x);
    b = bucket_of(x, k->hash);
    k->next_same = *b;
    *b = k;
    x->count++;
}

void index_remove(struct index *x, struct copy *k)
{
    struct copy **at = bucket_of(x, k->hash);

    while (*at != k) {
        must(*at != NULL);
        at = &(*at)->next_same;
    }
    *at = k->next_same;
    x->count--;
}

uint32_t index_hash(const struct box *b, const char *message_id)
{
    return (uint32_t)XXH3_64bits_withSeed(message_id, strlen(message_id), b->hash.key);
}

static bool is_of(const struct copy *k, const struct box *b, uint32_t hash, const char *message_id)
{
    return k->hash == hash && k->box == b &&
           strcmp(letter_get(k->letter, TEXT_ID), message_id) == 0;
}

struct copy *index_find(const struct box *b, const char *message_id, unsigned states, uint64_t id)
{
    const struct index *x = &b->core->index;
    uint32_t hash = index_hash(b, message_id);
    struct copy *k;

    if (x->count == 0)
        return NULL;
    for (k = *bucket_of(x, hash); k != NULL; k = k->next_same)
        if ((states & 1u << k->state) != 0 && (id == 0 || k->id == id) &&
            is_of(k, b, hash, message_id))
            return k;
    return NULL;
}

uint32_t index_count(const struct box *b, const char *message_id)
{
    const struct index *x = &b->core->index;
    uint32_t hash = index_hash(b, message_id), count = 0;
    const struct copy *k;

    if (x->count == 0)
        return 0;
    for (k = *bucket_of(x, hash); k != NULL && count < MBOX_SAME_ID; k = k->next_same)
        count += is_of(k, b, hash, message_id);
    return count;
}
