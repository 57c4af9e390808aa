/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "common/must.h"
#include "mailbox/box.h"

/*
 * What a store holds from the time before. Messages come in the order in which they were sent; what
 * was delayed then, and has come due since, arrives between them as it would have; dead letters lie
 * by their time of death; what was kept for streams lies as it was handed out. So where each
 * belongs is known only when all were seen: until then they count as held, and are on no list.
 */
struct found {
    uint64_t ms; /* when it arrived, or died */
    uint64_t due_ms;
    uint64_t kept_ms, kept_order;
    struct copy *copy;
};

struct restore {
    struct mbox_core *core;
    struct found *items;
    size_t len, cap;
    uint64_t latest_ms; /* of all seen: a clock that went back changes no order */
};

static int by_time(const void *x, const void *y)
{
    const struct found *a = x, *b = y;

    if (a->ms != b->ms)
        return a->ms < b->ms ? -1 : 1;
    return a->copy->id < b->copy->id ? -1 : 1;
}

static int by_keeping(const void *x, const void *y)
{
    const struct found *a = x, *b = y;

    if (a->kept_order != b->kept_order)
        return a->kept_order < b->kept_order ? -1 : 1;
    return a->copy->id < b->copy->id ? -1 : 1;
}

static void copy_found(struct restore *r, struct letter *l, struct box *b,
                       const struct mbox_copy_record *from)
{
    struct mbox_core *c = r->core;
    struct copy *k = copy_new(b, l, from->id, ns_of(c, from->expires_ms));
    struct found *f;

    r->items = grown(r->items, r->len, &r->cap, sizeof(r->items[0]));
    f = &r->items[r->len++];
    *f = (struct found){r->latest_ms, from->due_ms, from->kept_ms, from->kept_order, k};
    if (from->dead != MBOX_ALIVE)
        f->ms = from->dead_ms;
    else if (from->attempts == 0 && from->due_ms != 0)
        f->ms = from->due_ms;
    k->attempts = from->attempts;
    k->restored = true;
    k->renewed = from->expires_ms != l->created_ms + l->ttl_ms;
    k->dead = (uint8_t)from->dead;
    if (from->id >= c->next_id)
        c->next_id = from->id + 1;
    if (from->kept_order >= c->next_id)
        c->next_id = from->kept_order + 1;
    c->totals.restored++;
    copy_enter(k, COPY_HELD);
    k->delivery = NULL;
    list_init(&k->node);
}

static void on_message(void *arg, uint64_t ref, size_t stored, const struct mbox_record *m)
{
    struct restore *r = arg;
    struct mbox_core *c = r->core;
    struct letter *l = letter_new(c, m, m->copy_count == 1);
    uint64_t created_ns = ns_of(c, m->created_ms);
    size_t i;

    l->payload = ref;
    l->cost += (uint32_t)stored;
    l->created_ns = created_ns < c->now_ns ? created_ns : c->now_ns;
    c->totals.bytes += l->cost;
    if (m->created_ms > r->latest_ms)
        r->latest_ms = m->created_ms;
    for (i = 0; i < m->copy_count; i++) {
        struct mbox_key key = {m->tenant, m->workflow, m->copies[i].agent};

        copy_found(r, l, box_restore(c, key), &m->copies[i]);
    }
    l->refs--; /* ours */
}

static void on_answer(void *arg, const struct mbox_answer_record *a)
{
    struct restore *r = arg;

    if (a->id >= r->core->next_id)
        r->core->next_id = a->id + 1;
    answers_restore(r->core, a);
}

static void put_back(struct mbox_core *c, const struct found *f, uint64_t number)
{
    struct copy *k = f->copy;
    struct box *b = k->box;

    k->place = (uint64_t)(9 - k->letter->priority) << MBOX_PLACE_BITS | number;
    if (f->kept_ms != 0)
        return;
    copy_leave(k);
    if (k->dead != MBOX_ALIVE) {
        uint64_t dead_ns = ns_of(c, f->ms);

        copy_enter(k, COPY_DEAD);
        k->dead_ns = dead_ns < c->now_ns ? dead_ns : c->now_ns;
        due_set(k, k->dead_ns + c->limits.dead_ttl_ns);
    } else if (f->due_ms > c->wall_ms) {
        if (k->attempts != 0 && copy_is_grouped(k))
            group_hold(k);
        copy_delay(k, ns_of(c, f->due_ms));
    } else {
        copy_show(k);
    }
    box_rest(b);
}

static void keep_again(struct mbox_core *c, struct found *items, size_t len)
{
    size_t i, n = 0;

    for (i = 0; i < len; i++)
        if (items[i].kept_ms != 0)
            items[n++] = items[i];
    if (n != 0)
        qsort(items, n, sizeof(items[0]), by_keeping);
    for (i = 0; i < n; i++) {
        struct box *b = items[i].copy->box;
        uint64_t until_ns = ns_of(c, items[i].kept_ms), latest = c->now_ns + c->limits.max_keep_ns;

        /* The clock may have gone back, and the limit have become smaller. */
        copy_keep_again(items[i].copy, until_ns < latest ? until_ns : latest);
        box_rest(b);
    }
}

enum err mbox_restore(struct mbox_core *c, uint64_t now_ns, uint64_t wall_ms)
{
    struct restore r = {.core = c};
    const struct mbox_scan calls = {&r, on_message, on_answer};
    enum err e;
    size_t i;

    must(c->steps == 0 && c->next_id == 1);
    c->now_ns = now_ns;
    wall_set(c, wall_ms);
    e = c->store->ops->scan(c->store, &calls);
    if (r.len != 0)
        qsort(r.items, r.len, sizeof(r.items[0]), by_time);
    for (i = 0; i < r.len; i++)
        put_back(c, &r.items[i], i + 1); /* ids begin with 1, so new ones come behind */
    keep_again(c, r.items, r.len);
    free(r.items);
    return e;
}
