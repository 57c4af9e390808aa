/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "common/must.h"
#include "mailbox/box.h"

/* Handing out: from the queue into a delivery, and from there to wherever its reader says. */

#define WANT_MASKS 32u /* readers of more types look at every message */

/* ---- readers ---- */

struct reader *reader_find(const struct mbox_core *c, uint64_t peer)
{
    struct hash_node *n = hash_find(&c->readers, peer);

    return n == NULL ? NULL : container_of(n, struct reader, hash);
}

struct reader *reader_open(struct mbox_core *c, uint64_t peer)
{
    struct reader *r = reader_find(c, peer);

    if (r != NULL)
        return r;
    r = calloc(1, sizeof(*r));
    must(r != NULL);
    list_init(&r->waiters);
    list_init(&r->deliveries);
    hash_add(&c->readers, &r->hash, peer);
    return r;
}

void reader_rest(struct mbox_core *c, struct reader *r)
{
    if (!list_is_empty(&r->waiters) || !list_is_empty(&r->deliveries))
        return;
    hash_remove(&c->readers, &r->hash);
    free(r);
}

/* ---- choosing ---- */

static bool is_wanted(const struct want *w, const struct copy *k)
{
    const char *type;
    size_t i;

    if (w->type_count == 0)
        return true;
    type = letter_get(k->letter, TEXT_TYPE);
    for (i = 0; i < w->type_count; i++)
        if (strcmp(w->types[i], type) == 0)
            return true;
    return false;
}

size_t copy_weight(const struct copy *k)
{
    const char *last = letter_get(k->letter, TEXT_GROUP);

    return k->letter->payload_len + (size_t)(last - k->letter->text) + strlen(last) +
           strlen(k->box->agent) + MBOX_RECEIPT_MAX + 128;
}

static void take_one(struct copy *k, struct list *to)
{
    if (copy_is_grouped(k))
        group_hold(k);
    copy_leave(k);
    copy_enter(k, COPY_HELD);
    k->delivery = NULL;
    k->lease_ms = 0;
    list_push(to, &k->node);
}

/* From the queue onto a list, in order; returns how many. */
static uint32_t pick(struct box *b, const struct want *w, struct list *to)
{
    uint64_t masks[WANT_MASKS];
    size_t count = w->type_count <= WANT_MASKS ? w->type_count : 0, weight = 0, i;
    struct copy *k, *next;
    uint64_t last = w->where.last;
    uint32_t picked = 0;

    for (i = 0; i < count; i++)
        masks[i] = type_mask(w->types[i]);
    k = tree_seek(&b->ready, w->where.first, masks, count);
    for (; k != NULL && k->place <= last; k = next) {
        uint64_t place = k->place;

        next = tree_next(k, masks, count);
        if (k->expires_ns <= b->core->now_ns) { /* more have expired than one step ends */
            copy_die(k, MBOX_DEAD_EXPIRED);
            next = tree_seek(&b->ready, place, masks, count);
            continue;
        }
        if (!is_wanted(w, k))
            continue;
        if (picked != 0 && (picked >= w->max || weight + copy_weight(k) > MBOX_RECEIVE_BYTES))
            break;
        weight += copy_weight(k);
        picked++;
        take_one(k, to);
        if (copy_is_grouped(k)) {
            struct copy *shown = group_go_on(k);

            if (shown != NULL && shown->place < place)
                place = shown->place;
            if (shown != NULL && shown->place > last)
                last = shown->place;
            next = tree_seek(&b->ready, place, masks, count);
        }
    }
    groups_close(b->core);
    return picked;
}

void box_peek(struct box *b, const struct want *w)
{
    struct list picked, *n;
    bool is_touched = !list_is_empty(&b->touched);
    struct span fresh = b->fresh;
    uint64_t dead = b->core->totals.dead;

    list_init(&picked);
    pick(b, w, &picked);
    while ((n = list_first(&picked)) != NULL) {
        struct copy *k = container_of(n, struct copy, node);

        copy_leave(k);
        copy_show(k);
        view_add(b->core, k, k->attempts);
    }
    if (is_touched || b->core->totals.dead != dead)
        return;
    /* All is where it was: parked readers would find nothing new. */
    list_remove(&b->touched);
    b->fresh = fresh;
}

/* ---- deliveries ---- */

static void on_settle_end(struct timer *t)
{
    struct delivery *d = container_of(t, struct delivery, deadline);
    struct box *b = d->box;

    delivery_end(d, false, 0);
    box_rest(b);
}

static struct delivery *delivery_new(struct box *b, uint64_t peer)
{
    struct mbox_core *c = b->core;
    struct delivery *d = calloc(1, sizeof(*d));

    must(d != NULL);
    d->box = b;
    d->reader = reader_open(c, peer);
    d->deadline.fire = on_settle_end;
    list_init(&d->copies);
    list_push(&b->deliveries, &d->in_box);
    list_push(&d->reader->deliveries, &d->in_reader);
    hash_add(&c->deliveries, &d->hash, c->next_delivery++);
    timer_start(&c->timers, &d->deadline, c->now_ns + c->limits.settle_ns);
    return d;
}

