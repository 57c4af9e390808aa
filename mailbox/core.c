/* SPDX-License-Identifier: Apache-2.0 */
#include "mailbox/core.h"

#include <stdlib.h>
#include <string.h>

#include "common/must.h"
#include "mailbox/box.h"

/* ---- actions ---- */

static void *grown(void *items, size_t len, size_t *cap, size_t size)
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

void view_add(struct mbox_core *c, const struct copy *k, uint32_t attempt)
{
    struct mbox_actions *o = c->out;

    o->views = grown(o->views, o->view_len, &o->view_cap, sizeof(o->views[0]));
    o->views[o->view_len++] =
        (struct mbox_view){.letter = k->letter->pub, .target = k->box->agent, .attempt = attempt};
}

static void name_add(struct mbox_core *c, const char *name)
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

/* ---- sending ---- */

/* 128 bits in base 32: wall milliseconds (48), a counter (40), the seed of this run (40). */
static void draw_id(struct mbox_core *c, uint64_t wall_ms, char *dst)
{
    static const char digits[] = "0123456789abcdefghjkmnpqrstvwxyz";
    unsigned __int128 id;
    int i;

    if (wall_ms > c->id_ms)
        c->id_ms = wall_ms;
    id = (unsigned __int128)(c->id_ms & 0xffffffffffffu) << 80;
    id |= (unsigned __int128)(++c->id_count & 0xffffffffffu) << 40;
    id |= c->seed & 0xffffffffffu;
    for (i = (int)MBOX_ID_LEN - 1; i >= 0; i--) {
        dst[i] = digits[(unsigned)id & 31u];
        id >>= 5;
    }
    dst[MBOX_ID_LEN] = '\0';
}

static void target_add(struct mbox_core *c, struct box *b)
{
    if (b->mark == c->mark)
        return;
    b->mark = c->mark;
    c->targets = grown(c->targets, c->target_count, &c->target_cap, sizeof(struct box *));
    c->targets[c->target_count++] = b;
}

/* Boxes that exist, then those that agents name; making room for one must not lose another target,
 * so a box is in use (out of the idle list) as soon as it is one. */
static enum err targets_of_all(struct mbox_core *c, const struct mbox_event *e, const char *source)
{
    struct workflow *w = workflow_find(c, e->send.tenant, e->send.workflow);
    size_t i;

    if (w != NULL)
        list_for(n, &w->boxes)
        {
            struct box *b = container_of(n, struct box, in_workflow);

            if (strcmp(b->agent, source) == 0)
                continue;
            target_add(c, b);
            list_remove(&b->idle);
        }
    for (i = 0; i < e->send.agent_count; i++) {
        struct mbox_key key = {e->send.tenant, e->send.workflow, e->send.agents[i]};
        struct box *b;
        enum err err;

        if (strcmp(key.agent, source) == 0 || strcmp(key.agent, "*") == 0)
            continue;
        err = box_open(c, key, &b);
        if (err != ERR_OK)
            return err;
        target_add(c, b);
        list_remove(&b->idle);
    }
    return ERR_OK;
}

static enum err targets_collect(struct mbox_core *c, const struct mbox_event *e,
                                const struct mbox_draft *d)
{
    struct mbox_key key = {e->send.tenant, e->send.workflow, d->target};
    struct box *b;
    enum err err;

    c->target_count = 0;
    c->mark++;
    if (strcmp(d->target, "*") == 0)
        return targets_of_all(c, e, d->source);
    err = box_open(c, key, &b);
    if (err == ERR_OK)
        target_add(c, b);
    return err;
}

static enum err targets_have_room(struct mbox_core *c, size_t len)
{
    enum err err = ERR_OK;
    size_t i;

    for (i = 0; i < c->target_count; i++)
        if (!box_has_room(c->targets[i], len)) {
            c->targets[i]->rejected++;
            err = ERR_MAILBOX_FULL;
        }
    return err;
}

static const char *text_put(char **at, const char *s)
{
    size_t len = strlen(s) + 1;
    char *to = memcpy(*at, s, len);

    *at += len;
    return to;
}

static const char *or_empty(const char *s)
{
    return s != NULL ? s : "";
}

