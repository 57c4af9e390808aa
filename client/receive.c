/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "client/client.h"
#include "common/clock.h"
#include "common/must.h"

/*
 * Receiving: ask, wait for the event where nothing was there, and say that the messages arrived.
 *
 * A receive asks under a name (its poll). The mailbox answers at once, with messages or that the
 * poll is parked, and then an event ends it. After a lost link the receive asks again under the
 * same name, for what is left of its wait; so it may be answered twice, and what nobody waits for
 * any more goes back.
 *
 * Without a lease the mailbox keeps what it handed out until it hears that it arrived (settling).
 * That is said again after a lost link. A mailbox that was started anew knows nothing of the
 * delivery and has the messages in their places: it is told to hold them, before any receive of
 * ours is parked there again, and then that they arrived.
 */
#define RECEIVES_MAX 8191u
#define FOLLOW_WAIT_MS 30000u
#define RAW_NS (60 * NS_PER_S) /* so long blocks are avoided after a damaged one */

enum receive_state {
    RECEIVE_ASKING,    /* the answer is awaited */
    RECEIVE_PARKED,    /* the event is awaited */
    RECEIVE_UNPARKING, /* nobody waits any more; an event may come first */
    RECEIVE_SETTLING,  /* the messages are here; the program hears when the mailbox has heard */
    RECEIVE_ENDED
};

/* An answer and the result that it lives in. */
struct got {
    struct slipstream_messages *root;
    const Slipstream__V1__ReceiveReply *reply;
};

struct receive {
    struct op op;
    struct list parked;                      /* s->parked while PARKED */
    struct timer overdue;                    /* runs while PARKED */
    Slipstream__V1__ReceiveRequest *request; /* our copy, a result */
    enum receive_state state;
    uint64_t poll, asked_ns, wait_end_ns;
    unsigned downs;        /* of the link, when it began */
    bool stopping;         /* the program waits no longer */
    bool waits_for_settle; /* before it ends */
    struct got early;      /* an event that came before the answer */
};

/* That messages arrived, until the mailbox has heard. */
struct settling {
    struct ask ask;
    struct slipstream *s;
    struct receive *waits;                   /* ends with it; NULL: nobody */
    Slipstream__V1__ReceiveRequest *request; /* taken over from the receive */
    Slipstream__V1__HoldRequest hold;        /* its strings are in the memory of request */
    uint64_t delivery, epoch, deadline_ns;
    bool held;
};

static void receive_asked(void *arg, enum err status, const uint8_t *body, size_t len);
static void on_overdue(struct timer *t);

bool takes_blocks(const struct slipstream *s)
{
    return !s->uncompressed && clock_ns() >= s->raw_until_ns;
}

enum err blocks_avoid(struct slipstream *s)
{
    s->raw_until_ns = clock_ns() + RAW_NS;
    return ERR_PROTO;
}

void receives_init(struct slipstream *s)
{
    pool_init(&s->receives, sizeof(struct receive), RECEIVES_MAX);
    list_init(&s->parked);
}

void receives_fini(struct slipstream *s)
{
    pool_fini(&s->receives);
}

static void receive_free(struct op *o)
{
    struct receive *r = container_of(o, struct receive, op);

    slipstream_free(r->request);
    pool_give(&o->s->receives, r->poll);
}

/* ---- deliveries that nobody waits for ---- */

static void settle_request(Slipstream__V1__SettleRequest *r, uint64_t delivery, bool done)
{
    slipstream__v1__settle_request__init(r);
    r->delivery = delivery;
    r->done = done;
}

static bool got_read(struct got *to, const uint8_t *body, size_t len)
{
    ProtobufCMessage *answer;

    to->root = result_for_answer(&slipstream__v1__receive_reply__descriptor, body, len, &answer);
    to->reply = (const Slipstream__V1__ReceiveReply *)answer;
    return to->root != NULL;
}

