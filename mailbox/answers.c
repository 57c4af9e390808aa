/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "common/must.h"
#include "mailbox/box.h"

/*
 * Answers that were given to requests with an idempotency key, for as long as the key's window. The
 * same request gets the same answer again and does nothing; another one under the same key is
 * refused. An answer is lasting with the messages it speaks of, and gone with them where the commit
 * failed.
 *
 * In bytes: for each message err, retry_ms and the number of names, then the message id and the
 * names, each with its NUL.
 */
struct result {
    uint32_t err, retry_ms, names;
};

static uint64_t answer_hash(const struct mbox_core *c, const char *tenant, const char *workflow,
                            const char *key)
{
    return XXH3_64bits_withSeed(key, strlen(key), box_hash(c, tenant, workflow, NULL) ^ 2);
}

static struct answer *answer_find(const struct mbox_core *c, const char *tenant,
                                  const char *workflow, const char *key)
{
    struct hash_node *n = hash_find(&c->answers, answer_hash(c, tenant, workflow, key));

    for (; n != NULL; n = hash_find_next(n)) {
        struct answer *a = container_of(n, struct answer, hash);

        if (strcmp(a->key, key) == 0 && strcmp(a->asker->workflow, workflow) == 0 &&
            strcmp(a->asker->tenant, tenant) == 0)
            return a;
    }
    return NULL;
}

static void answer_free(struct mbox_core *c, struct answer *a)
{
    hash_remove(&c->answers, &a->hash);
    list_remove(&a->in_all);
    list_remove(&a->in_asker);
    asker_remove(c, a->asker, a->cost);
    c->totals.bytes -= a->cost;
    c->answer_bytes -= a->cost;
    free(a);
}

static void answer_forget(struct mbox_core *c, struct answer *a)
{
    c->store->ops->forget(c->store, a->id);
    c->dirty = true;
    answer_free(c, a);
}

/* The oldest; an uncommitted one is young, and the store is not told twice. */
static struct answer *oldest(const struct mbox_core *c)
{
    struct list *n = list_first(&c->all_answers);
    struct answer *a = n != NULL ? container_of(n, struct answer, in_all) : NULL;

    return a != NULL && a->committed ? a : NULL;
}

static void timer_reset(struct mbox_core *c)
{
    struct answer *a = oldest(c);

    if (a != NULL)
        timer_start(&c->timers, &c->answer_timer, a->expires_ns);
    else
        timer_stop(&c->timers, &c->answer_timer);
}

void on_answer_deadline(struct timer *t)
{
    struct mbox_core *c = container_of(t, struct mbox_core, answer_timer);
    struct answer *a;

    while ((a = oldest(c)) != NULL && a->expires_ns <= c->now_ns)
        answer_forget(c, a);
    timer_reset(c);
}

/* ---- what a request is ---- */

static void hash_text(XXH3_state_t *h, const char *s)
{
    s = s != NULL ? s : "";
    XXH3_128bits_update(h, s, strlen(s) + 1);
}

/* The hash outlives the process, so its seed is always the same. */
static void body_hash_of(struct mbox_core *c, const struct mbox_event *e, uint64_t out[2])
{
    XXH3_state_t *h = c->hash_state;
    XXH128_hash_t digest;
    size_t i;

    XXH3_128bits_reset(h);
    XXH3_128bits_update(h, &e->send.ttl_ms, sizeof(e->send.ttl_ms));
    for (i = 0; i < e->send.draft_count; i++) {
        const struct mbox_draft *d = &e->send.drafts[i];
        const uint64_t numbers[] = {d->priority, d->ttl_ms, d->delay_ms, d->payload_len};

        hash_text(h, d->message_id);
        hash_text(h, d->source);
        hash_text(h, d->target);
        hash_text(h, d->type);
        hash_text(h, d->correlation_id);
        hash_text(h, d->reply_to);
        hash_text(h, d->group);
        XXH3_128bits_update(h, numbers, sizeof(numbers));
        if (d->payload_len <= c->limits.max_payload_bytes) /* others are refused by their length */
            XXH3_128bits_update(h, d->payload, d->payload_len);
    }
    digest = XXH3_128bits_digest(h);
    out[0] = digest.low64;
    out[1] = digest.high64;
}

