/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_TESTS_MAILBOX_MODEL_H
#define SLIP_TESTS_MAILBOX_MODEL_H

#include "tests/unit/mailbox/durable.h"

/*
 * What mailboxes promise, said as simply as possible: all messages in one array, every question
 * answered by looking at all of them. Shares no code and no data structure with the core.
 *
 * Times are whole milliseconds, so that people's time and the core's say the same.
 */
#define WORKFLOWS 2u
#define AGENTS 3u
#define BOXES (WORKFLOWS * AGENTS)
#define PEERS 3u
#define ITEMS 4096u
#define POLLS 24u
#define HELD 256u
#define RECEIPTS 128u
#define ANSWERS 64u
#define PICKED 32u

enum where { NEW, QUEUED, DELAYED, OUT, LEASED, KEPT, DEAD, GONE };

/* What the store was told of an item. */
struct told {
    bool there;
    uint32_t attempts;
    uint64_t due_ms, dead_ms, expires, kept_until, kept;
    enum mbox_dead dead;
};

struct item {
    uint32_t serial; /* by coming in */
    size_t box, len;
    enum where where;
    uint32_t attempts, priority, ttl_ms, delay_ms, lease_ms;
    uint64_t created, place, expires, at, delivery, died, kept, held;
    char type, group; /* group 0: none */
    bool busy, taken, returned, restored, doomed;
    enum mbox_dead dead;
    unsigned driven;
    char id[32];
    struct told told, safe; /* now; with the last good commit */
};

struct parked {
    bool on;
    size_t box;
    uint64_t peer, poll, order, deadline;
    uint32_t max, lease_ms;
    char type; /* 0: any */
};

struct held {
    uint64_t id, peer, deadline;
    size_t box;
};

struct receipt {
    uint32_t serial, attempts;
    unsigned driven, epoch;
    char id[32], text[MBOX_RECEIPT_MAX];
    size_t box;
};

struct known_answer {
    bool on, committed;
    size_t workflow;
    unsigned key, body;
    enum err err;
    uint32_t count;
    char id[32];
    uint64_t expires, order;
};

struct counts {
    uint64_t sent, restored, delivered, redelivered, expired, purged, dead, redriven, forgotten;
};

struct model {
    struct fixture *f;
    struct mbox_limits limits;
    uint64_t random, places, orders;
    uint32_t serials;
    unsigned epoch;
    struct item items[ITEMS];
    size_t len;
    bool closing[BOXES];
    struct parked parked[POLLS];
    struct held held[HELD];
    size_t held_len;
    struct receipt receipts[RECEIPTS];
    size_t receipt_count;
    struct known_answer answers[ANSWERS];
    unsigned key_class[WORKFLOWS]; /* the power of two of their keys, and since when */
    uint64_t key_class_since[WORKFLOWS];
    struct counts counts;
    uint64_t seen[16]; /* how often something rare happened, so that it surely did */
};

static const char *const agent_names[AGENTS] = {"a", "b", "c"};
static const char *const workflow_names[WORKFLOWS] = {"v", "w"};

static inline uint64_t draw(struct model *m, uint64_t below)
{
    m->random = m->random * 6364136223846793005u + 1442695040888963407u;
    return (m->random >> 33) % below;
}

static inline struct mbox_key key_of(size_t box)
{
    return (struct mbox_key){"t", workflow_names[box / AGENTS], agent_names[box % AGENTS]};
}

static inline size_t count_of(const struct model *m, size_t box, enum where where)
{
    size_t i, n = 0;

    for (i = 0; i < m->len; i++)
        n += m->items[i].box == box && m->items[i].where == where;
    return n;
}

static inline bool is_live(const struct item *k)
{
    return k->where != KEPT && k->where != DEAD && k->where != GONE;
}

/* ---- leaving ---- */

static inline void gone(struct item *k)
{
    k->where = GONE;
    k->busy = false;
    k->at = UINT64_MAX;
    k->told.there = false;
}

static inline void done(struct model *m, struct item *k)
{
    m->counts.delivered++;
    gone(k);
}

static inline void forget(struct model *m, struct item *k)
{
    m->counts.forgotten++;
    gone(k);
}

