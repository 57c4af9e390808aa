/* SPDX-License-Identifier: Apache-2.0 */
#include "mailbox/core.h"

#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "common/must.h"
#include "mailbox/box.h"

/* ---- actions ---- */

void *grown(void *items, size_t len, size_t *cap, size_t size)
{
    if (len < *cap)
        return items;
    *cap = *cap != 0 ? *cap * 2 : 16;
    items = realloc(items, *cap * size);
    must(items != NULL);
    return items;
}

struct mbox_action *action_new(struct mbox_core *c, enum mbox_action_kind kind)
{
    struct mbox_actions *o = c->out;

    o->items = grown(o->items, o->len, &o->cap, sizeof(o->items[0]));
    o->items[o->len] = (struct mbox_action){.kind = kind};
    return &o->items[o->len++];
}

static void texts_fill(const struct letter *l, struct mbox_letter *to)
{
    const char **texts[LETTER_TEXTS] = {&to->id,       &to->source, &to->type, &to->correlation_id,
                                        &to->reply_to, &to->group};
    const char *at = l->text;
    unsigned i;

    for (i = 0; i < LETTER_TEXTS; at += strlen(at) + 1, i++)
        *texts[i] = at;
}

struct mbox_view *view_add(struct mbox_core *c, struct copy *k, uint32_t attempt)
{
    struct mbox_actions *o = c->out;
    struct letter *l = k->letter;
    struct mbox_view *v;

    o->views = grown(o->views, o->view_len, &o->view_cap, sizeof(o->views[0]));
    v = &o->views[o->view_len++];
    l->viewed = c->steps;
    v->letter = (struct mbox_letter){
        .payload = l->payload,
        .payload_len = l->payload_len,
        .priority = l->priority,
        .created_ns = l->created_ns,
        .created_ms = l->created_ms,
        .expires_ms = k->renewed ? wall_of(c, k->expires_ns) : l->created_ms + l->ttl_ms,
    };
    texts_fill(l, &v->letter);
    v->target = k->box->agent;
    v->attempt = attempt;
    v->receipt[0] = '\0';
    v->lease_end_ns = 0;
    v->dead = (enum mbox_dead)k->dead;
    v->dead_ns = k->state == COPY_DEAD ? k->dead_ns : 0;
    if (k->state == COPY_HELD && k->lease_ms != 0) {
        receipt_print(c, k, v->receipt);
        v->lease_end_ns = due_of(k);
    }
    return v;
}

void name_add(struct mbox_core *c, const char *name)
{
    struct mbox_actions *o = c->out;

    o->names = grown(o->names, o->name_len, &o->name_cap, sizeof(o->names[0]));
    o->names[o->name_len++] = name;
}

void mbox_actions_fini(struct mbox_actions *a)
{
    free(a->items);
    free(a->views);
    free(a->names);
    *a = (struct mbox_actions){0};
}

/* ---- receiving ---- */

static void on_receive(struct mbox_core *c, const struct mbox_event *given)
{
    struct mbox_action *a = action_new(c, MBOX_REPLY);
    size_t at = c->out->len - 1;
    struct mbox_event e = *given;
    struct want want;
    struct waiter *old = e.receive.poll != 0 ? waiter_find(c, e.peer, e.receive.poll) : NULL;
    struct delivery *d;
    struct box *b;
    enum err err;

    a->settle = e.receive.settle;
    a->lz4 = e.receive.lz4;
    a->first = (uint32_t)c->out->view_len;
    if (e.receive.max == 0)
        e.receive.max = 10;
    if (e.receive.max > MBOX_RECEIVE_MESSAGES)
        e.receive.max = MBOX_RECEIVE_MESSAGES;
    want = (struct want){e.receive.max, e.receive.lease_ms, e.receive.types, e.receive.type_count,
                         SPAN_ALL};
    if (e.receive.peek) {
        b = box_find(c, e.receive.box);
        if (b == NULL)
            return;
        box_peek(b, &want);
        a = &c->out->items[at];
        a->count = (uint32_t)c->out->view_len - a->first;
        a->more = box_depth(b) - a->count;
        return;
    }
    if (e.receive.wait_ms != 0 && e.receive.poll == 0) {
        a->err = ERR_INVALID;
        return;
    }
    a->err = box_open(c, e.receive.box, &b);
    if (a->err != ERR_OK) {
        if (e.receive.wait_ms == 0) /* certainly nothing there */
            a->err = ERR_OK;
        return;
    }
    if (e.receive.resume_after != NULL && e.receive.resume_after[0] != '\0')
        box_resume(b, e.receive.resume_after);
    d = box_take(b, &want, e.peer);
    a = &c->out->items[at];
    a->more = box_depth(b);
    if (d != NULL) {
        a->delivery = delivery_id(d);
        a->count = d->count;
    }
    if (d == NULL && e.receive.wait_ms != 0 && !c->draining) {
        err = waiter_park(b, &e, old); /* a closing box may end it at once: actions move */
        a = &c->out->items[at];
        a->err = err;
        a->parked = err == ERR_OK;
    } else if (old != NULL) {
        waiter_end(c, old);
    }
    box_rest(b);
}