/* ---- bytes ---- */

static void result_put(struct mbox_core *c, const struct mbox_action *a, bool with_names)
{
    const struct result r = {(uint32_t)a->err, a->retry_ms, with_names ? a->count : 0};
    struct buf *to = &c->scratch;
    uint32_t i;

    buf_add(to, &r, sizeof(r));
    buf_add(to, a->message_id, strlen(a->message_id) + 1);
    for (i = 0; i < r.names; i++) {
        const char *name = c->out->names[a->first + i];

        buf_add(to, name, strlen(name) + 1);
    }
}

static void results_put(struct mbox_core *c, size_t first_action, bool with_names)
{
    size_t i;

    buf_clear(&c->scratch);
    for (i = first_action; i < c->out->len; i++)
        if (c->out->items[i].kind == MBOX_SENT)
            result_put(c, &c->out->items[i], with_names);
}

static const char *text_take(const char **at, const char *end)
{
    const char *s = *at, *nul = memchr(s, '\0', (size_t)(end - s));

    if (nul == NULL)
        return NULL;
    *at = nul + 1;
    return s;
}

/* One result as an action of out, NULL: to look whether it is whole. */
static bool result_take(struct mbox_core *c, const char **at, const char *end)
{
    struct mbox_action *a = NULL;
    const char *text;
    struct result r;
    uint32_t i;

    if ((size_t)(end - *at) < sizeof(r))
        return false;
    memcpy(&r, *at, sizeof(r));
    *at += sizeof(r);
    text = text_take(at, end);
    if (text == NULL || strlen(text) >= sizeof(a->message_id))
        return false;
    if (c != NULL) {
        a = action_new(c, MBOX_SENT);
        a->err = (enum err)r.err;
        a->retry_ms = r.retry_ms;
        a->replayed = true;
        a->first = (uint32_t)c->out->name_len;
        a->count = r.names;
        memcpy(a->message_id, text, strlen(text) + 1);
    }
    for (i = 0; i < r.names; i++) {
        text = text_take(at, end);
        if (text == NULL)
            return false;
        if (c != NULL)
            name_add(c, text);
    }
    return true;
}

static bool results_count(const char *bytes, size_t len, size_t *count)
{
    const char *at = bytes, *end = bytes + len;

    for (*count = 0; at < end; ++*count)
        if (!result_take(NULL, &at, end))
            return false;
    return true;
}

/* ---- the door ---- */

bool answers_replay(struct mbox_core *c, const struct mbox_event *e, uint64_t body_hash[2])
{
    const struct answer *a =
        answer_find(c, e->send.tenant, e->send.workflow, e->send.idempotency_key);
    const char *at;
    size_t count;

    body_hash_of(c, e, body_hash);
    if (a == NULL)
        return false;
    /* Bodies of one hash can be made on purpose: an answer goes to a request of its length only. */
    if (a->body_hash[0] != body_hash[0] || a->body_hash[1] != body_hash[1] ||
        !results_count(a->bytes, a->len, &count) || count != e->send.draft_count) {
        action_new(c, MBOX_REPLY)->err = ERR_IDEMPOTENCY;
        return true;
    }
    for (at = a->bytes; at < a->bytes + a->len;)
        must(result_take(c, &at, a->bytes + a->len));
    c->totals.replayed++;
    return true;
}

/* By id, which is by age, whatever order a store names them in. */
static void answer_list(struct mbox_core *c, struct answer *a)
{
    struct list *all = &c->all_answers, *own = &a->asker->answers;

    while (all->prev != &c->all_answers &&
           container_of(all->prev, struct answer, in_all)->id > a->id)
        all = all->prev;
    list_insert(all, &a->in_all);
    while (own->prev != &a->asker->answers &&
           container_of(own->prev, struct answer, in_asker)->id > a->id)
        own = own->prev;
    list_insert(own, &a->in_asker);
}