static inline struct item *first_dead(struct model *m, size_t box)
{
    struct item *first = NULL;
    size_t i;

    for (i = 0; i < m->len; i++)
        if (m->items[i].box == box && m->items[i].where == DEAD &&
            (first == NULL || m->items[i].died < first->died))
            first = &m->items[i];
    return first;
}

static inline void tell(struct model *m, struct item *k, uint64_t due)
{
    k->told = (struct told){.there = true,
                            .attempts = k->attempts,
                            .due_ms = due / MS,
                            .expires = k->expires,
                            .dead = k->dead,
                            .dead_ms = k->dead != MBOX_ALIVE ? m->f->now / MS : 0};
}

static inline void die(struct model *m, struct item *k, enum mbox_dead why)
{
    m->counts.dead++;
    m->counts.expired += why == MBOX_DEAD_EXPIRED;
    m->seen[why]++;
    k->busy = false;
    if (m->closing[k->box] || m->limits.dead_messages == 0) {
        forget(m, k);
        return;
    }
    k->where = DEAD;
    k->dead = why;
    k->died = m->orders++;
    k->at = m->f->now + m->limits.dead_ttl_ns;
    tell(m, k, 0);
    while (count_of(m, k->box, DEAD) > m->limits.dead_messages)
        forget(m, first_dead(m, k->box));
}

/* ---- coming ---- */

static inline void queue(struct item *k)
{
    k->where = QUEUED;
    k->busy = false;
    k->at = k->expires;
}

static inline void delay(struct item *k, uint64_t due)
{
    k->where = DELAYED;
    k->at = due < k->expires ? due : k->expires;
}

static inline void come_back(struct model *m, struct item *k, uint32_t delay_ms, bool by_hand)
{
    uint64_t due = delay_ms != 0 ? m->f->now + delay_ms * MS : 0;

    k->returned = by_hand;
    if (m->limits.max_deliveries != 0 && k->attempts >= m->limits.max_deliveries) {
        die(m, k, MBOX_DEAD_ATTEMPTS);
    } else if (k->expires <= m->f->now) {
        die(m, k, MBOX_DEAD_EXPIRED);
    } else {
        tell(m, k, due);
        if (due != 0)
            delay(k, due);
        else
            queue(k);
    }
}

/* Of all in this delivery, the one handed out first. */
static inline struct item *first_of(struct model *m, uint64_t delivery)
{
    struct item *first = NULL;
    size_t i;

    for (i = 0; i < m->len; i++)
        if (m->items[i].where == OUT && m->items[i].delivery == delivery &&
            (first == NULL || m->items[i].held < first->held))
            first = &m->items[i];
    return first;
}

static inline void end_held(struct model *m, size_t at)
{
    memmove(&m->held[at], &m->held[at + 1], (--m->held_len - at) * sizeof(m->held[0]));
}

static inline void return_held(struct model *m, size_t at)
{
    struct item *k;

    while ((k = first_of(m, m->held[at].id)) != NULL)
        come_back(m, k, 0, false);
    end_held(m, at);
}

/* ---- keys ---- */

/* Who has how many keys, to a factor of two; call after each that comes or goes. */
static inline void rank_keys(struct model *m)
{
    size_t w, i;

    for (w = 0; w < WORKFLOWS; w++) {
        unsigned count = 0, class = 0;

        for (i = 0; i < ANSWERS; i++)
            count += m->answers[i].on && m->answers[i].workflow == w;
        for (; count > 0; count /= 2)
            class ++;
        if (class != m->key_class[w])
            m->key_class_since[w] = m->orders++;
        m->key_class[w] = class;
    }
}

static inline void forget_answer(struct model *m, struct known_answer *a)
{
    a->on = false;
    rank_keys(m);
}

/* ---- time ---- */

static inline void on_at(struct model *m, struct item *k)
{
    bool over = k->expires <= m->f->now;

    switch (k->where) {
    case QUEUED:
        die(m, k, MBOX_DEAD_EXPIRED);
        break;
    case DELAYED:
        if (over) {
            die(m, k, MBOX_DEAD_EXPIRED);
            break;
        }
        if (k->attempts == 0)
            k->place = m->places++;
        queue(k);
        break;
    case OUT:
    case LEASED:
        come_back(m, k, 0, false);
        break;
    case KEPT:
        done(m, k);
        break;
    case DEAD:
        forget(m, k);
        break;
    case NEW:
    case GONE:
        fail_msg("no deadline here");
    }
}

