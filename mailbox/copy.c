/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "common/must.h"
#include "mailbox/box.h"

/*
 * One message in one box, from its coming to its leaving. copy_enter() and copy_leave() are the
 * only places where it changes its whereabouts and is counted.
 */

struct copy *copy_new(struct box *b, struct letter *l, uint64_t id, uint64_t expires_ns)
{
    struct mbox_core *c = b->core;
    struct copy *k = l->single ? (struct copy *)(void *)l - 1 : malloc(sizeof(*k));

    must(k != NULL);
    memset(k, 0, sizeof(*k));
    k->letter = l;
    k->box = b;
    k->id = id;
    k->expires_ns = expires_ns;
    k->place = (uint64_t)(9 - l->priority) << MBOX_PLACE_BITS | id;
    k->hash = index_hash(b, letter_get(l, TEXT_ID));
    l->refs++;
    c->totals.bytes += sizeof(*k);
    b->workflow->messages++;
    b->workflow->bytes += l->payload_len;
    index_add(&c->index, k);
    return k;
}

/* ---- whereabouts ---- */

static void count(struct copy *k, bool in)
{
    struct box *b = k->box;
    uint64_t len = k->letter->payload_len;

    b->count[k->state] += in ? 1u : UINT32_MAX;
    b->core->count[k->state] += in ? 1u : UINT64_MAX;
    if (k->state != COPY_KEPT && k->state != COPY_DEAD)
        b->bytes += in ? len : -len;
    if (k->state == COPY_READY)
        b->ready_bytes += in ? len : -len;
    if (k->state == COPY_KEPT)
        b->kept_bytes += in ? len : -len;
    if (k->state == COPY_READY || k->state == COPY_WAITING)
        box_changed(b);
}

void copy_enter(struct copy *k, enum copy_state s)
{
    struct box *b = k->box;

    k->state = (uint8_t)s;
    count(k, true);
    switch (s) {
    case COPY_READY:
        tree_add(&b->ready, k);
        box_touch(b, k->place);
        break;
    case COPY_NEW:
        list_push(&b->core->pending, &k->node);
        break;
    case COPY_DELAYED:
        list_push(&b->delayed, &k->node);
        break;
    case COPY_LEASED:
        list_push(&b->leased, &k->node);
        break;
    case COPY_KEPT:
        list_push(&b->kept, &k->node);
        break;
    case COPY_DEAD:
        list_push(&b->dead, &k->node);
        break;
    case COPY_HELD:
    case COPY_WAITING:
    case COPY_STATES:
        break;
    }
}

void copy_leave(struct copy *k)
{
    struct box *b = k->box;

    count(k, false);
    switch ((enum copy_state)k->state) {
    case COPY_READY:
        tree_remove(&b->ready, k);
        if (copy_is_grouped(k))
            group_left(k);
        break;
    case COPY_WAITING:
        group_left(k);
        break;
    case COPY_HELD:
        list_remove(&k->node);
        if (k->delivery != NULL)
            k->delivery->count--;
        break;
    case COPY_NEW:
    case COPY_DELAYED:
    case COPY_LEASED:
    case COPY_KEPT:
    case COPY_DEAD:
        list_remove(&k->node);
        break;
    case COPY_STATES:
        break;
    }
}

static void mark(const struct copy *k, uint64_t due_ns, uint64_t kept_ns, uint64_t kept_order)
{
    struct mbox_core *c = k->box->core;
    struct mbox_copy_record r = {
        .id = k->id,
        .agent = k->box->agent,
        .expires_ms =
            k->renewed ? wall_of(c, k->expires_ns) : k->letter->created_ms + k->letter->ttl_ms,
        .due_ms = due_ns != 0 ? wall_of(c, due_ns) : 0,
        .attempts = k->attempts,
        .dead = (enum mbox_dead)k->dead,
        .dead_ms = k->dead != MBOX_ALIVE ? wall_of(c, c->now_ns) : 0,
        .kept_ms = kept_ns != 0 ? wall_of(c, kept_ns) : 0,
        .kept_order = kept_order,
    };

    c->store->ops->mark(c->store, k->letter->payload, &r);
    c->dirty = true;
}

void copy_mark(const struct copy *k, uint64_t due_ns)
{
    mark(k, due_ns, 0, 0);
}

void copy_show(struct copy *k)
{
    group_free_hold(k);
    due_set(k, k->expires_ns);
    if (copy_is_grouped(k))
        group_enter(k);
    else
        copy_enter(k, COPY_READY);
}

void copy_delay(struct copy *k, uint64_t due_ns)
{
    copy_enter(k, COPY_DELAYED);
    due_set(k, due_ns < k->expires_ns ? due_ns : k->expires_ns);
}

void copy_appear(struct copy *k)
{
    k->box->arrived++;
    k->box->arrived_bytes += k->letter->payload_len;
    copy_show(k);
}

void copy_arrive(struct copy *k)
{
    const uint64_t number = (UINT64_C(1) << MBOX_PLACE_BITS) - 1;

    k->place = (k->place & ~number) | k->box->core->next_id++;
    copy_appear(k);
}