static struct letter *letter_new(struct mbox_core *c, const struct mbox_event *e,
                                 const struct mbox_draft *d, const char *id, uint64_t ttl_ms)
{
    const char *words[] = {id,
                           d->source,
                           d->type,
                           or_empty(d->correlation_id),
                           or_empty(d->reply_to),
                           or_empty(d->group)};
    size_t text = 0, i;
    struct letter *l;
    char *at;

    for (i = 0; i < 6; i++)
        text += strlen(words[i]) + 1;
    l = calloc(1, sizeof(*l) + text);
    must(l != NULL);
    list_init(&l->dead);
    l->refs = 1;
    l->cost = sizeof(*l) + text;
    at = l->text;
    l->pub.id = text_put(&at, words[0]);
    l->pub.source = text_put(&at, words[1]);
    l->pub.type = text_put(&at, words[2]);
    l->pub.correlation_id = text_put(&at, words[3]);
    l->pub.reply_to = text_put(&at, words[4]);
    l->pub.group = text_put(&at, words[5]);
    l->pub.payload_len = (uint32_t)d->payload_len;
    l->pub.priority = d->priority;
    l->pub.created_ns = c->now_ns;
    l->pub.created_ms = e->send.wall_ms;
    l->pub.expires_ms = e->send.wall_ms + ttl_ms;
    return l;
}

/* The payload goes to the store, the letter counts from now on. l is freed on failure. */
static enum err letter_store(struct mbox_core *c, struct letter *l, const struct mbox_draft *d,
                             uint64_t copies_cost)
{
    uint64_t left =
        c->limits.total_bytes > c->totals.bytes ? c->limits.total_bytes - c->totals.bytes : 0;
    struct mbox_record record = {0};
    enum err e = ERR_MAILBOX_FULL;
    size_t stored;

    if (l->cost + copies_cost > left)
        goto fail;
    record.payload = d->payload;
    record.payload_len = d->payload_len;
    e = c->store->ops->append(c->store, &record, &l->pub.payload, &stored);
    if (e == ERR_STORE)
        e = ERR_MAILBOX_FULL;
    if (e != ERR_OK)
        goto fail;
    e = ERR_MAILBOX_FULL;
    if (l->cost + copies_cost + stored > left) {
        c->store->ops->remove(c->store, l->pub.payload, 0, true);
        goto fail;
    }
    l->cost += stored;
    c->totals.bytes += l->cost;
    return ERR_OK;
fail:
    free(l);
    return e;
}

static enum err send_one(struct mbox_core *c, const struct mbox_event *e,
                         const struct mbox_draft *d, char *message_id)
{
    uint64_t ttl_ns = c->limits.ttl_ns;
    struct letter *l;
    enum err err;
    size_t i;

    if (d->payload_len > c->limits.max_payload_bytes || d->payload_len > c->limits.box_bytes)
        return ERR_TOO_LARGE;
    err = targets_collect(c, e, d);
    if (err == ERR_OK)
        err = targets_have_room(c, d->payload_len);
    if (err != ERR_OK)
        return err;
    if (d->ttl_ms != 0 || e->send.ttl_ms != 0)
        ttl_ns = (uint64_t)(d->ttl_ms != 0 ? d->ttl_ms : e->send.ttl_ms) * 1000000u;
    if (d->message_id != NULL && d->message_id[0] != '\0')
        memccpy(message_id, d->message_id, '\0', 256);
    else
        draw_id(c, e->send.wall_ms, message_id);
    if (c->target_count == 0)
        return ERR_OK;
    l = letter_new(c, e, d, message_id, ttl_ns / 1000000u);
    err = letter_store(c, l, d, c->target_count * sizeof(struct copy));
    if (err != ERR_OK) {
        message_id[0] = '\0';
        return err;
    }
    for (i = 0; i < c->target_count; i++) {
        box_put(c->targets[i], l, c->now_ns + ttl_ns);
        name_add(c, c->targets[i]->agent);
    }
    letter_release(c, l);
    return ERR_OK;
}