static void on_settle(struct mbox_core *c, const struct mbox_event *e)
{
    struct mbox_action *a = action_new(c, MBOX_REPLY);
    struct delivery *d = delivery_find(c, e->settle.delivery);

    struct box *b;

    if (d == NULL || d->reader->hash.key != e->peer) {
        a->err = ERR_NOT_FOUND;
        return;
    }
    b = d->box;
    if (e->settle.unsent)
        delivery_unsend(d);
    delivery_end(d, e->settle.done, e->settle.keep_ms);
    box_rest(b);
}

static void on_unpark(struct mbox_core *c, const struct mbox_event *e)
{
    struct mbox_action *a = action_new(c, MBOX_REPLY);
    struct waiter *w = waiter_find(c, e->peer, e->unpark.poll);

    if (w == NULL)
        a->err = ERR_NOT_FOUND;
    else
        waiter_end(c, w);
}

/* Its readers leave first, so that nothing is handed to the dead. */
static void on_peer_gone(struct mbox_core *c, const struct mbox_event *e)
{
    struct reader *r;

    while ((r = reader_find(c, e->peer)) != NULL) {
        struct list *w = list_first(&r->waiters), *n = list_first(&r->deliveries);

        if (w != NULL) {
            waiter_end(c, container_of(w, struct waiter, in_reader));
        } else {
            struct delivery *d = container_of(n, struct delivery, in_reader);
            struct box *b = d->box;

            delivery_end(d, false, 0);
            box_rest(b);
        }
    }
}

static void on_close(struct mbox_core *c, const struct mbox_event *e)
{
    size_t at = c->out->len;
    struct workflow *w;
    uint32_t dropped = 0, left = 0, count;

    action_new(c, MBOX_REPLY);
    w = workflow_find(c, e->close.tenant, e->close.workflow);
    if (w == NULL) {
        c->out->items[at].err = ERR_WORKFLOW;
        return;
    }
    /* The workflow goes with its last box: count first, and take the next before ending one. */
    count = w->box_count;
    if (e->close.purge)
        workflow_doom(c, w, &dropped);
    for (struct list *n = w->boxes.next, *next; count > 0; n = next, count--) {
        struct box *b = container_of(n, struct box, in_workflow);

        next = n->next;
        box_close(b);
        if (e->close.purge)
            waiters_end_all(b);
        if (e->close.purge && !b->gone)
            box_drop(b, &dropped);
        left += box_live(b) - (e->close.purge ? b->count[COPY_NEW] : 0);
        box_rest(b);
    }
    c->out->items[at].dropped = dropped;
    c->out->items[at].left = left;
}

static void on_drain(struct mbox_core *c)
{
    struct list *n;

    c->draining = true;
    while ((n = list_first(&c->all_waiters)) != NULL)
        waiter_end_empty(c, container_of(n, struct waiter, in_all));
}

/* ---- the door ---- */

