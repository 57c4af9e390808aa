/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "client/client.h"
#include "common/must.h"

/*
 * What the program asked for, and how it hears of the end. An op that has ended rests on s->ended
 * until the turn is over: so no code of the program runs inside the channel, and a callback may
 * start what it likes.
 */
void op_init(struct op *o, struct slipstream *s, slipstream_done *done, void *arg,
             void (*free)(struct op *o))
{
    list_init(&o->link);
    o->s = s;
    o->done = done;
    o->arg = arg;
    o->free = free;
    s->under_way++;
}

void op_end(struct op *o, enum err e, void *result, const char *text)
{
    o->error = (int)e;
    o->result = result;
    if (e != ERR_OK) {
        o->text = strdup(text != NULL ? text : err_text(e));
        must(o->text != NULL);
    }
    list_push(&o->s->ended, &o->link);
}

/* Those that end meanwhile wait for the next turn. */
void ops_deliver(struct slipstream *s)
{
    struct list now, *n;

    if (list_is_empty(&s->ended))
        return;
    list_insert(s->ended.next, &now);
    list_remove(&s->ended);
    s->in_done = true;
    while ((n = list_take(&now)) != NULL) {
        struct op *o = container_of(n, struct op, link);
        slipstream_done *done = o->done;
        void *arg = o->arg, *result = o->result;
        int error = o->error;

        if (error != 0)
            client_fail(s, (enum err)error, "%s", o->text);
        free(o->text);
        s->under_way--;
        o->free(o);
        done(arg, error, result);
    }
    s->in_done = false;
}

/* ---- blocking twins ---- */

void on_blocked(void *arg, int error, void *result)
{
    struct blocked *b = arg;

    b->done = true;
    b->error = error;
    b->result = result;
}

int blocked_wait(struct slipstream *s, struct blocked *b, int started, void **out)
{
    if (started != 0)
        return started;
    while (!b->done)
        client_turn(s, -1);
    if (b->error == 0)
        *out = b->result;
    return b->error;
}

/* ---- unary calls ---- */

struct unary {
    struct op op;
    answer_read_fn *read;
    size_t expected;
};

static void unary_free(struct op *o)
{
    free(container_of(o, struct unary, op));
}

static void on_unary(void *arg, enum err status, const uint8_t *body, size_t len)
{
    struct unary *u = arg;
    const struct ask *a = &u->op.ask;
    ProtobufCMessage *answer;
    char text[400];
    void *root = NULL;

    if (status == ERR_OK) {
        root = result_for_answer(slipstream__v1__mailbox__descriptor.methods[a->method].output,
                                 body, len, &answer);
        if (root != NULL && u->read(root, answer, u->expected)) {
            op_end(&u->op, ERR_OK, root, NULL);
            return;
        }
        slipstream_free(root);
        status = ERR_PROTO;
        len = 0;
    }
    ask_explain(a, status, body, len, text, sizeof(text));
    op_end(&u->op, status, NULL, text);
}

enum err unary_start(struct slipstream *s, unsigned method, const ProtobufCMessage *request,
                     answer_read_fn *read, size_t expected, slipstream_done *done, void *arg)
{
    struct unary *u = calloc(1, sizeof(*u));
    enum err e;

    must(u != NULL);
    u->read = read;
    u->expected = expected;
    u->op.ask.done = on_unary;
    u->op.ask.arg = u;
    e = ask_start(s, &u->op.ask, SIDE_MAILBOX, method, request, deadline_after(s->timeout_ms));
    if (e != ERR_OK) {
        free(u);
        return e;
    }
    op_init(&u->op, s, done, arg, unary_free);
    return ERR_OK;
}
