/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_TESTS_MAILBOX_DURABLE_H
#define SLIP_TESTS_MAILBOX_DURABLE_H

#include "tests/unit/mailbox/fixture.h"

/*
 * A store that outlives its core, in memory, and holds the core to the store's contract: what was
 * said since the last commit is a list of operations, which a commit carries out, a failed commit
 * reduces to marks, removes and forgets, and a crash throws away. Naming what it does not have
 * fails the test. Refs of messages that were never committed are given again.
 */
#define DURABLE_COPIES 8u
#define DURABLE_TEXT 64u

struct durable_copy {
    struct mbox_copy_record r;
    char agent[DURABLE_TEXT];
    bool left;
};

struct durable_message {
    uint64_t ref;
    struct mbox_record r;
    char text[8][DURABLE_TEXT];
    struct durable_copy copies[DURABLE_COPIES];
    char *payload;
};

struct durable_answer {
    struct mbox_answer_record r;
    char text[3][DURABLE_TEXT];
    char *bytes;
};

enum durable_kind { OP_APPEND, OP_MARK, OP_REMOVE, OP_REMEMBER, OP_FORGET };

struct durable_op {
    enum durable_kind kind;
    uint64_t ref, copy;
    bool last;
    struct mbox_copy_record mark;
    struct durable_message *message;
    struct durable_answer *answer;
};

struct durable {
    struct mbox_store store;
    struct durable_message **messages;
    struct durable_answer **answers;
    struct durable_op *ops;
    size_t message_len, answer_len, op_len, message_cap, answer_cap, op_cap;
    bool fail_commit, fail_append;
    uint64_t appends;
};

static inline void *durable_grown(void *items, size_t len, size_t *cap, size_t size)
{
    if (len < *cap)
        return items;
    *cap = *cap * 2 + 16;
    items = realloc(items, *cap * size);
    assert_non_null(items);
    return items;
}

static inline struct durable *durable_of(struct mbox_store *s)
{
    return (struct durable *)(void *)s;
}

static inline struct durable_op *durable_op(struct mbox_store *s, enum durable_kind kind)
{
    struct durable *d = durable_of(s);

    d->ops = durable_grown(d->ops, d->op_len, &d->op_cap, sizeof(d->ops[0]));
    d->ops[d->op_len] = (struct durable_op){.kind = kind};
    return &d->ops[d->op_len++];
}

static inline void durable_message_free(struct durable_message *m)
{
    free(m->payload);
    free(m);
}

static inline void durable_answer_free(struct durable_answer *a)
{
    free(a->bytes);
    free(a);
}

static inline struct durable_message *durable_find(const struct durable *d, uint64_t ref)
{
    size_t i;

    for (i = 0; i < d->message_len; i++)
        if (d->messages[i]->ref == ref)
            return d->messages[i];
    for (i = 0; i < d->op_len; i++)
        if (d->ops[i].kind == OP_APPEND && d->ops[i].message->ref == ref)
            return d->ops[i].message;
    return NULL;
}

static inline const char *durable_text(char dst[DURABLE_TEXT], const char *src)
{
    assert_true(strlen(src) < DURABLE_TEXT);
    return strcpy(dst, src);
}

static inline enum err durable_append(struct mbox_store *s, const struct mbox_record *r,
                                      uint64_t *ref, size_t *stored)
{
    struct durable *d = durable_of(s);
    struct durable_message *m = calloc(1, sizeof(*m));
    const char **to[] = {&m->r.tenant, &m->r.workflow,       &m->r.message_id, &m->r.source,
                         &m->r.type,   &m->r.correlation_id, &m->r.reply_to,   &m->r.group};
    size_t i;

    assert_non_null(m);
    if (d->fail_append) {
        free(m);
        return ERR_STORE;
    }
    m->r = *r;
    for (i = 0; i < 8; i++)
        *to[i] = durable_text(m->text[i], *to[i]);
    assert_in_range(r->copy_count, 1, DURABLE_COPIES);
    for (i = 0; i < r->copy_count; i++) {
        m->copies[i].r = r->copies[i];
        m->copies[i].r.agent = durable_text(m->copies[i].agent, r->copies[i].agent);
        assert_true(i == 0 || r->copies[i].id > r->copies[i - 1].id);
    }
    m->payload = malloc(r->payload_len + 1);
    assert_non_null(m->payload);
    memcpy(m->payload, r->payload, r->payload_len);
    m->r.payload = m->payload;
    for (i = 0; i < d->message_len; i++)
        if (d->messages[i]->ref > m->ref)
            m->ref = d->messages[i]->ref;
    for (i = 0; i < d->op_len; i++)
        if (d->ops[i].kind == OP_APPEND)
            m->ref = d->ops[i].message->ref;
    *ref = ++m->ref;
    *stored = r->payload_len;
    durable_op(s, OP_APPEND)->message = m;
    d->appends++;
    return ERR_OK;
}

