/* SPDX-License-Identifier: Apache-2.0 */
#include "mailbox/box.h"

#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "common/must.h"

static struct copy *copy_at(struct list *n)
{
    return container_of(n, struct copy, node);
}

static void box_changed(struct box *b)
{
    if (list_is_empty(&b->changed))
        list_push(&b->core->changed, &b->changed);
}

/* ---- workflows and boxes ---- */

uint64_t box_hash(const struct mbox_core *c, const char *tenant, const char *workflow,
                  const char *agent)
{
    uint64_t h = XXH3_64bits_withSeed(tenant, strlen(tenant), c->seed);

    h = XXH3_64bits_withSeed(workflow, strlen(workflow), h);
    return agent == NULL ? h : XXH3_64bits_withSeed(agent, strlen(agent), h);
}

struct workflow *workflow_find(const struct mbox_core *c, const char *tenant, const char *id)
{
    struct hash_node *n = hash_find(&c->workflows, box_hash(c, tenant, id, NULL));

    for (; n != NULL; n = hash_find_next(n)) {
        struct workflow *w = container_of(n, struct workflow, hash);

        if (strcmp(w->id, id) == 0 && strcmp(w->tenant, tenant) == 0)
            return w;
    }
    return NULL;
}

static struct workflow *workflow_open(struct mbox_core *c, const char *tenant, const char *id)
{
    struct workflow *w = workflow_find(c, tenant, id);
    size_t tenant_len = strlen(tenant) + 1, id_len = strlen(id) + 1;

    if (w != NULL)
        return w;
    w = calloc(1, sizeof(*w) + tenant_len + id_len);
    must(w != NULL);
    w->tenant = memcpy(w->text, tenant, tenant_len);
    w->id = memcpy(w->text + tenant_len, id, id_len);
    list_init(&w->boxes);
    hash_add(&c->workflows, &w->hash, box_hash(c, tenant, id, NULL));
    return w;
}

struct box *box_find(const struct mbox_core *c, struct mbox_key key)
{
    struct hash_node *n = hash_find(&c->boxes, box_hash(c, key.tenant, key.workflow, key.agent));

    for (; n != NULL; n = hash_find_next(n)) {
        struct box *b = container_of(n, struct box, hash);

        if (strcmp(b->agent, key.agent) == 0 && strcmp(b->workflow->id, key.workflow) == 0 &&
            strcmp(b->workflow->tenant, key.tenant) == 0)
            return b;
    }
    return NULL;
}

/* The memory stays until the actions of this step, and its last change, were seen. */
static void box_forget(struct box *b)
{
    struct mbox_core *c = b->core;
    struct workflow *w = b->workflow;

    must(b->depth == 0 && b->unsettled == 0 && b->waiting == 0);
    timer_stop(&c->timers, &b->idle_timer);
    hash_remove(&c->boxes, &b->hash);
    list_remove(&b->in_workflow);
    list_remove(&b->touched);
    list_remove(&b->idle);
    b->workflow = NULL;
    b->gone = true;
    if (--w->box_count == 0) {
        hash_remove(&c->workflows, &w->hash);
        free(w);
    }
    if (b->user != NULL) {
        box_changed(b);
        return;
    }
    list_remove(&b->changed);
    list_push(&c->dead_boxes, &b->idle);
}

static void on_idle_end(struct timer *t)
{
    box_forget(container_of(t, struct box, idle_timer));
}

void box_rest(struct box *b)
{
    struct mbox_core *c = b->core;

    if (b->gone)
        return;
    if (b->depth != 0 || b->unsettled != 0 || b->waiting != 0) {
        timer_stop(&c->timers, &b->idle_timer);
        list_remove(&b->idle);
        return;
    }
    if (b->closing) {
        box_forget(b);
        return;
    }
    list_remove(&b->idle);
    list_push(&c->idle_boxes, &b->idle);
    timer_start(&c->timers, &b->idle_timer, c->now_ns + c->limits.idle_ns);
}

static enum err box_new(struct mbox_core *c, struct mbox_key key, struct box **out)
{
    struct workflow *w = workflow_find(c, key.tenant, key.workflow);
    size_t len = strlen(key.agent) + 1;
    struct box *b;

    if (w != NULL && w->box_count >= c->limits.max_agents)
        return ERR_AGENT_LIMIT;
    if (c->boxes.count >= c->limits.max_boxes) {
        struct list *oldest = list_first(&c->idle_boxes);

        if (oldest == NULL)
            return ERR_MAILBOX_FULL;
        box_forget(container_of(oldest, struct box, idle));
    }
    b = calloc(1, sizeof(*b) + len);
    must(b != NULL);
    b->core = c;
    b->workflow = workflow_open(c, key.tenant, key.workflow);
    memcpy(b->agent, key.agent, len);
    list_init(&b->idle);
    list_init(&b->touched);
    list_init(&b->changed);
    list_init(&b->queue);
    list_init(&b->waiters);
    list_push(&b->workflow->boxes, &b->in_workflow);
    b->workflow->box_count++;
    b->idle_timer.fire = on_idle_end;
    hash_add(&c->boxes, &b->hash, box_hash(c, key.tenant, key.workflow, key.agent));
    *out = b;
    return ERR_OK;
}

