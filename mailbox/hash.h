/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_MAILBOX_HASH_H
#define SLIP_MAILBOX_HASH_H

#include <stddef.h>
#include <stdint.h>

/*
 * Intrusive hash table by a 64-bit key that the caller computes. Several nodes may share a key; the
 * caller tells them apart. Grows by doubling, never shrinks. One thread.
 */
struct hash_node {
    struct hash_node *next;
    uint64_t key;
};

struct hash {
    struct hash_node **buckets;
    size_t mask, count;
};

void hash_init(struct hash *h);
void hash_fini(struct hash *h); /* nodes are the caller's */
void hash_add(struct hash *h, struct hash_node *n, uint64_t key);
void hash_remove(struct hash *h, struct hash_node *n);           /* must be in it */
struct hash_node *hash_find(const struct hash *h, uint64_t key); /* NULL when none */
struct hash_node *hash_find_next(const struct hash_node *n);     /* another one of the same key */

#endif
