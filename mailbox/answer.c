/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/list.h"
#include "common/log.h"
#include "common/must.h"
#include "proto/mailbox.pb-c.h"
#include "mailbox/meters.h"
#include "mailbox/methods.h"

/*
 * Messages on their way out: what the core shows becomes a ReceiveReply, as an answer or as the end
 * of a parked poll, and the core hears whether it was handed over.
 */
struct answer_scratch {
    Slipstream__V1__Message *messages;
    Slipstream__V1__Message **pointers;
    size_t *offsets; /* of payloads, which move while they are gathered */
    uint64_t *lost;  /* refs of those that cannot be read */
    size_t cap, lost_len;
    struct buf payloads;
};

struct answer_scratch *answer_scratch_new(void)
{
    struct answer_scratch *a = calloc(1, sizeof(*a));

    must(a != NULL);
    return a;
}

void answer_scratch_free(struct answer_scratch *a)
{
    if (a == NULL)
        return;
    free(a->messages);
    free(a->pointers);
    free(a->offsets);
    free(a->lost);
    buf_fini(&a->payloads);
    free(a);
}

static void scratch_reserve(struct answer_scratch *a, size_t count)
{
    if (count <= a->cap)
        return;
    free(a->messages);
    free(a->pointers);
    free(a->offsets);
    free(a->lost);
    a->cap = count < 16 ? 16 : count;
    a->messages = calloc(a->cap, sizeof(a->messages[0]));
    a->pointers = calloc(a->cap, sizeof(a->pointers[0]));
    a->offsets = calloc(a->cap, sizeof(a->offsets[0]));
    a->lost = calloc(a->cap, sizeof(a->lost[0]));
    must(a->messages != NULL && a->pointers != NULL && a->offsets != NULL && a->lost != NULL);
}

char *unconst(const char *s)
{
    union {
        const char *in;
        char *out;
    } u = {s};

    return u.out;
}

uint64_t answer_wall_ms(uint64_t then_ns, uint64_t now_ns, uint64_t now_wall_ms)
{
    /* What died before this process began is older than its clock may be: the difference wraps. */
    int64_t ahead = (int64_t)(then_ns - now_ns);

    return now_wall_ms + (uint64_t)(ahead / (int64_t)NS_PER_MS);
}

static const char *dead_word(enum mbox_dead d)
{
    switch (d) {
    case MBOX_DEAD_EXPIRED:
        return "expired";
    case MBOX_DEAD_ATTEMPTS:
        return "attempts";
    case MBOX_DEAD_OVERFLOW:
        return "overflow";
    case MBOX_ALIVE:
        break;
    }
    return "";
}

static void message_fill(Slipstream__V1__Message *m, const struct mbox_view *v)
{
    const struct mbox_letter *l = &v->letter;

    slipstream__v1__message__init(m);
    m->message_id = unconst(l->id);
    m->source_agent = unconst(l->source);
    m->target_agent = unconst(v->target);
    m->message_type = unconst(l->type);
    m->created_ms = l->created_ms;
    m->expires_ms = l->expires_ms;
    m->attempt = v->attempt;
    m->priority = l->priority;
    m->correlation_id = unconst(l->correlation_id);
    m->reply_to = unconst(l->reply_to);
    m->group = unconst(l->group);
    m->receipt = unconst(v->receipt);
    if (v->lease_end_ns != 0)
        m->lease_expires_ms = answer_wall_ms(v->lease_end_ns, clock_ns(), clock_wall_ms());
    if (v->dead != MBOX_ALIVE) {
        m->dead_reason = unconst(dead_word(v->dead));
        m->dead_ms = answer_wall_ms(v->dead_ns, clock_ns(), clock_wall_ms());
    }
}

/* False: the store does not give it. raw_len: as in the message. */
static bool payload_gather(struct server *s, const struct mbox_view *v, bool lz4, uint32_t *raw_len)
{
    const struct mbox_store_ops *store = s->store->ops;
    struct buf *to = &s->scratch->payloads;
    size_t before = to->len;
    enum err e;

    *raw_len = 0;
    e = lz4 ? store->get_stored(s->store, v->letter.payload, to, raw_len)
            : store->get(s->store, v->letter.payload, to);
    if (*raw_len != 0)
        meters_packed(s->meters, PACKED_GIVEN);
    if (e == ERR_OK)
        return true;
    *raw_len = 0;
    log_error("payload_lost", "message=%s error=%s", v->letter.id, err_code(e));
    to->len = before;
    buf_adds(to, "null");
    return false;
}