static void on_send(struct mbox_core *c, const struct mbox_event *e)
{
    struct list *n;
    size_t i, j;

    for (i = 0; i < e->send.draft_count; i++) {
        size_t at = c->out->len;
        struct mbox_action *a = action_new(c, MBOX_SENT);

        a->first = (uint32_t)c->out->name_len;
        a->err = send_one(c, e, &e->send.drafts[i], a->message_id);
        a = &c->out->items[at];
        a->count = (uint32_t)c->out->name_len - a->first;
        if (a->err != ERR_OK) {
            int retry_ms = err_retry_ms(a->err);

            a->retry_ms = retry_ms > 0 ? (uint32_t)retry_ms : 0;
            c->totals.rejected++;
        }
        for (j = 0; j < c->target_count; j++)
            box_rest(c->targets[j]);
        c->target_count = 0;
    }
    while ((n = list_take(&c->touched)) != NULL) {
        struct box *b = container_of(n, struct box, touched);

        waiters_serve(b, b->served_seq);
    }
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

    a->settle = e.receive.settle;
    a->first = (uint32_t)c->out->view_len;
    if (e.receive.max == 0)
        e.receive.max = 10;
    if (e.receive.max > MBOX_RECEIVE_MESSAGES)
        e.receive.max = MBOX_RECEIVE_MESSAGES;
    want = (struct want){e.receive.max, e.receive.types, e.receive.type_count};
    if (e.receive.peek) {
        b = box_find(c, e.receive.box);
        if (b == NULL)
            return;
        box_peek(b, &want);
        a->count = (uint32_t)c->out->view_len - a->first;
        a->more = b->depth - a->count;
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
    d = box_take(b, &want, 0, e.peer);
    a = &c->out->items[at];
    a->more = b->depth;
    if (d != NULL) {
        a->delivery = delivery_id(d);
        a->count = d->count;
    }
    if (d == NULL && e.receive.wait_ms != 0 && !b->closing && !c->draining) {
        a->err = waiter_park(b, &e, old);
        a->parked = a->err == ERR_OK;
    } else if (old != NULL) {
        waiter_end(c, old);
    }
    box_rest(b);
}

static void on_settle(struct mbox_core *c, const struct mbox_event *e)
{
    struct mbox_action *a = action_new(c, MBOX_REPLY);
    struct delivery *d = delivery_find(c, e->settle.delivery);

    if (d == NULL || d->peer != e->peer) {
        a->err = ERR_NOT_FOUND;
        return;
    }
    delivery_end(c, d, e->settle.done);
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
    list_for_safe(n, &c->all_waiters)
    {
        struct waiter *w = container_of(n, struct waiter, in_all);

        if (w->peer == e->peer)
            waiter_end(c, w);
    }
    /* Ending one may begin another (a reader of a living peer is served), at the tail. */
    for (struct list *n = c->all_deliveries.next, *next; n != &c->all_deliveries; n = next) {
        struct delivery *d = container_of(n, struct delivery, in_all);

        next = n->next;
        if (d->peer != e->peer)
            continue;
        delivery_end(c, d, false);
    }
}

static void on_close(struct mbox_core *c, const struct mbox_event *e)
{
    size_t at = c->out->len;
    struct workflow *w;
    uint32_t dropped = 0, left = 0, count, i;

    action_new(c, MBOX_REPLY);
    w = workflow_find(c, e->close.tenant, e->close.workflow);
    if (w == NULL) {
        c->out->items[at].err = ERR_WORKFLOW;
        return;
    }
    /* The workflow goes with its last box: count first, and take the next before ending one. */
    count = w->box_count;
    for (struct list *n = w->boxes.next, *next; count > 0; n = next, count--) {
        struct box *b = container_of(n, struct box, in_workflow);

        next = n->next;
        b->closing = true;
        if (e->close.purge || (b->depth == 0 && b->unsettled == 0)) {
            for (i = b->waiting; i > 0; i--)
                waiter_end_empty(c, container_of(b->waiters.next, struct waiter, in_box));
        }
        if (e->close.purge && !b->gone)
            box_drop(b, &dropped);
        left += b->depth + b->unsettled;
        box_rest(b);
    }
    c->totals.purged += dropped;
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
    c->next_delivery = 1;
    timers_init(&c->timers);
    hash_init(&c->workflows);
    hash_init(&c->boxes);
    hash_init(&c->waiters);
    hash_init(&c->deliveries);
    list_init(&c->all_waiters);
    list_init(&c->all_deliveries);
    list_init(&c->idle_boxes);
    list_init(&c->touched);
    list_init(&c->changed);
    list_init(&c->dead_letters);
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
    while ((n = list_first(&c->all_waiters)) != NULL)
        waiter_end(c, container_of(n, struct waiter, in_all));
    for (i = 0; i <= c->boxes.mask; i++)
        while ((h = c->boxes.buckets[i]) != NULL)
            box_drop(container_of(h, struct box, hash), &dropped);
    while (mbox_take_change(c, &change))
        continue;
    reap(c);
    hash_fini(&c->workflows);
    hash_fini(&c->boxes);
    hash_fini(&c->waiters);
    hash_fini(&c->deliveries);
    timers_fini(&c->timers);
    free(c->targets);
    free(c);
}

void mbox_step(struct mbox_core *c, uint64_t now_ns, const struct mbox_event *event,
               struct mbox_actions *out)
{
    must(c->out == NULL);
    reap(c);
    out->len = out->view_len = out->name_len = 0;
    c->out = out;
    if (now_ns > c->now_ns)
        c->now_ns = now_ns;
    timers_run(&c->timers, c->now_ns);
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
        break;
    case MBOX_ACK:
    case MBOX_HOLD:
    case MBOX_DEAD:
    case MBOX_REDRIVE:
        action_new(c, MBOX_REPLY)->err = ERR_UNIMPLEMENTED;
        break;
    }
    c->out = NULL;
}

uint64_t mbox_next_deadline(const struct mbox_core *c)
{
    return timers_next(&c->timers);
}