static inline enum err durable_get(struct mbox_store *s, uint64_t ref, struct buf *out)
{
    const struct durable_message *m = durable_find(durable_of(s), ref);

    if (m == NULL)
        return ERR_NOT_FOUND;
    buf_add(out, m->payload, m->r.payload_len);
    return ERR_OK;
}

static inline struct durable_copy *durable_copy(struct durable_message *m, uint64_t id)
{
    size_t i;

    for (i = 0; i < m->r.copy_count; i++)
        if (m->copies[i].r.id == id && !m->copies[i].left)
            return &m->copies[i];
    return NULL;
}

static inline void durable_mark(struct mbox_store *s, uint64_t ref,
                                const struct mbox_copy_record *copy)
{
    struct durable_message *m = durable_find(durable_of(s), ref);
    struct durable_op *op = durable_op(s, OP_MARK);

    assert_non_null(m);
    assert_non_null(durable_copy(m, copy->id));
    op->ref = ref;
    op->mark = *copy;
}

static inline void durable_remove(struct mbox_store *s, uint64_t ref, uint64_t copy, bool last)
{
    struct durable *d = durable_of(s);
    struct durable_message *m = durable_find(d, ref);
    size_t i, left = 0, removed = 0;
    struct durable_op *op;

    assert_non_null(m);
    assert_non_null(durable_copy(m, copy));
    for (i = 0; i < m->r.copy_count; i++)
        left += !m->copies[i].left;
    for (i = 0; i < d->op_len; i++)
        if (d->ops[i].kind == OP_REMOVE && d->ops[i].ref == ref) {
            assert_true(d->ops[i].copy != copy);
            removed++;
        }
    assert_int_equal(last, left == removed + 1);
    op = durable_op(s, OP_REMOVE);
    op->ref = ref;
    op->copy = copy;
    op->last = last;
}

static inline void durable_remember(struct mbox_store *s, const struct mbox_answer_record *r)
{
    struct durable_answer *a = calloc(1, sizeof(*a));

    assert_non_null(a);
    a->r = *r;
    a->r.tenant = durable_text(a->text[0], r->tenant);
    a->r.workflow = durable_text(a->text[1], r->workflow);
    a->r.key = durable_text(a->text[2], r->key);
    a->bytes = malloc(r->answer_len + 1);
    assert_non_null(a->bytes);
    memcpy(a->bytes, r->answer, r->answer_len);
    a->r.answer = a->bytes;
    durable_op(s, OP_REMEMBER)->answer = a;
}

static inline void durable_forget(struct mbox_store *s, uint64_t answer)
{
    durable_op(s, OP_FORGET)->ref = answer;
}

static inline void durable_do_remove(struct durable *d, const struct durable_op *op)
{
    size_t i;

    for (i = 0; d->messages[i]->ref != op->ref; i++)
        assert_true(i + 1 < d->message_len);
    durable_copy(d->messages[i], op->copy)->left = true;
    if (!op->last)
        return;
    durable_message_free(d->messages[i]);
    memmove(&d->messages[i], &d->messages[i + 1], (--d->message_len - i) * sizeof(d->messages[0]));
}

static inline void durable_do_forget(struct durable *d, uint64_t answer)
{
    size_t i;

    for (i = 0; i < d->answer_len && d->answers[i]->r.id != answer; i++)
        continue;
    assert_true(i < d->answer_len);
    durable_answer_free(d->answers[i]);
    d->answers[i] = d->answers[--d->answer_len];
}

