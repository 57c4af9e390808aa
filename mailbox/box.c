/* SPDX-License-Identifier: Apache-2.0 */
#include "mailbox/box.h"

#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "common/must.h"

void box_changed(struct box *b)
{
    if (list_is_empty(&b->changed))
        list_push(&b->core->changed, &b->changed);
}

void box_touch(struct box *b, uint64_t place)
{
    if (place < b->fresh.first)
        b->fresh.first = place;
    if (place > b->fresh.last)
        b->fresh.last = place;
    if (list_is_empty(&b->touched))
        list_push(&b->core->touched, &b->touched);
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

uint32_t box_depth(const struct box *b)
{
    return b->count[COPY_READY] + b->count[COPY_WAITING];
}

uint32_t box_live(const struct box *b)
{
    return b->count[COPY_NEW] + box_depth(b) + b->count[COPY_DELAYED] + b->count[COPY_HELD] +
           b->count[COPY_LEASED];
}

static bool box_is_empty(const struct box *b)
{
    return box_live(b) == 0 && b->count[COPY_KEPT] == 0 && b->count[COPY_DEAD] == 0 &&
           list_is_empty(&b->deliveries);
}

/* The memory stays until the actions of this step, and its last change, were seen. */
static void box_forget(struct box *b)
{
    struct mbox_core *c = b->core;
    struct workflow *w = b->workflow;

    must(box_is_empty(b) && b->waiting == 0);
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
    /* Nothing will come any more, so readers need not wait for it. */
    if (b->closing && b->waiting != 0 && box_is_empty(b) && !c->freeing)
        waiters_end_all(b);
    if (b->waiting != 0 || !box_is_empty(b)) {
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

static struct box *box_new(struct mbox_core *c, struct mbox_key key)
{
    size_t len = strlen(key.agent) + 1;
    struct box *b = calloc(1, sizeof(*b) + len);

    must(b != NULL);
    b->core = c;
    b->workflow = workflow_open(c, key.tenant, key.workflow);
    memcpy(b->agent, key.agent, len);
    tree_init(&b->ready, c->seed, false);
    b->fresh = SPAN_NONE;
    list_init(&b->idle);
    list_init(&b->touched);
    list_init(&b->changed);
    list_init(&b->delayed);
    list_init(&b->leased);
    list_init(&b->kept);
    list_init(&b->dead);
    list_init(&b->deliveries);
    list_init(&b->groups);
    list_init(&b->waiters);
    list_push(&b->workflow->boxes, &b->in_workflow);
    b->workflow->box_count++;
    b->idle_timer.fire = on_idle_end;
    hash_add(&c->boxes, &b->hash, box_hash(c, key.tenant, key.workflow, key.agent));
    return b;
}

static enum err box_make(struct mbox_core *c, struct mbox_key key, struct box **out)
{
    struct workflow *w = workflow_find(c, key.tenant, key.workflow);

    if (w != NULL && w->box_count >= c->limits.max_agents)
        return ERR_AGENT_LIMIT;
    if (c->boxes.count >= c->limits.max_boxes) {
        struct list *oldest = list_first(&c->idle_boxes);

        if (oldest == NULL)
            return ERR_MAILBOX_FULL;
        box_forget(container_of(oldest, struct box, idle));
    }
    *out = box_new(c, key);
    return ERR_OK;
}

enum err box_open(struct mbox_core *c, struct mbox_key key, struct box **out)
{
    struct box *b = box_find(c, key);

    if (b == NULL) {
        enum err e = box_make(c, key, &b);

        if (e != ERR_OK)
            return e;
    }
    box_rest(b);
    *out = b;
    return ERR_OK;
}

struct box *box_restore(struct mbox_core *c, struct mbox_key key)
{
    struct box *b = box_find(c, key);

    return b != NULL ? b : box_new(c, key);
}

/* ---- room ---- */

static bool fits(const struct box *b, uint64_t live, uint64_t bytes, size_t payload_len)
{
    const struct mbox_limits *l = &b->core->limits;

    return live < l->box_messages && bytes <= l->box_bytes && payload_len <= l->box_bytes - bytes;
}

bool box_fits(const struct box *b, size_t payload_len)
{
    return fits(b, box_live(b), b->bytes, payload_len);
}

bool box_has_room(const struct box *b, size_t payload_len)
{
    uint64_t live = box_live(b), bytes = b->bytes;

    if (b->core->limits.drop_oldest) {
        live -= b->count[COPY_READY];
        bytes -= b->ready_bytes;
    }
    return fits(b, live, bytes, payload_len);
}

/* The oldest of the least important. */
static struct copy *oldest_of(const struct box *b)
{
    const uint64_t number = (UINT64_C(1) << MBOX_PLACE_BITS) - 1;

    return tree_seek(&b->ready, b->ready.last->place & ~number, NULL, 0);
}

void box_make_room(struct box *b)
{
    const struct mbox_limits *l = &b->core->limits;

    while (l->drop_oldest && b->ready.root != NULL &&
           (box_live(b) > l->box_messages || b->bytes > l->box_bytes))
        copy_die(oldest_of(b), MBOX_DEAD_OVERFLOW);
}

/* ---- the end ---- */

static void purge_all(struct list *copies, uint32_t *dropped)
{
    struct list *n;

    while ((n = list_first(copies)) != NULL)
        copy_purge(container_of(n, struct copy, node), dropped);
}

void workflow_doom(struct mbox_core *c, const struct workflow *w, uint32_t *dropped)
{
    list_for(n, &c->pending)
    {
        struct copy *k = container_of(n, struct copy, node);

        if (k->box->workflow != w || k->doomed)
            continue;
        k->doomed = true;
        *dropped += 1;
    }
}

void box_close(struct box *b)
{
    b->closing = true;
    while (!list_is_empty(&b->kept))
        copy_done(container_of(list_first(&b->kept), struct copy, node));
    while (!list_is_empty(&b->dead))
        dead_forget(container_of(list_first(&b->dead), struct copy, node));
}

void box_drop(struct box *b, uint32_t *dropped)
{
    must(b->waiting == 0);
    box_close(b);
    do { /* what ends may let others of its group into the queue */
        while (b->ready.first != NULL)
            copy_purge(b->ready.first, dropped);
        while (!list_is_empty(&b->deliveries))
            delivery_drop(container_of(list_first(&b->deliveries), struct delivery, in_box),
                          dropped);
        purge_all(&b->delayed, dropped);
        purge_all(&b->leased, dropped);
    } while (b->ready.first != NULL);
    box_rest(b);
}
