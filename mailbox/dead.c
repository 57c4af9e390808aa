/* SPDX-License-Identifier: Apache-2.0 */
#include "mailbox/box.h"

/* Dead letters: what nobody took in time, or often enough. They can be read, sent again, or
 * dropped; the oldest give way, and all go after dead_ttl_ns. */

static struct copy *copy_at(struct list *n)
{
    return container_of(n, struct copy, node);
}

void dead_forget(struct copy *k)
{
    k->box->core->totals.forgotten++;
    copy_end(k);
}

void on_dead(struct mbox_core *c, const struct mbox_event *e)
{
    struct mbox_action *a = action_new(c, MBOX_REPLY);
    uint32_t max = e->dead.max != 0 ? e->dead.max : 10;
    struct box *b = box_find(c, e->dead.box);
    struct copy *after = NULL;
    size_t weight = 0;
    struct list *n;

    if (b == NULL)
        return;
    if (max > MBOX_RECEIVE_MESSAGES)
        max = MBOX_RECEIVE_MESSAGES;
    if (e->dead.after != NULL && e->dead.after[0] != '\0')
        after = index_find(b, e->dead.after, 1u << COPY_DEAD, 0);
    a->first = (uint32_t)c->out->view_len;
    for (n = after != NULL ? after->node.next : b->dead.next; n != &b->dead; n = n->next) {
        weight += copy_weight(copy_at(n));
        if (a->count >= max || (a->count > 0 && weight > MBOX_RECEIVE_BYTES))
            break;
        view_add(c, copy_at(n), copy_at(n)->attempts);
        a->count++;
    }
    for (; n != &b->dead && a->more < MBOX_COUNT_MORE; n = n->next)
        a->more++;
}

/* False: the box has no room for it. */
static bool drive_back(struct copy *k)
{
    struct box *b = k->box;
    struct mbox_core *c = b->core;

    if (!box_fits(b, k->letter->payload_len))
        return false;
    copy_leave(k);
    k->dead = MBOX_ALIVE;
    k->attempts = 0;
    k->driven++;
    k->renewed = true;
    k->expires_ns = c->now_ns + k->letter->ttl_ms * UINT64_C(1000000);
    c->totals.redriven++;
    copy_mark(k, c->now_ns); /* its time of arrival, should this end before it was handed out */
    copy_arrive(k);
    return true;
}

static bool redrive_one(struct copy *k, bool drop)
{
    if (!drop)
        return drive_back(k);
    dead_forget(k);
    return true;
}

void on_redrive(struct mbox_core *c, const struct mbox_event *e)
{
    struct mbox_action *a = action_new(c, MBOX_REPLY);
    struct box *b = box_find(c, e->redrive.box);
    struct list *n;
    size_t i;

    if (b == NULL)
        return;
    for (i = 0; i < e->redrive.id_count; i++) {
        struct copy *k = index_find(b, e->redrive.message_ids[i], 1u << COPY_DEAD, 0);

        if (k != NULL && redrive_one(k, e->redrive.drop))
            a->dropped++;
    }
    while (e->redrive.id_count == 0 && a->dropped < MBOX_REDRIVE_MAX &&
           (n = list_first(&b->dead)) != NULL && redrive_one(copy_at(n), e->redrive.drop))
        a->dropped++;
    a->left = b->count[COPY_DEAD];
    box_rest(b);
}