static void give_back(struct slipstream *s, struct got *got)
{
    Slipstream__V1__SettleRequest request;

    if (got->root == NULL)
        return;
    if (got->reply->delivery != 0) {
        settle_request(&request, got->reply->delivery, false);
        client_tell(s, SIDE_MAILBOX, MAILBOX_SETTLE, &request.base);
    }
    slipstream_free(got->root);
    *got = (struct got){0};
}

void receive_late(struct slipstream *s, enum err status, const uint8_t *body, size_t len)
{
    struct got got;

    if (status == ERR_OK && got_read(&got, body, len))
        give_back(s, &got);
}

/* ---- settling ---- */

static void settling_end(struct settling *st)
{
    st->s->settling_count--;
    if (st->waits != NULL) {
        st->waits->state = RECEIVE_ENDED;
        op_end(&st->waits->op, ERR_OK, st->waits->op.result, NULL);
    }
    slipstream_free(st->request);
    free(st);
}

static void on_settled(void *arg, enum err status, const uint8_t *body, size_t len);

static void settle_go(struct settling *st)
{
    Slipstream__V1__SettleRequest request;
    enum err e;

    settle_request(&request, st->delivery, true);
    st->ask.done = on_settled;
    st->ask.arg = st;
    st->ask.epoch = st->epoch;
    e = ask_start(st->s, &st->ask, SIDE_MAILBOX, MAILBOX_SETTLE, &request.base, st->deadline_ns);
    if (e != ERR_OK)
        on_settled(st, e, NULL, 0);
}

static void on_held(void *arg, enum err status, const uint8_t *body, size_t len)
{
    struct settling *st = arg;
    Slipstream__V1__HoldReply *reply =
        status == ERR_OK ? slipstream__v1__hold_reply__unpack(NULL, len, body) : NULL;

    st->delivery = reply != NULL ? reply->delivery : 0;
    st->epoch = st->s->links[SIDE_MAILBOX].epoch;
    if (reply != NULL)
        slipstream__v1__hold_reply__free_unpacked(reply, NULL);
    if (st->delivery != 0)
        settle_go(st);
    else
        settling_end(st);
}

static void hold_go(struct settling *st)
{
    st->held = true;
    st->ask.done = on_held;
    st->ask.epoch = 0;
    if (ask_start(st->s, &st->ask, SIDE_MAILBOX, MAILBOX_HOLD, &st->hold.base, st->deadline_ns) !=
        ERR_OK)
        settling_end(st);
}

/* If the mailbox does not hear of it the messages come again, which is what at least once means; so
 * a failure here is none of the receive. */
static void on_settled(void *arg, enum err status, const uint8_t *body, size_t len)
{
    struct settling *st = arg;

    (void)body, (void)len;
    if (status == ERR_HELLO && !st->held && st->hold.n_message_ids > 0)
        hold_go(st);
    else if (status == ERR_GONE && clock_ns() < st->deadline_ns)
        settle_go(st);
    else
        settling_end(st);
}

/* Leased messages are not held again: their receipts are good also after a restart. */
static void settling_start(struct receive *r, const struct got *got)
{
    struct slipstream *s = r->op.s;
    struct settling *st = calloc(1, sizeof(*st));
    char **ids;
    size_t i;

    must(st != NULL);
    st->s = s;
    st->ask.first = true;
    st->waits = r->waits_for_settle ? r : NULL;
    st->delivery = got->reply->delivery;
    st->epoch = s->links[SIDE_MAILBOX].epoch;
    st->deadline_ns = deadline_after(s->timeout_ms);
    st->request = r->request;
    r->request = NULL;
    slipstream__v1__hold_request__init(&st->hold);
    if (st->request->lease_ms == 0) {
        ids = result_more(st->request, (got->reply->n_messages + 1) * sizeof(*ids));
        for (i = 0; i < got->reply->n_messages; i++)
            ids[i] = unconst(result_text(st->request, got->reply->messages[i]->message_id));
        st->hold.tenant = st->request->tenant;
        st->hold.workflow_id = st->request->workflow_id;
        st->hold.agent_id = st->request->agent_id;
        st->hold.message_ids = ids;
        st->hold.n_message_ids = got->reply->n_messages;
    }
    s->settling_count++;
    settle_go(st);
}