static struct answer *answer_new(struct mbox_core *c, const struct mbox_answer_record *r)
{
    size_t key_len = strlen(r->key) + 1, bytes = sizeof(struct answer) + key_len + r->answer_len;
    struct answer *a = calloc(1, bytes);

    must(a != NULL);
    a->asker = asker_open(c, r->tenant, r->workflow);
    a->key = memcpy(a->text, r->key, key_len);
    a->bytes = memcpy(a->text + key_len, r->answer, r->answer_len);
    a->len = (uint32_t)r->answer_len;
    a->cost = (uint32_t)bytes;
    a->id = r->id;
    memcpy(a->body_hash, r->body_hash, sizeof(a->body_hash));
    c->totals.bytes += bytes;
    c->answer_bytes += bytes;
    asker_add(c, a->asker, a->cost);
    answer_list(c, a);
    hash_add(&c->answers, &a->hash, answer_hash(c, r->tenant, r->workflow, a->key));
    return a;
}

/* False: there is none that is committed. */
static bool biggest_gives_way(struct mbox_core *c, enum asker_scale scale)
{
    struct asker *k = asker_biggest(c, scale);
    struct answer *a =
        k != NULL ? container_of(list_first(&k->answers), struct answer, in_asker) : NULL;

    if (a == NULL || !a->committed)
        return false;
    answer_forget(c, a);
    return true;
}

/* Answers take no more than their share: messages would be refused for them, and nothing that is
 * refused makes room. */
static void make_room(struct mbox_core *c)
{
    uint64_t share = c->limits.total_bytes / MBOX_ANSWERS_SHARE;

    while (c->answers.count > c->limits.max_keys && biggest_gives_way(c, BY_KEYS))
        continue;
    while ((c->answer_bytes > share || c->totals.bytes > c->limits.total_bytes) &&
           biggest_gives_way(c, BY_BYTES))
        continue;
    timer_reset(c);
}

void answers_add(struct mbox_core *c, const struct mbox_event *e, const uint64_t body_hash[2],
                 size_t first_action)
{
    struct mbox_answer_record r = {
        .tenant = e->send.tenant,
        .workflow = e->send.workflow,
        .key = e->send.idempotency_key,
        .body_hash = {body_hash[0], body_hash[1]},
    };
    uint64_t expires_ns = c->now_ns + c->limits.key_window_ns;

    results_put(c, first_action, true);
    if (c->scratch.len > MBOX_ANSWER_BYTES)
        results_put(c, first_action, false);
    r.id = c->next_id++;
    r.expires_ms = wall_of(c, expires_ns);
    r.answer = c->scratch.base;
    r.answer_len = c->scratch.len;
    answer_new(c, &r)->expires_ns = expires_ns;
    c->store->ops->remember(c->store, &r);
    c->dirty = true;
}

/* Uncommitted ones are at the tail. */
void answers_commit(struct mbox_core *c, bool ok)
{
    struct list *n = c->all_answers.prev, *prev;

    for (; n != &c->all_answers; n = prev) {
        struct answer *a = container_of(n, struct answer, in_all);

        prev = n->prev;
        if (a->committed)
            break;
        if (ok)
            a->committed = true;
        else
            answer_free(c, a);
    }
    make_room(c);
}

void answers_restore(struct mbox_core *c, const struct mbox_answer_record *r)
{
    struct answer *a;
    size_t count;

    if (r->expires_ms <= c->wall_ms || !results_count(r->answer, r->answer_len, &count)) {
        c->store->ops->forget(c->store, r->id);
        c->dirty = true;
        return;
    }
    a = answer_new(c, r);
    a->committed = true;
    a->expires_ns = ns_of(c, r->expires_ms);
    make_room(c);
}

void answers_fini(struct mbox_core *c)
{
    struct list *n;

    while ((n = list_first(&c->all_answers)) != NULL)
        answer_free(c, container_of(n, struct answer, in_all));
    XXH3_freeState(c->hash_state);
}
