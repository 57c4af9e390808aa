/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "common/must.h"
#include "mailbox/box.h"

/*
 * Groups: their messages go out strictly in order. Only the first of a group stands in the queue of
 * its box; the others wait in the group, and all do while one of them is in somebody's hands. So
 * neither a long group nor its end costs the queue more than one step for each message.
 */

bool copy_is_grouped(const struct copy *k)
{
    return k->letter->grouped;
}

static uint64_t group_hash(const struct box *b, const char *name)
{
    return XXH3_64bits_withSeed(name, strlen(name), b->hash.key ^ 1);
}

static struct group *group_find(const struct box *b, const char *name)
{
    struct hash_node *n = hash_find(&b->core->groups, group_hash(b, name));

    for (; n != NULL; n = hash_find_next(n)) {
        struct group *g = container_of(n, struct group, hash);

        if (g->box == b && strcmp(g->name, name) == 0)
            return g;
    }
    return NULL;
}

static struct group *group_of(const struct copy *k)
{
    return group_find(k->box, letter_get(k->letter, TEXT_GROUP));
}

static struct group *group_open(const struct copy *k)
{
    struct box *b = k->box;
    const char *name = letter_get(k->letter, TEXT_GROUP);
    struct group *g = group_find(b, name);
    size_t len = strlen(name) + 1;

    if (g != NULL)
        return g;
    g = calloc(1, sizeof(*g) + len);
    must(g != NULL);
    memcpy(g->name, name, len);
    g->box = b;
    tree_init(&g->waiting, b->core->seed, true);
    list_init(&g->open);
    list_push(&b->groups, &g->in_box);
    hash_add(&b->core->groups, &g->hash, group_hash(b, name));
    b->core->totals.bytes += sizeof(*g) + len;
    return g;
}

static void show(struct group *g, struct copy *k)
{
    g->shown = k;
    copy_enter(k, COPY_READY);
}

static void wait(struct group *g, struct copy *k)
{
    copy_enter(k, COPY_WAITING);
    tree_add(&g->waiting, k);
}

static void show_next(struct group *g)
{
    struct copy *k = g->waiting.first;

    if (k == NULL)
        return;
    copy_leave(k); /* by group_left(), which finds something shown */
    show(g, k);
}

static void hide(struct group *g)
{
    struct copy *k = g->shown;

    g->shown = NULL;
    g->busy++; /* group_left() must neither show another nor end it */
    copy_leave(k);
    g->busy--;
    wait(g, k);
}

static void group_rest(struct group *g)
{
    struct mbox_core *c = g->box->core;

    if (g->shown == NULL && g->busy == 0)
        show_next(g);
    if (g->shown != NULL || g->busy != 0 || g->waiting.root != NULL)
        return;
    c->totals.bytes -= sizeof(*g) + strlen(g->name) + 1;
    hash_remove(&c->groups, &g->hash);
    list_remove(&g->in_box);
    list_remove(&g->open);
    free(g);
}

void group_enter(struct copy *k)
{
    struct group *g = group_open(k);
    uint64_t arrival = g->waiting.key_mask;

    if (g->busy != 0) {
        wait(g, k);
        return;
    }
    if (g->shown != NULL && (g->shown->place & arrival) < (k->place & arrival)) {
        wait(g, k);
        return;
    }
    if (g->shown != NULL)
        hide(g);
    show(g, k);
}

void group_left(struct copy *k)
{
    struct group *g = group_of(k);

    if (k->state == COPY_WAITING) { /* then something is shown, or held */
        tree_remove(&g->waiting, k);
        return;
    }
    if (g->shown == k)
        g->shown = NULL;
    group_rest(g);
}

void group_hold(struct copy *k)
{
    struct group *g = group_open(k);

    k->busy = true;
    g->busy++;
    if (g->shown != NULL && g->shown != k)
        hide(g);
}

void group_free_hold(struct copy *k)
{
    struct group *g;

    if (!k->busy)
        return;
    k->busy = false;
    g = group_of(k);
    g->busy--;
    group_rest(g);
}

struct copy *group_go_on(struct copy *k)
{
    struct group *g = group_of(k);

    if (list_is_empty(&g->open))
        list_push(&k->box->core->open_groups, &g->open);
    show_next(g);
    return g->shown;
}

void groups_close(struct mbox_core *c)
{
    struct list *n;

    while ((n = list_take(&c->open_groups)) != NULL) {
        struct group *g = container_of(n, struct group, open);

        if (g->shown != NULL && g->busy != 0)
            hide(g);
    }
}