/* ---- the end of a receive ---- */

static void receive_leave(struct receive *r)
{
    struct slipstream *s = r->op.s;
    Slipstream__V1__UnparkRequest request = SLIPSTREAM__V1__UNPARK_REQUEST__INIT;

    timer_stop(loop_timers(s->loop), &r->overdue);
    list_remove(&r->parked);
    give_back(s, &r->early);
    r->state = RECEIVE_ENDED;
    /* After a lost link the poll may be parked once more than it was answered. */
    if (s->links[SIDE_MAILBOX].downs != r->downs && r->request->wait_ms != 0) {
        request.poll = r->poll;
        client_tell(s, SIDE_MAILBOX, MAILBOX_UNPARK, &request.base);
    }
}

static void receive_fail(struct receive *r, enum err e, const char *text)
{
    receive_leave(r);
    op_end(&r->op, e, NULL, text);
}

/* got: taken. Without a root: nothing came. */
static void receive_finish(struct receive *r, struct got got)
{
    receive_leave(r);
    if (got.root == NULL) {
        op_end(&r->op, ERR_OK, result_new(sizeof(struct slipstream_messages)), NULL);
        return;
    }
    if (!messages_read(got.root, got.reply)) {
        give_back(r->op.s, &got);
        op_end(&r->op, blocks_avoid(r->op.s), NULL, "a compressed payload is damaged");
        return;
    }
    r->op.result = got.root;
    if (got.reply->delivery == 0 || !r->waits_for_settle) {
        if (got.reply->delivery != 0)
            settling_start(r, &got);
        op_end(&r->op, ERR_OK, got.root, NULL);
        return;
    }
    r->state = RECEIVE_SETTLING;
    settling_start(r, &got);
}

static struct got early_take(struct receive *r)
{
    struct got got = r->early;

    r->early = (struct got){0};
    return got;
}

/* ---- steps ---- */

static void receive_ask(struct receive *r)
{
    struct slipstream *s = r->op.s;
    uint64_t now = clock_ns();
    enum err e;

    timer_stop(loop_timers(s->loop), &r->overdue);
    list_remove(&r->parked);
    r->state = RECEIVE_ASKING;
    r->asked_ns = now;
    r->request->lz4 = takes_blocks(s);
    if (r->request->wait_ms != 0)
        r->request->wait_ms =
            r->wait_end_ns > now ? (uint32_t)((r->wait_end_ns - now) / NS_PER_MS) + 1 : 1;
    r->op.ask.done = receive_asked;
    e = ask_start(s, &r->op.ask, SIDE_MAILBOX, MAILBOX_RECEIVE, &r->request->base,
                  deadline_after(s->timeout_ms));
    if (e != ERR_OK)
        receive_fail(r, e, s->error);
}

static void on_unparked(void *arg, enum err status, const uint8_t *body, size_t len)
{
    struct receive *r = arg;

    (void)body, (void)len;
    if (status == ERR_CANCELLED)
        receive_fail(r, status, NULL);
    else
        receive_finish(r, early_take(r));
}

static void receive_unpark(struct receive *r)
{
    struct slipstream *s = r->op.s;
    Slipstream__V1__UnparkRequest request = SLIPSTREAM__V1__UNPARK_REQUEST__INIT;

    timer_stop(loop_timers(s->loop), &r->overdue);
    list_remove(&r->parked);
    r->state = RECEIVE_UNPARKING;
    request.poll = r->poll;
    r->op.ask.done = on_unparked;
    if (ask_start(s, &r->op.ask, SIDE_MAILBOX, MAILBOX_UNPARK, &request.base,
                  deadline_after(s->timeout_ms)) != ERR_OK)
        receive_finish(r, early_take(r));
}

static void on_overdue(struct timer *t)
{
    receive_unpark(container_of(t, struct receive, overdue));
}