static inline void durable_do(struct durable *d, struct durable_op *op)
{
    struct durable_copy *k;

    switch (op->kind) {
    case OP_APPEND:
        d->messages =
            durable_grown(d->messages, d->message_len, &d->message_cap, sizeof(d->messages[0]));
        d->messages[d->message_len++] = op->message;
        break;
    case OP_MARK:
        k = durable_copy(durable_find(d, op->ref), op->mark.id);
        k->r = op->mark;
        k->r.agent = k->agent;
        break;
    case OP_REMOVE:
        durable_do_remove(d, op);
        break;
    case OP_REMEMBER:
        d->answers =
            durable_grown(d->answers, d->answer_len, &d->answer_cap, sizeof(d->answers[0]));
        d->answers[d->answer_len++] = op->answer;
        break;
    case OP_FORGET:
        durable_do_forget(d, op->ref);
        break;
    }
}

/* Away with what was appended and remembered; all: and with the rest. */
static inline void durable_undo(struct durable *d, bool all)
{
    size_t i, kept = 0;

    for (i = 0; i < d->op_len; i++) {
        if (d->ops[i].kind == OP_APPEND)
            durable_message_free(d->ops[i].message);
        else if (d->ops[i].kind == OP_REMEMBER)
            durable_answer_free(d->ops[i].answer);
        else if (!all)
            d->ops[kept++] = d->ops[i];
    }
    d->op_len = kept;
}

static inline enum err durable_commit(struct mbox_store *s)
{
    struct durable *d = durable_of(s);
    size_t i;

    if (d->fail_commit) {
        durable_undo(d, false);
        return ERR_STORE;
    }
    for (i = 0; i < d->op_len; i++)
        durable_do(d, &d->ops[i]);
    d->op_len = 0;
    return ERR_OK;
}

static inline enum err durable_scan(struct mbox_store *s, const struct mbox_scan *calls)
{
    struct durable *d = durable_of(s);
    size_t i, j;

    for (i = 0; i < d->message_len; i++) {
        struct durable_message *m = d->messages[i];
        struct mbox_copy_record copies[DURABLE_COPIES];
        struct mbox_record r = m->r;

        r.copies = copies;
        r.copy_count = 0;
        for (j = 0; j < m->r.copy_count; j++)
            if (!m->copies[j].left)
                copies[r.copy_count++] = m->copies[j].r;
        calls->message(calls->arg, m->ref, r.payload_len, &r);
    }
    for (i = 0; i < d->answer_len; i++)
        calls->answer(calls->arg, &d->answers[i]->r);
    return ERR_OK;
}

static inline void durable_stats(const struct mbox_store *s, struct mbox_store_stats *out)
{
    *out = (struct mbox_store_stats){0};
    (void)s;
}

static inline void durable_compress_from(struct mbox_store *s, size_t bytes)
{
    (void)s;
    (void)bytes;
}

static inline void durable_close(struct mbox_store *s)
{
    struct durable *d = durable_of(s);
    size_t i;

    durable_undo(d, true);
    for (i = 0; i < d->message_len; i++)
        durable_message_free(d->messages[i]);
    for (i = 0; i < d->answer_len; i++)
        durable_answer_free(d->answers[i]);
    free(d->messages);
    free(d->answers);
    free(d->ops);
    free(d);
}

static inline struct mbox_store *durable_open(void)
{
    static const struct mbox_store_ops ops = {
        .name = "durable",
        .append = durable_append,
        .get = durable_get,
        .mark = durable_mark,
        .remove = durable_remove,
        .remember = durable_remember,
        .forget = durable_forget,
        .commit = durable_commit,
        .scan = durable_scan,
        .stats = durable_stats,
        .compress_from = durable_compress_from,
        .close = durable_close,
    };
    struct durable *d = calloc(1, sizeof(*d));

    assert_non_null(d);
    d->store.ops = &ops;
    return &d->store;
}

/* A fixture on a durable store. */
static inline struct fixture *durable_new(struct mbox_limits limits)
{
    struct fixture *f = calloc(1, sizeof(*f));

    assert_non_null(f);
    f->store = durable_open();
    f->core = mbox_new(&limits, f->store, 42);
    f->now = 1000 * SEC;
    return f;
}

/* The process dies and another starts later: with the limits and a seed of its own. */
static inline void durable_restart(struct fixture *f, struct mbox_limits limits, uint64_t later_ns,
                                   uint64_t seed)
{
    durable_undo(durable_of(f->store), true);
    mbox_free(f->core);
    f->now += later_ns;
    f->core = mbox_new(&limits, f->store, seed);
    assert_int_equal(mbox_restore(f->core, f->now, f->now / MS), ERR_OK);
}

#endif