static void hand_out(struct delivery *d, struct copy *k, uint32_t lease_ms)
{
    struct box *b = d->box;

    list_remove(&k->node);
    list_push(&d->copies, &k->node);
    k->delivery = d;
    d->count++;
    if (k->attempts++ > 0) {
        b->redelivered++;
        b->core->totals.redelivered++;
    }
    k->taken = true;
    k->returned = false;
    if (lease_ms != 0)
        lease_begin(k, lease_ms);
    else
        due_clear(k);
    view_add(b->core, k, k->attempts);
}

static struct delivery *delivery_of(struct box *b, struct list *picked, uint32_t lease_ms,
                                    uint64_t peer)
{
    struct delivery *d;
    struct list *n;

    if (list_is_empty(picked))
        return NULL;
    d = delivery_new(b, peer);
    while ((n = list_first(picked)) != NULL)
        hand_out(d, container_of(n, struct copy, node), lease_ms);
    box_rest(b);
    return d;
}

struct delivery *box_take(struct box *b, const struct want *w, uint64_t peer)
{
    struct list picked;

    list_init(&picked);
    pick(b, w, &picked);
    return delivery_of(b, &picked, w->lease_ms, peer);
}

struct delivery *delivery_find(const struct mbox_core *c, uint64_t id)
{
    struct hash_node *n = hash_find(&c->deliveries, id);

    return n == NULL ? NULL : container_of(n, struct delivery, hash);
}

uint64_t delivery_id(const struct delivery *d)
{
    return d->hash.key;
}

/* Its copies have left. */
static void delivery_free(struct delivery *d)
{
    struct mbox_core *c = d->box->core;

    must(d->count == 0);
    hash_remove(&c->deliveries, &d->hash);
    list_remove(&d->in_box);
    list_remove(&d->in_reader);
    timer_stop(&c->timers, &d->deadline);
    reader_rest(c, d->reader);
    free(d);
}

static void settle_one(struct copy *k, bool done, uint64_t keep_ns)
{
    if (!done) {
        copy_return(k, 0, false);
    } else if (k->lease_ms != 0) {
        copy_leave(k);
        copy_enter(k, COPY_LEASED);
    } else if (keep_ns != 0) {
        copy_keep(k, k->box->core->now_ns + keep_ns);
    } else {
        copy_done(k);
    }
}

void delivery_end(struct delivery *d, bool done, uint32_t keep_ms)
{
    const struct mbox_limits *l = &d->box->core->limits;
    uint64_t keep_ns = keep_ms * UINT64_C(1000000);
    struct list *n;

    if (keep_ns > l->max_keep_ns)
        keep_ns = l->max_keep_ns;
    if (d->box->closing)
        keep_ns = 0;
    while ((n = list_first(&d->copies)) != NULL)
        settle_one(container_of(n, struct copy, node), done, keep_ns);
    delivery_free(d);
}

void delivery_unsend(struct delivery *d)
{
    struct box *b = d->box;

    list_for(n, &d->copies)
    {
        struct copy *k = container_of(n, struct copy, node);

        if (--k->attempts == 0)
            continue;
        b->redelivered--;
        b->core->totals.redelivered--;
    }
}

/* It alone comes back, so that it stops nobody; the damage may be a passing one. */
void on_lost(struct mbox_core *c, const struct mbox_event *e)
{
    struct delivery *d = delivery_find(c, e->lost.delivery);

    action_new(c, MBOX_REPLY);
    if (d == NULL)
        return;
    list_for(n, &d->copies)
    {
        struct copy *k = container_of(n, struct copy, node);

        if (k->letter->payload != e->lost.payload)
            continue;
        copy_return(k, MBOX_LOST_MS, false);
        box_rest(d->box);
        return;
    }
}

void delivery_drop(struct delivery *d, uint32_t *dropped)
{
    struct list *n;

    while ((n = list_first(&d->copies)) != NULL)
        copy_purge(container_of(n, struct copy, node), dropped);
    delivery_free(d);
}

/* ---- after a restart, and streams that come again ---- */

/* Messages that are still being written out for a reader of the time before: they leave the queue
 * again, so that nobody else gets them as well. */
void on_hold(struct mbox_core *c, const struct mbox_event *e)
{
    const unsigned queued = 1u << COPY_READY | 1u << COPY_WAITING;
    size_t at = c->out->len, i;
    struct box *b = box_find(c, e->hold.box);
    struct delivery *d;
    struct list picked;

    list_init(&picked);
    action_new(c, MBOX_REPLY);
    for (i = 0; b != NULL && i < e->hold.id_count; i++) {
        struct copy *k = index_find(b, e->hold.message_ids[i], queued, 0);

        if (k != NULL)
            take_one(k, &picked);
    }
    d = b != NULL ? delivery_of(b, &picked, 0, e->peer) : NULL;
    if (d == NULL)
        return;
    c->out->items[at].delivery = delivery_id(d);
    c->out->items[at].dropped = d->count;
}

/* What was kept up to the one that is named stays kept for its time: the stream may break again
 * before its client has read more, and other streams of this mailbox have places of their own. */
void box_resume(struct box *b, const char *after)
{
    struct copy *last = index_find(b, after, 1u << COPY_KEPT, 0);
    struct list *n;

    while (last != NULL && (n = last->node.next) != &b->kept)
        copy_return(container_of(n, struct copy, node), 0, false);
}
