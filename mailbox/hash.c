/* SPDX-License-Identifier: Apache-2.0 */
#include "mailbox/hash.h"

#include <stdlib.h>

#include "common/must.h"

void hash_init(struct hash *h)
{
    h->mask = 63;
    h->count = 0;
    h->buckets = calloc(h->mask + 1, sizeof(struct hash_node *));
    must(h->buckets != NULL);
}

void hash_fini(struct hash *h)
{
    free(h->buckets);
    *h = (struct hash){0};
}

static void hash_grow(struct hash *h)
{
    size_t mask = h->mask * 2 + 1, i;
    struct hash_node **buckets = calloc(mask + 1, sizeof(struct hash_node *)), *n;

    must(buckets != NULL);
    for (i = 0; i <= h->mask; i++)
        while ((n = h->buckets[i]) != NULL) {
            h->buckets[i] = n->next;
            n->next = buckets[n->key & mask];
            buckets[n->key & mask] = n;
        }
    free(h->buckets);
    h->buckets = buckets;
    h->mask = mask;
}

void hash_add(struct hash *h, struct hash_node *n, uint64_t key)
{
    if (h->count > h->mask)
        hash_grow(h);
    n->key = key;
    n->next = h->buckets[key & h->mask];
    h->buckets[key & h->mask] = n;
    h->count++;
}

void hash_remove(struct hash *h, struct hash_node *n)
{
    struct hash_node **at = &h->buckets[n->key & h->mask];

    while (*at != n) {
        must(*at != NULL);
        at = &(*at)->next;
    }
    *at = n->next;
    n->next = NULL;
    h->count--;
}

static struct hash_node *skip_others(struct hash_node *n, uint64_t key)
{
    while (n != NULL && n->key != key)
        n = n->next;
    return n;
}

struct hash_node *hash_find(const struct hash *h, uint64_t key)
{
    return skip_others(h->buckets[key & h->mask], key);
}

struct hash_node *hash_find_next(const struct hash_node *n)
{
    return skip_others(n->next, n->key);
}