/* ---- leaving ---- */

/* It is nowhere any more. stored: the store has it and is told. */
static void copy_free(struct copy *k, bool stored)
{
    struct box *b = k->box;
    struct mbox_core *c = b->core;
    struct letter *l = k->letter;
    uint64_t id = k->id;

    group_free_hold(k);
    due_clear(k);
    index_remove(&c->index, k);
    c->totals.bytes -= sizeof(*k);
    b->workflow->messages--;
    b->workflow->bytes -= l->payload_len;
    if (!l->single)
        free(k);
    if (!stored) {
        letter_release(c, l);
        return;
    }
    c->dirty = true;
    if (--l->refs == 0)
        letter_remove(c, l, id);
    else if (!c->freeing)
        c->store->ops->remove(c->store, l->payload, id, false);
}

void copy_end(struct copy *k)
{
    copy_leave(k);
    copy_free(k, true);
}

void copy_abort(struct copy *k)
{
    copy_leave(k);
    copy_free(k, false);
}

void copy_purge(struct copy *k, uint32_t *dropped)
{
    k->box->core->totals.purged++;
    *dropped += 1;
    copy_end(k);
}

void copy_done(struct copy *k)
{
    struct box *b = k->box;

    b->delivered++;
    b->workflow->delivered++;
    b->core->totals.delivered++;
    copy_end(k);
}

/* It is nowhere. */
static void bury(struct copy *k, enum mbox_dead why)
{
    struct box *b = k->box;
    struct mbox_core *c = b->core;

    group_free_hold(k);
    c->totals.dead++;
    if (why == MBOX_DEAD_EXPIRED) {
        b->expired++;
        c->totals.expired++;
    }
    if (b->closing || c->limits.dead_messages == 0) {
        c->totals.forgotten++;
        copy_free(k, true);
        return;
    }
    k->dead = (uint8_t)why;
    k->dead_ns = c->now_ns;
    copy_enter(k, COPY_DEAD);
    due_set(k, c->now_ns + c->limits.dead_ttl_ns);
    copy_mark(k, 0);
    while (b->count[COPY_DEAD] > c->limits.dead_messages)
        dead_forget(container_of(list_first(&b->dead), struct copy, node));
}

void copy_die(struct copy *k, enum mbox_dead why)
{
    copy_leave(k);
    bury(k, why);
}

void copy_return(struct copy *k, uint32_t delay_ms, bool by_hand)
{
    struct mbox_core *c = k->box->core;
    uint64_t due_ns = delay_ms != 0 ? c->now_ns + delay_ms * UINT64_C(1000000) : 0;

    copy_leave(k);
    k->returned = by_hand;
    if (c->limits.max_deliveries != 0 && k->attempts >= c->limits.max_deliveries) {
        bury(k, MBOX_DEAD_ATTEMPTS);
    } else if (k->expires_ns <= c->now_ns) {
        bury(k, MBOX_DEAD_EXPIRED);
    } else {
        copy_mark(k, due_ns);
        if (due_ns != 0)
            copy_delay(k, due_ns);
        else
            copy_show(k);
    }
}

void copy_keep_again(struct copy *k, uint64_t until_ns)
{
    struct box *b = k->box;

    copy_leave(k);
    group_free_hold(k);
    copy_enter(k, COPY_KEPT);
    due_set(k, until_ns);
    while (b->count[COPY_KEPT] > MBOX_KEPT_MESSAGES || b->kept_bytes > MBOX_KEPT_BYTES)
        copy_done(container_of(list_first(&b->kept), struct copy, node));
}

void copy_keep(struct copy *k, uint64_t until_ns)
{
    mark(k, 0, until_ns, k->box->core->next_id++);
    copy_keep_again(k, until_ns);
}

/* ---- time ---- */

static void on_due(struct copy *k)
{
    uint64_t now = k->box->core->now_ns;

    switch ((enum copy_state)k->state) {
    case COPY_READY:
    case COPY_WAITING:
        copy_die(k, MBOX_DEAD_EXPIRED);
        break;
    case COPY_DELAYED:
        copy_leave(k);
        if (k->expires_ns <= now)
            bury(k, MBOX_DEAD_EXPIRED);
        else if (k->attempts == 0)
            copy_arrive(k);
        else
            copy_show(k);
        break;
    case COPY_HELD: /* its lease */
    case COPY_LEASED:
        copy_return(k, 0, false);
        break;
    case COPY_KEPT:
        copy_done(k);
        break;
    case COPY_DEAD:
        dead_forget(k);
        break;
    case COPY_NEW:
    case COPY_STATES:
        must(false);
    }
}

void copies_run(struct mbox_core *c)
{
    unsigned left = MBOX_DUES_MAX;
    struct copy *k;

    while (left-- > 0 && (k = dues_first(&c->dues, c->now_ns)) != NULL) {
        struct box *b = k->box;

        due_clear(k);
        on_due(k);
        box_rest(b);
    }
}
