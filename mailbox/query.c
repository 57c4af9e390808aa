/* SPDX-License-Identifier: Apache-2.0 */
#include "mailbox/box.h"

/* Questions to the core that change nothing, and the list of changed boxes. */

void mbox_totals(const struct mbox_core *c, struct mbox_totals *out)
{
    *out = c->totals;
    out->boxes = (uint32_t)c->boxes.count;
    out->workflows = (uint32_t)c->workflows.count;
    out->waiting = (uint32_t)c->waiters.count;
    out->keys = (uint32_t)c->answers.count;
    out->queued = c->count[COPY_READY] + c->count[COPY_WAITING];
    out->unsettled = c->count[COPY_HELD];
    out->leased = c->count[COPY_LEASED];
    out->delayed = c->count[COPY_DELAYED];
    out->dead_now = c->count[COPY_DEAD];
    out->kept = c->count[COPY_KEPT];
}

/* The first of each priority: returned and driven back ones may be older than those before them,
 * but not by much. */
static uint64_t oldest_created(const struct box *b)
{
    uint64_t created_ns = UINT64_MAX, level;

    for (level = 0; level < 10; level++) {
        const struct copy *k = tree_seek(&b->ready, level << MBOX_PLACE_BITS, NULL, 0);

        if (k == NULL)
            break;
        if (k->letter->created_ns < created_ns)
            created_ns = k->letter->created_ns;
    }
    return created_ns;
}

bool mbox_box_find(const struct mbox_core *c, uint64_t now_ns, struct mbox_key key,
                   struct mbox_box_info *out)
{
    const struct box *b = box_find(c, key);
    uint64_t created_ns;

    if (b == NULL)
        return false;
    *out = (struct mbox_box_info){
        .depth = box_depth(b),
        .unsettled = b->count[COPY_HELD],
        .leased = b->count[COPY_LEASED],
        .delayed = b->count[COPY_DELAYED],
        .dead = b->count[COPY_DEAD],
        .kept = b->count[COPY_KEPT],
        .waiting = b->waiting,
        .bytes = b->bytes,
        .sent = b->sent,
        .delivered = b->delivered,
        .redelivered = b->redelivered,
        .expired = b->expired,
        .rejected = b->rejected,
    };
    created_ns = oldest_created(b);
    if (created_ns < now_ns)
        out->oldest_ns = now_ns - created_ns;
    return true;
}

bool mbox_workflow_find(const struct mbox_core *c, const char *tenant, const char *workflow,
                        struct mbox_workflow_info *out)
{
    const struct workflow *w = workflow_find(c, tenant, workflow);

    if (w == NULL)
        return false;
    *out = (struct mbox_workflow_info){.delivered = w->delivered, .boxes = w->box_count};
    for (const struct list *n = w->boxes.next; n != &w->boxes; n = n->next) {
        const struct box *b =
            (const struct box *)(const void *)((const char *)n - offsetof(struct box, in_workflow));

        out->queued += box_live(b) - b->count[COPY_NEW];
    }
    return true;
}

size_t mbox_workflow_agents(const struct mbox_core *c, const char *tenant, const char *workflow,
                            const char **names, size_t max)
{
    const struct workflow *w = workflow_find(c, tenant, workflow);
    size_t count = 0;

    if (w == NULL)
        return 0;
    for (const struct list *n = w->boxes.next; n != &w->boxes; n = n->next) {
        const struct box *b =
            (const struct box *)(const void *)((const char *)n - offsetof(struct box, in_workflow));

        if (count < max)
            names[count] = b->agent;
        count++;
    }
    return count;
}

bool mbox_take_change(struct mbox_core *c, struct mbox_change *out)
{
    struct list *n = list_take(&c->changed);
    struct box *b;

    if (n == NULL)
        return false;
    b = container_of(n, struct box, changed);
    *out = (struct mbox_change){.depth = box_depth(b),
                                .arrived = b->arrived,
                                .arrived_bytes = b->arrived_bytes,
                                .gone = b->gone,
                                .user = &b->user};
    b->arrived = 0;
    b->arrived_bytes = 0;
    if (b->gone)
        list_push(&c->dead_boxes, &b->idle);
    else
        out->key = (struct mbox_key){b->workflow->tenant, b->workflow->id, b->agent};
    return true;
}