void answer_fill(struct server *s, const struct mbox_action *a, bool lz4,
                 Slipstream__V1__ReceiveReply *r)
{
    struct answer_scratch *x = s->scratch;
    uint32_t count = 0, i;

    scratch_reserve(x, a->count);
    buf_clear(&x->payloads);
    x->lost_len = 0;
    for (i = 0; i < a->count; i++) {
        const struct mbox_view *v = &s->out.views[a->first + i];
        uint32_t raw_len;

        x->offsets[count] = x->payloads.len;
        if (!payload_gather(s, v, lz4, &raw_len) && a->delivery != 0) {
            /* Nobody takes it for delivered: it comes again, and at last among the dead letters,
             * where it can be looked at, with null in its place. */
            x->lost[x->lost_len++] = v->letter.payload;
            x->payloads.len = x->offsets[count];
            continue;
        }
        message_fill(&x->messages[count], v);
        x->messages[count].raw_len = raw_len;
        x->pointers[count] = &x->messages[count];
        x->messages[count].payload.len = x->payloads.len - x->offsets[count];
        count++;
    }
    for (i = 0; i < count; i++)
        x->messages[i].payload.data = (uint8_t *)x->payloads.base + x->offsets[i];
    slipstream__v1__receive_reply__init(r);
    r->messages = x->pointers;
    r->n_messages = count;
    r->parked = a->parked;
    r->poll = a->poll;
    r->delivery = a->settle ? a->delivery : 0;
    r->more = a->more;
}

static void due_push(struct server *s, struct settle_due due)
{
    if (s->due_len == s->due_cap) {
        s->due_cap = s->due_cap != 0 ? s->due_cap * 2 : 16;
        s->due = realloc(s->due, s->due_cap * sizeof(s->due[0]));
        must(s->due != NULL);
    }
    s->due[s->due_len++] = due;
}

void answer_given(struct server *s, const struct mbox_action *a, uint64_t peer, enum err e)
{
    uint64_t now = clock_ns();
    uint32_t i;

    if (e == ERR_OK)
        for (i = 0; i < a->count; i++)
            meters_delivered(s->meters, now - s->out.views[a->first + i].letter.created_ns);
    if (a->delivery != 0 && (!a->settle || e != ERR_OK)) /* too large for anyone: that counts */
        due_push(s, (struct settle_due){.peer = peer,
                                        .delivery = a->delivery,
                                        .done = e == ERR_OK,
                                        .unsent = e == ERR_BUSY || e == ERR_GONE});
    while (s->scratch->lost_len > 0) /* the last one pushed is the first one done */
        due_push(s, (struct settle_due){.delivery = a->delivery,
                                        .lost = s->scratch->lost[--s->scratch->lost_len]});
}

/* ---- parked polls ---- */

/* What came for it goes back, as its gateway cannot take it now; but nobody parks a poll again that
 * is believed to wait. */
static void poll_end_bare(struct server *s, struct rpc_peer *peer, const struct mbox_action *a)
{
    Slipstream__V1__ReceiveReply r;

    slipstream__v1__receive_reply__init(&r);
    r.poll = a->poll;
    r.more = a->count;
    rpc_event(s->rpc, peer, SLIPSTREAM__V1__MAILBOX_EVENT__EVENT_DELIVERY, &r.base);
}

static void poll_end_send(struct server *s, const struct mbox_action *a)
{
    struct hash_node *n = hash_find(&s->peers, a->peer);
    Slipstream__V1__ReceiveReply r;
    enum err e = ERR_GONE;

    meters_waited(s->meters, a->waited_ns);
    if (n != NULL) {
        answer_fill(s, a, a->lz4, &r);
        e = rpc_event(s->rpc, container_of(n, struct peer, hash)->rpc,
                      SLIPSTREAM__V1__MAILBOX_EVENT__EVENT_DELIVERY, &r.base);
        if (e != ERR_OK)
            poll_end_bare(s, container_of(n, struct peer, hash)->rpc, a);
    }
    answer_given(s, a, a->peer, e);
}

static void poll_ends_send(struct server *s)
{
    size_t i;

    for (i = 0; i < s->out.len; i++)
        if (s->out.items[i].kind == MBOX_POLL_END)
            poll_end_send(s, &s->out.items[i]);
}

void server_finish_step(struct server *s)
{
    poll_ends_send(s);
    while (s->due_len > 0) {
        struct settle_due due = s->due[--s->due_len];
        struct mbox_event e = {.kind = MBOX_SETTLE, .peer = due.peer};

        if (due.lost != 0) {
            e.kind = MBOX_LOST;
            e.lost.delivery = due.delivery;
            e.lost.payload = due.lost;
        } else {
            e.settle.delivery = due.delivery;
            e.settle.done = due.done;
            e.settle.unsent = due.unsent;
        }
        mbox_step(s->core, clock_ns(), &e, &s->out);
        poll_ends_send(s);
    }
}

void server_step(struct server *s, const struct mbox_event *e)
{
    mbox_step(s->core, clock_ns(), e, &s->out);
    server_finish_step(s);
}