/* Everything that time alone does, but for parked readers. */
static inline void pass_time(struct model *m)
{
    size_t i;

    for (;;) {
        struct item *next = NULL;

        for (i = 0; i < m->len; i++)
            if (m->items[i].at <= m->f->now && (next == NULL || m->items[i].at < next->at))
                next = &m->items[i];
        if (next == NULL)
            break;
        next->at = UINT64_MAX;
        on_at(m, next);
    }
    for (;;) {
        size_t first = HELD;

        for (i = 0; i < m->held_len; i++)
            if (m->held[i].deadline <= m->f->now &&
                (first == HELD || m->held[i].deadline < m->held[first].deadline))
                first = i;
        if (first == HELD)
            break;
        return_held(m, first);
    }
    for (i = 0; i < ANSWERS; i++)
        if (m->answers[i].on && m->answers[i].committed && m->answers[i].expires <= m->f->now)
            forget_answer(m, &m->answers[i]);
}

/* ---- who is next ---- */

static inline bool group_is_busy(const struct model *m, const struct item *k)
{
    size_t i;

    for (i = 0; i < m->len; i++)
        if (m->items[i].box == k->box && m->items[i].group == k->group && m->items[i].busy)
            return true;
    return false;
}

static inline bool is_picked(struct item *const *picked, size_t count, const struct item *k)
{
    while (count > 0)
        if (picked[--count] == k)
            return true;
    return false;
}

/* It could be handed out now, were it wanted, after those that are picked already. */
static inline bool is_ready(const struct model *m, const struct item *k, struct item *const *picked,
                            size_t count)
{
    size_t i;

    if (k->where != QUEUED || is_picked(picked, count, k))
        return false;
    if (k->group == 0)
        return true;
    if (group_is_busy(m, k))
        return false;
    for (i = 0; i < m->len; i++) {
        const struct item *o = &m->items[i];

        if (o->box == k->box && o->group == k->group && o->where == QUEUED && o->place < k->place &&
            !is_picked(picked, count, o))
            return false;
    }
    return true;
}

static inline bool is_before(const struct item *a, const struct item *b)
{
    return a->priority != b->priority ? a->priority > b->priority : a->place < b->place;
}

static inline size_t pick(struct model *m, size_t box, char type, uint32_t max, struct item **out)
{
    size_t count = 0, i;

    while (count < max && count < PICKED) {
        struct item *best = NULL;

        for (i = 0; i < m->len; i++) {
            struct item *k = &m->items[i];

            if (k->box == box && (type == 0 || k->type == type) && is_ready(m, k, out, count) &&
                (best == NULL || is_before(k, best)))
                best = k;
        }
        if (best == NULL)
            break;
        out[count++] = best;
    }
    return count;
}

/* ---- room ---- */

static inline bool fits(const struct model *m, size_t box, size_t len, bool without_ready)
{
    size_t live = 0, bytes = 0, i;

    for (i = 0; i < m->len; i++) {
        const struct item *k = &m->items[i];

        if (k->box != box || !is_live(k) || (without_ready && is_ready(m, k, NULL, 0)))
            continue;
        live++;
        bytes += k->len;
    }
    return live < m->limits.box_messages && bytes + len <= m->limits.box_bytes;
}

static inline bool has_room(const struct model *m, size_t box, size_t len)
{
    size_t all = 0, in_workflow = 0, workflow_bytes = 0, i;

    for (i = 0; i < m->len; i++) {
        const struct item *k = &m->items[i];

        if (k->where == GONE)
            continue;
        all++;
        if (k->box / AGENTS != box / AGENTS)
            continue;
        in_workflow++;
        workflow_bytes += k->len;
    }
    return fits(m, box, len, m->limits.drop_oldest) && all < m->limits.total_messages &&
           in_workflow < m->limits.workflow_messages &&
           workflow_bytes + len <= m->limits.workflow_bytes;
}

static inline bool is_over(const struct model *m, size_t box)
{
    size_t live = 0, bytes = 0, i;

    for (i = 0; i < m->len; i++)
        if (m->items[i].box == box && is_live(&m->items[i])) {
            live++;
            bytes += m->items[i].len;
        }
    return live > m->limits.box_messages || bytes > m->limits.box_bytes;
}

