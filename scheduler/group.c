/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/group.h"

#include <xxhash.h>

#include "common/clock.h"
#include "common/must.h"
#include "scheduler/state.h"

void groups_init(struct groups *gs, uint32_t capacity)
{
    pool_init(&gs->pool, sizeof(struct group), capacity);
    table_init(&gs->index, capacity);
}

void groups_fini(struct groups *gs)
{
    table_fini(&gs->index);
    pool_fini(&gs->pool);
}

/* Equal keys of different groups would only make them wait together. */
static uint64_t key_of(const struct core *c, const struct ask *ask)
{
    return XXH3_64bits_withSeed(ask->query->group.p, ask->query->group.len,
                                ask->workflow->key_lo ^ c->conf.hash_seed);
}

static struct group *group_find(struct core *c, uint64_t key)
{
    uint32_t cursor = 0, slot = table_find(&c->groups.index, key, &cursor);
    uint64_t self;

    return slot != UINT32_MAX ? pool_next(&c->groups.pool, &slot, &self) : NULL;
}

static void group_end(struct core *c, struct group *g)
{
    timer_stop(&c->timers, &g->deadline);
    table_remove(&c->groups.index, g->key, pool_slot_of(g->self));
    pool_give(&c->groups.pool, g->self);
}

/* Those that find no room now wait at the door. */
static void group_release(struct core *c, struct group *g)
{
    struct list waits;
    struct list *at;

    list_init(&waits);
    while ((at = list_take(&g->waits)) != NULL) {
        container_of(at, struct wait, of_group)->group = NULL;
        list_push(&waits, at);
    }
    group_end(c, g);
    while ((at = list_take(&waits)) != NULL) {
        struct wait *w = container_of(at, struct wait, of_group);

        wait_line_up(c, w);
        wait_try(c, w);
    }
}

static void on_deadline(struct timer *t)
{
    struct group *g = container_of(t, struct group, deadline);

    group_release(g->core, g);
}

bool group_holds(struct core *c, const struct ask *ask, struct choice *out)
{
    uint32_t size = ask->query->group_size;
    struct group *g;

    if (ask->workflow == NULL || ask->query->group.len == 0 || c->conf.group_wait_ms == 0 ||
        size == 1)
        return false;
    g = group_find(c, key_of(c, ask));
    if (g == NULL) {
        if (c->groups.pool.used == c->groups.pool.capacity)
            return false;
    } else if (size > 0 && g->count + 1 >= size) {
        group_release(c, g);
        return false;
    }
    *out = (struct choice){.reason = REASON_GROUP};
    return true;
}

void group_join(struct core *c, const struct ask *ask, struct wait *w)
{
    uint64_t key = key_of(c, ask), self;
    struct group *g = group_find(c, key);

    if (g == NULL) {
        g = pool_take(&c->groups.pool, &self);
        must(g != NULL);
        g->self = self;
        g->core = c;
        g->key = key;
        list_init(&g->waits);
        table_add(&c->groups.index, key, pool_slot_of(self));
        g->deadline.fire = on_deadline;
        timer_start(&c->timers, &g->deadline, c->now + c->conf.group_wait_ms * NS_PER_MS);
    }
    /* Whoever is patient for less than that is not refused because of siblings that stay away. */
    if (timer_is_running(&w->deadline)) {
        uint64_t half = c->now + (w->deadline.at_ns - c->now) / 2;

        if (half < g->deadline.at_ns)
            timer_start(&c->timers, &g->deadline, half);
    }
    w->group = g;
    g->count++;
    list_push(&g->waits, &w->of_group);
}

void group_leave(struct core *c, struct wait *w)
{
    struct group *g = w->group;

    if (g == NULL)
        return;
    w->group = NULL;
    list_remove(&w->of_group);
    g->count--;
    if (list_is_empty(&g->waits))
        group_end(c, g);
}
