/* SPDX-License-Identifier: Apache-2.0 */
#include "mailbox/box.h"

/* Questions to the core that change nothing, and the list of changed boxes. */

void mbox_totals(const struct mbox_core *c, struct mbox_totals *out)
{
    *out = c->totals;
    out->boxes = (uint32_t)c->boxes.count;
    out->workflows = (uint32_t)c->workflows.count;
    out->waiting = (uint32_t)c->waiters.count;
}

bool mbox_box_find(const struct mbox_core *c, uint64_t now_ns, struct mbox_key key,
                   struct mbox_box_info *out)
{
    const struct box *b = box_find(c, key);
    const struct list *oldest;

    if (b == NULL)
        return false;
    *out = (struct mbox_box_info){
        .depth = b->depth,
        .unsettled = b->unsettled,
        .waiting = b->waiting,
        .bytes = b->bytes,
        .sent = b->sent,
        .delivered = b->delivered,
        .expired = b->expired,
        .rejected = b->rejected,
    };
    oldest = list_first(&b->queue);
    if (oldest != NULL) {
        const struct copy *k =
            (const struct copy *)(const void *)((const char *)oldest - offsetof(struct copy, node));
        uint64_t created_ns = k->letter->pub.created_ns;

        out->oldest_ns = now_ns > created_ns ? now_ns - created_ns : 0;
    }
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

        out->queued += b->depth + b->unsettled;
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
    *out = (struct mbox_change){.depth = b->depth,
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