/* What is there already makes room for what is about to be. */
static inline void make_room(struct model *m, size_t box)
{
    while (m->limits.drop_oldest && is_over(m, box)) {
        struct item *oldest = NULL;
        size_t i;

        for (i = 0; i < m->len; i++) {
            struct item *k = &m->items[i];

            if (k->box != box || !is_ready(m, k, NULL, 0))
                continue;
            if (oldest == NULL || k->priority < oldest->priority ||
                (k->priority == oldest->priority && k->place < oldest->place))
                oldest = k;
        }
        if (oldest == NULL)
            return;
        die(m, oldest, MBOX_DEAD_OVERFLOW);
    }
}

/* ---- the end of a workflow ---- */

static inline void close_box(struct model *m, size_t box, bool purge)
{
    size_t i;

    m->closing[box] = true;
    for (i = 0; i < m->len; i++) {
        struct item *k = &m->items[i];

        if (k->box != box || k->where == GONE)
            continue;
        if (k->where == KEPT) {
            done(m, k);
        } else if (k->where == DEAD) {
            forget(m, k);
        } else if (purge && k->where == NEW) {
            k->doomed = true;
        } else if (purge) {
            m->counts.purged++;
            gone(k);
        }
    }
    for (i = m->held_len; purge && i > 0; i--)
        if (m->held[i - 1].box == box)
            end_held(m, i - 1);
}

/* Nothing is in it, nothing is in anybody's hands. */
static inline bool is_empty(const struct model *m, size_t box)
{
    size_t i;

    for (i = 0; i < m->len; i++)
        if (m->items[i].box == box && m->items[i].where != GONE)
            return false;
    for (i = 0; i < m->held_len; i++)
        if (m->held[i].box == box)
            return false;
    return true;
}

/* ---- the store ---- */

static inline void compact(struct model *m)
{
    size_t i, n = 0;

    for (i = 0; i < m->len; i++)
        if (m->items[i].where != GONE || m->items[i].safe.there) {
            if (n != i)
                m->items[n] = m->items[i];
            n++;
        }
    m->len = n;
}

static inline void trim_answers(struct model *m)
{
    size_t i, count = 0, w, biggest = 0;
    struct known_answer *oldest = NULL;

    for (i = 0; i < ANSWERS; i++)
        count += m->answers[i].on;
    if (count <= m->limits.max_keys)
        return;
    for (w = 1; w < WORKFLOWS; w++)
        if (m->key_class[w] > m->key_class[biggest] ||
            (m->key_class[w] == m->key_class[biggest] &&
             m->key_class_since[w] < m->key_class_since[biggest]))
            biggest = w;
    for (i = 0; i < ANSWERS; i++)
        if (m->answers[i].on && m->answers[i].workflow == biggest &&
            (oldest == NULL || m->answers[i].order < oldest->order))
            oldest = &m->answers[i];
    forget_answer(m, oldest);
    m->seen[14]++;
    trim_answers(m);
}

static inline void commit_model(struct model *m, bool ok)
{
    size_t i;

    for (i = 0; ok && i < m->len; i++)
        m->items[i].safe = m->items[i].told; /* what appearing says goes with the next commit */
    for (i = 0; ok && i < m->len; i++)
        if (m->items[i].where == NEW)
            make_room(m, m->items[i].box);
    for (i = 0; i < m->len; i++) {
        struct item *k = &m->items[i];

        if (k->where == NEW) {
            if (!ok) {
                gone(k);
                m->seen[4]++;
                continue;
            }
            m->counts.sent++;
            if (k->doomed) {
                m->counts.purged++;
                gone(k);
                continue;
            }
            if (k->expires <= m->f->now)
                die(m, k, MBOX_DEAD_EXPIRED);
            else if (k->delay_ms != 0)
                delay(k, m->f->now + k->delay_ms * MS);
            else
                queue(k);
        }
    }
    for (i = 0; i < ANSWERS; i++) {
        if (m->answers[i].on && !m->answers[i].committed && !ok)
            forget_answer(m, &m->answers[i]);
        m->answers[i].committed = true;
    }
    trim_answers(m);
    compact(m);
}

#endif
