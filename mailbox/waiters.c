/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "common/must.h"
#include "mailbox/box.h"

/*
 * Readers parked at a box that had nothing for them. Each has a deadline; whoever came first is
 * served first. Boxes that got something into their queue are remembered during a step and served
 * when its event is done, so that many messages of one event make one answer.
 */

static uint64_t waiter_key(uint64_t peer, uint64_t poll)
{
    return (poll ^ peer << 40) * UINT64_C(0x9e3779b97f4a7c15) ^ peer;
}

struct waiter *waiter_find(const struct mbox_core *c, uint64_t peer, uint64_t poll)
{
    struct hash_node *n = hash_find(&c->waiters, waiter_key(peer, poll));

    for (; n != NULL; n = hash_find_next(n)) {
        struct waiter *w = container_of(n, struct waiter, hash);

        if (w->reader->hash.key == peer && w->poll == poll)
            return w;
    }
    return NULL;
}

static void waiter_free(struct mbox_core *c, struct waiter *w)
{
    struct box *b = w->box;

    hash_remove(&c->waiters, &w->hash);
    list_remove(&w->in_box);
    list_remove(&w->in_all);
    list_remove(&w->in_reader);
    reader_rest(c, w->reader);
    timer_stop(&c->timers, &w->deadline);
    b->waiting--;
    free(w);
}

void waiter_end(struct mbox_core *c, struct waiter *w)
{
    struct box *b = w->box;

    waiter_free(c, w);
    box_rest(b);
}

static struct mbox_action *poll_end(struct mbox_core *c, const struct waiter *w)
{
    struct mbox_action *a = action_new(c, MBOX_POLL_END);

    a->peer = w->reader->hash.key;
    a->poll = w->poll;
    a->settle = w->settle;
    a->lz4 = w->lz4;
    a->waited_ns = c->now_ns - w->since_ns;
    return a;
}

void waiter_end_empty(struct mbox_core *c, struct waiter *w)
{
    poll_end(c, w)->more = box_depth(w->box);
    waiter_end(c, w);
}

static void on_deadline(struct timer *t)
{
    struct waiter *w = container_of(t, struct waiter, deadline);

    waiter_end_empty(w->box->core, w);
}

static struct waiter *waiter_new(const char *const *types, size_t count)
{
    size_t text = 0, i;
    struct waiter *w;
    char *at;

    for (i = 0; i < count; i++)
        text += strlen(types[i]) + 1;
    w = calloc(1, sizeof(*w) + count * sizeof(w->types[0]) + text);
    must(w != NULL);
    w->types = (const char **)(void *)(w + 1);
    w->type_count = count;
    at = (char *)(w->types + count);
    for (i = 0; i < count; i++) {
        size_t len = strlen(types[i]) + 1;

        w->types[i] = memcpy(at, types[i], len);
        at += len;
    }
    return w;
}

enum err waiter_park(struct box *b, const struct mbox_event *e, struct waiter *before)
{
    struct mbox_core *c = b->core;
    uint64_t wait_ns = (uint64_t)e->receive.wait_ms * 1000000u;
    struct waiter *w;

    if (before == NULL && (c->waiters.count >= c->limits.max_waiting))
        return ERR_BUSY;
    if (b->waiting >= MBOX_BOX_WAITING && (before == NULL || before->box != b))
        return ERR_TOO_MANY;
    w = waiter_new(e->receive.types, e->receive.type_count);
    w->box = b;
    w->reader = reader_open(c, e->peer);
    list_push(&w->reader->waiters, &w->in_reader);
    w->poll = e->receive.poll;
    w->max = e->receive.max;
    w->lease_ms = e->receive.lease_ms;
    w->settle = e->receive.settle;
    w->lz4 = e->receive.lz4;
    w->since_ns = before != NULL ? before->since_ns : c->now_ns;
    list_insert(before != NULL && before->box == b ? &before->in_box : &b->waiters, &w->in_box);
    list_push(&c->all_waiters, &w->in_all);
    b->waiting++;
    if (before != NULL)
        waiter_end(c, before);
    hash_add(&c->waiters, &w->hash, waiter_key(e->peer, w->poll));
    w->deadline.fire = on_deadline;
    if (wait_ns > c->limits.max_wait_ns)
        wait_ns = c->limits.max_wait_ns;
    timer_start(&c->timers, &w->deadline, c->now_ns + wait_ns);
    box_rest(b);
    return ERR_OK;
}

/* None of them found anything when it was parked, or served last: what became READY since is all
 * that they need to look at. */
void waiters_serve(struct box *b)
{
    struct mbox_core *c = b->core;
    struct span fresh = b->fresh;

    b->fresh = SPAN_NONE;
    list_for_safe(n, &b->waiters)
    {
        struct waiter *w = container_of(n, struct waiter, in_box);
        const struct span where = {fresh.first < b->fresh.first ? fresh.first : b->fresh.first,
                                   fresh.last > b->fresh.last ? fresh.last : b->fresh.last};
        const struct want want = {w->max, w->lease_ms, w->types, w->type_count, where};
        uint32_t first = (uint32_t)c->out->view_len;
        struct mbox_action *a;
        struct delivery *d;

        if (b->ready.root == NULL)
            break;
        d = box_take(b, &want, w->reader->hash.key);
        if (d == NULL)
            continue;
        a = poll_end(c, w);
        a->delivery = delivery_id(d);
        a->first = first;
        a->count = d->count;
        a->more = box_depth(b);
        waiter_end(c, w);
    }
}

void waiters_serve_touched(struct mbox_core *c)
{
    struct list *n;

    while ((n = list_take(&c->touched)) != NULL) {
        struct box *b = container_of(n, struct box, touched);

        waiters_serve(b);
        box_rest(b);
    }
}

void waiters_end_all(struct box *b)
{
    struct mbox_core *c = b->core;
    struct list *n;

    while ((n = list_first(&b->waiters)) != NULL) {
        struct waiter *w = container_of(n, struct waiter, in_box);

        poll_end(c, w)->more = box_depth(b);
        waiter_free(c, w);
    }
}
