/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include <xxhash.h>

#include "mailbox/box.h"

/*
 * Copies in order of their places: a treap with parent pointers. Adding at the end and taking from
 * the front, which is what nearly always happens, cost no search. Each node carries two bits for
 * every type below it, so that a reader of rare types does not walk past all the others.
 */

void tree_init(struct tree *t, uint64_t seed, bool by_arrival)
{
    *t = (struct tree){.seed = seed,
                       .key_mask = by_arrival ? (UINT64_C(1) << MBOX_PLACE_BITS) - 1 : UINT64_MAX};
}

static uint64_t key_of(const struct tree *t, const struct copy *k)
{
    return k->place & t->key_mask;
}

static uint64_t rank_of(const struct tree *t, const struct copy *k)
{
    uint64_t x = k->id ^ t->seed;

    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

uint64_t type_mask(const char *type)
{
    uint64_t h = XXH3_64bits(type, strlen(type));

    return UINT64_C(1) << (h & 63u) | UINT64_C(1) << (h >> 6 & 63u);
}

static uint64_t own_mask(const struct copy *k)
{
    unsigned bits = k->letter->type_bits;

    return UINT64_C(1) << (bits & 63u) | UINT64_C(1) << (bits >> 6 & 63u);
}

static uint64_t mask_of(const struct copy *k)
{
    return own_mask(k) | (k->left != NULL ? k->left->mask : 0) |
           (k->right != NULL ? k->right->mask : 0);
}

static struct copy **link_of(struct tree *t, const struct copy *k)
{
    if (k->up == NULL)
        return &t->root;
    return k->up->left == k ? &k->up->left : &k->up->right;
}

/* k changes places with its parent. */
static void rotate_up(struct tree *t, struct copy *k)
{
    struct copy *p = k->up, *moved;

    *link_of(t, p) = k;
    k->up = p->up;
    if (p->left == k) {
        moved = k->right;
        p->left = moved;
        k->right = p;
    } else {
        moved = k->left;
        p->right = moved;
        k->left = p;
    }
    if (moved != NULL)
        moved->up = p;
    p->up = k;
    k->mask = p->mask;
    p->mask = mask_of(p);
}

static void attach(struct tree *t, struct copy *k)
{
    uint64_t key = key_of(t, k);
    struct copy *at = t->root, **to = &t->root;

    if (t->last != NULL && key > key_of(t, t->last)) {
        at = t->last;
        to = &at->right;
    }
    while (*to != NULL) {
        at = *to;
        to = key < key_of(t, at) ? &at->left : &at->right;
    }
    *to = k;
    k->up = t->root == k ? NULL : at;
    if (t->first == NULL || key < key_of(t, t->first))
        t->first = k;
    if (t->last == NULL || key > key_of(t, t->last))
        t->last = k;
}

void tree_add(struct tree *t, struct copy *k)
{
    struct copy *p;

    k->left = k->right = NULL;
    k->mask = own_mask(k);
    attach(t, k);
    for (p = k->up; p != NULL && (p->mask | k->mask) != p->mask; p = p->up)
        p->mask |= k->mask;
    while (k->up != NULL && rank_of(t, k) < rank_of(t, k->up))
        rotate_up(t, k);
}

static struct copy *before(struct copy *k)
{
    if (k->left != NULL) {
        k = k->left;
        while (k->right != NULL)
            k = k->right;
        return k;
    }
    while (k->up != NULL && k == k->up->left)
        k = k->up;
    return k->up;
}

void tree_remove(struct tree *t, struct copy *k)
{
    struct copy *child, *p;

    if (t->first == k)
        t->first = tree_next(k, NULL, 0);
    if (t->last == k)
        t->last = before(k);
    while (k->left != NULL && k->right != NULL)
        rotate_up(t, rank_of(t, k->left) < rank_of(t, k->right) ? k->left : k->right);
    child = k->left != NULL ? k->left : k->right;
    *link_of(t, k) = child;
    if (child != NULL)
        child->up = k->up;
    for (p = k->up; p != NULL; p = p->up) {
        uint64_t mask = mask_of(p);

        if (mask == p->mask)
            break;
        p->mask = mask;
    }
}

static bool may_hold(const struct copy *k, const uint64_t *masks, size_t count)
{
    size_t i;

    if (k == NULL)
        return false;
    for (i = 0; i < count; i++)
        if ((k->mask & masks[i]) == masks[i])
            return true;
    return count == 0;
}

/* The first of a subtree that may hold one. It need not be one itself. */
static struct copy *leftmost(struct copy *k, const uint64_t *masks, size_t count)
{
    while (may_hold(k->left, masks, count))
        k = k->left;
    return k;
}

struct copy *tree_next(struct copy *k, const uint64_t *masks, size_t count)
{
    if (may_hold(k->right, masks, count))
        return leftmost(k->right, masks, count);
    while (k->up != NULL && k == k->up->right)
        k = k->up;
    return k->up;
}

struct copy *tree_seek(const struct tree *t, uint64_t place, const uint64_t *masks, size_t count)
{
    struct copy *at = t->root, *best = NULL;

    if (!may_hold(at, masks, count))
        return NULL;
    if (place <= key_of(t, t->first))
        return leftmost(at, masks, count);
    while (at != NULL) {
        if (key_of(t, at) >= place) {
            best = at;
            at = at->left;
        } else {
            at = at->right;
        }
    }
    return best;
}