enum err box_open(struct mbox_core *c, struct mbox_key key, struct box **out)
{
    struct box *b = box_find(c, key);

    if (b == NULL) {
        enum err e = box_new(c, key, &b);

        if (e != ERR_OK)
            return e;
    }
    box_rest(b);
    *out = b;
    return ERR_OK;
}

/* ---- messages ---- */

void letter_release(struct mbox_core *c, struct letter *l)
{
    if (--l->refs > 0)
        return;
    c->totals.bytes -= l->cost;
    list_push(&c->dead_letters, &l->dead);
}

/* The copy is on no list any more. */
static void copy_free(struct copy *k)
{
    struct mbox_core *c = k->box->core;

    timer_stop(&c->timers, &k->expiry);
    k->box->bytes -= k->letter->pub.payload_len;
    c->totals.bytes -= sizeof(*k);
    letter_release(c, k->letter);
    free(k);
}

static void copy_unqueue(struct copy *k)
{
    struct box *b = k->box;

    list_remove(&k->node);
    timer_stop(&b->core->timers, &k->expiry);
    b->depth--;
    b->core->totals.queued--;
    box_changed(b);
}

static void copy_expire(struct copy *k)
{
    k->box->expired++;
    k->box->core->totals.expired++;
    copy_free(k);
}

/* Nothing will come any more, so readers need not wait for it. */
static void box_end_if_closing(struct box *b)
{
    if (b->closing && b->depth == 0 && b->unsettled == 0)
        waiters_end_all(b);
}

static void on_copy_expiry(struct timer *t)
{
    struct copy *k = container_of(t, struct copy, expiry);
    struct box *b = k->box;

    copy_unqueue(k);
    copy_expire(k);
    box_end_if_closing(b);
    box_rest(b);
}

bool box_has_room(const struct box *b, size_t payload_len)
{
    const struct mbox_limits *l = &b->core->limits;

    return (uint64_t)b->depth + b->unsettled < l->box_messages && b->bytes <= l->box_bytes &&
           payload_len <= l->box_bytes - b->bytes;
}

static void queue_insert(struct box *b, struct list *before, struct copy *k)
{
    list_insert(before, &k->node);
    timer_start(&b->core->timers, &k->expiry, k->expires_ns);
    b->depth++;
    b->core->totals.queued++;
    box_changed(b);
}

void box_put(struct box *b, struct letter *l, uint64_t expires_ns)
{
    struct mbox_core *c = b->core;
    struct copy *k = calloc(1, sizeof(*k));

    must(k != NULL);
    k->letter = l;
    k->box = b;
    k->seq = b->next_seq++;
    k->expires_ns = expires_ns;
    k->expiry.fire = on_copy_expiry;
    l->refs++;
    queue_insert(b, &b->queue, k);
    b->bytes += l->pub.payload_len;
    b->sent++;
    b->arrived++;
    b->arrived_bytes += l->pub.payload_len;
    b->closing = false;
    c->totals.bytes += sizeof(*k);
    c->totals.sent++;
    if (list_is_empty(&b->touched))
        list_push(&c->touched, &b->touched);
    box_rest(b);
}

/* ---- handing out ---- */

/* A message whose time is over may still be queued in the very step that will drop it. */
static bool is_wanted(const struct want *w, const struct copy *k)
{
    size_t i;

    if (k->expires_ns <= k->box->core->now_ns)
        return false;
    for (i = 0; i < w->type_count; i++)
        if (strcmp(w->types[i], k->letter->pub.type) == 0)
            return true;
    return w->type_count == 0;
}

/* An upper bound of what the message adds to a packed answer. */
static size_t copy_weight(const struct copy *k)
{
    const struct mbox_letter *p = &k->letter->pub;

    return p->payload_len + strlen(p->id) + strlen(p->source) + strlen(p->type) +
           strlen(p->correlation_id) + strlen(p->reply_to) + strlen(p->group) +
           strlen(k->box->agent) + 96;
}

/* The first queued copy of seq >= from; &b->queue when none. New ones are at the tail. */
static struct list *queue_from(struct box *b, uint64_t from)
{
    struct list *n = &b->queue;

    if (from == 0)
        return b->queue.next;
    while (n->prev != &b->queue && copy_at(n->prev)->seq >= from)
        n = n->prev;
    return n;
}

static void on_settle_end(struct timer *t)
{
    struct delivery *d = container_of(t, struct delivery, deadline);

    delivery_end(d->box->core, d, false);
}

