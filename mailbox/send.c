/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "common/must.h"
#include "mailbox/box.h"

/*
 * Taking messages in. Whatever can refuse one is asked before the store is: what was appended stays
 * until the commit, and is taken back by it alone.
 */

/* 128 bits in base 32: wall milliseconds (48), a counter (40), this start (40). */
static void draw_id(struct mbox_core *c, uint64_t wall_ms, char *dst)
{
    static const char digits[] = "0123456789abcdefghjkmnpqrstvwxyz";
    unsigned __int128 id;
    int i;

    if (wall_ms > c->id_ms)
        c->id_ms = wall_ms;
    id = (unsigned __int128)(c->id_ms & 0xffffffffffffu) << 80;
    id |= (unsigned __int128)(++c->id_count & 0xffffffffffu) << 40;
    id |= c->epoch & 0xffffffffffu;
    for (i = (int)MBOX_ID_LEN - 1; i >= 0; i--) {
        dst[i] = digits[(unsigned)id & 31u];
        id >>= 5;
    }
    dst[MBOX_ID_LEN] = '\0';
}

/* ---- targets ---- */

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

/* ---- room ---- */

static enum err targets_have_room(struct mbox_core *c, const struct mbox_draft *d)
{
    enum err err = ERR_OK;
    size_t i;

    for (i = 0; i < c->target_count; i++) {
        struct box *b = c->targets[i];

        if (!box_has_room(b, d->payload_len)) {
            b->rejected++;
            err = ERR_MAILBOX_FULL;
        } else if (d->message_id != NULL && d->message_id[0] != '\0' &&
                   index_count(b, d->message_id) >= MBOX_SAME_ID) {
            return ERR_VALUE;
        }
    }
    return err;
}

/* Of the workflow and of all; 0 is no limit. Room that drop_oldest would make is not counted on:
 * dead letters count as well. */
static enum err rest_has_room(const struct mbox_core *c, const struct mbox_draft *d, size_t record)
{
    const struct mbox_limits *l = &c->limits;
    uint64_t n = c->target_count, live = 0;
    const struct workflow *w;
    int i;

    if (n == 0)
        return ERR_OK;
    w = c->targets[0]->workflow;
    for (i = 0; i < COPY_STATES; i++)
        live += c->count[i];
    if ((l->workflow_messages != 0 && w->messages + n > l->workflow_messages) ||
        (l->workflow_bytes != 0 && w->bytes + n * d->payload_len > l->workflow_bytes) ||
        (l->total_messages != 0 && live + n > l->total_messages) ||
        c->totals.bytes + d->payload_len + record + n * sizeof(struct copy) > l->total_bytes)
        return ERR_MAILBOX_FULL;
    return ERR_OK;
}

/* ---- one message ---- */

static const char *or_empty(const char *s)
{
    return s != NULL ? s : "";
}

static size_t record_bytes(const struct mbox_record *r)
{
    return sizeof(struct letter) + strlen(r->message_id) + strlen(r->source) + strlen(r->type) +
           strlen(r->correlation_id) + strlen(r->reply_to) + strlen(r->group) + LETTER_TEXTS;
}

static void record_fill(struct mbox_core *c, const struct mbox_event *e, const struct mbox_draft *d,
                        const char *message_id, struct mbox_record *r)
{
    uint64_t ttl_ms = c->limits.ttl_ns / 1000000u;

    if (d->ttl_ms != 0 || e->send.ttl_ms != 0)
        ttl_ms = d->ttl_ms != 0 ? d->ttl_ms : e->send.ttl_ms;
    *r = (struct mbox_record){
        .tenant = e->send.tenant,
        .workflow = e->send.workflow,
        .message_id = message_id,
        .source = or_empty(d->source),
        .type = or_empty(d->type),
        .correlation_id = or_empty(d->correlation_id),
        .reply_to = or_empty(d->reply_to),
        .group = or_empty(d->group),
        .priority = d->priority,
        .created_ms = e->send.wall_ms,
        .ttl_ms = ttl_ms < UINT32_MAX ? ttl_ms : UINT32_MAX,
        .payload = d->payload,
        .payload_len = d->payload_len,
        .block = d->block,
        .block_len = d->block_len,
        .copy_count = c->target_count,
    };
}

static void copies_fill(struct mbox_core *c, const struct mbox_draft *d, struct mbox_record *r)
{
    size_t i;

    while (c->record_cap < c->target_count)
        c->records = grown(c->records, c->record_cap, &c->record_cap, sizeof(c->records[0]));
    for (i = 0; i < c->target_count; i++)
        c->records[i] = (struct mbox_copy_record){
            .id = c->next_id++,
            .agent = c->targets[i]->agent,
            .expires_ms = r->created_ms + r->ttl_ms,
            .due_ms = d->delay_ms != 0 ? r->created_ms + d->delay_ms : 0,
        };
    r->copies = c->records;
}