struct mbox_core *mbox_new(const struct mbox_limits *limits, struct mbox_store *store,
                           uint64_t seed)
{
    struct mbox_core *c = calloc(1, sizeof(*c));

    must(c != NULL);
    c->limits = *limits;
    c->store = store;
    c->seed = seed;
    c->epoch = XXH3_64bits_withSeed("epoch", 5, seed);
    c->next_id = 1;
    /* No settle of the time before hits one of this start. */
    c->next_delivery = (c->epoch >> 1) + 1;
    c->hash_state = XXH3_createState();
    must(c->hash_state != NULL);
    c->answer_timer.fire = on_answer_deadline;
    timers_init(&c->timers);
    hash_init(&c->workflows);
    hash_init(&c->boxes);
    hash_init(&c->waiters);
    hash_init(&c->deliveries);
    hash_init(&c->groups);
    hash_init(&c->readers);
    hash_init(&c->answers);
    askers_init(c);
    list_init(&c->pending);
    list_init(&c->all_waiters);
    list_init(&c->all_answers);
    list_init(&c->open_groups);
    list_init(&c->idle_boxes);
    list_init(&c->touched);
    list_init(&c->changed);
    list_init(&c->dead_boxes);
    return c;
}

void mbox_free(struct mbox_core *c)
{
    struct mbox_change change;
    uint32_t dropped = 0;
    struct hash_node *h;
    struct list *n;
    size_t i;

    if (c == NULL)
        return;
    c->freeing = true; /* the store keeps what it has */
    while ((n = list_first(&c->all_waiters)) != NULL)
        waiter_end(c, container_of(n, struct waiter, in_all));
    while ((n = list_first(&c->pending)) != NULL)
        copy_abort(container_of(n, struct copy, node));
    for (i = 0; i <= c->boxes.mask; i++)
        while ((h = c->boxes.buckets[i]) != NULL)
            box_drop(container_of(h, struct box, hash), &dropped);
    while (mbox_take_change(c, &change))
        continue;
    reap(c);
    answers_fini(c);
    hash_fini(&c->workflows);
    hash_fini(&c->boxes);
    hash_fini(&c->waiters);
    hash_fini(&c->deliveries);
    hash_fini(&c->groups);
    hash_fini(&c->readers);
    hash_fini(&c->answers);
    hash_fini(&c->askers);
    index_fini(&c->index);
    dues_fini(&c->dues);
    buf_fini(&c->scratch);
    free(c->records);
    timers_fini(&c->timers);
    free(c->targets);
    free(c);
}

void mbox_step(struct mbox_core *c, uint64_t now_ns, const struct mbox_event *event,
               struct mbox_actions *out)
{
    must(c->out == NULL);
    c->steps++;
    reap(c);
    out->len = out->view_len = out->name_len = 0;
    c->out = out;
    if (now_ns > c->now_ns)
        c->now_ns = now_ns;
    copies_run(c);
    timers_run(&c->timers, c->now_ns);
    waiters_serve_touched(c);
    switch (event->kind) {
    case MBOX_TICK:
        break;
    case MBOX_SEND:
        on_send(c, event);
        break;
    case MBOX_RECEIVE:
        on_receive(c, event);
        break;
    case MBOX_SETTLE:
        on_settle(c, event);
        break;
    case MBOX_UNPARK:
        on_unpark(c, event);
        break;
    case MBOX_PEER_GONE:
        on_peer_gone(c, event);
        break;
    case MBOX_CLOSE:
        on_close(c, event);
        break;
    case MBOX_LIMITS:
        c->limits = event->limits;
        break;
    case MBOX_DRAIN:
        on_drain(c);
        break;
    case MBOX_COMMIT:
        on_commit(c, event);
        break;
    case MBOX_ACK:
        on_ack(c, event);
        break;
    case MBOX_HOLD:
        on_hold(c, event);
        break;
    case MBOX_DEAD:
        on_dead(c, event);
        break;
    case MBOX_REDRIVE:
        on_redrive(c, event);
        break;
    case MBOX_LOST:
        on_lost(c, event);
        break;
    }
    waiters_serve_touched(c);
    c->out = NULL;
}

bool mbox_needs_commit(const struct mbox_core *c)
{
    return c->dirty;
}

uint64_t mbox_next_deadline(const struct mbox_core *c)
{
    uint64_t timer = timers_next(&c->timers), due = dues_next(&c->dues);

    return timer < due ? timer : due;
}