static struct delivery *delivery_new(struct box *b, uint64_t peer)
{
    struct mbox_core *c = b->core;
    struct delivery *d = calloc(1, sizeof(*d));

    must(d != NULL);
    d->box = b;
    d->peer = peer;
    d->deadline.fire = on_settle_end;
    list_init(&d->copies);
    list_push(&c->all_deliveries, &d->in_all);
    hash_add(&c->deliveries, &d->hash, c->next_delivery++);
    timer_start(&c->timers, &d->deadline, c->now_ns + c->limits.settle_ns);
    return d;
}

struct delivery *box_take(struct box *b, const struct want *w, uint64_t from, uint64_t peer)
{
    struct mbox_core *c = b->core;
    struct list *n = queue_from(b, from), *next;
    struct delivery *d = NULL;
    size_t weight = 0;

    for (; n != &b->queue; n = next) {
        struct copy *k = copy_at(n);

        next = n->next;
        if (!is_wanted(w, k))
            continue;
        if (d == NULL)
            d = delivery_new(b, peer);
        else if (d->count >= w->max || weight + copy_weight(k) > MBOX_RECEIVE_BYTES)
            break;
        weight += copy_weight(k);
        copy_unqueue(k);
        list_push(&d->copies, &k->node);
        d->count++;
        if (k->attempts++ > 0)
            c->totals.redelivered++;
        view_add(c, k, k->attempts);
    }
    if (d != NULL) {
        b->unsettled += d->count;
        c->totals.unsettled += d->count;
        box_rest(b);
    }
    return d;
}

void box_peek(const struct box *b, const struct want *w)
{
    size_t weight = 0;
    uint32_t count = 0;

    list_for(n, &b->queue)
    {
        struct copy *k = copy_at(n);

        if (!is_wanted(w, k))
            continue;
        if (count >= w->max || (count > 0 && weight + copy_weight(k) > MBOX_RECEIVE_BYTES))
            break;
        weight += copy_weight(k);
        count++;
        view_add(b->core, k, k->attempts);
    }
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

static void delivery_done(struct delivery *d)
{
    struct box *b = d->box;
    struct list *n;

    b->delivered += d->count;
    b->workflow->delivered += d->count;
    b->core->totals.delivered += d->count;
    while ((n = list_take(&d->copies)) != NULL)
        copy_free(copy_at(n));
}

/* Both lists are ordered by seq: one walk puts every copy back where it was. */
static void delivery_return(struct delivery *d)
{
    struct box *b = d->box;
    struct list *at = b->queue.next, *n;

    while ((n = list_take(&d->copies)) != NULL) {
        struct copy *k = copy_at(n);

        if (k->expires_ns <= b->core->now_ns) {
            copy_expire(k);
            continue;
        }
        while (at != &b->queue && copy_at(at)->seq < k->seq)
            at = at->next;
        queue_insert(b, at, k);
    }
}

void delivery_end(struct mbox_core *c, struct delivery *d, bool done)
{
    struct box *b = d->box;

    hash_remove(&c->deliveries, &d->hash);
    list_remove(&d->in_all);
    timer_stop(&c->timers, &d->deadline);
    b->unsettled -= d->count;
    c->totals.unsettled -= d->count;
    if (done)
        delivery_done(d);
    else
        delivery_return(d);
    free(d);
    if (!done)
        waiters_serve(b, 0);
    box_end_if_closing(b);
    box_rest(b);
}

void box_drop(struct box *b, uint32_t *dropped)
{
    struct mbox_core *c = b->core;
    struct list *n;

    must(b->waiting == 0);
    list_for_safe(at, &c->all_deliveries)
    {
        struct delivery *d = container_of(at, struct delivery, in_all);

        if (b->unsettled == 0)
            break;
        if (d->box != b)
            continue;
        hash_remove(&c->deliveries, &d->hash);
        list_remove(&d->in_all);
        timer_stop(&c->timers, &d->deadline);
        *dropped += d->count;
        b->unsettled -= d->count;
        c->totals.unsettled -= d->count;
        while ((n = list_take(&d->copies)) != NULL)
            copy_free(copy_at(n));
        free(d);
    }
    while ((n = list_first(&b->queue)) != NULL) {
        struct copy *k = copy_at(n);

        copy_unqueue(k);
        copy_free(k);
        *dropped += 1;
    }
    b->closing = true;
    box_rest(b);
}

void reap(struct mbox_core *c)
{
    struct list *n;

    while ((n = list_take(&c->dead_letters)) != NULL) {
        struct letter *l = container_of(n, struct letter, dead);

        c->store->ops->remove(c->store, l->pub.payload, 0, true);
        free(l);
    }
    while ((n = list_take(&c->dead_boxes)) != NULL)
        free(container_of(n, struct box, idle));
}