static enum err put(struct mbox_core *c, const struct mbox_draft *d, struct mbox_record *r)
{
    uint64_t expires_ns = c->now_ns + r->ttl_ms * UINT64_C(1000000), ref;
    struct letter *l;
    size_t i, stored;
    enum err err;

    copies_fill(c, d, r);
    err = c->store->ops->append(c->store, r, &ref, &stored);
    if (err != ERR_OK)
        return err;
    c->dirty = true;
    l = letter_new(c, r, c->target_count == 1);
    l->payload = ref;
    l->cost += (uint32_t)stored;
    c->totals.bytes += l->cost;
    for (i = 0; i < c->target_count; i++) {
        struct box *b = c->targets[i];
        struct copy *k = copy_new(b, l, c->records[i].id, expires_ns);

        copy_enter(k, COPY_NEW);
        k->delay_ms = d->delay_ms;
        b->closing = false;
        box_rest(b);
        name_add(c, b->agent);
    }
    l->refs--; /* ours */
    return ERR_OK;
}

static enum err send_one(struct mbox_core *c, const struct mbox_event *e,
                         const struct mbox_draft *d, char message_id[MBOX_ID_MAX + 1])
{
    struct mbox_record r;
    enum err err;

    if (d->priority > 9)
        return ERR_VALUE;
    if (d->payload_len > c->limits.max_payload_bytes || d->payload_len > c->limits.box_bytes)
        return ERR_TOO_LARGE;
    err = targets_collect(c, e, d);
    if (err == ERR_OK)
        err = targets_have_room(c, d);
    if (err != ERR_OK)
        return err;
    if (d->message_id != NULL && d->message_id[0] != '\0') {
        if (memccpy(message_id, d->message_id, '\0', MBOX_ID_MAX + 1) == NULL) {
            message_id[0] = '\0';
            return ERR_ID;
        }
    } else {
        draw_id(c, e->send.wall_ms, message_id);
    }
    record_fill(c, e, d, message_id, &r);
    err = rest_has_room(c, d, record_bytes(&r));
    if (err == ERR_OK && c->target_count != 0)
        err = put(c, d, &r);
    return err;
}

static void send_draft(struct mbox_core *c, const struct mbox_event *e, const struct mbox_draft *d)
{
    size_t j;
    struct mbox_action *a = action_new(c, MBOX_SENT);

    a->first = (uint32_t)c->out->name_len;
    a->err = send_one(c, e, d, a->message_id);
    a->count = (uint32_t)c->out->name_len - a->first;
    if (a->err != ERR_OK) {
        int retry_ms = err_retry_ms(a->err);

        a->retry_ms = retry_ms > 0 ? (uint32_t)retry_ms : 0;
        a->message_id[0] = '\0';
        c->totals.rejected++;
    }
    for (j = 0; j < c->target_count; j++)
        box_rest(c->targets[j]);
    c->target_count = 0;
}

void on_send(struct mbox_core *c, const struct mbox_event *e)
{
    const char *key = e->send.idempotency_key;
    bool keyed =
        key != NULL && key[0] != '\0' && c->limits.max_keys != 0 && c->limits.key_window_ns != 0;
    size_t first = c->out->len, i;
    uint64_t body_hash[2];
    bool accepted = false;

    wall_set(c, e->send.wall_ms);
    if (keyed && answers_replay(c, e, body_hash))
        return;
    for (i = 0; i < e->send.draft_count; i++)
        send_draft(c, e, &e->send.drafts[i]);
    for (i = first; i < c->out->len; i++)
        accepted =
            accepted || (c->out->items[i].kind == MBOX_SENT && c->out->items[i].err == ERR_OK);
    if (keyed && accepted)
        answers_add(c, e, body_hash, first);
}

/* ---- what was taken in becomes visible, or was never there ---- */

static void appear(struct copy *k)
{
    struct box *b = k->box;
    struct mbox_core *c = b->core;
    uint32_t delay_ms = k->delay_ms;

    b->sent++;
    c->totals.sent++;
    if (k->doomed) {
        copy_purge(k, &(uint32_t){0});
        return;
    }
    if (k->expires_ns <= c->now_ns) {
        copy_die(k, MBOX_DEAD_EXPIRED);
        return;
    }
    copy_leave(k);
    if (delay_ms != 0)
        copy_delay(k, c->now_ns + delay_ms * UINT64_C(1000000));
    else
        copy_appear(k);
}

void on_commit(struct mbox_core *c, const struct mbox_event *e)
{
    struct list *n;

    c->dirty = false;
    /* Only now does what is full drop something: what failed to come must not push anything out. */
    if (e->commit.ok)
        list_for(p, &c->pending) box_make_room(container_of(p, struct copy, node)->box);
    while ((n = list_first(&c->pending)) != NULL) {
        struct copy *k = container_of(n, struct copy, node);
        struct box *b = k->box;

        if (e->commit.ok)
            appear(k);
        else
            copy_abort(k);
        box_rest(b);
    }
    answers_commit(c, e->commit.ok);
}