static void receive_park(struct receive *r)
{
    struct slipstream *s = r->op.s;

    if (r->early.root != NULL) {
        receive_finish(r, early_take(r));
    } else if (r->stopping) {
        receive_unpark(r);
    } else {
        r->state = RECEIVE_PARKED;
        list_push(&s->parked, &r->parked);
        timer_start(loop_timers(s->loop), &r->overdue, r->wait_end_ns + s->timeout_ms * NS_PER_MS);
    }
}

static void receive_asked(void *arg, enum err status, const uint8_t *body, size_t len)
{
    struct receive *r = arg;
    struct got got = {0};
    char text[400];

    if (status == ERR_OK && !got_read(&got, body, len)) {
        status = ERR_PROTO;
        len = 0;
    }
    if (status == ERR_OK && got.reply->parked) {
        slipstream_free(got.root);
        receive_park(r);
    } else if (status == ERR_OK) {
        receive_finish(r, got);
    } else if (r->early.root != NULL) {
        receive_finish(r, early_take(r));
    } else if (status == ERR_GONE && r->stopping) {
        receive_finish(r, got);
    } else if (status == ERR_GONE && clock_ns() < r->wait_end_ns) {
        receive_ask(r);
    } else {
        ask_explain(&r->op.ask, status, body, len, text, sizeof(text));
        receive_fail(r, status, text);
    }
}

/* The mailbox ends a poll earlier than it was asked for where that is beyond its own limit. Not
 * asked again where the answer came fast, whatever the reason. */
static bool is_too_short(const struct receive *r, const struct got *got)
{
    uint64_t now = clock_ns();

    return got->reply->n_messages == 0 && !r->stopping && now - r->asked_ns > NS_PER_S &&
           now + NS_PER_S / 10 < r->wait_end_ns;
}

void mailbox_event(struct slipstream *s, unsigned method, const uint8_t *body, size_t len)
{
    struct receive *r;
    struct got got;

    if (method != SLIPSTREAM__V1__MAILBOX_EVENT__EVENT_DELIVERY || !got_read(&got, body, len))
        return;
    r = pool_find(&s->receives, got.reply->poll);
    if (r != NULL && r->state == RECEIVE_PARKED && is_too_short(r, &got)) {
        slipstream_free(got.root);
        receive_ask(r);
    } else if (r != NULL && r->state == RECEIVE_PARKED) {
        receive_finish(r, got);
    } else if (r != NULL && r->state <= RECEIVE_UNPARKING && r->early.root == NULL) {
        r->early = got;
    } else {
        give_back(s, &got);
    }
}

void mailbox_down(struct slipstream *s)
{
    struct list now, *n;

    if (s->closing || list_is_empty(&s->parked))
        return;
    list_insert(s->parked.next, &now);
    list_remove(&s->parked);
    while ((n = list_first(&now)) != NULL)
        receive_ask(container_of(n, struct receive, parked));
}

void receives_cancel(struct slipstream *s)
{
    struct list *n;

    while ((n = list_first(&s->parked)) != NULL)
        receive_fail(container_of(n, struct receive, parked), ERR_CANCELLED, NULL);
}

/* ---- calls ---- */

static Slipstream__V1__ReceiveRequest *request_new(const struct slipstream *s,
                                                   const struct slipstream_receive_options *o)
{
    Slipstream__V1__ReceiveRequest *r = result_new(sizeof(*r));

    slipstream__v1__receive_request__init(r);
    r->tenant = s->tenant;
    r->workflow_id = unconst(result_text(r, o->workflow));
    r->agent_id = unconst(result_text(r, o->agent));
    r->max = o->max;
    r->wait_ms = o->peek ? 0 : o->wait_ms;
    r->types = strings_of(result_texts(r, strings_of(o->types), o->type_count));
    r->n_types = o->type_count;
    r->peek = o->peek;
    r->lease_ms = o->lease_ms;
    r->lz4 = takes_blocks(s);
    r->settle = o->lease_ms == 0 || o->wait_ms != 0;
    return r;
}

static int receive_begin(struct slipstream *s, const struct slipstream_receive_options *o,
                         bool waits_for_settle, slipstream_done *done, void *arg, uint64_t *call)
{
    uint64_t handle;
    struct receive *r = pool_take(&s->receives, &handle);
    enum err e;

    if (r == NULL)
        return (int)client_fail(s, ERR_BUSY, "too many receives under way");
    r->request = request_new(s, o);
    r->poll = r->request->poll = handle;
    r->wait_end_ns = clock_ns() + r->request->wait_ms * NS_PER_MS;
    r->asked_ns = clock_ns();
    r->downs = s->links[SIDE_MAILBOX].downs;
    r->waits_for_settle = waits_for_settle;
    r->overdue.fire = on_overdue;
    list_init(&r->parked);
    r->op.ask.done = receive_asked;
    r->op.ask.arg = r;
    e = ask_start(s, &r->op.ask, SIDE_MAILBOX, MAILBOX_RECEIVE, &r->request->base,
                  deadline_after(s->timeout_ms));
    if (e != ERR_OK) {
        slipstream_free(r->request);
        pool_give(&s->receives, handle);
        return (int)e;
    }
    op_init(&r->op, s, done, arg, receive_free);
    if (call != NULL)
        *call = handle;
    return 0;
}

int slipstream_receive_start(struct slipstream *s, const struct slipstream_receive_options *o,
                             slipstream_done *done, void *arg, uint64_t *call)
{
    return receive_begin(s, o, false, done, arg, call);
}

void slipstream_receive_stop(struct slipstream *s, uint64_t call)
{
    struct receive *r = pool_find(&s->receives, call);

    if (r == NULL || r->stopping || r->state >= RECEIVE_UNPARKING)
        return;
    r->stopping = true;
    if (r->state == RECEIVE_PARKED)
        receive_unpark(r);
    else if (ask_withdraw(&r->op.ask))
        receive_finish(r, early_take(r));
}

int slipstream_receive(struct slipstream *s, const struct slipstream_receive_options *o,
                       struct slipstream_messages **out)
{
    struct blocked b = {0};
    void *result = NULL;
    int e = (int)may_block(s);

    if (e == 0)
        e = blocked_wait(s, &b, receive_begin(s, o, true, on_blocked, &b, NULL), &result);
    if (e == 0)
        *out = result;
    return e;
}

/* ---- follow ---- */

static int follow_settle(struct slipstream *s, const struct slipstream_receive_options *o,
                         const struct slipstream_message *m, enum slipstream_next next)
{
    bool back = next == SLIPSTREAM_NEXT_RETURN || next == SLIPSTREAM_STOP_RETURN;
    int e;

    if (o->lease_ms == 0)
        return 0;
    e = back ? slipstream_nack(s, o->workflow, m, 0) : slipstream_ack(s, o->workflow, m);
    return e == SLIPSTREAM_RECEIPT ? 0 : e;
}

int slipstream_follow(struct slipstream *s, const struct slipstream_receive_options *o,
                      slipstream_on_message *on_message, void *arg)
{
    struct slipstream_receive_options each = *o;
    struct slipstream_messages *list;
    bool going = true;
    size_t i;
    int e;

    if (o->peek)
        return (int)client_fail(s, ERR_INVALID, "a look does not follow");
    each.max = o->max != 0 ? o->max : 1;
    each.wait_ms = o->wait_ms != 0 ? o->wait_ms : FOLLOW_WAIT_MS;
    do {
        e = slipstream_receive(s, &each, &list);
        if (e != 0)
            return e;
        for (i = 0; i < list->count && going && e == 0; i++) {
            enum slipstream_next next = on_message(arg, &list->items[i]);

            going = next == SLIPSTREAM_NEXT || next == SLIPSTREAM_NEXT_RETURN;
            e = follow_settle(s, o, &list->items[i], next);
        }
        slipstream_free(list);
    } while (going && e == 0);
    return e;
}
